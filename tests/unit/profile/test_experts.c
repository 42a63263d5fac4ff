/* Experts of a profile: the list, the figures over it against values worked out by hand, and what
 * inspect says of a profile, whole or damaged. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "assert_close.h"
#include "base/file.h"
#include "base/mem.h"
#include "profile/experts.h"
#include "tmpdir.h"

enum { N_UNITS = 4 };

/* Layer 2: gate and down of 4 experts; layer 0: down of 3; one dense matrix. */
typedef struct fixture {
    om_profile p;
    om_unit units[N_UNITS];
    om_choice choices[N_UNITS][2];
    double numbers[3][4][4]; /* [stack][field][expert] */
} fixture;

static void fill_unit(fixture *f, int i, const char *role, int layer, int experts) {
    om_unit *u = &f->units[i];
    (void) snprintf(u->name, sizeof u->name, "blk.%d.%s.weight", layer, role);
    (void) snprintf(u->role, sizeof u->role, "%s", role);
    u->layer = layer;
    u->n_out = 64;
    u->n_in = 256;
    u->experts = experts;
    u->params = (int64_t) 64 * 256 * experts;
    u->source = om_format_by_name("bf16");
    u->choices = f->choices[i];
    u->n_choices = 2;
    f->choices[i][0].format = om_format_by_name("q4_K");
    f->choices[i][0].nats = 0.001 * (i + 1);
    f->choices[i][1].format = u->source;
    for (int c = 0; c < 2; c++) {
        f->choices[i][c].bytes =
            om_format_size(f->choices[i][c].format, u->n_in, u->n_out * experts);
    }
}

static fixture *make(void) {
    static fixture f;
    f = (fixture){ .numbers = {
                       { { 1, 2, 3, 4 }, { 70, 10, 0, 64 }, { 7, 1, 0, 6 }, { 2, 1, 0, 2 } },
                       { { 9, 8, 7, 6 }, { 70, 10, 0, 64 }, { 7, 1, 0, 6 }, { 2, 1, 0, 2 } },
                       { { 5, 5, 0, 0 }, { 90, 90, 63, 0 }, { 1, 2, 3, 0 }, { 1, 1, 1, 0 } } } };
    fill_unit(&f, 0, "ffn_gate_exps", 2, 4);
    fill_unit(&f, 1, "attn_q", 2, 1);
    fill_unit(&f, 2, "ffn_down_exps", 2, 4);
    fill_unit(&f, 3, "ffn_down_exps", 0, 3);
    static const int stacks[3] = { 0, 2, 3 };
    for (int s = 0; s < 3; s++) {
        f.units[stacks[s]].expert =
            (om_expert_stats){ f.numbers[s][0], f.numbers[s][1], f.numbers[s][2], f.numbers[s][3] };
    }
    f.p = (om_profile){ .model_path = "models/m\x1b[2J.gguf",
                        .arch = "qwen3moe",
                        .params = 64 * 256 * 12,
                        .n_windows = 2,
                        .window_tokens = 100,
                        .tokens = 200,
                        .alignment = 32,
                        .method = "fisher",
                        .select = "cover",
                        .units = f.units,
                        .n_units = N_UNITS };
    return &f;
}

