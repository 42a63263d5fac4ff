/* The reference, running and stored, and judging against it, on tiny random models. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "eval/judge.h"
#include "eval/reference.h"
#include "eval/refile.h"
#include "eval/runtime.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { N_CTX = 40, N_CHUNKS = 3 };

static char *dir;
static const om_env env = { .n_threads = 1 };

static const char *path(const char *name) {
    return om_tmpdir_path(dir, name);
}

static int set_up(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    char text[4000];
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char) ("etaoin shrdlu, cmf."[i * 7919 % 6007 % 19]);
    }
    om_tmpdir_write(dir, "text.txt", text, sizeof(text));
    om_tmpdir_write(dir, "other.txt", text, sizeof(text) - 1);
    om_tmpdir_write(dir, "short.txt", text, 5);
    om_tiny_model_write(path("f32.gguf"), "llama", GGML_TYPE_F32);
    om_tiny_model_write(path("q4.gguf"), "llama", GGML_TYPE_Q4_K);
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static om_reference_options reference_options(const char *file, const char *text) {
    return (om_reference_options){
        .path = path(file), .text = path(text), .n_ctx = N_CTX, .n_chunks = N_CHUNKS
    };
}

static om_reference *open_reference(const om_reference_options *o) {
    om_reference *ref = NULL;
    om_error err = { 0 };
    if (om_reference_open(&ref, o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return ref;
}

static void write_reference(const char *model, const char *file) {
    om_reference_options o = reference_options(model, "text.txt");
    om_error err = { 0 };
    bool refused = true;
    char why[256];
    o.hidden = true;
    om_reference *ref = open_reference(&o);
    if (om_reference_write(&refused, why, ref, path(file), &env, &err) != OM_OK || refused) {
        fail_msg("%s %s", err.text, why);
    }
    om_reference_free(ref);
}

static om_evaluation judge(om_reference *ref, const char *model, const om_judge_options *o) {
    om_evaluation e;
    om_error err = { 0 };
    if (om_judge(&e, ref, path(model), o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return e;
}

static void model_against_itself_is_zero(void **state) {
    (void) state;
    const om_judge_options plain = { 0 }, exact = { .exact = true };
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    om_reference *ref = open_reference(&o);
    om_evaluation e = judge(ref, "f32.gguf", &plain);
    assert_true(e.kld_mean == 0.0 && e.kld_max == 0.0 && e.top1_agreement == 1.0);
    assert_true(e.ppl == e.ppl_reference && e.ppl > 1.0);
    assert_int_equal(e.tokens, N_CHUNKS * (N_CTX - 1));
    assert_int_equal(strlen(e.model_sha256), 64);
    assert_string_equal(e.model_sha256, e.reference_sha256);
    assert_int_equal(e.file_bytes, om_file_size(path("f32.gguf")));
    om_reference_free(ref);
    o.exact = true;
    ref = open_reference(&o);
    e = judge(ref, "f32.gguf", &exact);
    assert_true(e.kld_max == 0.0);
    om_reference_free(ref);
}

/* llama, untied and tied; a bias; soft cap; an architecture of experts. */
static void stored_reference_gives_the_running_numbers(void **state) {
    (void) state;
    const om_tiny_options kinds[] = {
        { .arch = "llama" },  { .arch = "llama", .tied = true, .type = GGML_TYPE_BF16 },
        { .arch = "qwen2" },  { .arch = "gemma2", .type = GGML_TYPE_F16 },
        { .arch = "gemma3" }, { .arch = "qwen3moe", .no_bos = true },
    };
    const om_judge_options all = { 0 }, half = { .score = "second-half" };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        om_tiny_options coarse = kinds[i];
        coarse.type = GGML_TYPE_Q4_0;
        om_tiny_model_write_with(path("a.gguf"), &kinds[i]);
        om_tiny_model_write_with(path("b.gguf"), &coarse);
        write_reference("a.gguf", "a.ref");
        om_reference_options o = reference_options("a.gguf", "text.txt");
        om_reference *running = open_reference(&o);
        o.path = path("a.ref");
        o.text = NULL;
        om_reference *stored = open_reference(&o);
        assert_true(om_reference_is_file(stored) && !om_reference_is_file(running));
        om_evaluation a = judge(running, "b.gguf", &all), b = judge(stored, "b.gguf", &all);
        if (!(a.kld_mean > 1e-9)) {
            fail_msg("%s: KLD %g", kinds[i].arch, a.kld_mean);
        }
        assert_true(fabs(a.kld_mean - b.kld_mean) <= 1e-5 * a.kld_mean);
        assert_true(fabs(a.ppl_reference - b.ppl_reference) < 1e-5 * a.ppl_reference);
        assert_true(a.ppl == b.ppl);
        assert_string_equal(a.reference_sha256, b.reference_sha256);
        assert_string_equal(a.text_sha256, b.text_sha256);
        a = judge(running, "b.gguf", &half);
        b = judge(stored, "b.gguf", &half);
        assert_int_equal(a.tokens, N_CHUNKS * (N_CTX - N_CTX / 2 - 1));
        assert_true(fabs(a.kld_mean - b.kld_mean) <= 1e-5 * a.kld_mean);
        om_reference_free(running);
        om_reference_free(stored);
    }
}

