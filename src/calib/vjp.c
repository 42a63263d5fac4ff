/* The table of vector-Jacobian products and the rules that only move or scale numbers: ADD, MUL,
 * SCALE, copies, row gathers and scatters, ROPE. Activations, norms and matrix products are in
 * vjp_*.c. */
#include "calib/vjp.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* ---- element-wise with broadcasting
 * ------------------------------------------------------------------------ */

/* Source 1 of ADD, SUB, MUL, DIV may be smaller than the output and is then repeated along any
 * dimension. */

typedef struct binary_args {
    const om_vjp_args *a;
    enum ggml_op op;
} binary_args;

/* Row of source 1 that output row `row` uses. */
static const float *row_of(const om_array *small, const om_array *dst, int64_t row) {
    const int64_t i1 = row % dst->ne[1], i2 = row / dst->ne[1] % dst->ne[2],
                  i3 = row / (dst->ne[1] * dst->ne[2]);
    const int64_t r =
        (i3 % small->ne[3] * small->ne[2] + i2 % small->ne[2]) * small->ne[1] + i1 % small->ne[1];
    return small->data + r * small->ne[0];
}

static void binary_grad0(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const binary_args *b = ctx;
    const om_vjp_args *a = b->a;
    const int64_t n = a->dst.ne[0], n1 = a->src[1].ne[0];
    for (int64_t row = first; row < last; row++) {
        const float *g = a->g + row * n;
        float *d = a->grad[0] + row * n;
        if (b->op == GGML_OP_ADD || b->op == GGML_OP_SUB) {
            memcpy(d, g, (size_t) n * sizeof *d);
            continue;
        }
        const float *y = row_of(&a->src[1], &a->dst, row);
        for (int64_t i = 0; i < n; i++) {
            const float v = y[n1 == n ? i : i % n1];
            d[i] = b->op == GGML_OP_MUL ? g[i] * v : g[i] / v;
        }
    }
}

/* What output rows add to the gradient of source 1, which repeats over its row's columns. */
static void binary_grad1(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const binary_args *b = ctx;
    const om_vjp_args *a = b->a;
    const int64_t n = a->dst.ne[0], n1 = a->src[1].ne[0];
    om_array grad = a->src[1];
    grad.data = a->grad[1];
    for (int64_t row = first; row < last; row++) {
        float *d = (float *) (uintptr_t) row_of(&grad, &a->dst, row);
        const float *y = a->src[1].data ? row_of(&a->src[1], &a->dst, row) : NULL;
        for (int64_t i0 = row * n; i0 < (row + 1) * n; i0 += n1) {
            const float *g = a->g + i0, *x = a->src[0].data ? a->src[0].data + i0 : NULL;
            for (int64_t j = 0; j < n1; j++) {
                switch ((int) b->op) {
                case GGML_OP_ADD:
                    d[j] += g[j];
                    break;
                case GGML_OP_SUB:
                    d[j] -= g[j];
                    break;
                case GGML_OP_MUL:
                    d[j] += g[j] * x[j];
                    break;
                default: /* DIV */
                    d[j] -= g[j] * x[j] / (y[j] * y[j]);
                    break;
                }
            }
        }
    }
}

static om_status binary(om_compute *c, const om_vjp_args *a, enum ggml_op op) {
    binary_args b = { a, op };
    if (a->grad[0]) {
        om_compute_parallel(c, om_array_rows(&a->dst), 16, binary_grad0, &b);
    }
    if (a->grad[1]) {
        memset(a->grad[1], 0, (size_t) om_array_size(&a->src[1]) * sizeof(float));
        const int64_t rows = om_array_rows(&a->dst);
        if (om_array_rows(&a->src[1]) == rows) { /* residual streams: every row has its own */
            om_compute_parallel(c, rows, 16, binary_grad1, &b);
        } else { /* rows share a sum: one thread, fixed order; rarely wanted (MoE weights) */
            binary_grad1(&b, 0, rows, 0);
        }
    }
    return OM_OK;
}

static om_status vjp_add(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    return binary(c, a, GGML_OP_ADD);
}

static om_status vjp_sub(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    return binary(c, a, GGML_OP_SUB);
}

static om_status vjp_mul(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    return binary(c, a, GGML_OP_MUL);
}

static om_status vjp_div(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) err;
    return binary(c, a, GGML_OP_DIV);
}

/* ---- scale, clamp, copies
 * ---------------------------------------------------------------------------------- */

static om_status vjp_scale(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    float s;
    memcpy(&s, a->params, sizeof s);
    const int64_t n = om_array_size(&a->dst);
    for (int64_t i = 0; i < n; i++) {
        a->grad[0][i] = s * a->g[i];
    }
    return OM_OK;
}

