/* HiGHS behind one function: an exact answer to a reduced multiple-choice knapsack. */
#ifndef OM_ALLOC_SOLVE_H
#define OM_ALLOC_SOLVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/** minimise   sum cost[choice] + slack_cost * slack
 *  subject to one item per group, sum bytes[choice] + slack = capacity, 0 <= slack;
 *  with active_bytes a second such row and slack. */
typedef struct om_core {
    int n_groups;
    int *first;     /* [n_groups + 1] first item of each group */
    int64_t *bytes; /* [n_items] >= 0, the smallest of each group 0 */
    double *cost;   /* [n_items] >= 0 */
    int64_t capacity;
    double slack_cost;     /* > 0; with active_bytes also 0 */
    int64_t *active_bytes; /* [n_items] as bytes; NULL: no second row */
    int64_t active_capacity;
    double active_slack_cost; /* >= 0 */
    double limit;             /* answers above it are of no interest; > 0 */
    double tolerance;         /* absolute gap at which to stop */
    const int *start;         /* [n_groups] an answer to begin with; NULL: none */
} om_core;

typedef struct om_core_result {
    bool found;   /* pick is filled */
    bool proven;  /* within the tolerance, or (not found) nothing lies below the limit */
    double bound; /* no answer is below it */
} om_core_result;

/** pick [n_groups] index inside each group. The answer is HiGHS's: the caller evaluates it exactly
 * before use. Errors: OM_E_INTERNAL (HiGHS failed; both statuses in the text), OM_E_NOMEM. One
 * thread, fixed seed, a limit on nodes and none on time: the same on every run. */
om_status om_core_solve(int *pick, om_core_result *result, const om_core *core,
                        om_error *err) OM_WARN_UNUSED;

#endif
