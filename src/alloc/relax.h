/* The linear relaxation of the knapsack: a lower bound in nats, a good answer, and what may be left
 * out of the exact search. Our own arithmetic, microseconds. */
#ifndef OM_ALLOC_RELAX_H
#define OM_ALLOC_RELAX_H

#include "alloc/problem.h"

typedef struct om_step om_step;

/** Workspace and result; one per problem, used again for every set of types. */
typedef struct om_relax {
    const om_problem *p;
    om_step *steps;       /* [n_options] scratch */
    int *stack;           /* [n_options] scratch */
    int64_t budget_bytes; /* the problem's, less what no combination of options can ever fill */
    double mu; /* price of an active byte, nats per byte; set by the caller; 0 without a limit */
    /* of the last om_relax_run */
    int *pick;         /* [n_groups] an answer that fits; meaningless when not feasible */
    om_choice_sum sum; /* of pick */
    bool feasible;     /* some choice among the allowed types fits the budget */
    double bound;  /* no choice among the allowed types that keeps to the limits has fewer nats */
    double lambda; /* price of a byte at the bound, nats per byte; 0: the budget does not bind */
    double excess; /* active bytes of the relaxation's optimum above the limit: the slope of the
                      bound in mu */
    uint64_t used; /* types of pick */
} om_relax;

/** Prepare the relaxation of p. Borrowed: p. Errors: OM_E_NOMEM. */
om_status om_relax_init(om_relax *out, const om_problem *p, om_error *err) OM_WARN_UNUSED;
void om_relax_release(om_relax *r); /* accepts a zeroed struct */

/** Solve the relaxation with the types in `allowed` only (bit i = om_problem.formats[i]) at the
 * price r->mu; the tier limit is ignored. Fills the result part. Cost: O(n_options log n_options).
 */
void om_relax_run(om_relax *r, uint64_t allowed);

/** Find the price of an active byte with the highest bound and solve at it: the bound is then that
 * of the relaxation with both limits. Begins at r->mu; ends early once the bound reaches `enough`.
 * `offer(ctx, pick)` sees the answer of every price that was tried. Without a limit on active bytes
 * this is om_relax_run. Returns the number of relaxations solved. */
int om_relax_run_priced(om_relax *r, uint64_t allowed, double enough,
                        void (*offer)(void *ctx, const int *pick), void *ctx);

/** Make pick better by single and paired moves among the allowed types; keeps it feasible. Needs
 * lambda and mu of the last run. */
void om_relax_improve(om_relax *r, uint64_t allowed);

#endif
