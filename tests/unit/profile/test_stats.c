/* Statistics files: written by us and read back by ggml's own GGUF reader; written by ggml or by
 * hand (legacy .dat) and read by us; hostile bytes refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <ggml.h>
#include <gguf.h>

#include "base/file.h"
#include "base/mem.h"
#include "profile/stats.h"

static char folder[64], path_a[128], path_b[128];

static int make_folder(void **state) {
    (void) state;
    strcpy(folder, "/tmp/om_stats_XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    snprintf(path_a, sizeof path_a, "%s/a", folder);
    snprintf(path_b, sizeof path_b, "%s/b", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void) state;
    unlink(path_a);
    unlink(path_b);
    return rmdir(folder);
}

static float *floats(int64_t n, float first) {
    float *v = om_calloc((size_t) n, sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        v[i] = first + (float) i / 3.0F;
    }
    return v;
}

/* A dense matrix, a stack of three experts of which one saw no token, and an embedding. */
static om_stats *example(void) {
    om_stats *s = om_calloc(1, sizeof *s);
    s->tensors = om_calloc(3, sizeof *s->tensors);
    s->n_tensors = 3;
    memset(s->model_sha256, 'a', 64);
    memset(s->calib_sha256, 'b', 64);
    s->n_windows = 96;
    s->window_tokens = 512;
    s->pass = 5;
    s->tokens = 49056;
    s->seed = 0xFFFFFFFFFFFFFFFFULL;
    const struct {
        const char *name;
        int64_t n_in, n_out;
        int experts;
        bool inputs;
    } shapes[3] = { { "blk.0.attn_q.weight", 8, 5, 1, true },
                    { "blk.0.ffn_up_exps.weight", 4, 6, 3, true },
                    { "token_embd.weight", 8, 11, 1, false } };
    for (int i = 0; i < 3; i++) {
        om_tensor_stats *t = &s->tensors[i];
        strcpy(t->name, shapes[i].name);
        t->n_in = shapes[i].n_in;
        t->n_out = shapes[i].n_out;
        t->experts = shapes[i].experts;
        if (shapes[i].inputs) {
            t->in_sum2 = floats(t->n_in * t->experts, 1.0F);
            t->counts = floats(t->experts, 0.0F);
            for (int e = 0; e < t->experts; e++) {
                t->counts[e] = (float) (e == 1 ? 0 : 7 + e);
            }
        }
        t->rows = floats(t->n_out * t->experts, 0.0F);
        t->cols = floats(t->n_in * t->experts, 0.0F);
        for (int64_t k = 0; k < t->n_out * t->experts; k++) {
            t->total += (double) t->rows[k];
        }
        t->total *= 1.0 + 1e-9; /* what F32 cannot hold must survive too */
    }
    return s;
}

