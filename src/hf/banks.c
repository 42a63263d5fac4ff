/* "optimum_expert_order" -> the place of every expert. The member decides which rows are read, so
 * every expert must have exactly one place. */
#include "hf/banks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "hf/directory.h"

static const char member[] = "optimum_expert_order";

/* ---- names ---- */

static int dims_of(const om_family_tensor *row) {
    int n = 0;
    while (n < OM_FAMILY_DIMS && row->shape[n] != OM_DIM_END) {
        n++;
    }
    return n;
}

bool om_hf_is_stack(const om_family_tensor *row) {
    return dims_of(row) == 3 && row->shape[0] == OM_DIM_E;
}

bool om_hf_is_router(const om_family_tensor *row) {
    return dims_of(row) < 3 && row->shape[0] == OM_DIM_E;
}

/* Length of "mlp.switch_mlp" in "mlp.switch_mlp.gate_proj.weight". */
static size_t module_length(const char *name) {
    size_t n = strlen(name);
    for (int dots = 0; n > 0; n--) {
        if (name[n - 1] == '.' && ++dots == 2) {
            return n - 1;
        }
    }
    return 0;
}

void om_hf_bank_path(char out[OM_HF_PATH], const char *path, int bank) {
    const size_t n = module_length(path);
    (void) snprintf(out, OM_HF_PATH, "%.*s.banks.%d%s", (int) n, path, bank, path + n);
}

void om_hf_stack_path(char out[OM_HF_PATH], const char *path) {
    (void) snprintf(out, OM_HF_PATH, "%.*s", (int) module_length(path), path);
}

/* The first stack of a block; NULL: the family has none. Biases of experts are refused. */
static const om_family_tensor *find_stack(const om_family *family, bool *biases) {
    const om_family_tensor *stack = NULL;
    *biases = false;
    for (int i = 0; i < OM_FAMILY_PARTS && family->parts[i] != NULL; i++) {
        for (const om_family_tensor *row = family->parts[i]; row->gguf != NULL; row++) {
            stack = stack == NULL && om_hf_is_stack(row) ? row : stack;
            *biases = *biases || strstr(row->gguf, "_exps.bias") != NULL;
        }
    }
    return stack;
}

/* Layer of "model.layers.12.mlp.switch_mlp"; -1: another name. */
static int layer_of(const char *key, const om_family *family, const om_family_tensor *stack,
                    int n_layers) {
    char expected[OM_HF_PATH];
    const char *prefix = om_family_prefix(family);
    const size_t n = strlen(prefix) + strlen("model.layers.");
    if (strlen(key) <= n || strspn(key + n, "0123456789") == 0 ||
        strspn(key + n, "0123456789") > 6) {
        return -1;
    }
    const int layer = (int) strtol(key + n, NULL, 10);
    (void) snprintf(expected, sizeof expected, "%smodel.layers.%d.%.*s", prefix, layer,
                    (int) module_length(stack->mlx), stack->mlx);
    return layer < n_layers && strcmp(key, expected) == 0 ? layer : -1;
}

/* ---- reading ---- */

void om_hf_banks_free(om_hf_banks *all, int n) {
    for (int i = 0; all != NULL && i < n; i++) {
        om_free(all[i].first);
        om_free(all[i].place);
    }
    om_free(all);
}

const om_hf_banks *om_hf_banks_of(const om_hf_banks *all, int n, int layer) {
    for (int i = 0; i < n; i++) {
        if (all[i].layer == layer) {
            return &all[i];
        }
    }
    return NULL;
}

