/* Graph nodes -> chosen experts.
 *
 * What a router chose is the list of expert numbers that every product with a stack takes (src[2]
 * of MUL_MAT_ID), whatever the architecture computed it from. The products of a layer share one
 * list, so the first one in the graph speaks for its layer, and no other node is asked for:
 * llama.cpp stops, and waits for the device, at every node that is. A list is mostly a view of the
 * sorted experts, with strides, and lives where the layer is computed.
 *
 * llama.cpp drops tokens without logits before the last layer's experts, so a list has either all
 * tokens of the graph or those with logits.
 */
#include "eval/choices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml-backend.h>
#include <ggml.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/roles.h"

typedef struct slot {
    char stack[GGML_MAX_NAME]; /* the one that speaks for the layer, from "blk." on */
    int from;                  /* first token with choices in this graph; n: none */
} slot;

struct om_choice_watch {
    om_env env;
    int n_block, n, first_out;
    int n_layers, n_used, n_experts; /* n_used 0: nothing seen yet */
    int32_t layers[OM_ROUTING_MAX_LAYERS];
    slot slots[OM_ROUTING_MAX_LAYERS];
    uint16_t *ids; /* [n_rooms, n_block, K] */
    int n_rooms;   /* layers that ids has room for */
    char *bytes;   /* copy of a list as it lies in memory */
    size_t n_bytes;
    bool nomem, told;
    char why[160]; /* not empty: the graph is not understood */
};

bool om_choices_has_experts(const om_model *model) {
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->n_dims == 3 && om_tensor_is_experts(t->name)) {
            return true;
        }
    }
    return false;
}

om_status om_choice_watch_new(om_choice_watch **out, int n_block, const om_env *env,
                              om_error *err) {
    om_choice_watch *w = om_calloc(1, sizeof(*w));
    if (w == NULL) {
        return om_fail_nomem(err, sizeof(*w));
    }
    w->env = env != NULL ? *env : (om_env){ 0 };
    w->n_block = n_block;
    *out = w;
    return OM_OK;
}

void om_choice_watch_free(om_choice_watch *w) {
    if (w != NULL) {
        om_free(w->ids);
        om_free(w->bytes);
        om_free(w);
    }
}

void om_choice_watch_begin(om_choice_watch *w, int n, int first_out) {
    w->n = n;
    w->first_out = first_out;
    for (int i = 0; i < w->n_layers; i++) {
        w->slots[i].from = n;
    }
}

/* ---- which nodes ---- */

/* "blk.7.ffn_up_exps.weight" within a name that a scheduler may have put its own around, as in
 * "CUDA0#blk.7.ffn_up_exps.weight#0". NULL: not in a block. */
static const char *stack_name(int *layer, size_t *len, const char *name) {
    const char *s = strstr(name, "blk.");
    if (s == NULL || s[4] < '0' || s[4] > '9') {
        return NULL;
    }
    char *end;
    const long number = strtol(s + 4, &end, 10);
    if (*end != '.' || number > INT16_MAX) {
        return NULL;
    }
    *layer = (int) number;
    *len = strcspn(s, "#");
    return s;
}

static slot *add_slot(om_choice_watch *w, const char *name, size_t len, int layer) {
    if (w->n_layers == OM_ROUTING_MAX_LAYERS) {
        snprintf(w->why, sizeof(w->why), "the model has more than %d layers with experts",
                 OM_ROUTING_MAX_LAYERS);
        return NULL;
    }
    if (w->n_layers > 0 && w->layers[w->n_layers - 1] > layer) {
        snprintf(w->why, sizeof(w->why), "layer %d is computed after layer %d", layer,
                 (int) w->layers[w->n_layers - 1]);
        return NULL;
    }
    slot *s = &w->slots[w->n_layers];
    memcpy(s->stack, name, len);
    s->stack[len] = '\0';
    s->from = w->n;
    w->layers[w->n_layers++] = layer;
    return s;
}

/* The slot that this node speaks for; NULL: none. */
static slot *find_slot(om_choice_watch *w, const struct ggml_tensor *node) {
    int layer;
    size_t len;
    if (node->op != GGML_OP_MUL_MAT_ID || w->why[0] != '\0') {
        return NULL;
    }
    const char *name = stack_name(&layer, &len, node->src[0]->name);
    if (name == NULL) {
        return NULL;
    }
    for (int i = 0; i < w->n_layers; i++) {
        slot *s = &w->slots[i];
        if (w->layers[i] == layer) {
            return strlen(s->stack) == len && memcmp(s->stack, name, len) == 0 ? s : NULL;
        }
    }
    return add_slot(w, name, len, layer);
}

/* ---- what they say ---- */

