/* Opening directories: what is listed, and that everything that does not fit is refused with one
 * line that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hf_fixture.h"

/* ---- what is listed ---- */

static om_hf *open_fixture(fixture *f, const char *config) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    fix_write(f, config);
    if (om_hf_open(&hf, f->dir, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return hf;
}

static void check_tensor(const om_hf_tensor *t, const char *name, const char *path, int64_t ne0,
                         int64_t ne1, int64_t ne2, bool may_quantize) {
    assert_non_null(t);
    assert_string_equal(t->name, name);
    assert_string_equal(t->path, path);
    assert_int_equal(t->n_dims, ne2 > 0 ? 3 : ne1 > 0 ? 2 : 1);
    assert_int_equal(t->ne[0], ne0);
    assert_int_equal(t->ne[1], ne1 > 0 ? ne1 : 1);
    assert_int_equal(t->ne[2], ne2 > 0 ? ne2 : 1);
    assert_int_equal(t->ne[3], 1);
    assert_string_equal(t->format->name, "bf16");
    assert_int_equal(t->may_quantize, may_quantize);
}

static void test_list(void **state) {
    (void) state;
    fixture f = { 0 };
    fix_qwen3_moe(&f);
    fix_add_experts(&f, 0);
    fix_add_experts(&f, 1);
    assert_false(om_hf_is_directory("/nonexistent"));
    om_hf *hf = open_fixture(&f, FIX_CONFIG("qwen3_moe", FIX_MOE));
    assert_true(om_hf_is_directory(f.dir));
    assert_string_equal(om_hf_path(hf), f.dir);
    assert_string_equal(om_family_model_type(om_hf_family(hf)), "qwen3_moe");
    assert_non_null(om_hf_config(hf));
    assert_int_equal(om_safetensors_n(om_hf_safetensors(hf)), f.n);
    assert_int_equal(om_hf_n_tensors(hf), 3 + 2 * 12);
    check_tensor(om_hf_tensor_at(hf, 0), "token_embd.weight", "model.embed_tokens.weight", 32, 40,
                 0, true);
    check_tensor(om_hf_tensor_at(hf, 1), "output_norm.weight", "model.norm.weight", 32, 0, 0,
                 false);
    check_tensor(om_hf_tensor_at(hf, 2), "output.weight", "lm_head.weight", 32, 40, 0, true);
    check_tensor(om_hf_tensor_at(hf, 3), "blk.0.attn_norm.weight",
                 "model.layers.0.input_layernorm.weight", 32, 0, 0, false);
    check_tensor(om_hf_find(hf, "blk.1.attn_k.weight"), "blk.1.attn_k.weight",
                 "model.layers.1.self_attn.k_proj.weight", 32, 16, 0, true);
    check_tensor(om_hf_find(hf, "blk.1.attn_k_norm.weight"), "blk.1.attn_k_norm.weight",
                 "model.layers.1.self_attn.k_norm.weight", 8, 0, 0, false);
    check_tensor(om_hf_find(hf, "blk.1.ffn_gate_inp.weight"), "blk.1.ffn_gate_inp.weight",
                 "model.layers.1.mlp.gate.weight", 32, 4, 0, false);
    check_tensor(om_hf_find(hf, "blk.1.ffn_down_exps.weight"), "blk.1.ffn_down_exps.weight",
                 "model.layers.1.mlp.switch_mlp.down_proj.weight", 24, 32, 4, true);
    assert_null(om_hf_find(hf, "blk.2.attn_k.weight"));
    int64_t params = 0;
    for (int i = 0; i < f.n; i++) {
        params += f.t[i].bytes / 2;
    }
    assert_int_equal(om_hf_params(hf), params);
    om_hf_free(hf);
    om_hf_free(NULL);
    fix_release(&f);
}

static void test_rows_out_of_range(void **state) {
    (void) state;
    static const int64_t bad[][2] = { { -1, 1 },
                                      { 0, -1 },
                                      { 0, 41 },
                                      { 41, 0 },
                                      { 40, 1 },
                                      { 1, INT64_MAX },
                                      { INT64_MAX, INT64_MAX } };
    fixture f = { 0 };
    float row[FIX_C];
    fix_llama(&f, false);
    om_hf *hf = open_fixture(&f, FIX_CONFIG("llama", ""));
    const om_hf_tensor *t = om_hf_tensor_at(hf, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        om_error err = { 0 };
        assert_int_equal(om_hf_rows_f32(row, hf, t, OM_HF_GGUF, bad[i][0], bad[i][1], &err),
                         OM_E_INTERNAL);
        om_hf_forget(hf, t, bad[i][0], bad[i][1]);
    }
    om_error err = { 0 };
    assert_int_equal(om_hf_rows_f32(row, hf, t, OM_HF_GGUF, 40, 0, &err), OM_OK);
    om_hf_free(hf);
    fix_release(&f);
}

static void test_digest(void **state) {
    (void) state;
    fixture f = { 0 };
    om_error err = { 0 };
    char one[2 * 64 + 1], want[65], got[65], again[65];
    fix_llama(&f, false);
    om_hf *hf = open_fixture(&f, FIX_CONFIG("llama", ""));
    assert_int_equal(om_hf_sha256(got, hf, NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(one, om_tmpdir_path(f.dir, "config.json"), NULL, &err), OM_OK);
    assert_int_equal(
        om_sha256_file(one + 64, om_tmpdir_path(f.dir, "model.safetensors"), NULL, &err), OM_OK);
    om_sha256_bytes(want, one, 128);
    assert_string_equal(got, want);
    om_hf_free(hf);
    hf = open_fixture(&f, FIX_CONFIG("llama", ", \"anything\": 1"));
    assert_int_equal(om_hf_sha256(again, hf, NULL, &err), OM_OK);
    assert_string_not_equal(got, again);
    om_hf_free(hf);
    fix_release(&f);
}

/* ---- tied embeddings ---- */

static void check_tie(const char *config, bool head, bool want_output, const char *want_error) {
    fixture f = { 0 };
    om_hf *hf = NULL;
    om_error err = { 0 };
    fix_llama(&f, head);
    fix_write(&f, config);
    const om_status status = om_hf_open(&hf, f.dir, &err);
    if (want_error != NULL) {
        assert_int_equal(status, OM_E_FORMAT);
        assert_non_null(strstr(err.text, want_error));
    } else {
        if (status != OM_OK) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(om_hf_find(hf, "output.weight") != NULL, want_output);
    }
    om_hf_free(hf);
    fix_release(&f);
}

static void test_ties(void **state) {
    (void) state;
#define TIE(value) ", \"tie_word_embeddings\": " value
    check_tie(FIX_CONFIG("llama", TIE("true")), false, false, NULL);
    check_tie(FIX_CONFIG("llama", TIE("true")), true, false, NULL); /* kept for nothing */
    check_tie(FIX_CONFIG("llama", TIE("false")), true, true, NULL);
    check_tie(FIX_CONFIG("llama", TIE("false")), false, false, "lm_head.weight is missing");
    check_tie(FIX_CONFIG("llama", TIE("null")), true, true, NULL);
    check_tie(FIX_CONFIG("llama", ""), true, true, NULL); /* nothing is said: what is there */
    check_tie(FIX_CONFIG("llama", ""), false, false, NULL);
    check_tie(FIX_CONFIG("llama", TIE("1")), false, false, "tie_word_embeddings");
}

/* ---- what is refused ---- */

/* The directory must be refused with this status and a line that holds all of the words. */
static void check_refused(fixture *f, const char *config, om_status want, const char *word,
                          const char *word2) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    fix_write(f, config);
    const om_status status = om_hf_open(&hf, f->dir, &err);
    assert_null(hf);
    if (status != want || err.status != want || strstr(err.text, word) == NULL ||
        strstr(err.text, word2) == NULL || strstr(err.text, f->dir) == NULL ||
        strchr(err.text, '\n') != NULL) {
        fail_msg("%d (wanted %d with %s and %s): %s", (int) status, (int) want, word, word2,
                 err.text);
    }
}

static void test_tensors_refused(void **state) {
    (void) state;
    static const char *const q = "model.layers.1.self_attn.q_proj.weight";
    fixture f = { 0 };
    fix_llama(&f, false);
    fix_remove(&f, q);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, q, "missing");
    fix_add2(&f, q, OM_ST_BF16, 31, 32);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, q, "[31, 32], expected [32, 32]");
    fix_remove(&f, q);
    fix_add3(&f, q, OM_ST_BF16, 1, 32, 32);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, q, "num_attention_heads * head_dim");
    fix_remove(&f, q);
    fix_add2(&f, q, OM_ST_I8, 32, 32);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, q, "I8");
    fix_remove(&f, q);
    fix_add2(&f, q, OM_ST_F8_E4M3, 32, 32);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, q, "weight_scale_inv");
    fix_add2(&f, "model.layers.1.self_attn.q_proj.weight_scale", OM_ST_F32, 2, 2);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, "q_proj.weight_scale", "[2, 2]");
    fix_release(&f);
}

