/* The reader on files made byte by byte here: what must be read, and what must be refused. Files of
 * the safetensors library and of MLX are compared in tests/oracle. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/safetensors.h"
#include "tmpdir.h"

static char *dir;

static int make_dir(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return 0;
}

static int remove_dir(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* Length, JSON, and `data` bytes 0, 1, 2 … */
static om_buf file_of(const char *json, size_t data) {
    om_buf b = { 0 };
    const uint64_t n = strlen(json);
    for (int i = 0; i < 8; i++) {
        om_buf_add(&b, &(char){ (char) (unsigned char) (n >> (8 * i)) }, 1);
    }
    om_buf_puts(&b, json);
    for (size_t i = 0; i < data; i++) {
        om_buf_add(&b, &(char){ (char) (unsigned char) i }, 1);
    }
    assert_false(b.failed);
    return b;
}

static om_safetensors *parse(const om_buf *b) {
    om_safetensors *st = NULL;
    om_error err = { 0 };
    const om_status status = om_safetensors_parse(&st, b->data, b->len, "input", &err);
    if (status != OM_OK) {
        print_message("%s\n", err.text);
    }
    assert_int_equal(status, OM_OK);
    return st;
}

/* A copy without room behind it, so that a sanitizer sees every byte too far. */
static void expect_refusal_bytes(const char *bytes, size_t n, const char *part) {
    om_safetensors *st = NULL;
    om_error err = { 0 };
    char *exact = malloc(n > 0 ? n : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, n);
    const om_status status = om_safetensors_parse(&st, exact, n, "input", &err);
    if (status != OM_E_FORMAT || strstr(err.text, part) == NULL) {
        print_message("expected \"%s\", found %s: %s\n", part, om_status_name(status), err.text);
    }
    assert_int_equal(status, OM_E_FORMAT);
    assert_null(st);
    assert_non_null(strstr(err.text, part));
    assert_non_null(strstr(err.text, "input"));
    free(exact);
}

static void expect_refusal(const char *json, size_t data, const char *part) {
    om_buf b = file_of(json, data);
    expect_refusal_bytes(b.data, b.len, part);
    om_buf_release(&b);
}

static void write_file(const char *name, const char *json, size_t data) {
    om_buf b = file_of(json, data);
    (void) om_tmpdir_write(dir, name, b.data, b.len);
    om_buf_release(&b);
}

static void expect_dir_refusal(const char *part, const char *other) {
    om_safetensors *st = NULL;
    om_error err = { 0 };
    const om_status status = om_safetensors_open(&st, dir, &err);
    if (status != OM_E_FORMAT || strstr(err.text, part) == NULL ||
        strstr(err.text, other) == NULL) {
        print_message("expected \"%s\" and \"%s\", found %s: %s\n", part, other,
                      om_status_name(status), err.text);
    }
    assert_int_equal(status, OM_E_FORMAT);
    assert_null(st);
    assert_non_null(strstr(err.text, part));
    assert_non_null(strstr(err.text, other));
}

/* ---- reading ---- */

static void test_reads_a_file(void **state) {
    (void) state;
    om_buf b = file_of("{\"__metadata__\":{\"format\":\"mlx\",\"\":\"empty key\"},"
                       "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[5,17]},"
                       "\"a \\\"\\u00e9\\\\\":{\"shape\":[5],\"dtype\":\"U8\",\"more\":[1],"
                       "\"data_offsets\":[0,5]},"
                       "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[17,25]}}   ",
                       25);
    om_safetensors *st = parse(&b);
    assert_int_equal(om_safetensors_n(st), 3);
    assert_string_equal(om_safetensors_at(st, 0)->name, "a \"\xC3\xA9\\");
    const om_st_tensor *w = om_safetensors_find(st, "w"), *s = om_safetensors_find(st, "s");
    assert_ptr_equal(w, om_safetensors_at(st, 2));
    assert_ptr_equal(s, om_safetensors_at(st, 1));
    assert_int_equal(w->dtype, OM_ST_BF16);
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->shape[0], 2);
    assert_int_equal(w->shape[1], 3);
    assert_int_equal(w->bytes, 12);
    assert_int_equal(w->shard, 0);
    assert_ptr_equal(w->data, b.data + b.len - 20); /* odd: nothing is aligned */
    assert_int_equal(w->data[0], 5);
    assert_int_equal(s->dtype, OM_ST_OTHER);
    assert_int_equal(s->n_dims, 0);
    assert_int_equal(s->bytes, 8);
    assert_null(om_safetensors_find(st, "W"));
    assert_null(om_safetensors_find(st, ""));
    assert_null(om_safetensors_find(st, "__metadata__"));
    assert_string_equal(om_safetensors_metadata(st, "format"), "mlx");
    assert_string_equal(om_safetensors_metadata(st, ""), "empty key");
    assert_null(om_safetensors_metadata(st, "forma"));
    assert_int_equal(om_safetensors_n_shards(st), 1);
    assert_string_equal(om_safetensors_shard_path(st, 0), "input");
    assert_int_equal(om_safetensors_shard_bytes(st, 0), b.len);
    om_safetensors_forget(st, w, 0, 12); /* not mapped: does nothing */
    om_safetensors_free(st);
    om_safetensors_free(NULL);
    om_buf_release(&b);
}

