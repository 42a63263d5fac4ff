/* Margins of a choice: against a sort of all scores, slopes against differences, and everything
 * that has no margin. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "assert_close.h"
#include "base/rng.h"
#include "calib/margin.h"

enum { SEED = 23, MOST = 40, ROUNDS = 2000 };

typedef struct ranked {
    float score;
    int64_t expert;
} ranked;

static int descending(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) {
        return x->score < y->score ? 1 : -1;
    }
    return x->expert < y->expert ? -1 : x->expert > y->expert;
}

static void rank(ranked *out, const float *scores, int64_t n) {
    for (int64_t e = 0; e < n; e++) {
        out[e] = (ranked){ scores[e], e };
    }
    qsort(out, (size_t) n, sizeof *out, descending);
}

/* Every other round on a coarse grid: scores that are equal. */
static void draw_scores(float *scores, int64_t n, om_rng *rng, bool coarse) {
    for (int64_t e = 0; e < n; e++) {
        const double u = om_rng_f64(rng);
        scores[e] = coarse ? (float) (1 + (int) (8 * u)) / 8.0F : (float) (1e-6 + u * u * u);
    }
}

/* The same experts in another order. */
static void shuffle(int64_t *chosen, int64_t n, om_rng *rng) {
    for (int64_t k = n - 1; k > 0; k--) {
        const int64_t with = (int64_t) (om_rng_u64(rng) % (uint64_t) (k + 1)), keep = chosen[k];
        chosen[k] = chosen[with];
        chosen[with] = keep;
    }
}

static void check_round(om_rng *rng, bool coarse, bool logarithm) {
    float scores[MOST];
    ranked order[MOST];
    int64_t chosen[MOST];
    const int64_t n = 2 + (int64_t) (om_rng_u64(rng) % (MOST - 1));
    const int64_t used = 1 + (int64_t) (om_rng_u64(rng) % (uint64_t) (n - 1));
    draw_scores(scores, n, rng, coarse);
    rank(order, scores, n);
    for (int64_t k = 0; k < used; k++) {
        chosen[k] = order[k].expert;
    }
    shuffle(chosen, used, rng);
    const double last = (double) order[used - 1].score, next = (double) order[used].score;
    const double want = logarithm ? log(last / next) : last - next;
    om_margin m = { 0 }, best = { 0 };
    assert_true(om_margin_of(&m, scores, n, chosen, used, logarithm));
    assert_true(om_margin_of_best(&best, scores, n, used, logarithm));
    assert_memory_equal(&m, &best, sizeof m);
    assert_close(m.value, want, 1e-15, 1e-12);
    assert_true(scores[m.last] == order[used - 1].score && scores[m.next] == order[used].score);
    bool last_chosen = false, next_chosen = false;
    for (int64_t k = 0; k < used; k++) {
        last_chosen = last_chosen || chosen[k] == m.last;
        next_chosen = next_chosen || chosen[k] == m.next;
    }
    assert_true(last_chosen && !next_chosen);
    if (!coarse) { /* nothing is equal: there is one answer */
        assert_true(m.last == order[used - 1].expert && m.next == order[used].expert);
    }
}

static void test_against_sort(void **state) {
    (void) state;
    om_rng rng = om_rng_at(SEED, 0);
    for (int round = 0; round < ROUNDS; round++) {
        check_round(&rng, round % 2 == 1, round / 2 % 2 == 1);
    }
}

static double value_of(const float *scores, int64_t n, const int64_t *chosen, int64_t used,
                       bool logarithm) {
    om_margin m = { 0 };
    assert_true(om_margin_of(&m, scores, n, chosen, used, logarithm));
    return m.value;
}

/* The slope of every score: zero but for two of them. */
static void test_slopes(void **state) {
    (void) state;
    enum { N = 12, USED = 4 };
    om_rng rng = om_rng_at(SEED, 1);
    for (int round = 0; round < 50; round++) {
        const bool logarithm = round % 2 == 0;
        float scores[N];
        ranked order[N];
        int64_t chosen[USED];
        om_margin m = { 0 };
        for (int e = 0; e < N; e++) { /* at least 0.01 apart, so that no step changes the order */
            scores[e] = 0.05F + 0.07F * (float) e + 0.05F * (float) om_rng_f64(&rng);
        }
        rank(order, scores, N);
        for (int k = 0; k < USED; k++) {
            chosen[k] = order[k].expert;
        }
        assert_true(om_margin_of(&m, scores, N, chosen, USED, logarithm));
        for (int e = 0; e < N; e++) {
            const float keep = scores[e], h = 0.002F;
            scores[e] = keep + h;
            const double up = value_of(scores, N, chosen, USED, logarithm),
                         high = (double) scores[e];
            scores[e] = keep - h;
            const double down = value_of(scores, N, chosen, USED, logarithm);
            const double got = (up - down) / (high - (double) scores[e]);
            scores[e] = keep;
            const double want = e == m.last   ? (double) m.slope_last
                                : e == m.next ? (double) m.slope_next
                                              : 0;
            assert_close(got, want, 1e-9, 1e-3);
        }
    }
}

static bool has_margin(const float *scores, int64_t n, int64_t used, bool logarithm) {
    om_margin m = { 0 };
    return om_margin_of_best(&m, scores, n, used, logarithm);
}

static void test_without_margin(void **state) {
    (void) state;
    const float good[4] = { 0.5F, 0.1F, 0.3F, 0.1F };
    assert_true(has_margin(good, 4, 1, true) && has_margin(good, 4, 3, true));
    assert_false(has_margin(good, 4, 4, true)); /* all are chosen */
    assert_false(has_margin(good, 4, 5, true));
    assert_false(has_margin(good, 4, OM_MARGIN_USED + 1, false));
    const float nan[3] = { NAN, NAN, NAN }, infinite[3] = { INFINITY, 1, 0 };
    assert_false(has_margin(nan, 3, 1, false));
    assert_false(has_margin(infinite, 3, 1, false));
    assert_true(has_margin(infinite, 3, 2, false)); /* it is not the last one chosen */
    /* Experts of other groups cannot be chosen; two that can, both are. */
    const float masked[4] = { -INFINITY, 0.25F, -INFINITY, 0.75F };
    assert_true(has_margin(masked, 4, 1, false));
    assert_false(has_margin(masked, 4, 2, false));
    const float zero[3] = { 1, 0, 0 };
    assert_true(has_margin(zero, 3, 1, false));
    assert_false(has_margin(zero, 3, 1, true)); /* infinitely far ahead */
}

/* Where a margin is given, its slopes are numbers: they become a gradient. */
static void test_slopes_are_finite(void **state) {
    (void) state;
    int given = 0;
    for (int power = 0; power < 150; power++) {
        const float scores[2] = { 1, (float) ldexp(1, -power) };
        om_margin m = { 0 };
        if (om_margin_of_best(&m, scores, 2, 1, true)) {
            assert_true(isfinite(m.value) && isfinite(m.slope_last) && isfinite(m.slope_next));
            given++;
        }
    }
    assert_true(given > 100);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sort),
        cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_without_margin),
        cmocka_unit_test(test_slopes_are_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
