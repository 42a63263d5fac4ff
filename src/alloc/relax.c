/* Linear relaxation of the multiple-choice knapsack (Dantzig's rule on convex hulls; Sinha and
 * Zoltners 1979).
 *
 * Every group starts at its smallest option. Walking up its lower convex hull in (bytes, nats) buys
 * nats at falling prices; taking the steps of all groups in order of price until one does not fit
 * is the optimum of the relaxation: all groups but one are integral. The price of the step that did
 * not fit is the multiplier lambda, and
 *
 *     bound = nats so far - lambda * bytes left                                 (docs/method.md eq.
 * 7)
 *
 * Going on with whatever still fits gives a real answer, whose distance to the bound is at most one
 * step; single and paired moves then close most of the rest, often all that matters.
 */
#include "alloc/relax.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct om_step {
    double price; /* nats saved per byte */
    double nats;  /* saved */
    int64_t bytes;
    int group, from, to; /* options inside the group */
};

/* File sizes come in steps of the greatest common divisor of all differences between options, often
 * thousands of bytes; what is left over below a step belongs to no answer, and not counting it
 * makes the bound tight. */
static int64_t usable_budget(const om_problem *p) {
    int64_t unit = 0, smallest = p->fixed_bytes;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g);
        smallest += options[0].bytes;
        for (int j = 1; j < p->groups[g].n_options; j++) {
            int64_t a = options[j].bytes - options[0].bytes;
            while (a != 0) {
                int64_t r = unit % a;
                unit = a;
                a = r;
            }
        }
    }
    if (unit == 0 || p->budget_bytes < smallest) {
        return p->budget_bytes;
    }
    return smallest + (p->budget_bytes - smallest) / unit * unit;
}

om_status om_relax_init(om_relax *out, const om_problem *p, om_error *err) {
    *out = (om_relax){ .p = p, .budget_bytes = usable_budget(p) };
    size_t n = (size_t) p->n_options;
    out->steps = om_calloc(n, sizeof *out->steps);
    out->stack = om_calloc(n, sizeof *out->stack);
    out->pick = om_calloc((size_t) p->n_groups, sizeof *out->pick);
    if (out->steps == NULL || out->stack == NULL || out->pick == NULL) {
        om_relax_release(out);
        return om_fail_nomem(err, n * sizeof *out->steps);
    }
    return OM_OK;
}

void om_relax_release(om_relax *r) {
    om_free(r->steps);
    om_free(r->stack);
    om_free(r->pick);
    *r = (om_relax){ 0 };
}

static bool is_allowed(uint64_t allowed, const om_option *o) {
    return ((allowed >> o->format) & 1) != 0;
}

static double price_between(const om_option *a, const om_option *b) {
    return (a->nats - b->nats) / (double) (b->bytes - a->bytes);
}

/* Lower convex hull of a group's allowed options, as indices in stack; returns its length. Options
 * are sorted by bytes, then nats, so each kept one has more bytes and fewer nats than the one
 * before. */
static int build_hull(int *stack, const om_option *options, int n, uint64_t allowed) {
    int len = 0;
    for (int j = 0; j < n; j++) {
        const om_option *o = &options[j];
        if (!is_allowed(allowed, o) || (len > 0 && o->nats >= options[stack[len - 1]].nats)) {
            continue;
        }
        while (len > 1) {
            const om_option *last = &options[stack[len - 1]], *before = &options[stack[len - 2]];
            if (price_between(before, last) > price_between(last, o)) {
                break;
            }
            len--;
        }
        stack[len++] = j;
    }
    return len;
}

static int compare_steps(const void *a, const void *b) {
    const om_step *x = a, *y = b;
    if (x->price < y->price || y->price < x->price) {
        return x->price > y->price ? -1 : 1;
    }
    return x->group != y->group ? x->group - y->group : x->from - y->from;
}

