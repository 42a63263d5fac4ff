/* Roles, and the rule for what stays as it is (docs/formats.md). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/roles.h"

static void check_role(const char *name, const char *role, int layer) {
    char got[64];
    int got_layer = -2;
    om_tensor_role(got, &got_layer, name);
    assert_string_equal(got, role);
    assert_int_equal(got_layer, layer);
}

static void test_role(void **state) {
    (void) state;
    check_role("token_embd.weight", "token_embd", -1);
    check_role("output.weight", "output", -1);
    check_role("blk.0.attn_q.weight", "attn_q", 0);
    check_role("blk.31.ffn_down_exps.weight", "ffn_down_exps", 31);
    check_role("blk.7.attn_q.bias", "attn_q.bias", 7);
    check_role("blk.12.nextn.eh_proj.weight", "nextn.eh_proj", 12);
    check_role("blk.x.attn_q.weight", "blk.x.attn_q", -1);
    check_role("blk.99999999999999999999.a.weight", "blk.99999999999999999999.a", -1);
    check_role("v.blk.3.attn_q.weight", "v.blk.3.attn_q", -1);
    check_role(".weight", "", -1);
    check_role("", "", -1);
    check_role("0123456789012345678901234567890123456789012345678901234567890123456789",
               "012345678901234567890123456789012345678901234567890123456789012", -1);
}

static void test_may_quantize(void **state) {
    (void) state;
    static const char *const yes[] = {
        "token_embd.weight",           "output.weight",
        "blk.0.attn_q.weight",         "blk.0.ffn_down_exps.weight",
        "blk.3.ffn_gate.weight",       "blk.0.attn_kv_b.weight",
        "per_layer_token_embd.weight", "blk.1.ffn_gate_inp_shexp.weight",
        "blk.1.ssm_out.weight",
    };
    static const char *const no[] = {
        "blk.0.attn_norm.weight",    "output_norm.weight",          "blk.0.attn_q.bias",
        "blk.0.ffn_gate_inp.weight", "blk.0.ssm_conv1d.weight",     "position_embd.weight",
        "token_types.weight",        "blk.0.time_mix_w1.weight",    "blk.0.altup_router.weight",
        "v.patch_embd.weight",       "v.position_embd.weight",      "blk.0.ssm_a",
        "blk.0.attn_rel_b.weight",   "blk.0.shortconv.conv.weight", "per_layer_model_proj.weight",
    };
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        assert_true(om_tensor_may_quantize(yes[i], 2));
        assert_true(om_tensor_may_quantize(yes[i], 3));
        assert_false(om_tensor_may_quantize(yes[i], 1));
    }
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        assert_false(om_tensor_may_quantize(no[i], 2));
    }
    assert_true(om_tensor_arch_copies("glm5-next", "blk.0.attn_k_b.weight"));
    assert_false(om_tensor_arch_copies("deepseek2", "blk.0.attn_k_b.weight"));
}

static void test_is_experts(void **state) {
    (void) state;
    assert_true(om_tensor_is_experts("blk.0.ffn_gate_exps.weight"));
    assert_true(om_tensor_is_experts("blk.0.ffn_gate_up_exps.weight"));
    assert_false(om_tensor_is_experts("blk.0.ffn_gate_shexp.weight"));
    assert_false(om_tensor_is_experts("blk.0.attn_k_b.weight"));
    assert_false(om_tensor_is_experts("blk.0.ffn_gate_exps.bias"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_role),
        cmocka_unit_test(test_may_quantize),
        cmocka_unit_test(test_is_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
