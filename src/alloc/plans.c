/* Plans by rule: one type everywhere, llama-quantize's presets, and the fixed tiers that the idea
 * of mixed precision started from. They are the baselines that the integer program has to beat, and
 * they use the same candidates, byte counts and predictions.
 *
 * Sensitivity of a tensor = predicted nats per weight at 4 bit. A tensor belongs to the tier in
 * which its middle weight falls, so one huge tensor (an embedding) does not push a tier far over
 * its share.
 */
#include "alloc/plans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/active.h"
#include "alloc/presets.h"
#include "alloc/recipes.h"
#include "base/mem.h"

const om_choice *om_unit_nearest(const om_unit *unit, const om_format *format) {
    const om_choice *exact = om_unit_choice(unit, format);
    if (exact != NULL) {
        return exact;
    }
    const double bytes = om_format_bpw(format) / 8.0 * (double) unit->params;
    for (int i = 0; i < unit->n_choices; i++) {
        if ((double) unit->choices[i].bytes >= bytes) {
            return &unit->choices[i];
        }
    }
    return &unit->choices[unit->n_choices - 1];
}

om_plan_total om_plan_sum(const om_profile *p, const om_format *const *types) {
    const om_active active = om_active_of(p);
    om_plan_total sum = { .bytes = om_profile_fixed_bytes(p),
                          .active_bytes = om_active_fixed_bytes(p) };
    double routing = 0;
    for (int i = 0; i < p->n_units; i++) {
        const om_choice *c = om_unit_choice(&p->units[i], types[i]);
        sum.bytes += om_pad(c->bytes, p->alignment);
        sum.active_bytes += om_active_bytes(&active, i, c->bytes);
        sum.nats += c->nats;
        routing += c->routing;
    }
    sum.routing_nats = om_routers_nats(om_routers_weight(&p->routers), routing);
    sum.nats += sum.routing_nats;
    return sum;
}

/* The types of the tiers. */
typedef enum tier { TIER_8, TIER_6, TIER_4 } tier;

static const om_format *type_of(tier t, om_container container) {
    static const char *const names[OM_CONTAINER_COUNT][3] = {
        [OM_CONTAINER_GGUF] = { "q8_0", "q6_K", "q4_K" },
        [OM_CONTAINER_MLX] = { "mlx_8bit_g64", "mlx_6bit_g64", "mlx_4bit_g64" },
    };
    return om_format_by_name(names[container][t]);
}

/* q4_K, or the better of the types with 32-weight blocks where it does not fit the rows. */
static const om_choice *four_bit(const om_unit *u, om_container container) {
    if (container == OM_CONTAINER_MLX) {
        return om_unit_nearest(u, type_of(TIER_4, container));
    }
    const om_format *q4_k = om_format_by_name("q4_K");
    const om_choice *best = om_unit_choice(u, q4_k);
    static const char *const others[] = { "q4_0", "iq4_nl" };
    for (int i = 0; i < 2 && (best == NULL || best->format != q4_k); i++) {
        const om_choice *c = om_unit_choice(u, om_format_by_name(others[i]));
        if (c != NULL && (best == NULL || c->nats < best->nats)) {
            best = c;
        }
    }
    return best != NULL ? best : om_unit_nearest(u, q4_k);
}

typedef struct ranked {
    const om_unit *unit;
    double sensitivity; /* nats per weight */
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->sensitivity < y->sensitivity || y->sensitivity < x->sensitivity) {
        return x->sensitivity > y->sensitivity ? -1 : 1;
    }
    return x->unit < y->unit ? -1 : 1; /* file order: both point into one array */
}

/* Most sensitive first; middle[i] = share of the weights before the middle of the i-th. */
static om_status rank_units(ranked **out, double **middle, const om_profile *p, om_error *err) {
    size_t n = (size_t) p->n_units;
    double total = 0.0, before = 0.0;
    *out = om_calloc(n, sizeof **out);
    *middle = om_calloc(n, sizeof **middle);
    if (*out == NULL || *middle == NULL) {
        return om_fail_nomem(err, n * sizeof **out);
    }
    for (size_t i = 0; i < n; i++) {
        const om_unit *u = &p->units[i];
        (*out)[i] = (ranked){ u, four_bit(u, p->container)->nats / (double) u->params };
        total += (double) u->params;
    }
    qsort(*out, n, sizeof **out, compare_ranked);
    for (size_t i = 0; i < n; i++) {
        double size = (double) (*out)[i].unit->params;
        (*middle)[i] = (before + size / 2.0) / total;
        before += size;
    }
    return OM_OK;
}

