/* Whole models through tape and backward pass: for every weight W and a random direction D the loss
 * must change by ⟨G, D⟩. The loss is libllama's own, by its public interface, on a file in which W
 * was moved to W ± εD: neither the tape nor our softmax takes part in it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <llama.h>

#include "base/log.h"
#include "base/rng.h"
#include "calib/pass.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { SEED = 7, T = 24 };

static char *dir;

static void silent(enum ggml_log_level level, const char *text, void *ud) {
    (void) level, (void) text, (void) ud;
}

static double normal(om_rng *r) {
    const double u = om_rng_f64(r), v = om_rng_f64(r);
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
}

/* Tokens with repetitions, so that rows of the embedding get several gradients. */
static void fill_window(int32_t tokens[T], int32_t labels[T]) {
    om_rng r = om_rng_at(SEED, 0);
    for (int t = 0; t < T; t++) {
        tokens[t] = 3 + (int32_t) (om_rng_u64(&r) % 40);
        labels[t] = (int32_t) (om_rng_u64(&r) % 288);
    }
}

/* ---- one recorded window ---- */

typedef struct window {
    om_model *model;
    om_fisher *f;
    float **gradients; /* [n_weights] [experts, n_out, n_in] */
    double loss;
} window;

static int64_t size_of(const om_fisher_weight *fw) {
    return fw->experts * fw->n_out * fw->n_in;
}

static void open_window(window *w, const char *path) {
    om_error err = { 0 };
    *w = (window){ 0 };
    assert_int_equal(om_model_open(&w->model, path, &err), OM_OK);
    assert_int_equal(om_fisher_new(&w->f, w->model, &err), OM_OK);
    w->gradients = calloc((size_t) w->f->n_weights, sizeof *w->gradients);
    assert_non_null(w->gradients);
    for (int i = 0; i < w->f->n_weights; i++) {
        const om_fisher_weight *fw = &w->f->weights[i];
        w->gradients[i] = malloc((size_t) size_of(fw) * sizeof(float));
        assert_non_null(w->gradients[i]);
    }
}

static void close_window(window *w) {
    for (int i = 0; i < w->f->n_weights; i++) {
        free(w->gradients[i]);
    }
    free(w->gradients);
    om_fisher_free(w->f);
    om_model_free(w->model);
}

static om_status run(window *w, const char *path, int n_threads, om_error *err) {
    int32_t tokens[T], labels[T];
    fill_window(tokens, labels);
    const om_env env = { .n_threads = n_threads };
    return om_pass_one(w->f, w->gradients, &w->loss, tokens, labels, T, path, 0, &env, err);
}

/* ---- libllama's loss ---- */

static double llama_loss(const char *path) {
    int32_t tokens[T], labels[T];
    fill_window(tokens, labels);
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    assert_non_null(model);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = cp.n_batch = cp.n_ubatch = 256;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    assert_non_null(ctx);
    struct llama_batch batch = llama_batch_init(T, 0, 1);
    batch.n_tokens = T;
    for (int t = 0; t < T; t++) {
        batch.token[t] = tokens[t];
        batch.pos[t] = t;
        batch.n_seq_id[t] = 1;
        batch.seq_id[t][0] = 0;
        batch.logits[t] = 1;
    }
    assert_int_equal(llama_decode(ctx, batch), 0);
    const int n = llama_vocab_n_tokens(llama_model_get_vocab(model));
    double loss = 0;
    for (int t = 0; t < T; t++) {
        const float *z = llama_get_logits_ith(ctx, t);
        double sum = 0;
        for (int i = 0; i < n; i++) {
            sum += exp((double) z[i] - (double) z[labels[t]]);
        }
        loss += log(sum);
    }
    llama_batch_free(batch);
    llama_free(ctx);
    llama_model_free(model);
    return loss;
}

/* A copy of the model in which weight `fw` is moved by step·D. */
static const char *moved(const window *w, const om_fisher_weight *fw, const float *d, double step) {
    const om_map *map = om_model_split_map(w->model, 0);
    unsigned char *copy = malloc(map->size);
    assert_non_null(copy);
    memcpy(copy, map->data, map->size);
    float *x = (float *) (void *) (copy + (fw->tensor->data - map->data));
    for (int64_t i = 0; i < size_of(fw); i++) {
        x[i] += (float) (step * (double) d[i]);
    }
    const char *path = om_tmpdir_write(dir, "moved.gguf", copy, map->size);
    free(copy);
    return path;
}

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double) a[i] * (double) b[i];
    }
    return sum;
}

