/* Baselines by the experts alone: never above the budget and close to it at every size, most bits
 * for the most sensitive, the same answer every time; what the projection says; refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "alloc/expert_plans.h"
#include "alloc_instance.h"
#include "base/file.h"
#include "tmpdir.h"

enum { N_UNITS = 40 };
static const instance_spec spec = { .seed = 21, .n_units = N_UNITS, .n_types = 14, .n_experts = 8 };

static om_status plan(int *pick, om_projection *pr, om_choice_sum *sum, const om_profile *profile,
                      const char *method, int64_t budget, const char *pin, om_error *err) {
    om_problem p = { 0 };
    const om_problem_options options = {
        .budget_bytes = budget, .pins = &pin, .n_pins = pin != NULL, .keep_dominated = true
    };
    memset(err, 0, sizeof *err);
    om_status status = om_problem_build(&p, profile, &options, err);
    if (status == OM_OK) {
        status = om_expert_plan(pick, pr, &p, profile, method, NULL, err);
    }
    if (status == OM_OK) {
        *sum = om_problem_evaluate(&p, pick);
        assert_true(om_problem_feasible(&p, sum));
    }
    om_problem_release(&p);
    return status;
}

static int64_t smallest(const om_profile *p) {
    int64_t bytes = om_profile_fixed_bytes(p);
    for (int i = 0; i < p->n_units; i++) {
        bytes += (p->units[i].choices[0].bytes + 31) / 32 * 32;
    }
    return bytes;
}

static void test_budgets(void **state) {
    (void) state;
    static const char *const methods[] = { "mopeq", "frequency" };
    om_profile *profile = instance_profile(&spec);
    om_error err;
    for (int m = 0; m < 2; m++) {
        for (double bpw = 2.2; bpw < 15.0; bpw += 0.31) {
            int pick[N_UNITS], again[N_UNITS];
            om_projection pr, pr2;
            om_choice_sum sum, sum2;
            const int64_t budget = (int64_t) (bpw / 8.0 * (double) profile->params);
            const om_status status = plan(pick, &pr, &sum, profile, methods[m], budget, NULL, &err);
            if (budget < smallest(profile)) {
                assert_int_equal(status, OM_E_INFEASIBLE);
                continue;
            }
            assert_int_equal(status, OM_OK);
            if ((double) sum.bytes < 0.995 * (double) budget) {
                fail_msg("%s at %.2f bpw: %lld of %lld bytes", methods[m], bpw,
                         (long long) sum.bytes, (long long) budget);
            }
            assert_true(pr.stack_bytes <= sum.bytes); /* the rest is filled up */
            assert_int_equal(plan(again, &pr2, &sum2, profile, methods[m], budget, NULL, &err),
                             OM_OK);
            assert_memory_equal(pick, again, sizeof(int) * 30);
        }
    }
    instance_free(profile);
}

/* One layer's experts are made a million times as sensitive, another's as seldom used. */
static void test_order(void **state) {
    (void) state;
    om_profile *profile = instance_profile(&spec);
    om_error err;
    om_problem p = { 0 };
    const om_problem_options options = { .budget_bytes = profile->params / 8 * 5,
                                         .keep_dominated = true };
    for (int i = 0; i < profile->n_units; i++) {
        om_unit *u = &profile->units[i];
        for (int e = 0; u->expert.trace != NULL && e < u->experts; e++) {
            u->expert.trace[e] = u->layer == 4 ? 1e6 : u->layer == 2 ? 1e-6 : 1.0;
            u->expert.tokens[e] = u->layer == 2 ? 1000.0 : u->layer == 4 ? 1.0 : 30.0;
        }
    }
    for (int m = 0; m < 2; m++) {
        int pick[N_UNITS];
        om_projection pr;
        double bpw[10] = { 0 };
        assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
        assert_int_equal(
            om_expert_plan(pick, &pr, &p, profile, m == 0 ? "mopeq" : "frequency", NULL, &err),
            OM_OK);
        for (int g = 0; g < p.n_groups; g++) {
            const om_unit *u = &profile->units[p.groups[g].member[0]];
            if (u->expert.trace != NULL && strcmp(u->role, "ffn_down_exps") == 0) {
                bpw[u->layer] =
                    om_format_bpw(p.formats[om_problem_options_of(&p, g)[pick[g]].format]);
            }
        }
        const int high = m == 0 ? 4 : 2, low = m == 0 ? 2 : 4;
        assert_true(bpw[high] > bpw[0] && bpw[0] > bpw[low]);
        /* Eight experts a layer, five such layers. */
        assert_int_equal(pr.n_experts[0], 8);
        assert_int_equal(pr.n_experts[1], 24);
        assert_int_equal(pr.n_experts[2], 8);
        /* Each stack is in one cluster, so a type per expert is nothing else. */
        assert_false(pr.measured);
        assert_true(fabs(pr.per_expert_nats - pr.stack_nats) < 0.3 * pr.stack_nats);
        om_problem_release(&p);
    }
    instance_free(profile);
}

