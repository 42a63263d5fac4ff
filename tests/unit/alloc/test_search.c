/* The search against brute force: 500 random instances of up to 10 units, with pairs, pins and tier
 * limits; exact budget boundaries; infeasible budgets. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/search.h"
#include "alloc_instance.h"
#include "base/mem.h"

static int n_highs, n_infeasible; /* that the instances are not all easy */

static void check_instance(uint64_t seed) {
    om_rng rng = om_rng_at(seed, 1);
    instance_spec spec = { .seed = seed,
                           .n_units = 1 + (int) (om_rng_u64(&rng) % 10),
                           .n_types = 2 + (int) (om_rng_u64(&rng) % 2) };
    om_profile *profile = instance_profile(&spec);
    const char *pins[] = { "blk\\.0\\.ffn_down=q4_0" };
    om_problem_options options = { .budget_bytes = INT64_MAX,
                                   .untie_gate_up = om_rng_u64(&rng) % 2 == 0,
                                   .n_tiers = (int) (om_rng_u64(&rng) % 4) };
    if (om_rng_u64(&rng) % 3 == 0 && spec.n_units >= 3) {
        options.pins = pins;
        options.n_pins = 1;
    }
    om_problem p = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
    int64_t low = p.fixed_bytes, high = p.fixed_bytes;
    for (int g = 0; g < p.n_groups; g++) {
        low += om_problem_options_of(&p, g)[0].bytes;
        high += om_problem_options_of(&p, g)[p.groups[g].n_options - 1].bytes;
    }
    p.budget_bytes = low + (int64_t) ((1.15 * om_rng_f64(&rng) - 0.05) * (double) (high - low));

    int pick[16], expected[16];
    om_choice_sum best;
    om_solution solution = { 0 };
    om_error err_search = { 0 };
    /* Brute force sees every option: with a limit that never binds nothing is dropped beforehand.
     */
    om_problem raw = { 0 };
    options.n_tiers = p.n_tiers > 0 ? p.n_tiers : OM_PROBLEM_MAX_FORMATS;
    options.budget_bytes = p.budget_bytes;
    assert_int_equal(om_problem_build(&raw, profile, &options, &err), OM_OK);
    om_status want = om_problem_brute_force(expected, &best, &raw, &err);
    om_status got = om_problem_solve(pick, &solution, &p, 0.0, NULL, &err_search);
    if (want != got) {
        fail_msg("seed %llu: brute force %d, search %d: %s", (unsigned long long) seed, want, got,
                 err_search.text);
    }
    n_infeasible += want == OM_E_INFEASIBLE;
    n_highs += solution.n_cores > 0;
    if (want == OM_OK) {
        om_choice_sum again = om_problem_evaluate(&p, pick);
        assert_true(om_problem_feasible(&p, &again));
        assert_true(again.bytes == solution.sum.bytes);
        if (fabs(again.nats - best.nats) > 1e-9 * best.nats || !solution.proven) {
            fail_msg("seed %llu: search %.17g, brute force %.17g", (unsigned long long) seed,
                     again.nats, best.nats);
        }
        /* One byte less than the optimum needs: the answer must change, and not for the better. */
        p.budget_bytes = best.bytes;
        assert_int_equal(om_problem_solve(pick, &solution, &p, 0.0, NULL, &err), OM_OK);
        assert_true(fabs(solution.sum.nats - best.nats) <= 1e-9 * best.nats);
        p.budget_bytes = best.bytes - 1;
        if (om_problem_solve(pick, &solution, &p, 0.0, NULL, &err) == OM_OK) {
            assert_true(solution.sum.bytes < best.bytes);
            assert_true(solution.sum.nats >= best.nats * (1.0 - 1e-9));
        }
    }
    om_problem_release(&p);
    om_problem_release(&raw);
    instance_free(profile);
}

static void test_equals_brute_force(void **state) {
    (void) state;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        check_instance(seed);
    }
    print_message("infeasible %d, with HiGHS %d\n", n_infeasible, n_highs);
    assert_true(n_infeasible > 20 && n_infeasible < 200);
    assert_true(n_highs > 100);
}

/* A search of real size: the answer is within the budget, close to it, and proven. */
static void test_large(void **state) {
    (void) state;
    const instance_spec spec = { .seed = 5, .n_units = 400, .n_types = 12 };
    om_profile *profile = instance_profile(&spec);
    for (int tiers = 0; tiers <= 4; tiers += 2) {
        om_problem p = { 0 };
        om_error err = { 0 };
        om_solution s = { 0 };
        int *pick = om_calloc((size_t) spec.n_units, sizeof *pick);
        const om_problem_options options = { .budget_bytes = profile->params / 8 * 4,
                                             .n_tiers = tiers };
        assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_OK);
        assert_true(s.proven && s.gap <= 1e-7);
        assert_true(s.sum.bytes <= options.budget_bytes);
        assert_true((double) s.sum.bytes > 0.995 * (double) options.budget_bytes);
        assert_true(tiers == 0 || s.sum.n_types <= tiers);
        om_choice_sum again = om_problem_evaluate(&p, pick);
        assert_true(again.bytes == s.sum.bytes);
        om_problem_release(&p);
        om_free(pick);
    }
    instance_free(profile);
}

