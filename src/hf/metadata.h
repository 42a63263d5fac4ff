/* config.json -> what a GGUF says of the model (keys of its architecture), as llama.cpp's converter
 * writes it, and the tensors that follow from config.json alone. */
#ifndef OM_HF_METADATA_H
#define OM_HF_METADATA_H

#include "base/json.h"
#include "hf/pairs.h"

/** Tensors of a GGUF that no safetensors file holds: 1-D, F32. */
typedef struct om_hf_extra {
    const char *name; /* static: "rope_freqs.weight" */
    int64_t n;
    float *values; /* [n] owned */
} om_hf_extra;

enum { OM_HF_MAX_EXTRAS = 2 };

typedef struct om_hf_metadata {
    om_hf_extra extras[OM_HF_MAX_EXTRAS];
    int n_extras;
    int64_t vocab_size;
} om_hf_metadata;

/** Append the pairs of the architecture to `pairs` (whose arch must be set) and fill *out.
 *
 *  model_type  of the family ("qwen3")
 *  config      config.json; `file` its name for messages
 *  Both kinds of configuration are read: with rope_theta and rope_scaling, and with
 *  rope_parameters as transformers 5 writes it. What is absent has transformers' default.
 *
 *  Errors: OM_E_UNSUPPORTED (a kind of attention, rope or mixture that llama.cpp would run
 *          otherwise, said with what to do instead), OM_E_FORMAT (a value is missing or of another
 *          type). */
om_status om_hf_metadata_make(om_hf_metadata *out, om_pairs *pairs, const char *model_type,
                              const om_json *config, const char *file,
                              om_error *err) OM_WARN_UNUSED;
void om_hf_metadata_release(om_hf_metadata *m);

#endif
