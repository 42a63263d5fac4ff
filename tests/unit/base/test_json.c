/* base/json: messages name the path, hostile documents are refused, canonical output is exact, and
 * no failed allocation goes unnoticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "tmpdir.h"

static om_json *parse(const char *text) {
    om_error err = { 0 };
    om_json *doc = NULL;
    if (om_json_parse(&doc, text, strlen(text), "t.json", NULL, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return doc;
}

static void assert_refused(const char *text, size_t n, const char *schema, const char *part) {
    om_error err = { 0 };
    om_json *doc = NULL;
    assert_int_equal(om_json_parse(&doc, text, n, "t.json", schema, &err), OM_E_FORMAT);
    assert_null(doc);
    if (strncmp(err.text, "t.json: ", 8) != 0 || strstr(err.text, part) == NULL) {
        fail_msg("'%s' does not hold '%s'", err.text, part);
    }
}

static void test_hostile_documents(void **state) {
    (void) state;
    static const char *const bad[] = {
        "",
        "{",
        "{}x",
        "{} {}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":1e999}",
        "{\"a\":99999999999999999999}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":01}",
        "{\"a\":'x'}",
        "{\"a\":1,}",
        "[1]",
        "7",
        "null",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_refused(bad[i], strlen(bad[i]), NULL, "");
    }
    assert_refused("{}\0{}", 5, NULL, ""); /* a NUL is no end */
    const size_t deep = 200000;
    char *text = malloc(deep);
    memset(text, '[', deep);
    assert_refused(text, deep, NULL, "depth");
    free(text);
    assert_refused("{\n  \"a\": }", 10, NULL, "line 2");
}