/* The smallest file really is: its size is feasible, one byte less is not. */
static void test_smallest(void **state) {
    (void) state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const instance_spec spec = { .seed = seed, .n_units = 24, .n_types = 5 };
        om_profile *profile = instance_profile(&spec);
        const om_problem_options options = { .budget_bytes = 1, .n_tiers = (int) (seed % 3) };
        om_problem p = { 0 };
        om_error err = { 0 };
        om_solution s = { 0 };
        om_choice_sum low = { 0 };
        int pick[24];
        assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
        assert_int_equal(om_problem_smallest(pick, &low, &p, NULL, &err), OM_OK);
        p.budget_bytes = low.bytes;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_OK);
        assert_true(s.sum.bytes == low.bytes);
        p.budget_bytes = low.bytes - 1;
        assert_int_equal(om_problem_solve(pick, &s, &p, 0.0, NULL, &err), OM_E_INFEASIBLE);
        om_problem_release(&p);
        instance_free(profile);
    }
}

static om_status build(om_problem *p, const om_profile *profile, const char *pin, const char *types,
                       bool untie, om_error *err) {
    const om_problem_options options = { .budget_bytes = INT64_MAX,
                                         .pins = &pin,
                                         .n_pins = pin != NULL,
                                         .types = types,
                                         .untie_gate_up = untie };
    memset(err, 0, sizeof *err);
    return om_problem_build(p, profile, &options, err);
}

static void expect_refusal(const om_profile *profile, const char *pin, const char *types,
                           const char *text) {
    om_problem p = { 0 };
    om_error err;
    assert_int_equal(build(&p, profile, pin, types, false, &err), OM_E_ARG);
    if (strstr(err.text, text) == NULL) {
        fail_msg("expected '%s' in: %s", text, err.text);
    }
    om_problem_release(&p);
}

static void test_pins_and_ties(void **state) {
    (void) state;
    const instance_spec spec = { .seed = 3, .n_units = 8, .n_types = 14 };
    om_profile *profile = instance_profile(&spec);
    om_problem p = { 0 };
    om_error err;
    expect_refusal(profile, "ffn_down=q4_0", NULL,
                   "no quantizable tensor"); /* not the whole name */
    expect_refusal(profile, "blk.*ffn_down=q9_0", NULL, "unknown type 'q9_0'");
    expect_refusal(profile, "blk.*ffn_down", NULL, "expected REGEX=TYPE");
    expect_refusal(profile, "blk.(=q4_0", NULL, "not a regular expression");
    expect_refusal(profile, "blk.0.ffn_down=f16", NULL, "it can have iq2_xxs");
    expect_refusal(profile, NULL, "q4_K,q5", "unknown type 'q5'");
    expect_refusal(profile, NULL, "mxfp4", "--types leaves nothing for blk.0.ffn_gate.weight");

    assert_int_equal(build(&p, profile, NULL, NULL, false, &err), OM_OK);
    assert_int_equal(p.n_groups, 6); /* 2 layers: gate with up, down, q */
    om_problem_release(&p);
    assert_int_equal(build(&p, profile, NULL, " q4_K , Q8_0", true, &err), OM_OK);
    assert_int_equal(p.n_groups, 8);
    assert_int_equal(p.n_formats, 2);
    om_problem_release(&p);
    /* With and without the suffix; a pin needs no place in --types; the pair follows. */
    assert_int_equal(build(&p, profile, "blk\\.1\\.ffn_up=q6_K", "q4_K", false, &err), OM_OK);
    assert_int_equal(p.groups[3].n_members, 2);
    assert_int_equal(p.groups[3].pin, 0);
    assert_string_equal(p.formats[om_problem_options_of(&p, 3)->format]->name, "q6_K");
    om_problem_release(&p);
    assert_int_equal(build(&p, profile, "blk\\.1\\.ffn_up\\.weight=q6_K", NULL, false, &err),
                     OM_OK);
    om_problem_release(&p);
    const char *both[] = { "blk.0.ffn_up=q6_K", "blk.0.ffn_gate=q8_0" };
    om_problem_options options = { .budget_bytes = INT64_MAX, .pins = both, .n_pins = 2 };
    assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_E_ARG);
    om_problem_release(&p);
    options.untie_gate_up = true;
    assert_int_equal(om_problem_build(&p, profile, &options, &err), OM_OK);
    om_problem_release(&p);
    instance_free(profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_brute_force),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_smallest),
        cmocka_unit_test(test_pins_and_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
