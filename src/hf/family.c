/* The families, as one table: per block a few parts that families share (attention, norms,
 * experts), each a list of tensors. What a tensor is called in llama.cpp is from its architecture
 * table and converter, in mlx-lm from its model files; both are facts, checked against the programs
 * by tests/oracle/hf_names.sh. Every matrix here is a module of mlx-lm with to_quantized, and
 * "bias" never is. */
#include "hf/family_table.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */

/* The letters of src/README.md. */
#define ONE  OM_DIM_1
#define V    OM_DIM_V
#define C    OM_DIM_C
#define D    OM_DIM_D
#define H    OM_DIM_H
#define HD   OM_DIM_HD
#define KVD  OM_DIM_KVD
#define QKVD OM_DIM_QKVD
#define F    OM_DIM_F
#define F2   OM_DIM_2F
#define E    OM_DIM_E
#define FE   OM_DIM_FE
#define FS   OM_DIM_FS

static const om_family_tensor outside[] = {
    { "token_embd.weight",  "embed_tokens.weight", { V, C }, 0, NULL },
    { "output_norm.weight", "norm.weight",         { C }, OM_NORM, NULL },
    { "output.weight",      "lm_head.weight",      { V, C }, OM_IF_UNTIED, NULL },
    { 0 },
};

/* ---- attention ---- */

static const om_family_tensor attention[] = {
    { "attn_norm.weight",   "input_layernorm.weight",  { C }, OM_NORM, NULL },
    { "attn_q.weight",      "self_attn.q_proj.weight", { HD, C }, OM_ROTARY_Q, NULL },
    { "attn_k.weight",      "self_attn.k_proj.weight", { KVD, C }, OM_ROTARY_K, NULL },
    { "attn_v.weight",      "self_attn.v_proj.weight", { KVD, C }, 0, NULL },
    { "attn_output.weight", "self_attn.o_proj.weight", { C, HD }, 0, NULL },
    { 0 },
};
static const om_family_tensor bias_if_asked[] = {
    { "attn_q.bias",      "self_attn.q_proj.bias", { HD },
      OM_ROTARY_Q | OM_IF_ATTENTION_BIAS, NULL },
    { "attn_k.bias",      "self_attn.k_proj.bias", { KVD },
      OM_ROTARY_K | OM_IF_ATTENTION_BIAS, NULL },
    { "attn_v.bias",      "self_attn.v_proj.bias", { KVD }, OM_IF_ATTENTION_BIAS, NULL },
    { "attn_output.bias", "self_attn.o_proj.bias", { C }, OM_IF_ATTENTION_BIAS, NULL },
    { 0 },
};
static const om_family_tensor bias_qkv[] = {
    { "attn_q.bias", "self_attn.q_proj.bias", { HD }, OM_ROTARY_Q, NULL },
    { "attn_k.bias", "self_attn.k_proj.bias", { KVD }, OM_ROTARY_K, NULL },
    { "attn_v.bias", "self_attn.v_proj.bias", { KVD }, 0, NULL },
    { 0 },
};
static const om_family_tensor bias_output_sinks[] = {
    { "attn_output.bias",  "self_attn.o_proj.bias", { C }, 0, NULL },
    { "attn_sinks.weight", "self_attn.sinks",       { H }, 0, NULL },
    { 0 },
};
static const om_family_tensor norms_of_heads[] = {
    { "attn_q_norm.weight", "self_attn.q_norm.weight", { D }, OM_NORM, NULL },
    { "attn_k_norm.weight", "self_attn.k_norm.weight", { D }, OM_NORM, NULL },
    { 0 },
};
static const om_family_tensor norms_across_heads[] = {
    { "attn_q_norm.weight", "self_attn.q_norm.weight", { HD }, OM_NORM, NULL },
    { "attn_k_norm.weight", "self_attn.k_norm.weight", { KVD }, OM_NORM, NULL },
    { 0 },
};
static const om_family_tensor attention_fused[] = {
    { "attn_norm.weight",   "input_layernorm.weight",    { C }, OM_NORM, NULL },
    { "attn_qkv.weight",    "self_attn.qkv_proj.weight", { QKVD, C }, 0, NULL },
    { "attn_output.weight", "self_attn.o_proj.weight",   { C, HD }, 0, NULL },
    { 0 },
};

/* ---- between attention and feed-forward ---- */

