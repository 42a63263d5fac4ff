/* The output header: read back with ggml, exact size whatever the types and the record, a complete
 * file that libllama loads, and the patch of measured quality. */
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
#include <llama.h>

#include "base/mem.h"
#include "model/gguf.h"
#include "tiny_model.h"
#include "tmpdir.h"

static char *dir;
static om_model *model;
static const om_format *types[64];

static om_model *open_model(const char *path) {
    om_model *m = NULL;
    om_error err = { 0 };
    assert_int_equal(om_model_open(&m, path, &err), OM_OK);
    return m;
}

/* Target types: quantized alternately where allowed. */
static void choose(const char *a, const char *b) {
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        types[i] = !t->may_quantize ? t->format : om_format_by_name(i % 2 ? a : b);
    }
}

static int setup(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    const char *path = om_tmpdir_path(dir, "src.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_BF16);
    model = open_model(path);
    return om_model_n_tensors(model) <= 64 ? 0 : 1;
}

static int teardown(void **state) {
    (void) state;
    om_model_free(model);
    om_tmpdir_remove(dir);
    return 0;
}

static om_gguf_record example_record(void) {
    om_gguf_record r = { .seed = UINT64_MAX, .calib_tokens = 4096, .budget_bytes = -1 };
    memset(r.source_sha256, 'a', 64);
    memset(r.calib_sha256, 'b', 64);
    r.predicted_nats = 0.125;
    r.measured_kld = r.measured_kld_stderr = (double) NAN;
    return r;
}

/* Header plus quantized tensors of zeros: enough for every reader. */
static void write_file(const char *path, const om_gguf_record *r) {
    unsigned char *header = NULL;
    size_t size = 0;
    om_error err = { 0 };
    assert_int_equal(om_gguf_metadata(&header, &size, model, types, r, &err), OM_OK);
    assert_int_equal(size, om_gguf_metadata_bytes(model));
    assert_int_equal(size % (size_t) om_gguf_alignment(model), 0);
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(header, 1, size, f), size);
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        int64_t bytes = om_format_size(types[i], t->ne[0], om_tensor_n_rows(t));
        for (int64_t k = 0; k < om_pad(bytes, om_gguf_alignment(model)); k++) {
            fputc(types[i] == t->format && k < bytes ? t->data[k] : 0, f);
        }
    }
    fclose(f);
    om_free(header);
}

static void test_read_back_by_ggml(void **state) {
    (void) state;
    choose("q4_K", "iq3_s");
    om_gguf_record r = example_record();
    const char *path = om_tmpdir_path(dir, "out.gguf");
    write_file(path, &r);
    struct ggml_context *ctx = NULL;
    struct gguf_init_params params = { .no_alloc = true, .ctx = &ctx };
    struct gguf_context *out = gguf_init_from_file(path, params);
    struct gguf_context *in =
        gguf_init_from_file(om_model_path(model), (struct gguf_init_params){ .no_alloc = true });
    assert_non_null(out);
    assert_int_equal(gguf_get_data_offset(out), om_gguf_metadata_bytes(model));
    /* The source's pairs come first, in order; only file_type differs. */
    for (int64_t i = 0; i < gguf_get_n_kv(in); i++) {
        assert_string_equal(gguf_get_key(in, i), gguf_get_key(out, i));
        assert_int_equal(gguf_get_kv_type(in, i), gguf_get_kv_type(out, i));
    }
    int64_t tokens = gguf_find_key(out, "tokenizer.ggml.tokens");
    assert_int_equal(gguf_get_arr_n(out, tokens), gguf_get_arr_n(in, tokens));
    assert_string_equal(gguf_get_arr_str(out, tokens, 300), gguf_get_arr_str(in, tokens, 300));
    assert_int_equal(gguf_get_val_u32(out, gguf_find_key(out, "general.quantization_version")), 2);
    assert_string_equal(gguf_get_val_str(out, gguf_find_key(out, "optimum.source.sha256")),
                        r.source_sha256);
    char zeros[65];
    snprintf(zeros, sizeof zeros, "%064d", 0);
    assert_string_equal(gguf_get_val_str(out, gguf_find_key(out, "optimum.profile.sha256")), zeros);
    assert_true(gguf_get_val_u64(out, gguf_find_key(out, "optimum.seed")) == UINT64_MAX);
    assert_true(gguf_get_val_f64(out, gguf_find_key(out, "optimum.predicted_nats")) == 0.125);
    assert_true(isnan(gguf_get_val_f64(out, gguf_find_key(out, "optimum.measured_kld"))));
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        assert_string_equal(gguf_get_tensor_name(out, i), om_model_tensor(model, i)->name);
        assert_int_equal(gguf_get_tensor_type(out, i), types[i]->ggml_type);
        assert_memory_equal(ggml_get_tensor(ctx, gguf_get_tensor_name(out, i))->ne,
                            om_model_tensor(model, i)->ne, sizeof(int64_t) * 4);
    }
    gguf_free(in);
    gguf_free(out);
    ggml_free(ctx);
    om_model *ours = open_model(path);
    assert_int_equal(om_model_params(ours), om_model_params(model));
    /* Quantizing our own output again drops the old record and adds one: same size. */
    assert_int_equal(om_gguf_metadata_bytes(ours), om_gguf_metadata_bytes(model));
    om_model_free(ours);
}

static uint32_t file_type_of(const char *path) {
    struct gguf_context *g =
        gguf_init_from_file(path, (struct gguf_init_params){ .no_alloc = true });
    uint32_t v = gguf_get_val_u32(g, gguf_find_key(g, "general.file_type"));
    gguf_free(g);
    return v;
}

