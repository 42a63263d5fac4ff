/* Experts in banks as a directory: every expert has the bytes that it has in a plain directory of
 * its types, the router follows, the size is what the allocation counts; refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../hf/hf_fixture.h"
#include "artifact/inputs.h"
#include "artifact/mlx_banks.h"
#include "artifact/mlx_write.h"

static int order[FIX_E] = { 2, 0, 3, 1 }; /* banks of 1 and 3 */

typedef struct made {
    char *dir;
    om_hf *hf;
    int64_t bytes;
    om_status status;
    om_error err;
} made;

static void make_source(fixture *f) {
    fix_qwen3_moe(f);
    fix_add_experts(f, 0);
    fix_add_experts(f, 1);
    fix_write(f, FIX_CONFIG("qwen3_moe", FIX_MOE));
    (void) om_tmpdir_write(f->dir, "tokenizer.json", "{}", 2);
    (void) om_tmpdir_write(f->dir, "tokenizer_config.json", "{}", 2);
}

/* Matrices of experts in a type where their rows allow it, all else in 16 bits. */
static om_allocation *plain_allocation(const om_hf *hf, const char *type) {
    om_allocation *a = om_calloc(1, sizeof *a);
    a->container = OM_CONTAINER_MLX;
    a->tensors = om_calloc((size_t) om_hf_n_tensors(hf), sizeof *a->tensors);
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        om_assignment *x = &a->tensors[a->n_tensors];
        if (t->may_quantize) {
            memcpy(x->name, t->name, sizeof x->name);
            x->format = om_format_by_name(t->n_dims == 3 && t->ne[0] % 32 == 0 ? type : "bf16");
            a->n_tensors++;
        }
    }
    return a;
}

/* Layer 0: expert 2 with 8 bits, the others with 4. */
static void add_banks(om_allocation *a) {
    static const char *const stacks[] = { "gate", "up", "down" };
    om_expert_banks *l = om_calloc(1, sizeof *l);
    l->n_experts = FIX_E;
    l->order = om_calloc(FIX_E, sizeof *l->order);
    memcpy(l->order, order, sizeof order);
    l->n_banks = 2;
    l->banks[0].n_experts = 1;
    l->banks[1].n_experts = 3;
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        (void) snprintf(l->name[k], sizeof l->name[k], "blk.0.ffn_%s_exps.weight", stacks[k]);
        l->banks[0].format[k] = om_format_by_name(k < 2 ? "mlx_8bit_g32" : "bf16");
        l->banks[1].format[k] = om_format_by_name(k < 2 ? "mlx_4bit_g32" : "bf16");
    }
    a->banks = l;
    a->n_banked = 1;
}

static made make(const char *source, const om_allocation *a, int64_t limit) {
    made m = { .dir = om_tmpdir_new() };
    om_mlx_plan *plan = NULL;
    om_hf *hf = NULL;
    double nats;
    char sha256[65];
    const char *out = om_tmpdir_path(m.dir, "out");
    const om_quantize_options o = { .model = source, .allocation = "a.json", .out = out };
    assert_int_equal(om_hf_open(&hf, source, &m.err), OM_OK);
    m.status = om_mlx_plan_make(&plan, hf, a, NULL, false, limit, &m.err);
    if (m.status == OM_OK) {
        const om_gguf_record record = om_inputs_record(a);
        m.bytes = plan->layout.total_bytes;
        m.status = om_mlx_write(&nats, sha256, plan, &record, a, &o, out, NULL, &m.err);
        if (m.status != OM_OK) {
            fail_msg("%s", m.err.text);
        }
        assert_int_equal(om_hf_open(&m.hf, out, &m.err), OM_OK);
    }
    om_mlx_plan_free(plan);
    om_hf_free(hf);
    return m;
}

static void discard(made *m) {
    om_hf_free(m->hf);
    om_tmpdir_remove(m->dir);
}

static made make_plain(const char *source, const char *type) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    assert_int_equal(om_hf_open(&hf, source, &err), OM_OK);
    om_allocation *a = plain_allocation(hf, type);
    made m = make(source, a, 0);
    om_allocation_free(a);
    om_hf_free(hf);
    return m;
}

static made make_banked(const char *source, int64_t limit) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    assert_int_equal(om_hf_open(&hf, source, &err), OM_OK);
    om_allocation *a = plain_allocation(hf, "mlx_4bit_g32");
    add_banks(a);
    made m = make(source, a, limit);
    om_allocation_free(a);
    om_hf_free(hf);
    return m;
}

