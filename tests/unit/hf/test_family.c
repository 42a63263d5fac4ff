/* The table of families: lookups, names, and that no entry contradicts another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "hf/family_table.h"

static void test_lookup(void **state) {
    (void) state;
    static const struct {
        const char *model_type, *arch;
        bool experts;
        const char *first; /* what the arch gives back */
    } want[] = {
        { "llama", "llama", false, "llama" },
        { "mistral", "llama", false, "llama" },
        { "mixtral", "llama", true, "mixtral" },
        { "qwen2", "qwen2", false, "qwen2" },
        { "qwen2_moe", "qwen2moe", true, "qwen2_moe" },
        { "qwen3", "qwen3", false, "qwen3" },
        { "qwen3_moe", "qwen3moe", true, "qwen3_moe" },
        { "gemma2", "gemma2", false, "gemma2" },
        { "gemma3_text", "gemma3", false, "gemma3_text" },
        { "gemma3", "gemma3", false, "gemma3_text" },
        { "phi3", "phi3", false, "phi3" },
        { "gpt_oss", "gpt-oss", true, "gpt_oss" },
        { "olmoe", "olmoe", true, "olmoe" },
    };
    const int n = (int) (sizeof want / sizeof want[0]);
    for (int i = 0; i < n; i++) {
        const om_family *f = om_family_by_model_type(want[i].model_type);
        assert_non_null(f);
        assert_string_equal(om_family_model_type(f), want[i].model_type);
        assert_string_equal(om_family_arch(f), want[i].arch);
        const om_family *g = om_family_by_arch(want[i].arch, want[i].experts);
        assert_non_null(g);
        assert_string_equal(om_family_model_type(g), want[i].first);
    }
    assert_null(om_family_at(n));
    assert_null(om_family_at(-1));
    assert_null(om_family_by_model_type("deepseek_v3"));
    assert_null(om_family_by_model_type(""));
    assert_null(om_family_by_arch("mamba", false));
    assert_null(om_family_by_arch("qwen3", true));
}

/* The list for messages names exactly the families of the table. */
static void test_list(void **state) {
    (void) state;
    char list[512] = "";
    size_t used = 0;
    const om_family *f;
    for (int i = 0; (f = om_family_at(i)) != NULL; i++) {
        used += (size_t) snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "",
                                  om_family_model_type(f));
    }
    assert_string_equal(om_family_list(), list);
}

static void check_name(const char *model_type, const char *gguf, const char *want) {
    char path[OM_HF_PATH] = "untouched";
    const om_family *f = om_family_by_model_type(model_type);
    assert_non_null(f);
    const bool found = om_family_mlx_name(path, f, gguf);
    if (found != (want != NULL)) {
        fail_msg("%s of %s: %s", gguf, model_type, found ? path : "not found");
    }
    assert_string_equal(path, want != NULL ? want : "untouched");
}

static void test_names(void **state) {
    (void) state;
    check_name("llama", "token_embd.weight", "model.embed_tokens.weight");
    check_name("llama", "output_norm.weight", "model.norm.weight");
    check_name("llama", "output.weight", "lm_head.weight");
    check_name("llama", "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight");
    check_name("llama", "blk.31.attn_q.bias", "model.layers.31.self_attn.q_proj.bias");
    check_name("llama", "blk.125.ffn_down.weight", "model.layers.125.mlp.down_proj.weight");
    check_name("mixtral", "blk.3.ffn_up_exps.weight",
               "model.layers.3.block_sparse_moe.switch_mlp.up_proj.weight");
    check_name("mixtral", "blk.3.ffn_gate_inp.weight",
               "model.layers.3.block_sparse_moe.gate.weight");
    check_name("qwen3_moe", "blk.3.ffn_up_exps.weight",
               "model.layers.3.mlp.switch_mlp.up_proj.weight");
    check_name("qwen2_moe", "blk.3.ffn_gate_inp_shexp.weight",
               "model.layers.3.mlp.shared_expert_gate.weight");
    check_name("gemma3_text", "blk.3.ffn_norm.weight",
               "model.layers.3.pre_feedforward_layernorm.weight");
    check_name("gemma3", "output.weight", "language_model.lm_head.weight");
    check_name("gemma3", "token_embd.weight", "language_model.model.embed_tokens.weight");
    check_name("gemma3", "blk.3.post_ffw_norm.weight",
               "language_model.model.layers.3.post_feedforward_layernorm.weight");
    check_name("phi3", "blk.3.attn_qkv.weight", "model.layers.3.self_attn.qkv_proj.weight");
    check_name("phi3", "blk.3.ffn_up.weight", "model.layers.3.mlp.gate_up_proj.weight");
    check_name("gpt_oss", "blk.3.attn_sinks.weight", "model.layers.3.self_attn.sinks");
    check_name("gpt_oss", "blk.3.post_attention_norm.weight",
               "model.layers.3.post_attention_layernorm.weight");
    check_name("gpt_oss", "blk.3.ffn_gate_exps.bias", "model.layers.3.mlp.experts.gate_proj.bias");
}