static void softmax_row(double *p, const float *row, int n) {
    double peak = (double) row[0], sum = 0.0;
    for (int i = 1; i < n; i++) {
        peak = fmax(peak, (double) row[i]);
    }
    for (int i = 0; i < n; i++) {
        sum += p[i] = exp((double) row[i] - peak);
    }
    for (int i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

/* Straight from the definition, one token at a time, in double. */
static void numbers_follow_the_definition(void **state) {
    (void) state;
    const om_judge_options o = { .score = "second-half", .exact = true };
    om_reference_options ro = reference_options("f32.gguf", "text.txt");
    ro.exact = true;
    om_reference *ref = open_reference(&ro);
    const om_evaluation e = judge(ref, "q4.gguf", &o);
    const om_windows *w = om_reference_windows(ref);
    const int n_vocab = w->n_vocab;
    double *p = om_calloc((size_t) n_vocab, sizeof(double));
    double *q = om_calloc((size_t) n_vocab, sizeof(double));
    om_runtime *rt[2] = { NULL, NULL };
    const om_runtime_options run = { .n_ctx = N_CTX, .f32_kv = true };
    om_error err = { 0 };
    assert_int_equal(om_runtime_open(&rt[0], path("f32.gguf"), &run, &env, &err), OM_OK);
    assert_int_equal(om_runtime_open(&rt[1], path("q4.gguf"), &run, &env, &err), OM_OK);
    double kld = 0.0, nll = 0.0;
    int tokens = 0;
    for (int i = 0; i < N_CHUNKS; i++) {
        for (int t = 0; t < N_CTX - 1; t++) {
            const int32_t *token = w->tokens + i * N_CTX + t;
            assert_int_equal(om_runtime_decode(rt[0], token, 1, t, 0, &err), OM_OK);
            assert_int_equal(om_runtime_decode(rt[1], token, 1, t, 0, &err), OM_OK);
            if (t < N_CTX / 2) {
                continue;
            }
            softmax_row(p, om_runtime_logits(rt[0]), n_vocab);
            softmax_row(q, om_runtime_logits(rt[1]), n_vocab);
            for (int v = 0; v < n_vocab; v++) {
                kld += p[v] * log(p[v] / q[v]);
            }
            nll -= log(q[token[1]]);
            tokens++;
        }
    }
    assert_int_equal(tokens, e.tokens);
    /* one token at a time runs other kernels than a block: not to the last digit */
    assert_true(fabs(e.kld_mean - kld / tokens) < 0.02 * e.kld_mean);
    assert_true(fabs(log(e.ppl) - nll / tokens) < 2e-3);
    om_runtime_free(rt[0]);
    om_runtime_free(rt[1]);
    om_free(p);
    om_free(q);
    om_reference_free(ref);
}

static void long_windows_are_cut_into_blocks(void **state) {
    (void) state;
    const om_judge_options o = { .score = "second-half" };
    om_reference_options ro = reference_options("f32.gguf", "text.txt");
    ro.n_ctx = 1300; /* blocks of 512, 512, 275 */
    ro.n_chunks = 1;
    ro.hidden = true;
    om_reference *ref = open_reference(&ro);
    const om_evaluation a = judge(ref, "q4.gguf", &o);
    bool refused;
    char why[256];
    om_error err = { 0 };
    assert_int_equal(om_reference_write(&refused, why, ref, path("long.ref"), &env, &err), OM_OK);
    assert_false(refused);
    om_reference_free(ref);
    ro.path = path("long.ref");
    ref = open_reference(&ro);
    const om_evaluation b = judge(ref, "q4.gguf", &o);
    assert_int_equal(a.tokens, 1300 - 650 - 1);
    assert_true(fabs(a.kld_mean - b.kld_mean) <= 1e-5 * a.kld_mean);
    om_reference_free(ref);
}

static void kept_logits_change_nothing(void **state) {
    (void) state;
    const om_judge_options all = { .no_hash = true };
    const om_judge_options half = { .score = "second-half", .no_hash = true };
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    o.no_hash = true;
    om_reference *plain = open_reference(&o);
    o.keep_bytes = 1 << 28;
    om_reference *keeping = open_reference(&o);
    const om_evaluation want = judge(plain, "q4.gguf", &all);
    const om_evaluation want_half = judge(plain, "q4.gguf", &half);
    const om_judge_options *order[] = { &half, &half, &all, &half, &all };
    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++) {
        const om_evaluation got = judge(keeping, "q4.gguf", order[i]);
        const om_evaluation *w = order[i] == &all ? &want : &want_half;
        assert_true(got.kld_mean == w->kld_mean && got.ppl_reference == w->ppl_reference);
    }
    om_reference_free(plain);
    om_reference_free(keeping);
}

/* ---- what must be refused ---- */

static void expect_judge(om_reference *ref, const char *model, const char *score, om_status want) {
    om_evaluation e;
    om_error err = { 0 };
    const om_judge_options o = { .score = score };
    const om_status got = om_judge(&e, ref, path(model), &o, &env, &err);
    if (got != want || err.status != want || err.text[0] == '\0') {
        fail_msg("got %d, want %d: %s", got, want, err.text);
    }
}

static void expect_open(const om_reference_options *o, om_status want) {
    om_reference *ref = NULL;
    om_error err = { 0 };
    const om_status got = om_reference_open(&ref, o, &env, &err);
    if (got != want || ref != NULL || err.text[0] == '\0') {
        fail_msg("got %d, want %d: %s", got, want, err.text);
    }
}

static void files_that_do_not_fit_are_refused(void **state) {
    (void) state;
    om_tiny_model_write_with(path("vocab.gguf"), &(om_tiny_options){ .n_vocab = 300 });
    om_tiny_model_write_with(path("nobos.gguf"), &(om_tiny_options){ .no_bos = true });
    write_reference("f32.gguf", "fit.ref");
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    om_reference *ref = open_reference(&o);
    expect_judge(ref, "vocab.gguf", NULL, OM_E_MISMATCH);
    expect_judge(ref, "nobos.gguf", NULL, OM_E_MISMATCH);
    expect_judge(ref, "f32.gguf", "first-half", OM_E_ARG);
    expect_judge(ref, "absent.gguf", NULL, OM_E_IO);
    expect_judge(ref, "text.txt", NULL, OM_E_FORMAT);
    om_reference_free(ref);

    o.text = path("short.txt");
    expect_open(&o, OM_E_ARG);
    o.text = NULL;
    expect_open(&o, OM_E_ARG);
    o = reference_options("fit.ref", "other.txt");
    expect_open(&o, OM_E_MISMATCH);
    o = reference_options("fit.ref", "text.txt");
    o.n_ctx = N_CTX + 1;
    expect_open(&o, OM_E_ARG);
    o = reference_options("fit.ref", "text.txt");
    o.n_chunks = N_CHUNKS + 1;
    expect_open(&o, OM_E_ARG);
    o = reference_options("absent.gguf", "text.txt");
    expect_open(&o, OM_E_IO);
}

static void not_finite_is_named(void **state) {
    (void) state;
    size_t size;
    char *bytes;
    om_error err = { 0 };
    assert_int_equal(om_file_read(&bytes, &size, path("f32.gguf"), 1 << 28, &err), OM_OK);
    const float nan_value = NAN;
    memcpy(bytes + size - 64, &nan_value, sizeof(nan_value)); /* inside the last tensor */
    om_tmpdir_write(dir, "nan.gguf", bytes, size);
    om_free(bytes);
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    om_reference *ref = open_reference(&o);
    om_evaluation e;
    const om_judge_options jo = { 0 };
    assert_int_equal(om_judge(&e, ref, path("nan.gguf"), &jo, &env, &err), OM_E_NUMERIC);
    assert_non_null(strstr(err.text, "the model"));
    assert_non_null(strstr(err.text, "window 1 at position"));
    om_reference_free(ref);
}

static bool always(void *ud) {
    (void) ud;
    return true;
}

static void cancelling_stops(void **state) {
    (void) state;
    const om_env stop = { .n_threads = 1, .cancelled = always };
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    om_reference *ref = open_reference(&o);
    om_evaluation e;
    om_error err = { 0 };
    const om_judge_options jo = { .no_hash = true };
    assert_int_equal(om_judge(&e, ref, path("q4.gguf"), &jo, &stop, &err), OM_E_CANCELLED);
    om_reference_free(ref);
    o.hidden = true;
    ref = open_reference(&o);
    bool refused;
    char why[256];
    err = (om_error){ 0 };
    assert_int_equal(om_reference_write(&refused, why, ref, path("never.ref"), &stop, &err),
                     OM_E_CANCELLED);
    assert_int_equal(om_tmpdir_count(dir, "never"), 0);
    om_reference_free(ref);
}

/* ---- damaged reference files ---- */

static om_status open_bytes(const char *bytes, size_t size) {
    om_refile f = { 0 };
    om_error err = { 0 };
    om_tmpdir_write(dir, "hostile.ref", bytes, size);
    const om_status status = om_refile_open(&f, path("hostile.ref"), &err);
    if (status == OM_OK) {
        const om_refile_header *h = &f.header;
        volatile float sum = om_refile_hidden(&f, h->n_windows - 1, h->n_ctx - 2)[h->n_embd - 1];
        (void) sum; /* the last value is inside of the mapping */
    } else {
        assert_true(err.text[0] != '\0');
    }
    om_refile_close(&f);
    return status;
}

static void damaged_reference_files_are_refused(void **state) {
    (void) state;
    size_t size;
    char *bytes;
    om_error err = { 0 };
    write_reference("f32.gguf", "good.ref");
    assert_int_equal(om_file_read(&bytes, &size, path("good.ref"), 1 << 28, &err), OM_OK);
    assert_int_equal(open_bytes(bytes, size), OM_OK);
    const size_t cuts[] = { 0, 4, 8, 100, 511, 512, 600, 4096, size / 2, size - 1 };
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
        assert_int_equal(open_bytes(bytes, cuts[i]), OM_E_FORMAT);
    }
    for (size_t at = 0; at < 192; at++) {
        const char old = bytes[at];
        for (int k = 0; k < 3; k++) {
            bytes[at] = (char) (k == 0 ? 0xFF : k == 1 ? 0x80 : old ^ 1);
            const om_status status = open_bytes(bytes, size);
            assert_true(status == OM_OK || status == OM_E_FORMAT);
            if (at < 36 && bytes[at] != old && at != 12) {
                assert_int_equal(status, OM_E_FORMAT);
            }
        }
        bytes[at] = old;
    }
    bytes[512 + 3] = 0x7F; /* a token far outside of the vocabulary */
    assert_int_equal(open_bytes(bytes, size), OM_E_FORMAT);
    om_free(bytes);
}

