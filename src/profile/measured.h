/* The measured method: the KL divergence of the model with one tensor in one type, for every tensor
 * and type. Forward passes only, so it needs no gradient rule; costs tensors × types × windows
 * forward passes, and says so first.
 *
 * Windows are the outer loop: after any number of windows every candidate has been measured on the
 * same tokens, so the work can be stopped, resumed, and judged half-way. The quantized candidates
 * are kept in a temporary file. */
#ifndef OM_PROFILE_MEASURED_H
#define OM_PROFILE_MEASURED_H

#include "calib/fisher.h"
#include "model/tokens.h"
#include "profile/profile.h"
#include "profile/stats.h"

typedef struct om_measured_options {
    const char *model_path;
    const char *checkpoint; /* file; removed by the caller when the work is saved */
    const char *key;        /* hex SHA-256 of everything the result depends on */
    bool restart;
} om_measured_options;

/** E[x²] of every weight from one forward pass over all windows: fills in_sum2 and count of
 * *weights. */
om_status om_measured_moments(om_fisher *weights, const om_windows *windows, const char *model_path,
                              const om_env *env, om_error *err) OM_WARN_UNUSED;

/** Fill the nats of every choice of p->units (the source's own type: 0) with the mean divergence
 * over all positions of all windows. Rounding uses E[x²] of *weights. A source that is not F32
 * rounds the dequantized weights once more to its own type; a warning says so. Errors: OM_E_LIMIT
 * (disk), OM_E_CANCELLED (the checkpoint is current), OM_E_NUMERIC. */
om_status om_measured_fill(om_profile *p, const om_model *model, om_fisher *weights,
                           const om_stats *stats, const om_windows *windows,
                           const om_measured_options *options, const om_env *env,
                           om_error *err) OM_WARN_UNUSED;

#endif