static const om_family_tensor norm_before_ffn[] = {
    { "ffn_norm.weight", "post_attention_layernorm.weight", { C }, OM_NORM, NULL },
    { 0 },
};
/* The same norm of mlx-lm under another name in llama.cpp. */
static const om_family_tensor norm_after_attention[] = {
    { "post_attention_norm.weight", "post_attention_layernorm.weight", { C }, OM_NORM, NULL },
    { 0 },
};
static const om_family_tensor norms_around[] = {
    { "post_attention_norm.weight", "post_attention_layernorm.weight",   { C }, OM_NORM, NULL },
    { "ffn_norm.weight",            "pre_feedforward_layernorm.weight",  { C }, OM_NORM, NULL },
    { "post_ffw_norm.weight",       "post_feedforward_layernorm.weight", { C }, OM_NORM, NULL },
    { 0 },
};

/* ---- feed-forward ---- */

static const om_family_tensor feed_forward[] = {
    { "ffn_gate.weight", "mlp.gate_proj.weight", { F, C }, 0, NULL },
    { "ffn_up.weight",   "mlp.up_proj.weight",   { F, C }, 0, NULL },
    { "ffn_down.weight", "mlp.down_proj.weight", { C, F }, 0, NULL },
    { 0 },
};
static const om_family_tensor feed_forward_bias[] = {
    { "ffn_gate.bias", "mlp.gate_proj.bias", { F }, OM_IF_MLP_BIAS, NULL },
    { "ffn_up.bias",   "mlp.up_proj.bias",   { F }, OM_IF_MLP_BIAS, NULL },
    { "ffn_down.bias", "mlp.down_proj.bias", { C }, OM_IF_MLP_BIAS, NULL },
    { 0 },
};
static const om_family_tensor feed_forward_fused[] = {
    { "ffn_up.weight",   "mlp.gate_up_proj.weight", { F2, C }, 0, NULL },
    { "ffn_down.weight", "mlp.down_proj.weight",    { C, F }, 0, NULL },
    { 0 },
};

/* One tensor per expert, or all of a block stacked with gate and up in halves (transformers 5). */
static const om_hf_form gate_forms[] = {
    { "mlp.experts.#.gate_proj.weight", OM_FOLD_NONE, false, false },
    { "mlp.experts.gate_up_proj", OM_FOLD_FIRST, false, false },
    { 0 },
};
static const om_hf_form up_forms[] = {
    { "mlp.experts.#.up_proj.weight", OM_FOLD_NONE, false, false },
    { "mlp.experts.gate_up_proj", OM_FOLD_SECOND, false, false },
    { 0 },
};
static const om_hf_form down_forms[] = {
    { "mlp.experts.#.down_proj.weight", OM_FOLD_NONE, false, false },
    { "mlp.experts.down_proj", OM_FOLD_NONE, false, false },
    { 0 },
};
static const om_family_tensor experts[] = {
    { "ffn_gate_inp.weight",  "mlp.gate.weight",                 { E, C }, 0, NULL },
    { "ffn_gate_exps.weight", "mlp.switch_mlp.gate_proj.weight", { E, FE, C }, 0, gate_forms },
    { "ffn_up_exps.weight",   "mlp.switch_mlp.up_proj.weight",   { E, FE, C }, 0, up_forms },
    { "ffn_down_exps.weight", "mlp.switch_mlp.down_proj.weight", { E, C, FE }, 0, down_forms },
    { 0 },
};
static const om_family_tensor shared_expert[] = {
    { "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight",      { ONE, C }, 0, NULL },
    { "ffn_gate_shexp.weight",     "mlp.shared_expert.gate_proj.weight", { FS, C }, 0, NULL },
    { "ffn_up_shexp.weight",       "mlp.shared_expert.up_proj.weight",   { FS, C }, 0, NULL },
    { "ffn_down_shexp.weight",     "mlp.shared_expert.down_proj.weight", { C, FS }, 0, NULL },
    { 0 },
};

static const om_hf_form w1_forms[] = {
    { "block_sparse_moe.experts.#.w1.weight", OM_FOLD_NONE, false, false }, { 0 },
};
static const om_hf_form w2_forms[] = {
    { "block_sparse_moe.experts.#.w2.weight", OM_FOLD_NONE, false, false }, { 0 },
};
static const om_hf_form w3_forms[] = {
    { "block_sparse_moe.experts.#.w3.weight", OM_FOLD_NONE, false, false }, { 0 },
};
static const om_family_tensor experts_mixtral[] = {
    { "ffn_gate_inp.weight",  "block_sparse_moe.gate.weight", { E, C }, 0, NULL },
    { "ffn_gate_exps.weight", "block_sparse_moe.switch_mlp.gate_proj.weight",
      { E, FE, C }, 0, w1_forms },
    { "ffn_up_exps.weight",   "block_sparse_moe.switch_mlp.up_proj.weight",
      { E, FE, C }, 0, w3_forms },
    { "ffn_down_exps.weight", "block_sparse_moe.switch_mlp.down_proj.weight",
      { E, C, FE }, 0, w2_forms },
    { 0 },
};

