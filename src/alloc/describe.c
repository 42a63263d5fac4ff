/* An allocation as tables: what each type holds, what each costs, where the loss sits. */
#include "alloc/describe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { N_COSTLIEST = 10, MAX_ROWS = 64 };

/* What one type holds. */
typedef struct type_row {
    const om_format *format;
    int tensors;
    int64_t params, bytes;
    double nats;
} type_row;

static int compare_rows(const void *a, const void *b) {
    const type_row *x = a, *y = b;
    double i = om_format_bpw(x->format), j = om_format_bpw(y->format);
    if (i < j || j < i) {
        return i > j ? -1 : 1;
    }
    return strcmp(x->format->name, y->format->name);
}

/* The rows so far [*n] and one more part of a tensor. */
static void add_part(type_row rows[MAX_ROWS], int *n, const type_row *part) {
    int row = 0;
    while (row < *n && rows[row].format != part->format) {
        row++;
    }
    if (row == MAX_ROWS) {
        return; /* more types than the catalogue has: cannot be */
    }
    if (row == *n) {
        rows[(*n)++] = (type_row){ .format = part->format };
    }
    rows[row].tensors++;
    rows[row].params += part->params;
    rows[row].bytes += part->bytes;
    rows[row].nats += part->nats;
}

/* A stack in banks is a tensor for each of them. */
static void add_banks(type_row rows[MAX_ROWS], int *n, const om_expert_banks *layer,
                      om_bank_stack k, const om_unit *u) {
    for (int b = 0; b < layer->n_banks; b++) {
        const om_bank *bank = &layer->banks[b];
        const int64_t n_rows = u->n_out * bank->n_experts;
        const type_row part = { .format = bank->format[k],
                                .params = u->n_in * n_rows,
                                .bytes = om_format_size(bank->format[k], u->n_in, n_rows),
                                .nats = bank->nats[k] };
        add_part(rows, n, &part);
    }
}

static int sum_types(type_row rows[MAX_ROWS], const om_allocation *a, const om_profile *p) {
    int n = 0;
    for (int i = 0; i < a->n_tensors; i++) {
        const om_unit *u = &p->units[i];
        const om_choice *c = om_unit_choice(u, a->tensors[i].format);
        om_bank_stack k;
        const om_expert_banks *layer = om_expert_banks_find(a->banks, a->n_banked, u->name, &k);
        if (layer != NULL) {
            add_banks(rows, &n, layer, k, u);
            continue;
        }
        const type_row part = { .format = c->format,
                                .params = u->params,
                                .bytes = om_pad(c->bytes, p->alignment),
                                .nats = c->nats };
        add_part(rows, &n, &part);
    }
    qsort(rows, (size_t) n, sizeof *rows, compare_rows);
    return n;
}

/* Predicted for one tensor, of a stack in banks for all of it. */
static double nats_of(const om_allocation *a, const om_profile *p, int i) {
    om_bank_stack k;
    double nats = 0.0;
    const om_expert_banks *layer =
        om_expert_banks_find(a->banks, a->n_banked, a->tensors[i].name, &k);
    if (layer == NULL) {
        return om_unit_choice(&p->units[i], a->tensors[i].format)->nats;
    }
    for (int b = 0; b < layer->n_banks; b++) {
        nats += layer->banks[b].nats[k];
    }
    return nats;
}

static const char *type_of(const om_allocation *a, int i) {
    const om_assignment *t = &a->tensors[i];
    return om_expert_banks_find(a->banks, a->n_banked, t->name, NULL) != NULL ? "banks"
                                                                              : t->format->name;
}

/* Indices of the tensors that cost most, at most N_COSTLIEST, without those that cost nothing. */
static int find_costliest(int out[N_COSTLIEST], const om_allocation *a, const om_profile *p) {
    double nats[N_COSTLIEST];
    int n = 0;
    for (int i = 0; i < a->n_tensors; i++) {
        const double cost = nats_of(a, p, i);
        if (cost <= 0.0 || (n == N_COSTLIEST && cost <= nats[n - 1])) {
            continue;
        }
        int at = n < N_COSTLIEST ? n++ : n - 1;
        for (; at > 0 && nats[at - 1] < cost; at--) {
            nats[at] = nats[at - 1];
            out[at] = out[at - 1];
        }
        nats[at] = cost;
        out[at] = i;
    }
    return n;
}

static void describe_types(om_buf *out, const om_allocation *a, const om_profile *p) {
    type_row rows[MAX_ROWS];
    char size[32];
    int n = sum_types(rows, a, p);
    om_buf_puts(out, "type      tensors      parameters         bytes            nats\n");
    for (int i = 0; i < n; i++) {
        om_buf_printf(out, "%-8s %8d %15lld %13s %15.6g\n", rows[i].format->name, rows[i].tensors,
                      (long long) rows[i].params,
                      om_format_bytes(size, (double) rows[i].bytes, false), rows[i].nats);
    }
    om_buf_printf(
        out, "%-8s %8d %15s %13s\n", "copied", p->n_fixed, "",
        om_format_bytes(size, (double) (om_profile_fixed_bytes(p) - p->metadata_bytes), false));
    int64_t metadata = p->metadata_bytes;
    for (int i = 0; i < a->n_banked; i++) {
        metadata += (int64_t) (a->banks[i].n_banks - 1) * OM_BANK_HEADER_BYTES;
    }
    om_buf_printf(out, "%-8s %8s %15s %13s\n", "metadata", "", "",
                  om_format_bytes(size, (double) metadata, false));
}

