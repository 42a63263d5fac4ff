/* The search with changed choices of experts against brute force, which evaluates the true
 * objective: hundreds of random instances with tiers and pins. Equal, and no program with the
 * objective's tangent improves an answer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "alloc/routed.h"
#include "alloc_instance.h"
#include "base/file.h"
#include "base/mem.h"
#include "tmpdir.h"

enum { SEED = 20260, ROUNDS = 300, MOST_UNITS = 9 };

/* Costs of changed choices: per unit another ratio to its nats; units behind the last router have
 * none. In sum they cost between a hundredth of the nats and a hundred times as much. */
static void add_routing(om_profile *p, uint64_t seed) {
    om_rng rng = om_rng_at(seed, 77);
    double nats = 0, routing = 0;
    for (int i = 0; i < p->n_units; i++) {
        om_unit *u = &p->units[i];
        const double ratio = om_rng_u64(&rng) % 4 == 0 ? 0 : exp(4 * om_rng_f64(&rng));
        for (int j = 0; j < u->n_choices; j++) {
            u->choices[j].routing = u->choices[j].nats * ratio * (0.8 + 0.4 * om_rng_f64(&rng));
        }
        nats += u->choices[0].nats;
        routing += u->choices[0].routing;
    }
    p->routers.items = om_calloc(2, sizeof *p->routers.items);
    assert_non_null(p->routers.items);
    p->routers.n = 2;
    const double share = pow(10, 4 * om_rng_f64(&rng) - 2);
    const double weight = routing > 0 ? nats * share * nats * share / routing : 1;
    p->routers.items[0].weight = 0.25 * weight;
    p->routers.items[1].weight = 0.75 * weight;
}

typedef struct instance {
    om_profile *profile;
    om_problem p;   /* as the verb builds it */
    om_problem raw; /* nothing dropped beforehand */
} instance;

static void set_budget(om_problem *p, double at) {
    int64_t low = p->fixed_bytes, high = p->fixed_bytes;
    for (int g = 0; g < p->n_groups; g++) {
        low += om_problem_options_of(p, g)[0].bytes;
        high += om_problem_options_of(p, g)[p->groups[g].n_options - 1].bytes;
    }
    p->budget_bytes = low + (int64_t) (at * (double) (high - low));
}

static instance make(uint64_t seed, bool routed) {
    om_rng rng = om_rng_at(seed, 1);
    om_error err = { 0 };
    instance x = { 0 };
    const char *pins[] = { "blk\\.0\\.ffn_down=q4_0" };
    const instance_spec spec = { .seed = seed,
                                 .n_units = 2 + (int) (om_rng_u64(&rng) % (MOST_UNITS - 1)),
                                 .n_types = 2 + (int) (om_rng_u64(&rng) % 2) };
    om_problem_options o = { .budget_bytes = INT64_MAX,
                             .untie_gate_up = om_rng_u64(&rng) % 2 == 0,
                             .n_tiers = om_rng_u64(&rng) % 3 == 0 ? 2 : 0 };
    if (om_rng_u64(&rng) % 4 == 0 && spec.n_units >= 3) {
        o.pins = pins;
        o.n_pins = 1;
    }
    x.profile = instance_profile(&spec);
    if (routed) {
        add_routing(x.profile, seed);
    }
    assert_int_equal(om_problem_build(&x.p, x.profile, &o, &err), OM_OK);
    o.keep_dominated = true;
    assert_int_equal(om_problem_build(&x.raw, x.profile, &o, &err), OM_OK);
    set_budget(&x.raw, 1.1 * om_rng_f64(&rng) - 0.05);
    x.p.budget_bytes = x.raw.budget_bytes;
    return x;
}

static void release(instance *x) {
    om_problem_release(&x->p);
    om_problem_release(&x->raw);
    instance_free(x->profile);
}

/* ---- against brute force ---- */

typedef struct tally {
    int solved, infeasible, equal;
    double worst, sum; /* nats over the optimum, relative */
} tally;

/* The objective, in nobody's code but this. */
static double objective(const om_problem *p, const int *pick) {
    double nats = 0, routing = 0;
    for (int g = 0; g < p->n_groups; g++) {
        nats += om_problem_options_of(p, g)[pick[g]].nats;
        routing += om_problem_options_of(p, g)[pick[g]].routing;
    }
    return nats + sqrt(p->routing_weight * routing);
}

