/* The forward pass: libllama on one window, every node shown to a tape. The one file of calib that
 * speaks to libllama. */
#ifndef OM_CALIB_FORWARD_H
#define OM_CALIB_FORWARD_H

#include "calib/tape.h"

typedef struct om_forward om_forward;

/** Load the model on the CPU (mapped, no repacked weights, F32 KV cache, no flash attention, one
 * window per ubatch) and attach the tape's compute pool. n_tokens: window length. Errors:
 * OM_E_FORMAT when libllama refuses the file (its own last message is in the text). */
om_status om_forward_open(om_forward **out, const char *model_path, int n_tokens, om_tape *tape,
                          const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_forward_close(om_forward *f);

/** Run one window [n_tokens]; the tape is reset and then filled. *logits [T, n_vocab] borrowed
 * until the next call. Errors: the tape's, OM_E_CANCELLED. */
om_status om_forward_run(const float **logits, om_forward *f, const int32_t *tokens,
                         om_error *err) OM_WARN_UNUSED;
int om_forward_vocab(const om_forward *f);

#endif