/* What stock llama.cpp calls the file, for every type that can be asked for. */
static void test_file_type(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "ft.gguf");
    om_gguf_record r = example_record();
    const om_format *f;
    for (int i = 0; (f = om_format_at(i)) != NULL; i++) {
        if (f->use == OM_FORMAT_SOURCE) {
            continue;
        }
        choose(f->name, f->name);
        write_file(path, &r);
        char name[64], expected[32];
        snprintf(name, sizeof name, "%s", llama_ftype_name((enum llama_ftype) file_type_of(path)));
        size_t n = (size_t) snprintf(expected, sizeof expected, "%s", f->name);
        for (size_t k = 0; k < n; k++) {
            char c = expected[k];
            expected[k] = c >= 'a' && c <= 'z' ? (char) (c - 'a' + 'A') : c;
        }
        bool f32 = strcmp(f->name, "f32") == 0;
        if (strncmp(name, f32 ? "all F32" : expected, f32 ? 7 : n) != 0) {
            print_message("%s is called %s\n", f->name, name);
            fail();
        }
    }
    choose("q4_K", "q6_K");
    for (int i = 0; i < om_model_n_tensors(model); i++) { /* the big ones decide */
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize) {
            types[i] = om_format_by_name(om_tensor_params(t) > 100000 ? "q4_K" : "q6_K");
        }
    }
    write_file(path, &r);
    assert_int_equal(file_type_of(path), LLAMA_FTYPE_MOSTLY_Q4_K_M);
}

static void test_loads_in_libllama(void **state) {
    (void) state;
    choose("q8_0", "q5_K");
    om_gguf_record r = example_record();
    const char *path = om_tmpdir_path(dir, "load.gguf");
    write_file(path, &r);
    struct llama_model *m = llama_model_load_from_file(path, llama_model_default_params());
    assert_non_null(m);
    assert_int_equal(llama_model_n_params(m), om_model_params(model));
    llama_model_free(m);
}

static void test_patch(void **state) {
    (void) state;
    choose("q8_0", "q5_K");
    om_gguf_record r = example_record();
    const char *a = om_tmpdir_path(dir, "patched.gguf"), *b = om_tmpdir_path(dir, "direct.gguf");
    om_error err = { 0 };
    write_file(a, &r);
    assert_int_equal(om_gguf_patch_measured(a, 0.0125, 0.0005, &err), OM_OK);
    r.measured_kld = 0.0125;
    r.measured_kld_stderr = 0.0005;
    write_file(b, &r);
    char x[65], y[65]; /* nothing else changed */
    assert_int_equal(om_sha256_file(x, a, NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(y, b, NULL, &err), OM_OK);
    assert_string_equal(x, y);
    assert_int_equal(om_gguf_patch_measured(om_model_path(model), 1, 1, &err), OM_E_MISMATCH);
    err = (om_error){ 0 };
    assert_int_equal(om_gguf_patch_measured(om_tmpdir_path(dir, "none"), 1, 1, &err), OM_E_IO);
}

static void test_dropped_keys(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "keys.gguf");
    struct gguf_context *g = gguf_init_empty();
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){ .mem_size = 1 << 16 });
    gguf_add_tensor(g, ggml_set_name(ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 32, 4), "x.weight"));
    gguf_set_val_str(g, "general.architecture", "demo");
    gguf_set_val_str(g, "quantize.imatrix.file", "old");
    gguf_set_val_u32(g, "general.alignment", 64);
    gguf_set_val_u16(g, "split.count", 1);
    gguf_set_val_str(g, "optimum.calib.sha256", "of another length");
    gguf_set_val_u32(g, "demo.last", 5);
    assert_true(gguf_write_to_file(g, path, false));
    gguf_free(g);
    ggml_free(ctx);
    om_model *m = open_model(path);
    const om_format *q[] = { om_format_by_name("q8_0") };
    unsigned char *bytes = NULL;
    size_t size = 0;
    om_error err = { 0 };
    om_gguf_record r = { 0 };
    assert_int_equal(om_gguf_alignment(m), 64);
    assert_int_equal(om_gguf_metadata(&bytes, &size, m, q, &r, &err), OM_OK);
    assert_int_equal(size % 64, 0);
    struct gguf_context *out =
        gguf_init_from_buffer(bytes, size, (struct gguf_init_params){ .no_alloc = true });
    assert_non_null(out);
    static const char *const order[] = {
        "general.architecture",         "general.alignment", "demo.last", "general.file_type",
        "general.quantization_version", "optimum.version"
    };
    for (int i = 0; i < 6; i++) {
        assert_string_equal(gguf_get_key(out, i), order[i]);
    }
    assert_int_equal(gguf_find_key(out, "quantize.imatrix.file"), -1);
    assert_int_equal(gguf_find_key(out, "split.count"), -1);
    gguf_free(out);
    om_free(bytes);
    q[0] = om_format_by_name("q4_K"); /* 32 is no multiple of 256 */
    assert_int_equal(om_gguf_metadata(&bytes, &size, m, q, &r, &err), OM_E_INTERNAL);
    err = (om_error){ 0 };
    q[0] = om_format_by_name("q8_0");
    strcpy(r.calib_sha256, "short");
    assert_int_equal(om_gguf_metadata(&bytes, &size, m, q, &r, &err), OM_E_INTERNAL);
    om_model_free(m);
}

static void quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void) level;
    (void) text;
    (void) ud;
}

int main(void) {
    llama_log_set(quiet, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_back_by_ggml), cmocka_unit_test(test_file_type),
        cmocka_unit_test(test_loads_in_libllama), cmocka_unit_test(test_patch),
        cmocka_unit_test(test_dropped_keys),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
