/* allocation + model + statistics -> a plan: every tensor of the output with type, offset and size.
 *
 * Everything that can be refused is refused here, before a weight is read: names, blocks, missing
 * importance, shapes of the statistics. The size is exact: om_gguf_metadata_bytes plus every tensor
 * padded to the alignment, which is how the file is laid out (model/gguf.h). */
#include "artifact/plan.h"

#include <ggml.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "artifact/inputs.h"
#include "base/mem.h"
#include "model/roles.h"

void om_plan_free(om_plan *plan) {
    if (plan == NULL) {
        return;
    }
    om_free(plan->items);
    om_free(plan->types);
    om_free(plan);
}

static om_status check_target(const om_plan_item *item, om_error *err) {
    const om_tensor *t = item->tensor;
    if (item->to == t->format) {
        return OM_OK;
    }
    if (!t->may_quantize) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: llama.cpp needs this tensor as it is (%s), the allocation says %s: "
                       "remove it from the allocation",
                       t->name, t->format->name, item->to->name);
    }
    if (item->to->use == OM_FORMAT_SOURCE) {
        return om_fail(err, OM_E_MISMATCH, "%s: %s is not a type to write; expected one of %s",
                       t->name, item->to->name, om_format_list());
    }
    if (om_format_size(item->to, t->ne[0], om_tensor_n_rows(t)) < 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: rows of %" PRId64 " weights cannot be %s (blocks of %d): choose "
                       "another type for it",
                       t->name, t->ne[0], item->to->name, item->to->block);
    }
    return OM_OK;
}

/* The tensor's entry in the statistics, with the model's shape. */
static om_status attach_stats(om_plan_item *item, om_stats *stats, om_error *err) {
    const om_tensor *t = item->tensor;
    om_status status = OM_OK;
    OM_TRY(om_inputs_tensor(&item->stats, stats, t->name, t->ne[0], t->ne[1], item->experts, err));
    if ((item->to->needs_imatrix ||
         ggml_quantize_requires_imatrix((enum ggml_type) item->to->ggml_type)) &&
        (item->stats == NULL || item->stats->in_sum2 == NULL)) {
        OM_TRY(om_fail(err, OM_E_MISMATCH,
                       "%s: %s needs importance statistics and %s; give --stats or --imatrix, or "
                       "choose another type for it",
                       t->name, item->to->name,
                       stats == NULL ? "none are given" : "the file has none for this tensor"));
    }
out:
    return status;
}

static om_status check_names(const om_model *model, const om_allocation *a, om_error *err) {
    for (int i = 0; i < a->n_tensors; i++) {
        if (om_model_find(model, a->tensors[i].name) == NULL) {
            return om_fail(err, OM_E_MISMATCH,
                           "%s is in the allocation but not in %s: it was made for another model "
                           "(sha256 %s)",
                           a->tensors[i].name, om_model_path(model), a->model_sha256);
        }
    }
    return OM_OK;
}

static om_status plan_item(om_plan *plan, int i, const om_allocation *a, om_stats *stats,
                           om_error *err) {
    om_plan_item *item = &plan->items[i];
    const om_tensor *t = om_model_tensor(plan->model, i);
    om_status status = OM_OK;
    const om_format *to = om_allocation_find(a, t->name);
    item->tensor = t;
    item->to = to == NULL ? t->format : to;
    item->nats = (double) NAN;
    if (t->ne[2] * t->ne[3] > INT_MAX) {
        OM_TRY(om_fail(err, OM_E_UNSUPPORTED, "%s: more than %d matrices", t->name, INT_MAX));
    }
    item->experts = (int) (t->ne[2] * t->ne[3]);
    OM_TRY(check_target(item, err));
    if (item->to != t->format) {
        OM_TRY(attach_stats(item, stats, err));
    }
    item->bytes =
        item->to == t->format ? t->bytes : om_format_size(item->to, t->ne[0], om_tensor_n_rows(t));
    item->offset = plan->file_bytes;
    plan->file_bytes += om_pad(item->bytes, plan->alignment);
    plan->types[i] = item->to;
out:
    return status;
}

