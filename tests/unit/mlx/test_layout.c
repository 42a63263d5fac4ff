/* Sizes of an MLX model before it is written: against a header spelled out here, for every type, in
 * one shard and in many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "mlx/layout.h"

enum { N_ITEMS = 40 };

static char paths[N_ITEMS][64];

/* Layers of a small mixture: embedding, matrices, a norm, a bias, a stack of experts. */
static void make_items(om_mlx_item items[N_ITEMS]) {
    const om_format *bf16 = om_format_by_name("bf16");
    static const struct {
        const char *name;
        int n_dims;
        int64_t ne[3];
    } parts[] = {
        { "self_attn.q_proj.weight", 2, { 256, 128, 1 } },
        { "self_attn.q_proj.bias", 1, { 128, 1, 1 } },
        { "input_layernorm.weight", 1, { 256, 1, 1 } },
        { "mlp.switch_mlp.down_proj.weight", 3, { 384, 256, 4 } },
        { "mlp.gate.weight", 2, { 256, 4, 1 } },
        { "odd.weight", 2, { 30, 7, 1 } },
    };
    const int n_parts = (int) (sizeof parts / sizeof *parts);
    for (int i = 0; i < N_ITEMS; i++) {
        if (i == 0) {
            snprintf(paths[i], sizeof paths[i], "model.embed_tokens.weight");
            items[i] = (om_mlx_item){ paths[i], 2, { 256, 1000, 1, 1 }, bf16 };
            continue;
        }
        const int p = (i - 1) % n_parts;
        snprintf(paths[i], sizeof paths[i], "model.layers.%d.%s", (i - 1) / n_parts, parts[p].name);
        items[i] = (om_mlx_item){ paths[i], parts[p].n_dims, { 1, 1, 1, 1 }, bf16 };
        for (int k = 0; k < parts[p].n_dims; k++) {
            items[i].ne[k] = parts[p].ne[k];
        }
    }
}

static bool fits(const om_mlx_item *item, const om_format *f) {
    return item->n_dims >= 2 && item->ne[0] % f->block == 0;
}

static void choose(om_mlx_item items[N_ITEMS], uint64_t seed) {
    om_rng rng = om_rng_at(seed, 7);
    for (int i = 0; i < N_ITEMS; i++) {
        const om_format *f = om_format_mlx_at((int) (om_rng_u64(&rng) % 24));
        if (f != NULL && fits(&items[i], f)) {
            items[i].format = f;
        }
    }
}

static const char *dtype_name(om_st_dtype dtype) {
    return dtype == OM_ST_U32   ? "U32"
           : dtype == OM_ST_U8  ? "U8"
           : dtype == OM_ST_F16 ? "F16"
                                : "BF16";
}

/* The header of one shard as safetensors files have it, without padding. */
static size_t header_length(const om_mlx_layout *l, int shard, size_t record) {
    om_buf b = { 0 };
    om_buf_puts(&b, "{\"__metadata__\":{\"format\":\"mlx\"");
    if (shard == 0) {
        om_buf_puts(&b, ",\"optimum\":\"");
        for (size_t i = 0; i < record; i++) {
            om_buf_puts(&b, "r");
        }
        om_buf_puts(&b, "\"");
    }
    om_buf_puts(&b, "}");
    for (int i = 0; i < l->n_tensors; i++) {
        const om_mlx_tensor *t = &l->tensors[i];
        if (t->shard != shard) {
            continue;
        }
        const long long at = (long long) (t->offset - l->header_bytes[shard]);
        om_buf_printf(&b, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
                      dtype_name(t->st.dtype));
        for (int k = 0; k < t->st.n_dims; k++) {
            om_buf_printf(&b, k == 0 ? "%lld" : ",%lld", (long long) t->st.shape[k]);
        }
        om_buf_printf(&b, "],\"data_offsets\":[%lld,%lld]}", at, at + (long long) t->st.bytes);
    }
    om_buf_puts(&b, "}");
    assert_false(b.failed);
    const size_t n = b.len + 8;
    om_buf_release(&b);
    return n;
}

