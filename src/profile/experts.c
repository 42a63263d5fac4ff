/* Per-expert arrays of a profile -> one list and figures over it: see experts.h.
 *
 * Gini coefficient of x_1 <= … <= x_n (Gini, 1912): 2 sum_i i x_i / (n sum_i x_i) - (n + 1) / n.
 */
#include "profile/experts.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

#define MAX_DECADES 5.0 /* of a scale; what is below is as good as the lowest */
#define MAX_VALUE 1e290 /* a damaged profile's numbers must not make a sum infinite */

/* ---- the list ---- */

static int by_row(const void *a, const void *b) {
    const om_unit *p = *(const om_unit *const *) a, *q = *(const om_unit *const *) b;
    if (p->layer != q->layer) {
        return p->layer < q->layer ? -1 : 1;
    }
    if (p->experts != q->experts) {
        return p->experts > q->experts ? -1 : 1;
    }
    return p < q ? -1 : p > q;
}

/* The stacks that have something to say, stacks of one row next to each other. */
static om_status sorted_stacks(const om_unit ***out, int *n, const om_profile *p, om_error *err) {
    const om_unit **stacks = om_calloc((size_t) p->n_units, sizeof *stacks);
    if (!stacks) {
        return om_fail_nomem(err, (size_t) p->n_units * sizeof *stacks);
    }
    *n = 0;
    for (int i = 0; i < p->n_units; i++) {
        if (p->units[i].expert.trace) {
            stacks[(*n)++] = &p->units[i];
        }
    }
    qsort(stacks, (size_t) *n, sizeof *stacks, by_row);
    *out = stacks;
    return OM_OK;
}

static bool same_row(const om_unit *a, const om_unit *b) {
    return a->layer == b->layer && a->experts == b->experts;
}

static void add_stack(om_expert *row, const om_unit *u) {
    const om_expert_stats *s = &u->expert;
    for (int i = 0; i < u->experts; i++) {
        om_expert *e = &row[i];
        e->layer = u->layer;
        e->expert = i;
        e->trace += fmin(s->trace[i], MAX_VALUE);
        e->tokens = fmax(e->tokens, fmin(s->tokens[i], MAX_VALUE));
        e->router_weight = fmax(e->router_weight, fmin(s->router_weight[i], MAX_VALUE));
        e->windows = fmax(e->windows, fmin(s->windows[i], MAX_VALUE));
    }
}

om_status om_experts_of(om_experts *out, const om_profile *profile, om_error *err) {
    om_status status = OM_OK;
    const om_unit **stacks = NULL;
    int n_stacks = 0;
    *out = (om_experts){ 0 };
    OM_TRY(sorted_stacks(&stacks, &n_stacks, profile, err));
    for (int i = 0; i < n_stacks; i++) {
        if (i == 0 || !same_row(stacks[i - 1], stacks[i])) {
            out->n_rows++;
            out->n += stacks[i]->experts; /* the file names each: far below 2^31 */
        }
    }
    out->all = om_calloc((size_t) out->n, sizeof *out->all);
    out->rows = om_calloc((size_t) out->n_rows, sizeof *out->rows);
    if (!out->all || !out->rows) {
        OM_TRY(om_fail_nomem(err, (size_t) out->n * sizeof *out->all));
    }
    om_expert *row = out->all;
    for (int i = 0, r = -1; i < n_stacks; i++) {
        const om_unit *u = stacks[i];
        if (i == 0 || !same_row(stacks[i - 1], u)) {
            row += i == 0 ? 0 : stacks[i - 1]->experts;
            out->rows[++r] = (om_expert_row){ u->layer, u->experts, row };
            out->most = u->experts > out->most ? u->experts : out->most;
        }
        add_stack(row, u);
    }
    for (int i = 0; i < out->n; i++) {
        out->has_trace |= out->all[i].trace > 0;
    }
out:
    om_free(stacks);
    return status;
}

