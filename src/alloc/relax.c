/* Linear relaxation of the multiple-choice knapsack (Dantzig's rule on convex hulls; Sinha and
 * Zoltners 1979).
 *
 * Every group starts at its smallest option. Walking up its lower convex hull in (bytes, nats) buys
 * nats at falling prices; taking the steps of all groups in order of price until one does not fit
 * is the optimum of the relaxation: all groups but one are integral. The price of the step that did
 * not fit is the multiplier lambda, and
 *
 *     bound = nats so far - lambda * bytes left                               (docs/method.md eq.
 * 10a)
 *
 * A limit on active bytes gets a price mu of its own: the same walk over nats + mu * active bytes,
 * less mu * limit, is a bound for every mu >= 0. It is concave in mu and its slope is the excess of
 * active bytes, so the best mu lies where the excess changes sign (eq. 10d).
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
    double price; /* cost saved per byte */
    double cost;  /* saved: nats, and mu * active bytes */
    int64_t bytes, active_bytes;
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

/* Nats with the active bytes paid for. */
static double cost_of(const om_relax *r, const om_option *o) {
    return o->nats + r->mu * (double) o->active_bytes;
}

static double price_between(const om_relax *r, const om_option *a, const om_option *b) {
    return (cost_of(r, a) - cost_of(r, b)) / (double) (b->bytes - a->bytes);
}

/* Lower convex hull of a group's allowed options, as indices in r->stack; returns its length.
 * Options are sorted by bytes, so each kept one has more bytes and a lower cost than the one
 * before. */