/* Everything a layout must fulfil, whatever its types. */
static void check(const om_mlx_item items[N_ITEMS], int64_t limit) {
    om_mlx_layout l;
    om_error err = { 0 };
    if (om_mlx_layout_make(&l, items, N_ITEMS, OM_MLX_BF16, limit, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    int64_t data = 0, total = 0;
    for (int i = 0; i < N_ITEMS; i++) {
        const int64_t rows = items[i].ne[1] * items[i].ne[2];
        data += om_format_size(items[i].format, items[i].ne[0], rows);
    }
    assert_int_equal(l.data_bytes, data);
    int64_t *at = om_calloc((size_t) l.n_shards, sizeof *at);
    for (int s = 0; s < l.n_shards; s++) {
        at[s] = l.header_bytes[s];
    }
    for (int i = 0; i < l.n_tensors; i++) {
        const om_mlx_tensor *t = &l.tensors[i];
        int64_t bytes = t->st.dtype == OM_ST_U32 ? 4 : t->st.dtype == OM_ST_U8 ? 1 : 2;
        for (int k = 0; k < t->st.n_dims; k++) {
            bytes *= t->st.shape[k];
        }
        assert_int_equal(t->st.bytes, bytes);
        assert_ptr_equal(t->st.name, t->name);
        assert_int_equal(t->offset, at[t->shard]); /* no holes, in order */
        at[t->shard] += bytes;
        assert_true(i == 0 || t->shard == l.tensors[i - 1].shard ||
                    t->shard == l.tensors[i - 1].shard + 1);
    }
    for (int s = 0; s < l.n_shards; s++) {
        assert_int_equal(at[s], l.shard_bytes[s]);
        assert_int_equal(l.header_bytes[s] % 8, 0);
        const int64_t need = (int64_t) header_length(&l, s, OM_MLX_RECORD);
        assert_true(l.header_bytes[s] >= need);
        if (s < l.n_shards - 1) { /* and not much more than that */
            assert_true(l.header_bytes[s] < need + 8 + 12 * l.n_tensors);
        }
        total += l.shard_bytes[s];
    }
    assert_int_equal(total, l.total_bytes);
    if (limit == 0) {
        assert_int_equal(l.n_shards, 1);
        assert_int_equal(total, om_mlx_metadata_bytes(items, N_ITEMS) + data);
    } else {
        for (int s = 0; s < l.n_shards; s++) {
            const int64_t held = l.shard_bytes[s] - l.header_bytes[s];
            int n = 0;
            for (int i = 0; i < l.n_tensors; i++) {
                n += l.tensors[i].shard == s;
            }
            assert_true(held <= limit || n == 1);
        }
    }
    om_free(at);
    om_mlx_layout_release(&l);
}

static void every_type_fits(void **state) {
    (void) state;
    om_mlx_item items[N_ITEMS];
    for (int k = 0; om_format_mlx_at(k) != NULL; k++) {
        make_items(items);
        const int64_t metadata = om_mlx_metadata_bytes(items, N_ITEMS);
        for (int i = 0; i < N_ITEMS; i++) {
            if (fits(&items[i], om_format_mlx_at(k))) {
                items[i].format = om_format_mlx_at(k);
            }
        }
        assert_int_equal(om_mlx_metadata_bytes(items, N_ITEMS), metadata);
        check(items, 0);
    }
}

static void mixtures_in_one_shard_and_in_many(void **state) {
    (void) state;
    static const int64_t limits[] = { 0, 1 << 20, 200000, 70000, 5000, 100, 1 };
    om_mlx_item items[N_ITEMS];
    for (uint64_t seed = 0; seed < 50; seed++) {
        make_items(items);
        choose(items, seed);
        for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
            check(items, limits[k]);
        }
    }
}

/* The worst case is not far away: all matrices of all types, one header. */
static void metadata_is_tight(void **state) {
    (void) state;
    om_mlx_item items[N_ITEMS];
    om_mlx_layout l;
    om_error err = { 0 };
    make_items(items);
    for (int i = 0; i < N_ITEMS; i++) {
        if (fits(&items[i], om_format_by_name("mlx_8bit_g32"))) {
            items[i].format = om_format_by_name("mlx_8bit_g32");
        }
    }
    assert_int_equal(om_mlx_layout_make(&l, items, N_ITEMS, OM_MLX_F16, 0, &err), OM_OK);
    const int64_t need = (int64_t) header_length(&l, 0, OM_MLX_RECORD);
    assert_true(l.header_bytes[0] >= need && l.header_bytes[0] < need + need / 15);
    om_mlx_layout_release(&l);
}

/* llama.cpp's converter drops dimensions of 1 (the gate of a shared expert). */
static void dimensions_of_1_do_not_count(void **state) {
    (void) state;
    om_mlx_layout l;
    om_error err = { 0 };
    const om_format *bf16 = om_format_by_name("bf16");
    const om_mlx_item there[] = { { "gate.weight", 2, { 512, 1, 1, 1 }, bf16 },
                                  { "one.weight", 3, { 512, 7, 1, 1 }, bf16 } };
    const om_mlx_item gguf[] = { { "gate.weight", 1, { 512, 1, 1, 1 }, bf16 },
                                 { "one.weight", 2, { 512, 7, 1, 1 }, bf16 } };
    assert_int_equal(om_mlx_metadata_bytes(there, 2), om_mlx_metadata_bytes(gguf, 2));
    assert_int_equal(om_mlx_layout_make(&l, there, 1, OM_MLX_BF16, 0, &err), OM_OK);
    assert_int_equal(l.tensors[0].st.n_dims, 2);
    assert_int_equal(l.tensors[0].st.shape[0], 1);
    assert_true((int64_t) header_length(&l, 0, OM_MLX_RECORD) <= l.header_bytes[0]);
    om_mlx_layout_release(&l);
}

static void tensors_of_a_module(void **state) {
    (void) state;
    om_mlx_layout l;
    om_error err = { 0 };
    const om_mlx_item items[] = {
        { "a.weight", 3, { 128, 6, 4, 1 }, om_format_by_name("mlx_3bit_g64") },
        { "b.weight", 2, { 48, 5, 1, 1 }, om_format_by_name("mlx_nvfp4") },
        { "b.bias", 1, { 5, 1, 1, 1 }, om_format_by_name("f32") },
    };
    static const struct {
        const char *name;
        om_st_dtype dtype;
        int64_t shape[3];
    } want[] = {
        { "a.weight", OM_ST_U32, { 4, 6, 12 } }, { "a.scales", OM_ST_F16, { 4, 6, 2 } },
        { "a.biases", OM_ST_F16, { 4, 6, 2 } },  { "b.weight", OM_ST_U32, { 5, 6, 0 } },
        { "b.scales", OM_ST_U8, { 5, 3, 0 } },   { "b.bias", OM_ST_F16, { 5, 0, 0 } },
    };
    assert_int_equal(om_mlx_layout_make(&l, items, 3, OM_MLX_F16, 0, &err), OM_OK);
    assert_int_equal(l.n_tensors, 6);
    for (int i = 0; i < 6; i++) {
        const om_mlx_tensor *t = &l.tensors[i];
        assert_string_equal(t->name, want[i].name);
        assert_int_equal(t->st.dtype, want[i].dtype);
        for (int k = 0; k < t->st.n_dims; k++) {
            assert_int_equal(t->st.shape[k], want[i].shape[k]);
        }
    }
    om_mlx_layout_release(&l);
}

static void what_does_not_fit_is_refused(void **state) {
    (void) state;
    om_mlx_layout l;
    om_error err = { 0 };
    om_mlx_item item = { "model.x.weight", 2, { 96, 8, 1, 1 }, om_format_by_name("mlx_4bit_g64") };
    assert_int_equal(om_mlx_layout_make(&l, &item, 1, OM_MLX_BF16, 0, &err), OM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "model.x.weight: rows of 96 weights"));
    om_mlx_layout_release(&l);
    err = (om_error){ 0 };
    item = (om_mlx_item){ "model.x.bias", 1, { 64, 1, 1, 1 }, om_format_by_name("mlx_4bit_g64") };
    assert_int_equal(om_mlx_layout_make(&l, &item, 1, OM_MLX_BF16, 0, &err), OM_E_UNSUPPORTED);
    om_mlx_layout_release(&l);
}

static void shards_have_mlx_lms_names(void **state) {
    (void) state;
    char name[64];
    om_mlx_shard_name(name, 0, 1);
    assert_string_equal(name, "model.safetensors");
    om_mlx_shard_name(name, 2, 12);
    assert_string_equal(name, "model-00003-of-00012.safetensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_fits),
        cmocka_unit_test(mixtures_in_one_shard_and_in_many),
        cmocka_unit_test(metadata_is_tight),
        cmocka_unit_test(dimensions_of_1_do_not_count),
        cmocka_unit_test(tensors_of_a_module),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(shards_have_mlx_lms_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
