/* The tape: what one window's forward pass leaves behind for the backward pass.
 *
 * llama.cpp's evaluation callback shows every node of the real compute graph. The tape keeps, per
 * node, its op, its parameters, where its sources and its result lie, and copies of the few arrays
 * its rule needs (vjp.h). It knows no architecture.
 *
 * Gradients belong to *roots*: the tensors that own memory. Views (VIEW, RESHAPE, PERMUTE, the KV
 * cache read back after SET_ROWS, in-place results) are windows into a root by offset and strides,
 * so a dependency through memory needs no special case.
 *
 * ggml reuses buffers: a source may be gone once its node has run, so sources are copied before the
 * node and results after it. */
#ifndef OM_CALIB_TAPE_H
#define OM_CALIB_TAPE_H

#include "calib/compute.h"
#include "calib/vjp.h"

/** A strided window into a root, in floats. */
typedef struct om_view {
    int root; /* index into om_tape.roots, -1: not on the path of a gradient */
    int64_t offset, ne[4], nb[4];
} om_view;

typedef struct om_root {
    const struct ggml_tensor *id;
    int64_t size; /* floats */
    bool active;  /* depends on a weight */
    float *grad;  /* [size] from om_compute_alloc; NULL: zero */
} om_root;

/** A copied array shared by the nodes that need it. */
typedef struct om_saved {
    const struct ggml_tensor *id;
    om_array array;
    bool borrowed; /* data is the model's own (norm weights): not freed */
} om_saved;

typedef struct om_tape_node {
    const om_vjp_rule *rule;
    enum ggml_op op;
    int32_t params[GGML_MAX_OP_PARAMS / sizeof(int32_t)];
    char name[GGML_MAX_NAME];
    om_view dst, src[OM_VJP_SRC];
    bool want[OM_VJP_SRC]; /* the gradient of source i is wanted */
    int saved[OM_VJP_SRC]; /* index of om_tape.saved, -1 */
    int saved_dst;         /* index of om_tape.saved, -1 */
    int64_t *index;        /* [n_index] owned */
    int64_t n_index;
    int route;  /* of a product with a stack of experts: index of om_tape.routes; -1 */
    int weight; /* source 0 is this weight (index given by the resolver); -1 */
    const struct ggml_tensor *weight_tensor; /* its data, borrowed from the model */
} om_tape_node;

/** One choice of experts: what the products that share it are told. Routes are in the order of the
 * graph: route i of every window is the same router. */
typedef struct om_route {
    const struct ggml_tensor *id; /* the tensor of choices */
    float *weights; /* [T, K] what the router gives each choice, owned; NULL: not seen */
    int ranking;    /* what it chose by: index of om_tape.rankings; -1: not seen */
    int node; /* a product that it sends tokens through: its choices are in nodes[node].index */
} om_route;

/** Scores that were put in order: those of a router, and any others (groups of experts). */
typedef struct om_ranking {
    const struct ggml_tensor *id; /* the sorted indices, [T, E] */
    om_view scores;               /* [T, E] what was sorted */
    int saved;                    /* the scores: index of om_tape.saved */
    bool logarithm;               /* margins are differences of logarithms (margin.h) */
    int before;                   /* nodes on the tape when it was met: those may have caused it */
} om_ranking;

typedef struct om_tape {
    om_tape_node *nodes;
    int n_nodes, cap_nodes;
    om_root *roots;
    int n_roots, cap_roots;
    om_saved *saved;
    int n_saved, cap_saved;
    om_route *routes;
    int n_routes, cap_routes;
    om_ranking *rankings;
    int n_rankings, cap_rankings;
    int *root_slots, *saved_slots; /* hash of tensor address -> index + 1 */
    int n_slots;
    int64_t saved_bytes; /* of all copies: the tape's size */
    bool measure;        /* shapes only: count bytes, copy nothing */
    om_compute *compute; /* borrowed */
    /* Which weight a tensor is, by name; -1: none that is profiled. */
    int (*weight_of)(void *ud, const char *name);
    void *ud;
    om_error err; /* first failure inside the callback */
} om_tape;

/** Zero-initialise, set compute, weight_of, ud. Not thread-safe. */
void om_tape_reset(om_tape *tape);   /* forget the window; memory is kept for the next */
void om_tape_release(om_tape *tape); /* free everything */

/** ggml's evaluation callback; user data is the om_tape. Failures are kept in tape->err and stop
 * the evaluation: OM_E_UNSUPPORTED names the op and the tensor and the way out (--method measured).
 */
bool om_tape_callback(struct ggml_tensor *t, bool ask, void *tape);

#endif
