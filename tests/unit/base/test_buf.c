/* base/buf: growth, sticky failure, sizes in and out (in other locales too). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <locale.h>

#include "base/buf.h"
#include "base/mem.h"

static void test_growth(void **state) {
    (void) state;
    om_buf b = { 0 };
    for (int i = 0; i < 1000; i++) {
        om_buf_printf(&b, "%04d", i);
    }
    assert_int_equal(b.len, 4000);
    assert_int_equal(strlen(b.data), 4000);
    assert_memory_equal(b.data + 4 * 789, "0789", 4);
    char *text = om_buf_take(&b);
    assert_int_equal(b.len, 0);
    assert_null(b.data);
    om_free(text);
}

static void test_bytes_with_nul_and_empty(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_buf_add(&b, NULL, 0);
    assert_string_equal(b.data, "");
    om_buf_add(&b, "a\0b", 3);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "a\0b", 4);
    om_buf_release(&b);
    om_buf_release(&b);
    char *empty = om_buf_take(&b);
    assert_string_equal(empty, "");
    om_free(empty);
}

static void test_failure_is_sticky(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_buf_puts(&b, "kept");
    om_mem_fail_at(1);
    om_buf_printf(&b, "%500s", "");
    om_buf_puts(&b, "x");
    assert_true(b.failed);
    assert_string_equal(b.data, "kept");
    assert_null(om_buf_take(&b));
    om_buf_puts(&b, "again");
    char *text = om_buf_take(&b);
    assert_string_equal(text, "again");
    om_free(text);
}

static void test_format_bytes(void **state) {
    (void) state;
    static const struct {
        double bytes;
        bool binary;
        const char *text;
    } cases[] = {
        { 0, false, "0 B" },
        { 999, false, "999 B" },
        { 1000, false, "1 KB" },
        { 1023, true, "1023 B" },
        { 1024, true, "1 KiB" },
        { 16710000, false, "16.71 MB" },
        { 2.5 * 1024 * 1024 * 1024, true, "2.5 GiB" },
        { 999999, false, "1 MB" },
        { 1048575, true, "1 MiB" },
        { 1050, false, "1.05 KB" },
        { -2000, false, "-2 KB" },
        { 1.5e15, false, "1500 TB" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[32];
        assert_string_equal(om_format_bytes(text, cases[i].bytes, cases[i].binary), cases[i].text);
    }
    char text[32];
    assert_true(strlen(om_format_bytes(text, 1e300, false)) < sizeof text);
}

static void test_parse_bytes(void **state) {
    (void) state;
    static const struct {
        const char *text;
        int64_t bytes;
    } good[] = {
        { "0", 0 },
        { "17", 17 },
        { "17B", 17 },
        { "20MB", 20000000 },
        { "20 mb", 20000000 },
        { "24GiB", INT64_C(24) << 30 },
        { "1.5GiB", INT64_C(3) << 29 },
        { ".5KiB", 512 },
        { "5.KB", 5000 },
        { "1.1GB", 1100000000 },
        { "16.71MB", 16710000 },
        { "0.1TB", INT64_C(100000000000) },
        { "4194304TiB", INT64_C(1) << 62 },
        { "1.123456789123456789KB", 1123 },
    };
    static const char *const bad[] = {
        "",
        "B",
        ".",
        ".GB",
        "-1",
        "-1GB",
        "1.5",
        "1.5B",
        "12X",
        "1G",
        "1g",
        "1 ",
        "1  GB",
        " 1",
        "0x10",
        "1e9",
        "1,5GB",
        "1.5.5GB",
        "GB",
        "1GiBs",
        "1KK",
        "5000000TiB",
        "inf",
        "nan",
        "+1",
        "1GB ",
        "1iB",
        "99999999999999999999",
        "4611686018427387905",
        "4194304.1TiB",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        int64_t n = -1;
        if (!om_parse_bytes(&n, good[i].text) || n != good[i].bytes) {
            fail_msg("'%s' gave %lld", good[i].text, (long long) n);
        }
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t n = -7;
        if (om_parse_bytes(&n, bad[i])) {
            fail_msg("'%s' was accepted as %lld", bad[i], (long long) n);
        }
        assert_int_equal(n, -7);
    }
}

static void test_locale_does_not_matter(void **state) {
    (void) state;
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") == NULL && setlocale(LC_NUMERIC, "fr_FR") == NULL) {
        skip();
    }
    int64_t n = 0;
    char text[32];
    assert_true(om_parse_bytes(&n, "1.5KB"));
    assert_int_equal(n, 1500);
    assert_string_equal(om_format_bytes(text, 1500, false), "1.5 KB");
    setlocale(LC_NUMERIC, "C");
}

static void test_starts_and_ends(void **state) {
    (void) state;
    assert_true(om_text_starts("blk.0", "blk."));
    assert_true(om_text_starts("blk", "") && om_text_ends("blk", ""));
    assert_true(om_text_ends("a.weight", ".weight") && om_text_ends(".weight", ".weight"));
    assert_false(om_text_starts("bl", "blk") || om_text_starts("xblk", "blk"));
    assert_false(om_text_ends("weight", ".weight") || om_text_ends("a.weights", ".weight"));
}

static void test_result_release(void **state) {
    (void) state;
    om_result r = { .json = om_strdup("{}"), .text = om_strdup("t") };
    om_result_release(&r);
    assert_null(r.json);
    assert_null(r.text);
    om_result_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_bytes_with_nul_and_empty),
        cmocka_unit_test(test_failure_is_sticky),
        cmocka_unit_test(test_format_bytes),
        cmocka_unit_test(test_parse_bytes),
        cmocka_unit_test(test_locale_does_not_matter),
        cmocka_unit_test(test_starts_and_ends),
        cmocka_unit_test(test_result_release),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
