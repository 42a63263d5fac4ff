/* Why nothing fits, in one line: a normal outcome of an allocation. */
#ifndef OM_ALLOC_INFEASIBLE_H
#define OM_ALLOC_INFEASIBLE_H

#include "alloc/problem.h"

/** Find out which limit of p cannot be met and fail with what would be possible instead: the
 * smallest file, the fewest bytes read per token, or more distinct types. options: what the user
 * asked for, for the words. pick [n_groups] is scratch. Returns OM_E_INFEASIBLE, or why the answer
 * could not be found. Cost: two searches. */
om_status om_infeasible(int *pick, const om_problem *p, const om_profile *profile,
                        const om_allocate_options *options, const om_env *env,
                        om_error *err) OM_WARN_UNUSED;

#endif
