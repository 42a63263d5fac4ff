/* What run refuses or says before it does any work. test_pipeline.c runs all of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
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

static om_status run(om_result *r, const om_run_options *o, recorder *rec, om_error *err) {
    const om_env env = env_of(rec);
    const om_status status = om_run(r, o, &env, err);
    if (status != OM_OK && status != OM_E_CANCELLED) {
        print_message("%s: %s\n", err->where, err->text);
    }
    return status;
}

/* ---- tests ---- */

static void impossible_budget_costs_nothing(void **state) {
    fixture *f = *state;
    om_result r = { 0 };
    om_error err = { 0 };
    recorder rec = { .log = "" };
    f->options.budget.bpw = 0.5;
    const om_env env = env_of(&rec);
    assert_int_equal(om_run(&r, &f->options, &env, &err), OM_E_INFEASIBLE);
    assert_false(om_file_exists(f->out));
    assert_int_equal(access(f->out, F_OK), -1);
    assert_true(strlen(err.text) > 20);
}

static void dry_run_writes_nothing(void **state) {
    fixture *f = *state;
    om_result r = { 0 };
    om_error err = { 0 };
    recorder rec = { .log = "" };
    f->options.dry_run = true;
    assert_int_equal(run(&r, &f->options, &rec, &err), OM_OK);
    assert_non_null(strstr(r.text, "profile"));
    assert_non_null(strstr(r.text, "disk"));
    assert_int_equal(access(f->out, F_OK), -1);
    om_result_release(&r);
}

static void bad_options_are_refused(void **state) {
    fixture *f = *state;
    om_result r = { 0 };
    om_error err = { 0 };
    const om_env env = { 0 };
    om_run_options o = f->options;
    o.budget.kind = OM_BUDGET_NONE;
    assert_int_equal(om_run(&r, &o, &env, &err), OM_E_ARG);
    o = f->options;
    o.types = "q4_K,q99_Z";
    err = (om_error){ 0 };
    assert_int_equal(om_run(&r, &o, &env, &err), OM_E_ARG);
    o = f->options;
    const char *const pins[] = { "output=nothing" };
    o.pins = pins;
    o.n_pins = 1;
    err = (om_error){ 0 };
    assert_int_equal(om_run(&r, &o, &env, &err), OM_E_ARG);
    o = f->options;
    o.eval_text = "/nowhere/eval.txt";
    err = (om_error){ 0 };
    assert_int_equal(om_run(&r, &o, &env, &err), OM_E_IO);
    assert_int_equal(access(f->out, F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(impossible_budget_costs_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(dry_run_writes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_options_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
