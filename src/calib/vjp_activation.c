/* Vector-Jacobian products of the activations: UNARY and GLU (docs/method.md eq. 6). */
#include "calib/vjp.h"

#include <math.h>
#include <string.h>

static float sigmoid(float x) {
    return 1.0F / (1.0F + expf(-x));
}

/* tanh form of GELU, as ggml computes it. */
static const float gelu_a = 0.044715F, gelu_b = 0.79788456080286535588F;

static float gelu(float x) {
    return 0.5F * x * (1.0F + tanhf(gelu_b * x * (1.0F + gelu_a * x * x)));
}

static float gelu_slope(float x) {
    const float t = tanhf(gelu_b * x * (1.0F + gelu_a * x * x));
    return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * gelu_b * (1.0F + 3.0F * gelu_a * x * x);
}

static float gelu_erf(float x) {
    return 0.5F * x * (1.0F + erff(x * 0.70710678118654752440F));
}

static float gelu_erf_slope(float x) {
    return 0.5F * (1.0F + erff(x * 0.70710678118654752440F)) +
           x * 0.39894228040143267794F * expf(-0.5F * x * x);
}

static float gelu_quick(float x) {
    return x * sigmoid(1.702F * x);
}

static float gelu_quick_slope(float x) {
    const float s = sigmoid(1.702F * x);
    return s + 1.702F * x * s * (1.0F - s);
}

static float silu(float x) {
    return x * sigmoid(x);
}

static float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0F + x * (1.0F - s));
}

static float relu(float x) {
    return x > 0.0F ? x : 0.0F;
}

static float relu_slope(float x) {
    return x > 0.0F ? 1.0F : 0.0F;
}

static float tanh_slope(float x) {
    const float t = tanhf(x);
    return 1.0F - t * t;
}

static float sigmoid_slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0F - s);
}

static float neg_slope(float x) {
    (void) x;
    return -1.0F;
}

/* log(1 + e^x) */
static float softplus_slope(float x) {
    return sigmoid(x);
}

typedef float (*function)(float);

static function unary_slope(int op) {
    switch (op) {
    case GGML_UNARY_OP_SILU:
        return silu_slope;
    case GGML_UNARY_OP_GELU:
        return gelu_slope;
    case GGML_UNARY_OP_GELU_ERF:
        return gelu_erf_slope;
    case GGML_UNARY_OP_GELU_QUICK:
        return gelu_quick_slope;
    case GGML_UNARY_OP_RELU:
        return relu_slope;
    case GGML_UNARY_OP_TANH:
        return tanh_slope;
    case GGML_UNARY_OP_SIGMOID:
        return sigmoid_slope;
    case GGML_UNARY_OP_NEG:
        return neg_slope;
    case GGML_UNARY_OP_EXP:
        return expf;
    case GGML_UNARY_OP_SOFTPLUS:
        return softplus_slope;
    default:
        return NULL;
    }
}

bool om_vjp_unary_supports(const int32_t *params) {
    return unary_slope(params[0]) != NULL;
}

typedef struct unary_args {
    const om_vjp_args *a;
    function slope;
} unary_args;

static void unary_range(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const unary_args *u = ctx;
    for (int64_t i = first; i < last; i++) {
        u->a->grad[0][i] = u->a->g[i] * u->slope(u->a->src[0].data[i]);
    }
}

om_status om_vjp_unary(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    unary_args u = { a, unary_slope(a->params[0]) };
    om_compute_parallel(c, om_array_size(&a->dst), 4096, unary_range, &u);
    return OM_OK;
}

/* ---- GLU: y = act(x) · z, with x and z from two tensors or from the halves of one
 * --------------------------------- */

typedef struct activation {
    int op;
    function value, slope;
} activation;

/* gpt-oss: y = x' sigmoid(alpha x') (z' + 1) with x' = min(x, limit), z' = z clamped to +-limit;
 * taken by swiglu_oai_row. */
