/* The best choice of a problem: relaxation, search over sets of types, HiGHS for what is left. One
 * limit (bytes of the file) or two (bytes read per token as well). */
#ifndef OM_ALLOC_SEARCH_H
#define OM_ALLOC_SEARCH_H

#include "alloc/problem.h"

typedef struct om_solution {
    om_choice_sum sum; /* evaluated exactly */
    double gap;        /* (nats - proven lower bound) / nats; 0 when nats is 0 */
    bool proven;       /* gap within the tolerance; false: a limit on work was reached */
    int n_sets;        /* sets of types looked at: 1 without a tier limit */
    int n_cores;       /* programs given to HiGHS */
    double seconds;    /* wall time */
} om_solution;

/** Solve a problem without a routing_weight (alloc/routed.h) to a relative gap of `tolerance` (0 =
 * default: 1e-9 up to 64 groups, 1e-7 up to 400, 1e-6 up to 1,000, 5e-6 above: far below what the
 * prediction is good for, and seconds at every size). pick [n_groups]. The answer is checked in our
 * own arithmetic. Errors: OM_E_INFEASIBLE (nothing fits; the caller words it), OM_E_INTERNAL,
 * OM_E_CANCELLED, OM_E_NOMEM. Deterministic. */
om_status om_problem_solve(int *pick, om_solution *out, const om_problem *p, double tolerance,
                           const om_env *env, om_error *err) OM_WARN_UNUSED;

/** The smallest file any choice gives, tiers included; the budget and the limit on active bytes
 * are ignored. pick [n_groups]. Errors: OM_E_INFEASIBLE when no choice satisfies the tier limit. */
om_status om_problem_smallest(int *pick, om_choice_sum *out, const om_problem *p, const om_env *env,
                              om_error *err) OM_WARN_UNUSED;

/** The fewest active bytes of any choice within the budget, tiers included; the limit on active
 * bytes is ignored. pick [n_groups]. Errors: OM_E_INFEASIBLE when nothing fits the budget. */
om_status om_problem_least_active(int *pick, om_choice_sum *out, const om_problem *p,
                                  const om_env *env, om_error *err) OM_WARN_UNUSED;

#endif
