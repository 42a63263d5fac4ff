/* Compare arrays of numbers: |got - want| <= abs_tol + rel_tol * |want|, NaN only equals NaN.
 * Prints the first mismatches and the worst one, then fails the running cmocka test. Include after
 * <cmocka.h> and what it needs. */
#ifndef OM_TESTS_ASSERT_CLOSE_H
#define OM_TESTS_ASSERT_CLOSE_H

#include <math.h>
#include <stdio.h>

enum { ASSERT_CLOSE_SHOWN = 8 };

static inline int om_is_close(double got, double want, double abs_tol, double rel_tol) {
    if (isnan(got) || isnan(want)) {
        return isnan(got) && isnan(want);
    }
    if (isinf(got) || isinf(want)) {
        return got == want;
    }
    return fabs(got - want) <= abs_tol + rel_tol * fabs(want);
}

/** Mismatches of n values read through `at_got` and `at_want`; prints the first few. */
static inline long om_count_mismatches(const void *got, const void *want, long n, double abs_tol,
                                       double rel_tol, const char *what,
                                       double (*at)(const void *array, long i)) {
    long bad = 0, worst_at = -1;
    double worst = -1.0, error2 = 0.0, norm2 = 0.0;
    for (long i = 0; i < n; i++) {
        const double g = at(got, i), w = at(want, i), d = fabs(g - w);
        error2 += (g - w) * (g - w);
        norm2 += w * w;
        if (om_is_close(g, w, abs_tol, rel_tol)) {
            continue;
        }
        if (bad++ < ASSERT_CLOSE_SHOWN) {
            fprintf(stderr, "%s[%ld]: got %.9g, expected %.9g (difference %.3g)\n", what, i, g, w,
                    d);
        }
        if (!(d <= worst)) {
            worst = d;
            worst_at = i;
        }
    }
    if (bad > 0) {
        fprintf(stderr, "%s: %ld of %ld differ, worst at [%ld] by %.3g, NMSE %.3g\n", what, bad, n,
                worst_at, worst, norm2 > 0.0 ? error2 / norm2 : error2);
    }
    return bad;
}

static inline double om_at_f32(const void *array, long i) {
    return (double) ((const float *) array)[i];
}

static inline double om_at_f64(const void *array, long i) {
    return ((const double *) array)[i];
}

/** n floats each. */
#define assert_close_f32(got, want, n, abs_tol, rel_tol)                                           \
    do {                                                                                           \
        const float *om_got = (got), *om_want = (want);                                            \
        if (om_count_mismatches(om_got, om_want, (long) (n), abs_tol, rel_tol, #got, om_at_f32)) { \
            fail_msg("%s is not close to %s", #got, #want);                                        \
        }                                                                                          \
    } while (0)

/** n doubles each. */
#define assert_close_f64(got, want, n, abs_tol, rel_tol)                                           \
    do {                                                                                           \
        const double *om_got = (got), *om_want = (want);                                           \
        if (om_count_mismatches(om_got, om_want, (long) (n), abs_tol, rel_tol, #got, om_at_f64)) { \
            fail_msg("%s is not close to %s", #got, #want);                                        \
        }                                                                                          \
    } while (0)

/** One number. */
#define assert_close(got, want, abs_tol, rel_tol)                                         \
    do {                                                                                  \
        const double om_got = (got), om_want = (want);                                    \
        if (!om_is_close(om_got, om_want, abs_tol, rel_tol)) {                            \
            fail_msg("%s: got %.17g, expected %.17g (%s)", #got, om_got, om_want, #want); \
        }                                                                                 \
    } while (0)

#endif
