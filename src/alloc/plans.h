/* Named plans: a type per tensor by a rule instead of the solver. */
#ifndef OM_ALLOC_PLANS_H
#define OM_ALLOC_PLANS_H

#include "profile/profile.h"

/** The unit's choice of this format; where it has none, the smallest of its choices with at least
 * as many bits per weight, else its largest. Never NULL. */
const om_choice *om_unit_nearest(const om_unit *unit, const om_format *format);

/** types [n_units], each one of the unit's choices, by name of the plan:
 *
 *    uniform:TYPE   the same type everywhere
 *    preset:NAME    llama-quantize's mixture (presets.h)
 *    mlx:NAME       mlx_lm.convert's recipe (recipes.h)
 *    tiers          tensors by predicted nats per weight at 4 bit, the most sensitive first: 5 % of
 *                   the weights q8_0, 15 % q6_K, 50 % q4_K, 30 % the best type of 2 to 3 bit;
 *                   for MLX 8, 6, 4 bits in groups of 64 and likewise
 *    two-tier       the most sensitive half q8_0, the rest 4 bit; fewer q8_0 when budget_bytes
 *                   (0 = none) needs it
 *
 * Errors: OM_E_ARG for an unknown plan, type or preset. Whether the plan fits a budget is the
 * caller's question. */
om_status om_plan_types(const om_format **types, const om_profile *profile, const char *plan,
                        int64_t budget_bytes, om_error *err) OM_WARN_UNUSED;

/** What a type for every tensor adds up to. */
typedef struct om_plan_total {
    int64_t bytes;        /* of the whole file */
    int64_t active_bytes; /* read per token (active.h) */
    double nats;          /* summed in file order, and routing_nats */
    double routing_nats;  /* what changed choices of experts cost (docs/method.md eq. 15) */
} om_plan_total;

/** Of types [n_units], each one of the unit's choices. */
om_plan_total om_plan_sum(const om_profile *profile, const om_format *const *types);

#endif
