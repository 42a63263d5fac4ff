/* base/bandwidth: a plausible number, rounded, and a cancelled measurement. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bandwidth.h"
#include "base/mem.h"

static void test_plausible(void **state) {
    (void) state;
    om_error err = { 0 };
    const om_env env = { .n_threads = 2 };
    double rate = 0.0;
    assert_int_equal(om_bandwidth_measure(&rate, &env, &err), OM_OK);
    assert_true(rate > 1e7 && rate < 1e14);
    /* Two digits: a tenth of the leading one's unit divides it. */
    const double unit = pow(10.0, floor(log10(rate)) - 1.0);
    assert_true(fabs(rate / unit - nearbyint(rate / unit)) < 1e-6);
}

static bool always(void *ud) {
    (void) ud;
    return true;
}

static void test_cancelled(void **state) {
    (void) state;
    om_error err = { 0 };
    const om_env env = { .cancelled = always, .n_threads = 1 };
    double rate = -1.0;
    assert_int_equal(om_bandwidth_measure(&rate, &env, &err), OM_E_CANCELLED);
    assert_true(rate < 0.0);
}

/* Memory is short: a smaller buffer, or a clean failure. */
static void test_no_memory(void **state) {
    (void) state;
    const om_env env = { .n_threads = 1 };
    for (long n = 1; n <= 3; n++) {
        om_error err = { 0 };
        double rate = 0.0;
        om_mem_fail_at(n);
        const om_status status = om_bandwidth_measure(&rate, &env, &err);
        om_mem_fail_at(0);
        assert_true((status == OM_OK && rate > 0.0) || status == OM_E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plausible),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
