/* The banks of one layer: against every way to put a few experts into banks; costs that add up. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/bank_configs.h"
#include "bank_instance.h"

typedef struct fixture {
    om_profile *profile;
    om_stats *stats;
    om_problem p;
    om_bank_layer layer;
} fixture;

static fixture make(const bank_spec *spec) {
    fixture f = { 0 };
    om_error err = { 0 };
    const om_problem_options o = { .budget_bytes = INT64_MAX, .keep_dominated = true };
    f.profile = bank_profile(&f.stats, spec);
    assert_int_equal(om_problem_build(&f.p, f.profile, &o, &err), OM_OK);
    f.layer.experts = spec->n_experts;
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        f.layer.unit[k] = k;
        f.layer.group[k] = k;
    }
    if (om_bank_layer_init(&f.layer, &f.p, f.profile, f.stats, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return f;
}

static void release(fixture *f) {
    om_bank_layer_release(&f->layer);
    om_problem_release(&f->p);
    om_stats_free(f->stats);
    om_profile_free(f->profile);
}

static double at_price(const om_bank_config *c, const om_bank_price *price) {
    const double headers = (c->n_banks - 1) * (double) OM_BANK_HEADER_BYTES;
    return c->nats + price->routing * c->routing + price->byte * ((double) c->bytes - headers);
}

/* The cheapest types for the experts of one bank, one stack after the other. */
static double bank_cost(const fixture *f, const om_bank_price *price, const int *bank_of,
                        int bank) {
    double sum = 0;
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        const om_bank_types *s = &f->layer.stack[k];
        double least = HUGE_VAL;
        for (int j = 0; j < s->n; j++) {
            double cost = 0;
            for (int e = 0; e < f->layer.experts; e++) {
                const int i = e * s->n + j;
                cost += bank_of[e] != bank ? 0
                                           : s->nats[i] + price->routing * s->routing[i] +
                                                 price->byte * (double) s->bytes[j];
            }
            least = fmin(least, cost);
        }
        sum += least;
    }
    return sum;
}

/* All n^experts ways. */
static double brute_force(const fixture *f, const om_bank_price *price, int n) {
    int bank_of[8] = { 0 }, i;
    double best = HUGE_VAL;
    do {
        double cost = 0;
        for (int b = 0; b < n; b++) {
            cost += bank_cost(f, price, bank_of, b);
        }
        best = fmin(best, cost);
        for (i = 0; i < f->layer.experts && ++bank_of[i] == n; i++) {
            bank_of[i] = 0;
        }
    } while (i < f->layer.experts);
    return best;
}

/* Best configuration of at most n banks at a price; with one bank: the best types. */
static double best_found(fixture *f, const om_bank_price *price, int n) {
    om_error err = { 0 };
    const int keep[OM_BANK_STACKS] = { 0, 0, 0 };
    double best = HUGE_VAL;
    assert_int_equal(om_bank_layer_singles(&f->layer, keep, &err), OM_OK);
    assert_int_equal(om_bank_layer_add(&f->layer, price, n, &err), OM_OK);
    for (int i = 0; i < f->layer.n_configs; i++) {
        assert_in_range(f->layer.configs[i].n_banks, 1, n);
        best = fmin(best, at_price(&f->layer.configs[i], price));
    }
    return best;
}

/* Curves that are multiples of each other: cuts of the order of sensitivity are all there is. */
static void test_exact_for_multiples(void **state) {
    (void) state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        const bank_spec spec = {
            .seed = seed, .n_layers = 1, .n_experts = 6, .n_types = 5, .spread = 5.0
        };
        fixture f = make(&spec);
        /* one sensitivity for all stacks of an expert */
        for (int k = 1; k < OM_BANK_STACKS; k++) {
            memcpy(f.layer.stack[k].nats, f.layer.stack[0].nats,
                   (size_t) (6 * f.layer.stack[0].n) * sizeof(double));
        }
        const om_bank_price price = { exp(-16.0 + (double) (seed % 8)), 0 };
        const int together[6] = { 0 };
        const double want = brute_force(&f, &price, 3);
        om_error err = { 0 };
        double got = bank_cost(&f, &price, together, 0);
        assert_int_equal(om_bank_layer_add(&f.layer, &price, 3, &err), OM_OK);
        for (int i = 0; i < f.layer.n_configs; i++) {
            got = fmin(got, at_price(&f.layer.configs[i], &price));
        }
        if (!(fabs(got - want) <= 1e-9 * want)) {
            fail_msg("seed %d: %.12g, the best is %.12g", (int) seed, got, want);
        }
        release(&f);
    }
}

/* Any curves: never below the best, seldom above it, and never by much. */
static void test_close_to_brute_force(void **state) {
    (void) state;
    int equal = 0, n = 0;
    double worst = 0;
    for (uint64_t seed = 0; seed < 120; seed++) {
        const bank_spec spec = { .seed = seed,
                                 .n_layers = 1,
                                 .n_experts = 6,
                                 .n_types = 3 + (int) (seed % 4),
                                 .noise = 1.0,
                                 .spread = 4.0,
                                 .routed = seed % 2 == 1 };
        fixture f = make(&spec);
        const om_bank_price price = { exp(-16.0 + (double) (seed % 8)), seed % 2 == 1 ? 0.5 : 0 };
        const int banks = 2 + (int) (seed % 2);
        const double want = brute_force(&f, &price, banks);
        const double above = best_found(&f, &price, banks) / want - 1;
        assert_true(above > -1e-9);
        equal += above < 1e-9;
        worst = fmax(worst, above);
        n++;
        release(&f);
    }
    print_message("equal to the best in %d of %d, at most %.4f above\n", equal, n, worst);
    if (equal < n * 6 / 10 || worst > 0.06) {
        fail_msg("equal %d of %d, worst %.4f", equal, n, worst);
    }
}

