/* The reader against ggml's own reader, on files that ggml wrote. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <gguf.h>

#include "base/mem.h"
#include "model/gguf.h"
#include "tiny_model.h"
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

static om_model *open_model(const char *path) {
    om_model *m = NULL;
    om_error err = { 0 };
    om_status status = om_model_open(&m, path, &err);
    if (status != OM_OK) {
        print_message("%s\n", err.text);
    }
    assert_int_equal(status, OM_OK);
    return m;
}

/* Same tensors, same bytes, same order, as ggml sees them. */
static void compare_with_ggml(const char *path) {
    om_model *m = open_model(path);
    struct ggml_context *ctx = NULL;
    struct gguf_context *g =
        gguf_init_from_file(path, (struct gguf_init_params){ .no_alloc = false, .ctx = &ctx });
    assert_non_null(g);
    assert_int_equal(om_model_n_tensors(m), gguf_get_n_tensors(g));
    assert_int_equal(om_gguf_alignment(m), gguf_get_alignment(g));
    int64_t params = 0;
    for (int i = 0; i < om_model_n_tensors(m); i++) {
        const om_tensor *t = om_model_tensor(m, i);
        const struct ggml_tensor *r = ggml_get_tensor(ctx, t->name);
        assert_string_equal(t->name, gguf_get_tensor_name(g, i));
        assert_int_equal(t->format->ggml_type, r->type);
        assert_memory_equal(t->ne, r->ne, sizeof t->ne);
        assert_int_equal(t->bytes, ggml_nbytes(r));
        assert_memory_equal(t->data, r->data, ggml_nbytes(r));
        assert_ptr_equal(om_model_find(m, t->name), t);
        params += ggml_nelements(r);
    }
    assert_int_equal(om_model_params(m), params);
    assert_null(om_model_find(m, "no.such.weight"));
    gguf_free(g);
    ggml_free(ctx);
    om_model_free(m);
}

static void test_same_as_ggml(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "a.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_BF16);
    compare_with_ggml(path);
    om_tiny_model_write(path, "qwen3moe", GGML_TYPE_Q4_0);
    compare_with_ggml(path);
}

static void test_metadata(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "meta.gguf");
    struct gguf_context *g = gguf_init_empty();
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){ .mem_size = 1 << 16 });
    gguf_add_tensor(g, ggml_set_name(ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 8), "x"));
    static const uint32_t heads[] = { 4, 0, 2 };
    static const int8_t bools[] = { 1, 0, 1 };
    const char *strings[] = { "a", "", "long string" };
    gguf_set_val_str(g, "general.architecture", "demo");
    gguf_set_val_u8(g, "demo.u8", 200);
    gguf_set_val_i8(g, "demo.i8", -3);
    gguf_set_val_u16(g, "demo.u16", 60000);
    gguf_set_val_i32(g, "demo.i32", 7);
    gguf_set_val_u64(g, "demo.u64", UINT64_MAX);
    gguf_set_val_f32(g, "demo.f32", 0.5f);
    gguf_set_val_f64(g, "demo.f64", -2.25);
    gguf_set_val_bool(g, "demo.bool", true);
    gguf_set_arr_data(g, "demo.heads", GGUF_TYPE_UINT32, heads, 3);
    gguf_set_arr_data(g, "demo.bools", GGUF_TYPE_BOOL, bools, 3);
    gguf_set_arr_str(g, "demo.strings", strings, 3);
    assert_true(gguf_write_to_file(g, path, false));
    gguf_free(g);
    ggml_free(ctx);

    om_model *m = open_model(path);
    assert_string_equal(om_model_arch(m), "demo");
    assert_int_equal(om_model_u64(m, "%s.u8", 1), 200);
    assert_int_equal(om_model_u64(m, "%s.i8", 1), 1); /* negative: the fallback */
    assert_int_equal(om_model_u64(m, "demo.u16", 1), 60000);
    assert_int_equal(om_model_u64(m, "%s.i32", 1), 7);
    assert_true(om_model_u64(m, "%s.u64", 1) == UINT64_MAX);
    assert_int_equal(om_model_u64(m, "%s.bool", 0), 1);
    assert_int_equal(om_model_u64(m, "%s.f32", 9), 9);
    assert_true(om_model_f64(m, "%s.f32", 0) == 0.5);
    assert_true(om_model_f64(m, "%s.f64", 0) == -2.25);
    assert_true(om_model_f64(m, "%s.i32", 0) == 7.0);
    assert_true(om_model_f64(m, "%s.none", 3.0) == 3.0);
    assert_string_equal(om_model_str(m, "general.architecture", ""), "demo");
    assert_string_equal(om_model_str(m, "%s.u8", "fallback"), "fallback");
    assert_int_equal(om_model_array_n(m, "%s.strings"), 3);
    assert_int_equal(om_model_array_n(m, "%s.u8"), -1);
    assert_int_equal(om_model_u64_at(m, "%s.heads", 2, 9), 2);
    assert_int_equal(om_model_u64_at(m, "%s.heads", 3, 9), 9);
    assert_int_equal(om_model_u64_at(m, "%s.heads", -1, 9), 9);
    assert_int_equal(om_model_u64_at(m, "%s.bools", 2, 9), 1);
    assert_int_equal(om_model_u64_at(m, "%s.strings", 0, 9), 9);
    assert_int_equal(om_model_u64_at(m, "%s.u8", 5, 9), 200); /* a scalar is for all layers */
    om_model_free(m);
}

