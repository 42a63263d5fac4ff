/* Tape and backward pass on a graph made to be awkward, run by ggml's own scheduler: a weight used
 * three times (once for nothing), one that is embedding and output, an input shared with a weight
 * that waits for its other uses, ops in place, a copy into a part of a buffer that is partly
 * overwritten and read back through a permuted view. Gradients against differences of the same
 * graph. */
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

enum { SEED = 11, C = 16, T = 5, V = 11, N_WEIGHTS = 4 };

typedef struct bench {
    ggml_backend_t cpu;
    ggml_backend_sched_t sched;
    struct ggml_context *weights_ctx, *buffers_ctx, *graph_ctx;
    ggml_backend_buffer_t weights_buffer, buffers_buffer;
    struct ggml_tensor *w[N_WEIGHTS], *rows, *lost, *kept, *cache, *logits;
    struct ggml_cgraph *graph;
    om_compute *compute;
    om_tape tape;
    om_fisher fisher;
    om_fisher_weight fw[N_WEIGHTS];
    float *gradients[N_WEIGHTS];
    float g[V * T]; /* dL/d(logits) */
} bench;

static double normal(om_rng *r) {
    const double u = om_rng_f64(r), v = om_rng_f64(r);
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
}

static int weight_of(void *ud, const char *name) {
    (void) ud;
    return name[0] == 'w' && name[1] >= '0' && name[1] < '0' + N_WEIGHTS ? name[1] - '0' : -1;
}

static struct ggml_context *context(size_t bytes) {
    return ggml_init((struct ggml_init_params){ .mem_size = bytes, .no_alloc = true });
}

static void make_weights(bench *b) {
    om_rng r = om_rng_at(SEED, 1);
    for (int i = 0; i < N_WEIGHTS; i++) {
        const int64_t n_out = i == 0 ? V : C;
        b->w[i] = ggml_new_tensor_2d(b->weights_ctx, GGML_TYPE_F32, C, n_out);
        ggml_format_name(b->w[i], "w%d", i);
        om_error err = { 0 };
        assert_int_equal(om_fisher_weight_init(&b->fw[i], n_out, C, 1, &err), OM_OK);
        b->gradients[i] = calloc((size_t) (C * n_out), sizeof(float));
    }
    b->weights_buffer = ggml_backend_alloc_ctx_tensors(b->weights_ctx, b->cpu);
    ggml_backend_buffer_set_usage(b->weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (int i = 0; i < N_WEIGHTS; i++) {
        for (int64_t k = 0; k < ggml_nelements(b->w[i]); k++) {
            ((float *) b->w[i]->data)[k] = (float) (normal(&r) / 4);
        }
    }
    for (int i = 0; i < V * T; i++) {
        b->g[i] = (float) normal(&r);
    }
}

static void make_graph(bench *b) {
    struct ggml_context *ctx = b->graph_ctx;
    b->graph = ggml_new_graph(ctx);
    struct ggml_tensor *x = ggml_get_rows(ctx, b->w[0], b->rows);
    struct ggml_tensor *y = ggml_silu(ctx, ggml_mul_mat(ctx, b->w[1], x));
    struct ggml_tensor *p = ggml_mul_mat(ctx, b->w[2], y); /* first need of y, before … */
    ggml_build_forward_expand(b->graph, p);
    struct ggml_tensor *q = ggml_mul_mat(ctx, b->w[1], y); /* … this use, which waits */
    struct ggml_tensor *d = ggml_add(ctx, ggml_add(ctx, p, q), x);
    ggml_build_forward_expand(b->graph, d);
    ggml_build_forward_expand(b->graph, ggml_mul_mat(ctx, b->w[1], d)); /* nobody uses it */
    ggml_build_forward_expand(b->graph, ggml_mul_mat(ctx, b->w[3], d));
    const size_t row = C * sizeof(float);
    struct ggml_tensor *rows = ggml_view_2d(ctx, d, C, 2, row, row); /* in place on a part … */
    ggml_build_forward_expand(b->graph, ggml_scale_inplace(ctx, rows, -1.6F));
    struct ggml_tensor *s = ggml_scale_inplace(ctx, d, 0.7F); /* … and on all of it */
    /* What is written first is read nowhere: the copy below overwrites it. */
    ggml_build_forward_expand(b->graph, ggml_set_rows(ctx, b->cache, p, b->lost));
    struct ggml_tensor *part = ggml_view_2d(ctx, b->cache, C, T, row, T * row);
    ggml_build_forward_expand(b->graph, ggml_cpy(ctx, s, part));
    ggml_build_forward_expand(b->graph, ggml_set_rows(ctx, b->cache, q, b->kept));
    /* Two heads of 8: [8, T, 2] by permutation, attention-like product, and back. */
    struct ggml_tensor *heads = ggml_view_3d(ctx, b->cache, C / 2, 2, T, row / 2, row, T * row);
    struct ggml_tensor *k = ggml_permute(ctx, heads, 0, 2, 1, 3);
    struct ggml_tensor *kk = ggml_soft_max(ctx, ggml_mul_mat(ctx, k, k));
    struct ggml_tensor *v = ggml_cont(ctx, ggml_permute(ctx, heads, 1, 2, 0, 3));
    struct ggml_tensor *o = ggml_permute(ctx, ggml_mul_mat(ctx, v, kk), 0, 2, 1, 3);
    b->logits = ggml_mul_mat(ctx, b->w[0], ggml_cont_2d(ctx, o, C, T));
    ggml_set_output(b->logits);
    ggml_build_forward_expand(b->graph, b->logits);
}

static void run(bench *b, bool record) {
    om_tape_reset(&b->tape);
    ggml_backend_sched_reset(b->sched);
    ggml_backend_sched_set_eval_callback(b->sched, record ? om_tape_callback : NULL, &b->tape);
    assert_true(ggml_backend_sched_alloc_graph(b->sched, b->graph));
    assert_int_equal(ggml_backend_sched_graph_compute(b->sched, b->graph), GGML_STATUS_SUCCESS);
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
    float *x = w->data, keep[C * C];
    const int64_t n = ggml_nelements(w);
    double l[2];
    memcpy(keep, x, ggml_nbytes(w));
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < n; i++) {
            x[i] = keep[i] + (float) ((side ? -h : h) * u[i]);
        }
        l[side] = loss(b);
    }
    memcpy(x, keep, ggml_nbytes(w));
    return (l[0] - l[1]) / (2 * h);
}

