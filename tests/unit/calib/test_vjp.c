/* Every rule of the table in calib/vjp.c against differences of ggml's own forward op: for
 * L = Σ g∘op(x), (L(x + hu) − L(x − hu)) / 2h must be ⟨rule's gradient, u⟩ for random u.
 *
 * Where ggml reads a function from an F16 table (GELU), differences would show the table's steps:
 * there the forward function is one in double, which must agree with ggml's to F16 precision. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "calib/vjp.h"
#include "ggml-cpu.h"

enum { SEED = 20240611, DIRECTIONS = 4, MAX_THREADS = 2 };

/* One op with its sources in a ggml context. */
typedef struct bench {
    struct ggml_context *ctx;
    struct ggml_tensor *node;
    double (*value)(double); /* not NULL: activation in double, instead of ggml's forward */
    double tolerance;        /* of the gradient's norm */
    const char *name;
    om_rng rng;
    unsigned char work[1 << 16];
} bench;

static om_compute *computes[MAX_THREADS];

/* ---- making sources ---- */

static double normal(om_rng *r) {
    const double u = om_rng_f64(r), v = om_rng_f64(r);
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
}

static void open_bench(bench *b, const char *name) {
    *b = (bench){ .name = name, .tolerance = 1e-3 };
    b->ctx = ggml_init((struct ggml_init_params){ .mem_size = 4 << 20 });
    b->rng = om_rng_at(SEED, om_hash_name(name));
    assert_non_null(b->ctx);
}

static struct ggml_tensor *random_f32(bench *b, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    struct ggml_tensor *t = ggml_new_tensor_4d(b->ctx, GGML_TYPE_F32, n0, n1, n2, n3);
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        ((float *) t->data)[i] = (float) normal(&b->rng);
    }
    return t;
}

static struct ggml_tensor *integers(bench *b, enum ggml_type type, int64_t n0, int64_t n1,
                                    const int32_t *values) {
    struct ggml_tensor *t = ggml_new_tensor_2d(b->ctx, type, n0, n1);
    for (int64_t i = 0; i < n0 * n1; i++) {
        if (type == GGML_TYPE_I64) {
            ((int64_t *) t->data)[i] = values[i];
        } else {
            ((int32_t *) t->data)[i] = values[i];
        }
    }
    return t;
}

/* Move values away from a point where the function has no slope, further than a step goes. */
static struct ggml_tensor *keep_off(struct ggml_tensor *t, float point) {
    float *x = t->data;
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        x[i] = x[i] >= point ? fmaxf(x[i], point + 0.2F) : fminf(x[i], point - 0.2F);
    }
    return t;
}

/* ---- the loss ---- */

static void forward(bench *b) {
    struct ggml_cgraph *graph = ggml_new_graph_custom(b->ctx, 16, false);
    ggml_build_forward_expand(graph, b->node);
    struct ggml_cplan plan = ggml_graph_plan(graph, 1, NULL);
    assert_true(plan.work_size <= sizeof b->work);
    plan.work_data = b->work;
    assert_int_equal(ggml_graph_compute(graph, &plan), GGML_STATUS_SUCCESS);
}

/* Element i of the op's result in double; UNARY and GLU only. */
static double exact(const bench *b, int64_t i) {
    const struct ggml_tensor *n = b->node;
    const float *x = n->src[0]->data;
    if (n->op == GGML_OP_UNARY) {
        return b->value((double) x[i]);
    }
    const int64_t width = n->ne[0], row = i / width, column = i % width;
    if (n->src[1]) {
        return b->value((double) x[i]) * (double) ((const float *) n->src[1]->data)[i];
    }
    const float *first = x + row * 2 * width + column, *second = first + width;
    const bool swapped = n->op_params[1] != 0;
    return b->value((double) (swapped ? *second : *first)) * (double) (swapped ? *first : *second);
}

static double loss(bench *b, const float *g) {
    double sum = 0;
    if (!b->value) {
        forward(b);
    }
    for (int64_t i = 0; i < ggml_nelements(b->node); i++) {
        sum += (double) g[i] * (b->value ? exact(b, i) : (double) ((float *) b->node->data)[i]);
    }
    return sum;
}