static void test_rows(void **state) {
    (void) state;
    static const enum ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16,
                                            GGML_TYPE_Q4_K, GGML_TYPE_IQ4_XS };
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        const char *path = om_tmpdir_path(dir, "rows.gguf");
        om_tiny_model_write(path, "llama", types[k]);
        om_model *m = open_model(path);
        const om_tensor *t = om_model_find(m, "blk.1.ffn_up.weight");
        om_error err = { 0 };
        enum { N = 256 * 512 };
        float *all = calloc(N, sizeof *all), *some = calloc(N, sizeof *some);
        assert_int_equal(om_tensor_rows_f32(all, t, 0, 512, &err), OM_OK);
        assert_int_equal(om_tensor_rows_f32(some, t, 100, 3, &err), OM_OK);
        assert_memory_equal(some, all + 100 * 256, 3 * 256 * sizeof(float));
        double sum2 = 0; /* the values were drawn with a variance of 1/256 */
        for (int i = 0; i < N; i++) {
            sum2 += (double) all[i] * (double) all[i];
        }
        assert_true(fabs(sum2 / N * 256 - 1) < 0.05);
        assert_int_equal(om_tensor_rows_f32(some, t, 510, 3, &err), OM_E_INTERNAL);
        free(all);
        free(some);
        om_model_free(m);
    }
}

static void test_sha256(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "sha.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_F32);
    om_model *m = open_model(path);
    om_error err = { 0 };
    char a[65], b[65];
    assert_int_equal(om_model_sha256(a, m, NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(b, path, NULL, &err), OM_OK);
    assert_string_equal(a, b);
    assert_int_equal(om_model_file_bytes(m), om_file_size(path));
    om_model_free(m);
}

/* ---- split models ---- */

/* Part `no` of `count` with one tensor of 8 values, all of them `no`. */
static void write_part(const char *path, int no, int count, int total, bool with_arch) {
    struct gguf_context *g = gguf_init_empty();
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){ .mem_size = 1 << 16 });
    char name[16];
    snprintf(name, sizeof name, "t%d", no);
    struct ggml_tensor *t = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 8);
    for (int i = 0; i < 8; i++) {
        ((float *) t->data)[i] = (float) no;
    }
    if (with_arch) {
        gguf_set_val_str(g, "general.architecture", "demo");
    }
    gguf_set_val_u16(g, "split.no", (uint16_t) no);
    gguf_set_val_u16(g, "split.count", (uint16_t) count);
    gguf_set_val_i32(g, "split.tensors.count", total);
    gguf_add_tensor(g, ggml_set_name(t, name));
    assert_true(gguf_write_to_file(g, path, false));
    gguf_free(g);
    ggml_free(ctx);
}

