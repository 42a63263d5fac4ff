/* The MLX half of the verb `export`. */
#ifndef OM_ARTIFACT_EXPORT_MLX_H
#define OM_ARTIFACT_EXPORT_MLX_H

#include "alloc/allocation.h"

/** Write an allocation for MLX as a Python module with `quant_predicate(path, module)` for
 * mlx_lm.convert, which also runs as a program. Errors: OM_E_UNSUPPORTED (a tensor that no family
 * of the table has), OM_E_IO. */
om_status om_export_mlx(om_result *out, const om_allocation *a, const om_export_options *options,
                        om_error *err) OM_WARN_UNUSED;

#endif