static const activation glu_table[] = {
    { GGML_GLU_OP_SWIGLU_OAI, NULL, NULL },
    { GGML_GLU_OP_SWIGLU, silu, silu_slope },
    { GGML_GLU_OP_GEGLU, gelu, gelu_slope },
    { GGML_GLU_OP_GEGLU_ERF, gelu_erf, gelu_erf_slope },
    { GGML_GLU_OP_GEGLU_QUICK, gelu_quick, gelu_quick_slope },
    { GGML_GLU_OP_REGLU, relu, relu_slope },
};

static const activation *glu_find(int op) {
    for (size_t i = 0; i < sizeof glu_table / sizeof *glu_table; i++) {
        if (glu_table[i].op == op) {
            return &glu_table[i];
        }
    }
    return NULL;
}

bool om_vjp_glu_supports(const int32_t *params) {
    return glu_find(params[0]) != NULL;
}

typedef struct glu_args {
    const om_vjp_args *a;
    const activation *act;
} glu_args;

/* The common case, written so that the compiler can inline it. */
static void swiglu_row(float *dx, float *dz, const float *g, const float *x, const float *z,
                       int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float s = sigmoid(x[i]);
        dx[i] = g[i] * z[i] * s * (1.0F + x[i] * (1.0F - s));
        dz[i] = g[i] * x[i] * s;
    }
}

static void swiglu_oai_row(float *dx, float *dz, const float *g, const float *x, const float *z,
                           int64_t n, const int32_t *params) {
    float alpha, limit;
    memcpy(&alpha, params + 2, sizeof alpha);
    memcpy(&limit, params + 3, sizeof limit);
    for (int64_t i = 0; i < n; i++) {
        const float u = x[i] < limit ? x[i] : limit;
        const float v = z[i] < -limit ? -limit : z[i] > limit ? limit : z[i];
        const float s = sigmoid(alpha * u);
        dx[i] = x[i] < limit ? g[i] * (v + 1.0F) * s * (1.0F + alpha * u * (1.0F - s)) : 0.0F;
        dz[i] = z[i] > -limit && z[i] < limit ? g[i] * u * s : 0.0F;
    }
}

static void glu_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const glu_args *u = ctx;
    const om_vjp_args *a = u->a;
    const int64_t n = a->dst.ne[0];
    const bool split = a->src[1].ne[0] != 0, swapped = a->params[1] != 0;
    const int64_t stride = split ? n : 2 * n; /* floats per row of source 0 */
    for (int64_t row = first; row < last; row++) {
        const float *x = a->src[0].data + row * stride,
                    *z = split ? a->src[1].data + row * n : x + n;
        float *dx = a->grad[0] + row * stride, *dz = split ? a->grad[1] + row * n : dx + n;
        if (!split && swapped) {
            const float *t = x;
            x = z, z = t;
            float *d = dx;
            dx = dz, dz = d;
        }
        const float *g = a->g + row * n;
        if (u->act->op == GGML_GLU_OP_SWIGLU) {
            swiglu_row(dx, dz, g, x, z, n);
            continue;
        }
        if (u->act->op == GGML_GLU_OP_SWIGLU_OAI) {
            swiglu_oai_row(dx, dz, g, x, z, n, a->params);
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            dx[i] = g[i] * z[i] * u->act->slope(x[i]);
            dz[i] = g[i] * u->act->value(x[i]);
        }
    }
}

om_status om_vjp_glu(om_compute *c, const om_vjp_args *a, om_error *err) {
    if (a->src[1].ne[0] != 0 && (!a->grad[0] || !a->grad[1])) {
        return om_fail(err, OM_E_INTERNAL, "GLU with one constant source");
    }
    glu_args u = { a, glu_find(a->params[0]) };
    om_compute_parallel(c, om_array_rows(&a->dst), 8, glu_rows, &u);
    return OM_OK;
}
