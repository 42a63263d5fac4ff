/* The pass over the text: for every window a forward pass, labels drawn from the model, a backward
 * pass, squared gradients added up (docs/method.md eq. 1–4). States its cost first, shows progress,
 * survives being killed. */
#ifndef OM_CALIB_PASS_H
#define OM_CALIB_PASS_H

#include "calib/fisher.h"
#include "model/tokens.h"

typedef struct om_pass_options {
    const char *model_path;
    uint64_t seed;
    int64_t max_ram_bytes;  /* 0: no limit */
    const char *checkpoint; /* file; removed by the caller when the work is saved. NULL: none */
    const char *key;        /* hex SHA-256 of everything the sums depend on */
    bool restart;           /* ignore a checkpoint */
    const double *router_weight; /* [n_routers] see om_backward_margins; NULL: no margins */
    int n_routers;
} om_pass_options;

/** Margins are followed back in every fourth window, beginning with the first: their level needs
 * less text than the ranking of the tensors does, and each costs another backward pass. */
enum { OM_MARGIN_EVERY = 4 };

/** What was stated before the pass and what it took. */
typedef struct om_pass_cost {
    int64_t predicted_peak_bytes, tape_bytes, peak_bytes;
    double forward_s, total_s; /* one window's forward pass; the whole pass */
    int windows_resumed;
} om_pass_cost;

/** Add all windows to *f. The sums depend on the model, the windows and the seed only: not on
 * threads, not on interruptions. Errors: OM_E_UNSUPPORTED before long work, OM_E_LIMIT when
 * max_ram_bytes would be exceeded, OM_E_CANCELLED (the checkpoint is then current), OM_E_NUMERIC.
 */
om_status om_pass_run(om_fisher *f, om_pass_cost *cost, const om_windows *windows,
                      const om_pass_options *options, const om_env *env,
                      om_error *err) OM_WARN_UNUSED;

/** Would om_pass_run start? States its cost, refuses what it would refuse before long work; f stays
 * as it is. Cost: loading the model, one forward pass. Errors: OM_E_UNSUPPORTED, OM_E_LIMIT. */
om_status om_pass_check(om_fisher *f, const om_windows *windows, const om_pass_options *options,
                        const om_env *env, om_error *err) OM_WARN_UNUSED;

/** One window, for tests and tools: labels [T] are given, or drawn when NULL; gradients as in
 * om_backward; *loss_nats (may be NULL) = Σ −log p(label). */
om_status om_pass_one(om_fisher *f, float *const *gradients, double *loss_nats,
                      const int32_t *tokens, const int32_t *labels, int n_tokens,
                      const char *model_path, uint64_t seed, const om_env *env,
                      om_error *err) OM_WARN_UNUSED;

#endif