static void test_empty_tensors_and_files(void **state) {
    (void) state;
    om_buf b = file_of("{}", 0);
    om_safetensors *st = parse(&b);
    assert_int_equal(om_safetensors_n(st), 0);
    assert_null(om_safetensors_find(st, "w"));
    om_safetensors_free(st);
    om_buf_release(&b);

    /* before, between and behind others, and the same place twice */
    b = file_of("{\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
                "\"d\":{\"dtype\":\"F32\",\"shape\":[2,0,3],\"data_offsets\":[4,4]},"
                "\"c\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
                "\"a\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[0,4]},"
                "\"0\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                8);
    st = parse(&b);
    assert_int_equal(om_safetensors_n(st), 6);
    for (int i = 0; i < 6; i++) {
        const om_st_tensor *t = om_safetensors_at(st, i);
        const bool full = t->name[0] == 'a' || t->name[0] == 'b';
        assert_int_equal(t->bytes, full ? 4 : 0);
        assert_non_null(t->data);
    }
    om_safetensors_free(st);
    om_buf_release(&b);
}

static void test_every_dtype(void **state) {
    (void) state;
    static const struct {
        const char *name;
        om_st_dtype dtype;
        int bits;
    } all[] = { { "F32", OM_ST_F32, 32 },
                { "F16", OM_ST_F16, 16 },
                { "BF16", OM_ST_BF16, 16 },
                { "F8_E4M3", OM_ST_F8_E4M3, 8 },
                { "F8_E5M2", OM_ST_F8_E5M2, 8 },
                { "F8_E8M0", OM_ST_F8_E8M0, 8 },
                { "U8", OM_ST_U8, 8 },
                { "I8", OM_ST_I8, 8 },
                { "U32", OM_ST_U32, 32 },
                { "BOOL", OM_ST_OTHER, 8 },
                { "F4", OM_ST_OTHER, 4 },
                { "F6_E2M3", OM_ST_OTHER, 6 },
                { "F6_E3M2", OM_ST_OTHER, 6 },
                { "F8_E4M3FNUZ", OM_ST_OTHER, 8 },
                { "F8_E5M2FNUZ", OM_ST_OTHER, 8 },
                { "I16", OM_ST_OTHER, 16 },
                { "U16", OM_ST_OTHER, 16 },
                { "I32", OM_ST_OTHER, 32 },
                { "I64", OM_ST_OTHER, 64 },
                { "U64", OM_ST_OTHER, 64 },
                { "F64", OM_ST_OTHER, 64 },
                { "C64", OM_ST_OTHER, 64 } };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char json[200];
        const int bytes = 4 * all[i].bits / 8;
        snprintf(json, sizeof json,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,%d]}}", all[i].name,
                 bytes);
        om_buf b = file_of(json, (size_t) bytes);
        om_safetensors *st = parse(&b);
        assert_int_equal(om_safetensors_at(st, 0)->dtype, all[i].dtype);
        assert_int_equal(om_safetensors_at(st, 0)->bytes, bytes);
        if (all[i].dtype != OM_ST_OTHER) {
            assert_int_equal(om_st_dtype_bytes(all[i].dtype), all[i].bits / 8);
            assert_string_equal(om_st_dtype_name(all[i].dtype), all[i].name);
        }
        om_safetensors_free(st);
        om_buf_release(&b);
    }
    assert_int_equal(om_st_dtype_bytes(OM_ST_OTHER), 0);
    assert_null(om_st_dtype_name(OM_ST_OTHER));
}

/* ---- what is refused ---- */

