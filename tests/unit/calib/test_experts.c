/* A layer of experts in every form that llama.cpp builds, run by ggml's own scheduler: gradients of
 * the stacks and of what lies before the router against differences of the same graph, and what the
 * tape knows of the choice. The steps of a difference must not move a choice: that is checked. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>

#include "base/rng.h"
#include "calib/backward.h"

enum { SEED = 7, C = 16, F = 12, T = 6, V = 11, E = 8 };
enum { EMBEDDING, UP, GATE, DOWN, N_WEIGHTS };

typedef enum gating { SOFTMAX, SOFTMAX_OF_CHOSEN, SIGMOID } gating;

typedef struct form {
    const char *name;
    gating gate;
    int used;             /* K */
    bool normalise;       /* weights of a token add up to one */
    bool biases;          /* of the router, and one per expert: ADD_ID */
    bool groups;          /* a bias on the choice, and two of four groups */
    bool weights_first;   /* the router's weight multiplies the input of the expert */
    bool merged;          /* gate and up are halves of one product */
    enum ggml_glu_op glu; /* SWIGLU, SWIGLU_OAI */
} form;

typedef struct bench {
    const form *form;
    ggml_backend_t cpu;
    ggml_backend_sched_t sched;
    struct ggml_context *weights_ctx, *inputs_ctx, *graph_ctx;
    ggml_backend_buffer_t weights_buffer, inputs_buffer;
    struct ggml_tensor *w[N_WEIGHTS], *router, *router_bias, *choice_bias, *bias[3], *rows;
    struct ggml_tensor *ids, *gathered, *logits;
    struct ggml_cgraph *graph;
    om_compute *compute;
    om_tape tape;
    om_fisher fisher;
    om_fisher_weight fw[N_WEIGHTS];
    float *gradients[N_WEIGHTS];
    float g[V * T];        /* dL/d(logits) */
    int32_t chosen[T * E]; /* [T, K] */
} bench;

static double normal(om_rng *r) {
    const double u = om_rng_f64(r), v = om_rng_f64(r);
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
}

static int weight_of(void *ud, const char *name) {
    (void) ud;
    return name[0] == 'w' && name[1] >= '0' && name[1] < '0' + N_WEIGHTS ? name[1] - '0' : -1;
}

/* ---- the graph ---- */

static void make_tensors(bench *b) {
    struct ggml_context *ctx = b->weights_ctx;
    const int64_t up = b->form->merged ? 2 * F : F;
    b->w[EMBEDDING] = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, C, V);
    b->w[UP] = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, C, up, E);
    b->w[GATE] = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, C, F, E);
    b->w[DOWN] = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, F, C, E);
    b->router = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, C, E);
    b->router_bias = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, E);
    b->choice_bias = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, E);
    for (int i = 0; i < 3; i++) {
        b->bias[i] = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, i == 2 ? C : i == 0 ? up : F, E);
    }
    b->weights_buffer = ggml_backend_alloc_ctx_tensors(ctx, b->cpu);
    ggml_backend_buffer_set_usage(b->weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    om_rng r = om_rng_at(SEED, om_hash_name(b->form->name));
    for (struct ggml_tensor *t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
        const double scale = t == b->router ? 1 : 0.5; /* choices far apart */
        for (int64_t k = 0; k < ggml_nelements(t); k++) {
            ((float *) t->data)[k] = (float) (scale * normal(&r));
        }
    }
    for (int i = 0; i < N_WEIGHTS; i++) {
        om_error err = { 0 };
        const struct ggml_tensor *w = b->w[i];
        ggml_format_name(b->w[i], "w%d", i);
        assert_int_equal(om_fisher_weight_init(&b->fw[i], w->ne[1], w->ne[0], (int) w->ne[2], &err),
                         OM_OK);
        b->gradients[i] = calloc((size_t) ggml_nelements(w), sizeof(float));
        assert_non_null(b->gradients[i]);
    }
    for (int i = 0; i < V * T; i++) {
        b->g[i] = (float) normal(&r);
    }
}

