/* One weight's gradient and its sums from hand-made uses, against a naive reference in double: a
 * weight larger than the blocks it is formed in, two products and an embedding added before
 * squaring, tokens that repeat. Both arithmetics: F32, and BF16 factors. */
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
#include "calib/fisher.h"

enum { SEED = 3, N_IN = 520, N_OUT = 1100, T = 6, PRODUCTS = 2 };

typedef struct case_data {
    float x[PRODUCTS][T * N_IN], delta[PRODUCTS][T * N_OUT], embedded[T * N_IN];
    int64_t rows[T];
    double g[N_OUT * N_IN]; /* reference */
} case_data;

static float symmetric(om_rng *r) {
    return (float) (2 * om_rng_f64(r) - 1);
}

static case_data *make_data(void) {
    case_data *d = calloc(1, sizeof *d);
    assert_non_null(d);
    om_rng r = om_rng_at(SEED, 0);
    for (int p = 0; p < PRODUCTS; p++) {
        for (int i = 0; i < T * N_IN; i++) {
            d->x[p][i] = symmetric(&r);
        }
        for (int i = 0; i < T * N_OUT; i++) {
            d->delta[p][i] = symmetric(&r);
        }
    }
    for (int i = 0; i < T * N_IN; i++) {
        d->embedded[i] = symmetric(&r);
    }
    static const int64_t rows[T] = { 0, 1099, 31, 1024, 31, 1008 };
    memcpy(d->rows, rows, sizeof rows);
    for (int t = 0; t < T; t++) {
        for (int j = 0; j < N_IN; j++) {
            for (int p = 0; p < PRODUCTS; p++) {
                for (int i = 0; i < N_OUT; i++) {
                    d->g[i * N_IN + j] +=
                        (double) d->delta[p][t * N_OUT + i] * (double) d->x[p][t * N_IN + j];
                }
            }
            d->g[d->rows[t] * N_IN + j] += (double) d->embedded[t * N_IN + j];
        }
    }
    return d;
}

static float *owned(om_compute *c, const float *from, int64_t n) {
    float *p = om_compute_alloc(c, n);
    assert_non_null(p);
    memcpy(p, from, (size_t) n * sizeof *p);
    return p;
}

static void add_uses(om_fisher_weight *w, om_compute *c, const case_data *d) {
    for (int p = 0; p < PRODUCTS; p++) {
        w->uses[w->n_uses++] = (om_weight_use){ .x = d->x[p],
                                                .delta = owned(c, d->delta[p], T * N_OUT),
                                                .n_tokens = T };
    }
    w->uses[w->n_uses++] =
        (om_weight_use){ .delta = owned(c, d->embedded, T * N_IN), .rows = d->rows, .n_tokens = T };
}

