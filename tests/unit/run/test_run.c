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
#include "run_fixture.h"

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
    o.max_active_bytes = 1 << 20;
    o.min_tok_s = 10;
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