/* ---- the verb and its file ---- */

static void evaluation_survives_the_file(void **state) {
    (void) state;
    om_evaluation e = { .n_ctx = 512,
                        .n_chunks = 40,
                        .tokens = 20440,
                        .ppl = 6.25,
                        .ppl_stderr = 0.125,
                        .ppl_reference = 6.0,
                        .kld_mean = 1.0 / 3,
                        .kld_stderr = 1e-300,
                        .kld_median = 0.1,
                        .kld_p99 = 2.0,
                        .kld_max = 9.5,
                        .top1_agreement = 0.75,
                        .file_bytes = INT64_C(1) << 40,
                        .bpw = 4.05,
                        .prefill_tok_s = 100,
                        .decode_tok_s = 10,
                        .ttft_s = 0.5,
                        .peak_memory_bytes = 12345 };
    snprintf(e.model_path, sizeof(e.model_path), "m \"quoted\" \xC3\xA9.gguf");
    snprintf(e.label, sizeof(e.label), "preset:Q4_K_M");
    snprintf(e.score, sizeof(e.score), "all");
    snprintf(e.device, sizeof(e.device), "CPU");
    snprintf(e.runtime, sizeof(e.runtime), "mlx_lm 0.32.2");
    e.probe_tokens = 300;
    e.probe_ppl = 7.0;
    e.probe_ppl_runtime = 7.25;
    om_evaluation *back = NULL;
    om_error err = { 0 };
    for (int c = 0; c < OM_CONTAINER_COUNT; c++) {
        e.container = (om_container) c;
        assert_int_equal(om_evaluation_write(&e, path("e.json"), &err), OM_OK);
        assert_int_equal(om_evaluation_read(&back, path("e.json"), &err), OM_OK);
        assert_memory_equal(back, &e, sizeof(e));
        om_evaluation_free(back);
    }
    /* a directory that was not timed has no speed, and is read without */
    e.prefill_tok_s = e.decode_tok_s = e.ttft_s = 0.0;
    memset(e.runtime, 0, sizeof(e.runtime));
    memset(e.device, 0, sizeof(e.device));
    assert_int_equal(om_evaluation_write(&e, path("e.json"), &err), OM_OK);
    assert_int_equal(om_evaluation_read(&back, path("e.json"), &err), OM_OK);
    assert_memory_equal(back, &e, sizeof(e));
    om_evaluation_free(back);
    back = NULL;
    char *text;
    size_t n;
    assert_int_equal(om_file_read(&text, &n, path("e.json"), 1 << 20, &err), OM_OK);
    assert_null(strstr(text, "\"speed\""));
    char *container = strstr(text, "\"mlx\"");
    assert_non_null(container);
    memcpy(container, "\"mlz\"", 5);
    assert_int_equal(om_evaluation_parse(&back, text, n, "e", &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "mlz"));
    om_free(text);

    const char *bad[] = { "{}",
                          "[]",
                          "",
                          "{\"schema\":\"optimum.eval/1\"}",
                          "{\"schema\":\"optimum.eval/2\"}",
                          "{\"schema\":\"optimum.profile/1\"}" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        om_tmpdir_write(dir, "bad.json", bad[i], strlen(bad[i]));
        back = NULL;
        err = (om_error){ 0 };
        assert_int_equal(om_evaluation_read(&back, path("bad.json"), &err), OM_E_FORMAT);
        assert_null(back);
    }
}