/* Gate and up interleaved; MXFP4 blocks as published, or BF16 with rows and columns exchanged. */
static const om_hf_form gate_oss[] = {
    { "mlp.experts.gate_up_proj_blocks", OM_FOLD_EVEN, false, true },
    { "mlp.experts.gate_up_proj", OM_FOLD_EVEN, true, false },
    { 0 },
};
static const om_hf_form up_oss[] = {
    { "mlp.experts.gate_up_proj_blocks", OM_FOLD_ODD, false, true },
    { "mlp.experts.gate_up_proj", OM_FOLD_ODD, true, false },
    { 0 },
};
static const om_hf_form down_oss[] = {
    { "mlp.experts.down_proj_blocks", OM_FOLD_NONE, false, true },
    { "mlp.experts.down_proj", OM_FOLD_NONE, true, false },
    { 0 },
};
static const om_hf_form gate_bias_oss[] = {
    { "mlp.experts.gate_up_proj_bias", OM_FOLD_EVEN, false, false }, { 0 },
};
static const om_hf_form up_bias_oss[] = {
    { "mlp.experts.gate_up_proj_bias", OM_FOLD_ODD, false, false }, { 0 },
};
static const om_hf_form down_bias_oss[] = {
    { "mlp.experts.down_proj_bias", OM_FOLD_NONE, false, false }, { 0 },
};
static const om_family_tensor experts_oss[] = {
    { "ffn_gate_inp.weight",  "mlp.router.weight",            { E, C }, 0, NULL },
    { "ffn_gate_inp.bias",    "mlp.router.bias",              { E }, 0, NULL },
    { "ffn_gate_exps.weight", "mlp.experts.gate_proj.weight", { E, FE, C }, 0, gate_oss },
    { "ffn_gate_exps.bias",   "mlp.experts.gate_proj.bias",   { E, FE }, 0, gate_bias_oss },
    { "ffn_up_exps.weight",   "mlp.experts.up_proj.weight",   { E, FE, C }, 0, up_oss },
    { "ffn_up_exps.bias",     "mlp.experts.up_proj.bias",     { E, FE }, 0, up_bias_oss },
    { "ffn_down_exps.weight", "mlp.experts.down_proj.weight", { E, C, FE }, 0, down_oss },
    { "ffn_down_exps.bias",   "mlp.experts.down_proj.bias",   { E, C }, 0, down_bias_oss },
    { 0 },
};

/* ---- families ---- */

#define LLAMA_PARTS { attention, bias_if_asked, norm_before_ffn, feed_forward, feed_forward_bias }

static const om_family families[] = {
    { .model_type = "llama", .arch = "llama", .permutes = true, .parts = LLAMA_PARTS },
    { .model_type = "mistral", .arch = "llama", .permutes = true, .parts = LLAMA_PARTS },
    { .model_type = "mixtral", .arch = "llama", .permutes = true, .experts = true,
      .expert_ff_key = "intermediate_size",
      .parts = { attention, norm_before_ffn, experts_mixtral } },
    { .model_type = "qwen2", .arch = "qwen2",
      .parts = { attention, bias_qkv, norm_before_ffn, feed_forward } },
    { .model_type = "qwen2_moe", .arch = "qwen2moe", .experts = true, .tied = OM_TIED_NEVER,
      .expert_ff_key = "moe_intermediate_size",
      .parts = { attention, bias_qkv, norm_before_ffn, experts, shared_expert } },
    { .model_type = "qwen3", .arch = "qwen3",
      .parts = { attention, norms_of_heads, norm_before_ffn, feed_forward } },
    { .model_type = "qwen3_moe", .arch = "qwen3moe", .experts = true,
      .expert_ff_key = "moe_intermediate_size",
      .parts = { attention, norms_of_heads, norm_before_ffn, experts } },
    { .model_type = "gemma2", .arch = "gemma2", .norms_of_1 = true, .tied = OM_TIED_ALWAYS,
      .head_dim = 256, .parts = { attention, norms_around, feed_forward } },
    { .model_type = "gemma3_text", .arch = "gemma3", .norms_of_1 = true,
      .tied = OM_TIED_BY_PRESENCE, .head_dim = 256,
      .parts = { attention, norms_of_heads, norms_around, feed_forward } },
    { .model_type = "gemma3", .arch = "gemma3", .norms_of_1 = true, .nested = true,
      .tied = OM_TIED_BY_PRESENCE, .n_heads = 8, .n_kv = 4, .head_dim = 256, .n_vocab = 262208,
      .parts = { attention, norms_of_heads, norms_around, feed_forward } },
    { .model_type = "phi3", .arch = "phi3",
      .parts = { attention_fused, norm_before_ffn, feed_forward_fused } },
    { .model_type = "gpt_oss", .arch = "gpt-oss", .experts = true, .tied = OM_TIED_NEVER,
      .expert_ff_key = "intermediate_size", .head_dim = 64,
      .parts = { attention, bias_qkv, bias_output_sinks, norm_after_attention, experts_oss } },
    { .model_type = "olmoe", .arch = "olmoe", .experts = true,
      .expert_ff_key = "intermediate_size",
      .parts = { attention, norms_across_heads, norm_before_ffn, experts } },
};
/* clang-format on */

