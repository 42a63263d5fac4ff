/* What a type costs a tensor: the weighted squared error of the real quantizer, in nats
 * (docs/method.md eq. 1, 4).
 *
 * Rows are sampled: those that carry most of r_i · ‖w_i‖² for certain, others with probability in
 * proportion to it, weighted back (Horvitz–Thompson). The error of a row relative to its energy
 * varies little, so 64 rows give two per cent. What is finally chosen is measured
 * exactly while it is written. */
#ifndef OM_PROFILE_QERROR_H
#define OM_PROFILE_QERROR_H

#include "base/parallel.h"
#include "model/gguf.h"
#include "profile/stats.h"

/** Rows sampled of each matrix [n_out, …] of a stack of `experts` (1: no stack) when nothing else
 * is asked for. An expert alone needs fewer: what is decided is the type of the stack, whose error
 * is the sum. */
int64_t om_qerror_default_rows(int64_t n_out, int experts);

/** Marginals of the squared gradients of the routers' margins, of a whole tensor. */
typedef struct om_margin_sums {
    const double *rows, *cols; /* [experts, n_out], [experts, n_in] */
    double tokens;             /* of the windows that were followed */
} om_margin_sums;

/** nats [n_formats] of one matrix in each format, and what its error does to the routers.
 *
 *  tensor   the matrix [n_out, n_in], or a stack of them, and `expert`, which one (0: the first)
 *  stats    its marginals; rows and cols must be there. Rounding uses om_stats_importance when
 *           there is one.
 *  tokens   N of eq. (1)
 *  n_rows   rows to sample, >= n_out: all (exact)
 *  seed     with the tensor's name and the expert: which rows
 *
 *  routing  [n_formats] out: weighted variance of the routers' margins, nats (docs/method.md
 *           eq. 15); margins NULL: untouched
 *
 *  The source's own format costs 0. Errors: OM_E_NUMERIC (a weight that is not finite, with its
 *  row), OM_E_NOMEM. Cost: one read of the matrix, n_rows rows quantized and dequantized per
 *  format, in parallel on the pool.
 */
om_status om_qerror_matrix(double *nats, double *routing, const om_format *const *formats,
                           int n_formats, const om_tensor *tensor, int expert,
                           const om_tensor_stats *stats, const om_margin_sums *margins,
                           int64_t tokens, int64_t n_rows, uint64_t seed, om_pool *pool,
                           om_error *err) OM_WARN_UNUSED;

#endif
