/* One layer's experts -> banks. See bank_configs.h.
 *
 * At a price for bytes the experts do not know of each other, and neither do the stacks of one
 * expert; only that a layer has few banks ties them together. That is a clustering problem: the
 * "centre" of a bank is a triple of types, found for each stack alone, and an expert's distance to
 * it is what it would cost there. Sensitivities of experts differ by orders of magnitude while the
 * curves of their types are alike, so one order of the experts is nearly right for all types, and
 * cuts of an order can be found exactly. Lloyd's iteration then mends what the order cannot say. */
#include "alloc/bank_configs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/active.h"
#include "base/mem.h"

enum { MAX_CUTS = 128, MAX_ROUNDS = 32, STACKS = OM_BANK_STACKS };

/* ---- costs of single experts ---- */

/* total in proportion to parts [n], to every step-th place; evenly when they are all zero. */
static void share_out(double *out, double total, const double *parts, int n, int step) {
    double sum = 0.0;
    for (int e = 0; e < n; e++) {
        sum += parts[e];
    }
    for (int e = 0; e < n; e++) {
        out[(ptrdiff_t) e * step] = sum > 0.0 ? total * (parts[e] / sum) : total / n;
    }
}

/* What the file says of one expert alone is √(share of tokens · reach · variance); the variances
 * add up (docs/method.md eq. 15a). */
static double variance_of(const om_unit *u, const om_tensor_stats *t, int64_t at, double used) {
    const double nats = t->routing != NULL ? (double) t->routing[at] : 0.0;
    const double reach = u->reach * used;
    return reach > 0.0 ? nats * nats / reach : 0.0;
}

static om_status stack_costs(om_bank_types *s, const om_bank_layer *l, const om_problem *p,
                             const om_unit *u, const om_tensor_stats *t, om_error *err) {
    om_status status = OM_OK;
    const size_t n = (size_t) l->experts * (size_t) s->n;
    double *parts = om_calloc((size_t) l->experts, sizeof *parts);
    s->bytes = om_calloc((size_t) s->n, sizeof *s->bytes);
    s->nats = om_calloc(n, sizeof *s->nats);
    s->routing = om_calloc(n, sizeof *s->routing);
    if (parts == NULL || s->bytes == NULL || s->nats == NULL || s->routing == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *s->nats));
    }
    for (int j = 0; j < s->n; j++) {
        const om_option *o = &s->options[j];
        s->bytes[j] = o->bytes / l->experts;
        if (o->nats <= 0.0 && o->routing <= 0.0) {
            continue; /* its own type: nothing to share out */
        }
        const char *type = p->formats[o->format]->name;
        const int column = om_stats_column(t, type);
        if (column < 0 || t->experts != l->experts) {
            OM_TRY(om_fail(err, OM_E_ARG,
                           "the statistics do not say what single experts of %s cost in %s: "
                           "profile again for --expert-banks",
                           u->name, type));
        }
        for (int e = 0; e < l->experts; e++) {
            parts[e] = (double) t->nats[(int64_t) e * t->n_nats + column];
        }
        share_out(s->nats + j, o->nats, parts, l->experts, s->n);
        for (int e = 0; e < l->experts; e++) {
            parts[e] = variance_of(u, t, (int64_t) e * t->n_nats + column, l->used[e]);
        }
        share_out(s->routing + j, o->routing, parts, l->experts, s->n);
    }
out:
    om_free(parts);
    return status;
}