/* The best two experts of a group make its score; those of the other groups cannot be chosen. */
static struct ggml_tensor *mask_groups(struct ggml_context *ctx, struct ggml_tensor *score) {
    struct ggml_tensor *groups = ggml_reshape_3d(ctx, score, E / 4, 4, T);
    struct ggml_tensor *best = ggml_argsort_top_k(ctx, groups, 2);
    best = ggml_get_rows(ctx, ggml_reshape_4d(ctx, groups, 1, E / 4, 4, T), best);
    best = ggml_sum_rows(ctx, ggml_reshape_3d(ctx, best, 2, 4, T));
    struct ggml_tensor *taken = ggml_argsort_top_k(ctx, ggml_reshape_2d(ctx, best, 4, T), 2);
    struct ggml_tensor *rows = ggml_get_rows(ctx, groups, taken);
    rows = ggml_set_rows(ctx, ggml_fill(ctx, groups, -INFINITY), rows, taken);
    return ggml_reshape_2d(ctx, rows, E, T);
}

/* [1, K, T] the router's weights of the chosen experts; b->ids is the choice. */
static struct ggml_tensor *route(bench *b, struct ggml_context *ctx, struct ggml_tensor *x) {
    const form *f = b->form;
    struct ggml_tensor *score = ggml_mul_mat(ctx, b->router, x);
    if (f->biases) {
        score = ggml_add(ctx, score, b->router_bias);
    }
    struct ggml_tensor *p = f->gate == SOFTMAX   ? ggml_soft_max(ctx, score)
                            : f->gate == SIGMOID ? ggml_sigmoid(ctx, score)
                                                 : score;
    struct ggml_tensor *choice = p;
    if (f->groups) {
        choice = mask_groups(ctx, ggml_add(ctx, p, b->choice_bias));
    }
    b->ids = ggml_argsort_top_k(ctx, choice, f->used);
    ggml_set_output(b->ids->src[0]);
    struct ggml_tensor *w = ggml_get_rows(ctx, ggml_reshape_3d(ctx, p, 1, E, T), b->ids);
    if (f->gate == SOFTMAX_OF_CHOSEN) {
        w = ggml_soft_max(ctx, ggml_reshape_2d(ctx, w, f->used, T));
    }
    if (f->normalise) {
        w = ggml_reshape_2d(ctx, w, f->used, T);
        w = ggml_div(ctx, w, ggml_clamp(ctx, ggml_sum_rows(ctx, w), 6e-5F, INFINITY));
        w = ggml_scale(ctx, w, 2.5F);
    }
    ggml_set_output(w);
    b->gathered = w;
    return ggml_reshape_3d(ctx, w, 1, f->used, T);
}

static struct ggml_tensor *expert_product(bench *b, struct ggml_context *ctx, int which,
                                          struct ggml_tensor *x) {
    struct ggml_tensor *y = ggml_mul_mat_id(ctx, b->w[which], x, b->ids);
    return b->form->biases ? ggml_add_id(ctx, y, b->bias[which - UP], b->ids) : y;
}

static struct ggml_tensor *experts(bench *b, struct ggml_context *ctx, struct ggml_tensor *x) {
    const form *f = b->form;
    struct ggml_tensor *w = route(b, ctx, x), *gate;
    x = ggml_reshape_3d(ctx, x, C, 1, T);
    if (f->weights_first) {
        x = ggml_mul(ctx, ggml_repeat_4d(ctx, x, C, f->used, T, 1), w);
    }
    struct ggml_tensor *up = expert_product(b, ctx, UP, x);
    if (f->merged) {
        gate = ggml_view_3d(ctx, up, F, up->ne[1], T, up->nb[1], up->nb[2], 0);
        up = ggml_view_3d(ctx, up, F, up->ne[1], T, up->nb[1], up->nb[2], F * up->nb[0]);
    } else {
        gate = expert_product(b, ctx, GATE, x);
    }
    struct ggml_tensor *h = f->glu == GGML_GLU_OP_SWIGLU_OAI
                                ? ggml_swiglu_oai(ctx, gate, up, 1.702F, 7.0F)
                                : ggml_swiglu_split(ctx, gate, up);
    struct ggml_tensor *y = expert_product(b, ctx, DOWN, h), *sum = NULL;
    if (!f->weights_first) {
        y = ggml_mul(ctx, y, w);
    }
    for (int k = 0; k < f->used; k++) {
        struct ggml_tensor *one = ggml_view_2d(ctx, y, C, T, y->nb[2], (size_t) k * y->nb[1]);
        sum = sum ? ggml_add(ctx, sum, one) : one;
    }
    return f->used == 1 ? ggml_cont(ctx, sum) : sum;
}

