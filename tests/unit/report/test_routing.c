/* The card on routing: every file that has it, every layer, inside of the drawing; nothing for a
 * dense model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "html_check.h"
#include "report/sections.h"

enum { N_BASELINES = 9 };

static om_evaluation ours, others[N_BASELINES];
static om_evaluation *baselines[N_BASELINES];

/* Agreement falls from layer to layer by `step`, from 1 - step on. */
static om_evaluation evaluation(const char *label, int n_layers, double step) {
    om_evaluation e = { .kld_mean = 0.02, .kld_stderr = 0.001 };
    (void) snprintf(e.label, sizeof e.label, "%s", label);
    om_routing *r = &e.routing;
    r->n_layers = n_layers;
    r->n_experts = 32;
    r->n_used = 4;
    r->agreement = 1 - step * (n_layers + 1) / 2;
    r->flips_per_token = 4 * n_layers * (1 - r->agreement);
    for (int l = 0; l < n_layers; l++) {
        r->layer[l] = l + 1;
        r->layer_agreement[l] = 1 - step * (l + 1);
    }
    return e;
}

static om_buf section(const om_evaluation *own, int n_baselines) {
    om_buf out = { 0 };
    const om_report_input in = { .eval = (om_evaluation *) (uintptr_t) own,
                                 .baselines = baselines,
                                 .n_baselines = n_baselines };
    om_section_routing(&out, &in);
    assert_false(out.failed);
    return out;
}

/* Every y of circles and text lies inside of the drawing. */
static void check_inside(const char *html) {
    for (const char *s = html; (s = strstr(s, "y=\"")) != NULL; s++) {
        const double y = strtod(s + 3, NULL);
        if (!(y >= 0 && y <= 260)) {
            fail_msg("outside: %.60s", s);
        }
    }
    assert_null(strstr(html, "nan"));
    assert_null(strstr(html, "inf"));
}

static void contains(const om_buf *b, const char *part) {
    if (!strstr(b->data, part)) {
        fail_msg("\"%s\" is not in:\n%s", part, b->data);
    }
}

static void shows_every_file_and_layer(void **state) {
    (void) state;
    ours = evaluation("optimal", 3, 0.01);
    others[0] = evaluation("preset:Q4_K_M", 3, 0.02);
    others[1] = evaluation("preset:<Q9>", 3, 0.03);
    others[2] = (om_evaluation){ .label = "preset:Q2_K" }; /* judged without */
    om_buf b = section(&ours, 3);
    check_balanced(b.data);
    check_inside(b.data);
    assert_int_equal(count(b.data, "<svg "), 2);
    assert_int_equal(count(b.data, "<circle "), 2 * 3 * 3);
    contains(&b, "Q4_K_M, layer 3: 94.00\xC2\xA0%");
    contains(&b, "This file</th><td>98.00\xC2\xA0%</td><td>0.24</td><td>97.00\xC2\xA0%, 3</td>");
    contains(&b, "&lt;Q9&gt;");
    assert_null(strstr(b.data, "Q2_K"));
    om_buf_release(&b);
}

static void dense_models_have_none(void **state) {
    (void) state;
    ours = (om_evaluation){ .label = "optimal" };
    others[0] = ours;
    om_buf b = section(&ours, 1);
    assert_int_equal(b.len, 0);
    om_buf_release(&b);
    b = section(NULL, 0);
    assert_int_equal(b.len, 0);
    om_buf_release(&b);
}

static void extremes_stay_inside(void **state) {
    (void) state;
    static const double steps[] = { 0, 1e-7, 1.0 / 512, 0.001 };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        for (int n = 1; n <= OM_ROUTING_MAX_LAYERS; n = n * 5 + 3) {
            ours = evaluation("optimal", n, steps[i]);
            for (int k = 0; k < N_BASELINES; k++) { /* more than there is room for */
                others[k] = evaluation("preset:Q4_K_M", n, steps[i]);
            }
            om_buf b = section(&ours, N_BASELINES);
            check_balanced(b.data);
            check_inside(b.data);
            assert_true(b.len < 1 << 20);
            om_buf_release(&b);
        }
    }
    ours = evaluation("optimal", OM_ROUTING_MAX_LAYERS, 1.0 / 512);
    om_buf b = section(&ours, 0);
    check_inside(b.data);
    om_buf_release(&b);
}

int main(void) {
    for (int i = 0; i < N_BASELINES; i++) {
        baselines[i] = &others[i];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_every_file_and_layer),
        cmocka_unit_test(dense_models_have_none),
        cmocka_unit_test(extremes_stay_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