/* With the tangent at the answer in place of the root, nothing better is found. */
static void check_fixpoint(const om_problem *p, const om_solution *s, uint64_t seed) {
    om_problem linear = *p;
    int pick[MOST_UNITS];
    om_solution again = { 0 };
    om_error err = { 0 };
    const double slope = s->sum.routing > 0 ? sqrt(p->routing_weight / s->sum.routing) / 2 : 0;
    linear.routing_weight = 0;
    linear.options = om_calloc((size_t) p->n_options, sizeof *linear.options);
    for (int i = 0; i < p->n_options; i++) {
        linear.options[i] = p->options[i];
        linear.options[i].nats += slope * p->options[i].routing;
    }
    assert_int_equal(om_problem_solve(pick, &again, &linear, 0, NULL, &err), OM_OK);
    if (objective(p, pick) < s->sum.nats * (1 - 1e-8)) {
        fail_msg("seed %llu: the next step gives %.17g, the answer is %.17g",
                 (unsigned long long) seed, objective(p, pick), s->sum.nats);
    }
    om_free(linear.options);
}

static void check_instance(uint64_t seed, tally *t) {
    instance x = make(seed, true);
    int pick[MOST_UNITS], best_pick[MOST_UNITS];
    om_choice_sum best;
    om_solution s = { 0 };
    om_error err = { 0 }, why = { 0 };
    const om_status want = om_problem_brute_force(best_pick, &best, &x.raw, &err);
    const om_status got = om_problem_solve_routed(pick, &s, &x.p, 0, NULL, &why);
    if (want != got) {
        fail_msg("seed %llu: brute force %d, search %d: %s", (unsigned long long) seed, want, got,
                 why.text);
    }
    t->infeasible += want == OM_E_INFEASIBLE;
    if (want == OM_OK) {
        const om_choice_sum sum = om_problem_evaluate(&x.p, pick);
        assert_true(om_problem_feasible(&x.p, &sum));
        assert_true(sum.bytes == s.sum.bytes && sum.nats == s.sum.nats);
        assert_true(fabs(objective(&x.p, pick) - sum.nats) <= 1e-12 * sum.nats);
        assert_true(fabs(objective(&x.raw, best_pick) - best.nats) <= 1e-12 * best.nats);
        const double over = best.nats > 0 ? sum.nats / best.nats - 1 : sum.nats;
        if (over < -1e-9 || over > 1e-8) {
            fail_msg("seed %llu: search %.17g, brute force %.17g", (unsigned long long) seed,
                     sum.nats, best.nats);
        }
        t->solved++;
        t->equal += over <= 1e-9;
        t->worst = fmax(t->worst, over);
        t->sum += over;
        check_fixpoint(&x.p, &s, seed);
    }
    release(&x);
}

static void test_against_brute_force(void **state) {
    (void) state;
    tally t = { 0 };
    for (uint64_t i = 0; i < ROUNDS; i++) {
        check_instance(SEED + i, &t);
    }
    print_message("%d solved, %d infeasible; the optimum in %d, else at most %.3g %% above it "
                  "(mean %.2g %%)\n",
                  t.solved, t.infeasible, t.equal, 100 * t.worst, 100 * t.sum / t.solved);
    assert_true(t.solved > ROUNDS * 8 / 10);
    assert_true(t.equal == t.solved);
}

/* A search of real size: close to the best, and says how close. */
static void test_large(void **state) {
    (void) state;
    const instance_spec spec = { .seed = 5, .n_units = 400, .n_types = 12 };
    om_profile *profile = instance_profile(&spec);
    om_error err = { 0 };
    om_problem p = { 0 };
    om_solution s = { 0 };
    int *pick = om_calloc((size_t) spec.n_units, sizeof *pick);
    add_routing(profile, SEED);
    const om_problem_options o = { .budget_bytes = profile->params / 8 * 4 };
    assert_int_equal(om_problem_build(&p, profile, &o, &err), OM_OK);
    for (int power = -4; power <= 4; power += 4) {
        om_problem q = p;
        q.routing_weight = p.routing_weight * pow(10, power);
        assert_int_equal(om_problem_solve_routed(pick, &s, &q, 0, NULL, &err), OM_OK);
        print_message("weight 1e%d: gap %.2g, %.2f s, changed choices %.3g of %.3g nats\n", power,
                      s.gap, s.seconds, sqrt(q.routing_weight * s.sum.routing), s.sum.nats);
        assert_true(s.proven && s.gap <= 1.1e-4 && s.sum.bytes <= o.budget_bytes);
        assert_true(fabs(objective(&q, pick) - s.sum.nats) <= 1e-12 * s.sum.nats);
    }
    om_problem_release(&p);
    om_free(pick);
    instance_free(profile);
}

