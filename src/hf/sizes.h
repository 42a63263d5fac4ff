/* The numbers of config.json that shapes follow from, within bounds. */
#ifndef OM_HF_SIZES_H
#define OM_HF_SIZES_H

#include "base/json.h"
#include "hf/family_table.h"

typedef struct om_hf_sizes {
    int64_t dim[OM_DIM_COUNT]; /* 0: the family has no such length */
    int64_t n_kv;              /* key-value heads */
    int n_layers;
    bool attention_bias, mlp_bias;
    bool says_tied, tied; /* "tie_word_embeddings": is it there, and its value */
} om_hf_sizes;

/** Read them. Errors: OM_E_FORMAT with the key (missing, no number, out of bounds);
 * OM_E_UNSUPPORTED (a mixture in which some blocks have no experts: llama.cpp has no such thing).
 */
om_status om_hf_sizes_read(om_hf_sizes *out, const om_family *family, const om_node *config,
                           om_error *err) OM_WARN_UNUSED;

/** Is the way in which the weights are quantized, if they are, read here? "quantization" is MLX's
 * own; of "quantization_config" FP8 and MXFP4. Errors: OM_E_FORMAT names the method.
 *
 *  fp8_block  rows and columns of a block that shares an FP8 scale; { 128, 128 } unless the config
 *             says otherwise */
om_status om_hf_quantization_check(int64_t fp8_block[2], const om_node *config,
                                   om_error *err) OM_WARN_UNUSED;

#endif
