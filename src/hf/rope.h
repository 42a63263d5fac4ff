/* Rotary position embedding of config.json: read from both of its forms, written as pairs and
 * tensors. Private to src/hf. */
#ifndef OM_HF_ROPE_H
#define OM_HF_ROPE_H

#include "hf/config.h"
#include "hf/metadata.h"

typedef struct om_rope {
    double theta;
    double local_theta; /* of sliding layers; 0: all layers are alike */
    const char *type;   /* "default", "linear", "yarn", "llama3", "longrope"; borrowed */
    om_node params;     /* the object that holds factor, …, valid when has_params */
    bool has_params;
    int64_t original_context; /* max_position_embeddings where config.json has none */
} om_rope;

/** What the family has where config.json says nothing. */
typedef struct om_rope_defaults {
    double theta;
    double local_theta; /* > 0: sliding layers have a base of their own (Gemma 3) */
} om_rope_defaults;

/** Read it. `rope` must not be moved while it is used (params refers to the config). Errors:
 * OM_E_FORMAT; OM_E_UNSUPPORTED for a type that is not in the list above. */
om_status om_rope_read(om_rope *rope, const om_config *c, const om_rope_defaults *defaults,
                       int64_t context_length, om_error *err) OM_WARN_UNUSED;

/** rope.scaling.* and rope.freq_base*, for the families that llama.cpp's converter treats alike.
 * Errors: OM_E_FORMAT for a factor that is missing. */
om_status om_rope_put(om_pairs *pairs, const om_rope *rope, om_error *err) OM_WARN_UNUSED;

/** Factors of llama3's scaling as rope_freqs.weight, for a rotated width of `dim`. */
om_status om_rope_freqs(om_hf_metadata *out, const om_rope *rope, int64_t dim,
                        om_error *err) OM_WARN_UNUSED;

/** Phi-3: scaling.attn_factor and the two tensors of factors, when config.json has them. */
om_status om_rope_longrope(om_hf_metadata *out, om_pairs *pairs, const om_rope *rope,
                           int64_t context_length, int64_t dim, om_error *err) OM_WARN_UNUSED;

#endif
