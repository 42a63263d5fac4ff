/* A model whose weights can be exchanged between forward passes: what the measured method needs.
 * Nothing is differentiated, so every architecture that libllama runs on the CPU will do. */
#ifndef OM_CALIB_EDITABLE_H
#define OM_CALIB_EDITABLE_H

#include "calib/compute.h"
#include "calib/fisher.h"

typedef struct om_editable om_editable;

/** Load the model into memory of our own (not mapped). Weights named in `weights` become
 * exchangeable; their inputs' squares are added to weights->weights[i].in_sum2 and count while
 * `collect` is set in om_editable_run. n_tokens: window length. Borrowed: weights, compute, env. */
om_status om_editable_open(om_editable **out, const char *model_path, int n_tokens,
                           om_fisher *weights, om_compute *compute, const om_env *env,
                           om_error *err) OM_WARN_UNUSED;
void om_editable_close(om_editable *e);

/** Run one window [n_tokens]. *logits [T, n_vocab] borrowed until the next call. */
om_status om_editable_run(const float **logits, om_editable *e, const int32_t *tokens, bool collect,
                          om_error *err) OM_WARN_UNUSED;
int om_editable_vocab(const om_editable *e);

/** Where weight i lies, [n_out, n_in] in its source type, writable, contiguous; NULL before the
 * first run, or when no product or look-up of the graph uses it. */
void *om_editable_weight(om_editable *e, int weight);

#endif