static void describe_costliest(om_buf *out, const om_allocation *a, const om_profile *p) {
    int at[N_COSTLIEST];
    int n = find_costliest(at, a, p);
    if (n == 0) {
        return;
    }
    om_buf_puts(out, "\nWhere the loss sits\n        nats   share  type      tensor\n");
    for (int i = 0; i < n; i++) {
        const double nats = nats_of(a, p, at[i]);
        om_buf_printf(out, "%12.6g  %5.1f%%  %-8s  %s\n", nats, 100.0 * nats / a->predicted_nats,
                      type_of(a, at[i]), a->tensors[at[i]].name);
    }
    if (a->routing_nats > 0.0) {
        om_buf_printf(out,
                      "%12.6g  %5.1f%%  %-8s  changed choices of experts, all tensors together\n",
                      a->routing_nats, 100.0 * a->routing_nats / a->predicted_nats, "");
    }
}

static void describe_active(om_buf *out, const om_allocation *a, double bandwidth_bytes_s) {
    char size[32], rate[32];
    om_buf_printf(out, "Reads %s (%lld bytes) of weights per token",
                  om_format_bytes(size, (double) a->active_bytes, false),
                  (long long) a->active_bytes);
    if (a->max_active_bytes > 0) {
        om_buf_printf(out, ", limit %lld bytes", (long long) a->max_active_bytes);
    }
    if (bandwidth_bytes_s > 0.0 && a->active_bytes > 0) {
        om_buf_printf(out, "; at %s/s at most %.4g tokens per second (weights alone, a ceiling)",
                      om_format_bytes(rate, bandwidth_bytes_s, false),
                      bandwidth_bytes_s / (double) a->active_bytes);
    }
    om_buf_puts(out, "\n");
}

/* The costs of single experts are kept in F32, so equal plans differ by rounding: that is no cost.
 */
static double projection_nats(const om_projection *p) {
    const double nats = p->stack_nats - p->per_expert_nats;
    return fabs(nats) > 1e-6 * p->stack_nats ? nats : 0.0;
}

void om_describe_projection(om_buf *out, const om_projection *p) {
    char size[32], stacks[32];
    if (p->others == NULL) {
        om_buf_puts(out, "Every tensor begins in its smallest type: the budget takes no more\n");
        return;
    }
    om_buf_puts(out, "Experts by cluster:");
    for (int c = 0; c < OM_EXPERT_CLUSTERS; c++) {
        om_buf_printf(out, "%s %d in %s", c > 0 ? "," : "", p->n_experts[c], p->precision[c]->name);
    }
    om_buf_printf(out, "; all other tensors in %s\n", p->others->name);
    om_buf_printf(out,
                  "That is %s and %.4g nats with a type per expert%s; with one per stack, %s and "
                  "%.4g nats: the projection costs %.4g nats and %lld bytes\n",
                  om_format_bytes(size, (double) p->per_expert_bytes, false), p->per_expert_nats,
                  p->measured ? "" : " (estimated from traces)",
                  om_format_bytes(stacks, (double) p->stack_bytes, false), p->stack_nats,
                  projection_nats(p), (long long) (p->stack_bytes - p->per_expert_bytes));
    om_buf_puts(out,
                "What the budget leaves is then filled up, the most sensitive stack first\n\n");
}

om_json *om_projection_json(const om_projection *p) {
    om_json *doc = om_json_object(), *clusters = om_json_array();
    for (int c = 0; c < OM_EXPERT_CLUSTERS && p->others != NULL; c++) {
        om_json *cluster = om_json_object();
        om_json_set_str(cluster, "type", p->precision[c]->name);
        om_json_set_i64(cluster, "experts", p->n_experts[c]);
        om_json_push(clusters, cluster);
    }
    om_json_set(doc, "clusters", clusters);
    if (p->others != NULL) {
        om_json_set_str(doc, "others", p->others->name);
    }
    om_json_set_i64(doc, "per_expert_bytes", p->per_expert_bytes);
    om_json_set_f64(doc, "per_expert_nats", p->per_expert_nats);
    om_json_set_i64(doc, "stack_bytes", p->stack_bytes);
    om_json_set_f64(doc, "stack_nats", p->stack_nats);
    om_json_set_f64(doc, "cost_nats", projection_nats(p));
    om_json_set_bool(doc, "measured", p->measured);
    return doc;
}

