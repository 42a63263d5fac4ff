/* A plan becomes a directory that mlx-lm loads, and the directory is checked against the plan. */
#ifndef OM_ARTIFACT_MLX_WRITE_H
#define OM_ARTIFACT_MLX_WRITE_H

#include "artifact/mlx_plan.h"
#include "model/gguf.h"

/** Write the model of a plan, verify it (om_mlx_verify), and only then give the directory its name;
 * items[].nats are filled. An older result of the same name is replaced.
 *
 *  total_nats  out; sum over the items and the record's routing_nats, NaN when a quantized tensor
 *              has no marginals
 *  sha256      out; of the directory (om_hf_sha256)
 *  record      Optimum's record, stored in the metadata of the first shard; predicted_nats is
 *              replaced by *total_nats when that is known
 *  a, o        for the model card
 *
 *  Errors: OM_E_IO (also: not enough free space, said before any work), OM_E_NUMERIC, OM_E_ARG
 *          (the target holds files that are not ours), OM_E_CANCELLED. Nothing is left then.
 *  Cost:   one read of the model; memory: about 3 MB per thread. */
om_status om_mlx_write(double *total_nats, char sha256[65], om_mlx_plan *plan,
                       const om_gguf_record *record, const om_allocation *a,
                       const om_quantize_options *o, const char *path, const om_env *env,
                       om_error *err) OM_WARN_UNUSED;

/** May `path` be written: absent, empty, or an earlier result of ours and nothing else? Errors:
 * OM_E_ARG, OM_E_IO. */
om_status om_mlx_check_target(const om_mlx_plan *plan, const char *path,
                              om_error *err) OM_WARN_UNUSED;

/** Re-open a written directory and compare: sizes of the shards, every tensor's name, type and
 * shape, and one row per tensor, made again (chosen by `seed` and the name). Errors:
 * OM_E_INTERNAL names the first difference. */
om_status om_mlx_verify(const om_mlx_plan *plan, const char *path, uint64_t seed,
                        om_error *err) OM_WARN_UNUSED;

#endif
