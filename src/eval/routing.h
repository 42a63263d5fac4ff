/* Which experts were chosen for each token, and how far two models agree about it. Pure
 * arithmetic: no ggml, no files. */
#ifndef OM_EVAL_ROUTING_H
#define OM_EVAL_ROUTING_H

#include <stdbool.h>
#include <stdint.h>

enum { OM_ROUTING_MAX_LAYERS = 512, OM_ROUTING_MAX_EXPERTS = 1 << 16 };

/** Choices of a block of tokens, borrowed. Those of layer l for token t, in no particular order,
 * are ids[l * layer_stride + t * n_used] and the n_used - 1 that follow. */
typedef struct om_choices {
    int n_layers;          /* layers with experts; 0: nothing is known */
    int n_experts, n_used; /* E, K */
    const int32_t *layers; /* [n_layers] their numbers, ascending */
    const uint16_t *ids;   /* below n_experts */
    int64_t layer_stride;  /* in ids */
} om_choices;

/** Agreement of a model's choices with the reference's, as eval.json has it. */
typedef struct om_routing {
    int n_layers; /* 0: a dense model, or not known */
    int n_experts, n_used;
    double agreement; /* mean over layers; docs/method.md eq. 16 */
    double flips_per_token;
    int layer[OM_ROUTING_MAX_LAYERS];              /* [n_layers] number of the layer, ascending */
    double layer_agreement[OM_ROUTING_MAX_LAYERS]; /* [n_layers] 0..1 */
} om_routing;

/** Index in r->layer of the layer that agrees least, the first of equals; r has layers. */
int om_routing_worst(const om_routing *r);

/** Running counts; zeroed is empty. Whole numbers: the order of tokens changes nothing. */
typedef struct om_agreement {
    int n_layers, n_experts, n_used; /* of the first block */
    bool differs; /* the two sides have other layers or experts: nothing to compare */
    int32_t layers[OM_ROUTING_MAX_LAYERS];
    int64_t n;                           /* tokens */
    int64_t both[OM_ROUTING_MAX_LAYERS]; /* chosen by both */
} om_agreement;

/** Add tokens [first, n) of a block. When one side knows nothing, nothing is added.
 *
 * Cost: O(layers * tokens * K²), K being small. */
void om_agreement_add(om_agreement *a, const om_choices *ref, const om_choices *model, int first,
                      int n);

/** No layers when nothing was added or the sides differ. Equal choices give exactly 1. */
om_routing om_agreement_summary(const om_agreement *a);

#endif