static om_stats *read_ok(const char *path) {
    om_stats *s = NULL;
    om_error err = { 0 };
    if (om_stats_read(&s, path, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return s;
}

static void write_ok(const om_stats *s, const char *path, bool imatrix_only) {
    om_error err = { 0 };
    if (om_stats_write(s, path, imatrix_only, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
}

static void assert_same_floats(const float *a, const float *b, int64_t n) {
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL) {
        assert_memory_equal(a, b, (size_t) n * sizeof *a);
    }
}

static void round_trip_keeps_everything(void **state) {
    (void) state;
    om_stats *s = example();
    write_ok(s, path_a, false);
    om_stats *r = read_ok(path_a);
    assert_int_equal(r->n_tensors, 3);
    assert_string_equal(r->model_sha256, s->model_sha256);
    assert_string_equal(r->calib_sha256, s->calib_sha256);
    assert_int_equal(r->n_windows, 96);
    assert_int_equal(r->window_tokens, 512);
    assert_int_equal(r->pass, 5);
    assert_int_equal(r->tokens, 49056);
    assert_true(r->seed == s->seed);
    assert_int_equal(strlen(r->sha256), 64);
    for (int i = 0; i < 3; i++) {
        const om_tensor_stats *a = &s->tensors[i], *b = &r->tensors[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->n_in, b->n_in);
        assert_int_equal(a->n_out, b->n_out);
        assert_int_equal(a->experts, b->experts);
        assert_same_floats(a->in_sum2, b->in_sum2, a->n_in * a->experts);
        assert_same_floats(a->counts, b->counts, a->experts);
        assert_same_floats(a->rows, b->rows, a->n_out * a->experts);
        assert_same_floats(a->cols, b->cols, a->n_in * a->experts);
        assert_memory_equal(&a->total, &b->total, sizeof a->total);
    }
    write_ok(r, path_b, false);
    om_stats *again = read_ok(path_b);
    assert_string_equal(r->sha256, again->sha256); /* equal statistics, equal bytes */
    om_stats_free(again);
    om_stats_free(r);
    om_stats_free(s);
}

/* ggml's reader is the one that llama-quantize uses. */
static void ggml_reads_what_we_write(void **state) {
    (void) state;
    for (int imatrix_only = 0; imatrix_only < 2; imatrix_only++) {
        om_stats *s = example();
        write_ok(s, path_a, imatrix_only != 0);
        struct ggml_context *ctx = NULL;
        struct gguf_context *gguf = gguf_init_from_file(
            path_a, (struct gguf_init_params){ .no_alloc = false, .ctx = &ctx });
        assert_non_null(gguf);
        assert_int_equal(gguf_get_n_tensors(gguf), imatrix_only ? 4 : 10);
        assert_string_equal(gguf_get_val_str(gguf, gguf_find_key(gguf, "general.type")), "imatrix");
        assert_int_equal(gguf_get_val_u32(gguf, gguf_find_key(gguf, "imatrix.chunk_count")), 96);
        assert_int_equal(gguf_get_val_u32(gguf, gguf_find_key(gguf, "imatrix.chunk_size")), 512);
        const int64_t sets = gguf_find_key(gguf, "imatrix.datasets");
        assert_int_equal(gguf_get_arr_type(gguf, sets), GGUF_TYPE_STRING);
        assert_int_equal(gguf_get_arr_n(gguf, sets), 1);
        const struct ggml_tensor *t = ggml_get_tensor(ctx, "blk.0.ffn_up_exps.weight.in_sum2");
        assert_non_null(t);
        assert_int_equal(t->type, GGML_TYPE_F32);
        assert_int_equal(t->ne[0], 4);
        assert_int_equal(t->ne[1], 3);
        assert_memory_equal(t->data, s->tensors[1].in_sum2, 12 * sizeof(float));
        t = ggml_get_tensor(ctx, "blk.0.ffn_up_exps.weight.counts");
        assert_non_null(t);
        assert_int_equal(t->ne[0], 1);
        assert_int_equal(t->ne[1], 3);
        assert_memory_equal(t->data, s->tensors[1].counts, 3 * sizeof(float));
        t = ggml_get_tensor(ctx, "token_embd.weight.fisher_rows");
        assert_int_equal(t == NULL, imatrix_only);
        gguf_free(gguf);
        ggml_free(ctx);
        om_stats_free(s);
    }
}

static void importance_is_llama_quantizes(void **state) {
    (void) state;
    om_stats *s = example();
    const om_tensor_stats *t = om_stats_find(s, "blk.0.ffn_up_exps.weight");
    float out[4];
    assert_true(om_stats_importance(out, t, 0));
    for (int j = 0; j < 4; j++) {
        volatile const float want = t->in_sum2[j] / 7.0F;
        assert_memory_equal(&out[j], (const void *) &want, sizeof want);
    }
    assert_true(om_stats_importance(out, t, 1)); /* the expert no token was routed to */
    for (int j = 0; j < 4; j++) {
        assert_true(out[j] == 1.0F);
    }
    assert_false(om_stats_importance(out, t, 3));
    assert_false(om_stats_importance(out, om_stats_find(s, "token_embd.weight"), 0));
    assert_null(om_stats_find(s, "output.weight"));
    om_stats_free(s);
}

/* As llama-imatrix writes: pairs only, foreign keys, a count per expert. */
static void write_foreign(const char *path, const char *second_suffix, int n_counts, float value) {
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){ .mem_size = 1 << 16 });
    struct gguf_context *gguf = gguf_init_empty();
    gguf_set_val_str(gguf, "general.type", "imatrix");
    gguf_set_val_u32(gguf, "imatrix.chunk_count", 10);
    gguf_set_val_u32(gguf, "imatrix.chunk_size", 512);
    struct ggml_tensor *sums = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 4, 2);
    struct ggml_tensor *counts = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 1, n_counts);
    ggml_set_name(sums, "blk.1.ffn_down_exps.weight.in_sum2");
    char name[64] = "blk.1.ffn_down_exps.weight";
    strcat(name, second_suffix);
    ggml_set_name(counts, name);
    for (int i = 0; i < 8; i++) {
        ((float *) sums->data)[i] = value;
    }
    for (int i = 0; i < n_counts; i++) {
        ((float *) counts->data)[i] = 2.0F;
    }
    gguf_add_tensor(gguf, sums);
    gguf_add_tensor(gguf, counts);
    assert_true(gguf_write_to_file(gguf, path, false));
    gguf_free(gguf);
    ggml_free(ctx);
}