static void test_refuses_bad_frames(void **state) {
    (void) state;
    expect_refusal_bytes("", 0, "0 bytes, too few for a header: download it again");
    expect_refusal_bytes("\2\0\0\0\0\0\0", 7, "7 bytes, too few");
    expect_refusal_bytes("\2\0\0\0\0\0\0\0", 8,
                         "truncated: at least 10 bytes expected, 8 found; download it again");
    expect_refusal_bytes("\2\0\0\0\0\0\0\0{", 9, "at least 10 bytes expected, 9 found");
    expect_refusal_bytes("\0\0\0\0\0\0\0\0{}", 10, "no JSON object");
    expect_refusal_bytes("\1\0\0\0\0\0\0\0{}", 10, "no JSON object");
    expect_refusal_bytes("\3\0\0\0\0\0\0\0 {}", 11, "no JSON object");
    /* 100,000,000 is the last length that may be; then what the file has counts */
    expect_refusal_bytes("\0\xE1\xF5\5\0\0\0\0{}", 10, "at least 100000008 bytes expected");
    expect_refusal_bytes("\1\xE1\xF5\5\0\0\0\0{}", 10, "at most 100000000 bytes");
    expect_refusal_bytes("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, "found 18446744073709551615");
    expect_refusal_bytes("\xF8\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, "at most 100000000 bytes");
    expect_refusal_bytes("version https://git-lfs.github.com/spec/v1\noid", 46, "git lfs pull");
    expect_refusal_bytes("version 12", 10, "download it again");
    expect_refusal_bytes("<!DOCTYPE html><html>", 21, "no safetensors file");
    expect_refusal_bytes("GGUF\3\0\0\0\0\0\0\0", 12, "no safetensors file");
}

static void test_refuses_bad_json(void **state) {
    (void) state;
    expect_refusal("[]", 0, "no JSON object");
    expect_refusal("{\"a\":", 0, "not valid JSON");
    expect_refusal("{} x", 0, "not valid JSON");
    expect_refusal("{}{}", 0, "not valid JSON");
    expect_refusal("{\"\xFF\":1}", 0, "not valid JSON");
    expect_refusal("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
                   "not valid JSON");
    expect_refusal("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                   "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                   1, "duplicate");
    expect_refusal("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],"
                   "\"data_offsets\":[0,1]}}",
                   1, "duplicate");
    expect_refusal("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate");
    /* a NUL behind the text */
    expect_refusal_bytes("\3\0\0\0\0\0\0\0{}\0", 11, "not valid JSON");
}

/* piece N times between head and tail */
static void expect_refusal_of_many(const char *head, const char *piece, int n, const char *tail,
                                   const char *part) {
    om_buf b = { 0 };
    om_buf_puts(&b, head);
    for (int i = 0; i < n; i++) {
        om_buf_puts(&b, piece);
    }
    om_buf_puts(&b, tail);
    expect_refusal(b.data, 0, part);
    om_buf_release(&b);
}

/* Headers that would take a hundred times their length in memory, or a deep stack. */
static void test_refuses_dense_json(void **state) {
    (void) state;
    expect_refusal_of_many("{\"a\":", "[", 1000000, "", "brackets");
    expect_refusal_of_many("{\"a\":", "{\"a\":", 1000000, "", "brackets");
    expect_refusal_of_many("{\"a\":[", "{},", 1000000, "0]}", "brackets");
    expect_refusal_of_many("{\"a\":[", "0,", 1000000, "0]}", "1000000 commas");
    expect_refusal_of_many("{\"a\\\\\":[", "0,", 1000000, "0]}", "1000000 commas");
    /* deep, but not dense */
    expect_refusal_of_many("{\"a\":", "[                    ", 100000, "", "not valid JSON");
    /* in strings all this means nothing, whatever is escaped */
    expect_refusal_of_many("{\"a\\\"", "[{,", 100000, "\":1}", "expected a string, found nothing");
}

/* As dense as tensors can be: the shortest names, the most dimensions. */
static void test_reads_dense_headers(void **state) {
    (void) state;
    om_buf json = { 0 };
    om_buf_puts(&json, "{");
    for (int i = 0; i < 20000; i++) {
        om_buf_printf(&json, "%s\"%x\":{\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,0]}",
                      i == 0 ? "" : ",", (unsigned) i, i < 10000 ? "0" : "0,0,0,0,0,0,0,0");
    }
    om_buf_puts(&json, "}");
    om_buf b = file_of(json.data, 0);
    om_safetensors *st = parse(&b);
    assert_int_equal(om_safetensors_n(st), 20000);
    om_safetensors_free(st);
    om_buf_release(&b);
    om_buf_release(&json);
}

static void test_refuses_bad_fields(void **state) {
    (void) state;
    expect_refusal("{\"w\":1}", 0, "w.dtype: expected a string");
    expect_refusal("{\"w\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                   "w.dtype: expected a string");
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1,
                   "w.shape: expected an array");
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1,
                   "w.data_offsets: expected an array");
    expect_refusal("{\"w\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "w.dtype");
    expect_refusal("{\"w\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
                   "unknown dtype \"f32\"");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4, "w.shape");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4,
                   "w.shape[0]: expected an integer");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4,
                   "w.shape[0]: expected an integer");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
                   "found -1");
    expect_refusal(
        "{\"w\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
        "at most 8 dimensions, found 9");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
                   "found 1 numbers");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4,
                   "found 3 numbers");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
                   "found -4");
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
                   "w.data_offsets[1]");
    expect_refusal("{\"__metadata__\":[]}", 0, "__metadata__: expected an object");
    expect_refusal("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a: expected a string");
}