static void test_lost_weights_refused(void **state) {
    (void) state;
    fixture f = { 0 };
    fix_llama(&f, false);
    fix_add1(&f, "model.layers.0.self_attn.rotary_emb.inv_freq", OM_ST_F32, 4);
    fix_add1(&f, "model.layers.0.self_attn.k_proj.k_scale", OM_ST_F32, 1);
    fix_add1(&f, "mtp.layers.0.input_layernorm.weight", OM_ST_BF16, 32);
    fix_add1(&f, "vision_tower.norm.weight", OM_ST_BF16, 32);
    om_hf_free(open_fixture(&f, FIX_CONFIG("llama", ""))); /* all of no use */
    fix_add1(&f, "model.layers.0.self_attn.q_proj.bias", OM_ST_BF16, 32);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, "self_attn.q_proj.bias",
                  "would be lost");
    fix_remove(&f, "model.layers.0.self_attn.q_proj.bias");
    fix_add_mlp(&f, 2);
    check_refused(&f, FIX_CONFIG("llama", ""), OM_E_FORMAT, "layers.2.mlp.down_proj.weight",
                  "would be lost");
    fix_release(&f);
}

static void test_experts_refused(void **state) {
    (void) state;
    fixture f = { 0 };
    static const char *const down = "model.layers.1.mlp.experts.3.down_proj.weight";
    fix_qwen3_moe(&f);
    fix_add_experts(&f, 0);
    fix_add_experts(&f, 1);
    fix_remove(&f, down);
    check_refused(&f, FIX_CONFIG("qwen3_moe", FIX_MOE), OM_E_FORMAT, down, "missing");
    fix_add2(&f, down, OM_ST_F32, FIX_C, FIX_FE);
    check_refused(&f, FIX_CONFIG("qwen3_moe", FIX_MOE), OM_E_FORMAT, down, "expert 0");
    fix_remove(&f, down);
    fix_add2(&f, down, OM_ST_BF16, FIX_C, FIX_FE);
    check_refused(&f,
                  FIX_CONFIG("qwen3_moe", ", \"num_experts\": 3, \"moe_intermediate_size\": 24"),
                  OM_E_FORMAT, "mlp.gate.weight", "number of experts");
    check_refused(&f, FIX_CONFIG("qwen3_moe", FIX_MOE ", \"decoder_sparse_step\": 2"),
                  OM_E_UNSUPPORTED, "decoder_sparse_step 2", "config.json");
    check_refused(&f, FIX_CONFIG("qwen3_moe", FIX_MOE ", \"mlp_only_layers\": [0]"),
                  OM_E_UNSUPPORTED, "1 mlp_only_layers", "config.json");
    check_refused(&f, FIX_CONFIG("qwen3_moe", ""), OM_E_FORMAT, "num_local_experts", "config.json");
    fix_release(&f);
}