void om_relax_run(om_relax *r, uint64_t allowed) {
    const om_problem *p = r->p;
    int n_steps = 0;
    int64_t left = r->budget_bytes - p->fixed_bytes;
    double nats = 0.0;
    r->feasible = false;
    r->bound = HUGE_VAL;
    r->lambda = 0.0;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g);
        int len = build_hull(r->stack, options, p->groups[g].n_options, allowed);
        if (len == 0) {
            return;
        }
        r->pick[g] = r->stack[0];
        left -= options[r->stack[0]].bytes;
        nats += options[r->stack[0]].nats;
        for (int i = 1; i < len; i++) {
            const om_option *a = &options[r->stack[i - 1]], *b = &options[r->stack[i]];
            r->steps[n_steps++] = (om_step){ .price = price_between(a, b),
                                             .nats = a->nats - b->nats,
                                             .bytes = b->bytes - a->bytes,
                                             .group = g,
                                             .from = r->stack[i - 1],
                                             .to = r->stack[i] };
        }
    }
    if (left < 0) {
        return;
    }
    qsort(r->steps, (size_t) n_steps, sizeof *r->steps, compare_steps);
    bool bounded = false;
    for (int i = 0; i < n_steps; i++) {
        const om_step *s = &r->steps[i];
        if (s->bytes > left && !bounded) {
            bounded = true;
            r->lambda = s->price;
            r->bound = nats - s->price * (double) left;
        }
        if (s->bytes <= left && r->pick[s->group] == s->from) {
            r->pick[s->group] = s->to;
            left -= s->bytes;
            nats -= s->nats;
        }
    }
    r->sum = om_problem_evaluate(p, r->pick);
    r->bound = bounded ? r->bound : r->sum.nats;
    r->feasible = true;
    r->used = 0;
    for (int g = 0; g < p->n_groups; g++) {
        r->used |= (uint64_t) 1 << om_problem_options_of(p, g)[r->pick[g]].format;
    }
}

/* ---- moves ------------------------------------------------------------------------------------
 */

enum { MAX_MOVES = 600, MAX_PASSES = 64 };

/* A change of one group. cost = change of nats + lambda * change of bytes, never far below 0. */
typedef struct move {
    double nats, cost;
    int64_t bytes;
    int group, to;
} move;

static void apply_move(om_relax *r, const move *m) {
    r->pick[m->group] = m->to;
    r->sum = om_problem_evaluate(r->p, r->pick);
}

static int compare_moves(const void *a, const void *b) {
    const move *x = a, *y = b;
    if (x->cost < y->cost || y->cost < x->cost) {
        return x->cost < y->cost ? -1 : 1;
    }
    return x->group != y->group ? x->group - y->group : x->to - y->to;
}

/* Keep the MAX_MOVES cheapest of an endless stream: fill twice the room, sort, cut. */
static void keep_move(move *moves, int *n, move m) {
    moves[(*n)++] = m;
    if (*n == 2 * MAX_MOVES) {
        qsort(moves, (size_t) *n, sizeof *moves, compare_moves);
        *n = MAX_MOVES;
    }
}

/* A pair gains lambda * (bytes it uses) - its costs, so only moves that cost less than
 * lambda * slack can be part of a gain. Also finds the best single move. */
static int collect_moves(move *moves, move *single, const om_relax *r, uint64_t allowed) {
    const om_problem *p = r->p;
    int64_t slack = r->budget_bytes - r->sum.bytes;
    double limit = r->lambda * (double) slack;
    int n = 0;
    *single = (move){ .nats = 0.0, .group = -1 };
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g), *now = &options[r->pick[g]];
        for (int j = 0; j < p->groups[g].n_options; j++) {
            move m = { .nats = options[j].nats - now->nats,
                       .bytes = options[j].bytes - now->bytes,
                       .group = g,
                       .to = j };
            if (j == r->pick[g] || !is_allowed(allowed, &options[j])) {
                continue;
            }
            m.cost = m.nats + r->lambda * (double) m.bytes;
            if (m.nats < single->nats && m.bytes <= slack) {
                *single = m;
            }
            if (m.cost < limit) {
                keep_move(moves, &n, m);
            }
        }
    }
    qsort(moves, (size_t) n, sizeof *moves, compare_moves);
    return n < MAX_MOVES ? n : MAX_MOVES;
}

static double best_pair(int at[2], const move *moves, int n, int64_t slack) {
    double best = 0.0;
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++) {
            double nats = moves[i].nats + moves[j].nats;
            if (nats < best && moves[i].bytes + moves[j].bytes <= slack &&
                moves[i].group != moves[j].group) {
                best = nats;
                at[0] = i;
                at[1] = j;
            }
        }
    }
    return best;
}

void om_relax_improve(om_relax *r, uint64_t allowed) {
    move *moves = om_calloc((size_t) 2 * MAX_MOVES, sizeof *moves);
    if (moves == NULL) {
        return; /* what there is stays a valid answer */
    }
    for (int pass = 0; pass < MAX_PASSES; pass++) {
        move single;
        int at[2] = { 0, 0 };
        int n = collect_moves(moves, &single, r, allowed);
        double pair = best_pair(at, moves, n, r->budget_bytes - r->sum.bytes);
        double best = single.group >= 0 && single.nats < pair ? single.nats : pair;
        if (best > -1e-13 * r->sum.nats || best >= 0.0) {
            break; /* rounding, not progress */
        }
        if (single.group >= 0 && single.nats < pair) {
            apply_move(r, &single);
        } else {
            apply_move(r, &moves[at[0]]);
            apply_move(r, &moves[at[1]]);
        }
    }
    om_free(moves);
}
