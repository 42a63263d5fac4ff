/* The best choice of a problem in which changed choices of experts count. */
#ifndef OM_ALLOC_ROUTED_H
#define OM_ALLOC_ROUTED_H

#include "alloc/search.h"

/** As om_problem_solve; with a routing_weight the objective has a square root over all groups, and
 * its least value lies where some price per unit of routing makes a linear program's answer: prices
 * are tried until what is left between their answers cannot be better by more than the tolerance
 * (0 = default: 1e-9 up to 64 groups, 1e-4 above; docs/method.md eq. 15a). out->gap covers both the
 * programs and what was left. Cost: two to 24 searches, a few as a rule. */
om_status om_problem_solve_routed(int *pick, om_solution *out, const om_problem *p,
                                  double tolerance, const om_env *env,
                                  om_error *err) OM_WARN_UNUSED;

#endif
