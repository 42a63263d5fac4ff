/* allocation + directory + statistics -> a plan: every tensor of the output with its type and
 * bytes.
 *
 * Everything that can be refused is refused here, before a weight is read. Tensors that the
 * allocation keeps as they are, and those that it does not list (norms, biases, routers), are
 * written in 16 bits: mlx-lm computes in the dtype of the scales, and one F32 tensor would make it
 * compute everything in F32. */
#include "artifact/mlx_plan.h"

#include <ggml.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "artifact/inputs.h"
#include "artifact/mlx_banks.h"
#include "artifact/mlx_config.h"
#include "base/atomic_dir.h"
#include "base/mem.h"

void om_mlx_plan_free(om_mlx_plan *plan) {
    if (plan == NULL) {
        return;
    }
    om_mlx_layout_release(&plan->layout);
    om_dir_list_free(plan->copies, plan->n_copies);
    om_free(plan->items);
    om_free(plan->layout_items);
    om_free(plan);
}

static int64_t params_of(const om_hf_tensor *t) {
    return t->ne[0] * om_hf_tensor_n_rows(t);
}

/* ---- the dtype ---- */

static bool config_says_half(const om_hf *hf) {
    static const char *const keys[] = { "torch_dtype", "dtype" };
    const om_node root = om_node_root(om_hf_config(hf), "config.json");
    om_error ignored = { 0 };
    const char *text = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (om_node_has(&root, keys[i]) && om_node_str(&text, &root, keys[i], &ignored) == OM_OK) {
            return strcmp(text, "float16") == 0;
        }
    }
    return false;
}

/* That of most weights of the source. A source of MLX's own types says it in its config.json. */
static void choose_dtype(om_mlx_plan *plan) {
    int64_t half = 0, other = 0, coded = 0;
    for (int i = 0; i < om_hf_n_tensors(plan->hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(plan->hf, i);
        int64_t *sum = t->format->mlx != OM_MLX_NONE           ? &coded
                       : t->format->ggml_type == GGML_TYPE_F16 ? &half
                                                               : &other;
        *sum += params_of(t);
        plan->cast = plan->cast || (t->may_quantize && t->format->ggml_type == GGML_TYPE_F32);
    }
    const bool f16 = coded > half + other ? config_says_half(plan->hf) : half > other;
    plan->dtype = f16 ? OM_MLX_F16 : OM_MLX_BF16;
    plan->dense = om_format_by_name(f16 ? "f16" : "bf16");
}

/* ---- items ---- */

static om_status check_target(const om_hf_tensor *t, const om_format *to, om_error *err) {
    if (!om_format_in(to, OM_CONTAINER_MLX)) {
        return om_fail(err, OM_E_MISMATCH, "%s: %s is a type of GGUF files: allocate with --to mlx",
                       t->name, to->name);
    }
    if (to->mlx != OM_MLX_NONE && !t->may_quantize) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: this tensor stays as it is (%s), the allocation says %s: remove it "
                       "from the allocation",
                       t->name, t->format->name, to->name);
    }
    return OM_OK;
}

/* The next item: a tensor, or some of its experts. */
static void add_item(om_mlx_plan *plan, const om_mlx_plan_item *from) {
    const om_hf_tensor *t = from->tensor;
    om_mlx_plan_item *item = &plan->items[plan->n_items];
    om_mlx_item *layout = &plan->layout_items[plan->n_items];
    plan->n_items++;
    *item = *from;
    *layout = (om_mlx_item){ .path = item->path, .n_dims = t->n_dims, .format = item->to };
    memcpy(layout->ne, t->ne, sizeof t->ne);
    if (item->bank >= 0) {
        layout->ne[2] = item->experts;
    }
    item->bytes = om_format_size(item->to, t->ne[0], t->ne[1] * item->experts);
    if (t->n_dims < 2) {
        item->bytes = om_format_size(item->to, t->ne[0], 1);
    }
}