static void test_refuses_bad_sizes(void **state) {
    (void) state;
    expect_refusal("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
                   "need 8 bytes, data_offsets give 4");
    expect_refusal("{\"w\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,9]}}", 9,
                   "need 8 bytes, data_offsets give 9");
    expect_refusal("{\"w\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
                   "not whole bytes");
    /* 2^32 x 2^32 x 2^32, 2^63 - 1, 2^63, and 2^61 F64s wrap */
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,4294967296],"
                   "\"data_offsets\":[0,0]}}",
                   0, "more elements than any file can hold");
    expect_refusal("{\"w\":{\"dtype\":\"F16\",\"shape\":[9223372036854775807],"
                   "\"data_offsets\":[0,0]}}",
                   0, "more elements");
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],"
                   "\"data_offsets\":[0,0]}}",
                   0, "not valid JSON");
    expect_refusal("{\"w\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],"
                   "\"data_offsets\":[0,0]}}",
                   0, "more elements");
    /* nothing in it, but rows x columns would wrap */
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],"
                   "\"data_offsets\":[0,0]}}",
                   0, "more elements");
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],"
                   "\"data_offsets\":[0,0]}}",
                   0, "more elements");
    /* the largest that is no overflow: then the file is too short for it */
    expect_refusal("{\"w\":{\"dtype\":\"U8\",\"shape\":[144115188075855871],"
                   "\"data_offsets\":[0,144115188075855871]}}",
                   7, "truncated: 144115188075855966 bytes expected, 102 found");
}

static void test_refuses_bad_places(void **state) {
    (void) state;
    static const char two[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]},"
                              "\"b\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}";
    static const struct {
        int a, b, c, d;
        size_t data;
        const char *part;
    } cases[] = {
        { 0, 4, 3, 8, 8, "\"b\" begins at byte 3 of the data, expected 4: it overlaps" },
        { 0, 4, 0, 4, 4, "it overlaps" },
        { 0, 8, 2, 4, 8, "it overlaps" },
        { 0, 8, 4, 4, 8, "\"b\" begins at byte 4 of the data, expected 8: it overlaps" },
        { 4, 8, 0, 3, 8, "\"a\" begins at byte 4 of the data, expected 3: bytes of no tensor" },
        { 1, 4, 4, 8, 8, "\"a\" begins at byte 1 of the data, expected 0: bytes of no tensor" },
        { 0, 4, 4, 8, 9, "the last 1 belong to no tensor" },
        { 0, 4, 4, 8, 7, "found; download it again" },
        { 0, 4, 9, 9, 8, "bytes of no tensor" },
        { 0, 4, 4, 8, 0, "truncated: 1" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[300];
        const int a = cases[i].a, b = cases[i].b, c = cases[i].c, d = cases[i].d;
        snprintf(json, sizeof json, two, b - a, a, b, d - c, c, d);
        expect_refusal(json, cases[i].data, cases[i].part);
    }
    expect_refusal("{}", 1, "the last 1 belong to no tensor");
}

/* Any cut of a good file is refused: nowhere does a shorter file make sense. */
static void test_refuses_every_cut(void **state) {
    (void) state;
    om_buf b = file_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}", 9);
    for (size_t n = 0; n < b.len; n++) {
        expect_refusal_bytes(b.data, n, "download it again");
    }
    om_buf_release(&b);
}

/* ---- directories ---- */

#define ONE(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"