/* A length that config.json leaves out is none of 0, though such tensors would fit it. */
static void test_no_length_refused(void **state) {
    (void) state;
    static const char *const names[] = { "gate_proj", "up_proj", "down_proj" };
    fixture f = { 0 };
    char n[FIX_NAME], rest[64];
    fix_add_outside(&f, true);
    for (int layer = 0; layer < 2; layer++) {
        fix_add_attention(&f, layer);
        fix_add1(&f, fix_layer(n, layer, "self_attn.q_proj.bias"), OM_ST_BF16, FIX_H * FIX_D);
        fix_add1(&f, fix_layer(n, layer, "self_attn.k_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add1(&f, fix_layer(n, layer, "self_attn.v_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add2(&f, fix_layer(n, layer, "mlp.gate.weight"), OM_ST_BF16, FIX_E, FIX_C);
        fix_add_experts(&f, layer);
        fix_add2(&f, fix_layer(n, layer, "mlp.shared_expert_gate.weight"), OM_ST_BF16, 1, FIX_C);
        for (int i = 0; i < 3; i++) {
            (void) snprintf(rest, sizeof rest, "mlp.shared_expert.%s.weight", names[i]);
            fix_add2(&f, fix_layer(n, layer, rest), OM_ST_BF16, i < 2 ? 0 : FIX_C,
                     i < 2 ? FIX_C : 0);
        }
    }
    check_refused(&f, FIX_CONFIG("qwen2_moe", FIX_MOE), OM_E_FORMAT,
                  "mlp.shared_expert.gate_proj.weight", "shared_expert_intermediate_size");
    fix_release(&f);
}

static void test_configs_refused(void **state) {
    (void) state;
    fixture f = { 0 };
    fix_llama(&f, false);
    check_refused(&f, "{}", OM_E_FORMAT, "model_type", "config.json");
    check_refused(&f, "[]", OM_E_FORMAT, "object", "config.json");
    check_refused(&f, "{\"model_type\": 3}", OM_E_FORMAT, "model_type", "string");
    check_refused(&f, FIX_CONFIG("deepseek_v3", ""), OM_E_UNSUPPORTED, "\"deepseek_v3\"",
                  "qwen3_moe");
    check_refused(&f, FIX_CONFIG("gemma3", ""), OM_E_FORMAT, "text_config", "config.json");
#define QUANT(q) FIX_CONFIG("llama", ", \"quantization_config\": " q)
    check_refused(&f, QUANT("{\"quant_method\": \"gptq\", \"bits\": 4}"), OM_E_FORMAT, "gptq",
                  "give the model that they were made from");
    check_refused(&f, QUANT("{\"quant_method\": \"awq\"}"), OM_E_FORMAT, "awq", "config.json");
    check_refused(&f, QUANT("{\"quant_method\": \"bitsandbytes\"}"), OM_E_FORMAT, "bitsandbytes",
                  "config.json");
    check_refused(&f,
                  QUANT("{\"quant_method\": \"compressed-tensors\", \"format\": "
                        "\"pack-quantized\"}"),
                  OM_E_FORMAT, "compressed-tensors", "config.json");
    check_refused(&f, QUANT("3"), OM_E_FORMAT, "quantization_config", "config.json");
    check_refused(&f, QUANT("{\"quant_method\": \"fp8\", \"weight_block_size\": [0, 1]}"),
                  OM_E_FORMAT, "weight_block_size", "config.json");
    fix_release(&f);
}

/* Each number of the config in turn: absent, of another type, out of bounds. */
static void test_numbers_refused(void **state) {
    (void) state;
    static const char *const keys[] = { "hidden_size", "num_attention_heads", "intermediate_size",
                                        "vocab_size",  "num_hidden_layers",   "num_key_value_heads",
                                        "head_dim" };
    static const char *const values[] = { "0", "-1",      "1.5", "\"8\"", "9223372036854775807",
                                          "3", "1000000", "[]",  "true",  "4096" };
    fixture f = { 0 };
    fix_llama(&f, false);
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char config[1024];
            size_t used = (size_t) snprintf(config, sizeof config, "{\"model_type\": \"llama\"");
            for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
                static const int good[] = { 32, 4, 48, 40, 2, 2, 8 };
                char text[32];
                (void) snprintf(text, sizeof text, "%d", good[i]);
                used += (size_t) snprintf(config + used, sizeof config - used, ", \"%s\": %s",
                                          keys[i], i == k ? values[v] : text);
            }
            (void) snprintf(config + used, sizeof config - used, "}");
            check_refused(&f, config, OM_E_FORMAT, "", "");
        }
    }
    fix_release(&f);
}

