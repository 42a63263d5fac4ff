/* A GGUF's tensor table into what can be done with it: the verb om_inspect.
 *
 * Reads headers only. Its point is to say "no" early: types that a tensor's shape excludes, and
 * budgets below the smallest file, are known before hours of profiling.
 */
#include "model/inspect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/candidates.h"

static double bits_per_weight(const om_model *model, int64_t bytes) {
    return (double) bytes * 8.0 / (double) om_model_params(model);
}

static int catalogue_index(const om_format *f) {
    for (int i = 0; om_format_at(i) != NULL; i++) {
        if (om_format_at(i) == f) {
            return i;
        }
    }
    return 0;
}

static uint64_t bit_of(const om_format *f) {
    return (uint64_t) 1 << catalogue_index(f);
}

/* The entry of a role, made when it is new. */
static om_role_info *role_of(om_inspection *in, const om_tensor *t) {
    for (int i = 0; i < in->n_roles; i++) {
        if (strcmp(in->roles[i].role, t->role) == 0) {
            return &in->roles[i];
        }
    }
    if (in->n_roles == OM_INSPECT_ROLES) {
        om_role_info *rest = &in->roles[OM_INSPECT_ROLES - 1];
        rest->role = "(others)";
        return rest;
    }
    om_role_info *r = &in->roles[in->n_roles++];
    *r = (om_role_info){ .role = t->role, .row = t->ne[0], .candidates = UINT64_MAX };
    return r;
}

static om_status add_tensor(om_inspection *in, const om_tensor *t, om_error *err) {
    const om_format *types[OM_CANDIDATES_MAX];
    int n = 0;
    om_status status = om_candidates(types, &n, OM_CANDIDATES_MAX, t, NULL, OM_FOR_GGUF, err);
    if (status != OM_OK) {
        return status;
    }
    int64_t rows = om_tensor_n_rows(t), alignment = om_gguf_alignment(in->model);
    int64_t smallest = om_format_size(types[0], t->ne[0], rows);
    int64_t largest_quantized = om_format_size(types[n > 1 ? n - 2 : 0], t->ne[0], rows);
    om_role_info *r = role_of(in, t);
    r->n_tensors++;
    r->n_quantizable += t->may_quantize;
    r->params += om_tensor_params(t);
    r->bytes += t->bytes;
    r->smallest_bytes += om_pad(smallest, alignment);
    r->row = r->row == t->ne[0] ? r->row : 0;
    r->sources |= bit_of(t->format);
    uint64_t mask = 0;
    for (int i = 0; i < n; i++) {
        mask |= bit_of(types[i]);
    }
    r->candidates &= mask;
    const om_format *f;
    for (int i = 0; t->may_quantize && (f = om_format_at(i)) != NULL; i++) {
        if (f->use == OM_FORMAT_COMMON && t->ne[0] % f->block != 0) {
            r->excluded |= bit_of(f);
        }
    }
    in->smallest_bytes += om_pad(smallest, alignment);
    in->largest_bytes += om_pad(t->bytes, alignment);
    in->largest_quantized_bytes += om_pad(largest_quantized, alignment);
    return OM_OK;
}

static om_status gather(om_inspection *in, const om_budget *budget, const om_env *env,
                        om_error *err) {
    om_status status = OM_OK;
    in->roles = om_calloc(OM_INSPECT_ROLES, sizeof *in->roles);
    if (in->roles == NULL) {
        return om_fail_nomem(err, OM_INSPECT_ROLES * sizeof *in->roles);
    }
    in->metadata_bytes = om_gguf_metadata_bytes(in->model);
    in->smallest_bytes = in->largest_bytes = in->largest_quantized_bytes = in->metadata_bytes;
    for (int i = 0; i < om_model_n_tensors(in->model); i++) {
        OM_TRY(add_tensor(in, om_model_tensor(in->model, i), err));
    }
    OM_TRY(om_memory_of(&in->memory, in->model, env, err));
    in->budget = *budget;
    in->n_ctx = budget->n_ctx > 0 ? budget->n_ctx : 4096;
    in->kv_type = budget->kv_type != NULL ? budget->kv_type : "f16";
    in->reserve_bytes = budget->reserve_bytes > 0 ? budget->reserve_bytes : 256 << 20;
    in->kv_bytes = om_memory_kv_bytes(&in->memory, in->n_ctx, in->kv_type);
    in->compute_bytes = om_memory_compute_bytes(&in->memory, in->n_ctx);
    if (budget->kind != OM_BUDGET_NONE) {
        status = om_budget_file_bytes(&in->budget_file_bytes, budget, &in->memory,
                                      om_model_params(in->model), err);
        if (status == OM_E_INFEASIBLE) { /* check_budget knows the smallest file and says more */
            *err = (om_error){ 0 };
            status = OM_OK;
        }
    }
out:
    return status;
}