/* |got − want| relative to |want|, both [n]. */
static double error_of(const double *got, const double *want, int n) {
    double error = 0, norm = 0;
    for (int i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    return sqrt(error / norm);
}

typedef struct sums {
    double rows[N_OUT], cols[N_IN], in_sum2[N_IN], seen[N_OUT];
} sums;

static sums reference_sums(const case_data *d) {
    sums s = { 0 };
    for (int i = 0; i < N_OUT; i++) {
        for (int j = 0; j < N_IN; j++) {
            const double g = d->g[i * N_IN + j];
            s.rows[i] += g * g;
            s.cols[j] += g * g;
        }
    }
    for (int k = 0; k < T * N_IN; k++) {
        for (int p = 0; p < PRODUCTS; p++) {
            s.in_sum2[k % N_IN] += (double) d->x[p][k] * (double) d->x[p][k];
        }
    }
    return s;
}

/* Two windows with the same uses; compares with the reference, returns the sums. */
static sums accumulate(const case_data *d, int n_threads, bool bf16, double tolerance) {
    sums s = { 0 };
    om_fisher_weight w = { .name = "w" };
    om_fisher f = { .weights = &w, .n_weights = 1, .bf16 = bf16 };
    om_compute *c = NULL;
    om_error err = { 0 };
    float *g = calloc(N_OUT * N_IN, sizeof *g);
    assert_non_null(g);
    assert_int_equal(om_compute_new(&c, n_threads, &err), OM_OK);
    assert_int_equal(om_fisher_weight_init(&w, N_OUT, N_IN, 1, &err), OM_OK);
    for (int window = 0; window < 2; window++) {
        add_uses(&w, c, d);
        assert_int_equal(om_fisher_accumulate(&f, 0, c, g, &err), OM_OK);
        assert_int_equal(w.n_uses, 0);
    }
    memcpy(s.rows, w.rows, sizeof s.rows);
    memcpy(s.cols, w.cols, sizeof s.cols);
    memcpy(s.in_sum2, w.in_sum2, sizeof s.in_sum2);
    memcpy(s.seen, w.seen, sizeof s.seen);
    double error = 0, norm = 0;
    for (int i = 0; i < N_OUT * N_IN; i++) {
        error += ((double) g[i] - d->g[i]) * ((double) g[i] - d->g[i]);
        norm += d->g[i] * d->g[i];
    }
    assert_true(sqrt(error / norm) < tolerance);
    sums want = reference_sums(d);
    for (int i = 0; i < N_OUT; i++) {
        want.rows[i] *= 2;
    }
    for (int j = 0; j < N_IN; j++) {
        want.cols[j] *= 2, want.in_sum2[j] *= 2;
    }
    assert_true(error_of(s.rows, want.rows, N_OUT) < tolerance);
    assert_true(error_of(s.cols, want.cols, N_IN) < tolerance);
    assert_true(error_of(s.in_sum2, want.in_sum2, N_IN) < 1e-12); /* never rounded */
    assert_true(*w.count == 2 * PRODUCTS * T && *w.windows == 2);
    assert_true(s.seen[31] == 4 && s.seen[1099] == 2 && s.seen[1] == 0);
    om_fisher_weight_release(&w);
    om_compute_free(c);
    free(g);
    return s;
}

static void test_accumulate(void **state) {
    (void) state;
    case_data *d = make_data();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const double tolerance = bf16 ? 5e-3 : 1e-6;
        const sums one = accumulate(d, 1, bf16, tolerance), two = accumulate(d, 2, bf16, tolerance);
        assert_memory_equal(&one, &two, sizeof one);
    }
    free(d);
}

/* A gradient with a NaN is an error that names the weight; the uses are gone all the same. */
static void test_not_finite(void **state) {
    (void) state;
    case_data *d = make_data();
    om_fisher_weight w = { .name = "blk.3.ffn_up.weight" };
    om_fisher f = { .weights = &w, .n_weights = 1 };
    om_compute *c = NULL;
    om_error err = { 0 };
    assert_int_equal(om_compute_new(&c, 1, &err), OM_OK);
    assert_int_equal(om_fisher_weight_init(&w, N_OUT, N_IN, 1, &err), OM_OK);
    d->delta[1][77] = NAN;
    add_uses(&w, c, d);
    assert_int_equal(om_fisher_accumulate(&f, 0, c, NULL, &err), OM_E_NUMERIC);
    assert_non_null(strstr(err.text, "blk.3.ffn_up.weight"));
    assert_int_equal(w.n_uses, 0);
    om_fisher_weight_release(&w);
    om_compute_free(c);
    free(d);
}

/* ---- stacks of experts ---- */

enum { EXPERTS = 5, SLOTS = 2, TOKENS = 24, WIDE = 32, HIGH = 40 };

/* Token t goes to two of the first four experts, the first of them often; the last sees none. */
static void choose(int64_t experts[TOKENS * SLOTS]) {
    for (int t = 0; t < TOKENS; t++) {
        experts[t * SLOTS] = t % 3 ? 0 : 1;
        experts[t * SLOTS + 1] = 2 + t % 2;
    }
}

/* [EXPERTS, …] sums of the plain definition, in double. */
typedef struct stack_sums {
    double rows[EXPERTS * HIGH], cols[EXPERTS * WIDE], in_sum2[EXPERTS * WIDE];
    double count[EXPERTS], router_weight[EXPERTS];
} stack_sums;