static void compare(const made *banked, const made *four, const made *eight, const char *name) {
    float *x = fix_read(banked->hf, name, OM_HF_GGUF), *y4 = fix_read(four->hf, name, OM_HF_GGUF);
    float *y8 = fix_read(eight->hf, name, OM_HF_GGUF);
    const om_hf_tensor *t = om_hf_find(banked->hf, name);
    const bool stack = strstr(name, "blk.0.") != NULL && t->n_dims == 3;
    const size_t n = (size_t) (t->ne[0] * t->ne[1]);
    for (size_t e = 0; e < (size_t) t->ne[2]; e++) {
        const float *want = stack && e == 2 ? y8 : y4;
        if (memcmp(x + e * n, want + e * n, n * sizeof *x) != 0) {
            fail_msg("%s, expert %d", name, (int) e);
        }
    }
    free(x);
    free(y4);
    free(y8);
}

static void check_banked(fixture *f, int64_t limit) {
    made four = make_plain(f->dir, "mlx_4bit_g32"), eight = make_plain(f->dir, "mlx_8bit_g32");
    made banked = make_banked(f->dir, limit);
    assert_int_equal(banked.status, OM_OK);
    assert_int_equal(om_hf_n_tensors(banked.hf), om_hf_n_tensors(four.hf));
    for (int i = 0; i < om_hf_n_tensors(four.hf); i++) {
        compare(&banked, &four, &eight, om_hf_tensor_at(four.hf, i)->name);
    }
    /* one expert's gate and up: 4 bits a weight more; and one bank's headers */
    const int64_t more = 2 * FIX_FE * FIX_C / 2 + OM_BANK_HEADER_BYTES;
    if (limit == 0) {
        assert_int_equal(banked.bytes, four.bytes + more);
    } else {
        assert_true(om_safetensors_n_shards(om_hf_safetensors(banked.hf)) > 3);
    }
    discard(&banked);
    discard(&four);
    discard(&eight);
}

static void test_experts(void **state) {
    (void) state;
    fixture f = { 0 };
    make_source(&f);
    check_banked(&f, 0);
    check_banked(&f, 8000); /* shards */
    fix_release(&f);
}

/* What others see: names, shapes and rows of the files themselves. */
static void test_files(void **state) {
    (void) state;
    fixture f = { 0 };
    make_source(&f);
    made m = make_banked(f.dir, 0);
    const om_safetensors *st = om_hf_safetensors(m.hf);
    const om_st_tensor *gate =
        om_safetensors_find(st, "model.layers.0.mlp.switch_mlp.banks.1.gate_proj.weight");
    const om_st_tensor *router = om_safetensors_find(st, "model.layers.0.mlp.gate.weight");
    assert_non_null(gate);
    assert_int_equal(gate->shape[0], 3);
    assert_int_equal(gate->shape[2], FIX_C * 4 / 32);
    assert_null(om_safetensors_find(st, "model.layers.0.mlp.switch_mlp.gate_proj.weight"));
    assert_non_null(om_safetensors_find(st, "model.layers.1.mlp.switch_mlp.gate_proj.weight"));
    const unsigned char *rows = f.data[fix_index(&f, "model.layers.0.mlp.gate.weight")];
    for (int i = 0; i < FIX_E; i++) {
        assert_memory_equal(router->data + (size_t) i * FIX_C * 2,
                            rows + (size_t) order[i] * FIX_C * 2, FIX_C * 2);
    }
    const om_node config = om_node_root(om_hf_config(m.hf), "config.json");
    om_error err = { 0 };
    const char *file = NULL;
    assert_int_equal(om_node_str(&file, &config, "model_file", &err), OM_OK);
    assert_string_equal(file, "optimum_banks.py");
    char *out = om_strdup(om_tmpdir_path(m.dir, "out"));
    assert_int_equal(om_tmpdir_count(out, "optimum_banks.py"), 1);
    /* a plain model made of it has nothing of all that */
    made plain = make_plain(out, "mlx_8bit_g32");
    const om_node other = om_node_root(om_hf_config(plain.hf), "config.json");
    assert_false(om_node_has(&other, "model_file"));
    assert_false(om_node_has(&other, "optimum_expert_order"));
    assert_int_equal(om_tmpdir_count(om_tmpdir_path(plain.dir, "out"), "optimum_banks.py"), 0);
    om_free(out);
    discard(&plain);
    discard(&m);
    fix_release(&f);
}

