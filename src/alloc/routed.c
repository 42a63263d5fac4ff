/* Majorise and minimise: see routed.h. */
#include "alloc/routed.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_ROUNDS = 8 };

/* The price of a unit of variance: the slope of sqrt(weight · routing) at the answer. */
static double slope_at(const om_problem *p, double routing) {
    return routing > 0 ? 0.5 * sqrt(p->routing_weight / routing) : 0;
}

static void set_price(om_problem *linear, const om_problem *p, double price) {
    for (int i = 0; i < p->n_options; i++) {
        linear->options[i].nats = p->options[i].nats + price * p->options[i].routing;
    }
}

/* One program; a better answer replaces the best one. *again: it did. */
static om_status solve_round(int *best, om_solution *out, bool *again, int *pick,
                             const om_problem *linear, const om_problem *p, double tolerance,
                             const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_solution s = { 0 };
    OM_TRY(om_problem_solve(pick, &s, linear, tolerance, env, err));
    const double seconds = out->seconds + s.seconds;
    const om_choice_sum sum = om_problem_evaluate(p, pick);
    *again = !out->sum.valid || sum.nats < out->sum.nats * (1 - 1e-9);
    if (*again) {
        memcpy(best, pick, (size_t) p->n_groups * sizeof *best);
        *out = s;
        out->sum = sum;
    }
    out->seconds = seconds;
out:
    return status;
}

om_status om_problem_solve_routed(int *pick, om_solution *out, const om_problem *p,
                                  double tolerance, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    if (p->routing_weight <= 0) {
        return om_problem_solve(pick, out, p, tolerance, env, err);
    }
    om_problem linear = *p; /* borrows the groups */
    linear.routing_weight = 0;
    linear.options = om_calloc((size_t) p->n_options, sizeof *linear.options);
    int *scratch = om_calloc((size_t) p->n_groups, sizeof *scratch);
    om_solution best = { 0 };
    bool again = true;
    if (linear.options == NULL || scratch == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_options * sizeof *linear.options));
    }
    memcpy(linear.options, p->options, (size_t) p->n_options * sizeof *linear.options);
    for (int round = 0; again && round < MAX_ROUNDS; round++) {
        set_price(&linear, p, round == 0 ? 0 : slope_at(p, best.sum.routing));
        OM_TRY(solve_round(pick, &best, &again, scratch, &linear, p, tolerance, env, err));
    }
    *out = best;
out:
    om_free(linear.options);
    om_free(scratch);
    return status;
}