static void test_schema(void **state) {
    (void) state;
    static const struct {
        const char *text, *part;
    } bad[] = {
        { "{}", "without a schema" },
        { "{\"schema\":1}", "without a schema" },
        { "{\"schema\":\"optimum.profile/2\"}", "newer version (optimum.profile/2" },
        { "{\"schema\":\"optimum.profile/0\"}", "older version" },
        { "{\"schema\":\"optimum.profile\"}", "found optimum.profile" },
        { "{\"schema\":\"optimum.profile/1x\"}", "found optimum.profile/1x" },
        { "{\"schema\":\"optimum.profiles/1\"}", "expected an optimum.profile/1" },
        { "{\"schema\":\"optimum.allocation/1\"}", "found optimum.allocation/1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_refused(bad[i].text, strlen(bad[i].text), "optimum.profile/1", bad[i].part);
    }
    om_error err = { 0 };
    om_json *doc = NULL;
    const char good[] = "{\"schema\":\"optimum.profile/1\"}";
    assert_int_equal(om_json_parse(&doc, good, sizeof good - 1, "x", "optimum.profile/1", &err),
                     OM_OK);
    om_json_free(doc);
    om_json_free(NULL);
}

#define EXPECT(call, message)                     \
    do {                                          \
        om_error err = { 0 };                     \
        assert_int_equal((call), OM_E_FORMAT);    \
        assert_string_equal(err.text, (message)); \
    } while (0)

static void test_paths_in_messages(void **state) {
    (void) state;
    om_json *doc = parse("{\"tensors\":[{},{\"types\":{\"q4_K\":{\"nats\":\"x\",\"bytes\":-1}}}],"
                         "\"m\":{\"blk.0.w\":{\"a b\":null}}}");
    const om_node root = om_node_root(doc, "p.json");
    om_node tensors, t1, types, q, m, w;
    om_error ok = { 0 };
    size_t n = 0;
    const char *s = NULL;
    double f = 0;
    int64_t i = 0;
    bool b = false;
    assert_int_equal(om_node_array(&tensors, &n, &root, "tensors", &ok), OM_OK);
    assert_int_equal(n, 2);
    assert_int_equal(om_node_at(&t1, &tensors, 1, &ok), OM_OK);
    assert_int_equal(om_node_object(&types, &t1, "types", &ok), OM_OK);
    assert_int_equal(om_node_object(&q, &types, "q4_K", &ok), OM_OK);
    assert_int_equal(om_node_object(&m, &root, "m", &ok), OM_OK);
    assert_int_equal(om_node_object(&w, &m, "blk.0.w", &ok), OM_OK);
    EXPECT(om_node_f64(&f, &q, "nats", &err),
           "p.json: tensors[1].types.q4_K.nats: expected a number, found a string");
    EXPECT(om_node_i64(&i, &q, "bytes", 0, 10, &err),
           "p.json: tensors[1].types.q4_K.bytes: expected an integer from 0 to 10, found -1");
    EXPECT(om_node_str(&s, &w, "a b", &err),
           "p.json: m[\"blk.0.w\"][\"a b\"]: expected a string, found null");
    EXPECT(om_node_bool(&b, &root, "none", &err),
           "p.json: none: expected true or false, found nothing");
    EXPECT(om_node_at(&t1, &tensors, 2, &err),
           "p.json: tensors: expected at least 3 elements, found 2");
    EXPECT(om_node_array(&t1, &n, &root, "m", &err),
           "p.json: m: expected an array, found an object");
    EXPECT(om_node_object(&t1, &root, "tensors", &err),
           "p.json: tensors: expected an object, found an array");
    EXPECT(om_node_fail(&err, &root, "no %s", "good"), "p.json: no good");
    om_json_free(doc);
}

static void test_deep_paths_are_cut(void **state) {
    (void) state;
    om_json *doc = parse("{}");
    om_node chain[40];
    chain[0] = om_node_root(doc, "p.json");
    for (int k = 1; k < 40; k++) {
        chain[k] = (om_node){ .parent = &chain[k - 1], .key = "k", .value = doc };
    }
    om_error err = { 0 };
    (void) om_node_fail(&err, &chain[39], "bad");
    assert_string_equal(err.text, "p.json: ....k.k.k.k.k.k.k.k: bad");
    om_json_free(doc);
}

static void test_values(void **state) {
    (void) state;
    om_json *doc = parse("{\"i\":-5,\"big\":9223372036854775807,\"r\":2.5,\"whole\":3.0,\"s\":\"\","
                         "\"b\":false,\"n\":null,\"a\":[1,2.5,\"x\"]}");
    const om_node root = om_node_root(doc, "p");
    om_error err = { 0 };
    om_node a, e;
    size_t n = 0;
    int64_t i = 0;
    double f = 0;
    bool b = true;
    const char *s = NULL;
    assert_int_equal(om_node_i64(&i, &root, "i", -5, -5, &err), OM_OK);
    assert_int_equal(i, -5);
    assert_int_equal(om_node_i64(&i, &root, "big", 0, INT64_MAX, &err), OM_OK);
    assert_true(i == INT64_MAX);
    assert_int_equal(om_node_i64(&i, &root, "whole", 0, 9, &err), OM_E_FORMAT);
    assert_int_equal(om_node_f64(&f, &root, "i", &err), OM_OK);
    assert_true(f == -5.0);
    assert_int_equal(om_node_f64(&f, &root, "r", &err), OM_OK);
    assert_true(f == 2.5);
    assert_int_equal(om_node_bool(&b, &root, "b", &err), OM_OK);
    assert_false(b);
    assert_int_equal(om_node_str(&s, &root, "s", &err), OM_OK);
    assert_string_equal(s, "");
    assert_true(om_node_has(&root, "b"));
    assert_false(om_node_has(&root, "n"));
    assert_false(om_node_has(&root, "none"));
    assert_int_equal(om_node_array(&a, &n, &root, "a", &err), OM_OK);
    assert_int_equal(om_node_at(&e, &a, 0, &err), OM_OK);
    assert_int_equal(om_node_value_i64(&i, &e, 0, 9, &err), OM_OK);
    assert_int_equal(om_node_at(&e, &a, 1, &err), OM_OK);
    assert_int_equal(om_node_value_f64(&f, &e, &err), OM_OK);
    assert_int_equal(om_node_at(&e, &a, 2, &err), OM_OK);
    assert_int_equal(om_node_value_str(&s, &e, &err), OM_OK);
    assert_string_equal(s, "x");
    om_json_free(doc);
}

static void test_members_keep_file_order(void **state) {
    (void) state;
    om_json *doc = parse("{\"z\":1,\"a\":2,\"m\":3}");
    const om_node root = om_node_root(doc, "p");
    om_node node;
    void *iter = NULL;
    char order[8] = "";
    while (om_node_next(&node, &root, &iter)) {
        strcat(order, node.key);
        assert_ptr_equal(node.parent, &root);
    }
    assert_string_equal(order, "zam");
    om_json_free(doc);
    doc = parse("{}");
    const om_node none = om_node_root(doc, "p");
    iter = NULL;
    assert_false(om_node_next(&node, &none, &iter));
    om_json_free(doc);
}

/* ---- writing ---- */

static void assert_dump(om_json *doc, const char *want) {
    char *text = om_json_dump(doc);
    assert_non_null(text);
    assert_string_equal(text, want);
    om_free(text);
    om_json_free(doc);
}

static void test_copies_can_be_changed(void **state) {
    (void) state;
    om_error err = { 0 };
    om_json *doc = NULL;
    const char text[] = "{\"schema\":\"s/1\",\"z\":1.5,\"a\":{\"x\":[1,null]},\"m\":true}";
    assert_int_equal(om_json_parse(&doc, text, strlen(text), "t", "s/1", &err), OM_OK);
    char *before = om_json_dump(doc);
    om_json *copy = om_json_copy(doc);
    om_json_remove(copy, "a");
    om_json_remove(copy, "absent");
    om_json_set_i64(copy, "z", 2);
    om_json_set_str(copy, "new", "n");
    char *after = om_json_dump(copy), *still = om_json_dump(doc);
    assert_string_equal(before, still);
    assert_string_equal(after, "{\n \"schema\": \"s/1\",\n \"z\": 2,\n \"m\": true,\n \"new\": "
                               "\"n\"\n}\n");
    const om_node root = om_node_root(doc, "t");
    char *part = om_json_dump(om_node_get(&root, "a"));
    assert_non_null(strstr(part, "\"x\""));
    assert_null(om_node_get(&root, "absent"));
    const om_node inner = { .value = om_node_get(&root, "z"), .parent = &root, .key = "z" };
    assert_null(om_node_get(&inner, "x"));
    om_free(before);
    om_free(after);
    om_free(still);
    om_free(part);
    om_json_free(copy);
    om_json_free(doc);
}

static void test_canonical_text(void **state) {
    (void) state;
    om_json *doc = om_json_new_document("optimum.test/1");
    om_json *list = om_json_array();
    om_json_push(list, om_json_i64(INT64_MIN));
    om_json_push(list, om_json_f64(0.1));
    om_json_push(list, om_json_str("q\"\\\n\t\x01 \xc3\xa9 \xff."));
    om_json_set(doc, "list", list);
    om_json_set(doc, "o", om_json_object());
    om_json_set(doc, "a", om_json_array());
    om_json_set_bool(doc, "t", true);
    om_json_set_bool(doc, "f", false);
    om_json_set_str(doc, "null", NULL);
    om_json_set_f64(doc, "nan", (double) NAN);
    om_json_set_f64(doc, "inf", (double) -INFINITY);
    om_json_set_i64(doc, "t", 1); /* again: in its old place */
    om_json_set_i64(doc, "bad\xfekey", 1);
    assert_dump(doc, "{\n \"schema\": \"optimum.test/1\",\n \"tool\": \"optimum " OM_VERSION "\",\n"
                     " \"list\": [\n  -9223372036854775808,\n  0.1,\n"
                     "  \"q\\\"\\\\\\n\\t\\u0001 \xc3\xa9 \xef\xbf\xbd.\"\n ],\n"
                     " \"o\": {},\n \"a\": [],\n \"t\": 1,\n \"f\": false,\n \"null\": null,\n"
                     " \"nan\": null,\n \"inf\": null,\n \"bad\xef\xbf\xbdkey\": 1\n}\n");
}

static const char *real_text(double value) {
    static char text[64];
    om_json *a = om_json_array();
    om_json_push(a, om_json_f64(value));
    char *dump = om_json_dump(a);
    assert_non_null(dump);
    assert_int_equal(sscanf(dump, "[ %63s ]", text), 1);
    om_free(dump);
    om_json_free(a);
    return text;
}

static void test_numbers(void **state) {
    (void) state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        { 0.0, "0.0" },
        { -0.0, "-0.0" },
        { 3.0, "3.0" },
        { 1e15, "1e+15" },
        { 123456789012345.0, "123456789012345.0" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 1.0 / 3.0, "0.3333333333333333" },
        { 2.0 / 3.0, "0.6666666666666666" },
        { 5e-324, "4.94065645841247e-324" },
        { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 0.00180, "0.0018" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(real_text(cases[i].value), cases[i].text);
    }
    om_rng rng = om_rng_at(1, 0);
    for (int i = 0; i < 20000; i++) {
        const uint64_t bits = om_rng_u64(&rng);
        double value = 0;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value)) {
            assert_true(strtod(real_text(value), NULL) == value);
        }
    }
}