static void test_opens_a_directory(void **state) {
    (void) state;
    write_file("model-00002-of-00002.safetensors", ONE("b"), 2);
    write_file("model-00001-of-00002.safetensors",
               "{\"__metadata__\":{\"format\":\"pt\"},"
               "\"c\":{\"dtype\":\"U8\",\"shape\":[9000],\"data_offsets\":[0,9000]},"
               "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9000,9001]}}",
               9001);
    write_file("consolidated.safetensors", ONE("a"), 2); /* mlx-lm loads none of these */
    write_file("model.safetensors.bak", ONE("a"), 2);
    write_file("mode.safetensors", ONE("a"), 2);
    write_file(".model.safetensors", ONE("a"), 2);
    (void) om_tmpdir_write(dir, "model.safetensors.index.json", "{\"weight_map\":{}}", 17);
    om_safetensors *st = NULL;
    om_error err = { 0 };
    assert_int_equal(om_safetensors_open(&st, dir, &err), OM_OK);
    assert_int_equal(om_safetensors_n_shards(st), 2);
    assert_non_null(strstr(om_safetensors_shard_path(st, 0), "/model-00001-of-00002.safetensors"));
    assert_non_null(strstr(om_safetensors_shard_path(st, 1), "/model-00002-of-00002.safetensors"));
    assert_int_equal(om_safetensors_shard_bytes(st, 1), 8 + strlen(ONE("b")) + 2);
    assert_int_equal(om_safetensors_n(st), 3);
    const om_st_tensor *a = om_safetensors_at(st, 0), *b = om_safetensors_at(st, 1);
    const om_st_tensor *c = om_safetensors_at(st, 2);
    assert_string_equal(a->name, "a");
    assert_string_equal(b->name, "b");
    assert_int_equal(a->shard, 0);
    assert_int_equal(b->shard, 1);
    assert_int_equal(a->data[0], 9000 % 256);
    assert_int_equal(b->data[1], 1);
    assert_string_equal(om_safetensors_metadata(st, "format"), "pt");
    /* forgotten pages come back; ranges outside are cut */
    om_safetensors_forget(st, c, 0, c->bytes);
    om_safetensors_forget(st, c, 5000, INT64_MAX);
    om_safetensors_forget(st, c, -1, 5);
    om_safetensors_forget(st, c, INT64_MAX, 5);
    for (int i = 0; i < 9000; i++) {
        assert_int_equal(c->data[i], i % 256);
    }
    om_safetensors_free(st);
}

static void test_refuses_bad_directories(void **state) {
    (void) state;
    om_safetensors *st = NULL;
    om_error err = { 0 };
    assert_int_equal(om_safetensors_open(&st, om_tmpdir_path(dir, "none"), &err), OM_E_IO);
    assert_null(st);
    expect_dir_refusal("expected files model*.safetensors, found none", dir);

    static const char index[] = "{\"metadata\":{},\"weight_map\":{\"a\":\"model-1.safetensors\","
                                "\"b\":\"model-2.safetensors\"}}";
    (void) om_tmpdir_write(dir, "model.safetensors.index.json", index, sizeof index - 1);
    expect_dir_refusal("names model-1.safetensors, which is not there: download it",
                       "model.safetensors.index.json");
    write_file("model-1.safetensors", ONE("a"), 2);
    expect_dir_refusal("names model-2.safetensors, which is not there",
                       "model.safetensors.index.json");
    write_file("model-2.safetensors", ONE("b"), 1);
    expect_dir_refusal("truncated:", "/model-2.safetensors: ");
    write_file("model-2.safetensors", ONE("a"), 2);
    expect_dir_refusal("tensor \"a\" stands in model-", "remove the file");
    write_file("model-2.safetensors", ONE("b"), 2);
    assert_int_equal(om_safetensors_open(&st, dir, &err), OM_OK);
    om_safetensors_free(st);

    static const char *const indexes[][2] = {
        { "{", "not valid JSON" },
        { "{}", "weight_map: expected an object" },
        { "{\"weight_map\":{\"a\":1}}", "weight_map.a: expected a string" },
        { "{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}", "expected model*.safetensors" },
        { "{\"weight_map\":{\"a\":\"../model-1.safetensors\"}}", "expected model*.safetensors" },
    };
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        (void) om_tmpdir_write(dir, "model.safetensors.index.json", indexes[i][0],
                               strlen(indexes[i][0]));
        expect_dir_refusal(indexes[i][1], "model.safetensors.index.json");
    }
}

