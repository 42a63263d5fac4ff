/* Experts in banks: every expert in its original place whatever the banks' types, the router's rows
 * with them; refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hf_fixture.h"

#define ORDER(lists) ", \"optimum_expert_order\": {\"model.layers.0.mlp.switch_mlp\": " lists "}"
#define GOOD ORDER("[[2], [3, 0, 1]]")

/* The place of each expert in GOOD. */
static const int place[FIX_E] = { 2, 3, 0, 1 };

static void add_bank(fixture *f, int bank, int experts, bool coded) {
    static const char *const modules[] = { "gate_proj", "up_proj", "down_proj" };
    for (int k = 0; k < 3; k++) {
        const int rows = k < 2 ? FIX_FE : FIX_C, n_in = k < 2 ? FIX_C : FIX_FE;
        char n[FIX_NAME], rest[80];
        (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.weight", bank, modules[k]);
        if (!coded || k == 2) { /* rows of 24 are no groups of 32 */
            fix_add3(f, fix_layer(n, 0, rest), OM_ST_BF16, experts, rows, n_in);
            continue;
        }
        fix_add3(f, fix_layer(n, 0, rest), OM_ST_U32, experts, rows, n_in / 4);
        (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.scales", bank, modules[k]);
        fix_add3(f, fix_layer(n, 0, rest), OM_ST_BF16, experts, rows, 1);
        (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.biases", bank, modules[k]);
        fix_add3(f, fix_layer(n, 0, rest), OM_ST_BF16, experts, rows, 1);
    }
}

/* Layer 0 in banks of 1 and 3 experts, the second quantized; layer 1 as ever. */
static void add_all(fixture *f) {
    fix_qwen3_moe(f);
    add_bank(f, 0, 1, false);
    add_bank(f, 1, 3, true);
    fix_add_experts(f, 1);
}

/* Value i of row `row` of an expert of a stack of layer 0. */
static float expected(const char *module, int expert, int rows, int n_in, int row, int i,
                      bool may_code) {
    const int bank = place[expert] == 0 ? 0 : 1;
    const int64_t at = (int64_t) (place[expert] - bank) * rows + row;
    char rest[80], n[FIX_NAME];
    (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.weight", bank, module);
    const int64_t index = at * n_in + i;
    if (bank == 0 || !may_code) {
        return fix_number(fix_layer(n, 0, rest), index);
    }
    const float code = (float) fix_byte(fix_layer(n, 0, rest), index);
    (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.scales", bank, module);
    const float scale = fix_number(fix_layer(n, 0, rest), at);
    (void) snprintf(rest, sizeof rest, "mlp.switch_mlp.banks.%d.%s.biases", bank, module);
    return scale * code + fix_number(fix_layer(n, 0, rest), at);
}

static void check_stack(const om_hf *hf, const char *name, const char *module, int rows, int n_in,
                        bool may_code) {
    for (int view = OM_HF_MLX; view <= OM_HF_GGUF; view++) {
        float *got = fix_read(hf, name, (om_hf_view) view);
        for (int e = 0; e < FIX_E; e++) {
            for (int r = 0; r < rows; r++) {
                for (int i = 0; i < n_in; i++) {
                    const float want = expected(module, e, rows, n_in, r, i, may_code);
                    if (!(got[(e * rows + r) * n_in + i] == want)) {
                        fail_msg("%s, expert %d, row %d, column %d: %g, expected %g", name, e, r, i,
                                 (double) got[(e * rows + r) * n_in + i], (double) want);
                    }
                }
            }
        }
        free(got);
    }
}

static om_hf *open_good(fixture *f) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    add_all(f);
    fix_write(f, FIX_CONFIG("qwen3_moe", FIX_MOE GOOD));
    if (om_hf_open(&hf, f->dir, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return hf;
}

static void test_stacks(void **state) {
    (void) state;
    fixture f = { 0 };
    om_hf *hf = open_good(&f);
    const om_hf_tensor *t = om_hf_find(hf, "blk.0.ffn_gate_exps.weight");
    assert_int_equal(om_hf_n_tensors(hf), 3 + 2 * 12);
    assert_string_equal(t->path, "model.layers.0.mlp.switch_mlp.gate_proj.weight");
    assert_int_equal(t->ne[2], FIX_E);
    assert_string_equal(t->format->name, "mlx_8bit_g32"); /* of the largest bank */
    assert_string_equal(om_hf_find(hf, "blk.0.ffn_down_exps.weight")->format->name, "bf16");
    check_stack(hf, "blk.0.ffn_gate_exps.weight", "gate_proj", FIX_FE, FIX_C, true);
    check_stack(hf, "blk.0.ffn_up_exps.weight", "up_proj", FIX_FE, FIX_C, true);
    check_stack(hf, "blk.0.ffn_down_exps.weight", "down_proj", FIX_C, FIX_FE, false);
    om_hf_free(hf);
    fix_release(&f);
}

/* Of the layer in banks the router has its rows in the banks' order, of the other in its own. */
static void test_routers(void **state) {
    (void) state;
    fixture f = { 0 };
    om_hf *hf = open_good(&f);
    float *banked = fix_read(hf, "blk.0.ffn_gate_inp.weight", OM_HF_GGUF);
    float *plain = fix_read(hf, "blk.1.ffn_gate_inp.weight", OM_HF_MLX);
    for (int e = 0; e < FIX_E; e++) {
        for (int i = 0; i < FIX_C; i++) {
            assert_true(banked[e * FIX_C + i] ==
                        fix_number("model.layers.0.mlp.gate.weight", place[e] * FIX_C + i));
            assert_true(plain[e * FIX_C + i] ==
                        fix_number("model.layers.1.mlp.gate.weight", e * FIX_C + i));
        }
    }
    free(banked);
    free(plain);
    om_hf_free(hf);
    fix_release(&f);
}

static void refuse(const char *config, om_status status, const char *says) {
    fixture f = { 0 };
    om_hf *hf = NULL;
    om_error err = { 0 };
    add_all(&f);
    fix_write(&f, config);
    assert_int_equal(om_hf_open(&hf, f.dir, &err), status);
    assert_null(hf);
    if (strstr(err.text, says) == NULL) {
        fail_msg("\"%s\" should say \"%s\"", err.text, says);
    }
    fix_release(&f);
}

static void test_refused(void **state) {
    (void) state;
#define BAD(lists, says) refuse(FIX_CONFIG("qwen3_moe", FIX_MOE ORDER(lists)), OM_E_FORMAT, says)
    BAD("7", "expected an array");
    BAD("[]", "0 banks");
    BAD("[[2], 7]", "expected an array");
    BAD("[[2], [3, 0, 1], []]", "a bank without experts");
    BAD("[[2], [3, 0]]", "3 experts, but the model has 4");
    BAD("[[2], [3, 0, 1, 1]]", "more experts than the model has");
    BAD("[[2], [3, 0, 0]]", "expert 0 has two places");
    BAD("[[2], [3, 0, 4]]", "4");
    BAD("[[2], [3, 0, -1]]", "-1");
    BAD("[[2], [3, 0, \"1\"]]", "expected a");
    BAD("[[2], [3], [0], [1], [2]]", "5 banks of 4 experts");
    BAD("[[2, 1], [3, 0]]", "shape"); /* other banks than the files have */
    BAD("[[2], [3], [0, 1]]", "shape");
#undef BAD
#define KEY(key, says)                                                                        \
    refuse(FIX_CONFIG("qwen3_moe",                                                            \
                      FIX_MOE ", \"optimum_expert_order\": {\"" key "\": [[2], [3, 0, 1]]}"), \
           OM_E_FORMAT, says)
    KEY("model.layers.2.mlp.switch_mlp", "no experts of this model");
    KEY("model.layers.00.mlp.switch_mlp", "no experts of this model");
    KEY("model.layers.0.mlp.switch_mlp.gate_proj", "no experts of this model");
    KEY("model.layers..mlp.switch_mlp", "no experts of this model");
    KEY("", "no experts of this model");
    KEY("model.layers.99999999999.mlp.switch_mlp", "no experts of this model");
#undef KEY
    refuse(FIX_CONFIG("qwen3_moe", FIX_MOE), OM_E_FORMAT, "experts.0.gate_proj");
    refuse(FIX_CONFIG("qwen3_moe", FIX_MOE ", \"optimum_expert_order\": 3"), OM_E_FORMAT,
           "expected an object");
    refuse(FIX_CONFIG("llama", GOOD), OM_E_UNSUPPORTED, "llama models have no experts");
    refuse(FIX_CONFIG("gpt_oss", ", \"num_local_experts\": 4" GOOD), OM_E_UNSUPPORTED,
           "gpt_oss models have no experts that can lie in banks");
}

static void test_missing_bank(void **state) {
    (void) state;
    fixture f = { 0 };
    om_hf *hf = NULL;
    om_error err = { 0 };
    add_all(&f);
    fix_remove(&f, "model.layers.0.mlp.switch_mlp.banks.1.up_proj.weight");
    fix_write(&f, FIX_CONFIG("qwen3_moe", FIX_MOE GOOD));
    assert_int_equal(om_hf_open(&hf, f.dir, &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "banks.1.up_proj.weight is missing"));
    fix_release(&f);
}

static void test_no_memory(void **state) {
    (void) state;
    fixture f = { 0 };
    add_all(&f);
    fix_write(&f, FIX_CONFIG("qwen3_moe", FIX_MOE GOOD));
    int failed = 0;
    for (long n = 1; n < 100000; n++, failed++) {
        om_hf *hf = NULL;
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = om_hf_open(&hf, f.dir, &err);
        om_mem_fail_at(0);
        if (status == OM_OK) {
            om_hf_free(hf);
            break;
        }
        assert_null(hf);
        assert_int_equal(status, OM_E_NOMEM);
    }
    assert_in_range(failed, 20, 99999);
    fix_release(&f);
}

static void test_paths(void **state) {
    (void) state;
    char out[OM_HF_PATH];
    om_hf_bank_path(out, "model.layers.7.mlp.switch_mlp.up_proj.weight", 2);
    assert_string_equal(out, "model.layers.7.mlp.switch_mlp.banks.2.up_proj.weight");
    om_hf_stack_path(out, "model.layers.7.mlp.switch_mlp.up_proj.weight");
    assert_string_equal(out, "model.layers.7.mlp.switch_mlp");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stacks),    cmocka_unit_test(test_routers),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_missing_bank),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