static om_status plan_tensor(om_mlx_plan *plan, int i, const om_allocation *a, om_stats *stats,
                             om_error *err) {
    const om_hf_tensor *t = om_hf_tensor_at(plan->hf, i);
    om_status status = OM_OK;
    om_mlx_plan_item item = { .tensor = t, .bank = -1, .nats = (double) NAN };
    om_mlx_banks banks = { 0 };
    const om_format *to = om_allocation_find(a, t->name);
    if (to == NULL && t->may_quantize && t->ne[0] % 32 == 0) {
        OM_TRY(om_fail(err, OM_E_MISMATCH,
                       "%s is in %s but not in the allocation: it was made for another model",
                       t->name, om_hf_path(plan->hf)));
    }
    if (to != NULL) {
        OM_TRY(check_target(t, to, err));
    }
    if (t->ne[2] * t->ne[3] > INT_MAX) {
        OM_TRY(om_fail(err, OM_E_UNSUPPORTED, "%s: more than %d matrices", t->name, INT_MAX));
    }
    OM_TRY(om_mlx_banks_of(&banks, a, t, err));
    memcpy(item.path, t->path, sizeof item.path);
    item.to = to == NULL || to->mlx == OM_MLX_NONE ? plan->dense : to;
    item.experts = (int) (t->ne[2] * t->ne[3]);
    if (t->may_quantize && (item.to != t->format || banks.n > 0)) {
        OM_TRY(
            om_inputs_tensor(&item.stats, stats, t->name, t->ne[0], t->ne[1], item.experts, err));
    }
    item.order = banks.order;
    if (banks.n == 0) {
        add_item(plan, &item);
    }
    for (int b = 0; b < banks.n; b++) {
        const om_format *f = banks.format[b];
        item.bank = b;
        item.to = f->mlx == OM_MLX_NONE ? plan->dense : f;
        item.experts = banks.n_experts[b];
        om_hf_bank_path(item.path, t->path, b);
        add_item(plan, &item);
        item.order += item.experts;
    }
out:
    return status;
}

static om_status check_names(const om_hf *hf, const om_allocation *a, om_error *err) {
    for (int i = 0; i < a->n_tensors; i++) {
        if (om_hf_find(hf, a->tensors[i].name) == NULL) {
            return om_fail(err, OM_E_MISMATCH,
                           "%s is in the allocation but not in %s: it was made for another model",
                           a->tensors[i].name, om_hf_path(hf));
        }
    }
    return OM_OK;
}

static om_status plan_copies(om_mlx_plan *plan, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_mlx_copies(&plan->copies, &plan->n_copies, om_hf_path(plan->hf), err));
    for (int i = 0; i < plan->n_copies; i++) {
        char *path = om_path_join(om_hf_path(plan->hf), plan->copies[i]);
        if (path == NULL) {
            OM_TRY(om_fail_nomem(err, strlen(plan->copies[i])));
        }
        const int64_t bytes = om_file_size(path);
        plan->copies_bytes += bytes > 0 ? bytes : 0;
        om_free(path);
    }
out:
    return status;
}

/* Banks have headers of their own, for which the budget has set aside a fixed number of bytes on
 * top of those of the whole tensors. */
static om_status lay_out(om_mlx_plan *plan, int64_t limit, om_error *err) {
    om_status status = OM_OK;
    om_mlx_layout without = { 0 };
    const int n = om_hf_n_tensors(plan->hf);
    if (plan->allocation->n_banked == 0) {
        return om_mlx_layout_make(&plan->layout, plan->layout_items, plan->n_items, plan->dtype,
                                  limit, err);
    }
    om_mlx_item *whole = om_calloc((size_t) n, sizeof *whole);
    if (whole == NULL) {
        return om_fail_nomem(err, (size_t) n * sizeof *whole);
    }
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(plan->hf, i);
        whole[i] = (om_mlx_item){ .path = t->path, .n_dims = t->n_dims, .format = plan->dense };
        memcpy(whole[i].ne, t->ne, sizeof t->ne);
    }
    OM_TRY(om_mlx_layout_make(&without, whole, n, plan->dtype, limit, err));
    const int64_t metadata =
        without.total_bytes - without.data_bytes + om_mlx_banks_header_bytes(plan->allocation);
    OM_TRY(om_mlx_layout_make_in(&plan->layout, plan->layout_items, plan->n_items, plan->dtype,
                                 limit, metadata, err));
out:
    om_mlx_layout_release(&without);
    om_free(whole);
    return status;
}

om_status om_mlx_plan_make(om_mlx_plan **out, const om_hf *hf, const om_allocation *a,
                           om_stats *stats, bool search, int64_t limit, om_error *err) {
    om_status status = OM_OK;
    const int n = om_hf_n_tensors(hf);
    const size_t most = (size_t) n + om_mlx_banks_further_items(a);
    om_mlx_plan *plan = om_calloc(1, sizeof *plan);
    if (plan == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *plan));
    }
    plan->hf = hf;
    plan->allocation = a;
    plan->items = om_calloc(most, sizeof *plan->items);
    plan->layout_items = om_calloc(most, sizeof *plan->layout_items);
    if (plan->items == NULL || plan->layout_items == NULL) {
        OM_TRY(om_fail_nomem(err, most * sizeof *plan->items));
    }
    plan->search = search && stats != NULL;
    plan->stats_tokens = stats == NULL ? 0 : stats->tokens;
    choose_dtype(plan);
    OM_TRY(check_names(hf, a, err));
    OM_TRY(om_mlx_banks_check(a, hf, err));
    for (int i = 0; i < n; i++) {
        OM_TRY(plan_tensor(plan, i, a, stats, err));
    }
    OM_TRY(lay_out(plan, limit, err));
    OM_TRY(plan_copies(plan, err));
    *out = plan;
    plan = NULL;