static void test_many_tensors(void **state) {
    (void) state;
    enum { N = 100000 };
    om_buf json = { 0 };
    om_buf_puts(&json, "{");
    for (int i = 0; i < N; i++) { /* names in no order */
        om_buf_printf(&json,
                      "%s\"model.layers.%d.mlp.experts.weight\":{\"dtype\":\"U8\",\"shape\":[1],"
                      "\"data_offsets\":[%d,%d]}",
                      i == 0 ? "" : ",", (int) ((int64_t) i * 77773 % N), i, i + 1);
    }
    om_buf_puts(&json, "}");
    om_buf b = file_of(json.data, N);
    om_safetensors *st = parse(&b);
    assert_int_equal(om_safetensors_n(st), N);
    for (int i = 0; i < N; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.weight",
                 (int) ((int64_t) i * 77773 % N));
        const om_st_tensor *t = om_safetensors_find(st, name);
        assert_non_null(t);
        assert_int_equal(t->data[0], i % 256);
        assert_true(i == 0 ||
                    strcmp(om_safetensors_at(st, i - 1)->name, om_safetensors_at(st, i)->name) < 0);
    }
    om_safetensors_free(st);
    om_buf_release(&b);
    om_buf_release(&json);
}

/* ---- numbers ---- */

static void expect_number(om_st_dtype dtype, uint32_t code, double expected) {
    unsigned char bytes[5] = { 0 };
    float value = -99.0f;
    for (int i = 0; i < 4; i++) {
        bytes[1 + i] = (unsigned char) (code >> (8 * i));
    }
    assert_true(om_st_to_f32(&value, dtype, bytes + 1, 1)); /* at an odd address */
    if (isnan(expected)) {
        assert_true(isnan(value));
        return;
    }
    if ((double) value != expected) {
        print_message("%s 0x%X: expected %.9g, found %.9g\n", om_st_dtype_name(dtype),
                      (unsigned) code, expected, (double) value);
    }
    assert_true((double) value == expected);
    assert_int_equal(signbit(value) != 0, signbit(expected) != 0);
}

/* Values from the tables of the OCP specifications and of IEEE 754. */
static void test_decodes(void **state) {
    (void) state;
    static const struct {
        om_st_dtype dtype;
        uint32_t code;
        double value;
    } table[] = {
        { OM_ST_F8_E4M3, 0x00, 0.0 },
        { OM_ST_F8_E4M3, 0x80, -0.0 },
        { OM_ST_F8_E4M3, 0x01, 0x1p-9 },         /* least subnormal */
        { OM_ST_F8_E4M3, 0x07, 0.875 * 0x1p-6 }, /* largest subnormal */
        { OM_ST_F8_E4M3, 0x08, 0x1p-6 },         /* least normal */
        { OM_ST_F8_E4M3, 0x38, 1.0 },
        { OM_ST_F8_E4M3, 0xB9, -1.125 },
        { OM_ST_F8_E4M3, 0x78, 256.0 }, /* would be infinity in IEEE's manner */
        { OM_ST_F8_E4M3, 0x7E, 448.0 }, /* largest */
        { OM_ST_F8_E4M3, 0x7F, (double) NAN },
        { OM_ST_F8_E4M3, 0xFE, -448.0 },
        { OM_ST_F8_E4M3, 0xFF, (double) NAN },
        { OM_ST_F8_E5M2, 0x00, 0.0 },
        { OM_ST_F8_E5M2, 0x80, -0.0 },
        { OM_ST_F8_E5M2, 0x01, 0x1p-16 },
        { OM_ST_F8_E5M2, 0x03, 0.75 * 0x1p-14 },
        { OM_ST_F8_E5M2, 0x04, 0x1p-14 },
        { OM_ST_F8_E5M2, 0x3C, 1.0 },
        { OM_ST_F8_E5M2, 0xBD, -1.25 },
        { OM_ST_F8_E5M2, 0x7B, 57344.0 },
        { OM_ST_F8_E5M2, 0x7C, (double) INFINITY },
        { OM_ST_F8_E5M2, 0xFC, (double) -INFINITY },
        { OM_ST_F8_E5M2, 0x7D, (double) NAN },
        { OM_ST_F8_E5M2, 0xFF, (double) NAN },
        { OM_ST_F8_E8M0, 0x00, 0x1p-127 },
        { OM_ST_F8_E8M0, 0x01, 0x1p-126 },
        { OM_ST_F8_E8M0, 0x7F, 1.0 },
        { OM_ST_F8_E8M0, 0x80, 2.0 },
        { OM_ST_F8_E8M0, 0xFE, 0x1p127 },
        { OM_ST_F8_E8M0, 0xFF, (double) NAN },
        { OM_ST_F16, 0x0001, 0x1p-24 },
        { OM_ST_F16, 0x83FF, -1023 * 0x1p-24 },
        { OM_ST_F16, 0x0400, 0x1p-14 },
        { OM_ST_F16, 0x3555, 1365 * 0x1p-12 },
        { OM_ST_F16, 0x7BFF, 65504.0 },
        { OM_ST_F16, 0xFC00, (double) -INFINITY },
        { OM_ST_F16, 0x7C01, (double) NAN },
        { OM_ST_F16, 0x8000, -0.0 },
        { OM_ST_BF16, 0x3F80, 1.0 },
        { OM_ST_BF16, 0xC049, -3.140625 },
        { OM_ST_BF16, 0x0001, 0x1p-133 },
        { OM_ST_BF16, 0xFF80, (double) -INFINITY },
        { OM_ST_BF16, 0x7FC0, (double) NAN },
        { OM_ST_F32, 0x3F800001, 1.0 + 0x1p-23 },
        { OM_ST_F32, 0x00000001, 0x1p-149 },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        expect_number(table[i].dtype, table[i].code, table[i].value);
    }
    float value = 5.0f;
    const unsigned char bytes[8] = { 0 };
    assert_false(om_st_to_f32(&value, OM_ST_U8, bytes, 1));
    assert_false(om_st_to_f32(&value, OM_ST_I8, bytes, 1));
    assert_false(om_st_to_f32(&value, OM_ST_U32, bytes, 1));
    assert_false(om_st_to_f32(&value, OM_ST_OTHER, bytes, 1));
    assert_true(om_st_to_f32(&value, OM_ST_F32, bytes, 0));
    assert_true(value == 5.0f);
}

