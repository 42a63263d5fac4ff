/* The whole pipeline on a tiny model: what it leaves and what it keeps. Slow for a unit test (tens
 * of seconds): the profile tries every type, and the judge times the model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "run/job.h"
#include "tiny_model.h"
#include "tmpdir.h"

/* ---- environment that remembers the log ---- */

typedef struct recorder {
    char log[32768];
    int cancel_after;      /* polls until cancelled; 0 never */
    const char *cancel_at; /* cancel when this was logged */
} recorder;

static void record(void *ud, om_log_level level, const char *line) {
    recorder *r = ud;
    if (level != OM_LOG_DEBUG) {
        const size_t n = strlen(r->log);
        (void) snprintf(r->log + n, sizeof r->log - n, "%s\n", line);
    }
}

static bool cancelled(void *ud) {
    const recorder *r = ud;
    return r->cancel_at && strstr(r->log, r->cancel_at);
}

static om_env env_of(recorder *r) {
    return (om_env){ .log = record, .cancelled = cancelled, .ud = r, .n_threads = 2 };
}

/* ---- fixture ---- */

typedef struct fixture {
    char *dir;
    char model[256], calib[256], out[256];
    const char *calibs[1];
    om_run_options options;
} fixture;

static int setup(void **state) {
    static fixture f;
    char text[12000];
    size_t n = 0;
    memset(&f, 0, sizeof f);
    f.dir = om_tmpdir_new();
    (void) snprintf(f.model, sizeof f.model, "%s", om_tmpdir_path(f.dir, "tiny-f32.gguf"));
    (void) snprintf(f.out, sizeof f.out, "%s", om_tmpdir_path(f.dir, "out"));
    /* As small as K-quants allow: the profile tries every type on every matrix. */
    om_tiny_model_write_with(
        f.model, &(om_tiny_options){ .n_layer = 1, .n_ff = 256, .n_vocab = 288, .n_head = 4 });
    for (int i = 0; n < sizeof text - 64; i++) {
        n += (size_t) snprintf(text + n, 64, "Line %d of a text that repeats %d.\n", i, i * i % 97);
    }
    (void) snprintf(f.calib, sizeof f.calib, "%s", om_tmpdir_write(f.dir, "calib.txt", text, n));
    f.calibs[0] = f.calib;
    f.options = (om_run_options){ .model = f.model,
                                  .budget = { .kind = OM_BUDGET_BPW, .bpw = 6 },
                                  .calib = f.calibs,
                                  .n_calib = 1,
                                  .out_dir = f.out,
                                  .n_windows = 4,
                                  .window_tokens = 64,
                                  .n_eval_chunks = 1,
                                  .seed = 7 };
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    om_tmpdir_remove(f->dir);
    return 0;
}

static bool has(const fixture *f, const char *name) {
    char *path = om_path_join(f->out, name);
    const bool there = om_file_exists(path);
    om_free(path);
    return there;
}

static om_status run(om_result *r, const om_run_options *o, recorder *rec, om_error *err) {
    const om_env env = env_of(rec);
    const om_status status = om_run(r, o, &env, err);
    if (status != OM_OK && status != OM_E_CANCELLED) {
        print_message("%s: %s\n", err->where, err->text);
    }
    return status;
}

/* ---- tests ---- */

/* One model, one folder, one profile: each part continues from the one before it. */

static void check_files(const fixture *f) {
    static const char *const names[] = { "run.json",     "calib.txt",          "eval.txt",
                                         "profile.json", "profile.stats.gguf", "allocation.json",
                                         "curve.json",   "eval.json",          "report.html" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!has(f, names[i])) {
            fail_msg("no %s", names[i]);
        }
    }
    /* Baselines leave their judgement, not their files. */
    assert_true(om_tmpdir_count(f->out, "baseline-") >= 1);
    assert_int_equal(om_tmpdir_count(f->out, "baseline-"), om_tmpdir_count(f->out, ".eval.json"));
    assert_int_equal(om_tmpdir_count(f->out, ".tmp."), 0);
}