static void foreign_imatrix_is_read(void **state) {
    (void) state;
    write_foreign(path_a, ".counts", 2, 3.0F);
    om_stats *s = read_ok(path_a);
    assert_int_equal(s->n_tensors, 1);
    assert_string_equal(s->tensors[0].name, "blk.1.ffn_down_exps.weight");
    assert_int_equal(s->tensors[0].n_in, 4);
    assert_int_equal(s->tensors[0].experts, 2);
    assert_null(s->tensors[0].rows);
    assert_null(s->tensors[0].cols);
    assert_string_equal(s->model_sha256, "");
    assert_int_equal(s->n_windows, 10);
    float out[4];
    assert_true(om_stats_importance(out, &s->tensors[0], 1));
    assert_true(out[3] == 1.5F);
    om_stats_free(s);
}

static void expect_refused(const char *path, om_status want, const char *part_of_text) {
    om_stats *s = NULL;
    om_error err = { 0 };
    assert_int_equal(om_stats_read(&s, path, &err), want);
    assert_null(s);
    if (strstr(err.text, part_of_text) == NULL) {
        fail_msg("expected \"%s\" in: %s", part_of_text, err.text);
    }
}

static void damaged_imatrix_is_refused(void **state) {
    (void) state;
    write_foreign(path_a, ".other", 2, 3.0F);
    expect_refused(path_a, OM_E_FORMAT, "blk.1.ffn_down_exps.weight.counts is missing");
    write_foreign(path_a, ".counts", 3, 3.0F);
    expect_refused(path_a, OM_E_FORMAT, "shapes");
    write_foreign(path_a, ".counts", 2, -1.0F);
    expect_refused(path_a, OM_E_NUMERIC, "blk.1.ffn_down_exps.weight.in_sum2");
    const float zero = 0.0F;
    write_foreign(path_a, ".counts", 2, zero / zero);
    expect_refused(path_a, OM_E_NUMERIC, "nan");
    expect_refused("/nonexistent/imatrix", OM_E_IO, "/nonexistent/imatrix");
}

static void writer_refuses_what_reader_would(void **state) {
    (void) state;
    om_stats *s = example();
    om_error err = { 0 };
    const float zero = 0.0F;
    s->tensors[0].rows[2] = zero / zero;
    assert_int_equal(om_stats_write(s, path_b, false, &err), OM_E_NUMERIC);
    assert_non_null(strstr(err.text, "blk.0.attn_q.weight.fisher_rows"));
    s->tensors[0].rows[2] = 0;
    memset(s->tensors[0].name, 'x', 60);
    s->tensors[0].name[60] = '\0';
    err = (om_error){ 0 };
    assert_int_equal(om_stats_write(s, path_b, false, &err), OM_E_UNSUPPORTED);
    om_stats_free(s);
}

/* ---- legacy .dat ---- */

typedef struct bytes {
    unsigned char data[512];
    size_t n;
} bytes;

static void put(bytes *b, const void *p, size_t n) {
    memcpy(b->data + b->n, p, n);
    b->n += n;
}

static void put_i32(bytes *b, int32_t v) {
    put(b, &v, 4);
}

static void put_entry(bytes *b, const char *name, int32_t ncall, int32_t nval) {
    put_i32(b, (int32_t) strlen(name));
    put(b, name, strlen(name));
    put_i32(b, ncall);
    put_i32(b, nval);
    for (int32_t i = 0; i < nval; i++) {
        const float v = 1.0F + (float) i;
        put(b, &v, 4);
    }
}

static bytes legacy(void) {
    bytes b = { 0 };
    put_i32(&b, 2);
    put_entry(&b, "blk.0.ffn_up_exps.weight", 3, 8);
    put_entry(&b, "blk.0.attn_q.weight", 0, 4);
    put_i32(&b, 25);
    put_i32(&b, 4);
    put(&b, "text", 4);
    return b;
}

