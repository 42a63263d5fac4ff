/* The banks of an allocation against the tensors of a directory. Everything that has a row or a
 * matrix for each expert must follow the experts: the three stacks are cut into banks, and the
 * router, which stays whole, gets its rows in the same order. */
#include "artifact/mlx_banks.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* "blk.3." of "blk.3.ffn_gate_exps.weight": what the tensors of a layer have in common. */
static size_t layer_prefix(const char *name) {
    const char *dot = strchr(name, '.');
    const char *second = dot == NULL ? NULL : strchr(dot + 1, '.');
    return second == NULL ? 0 : (size_t) (second - name) + 1;
}

/* The banks of the layer that a tensor is in, if there are any. */
static const om_expert_banks *banks_beside(const om_allocation *a, const char *name) {
    const size_t n = layer_prefix(name);
    for (int i = 0; i < a->n_banked && n > 0; i++) {
        const char *gate = a->banks[i].name[OM_BANK_GATE];
        if (layer_prefix(gate) == n && strncmp(gate, name, n) == 0) {
            return &a->banks[i];
        }
    }
    return NULL;
}

static bool is_router(const char *name) {
    return strncmp(name + layer_prefix(name), "ffn_gate_inp.", 13) == 0;
}

static om_status check_count(const om_expert_banks *l, int64_t experts, const char *name,
                             om_error *err) {
    if (l->n_experts == experts) {
        return OM_OK;
    }
    return om_fail(err, OM_E_MISMATCH,
                   "%s has %lld experts, \"expert_banks\" of the allocation %d: it was made for "
                   "another model",
                   name, (long long) experts, l->n_experts);
}

om_status om_mlx_banks_of(om_mlx_banks *out, const om_allocation *a, const om_hf_tensor *t,
                          om_error *err) {
    om_status status = OM_OK;
    om_bank_stack k;
    *out = (om_mlx_banks){ 0 };
    const om_expert_banks *l = om_expert_banks_find(a->banks, a->n_banked, t->name, &k);
    if (l != NULL) {
        OM_TRY(check_count(l, t->n_dims == 3 ? t->ne[2] : 1, t->name, err));
        out->order = l->order;
        out->n = l->n_banks;
        for (int b = 0; b < l->n_banks; b++) {
            out->format[b] = l->banks[b].format[k];
            out->n_experts[b] = l->banks[b].n_experts;
        }
        goto out;
    }
    l = banks_beside(a, t->name);
    if (l != NULL && strstr(t->name, "_exps.bias") != NULL) {
        OM_TRY(om_fail(err, OM_E_UNSUPPORTED,
                       "%s: experts with biases cannot lie in banks: allocate without "
                       "--expert-banks",
                       t->name));
    }
    if (l != NULL && is_router(t->name)) {
        OM_TRY(check_count(l, t->n_dims == 2 ? t->ne[1] : 0, t->name, err));
        out->order = l->order;
    }
out:
    return status;
}

om_status om_mlx_banks_check(const om_allocation *a, const om_hf *hf, om_error *err) {
    for (int i = 0; i < a->n_banked; i++) {
        const om_expert_banks *l = &a->banks[i];
        char router[96];
        const int n = (int) layer_prefix(l->name[OM_BANK_GATE]);
        (void) snprintf(router, sizeof router, "%.*sffn_gate_inp.weight", n, l->name[OM_BANK_GATE]);
        bool there = om_hf_find(hf, router) != NULL;
        for (int k = 0; k < OM_BANK_STACKS; k++) {
            there = there && om_hf_find(hf, l->name[k]) != NULL && banks_beside(a, l->name[k]) == l;
        }
        if (!there) {
            return om_fail(err, OM_E_MISMATCH,
                           "\"expert_banks\" of the allocation name %s, %s and %s, which are not "
                           "the experts of one layer of %s: it was made for another model",
                           l->name[0], l->name[1], l->name[2], om_hf_path(hf));
        }
    }
    return OM_OK;
}

size_t om_mlx_banks_further_items(const om_allocation *a) {
    size_t n = 0;
    for (int i = 0; i < a->n_banked; i++) {
        n += (size_t) (a->banks[i].n_banks - 1) * OM_BANK_STACKS;
    }
    return n;
}

int64_t om_mlx_banks_header_bytes(const om_allocation *a) {
    int64_t n = 0;
    for (int i = 0; i < a->n_banked; i++) {
        n += (int64_t) (a->banks[i].n_banks - 1) * OM_BANK_HEADER_BYTES;
    }
    return n;
}

/* ---- config.json ---- */

static om_json *experts_of(const om_expert_banks *l) {
    om_json *banks = om_json_array();
    int at = 0;
    for (int b = 0; b < l->n_banks; b++) {
        om_json *bank = om_json_array();
        for (int e = 0; e < l->banks[b].n_experts; e++) {
            om_json_push(bank, om_json_i64(l->order[at++]));
        }
        om_json_push(banks, bank);
    }
    return banks;
}

void om_mlx_banks_config(om_json *config, const om_allocation *a, const om_hf *hf) {
    const om_node source = om_node_root(om_hf_config(hf), "config.json");
    om_json *order = om_json_object();
    if (om_node_has(&source, "optimum_expert_order")) {
        om_json_remove(config, "optimum_expert_order");
        om_json_remove(config, "model_file");
    }
    for (int i = 0; i < a->n_banked; i++) {
        char module[OM_HF_PATH];
        const om_hf_tensor *t = om_hf_find(hf, a->banks[i].name[OM_BANK_GATE]);
        om_hf_stack_path(module, t->path);
        om_json_set(order, module, experts_of(&a->banks[i]));
    }
    if (a->n_banked > 0) {
        om_json_set_str(config, "model_file", OM_HF_BANKS_FILE);
        om_json_set(config, "optimum_expert_order", order);
    } else {
        om_json_free(order);
    }
}