/* The file is within the budget, carries its measurement, and is what eval.json is about. */
static void check_file(const fixture *f) {
    om_evaluation *e = NULL;
    om_allocation *a = NULL;
    om_model *m = NULL;
    om_error err = { 0 };
    char sha256[65];
    char *eval = om_path_join(f->out, "eval.json"),
         *alloc = om_path_join(f->out, "allocation.json");
    assert_int_equal(om_evaluation_read(&e, eval, &err), OM_OK);
    assert_int_equal(om_allocation_read(&a, alloc, &err), OM_OK);
    assert_true(a->bytes <= a->budget_bytes);
    assert_int_equal(om_file_size(e->model_path), a->bytes);
    assert_int_equal(om_sha256_file(sha256, e->model_path, NULL, &err), OM_OK);
    assert_string_equal(e->model_sha256, sha256);
    assert_string_equal(e->label, "optimal");
    assert_int_equal(om_model_open(&m, e->model_path, &err), OM_OK);
    assert_true(om_model_f64(m, "optimum.measured_kld", -1) == e->kld_mean);
    om_model_free(m);
    om_evaluation_free(e);
    om_allocation_free(a);
    om_free(eval);
    om_free(alloc);
}

/* The same types and bytes, but not the allocation that the file was made from. */
static void check_report_of_another_allocation(const fixture *f) {
    om_result r = { 0 };
    om_error err = { 0 };
    const om_env env = { 0 };
    char *alloc = om_path_join(f->out, "allocation.json"),
         *eval = om_path_join(f->out, "eval.json"), *profile = om_path_join(f->out, "profile.json"),
         *html = om_path_join(f->out, "x.html"), *text = NULL;
    size_t n = 0;
    const om_report_options o = {
        .profile = profile, .allocation = alloc, .eval = eval, .out = html
    };
    assert_int_equal(om_report(&r, &o, &env, &err), OM_OK);
    om_result_release(&r);
    assert_int_equal(om_file_read(&text, &n, alloc, 1 << 20, &err), OM_OK);
    text[n] = '\n';
    assert_int_equal(om_file_write(alloc, text, n + 1, &err), OM_OK);
    assert_int_equal(om_report(&r, &o, &env, &err), OM_E_MISMATCH);
    assert_non_null(strstr(err.text, "another allocation"));
    om_free(alloc);
    om_free(eval);
    om_free(profile);
    om_free(html);
    om_free(text);
}

static void cancel_resume_repeat_change(void **state) {
    fixture *f = *state;
    om_result first = { 0 }, again = { 0 };
    om_error err = { 0 };

    recorder stop = { .log = "", .cancel_at = "\nquantize\n" };
    assert_int_equal(run(&first, &f->options, &stop, &err), OM_E_CANCELLED);
    assert_null(first.text);
    assert_true(has(f, "allocation.json"));
    assert_int_equal(om_tmpdir_count(f->out, "opt-"), 0);
    assert_int_equal(om_tmpdir_count(f->out, ".tmp."), 0);

    recorder resume = { .log = "" };
    assert_int_equal(run(&first, &f->options, &resume, &err), OM_OK);
    assert_non_null(strstr(resume.log, "profile: kept"));
    assert_non_null(strstr(resume.log, "allocate: kept"));
    assert_non_null(strstr(resume.log, "\nquantize\n"));
    assert_non_null(strstr(first.text, "tiny-opt-"));
    assert_non_null(strstr(first.text, "llama-server -m "));
    assert_non_null(strstr(first.text, "most likely token"));
    check_files(f);
    check_file(f);

    recorder repeat = { .log = "" };
    assert_int_equal(run(&again, &f->options, &repeat, &err), OM_OK);
    assert_string_equal(again.text, first.text);
    assert_non_null(strstr(repeat.log, "quantize: kept"));
    assert_non_null(strstr(repeat.log, "eval: kept"));
    om_result_release(&again);

    /* With another budget the profile stays, the rest is new. */
    f->options.budget.bpw = 7;
    f->options.no_baselines = true;
    recorder change = { .log = "" };
    assert_int_equal(run(&again, &f->options, &change, &err), OM_OK);
    assert_non_null(strstr(change.log, "profile: kept"));
    assert_non_null(strstr(change.log, "\nallocate\n"));
    assert_non_null(strstr(change.log, "sweep: kept"));
    assert_non_null(strstr(change.log, "\nquantize\n"));
    assert_null(strstr(change.log, "eval: kept"));
    check_file(f);
    check_report_of_another_allocation(f);
    om_result_release(&again);
    om_result_release(&first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cancel_resume_repeat_change, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