/* The two roles that take most of the smallest file, for the message. */
static void describe_minimum(char text[160], const om_inspection *in) {
    const om_role_info *first = NULL, *second = NULL;
    for (int i = 0; i < in->n_roles; i++) {
        const om_role_info *r = &in->roles[i];
        if (first == NULL || r->smallest_bytes > first->smallest_bytes) {
            second = first;
            first = r;
        } else if (second == NULL || r->smallest_bytes > second->smallest_bytes) {
            second = r;
        }
    }
    double whole = (double) in->smallest_bytes / 100.0;
    int n = snprintf(text, 160, "%s takes %.0f %%", first->role,
                     (double) first->smallest_bytes / whole);
    if (second != NULL && n > 0 && n < 160) {
        snprintf(text + n, (size_t) (160 - n), ", %s %.0f %%", second->role,
                 (double) second->smallest_bytes / whole);
    }
}

/* OM_E_INFEASIBLE in the terms in which the budget was given. */
static om_status check_budget(const om_inspection *in, om_error *err) {
    if (in->budget.kind == OM_BUDGET_NONE || in->budget_file_bytes >= in->smallest_bytes) {
        return OM_OK;
    }
    char why[160], need[48], size[32], allowed[32];
    describe_minimum(why, in);
    int64_t memory = in->smallest_bytes + in->kv_bytes + in->compute_bytes + in->reserve_bytes;
    if (in->budget.kind == OM_BUDGET_BPW) {
        double bpw = ceil(bits_per_weight(in->model, in->smallest_bytes) * 1000.0) / 1000.0;
        snprintf(need, sizeof need, "%.3f bits per weight", bpw);
    } else {
        bool is_memory = in->budget.kind == OM_BUDGET_MEMORY;
        snprintf(need, sizeof need, "%lld bytes of %s",
                 (long long) (is_memory ? memory : in->smallest_bytes),
                 is_memory ? "memory" : "file size");
    }
    return om_fail(err, OM_E_INFEASIBLE,
                   "the budget %s%s, the smallest possible one has %s (%s): give at least %s%s",
                   in->budget_file_bytes > 0 ? "allows a file of " : "leaves no room for a file",
                   in->budget_file_bytes > 0
                       ? om_format_bytes(allowed, (double) in->budget_file_bytes, false)
                       : "",
                   om_format_bytes(size, (double) in->smallest_bytes, false), why, need,
                   in->budget.kind == OM_BUDGET_MEMORY ? ", or a shorter context" : "");
}

om_status om_inspect(om_result *out, const om_inspect_options *options, const om_env *env,
                     om_error *err) {
    om_status status = OM_OK;
    om_model *model = NULL;
    om_inspection in = { 0 };
    char *text = NULL, *json = NULL;
    if (options->model == NULL) {
        return om_fail(err, OM_E_ARG, "expected the path of a GGUF model");
    }
    OM_TRY(om_check_cancel(env, err));
    OM_TRY(om_model_open(&model, options->model, err));
    in.model = model;
    OM_TRY(gather(&in, &options->budget, env, err));
    OM_TRY(check_budget(&in, err));
    text = om_inspection_text(&in);
    json = om_inspection_json(&in);
    if (text == NULL || json == NULL) {
        status = om_fail_nomem(err, 1 << 16);
        goto out;
    }
    *out = (om_result){ .json = json, .text = text };
    text = json = NULL;
out:
    if (status != OM_OK) {
        om_error_context(err, "inspect");
    }
    om_free(text);
    om_free(json);
    om_free(in.roles);
    om_memory_release(&in.memory);
    om_model_free(model);
    return status;
}
