/* Choosing windows that show all experts: the greedy choice against all choices of small problems,
 * and the router counts of a small model: complete, and the same whatever the number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "calib/cover.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { ENOUGH = 64 };

static void choose(int *chosen, int n, const om_cover_counts *c) {
    om_error err = { 0 };
    assert_int_equal(om_cover_choose(chosen, n, c, ENOUGH, &err), OM_OK);
    for (int i = 0; i < n; i++) {
        assert_in_range(chosen[i], i ? chosen[i - 1] + 1 : 0, c->n_windows - 1);
    }
}

static int64_t sum_of(const int *chosen, int n, const om_cover_counts *c) {
    int64_t sum = 0;
    (void) om_cover_few(&sum, chosen, n, c, ENOUGH);
    return sum;
}

/* ---- the choice ---- */

/* Experts 0 and 1 are everywhere, 2 only in window 7, 3 only in window 4. */
static void test_takes_the_rare(void **state) {
    (void) state;
    enum { W = 9, E = 4 };
    uint32_t counts[W][E];
    for (int w = 0; w < W; w++) {
        counts[w][0] = counts[w][1] = 40;
        counts[w][2] = w == 7 ? 5 : 0;
        counts[w][3] = w == 4 ? 64 : 0;
    }
    const om_cover_counts c = { &counts[0][0], W, E };
    int chosen[W];
    choose(chosen, 1, &c);
    assert_int_equal(chosen[0], 4);
    choose(chosen, 2, &c); /* 7 adds 5 more than the others */
    assert_int_equal(chosen[0], 4);
    assert_int_equal(chosen[1], 7);
    assert_int_equal(om_cover_few(NULL, chosen, 2, &c, ENOUGH), 1); /* 5 tokens is all there is */
    /* Nothing left to gain: the other two spread evenly over 0 1 2 3 5 6 8. */
    choose(chosen, 4, &c);
    static const int expected[4] = { 0, 3, 4, 7 };
    assert_memory_equal(chosen, expected, sizeof expected);
    choose(chosen, W, &c);
    assert_int_equal(chosen[W - 1], W - 1);
}

static void test_ties_to_the_earlier(void **state) {
    (void) state;
    uint32_t counts[5] = { 1, 3, 3, 3, 2 };
    const om_cover_counts c = { counts, 5, 1 };
    int chosen[2];
    choose(chosen, 2, &c);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(chosen[1], 2);
}

/* More tokens in sum, but more experts below the threshold than with the evenly spread window. */
static void test_is_never_worse(void **state) {
    (void) state;
    uint32_t counts[2][3] = { { 64, 0, 0 }, { 40, 40, 40 } };
    const om_cover_counts c = { &counts[0][0], 2, 3 };
    int chosen[1];
    choose(chosen, 1, &c);
    assert_int_equal(chosen[0], 0);
    counts[0][0] = 63; /* as many: the larger sum */
    choose(chosen, 1, &c);
    assert_int_equal(chosen[0], 1);
}

static void test_spread(void **state) {
    (void) state;
    int chosen[4];
    om_cover_spread(chosen, 4, 10);
    static const int expected[4] = { 0, 2, 5, 7 };
    assert_memory_equal(chosen, expected, sizeof expected);
}

/* The best sum over all sets of n windows. */
static int64_t best_sum(const om_cover_counts *c, int n) {
    int64_t best = 0;
    for (unsigned set = 0; set < 1U << c->n_windows; set++) {
        int chosen[16], k = 0;
        for (int w = 0; w < c->n_windows; w++) {
            if (set >> w & 1 && k < n) {
                chosen[k++] = w;
            }
        }
        const int64_t sum = sum_of(chosen, k, c);
        best = sum > best ? sum : best;
    }
    return best;
}

static void test_against_brute_force(void **state) {
    (void) state;
    enum { W = 9, E = 12, ROUNDS = 40 };
    om_rng rng = om_rng_at(20260101, 0);
    double worst = 1;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t counts[W * E];
        for (int i = 0; i < W * E; i++) { /* some experts are common, most are rare */
            const double u = om_rng_f64(&rng);
            counts[i] = (uint32_t) (u * u * u * (i % E < 4 ? 90 : 30));
        }
        const om_cover_counts c = { counts, W, E };
        const int n = 1 + round % 6;
        int greedy[W], again[W], spread[W];
        choose(greedy, n, &c);
        choose(again, n, &c);
        assert_memory_equal(greedy, again, (size_t) n * sizeof *greedy);
        om_cover_spread(spread, n, W);
        const int64_t sum = sum_of(greedy, n, &c), best = best_sum(&c, n);
        const int few = om_cover_few(NULL, greedy, n, &c, ENOUGH),
                  spread_few = om_cover_few(NULL, spread, n, &c, ENOUGH);
        assert_true(few < spread_few || (few == spread_few && sum >= sum_of(spread, n, &c)));
        assert_true(sum <= best);
        if (memcmp(greedy, spread, (size_t) n * sizeof *greedy) != 0) {
            worst = fmin(worst, (double) sum / (double) best);
        }
    }
    /* The bound is 1 - 1/e = 0.63; on problems of this kind greedy is nearly exact. */
    if (worst < 0.95) {
        fail_msg("a greedy choice reaches only %.3f of the best", worst);
    }
}