/* The statistics file's costs per expert are what the projection is judged by. */
static void test_projection(void **state) {
    (void) state;
    om_profile *profile = instance_profile(&spec);
    om_tensor_stats *tensors = om_calloc(N_UNITS, sizeof *tensors);
    om_stats stats = { .tensors = tensors };
    om_problem p = { 0 };
    om_error err;
    om_projection pr, shared;
    int pick[N_UNITS];
    const om_problem_options options = { .budget_bytes = profile->params / 2,
                                         .keep_dominated = true };
    for (int i = 0; i < profile->n_units; i++) {
        const om_unit *u = &profile->units[i];
        om_tensor_stats *t = &tensors[stats.n_tensors];
        if (u->expert.trace == NULL) {
            continue;
        }
        stats.n_tensors++;
        memcpy(t->name, u->name, sizeof t->name);
        t->experts = u->experts;
        t->n_nats = u->n_choices;
        t->nats = om_calloc((size_t) (t->n_nats * t->experts), sizeof *t->nats);
        for (int k = 0; k < u->n_choices; k++) {
            (void) snprintf(t->nats_types + strlen(t->nats_types),
                            sizeof t->nats_types - strlen(t->nats_types), "%s%s", k > 0 ? "," : "",
                            u->choices[k].format->name);
            for (int e = 0; e < u->experts; e++) { /* all experts alike */
                t->nats[e * t->n_nats + k] = (float) (u->choices[k].nats / u->experts);
            }
        }
    }
    assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
    assert_int_equal(om_expert_plan(pick, &pr, &p, profile, "mopeq", &stats, &err), OM_OK);
    assert_true(pr.measured);
    assert_int_equal(om_expert_plan(pick, &shared, &p, profile, "mopeq", NULL, &err), OM_OK);
    assert_false(shared.measured);
    /* By the traces the protected experts are the costly ones: a plan per expert looks better. */
    assert_true(shared.per_expert_nats < pr.per_expert_nats);
    assert_true(fabs(shared.stack_nats - pr.stack_nats) < 1e-12);
    assert_true(shared.per_expert_bytes == pr.per_expert_bytes);
    om_problem_release(&p);
    for (int i = 0; i < stats.n_tensors; i++) {
        om_free(tensors[i].nats);
    }
    om_free(tensors);
    instance_free(profile);
}

static void test_refusals(void **state) {
    (void) state;
    instance_spec dense = spec;
    om_error err;
    om_projection pr;
    om_choice_sum sum;
    int pick[N_UNITS];
    dense.n_experts = 0;
    om_profile *profile = instance_profile(&dense);
    assert_int_equal(plan(pick, &pr, &sum, profile, "mopeq", profile->params, NULL, &err),
                     OM_E_ARG);
    assert_non_null(strstr(err.text, "no stack of experts"));
    instance_free(profile);
    profile = instance_profile(&spec);
    const char *pin = "blk\\.0\\.ffn_down_exps=q4_0";
    assert_int_equal(plan(pick, &pr, &sum, profile, "mopeq", profile->params / 2, pin, &err),
                     OM_OK);
    om_free(profile->units[2].expert.trace);
    profile->units[2].expert.trace = NULL;
    assert_int_equal(plan(pick, &pr, &sum, profile, "mopeq", profile->params, NULL, &err),
                     OM_E_ARG);
    assert_non_null(strstr(err.text, "profile the model again"));
    instance_free(profile);
}

static om_status allocate(const om_allocate_options *o, om_error *err) {
    om_result result = { 0 };
    memset(err, 0, sizeof *err);
    const om_status status = om_allocate(&result, o, NULL, err);
    om_result_release(&result);
    return status;
}

/* Through the verb: plan, projection, pins, limits. */
static void test_verb(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    char profile_path[256], out[256];
    om_error err = { 0 };
    om_result result = { 0 };
    om_allocation *a = NULL;
    om_profile *profile = instance_profile(&spec);
    const char *pin = "blk.*attn_q=q8_0";
    (void) snprintf(profile_path, sizeof profile_path, "%s", om_tmpdir_path(dir, "profile.json"));
    (void) snprintf(out, sizeof out, "%s", om_tmpdir_path(dir, "allocation.json"));
    assert_int_equal(om_profile_write(profile, profile_path, &err), OM_OK);
    om_allocate_options o = { .profile = profile_path,
                              .budget = { .kind = OM_BUDGET_BPW, .bpw = 4.5 },
                              .method = "frequency",
                              .pins = &pin,
                              .n_pins = 1,
                              .out = out };
    assert_int_equal(om_allocate(&result, &o, NULL, &err), OM_OK);
    assert_non_null(strstr(result.text, "the projection costs"));
    assert_non_null(strstr(result.json, "\"projection\""));
    om_result_release(&result);
    assert_int_equal(om_allocation_read(&a, out, &err), OM_OK);
    assert_string_equal(a->plan, "frequency");
    assert_true(a->bpw <= 4.5 && a->bpw > 0.995 * 4.5);
    assert_true(a->active_bytes > 0 && a->active_bytes < a->bytes);
    assert_string_equal(om_allocation_find(a, "blk.3.attn_q.weight")->name, "q8_0");
    o.max_active_bytes = a->active_bytes - 1;
    assert_int_equal(allocate(&o, &err), OM_E_INFEASIBLE);
    o.max_active_bytes = 0;
    o.plan = "tiers";
    assert_int_equal(allocate(&o, &err), OM_E_ARG);
    o.plan = NULL;
    o.n_tiers = 3;
    assert_int_equal(allocate(&o, &err), OM_E_ARG);
    o.n_tiers = 0;
    o.method = "best";
    assert_int_equal(allocate(&o, &err), OM_E_ARG);
    o.method = "mopeq";
    o.budget = (om_budget){ 0 };
    assert_int_equal(allocate(&o, &err), OM_E_ARG);
    o.budget = (om_budget){ .kind = OM_BUDGET_SIZE, .bytes = 1000 };
    assert_int_equal(allocate(&o, &err), OM_E_INFEASIBLE);
    assert_non_null(strstr(err.text, "the smallest file is"));
    om_allocation_free(a);
    om_profile_free(profile);
    om_tmpdir_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),    cmocka_unit_test(test_order),
        cmocka_unit_test(test_projection), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_verb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