static void expect_error(const char *path, om_status status, const char *text) {
    om_model *m = NULL;
    om_error err = { 0 };
    assert_int_equal(om_model_open(&m, path, &err), status);
    assert_null(m);
    if (strstr(err.text, text) == NULL) {
        print_message("expected \"%s\" in: %s\n", text, err.text);
        fail();
    }
}

static void test_split(void **state) {
    (void) state;
    const char *first = om_tmpdir_path(dir, "m-00001-of-00003.gguf");
    const char *second = om_tmpdir_path(dir, "m-00002-of-00003.gguf");
    const char *third = om_tmpdir_path(dir, "m-00003-of-00003.gguf");
    write_part(first, 0, 3, 3, true);
    write_part(second, 1, 3, 3, false);
    expect_error(first, OM_E_FORMAT, "part 3 of 3 is missing");
    write_part(third, 1, 3, 3, false);
    expect_error(first, OM_E_FORMAT, "expected part 3 of 3");
    write_part(third, 2, 3, 3, false);
    om_model *m = open_model(first);
    assert_int_equal(om_model_n_splits(m), 3);
    assert_string_equal(om_model_split_path(m, 2), third);
    assert_int_equal(om_model_n_tensors(m), 3);
    for (int i = 0; i < 3; i++) {
        const om_tensor *t = om_model_tensor(m, i);
        float value;
        memcpy(&value, t->data, sizeof value);
        assert_int_equal(t->split, i);
        assert_true(value == (float) i);
        assert_true(t->data > om_model_split_map(m, i)->data);
    }
    om_error err = { 0 };
    char hex[65], digests[3 * 64 + 1] = "", expected[65];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(om_sha256_file(hex, om_model_split_path(m, i), NULL, &err), OM_OK);
        strcat(digests, hex);
    }
    om_sha256_bytes(expected, digests, 192);
    assert_int_equal(om_model_sha256(hex, m, NULL, &err), OM_OK);
    assert_string_equal(hex, expected);
    om_model_free(m);

    write_part(second, 1, 3, 3, true);
    expect_error(second, OM_E_ARG, "give the first part");
    write_part(first, 0, 3, 4, true);
    expect_error(first, OM_E_FORMAT, "expected 4 tensors in all parts, found 3");
    write_part(first, 0, 3, 3, true);
    const char *renamed = om_tmpdir_path(dir, "renamed.gguf");
    assert_int_equal(rename(first, renamed), 0);
    expect_error(renamed, OM_E_FORMAT, "original");
}

static void test_open_errors(void **state) {
    (void) state;
    expect_error(om_tmpdir_path(dir, "none.gguf"), OM_E_IO, "none.gguf");
    expect_error(om_tmpdir_write(dir, "empty.gguf", "", 0), OM_E_FORMAT, "not a GGUF file");
    static const char text[] = "this is a text file and no model, as everybody can see";
    expect_error(om_tmpdir_write(dir, "text.gguf", text, sizeof text), OM_E_FORMAT, "not a GGUF");
    static const unsigned char big_endian[32] = "GGUF\0\0\0\3";
    expect_error(om_tmpdir_write(dir, "be.gguf", big_endian, 32), OM_E_FORMAT, "big-endian");
    static const unsigned char old[32] = "GGUF\1\0\0\0";
    expect_error(om_tmpdir_write(dir, "v1.gguf", old, 32), OM_E_FORMAT, "version 1");
}

/* Every allocation of open fails once: a clean status, nothing leaked (asan watches). */
static void test_no_memory(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "m.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_F32);
    int failures = 0;
    for (long n = 1;; n++) {
        om_model *m = NULL;
        om_error err = { 0 };
        om_mem_fail_at(n);
        om_status status = om_model_open(&m, path, &err);
        om_mem_fail_at(0);
        if (status == OM_OK) {
            om_model_free(m);
            break;
        }
        assert_int_equal(status, OM_E_NOMEM);
        assert_null(m);
        failures++;
    }
    assert_true(failures > 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_ggml), cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_split),        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
