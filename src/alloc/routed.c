/* The corner points of what can be reached, one price after the other: see routed.h.
 *
 * Every choice is a point (nats, routing). The objective nats + sqrt(weight · routing) is concave
 * and grows in both, so its least value lies at a corner of the points' convex hull, where some
 * price for routing makes the linear program's answer. A program at price s also says that nothing
 * lies below its line nats + s · routing = value. Between two corners the lines of both leave a
 * triangle, and the objective is nowhere in it below its value at the tip: intervals whose tip is
 * no better than the best answer need no program. */
#include "alloc/routed.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_ROUNDS = 24, SMALL = 64 };

typedef struct corner {
    double price, value; /* nothing lies below this line */
    double nats, routing;
    bool closed; /* nothing lies between it and the next one */
} corner;

typedef struct hull {
    const om_problem *p;
    om_problem linear; /* p with a price for routing; borrows the groups */
    double tolerance, enough;
    const om_env *env;
    int *best, *scratch; /* [n_groups] */
    om_solution answer;
    corner at[MAX_ROUNDS]; /* from the most routing to the least */
    int n, rounds;
} hull;

/* One program; a better answer replaces the best one. */
static om_status solve_at(hull *h, corner *out, double price, om_error *err) {
    om_status status = OM_OK;
    om_solution s = { 0 };
    om_problem plain = *h->p;
    plain.routing_weight = 0;
    h->rounds++;
    for (int i = 0; i < h->p->n_options; i++) {
        h->linear.options[i].nats = h->p->options[i].nats + price * h->p->options[i].routing;
    }
    OM_TRY(om_problem_solve(h->scratch, &s, &h->linear, h->tolerance, h->env, err));
    const om_choice_sum sum = om_problem_evaluate(h->p, h->scratch);
    *out = (corner){ .price = price, .value = s.sum.nats * (1 - s.gap), .routing = sum.routing };
    out->nats = om_problem_evaluate(&plain, h->scratch).nats;
    s.seconds += h->answer.seconds;
    s.gap = fmax(s.gap, h->answer.gap);
    s.proven = s.proven && (h->rounds == 1 || h->answer.proven);
    s.sum = h->answer.sum;
    if (h->rounds == 1 || sum.nats < h->answer.sum.nats * (1 - 1e-12)) {
        memcpy(h->best, h->scratch, (size_t) h->p->n_groups * sizeof *h->best);
        s.sum = sum;
    }
    h->answer = s;
out:
    return status;
}

/* From the least nats towards the least routing. The chord from no routing at all to a corner has
 * the price sqrt(weight / routing): a corner that is the answer at that price has nothing better
 * beyond it. */
static om_status find_ends(hull *h, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(solve_at(h, &h->at[0], 0, err));
    h->n = 1;
    while (h->rounds < MAX_ROUNDS / 2 && h->at[h->n - 1].routing > 0) {
        const double before = h->at[h->n - 1].routing;
        corner *next = &h->at[h->n];
        OM_TRY(solve_at(h, next, sqrt(h->p->routing_weight / before), err));
        if (next->routing >= before * (1 - 1e-12)) {
            break;
        }
        h->n++;
    }
out:
    return status;
}

/* The objective at the tip of the triangle behind corner i. */
static double tip(const hull *h, int i) {
    const corner *a = &h->at[i], *b = &h->at[i + 1];
    double routing = (b->value - a->value) / (b->price - a->price);
    routing = fmin(fmax(routing, b->routing), a->routing);
    return a->value - a->price * routing + om_routers_nats(h->p->routing_weight, routing);
}

/* The interval that promises most; -1: none promises anything. */
static int most_promising(const hull *h) {
    double least = h->answer.sum.nats * (1 - h->enough);
    int best = -1;
    for (int i = 0; i + 1 < h->n; i++) {
        if (!h->at[i].closed && tip(h, i) < least) {
            least = tip(h, i);
            best = i;
        }
    }
    return best;
}

/* The program whose line passes both corners: its answer lies between them, or nothing does. */
static om_status split(hull *h, int i, om_error *err) {
    om_status status = OM_OK;
    corner *a = &h->at[i], *b = &h->at[i + 1], between;
    const double price = (b->nats - a->nats) / (a->routing - b->routing);
    a->closed = true;
    if (!(price > a->price && price < b->price)) {
        return OM_OK;
    }
    OM_TRY(solve_at(h, &between, price, err));
    const double line = a->nats + price * a->routing;
    if (between.value < line * (1 - 1e-10) && between.routing < a->routing &&
        between.routing > b->routing) {
        memmove(b + 1, b, (size_t) (h->n - i - 1) * sizeof *b);
        *b = between;
        a->closed = false;
        h->n++;
    }
out:
    return status;
}

static om_status search(hull *h, om_error *err) {
    om_status status = OM_OK;
    int i;
    OM_TRY(find_ends(h, err));
    while ((i = most_promising(h)) >= 0 && h->rounds < MAX_ROUNDS) {
        OM_TRY(split(h, i, err));
    }
    double bound = h->answer.sum.nats;
    for (i = 0; i + 1 < h->n; i++) {
        bound = h->at[i].closed ? bound : fmin(bound, tip(h, i));
    }
    if (h->answer.sum.nats > 0) {
        h->answer.gap = fmax(h->answer.gap, 1 - bound / h->answer.sum.nats);
    }
out:
    return status;
}

om_status om_problem_solve_routed(int *pick, om_solution *out, const om_problem *p,
                                  double tolerance, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    if (p->routing_weight <= 0) {
        return om_problem_solve(pick, out, p, tolerance, env, err);
    }
    hull h = { .p = p, .linear = *p, .tolerance = tolerance, .env = env, .best = pick };
    h.enough = fmax(tolerance, p->n_groups > SMALL ? 1e-4 : 1e-9);
    h.linear.routing_weight = 0;
    h.linear.options = om_calloc((size_t) p->n_options, sizeof *h.linear.options);
    h.scratch = om_calloc((size_t) p->n_groups, sizeof *h.scratch);
    if (h.linear.options == NULL || h.scratch == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_options * sizeof *h.linear.options));
    }
    memcpy(h.linear.options, p->options, (size_t) p->n_options * sizeof *h.linear.options);
    OM_TRY(search(&h, err));
    *out = h.answer;
out:
    om_free(h.linear.options);
    om_free(h.scratch);
    return status;
}