static void test_refused(void **state) {
    (void) state;
    fixture f = { 0 };
    om_hf *hf = NULL;
    om_error err = { 0 };
    make_source(&f);
    assert_int_equal(om_hf_open(&hf, f.dir, &err), OM_OK);
    om_allocation *a = plain_allocation(hf, "mlx_4bit_g32");
    add_banks(a);
    om_expert_banks *l = a->banks;

    (void) snprintf(l->name[2], sizeof l->name[2], "blk.1.ffn_down_exps.weight");
    made m = make(f.dir, a, 0);
    assert_int_equal(m.status, OM_E_MISMATCH);
    assert_non_null(strstr(m.err.text, "not the experts of one layer"));
    discard(&m);

    (void) snprintf(l->name[2], sizeof l->name[2], "blk.0.attn_q.weight");
    m = make(f.dir, a, 0);
    assert_int_equal(m.status, OM_E_MISMATCH);
    assert_non_null(strstr(m.err.text, "blk.0.attn_q.weight has 1 experts"));
    discard(&m);

    (void) snprintf(l->name[2], sizeof l->name[2], "blk.0.ffn_down_exps.weight");
    l->n_experts = 3;
    l->banks[1].n_experts = 2;
    m = make(f.dir, a, 0);
    assert_int_equal(m.status, OM_E_MISMATCH);
    assert_non_null(strstr(m.err.text, "4 experts, \"expert_banks\" of the allocation 3"));
    discard(&m);
    om_allocation_free(a);
    om_hf_free(hf);
    fix_release(&f);
}

/* ---- headers ---- */

enum { LAYERS = 61, STACKS = 3 };

static char paths[LAYERS * STACKS * OM_BANKS_MAX][OM_HF_PATH];

/* The longest names there are, of a model of a terabyte in 16 bits. */
static int put_layer(om_mlx_item *items, int layer, int n_banks, const char *type) {
    static const char *const modules[] = { "gate_proj", "up_proj", "down_proj" };
    int n = 0;
    for (int k = 0; k < STACKS; k++) {
        for (int b = 0; b < n_banks; b++, n++) {
            char *path = paths[layer * STACKS * n_banks + n];
            char whole[OM_HF_PATH];
            (void) snprintf(whole, sizeof whole,
                            "model.layers.%d.block_sparse_moe.switch_mlp.%s.weight", layer,
                            modules[k]);
            if (n_banks > 1) {
                om_hf_bank_path(path, whole, b);
            } else {
                memcpy(path, whole, sizeof whole);
            }
            items[n] = (om_mlx_item){ .path = path,
                                      .n_dims = 3,
                                      .ne = { 14336, 24576, 1000 / n_banks, 1 },
                                      .format = om_format_by_name(type) };
        }
    }
    return n;
}

static void test_headers_suffice(void **state) {
    (void) state;
    om_mlx_item *items = om_calloc(LAYERS * STACKS * OM_BANKS_MAX, sizeof *items);
    for (int banks = 2; banks <= OM_BANKS_MAX; banks++) {
        om_mlx_layout whole, cut;
        om_error err = { 0 };
        int n = 0;
        for (int layer = 0; layer < LAYERS; layer++) {
            n += put_layer(items + n, layer, 1, "bf16");
        }
        assert_int_equal(om_mlx_layout_make(&whole, items, n, OM_MLX_BF16, 0, &err), OM_OK);
        n = 0;
        for (int layer = 0; layer < LAYERS; layer++) {
            n += put_layer(items + n, layer, banks, "mlx_8bit_g32");
        }
        const int64_t metadata = whole.total_bytes - whole.data_bytes +
                                 (int64_t) LAYERS * (banks - 1) * OM_BANK_HEADER_BYTES;
        if (om_mlx_layout_make_in(&cut, items, n, OM_MLX_BF16, 0, metadata, &err) != OM_OK) {
            fail_msg("%d banks: %s", banks, err.text);
        }
        assert_int_equal(cut.total_bytes - cut.data_bytes, metadata);
        om_mlx_layout_release(&whole);
        om_mlx_layout_release(&cut);
    }
    om_free(items);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_headers_suffice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