/* Sizes first: nothing is allocated by a number that the lists do not bear out. */
static om_status count_experts(om_hf_banks *b, const om_node *lists, size_t n_banks,
                               int64_t experts, om_error *err) {
    om_status status = OM_OK;
    size_t total = 0;
    b->first = om_calloc(n_banks + 1, sizeof *b->first);
    if (b->first == NULL) {
        OM_TRY(om_fail_nomem(err, n_banks * sizeof *b->first));
    }
    for (size_t i = 0; i < n_banks; i++) {
        om_node list;
        size_t n = 0;
        OM_TRY(om_node_at(&list, lists, i, err));
        OM_TRY(om_node_value_array(&n, &list, err));
        total += n;
        if (n == 0 || total > (size_t) experts) {
            OM_TRY(om_node_fail(err, &list, "%s",
                                n == 0 ? "a bank without experts"
                                       : "more experts than the model has"));
        }
        b->first[i + 1] = (int) total;
    }
    if (total != (size_t) experts) {
        OM_TRY(om_node_fail(err, lists, "%zu experts, but the model has %lld", total,
                            (long long) experts));
    }
    b->n_banks = (int) n_banks;
out:
    return status;
}

static om_status read_places(om_hf_banks *b, const om_node *lists, int64_t experts, om_error *err) {
    om_status status = OM_OK;
    b->place = om_calloc((size_t) experts, sizeof *b->place);
    if (b->place == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) experts * sizeof *b->place));
    }
    memset(b->place, -1, (size_t) experts * sizeof *b->place);
    for (int i = 0; i < b->n_banks; i++) {
        om_node list, node;
        OM_TRY(om_node_at(&list, lists, (size_t) i, err));
        for (int k = b->first[i]; k < b->first[i + 1]; k++) {
            int64_t expert = 0;
            OM_TRY(om_node_at(&node, &list, (size_t) (k - b->first[i]), err));
            OM_TRY(om_node_value_i64(&expert, &node, 0, experts - 1, err));
            if (b->place[expert] >= 0) {
                OM_TRY(om_node_fail(err, &node, "expert %d has two places", (int) expert));
            }
            b->place[expert] = k;
        }
    }
out:
    return status;
}

static om_status read_layer(om_hf_banks *b, const om_node *order, const char *key, int64_t experts,
                            om_error *err) {
    om_status status = OM_OK;
    om_node lists;
    size_t n = 0;
    OM_TRY(om_node_array(&lists, &n, order, key, err));
    if (n == 0 || n > (size_t) experts) {
        OM_TRY(om_node_fail(err, &lists, "%zu banks of %lld experts", n, (long long) experts));
    }
    OM_TRY(count_experts(b, &lists, n, experts, err));
    OM_TRY(read_places(b, &lists, experts, err));
out:
    return status;
}

om_status om_hf_banks_read(om_hf_banks **out, int *n, const om_node *config,
                           const om_family *family, const om_hf_sizes *sizes, om_error *err) {
    om_status status = OM_OK;
    om_node order, node;
    om_hf_banks *all = NULL;
    void *iter = NULL;
    int made = 0;
    bool biases = false;
    *out = NULL;
    *n = 0;
    if (!om_node_has(config, member)) {
        return OM_OK;
    }
    const om_family_tensor *stack = find_stack(family, &biases);
    OM_TRY(om_node_object(&order, config, member, err));
    if (stack == NULL || biases) {
        status = om_node_fail(err, &order, "%s models have no experts that can lie in banks",
                              family->model_type);
        err->status = status = OM_E_UNSUPPORTED;
        goto out;
    }
    all = om_calloc((size_t) sizes->n_layers, sizeof *all);
    if (all == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) sizes->n_layers * sizeof *all));
    }
    while (om_node_next(&node, &order, &iter)) { /* keys differ, so there are n_layers at most */
        all[made].layer = layer_of(node.key, family, stack, sizes->n_layers);
        if (all[made].layer < 0) {
            OM_TRY(om_node_fail(err, &order, "\"%.100s\" are no experts of this model", node.key));
        }
        made++;
        OM_TRY(read_layer(&all[made - 1], &order, node.key, sizes->dim[OM_DIM_E], err));
    }
    *out = all;
    *n = made;
    all = NULL;
out:
    om_hf_banks_free(all, made);
    return status;
}