/* The type of 2 to 3 bits per weight with the fewest nats over the last tier. */
static const om_format *low_type(const om_profile *p, const ranked *order, const double *middle,
                                 double from) {
    const bool mlx = p->container == OM_CONTAINER_MLX;
    const om_format *best = om_format_by_name(mlx ? "mlx_2bit_g64" : "q2_K"), *f;
    double best_nats = HUGE_VAL;
    for (int k = 0; (f = mlx ? om_format_mlx_at(k) : om_format_at(k)) != NULL; k++) {
        double bpw = om_format_bpw(f), nats = 0.0;
        bool somewhere = false;
        if (bpw < 2.0 || bpw > 3.0) {
            continue;
        }
        for (int i = 0; i < p->n_units; i++) {
            if (middle[i] >= from) {
                nats += om_unit_nearest(order[i].unit, f)->nats;
                somewhere |= om_unit_choice(order[i].unit, f) != NULL;
            }
        }
        if (somewhere && nats < best_nats) {
            best_nats = nats;
            best = f;
        }
    }
    return best;
}

static om_status tiers(const om_format **types, const om_profile *p, om_error *err) {
    om_status status = OM_OK;
    ranked *order = NULL;
    double *middle = NULL;
    OM_TRY(rank_units(&order, &middle, p, err));
    const om_format *low = low_type(p, order, middle, 0.70);
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = order[i].unit;
        const om_choice *c;
        if (middle[i] < 0.05) {
            c = om_unit_nearest(u, type_of(TIER_8, p->container));
        } else if (middle[i] < 0.20) {
            c = om_unit_nearest(u, type_of(TIER_6, p->container));
        } else {
            c = middle[i] < 0.70 ? four_bit(u, p->container) : om_unit_nearest(u, low);
        }
        types[u - p->units] = c->format;
    }
out:
    om_free(order);
    om_free(middle);
    return status;
}

static om_status two_tier(const om_format **types, const om_profile *p, int64_t budget_bytes,
                          om_error *err) {
    om_status status = OM_OK;
    const om_format *q8 = type_of(TIER_8, p->container);
    ranked *order = NULL;
    double *middle = NULL;
    OM_TRY(rank_units(&order, &middle, p, err));
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = order[i].unit;
        types[u - p->units] =
            middle[i] < 0.5 ? om_unit_nearest(u, q8)->format : four_bit(u, p->container)->format;
    }
    int64_t bytes = om_plan_sum(p, types).bytes;
    for (int i = p->n_units - 1; i >= 0 && budget_bytes > 0 && bytes > budget_bytes; i--) {
        const om_unit *u = order[i].unit;
        const om_choice *now = om_unit_choice(u, types[u - p->units]),
                        *less = four_bit(u, p->container);
        bytes += om_pad(less->bytes, p->alignment) - om_pad(now->bytes, p->alignment);
        types[u - p->units] = less->format;
    }
out:
    om_free(order);
    om_free(middle);
    return status;
}

static om_status uniform(const om_format **types, const om_profile *p, const char *name,
                         om_error *err) {
    const om_format *format = om_format_by_name(name);
    if (format == NULL) {
        return om_fail(err, OM_E_ARG, "--plan uniform: unknown type '%.32s'; known are %.300s",
                       name, om_format_list());
    }
    for (int i = 0; i < p->n_units; i++) {
        types[i] = om_unit_nearest(&p->units[i], format)->format;
    }
    return OM_OK;
}

om_status om_plan_types(const om_format **types, const om_profile *profile, const char *plan,
                        int64_t budget_bytes, om_error *err) {
    if (strncmp(plan, "uniform:", 8) == 0) {
        return uniform(types, profile, plan + 8, err);
    }
    if (strncmp(plan, "preset:", 7) == 0) {
        if (profile->container == OM_CONTAINER_MLX) {
            return om_fail(err, OM_E_ARG,
                           "plan %.64s is llama-quantize's, for GGUF; for MLX there are "
                           "mlx:mixed_4_6 and its like",
                           plan);
        }
        return om_preset_types(types, profile, plan + 7, err);
    }
    if (strncmp(plan, "mlx:", 4) == 0) {
        return om_recipe_types(types, profile, plan + 4, err);
    }
    if (strcmp(plan, "tiers") == 0) {
        return tiers(types, profile, err);
    }
    if (strcmp(plan, "two-tier") == 0) {
        return two_tier(types, profile, budget_bytes, err);
    }
    return om_fail(err, OM_E_ARG,
                   "unknown plan '%.64s'; expected uniform:TYPE, preset:NAME, mlx:NAME, tiers or "
                   "two-tier",
                   plan);
}
