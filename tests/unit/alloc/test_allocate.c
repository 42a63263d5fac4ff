/* The verb from profile.json to allocation.json: budgets, plans, pins, sweep, and the reader of
 * what it writes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "alloc/plans.h"
#include "alloc_instance.h"
#include "base/file.h"
#include "base/json.h"
#include "tmpdir.h"

static char *dir;
static const char *profile_path;
static om_profile *profile;

static int set_up(void **state) {
    (void) state;
    om_error err = { 0 };
    const instance_spec spec = { .seed = 11, .n_units = 40, .n_types = 14 };
    dir = om_tmpdir_new();
    profile_path = om_strdup(om_tmpdir_path(dir, "profile.json"));
    om_profile *p = instance_profile(&spec);
    p->seed = UINT64_MAX;
    (void) snprintf(p->stats_path, sizeof p->stats_path, "profile.stats.gguf");
    om_status status = om_profile_write(p, profile_path, &err);
    instance_free(p);
    return status == OM_OK && om_profile_read(&profile, profile_path, &err) == OM_OK ? 0 : 1;
}

static int tear_down(void **state) {
    (void) state;
    om_profile_free(profile);
    om_free((char *) (uintptr_t) profile_path);
    om_tmpdir_remove(dir);
    return 0;
}

static om_status allocate(om_allocation **out, om_allocate_options o, om_error *err) {
    om_result result = { 0 };
    memset(err, 0, sizeof *err);
    o.profile = profile_path;
    o.out = om_tmpdir_path(dir, "allocation.json");
    om_status status = om_allocate(&result, &o, NULL, err);
    if (status == OM_OK) {
        assert_non_null(result.json);
        assert_non_null(result.text);
        assert_int_equal(om_allocation_read(out, o.out, err), OM_OK);
    }
    om_result_release(&result);
    return status;
}

/* What the file says must be what its types add up to. */
static void check_allocation(const om_allocation *a) {
    int64_t bytes = om_profile_fixed_bytes(profile);
    double nats = 0.0;
    assert_int_equal(a->n_tensors, profile->n_units);
    for (int i = 0; i < profile->n_units; i++) {
        const om_unit *u = &profile->units[i];
        const om_choice *c = om_unit_choice(u, om_allocation_find(a, u->name));
        assert_non_null(c);
        bytes += (c->bytes + 31) / 32 * 32;
        nats += c->nats;
    }
    assert_true(bytes == a->bytes);
    assert_true(fabs(nats - a->predicted_nats) <= 1e-12 * nats);
    assert_true(fabs(a->bpw - 8.0 * (double) bytes / (double) profile->params) < 1e-12);
    assert_true(a->budget_bytes == 0 || a->bytes <= a->budget_bytes);
    assert_string_equal(a->profile_sha256, profile->sha256);
    assert_true(a->seed == UINT64_MAX);
}

static void test_budgets(void **state) {
    (void) state;
    om_allocation *a = NULL, *b = NULL;
    om_error err;
    om_allocate_options o = { .budget = { .kind = OM_BUDGET_BPW, .bpw = 4.5 } };
    assert_int_equal(allocate(&a, o, &err), OM_OK);
    check_allocation(a);
    assert_string_equal(a->plan, "optimal");
    assert_string_equal(a->budget_kind, "bpw");
    assert_true(a->bpw <= 4.5 && a->bpw > 4.5 * 0.995);
    /* Exactly its own size again: the same answer. One byte less: another one. */
    o.budget = (om_budget){ .kind = OM_BUDGET_SIZE, .bytes = a->bytes };
    assert_int_equal(allocate(&b, o, &err), OM_OK);
    assert_true(b->bytes == a->bytes && fabs(b->predicted_nats / a->predicted_nats - 1) < 1e-7);
    om_allocation_free(b);
    o.budget.bytes--;
    assert_int_equal(allocate(&b, o, &err), OM_OK);
    assert_true(b->bytes < a->bytes);
    assert_true(b->predicted_nats >= a->predicted_nats * (1 - 1e-7));
    om_allocation_free(b);
    om_allocation_free(a);
}

static void test_deterministic_bytes(void **state) {
    (void) state;
    om_allocation *a = NULL, *b = NULL;
    om_error err;
    const om_allocate_options o = { .budget = { .kind = OM_BUDGET_BPW, .bpw = 3.3 }, .n_tiers = 4 };
    assert_int_equal(allocate(&a, o, &err), OM_OK);
    assert_int_equal(allocate(&b, o, &err), OM_OK);
    assert_string_equal(a->sha256, b->sha256);
    om_allocation_free(a);
    om_allocation_free(b);
}