/* What a configuration says of itself, counted again from its parts. */
static void test_sums(void **state) {
    (void) state;
    om_error err = { 0 };
    const bank_spec spec = { .seed = 5,
                             .n_layers = 1,
                             .n_experts = 150, /* more than there are places for cuts */
                             .n_types = 6,
                             .noise = 1.0,
                             .spread = 6.0,
                             .routed = true };
    fixture f = make(&spec);
    om_bank_layer *l = &f.layer;
    const om_bank_price price = { 2e-9, 0.1 };
    assert_int_equal(om_bank_layer_add(l, &price, OM_BANKS_MAX, &err), OM_OK);
    assert_true(l->n_configs >= 4);
    for (int i = 0; i < l->n_configs; i++) {
        const om_bank_config *c = &l->configs[i];
        int64_t bytes = (c->n_banks - 1) * (int64_t) OM_BANK_HEADER_BYTES;
        double nats = 0, routing = 0;
        int count[OM_BANKS_MAX] = { 0 };
        for (int e = 0; e < l->experts; e++) {
            assert_in_range(c->bank_of[e], 0, c->n_banks - 1);
            count[c->bank_of[e]]++;
            for (int k = 0; k < OM_BANK_STACKS; k++) {
                const int j = c->type[c->bank_of[e]][k];
                const om_format *type = f.p.formats[l->stack[k].options[j].format];
                bytes += om_format_size(type, BANK_IN, BANK_OUT);
                nats += l->stack[k].nats[e * l->stack[k].n + j];
                routing += l->stack[k].routing[e * l->stack[k].n + j];
            }
        }
        for (int b = 0; b < c->n_banks; b++) {
            assert_true(count[b] > 0);
            for (int a = 0; a < b; a++) { /* two banks alike would be one */
                assert_memory_not_equal(c->type[a], c->type[b], sizeof c->type[a]);
            }
        }
        assert_int_equal(c->bytes, bytes);
        assert_true(fabs(c->nats - nats) < 1e-12 && fabs(c->routing - routing) < 1e-12);
    }
    release(&f);
}

/* The shares of the experts add up to what the profile says of the stack. */
static void test_shares(void **state) {
    (void) state;
    const bank_spec spec = {
        .seed = 9, .n_layers = 1, .n_experts = 16, .n_types = 6, .spread = 6.0, .routed = true
    };
    fixture f = make(&spec);
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        const om_bank_types *s = &f.layer.stack[k];
        for (int j = 0; j < s->n; j++) {
            double nats = 0, routing = 0;
            for (int e = 0; e < f.layer.experts; e++) {
                nats += s->nats[e * s->n + j];
                routing += s->routing[e * s->n + j];
            }
            assert_true(fabs(nats - s->options[j].nats) <= 1e-12 * s->options[j].nats);
            assert_true(fabs(routing - s->options[j].routing) <= 1e-12 * s->options[j].routing);
            assert_int_equal(s->bytes[j] * f.layer.experts, s->options[j].bytes);
        }
    }
    /* the variance of an expert is what its cost alone says (eq. 15a): in the instance 0.3 nats */
    const om_bank_types *s = &f.layer.stack[0];
    for (int e = 0; e < f.layer.experts; e++) {
        assert_true(fabs(s->routing[e * s->n] - 0.3 * s->nats[e * s->n]) <
                    1e-5 * s->routing[e * s->n]);
    }
    release(&f);
}

static void test_prune(void **state) {
    (void) state;
    om_error err = { 0 };
    const bank_spec spec = {
        .seed = 3, .n_layers = 1, .n_experts = 12, .n_types = 6, .noise = 0.5, .spread = 4.0
    };
    const int keep[OM_BANK_STACKS] = { 0, 6, 0 }; /* a bad choice: one stack whole, two tiny */
    fixture f = make(&spec);
    om_bank_layer *l = &f.layer;
    const om_bank_price price = { 1e-8, 0 };
    assert_int_equal(om_bank_layer_singles(l, keep, &err), OM_OK);
    assert_int_equal(l->n_configs, 7 * 7 * 7);
    assert_int_equal(om_bank_layer_add(l, &price, 4, &err), OM_OK);
    assert_int_equal(om_bank_layer_prune(l, 0, &err), OM_OK);
    int kept = 0;
    double least = HUGE_VAL;
    for (int i = 0; i < l->n_configs; i++) {
        assert_true(i == 0 || l->configs[i].bytes >= l->configs[i - 1].bytes);
        assert_true(l->configs[i].keep || l->configs[i].nats < least);
        least = fmin(least, l->configs[i].nats);
        kept += l->configs[i].keep;
    }
    assert_int_equal(kept, 1);
    release(&f);
}

static void test_missing(void **state) {
    (void) state;
    const bank_spec spec = { .seed = 1, .n_layers = 1, .n_experts = 4, .n_types = 3 };
    fixture f = make(&spec);
    om_error err = { 0 };
    om_bank_layer l = { .experts = 4, .unit = { 0, 1, 2 }, .group = { 0, 1, 2 } };
    (void) snprintf(f.stats->tensors[1].nats_types, sizeof f.stats->tensors[1].nats_types, "q4_K");
    assert_int_equal(om_bank_layer_init(&l, &f.p, f.profile, f.stats, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "blk.0.ffn_up_exps.weight"));
    om_bank_layer_release(&l);
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_for_multiples),
        cmocka_unit_test(test_close_to_brute_force),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_prune),
        cmocka_unit_test(test_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
