/* Banks for a whole model: within the budget to the byte, never worse than one type per stack, with
 * sums that hold when counted again; nothing where there is nothing to gain; refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "alloc/bank_plan.h"
#include "alloc/plans.h"
#include "alloc/routed.h"
#include "bank_instance.h"

enum { MOST_UNITS = 64 };

typedef struct fixture {
    om_profile *profile;
    om_stats *stats;
    om_problem p;
    int pick[MOST_UNITS];
    const om_format *types[MOST_UNITS];
    om_bank_plan plan;
} fixture;

static void take_pick(fixture *f) {
    for (int g = 0; g < f->p.n_groups; g++) {
        const om_option *o = &om_problem_options_of(&f->p, g)[f->pick[g]];
        f->types[f->p.groups[g].member[0]] = f->p.formats[o->format];
    }
}

static om_status solve(fixture *f, const bank_spec *spec, double bpw, int banks, const char *pin,
                       om_error *err) {
    om_solution s = { 0 };
    if (f->profile == NULL) {
        f->profile = bank_profile(&f->stats, spec);
    }
    const om_problem_options o = { .budget_bytes =
                                       (int64_t) (bpw / 8 * (double) f->profile->params),
                                   .pins = &pin,
                                   .n_pins = pin != NULL };
    memset(err, 0, sizeof *err);
    assert_int_equal(om_problem_build(&f->p, f->profile, &o, err), OM_OK);
    assert_int_equal(om_problem_solve_routed(f->pick, &s, &f->p, 0, NULL, err), OM_OK);
    take_pick(f);
    return om_bank_plan_make(&f->plan, f->types, f->pick, &f->p, f->profile, f->stats, banks, NULL,
                             err);
}

static void release(fixture *f) {
    om_bank_plan_release(&f->plan);
    om_problem_release(&f->p);
    om_stats_free(f->stats);
    om_profile_free(f->profile);
}

/* Nats of an expert in a type, as the statistics say, scaled to the stack's. */
static double expert_nats(const fixture *f, int u, int e, const om_format *type) {
    const om_tensor_stats *t = &f->stats->tensors[u];
    const om_unit *unit = &f->profile->units[u];
    for (int j = 0; j < unit->n_choices; j++) {
        if (unit->choices[j].format == type) {
            return (double) t->nats[e * t->n_nats + j];
        }
    }
    fail_msg("%s cannot be %s", unit->name, type->name);
    return 0;
}

static void check_layer(double *nats, int64_t *bytes, const fixture *f, const om_expert_banks *l,
                        int max_banks) {
    bool seen[256] = { false };
    int at = 0;
    assert_in_range(l->n_banks, 2, max_banks);
    for (int b = 0; b < l->n_banks; b++) {
        for (int i = 0; i < l->banks[b].n_experts; i++, at++) {
            assert_false(seen[l->order[at]]);
            seen[l->order[at]] = true;
            for (int k = 0; k < OM_BANK_STACKS; k++) {
                const int u = (int) strtol(l->name[k] + 4, NULL, 10) * BANK_ROLES + k;
                assert_string_equal(f->profile->units[u].name, l->name[k]);
                *nats += expert_nats(f, u, l->order[at], l->banks[b].format[k]);
                *bytes += om_format_size(l->banks[b].format[k], BANK_IN, BANK_OUT);
            }
        }
    }
    assert_int_equal(at, l->n_experts);
    *bytes += (l->n_banks - 1) * (int64_t) OM_BANK_HEADER_BYTES;
}

/* The whole file and its nats (without routing), from nothing but types and banks. */
static void count_again(double *nats, int64_t *bytes, const fixture *f, int max_banks) {
    *nats = 0;
    *bytes = om_profile_fixed_bytes(f->profile);
    for (int u = 0; u < f->profile->n_units; u++) {
        const om_unit *unit = &f->profile->units[u];
        if (om_expert_banks_find(f->plan.layers, f->plan.n_layers, unit->name, NULL) == NULL) {
            *nats += om_unit_choice(unit, f->types[u])->nats;
            *bytes += om_unit_choice(unit, f->types[u])->bytes;
        }
    }
    for (int i = 0; i < f->plan.n_layers; i++) {
        check_layer(nats, bytes, f, &f->plan.layers[i], max_banks);
    }
}

static void test_budgets(void **state) {
    (void) state;
    int gained = 0, n = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        const bank_spec spec = { .seed = seed,
                                 .n_layers = 3,
                                 .n_experts = 64,
                                 .n_types = 6,
                                 .noise = 0.6,
                                 .spread = 5.0,
                                 .routed = seed % 2 == 1 };
        fixture f = { 0 };
        om_error err;
        double nats;
        int64_t bytes;
        const double bpw = 2.6 + 0.4 * (double) seed;
        const int banks = 2 + (int) (seed % 4);
        assert_int_equal(solve(&f, &spec, bpw, banks, NULL, &err), OM_OK);
        count_again(&nats, &bytes, &f, banks);
        assert_int_equal(bytes, f.plan.sum.bytes);
        assert_true(bytes <= f.p.budget_bytes);
        assert_true(f.plan.sum.nats <= f.plan.stacks.nats);
        nats += om_routers_nats(f.p.routing_weight, f.plan.sum.routing);
        assert_true(fabs(nats - f.plan.sum.nats) <= 1e-6 * nats);
        const om_plan_total total = om_plan_sum(f.profile, f.types);
        assert_int_equal(
            total.bytes + om_bank_extra_bytes(f.plan.layers, f.plan.n_layers, f.profile, f.types),
            bytes);
        gained += f.plan.sum.nats < 0.98 * f.plan.stacks.nats;
        n++;
        release(&f);
    }
    if (gained < n * 3 / 4) { /* sensitivities that differ a hundredfold must be worth something */
        fail_msg("%d of %d gained", gained, n);
    }
}