static om_status vjp_clamp(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    float lo, hi;
    memcpy(&lo, a->params, sizeof lo);
    memcpy(&hi, a->params + 1, sizeof hi);
    const int64_t n = om_array_size(&a->dst);
    for (int64_t i = 0; i < n; i++) {
        const float x = a->src[0].data[i];
        a->grad[0][i] = x >= lo && x <= hi ? a->g[i] : 0.0F;
    }
    return OM_OK;
}

/* CONT, CPY, DUP: the elements in the same order, whatever the shape. */
static om_status vjp_copy(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    memcpy(a->grad[0], a->g, (size_t) om_array_size(&a->dst) * sizeof(float));
    return OM_OK;
}

static om_status vjp_sum_rows(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    const int64_t n = a->src[0].ne[0], rows = om_array_rows(&a->src[0]);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            a->grad[0][r * n + i] = a->g[r];
        }
    }
    return OM_OK;
}

static om_status vjp_concat(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    const int dim = a->params[0];
    int64_t inner = 1, outer = 1;
    for (int d = 0; d < dim; d++) {
        inner *= a->dst.ne[d];
    }
    for (int d = dim + 1; d < 4; d++) {
        outer *= a->dst.ne[d];
    }
    const float *g = a->g;
    float *d[2] = { a->grad[0], a->grad[1] };
    for (int64_t o = 0; o < outer; o++) {
        for (int s = 0; s < 2; s++) {
            const int64_t n = inner * a->src[s].ne[dim];
            if (d[s]) {
                memcpy(d[s], g, (size_t) n * sizeof *g);
                d[s] += n;
            }
            g += n;
        }
    }
    return OM_OK;
}

/* What is repeated gets the sum over its copies, in the order in which they lie. */
static om_status vjp_repeat(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c, (void) err;
    const int64_t *ne = a->src[0].ne, n = a->dst.ne[0];
    om_array grad = a->src[0];
    grad.data = a->grad[0];
    memset(a->grad[0], 0, (size_t) om_array_size(&a->src[0]) * sizeof(float));
    for (int64_t row = 0; row < om_array_rows(&a->dst); row++) {
        float *d = (float *) (uintptr_t) row_of(&grad, &a->dst, row);
        for (int64_t i = 0; i < n; i++) {
            d[i % ne[0]] += a->g[row * n + i];
        }
    }
    return OM_OK;
}

/* ---- rows
 * ---------------------------------------------------------------------------------------------------
 */

/* dst[:, i, b] = src0[:, index[i, b], b]: the gradient is added back to the rows it came from. */
static om_status vjp_get_rows(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c;
    const int64_t n = a->src[0].ne[0], n_src = a->src[0].ne[1], n_dst = a->dst.ne[1];
    const int64_t batches = a->dst.ne[2] * a->dst.ne[3];
    memset(a->grad[0], 0, (size_t) om_array_size(&a->src[0]) * sizeof(float));
    for (int64_t b = 0; b < batches; b++) {
        for (int64_t i = 0; i < n_dst; i++) {
            const int64_t row = a->index[b * n_dst + i];
            if (row < 0 || row >= n_src) {
                return om_fail(err, OM_E_INTERNAL, "row %lld of %lld gathered", (long long) row,
                               (long long) n_src);
            }
            const float *g = a->g + (b * n_dst + i) * n;
            float *d = a->grad[0] + (b * n_src + row) * n;
            for (int64_t j = 0; j < n; j++) {
                d[j] += g[j];
            }
        }
    }
    return OM_OK;
}

/* dst[:, index[i, b], b] = src0[:, i, b] (dst is the cache): the gradient of a written row is the
 * row's gradient. The index repeats over the higher dimensions. What the rows held before is
 * overwritten: backward.c clears it. */
static om_status vjp_set_rows(om_compute *c, const om_vjp_args *a, om_error *err) {
    (void) c;
    const int64_t n = a->src[0].ne[0], n_src = a->src[0].ne[1], n_dst = a->dst.ne[1];
    const int64_t batches = a->src[0].ne[2] * a->src[0].ne[3];
    for (int64_t b = 0; b < batches; b++) {
        for (int64_t i = 0; i < n_src; i++) {
            const int64_t row = a->index[(b * n_src + i) % a->n_index];
            if (row < 0 || row >= n_dst) {
                return om_fail(err, OM_E_INTERNAL, "row %lld of %lld written", (long long) row,
                               (long long) n_dst);
            }
            memcpy(a->grad[0] + (b * n_src + i) * n, a->g + (b * n_dst + row) * n,
                   (size_t) n * sizeof(float));
        }
    }
    return OM_OK;
}