static bool has_router(const window *w) {
    return om_fisher_find(w->f, "blk.0.ffn_down_exps.weight") >= 0 ||
           om_fisher_find(w->f, "blk.1.ffn_down_exps.weight") >= 0; /* after a dense layer */
}

/* d [n]; elements of D have a mean square of one. The step is relative to the weight's elements.
 * The tolerance is relative to the gradient's norm, which ⟨G, D⟩ has for a random D. */
static void check_direction(const window *w, int i, const float *d, double step, double tolerance) {
    const om_fisher_weight *fw = &w->f->weights[i];
    const float *x = (const float *) (const void *) fw->tensor->data;
    const int64_t n = size_of(fw);
    const double expected = dot(w->gradients[i], d, n),
                 norm = sqrt(dot(w->gradients[i], w->gradients[i], n));
    double got = (double) NAN;
    step *= sqrt(dot(x, x, n) / (double) n);
    /* A step can change which experts a token chooses, and the loss jumps. A shorter one does not;
     * a wrong gradient stays wrong. */
    for (int k = 0; k < (has_router(w) ? 3 : 1); k++, step /= 4) {
        const double plus = llama_loss(moved(w, fw, d, step)),
                     minus = llama_loss(moved(w, fw, d, -step));
        got = (plus - minus) / (2 * step);
        if (norm > 0 && fabs(got - expected) <= tolerance * norm) {
            return;
        }
    }
    fail_msg("%s: the loss changes by %.9g, the gradient says %.9g; |gradient| %.4g", fw->name, got,
             expected, norm);
}

/* Along a random direction, which any error shows in; and along the gradient itself, where the
 * signal is √n times stronger. ggml reads GELU from an F16 table: its steps need longer ones. */
static void check_weight(const window *w, int i, bool table) {
    const om_fisher_weight *fw = &w->f->weights[i];
    const int64_t n = size_of(fw);
    const float *g = w->gradients[i];
    float *d = malloc((size_t) n * sizeof *d);
    assert_non_null(d);
    om_rng r = om_rng_at(SEED, om_hash_name(fw->name));
    for (int64_t k = 0; k < n; k++) {
        d[k] = (float) normal(&r);
    }
    check_direction(w, i, d, table ? 0.04 : 0.005, table ? 0.05 : 1.5e-3);
    const double root = sqrt((double) n), norm = sqrt(dot(g, g, n));
    for (int64_t k = 0; k < n; k++) {
        d[k] = (float) ((double) g[k] * root / norm);
    }
    check_direction(w, i, d, table ? 0.002 : 0.0005, (table ? 5e-3 : 1.5e-3) * root);
    free(d);
}

/* Row and column sums are those of the squared gradient. */
static void check_sums(const om_fisher_weight *all, int e, const float *gradient) {
    om_fisher_weight matrix = *all, *fw = &matrix;
    const float *g = gradient + e * fw->n_out * fw->n_in;
    double total = 0, rows = 0, cols = 0;
    fw->rows += e * fw->n_out;
    fw->cols += e * fw->n_in;
    for (int64_t i = 0; i < fw->n_out; i++) {
        double sum = 0;
        for (int64_t j = 0; j < fw->n_in; j++) {
            sum += (double) g[i * fw->n_in + j] * (double) g[i * fw->n_in + j];
        }
        assert_true(fabs(sum - fw->rows[i]) <= 1e-12 * sum);
        total += sum;
        rows += fw->rows[i];
    }
    for (int64_t j = 0; j < fw->n_in; j++) {
        double sum = 0;
        for (int64_t i = 0; i < fw->n_out; i++) {
            sum += (double) g[i * fw->n_in + j] * (double) g[i * fw->n_in + j];
        }
        assert_true(fabs(sum - fw->cols[j]) <= 1e-12 * sum);
        cols += fw->cols[j];
    }
    assert_true(fabs(rows - total) <= 1e-12 * total && fabs(cols - total) <= 1e-12 * total);
}

/* The same window without asking for gradients: experts with few tokens then go another way,
 * through Gram matrices of their tokens, to the same sums. */