om_status om_bank_layer_init(om_bank_layer *l, const om_problem *p, const om_profile *profile,
                             const om_stats *stats, om_error *err) {
    om_status status = OM_OK;
    const om_unit *gate = &profile->units[l->unit[OM_BANK_GATE]];
    const om_active active = om_active_of(profile);
    const double even = om_active_share(&active, l->unit[OM_BANK_GATE]);
    l->used = om_calloc((size_t) l->experts, sizeof *l->used);
    if (l->used == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) l->experts * sizeof *l->used));
    }
    const bool counted = gate->expert.tokens != NULL && profile->tokens > 0;
    for (int e = 0; e < l->experts; e++) {
        l->used[e] = counted ? gate->expert.tokens[e] / (double) profile->tokens : even;
    }
    for (int k = 0; k < STACKS; k++) {
        const om_unit *u = &profile->units[l->unit[k]];
        l->stack[k].n = p->groups[l->group[k]].n_options;
        l->stack[k].options = om_problem_options_of(p, l->group[k]);
        OM_TRY(stack_costs(&l->stack[k], l, p, u, om_stats_find(stats, u->name), err));
    }
out:
    return status;
}

void om_bank_layer_release(om_bank_layer *l) {
    for (int i = 0; i < l->n_configs; i++) {
        om_free(l->configs[i].bank_of);
    }
    for (int k = 0; k < STACKS; k++) {
        om_free(l->stack[k].bytes);
        om_free(l->stack[k].nats);
        om_free(l->stack[k].routing);
    }
    om_free(l->configs);
    om_free(l->used);
    *l = (om_bank_layer){ 0 };
}

/* ---- the list ---- */

/* Takes the config. */
static om_status append(om_bank_layer *l, om_bank_config *c, om_error *err) {
    if (l->n_configs == l->cap) {
        const int cap = l->cap == 0 ? 64 : 2 * l->cap;
        om_bank_config *grown = om_realloc(l->configs, (size_t) cap, sizeof *grown);
        if (grown == NULL) {
            om_free(c->bank_of);
            return om_fail_nomem(err, (size_t) cap * sizeof *grown);
        }
        l->configs = grown;
        l->cap = cap;
    }
    l->configs[l->n_configs++] = *c;
    return OM_OK;
}

om_status om_bank_layer_singles(om_bank_layer *l, const int keep[STACKS], om_error *err) {
    om_status status = OM_OK;
    for (int g = 0; g < l->stack[OM_BANK_GATE].n; g++) {
        for (int u = 0; u < l->stack[OM_BANK_UP].n; u++) {
            for (int d = 0; d < l->stack[OM_BANK_DOWN].n; d++) {
                om_bank_config c = { .n_banks = 1, .type = { { g, u, d } } };
                for (int k = 0; k < STACKS; k++) {
                    const om_option *o = &l->stack[k].options[c.type[0][k]];
                    c.bytes += o->bytes;
                    c.active_bytes += o->active_bytes;
                    c.nats += o->nats;
                    c.routing += o->routing;
                }
                c.keep =
                    g == keep[OM_BANK_GATE] && u == keep[OM_BANK_UP] && d == keep[OM_BANK_DOWN];
                OM_TRY(append(l, &c, err));
            }
        }
    }
out:
    return status;
}

/* qsort knows no context: the key travels in an array of its own. */
typedef struct ranked {
    om_bank_config config;
    double value;
} ranked;

static int by_bytes(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->config.bytes != y->config.bytes) {
        return x->config.bytes < y->config.bytes ? -1 : 1;
    }
    if (x->value < y->value || y->value < x->value) {
        return x->value < y->value ? -1 : 1;
    }
    if (x->config.n_banks != y->config.n_banks) {
        return x->config.n_banks - y->config.n_banks;
    }
    return memcmp(x->config.type, y->config.type, sizeof x->config.type);
}

om_status om_bank_layer_prune(om_bank_layer *l, double routing_price, om_error *err) {
    ranked *all = om_calloc((size_t) l->n_configs, sizeof *all);
    double best = HUGE_VAL;
    int kept = 0;
    if (all == NULL) {
        return om_fail_nomem(err, (size_t) l->n_configs * sizeof *all);
    }
    for (int i = 0; i < l->n_configs; i++) {
        all[i].config = l->configs[i];
        all[i].value = l->configs[i].nats + routing_price * l->configs[i].routing;
    }
    qsort(all, (size_t) l->n_configs, sizeof *all, by_bytes);
    for (int i = 0; i < l->n_configs; i++) {
        if (all[i].value < best || all[i].config.keep) {
            best = fmin(best, all[i].value);
            l->configs[kept++] = all[i].config;
        } else {
            om_free(all[i].config.bank_of);
        }
    }
    l->n_configs = kept;
    om_free(all);
    return OM_OK;
}

