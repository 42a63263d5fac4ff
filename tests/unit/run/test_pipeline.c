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
#include "run_fixture.h"

static bool has(const fixture *f, const char *name) {
    char *path = om_path_join(f->out, name);
    const bool there = om_file_exists(path);
    om_free(path);
    return there;
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

static int64_t active_bytes(const fixture *f) {
    om_allocation *a = NULL;
    om_error err = { 0 };
    char *alloc = om_path_join(f->out, "allocation.json");
    assert_int_equal(om_allocation_read(&a, alloc, &err), OM_OK);
    const int64_t bytes = a->active_bytes;
    om_allocation_free(a);
    om_free(alloc);
    return bytes;
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

    /* With other limits the profile stays, the rest is new. */
    const int64_t active = active_bytes(f);
    assert_true(active > 0);
    f->options.budget.bpw = 7;
    f->options.max_active_bytes = active + active / 50;
    f->options.no_baselines = true;
    recorder change = { .log = "" };
    assert_int_equal(run(&again, &f->options, &change, &err), OM_OK);
    assert_non_null(strstr(change.log, "profile: kept"));
    assert_non_null(strstr(change.log, "\nallocate\n"));
    assert_non_null(strstr(change.log, "sweep: kept"));
    assert_non_null(strstr(change.log, "\nquantize\n"));
    assert_null(strstr(change.log, "eval: kept"));
    assert_true(active_bytes(f) <= f->options.max_active_bytes);
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
