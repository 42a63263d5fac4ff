/* The search with a limit on bytes read per token beside the budget: equal to brute force on random
 * instances of up to 10 units with stacks of experts, pairs and tier limits, where either limit
 * binds or both do; and a search of real size. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/infeasible.h"
#include "alloc/search.h"
#include "alloc_instance.h"
#include "base/mem.h"

/* That the instances are not all easy, and not all of one kind. */
static int n_highs, n_infeasible, n_size, n_active, n_both;

static int64_t between(int64_t low, int64_t high, double from, double to, om_rng *rng) {
    const double at = from + (to - from) * om_rng_f64(rng);
    return low + (int64_t) (at * (double) (high - low));
}

static void set_limits(om_problem *p, om_rng *rng) {
    int64_t low = p->fixed_bytes, high = low, low_active = p->fixed_active_bytes,
            high_active = low_active;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *o = om_problem_options_of(p, g);
        const int last = p->groups[g].n_options - 1;
        low += o[0].bytes;
        high += o[last].bytes;
        low_active += o[0].active_bytes;
        high_active += o[last].active_bytes;
    }
    p->budget_bytes = between(low, high, -0.02, 1.1, rng);
    p->max_active_bytes = between(low_active, high_active, -0.02, 1.1, rng);
    if (om_rng_u64(rng) % 2 == 0) { /* a little less than the budget alone would take: both bind */
        int pick[16];
        om_choice_sum sum;
        om_error err = { 0 };
        om_problem one = *p;
        one.max_active_bytes = INT64_MAX;
        if (om_problem_brute_force(pick, &sum, &one, &err) == OM_OK) {
            p->max_active_bytes = between(low_active, sum.active_bytes, 0.97, 1.0, rng);
        }
    }
}

/* Best nats with one of the limits lifted. */
static double without(om_problem p, bool budget, int *pick) {
    om_choice_sum sum;
    om_error err = { 0 };
    if (budget) {
        p.budget_bytes = INT64_MAX;
    } else {
        p.max_active_bytes = INT64_MAX;
    }
    assert_int_equal(om_problem_brute_force(pick, &sum, &p, &err), OM_OK);
    return sum.nats;
}

static void count_binding(const om_problem *p, double nats) {
    int pick[16];
    const bool size = without(*p, true, pick) < nats * (1.0 - 1e-9);
    const bool active = without(*p, false, pick) < nats * (1.0 - 1e-9);
    n_size += size && !active;
    n_active += active && !size;
    n_both += size && active;
}

/* scramble: active bytes that have nothing to do with the bytes, as no real model has them. */
static void check_instance(uint64_t seed, bool scramble) {
    om_rng rng = om_rng_at(seed, 7);
    const bool many_types = seed % 2 == 0; /* finer steps: both limits bind more often */
    const instance_spec spec = { .seed = seed,
                                 .n_units = many_types ? 4 : 1 + (int) (om_rng_u64(&rng) % 10),
                                 .n_types = many_types ? 12 : 2 + (int) (om_rng_u64(&rng) % 2),
                                 .n_experts = 3 + (int) (om_rng_u64(&rng) % 2) };
    om_profile *profile = instance_profile(&spec);
    om_problem_options options = { .budget_bytes = 1,
                                   .max_active_bytes = 1,
                                   .untie_gate_up = om_rng_u64(&rng) % 2 == 0,
                                   .keep_dominated = scramble,
                                   .n_tiers = (int) (om_rng_u64(&rng) % 4) };
    om_problem p = { 0 }, raw = { 0 };
    om_error err = { 0 }, err_search = { 0 };
    assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
    options.keep_dominated = true;
    assert_int_equal(om_problem_build(&raw, profile, &options, &err), OM_OK);
    for (int i = 0; scramble && i < p.n_options; i++) {
        p.options[i].active_bytes = (int64_t) (om_rng_u64(&rng) % 100000);
        raw.options[i].active_bytes = p.options[i].active_bytes;
    }
    set_limits(&p, &rng);
    raw.budget_bytes = p.budget_bytes;
    raw.max_active_bytes = p.max_active_bytes;

    int pick[16], expected[16];
    om_choice_sum best;
    om_solution s = { 0 };
    const om_status want = om_problem_brute_force(expected, &best, &raw, &err);
    const om_status got = om_problem_solve(pick, &s, &p, 0.0, NULL, &err_search);
    if (want != got) {
        fail_msg("seed %llu: brute force %d, search %d: %s", (unsigned long long) seed, want, got,
                 err_search.text);
    }
    n_highs += s.n_cores > 0;
    n_infeasible += want == OM_E_INFEASIBLE;
    if (want == OM_OK) {
        const om_choice_sum again = om_problem_evaluate(&p, pick);
        assert_true(om_problem_feasible(&p, &again));
        assert_true(again.active_bytes <= p.max_active_bytes);
        if (fabs(again.nats - best.nats) > 1e-9 * best.nats || !s.proven) {
            fail_msg("seed %llu: search %.17g, brute force %.17g", (unsigned long long) seed,
                     again.nats, best.nats);
        }
        count_binding(&raw, best.nats);
    }
    om_problem_release(&p);
    om_problem_release(&raw);
    instance_free(profile);
}

