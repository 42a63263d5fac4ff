/* Vector-Jacobian products of the norms, of the softmax and of products of two activations
 * (docs/method.md eq. 7–9). Products with a weight are taken by backward.c, which also needs the
 * weight's own gradient. */
#include "calib/vjp.h"

#include <math.h>
#include <string.h>

/* ---- norms
 * ----------------------------------------------------------------------------------------------------
 */

static void rms_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const om_vjp_args *a = ctx;
    const int64_t n = a->dst.ne[0];
    float eps;
    memcpy(&eps, a->params, sizeof eps);
    for (int64_t row = first; row < last; row++) {
        const float *x = a->src[0].data + row * n, *g = a->g + row * n;
        float *d = a->grad[0] + row * n;
        double xx = 0, xg = 0;
        for (int64_t i = 0; i < n; i++) {
            xx += (double) x[i] * (double) x[i];
            xg += (double) x[i] * (double) g[i];
        }
        const double inv = 1.0 / sqrt(xx / (double) n + (double) eps);
        const float r = (float) inv, k = (float) (xg * inv * inv * inv / (double) n);
        for (int64_t i = 0; i < n; i++) {
            d[i] = r * g[i] - k * x[i];
        }
    }
}

om_status om_vjp_rms_norm(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    om_compute_parallel(c, om_array_rows(&a->dst), 16, rms_rows, (void *) (uintptr_t) a);
    return OM_OK;
}

static void norm_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const om_vjp_args *a = ctx;
    const int64_t n = a->dst.ne[0];
    float eps;
    memcpy(&eps, a->params, sizeof eps);
    for (int64_t row = first; row < last; row++) {
        const float *x = a->src[0].data + row * n, *g = a->g + row * n;
        float *d = a->grad[0] + row * n;
        double mean = 0, var = 0, sum_g = 0, sum_gx = 0;
        for (int64_t i = 0; i < n; i++) {
            mean += (double) x[i];
            sum_g += (double) g[i];
        }
        mean /= (double) n;
        for (int64_t i = 0; i < n; i++) {
            const double v = (double) x[i] - mean;
            var += v * v;
            sum_gx += v * (double) g[i];
        }
        const double inv = 1.0 / sqrt(var / (double) n + (double) eps);
        for (int64_t i = 0; i < n; i++) {
            const double v = ((double) x[i] - mean) * inv;
            d[i] = (float) (inv *
                            ((double) g[i] - sum_g / (double) n - v * sum_gx * inv / (double) n));
        }
    }
}

om_status om_vjp_norm(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    om_compute_parallel(c, om_array_rows(&a->dst), 16, norm_rows, (void *) (uintptr_t) a);
    return OM_OK;
}

/* ---- softmax
 * -----------------------------------------------------------------------------------------------------
 */

/* p = softmax(scale·x + mask): dx = scale · p ∘ (g − ⟨g, p⟩). Holds with ALiBi and with sinks too.
 */
static void soft_max_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const om_vjp_args *a = ctx;
    const int64_t n = a->dst.ne[0];
    float scale;
    memcpy(&scale, a->params, sizeof scale);
    for (int64_t row = first; row < last; row++) {
        const float *p = a->dst.data + row * n, *g = a->g + row * n;
        float *d = a->grad[0] + row * n;
        float dot[8] = { 0 }; /* eight fixed lanes: vectorises and keeps one order of addition */
        int64_t i = 0;
        for (; i + 8 <= n; i += 8) {
            for (int k = 0; k < 8; k++) {
                dot[k] += p[i + k] * g[i + k];
            }
        }
        double sum = 0;
        for (int k = 0; k < 8; k++) {
            sum += (double) dot[k];
        }
        for (; i < n; i++) {
            sum += (double) p[i] * (double) g[i];
        }
        const float mean = (float) sum;
        for (int64_t j = 0; j < n; j++) {
            d[j] = scale * p[j] * (g[j] - mean);
        }
    }
}

om_status om_vjp_soft_max(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    om_compute_parallel(c, om_array_rows(&a->dst), 16, soft_max_rows, (void *) (uintptr_t) a);
    return OM_OK;
}

