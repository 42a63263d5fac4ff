/* base/error: first message wins, one line always, the system reason is never cut off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#include "base/error.h"

static void test_fail_fills_everything(void **state) {
    (void) state;
    om_error err = { 0 };
    assert_int_equal(om_fail(&err, OM_E_ARG, "expected %d, found %s", 3, "four"), OM_E_ARG);
    assert_int_equal(err.status, OM_E_ARG);
    assert_string_equal(err.text, "expected 3, found four");
    assert_int_equal(err.os_errno, 0);
}

static void test_lower_layer_is_kept_for_the_same_status(void **state) {
    (void) state;
    om_error err = { 0 };
    (void) om_fail(&err, OM_E_FORMAT, "byte 7 is damaged");
    (void) om_fail(&err, OM_E_FORMAT, "cannot read the model");
    assert_string_equal(err.text, "byte 7 is damaged");
    (void) om_fail(&err, OM_E_ARG, "another thing");
    assert_int_equal(err.status, OM_E_ARG);
    assert_string_equal(err.text, "another thing");
}

static void test_one_line(void **state) {
    (void) state;
    om_error err = { 0 };
    (void) om_fail(&err, OM_E_IO, "a%sb\r\tc", "\n\n");
    assert_string_equal(err.text, "a  b  c");
    (void) om_error_context(&err, "x\ny");
    assert_string_equal(err.where, "x y");
}

static void test_errno_reason(void **state) {
    (void) state;
    om_error err = { 0 };
    errno = ENOENT;
    assert_int_equal(om_fail_errno(&err, "cannot open %s", "f"), OM_E_IO);
    assert_int_equal(err.os_errno, ENOENT);
    assert_string_equal(err.text, "cannot open f: No such file or directory");

    err = (om_error){ 0 };
    errno = ENOMEM;
    assert_int_equal(om_fail_errno(&err, "cannot map f"), OM_E_NOMEM);
}

static void test_long_texts_are_cut_but_keep_the_reason(void **state) {
    (void) state;
    char path[2000];
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = '\0';
    om_error err = { 0 };
    errno = ENOSPC;
    (void) om_fail_errno(&err, "cannot write %s", path);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_non_null(strstr(err.text, "p: No space left on device"));

    err = (om_error){ 0 };
    (void) om_fail(&err, OM_E_ARG, "%s", path);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    (void) om_error_context(&err, "%s", path);
    assert_int_equal(strlen(err.where), sizeof err.where - 1);
}

static void test_context_is_set_once(void **state) {
    (void) state;
    om_error err = { .status = OM_E_IO };
    assert_int_equal(om_error_context(&err, "layer %d", 3), OM_E_IO);
    (void) om_error_context(&err, "profile");
    assert_string_equal(err.where, "layer 3");
}

static om_status try_twice(om_status first, int *n) {
    om_status status = OM_OK;
    OM_TRY(OM_OK);
    (*n)++;
    OM_TRY(first);
    (*n)++;
out:
    return status;
}

static void test_try(void **state) {
    (void) state;
    int n = 0;
    assert_int_equal(try_twice(OM_E_LIMIT, &n), OM_E_LIMIT);
    assert_int_equal(n, 1);
    assert_int_equal(try_twice(OM_OK, &n), OM_OK);
    assert_int_equal(n, 3);
}

static void test_every_status_has_its_own_name(void **state) {
    (void) state;
    for (int a = OM_OK; a <= OM_E_INTERNAL; a++) {
        assert_string_not_equal(om_status_name((om_status) a), "unknown");
        for (int b = OM_OK; b < a; b++) {
            assert_string_not_equal(om_status_name((om_status) a), om_status_name((om_status) b));
        }
    }
    assert_string_equal(om_status_name((om_status) 99), "unknown");
}

static void test_nomem_text(void **state) {
    (void) state;
    om_error err = { 0 };
    assert_int_equal(om_fail_nomem(&err, 3u << 20), OM_E_NOMEM);
    assert_non_null(strstr(err.text, "3.0 MiB"));
}

static char panic_line[1024];

static void keep_line(const char *line) {
    snprintf(panic_line, sizeof panic_line, "%s", line);
}

static void test_panic_is_one_line(void **state) {
    (void) state;
    om_panic("nobody listens");
    om_panic_hook(keep_line);
    om_panic("%s at %d", "a\nb\x1b[31m", 7);
    assert_string_equal(panic_line, "a b [31m at 7");
    om_panic("%3000s", "long");
    assert_int_equal(strlen(panic_line), 511);
    om_panic_hook(NULL);
    om_panic("nobody listens");
    assert_int_equal(strlen(panic_line), 511);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_fills_everything),
        cmocka_unit_test(test_lower_layer_is_kept_for_the_same_status),
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_errno_reason),
        cmocka_unit_test(test_long_texts_are_cut_but_keep_the_reason),
        cmocka_unit_test(test_context_is_set_once),
        cmocka_unit_test(test_try),
        cmocka_unit_test(test_every_status_has_its_own_name),
        cmocka_unit_test(test_nomem_text),
        cmocka_unit_test(test_panic_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