static void test_equals_brute_force(void **state) {
    (void) state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        check_instance(seed, false);
    }
    print_message("infeasible %d, with HiGHS %d; size binds %d, active %d, both %d\n", n_infeasible,
                  n_highs, n_size, n_active, n_both);
    assert_true(n_infeasible > 10 && n_infeasible < 200 && n_highs > 100);
    assert_true(n_size > 50 && n_active > 50 && n_both > 10);
}

static void test_equals_brute_force_scrambled(void **state) {
    (void) state;
    for (uint64_t seed = 1001; seed <= 1200; seed++) {
        check_instance(seed, true);
    }
    print_message("both limits bind in %d instances\n", n_both);
    assert_true(n_both > 50);
}

/* The fewest active bytes really are: reachable, and not one byte fewer. */
static void test_least_active(void **state) {
    (void) state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const instance_spec spec = { .seed = seed, .n_units = 24, .n_types = 5, .n_experts = 4 };
        om_profile *profile = instance_profile(&spec);
        const om_problem_options options = { .budget_bytes = INT64_MAX,
                                             .max_active_bytes = 1,
                                             .n_tiers = (int) (seed % 3) };
        om_problem p = { 0 };
        om_error err = { 0 };
        om_solution s = { 0 };
        om_choice_sum least = { 0 };
        int pick[24];
        assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
        assert_int_equal(om_problem_least_active(pick, &least, &p, NULL, &err), OM_OK);
        p.max_active_bytes = least.active_bytes;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_OK);
        assert_true(s.sum.active_bytes == least.active_bytes);
        p.max_active_bytes = least.active_bytes - 1;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_E_INFEASIBLE);
        om_problem_release(&p);
        instance_free(profile);
    }
}

/* 300 tensors of 12 types, limits that both bind: proven, and both nearly used up. */
static void test_large(void **state) {
    (void) state;
    const instance_spec spec = { .seed = 5, .n_units = 300, .n_types = 12, .n_experts = 16 };
    om_profile *profile = instance_profile(&spec);
    for (int tiers = 0; tiers <= 4; tiers += 4) {
        om_problem p = { 0 };
        om_error err = { 0 };
        om_solution s = { 0 };
        int *pick = om_calloc((size_t) spec.n_units, sizeof *pick);
        const om_problem_options options = { .budget_bytes = profile->params / 8 * 4,
                                             .max_active_bytes = 1,
                                             .n_tiers = tiers };
        assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
        p.max_active_bytes = INT64_MAX;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_OK);
        const double free_nats = s.sum.nats;
        p.max_active_bytes = s.sum.active_bytes / 100 * 98;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_OK);
        assert_true(s.proven && s.gap <= 1e-7);
        const om_choice_sum again = om_problem_evaluate(&p, pick);
        assert_true(om_problem_feasible(&p, &again) && again.bytes == s.sum.bytes);
        assert_true((double) again.bytes > 0.995 * (double) p.budget_bytes);
        assert_true((double) again.active_bytes > 0.995 * (double) p.max_active_bytes);
        assert_true(again.nats > free_nats);
        om_problem_release(&p);
        om_free(pick);
    }
    instance_free(profile);
}

static void expect_words(const om_problem *p, const char *text) {
    const om_allocate_options options = { .n_tiers = 0 };
    om_profile profile = { .params = 1000, .units = (om_unit[]){ { .name = "a" } }, .n_units = 1 };
    om_error err = { 0 };
    int pick[1];
    assert_int_equal(om_infeasible(pick, p, &profile, &options, NULL, &err), OM_E_INFEASIBLE);
    if (strstr(err.text, text) == NULL) {
        fail_msg("expected '%s' in: %s", text, err.text);
    }
}

/* Which limit is to blame: one tensor whose small type reads much. */
static void test_words(void **state) {
    (void) state;
    om_option options[2] = { { .bytes = 10, .active_bytes = 9, .nats = 2.0 },
                             { .bytes = 20, .active_bytes = 5, .nats = 1.0 } };
    om_group group = { .member = { 0, -1 }, .n_members = 1, .pin = -1, .n_options = 2 };
    om_problem p = { .groups = &group,
                     .n_groups = 1,
                     .options = options,
                     .n_options = 2,
                     .formats = { om_format_by_name("q4_K") },
                     .n_formats = 1 };
    p.budget_bytes = 9;
    p.max_active_bytes = INT64_MAX;
    expect_words(&p, "the smallest file is 10 bytes");
    p.max_active_bytes = 4;
    expect_words(&p, "at least 5 bytes are read per token, too");
    p.budget_bytes = 15;
    p.max_active_bytes = 6;
    expect_words(&p, "not both: what fits the budget reads at least 9 bytes");
    p.budget_bytes = 25;
    p.max_active_bytes = 4;
    expect_words(&p, "the least that any choice within the budget reads is 5 bytes");
    p.budget_bytes = INT64_MAX;
    expect_words(&p, "the least that any choice reads is 5 bytes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_brute_force),
        cmocka_unit_test(test_equals_brute_force_scrambled),
        cmocka_unit_test(test_least_active),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
