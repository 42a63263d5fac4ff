/* What both containers ask of allocation and statistics before anything is written. */
#ifndef OM_ARTIFACT_INPUTS_H
#define OM_ARTIFACT_INPUTS_H

#include "alloc/allocation.h"
#include "model/gguf.h"
#include "profile/stats.h"

/** Are the options whole, and do they not contradict each other? Errors: OM_E_ARG.
 */
om_status om_inputs_check(const om_quantize_options *o, om_error *err) OM_WARN_UNUSED;

/** The statistics that the options name, or the allocation; *out NULL (and a warning): none.
 *
 *  path  out; owned, NULL when there are none
 *
 *  Errors: OM_E_MISMATCH (measured on another model, or other than the allocation's), OM_E_IO
 *          (gone), OM_E_ARG, whatever reading them says. */
om_status om_inputs_stats(om_stats **out, char **path, const om_quantize_options *o,
                          const om_allocation *a, const om_env *env, om_error *err) OM_WARN_UNUSED;

/** The tensor's entry of the statistics, with the shape of n_in weights a row, n_out rows and
 * `experts` matrices (om_stats_shape); *out NULL: none, also when stats is NULL. Borrowed. Errors:
 * OM_E_MISMATCH with both shapes. */
om_status om_inputs_tensor(const om_tensor_stats **out, om_stats *stats, const char *name,
                           int64_t n_in, int64_t n_out, int experts, om_error *err) OM_WARN_UNUSED;

/** Importance [experts, n_in] f32 of all matrices of a tensor (om_stats_importance), owned
 * (om_free); *out NULL: the entry is NULL or has no inputs. */
om_status om_inputs_importance(float **out, const om_tensor_stats *t, om_error *err) OM_WARN_UNUSED;

/** Optimum's record of an output, with the allocation's predicted loss. */
om_gguf_record om_inputs_record(const om_allocation *a);

/** Does the output have the bytes that the allocation counted, within its budget? Errors:
 * OM_E_MISMATCH. */
om_status om_inputs_size(int64_t bytes, const om_allocation *a, om_error *err) OM_WARN_UNUSED;

#endif