void om_experts_release(om_experts *e) {
    om_free(e->all);
    om_free(e->rows);
    *e = (om_experts){ 0 };
}

/* ---- figures ---- */

double om_expert_value(const om_expert *e, om_expert_field field) {
    return field == OM_EXPERT_TRACE ? e->trace : e->tokens;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return x < y ? -1 : x > y;
}

om_status om_experts_concentration(om_concentration *out, const om_expert *experts, int n,
                                   om_expert_field field, om_error *err) {
    *out = (om_concentration){ 0 };
    double *x = om_calloc((size_t) n, sizeof *x);
    if (!x) {
        return om_fail_nomem(err, (size_t) n * sizeof *x);
    }
    double sum = 0, weighted = 0, top = 0;
    const int n_top = (n + 9) / 10;
    for (int i = 0; i < n; i++) {
        x[i] = om_expert_value(&experts[i], field);
    }
    qsort(x, (size_t) n, sizeof *x, ascending);
    for (int i = 0; i < n; i++) {
        sum += x[i];
        weighted += (double) (i + 1) / n * x[i];
        top += i >= n - n_top ? x[i] : 0;
    }
    if (sum > 0) {
        const double median = 0.5 * (x[(n - 1) / 2] + x[n / 2]);
        out->n_top = n_top;
        out->top_share = top / sum;
        out->gini = 2 * weighted / sum - (n + 1.0) / n;
        out->largest_to_median = median > 0 ? x[n - 1] / median : (double) NAN;
    }
    om_free(x);
    return OM_OK;
}

static int compare(const om_expert *p, const om_expert *q, om_expert_field field) {
    const double x = om_expert_value(p, field), y = om_expert_value(q, field);
    if (x != y) {
        return x > y ? -1 : 1;
    }
    return p < q ? -1 : p > q;
}

static int by_trace(const void *a, const void *b) {
    return compare(*(const om_expert *const *) a, *(const om_expert *const *) b, OM_EXPERT_TRACE);
}

static int by_tokens(const void *a, const void *b) {
    return compare(*(const om_expert *const *) a, *(const om_expert *const *) b, OM_EXPERT_TOKENS);
}

om_status om_experts_ranked(const om_expert ***out, const om_experts *e, om_expert_field field,
                            om_error *err) {
    const om_expert **order = om_calloc((size_t) e->n, sizeof *order);
    if (!order) {
        return om_fail_nomem(err, (size_t) e->n * sizeof *order);
    }
    for (int i = 0; i < e->n; i++) {
        order[i] = &e->all[i];
    }
    qsort(order, (size_t) e->n, sizeof *order, field == OM_EXPERT_TRACE ? by_trace : by_tokens);
    *out = order;
    return OM_OK;
}

int om_experts_few(const om_experts *e) {
    int few = 0;
    for (int i = 0; i < e->n; i++) {
        few += e->all[i].tokens < OM_EXPERT_FEW;
    }
    return few;
}

/* ---- scale ---- */

om_expert_scale om_experts_scale(const om_experts *e, om_expert_field field, int n_shades) {
    double low = (double) INFINITY, high = -(double) INFINITY;
    for (int i = 0; i < e->n; i++) {
        const double v = om_expert_value(&e->all[i], field);
        if (v > 0) {
            low = fmin(low, log10(v));
            high = fmax(high, log10(v));
        }
    }
    if (!(low <= high)) {
        low = high = 0;
    }
    return (om_expert_scale){ fmax(low, high - MAX_DECADES), high, n_shades, field };
}

int om_expert_shade(const om_expert_scale *scale, double value) {
    if (!(value > 0)) {
        return -1;
    }
    const double span = scale->high - scale->low;
    const double x = span > 0 ? (log10(value) - scale->low) / span : 0.5;
    const int shade = (int) (fmin(fmax(x, 0), 1) * scale->n_shades);
    return shade < scale->n_shades ? shade : scale->n_shades - 1;
}
