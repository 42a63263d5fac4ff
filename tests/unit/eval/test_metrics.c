/* metrics.c against a naive double implementation with libm, and against formulas by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/metrics.h"

static double gauss(om_rng *r) {
    return sqrt(-2.0 * log(1.0 - om_rng_f64(r))) * cos(6.283185307179586 * om_rng_f64(r));
}

static long double naive_lse(const float *x, int64_t n) {
    long double peak = (long double) x[0], sum = 0.0L;
    for (int64_t i = 1; i < n; i++) {
        peak = (long double) x[i] > peak ? (long double) x[i] : peak;
    }
    for (int64_t i = 0; i < n; i++) {
        sum += expl((long double) x[i] - peak);
    }
    return peak + logl(sum);
}

static long double naive_kld(const float *p, const float *q, int64_t n) {
    const long double zp = naive_lse(p, n), zq = naive_lse(q, n);
    long double kld = 0.0L;
    for (int64_t i = 0; i < n; i++) {
        const long double lp = (long double) p[i] - zp;
        kld += expl(lp) * (lp - ((long double) q[i] - zq));
    }
    return kld;
}

static int64_t naive_top(const float *x, int64_t n) {
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++) {
        top = x[i] > x[top] ? i : top;
    }
    return top;
}

static void assert_near(double got, double want, double rel, double abs) {
    if (!(fabs(got - want) <= abs + rel * fabs(want))) {
        fail_msg("got %.17g, want %.17g (relative %.3g)", got, want, fabs(got / want - 1.0));
    }
}

static void exp_is_exact_to_the_last_place(void **state) {
    (void) state;
    double worst = 0.0;
    for (int i = 0; i <= 2000000; i++) {
        float x = (float) (-87.0 + 174.0 * i / 2000000.0), y;
        om_exp_row(&y, &x, 1);
        worst = fmax(worst, fabs((double) y / exp((double) x) - 1.0));
    }
    print_message("largest relative error of exp: %.3g\n", worst);
    assert_true(worst <= 1.2e-7);
    const float edge[] = { 0.0f, -1e9f, -INFINITY, -88.0f, 88.0f, 1e9f };
    float out[6];
    om_exp_row(out, edge, 6);
    assert_true(out[0] == 1.0f && out[1] == 0.0f && out[2] == 0.0f && out[3] == 0.0f);
    assert_true(out[4] == out[5] && isfinite(out[5]));
}

static void check_pair(int64_t n, double width, double shift, uint64_t stream) {
    enum { V_MAX = 5003 };
    static float ref[V_MAX], model[V_MAX], scratch[V_MAX];
    om_rng rng = om_rng_at(7, stream);
    for (int64_t i = 0; i < n; i++) {
        ref[i] = (float) (4.0 * gauss(&rng));
        model[i] = (float) ((double) ref[i] + width * gauss(&rng) + shift);
    }
    const int32_t label = (int32_t) (om_rng_u64(&rng) % (uint64_t) n);
    om_row_score s;
    assert_true(om_score_row(&s, ref, model, n, label, scratch));
    /* Without a shift small differences are exact; with one they are rounded to 5e-7. */
    const double rel = 2e-6 + (shift != 0.0 ? 1e-6 / (width + 1e-9) : 0.0);
    assert_near(s.kld, (double) naive_kld(ref, model, n), rel, 1e-13);
    assert_near(s.nll, (double) (naive_lse(model, n) - (long double) model[label]), 1e-7, 5e-7);
    assert_near(s.nll_ref, (double) (naive_lse(ref, n) - (long double) ref[label]), 1e-7, 5e-7);
    assert_int_equal(s.same_top, naive_top(ref, n) == naive_top(model, n));
}

static void rows_agree_with_naive_double(void **state) {
    (void) state;
    const int64_t sizes[] = { 1, 2, 15, 16, 17, 255, 256, 257, 1000, 5003 };
    const double widths[] = { 0.0, 1e-4, 1e-2, 0.1, 1.0, 5.0 };
    for (size_t a = 0; a < sizeof(sizes) / sizeof(*sizes); a++) {
        for (size_t b = 0; b < sizeof(widths) / sizeof(*widths); b++) {
            check_pair(sizes[a], widths[b], 0.0, a * 100 + b);
            check_pair(sizes[a], widths[b], 3.0, a * 100 + b + 50);
        }
    }
}

static void equal_rows_give_exactly_zero(void **state) {
    (void) state;
    static float row[777], scratch[777];
    om_rng rng = om_rng_at(1, 1);
    for (int i = 0; i < 777; i++) {
        row[i] = (float) (30.0 * gauss(&rng));
    }
    om_row_score s;
    assert_true(om_score_row(&s, row, row, 777, 3, scratch));
    assert_true(s.kld == 0.0);
    assert_true(s.nll == s.nll_ref);
    assert_true(s.same_top);
}

static void far_apart_rows_do_not_overflow(void **state) {
    (void) state;
    float ref[3] = { 500.0f, 0.0f, 0.0f }, model[3] = { 0.0f, 500.0f, -500.0f }, scratch[3];
    om_row_score s;
    assert_true(om_score_row(&s, ref, model, 3, 0, scratch));
    assert_near(s.kld, 500.0, 1e-6, 0);
    assert_near(s.nll, 500.0, 1e-6, 0);
    assert_false(s.same_top);
    ref[1] = -3.4e38f; /* a suppressed token */
    model[1] = -3.4e38f;
    assert_true(om_score_row(&s, ref, model, 3, 0, scratch));
    assert_near(s.kld, 0.0, 0, 1e-12);
    /* mass 1e-30 where the model has all of its mass */
    const float a[2] = { 0.0f, -69.0f }, b[2] = { 0.0f, 30.0f };
    assert_true(om_score_row(&s, a, b, 2, 0, scratch));
    assert_near(s.kld, (double) naive_kld(a, b, 2), 1e-6, 0);
}