/* (L(x + hu) − L(x − hu)) / 2h, and what the gradient says for the step really taken after
 * rounding. */
static double difference(bench *b, struct ggml_tensor *src, const float *g, const float *grad,
                         const float *u, double h, double *expected) {
    const size_t bytes = ggml_nbytes(src);
    float *x = src->data, *keep = malloc(bytes), *up = malloc(bytes);
    assert_true(keep != NULL && up != NULL);
    memcpy(keep, x, bytes);
    double sum = 0;
    for (int64_t i = 0; i < ggml_nelements(src); i++) {
        up[i] = keep[i] + (float) h * u[i];
        x[i] = up[i];
    }
    const double plus = loss(b, g);
    for (int64_t i = 0; i < ggml_nelements(src); i++) {
        x[i] = keep[i] - (float) h * u[i];
        sum += (double) grad[i] * ((double) up[i] - (double) x[i]);
    }
    const double minus = loss(b, g);
    memcpy(x, keep, bytes);
    free(keep);
    free(up);
    *expected = sum / (2 * h);
    return (plus - minus) / (2 * h);
}

/* ---- calling a rule ---- */

/* Arrays that the rule declares to need for the wanted gradients, and no others. */
static void fill_args(const bench *b, om_vjp_args *a, const om_vjp_rule *rule, unsigned want) {
    unsigned need = 0;
    for (int i = 0; i < OM_VJP_SRC; i++) {
        need |= want >> i & 1U ? rule->need[i] : 0;
    }
    memcpy(a->dst.ne, b->node->ne, sizeof a->dst.ne);
    a->dst.data = need & OM_NEED_DST ? b->node->data : NULL;
    a->params = b->node->op_params;
    for (int i = 0; i < OM_VJP_SRC; i++) {
        const struct ggml_tensor *src = b->node->src[i];
        if (src) {
            memcpy(a->src[i].ne, src->ne, sizeof src->ne);
            a->src[i].data = need >> i & 1U ? src->data : NULL;
        }
    }
}

static int64_t *read_index(const struct ggml_tensor *t) {
    int64_t *index = calloc((size_t) ggml_nelements(t), sizeof *index);
    assert_non_null(index);
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        index[i] = t->type == GGML_TYPE_I64 ? ((int64_t *) t->data)[i] : ((int32_t *) t->data)[i];
    }
    return index;
}

/* The gradients of the wanted sources (owned), equal bytes for any number of threads. */
static void apply(const bench *b, unsigned want, const float *g, float *grad[OM_VJP_SRC]) {
    const om_vjp_rule *rule = om_vjp_find(b->node->op, b->node->op_params);
    assert_non_null(rule);
    assert_int_equal(rule->grads & want, want);
    om_vjp_args a = { .g = g };
    fill_args(b, &a, rule, want);
    int64_t *index = rule->index_src >= 0 ? read_index(b->node->src[rule->index_src]) : NULL;
    a.index = index;
    a.n_index = index ? ggml_nelements(b->node->src[rule->index_src]) : 0;
    for (int t = 0; t < MAX_THREADS; t++) {
        for (int i = 0; i < OM_VJP_SRC; i++) {
            a.grad[i] = NULL;
            if (want >> i & 1U) {
                const size_t bytes = ggml_nbytes(b->node->src[i]);
                a.grad[i] = malloc(bytes);
                assert_non_null(a.grad[i]);
                memset(a.grad[i], 0xff, bytes); /* NaN where the rule forgets an element */
            }
        }
        om_error err = { 0 };
        if (rule->apply(computes[t], &a, &err) != OM_OK) {
            fail_msg("%s: %s", b->name, err.text);
        }
        for (int i = 0; i < OM_VJP_SRC; i++) {
            if (t == 0) {
                grad[i] = a.grad[i];
            } else if (a.grad[i]) {
                assert_memory_equal(a.grad[i], grad[i], ggml_nbytes(b->node->src[i]));
                free(a.grad[i]);
            }
        }
    }
    free(index);
}

