/* One type per stack -> a few banks of experts per layer with types of their own, under the same
 * limits. */
#ifndef OM_ALLOC_BANK_PLAN_H
#define OM_ALLOC_BANK_PLAN_H

#include "alloc/expert_banks.h"
#include "alloc/problem.h"
#include "profile/stats.h"

typedef struct om_bank_plan {
    om_expert_banks *layers; /* [n_layers] those that gained by it; owned */
    int n_layers;
    om_choice_sum stacks; /* of the best answer with one type per stack */
    om_choice_sum sum;    /* of this one: never more nats */
    double gap;           /* between it and the best choice among the configurations tried */
    bool proven;
    double seconds;
} om_bank_plan;

/** Improve an answer of the problem (docs/method.md eq. 19).
 *
 *  types      in: [n_units] the answer; out: the new one's, of banked stacks that of the largest
 *             bank
 *  pick       [n_groups] the same answer
 *  stats      what single experts cost
 *  max_banks  of a layer, 2 … OM_BANKS_MAX
 *
 *  Errors: OM_E_ARG (no layer has a gate, an up and a down stack of experts; experts with biases;
 *  nothing known of single experts), OM_E_NOMEM, as om_problem_solve_routed. Deterministic. *out is
 *  to be released also after a failure. */
om_status om_bank_plan_make(om_bank_plan *out, const om_format **types, const int *pick,
                            const om_problem *p, const om_profile *profile, const om_stats *stats,
                            int max_banks, const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_bank_plan_release(om_bank_plan *plan); /* accepts a zeroed struct */

/** What the banks add to a file in which each of their stacks has its type of types [n_units];
 * negative: they take less. */
int64_t om_bank_extra_bytes(const om_expert_banks *layers, int n, const om_profile *profile,
                            const om_format *const *types);

#endif