/* The first tokens alone: all of them are the perplexity, fewer are what a shorter text gives. */
static void first_tokens_alone(void **state) {
    (void) state;
    om_reference_options o = reference_options("f32.gguf", "text.txt");
    o.n_chunks = 1;
    om_judge_options jo = { .probe = N_CTX - 1 };
    om_reference *ref = open_reference(&o);
    om_evaluation e = judge(ref, "q4.gguf", &jo);
    assert_int_equal(e.probe_tokens, N_CTX - 1);
    assert_true(fabs(e.probe_ppl - e.ppl) < 1e-6 * e.ppl);
    jo.probe = 9;
    const om_evaluation few = judge(ref, "q4.gguf", &jo);
    jo = (om_judge_options){ .probe = 9, .score = "second-half" };
    assert_int_equal(judge(ref, "q4.gguf", &jo).probe_tokens, 0);
    om_reference_free(ref);
    o.n_ctx = 10;
    ref = open_reference(&o);
    jo = (om_judge_options){ 0 };
    e = judge(ref, "q4.gguf", &jo);
    assert_int_equal(e.probe_tokens, 0);
    assert_true(fabs(few.probe_ppl - e.ppl) < 1e-5 * e.ppl);
    om_reference_free(ref);
}

static void the_verb_writes_what_it_says(void **state) {
    (void) state;
    om_eval_options o = { .model = path("q4.gguf"),
                          .reference = path("f32.gguf"),
                          .reference_out = path("verb.ref"),
                          .text = path("text.txt"),
                          .out = path("verb.json"),
                          .n_ctx = N_CTX,
                          .n_chunks = 2 };
    om_result r = { 0 };
    om_error err = { 0 };
    if (om_eval(&r, &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_non_null(strstr(r.text, "KLD"));
    om_evaluation *e = NULL;
    size_t size;
    char *file;
    assert_int_equal(om_file_read(&file, &size, path("verb.json"), 1 << 20, &err), OM_OK);
    assert_string_equal(file, r.json);
    assert_int_equal(om_evaluation_read(&e, path("verb.json"), &err), OM_OK);
    assert_true(e->kld_mean > 0.0 && e->prefill_tok_s > 0.0 && e->decode_tok_s > 0.0);
    assert_true(om_refile_is(path("verb.ref")));
    om_evaluation_free(e);
    om_free(file);
    om_result_release(&r);

    o = (om_eval_options){ .reference = path("f32.gguf") };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_ARG);
    o = (om_eval_options){ .model = path("q4.gguf") };
    err = (om_error){ 0 };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_against_itself_is_zero),
        cmocka_unit_test(stored_reference_gives_the_running_numbers),
        cmocka_unit_test(numbers_follow_the_definition),
        cmocka_unit_test(long_windows_are_cut_into_blocks),
        cmocka_unit_test(kept_logits_change_nothing),
        cmocka_unit_test(files_that_do_not_fit_are_refused),
        cmocka_unit_test(not_finite_is_named),
        cmocka_unit_test(cancelling_stops),
        cmocka_unit_test(damaged_reference_files_are_refused),
        cmocka_unit_test(evaluation_survives_the_file),
        cmocka_unit_test(first_tokens_alone),
        cmocka_unit_test(the_verb_writes_what_it_says),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