static double norm_of(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double) x[i] * (double) x[i];
    }
    return sqrt(sum);
}

static void check_direction(bench *b, int i, const float *g, const float *grad) {
    struct ggml_tensor *src = b->node->src[i];
    const int64_t n = ggml_nelements(src);
    float *u = malloc((size_t) n * sizeof *u);
    assert_non_null(u);
    for (int64_t j = 0; j < n; j++) {
        u[j] = (float) normal(&b->rng);
    }
    const double h = 0.02; /* two step lengths: the error of order h² cancels */
    double want1, want2;
    const double d1 = difference(b, src, g, grad, u, h, &want1);
    const double d2 = difference(b, src, g, grad, u, h / 2, &want2);
    const double got = (4 * want2 - want1) / 3, expected = (4 * d2 - d1) / 3;
    const double scale = norm_of(grad, n); /* of ⟨grad, u⟩ for normal u */
    if (!(fabs(got - expected) <= b->tolerance * scale)) {
        fail_msg("%s, source %d: rule gives %.9g, differences %.9g; |gradient| %.4g", b->name, i,
                 got, expected, scale);
    }
    free(u);
}

/* Check the gradients of the sources in `want` (bits), together and each alone when that is
 * allowed. */
static void check_and_close(bench *b, unsigned want, bool alone) {
    const int64_t n = ggml_nelements(b->node);
    float *g = malloc((size_t) n * sizeof *g);
    assert_non_null(g);
    for (int64_t i = 0; i < n; i++) {
        g[i] = (float) normal(&b->rng);
    }
    forward(b);
    for (int64_t i = 0; b->value && i < n; i++) { /* the same function as ggml's? */
        const double y = (double) ((float *) b->node->data)[i], y0 = exact(b, i);
        if (!(fabs(y - y0) <= 5e-3 * (1 + fabs(y0)))) {
            fail_msg("%s: ggml gives %g, the reference %g", b->name, y, y0);
        }
    }
    float *grad[OM_VJP_SRC] = { NULL };
    apply(b, want, g, grad);
    for (int i = 0; i < OM_VJP_SRC; i++) {
        for (int k = 0; grad[i] && k < DIRECTIONS; k++) {
            check_direction(b, i, g, grad[i]);
        }
        if (grad[i] && alone && want != 1U << i) {
            forward(b);
            float *one[OM_VJP_SRC] = { NULL };
            apply(b, 1U << i, g, one);
            assert_memory_equal(one[i], grad[i], ggml_nbytes(b->node->src[i]));
            free(one[i]);
        }
    }
    for (int i = 0; i < OM_VJP_SRC; i++) {
        free(grad[i]);
    }
    free(g);
    ggml_free(b->ctx);
}

/* ---- element-wise ---- */

typedef struct ggml_tensor *(*binary_op)(struct ggml_context *, struct ggml_tensor *,
                                         struct ggml_tensor *);

static void test_binary(void **state) {
    (void) state;
    static const struct {
        const char *name;
        binary_op op;
    } ops[] = {
        { "ADD", ggml_add }, { "SUB", ggml_sub }, { "MUL", ggml_mul }, { "DIV", ggml_div }
    };
    static const int64_t small[][4] = { { 24, 5, 3, 2 }, { 24, 1, 1, 1 }, { 1, 5, 3, 2 },
                                        { 24, 5, 1, 1 }, { 24, 1, 3, 1 }, { 8, 5, 1, 2 },
                                        { 1, 1, 1, 1 } };
    for (size_t o = 0; o < sizeof ops / sizeof *ops; o++) {
        for (size_t s = 0; s < sizeof small / sizeof *small; s++) {
            bench b;
            open_bench(&b, ops[o].name);
            struct ggml_tensor *x = random_f32(&b, 24, 5, 3, 2);
            struct ggml_tensor *y =
                random_f32(&b, small[s][0], small[s][1], small[s][2], small[s][3]);
            if (ops[o].op == ggml_div) {
                float *v = y->data;
                for (int64_t i = 0; i < ggml_nelements(y); i++) {
                    v[i] = v[i] < 0 ? v[i] - 1 : v[i] + 1;
                }
            }
            b.node = ops[o].op(b.ctx, x, y);
            check_and_close(&b, 3, true);
        }
    }
}