/* ---- product of two activations
 * ------------------------------------------------------------------------------------- */

/* dst [m, n, b] = A [k, m, b']ᵀ B [k, n, b]; r = b / b' consecutive batches share a matrix of A
 * (GQA). */

/* dB = A g: contraction over m, so A is needed as [m, k]. */
static om_status grad_b(om_compute *c, const om_vjp_args *a, om_error *err) {
    const om_array *A = &a->src[0];
    const int64_t k = A->ne[0], m = A->ne[1], batches = A->ne[2] * A->ne[3];
    om_array at = { { m, k, A->ne[2], A->ne[3] }, om_compute_alloc(c, m * k * batches) };
    if (!at.data) {
        return om_fail_nomem(err, (size_t) (m * k * batches) * sizeof(float));
    }
    om_compute_transpose(c, at.data, A->data, k, m, batches, 0);
    om_array g = { { a->dst.ne[0], a->dst.ne[1], a->dst.ne[2], a->dst.ne[3] },
                   (float *) (uintptr_t) a->g };
    om_status status = om_compute_matmul(c, a->grad[1], &at, &g, 0, err);
    om_compute_release(c, at.data);
    return status;
}

typedef struct pack_args {
    float *out;
    const float *in;
    int64_t n0, n1, r;
} pack_args;

/* Item = one batch of the group: out [r·n1, n0] gets the transposes of r matrices in [n0, n1] side
 * by side. */
static void pack_group(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const pack_args *p = ctx;
    for (int64_t b = first; b < last; b++) {
        const float *in = p->in + b * p->n0 * p->n1;
        float *out = p->out + b / p->r * p->r * p->n0 * p->n1 + b % p->r * p->n1;
        const int64_t stride = p->r * p->n1;
        for (int64_t j0 = 0; j0 < p->n1; j0 += 32) {
            const int64_t j1 = j0 + 32 < p->n1 ? j0 + 32 : p->n1;
            for (int64_t i = 0; i < p->n0; i++) {
                for (int64_t j = j0; j < j1; j++) {
                    out[i * stride + j] = in[j * p->n0 + i];
                }
            }
        }
    }
}

/* dA = Σ over the group of B gᵀ: the group is laid out along the contracted dimension, so one
 * product does both. */
static om_status grad_a(om_compute *c, const om_vjp_args *a, om_error *err) {
    const om_array *A = &a->src[0], *B = &a->src[1];
    const int64_t k = A->ne[0], m = A->ne[1], n = B->ne[1];
    const int64_t groups = A->ne[2] * A->ne[3], batches = B->ne[2] * B->ne[3], r = batches / groups;
    /* A group is consecutive in memory unless both dimensions are repeated or only the outer one.
     */
    if (A->ne[3] != B->ne[3] && A->ne[2] != 1) {
        return om_fail(
            err, OM_E_UNSUPPORTED,
            "a batched MUL_MAT repeats its first source along dimension 3; use --method measured");
    }
    om_status status = OM_OK;
    om_array bt = { { r * n, k, groups, 1 }, om_compute_alloc(c, n * k * batches) };
    om_array gt = { { r * n, m, groups, 1 }, om_compute_alloc(c, n * m * batches) };
    if (!bt.data || !gt.data) {
        status = om_fail_nomem(err, (size_t) (n * (m + k) * batches) * sizeof(float));
    } else {
        pack_args pb = { bt.data, B->data, k, n, r }, pg = { gt.data, a->g, m, n, r };
        om_compute_parallel(c, batches, 1, pack_group, &pb);
        om_compute_parallel(c, batches, 1, pack_group, &pg);
        status = om_compute_matmul(c, a->grad[0], &bt, &gt, 0, err);
    }
    om_compute_release(c, bt.data);
    om_compute_release(c, gt.data);
    return status;
}

om_status om_vjp_mul_mat(om_compute *c, const om_vjp_args *a, om_error *err) {
    om_status status = OM_OK;
    if (a->grad[1]) {
        status = grad_b(c, a, err);
    }
    if (status == OM_OK && a->grad[0]) {
        status = grad_a(c, a, err);
    }
    return status;
}
