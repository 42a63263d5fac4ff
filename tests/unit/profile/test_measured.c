/* The measured method against the plain definition: write a file with one tensor dequantized, run
 * both files, sum the divergences in double. And: the same bytes after an interruption. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>

#include "base/file.h"
#include "base/mem.h"
#include "eval/runtime.h"
#include "model/gguf.h"
#include "model/tokens.h"
#include "optimum.h"
#include "profile/profile.h"
#include "profile/stats.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { T = 24, WINDOWS = 2 };

static char *dir;

static const char *path(const char *name) {
    return om_tmpdir_path(dir, name);
}

static int set_up(void **state) {
    (void) state;
    char text[600];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char) ("the quick brown fox. "[i * 31 % 127 % 21]);
    }
    dir = om_tmpdir_new();
    om_tmpdir_write(dir, "text.txt", text, sizeof text);
    om_tiny_model_write(path("model.gguf"), "llama", GGML_TYPE_F32);
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static om_status run_profile(const char *out, const om_env *env, om_error *err) {
    const char *calib[] = { path("text.txt") };
    om_profile_options o = { .model = path("model.gguf"),
                             .calib = calib,
                             .n_calib = 1,
                             .out = out,
                             .method = "measured",
                             .types = "q4_0,q3_K",
                             .n_windows = WINDOWS,
                             .window_tokens = T };
    om_result result = { 0 };
    om_status status = om_profile_run(&result, &o, env, err);
    om_result_release(&result);
    return status;
}

/* model.gguf with one tensor quantized to `format` and dequantized again. */
static void write_changed(const char *to, const char *name, const om_format *format,
                          const om_stats *stats) {
    om_error err = { 0 };
    om_model *model = NULL;
    char *bytes = NULL;
    size_t size;
    assert_int_equal(om_model_open(&model, path("model.gguf"), &err), OM_OK);
    assert_int_equal(om_file_read(&bytes, &size, path("model.gguf"), 1 << 28, &err), OM_OK);
    const om_tensor *t = om_model_find(model, name);
    const int64_t n = t->ne[0], rows = om_tensor_n_rows(t);
    float *importance = calloc((size_t) n, sizeof *importance);
    void *packed = malloc((size_t) om_format_size(format, n, rows));
    float *weights = (float *) (void *) (bytes + (t->data - om_model_split_map(model, 0)->data));
    const om_tensor_stats *ts = om_stats_find(stats, name); /* none for an embedding */
    const bool has = ts && om_stats_importance(importance, ts, 0);
    const enum ggml_type type = (enum ggml_type) format->ggml_type;
    ggml_quantize_init(type);
    ggml_quantize_chunk(type, weights, packed, 0, rows, n, has ? importance : NULL);
    ggml_get_type_traits(type)->to_float(packed, weights, n * rows);
    assert_int_equal(om_file_write(to, bytes, size, &err), OM_OK);
    free(packed);
    free(importance);
    om_free(bytes);
    om_model_free(model);
}

static double row_divergence(const float *a, const float *b, int n) {
    double za = 0, zb = 0, ma = -HUGE_VAL, mb = -HUGE_VAL, sum = 0;
    for (int i = 0; i < n; i++) {
        ma = fmax(ma, (double) a[i]);
        mb = fmax(mb, (double) b[i]);
    }
    for (int i = 0; i < n; i++) {
        za += exp((double) a[i] - ma);
        zb += exp((double) b[i] - mb);
    }
    for (int i = 0; i < n; i++) {
        const double la = (double) a[i] - ma - log(za), lb = (double) b[i] - mb - log(zb);
        sum += exp(la) * (la - lb);
    }
    return sum;
}

static double divergence(const char *changed, const om_windows *w) {
    const om_runtime_options o = { .n_ctx = T, .f32_kv = true };
    const om_env env = { .n_threads = 1 };
    om_error err = { 0 };
    om_runtime *a = NULL, *b = NULL;
    double sum = 0;
    assert_int_equal(om_runtime_open(&a, path("model.gguf"), &o, &env, &err), OM_OK);
    assert_int_equal(om_runtime_open(&b, changed, &o, &env, &err), OM_OK);
    for (int i = 0; i < w->n_windows; i++) {
        assert_int_equal(om_runtime_decode(a, w->tokens + i * T, T, 0, 0, &err), OM_OK);
        assert_int_equal(om_runtime_decode(b, w->tokens + i * T, T, 0, 0, &err), OM_OK);
        for (int t = 0; t < T; t++) {
            sum += row_divergence(om_runtime_logits(a) + t * w->n_vocab,
                                  om_runtime_logits(b) + t * w->n_vocab, w->n_vocab);
        }
    }
    om_runtime_free(a);
    om_runtime_free(b);
    return sum / (T * w->n_windows);
}

