/* Tensors in, their quantized bytes out, in file order: rows in parallel, bounded memory. */
#ifndef OM_ARTIFACT_ROWQUANT_H
#define OM_ARTIFACT_ROWQUANT_H

#include "artifact/rows.h"

/** Where the bytes go: called in order, by one thread at a time. */
typedef struct om_sink {
    om_status (*write)(void *ud, const void *data, size_t n, om_error *err);
    void *ud;
} om_sink;

/** Threads, scratch and two output slabs, used for tensor after tensor. */
typedef struct om_rowquant om_rowquant;

/** *out owned (om_rowquant_free). Memory: about 3 MB per thread whatever the model's size. */
om_status om_rowquant_new(om_rowquant **out, om_sink sink, const om_env *env,
                          om_error *err) OM_WARN_UNUSED;
void om_rowquant_free(om_rowquant *q);

/** Quantize (or copy) one tensor, append it to the sink and pad it with zeros to `alignment`.
 *
 *  nats   out; what the bytes written cost (docs/method.md eq. 1) with F_ij = r_i c_j / sum r per
 *         expert; 0 for a copy, NaN without marginals. Independent of the number of threads.
 *  model  owner of job->tensor: pages of its mapping are dropped behind the work
 *
 *  The last slab may still be in memory on return: om_rowquant_flush. Progress counts bytes
 * written, from progress_done of progress_total. Errors: OM_E_NUMERIC names tensor and row (source
 * not finite, or ggml's own validation of the result), OM_E_MISMATCH (block does not divide the
 * row, importance needed and missing), OM_E_CANCELLED, whatever the sink says. The sink has then
 * received a prefix. Cost:   one read of the tensor, one ggml_quantize_chunk per 16 Ki weights, one
 * dequantization. */
om_status om_rowquant_tensor(double *nats, om_rowquant *q, const om_model *model,
                             const om_rowquant_job *job, int64_t alignment,
                             om_error *err) OM_WARN_UNUSED;

/** Write what is still in memory. Call before using the file. */
om_status om_rowquant_flush(om_rowquant *q, om_error *err) OM_WARN_UNUSED;

/** Progress of the whole file: called from now on as om_progress(env, "quantize", done, total). */
void om_rowquant_progress(om_rowquant *q, int64_t done_bytes, int64_t total_bytes);

#endif