/* ---- writing ---- */

static const char *const some_metadata[][2] = { { "format", "mlx" },
                                                { "opt\"imum", "line\nline \xC3\xA9 \\" } };

/* Header, then zeroes for all that it promises. */
static om_buf header_file(const om_st_tensor *tensors, int n, int n_metadata, size_t pad_to,
                          size_t *header, size_t data) {
    unsigned char *bytes = NULL;
    om_error err = { 0 };
    om_buf b = { 0 };
    assert_int_equal(
        om_st_header(&bytes, header, tensors, n, some_metadata, n_metadata, pad_to, &err), OM_OK);
    om_buf_add(&b, (const char *) bytes, *header);
    for (size_t i = 0; i < data; i++) {
        om_buf_add(&b, "", 1);
    }
    om_free(bytes);
    return b;
}

static void test_writes_headers(void **state) {
    (void) state;
    const om_st_tensor tensors[] = {
        { .name = "z", .dtype = OM_ST_U32, .n_dims = 2, .shape = { 3, 5 } },
        { .name = "empty", .dtype = OM_ST_F32, .n_dims = 2, .shape = { 0, 5 } },
        { .name = "a\"b\\\x01\xC3\xA9", .dtype = OM_ST_BF16, .n_dims = 1, .shape = { 7 } },
        { .name = "scalar", .dtype = OM_ST_F8_E4M3, .n_dims = 0 },
    };
    size_t header = 0, padded = 0;
    om_buf b = header_file(tensors, 4, 2, 0, &header, 60 + 14 + 1);
    assert_int_equal(header % 8, 0);
    assert_int_equal(b.data[header - 1] == '}' || b.data[header - 1] == ' ', 1);
    om_safetensors *st = parse(&b);
    assert_int_equal(om_safetensors_n(st), 4);
    size_t at = header;
    for (int i = 0; i < 4; i++) {
        const om_st_tensor *t = om_safetensors_find(st, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_int_equal(t->n_dims, tensors[i].n_dims);
        assert_memory_equal(t->shape, tensors[i].shape, sizeof t->shape);
        assert_ptr_equal(t->data, b.data + at);
        at += (size_t) t->bytes;
    }
    assert_string_equal(om_safetensors_metadata(st, "format"), "mlx");
    assert_string_equal(om_safetensors_metadata(st, "opt\"imum"), some_metadata[1][1]);
    om_safetensors_free(st);

    om_buf wide = header_file(tensors, 4, 2, header + 800, &padded, 75);
    assert_int_equal(padded, header + 800);
    st = parse(&wide);
    assert_int_equal(om_safetensors_n(st), 4);
    om_safetensors_free(st);
    om_buf same = header_file(tensors, 4, 2, header, &padded, 75);
    assert_int_equal(same.len, b.len);
    assert_memory_equal(same.data, b.data, b.len);
    om_buf_release(&same);
    om_buf_release(&wide);
    om_buf_release(&b);

    b = header_file(NULL, 0, 0, 0, &header, 0); /* nothing at all */
    assert_int_equal(header, 16);
    assert_memory_equal(b.data, "\10\0\0\0\0\0\0\0{}      ", 16);
    om_buf_release(&b);
    b = header_file(tensors, 1, 0, 0, &header, 60);
    static const char expected[] =
        "{\"z\":{\"dtype\":\"U32\",\"shape\":[3,5],\"data_offsets\":[0,60]}}";
    assert_memory_equal(b.data + 8, expected, sizeof expected - 1);
    om_buf_release(&b);
}

static void test_refuses_to_write(void **state) {
    (void) state;
    const om_st_tensor bad[] = {
        { .name = "other", .dtype = OM_ST_OTHER, .n_dims = 1, .shape = { 1 } },
        { .name = "less", .dtype = OM_ST_U8, .n_dims = 1, .shape = { -1 } },
        { .name = "dims", .dtype = OM_ST_U8, .n_dims = OM_ST_MAX_DIMS + 1 },
        { .name = "wraps", .dtype = OM_ST_F32, .n_dims = 2, .shape = { 1LL << 31, 1LL << 31 } },
    };
    const om_st_tensor two[] = {
        { .name = "x", .dtype = OM_ST_U8, .n_dims = 1, .shape = { INT64_MAX } },
        { .name = "y", .dtype = OM_ST_U8, .n_dims = 1, .shape = { 1 } },
    };
    unsigned char *out = NULL;
    size_t size = 0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        om_error err = { 0 };
        assert_int_equal(om_st_header(&out, &size, &bad[i], 1, NULL, 0, 0, &err), OM_E_INTERNAL);
        assert_non_null(strstr(err.text, bad[i].name));
        assert_null(out);
    }
    om_error err = { 0 };
    assert_int_equal(om_st_header(&out, &size, two, 2, NULL, 0, 0, &err), OM_E_INTERNAL);
    static const size_t pads[] = { 8, 56, 60, 100000016, SIZE_MAX - 7 }; /* 64 would fit */
    const om_st_tensor good = { .name = "x", .dtype = OM_ST_U8, .n_dims = 1, .shape = { 1 } };
    for (size_t i = 0; i < sizeof pads / sizeof pads[0]; i++) {
        err = (om_error){ 0 };
        assert_int_equal(om_st_header(&out, &size, &good, 1, NULL, 0, pads[i], &err),
                         OM_E_INTERNAL);
        assert_null(out);
    }
    assert_int_equal(om_st_header(&out, &size, &good, 1, NULL, 0, 64, &err), OM_OK);
    assert_int_equal(size, 64);
    om_free(out);
}

