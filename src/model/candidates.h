/* Which types a tensor may be stored in: the one rule that profile, allocate's baselines and
 * inspect share. */
#ifndef OM_MODEL_CANDIDATES_H
#define OM_MODEL_CANDIDATES_H

#include "model/gguf.h"

enum { OM_CANDIDATES_MAX = 72 }; /* more than the catalogue holds: a safe size for `out` */

/** The candidates of one tensor, in ascending bytes.
 *
 *  out    [cap] borrowed catalogue entries; *n of them are filled
 *  types       comma-separated type names, or NULL for all that stock llama.cpp and mlx-lm run
 *              well
 *  containers  bits, 1 << om_container: types of others are no candidates
 *
 *  The source's own type is always among them. A type is left out when its block does not divide
 *  the row (so no runtime or writer can fall back silently), and when it is not smaller than the
 *  source (it could only lose). A tensor that may not be quantized has its source type only.
 *
 *  Errors: OM_E_ARG for an unknown name (lists the known ones), a name that cannot be written, or
 *          an empty list; OM_E_INTERNAL when cap is too small.
 */
om_status om_candidates(const om_format **out, int *n, int cap, const om_tensor *tensor,
                        const char *types, unsigned containers, om_error *err) OM_WARN_UNUSED;

enum {
    OM_FOR_GGUF = 1 << OM_CONTAINER_GGUF,
    OM_FOR_MLX = 1 << OM_CONTAINER_MLX,
    OM_FOR_BOTH = OM_FOR_GGUF | OM_FOR_MLX
};

/** Check a list of types before any work: the errors of om_candidates. NULL is fine. */
om_status om_candidates_check(const char *types, om_error *err) OM_WARN_UNUSED;

#endif
