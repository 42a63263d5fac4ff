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

#endif