static om_status vjp_rope(om_compute *c, const om_vjp_args *a, om_error *err) {
    int32_t *pos = om_calloc((size_t) a->n_index, sizeof *pos);
    if (!pos) {
        return om_fail_nomem(err, (size_t) a->n_index * sizeof *pos);
    }
    for (int64_t i = 0; i < a->n_index; i++) {
        pos[i] = (int32_t) a->index[i];
    }
    om_array g = a->dst;
    g.data = (float *) (uintptr_t) a->g;
    const float *factors = a->src[2].ne[0] ? a->src[2].data : NULL;
    om_status status =
        om_compute_rope_back(c, a->grad[0], &g, pos, a->n_index, factors, a->params, err);
    om_free(pos);
    return status;
}

/* ---- the table
 * -----------------------------------------------------------------------------------------------
 */

static const om_vjp_rule rules[] = {
    { GGML_OP_ADD, 3, { 0, 0, 0 }, -1, NULL, vjp_add },
    { GGML_OP_SUB, 3, { 0, 0, 0 }, -1, NULL, vjp_sub },
    { GGML_OP_MUL, 3, { OM_NEED_SRC1, OM_NEED_SRC0, 0 }, -1, NULL, vjp_mul },
    { GGML_OP_DIV, 3, { OM_NEED_SRC1, OM_NEED_SRC0 | OM_NEED_SRC1, 0 }, -1, NULL, vjp_div },
    { GGML_OP_SCALE, 1, { 0, 0, 0 }, -1, NULL, vjp_scale },
    { GGML_OP_CLAMP, 1, { OM_NEED_SRC0, 0, 0 }, -1, NULL, vjp_clamp },
    { GGML_OP_DUP, 1, { 0, 0, 0 }, -1, NULL, vjp_copy },
    { GGML_OP_CPY, 1, { 0, 0, 0 }, -1, NULL, vjp_copy },
    { GGML_OP_CONT, 1, { 0, 0, 0 }, -1, NULL, vjp_copy },
    { GGML_OP_CONCAT, 3, { 0, 0, 0 }, -1, NULL, vjp_concat },
    { GGML_OP_REPEAT, 1, { 0, 0, 0 }, -1, NULL, vjp_repeat },
    /* A bias per expert: constant, so that only the product it is added to has a gradient. */
    { GGML_OP_ADD_ID, 1, { 0, 0, 0 }, -1, NULL, vjp_copy },
    { GGML_OP_SUM_ROWS, 1, { 0, 0, 0 }, -1, NULL, vjp_sum_rows },
    { GGML_OP_GET_ROWS, 1, { 0, 0, 0 }, 1, NULL, vjp_get_rows },
    { GGML_OP_SET_ROWS, 1, { 0, 0, 0 }, 1, NULL, vjp_set_rows },
    { GGML_OP_ROPE, 1, { OM_NEED_SRC2, 0, 0 }, 1, NULL, vjp_rope },
    { GGML_OP_NORM, 1, { OM_NEED_SRC0, 0, 0 }, -1, NULL, om_vjp_norm },
    { GGML_OP_RMS_NORM, 1, { OM_NEED_SRC0, 0, 0 }, -1, NULL, om_vjp_rms_norm },
    { GGML_OP_SOFT_MAX, 1, { OM_NEED_DST, 0, 0 }, -1, NULL, om_vjp_soft_max },
    { GGML_OP_MUL_MAT, 3, { OM_NEED_SRC1, OM_NEED_SRC0, 0 }, -1, NULL, om_vjp_mul_mat },
    /* Products with a stack of experts are taken by backward.c: source 1 is the input, 2 the
       choice. */
    { GGML_OP_MUL_MAT_ID, 2, { 0, 0, 0 }, 2, NULL, NULL },
    { GGML_OP_UNARY, 1, { OM_NEED_SRC0, 0, 0 }, -1, om_vjp_unary_supports, om_vjp_unary },
    { GGML_OP_GLU,
      3,
      { OM_NEED_SRC0 | OM_NEED_SRC1, OM_NEED_SRC0 | OM_NEED_SRC1, 0 },
      -1,
      om_vjp_glu_supports,
      om_vjp_glu },
};

const om_vjp_rule *om_vjp_find(enum ggml_op op, const int32_t *params) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].op == op) {
            return !rules[i].supports || rules[i].supports(params) ? &rules[i] : NULL;
        }
    }
    return NULL;
}

const char *om_vjp_op_name(char dst[48], enum ggml_op op, const int32_t *params) {
    if (op == GGML_OP_UNARY) {
        snprintf(dst, 48, "UNARY(%s)", ggml_unary_op_name((enum ggml_unary_op) params[0]));
    } else if (op == GGML_OP_GLU) {
        snprintf(dst, 48, "GLU(%s)", ggml_glu_op_name((enum ggml_glu_op) params[0]));
    } else {
        snprintf(dst, 48, "%s", ggml_op_name(op));
    }
    return dst;
}