static void test_scale_and_clamp(void **state) {
    (void) state;
    bench b;
    open_bench(&b, "SCALE");
    b.node = ggml_scale(b.ctx, random_f32(&b, 33, 7, 2, 1), -0.37F);
    check_and_close(&b, 1, false);
    open_bench(&b, "SCALE with bias");
    b.node = ggml_scale_bias(b.ctx, random_f32(&b, 33, 7, 2, 1), 1.7F, 5.0F);
    check_and_close(&b, 1, false);
    open_bench(&b, "CLAMP");
    struct ggml_tensor *x = keep_off(keep_off(random_f32(&b, 50, 9, 1, 1), -0.6F), 0.8F);
    b.node = ggml_clamp(b.ctx, x, -0.6F, 0.8F);
    check_and_close(&b, 1, false);
}

static void test_copies(void **state) {
    (void) state;
    bench b;
    open_bench(&b, "CONT");
    b.node = ggml_cont(b.ctx, random_f32(&b, 17, 5, 3, 2));
    check_and_close(&b, 1, false);
    open_bench(&b, "CONT to another shape");
    b.node = ggml_cont_2d(b.ctx, random_f32(&b, 16, 5, 3, 2), 80, 6);
    check_and_close(&b, 1, false);
    open_bench(&b, "DUP");
    b.node = ggml_dup(b.ctx, random_f32(&b, 17, 5, 3, 2));
    check_and_close(&b, 1, false);
    open_bench(&b, "CPY");
    struct ggml_tensor *x = random_f32(&b, 12, 5, 2, 1);
    b.node = ggml_cpy(b.ctx, x, random_f32(&b, 24, 5, 1, 1));
    check_and_close(&b, 1, false);
}

static void test_concat_and_sums(void **state) {
    (void) state;
    for (int dim = 0; dim < 4; dim++) {
        bench b;
        open_bench(&b, "CONCAT");
        int64_t ne[4] = { 6, 5, 4, 3 };
        struct ggml_tensor *x = random_f32(&b, ne[0], ne[1], ne[2], ne[3]);
        ne[dim] += 4;
        struct ggml_tensor *y = random_f32(&b, ne[0], ne[1], ne[2], ne[3]);
        b.node = ggml_concat(b.ctx, x, y, dim);
        check_and_close(&b, 3, true);
    }
    bench b;
    open_bench(&b, "REPEAT");
    b.node = ggml_repeat_4d(b.ctx, random_f32(&b, 21, 1, 3, 1), 42, 4, 3, 2);
    check_and_close(&b, 1, false);
    open_bench(&b, "SUM_ROWS");
    b.node = ggml_sum_rows(b.ctx, random_f32(&b, 21, 5, 3, 2));
    check_and_close(&b, 1, false);
}

/* ---- rows ---- */

static void test_get_rows(void **state) {
    (void) state;
    static const int32_t repeated[] = { 3, 0, 3, 6, 3, 0 }, batched[] = { 2, 2, 0, 1, 4, 2 };
    bench b;
    open_bench(&b, "GET_ROWS");
    struct ggml_tensor *x = random_f32(&b, 20, 7, 1, 1);
    b.node = ggml_get_rows(b.ctx, x, integers(&b, GGML_TYPE_I32, 6, 1, repeated));
    check_and_close(&b, 1, false);
    open_bench(&b, "GET_ROWS batched");
    x = random_f32(&b, 20, 5, 2, 1);
    b.node = ggml_get_rows(b.ctx, x, integers(&b, GGML_TYPE_I32, 3, 2, batched));
    check_and_close(&b, 1, false);
}