void om_describe_allocation(om_buf *out, const om_allocation *a, const om_profile *p,
                            double bandwidth_bytes_s) {
    char size[32], limit[32];
    om_buf_printf(out, "Plan %s: %s (%lld bytes), %.3f bits per weight, predicted loss %.4g nats\n",
                  a->plan, om_format_bytes(size, (double) a->bytes, false), (long long) a->bytes,
                  a->bpw, a->predicted_nats);
    if (a->budget_bytes > 0) {
        om_buf_printf(out, "Budget %s (%lld bytes), %lld bytes unused\n",
                      om_format_bytes(limit, (double) a->budget_bytes, false),
                      (long long) a->budget_bytes, (long long) (a->budget_bytes - a->bytes));
    }
    describe_active(out, a, bandwidth_bytes_s);
    if (strcmp(a->plan, "optimal") == 0) {
        if (a->solver.gap < 1e-9) {
            om_buf_printf(out, "Proven optimal in %.2f s\n", a->solver.seconds);
        } else {
            om_buf_printf(out, "Proven to lie within %.1e of the optimum in %.2f s\n",
                          a->solver.gap, a->solver.seconds);
        }
    }
    om_buf_puts(out, "\n");
    describe_types(out, a, p);
    describe_costliest(out, a, p);
}

void om_describe_banks(om_buf *out, const om_allocation *a, double stack_nats) {
    om_buf_printf(out, "\n%-28s %-14s %-14s %s\n", "Banks of experts", "gate", "up", "down");
    for (int i = 0; i < a->n_banked; i++) {
        const om_expert_banks *l = &a->banks[i];
        for (int b = 0; b < l->n_banks; b++) {
            om_buf_printf(out, "%-22s %4d  %-14s %-14s %s\n", b == 0 ? l->name[OM_BANK_GATE] : "",
                          l->banks[b].n_experts, l->banks[b].format[OM_BANK_GATE]->name,
                          l->banks[b].format[OM_BANK_UP]->name,
                          l->banks[b].format[OM_BANK_DOWN]->name);
        }
    }
    if (a->n_banked == 0) {
        om_buf_puts(out, "none: they gain nothing under these limits\n");
        return;
    }
    om_buf_printf(out,
                  "One type per stack would lose %.4g nats: banks save %.1f%% of it, predicted\n"
                  "mlx-lm runs this model only with --trust-remote-code (Python: "
                  "trust_remote_code=True), because it brings its own module\n",
                  stack_nats, 100.0 * (1.0 - a->predicted_nats / stack_nats));
}

void om_describe_json(om_json *doc, const om_allocation *a, const om_profile *p,
                      double bandwidth_bytes_s) {
    type_row rows[MAX_ROWS];
    int at[N_COSTLIEST];
    om_json *types = om_json_array(), *costliest = om_json_array();
    int n = sum_types(rows, a, p);
    for (int i = 0; i < n; i++) {
        om_json *row = om_json_object();
        om_json_set_str(row, "type", rows[i].format->name);
        om_json_set_i64(row, "tensors", rows[i].tensors);
        om_json_set_i64(row, "params", rows[i].params);
        om_json_set_i64(row, "bytes", rows[i].bytes);
        om_json_set_f64(row, "nats", rows[i].nats);
        om_json_push(types, row);
    }
    n = find_costliest(at, a, p);
    for (int i = 0; i < n; i++) {
        om_json *row = om_json_object();
        om_json_set_str(row, "name", a->tensors[at[i]].name);
        om_json_set_str(row, "type", type_of(a, at[i]));
        om_json_set_f64(row, "nats", nats_of(a, p, at[i]));
        om_json_push(costliest, row);
    }
    if (a->budget_bytes > 0) {
        om_json_set_i64(doc, "slack_bytes", a->budget_bytes - a->bytes);
    }
    if (bandwidth_bytes_s > 0.0 && a->active_bytes > 0) {
        om_json_set_f64(doc, "bandwidth_bytes_s", bandwidth_bytes_s);
        om_json_set_f64(doc, "tok_s_ceiling", bandwidth_bytes_s / (double) a->active_bytes);
    }
    om_json_set(doc, "types", types);
    om_json_set(doc, "costliest", costliest);
}

void om_describe_curve(om_buf *out, const om_curve_point *points, int n) {
    char size[32], active[32];
    om_buf_printf(out, "%-10s %12s %8s %12s %14s\n", "", "size", "bpw", "nats", "read per token");
    for (int i = 0; i < n; i++) {
        om_buf_printf(
            out, "%-10s %12s %8.3f %12.5g %14s\n", points[i].name != NULL ? points[i].name : "",
            om_format_bytes(size, (double) points[i].bytes, false), points[i].bpw, points[i].nats,
            om_format_bytes(active, (double) points[i].active_bytes, false));
    }
}

om_json *om_curve_json(const om_curve_point *points, int n) {
    om_json *array = om_json_array();
    for (int i = 0; i < n; i++) {
        om_json *point = om_json_object();
        if (points[i].name != NULL) {
            om_json_set_str(point, "name", points[i].name);
        }
        om_json_set_i64(point, "bytes", points[i].bytes);
        om_json_set_i64(point, "active_bytes", points[i].active_bytes);
        om_json_set_f64(point, "bpw", points[i].bpw);
        om_json_set_f64(point, "nats", points[i].nats);
        om_json_push(array, point);
    }
    return array;
}