static void test_list(void **state) {
    (void) state;
    om_experts e;
    om_error err = { 0 };
    assert_int_equal(om_experts_of(&e, &make()->p, &err), OM_OK);
    assert_int_equal(e.n, 7);
    assert_int_equal(e.n_rows, 2);
    assert_int_equal(e.most, 4);
    assert_true(e.has_trace);
    assert_int_equal(e.rows[0].layer, 0); /* by layer, whatever the order of the file */
    assert_int_equal(e.rows[0].n, 3);
    assert_int_equal(e.rows[1].layer, 2);
    assert_ptr_equal(e.rows[1].experts, &e.all[3]);
    assert_close(e.all[3].trace, 10, 0, 0);  /* sensitivities add up over the stacks … */
    assert_close(e.all[3].tokens, 70, 0, 0); /* … tokens are the same in each */
    assert_close(e.all[6].windows, 2, 0, 0);
    assert_int_equal(om_experts_few(&e), 3);

    const om_expert **order = NULL;
    assert_int_equal(om_experts_ranked(&order, &e, OM_EXPERT_TRACE, &err), OM_OK);
    assert_ptr_equal(order[0], &e.all[3]); /* 10, 10, 10, 10: by position */
    assert_ptr_equal(order[3], &e.all[6]);
    assert_ptr_equal(order[6], &e.all[2]);
    om_free(order);
    assert_int_equal(om_experts_ranked(&order, &e, OM_EXPERT_TOKENS, &err), OM_OK);
    assert_ptr_equal(order[0], &e.all[0]);
    assert_ptr_equal(order[6], &e.all[5]);
    om_free(order);
    om_experts_release(&e);
}

static void test_dense(void **state) {
    (void) state;
    fixture *f = make();
    for (int i = 0; i < N_UNITS; i++) {
        f->units[i].expert = (om_expert_stats){ 0 };
    }
    om_experts e;
    om_error err = { 0 };
    assert_int_equal(om_experts_of(&e, &f->p, &err), OM_OK);
    assert_int_equal(e.n, 0);
    om_experts_release(&e);
}

static void test_concentration(void **state) {
    (void) state;
    enum { N = 20 };
    om_expert x[N] = { 0 };
    om_concentration c;
    om_error err = { 0 };
    for (int i = 0; i < N; i++) {
        x[i].trace = 3;
    }
    assert_int_equal(om_experts_concentration(&c, x, N, OM_EXPERT_TRACE, &err), OM_OK);
    assert_int_equal(c.n_top, 2);
    assert_close(c.gini, 0, 1e-12, 0);
    assert_close(c.top_share, 0.1, 1e-12, 0);
    assert_close(c.largest_to_median, 1, 1e-12, 0);
    for (int i = 0; i < N; i++) { /* one has all */
        x[i].trace = i == 7 ? 5 : 0;
    }
    assert_int_equal(om_experts_concentration(&c, x, N, OM_EXPERT_TRACE, &err), OM_OK);
    assert_close(c.gini, 0.95, 1e-12, 0);
    assert_close(c.top_share, 1, 0, 0);
    assert_true(isnan(c.largest_to_median));
    for (int i = 0; i < N; i++) { /* 1 … n: (n - 1) / (3 n) */
        x[i].trace = i + 1;
    }
    assert_int_equal(om_experts_concentration(&c, x, N, OM_EXPERT_TRACE, &err), OM_OK);
    assert_close(c.gini, (N * N - 1) / 3.0 / N / (N + 1), 1e-12, 0);
    assert_close(c.top_share, 39.0 / 210, 1e-12, 0);
    assert_close(c.largest_to_median, 20 / 10.5, 1e-12, 0);
    assert_int_equal(om_experts_concentration(&c, x, N, OM_EXPERT_TOKENS, &err), OM_OK);
    assert_close(c.gini, 0, 0, 0); /* nothing to spread */
    assert_int_equal(om_experts_concentration(&c, x, 0, OM_EXPERT_TOKENS, &err), OM_OK);
}

static void test_scale(void **state) {
    (void) state;
    om_expert x[3] = { { .trace = 1e-3 }, { .trace = 10 }, { .trace = 0 } };
    om_experts e = { .all = x, .n = 3 };
    om_expert_scale s = om_experts_scale(&e, OM_EXPERT_TRACE, 8);
    assert_close(s.low, -3, 1e-12, 0);
    assert_int_equal(om_expert_shade(&s, 0), -1);
    assert_int_equal(om_expert_shade(&s, 1e-3), 0);
    assert_int_equal(om_expert_shade(&s, 0.11), 4);
    assert_int_equal(om_expert_shade(&s, 10), 7);
    x[0].trace = 1e-30;
    s = om_experts_scale(&e, OM_EXPERT_TRACE, 8);
    assert_close(s.low, -4, 1e-12, 0);
    assert_int_equal(om_expert_shade(&s, 1e-30), 0);
    x[0].trace = x[1].trace = 0;
    s = om_experts_scale(&e, OM_EXPERT_TRACE, 8);
    assert_int_equal(om_expert_shade(&s, 0), -1);
}

