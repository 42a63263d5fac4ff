/* The MLX half of the verb `quantize`. */
#ifndef OM_ARTIFACT_QUANTIZE_MLX_H
#define OM_ARTIFACT_QUANTIZE_MLX_H

#include "base/error.h"

/** om_quantize to a directory for mlx-lm; options are checked already (om_inputs_check). Errors: as
 * om_mlx_plan_make and om_mlx_write. */
om_status om_quantize_mlx(om_result *out, const om_quantize_options *options, const om_env *env,
                          om_error *err) OM_WARN_UNUSED;

#endif