enum { N_FAMILIES = (int) (sizeof families / sizeof families[0]) };

const char *om_family_list(void) {
    return "llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, gemma2, gemma3_text, "
           "gemma3, phi3, gpt_oss, olmoe";
}

const om_family *om_family_at(int i) {
    return i >= 0 && i < N_FAMILIES ? &families[i] : NULL;
}

const om_family_tensor *om_family_outside(void) {
    return outside;
}

const char *om_family_prefix(const om_family *family) {
    return family->nested ? "language_model." : "";
}

const char *om_hf_dim_name(om_hf_dim dim) {
    static const char *const names[OM_DIM_COUNT] = {
        [OM_DIM_END] = "",
        [OM_DIM_1] = "1",
        [OM_DIM_V] = "vocab_size",
        [OM_DIM_C] = "hidden_size",
        [OM_DIM_D] = "head_dim",
        [OM_DIM_H] = "num_attention_heads",
        [OM_DIM_HD] = "num_attention_heads * head_dim",
        [OM_DIM_KVD] = "num_key_value_heads * head_dim",
        [OM_DIM_QKVD] = "(num_attention_heads + 2 * num_key_value_heads) * head_dim",
        [OM_DIM_F] = "intermediate_size",
        [OM_DIM_2F] = "2 * intermediate_size",
        [OM_DIM_E] = "number of experts",
        [OM_DIM_FE] = "intermediate size of an expert",
        [OM_DIM_FS] = "shared_expert_intermediate_size",
    };
    return names[dim];
}

const om_family *om_family_by_model_type(const char *model_type) {
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(families[i].model_type, model_type) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

const om_family *om_family_by_arch(const char *arch, bool has_experts) {
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(families[i].arch, arch) == 0 && families[i].experts == has_experts) {
            return &families[i];
        }
    }
    return NULL;
}

const char *om_family_model_type(const om_family *family) {
    return family->model_type;
}

const char *om_family_arch(const om_family *family) {
    return family->arch;
}

/* ---- names of single tensors ---- */

static const om_family_tensor *find_row(const om_family_tensor *rows, const char *gguf) {
    for (; rows->gguf != NULL; rows++) {
        if (strcmp(rows->gguf, gguf) == 0) {
            return rows;
        }
    }
    return NULL;
}

static const om_family_tensor *find_in_block(const om_family *family, const char *gguf) {
    for (int i = 0; i < OM_FAMILY_PARTS && family->parts[i] != NULL; i++) {
        const om_family_tensor *row = find_row(family->parts[i], gguf);
        if (row != NULL) {
            return row;
        }
    }
    return NULL;
}

bool om_family_mlx_name(char out[OM_HF_PATH], const om_family *family, const char *gguf_name) {
    enum { MAX_DIGITS = 6 };
    const char *prefix = om_family_prefix(family);
    const om_family_tensor *row = find_row(outside, gguf_name);
    if (row != NULL) {
        if ((row->flags & OM_IF_UNTIED) != 0 && family->tied == OM_TIED_ALWAYS) {
            return false;
        }
        const char *body = (row->flags & OM_IF_UNTIED) != 0 ? "" : "model.";
        (void) snprintf(out, OM_HF_PATH, "%s%s%s", prefix, body, row->mlx);
        return true;
    }
    if (strncmp(gguf_name, "blk.", 4) != 0) {
        return false;
    }
    const char *number = gguf_name + 4;
    const size_t digits = strspn(number, "0123456789");
    if (digits == 0 || digits > MAX_DIGITS || (digits > 1 && number[0] == '0') ||
        number[digits] != '.') {
        return false;
    }
    row = find_in_block(family, number + digits + 1);
    if (row == NULL) {
        return false;
    }
    (void) snprintf(out, OM_HF_PATH, "%smodel.layers.%.*s.%s", prefix, (int) digits, number,
                    row->mlx);
    return true;
}