static void test_locale_does_not_matter(void **state) {
    (void) state;
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8",
                                         "ps_AF.UTF-8" };
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (setlocale(LC_NUMERIC, names[i]) == NULL) {
            continue;
        }
        found = true;
        assert_string_equal(real_text(0.1 + 0.2), "0.30000000000000004");
        om_json *doc = parse("{\"x\":2.5}");
        const om_node root = om_node_root(doc, "p");
        om_error err = { 0 };
        double f = 0;
        assert_int_equal(om_node_f64(&f, &root, "x", &err), OM_OK);
        assert_true(f == 2.5);
        om_json_free(doc);
    }
    setlocale(LC_NUMERIC, "C");
    if (!found) {
        print_message("no locale with a decimal comma is installed\n");
        skip();
    }
}

static om_json *build(void) {
    om_json *doc = om_json_new_document("optimum.test/1");
    om_json *tensors = om_json_array();
    for (int i = 0; i < 20; i++) {
        char name[32];
        om_json *t = om_json_object();
        snprintf(name, sizeof name, "blk.%d.w\xff", i);
        om_json_set_str(t, "name", name);
        om_json_set_f64(t, name, i * 0.25);
        om_json_set_i64(t, "i", i);
        om_json_push(tensors, t);
    }
    om_json_set(doc, "tensors", tensors);
    return doc;
}

