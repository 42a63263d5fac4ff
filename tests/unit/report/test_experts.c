/* The experts' section: every expert in both maps, those hardly seen marked and named, figures in
 * words, nothing for a dense model, and small for the largest models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "html_check.h"
#include "report/sections.h"

enum { MAX_LAYERS = 94, MAX_EXPERTS = 256 };

typedef struct fixture {
    om_profile p;
    om_unit units[MAX_LAYERS];
    double values[4][MAX_LAYERS][MAX_EXPERTS];
} fixture;

static fixture f;

/* Sensitivities and tokens rise with layer and expert; expert 0 of layer 0 was never seen. */
static void make(int n_layers, int n_experts) {
    f = (fixture){ .p = { .method = "fisher", .units = f.units, .n_units = n_layers } };
    for (int l = 0; l < n_layers; l++) {
        om_unit *u = &f.units[l];
        (void) snprintf(u->name, sizeof u->name, "blk.%d.ffn_down_exps.weight", l);
        u->layer = l;
        u->experts = n_experts;
        u->expert =
            (om_expert_stats){ f.values[0][l], f.values[1][l], f.values[2][l], f.values[3][l] };
        for (int e = 0; e < n_experts; e++) {
            f.values[0][l][e] = (l + 1) * e;
            f.values[1][l][e] = l == 0 && e == 0 ? 0 : l == 1 && e == 3 ? 63 : 64 + 7 * e;
            f.values[3][l][e] = e;
        }
    }
}

static om_buf section(void) {
    om_buf out = { 0 };
    const om_report_input in = { .profile = &f.p };
    om_section_experts(&out, &in);
    assert_false(out.failed);
    return out;
}

static void contains(const om_buf *b, const char *part) {
    if (!strstr(b->data, part)) {
        fail_msg("\"%s\" is not in:\n%s", part, b->data);
    }
}

static void test_maps(void **state) {
    (void) state;
    make(3, 8);
    om_buf b = section();
    check_balanced(b.data);
    assert_int_equal(count(b.data, "<svg "), 2 * 3);
    /* 24 experts in each map, but for the three whose sensitivity is 0. */
    assert_int_equal(count(b.data, " 0h.9"), 48 - 3);
    assert_int_equal(count(b.data, "class=\"few\" d=\"M"), 2); /* layer 0: 0, layer 1: 3 */
    contains(&b, "class=\"few\" d=\"M0 0h.9\"");
    contains(&b, "class=\"few\" d=\"M3 0h.9\"");
    contains(&b, "data-v=\"0 71 78 85 92 99 106 113\"");
    contains(&b, "title=\"Layer 2, largest: expert 7\"");
    om_buf_release(&b);
}

static void test_words(void **state) {
    (void) state;
    make(3, 8);
    om_buf b = section();
    contains(&b, "24 experts in 3 layers");
    /* Traces e, 2e, 3e: the largest three of 168 are 21, 18 and 15. */
    contains(&b, "The most sensitive tenth has 32\xC2\xA0% of the sensitivity");
    contains(&b, "one type per stack");
    contains(&b, "2 of 24 experts saw fewer than 64 tokens");
    contains(&b, " 0:0\xC2\xA0(0), 1:3\xC2\xA0(63).");
    contains(&b, "--select cover");
    contains(&b, "layer 2, expert 7</th><td>3.0\xC2\xA0×</td><td>113");
    om_buf_release(&b);
    (void) snprintf(f.p.select, sizeof f.p.select, "cover");
    b = section();
    assert_null(strstr(b.data, "--select cover"));
    om_buf_release(&b);
    f.values[1][0][0] = f.values[1][1][3] = 64;
    b = section();
    contains(&b, "All experts saw at least 64 tokens");
    assert_null(strstr(b.data, "class=\"few\""));
    om_buf_release(&b);
}

/* Without gradients there are only frequencies. */
static void test_measured(void **state) {
    (void) state;
    make(2, 4);
    for (int l = 0; l < 2; l++) {
        for (int e = 0; e < 4; e++) {
            f.values[0][l][e] = 0;
        }
    }
    om_buf b = section();
    check_balanced(b.data);
    assert_int_equal(count(b.data, "<svg "), 2);
    assert_null(strstr(b.data, "ensitiv"));
    contains(&b, "Most used");
    om_buf_release(&b);
}

static void test_dense(void **state) {
    (void) state;
    make(2, 4);
    f.units[0].expert = f.units[1].expert = (om_expert_stats){ 0 };
    om_buf b = section();
    assert_int_equal(b.len, 0);
    om_buf_release(&b);
}

static void test_large(void **state) {
    (void) state;
    make(MAX_LAYERS, MAX_EXPERTS);
    om_buf b = section();
    check_balanced(b.data);
    assert_int_equal(count(b.data, "<svg "), 2 * MAX_LAYERS);
    if (b.len > 1 << 20) {
        fail_msg("%zu bytes for %d experts", b.len, MAX_LAYERS * MAX_EXPERTS);
    }
    om_buf_release(&b);
}

static void test_short_of_memory(void **state) {
    (void) state;
    make(3, 8);
    bool failed = true;
    for (long n = 1; failed && n < 1000; n++) {
        om_buf out = { 0 };
        const om_report_input in = { .profile = &f.p };
        om_mem_fail_at(n);
        om_section_experts(&out, &in);
        om_mem_fail_at(0);
        failed = out.failed;
        om_buf_release(&out);
    }
    assert_false(failed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps),     cmocka_unit_test(test_words),
        cmocka_unit_test(test_measured), cmocka_unit_test(test_dense),
        cmocka_unit_test(test_large),    cmocka_unit_test(test_short_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
