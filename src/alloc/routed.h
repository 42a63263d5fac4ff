/* The best choice of a problem in which changed choices of experts count. */
#ifndef OM_ALLOC_ROUTED_H
#define OM_ALLOC_ROUTED_H

#include "alloc/search.h"

/** As om_problem_solve; with a routing_weight the objective has a square root over all groups,
 * whose tangent is above it everywhere: the program is solved with the tangent at the last answer
 * again and again, which never makes the answer worse, until it stays the same (docs/method.md eq.
 * 15a). out->gap is that of the last program. Cost: two to MAX_ROUNDS searches. */
om_status om_problem_solve_routed(int *pick, om_solution *out, const om_problem *p,
                                  double tolerance, const om_env *env,
                                  om_error *err) OM_WARN_UNUSED;

#endif
