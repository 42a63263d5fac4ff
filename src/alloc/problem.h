/* The allocation as a multiple-choice knapsack: groups of tensors that share one type, and what
 * each type costs them in bytes and nats. Pure arithmetic over profile.json: no model, no solver.
 *
 *   minimise   sum over groups of nats(choice)                       (docs/method.md eq. 10)
 *              + sqrt(routing_weight * sum of routing(choice))        (eq. 15; 0 of a dense model)
 *   subject to exactly one choice per group,
 *              fixed_bytes + sum of padded bytes(choice) <= budget_bytes,
 *              fixed_active_bytes + sum of active_bytes(choice) <= max_active_bytes (eq. 10c),
 *              at most n_tiers distinct types (0 = no limit).
 */
#ifndef OM_ALLOC_PROBLEM_H
#define OM_ALLOC_PROBLEM_H

#include "profile/profile.h"

/** One type for a whole group. */
typedef struct om_option {
    int format;           /* index into om_problem.formats */
    int64_t bytes;        /* all members, each padded to the alignment */
    int64_t active_bytes; /* of all members, read per token (active.h) */
    double nats;          /* sum over the members */
    double routing;       /* likewise: variance of the routers' margins */
} om_option;

/** Tensors that must share a type: one tensor, or ffn_gate and ffn_up of a layer. */
typedef struct om_group {
    int member[2]; /* indices into om_profile.units */
    int n_members;
    int pin; /* index of the pin that decided its type; -1: free */
    int first, n_options;
} om_group;

enum { OM_PROBLEM_MAX_FORMATS = 64 }; /* so that a set of types is one 64-bit mask */

typedef struct om_problem {
    om_group *groups; /* [n_groups] in file order of their first member */
    int n_groups;
    om_option *options; /* [n_options] by group; inside a group ascending bytes, then nats */
    int n_options;
    const om_format *formats[OM_PROBLEM_MAX_FORMATS]; /* every type that is an option somewhere */
    int n_formats;
    int64_t fixed_bytes;        /* metadata and tensors that are copied */
    int64_t budget_bytes;       /* of the whole file; INT64_MAX = none */
    int64_t fixed_active_bytes; /* read per token whatever is chosen */
    int64_t max_active_bytes;   /* read per token; INT64_MAX = no limit */
    int n_tiers;
    double routing_weight; /* of all routers; 0: choices of experts do not count */
} om_problem;

/** What shapes the options; all borrowed. */
typedef struct om_problem_options {
    const char *types; /* comma-separated; NULL = all of the profile */
    const char *const *pins;
    int n_pins;
    bool untie_gate_up;
    int n_tiers;
    int64_t budget_bytes;
    int64_t max_active_bytes; /* 0 = no limit */
    bool keep_dominated;      /* for rules that do not look at nats */
} om_problem_options;

/** Build the problem. Dominated options (not fewer bytes and not fewer nats than another) are
 * dropped, but only when no limit on tiers or active bytes can make them useful. Errors: OM_E_ARG
 * naming the pin, type or tensor that is wrong (unknown type, pin that matches nothing, tensor left
 * without a type). *out is to be released also after a failure. */
om_status om_problem_build(om_problem *out, const om_profile *profile,
                           const om_problem_options *options, om_error *err) OM_WARN_UNUSED;
void om_problem_release(om_problem *p); /* accepts a zeroed struct */

/** The options of a group: n_options of them, ascending bytes. Borrowed. */
static inline const om_option *om_problem_options_of(const om_problem *p, int group) {
    return p->options + p->groups[group].first;
}

/** A candidate answer, evaluated exactly. */
typedef struct om_choice_sum {
    int64_t bytes;        /* of the whole file; saturates at INT64_MAX */
    int64_t active_bytes; /* read per token */
    double nats;          /* summed in group order, changed choices included */
    double routing;       /* variance of the routers' margins */
    int n_types;          /* distinct types used */
    bool valid;           /* every choice names an option of its group */
} om_choice_sum;

/** Is there a limit on active bytes? */
static inline bool om_problem_limits_active(const om_problem *p) {
    return p->max_active_bytes != INT64_MAX;
}

/** Evaluate pick [n_groups] (option index inside each group): the arithmetic that every answer must
 * pass before it is accepted. */
om_choice_sum om_problem_evaluate(const om_problem *p, const int *pick);
/** valid, within the budget, the active bytes and the tiers. */
bool om_problem_feasible(const om_problem *p, const om_choice_sum *sum);

/** Test oracle: try everything. Refuses (OM_E_LIMIT) beyond 2^26 combinations; OM_E_INFEASIBLE when
 * nothing fits. pick [n_groups]. */
om_status om_problem_brute_force(int *pick, om_choice_sum *sum, const om_problem *p,
                                 om_error *err) OM_WARN_UNUSED;

#endif