static void bad_logits_are_reported(void **state) {
    (void) state;
    enum { N = 5, V = 40 };
    float rows[N * V] = { 0 }, bad[N * V] = { 0 };
    const int32_t labels[N] = { 0 };
    const float values[] = { NAN, INFINITY, -INFINITY };
    for (int k = 0; k < 3; k++) {
        for (int column = 0; column < V; column++) {
            om_tally t = { 0 };
            om_error err = { 0 };
            int64_t where = -1;
            bad[3 * V + column] = values[k];
            assert_int_equal(om_tally_rows(&t, &where, rows, bad, labels, N, V, NULL, &err),
                             OM_E_NUMERIC);
            assert_int_equal(where, 3);
            assert_int_equal(t.n, 0);
            assert_int_equal(om_tally_rows(&t, &where, bad, rows, labels, N, V, NULL, &err),
                             OM_E_NUMERIC);
            bad[3 * V + column] = 0.0f;
            om_tally_release(&t);
        }
    }
}

static void summary_follows_the_formulas(void **state) {
    (void) state;
    enum { N = 37, V = 9 };
    float ref[N * V], model[N * V];
    int32_t labels[N];
    om_rng rng = om_rng_at(5, 5);
    for (int i = 0; i < N * V; i++) {
        ref[i] = (float) gauss(&rng);
        model[i] = ref[i] + 0.4f * (float) gauss(&rng);
    }
    double kld[N], sum = 0, sum2 = 0, nll = 0, nll2 = 0, nll_ref = 0;
    int same = 0;
    for (int i = 0; i < N; i++) {
        const float *p = ref + i * V, *q = model + i * V;
        labels[i] = i % V;
        kld[i] = (double) naive_kld(p, q, V);
        sum += kld[i];
        sum2 += kld[i] * kld[i];
        const double x = (double) (naive_lse(q, V) - (long double) q[labels[i]]);
        nll += x;
        nll2 += x * x;
        nll_ref += (double) (naive_lse(p, V) - (long double) p[labels[i]]);
        same += naive_top(p, V) == naive_top(q, V);
    }
    om_tally t = { 0 };
    om_error err = { 0 };
    int64_t bad;
    assert_int_equal(om_tally_rows(&t, &bad, ref, model, labels, 20, V, NULL, &err), OM_OK);
    assert_int_equal(
        om_tally_rows(&t, &bad, ref + 20 * V, model + 20 * V, labels + 20, N - 20, V, NULL, &err),
        OM_OK);
    const om_summary s = om_tally_summary(&t);
    assert_int_equal(s.tokens, N);
    assert_near(s.kld_mean, sum / N, 1e-6, 0);
    assert_near(s.kld_stderr, sqrt((sum2 / N - sum * sum / N / N) / (N - 1)), 1e-6, 0);
    assert_near(s.ppl, exp(nll / N), 1e-6, 0);
    assert_near(s.ppl_stderr, exp(nll / N) * sqrt((nll2 / N - nll * nll / N / N) / (N - 1)), 1e-6,
                0);
    assert_near(s.ppl_ref, exp(nll_ref / N), 1e-6, 0);
    assert_near(s.top1_agreement, (double) same / N, 1e-12, 0);
    for (int i = 0; i < N; i++) { /* insertion sort: order statistics by hand */
        for (int j = i; j > 0 && kld[j] < kld[j - 1]; j--) {
            const double swap = kld[j];
            kld[j] = kld[j - 1];
            kld[j - 1] = swap;
        }
    }
    assert_near(s.kld_median, kld[18], 1e-6, 0);
    assert_near(s.kld_max, kld[36], 1e-6, 0);
    assert_near(s.kld_p99, 0.36 * kld[35] + 0.64 * kld[36], 1e-6, 0); /* 0.99 * 36 = 35.64 */
    om_tally_release(&t);
}

static void threads_do_not_change_a_bit(void **state) {
    (void) state;
    enum { N = 61, V = 1031 };
    float *ref = om_calloc(N * V, sizeof(float)), *model = om_calloc(N * V, sizeof(float));
    int32_t labels[N];
    om_rng rng = om_rng_at(9, 9);
    for (int i = 0; i < N * V; i++) {
        ref[i] = (float) (3.0 * gauss(&rng));
        model[i] = ref[i] + (float) gauss(&rng);
    }
    for (int i = 0; i < N; i++) {
        labels[i] = (i * 17) % V;
    }
    om_summary first = { 0 };
    for (int threads = 1; threads <= 4; threads++) {
        om_pool *pool = om_pool_new(threads);
        om_tally t = { 0 };
        om_error err = { 0 };
        int64_t bad;
        assert_int_equal(om_tally_rows(&t, &bad, ref, model, labels, N, V, pool, &err), OM_OK);
        const om_summary s = om_tally_summary(&t);
        if (threads == 1) {
            first = s;
        }
        assert_memory_equal(&s, &first, sizeof(s));
        om_tally_release(&t);
        om_pool_free(pool);
    }
    om_free(ref);
    om_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_exact_to_the_last_place),
        cmocka_unit_test(rows_agree_with_naive_double),
        cmocka_unit_test(equal_rows_give_exactly_zero),
        cmocka_unit_test(far_apart_rows_do_not_overflow),
        cmocka_unit_test(bad_logits_are_reported),
        cmocka_unit_test(summary_follows_the_formulas),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
