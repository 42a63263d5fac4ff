/* Tensor names into roles, and llama-quantize's rule for what stays as it is.
 *
 * The lists below are facts about llama.cpp (tensor_allows_quantization in llama-quant.cpp of the
 * pinned version): a stock runtime expects these tensors unquantized, or they are too small to be
 * worth it. docs/formats.md keeps the table. A file whose router was quantized does not load. */
#include "model/roles.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

/* A tensor with one of these anywhere in its name is copied. */
static const char *const copied_parts[] = {
    "_norm.weight",
    "ffn_gate_inp.weight",     /* MoE router */
    "ffn_gate_tid2eid.weight", /* token to expert table, integers */
    "altup",                   /* gemma 3n: tiny */
    "laurel",                  /* gemma 3n: tiny */
    "per_layer_model_proj",    /* gemma 3n */
    "ssm_conv1d",              /* Mamba's convolution */
    "shortconv.conv.weight",   /* LFM2's convolution */
    "indexer.k_proj.weight",   /* MiniMax's sparse attention indexer */
    "indexer.q_proj.weight",
    "time_mix_first.weight", /* RWKV's small matrices, to the end of the group */
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", /* T5's relative positions */
    ".position_embd",    /* vision and audio towers, to the end of the list */
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
};

/* The same, in one architecture only. */
static const char *const copied_parts_glm5_next[] = {
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
};

static bool contains_any(const char *name, const char *const *parts, size_t n_parts) {
    for (size_t i = 0; i < n_parts; i++) {
        if (strstr(name, parts[i]) != NULL) {
            return true;
        }
    }
    return false;
}

void om_tensor_role(char role[64], int *layer, const char *name) {
    *layer = -1;
    const char *start = name;
    if (strncmp(name, "blk.", 4) == 0 && name[4] >= '0' && name[4] <= '9') {
        char *end;
        unsigned long number = strtoul(name + 4, &end, 10);
        if (*end == '.' && end - name <= 4 + 6) { /* six digits: far above any block count */
            *layer = (int) number;
            start = end + 1;
        }
    }
    size_t n = strlen(start);
    if (om_text_ends(start, ".weight")) {
        n -= strlen(".weight");
    }
    n = n < 63 ? n : 63;
    memcpy(role, start, n);
    role[n] = '\0';
}

bool om_tensor_may_quantize(const char *name, int n_dims) {
    return n_dims >= 2 && om_text_ends(name, "weight") &&
           strcmp(name, "position_embd.weight") != 0 && strcmp(name, "token_types.weight") != 0 &&
           !contains_any(name, copied_parts, sizeof copied_parts / sizeof copied_parts[0]);
}

bool om_tensor_arch_copies(const char *arch, const char *name) {
    return strcmp(arch, "glm5-next") == 0 &&
           contains_any(name, copied_parts_glm5_next,
                        sizeof copied_parts_glm5_next / sizeof copied_parts_glm5_next[0]);
}

bool om_tensor_is_experts(const char *name) {
    return om_text_ends(name, "_exps.weight");
}
