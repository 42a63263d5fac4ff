/* What a changed choice of experts costs, measured: the routers' weights of docs/method.md eq. 14.
 */
#ifndef OM_PROFILE_ROUTERS_H
#define OM_PROFILE_ROUTERS_H

#include "calib/compute.h"
#include "model/tokens.h"
#include "profile/profile.h"

/** Measure the routers of a mixture of experts; a model without any gives out->n = 0.
 *
 *  out      n, density, nats_per_swap, weight of every router in the order of the graph; owned
 *           (om_routers_release)
 *  windows  up to OM_ROUTERS_WINDOWS of them, spread evenly, are used
 *  seed     which tokens are sent elsewhere
 *
 *  Progress "routing". Errors: as om_reroute_run. Cost: five forward passes for each window used;
 *  two rows of logits for each token in memory. The result does not depend on the threads. */
om_status om_routers_measure(om_routers *out, const char *model_path, const om_windows *windows,
                             uint64_t seed, const om_env *env, om_error *err) OM_WARN_UNUSED;

enum { OM_ROUTERS_WINDOWS = 8 };

#endif