static void test_set_rows(void **state) {
    (void) state;
    static const int32_t rows[] = { 4, 0, 7, 2 };
    const enum ggml_type types[] = { GGML_TYPE_I64, GGML_TYPE_I32 };
    for (int t = 0; t < 2; t++) {
        for (int64_t batches = 1; batches < 4; batches += 2) {
            bench b;
            open_bench(&b, "SET_ROWS");
            struct ggml_tensor *cache = random_f32(&b, 12, 9, batches, 1);
            struct ggml_tensor *x = random_f32(&b, 12, 4, batches, 1);
            b.node = ggml_set_rows(b.ctx, cache, x, integers(&b, types[t], 4, 1, rows));
            check_and_close(&b, 1, false);
        }
    }
    bench b; /* as libllama writes a transposed V: rows of one element */
    open_bench(&b, "SET_ROWS of single elements");
    struct ggml_tensor *cache = random_f32(&b, 1, 9, 1, 1);
    b.node = ggml_set_rows(b.ctx, cache, random_f32(&b, 1, 4, 1, 1),
                           integers(&b, GGML_TYPE_I64, 4, 1, rows));
    check_and_close(&b, 1, false);
}

/* A bias for each chosen expert: [n, K, T] plus rows of [n, experts]. */
static void test_add_id(void **state) {
    (void) state;
    static const int32_t chosen[] = { 2, 0, 1, 3, 0, 1 };
    bench b;
    open_bench(&b, "ADD_ID");
    struct ggml_tensor *x = random_f32(&b, 20, 2, 3, 1);
    b.node = ggml_add_id(b.ctx, x, random_f32(&b, 20, 4, 1, 1),
                         integers(&b, GGML_TYPE_I32, 2, 3, chosen));
    check_and_close(&b, 1, false);
}

typedef struct rope_case {
    const char *name;
    int mode, n_dims;
    float freq_scale, ext_factor, attn_factor;
    bool factors;
} rope_case;

static void check_rope(const rope_case *r) {
    enum { HEAD = 32, HEADS = 3, T = 7 };
    static const int32_t position[4 * T] = { 0, 1, 5, 6, 100, 101, 2000, 0, 0, 1, 1, 2, 2, 3,
                                             0, 3, 4, 9, 1,   2,   8,    7, 6, 5, 4, 3, 2, 1 };
    bench b;
    open_bench(&b, r->name);
    struct ggml_tensor *x = random_f32(&b, HEAD, HEADS, T, 1), *factors = NULL;
    if (r->factors) {
        factors = random_f32(&b, r->n_dims / 2, 1, 1, 1);
        for (int i = 0; i < r->n_dims / 2; i++) {
            ((float *) factors->data)[i] = 1.0F + 0.5F * (float) i;
        }
    }
    if (r->mode & GGML_ROPE_TYPE_MROPE) {
        int sections[4] = { 4, 6, 6, 0 };
        struct ggml_tensor *pos =
            ggml_reshape_1d(b.ctx, integers(&b, GGML_TYPE_I32, 4 * T, 1, position), 4 * T);
        b.node = ggml_rope_multi(b.ctx, x, pos, factors, r->n_dims, sections, r->mode, 512,
                                 10000.0F, r->freq_scale, r->ext_factor, r->attn_factor, 32, 1);
    } else {
        struct ggml_tensor *pos =
            ggml_reshape_1d(b.ctx, integers(&b, GGML_TYPE_I32, T, 1, position), T);
        b.node = ggml_rope_ext(b.ctx, x, pos, factors, r->n_dims, r->mode, 512, 10000.0F,
                               r->freq_scale, r->ext_factor, r->attn_factor, 32, 1);
    }
    check_and_close(&b, 1, false);
}

