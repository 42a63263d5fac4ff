/* general.* of a GGUF: what a model is called, how its weights are stored, how it is sampled. */
#ifndef OM_HF_GENERAL_H
#define OM_HF_GENERAL_H

#include "base/error.h"
#include "hf/pairs.h"
#include "model/format.h"

typedef struct om_hf_general {
    const char *dir;       /* its last part is the model's name; generation_config.json is read */
    const om_format *type; /* of the matrices */
} om_hf_general;

/** Append architecture (pairs->arch), type, name, sampling, file_type, quantization_version.
 * Errors: OM_E_IO; OM_E_NOMEM. A generation_config.json that is no JSON is left out. */
om_status om_hf_general_put(om_pairs *pairs, const om_hf_general *general,
                            om_error *err) OM_WARN_UNUSED;

#endif
