/* The backward pass over one tape: gradients flow from the logits to every root; weights collect
 * theirs in the Fisher accumulators. */
#ifndef OM_CALIB_BACKWARD_H
#define OM_CALIB_BACKWARD_H

#include "calib/fisher.h"
#include "calib/tape.h"

/** Walk the tape in reverse. `logits_grad` [n_vocab, T] is dL/d(result of the last node); owned by
 * the callee (om_compute_alloc). Every weight on the tape is accumulated exactly once. gradients,
 * when not NULL, is an array [fisher->n_weights] of buffers [n_out, n_in] or NULL that receive the
 * window's gradients (tests). The tape is consumed: reset it afterwards. Cost: about two forward
 * passes. */
om_status om_backward(om_tape *tape, float *logits_grad, om_fisher *fisher, float *const *gradients,
                      om_error *err) OM_WARN_UNUSED;

/** What the routers of a window give: each margin of its choices, times a sign drawn for it, is
 * differentiated, and the squares go to margin_rows, margin_cols and reach of every weight.
 *
 *  weight  [n_routers] of each route of the tape, in nats for a margin that moves by one; 0 for
 *          routers of no interest. A margin's gradient is multiplied by its square root.
 *  seed, first  stream of signs: those of token t at route i are number first + i · T + t
 *
 *  The tape stays whole: om_backward can follow. Cost: one backward pass.
 *  Source: docs/method.md eq. 15 (Hutchinson's estimate: signs make the cross terms vanish). */
om_status om_backward_margins(om_tape *tape, const double *weight, int n_routers, om_fisher *fisher,
                              uint64_t seed, uint64_t first, om_error *err) OM_WARN_UNUSED;

#endif
