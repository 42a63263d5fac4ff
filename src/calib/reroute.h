/* Forward passes that see and change what routers choose: what a changed choice costs is measured
 * with them (docs/method.md eq. 14). No architecture is known: a router is an ARGSORT whose first
 * columns are the choices of a product with a stack of experts. */
#ifndef OM_CALIB_REROUTE_H
#define OM_CALIB_REROUTE_H

#include "calib/compute.h"

typedef struct om_reroute om_reroute;

/** Load the model for windows of n_tokens. *out owned; borrowed: c, env. Errors: as
 * om_forward_open.
 */
om_status om_reroute_open(om_reroute **out, const char *model_path, int n_tokens, om_compute *c,
                          const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_reroute_close(om_reroute *r); /* accepts NULL */

/** Run one window [T]. *logits [T, V] borrowed until the next call.
 *
 *  swap  [n_routers, T]: where true, the last expert chosen gives way to the first one left out,
 *        and what follows, later choices included, takes its course. NULL: nothing is changed, and
 *        the margins are recorded; the first run must be such a one.
 *
 *  Errors: as om_forward_run, OM_E_NOMEM. */
om_status om_reroute_run(const float **logits, om_reroute *r, const int32_t *tokens,
                         const bool *swap, om_error *err) OM_WARN_UNUSED;

/** Of the last run without swaps: how many routers, in the order of the graph; their margins
 * [n_routers, T] f64, NaN where there is none. Borrowed. */
int om_reroute_n_routers(const om_reroute *r);
const double *om_reroute_margins(const om_reroute *r);
int om_reroute_vocab(const om_reroute *r);

#endif