/* ---- banks at a price ---- */

/* What om_bank_layer_add works with. */
typedef struct work {
    const om_bank_layer *l;
    double *cost[STACKS];   /* [experts, types] nats, routing and bytes at the price */
    double *prefix[STACKS]; /* [experts + 1, types] sums of cost in the experts' order */
    double *key;            /* [experts] what the order follows */
    int *order;             /* [experts] */
    int n_cuts;             /* places where a bank may end, besides the start */
    double *segment;        /* [n_cuts + 1, n_cuts + 1] cost of the experts between two cuts */
    double *best;           /* [banks + 1, n_cuts + 1] of the experts before a cut */
    int *from;              /* [banks + 1, n_cuts + 1] the cut before */
    unsigned char *bank_of; /* [experts] */
    double byte_price;
} work;

static void work_release(work *w) {
    for (int k = 0; k < STACKS; k++) {
        om_free(w->cost[k]);
        om_free(w->prefix[k]);
    }
    om_free(w->key);
    om_free(w->order);
    om_free(w->segment);
    om_free(w->best);
    om_free(w->from);
    om_free(w->bank_of);
}

/* The expert before which cut i lies, in the order. */
static int cut_at(const work *w, int i) {
    return (int) ((int64_t) w->l->experts * i / w->n_cuts);
}

static om_status work_init(work *w, const om_bank_layer *l, const om_bank_price *price,
                           int max_banks, om_error *err) {
    const size_t n = (size_t) l->experts;
    *w = (work){ .l = l, .byte_price = price->byte };
    w->n_cuts = l->experts < MAX_CUTS ? l->experts : MAX_CUTS;
    const size_t cuts = (size_t) w->n_cuts + 1, banks = (size_t) max_banks + 1;
    w->key = om_calloc(n, sizeof *w->key);
    w->order = om_calloc(n, sizeof *w->order);
    w->segment = om_calloc(cuts * cuts, sizeof *w->segment);
    w->best = om_calloc(banks * cuts, sizeof *w->best);
    w->from = om_calloc(banks * cuts, sizeof *w->from);
    w->bank_of = om_calloc(n, 1);
    bool ok = w->key != NULL && w->order != NULL && w->segment != NULL && w->best != NULL &&
              w->from != NULL && w->bank_of != NULL;
    for (int k = 0; k < STACKS; k++) {
        const om_bank_types *s = &l->stack[k];
        w->cost[k] = om_calloc(n * (size_t) s->n, sizeof(double));
        w->prefix[k] = om_calloc((n + 1) * (size_t) s->n, sizeof(double));
        ok = ok && w->cost[k] != NULL && w->prefix[k] != NULL;
        for (int i = 0; ok && i < l->experts * s->n; i++) {
            w->cost[k][i] = s->nats[i] + price->routing * s->routing[i] +
                            price->byte * (double) s->bytes[i % s->n];
        }
    }
    return ok ? OM_OK : om_fail_nomem(err, n * sizeof(double));
}

/* The type that suits some experts best: sums [types]. */
static int cheapest(const double *sums, int n) {
    int best = 0;
    for (int j = 1; j < n; j++) {
        best = sums[j] < sums[best] ? j : best;
    }
    return best;
}