out:
    om_mlx_plan_free(plan);
    return status;
}

om_mlx_job om_mlx_plan_job(const om_mlx_plan *plan, const om_mlx_plan_item *item,
                           const float *importance) {
    const bool known = item->stats != NULL && item->stats->rows != NULL && plan->stats_tokens > 0;
    return (om_mlx_job){
        .hf = plan->hf,
        .tensor = item->tensor,
        .to = item->to,
        .dtype = plan->dtype,
        .importance = plan->search ? importance : NULL,
        .cols = known ? item->stats->cols : NULL,
        .order = item->order,
    };
}

/* ---- is it the same model? ---- */

static om_status check_tensor(const om_hf *hf, const om_assignment *a, om_error *err) {
    om_status status = OM_OK;
    const om_hf_tensor *t = om_hf_find(hf, a->name);
    int64_t rows[OM_PROBE_ROWS];
    om_probe probe = { 0 };
    float *row = om_calloc((size_t) t->ne[0], sizeof *row);
    if (row == NULL) {
        return om_fail_nomem(err, (size_t) t->ne[0] * sizeof *row);
    }
    om_probe_rows(rows, t->name, params_of(t) / t->ne[0]);
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        OM_TRY(om_hf_rows_f32(row, hf, t, OM_HF_GGUF, rows[k], 1, err));
        om_probe_look(&probe, k, t->name, row, t->ne[0]);
    }
    if (!om_probe_agrees(&probe, &a->probe)) {
        OM_TRY(om_fail(err, OM_E_MISMATCH,
                       "%s: the weights in %s are not those that were profiled: give the directory "
                       "of that model, or profile and allocate for this one",
                       t->name, om_hf_path(hf)));
    }
out:
    om_free(row);
    return status;
}

om_status om_mlx_plan_check_model(const om_hf *hf, const om_allocation *a, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < a->n_tensors; i++) {
        if (a->tensors[i].probe.known) {
            OM_TRY(check_tensor(hf, &a->tensors[i], err));
        }
    }
out:
    return status;
}

/* ---- for people ---- */

void om_mlx_plan_print(om_buf *out, const om_mlx_plan *plan) {
    int width = 6;
    for (int i = 0; i < plan->n_items; i++) {
        const int n = (int) strlen(plan->items[i].path);
        width = n > width ? n : width;
    }
    om_buf_printf(out, "%-*s  %-20s %-12s %-12s %14s\n", width, "tensor", "shape", "from", "to",
                  "bytes");
    for (int i = 0; i < plan->n_items; i++) {
        const om_mlx_plan_item *item = &plan->items[i];
        const om_hf_tensor *t = item->tensor;
        om_buf shape = { 0 };
        for (int k = 0; k < t->n_dims; k++) {
            om_buf_printf(&shape, k == 0 ? "%" PRId64 : " x %" PRId64, plan->layout_items[i].ne[k]);
        }
        om_buf_printf(out, "%-*s  %-20s %-12s %-12s %14" PRId64 "\n", width, item->path,
                      shape.data == NULL ? "" : shape.data, t->format->name, item->to->name,
                      item->bytes);
        om_buf_release(&shape);
    }
    om_buf_printf(out, "%-*s  %-20s %-12s %-12s %14" PRId64 "\n", width,
                  "all shards, headers included", "", "", "", plan->layout.total_bytes);
}

/* Nanoseconds per weight on one core, measured once on a shared two-core x86 server; only for the
 * estimate, which is rounded up. */
double om_mlx_plan_seconds(const om_mlx_plan *plan, int n_threads) {
    const double plain_ns = 3, search_ns = 45;
    double ns = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const om_mlx_plan_item *item = &plan->items[i];
        const int64_t *ne = plan->layout_items[i].ne;
        const double params = (double) (ne[0] * ne[1] * ne[2] * ne[3]);
        if (item->to->mlx != OM_MLX_NONE) {
            const bool searched =
                plan->search && item->stats != NULL && item->stats->in_sum2 != NULL;
            ns += (searched ? search_ns : plain_ns) * params / n_threads;
        }
        ns += 2 * params; /* 1 GB/s to read and hash */
    }
    return ns * 1e-9;
}
