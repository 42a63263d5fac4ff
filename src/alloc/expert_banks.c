/* "expert_banks" of allocation.json <-> om_expert_banks. People edit the file, so nothing is taken
 * for granted: every expert of a layer must have its one place. */
#include "alloc/expert_banks.h"

#include <string.h>

#include "base/json_fields.h"
#include "base/mem.h"

enum { MAX_LAYERS = 1 << 10, MAX_EXPERTS = 1 << 16 };

static const char *const stack_keys[OM_BANK_STACKS] = { "gate", "up", "down" };

void om_expert_banks_free(om_expert_banks *layers, int n) {
    for (int i = 0; layers != NULL && i < n; i++) {
        om_free(layers[i].order);
    }
    om_free(layers);
}

const om_expert_banks *om_expert_banks_find(const om_expert_banks *layers, int n, const char *name,
                                            om_bank_stack *stack) {
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < OM_BANK_STACKS; k++) {
            if (strcmp(layers[i].name[k], name) == 0) {
                if (stack != NULL) {
                    *stack = (om_bank_stack) k;
                }
                return &layers[i];
            }
        }
    }
    return NULL;
}

int64_t om_expert_banks_bytes(const om_expert_banks *layer, om_bank_stack stack, int64_t n_in,
                              int64_t n_out) {
    int64_t bytes = 0;
    for (int b = 0; b < layer->n_banks; b++) {
        bytes +=
            om_format_size(layer->banks[b].format[stack], n_in, n_out * layer->banks[b].n_experts);
    }
    return bytes;
}

int om_expert_banks_largest(const om_expert_banks *layer) {
    int best = 0;
    for (int b = 1; b < layer->n_banks; b++) {
        best = layer->banks[b].n_experts > layer->banks[best].n_experts ? b : best;
    }
    return best;
}

/* ---- reading ---- */

static om_status read_names(om_expert_banks *layer, const om_expert_banks *layers, int n,
                            const om_node *node, om_error *err) {
    om_status status = OM_OK;
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        char name[sizeof layer->name[k]];
        OM_TRY(om_node_text(name, sizeof name, node, stack_keys[k], err));
        if (name[0] == '\0' || om_expert_banks_find(layers, n, name, NULL) != NULL ||
            om_expert_banks_find(layer, 1, name, NULL) != NULL) {
            OM_TRY(om_node_fail(err, node, "%s: \"%s\" is %s", stack_keys[k], name,
                                name[0] == '\0' ? "no tensor name" : "named twice"));
        }
        memcpy(layer->name[k], name, sizeof name);
    }
out:
    return status;
}

static om_status read_order(om_expert_banks *layer, const om_node *node, om_error *err) {
    om_status status = OM_OK;
    om_node order, at;
    size_t n = 0;
    bool *seen = NULL;
    OM_TRY(om_node_array(&order, &n, node, "order", err));
    if (n < 2 || n > MAX_EXPERTS) {
        OM_TRY(om_node_fail(err, &order, "%zu experts, expected 2 to %d", n, MAX_EXPERTS));
    }
    layer->order = om_calloc(n, sizeof *layer->order);
    seen = om_calloc(n, sizeof *seen);
    if (layer->order == NULL || seen == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *layer->order));
    }
    layer->n_experts = (int) n;
    for (size_t i = 0; i < n; i++) {
        int64_t expert = 0;
        OM_TRY(om_node_at(&at, &order, i, err));
        OM_TRY(om_node_value_i64(&expert, &at, 0, (int64_t) n - 1, err));
        if (seen[expert]) {
            OM_TRY(om_node_fail(err, &at, "expert %d has two places", (int) expert));
        }
        seen[expert] = true;
        layer->order[i] = (int) expert;
    }
out:
    om_free(seen);
    return status;
}

static om_status read_bank(om_bank *bank, const om_node *node, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_node_int(&bank->n_experts, node, "experts", 1, MAX_EXPERTS, err));
    for (int k = 0; k < OM_BANK_STACKS; k++) {
        const char *type = NULL;
        OM_TRY(om_node_str(&type, node, stack_keys[k], err));
        bank->format[k] = om_format_by_name(type);
        if (bank->format[k] == NULL || !om_format_in(bank->format[k], OM_CONTAINER_MLX)) {
            OM_TRY(om_node_fail(err, node, "%s: \"%.32s\" is no type of MLX", stack_keys[k], type));
        }
    }
out:
    return status;
}

static om_status read_banks(om_expert_banks *layer, const om_node *node, om_error *err) {
    om_status status = OM_OK;
    om_node banks, at;
    size_t n = 0;
    int64_t sum = 0;
    OM_TRY(om_node_array(&banks, &n, node, "banks", err));
    if (n < 2 || n > OM_BANKS_MAX) {
        OM_TRY(om_node_fail(err, &banks, "%zu banks, expected 2 to %d", n, OM_BANKS_MAX));
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&at, &banks, i, err));
        OM_TRY(read_bank(&layer->banks[i], &at, err));
        sum += layer->banks[i].n_experts;
    }
    layer->n_banks = (int) n;
    if (sum != layer->n_experts) {
        OM_TRY(om_node_fail(err, &banks, "the banks hold %lld experts, \"order\" has %d",
                            (long long) sum, layer->n_experts));
    }
out:
    return status;
}

om_status om_expert_banks_read(om_expert_banks **out, int *n, const om_node *parent,
                               const char *key, om_error *err) {
    om_status status = OM_OK;
    om_node array, node;
    om_expert_banks *layers = NULL;
    size_t count = 0;
    int made = 0;
    OM_TRY(om_node_array(&array, &count, parent, key, err));
    if (count == 0 || count > MAX_LAYERS) {
        OM_TRY(om_node_fail(err, &array, "%zu layers, expected 1 to %d", count, MAX_LAYERS));
    }
    layers = om_calloc(count, sizeof *layers);
    if (layers == NULL) {
        OM_TRY(om_fail_nomem(err, count * sizeof *layers));
    }
    for (size_t i = 0; i < count; i++) {
        OM_TRY(om_node_at(&node, &array, i, err));
        OM_TRY(read_names(&layers[i], layers, made, &node, err));
        made++;
        OM_TRY(read_order(&layers[i], &node, err));
        OM_TRY(read_banks(&layers[i], &node, err));
    }
    *out = layers;
    *n = made;
    layers = NULL;
out:
    om_expert_banks_free(layers, made);
    return status;
}

/* ---- writing ---- */

om_json *om_expert_banks_json(const om_expert_banks *layers, int n) {
    om_json *array = om_json_array();
    for (int i = 0; i < n; i++) {
        om_json *layer = om_json_object(), *order = om_json_array(), *banks = om_json_array();
        for (int k = 0; k < OM_BANK_STACKS; k++) {
            om_json_set_str(layer, stack_keys[k], layers[i].name[k]);
        }
        for (int e = 0; e < layers[i].n_experts; e++) {
            om_json_push(order, om_json_i64(layers[i].order[e]));
        }
        om_json_set(layer, "order", order);
        for (int b = 0; b < layers[i].n_banks; b++) {
            om_json *bank = om_json_object();
            om_json_set_i64(bank, "experts", layers[i].banks[b].n_experts);
            for (int k = 0; k < OM_BANK_STACKS; k++) {
                om_json_set_str(bank, stack_keys[k], layers[i].banks[b].format[k]->name);
            }
            om_json_push(banks, bank);
        }
        om_json_set(layer, "banks", banks);
        om_json_push(array, layer);
    }
    return array;
}
