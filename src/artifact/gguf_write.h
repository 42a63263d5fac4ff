/* A plan becomes a file, and the file is checked against the plan. */
#ifndef OM_ARTIFACT_GGUF_WRITE_H
#define OM_ARTIFACT_GGUF_WRITE_H

#include "artifact/plan.h"

/** Write the GGUF of a plan, verify it (om_plan_verify), and only then give it its name;
 * items[].nats are filled.
 *
 *  total_nats  out; sum over the items, NaN when a quantized tensor has no marginals
 *  sha256      out; of the file
 *  record      Optimum's record; predicted_nats is replaced by *total_nats when that is known
 *
 *  Errors: as om_rowquant_tensor, OM_E_IO (also: not enough free space, said before any work),
 *          OM_E_CANCELLED. No file and no temporary file is left then.
 *  Cost:   one read of the model; memory: two slabs and 128 KiB per thread. */
om_status om_plan_write(double *total_nats, char sha256[65], om_plan *plan,
                        const om_gguf_record *record, const char *path, const om_env *env,
                        om_error *err) OM_WARN_UNUSED;

/** Re-open a written file and compare: size, every tensor's name, type, shape, offset and size, and
 * the bytes of one row per tensor, quantized again (row chosen by `seed` and the tensor's name).
 * Errors: OM_E_INTERNAL names the first difference. */
om_status om_plan_verify(const om_plan *plan, const char *path, uint64_t seed,
                         om_error *err) OM_WARN_UNUSED;

#endif
