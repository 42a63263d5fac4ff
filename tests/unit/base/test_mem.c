/* base/mem: overflow, zero sizes, alignment, the fault point. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"

static void test_overflow_is_refused(void **state) {
    (void) state;
    volatile size_t huge = SIZE_MAX; /* volatile: the compiler must not see it coming */
    assert_null(om_calloc(huge / 2, 3));
    assert_null(om_calloc(huge, 1));
    assert_null(om_alloc_aligned(huge - 7));
    char *p = om_calloc(4, 1);
    assert_non_null(p);
    memcpy(p, "abc", 4);
    assert_null(om_realloc(p, huge / 8, 16));
    assert_string_equal(p, "abc");
    om_free(p);
}

static void test_zero_sizes_give_memory(void **state) {
    (void) state;
    void *a = om_calloc(0, 8), *b = om_calloc(8, 0), *c = om_alloc_aligned(0);
    void *d = om_realloc(NULL, 0, 8);
    assert_true(a != NULL && b != NULL && c != NULL && d != NULL);
    om_free(a);
    om_free(b);
    om_free(c);
    om_free(d);
    om_free(NULL);
}

static void test_calloc_zeroes_and_aligned_aligns(void **state) {
    (void) state;
    for (size_t n = 1; n < 5000; n = n * 3 + 1) {
        unsigned char *z = om_calloc(n, 1);
        assert_non_null(z);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(z[i], 0);
        }
        memset(z, 0xA5, n);
        om_free(z);
        unsigned char *a = om_alloc_aligned(n);
        assert_non_null(a);
        assert_int_equal((uintptr_t) a % 64, 0);
        memset(a, 1, n);
        om_free(a);
    }
}

static void test_strings(void **state) {
    (void) state;
    const char unterminated[3] = { 'a', 'b', 'c' };
    char *a = om_strdup("hello"), *b = om_strndup(unterminated, 3), *c = om_strndup("hello", 99);
    char *d = om_strdup("");
    assert_string_equal(a, "hello");
    assert_string_equal(b, "abc");
    assert_string_equal(c, "hello");
    assert_string_equal(d, "");
    om_free(a);
    om_free(b);
    om_free(c);
    om_free(d);
}

static void test_fault_point_fails_exactly_once(void **state) {
    (void) state;
    om_mem_fail_at(3);
    void *a = om_calloc(1, 1), *b = om_alloc_aligned(1), *c = om_strdup("x"), *d = om_strdup("y");
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    om_mem_fail_at(1);
    assert_null(om_realloc(d, 10, 1));
    om_mem_fail_at(1);
    om_mem_fail_at(0);
    void *e = om_calloc(1, 1);
    assert_non_null(e);
    om_free(a);
    om_free(b);
    om_free(d);
    om_free(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_zero_sizes_give_memory),
        cmocka_unit_test(test_calloc_zeroes_and_aligned_aligns),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_fault_point_fails_exactly_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
