/* Which windows of a text show all experts of a model: router counts of candidate windows, forward
 * only, and a greedy choice among them (docs/method.md eq. 13).
 *
 * Kept of a candidate are the tokens that each expert of each layer received, no activations. */
#ifndef OM_CALIB_COVER_H
#define OM_CALIB_COVER_H

#include "model/gguf.h"
#include "model/tokens.h"

/** Candidates for each window wanted: the forward passes over four times as many windows cost about
 * what the pass over those chosen will. */
enum { OM_COVER_CANDIDATES = 4 };

/** Router counts of windows. */
typedef struct om_cover_counts {
    uint32_t *counts; /* [n_windows, n_experts] tokens; owned */
    int n_windows;
    int n_experts; /* of all layers together */
} om_cover_counts;

void om_cover_counts_release(om_cover_counts *c); /* accepts a zeroed struct */

/** Experts of all layers; 0: a dense model. One stack of each layer speaks for all its stacks. */
int om_cover_experts(const om_model *model);

/** OM_E_ARG when the model has no experts to cover. */
om_status om_cover_check(const om_model *model, om_error *err) OM_WARN_UNUSED;

/** Forward passes over all windows: what the routers choose. States the cost after the first
 * window, reports progress "cover". The counts do not depend on the number of threads. Release *out
 * also after a failure.
 *
 * max_ram_bytes  0: no limit; the process's peak after one window is compared with it
 *
 * Errors: OM_E_ARG for a dense model, OM_E_LIMIT, OM_E_CANCELLED, those of om_forward_open. Memory:
 * 4 bytes for each window and expert. */
om_status om_cover_count(om_cover_counts *out, const om_model *model, const om_windows *windows,
                         int64_t max_ram_bytes, const om_env *env, om_error *err) OM_WARN_UNUSED;

/** Choose n of the windows. chosen [n] i32 out, ascending.
 *
 *  Greedy: the window that adds most to Σ_e min(tokens of e so far, enough), ties to the earlier
 *  one, until no window adds anything; the places left over are spread evenly over the windows not
 *  chosen. When the evenly spread windows leave fewer experts below `enough`, or as many with a
 *  larger sum, they are the choice.
 *
 *  n       at most c->n_windows
 *  enough  tokens after which an expert counts as seen, > 0
 *
 *  Errors: OM_E_NOMEM. Cost: O(n · n_windows · n_experts).
 *  Source: Nemhauser, Wolsey & Fisher, 1978: greedy reaches 1 − 1/e of the best sum. */
om_status om_cover_choose(int *chosen, int n, const om_cover_counts *c, int64_t enough,
                          om_error *err) OM_WARN_UNUSED;

/** The n windows that spread evenly over n_windows: number i is i · n_windows / n. chosen [n] out.
 */
void om_cover_spread(int *chosen, int n, int n_windows);

/** Experts that see fewer than `enough` tokens in the chosen windows [n]; *sum, when not NULL,
 * Σ_e min(tokens of e, enough). */
int om_cover_few(int64_t *sum, const int *chosen, int n, const om_cover_counts *c, int64_t enough);

#endif