/* ---- memory that runs out at every place ---- */

static void test_out_of_memory(void **state) {
    (void) state;
    write_file("model-1.safetensors",
               "{\"__metadata__\":{\"a\":\"b\"},"
               "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
               2);
    write_file("model-2.safetensors", ONE("b"), 2);
    (void) om_tmpdir_write(dir, "model.safetensors.index.json", "{\"weight_map\":{}}", 17);
    const om_st_tensor good = { .name = "\xFF", .dtype = OM_ST_U8, .n_dims = 1, .shape = { 1 } };
    om_status opened = OM_E_NOMEM, written = OM_E_NOMEM;
    for (long n = 1; opened != OM_OK || written != OM_OK; n++) {
        om_safetensors *st = NULL;
        unsigned char *header = NULL;
        size_t size = 0;
        om_error err = { 0 };
        om_mem_fail_at(n);
        opened = om_safetensors_open(&st, dir, &err);
        om_mem_fail_at(0);
        assert_true(opened == OM_OK || (opened == OM_E_NOMEM && st == NULL));
        om_safetensors_free(st);
        err = (om_error){ 0 };
        om_mem_fail_at(n);
        written = om_st_header(&header, &size, &good, 1, some_metadata, 2, 4096, &err);
        om_mem_fail_at(0);
        assert_true(written == OM_OK || (written == OM_E_NOMEM && header == NULL));
        om_free(header);
        assert_true(n < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_file),
        cmocka_unit_test(test_empty_tensors_and_files),
        cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_refuses_bad_frames),
        cmocka_unit_test(test_refuses_bad_json),
        cmocka_unit_test(test_refuses_dense_json),
        cmocka_unit_test(test_reads_dense_headers),
        cmocka_unit_test(test_refuses_bad_fields),
        cmocka_unit_test(test_refuses_bad_sizes),
        cmocka_unit_test(test_refuses_bad_places),
        cmocka_unit_test(test_refuses_every_cut),
        cmocka_unit_test_setup_teardown(test_opens_a_directory, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_refuses_bad_directories, make_dir, remove_dir),
        cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_decodes),
        cmocka_unit_test(test_writes_headers),
        cmocka_unit_test(test_refuses_to_write),
        cmocka_unit_test_setup_teardown(test_out_of_memory, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
