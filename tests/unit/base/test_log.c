/* base/log: hooks are called as given, absent hooks are silent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"

typedef struct seen {
    int n_log, n_progress, n_polls;
    om_log_level level;
    char line[2048];
    double done, total;
    bool cancel;
} seen;

static void on_log(void *ud, om_log_level level, const char *line) {
    seen *s = ud;
    s->n_log++;
    s->level = level;
    snprintf(s->line, sizeof s->line, "%s", line);
}

static void on_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    seen *s = ud;
    s->n_progress++;
    s->done = done;
    s->total = total;
    snprintf(s->line, sizeof s->line, "%s/%s", stage, unit);
}

static bool on_cancel(void *ud) {
    seen *s = ud;
    s->n_polls++;
    return s->cancel;
}

static void test_no_hooks(void **state) {
    (void) state;
    om_error err = { 0 };
    const om_env env = { 0 };
    om_log(NULL, OM_LOG_WARN, "x");
    om_log(&env, OM_LOG_WARN, "x");
    om_progress(NULL, "s", 1, 2, "u");
    om_progress(&env, "s", 1, 2, "u");
    assert_int_equal(om_check_cancel(NULL, &err), OM_OK);
    assert_int_equal(om_check_cancel(&env, &err), OM_OK);
}

static void test_hooks(void **state) {
    (void) state;
    om_error err = { 0 };
    seen s = { 0 };
    const om_env env = { .log = on_log, .progress = on_progress, .cancelled = on_cancel, .ud = &s };
    om_log(&env, OM_LOG_DEBUG, "%s %d", "x", 7);
    assert_int_equal(s.n_log, 1);
    assert_int_equal(s.level, OM_LOG_DEBUG);
    assert_string_equal(s.line, "x 7");
    om_progress(&env, "hash", 3, 4, "bytes");
    assert_int_equal(s.n_progress, 1);
    assert_string_equal(s.line, "hash/bytes");
    assert_true(s.done == 3 && s.total == 4);
    assert_int_equal(om_check_cancel(&env, &err), OM_OK);
    s.cancel = true;
    assert_int_equal(om_check_cancel(&env, &err), OM_E_CANCELLED);
    assert_int_equal(err.status, OM_E_CANCELLED);
    assert_int_equal(s.n_polls, 2);
    om_log(&env, OM_LOG_INFO, "%3000s", "long"); /* cut, not overrun */
    assert_int_equal(strlen(s.line), 1023);
}

static void test_machine(void **state) {
    (void) state;
    const om_env env = { .n_threads = 3 };
    assert_int_equal(om_n_threads(&env), 3);
    assert_true(om_n_threads(NULL) >= 1);
    const double a = om_now_s();
    assert_true(om_now_s() >= a);
    const int64_t rss = om_peak_rss_bytes();
    assert_true(rss > 100 * 1024 && rss < INT64_C(1) << 42); /* bytes, not pages or KiB */
}

static void test_pacer(void **state) {
    (void) state;
    om_pacer p = { 0 };
    assert_true(om_pacer_due(&p));
    const double now = om_now_s();
    om_pacer_done(&p, now); /* took no time: due again at once or nearly so */
    assert_true(p.next_s - now < 1.0);
    om_pacer_done(&p, now - 0.1);
    assert_false(om_pacer_due(&p));
    assert_true(p.next_s - now > 4.9 && p.next_s - now < 7.0);
    om_pacer_done(&p, now - 10.0); /* a slow disk: still every 20 s */
    assert_true(p.next_s - now < 22.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_hooks),
        cmocka_unit_test(test_hooks),
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_pacer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