/* Without routers nothing is new: the same choice, sums and number of programs. */
static void test_dense(void **state) {
    (void) state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        instance x = make(SEED + seed, false);
        int pick[MOST_UNITS] = { 0 }, plain[MOST_UNITS] = { 0 };
        om_solution s = { 0 }, t = { 0 };
        om_error err = { 0 };
        assert_true(x.p.routing_weight == 0);
        const om_status want = om_problem_solve(plain, &t, &x.p, 0, NULL, &err);
        assert_int_equal(om_problem_solve_routed(pick, &s, &x.p, 0, NULL, &err), want);
        assert_memory_equal(pick, plain, sizeof pick);
        assert_true(s.sum.bytes == t.sum.bytes && s.sum.nats == t.sum.nats && s.gap == t.gap);
        assert_int_equal(s.n_cores, t.n_cores);
        release(&x);
    }
}

/* The same weight everywhere, a hundred times: the answer moves towards less routing. */
static void test_weight_matters(void **state) {
    (void) state;
    int less = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        instance x = make(SEED + seed, true);
        int pick[MOST_UNITS];
        om_solution light = { 0 }, heavy = { 0 };
        om_error err = { 0 };
        om_problem p = x.p;
        p.routing_weight /= 1e4;
        if (om_problem_solve_routed(pick, &light, &p, 0, NULL, &err) == OM_OK) {
            p.routing_weight *= 1e8;
            assert_int_equal(om_problem_solve_routed(pick, &heavy, &p, 0, NULL, &err), OM_OK);
            assert_true(heavy.sum.routing <= light.sum.routing * (1 + 1e-9));
            less += heavy.sum.routing < light.sum.routing;
        }
        release(&x);
    }
    assert_true(less > 5);
}

/* ---- allocation.json ---- */

static om_status allocate(om_allocation **out, const char *profile, const char *to, om_error *err) {
    om_result result = { 0 };
    const om_allocate_options o = { .profile = profile,
                                    .out = to,
                                    .budget = { .kind = OM_BUDGET_BPW, .bpw = 4.5 } };
    om_status status = om_allocate(&result, &o, NULL, err);
    if (status == OM_OK) {
        assert_non_null(strstr(result.text, "changed choices of experts"));
        status = om_allocation_read(out, to, err);
    }
    om_result_release(&result);
    return status;
}

/* The verb's sums against the profile's figures, and one piece replaced. */
static void test_allocation_file(void **state) {
    (void) state;
    char *dir = om_tmpdir_new(), *text = NULL;
    size_t n = 0;
    om_error err = { 0 };
    const instance_spec spec = { .seed = SEED, .n_units = 24, .n_types = 10 };
    om_profile *p = instance_profile(&spec);
    om_allocation *a = NULL, *b = NULL;
    const char *profile = om_tmpdir_path(dir, "p.json"), *to = om_tmpdir_path(dir, "a.json"),
               *copy = om_tmpdir_path(dir, "b.json");
    add_routing(p, SEED);
    assert_int_equal(om_profile_write(p, profile, &err), OM_OK);
    if (allocate(&a, profile, to, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    double nats = 0, routing = 0;
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = &p->units[i];
        const om_choice *c = om_unit_choice(u, om_allocation_find(a, u->name));
        nats += c->nats;
        routing += c->routing;
    }
    const double extra = sqrt((p->routers.items[0].weight + p->routers.items[1].weight) * routing);
    assert_true(extra > 0 && fabs(a->routing_nats - extra) <= 1e-12 * extra);
    assert_true(fabs(a->predicted_nats - nats - extra) <= 1e-12 * (nats + extra));
    assert_int_equal(om_allocation_write(a, copy, &err), OM_OK);
    assert_int_equal(om_allocation_read(&b, copy, &err), OM_OK);
    assert_true(b->routing_nats == a->routing_nats && b->predicted_nats == a->predicted_nats);
    assert_string_equal(a->sha256, b->sha256);
    om_allocation_free(b);
    assert_int_equal(om_file_read(&text, &n, to, 1 << 20, &err), OM_OK);
    static const char *const bad[] = { "-1e-3", "1e9", "\"x\"", "{}" };
    for (int i = 0; i < 4; i++) {
        static const char key[] = "\"routing_nats\": ";
        char damaged[1 << 15];
        const char *at = strstr(text, key);
        assert_non_null(at);
        at += strlen(key);
        const int size = snprintf(damaged, sizeof damaged, "%.*s%s%s", (int) (at - text), text,
                                  bad[i], strchr(at, ','));
        b = NULL;
        err = (om_error){ 0 };
        const char *file = om_tmpdir_write(dir, "d.json", damaged, (size_t) size);
        assert_int_equal(om_allocation_read(&b, file, &err), OM_E_FORMAT);
        assert_true(b == NULL && strstr(err.text, "routing_nats") && !strchr(err.text, '\n'));
    }
    om_free(text);
    om_allocation_free(a);
    instance_free(p);
    om_tmpdir_remove(dir);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_brute_force),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_weight_matters),
        cmocka_unit_test(test_allocation_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
