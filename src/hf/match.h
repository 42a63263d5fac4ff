/* Finding the tensors of a directory that make up one tensor of the GGUF, and checking them. */
#ifndef OM_HF_MATCH_H
#define OM_HF_MATCH_H

#include "hf/banks.h"
#include "hf/sizes.h"
#include "hf/source.h"

/** What matching needs to know of a directory. */
typedef struct om_hf_matcher {
    const om_safetensors *st;
    const om_family *family;
    const om_hf_sizes *sizes;
    const om_node *config;
    const char *where; /* the directory, for messages */
    const char *body;  /* before "layers.N." and "embed_tokens.weight" in the directory */
    const char *head;  /* before "lm_head.weight" */
    int64_t fp8_block[2];
    om_hf_banks *banks; /* [n_banked] layers whose experts lie in banks */
    int n_banked;
    bool *used; /* [om_safetensors_n] tensors that were found to be part of the model */
} om_hf_matcher;

/** Index of a tensor by name; -1: none. */
int om_hf_index_of(const om_safetensors *st, const char *name);

/** One tensor of the table, in block `layer` (-1: outside of blocks): found, checked, marked as
 * used. out->source is owned (om_hf_source_free). Errors: OM_E_FORMAT names the tensor of the
 * directory that is missing or wrong. */
om_status om_hf_match(om_hf_tensor *out, const om_hf_matcher *m, const om_family_tensor *row,
                      int layer, om_error *err) OM_WARN_UNUSED;
void om_hf_source_free(struct om_hf_source *source); /* accepts NULL */

/** Of a tensor that is not part of the model: may it be dropped (rotary tables, image towers,
 * multi-token prediction, scales of activations), or would weights be lost? */
bool om_hf_may_drop(const char *name);

#endif