static int build_hull(om_relax *r, const om_option *options, int n, uint64_t allowed) {
    int len = 0, *stack = r->stack;
    for (int j = 0; j < n; j++) {
        const om_option *o = &options[j];
        if (!is_allowed(allowed, o) ||
            (len > 0 && cost_of(r, o) >= cost_of(r, &options[stack[len - 1]]))) {
            continue;
        }
        if (len > 0 && options[stack[len - 1]].bytes == o->bytes) {
            len--; /* equal bytes are sorted by nats, not by cost */
        }
        while (len > 1) {
            const om_option *last = &options[stack[len - 1]], *before = &options[stack[len - 2]];
            if (price_between(r, before, last) > price_between(r, last, o)) {
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

/* Every group at its smallest allowed option, and the steps up its hull; returns their number, -1
 * when a group has no option. *cost: of those options. */
static int collect_steps(om_relax *r, double *cost, int64_t *bytes, int64_t *active,
                         uint64_t allowed) {
    const om_problem *p = r->p;
    int n_steps = 0;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g);
        int len = build_hull(r, options, p->groups[g].n_options, allowed);
        if (len == 0) {
            return -1;
        }
        r->pick[g] = r->stack[0];
        *bytes += options[r->stack[0]].bytes;
        *active += options[r->stack[0]].active_bytes;
        *cost += cost_of(r, &options[r->stack[0]]);
        for (int i = 1; i < len; i++) {
            const om_option *a = &options[r->stack[i - 1]], *b = &options[r->stack[i]];
            r->steps[n_steps++] = (om_step){ .price = price_between(r, a, b),
                                             .cost = cost_of(r, a) - cost_of(r, b),
                                             .bytes = b->bytes - a->bytes,
                                             .active_bytes = b->active_bytes - a->active_bytes,
                                             .group = g,
                                             .from = r->stack[i - 1],
                                             .to = r->stack[i] };
        }
    }
    qsort(r->steps, (size_t) n_steps, sizeof *r->steps, compare_steps);
    return n_steps;
}

/* The relaxation: steps in order of price until one does not fit, and the part of that one which
 * does. *cost and *active go from the smallest options to its optimum. Returns whether one did not
 * fit; then lambda is set. */
static bool walk_steps(om_relax *r, double *cost, double *active, int n_steps, int64_t left) {
    for (int i = 0; i < n_steps; i++) {
        const om_step *s = &r->steps[i];
        if (s->bytes > left) {
            r->lambda = s->price;
            *cost -= s->price * (double) left;
            *active += (double) s->active_bytes * ((double) left / (double) s->bytes);
            return true;
        }
        left -= s->bytes;
        *cost -= s->cost;
        *active += (double) s->active_bytes;
    }
    return false;
}

/* An answer: whatever still fits both limits, in the same order. */
static void take_steps(om_relax *r, int n_steps, int64_t left, int64_t left_active) {
    for (int i = 0; i < n_steps; i++) {
        const om_step *s = &r->steps[i];
        if (s->bytes <= left && s->active_bytes <= left_active && r->pick[s->group] == s->from) {
            r->pick[s->group] = s->to;
            left -= s->bytes;
            left_active -= s->active_bytes;
        }
    }
}

void om_relax_run(om_relax *r, uint64_t allowed) {
    const om_problem *p = r->p;
    int64_t bytes = p->fixed_bytes, active_bytes = p->fixed_active_bytes;
    double cost = 0.0;
    r->feasible = false;
    r->bound = HUGE_VAL;
    r->lambda = 0.0;
    const int n_steps = collect_steps(r, &cost, &bytes, &active_bytes, allowed);
    if (n_steps < 0 || bytes > r->budget_bytes) {
        return;
    }
    const int64_t left = r->budget_bytes - bytes, left_active = p->max_active_bytes - active_bytes;
    double active = (double) active_bytes;
    const bool bounded = walk_steps(r, &cost, &active, n_steps, left);
    take_steps(r, n_steps, left, left_active);
    r->sum = om_problem_evaluate(p, r->pick);
    r->excess = active - (double) p->max_active_bytes;
    if (om_problem_limits_active(p)) {
        r->bound = cost - r->mu * (double) (p->max_active_bytes - p->fixed_active_bytes);
    } else {
        r->bound = bounded ? cost : r->sum.nats;
    }
    r->feasible = true;
    r->used = 0;
    for (int g = 0; g < p->n_groups; g++) {
        r->used |= (uint64_t) 1 << om_problem_options_of(p, g)[r->pick[g]].format;
    }
}

/* ---- the price of an active byte --------------------------------------------------------------
 */

enum { MAX_PRICES = 60 };

/* One price that was tried: the bound there and its slope. */
typedef struct tangent {
    double mu, bound, slope;
} tangent;

static tangent try_price(om_relax *r, double mu, uint64_t allowed,
                         void (*offer)(void *ctx, const int *pick), void *ctx) {
    r->mu = mu;
    om_relax_run(r, allowed);
    if (r->feasible) {
        offer(ctx, r->pick);
    }
    return (tangent){ mu, r->bound, r->excess };
}

/* A price at which a byte costs about what it saves: all nats over all active bytes. */
static double typical_price(const om_problem *p) {
    double nats = 0.0, bytes = 1.0;
    for (int i = 0; i < p->n_options; i++) {
        nats += p->options[i].nats;
        bytes += (double) p->options[i].active_bytes;
    }
    return nats > 0.0 ? nats / bytes : 1.0 / bytes;
}

/* The more nats a choice can have at all; a bound above it means that nothing fits. */
static double most_nats(const om_problem *p) {
    double sum = 0.0;
    for (int g = 0; g < p->n_groups; g++) {
        double most = 0.0;
        for (int j = 0; j < p->groups[g].n_options; j++) {
            most = fmax(most, om_problem_options_of(p, g)[j].nats);
        }
        sum += most;
    }
    return sum;
}

/* Where the two tangents meet, which no bound in between can exceed; their middle when that is too
 * close to an end to make progress. */
static double next_price(const tangent *low, const tangent *high) {
    const double width = high->mu - low->mu;
    const double meet = (high->bound - low->bound + low->slope * low->mu - high->slope * high->mu) /
                        (low->slope - high->slope);
    const bool inside = meet > low->mu + 1e-3 * width && meet < high->mu - 1e-3 * width;
    return inside ? meet : low->mu + 0.5 * width;
}

/* A price so high that the relaxation keeps to the limit; low becomes the highest one that was
 * tried and does not. false: there is none, nothing fits. */
static bool find_high(tangent *low, tangent *high, int *n, om_relax *r, uint64_t allowed,
                      double start, void (*offer)(void *ctx, const int *pick), void *ctx) {
    const double most = most_nats(r->p);
    for (double mu = start; *n < MAX_PRICES; mu *= 8.0) {
        *high = try_price(r, mu, allowed, offer, ctx);
        (*n)++;
        if (high->slope <= 0.0) {
            return true;
        }
        if (high->bound > most * (1.0 + 1e-9)) {
            break;
        }
        *low = *high;
    }
    return false;
}

int om_relax_run_priced(om_relax *r, uint64_t allowed, double enough,
                        void (*offer)(void *ctx, const int *pick), void *ctx) {
    const double start = r->mu;
    int n = 1;
    if (!om_problem_limits_active(r->p)) {
        om_relax_run(r, allowed);
        return n;
    }
    tangent low = try_price(r, 0.0, allowed, offer, ctx), high, best;
    if (!r->feasible || low.slope <= 0.0 || low.bound >= enough) {
        return n;
    }
    const double guess = start > 0.0 ? start : typical_price(r->p);
    if (!find_high(&low, &high, &n, r, allowed, guess, offer, ctx)) {
        r->feasible = false;
        return n;
    }
    best = high.bound > low.bound ? high : low;
    while (n < MAX_PRICES && best.bound < enough && high.mu - low.mu > 1e-12 * high.mu) {
        const double mu = next_price(&low, &high);
        const double most =
            fmin(low.bound + low.slope * (mu - low.mu), high.bound + high.slope * (mu - high.mu));
        const tangent t = try_price(r, mu, allowed, offer, ctx);
        n++;
        best = t.bound > best.bound ? t : best;
        if (t.slope > 0.0) {
            low = t;
        } else {
            high = t;
        }
        if (t.bound >= most - 1e-13 * fabs(most)) {
            break; /* the tangents meet on the bound itself: its peak */
        }
    }
    if (r->mu < best.mu || r->mu > best.mu) {
        (void) try_price(r, best.mu, allowed, offer, ctx);
        n++;
    }
    return n;
}

/* ---- moves ------------------------------------------------------------------------------------
 */

enum { MAX_MOVES = 600, MAX_PASSES = 64 };

/* A change of one group. cost = change of nats + lambda * change of bytes + mu * change of active
 * bytes, never far below 0. */
typedef struct move {
    double nats, cost;
    int64_t bytes, active_bytes;
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

/* What an answer leaves of the two limits. */
typedef struct room {
    int64_t bytes, active_bytes;
} room;

static room room_of(const om_relax *r) {
    return (room){ r->budget_bytes - r->sum.bytes, r->p->max_active_bytes - r->sum.active_bytes };
}

/* A pair gains the price of the bytes it uses, less its costs, so only moves that cost less than
 * all that is left is worth can be part of a gain. Also finds the best single move. */
static int collect_moves(move *moves, move *single, const om_relax *r, uint64_t allowed) {
    const om_problem *p = r->p;
    const room left = room_of(r);
    double limit = r->lambda * (double) left.bytes + r->mu * (double) left.active_bytes;
    int n = 0;
    *single = (move){ .nats = 0.0, .group = -1 };
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g), *now = &options[r->pick[g]];
        for (int j = 0; j < p->groups[g].n_options; j++) {
            move m = { .nats = options[j].nats - now->nats,
                       .bytes = options[j].bytes - now->bytes,
                       .active_bytes = options[j].active_bytes - now->active_bytes,
                       .group = g,
                       .to = j };
            if (j == r->pick[g] || !is_allowed(allowed, &options[j])) {
                continue;
            }
            m.cost = m.nats + r->lambda * (double) m.bytes + r->mu * (double) m.active_bytes;
            if (m.nats < single->nats && m.bytes <= left.bytes &&
                m.active_bytes <= left.active_bytes) {
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

static double best_pair(int at[2], const move *moves, int n, room left) {
    double best = 0.0;
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++) {
            double nats = moves[i].nats + moves[j].nats;
            if (nats < best && moves[i].bytes + moves[j].bytes <= left.bytes &&
                moves[i].active_bytes + moves[j].active_bytes <= left.active_bytes &&
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
        double pair = best_pair(at, moves, n, room_of(r));
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