static void test_infeasible(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    const char *pins[] = { "blk\\.0\\..*=q8_0" };
    om_allocate_options o = { .budget = { .kind = OM_BUDGET_SIZE, .bytes = 1000 },
                              .pins = pins,
                              .n_pins = 1 };
    assert_int_equal(allocate(&a, o, &err), OM_E_INFEASIBLE);
    long long smallest = 0;
    const char *at = strstr(err.text, "the smallest file is ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "the smallest file is %lld bytes", &smallest), 1);
    o.budget.bytes = smallest;
    assert_int_equal(allocate(&a, o, &err), OM_OK);
    assert_true(a->bytes == smallest);
    om_allocation_free(a);
    o.budget.bytes = smallest - 1;
    assert_int_equal(allocate(&a, o, &err), OM_E_INFEASIBLE);
    o.plan = "preset:Q4_K_M";
    assert_int_equal(allocate(&a, o, &err), OM_E_INFEASIBLE);
    o.budget = (om_budget){ .kind = OM_BUDGET_NONE };
    o.plan = NULL;
    assert_int_equal(allocate(&a, o, &err), OM_E_ARG);
    o.plan = "best";
    assert_int_equal(allocate(&a, o, &err), OM_E_ARG);
}

/* Nothing that fits the same bytes may beat the optimum. */
static void test_plans(void **state) {
    (void) state;
    static const char *const plans[] = { "uniform:q4_K", "preset:Q2_K",   "preset:Q4_K_M",
                                         "preset:q6_k",  "preset:IQ3_XS", "tiers",
                                         "two-tier" };
    om_error err;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        om_allocation *plan = NULL, *best = NULL;
        om_allocate_options o = { .plan = plans[i] };
        assert_int_equal(allocate(&plan, o, &err), OM_OK);
        check_allocation(plan);
        assert_string_equal(plan->plan, plans[i]);
        o = (om_allocate_options){ .budget = { .kind = OM_BUDGET_SIZE, .bytes = plan->bytes },
                                   .untie_gate_up = true };
        assert_int_equal(allocate(&best, o, &err), OM_OK);
        assert_true(best->predicted_nats <= plan->predicted_nats * (1 + 1e-7));
        om_allocation_free(plan);
        om_allocation_free(best);
    }
}

static void test_plan_shares(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    double q8 = 0, q6 = 0, q4 = 0;
    assert_int_equal(allocate(&a, (om_allocate_options){ .plan = "tiers" }, &err), OM_OK);
    for (int i = 0; i < a->n_tensors; i++) {
        const char *type = a->tensors[i].format->name;
        double share = (double) profile->units[i].params / (double) profile->params;
        q8 += strcmp(type, "q8_0") == 0 ? share : 0;
        q6 += strcmp(type, "q6_K") == 0 ? share : 0;
        q4 += strcmp(type, "q4_K") == 0 ? share : 0;
    }
    assert_true(fabs(q8 - 0.05) < 0.04 && fabs(q6 - 0.15) < 0.05 && fabs(q4 - 0.50) < 0.06);
    om_allocation_free(a);
    /* two-tier gives up 8-bit tensors until the budget is met. */
    const om_allocate_options o = { .plan = "two-tier",
                                    .budget = { .kind = OM_BUDGET_BPW, .bpw = 5.0 } };
    assert_int_equal(allocate(&a, o, &err), OM_OK);
    assert_true(a->bpw <= 5.0 && a->bpw > 4.7);
    om_allocation_free(a);
}

static void test_pin_holds(void **state) {
    (void) state;
    static const char *const plans[] = { NULL, "preset:Q2_K" };
    const char *pins[] = { "blk\\.[0-9]+\\.attn_q=q8_0" };
    om_error err;
    for (int i = 0; i < 2; i++) {
        om_allocation *a = NULL;
        const om_allocate_options o = { .plan = plans[i],
                                        .budget = { .kind = OM_BUDGET_BPW, .bpw = 6.0 },
                                        .pins = pins,
                                        .n_pins = 1 };
        assert_int_equal(allocate(&a, o, &err), OM_OK);
        check_allocation(a);
        assert_string_equal(om_allocation_find(a, "blk.3.attn_q.weight")->name, "q8_0");
        om_allocation_free(a);
    }
}