static void test_the_same_again(void **state) {
    (void) state;
    const bank_spec spec = {
        .seed = 4, .n_layers = 2, .n_experts = 32, .n_types = 6, .noise = 0.6, .spread = 5.0
    };
    fixture a = { 0 }, b = { 0 };
    om_error err;
    assert_int_equal(solve(&a, &spec, 3.5, 4, NULL, &err), OM_OK);
    assert_int_equal(solve(&b, &spec, 3.5, 4, NULL, &err), OM_OK);
    assert_int_equal(a.plan.n_layers, b.plan.n_layers);
    assert_memory_equal(a.types, b.types, sizeof(void *) * (size_t) a.profile->n_units);
    for (int i = 0; i < a.plan.n_layers; i++) {
        assert_memory_equal(a.plan.layers[i].order, b.plan.layers[i].order, sizeof(int) * 32);
        assert_int_equal(a.plan.layers[i].n_banks, b.plan.layers[i].n_banks);
    }
    release(&a);
    release(&b);
}

/* A pin is a pin in every bank; the others still gain. */
static void test_pin(void **state) {
    (void) state;
    const bank_spec spec = {
        .seed = 6, .n_layers = 2, .n_experts = 32, .n_types = 6, .noise = 0.6, .spread = 5.0
    };
    fixture f = { 0 };
    om_error err;
    assert_int_equal(
        solve(&f, &spec, 4.0, 4, "blk\\.1\\.ffn_down_exps\\.weight=mlx_3bit_g128", &err), OM_OK);
    const om_expert_banks *l =
        om_expert_banks_find(f.plan.layers, f.plan.n_layers, "blk.1.ffn_down_exps.weight", NULL);
    assert_non_null(l);
    for (int b = 0; b < l->n_banks; b++) {
        assert_string_equal(l->banks[b].format[OM_BANK_DOWN]->name, "mlx_3bit_g128");
    }
    release(&f);
}

/* Experts that are alike need no banks; nor does a model that fits whole. */
static void test_nothing_to_gain(void **state) {
    (void) state;
    const bank_spec alike = { .seed = 2, .n_layers = 2, .n_experts = 8, .n_types = 6 };
    const bank_spec spread = {
        .seed = 2, .n_layers = 2, .n_experts = 8, .n_types = 6, .noise = 0.5, .spread = 5.0
    };
    fixture f = { 0 };
    om_error err;
    assert_int_equal(solve(&f, &spread, 17.0, 4, NULL, &err), OM_OK);
    assert_int_equal(f.plan.n_layers, 0);
    release(&f);
    f = (fixture){ 0 };
    assert_int_equal(solve(&f, &alike, 17.0, 4, NULL, &err), OM_OK);
    assert_int_equal(f.plan.n_layers, 0);
    release(&f);
}

static void test_refusals(void **state) {
    (void) state;
    const bank_spec spec = { .seed = 2, .n_layers = 1, .n_experts = 8, .n_types = 6 };
    fixture f = { 0 };
    om_error err;
    f.profile = bank_profile(&f.stats, &spec);
    f.profile->fixed = om_calloc(1, sizeof *f.profile->fixed);
    f.profile->n_fixed = 1;
    (void) snprintf(f.profile->fixed[0].name, sizeof f.profile->fixed[0].name,
                    "blk.0.ffn_gate_exps.bias");
    assert_int_equal(solve(&f, &spec, 4.0, 4, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "biases"));
    release(&f);
    f = (fixture){ 0 };
    f.profile = bank_profile(&f.stats, &spec);
    for (int u = 0; u < f.profile->n_units; u++) {
        (void) snprintf(f.profile->units[u].role, sizeof f.profile->units[u].role, "attn_v");
    }
    assert_int_equal(solve(&f, &spec, 4.0, 4, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "no layer"));
    release(&f);
}

/* HiGHS allocates for itself, and small programs do not need it. */
static void test_no_memory(void **state) {
    (void) state;
    const bank_spec spec = {
        .seed = 4, .n_layers = 1, .n_experts = 6, .n_types = 4, .noise = 0.5, .spread = 5.0
    };
    fixture f = { 0 };
    om_error err;
    int failed = 0;
    assert_int_equal(solve(&f, &spec, 4.0, 3, NULL, &err), OM_OK);
    for (long n = 1;; n++, failed++) {
        om_bank_plan plan;
        memset(&err, 0, sizeof err);
        om_mem_fail_at(n);
        const om_status status =
            om_bank_plan_make(&plan, f.types, f.pick, &f.p, f.profile, f.stats, 3, NULL, &err);
        om_mem_fail_at(0);
        om_bank_plan_release(&plan);
        if (status == OM_OK) {
            break;
        }
        assert_int_equal(status, OM_E_NOMEM);
    }
    assert_in_range(failed, 50, 100000);
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),  cmocka_unit_test(test_the_same_again),
        cmocka_unit_test(test_pin),      cmocka_unit_test(test_nothing_to_gain),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