/* Claims of a config that no memory may follow. */
static void test_claims(void **state) {
    (void) state;
    fixture f = { 0 };
    fix_llama(&f, false);
    check_refused(&f,
                  "{\"model_type\": \"llama\", \"hidden_size\": 32, \"num_attention_heads\": 4, "
                  "\"num_key_value_heads\": 2, \"head_dim\": 8, \"intermediate_size\": 48, "
                  "\"vocab_size\": 40, \"num_hidden_layers\": 4096}",
                  OM_E_FORMAT, "layers.2.input_layernorm.weight", "4096 layers");
    fix_release(&f);
    fix_qwen3_moe(&f);
    fix_add_experts(&f, 0);
    fix_add_experts(&f, 1);
    fix_remove(&f, "model.layers.0.mlp.gate.weight");
    fix_add2(&f, "model.layers.0.mlp.gate.weight", OM_ST_BF16, 65536, FIX_C);
    check_refused(
        &f, FIX_CONFIG("qwen3_moe", ", \"num_experts\": 65536, \"moe_intermediate_size\": 24"),
        OM_E_FORMAT, "65536 experts", "");
    fix_release(&f);
}

/* ---- MLX directories that mlx-lm would not load either ---- */

#define MLX_CONFIG(entry)                                                                          \
    FIX_CONFIG("llama", ", \"tie_word_embeddings\": true, \"quantization\": {\"group_size\": 32, " \
                        "\"bits\": 4" entry "}")