/* The experts by what they lose in the layer's best types. */
static void find_order(work *w) {
    const om_bank_layer *l = w->l;
    for (int e = 0; e < l->experts; e++) {
        w->key[e] = 0.0;
        w->order[e] = e;
    }
    for (int k = 0; k < STACKS; k++) {
        const int n = l->stack[k].n;
        double *sums = w->prefix[k]; /* not in use yet */
        memset(sums, 0, (size_t) n * sizeof *sums);
        for (int i = 0; i < l->experts * n; i++) {
            sums[i % n] += w->cost[k][i];
        }
        const int type = cheapest(sums, n);
        for (int e = 0; e < l->experts; e++) {
            w->key[e] += w->cost[k][e * n + type];
        }
    }
    for (int i = 1; i < l->experts; i++) { /* insertion: the file order decides ties */
        const int e = w->order[i];
        int at = i;
        for (; at > 0 && w->key[w->order[at - 1]] > w->key[e]; at--) {
            w->order[at] = w->order[at - 1];
        }
        w->order[at] = e;
    }
}

static void sum_segments(work *w) {
    const om_bank_layer *l = w->l;
    const int width = w->n_cuts + 1;
    memset(w->segment, 0, (size_t) width * (size_t) width * sizeof *w->segment);
    for (int k = 0; k < STACKS; k++) {
        const int n = l->stack[k].n;
        double *prefix = w->prefix[k];
        memset(prefix, 0, (size_t) n * sizeof *prefix);
        for (int i = 0; i < l->experts * n; i++) {
            prefix[n + i] = prefix[i] + w->cost[k][w->order[i / n] * n + i % n];
        }
        for (int a = 0; a < width; a++) {
            for (int b = a + 1; b < width; b++) {
                const double *low = prefix + (ptrdiff_t) cut_at(w, a) * n;
                const double *high = prefix + (ptrdiff_t) cut_at(w, b) * n;
                double least = HUGE_VAL;
                for (int j = 0; j < n; j++) {
                    least = fmin(least, high[j] - low[j]);
                }
                w->segment[a * width + b] += least;
            }
        }
    }
}

/* Best cuts of the order for every number of banks. */
static void find_cuts(work *w, int max_banks) {
    const int width = w->n_cuts + 1;
    for (int b = 0; b < width; b++) {
        w->best[b] = b == 0 ? 0.0 : HUGE_VAL;
    }
    for (int n = 1; n <= max_banks; n++) {
        const double *before = w->best + (ptrdiff_t) (n - 1) * width;
        for (int b = 0; b < width; b++) {
            double least = HUGE_VAL;
            int from = 0;
            for (int a = 0; a < b; a++) {
                const double sum = before[a] + w->segment[a * width + b];
                if (sum < least) {
                    least = sum;
                    from = a;
                }
            }
            w->best[n * width + b] = least;
            w->from[n * width + b] = from;
        }
    }
}

static void take_cuts(work *w, int n_banks) {
    int end = w->n_cuts;
    for (int n = n_banks; n > 0; n--) {
        const int start = w->from[n * (w->n_cuts + 1) + end];
        for (int i = cut_at(w, start); i < cut_at(w, end); i++) {
            w->bank_of[w->order[i]] = (unsigned char) (n - 1);
        }
        end = start;
    }
}

/* The types that suit each bank best. */
static void choose_types(om_bank_config *c, const work *w) {
    for (int k = 0; k < STACKS; k++) {
        const int n = w->l->stack[k].n;
        double *sums = w->prefix[k]; /* has done its work, and is long enough: experts >= banks */
        memset(sums, 0, (size_t) (c->n_banks * n) * sizeof *sums);
        for (int i = 0; i < w->l->experts * n; i++) {
            sums[w->bank_of[i / n] * n + i % n] += w->cost[k][i];
        }
        for (int b = 0; b < c->n_banks; b++) {
            c->type[b][k] = cheapest(sums + b * n, n);
        }
    }
}

static double cost_in(const work *w, const om_bank_config *c, int e, int bank) {
    double sum = 0.0;
    for (int k = 0; k < STACKS; k++) {
        sum += w->cost[k][e * w->l->stack[k].n + c->type[bank][k]];
    }
    return sum;
}