static void test_rope(void **state) {
    (void) state;
    static const rope_case cases[] = {
        { "ROPE normal", GGML_ROPE_TYPE_NORMAL, 32, 1, 0, 1, false },
        { "ROPE neox", GGML_ROPE_TYPE_NEOX, 32, 1, 0, 1, false },
        { "ROPE normal, part of the head", GGML_ROPE_TYPE_NORMAL, 16, 1, 0, 1, false },
        { "ROPE neox, part of the head", GGML_ROPE_TYPE_NEOX, 20, 1, 0, 1, false },
        { "ROPE linear scaling", GGML_ROPE_TYPE_NEOX, 32, 0.25F, 0, 1, false },
        { "ROPE yarn", GGML_ROPE_TYPE_NORMAL, 32, 0.25F, 1, 1.2F, false },
        { "ROPE yarn neox", GGML_ROPE_TYPE_NEOX, 32, 0.125F, 1, 1, false },
        { "ROPE factors", GGML_ROPE_TYPE_NORMAL, 32, 1, 0, 1, true },
        { "ROPE factors and attention factor", GGML_ROPE_TYPE_NEOX, 32, 1, 0, 1.19F, true },
        { "ROPE mrope", GGML_ROPE_TYPE_MROPE, 32, 1, 0, 1, false },
        { "ROPE interleaved mrope", GGML_ROPE_TYPE_IMROPE, 32, 1, 0, 1, false },
        { "ROPE vision", GGML_ROPE_TYPE_VISION, 16, 1, 0, 1, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_rope(&cases[i]);
    }
}

/* ---- norms, softmax ---- */

static void test_norms(void **state) {
    (void) state;
    static const float eps[] = { 1e-6F, 0.5F };
    for (int i = 0; i < 2; i++) {
        bench b;
        open_bench(&b, "RMS_NORM");
        b.node = ggml_rms_norm(b.ctx, random_f32(&b, 37, 6, 3, 1), eps[i]);
        check_and_close(&b, 1, false);
        open_bench(&b, "NORM");
        b.node = ggml_norm(b.ctx, random_f32(&b, 37, 6, 3, 1), eps[i]);
        check_and_close(&b, 1, false);
    }
}

/* Causal: key j of query i is seen when j <= i + 5. */
static struct ggml_tensor *causal_mask(bench *b, enum ggml_type type, int64_t n, int64_t T) {
    struct ggml_tensor *t = ggml_new_tensor_2d(b->ctx, type, n, T);
    for (int64_t k = 0; k < n * T; k++) {
        const bool seen = k % n <= k / n + 5;
        /* With ALiBi the mask is the distance, and more than a switch. */
        const float value = seen ? -fabsf((float) (k / n + 5 - k % n)) : -INFINITY;
        if (type == GGML_TYPE_F16) {
            ((ggml_fp16_t *) t->data)[k] = ggml_fp32_to_fp16(value);
        } else {
            ((float *) t->data)[k] = value;
        }
    }
    return t;
}

static void check_soft_max(const char *name, int mask_type, float scale, float max_bias,
                           bool sinks) {
    bench b;
    open_bench(&b, name);
    struct ggml_tensor *x = random_f32(&b, 19, 7, 4, 1);
    struct ggml_tensor *mask =
        mask_type >= 0 ? causal_mask(&b, (enum ggml_type) mask_type, 19, 7) : NULL;
    b.node = ggml_soft_max_ext(b.ctx, x, mask, scale, max_bias);
    if (sinks) {
        ggml_soft_max_add_sinks(b.node, random_f32(&b, 4, 1, 1, 1));
    }
    check_and_close(&b, 1, false);
}

static void test_soft_max(void **state) {
    (void) state;
    check_soft_max("SOFT_MAX", -1, 1, 0, false);
    check_soft_max("SOFT_MAX scaled", -1, 0.25F, 0, false);
    check_soft_max("SOFT_MAX masked", GGML_TYPE_F32, 0.7F, 0, false);
    check_soft_max("SOFT_MAX masked in F16", GGML_TYPE_F16, 0.7F, 0, false);
    check_soft_max("SOFT_MAX with ALiBi", GGML_TYPE_F32, 0.7F, 8, false);
    check_soft_max("SOFT_MAX with sinks", GGML_TYPE_F32, 0.7F, 0, true);
    check_soft_max("SOFT_MAX with all of it", GGML_TYPE_F16, 1.3F, 4, true);
}

/* ---- products ---- */

static void test_mul_mat(void **state) {
    (void) state;
    /* k, m, n, then batches of A and of B along dimensions 2 and 3 */
    static const int64_t shapes[][7] = { { 24, 9, 5, 1, 1, 1, 1 }, { 16, 8, 7, 2, 1, 2, 1 },
                                         { 16, 8, 7, 2, 1, 4, 1 }, { 32, 33, 17, 2, 1, 6, 1 },
                                         { 7, 5, 3, 1, 1, 3, 1 },  { 16, 8, 7, 2, 3, 4, 3 },
                                         { 16, 8, 7, 1, 1, 2, 3 }, { 65, 70, 40, 3, 1, 9, 1 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t *n = shapes[s];
        bench b;
        open_bench(&b, "MUL_MAT");
        struct ggml_tensor *x = random_f32(&b, n[0], n[1], n[3], n[4]);
        b.node = ggml_mul_mat(b.ctx, x, random_f32(&b, n[0], n[2], n[5], n[6]));
        check_and_close(&b, 3, true);
    }
}

/* A source repeated along the outer dimension alone is refused, not answered wrongly. */
static void test_mul_mat_refuses(void **state) {
    (void) state;
    bench b;
    open_bench(&b, "MUL_MAT refused");
    struct ggml_tensor *x = random_f32(&b, 8, 4, 2, 1);
    b.node = ggml_mul_mat(b.ctx, x, random_f32(&b, 8, 3, 4, 2));
    const om_vjp_rule *rule = om_vjp_find(GGML_OP_MUL_MAT, b.node->op_params);
    assert_non_null(rule);
    float g[4 * 3 * 4 * 2] = { 0 }, grad[8 * 4 * 2];
    om_vjp_args a = { .g = g };
    fill_args(&b, &a, rule, 1);
    a.grad[0] = grad;
    om_error err = { 0 };
    assert_int_equal(rule->apply(computes[0], &a, &err), OM_E_UNSUPPORTED);
    ggml_free(b.ctx);
}

/* ---- activations ---- */

static double gelu_exact(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * x * (1 + 0.044715 * x * x)));
}

