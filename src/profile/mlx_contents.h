/* What an MLX model of a GGUF's weights would hold besides the tensors to choose for. */
#ifndef OM_PROFILE_MLX_CONTENTS_H
#define OM_PROFILE_MLX_CONTENTS_H

#include "model/gguf.h"
#include "profile/profile.h"

/** Fill *out (its fixed tensors are owned by the profile). Errors: OM_E_UNSUPPORTED (the model's
 * family is not in the table, or mlx-lm has no place for a tensor that may be quantized).
 * Cost: metadata only. */
om_status om_mlx_contents_of(om_mlx_contents *out, const om_model *model,
                             om_error *err) OM_WARN_UNUSED;

/** Bytes of the smallest MLX model that mlx-lm runs well: every tensor in its smallest common type.
 * Errors and cost as above. */
om_status om_mlx_smallest_bytes(int64_t *out, const om_model *model, om_error *err) OM_WARN_UNUSED;

#endif
