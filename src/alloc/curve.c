/* Many budgets, one problem: the same search at each size, with a tolerance that the eye cannot
 * see.
 *
 * Neighbouring sizes may have the same answer, which is kept once; and an answer that is worse than
 * a smaller file's, by the tolerance, is left out, so the curve always falls.
 */
#include "alloc/curve.h"

#include <math.h>

#include "alloc/infeasible.h"
#include "alloc/plans.h"
#include "alloc/presets.h"
#include "alloc/recipes.h"
#include "alloc/routed.h"
#include "base/log.h"
#include "base/mem.h"

static const double tolerance = 1e-5;

static double bits_per_weight(const om_profile *profile, int64_t bytes) {
    return 8.0 * (double) bytes / (double) profile->params;
}

static void add_point(om_curve *c, const om_choice_sum *sum, const om_profile *profile) {
    const om_curve_point *last = c->n_best > 0 ? &c->best[c->n_best - 1] : NULL;
    if (last == NULL || (sum->bytes > last->bytes && sum->nats < last->nats)) {
        c->best[c->n_best++] = (om_curve_point){ .bytes = sum->bytes,
                                                 .active_bytes = sum->active_bytes,
                                                 .bpw = bits_per_weight(profile, sum->bytes),
                                                 .nats = sum->nats };
    }
}

/* The smallest and the largest size worth solving. pick [n_groups] is scratch. */
static om_status find_ends(int64_t *low, int64_t *high, int *pick, const om_problem *p,
                           const om_profile *profile, const om_allocate_options *options,
                           const om_env *env, om_error *err) {
    om_error why = { 0 };
    om_choice_sum smallest = { 0 };
    om_solution s = { 0 };
    om_status status = om_problem_smallest(pick, &smallest, p, env, &why);
    if (status == OM_OK) {
        status = om_problem_solve_routed(pick, &s, p, tolerance, env, &why);
    }
    if (status == OM_E_INFEASIBLE) {
        return om_infeasible(pick, p, profile, options, env, err);
    }
    if (status != OM_OK) {
        *err = why;
        return status;
    }
    *low = smallest.bytes;
    *high = s.sum.bytes;
    return OM_OK;
}

static om_status solve_best(om_curve *out, int *pick, const om_problem *problem,
                            const om_profile *profile, const om_allocate_options *options,
                            const om_env *env, om_error *err) {
    om_status status = OM_OK;
    int64_t low = 0, high = 0;
    om_problem p = *problem; /* borrows the groups */
    p.budget_bytes = INT64_MAX;
    OM_TRY(find_ends(&low, &high, pick, &p, profile, options, env, err));
    const double ratio = (double) high / (double) low;
    for (int i = 0; i < OM_CURVE_POINTS; i++) {
        om_error why = { 0 };
        om_solution s = { 0 };
        const double at = (double) low * pow(ratio, (double) i / (OM_CURVE_POINTS - 1));
        p.budget_bytes = i == 0 ? low : i == OM_CURVE_POINTS - 1 ? high : (int64_t) at;
        p.budget_bytes = p.budget_bytes < low ? low : p.budget_bytes;
        status = om_problem_solve_routed(pick, &s, &p, tolerance, env, &why);
        if (status == OM_OK) {
            add_point(out, &s.sum, profile);
        } else if (status == OM_E_INFEASIBLE && om_problem_limits_active(&p)) {
            status = OM_OK; /* with few types the smallest file may read too much */
        } else {
            *err = why;
            goto out;
        }
        om_progress(env, "sweep", i + 1, OM_CURVE_POINTS, "points");
    }
out:
    return status;
}

/* The i-th of what people would use instead, NULL past the end. */
static const char *preset_types(const om_format **types, int i, const om_profile *profile,
                                om_status *status, om_error *err) {
    const bool mlx = profile->container == OM_CONTAINER_MLX;
    const char *name = mlx ? om_recipe_name(i) : om_preset_name(i);
    if (name != NULL) {
        *status = mlx ? om_recipe_types(types, profile, name, err)
                      : om_preset_types(types, profile, name, err);
    }
    return name;
}

static om_status sum_presets(om_curve *out, const om_profile *profile, om_error *err) {
    om_status status = OM_OK;
    const char *name;
    const om_format **types = om_calloc((size_t) profile->n_units, sizeof *types);
    if (types == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) profile->n_units * sizeof *types));
    }
    for (int i = 0;
         i < OM_CURVE_PRESETS && (name = preset_types(types, i, profile, &status, err)) != NULL;
         i++) {
        OM_TRY(status);
        const om_plan_total total = om_plan_sum(profile, types);
        out->presets[out->n_presets++] =
            (om_curve_point){ .name = name,
                              .bytes = total.bytes,
                              .active_bytes = total.active_bytes,
                              .bpw = bits_per_weight(profile, total.bytes),
                              .nats = total.nats };
    }
out:
    om_free(types);
    return status;
}

om_status om_curve_solve(om_curve *out, const om_problem *p, const om_profile *profile,
                         const om_allocate_options *options, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    int *pick = om_calloc((size_t) p->n_groups, sizeof *pick);
    *out = (om_curve){ 0 };
    if (pick == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_groups * sizeof *pick));
    }
    OM_TRY(solve_best(out, pick, p, profile, options, env, err));
    OM_TRY(sum_presets(out, profile, err));
out:
    om_free(pick);
    return status;
}