static void make_graph(bench *b) {
    struct ggml_context *ctx = b->graph_ctx;
    b->graph = ggml_new_graph(ctx);
    struct ggml_tensor *x = ggml_get_rows(ctx, b->w[EMBEDDING], b->rows);
    struct ggml_tensor *y = ggml_add(ctx, x, experts(b, ctx, ggml_rms_norm(ctx, x, 1e-5F)));
    b->logits = ggml_mul_mat(ctx, b->w[EMBEDDING], y);
    ggml_set_output(b->logits);
    ggml_build_forward_expand(b->graph, b->logits);
}

static bench *open_bench(const form *f) {
    bench *b = calloc(1, sizeof *b);
    om_error err = { 0 };
    assert_non_null(b);
    b->form = f;
    b->cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(b->cpu, 1);
    b->sched = ggml_backend_sched_new(&b->cpu, NULL, 1, 256, false, false);
    struct ggml_context **const contexts[] = { &b->weights_ctx, &b->inputs_ctx, &b->graph_ctx };
    for (int i = 0; i < 3; i++) {
        *contexts[i] =
            ggml_init((struct ggml_init_params){ .mem_size = 1 << 20, .no_alloc = true });
    }
    make_tensors(b);
    b->rows = ggml_new_tensor_1d(b->inputs_ctx, GGML_TYPE_I32, T);
    b->inputs_buffer = ggml_backend_alloc_ctx_tensors(b->inputs_ctx, b->cpu);
    static const int32_t rows[T] = { 2, 7, 2, 0, 10, 5 };
    memcpy(b->rows->data, rows, sizeof rows);
    assert_int_equal(om_compute_new(&b->compute, 1, &err), OM_OK);
    b->tape.compute = b->compute;
    b->tape.weight_of = weight_of;
    b->fisher = (om_fisher){ .weights = b->fw, .n_weights = N_WEIGHTS };
    make_graph(b);
    return b;
}

static void close_bench(bench *b) {
    om_tape_release(&b->tape);
    om_compute_free(b->compute);
    for (int i = 0; i < N_WEIGHTS; i++) {
        om_fisher_weight_release(&b->fw[i]);
        free(b->gradients[i]);
    }
    ggml_backend_sched_free(b->sched);
    ggml_backend_buffer_free(b->weights_buffer);
    ggml_backend_buffer_free(b->inputs_buffer);
    ggml_free(b->weights_ctx);
    ggml_free(b->inputs_ctx);
    ggml_free(b->graph_ctx);
    ggml_backend_free(b->cpu);
    free(b);
}

/* ---- running it ---- */

static int32_t chosen_now(const bench *b, int t, int k) {
    const char *row = (const char *) b->ids->data + (size_t) t * b->ids->nb[1];
    return ((const int32_t *) (const void *) row)[k];
}

static void run(bench *b, bool record) {
    const int used = b->form->used;
    om_tape_reset(&b->tape);
    ggml_backend_sched_reset(b->sched);
    ggml_backend_sched_set_eval_callback(b->sched, record ? om_tape_callback : NULL, &b->tape);
    assert_true(ggml_backend_sched_alloc_graph(b->sched, b->graph));
    assert_int_equal(ggml_backend_sched_graph_compute(b->sched, b->graph), GGML_STATUS_SUCCESS);
    for (int i = 0; i < T * used; i++) {
        const int32_t e = chosen_now(b, i / used, i % used);
        bool there = record; /* in whatever order */
        for (int k = 0; k < used; k++) {
            there = there || b->chosen[i / used * used + k] == e;
        }
        if (!there) {
            fail_msg("%s: a step moved the choice %d; take another seed", b->form->name, i);
        }
    }
    for (int i = 0; i < T * used && record; i++) {
        b->chosen[i] = chosen_now(b, i / used, i % used);
    }
}

static double loss(bench *b) {
    double sum = 0;
    run(b, false);
    for (int i = 0; i < V * T; i++) {
        sum += (double) b->g[i] * (double) ((float *) b->logits->data)[i];
    }
    return sum;
}