/* Every expert to the bank that suits it best; did any move? */
static bool choose_banks(work *w, const om_bank_config *c) {
    bool moved = false;
    for (int e = 0; e < w->l->experts; e++) {
        int best = w->bank_of[e];
        for (int b = 0; b < c->n_banks; b++) {
            if (cost_in(w, c, e, b) < cost_in(w, c, e, best)) {
                best = b;
            }
        }
        moved |= best != w->bank_of[e];
        w->bank_of[e] = (unsigned char) best;
    }
    return moved;
}

static int64_t bank_bytes(const om_bank_layer *l, const int type[STACKS]) {
    int64_t bytes = 0;
    for (int k = 0; k < STACKS; k++) {
        bytes += l->stack[k].bytes[type[k]];
    }
    return bytes;
}

/* Banks without experts go, equal ones become one, the smallest types come first. */
static void tidy(om_bank_config *c, work *w) {
    int type[OM_BANKS_MAX][STACKS], place[OM_BANKS_MAX] = { 0 }, n = 0;
    for (int b = 0; b < c->n_banks; b++) {
        bool used = false;
        for (int e = 0; e < w->l->experts; e++) {
            used |= w->bank_of[e] == b;
        }
        int at = 0;
        while (at < n && memcmp(type[at], c->type[b], sizeof type[at]) != 0) {
            at++;
        }
        if (used && at == n) {
            for (; at > 0 && bank_bytes(w->l, type[at - 1]) > bank_bytes(w->l, c->type[b]); at--) {
                memcpy(type[at], type[at - 1], sizeof type[at]);
            }
            memcpy(type[at], c->type[b], sizeof type[at]);
            n++;
        }
    }
    for (int b = 0; b < c->n_banks; b++) {
        while (place[b] < n && memcmp(type[place[b]], c->type[b], sizeof type[0]) != 0) {
            place[b]++;
        }
    }
    for (int e = 0; e < w->l->experts; e++) {
        w->bank_of[e] = (unsigned char) place[w->bank_of[e]];
    }
    memset(c->type, 0, sizeof c->type);
    memcpy(c->type, type, (size_t) n * sizeof type[0]);
    c->n_banks = n;
}

static void sum_up(om_bank_config *c, const om_bank_layer *l, const unsigned char *bank_of) {
    c->bytes = (int64_t) (c->n_banks - 1) * OM_BANK_HEADER_BYTES;
    for (int k = 0; k < STACKS; k++) {
        const om_bank_types *s = &l->stack[k];
        double active = 0.0;
        for (int e = 0; e < l->experts; e++) {
            const int j = c->type[bank_of[e]][k];
            c->bytes += s->bytes[j];
            c->nats += s->nats[e * s->n + j];
            c->routing += s->routing[e * s->n + j];
            active += l->used[e] * (double) s->bytes[j];
        }
        c->active_bytes += (int64_t) ceil(active * (1 - 1e-12));
    }
}

om_status om_bank_layer_add(om_bank_layer *l, const om_bank_price *price, int max_banks,
                            om_error *err) {
    om_status status = OM_OK;
    work w;
    const int most = max_banks < l->experts ? max_banks : l->experts;
    OM_TRY(work_init(&w, l, price, most, err));
    find_order(&w);
    sum_segments(&w);
    find_cuts(&w, most < w.n_cuts ? most : w.n_cuts);
    for (int n = 2; n <= most && n <= w.n_cuts; n++) {
        om_bank_config c = { .n_banks = n };
        take_cuts(&w, n);
        choose_types(&c, &w);
        for (int round = 0; round < MAX_ROUNDS && choose_banks(&w, &c); round++) {
            choose_types(&c, &w);
        }
        tidy(&c, &w);
        if (c.n_banks < 2) {
            continue;
        }
        c.bank_of = om_calloc((size_t) l->experts, 1);
        if (c.bank_of == NULL) {
            OM_TRY(om_fail_nomem(err, (size_t) l->experts));
        }
        memcpy(c.bank_of, w.bank_of, (size_t) l->experts);
        sum_up(&c, l, c.bank_of);
        OM_TRY(append(l, &c, err));
    }
out:
    work_release(&w);
    return status;
}