static void test_no_names(void **state) {
    (void) state;
    check_name("llama", "rope_freqs.weight", NULL);
    check_name("phi3", "rope_factors_long.weight", NULL);
    check_name("phi3", "blk.0.attn_q.weight", NULL);
    check_name("gemma2", "output.weight", NULL); /* always tied: mlx-lm has no such module */
    check_name("llama", "", NULL);
    check_name("llama", "blk.", NULL);
    check_name("llama", "blk..attn_q.weight", NULL);
    check_name("llama", "blk.x.attn_q.weight", NULL);
    check_name("llama", "blk.-1.attn_q.weight", NULL);
    check_name("llama", "blk.01.attn_q.weight", NULL);
    check_name("llama", "blk.1", NULL);
    check_name("llama", "blk.1.", NULL);
    check_name("llama", "blk.1.attn_q", NULL);
    check_name("llama", "blk.1.attn_q.weight2", NULL);
    check_name("llama", "blk.12345678901234567890.attn_q.weight", NULL);
    check_name("llama", "blk.1.blk.1.attn_q.weight", NULL);
}

static bool seen_before(const om_family *f, int part, const om_family_tensor *row) {
    for (int i = 0; i <= part; i++) {
        for (const om_family_tensor *r = f->parts[i]; r->gguf != NULL && r != row; r++) {
            if (strcmp(r->gguf, row->gguf) == 0 || strcmp(r->mlx, row->mlx) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void check_row(const om_family *f, int part, const om_family_tensor *row) {
    char gguf[64], path[OM_HF_PATH], want[OM_HF_PATH];
    const size_t n = strlen(row->mlx);
    assert_false(seen_before(f, part, row));
    assert_true(snprintf(gguf, sizeof gguf, "blk.4095.%s", row->gguf) < 64);
    assert_true(snprintf(want, sizeof want, "%smodel.layers.4095.%s", om_family_prefix(f),
                         row->mlx) < OM_HF_PATH);
    assert_true(om_family_mlx_name(path, f, gguf));
    assert_string_equal(path, want);
    assert_true(row->shape[0] != OM_DIM_END);
    /* a vector of weights is a norm or gpt-oss's sinks; matrices end in ".weight" or are biases of
     * experts */
    const bool bias = n > 5 && strcmp(row->mlx + n - 5, ".bias") == 0;
    const bool weight = n > 7 && strcmp(row->mlx + n - 7, ".weight") == 0;
    assert_true(bias || weight || strcmp(row->mlx, "self_attn.sinks") == 0);
    for (int i = 0; i < OM_FAMILY_DIMS; i++) {
        assert_true(row->shape[i] < OM_DIM_COUNT);
        assert_non_null(om_hf_dim_name(row->shape[i]));
        const bool of_experts = row->shape[i] == OM_DIM_E || row->shape[i] == OM_DIM_FE;
        assert_true(!of_experts || f->experts);
        const bool dense = row->shape[i] == OM_DIM_F || row->shape[i] == OM_DIM_2F;
        assert_true(!dense || !f->experts);
    }
}

static void test_table(void **state) {
    (void) state;
    const om_family *f;
    for (int i = 0; (f = om_family_at(i)) != NULL; i++) {
        assert_true(!f->experts || f->expert_ff_key != NULL);
        int part = 0;
        for (; part < OM_FAMILY_PARTS && f->parts[part] != NULL; part++) {
            for (const om_family_tensor *r = f->parts[part]; r->gguf != NULL; r++) {
                check_row(f, part, r);
            }
        }
        assert_in_range(part, 3, OM_FAMILY_PARTS);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),   cmocka_unit_test(test_list),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_names), cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
