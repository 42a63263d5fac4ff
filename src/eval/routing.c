/* Choices of two models -> agreement per layer (docs/method.md eq. 16). */
#include "eval/routing.h"

#include <string.h>

static bool same_shape(const om_choices *a, const om_choices *b) {
    return a->n_layers == b->n_layers && a->n_experts == b->n_experts && a->n_used == b->n_used &&
           memcmp(a->layers, b->layers, (size_t) a->n_layers * sizeof(*a->layers)) == 0;
}

/* Of the K experts in a, how many are in b. */
static int count_both(const uint16_t *a, const uint16_t *b, int k) {
    int n = 0;
    for (int i = 0; i < k; i++) {
        int j = 0;
        while (j < k && b[j] != a[i]) {
            j++;
        }
        n += j < k;
    }
    return n;
}

/* The first block says what there is; false: this one has something else. */
static bool settle(om_agreement *a, const om_choices *c) {
    if (a->n_layers == 0 && c->n_layers <= OM_ROUTING_MAX_LAYERS) {
        a->n_layers = c->n_layers;
        a->n_experts = c->n_experts;
        a->n_used = c->n_used;
        memcpy(a->layers, c->layers, (size_t) c->n_layers * sizeof(*a->layers));
    }
    const om_choices own = {
        .n_layers = a->n_layers, .n_experts = a->n_experts, .n_used = a->n_used, .layers = a->layers
    };
    return same_shape(&own, c);
}

void om_agreement_add(om_agreement *a, const om_choices *ref, const om_choices *model, int first,
                      int n) {
    if (first >= n || ref->n_layers == 0 || model->n_layers == 0) {
        return;
    }
    if (!same_shape(ref, model) || !settle(a, ref)) {
        a->differs = true;
        return;
    }
    for (int l = 0; l < a->n_layers; l++) {
        for (int t = first; t < n; t++) {
            const int64_t at = (int64_t) t * a->n_used;
            a->both[l] += count_both(ref->ids + l * ref->layer_stride + at,
                                     model->ids + l * model->layer_stride + at, a->n_used);
        }
    }
    a->n += n - first;
}

om_routing om_agreement_summary(const om_agreement *a) {
    om_routing r = { 0 };
    if (a->n == 0 || a->differs) {
        return r;
    }
    r.n_layers = a->n_layers;
    r.n_experts = a->n_experts;
    r.n_used = a->n_used;
    int64_t both = 0;
    for (int l = 0; l < a->n_layers; l++) {
        r.layer[l] = (int) a->layers[l];
        r.layer_agreement[l] = (double) a->both[l] / ((double) a->n * a->n_used);
        both += a->both[l];
    }
    const double all = (double) a->n * a->n_used * a->n_layers;
    r.agreement = (double) both / all;
    r.flips_per_token = (all - (double) both) / (double) a->n;
    return r;
}

int om_routing_worst(const om_routing *r) {
    int worst = 0;
    for (int l = 1; l < r->n_layers; l++) {
        worst = r->layer_agreement[l] < r->layer_agreement[worst] ? l : worst;
    }
    return worst;
}