static void check_sums_alone(const window *with, const char *path) {
    om_error err = { 0 };
    window w;
    open_window(&w, path);
    int32_t tokens[T], labels[T];
    fill_window(tokens, labels);
    const om_env env = { .n_threads = 1 };
    assert_int_equal(om_pass_one(w.f, NULL, NULL, tokens, labels, T, path, 0, &env, &err), OM_OK);
    for (int i = 0; i < w.f->n_weights; i++) {
        const om_fisher_weight *a = &w.f->weights[i], *b = &with->f->weights[i];
        for (int64_t k = 0; k < a->experts * a->n_out; k++) {
            assert_true(fabs(a->rows[k] - b->rows[k]) <= 1e-5 * b->rows[k]);
        }
        for (int64_t k = 0; k < a->experts * a->n_in; k++) {
            assert_true(fabs(a->cols[k] - b->cols[k]) <= 1e-5 * b->cols[k]);
        }
    }
    close_window(&w);
}

static void check_model(const om_tiny_options *o, bool table) {
    const int n_used = o->n_expert_used ? o->n_expert_used : 2;
    om_error err = { 0 };
    const char *path = om_tmpdir_path(dir, "tiny.gguf");
    om_tiny_model_write_with(path, o);
    window w;
    open_window(&w, path);
    if (run(&w, path, 1, &err) != OM_OK) {
        fail_msg("%s: %s", o->arch, err.text);
    }
    assert_true(fabs(w.loss - llama_loss(path)) <= 1e-5 * w.loss);
    assert_true(om_fisher_find(w.f, "output.weight") >= 0 ||
                om_fisher_find(w.f, "token_embd.weight") >= 0);
    if (has_router(&w)) {
        check_sums_alone(&w, path); /* before a moved model takes the path's storage */
    }
    for (int i = 0; i < w.f->n_weights; i++) {
        const om_fisher_weight *fw = &w.f->weights[i];
        check_weight(&w, i, table);
        double count = 0;
        for (int e = 0; e < fw->experts; e++) {
            check_sums(fw, e, w.gradients[i]);
            count += fw->count[e];
        }
        const bool product =
            strcmp(fw->name, "token_embd.weight") != 0 || om_fisher_find(w.f, "output.weight") < 0;
        assert_true(count == (product ? fw->experts > 1 ? T * n_used : T : 0));
        assert_true(fw->experts == 1 || fw->router_weight[0] > 0 || fw->count[0] == 0);
    }
    close_window(&w);
}

static om_tiny_options small(const char *arch) {
    return (om_tiny_options){ .arch = arch, .n_embd = 64, .n_ff = 96, .n_vocab = 288 };
}

static void test_llama(void **state) {
    (void) state;
    om_tiny_options o = small("llama");
    check_model(&o, false);
    o.tied = true;
    o.n_head_kv = 4;
    o.n_layer = 1;
    check_model(&o, false);
}

static void test_qwen2(void **state) {
    (void) state;
    const om_tiny_options o = small("qwen2");
    check_model(&o, false);
}

static void test_qwen3(void **state) {
    (void) state;
    om_tiny_options o = small("qwen3");
    o.head_dim = 32; /* heads wider than the model */
    o.n_head_kv = 1;
    check_model(&o, false);
}

static void test_gemma2(void **state) {
    (void) state;
    om_tiny_options o = small("gemma2");
    o.n_window = 8; /* shorter than the text: the first layer's mask hides old tokens */
    check_model(&o, true);
}

static void test_gemma3(void **state) {
    (void) state;
    om_tiny_options o = small("gemma3");
    o.n_window = 8;
    check_model(&o, true);
}

static void test_phi3(void **state) {
    (void) state;
    const om_tiny_options o = small("phi3");
    check_model(&o, false);
}

/* Mixtral: softmax over all experts, the chosen ones renormalised. */
static void test_mixtral(void **state) {
    (void) state;
    om_tiny_options o = small("llama");
    o.n_expert = 4;
    check_model(&o, false);
}

static void test_qwen3moe(void **state) {
    (void) state;
    om_tiny_options o = small("qwen3moe");
    o.n_expert = 6;
    o.n_expert_used = 3;
    check_model(&o, false);
}

/* Weights that do not add up to one, and an expert for all tokens behind its own gate. */
static void test_qwen2moe(void **state) {
    (void) state;
    om_tiny_options o = small("qwen2moe");
    o.n_expert_used = 1;
    o.n_layer = 1;
    check_model(&o, false);
}

