/* The experts of one layer in banks: what each expert costs in each type, and the best banks at a
 * price for bytes (docs/method.md eq. 19). */
#ifndef OM_ALLOC_BANK_CONFIGS_H
#define OM_ALLOC_BANK_CONFIGS_H

#include "alloc/expert_banks.h"
#include "alloc/problem.h"
#include "profile/stats.h"

/** One way to store a layer's experts: up to OM_BANKS_MAX banks with a type for each stack. */
typedef struct om_bank_config {
    int n_banks;
    unsigned char *bank_of;                 /* [experts] owned; NULL: all in bank 0 */
    int type[OM_BANKS_MAX][OM_BANK_STACKS]; /* index into the stack's types */
    int64_t bytes;                          /* of the three stacks, and headers of further banks */
    int64_t active_bytes;                   /* read per token */
    double nats, routing;                   /* as om_option's */
    bool keep;                              /* never dropped: part of an answer */
} om_bank_config;

/** The types of a stack, by those of its group in the problem. */
typedef struct om_bank_types {
    int n;
    const om_option *options; /* [n] of the whole stack, borrowed from the problem */
    int64_t *bytes;           /* [n] of one expert */
    double *nats;             /* [experts, n] shares of the option's; owned, and so are these */
    double *routing;          /* [experts, n] */
} om_bank_types;

/** A layer with a gate, an up and a down stack of as many experts. */
typedef struct om_bank_layer {
    int unit[OM_BANK_STACKS];  /* indices into om_profile.units */
    int group[OM_BANK_STACKS]; /* of the problem */
    int experts;
    om_bank_types stack[OM_BANK_STACKS];
    double *used;            /* [experts] share of the tokens that the expert sees */
    om_bank_config *configs; /* [n_configs] of cap */
    int n_configs, cap;
} om_bank_layer;

/** Fill the costs of a layer whose unit, group and experts are set. The stack's own costs are
 * shared out in proportion to those of its single experts in `stats`. Errors: OM_E_ARG when these
 * are missing; OM_E_NOMEM. Release in any case. */
om_status om_bank_layer_init(om_bank_layer *layer, const om_problem *p, const om_profile *profile,
                             const om_stats *stats, om_error *err) OM_WARN_UNUSED;
void om_bank_layer_release(om_bank_layer *layer);

/** Add every choice of one type per stack. keep [3]: the options that are never dropped. */
om_status om_bank_layer_singles(om_bank_layer *layer, const int keep[OM_BANK_STACKS],
                                om_error *err) OM_WARN_UNUSED;

/** What things cost, in nats. */
typedef struct om_bank_price {
    double byte, routing; /* of a byte of the file; of a unit of routing */
} om_bank_price;

/** Add the best configurations found with 2, 3 … max_banks banks, those that minimise
 * nats + price.routing * routing + price.byte * bytes. Deterministic.
 *
 * The experts are put in order of what they would lose in their layer's one best type; the best
 * cuts of that order are found exactly, then experts move to the bank that suits them best and
 * banks take the types that suit their experts best, until nothing changes. Errors: OM_E_NOMEM.
 * Cost: O(min(experts, 128)^2 * types). */
om_status om_bank_layer_add(om_bank_layer *layer, const om_bank_price *price, int max_banks,
                            om_error *err) OM_WARN_UNUSED;

/** Sort by bytes and drop what has neither fewer bytes nor a lower nats + routing_price * routing
 * than another, unless it is to be kept. Errors: OM_E_NOMEM. */
om_status om_bank_layer_prune(om_bank_layer *layer, double routing_price,
                              om_error *err) OM_WARN_UNUSED;

#endif