static om_status inspect(om_result *r, const char *path, om_error *err) {
    const om_env env = { 0 };
    *err = (om_error){ 0 };
    return om_inspect_profile(r, &(om_inspect_profile_options){ .profile = path }, &env, err);
}

static void contains(const char *text, const char *part) {
    if (!strstr(text, part)) {
        fail_msg("\"%s\" is not in:\n%s", part, text);
    }
}

static void test_inspect(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    const char *path = om_tmpdir_path(dir, "p.json");
    fixture *f = make();
    om_error err = { 0 };
    om_result r = { 0 };
    assert_int_equal(om_profile_write(&f->p, path, &err), OM_OK);
    if (inspect(&r, path, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    contains(r.text, "7 experts in 2 layers");
    contains(r.text, "chosen by cover");
    contains(r.text, "\n    0 ▁▁·\n    2 ████\n"); /* the map: 5 5 0 and 10 10 10 10 */
    contains(r.text, "3 of 7 experts: blk.0:2 (63), blk.2:1 (10), blk.2:2 (0)\n");
    assert_null(strchr(r.text, '\x1b')); /* nothing that a terminal obeys */
    contains(r.json, "\"schema\": \"optimum.profile_inspect/1\"");
    contains(r.json, "\"few_tokens\": 64");
    om_result_release(&r);

    for (int i = 0; i < N_UNITS; i++) {
        f->units[i].expert = (om_expert_stats){ 0 };
    }
    assert_int_equal(om_profile_write(&f->p, path, &err), OM_OK);
    assert_int_equal(inspect(&r, path, &err), OM_OK);
    assert_null(strstr(r.text, "experts"));
    assert_null(strstr(r.json, "\"experts\""));
    om_result_release(&r);
    om_tmpdir_remove(dir);
}

/* Cut anywhere, the file gives one line that names it. */
static void test_damaged(void **state) {
    (void) state;
    char *dir = om_tmpdir_new(), *text = NULL;
    size_t n = 0;
    om_error err = { 0 };
    om_result r = { 0 };
    const char *path = om_tmpdir_path(dir, "p.json");
    assert_int_equal(om_profile_write(&make()->p, path, &err), OM_OK);
    assert_int_equal(om_file_read(&text, &n, path, 1 << 20, &err), OM_OK);
    for (size_t cut = 1; cut < n - 2; cut += 97) {
        const char *damaged = om_tmpdir_write(dir, "cut.json", text, cut);
        assert_int_equal(inspect(&r, damaged, &err), OM_E_FORMAT);
        contains(err.text, "cut.json");
        assert_null(strchr(err.text, '\n'));
        assert_null(r.text);
    }
    om_free(text);
    assert_int_equal(inspect(&r, om_tmpdir_path(dir, "none.json"), &err), OM_E_IO);
    assert_int_equal(inspect(&r, NULL, &err), OM_E_ARG);
    om_tmpdir_remove(dir);
}

static void test_failing_allocations(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    const char *path = om_tmpdir_path(dir, "p.json");
    om_error err = { 0 };
    om_status status = OM_E_NOMEM;
    assert_int_equal(om_profile_write(&make()->p, path, &err), OM_OK);
    for (long n = 1; status != OM_OK && n < 5000; n++) {
        om_result r = { 0 };
        om_mem_fail_at(n);
        status = inspect(&r, path, &err);
        om_mem_fail_at(0);
        if (status != OM_OK) {
            assert_int_equal(status, OM_E_NOMEM);
            assert_null(r.text);
        }
        om_result_release(&r);
    }
    assert_int_equal(status, OM_OK);
    om_tmpdir_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_concentration),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
