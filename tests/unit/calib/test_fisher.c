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
    om_fisher_weight w = { .name = "w",
                           .n_in = N_IN,
                           .n_out = N_OUT,
                           .rows = s.rows,
                           .cols = s.cols,
                           .in_sum2 = s.in_sum2,
                           .seen = s.seen };
    om_fisher f = { .weights = &w, .n_weights = 1, .bf16 = bf16 };
    om_compute *c = NULL;
    om_error err = { 0 };
    float *g = calloc(N_OUT * N_IN, sizeof *g);
    assert_non_null(g);
    assert_int_equal(om_compute_new(&c, n_threads, &err), OM_OK);
    for (int window = 0; window < 2; window++) {
        add_uses(&w, c, d);
        assert_int_equal(om_fisher_accumulate(&f, 0, c, g, &err), OM_OK);
        assert_int_equal(w.n_uses, 0);
    }
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
    assert_true(w.count == 2 * PRODUCTS * T);
    assert_true(s.seen[31] == 4 && s.seen[1099] == 2 && s.seen[1] == 0);
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
    sums s = { 0 };
    om_fisher_weight w = { .name = "blk.3.ffn_up.weight",
                           .n_in = N_IN,
                           .n_out = N_OUT,
                           .rows = s.rows,
                           .cols = s.cols,
                           .in_sum2 = s.in_sum2,
                           .seen = s.seen };
    om_fisher f = { .weights = &w, .n_weights = 1 };
    om_compute *c = NULL;
    om_error err = { 0 };
    assert_int_equal(om_compute_new(&c, 1, &err), OM_OK);
    d->delta[1][77] = NAN;
    add_uses(&w, c, d);
    assert_int_equal(om_fisher_accumulate(&f, 0, c, NULL, &err), OM_E_NUMERIC);
    assert_non_null(strstr(err.text, "blk.3.ffn_up.weight"));
    assert_int_equal(w.n_uses, 0);
    om_compute_free(c);
    free(d);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