/* Tells in w->why when the list is not what this file expects. */
static bool understand(om_choice_watch *w, const struct ggml_tensor *stack,
                       const struct ggml_tensor *ids, int layer) {
    if (w->n_used == 0 && ids->ne[0] > 0 && ids->ne[0] <= stack->ne[2] &&
        stack->ne[2] <= OM_ROUTING_MAX_EXPERTS) {
        w->n_used = (int) ids->ne[0];
        w->n_experts = (int) stack->ne[2];
    }
    if (ids->ne[0] != w->n_used || stack->ne[2] != w->n_experts) {
        snprintf(w->why, sizeof(w->why), "layer %d uses %lld of %lld experts, others %d of %d",
                 layer, (long long) ids->ne[0], (long long) stack->ne[2], w->n_used, w->n_experts);
    } else if (ids->type != GGML_TYPE_I32 || ids->ne[2] != 1 || ids->ne[3] != 1 ||
               (ids->ne[1] != w->n && ids->ne[1] != w->n - w->first_out)) {
        snprintf(w->why, sizeof(w->why),
                 "layer %d has %lld lists of experts for %d tokens, %d with logits", layer,
                 (long long) ids->ne[1], w->n, w->n - w->first_out);
    }
    return w->why[0] == '\0';
}

static bool make_room(om_choice_watch *w, size_t n_bytes) {
    if (w->n_rooms < w->n_layers) {
        const size_t row = (size_t) w->n_block * (size_t) w->n_used;
        uint16_t *ids = om_realloc(w->ids, (size_t) w->n_layers * row, sizeof(*ids));
        if (ids == NULL) {
            return false;
        }
        w->ids = ids;
        w->n_rooms = w->n_layers;
    }
    if (w->n_bytes < n_bytes) {
        char *bytes = om_realloc(w->bytes, n_bytes, 1);
        if (bytes == NULL) {
            return false;
        }
        w->bytes = bytes;
        w->n_bytes = n_bytes;
    }
    return true;
}

static void take_list(om_choice_watch *w, slot *s, const struct ggml_tensor *ids) {
    const int i_slot = (int) (s - w->slots);
    const int from = w->n - (int) ids->ne[1];
    uint16_t *to = w->ids + ((int64_t) i_slot * w->n_block + from) * w->n_used;
    ggml_backend_tensor_get(ids, w->bytes, 0, ggml_nbytes(ids));
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int64_t k = 0; k < ids->ne[0]; k++) {
            int32_t e;
            memcpy(&e, w->bytes + (size_t) k * ids->nb[0] + (size_t) t * ids->nb[1], sizeof(e));
            if (e < 0 || e >= w->n_experts) {
                snprintf(w->why, sizeof(w->why), "layer %d chose expert %d of %d",
                         (int) w->layers[i_slot], (int) e, w->n_experts);
                return;
            }
            *to++ = (uint16_t) e;
        }
    }
    s->from = from;
}

bool om_choice_watch_see(om_choice_watch *w, const void *tensor, bool ask) {
    const struct ggml_tensor *node = tensor;
    slot *s = find_slot(w, node);
    if (ask) {
        return s != NULL;
    }
    const struct ggml_tensor *ids = s != NULL ? node->src[2] : NULL;
    if (s == NULL || ids->ne[1] == 0 ||
        !understand(w, node->src[0], ids, (int) w->layers[s - w->slots])) {
        return true;
    }
    if (make_room(w, ggml_nbytes(ids))) {
        take_list(w, s, ids);
    } else {
        w->nomem = true;
    }
    return true;
}

om_status om_choice_watch_end(om_choice_watch *w, om_error *err) {
    if (w->nomem) {
        w->nomem = false;
        return om_fail_nomem(err, (size_t) w->n_layers * (size_t) w->n_block * sizeof(uint16_t));
    }
    for (int i = 0; i < w->n_layers && w->why[0] == '\0'; i++) {
        if (w->slots[i].from > w->first_out) {
            snprintf(w->why, sizeof(w->why), "layer %d did not say what it chose",
                     (int) w->layers[i]);
        }
    }
    if (w->why[0] != '\0' && !w->told) {
        om_log(&w->env, OM_LOG_WARN, "routing is not compared: %s", w->why);
        w->told = true;
    }
    return OM_OK;
}

om_choices om_choice_watch_get(const om_choice_watch *w) {
    if (w->why[0] != '\0' || w->n_used == 0 || w->first_out >= w->n) {
        return (om_choices){ 0 };
    }
    return (om_choices){ .n_layers = w->n_layers,
                         .n_experts = w->n_experts,
                         .n_used = w->n_used,
                         .layers = w->layers,
                         .ids = w->ids,
                         .layer_stride = (int64_t) w->n_block * w->n_used };
}