om_status om_plan_make(om_plan **out, const om_model *model, const om_allocation *a,
                       om_stats *stats, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(model);
    om_plan *plan = om_calloc(1, sizeof *plan);
    if (plan == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *plan));
    }
    plan->model = model;
    plan->items = om_calloc((size_t) n, sizeof *plan->items);
    plan->types = om_calloc((size_t) n, sizeof *plan->types);
    if (plan->items == NULL || plan->types == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n * sizeof *plan->items));
    }
    plan->n_items = n;
    plan->alignment = om_gguf_alignment(model);
    plan->metadata_bytes = om_gguf_metadata_bytes(model);
    plan->file_bytes = plan->metadata_bytes;
    plan->stats_tokens = stats == NULL ? 0 : stats->tokens;
    OM_TRY(check_names(model, a, err));
    for (int i = 0; i < n; i++) {
        OM_TRY(plan_item(plan, i, a, stats, err));
    }
    *out = plan;
    plan = NULL;
out:
    om_plan_free(plan);
    return status;
}

void om_plan_print(om_buf *out, const om_plan *plan) {
    int width = 6;
    for (int i = 0; i < plan->n_items; i++) {
        const int n = (int) strlen(plan->items[i].tensor->name);
        width = n > width ? n : width;
    }
    om_buf_printf(out, "%-*s  %-22s  %-6s  %-8s  %14s\n", width, "tensor", "shape", "from", "to",
                  "bytes");
    for (int i = 0; i < plan->n_items; i++) {
        const om_plan_item *item = &plan->items[i];
        const om_tensor *t = item->tensor;
        char shape[96];
        int n = snprintf(shape, sizeof shape, "%" PRId64, t->ne[0]);
        for (int d = 1; d < t->n_dims && d < 4; d++) {
            n += snprintf(shape + n, sizeof shape - (size_t) n, " x %" PRId64, t->ne[d]);
        }
        om_buf_printf(out, "%-*s  %-22s  %-6s  %-8s  %14" PRId64 "\n", width, t->name, shape,
                      t->format->name, item->to == t->format ? "(copy)" : item->to->name,
                      item->bytes);
    }
    om_buf_printf(out, "%-*s  %-22s  %-6s  %-8s  %14" PRId64 "\n", width,
                  "whole file, padding and metadata included", "", "", "", plan->file_bytes);
}

/* ---- how long ---- */

/* Nanoseconds per weight on one core, ggml's quantizers with importance, measured once on a shared
 * two-core x86 server; only for the estimate, which is rounded up. */
static const struct {
    const char *name;
    double ns;
} rates[] = {
    { "q8_0", 5 },     { "q4_0", 29 },    { "q4_1", 120 },    { "q5_0", 29 },   { "q5_1", 120 },
    { "q2_K", 140 },   { "q3_K", 36 },    { "q4_K", 110 },    { "q5_K", 110 },  { "q6_K", 29 },
    { "iq4_nl", 180 }, { "iq4_xs", 180 }, { "iq3_xxs", 450 }, { "iq3_s", 310 }, { "iq2_xxs", 370 },
    { "iq2_xs", 730 }, { "iq2_s", 220 },
};

static double rate_of(const om_format *format) {
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        if (strcmp(rates[i].name, format->name) == 0) {
            return rates[i].ns;
        }
    }
    return 100;
}

double om_plan_seconds(const om_plan *plan, int n_threads) {
    double ns = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const om_plan_item *item = &plan->items[i];
        if (item->to != item->tensor->format) {
            ns += rate_of(item->to) * (double) om_tensor_params(item->tensor) / n_threads;
        }
        ns += (double) item->tensor->bytes; /* 1 GB/s to read and hash */
    }
    return ns * 1e-9;
}