static void check_weight(bench *b, int i) {
    const int64_t n = ggml_nelements(b->w[i]);
    om_rng r = om_rng_at(SEED, 100 + (uint64_t) i);
    for (int k = 0; k < 3; k++) {
        double u[C * C], expected = 0, norm = 0;
        for (int64_t j = 0; j < n; j++) {
            const double g = (double) b->gradients[i][j];
            u[j] = normal(&r);
            expected += g * u[j];
            norm += g * g;
        }
        const double d1 = difference(b, b->w[i], u, 0.01), d2 = difference(b, b->w[i], u, 0.005);
        const double got = (4 * d2 - d1) / 3;
        if (!(fabs(got - expected) <= 1e-3 * sqrt(norm))) {
            fail_msg("w%d: differences give %.9g, the backward pass %.9g; |gradient| %.4g", i, got,
                     expected, sqrt(norm));
        }
    }
}

static bench *open_bench(void) {
    bench *b = calloc(1, sizeof *b);
    om_error err = { 0 };
    assert_non_null(b);
    b->cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(b->cpu, 1);
    b->sched = ggml_backend_sched_new(&b->cpu, NULL, 1, 256, false, false);
    b->weights_ctx = context(1 << 16);
    b->buffers_ctx = context(1 << 16);
    b->graph_ctx = context(1 << 20);
    make_weights(b);
    b->rows = ggml_new_tensor_1d(b->buffers_ctx, GGML_TYPE_I32, T);
    b->lost = ggml_new_tensor_1d(b->buffers_ctx, GGML_TYPE_I32, T);
    b->kept = ggml_new_tensor_1d(b->buffers_ctx, GGML_TYPE_I32, T);
    b->cache = ggml_new_tensor_2d(b->buffers_ctx, GGML_TYPE_F32, C, 3 * T);
    b->buffers_buffer = ggml_backend_alloc_ctx_tensors(b->buffers_ctx, b->cpu);
    static const int32_t rows[T] = { 2, 7, 2, 0, 10 }, lost[T] = { 9, 5, 6, 8, 7 };
    static const int32_t kept[T] = { 0, 8, 2, 5, 12 }; /* two of them overwrite the copy */
    memcpy(b->rows->data, rows, sizeof rows);
    memcpy(b->lost->data, lost, sizeof lost);
    memcpy(b->kept->data, kept, sizeof kept);
    memset(b->cache->data, 0, ggml_nbytes(b->cache));
    assert_int_equal(om_compute_new(&b->compute, 1, &err), OM_OK);
    b->tape.compute = b->compute;
    b->tape.weight_of = weight_of;
    b->fisher = (om_fisher){ .weights = b->fw, .n_weights = N_WEIGHTS };
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
    ggml_backend_buffer_free(b->buffers_buffer);
    ggml_free(b->weights_ctx);
    ggml_free(b->buffers_ctx);
    ggml_free(b->graph_ctx);
    ggml_backend_free(b->cpu);
    free(b);
}

