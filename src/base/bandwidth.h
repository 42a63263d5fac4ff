/* How fast this machine reads memory: what a decoder that waits for its weights can reach at most.
 */
#ifndef OM_BASE_BANDWIDTH_H
#define OM_BASE_BANDWIDTH_H

#include "base/error.h"

/** Bytes per second that n_threads threads together read from a buffer far larger than any cache:
 * the best of several passes, rounded to two digits so that a second measurement usually agrees.
 * Takes less than two seconds and 512 MiB, less where that much is not to be had. A measurement:
 * other programs that are running make it lower. Errors: OM_E_NOMEM, OM_E_CANCELLED. */
om_status om_bandwidth_measure(double *bytes_per_s, const om_env *env,
                               om_error *err) OM_WARN_UNUSED;

#endif