static void test_equals_definition(void **state) {
    (void) state;
    const om_env env = { .n_threads = 1 };
    const char *texts[] = { path("text.txt") },
               *names[] = { "blk.0.attn_v.weight", "blk.1.ffn_down.weight", "token_embd.weight",
                            "output.weight" };
    const char *types[] = { "q4_0", "q3_K" };
    om_error err = { 0 };
    om_profile *p = NULL;
    om_stats *stats = NULL;
    om_windows w = { 0 };
    assert_int_equal(run_profile(path("p.json"), &env, &err), OM_OK);
    assert_int_equal(om_profile_read(&p, path("p.json"), &err), OM_OK);
    assert_int_equal(om_stats_read(&stats, path("p.stats.gguf"), &err), OM_OK);
    assert_int_equal(om_windows_read(&w, path("model.gguf"), texts, 1, T, 0, &env, &err), OM_OK);
    assert_string_equal(p->method, "measured");
    /* the profile spreads its windows over the text */
    for (int i = 0; i < WINDOWS; i++) {
        memmove(w.tokens + i * T, w.tokens + i * w.n_windows / WINDOWS * T, T * sizeof *w.tokens);
    }
    w.n_windows = WINDOWS;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const om_format *format = om_format_by_name(types[i % 2]);
        write_changed(path("changed.gguf"), names[i], format, stats);
        const double truth = divergence(path("changed.gguf"), &w);
        for (int u = 0; u < p->n_units; u++) {
            if (strcmp(p->units[u].name, names[i]) == 0) {
                const double nats = om_unit_choice(&p->units[u], format)->nats;
                assert_true(truth > 1e-6);
                assert_true(fabs(nats - truth) < 1e-3 * truth + 1e-8);
            }
        }
    }
    om_windows_release(&w);
    om_stats_free(stats);
    om_profile_free(p);
}

/* Cancels at the n-th report of a measured candidate. */
typedef struct stopper {
    int left;
    bool stop;
} stopper;

static void count_progress(void *ud, const char *stage, double done, double total,
                           const char *unit) {
    (void) done, (void) total, (void) unit;
    stopper *s = ud;
    if (strcmp(stage, "measure") == 0 && --s->left == 0) {
        s->stop = true;
    }
}

static bool is_cancelled(void *ud) {
    return ((stopper *) ud)->stop;
}

static void test_resumes(void **state) {
    (void) state;
    const om_env calm = { .n_threads = 1 };
    stopper s = { .left = 45 }; /* 15 tensors × 2 types a window: in the middle of the second */
    const om_env env = {
        .progress = count_progress, .cancelled = is_cancelled, .ud = &s, .n_threads = 1
    };
    om_error err = { 0 };
    char a[65], b[65];
    assert_int_equal(run_profile(path("whole.json"), &calm, &err), OM_OK);
    assert_int_equal(run_profile(path("part.json"), &env, &err), OM_E_CANCELLED);
    assert_false(om_file_exists(path("part.json")));
    assert_true(om_file_exists(path("part.checkpoint")));
    assert_int_equal(om_tmpdir_count(dir, ".cache"), 0);
    assert_int_equal(run_profile(path("part.json"), &calm, &err), OM_OK);
    assert_false(om_file_exists(path("part.checkpoint")));
    assert_int_equal(om_sha256_file(a, path("whole.stats.gguf"), NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(b, path("part.stats.gguf"), NULL, &err), OM_OK);
    assert_string_equal(a, b);
    om_profile *p = NULL, *q = NULL;
    assert_int_equal(om_profile_read(&p, path("whole.json"), &err), OM_OK);
    assert_int_equal(om_profile_read(&q, path("part.json"), &err), OM_OK);
    for (int u = 0; u < p->n_units; u++) {
        for (int k = 0; k < p->units[u].n_choices; k++) {
            assert_true(p->units[u].choices[k].nats == q->units[u].choices[k].nats);
        }
    }
    om_profile_free(p);
    om_profile_free(q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_definition),
        cmocka_unit_test(test_resumes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