static double gelu_erf_exact(double x) {
    return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
}

static double gelu_quick_exact(double x) {
    return x / (1 + exp(-1.702 * x));
}

static void test_unary(void **state) {
    (void) state;
    static const struct {
        enum ggml_unary_op op;
        double (*value)(double);
    } ops[] = { { GGML_UNARY_OP_SILU, NULL },
                { GGML_UNARY_OP_GELU, gelu_exact },
                { GGML_UNARY_OP_GELU_ERF, gelu_erf_exact },
                { GGML_UNARY_OP_GELU_QUICK, gelu_quick_exact },
                { GGML_UNARY_OP_RELU, NULL },
                { GGML_UNARY_OP_TANH, NULL },
                { GGML_UNARY_OP_SIGMOID, NULL },
                { GGML_UNARY_OP_NEG, NULL },
                { GGML_UNARY_OP_EXP, NULL },
                { GGML_UNARY_OP_SOFTPLUS, NULL } };
    int supported = 0;
    for (int32_t op = 0; op < GGML_UNARY_OP_COUNT; op++) {
        supported += om_vjp_find(GGML_OP_UNARY, &op) != NULL;
    }
    assert_int_equal(supported, sizeof ops / sizeof *ops); /* a new one belongs into this test */
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        bench b;
        open_bench(&b, ggml_unary_op_name(ops[i].op));
        struct ggml_tensor *x = random_f32(&b, 41, 6, 2, 1);
        if (ops[i].op == GGML_UNARY_OP_RELU) {
            keep_off(x, 0);
        }
        b.node = ggml_unary(b.ctx, x, ops[i].op);
        b.value = ops[i].value;
        check_and_close(&b, 1, false);
    }
}