/* With any one allocation failing the dump is NULL or complete, and nothing leaks (address
 * sanitizer). */
static void test_every_failed_allocation_is_noticed(void **state) {
    (void) state;
    om_json *doc = build();
    char *want = om_json_dump(doc);
    assert_non_null(want);
    om_json_free(doc);
    int n_failed = 0, n_in_a_row = 0;
    for (long at = 1; n_in_a_row < 3; at++) {
        om_mem_fail_at(at);
        doc = build();
        char *text = om_json_dump(doc);
        om_mem_fail_at(0);
        if (text == NULL) {
            n_failed++;
            n_in_a_row = 0;
        } else {
            assert_string_equal(text, want);
            n_in_a_row++;
        }
        om_free(text);
        om_json_free(doc);
    }
    assert_true(n_failed > 100);

    n_in_a_row = 0;
    for (long at = 1; n_in_a_row < 3; at++) {
        om_error err = { 0 };
        doc = NULL;
        om_mem_fail_at(at);
        const om_status status = om_json_parse(&doc, want, strlen(want), "t", NULL, &err);
        om_mem_fail_at(0);
        assert_true(status == OM_OK || status == OM_E_NOMEM);
        n_in_a_row = status == OM_OK ? n_in_a_row + 1 : 0;
        if (status == OM_OK) {
            char *text = om_json_dump(doc);
            assert_string_equal(text, want);
            om_free(text);
        }
        om_json_free(doc);
    }
    om_free(want);
}

static void test_save_and_load(void **state) {
    (void) state;
    om_error err = { 0 };
    char *dir = om_tmpdir_new();
    const char *path = om_tmpdir_path(dir, "x.json");
    om_json *doc = build(), *back = NULL;
    assert_int_equal(om_json_save(doc, path, &err), OM_OK);
    assert_int_equal(om_json_load(&back, path, "optimum.test/1", &err), OM_OK);
    char *a = om_json_dump(doc), *b = om_json_dump(back);
    assert_string_equal(a, b);
    om_free(a);
    om_free(b);
    om_json_free(back);
    back = NULL;
    assert_int_equal(om_json_load(&back, path, "optimum.other/1", &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(om_json_load(&back, om_tmpdir_path(dir, "none"), NULL, &err), OM_E_IO);
    assert_null(back);

    om_json_push(doc, om_json_i64(1)); /* not an array: remembered */
    assert_null(om_json_dump(doc));
    assert_int_equal(om_json_save(doc, om_tmpdir_path(dir, "y.json"), &err), OM_E_NOMEM);
    assert_int_equal(om_tmpdir_count(dir, ""), 1);
    om_json_free(doc);
    assert_null(om_json_dump(NULL));
    om_json_set(NULL, "k", om_json_i64(1)); /* a parent that could not be made */
    om_json_push(NULL, om_json_i64(1));
    om_tmpdir_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_documents),
        cmocka_unit_test(test_schema),
        cmocka_unit_test(test_paths_in_messages),
        cmocka_unit_test(test_deep_paths_are_cut),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_members_keep_file_order),
        cmocka_unit_test(test_copies_can_be_changed),
        cmocka_unit_test(test_canonical_text),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_locale_does_not_matter),
        cmocka_unit_test(test_every_failed_allocation_is_noticed),
        cmocka_unit_test(test_save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
