/* What the pass added up, as statistics that can be kept: experts that the text hardly showed and
 * tokens that it never used get what is plausible instead of zeros. */
#ifndef OM_PROFILE_STATS_MAKE_H
#define OM_PROFILE_STATS_MAKE_H

#include "calib/fisher.h"
#include "profile/experts.h"
#include "profile/stats.h"

enum {
    OM_EXPERT_PRIOR = 32 /* tokens of the layer's average expert that each expert gets on top */
};

/** Where the sums come from; digests borrowed. */
typedef struct om_stats_origin {
    const char *model_sha256, *calib_sha256;
    int n_windows, window_tokens;
    int64_t tokens;
    uint64_t seed;
    bool covered; /* the windows were chosen to show all experts */
} om_stats_origin;

/** Statistics of every weight of f. *out owned (om_stats_free).
 *
 *  A stack of E experts, n_e tokens each: every sum s_e (rows, columns, squared inputs) becomes
 *  s_e + k s̄ with s̄ the stack's sum per token and k = OM_EXPERT_PRIOR (docs/method.md eq. 4b), and
 *  counts n_e + k; the Fisher sums are scaled back so that the stack's total stays.
 *  An embedding that is only looked up: docs/method.md, "What is kept".
 *
 *  Errors: OM_E_NOMEM. */
om_status om_stats_make(om_stats **out, const om_fisher *f, const om_stats_origin *origin,
                        om_error *err) OM_WARN_UNUSED;

/** Warn of experts seen in fewer than OM_EXPERT_FEW tokens: how many, which, and how much text
 * would show the rarest of them often enough. Silent when there are none. */
void om_stats_warn_coverage(const om_fisher *f, const om_stats_origin *origin, const om_env *env);

#endif
