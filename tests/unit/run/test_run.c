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
#include "tiny_hf.h"

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

/* Before the GGUF is made, which may take hours. */
static void what_mlx_cannot_do_is_refused_first(void **state) {
    fixture *f = *state;
    om_result r = { 0 };
    om_error err = { 0 };
    const om_env env = { 0 };
    om_run_options o = f->options;
    o.to = "both"; /* of a file */
    o.dry_run = true;
    assert_int_equal(om_run(&r, &o, &env, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "Hugging Face folder"));
    static const struct {
        const char *to, *types, *pin, *text;
    } cases[] = {
        { "both", "q4_K,q6_K", NULL, "no type of MLX" },
        { "both", "mlx_4bit_g64", NULL, "no type of GGUF" },
        { "mlx", "q4_K", NULL, "no type of MLX" },
        { "gguf", "mlx_4bit_g64", NULL, "no type of GGUF" },
        { "both", NULL, "output=q6_K", "q6_K is no type of MLX" },
        { "mlx", NULL, "output=q6_K", "q6_K is no type of MLX" },
        { NULL, NULL, "output=mlx_8bit_g64", "mlx_8bit_g64 is no type of GGUF" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        o.to = cases[i].to;
        o.types = cases[i].types;
        o.pins = &cases[i].pin;
        o.n_pins = cases[i].pin ? 1 : 0;
        err = (om_error){ 0 };
        assert_int_equal(om_run(&r, &o, &env, &err), OM_E_ARG);
        if (!strstr(err.text, cases[i].text)) {
            fail_msg("%s instead of %s", err.text, cases[i].text);
        }
    }
}

/* A type that is asked for joins the common ones of each container that is made. */
static void rare_types_join_the_common_ones(void **state) {
    fixture *f = *state;
    const om_env env = { 0 };
    char model[300];
    (void) snprintf(model, sizeof model, "%s/hf", f->dir);
    om_tiny_hf_write(model, &(om_tiny_hf_options){ 0 });
    om_run_options o = f->options;
    o.model = model;
    o.types = "mlx_4bit_g64, mlx_mxfp4";
    o.to = "mlx";
    om_job job = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_job_init(&job, &o, OM_CONTAINER_MLX, &env, &err), OM_OK);
    assert_non_null(strstr(job.types, "mlx_3bit_g32,"));
    assert_non_null(strstr(job.types, "mlx_8bit_g64,"));
    assert_non_null(strstr(job.types, ",mlx_mxfp4"));
    assert_non_null(strstr(job.types, "q4_K,"));
    om_buf plan = { 0 };
    om_job_plan_text(&plan, &job);
    assert_non_null(strstr(plan.data, "out/hf.gguf, of about "));
    assert_non_null(strstr(plan.data, "judged in F32"));
    om_buf_release(&plan);
    om_job_release(&job);
    o.to = NULL;
    o.types = "q4_K,mxfp4";
    assert_int_equal(om_job_init(&job, &o, OM_CONTAINER_GGUF, &env, &err), OM_OK);
    assert_non_null(strstr(job.types, ",mxfp4"));
    assert_null(strstr(job.types, "mlx_"));
    om_job_release(&job);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(impossible_budget_costs_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(dry_run_writes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_options_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(what_mlx_cannot_do_is_refused_first, setup, teardown),
        cmocka_unit_test_setup_teardown(rare_types_join_the_common_ones, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
