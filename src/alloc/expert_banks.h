/* "expert_banks" of allocation.json: the experts of a layer sorted into banks, each with types of
 * its own. What a container with one type per stack cannot hold; MLX only, with our own module. */
#ifndef OM_ALLOC_EXPERT_BANKS_H
#define OM_ALLOC_EXPERT_BANKS_H

#include "base/error.h"
#include "base/json.h"
#include "model/format.h"

enum {
    OM_BANKS_MAX = 8, /* of one layer */
    OM_BANK_STACKS = 3,
    /* What a further bank adds to the headers of the files, at most: nine tensors with their names.
     * The layout of the files checks it. */
    OM_BANK_HEADER_BYTES = 1536
};

/** The stacks of a layer, in this order everywhere. */
typedef enum om_bank_stack { OM_BANK_GATE, OM_BANK_UP, OM_BANK_DOWN } om_bank_stack;

typedef struct om_bank {
    int n_experts;
    const om_format *format[OM_BANK_STACKS];
    double nats[OM_BANK_STACKS]; /* predicted; not in the file: 0 after reading */
} om_bank;

/** One layer. */
typedef struct om_expert_banks {
    char name[OM_BANK_STACKS][64]; /* of the stacks, in the GGUF */
    int n_experts;
    int *order; /* [n_experts] the expert at each place: those of the first bank, then of the next;
                   owned */
    om_bank banks[OM_BANKS_MAX];
    int n_banks; /* 2 … OM_BANKS_MAX */
} om_expert_banks;

void om_expert_banks_free(om_expert_banks *layers, int n); /* [n], accepts NULL */

/** Read the array `key` of a document. *out owned. Errors: OM_E_FORMAT with the JSON path: order is
 * no permutation, the banks hold more or fewer experts than it, a type that is none of MLX, a stack
 * named twice. */
om_status om_expert_banks_read(om_expert_banks **out, int *n, const om_node *parent,
                               const char *key, om_error *err) OM_WARN_UNUSED;
/** The array as it is written; owned. */
om_json *om_expert_banks_json(const om_expert_banks *layers, int n);

/** The layer that a stack belongs to, and which of its stacks it is (NULL: not wanted); NULL: its
 * experts have one type. */
const om_expert_banks *om_expert_banks_find(const om_expert_banks *layers, int n, const char *name,
                                            om_bank_stack *stack);
/** Bytes of a stack's banks together; n_in, n_out: of one expert's matrix. */
int64_t om_expert_banks_bytes(const om_expert_banks *layer, om_bank_stack stack, int64_t n_in,
                              int64_t n_out);
/** Index of the bank with the most experts, the first of equals. */
int om_expert_banks_largest(const om_expert_banks *layer);

#endif
