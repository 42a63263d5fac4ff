/* Allocation by the experts' sensitivity or use alone: what others do with mixtures of experts, as
 * baselines for the integer program. */
#ifndef OM_ALLOC_EXPERT_PLANS_H
#define OM_ALLOC_EXPERT_PLANS_H

#include "alloc/problem.h"
#include "profile/stats.h"

enum { OM_EXPERT_CLUSTERS = 3 };

/** What it costs that a stock container holds one type per stack. */
typedef struct om_projection {
    const om_format *precision[OM_EXPERT_CLUSTERS]; /* of the clusters, least sensitive first; NULL:
                                                       the budget takes the smallest types */
    int n_experts[OM_EXPERT_CLUSTERS];
    const om_format *others; /* what all other tensors got; NULL: their smallest types */
    int64_t per_expert_bytes, stack_bytes; /* of the whole file, before and after */
    double per_expert_nats, stack_nats;    /* of the whole model; after - before is the cost */
    bool measured; /* nats of single experts from the statistics file; false: shares of their stack
                      in proportion to the trace */
} om_projection;

/** Is this one of the methods here: "mopeq" (Fisher trace per expert) or "frequency" (tokens per
 * expert)? */
bool om_is_expert_plan(const char *method);

/** pick [n_groups] by the method (docs/method.md, section 3), never more than p->budget_bytes,
 * which must be a number, and never outside of what pins and types allow: p is to be built with
 * keep_dominated. stats: where each expert's costs are; NULL: unknown. Errors: OM_E_ARG (no
 * experts, or a profile without statistics of single experts), OM_E_INFEASIBLE (the caller words
 * it), OM_E_NOMEM. Deterministic. */
om_status om_expert_plan(int *pick, om_projection *projection, const om_problem *p,
                         const om_profile *profile, const char *method, const om_stats *stats,
                         om_error *err) OM_WARN_UNUSED;

#endif