static double difference(bench *b, struct ggml_tensor *w, const double *u, double h) {
    static float keep[C * 2 * F * E];
    float *x = w->data;
    double l[2];
    memcpy(keep, x, ggml_nbytes(w));
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < ggml_nelements(w); i++) {
            x[i] = keep[i] + (float) ((side ? -h : h) * u[i]);
        }
        l[side] = loss(b);
    }
    memcpy(x, keep, ggml_nbytes(w));
    return (l[0] - l[1]) / (2 * h);
}

static void check_weight(bench *b, int i) {
    static double u[C * 2 * F * E];
    const int64_t n = ggml_nelements(b->w[i]);
    om_rng r = om_rng_at(SEED, 100 + (uint64_t) i);
    for (int k = 0; k < 3; k++) {
        double expected = 0, norm = 0;
        for (int64_t j = 0; j < n; j++) {
            const double g = (double) b->gradients[i][j];
            u[j] = normal(&r);
            expected += g * u[j];
            norm += g * g;
        }
        const double d1 = difference(b, b->w[i], u, 0.004), d2 = difference(b, b->w[i], u, 0.002);
        const double got = (4 * d2 - d1) / 3;
        if (!(fabs(got - expected) <= 1e-3 * sqrt(norm))) {
            fail_msg("%s, w%d: differences give %.9g, the backward pass %.9g; |gradient| %.4g",
                     b->form->name, i, got, expected, sqrt(norm));
        }
    }
}

/* Tokens and router's weights of every expert; no gradient where there was no token. */
static void check_choice(const bench *b, int i) {
    const om_fisher_weight *fw = &b->fw[i];
    const int64_t n = fw->n_in * fw->n_out;
    for (int e = 0; e < E; e++) {
        double tokens = 0, weight = 0, norm = 0;
        for (int k = 0; k < T * b->form->used; k++) {
            tokens += b->chosen[k] == e;
            weight += b->chosen[k] == e ? (double) ((float *) b->gathered->data)[k] : 0;
        }
        for (int64_t j = 0; j < n; j++) {
            norm += fabs((double) b->gradients[i][e * n + j]);
        }
        assert_true(fw->count[e] == tokens && fw->windows[e] == (tokens > 0));
        assert_true(fabs(fw->router_weight[e] - weight) <= 1e-6);
        assert_true((norm > 0) == (tokens > 0));
    }
}

static void check_form(const form *f) {
    om_error err = { 0 };
    bench *b = open_bench(f);
    run(b, true);
    if (b->tape.err.status != OM_OK) {
        fail_msg("%s: %s", f->name, b->tape.err.text);
    }
    float *g = om_compute_alloc(b->compute, V * T);
    assert_non_null(g);
    memcpy(g, b->g, sizeof b->g);
    if (om_backward(&b->tape, g, &b->fisher, b->gradients, &err) != OM_OK) {
        fail_msg("%s: %s", f->name, err.text);
    }
    for (int i = 0; i < N_WEIGHTS; i++) {
        if (i != EMBEDDING && (i != GATE || !f->merged)) {
            check_choice(b, i);
        }
    }
    for (int i = 0; i < N_WEIGHTS; i++) {
        if (i != GATE || !f->merged) {
            check_weight(b, i);
        }
    }
    close_bench(b);
}

static void test_forms(void **state) {
    (void) state;
    static const form forms[] = {
        { .name = "softmax", .used = 3, .glu = GGML_GLU_OP_SWIGLU },
        { .name = "softmax, renormalised",
          .used = 2,
          .normalise = true,
          .merged = true,
          .glu = GGML_GLU_OP_SWIGLU },
        { .name = "softmax of the chosen, biases",
          .gate = SOFTMAX_OF_CHOSEN,
          .used = 3,
          .biases = true,
          .glu = GGML_GLU_OP_SWIGLU_OAI },
        { .name = "sigmoid, groups",
          .gate = SIGMOID,
          .used = 3,
          .normalise = true,
          .groups = true,
          .glu = GGML_GLU_OP_SWIGLU },
        { .name = "sigmoid, weights first, one expert",
          .gate = SIGMOID,
          .used = 1,
          .weights_first = true,
          .glu = GGML_GLU_OP_SWIGLU },
        { .name = "sigmoid, weights first",
          .gate = SIGMOID,
          .used = 2,
          .weights_first = true,
          .glu = GGML_GLU_OP_SWIGLU },
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        check_form(&forms[i]);
    }
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_forms) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
