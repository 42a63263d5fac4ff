/* The experts of a profile as one list, layer by layer, and how unequal they are.
 *
 * Experts of one layer share their tokens whatever stack is looked at (gate, up, down), while their
 * sensitivities add up over the stacks. What inspect and the report say of experts is read off
 * here, so that both say the same. */
#ifndef OM_PROFILE_EXPERTS_H
#define OM_PROFILE_EXPERTS_H

#include "profile/profile.h"

enum { OM_EXPERT_FEW = 64 /* tokens below which an expert counts as hardly seen */ };

typedef enum om_expert_field { OM_EXPERT_TRACE, OM_EXPERT_TOKENS } om_expert_field;

typedef struct om_expert {
    int layer, expert;
    double trace;         /* sum of F over its matrices, as measured; 0: not measured */
    double tokens;        /* routed to it */
    double router_weight; /* sum over those tokens of the router's weight; 0: unknown */
    double windows;       /* in which it was chosen at least once */
} om_expert;

/** The experts of one layer. A layer whose stacks differ in size has a row for each size. */
typedef struct om_expert_row {
    int layer, n;
    const om_expert *experts; /* [n], borrowed from the list */
} om_expert_row;

typedef struct om_experts {
    om_expert *all;      /* [n] row after row, owned */
    om_expert_row *rows; /* [n_rows] by layer, owned */
    int n, n_rows;
    int most;       /* experts of the longest row */
    bool has_trace; /* false: the method measures no gradients */
} om_experts;

/** How unequally a sum is spread over its n terms. */
typedef struct om_concentration {
    int n_top;                /* a tenth of the terms, rounded up */
    double top_share;         /* of the sum that the largest n_top hold, 0 to 1 */
    double gini;              /* 0: all equal; (n - 1) / n: one has all */
    double largest_to_median; /* NaN: the median is 0 */
} om_concentration;

/** Collect the experts of all stacks. n is 0 when the model is dense or the profile says nothing of
 * them. Release it also after a failure. Errors: OM_E_NOMEM. Cost: O(n + units log units). */
om_status om_experts_of(om_experts *out, const om_profile *profile, om_error *err) OM_WARN_UNUSED;
void om_experts_release(om_experts *e); /* accepts a zeroed struct */

/** One of an expert's numbers. */
double om_expert_value(const om_expert *e, om_expert_field field);
/** Concentration over experts [n]; all zero when n or the sum is 0. Errors: OM_E_NOMEM. */
om_status om_experts_concentration(om_concentration *out, const om_expert *experts, int n,
                                   om_expert_field field, om_error *err) OM_WARN_UNUSED;
/** Pointers into the list [n], largest value first, ties by layer and expert. *out owned (om_free).
 * Errors: OM_E_NOMEM. */
om_status om_experts_ranked(const om_expert ***out, const om_experts *e, om_expert_field field,
                            om_error *err) OM_WARN_UNUSED;
/** Experts that saw fewer than OM_EXPERT_FEW tokens. */
int om_experts_few(const om_experts *e);

/** A logarithmic scale of n_shades over the positive values of one field. */
typedef struct om_expert_scale {
    double low, high; /* log10; values below low (five decades under the largest) count as low */
    int n_shades;
    om_expert_field field;
} om_expert_scale;

/** The scale that spans the list. */
om_expert_scale om_experts_scale(const om_experts *e, om_expert_field field, int n_shades);
/** 0 … n_shades - 1; -1 for a value of 0. */
int om_expert_shade(const om_expert_scale *scale, double value);

#endif