static void test_sweep(void **state) {
    (void) state;
    om_result result = { 0 };
    om_json *doc = NULL;
    om_node array, point;
    om_error err = { 0 };
    size_t n = 0, n_presets = 0;
    int64_t last_bytes = 0;
    double last_nats = HUGE_VAL;
    const om_allocate_options o = { .profile = profile_path, .sweep = true };
    assert_int_equal(om_allocate(&result, &o, NULL, &err), OM_OK);
    assert_int_equal(
        om_json_parse(&doc, result.json, strlen(result.json), "sweep", "optimum.sweep/1", &err),
        OM_OK);
    const om_node root = om_node_root(doc, "sweep");
    assert_int_equal(om_node_array(&array, &n, &root, "curve", &err), OM_OK);
    assert_true(n > 30 && n <= 40);
    for (size_t i = 0; i < n; i++) {
        int64_t bytes = 0;
        double nats = 0;
        assert_int_equal(om_node_at(&point, &array, i, &err), OM_OK);
        assert_int_equal(om_node_i64(&bytes, &point, "bytes", 1, INT64_MAX, &err), OM_OK);
        assert_int_equal(om_node_f64(&nats, &point, "nats", &err), OM_OK);
        assert_true(bytes > last_bytes && nats < last_nats);
        last_bytes = bytes;
        last_nats = nats;
    }
    assert_true(last_nats <= 0.0); /* the source's own types */
    assert_int_equal(om_node_array(&array, &n_presets, &root, "presets", &err), OM_OK);
    assert_int_equal(n_presets, 25);
    om_json_free(doc);
    om_result_release(&result);
}

static void test_dry_run(void **state) {
    (void) state;
    om_result result = { 0 };
    om_error err = { 0 };
    const om_allocate_options o = { .profile = profile_path,
                                    .plan = "uniform:q8_0",
                                    .out = om_tmpdir_path(dir, "none.json"),
                                    .dry_run = true };
    assert_int_equal(om_allocate(&result, &o, NULL, &err), OM_OK);
    assert_false(om_file_exists(o.out));
    om_result_release(&result);
}

static void refuse(const char *text, const char *why) {
    om_allocation *a = NULL;
    om_error err = { 0 };
    assert_int_equal(om_allocation_parse(&a, text, strlen(text), "a.json", &err), OM_E_FORMAT);
    if (strstr(err.text, why) == NULL) {
        fail_msg("expected '%s' in: %s", why, err.text);
    }
}

#define HEAD "{\"schema\":\"optimum.allocation/1\",\"profile_sha256\":\"\",\"plan\":\"x\","
#define TAIL ",\"bytes\":1,\"bpw\":1.0,\"predicted_nats\":0.5,\"solver\":{\"status\":\"none\"}}"
#define BUDGET "\"budget\":{\"kind\":\"none\",\"bytes\":0},"

static void test_reader_refuses(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err = { 0 };
    const char *good = HEAD BUDGET "\"tensors\":{\"a.weight\":\"q4_K\"}" TAIL;
    assert_int_equal(om_allocation_parse(&a, good, strlen(good), "a.json", &err), OM_OK);
    assert_null(om_allocation_find(a, "b.weight"));
    om_allocation_free(a);
    refuse(HEAD BUDGET "\"tensors\":{\"a.weight\":\"q4_K\",\"a.weight\":\"q8_0\"}" TAIL,
           "a.weight");
    refuse(HEAD BUDGET "\"tensors\":{\"a.weight\":\"q4_Z\"}" TAIL, "unknown type \"q4_Z\"");
    refuse(HEAD BUDGET "\"tensors\":{\"a.weight\":4}" TAIL, "a.weight");
    refuse(HEAD BUDGET "\"tensors\":{}" TAIL, "expected 1 to");
    refuse(HEAD BUDGET "\"tensors\":{\"\":\"q4_K\"}" TAIL, "no tensor name");
    refuse(HEAD "\"budget\":{\"kind\":\"gut\",\"bytes\":0},\"tensors\":{\"a\":\"q4_K\"}" TAIL,
           "kind");
    refuse("{\"schema\":\"optimum.allocation/2\"}", "optimum.allocation");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),        cmocka_unit_test(test_deterministic_bytes),
        cmocka_unit_test(test_infeasible),     cmocka_unit_test(test_plans),
        cmocka_unit_test(test_plan_shares),    cmocka_unit_test(test_pin_holds),
        cmocka_unit_test(test_sweep),          cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_reader_refuses),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