static void test_olmoe(void **state) {
    (void) state;
    om_tiny_options o = small("olmoe");
    o.n_layer = 1;
    check_model(&o, false);
}

/* Attention sinks, a window shorter than the text, biases everywhere, softmax of the chosen. */
static void test_gpt_oss(void **state) {
    (void) state;
    om_tiny_options o = small("gpt-oss");
    o.n_window = 8;
    check_model(&o, false);
}

/* A dense layer first, a sigmoid as router, a bias on the choice among the best groups. */
static void test_dots1(void **state) {
    (void) state;
    om_tiny_options o = small("dots1");
    o.n_expert = 8;
    o.n_expert_used = 3;
    o.n_expert_groups = 4;
    check_model(&o, false);
}

/* ---- the same bytes for any number of threads ---- */

static void check_threads(const om_tiny_options *o) {
    const char *path = om_tmpdir_path(dir, "threads.gguf");
    om_tiny_model_write_with(path, o);
    window w[3];
    /* More threads than processors wait for each other in ggml for seconds. */
    const int runs = om_n_threads(NULL) < 3 ? 2 : 3;
    for (int n = 0; n < runs; n++) {
        om_error err = { 0 };
        open_window(&w[n], path);
        assert_int_equal(run(&w[n], path, n + 1, &err), OM_OK);
        assert_true(memcmp(&w[n].loss, &w[0].loss, sizeof w[n].loss) == 0);
        for (int i = 0; i < w[0].f->n_weights; i++) {
            const om_fisher_weight *a = &w[0].f->weights[i], *b = &w[n].f->weights[i];
            const size_t experts = (size_t) a->experts;
            const size_t rows = experts * (size_t) a->n_out, cols = experts * (size_t) a->n_in;
            assert_memory_equal(a->count, b->count, experts * sizeof *a->count);
            assert_memory_equal(a->rows, b->rows, rows * sizeof *a->rows);
            assert_memory_equal(a->cols, b->cols, cols * sizeof *a->cols);
            assert_memory_equal(a->in_sum2, b->in_sum2, cols * sizeof *a->in_sum2);
            assert_memory_equal(a->seen, b->seen, (size_t) a->n_out * sizeof *a->seen);
            assert_memory_equal(w[0].gradients[i], w[n].gradients[i],
                                (size_t) size_of(a) * sizeof(float));
        }
    }
    for (int n = 0; n < runs; n++) {
        close_window(&w[n]);
    }
}

static void test_threads(void **state) {
    (void) state;
    om_tiny_options o = small("llama");
    o.type = GGML_TYPE_BF16;
    o.n_layer = 1;
    check_threads(&o);
    o.n_expert = 4;
    check_threads(&o);
}

/* ---- refusals ---- */

static void test_bad_labels(void **state) {
    (void) state;
    const om_tiny_options o = small("llama");
    const char *path = om_tmpdir_path(dir, "labels.gguf");
    om_tiny_model_write_with(path, &o);
    window w;
    open_window(&w, path);
    const om_env env = { .n_threads = 1 };
    const int32_t bad[] = { -1, 288 };
    for (int k = 0; k < 2; k++) {
        int32_t tokens[T], labels[T];
        fill_window(tokens, labels);
        labels[T - 1] = bad[k];
        om_error err = { 0 };
        assert_int_equal(om_pass_one(w.f, NULL, NULL, tokens, labels, T, path, 0, &env, &err),
                         OM_E_ARG);
        labels[T - 1] = 0;
        tokens[0] = bad[k];
        om_error err2 = { 0 };
        assert_true(om_pass_one(w.f, NULL, NULL, tokens, labels, T, path, 0, &env, &err2) != OM_OK);
    }
    close_window(&w);
}

static int make_dir(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    llama_log_set(silent, NULL);
    return 0;
}

static int remove_dir(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),    cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),    cmocka_unit_test(test_gemma2),
        cmocka_unit_test(test_gemma3),   cmocka_unit_test(test_phi3),
        cmocka_unit_test(test_mixtral),  cmocka_unit_test(test_qwen3moe),
        cmocka_unit_test(test_qwen2moe), cmocka_unit_test(test_olmoe),
        cmocka_unit_test(test_gpt_oss),  cmocka_unit_test(test_dots1),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_bad_labels),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