static void add_codes(fixture *f, const char *module, int64_t words, int64_t groups,
                      om_st_dtype scales, bool biases) {
    char name[FIX_NAME];
    (void) snprintf(name, sizeof name, "%s.weight", module);
    fix_add2(f, name, OM_ST_U32, 32, words);
    (void) snprintf(name, sizeof name, "%s.scales", module);
    fix_add2(f, name, scales, 32, groups);
    if (biases) {
        (void) snprintf(name, sizeof name, "%s.biases", module);
        fix_add2(f, name, scales, 32, groups);
    }
}

static void remove_codes(fixture *f, const char *module, bool biases) {
    static const char *const ends[] = { "weight", "scales", "biases" };
    for (int i = 0; i < (biases ? 3 : 2); i++) {
        char name[FIX_NAME];
        (void) snprintf(name, sizeof name, "%s.%s", module, ends[i]);
        fix_remove(f, name);
    }
}

static void test_codes_refused(void **state) {
    (void) state;
    static const char *const q = "model.layers.1.self_attn.q_proj";
    static const struct {
        int64_t words, groups;
        om_st_dtype scales;
        bool biases;
    } bad[] = {
        { 4, 1, OM_ST_U8, true },    /* affine scales are numbers */
        { 4, 1, OM_ST_BF16, false }, /* mxfp4's are bytes */
        { 7, 1, OM_ST_BF16, true },  /* 7 bits */
        { 4, 3, OM_ST_BF16, true },  /* groups that do not divide the row */
        { 32, 1, OM_ST_BF16, true }, /* 32 bits */
        { 64, 1, OM_ST_BF16, true }, /* more words than weights */
        { 4, 32, OM_ST_BF16, true }, /* groups of one */
        { 8, 2, OM_ST_U8, false },   /* 8 bits in groups of 16 */
    };
    fixture f = { 0 };
    fix_llama(&f, false);
    fix_remove(&f, "model.layers.1.self_attn.q_proj.weight");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        add_codes(&f, q, bad[i].words, bad[i].groups, bad[i].scales, bad[i].biases);
        check_refused(&f, MLX_CONFIG(""), OM_E_FORMAT, q, "");
        remove_codes(&f, q, bad[i].biases);
    }
    add_codes(&f, q, 4, 1, OM_ST_BF16, true);
    om_hf_free(open_fixture(&f, MLX_CONFIG("")));
    check_refused(&f, MLX_CONFIG(", \"model.layers.1.self_attn.q_proj\": false"), OM_E_FORMAT, q,
                  "false");
    check_refused(&f, MLX_CONFIG(", \"model.layers.1.self_attn.q_proj\": {\"bits\": 5}"),
                  OM_E_FORMAT, "mlx_4bit_g32", "5 bits");
    check_refused(&f, MLX_CONFIG(", \"model.layers.1.self_attn.q_proj\": 4"), OM_E_FORMAT, q,
                  "config.json");
    fix_remove(&f, "model.layers.1.self_attn.q_proj.biases");
    fix_add2(&f, "model.layers.1.self_attn.q_proj.biases", OM_ST_F32, 32, 1);
    check_refused(&f, MLX_CONFIG(""), OM_E_FORMAT, "q_proj.biases", "BF16");
    fix_remove(&f, "model.layers.1.self_attn.q_proj.biases");
    fix_add2(&f, "model.layers.1.self_attn.q_proj.biases", OM_ST_BF16, 16, 1);
    check_refused(&f, MLX_CONFIG(""), OM_E_FORMAT, "q_proj.biases", "[16, 1]");
    fix_remove(&f, "model.layers.1.self_attn.q_proj.scales");
    fix_add2(&f, "model.layers.1.self_attn.q_proj.scales", OM_ST_BF16, 31, 1);
    check_refused(&f, MLX_CONFIG(""), OM_E_FORMAT, "q_proj.scales", "[31, 1]");
    fix_release(&f);
    fix_llama(&f, true); /* a tied model's head that would be lost */
    fix_add2(&f, "lm_head.scales", OM_ST_BF16, 40, 1);
    check_refused(&f, MLX_CONFIG(""), OM_E_FORMAT, "lm_head.scales", "would be lost");
    fix_release(&f);
}

/* ---- memory ---- */

/* The n-th allocation fails: an error, no leak (with the sanitizers), nothing half-open. */
static void test_no_memory(void **state) {
    (void) state;
    fixture f = { 0 };
    fix_qwen3_moe(&f);
    fix_add_experts(&f, 0);
    fix_add_experts(&f, 1);
    fix_write(&f, FIX_CONFIG("qwen3_moe", FIX_MOE));
    int failed = 0;
    for (long n = 1; n < 100000; n++) {
        om_hf *hf = NULL;
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = om_hf_open(&hf, f.dir, &err);
        om_mem_fail_at(0);
        if (status == OM_OK) {
            assert_non_null(hf);
            om_hf_free(hf);
            break;
        }
        assert_null(hf);
        assert_int_equal(status, OM_E_NOMEM);
        failed++;
    }
    assert_in_range(failed, 20, 99999);
    fix_release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_rows_out_of_range),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_tensors_refused),
        cmocka_unit_test(test_lost_weights_refused),
        cmocka_unit_test(test_experts_refused),
        cmocka_unit_test(test_no_length_refused),
        cmocka_unit_test(test_configs_refused),
        cmocka_unit_test(test_numbers_refused),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_codes_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
