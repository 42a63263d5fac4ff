/* Escaping and numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>

#include <cmocka.h>

#include "base/mem.h"
#include "report/html.h"

#define NBSP "\xC2\xA0"
#define BAD "\xEF\xBF\xBD"

static void expect(om_buf *b, const char *text) {
    assert_false(b->failed);
    assert_string_equal(b->data ? b->data : "", text);
    om_buf_release(b);
}

static void text_is_inert(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_html_text(&b, "<script>alert('x') && \"y\"</script>");
    expect(&b, "&lt;script&gt;alert(&#39;x&#39;) &amp;&amp; &quot;y&quot;&lt;/script&gt;");
    om_html_text(&b, "é – 漢 \xF0\x9F\x98\x80");
    expect(&b, "é – 漢 \xF0\x9F\x98\x80");
    om_html_text(&b, NULL);
    expect(&b, "");
}

static void damaged_text_is_replaced(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_html_text(&b, "a\x01"
                     "b\x7F"
                     "c\xFF"
                     "d\xC3"); /* control, delete, no UTF-8, cut */
    expect(&b, "a" BAD "b" BAD "c" BAD "d" BAD);
    om_html_text(&b, "\xC0\xAF"); /* overlong slash */
    expect(&b, BAD BAD);
    om_html_text(&b, "\xED\xA0\x80"); /* surrogate */
    expect(&b, BAD BAD BAD);
    om_html_text(&b, "\xE2\x82<"); /* a cut sequence must not swallow the bracket */
    expect(&b, BAD BAD "&lt;");
}

static void bytes_have_three_digits(void **state) {
    (void) state;
    static const struct {
        double bytes;
        const char *text;
    } cases[] = { { 0, "0" NBSP "B" },          { 999, "999" NBSP "B" },
                  { 999.6, "1.00" NBSP "kB" },  { 20e6, "20.0" NBSP "MB" },
                  { 116.4e6, "116" NBSP "MB" }, { 8.668e9, "8.67" NBSP "GB" },
                  { 99.96e6, "100" NBSP "MB" }, { 5e18, "5000" NBSP "PB" } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        om_buf b = { 0 };
        om_put_bytes(&b, cases[i].bytes);
        expect(&b, cases[i].text);
    }
}

static void nats_have_three_digits(void **state) {
    (void) state;
    static const struct {
        double nats;
        const char *text;
    } cases[] = { { 0, "0" },
                  { 0.0234, "0.0234" },
                  { 1.2345, "1.23" },
                  { 12.345, "12.3" },
                  { 1234.5, "1234" },
                  { 0.001, "0.00100" },
                  { 2.34e-5, "2.3×10⁻⁵" },
                  { 9.99e-6, "1.0×10⁻⁵" },
                  { 1e-12, "1.0×10⁻¹²" },
                  { (double) NAN, "–" } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        om_buf b = { 0 };
        om_put_nats(&b, cases[i].nats);
        expect(&b, cases[i].text);
    }
}

static void digits_follow_the_error(void **state) {
    (void) state;
    static const struct {
        double nats, error;
        const char *text;
    } cases[] = { { 0.02341, 0.0004, "0.0234" NBSP "±" NBSP "0.0004" },
                  { 0.010729, 0.000172, "0.01073" NBSP "±" NBSP "0.00017" },
                  { 1.394, 0.022, "1.39" NBSP "±" NBSP "0.02" },
                  { 0.0234, 0, "0.0234" },
                  { 0.0234, (double) NAN, "0.0234" },
                  { 3, 2, "3.00" NBSP "±" NBSP "2.00" } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        om_buf b = { 0 };
        om_put_nats_error(&b, cases[i].nats, cases[i].error);
        expect(&b, cases[i].text);
    }
}

static void short_numbers(void **state) {
    (void) state;
    char s[32];
    assert_string_equal(om_format_si(s, 0.00012), "120µ");
    assert_string_equal(om_format_si(s, 0.0012), "1.2m");
    assert_string_equal(om_format_si(s, 0.31), "0.31");
    assert_string_equal(om_format_si(s, 4.2), "4.2");
    assert_string_equal(om_format_si(s, 0), "0");
    assert_string_equal(om_format_si(s, -1), "0");
    om_buf b = { 0 };
    om_put_count(&b, 33600123);
    expect(&b, "33\xE2\x80\xAF"
               "600\xE2\x80\xAF"
               "123");
    om_html_role(&b, "ffn_<b>_x");
    expect(&b, "ffn_<wbr>&lt;b&gt;_<wbr>x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_inert),           cmocka_unit_test(damaged_text_is_replaced),
        cmocka_unit_test(bytes_have_three_digits), cmocka_unit_test(nats_have_three_digits),
        cmocka_unit_test(digits_follow_the_error), cmocka_unit_test(short_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
