/* The forward pass: libllama on one window at a time, every node shown to a callback. The one file
 * of calib that speaks to libllama. */
#ifndef OM_CALIB_FORWARD_H
#define OM_CALIB_FORWARD_H

#include "calib/compute.h"
#include "ggml-backend.h"

typedef struct om_forward om_forward;

typedef struct om_forward_setup {
    const char *model_path;
    int n_tokens;  /* length of every window */
    bool writable; /* weights in memory of our own instead of the mapped file */
    ggml_backend_sched_eval_callback callback; /* sees every node before and after it runs */
    void *ud;
} om_forward_setup;

/** Load the model on the CPU (no repacked weights, F32 KV cache, no flash attention, one window per
 * ubatch) and let it compute on c's threads. Borrowed: c, env, setup->ud. Errors: OM_E_FORMAT when
 * libllama refuses the file (its own last message is in the text), OM_E_UNSUPPORTED for encoders
 * and recurrent models. */
om_status om_forward_open(om_forward **out, const om_forward_setup *setup, om_compute *c,
                          const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_forward_close(om_forward *f);

/** Run one window [n_tokens]. *logits [T, n_vocab] borrowed until the next call; NULL when the
 * callback stopped the evaluation. Errors: OM_E_CANCELLED, OM_E_INTERNAL. */
om_status om_forward_run(const float **logits, om_forward *f, const int32_t *tokens,
                         om_error *err) OM_WARN_UNUSED;
int om_forward_vocab(const om_forward *f);

#endif