static void test_glu(void **state) {
    (void) state;
    static const struct {
        enum ggml_glu_op op;
        double (*value)(double);
    } ops[] = { { GGML_GLU_OP_REGLU, NULL },
                { GGML_GLU_OP_GEGLU, gelu_exact },
                { GGML_GLU_OP_SWIGLU, NULL },
                { GGML_GLU_OP_GEGLU_ERF, gelu_erf_exact },
                { GGML_GLU_OP_GEGLU_QUICK, gelu_quick_exact } };
    int supported = 0;
    for (int32_t op = 0; op < GGML_GLU_OP_COUNT; op++) {
        supported += om_vjp_find(GGML_OP_GLU, &op) != NULL;
    }
    assert_int_equal(supported, sizeof ops / sizeof *ops + 1); /* SWIGLU_OAI: next test */
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        for (int form = 0; form < 3; form++) { /* split, single, single swapped */
            bench b;
            open_bench(&b, ggml_glu_op_name(ops[i].op));
            struct ggml_tensor *x = keep_off(random_f32(&b, form ? 58 : 29, 9, 2, 1), 0);
            b.node = form ? ggml_glu(b.ctx, x, ops[i].op, form == 2)
                          : ggml_glu_split(b.ctx, x, random_f32(&b, 29, 9, 2, 1), ops[i].op);
            b.value = ops[i].value;
            check_and_close(&b, form ? 1 : 3, false);
        }
    }
}

/* gpt-oss: both branches are clamped, so values stay off the clamps by more than a step. */
static void test_swiglu_oai(void **state) {
    (void) state;
    bench b;
    open_bench(&b, "SWIGLU_OAI");
    struct ggml_tensor *x = keep_off(random_f32(&b, 29, 9, 2, 1), 1.0F);
    struct ggml_tensor *z = keep_off(keep_off(random_f32(&b, 29, 9, 2, 1), 1.0F), -1.0F);
    b.node = ggml_swiglu_oai(b.ctx, x, z, 1.702F, 1.0F);
    check_and_close(&b, 3, false);
}

/* ---- the table ---- */

static void test_table(void **state) {
    (void) state;
    int32_t params[16] = { 0 };
    char name[48];
    assert_null(om_vjp_find(GGML_OP_FLASH_ATTN_EXT, params));
    params[0] = GGML_GLU_OP_SWIGLU_CLAMP;
    assert_null(om_vjp_find(GGML_OP_GLU, params));
    assert_string_equal(om_vjp_op_name(name, GGML_OP_GLU, params), "GLU(SWIGLU_CLAMP)");
    params[0] = GGML_UNARY_OP_STEP;
    assert_null(om_vjp_find(GGML_OP_UNARY, params));
    assert_string_equal(om_vjp_op_name(name, GGML_OP_UNARY, params), "UNARY(STEP)");
    assert_string_equal(om_vjp_op_name(name, GGML_OP_MUL_MAT, params), "MUL_MAT");
    for (int op = 0; op < GGML_OP_COUNT; op++) { /* what rules say of themselves is possible */
        params[0] = op == GGML_OP_UNARY ? GGML_UNARY_OP_SILU : 0;
        const om_vjp_rule *rule = om_vjp_find((enum ggml_op) op, params);
        if (rule) {
            assert_int_equal(rule->op, op);
            assert_true(rule->grads != 0 && rule->grads < 1U << OM_VJP_SRC);
            assert_true(rule->index_src < OM_VJP_SRC);
            assert_true(rule->index_src < 0 || !(rule->grads >> rule->index_src & 1U));
        }
    }
}

static int open_computes(void **state) {
    (void) state;
    om_error err = { 0 };
    for (int t = 0; t < MAX_THREADS; t++) {
        if (om_compute_new(&computes[t], t + 1, &err) != OM_OK) {
            return -1;
        }
    }
    return 0;
}

static int close_computes(void **state) {
    (void) state;
    for (int t = 0; t < MAX_THREADS; t++) {
        om_compute_free(computes[t]);
    }
    return 0;
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binary),     cmocka_unit_test(test_scale_and_clamp),
        cmocka_unit_test(test_copies),     cmocka_unit_test(test_concat_and_sums),
        cmocka_unit_test(test_get_rows),   cmocka_unit_test(test_set_rows),
        cmocka_unit_test(test_add_id),     cmocka_unit_test(test_rope),
        cmocka_unit_test(test_norms),      cmocka_unit_test(test_soft_max),
        cmocka_unit_test(test_mul_mat),    cmocka_unit_test(test_mul_mat_refuses),
        cmocka_unit_test(test_unary),      cmocka_unit_test(test_glu),
        cmocka_unit_test(test_swiglu_oai), cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, open_computes, close_computes);
}