static void write_bytes(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void legacy_is_read(void **state) {
    (void) state;
    const bytes b = legacy();
    om_error err = { 0 };
    write_bytes(path_a, b.data, b.n);
    om_stats *s = read_ok(path_a);
    assert_int_equal(s->n_tensors, 2);
    assert_int_equal(s->n_windows, 25);
    /* flat until the model's shape is known */
    assert_int_equal(s->tensors[0].n_in, 8);
    assert_int_equal(om_stats_shape(&s->tensors[0], 3, 2, &err), OM_E_MISMATCH);
    err = (om_error){ 0 };
    assert_int_equal(om_stats_shape(&s->tensors[0], 4, 2, &err), OM_OK);
    float out[4];
    assert_true(om_stats_importance(out, &s->tensors[0], 1));
    assert_true(out[0] == 5.0F / 3.0F);
    assert_true(om_stats_importance(out, &s->tensors[1], 0)); /* ncall 0: values as they are */
    assert_true(out[3] == 4.0F);
    assert_int_equal(om_stats_shape(&s->tensors[1], 4, 1, &err), OM_OK);
    om_stats_free(s);
}

static void legacy_without_tail_and_with_damage(void **state) {
    (void) state;
    bytes b = legacy();
    write_bytes(path_a, b.data, b.n - 12);
    om_stats_free(read_ok(path_a));
    for (size_t n = 0; n < b.n - 12; n++) { /* cut anywhere inside the entries */
        write_bytes(path_a, b.data, n);
        expect_refused(path_a, OM_E_FORMAT, "legacy imatrix");
    }
    b = (bytes){ 0 };
    put_i32(&b, 2);
    put_entry(&b, "same", 1, 4);
    put_entry(&b, "same", 1, 4);
    write_bytes(path_a, b.data, b.n);
    expect_refused(path_a, OM_E_FORMAT, "two entries");
    b = (bytes){ 0 };
    put_i32(&b, INT32_MAX);
    put_entry(&b, "same", 1, 4);
    write_bytes(path_a, b.data, b.n);
    expect_refused(path_a, OM_E_FORMAT, "legacy imatrix");
}

/* ---- hostile bytes, short memory ---- */

static void any_cut_or_flip_is_survived(void **state) {
    (void) state;
    om_stats *s = example();
    write_ok(s, path_a, false);
    om_stats_free(s);
    char *data = NULL;
    size_t size = 0;
    om_error err = { 0 };
    assert_int_equal(om_file_read(&data, &size, path_a, 1 << 20, &err), OM_OK);
    for (size_t n = 0; n < size; n += n < 64 ? 1 : 13) {
        write_bytes(path_b, data, n);
        om_stats *r = NULL;
        assert_int_not_equal(om_stats_read(&r, path_b, &err), OM_OK);
    }
    for (size_t at = 0; at < size; at += at < 1200 ? 3 : 41) {
        const char old = data[at];
        data[at] = (char) (old ^ 0x81);
        write_bytes(path_b, data, size);
        data[at] = old;
        om_stats *r = NULL;
        err = (om_error){ 0 };
        if (om_stats_read(&r, path_b, &err) == OM_OK) {
            om_stats_free(r);
        } else {
            assert_true(err.text[0] != '\0');
        }
    }
    om_free(data);
}

static void every_failed_allocation_is_clean(void **state) {
    (void) state;
    om_stats *s = example();
    write_ok(s, path_a, false);
    bool succeeded = false;
    for (long n = 1; n < 2000 && !succeeded; n++) {
        om_stats *r = NULL;
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = om_stats_read(&r, path_a, &err);
        om_mem_fail_at(0);
        succeeded = status == OM_OK;
        assert_true(succeeded || (status == OM_E_NOMEM && r == NULL));
        om_stats_free(r);
    }
    assert_true(succeeded);
    succeeded = false;
    for (long n = 1; n < 2000 && !succeeded; n++) {
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = om_stats_write(s, path_b, false, &err);
        om_mem_fail_at(0);
        succeeded = status == OM_OK;
        assert_true(succeeded || status == OM_E_NOMEM);
    }
    assert_true(succeeded);
    om_stats_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_everything),
        cmocka_unit_test(ggml_reads_what_we_write),
        cmocka_unit_test(importance_is_llama_quantizes),
        cmocka_unit_test(foreign_imatrix_is_read),
        cmocka_unit_test(damaged_imatrix_is_refused),
        cmocka_unit_test(writer_refuses_what_reader_would),
        cmocka_unit_test(legacy_is_read),
        cmocka_unit_test(legacy_without_tail_and_with_damage),
        cmocka_unit_test(any_cut_or_flip_is_survived),
        cmocka_unit_test(every_failed_allocation_is_clean),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