static om_status backward(bench *b, om_error *err) {
    float *g = om_compute_alloc(b->compute, V * T);
    assert_non_null(g);
    memcpy(g, b->g, sizeof b->g);
    return om_backward(&b->tape, g, &b->fisher, b->gradients, err);
}

static void test_awkward_graph(void **state) {
    (void) state;
    om_error err = { 0 };
    bench *b = open_bench();
    make_graph(b);
    run(b, true);
    assert_int_equal(b->tape.err.status, OM_OK);
    if (backward(b, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    for (int i = 0; i < 3; i++) {
        check_weight(b, i);
    }
    assert_true(*b->fw[0].count == T); /* the output's product; the embedding is none */
    assert_true(b->fw[0].seen[2] == 2 && b->fw[0].seen[10] == 1 && b->fw[0].seen[1] == 0);
    assert_true(*b->fw[1].count == 2 * T); /* two products that lead to the loss */
    assert_true(*b->fw[3].count == 0);     /* never on the way to the loss */
    for (int i = 0; i < C; i++) {
        assert_true(b->fw[3].rows[i] == 0 && b->fw[2].rows[i] > 0);
    }
    close_bench(b);
}

/* The same window twice through one tape doubles the sums exactly: nothing stays from the first. */
static void test_tape_is_reusable(void **state) {
    (void) state;
    om_error err = { 0 };
    bench *b = open_bench();
    make_graph(b);
    run(b, true);
    assert_int_equal(backward(b, &err), OM_OK);
    const double first = b->fw[1].rows[3], column = b->fw[0].cols[5];
    run(b, true);
    assert_int_equal(backward(b, &err), OM_OK);
    assert_true(b->fw[1].rows[3] == 2 * first && b->fw[0].cols[5] == 2 * column);
    close_bench(b);
}

/* An op without a rule stops the evaluation there, before it costs anything. */
static void test_unsupported_op(void **state) {
    (void) state;
    om_error err = { 0 };
    bench *b = open_bench();
    b->graph = ggml_new_graph(b->graph_ctx);
    struct ggml_tensor *x = ggml_get_rows(b->graph_ctx, b->w[0], b->rows);
    struct ggml_tensor *y = ggml_step(b->graph_ctx, x);
    ggml_set_name(y, "the step");
    struct ggml_tensor *z = ggml_mul_mat(b->graph_ctx, b->w[1], y);
    ggml_set_output(z);
    ggml_build_forward_expand(b->graph, z);
    run(b, true);
    assert_int_equal(b->tape.err.status, OM_E_UNSUPPORTED);
    assert_non_null(strstr(b->tape.err.text, "UNARY(STEP) (tensor 'the step')"));
    assert_non_null(strstr(b->tape.err.text, "use --method measured"));
    om_tape_reset(&b->tape);
    assert_int_equal(backward(b, &err), OM_E_INTERNAL); /* nothing on the tape: no crash */
    close_bench(b);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_awkward_graph),
        cmocka_unit_test(test_tape_is_reusable),
        cmocka_unit_test(test_unsupported_op),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
