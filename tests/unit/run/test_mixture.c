/* A mixture of experts through the whole pipeline: its routing is in eval.json and in the report.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "eval/evaluation.h"
#include "run_fixture.h"

static void check_evaluation(const fixture *f, const char *name) {
    om_evaluation *e = NULL;
    om_error err = { 0 };
    char *path = om_path_join(f->out, name);
    if (om_evaluation_read(&e, path, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(e->routing.n_layers, 1);
    assert_int_equal(e->routing.n_experts, 3);
    assert_true(e->routing.agreement > 0.5 && e->routing.agreement <= 1.0);
    om_evaluation_free(e);
    om_free(path);
}

static void routing_reaches_the_report(void **state) {
    fixture *f = *state;
    om_result r = { 0 };
    om_error err = { 0 };
    recorder log = { .log = "" };
    size_t n = 0;
    char *html = NULL, *report = om_path_join(f->out, "report.html");
    om_tiny_model_write_with(f->model, &(om_tiny_options){ .arch = "qwen3moe",
                                                           .n_layer = 1,
                                                           .n_expert = 3,
                                                           .n_embd = 64,
                                                           .n_ff = 96,
                                                           .n_vocab = 288 });
    f->options.types = "q4_0,q8_0";
    f->options.budget.bpw = 7;
    f->options.n_windows = 2;
    f->options.no_baselines = true;
    assert_int_equal(run(&r, &f->options, &log, &err), OM_OK);
    check_evaluation(f, "eval.json");
    assert_int_equal(om_file_read(&html, &n, report, 1 << 24, &err), OM_OK);
    assert_non_null(strstr(html, "id=\"routing\""));
    assert_non_null(strstr(r.text, "routing: "));
    assert_non_null(strstr(r.json, "\"routing_agreement\""));
    om_free(html);
    om_free(report);
    om_result_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(routing_reaches_the_report, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