/* ---- the counts ---- */

enum { T = 24, N_WINDOWS = 3, N_LAYER = 2, N_EXPERT = 8, N_USED = 3 };

static char *dir;

static om_windows text(void) {
    static int32_t tokens[N_WINDOWS * T];
    for (int i = 0; i < N_WINDOWS * T; i++) {
        tokens[i] = 3 + i * i * 7 % 250;
    }
    return (om_windows){ .tokens = tokens, .n_windows = N_WINDOWS, .n_tokens = T, .n_vocab = 288 };
}

static om_model *open_model(const char *arch, int n_expert) {
    om_model *model = NULL;
    om_error err = { 0 };
    const char *path = om_tmpdir_path(dir, "m.gguf");
    om_tiny_model_write_with(path, &(om_tiny_options){ .arch = arch,
                                                       .n_layer = N_LAYER,
                                                       .n_ff = 64,
                                                       .n_vocab = 288,
                                                       .n_expert = n_expert,
                                                       .n_expert_used = N_USED });
    assert_int_equal(om_model_open(&model, path, &err), OM_OK);
    return model;
}

static void test_counts(void **state) {
    (void) state;
    om_model *model = open_model("qwen3moe", N_EXPERT);
    const om_windows w = text();
    om_cover_counts c[2];
    om_error err = { 0 };
    assert_int_equal(om_cover_experts(model), N_LAYER * N_EXPERT);
    for (int i = 0; i < 2; i++) {
        const om_env env = { .n_threads = 1 + i };
        if (om_cover_count(&c[i], model, &w, 0, &env, &err) != OM_OK) {
            fail_msg("%s", err.text);
        }
    }
    assert_int_equal(c[0].n_windows, N_WINDOWS);
    assert_int_equal(c[0].n_experts, N_LAYER * N_EXPERT);
    assert_memory_equal(c[0].counts, c[1].counts,
                        N_WINDOWS * N_LAYER * N_EXPERT * sizeof *c[0].counts);
    bool differ = false;
    for (int i = 0; i < N_WINDOWS * N_LAYER; i++) { /* every token has K experts in each layer */
        const uint32_t *layer = c[0].counts + (ptrdiff_t) i * N_EXPERT;
        uint32_t sum = 0;
        for (int e = 0; e < N_EXPERT; e++) {
            assert_true(layer[e] <= T);
            differ |= layer[e] != layer[0];
            sum += layer[e];
        }
        assert_int_equal(sum, T * N_USED);
    }
    assert_true(differ);
    om_cover_counts_release(&c[0]);
    om_cover_counts_release(&c[1]);

    const om_env env = { .n_threads = 1 };
    assert_int_equal(om_cover_count(&c[0], model, &w, 1 << 20, &env, &err), OM_E_LIMIT);
    assert_non_null(strstr(err.text, "--max-ram"));
    om_cover_counts_release(&c[0]);
    om_model_free(model);
}

static bool at_once(void *ud) {
    (void) ud;
    return true;
}

static void test_stops(void **state) {
    (void) state;
    const om_windows w = text();
    om_cover_counts c;
    om_error err = { 0 };
    om_model *model = open_model("qwen3moe", N_EXPERT);
    const om_env env = { .n_threads = 1, .cancelled = at_once };
    assert_int_equal(om_cover_count(&c, model, &w, 0, &env, &err), OM_E_CANCELLED);
    om_cover_counts_release(&c);
    om_model_free(model);
    model = open_model("qwen3", 0);
    assert_int_equal(om_cover_experts(model), 0);
    assert_int_equal(om_cover_count(&c, model, &w, 0, &env, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "has no experts"));
    om_cover_counts_release(&c);
    om_model_free(model);
}

static int setup(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return 0;
}

static int teardown(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_the_rare),
        cmocka_unit_test(test_ties_to_the_earlier),
        cmocka_unit_test(test_is_never_worse),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_against_brute_force),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_stops),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