static void brute_force(stack_sums *s, float *gradients, const om_weight_use *use) {
    for (int e = 0; e < EXPERTS; e++) {
        static double g[HIGH * WIDE];
        memset(g, 0, sizeof g);
        for (int slot = 0; slot < TOKENS * SLOTS; slot++) {
            const float *x = use->x + (use->shared_x ? slot / SLOTS : slot) * WIDE;
            if (use->experts[slot] != e) {
                continue;
            }
            s->count[e] += 1;
            s->router_weight[e] += (double) use->router_weights[slot];
            for (int j = 0; j < WIDE; j++) {
                s->in_sum2[e * WIDE + j] += (double) x[j] * (double) x[j];
                for (int i = 0; i < HIGH; i++) {
                    g[i * WIDE + j] += (double) use->delta[slot * HIGH + i] * (double) x[j];
                }
            }
        }
        for (int k = 0; k < HIGH * WIDE; k++) {
            s->rows[e * HIGH + k / WIDE] += g[k] * g[k];
            s->cols[e * WIDE + k % WIDE] += g[k] * g[k];
            gradients[e * HIGH * WIDE + k] = (float) g[k];
        }
    }
}

static void check_stack(bool shared_x, bool want_gradient) {
    static float x[TOKENS * SLOTS * WIDE], delta[TOKENS * SLOTS * HIGH], weights[TOKENS * SLOTS];
    static float got[EXPERTS * HIGH * WIDE], expected[EXPERTS * HIGH * WIDE];
    static stack_sums want;
    int64_t experts[TOKENS * SLOTS];
    om_fisher_weight w = { .name = "blk.0.ffn_up_exps.weight" };
    om_fisher f = { .weights = &w, .n_weights = 1 };
    om_error err = { 0 };
    om_compute *c = NULL;
    om_rng r = om_rng_at(SEED, 7);
    for (int i = 0; i < TOKENS * SLOTS * WIDE; i++) {
        x[i] = symmetric(&r);
    }
    for (int i = 0; i < TOKENS * SLOTS * HIGH; i++) {
        delta[i] = symmetric(&r);
    }
    for (int i = 0; i < TOKENS * SLOTS; i++) {
        weights[i] = (float) om_rng_f64(&r);
    }
    choose(experts);
    assert_int_equal(om_compute_new(&c, 2, &err), OM_OK);
    assert_int_equal(om_fisher_weight_init(&w, HIGH, WIDE, EXPERTS, &err), OM_OK);
    om_weight_use use = { .x = x,
                          .delta = owned(c, delta, TOKENS * SLOTS * HIGH),
                          .n_tokens = TOKENS,
                          .n_slots = SLOTS,
                          .experts = experts,
                          .router_weights = weights,
                          .shared_x = shared_x };
    memset(&want, 0, sizeof want);
    brute_force(&want, expected, &use);
    w.uses[w.n_uses++] = use;
    assert_int_equal(om_fisher_accumulate(&f, 0, c, want_gradient ? got : NULL, &err), OM_OK);
    assert_true(error_of(w.rows, want.rows, EXPERTS * HIGH) < 1e-6);
    assert_true(error_of(w.cols, want.cols, EXPERTS * WIDE) < 1e-6);
    assert_true(error_of(w.in_sum2, want.in_sum2, EXPERTS * WIDE) < 1e-12);
    assert_true(error_of(w.router_weight, want.router_weight, EXPERTS) < 1e-12);
    for (int e = 0; e < EXPERTS; e++) {
        assert_true(w.count[e] == want.count[e] && w.windows[e] == (want.count[e] > 0));
    }
    for (int k = 0; k < EXPERTS * HIGH * WIDE && want_gradient; k++) {
        assert_true(fabsf(got[k] - expected[k]) < 1e-5F);
    }
    om_fisher_weight_release(&w);
    om_compute_free(c);
}

/* With and without the gradient itself: the second way goes through Gram matrices for the experts
 * with few tokens (2·T·(32 + 40) < 32·40: T ≤ 8), through the product for the others. */
static void test_stack(void **state) {
    (void) state;
    check_stack(true, true);
    check_stack(true, false);
    check_stack(false, true);
    check_stack(false, false);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
