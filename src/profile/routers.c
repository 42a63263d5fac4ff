/* Tokens near a tie are sent to the expert that the router just left out, and the divergence of the
 * model's output is measured: nats for one changed choice. The routers are taken in a few groups of
 * neighbours, because what a swap costs differs little between them and a pass over one group shows
 * hundreds of swaps. How many choices a perturbation changes follows from the density of margins
 * near zero (docs/method.md eq. 14). */
#include "profile/routers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "calib/reroute.h"
#include "eval/metrics.h"

enum { MAX_GROUPS = 4 };

/* Of the tokens whose margin is among the smallest `near_share` of a window, so many are swapped
 * that each token has `swaps_per_token` of them over all routers of a group. */
static const double near_share = 0.3, swaps_per_token = 0.25;
/* Margins below this quantile give the density: wide enough for a few thousand tokens. */
static const double density_quantile = 0.2;

typedef struct lab {
    om_reroute *model;
    om_compute *compute;
    om_pool *pool;
    int n_tokens, n_routers, n_groups;
    float *truth;    /* [T, V] */
    int32_t *labels; /* [T] zeros: only the divergence is asked for */
    bool *swap;      /* [n_routers, T] */
    double *margins; /* [n_routers, windows, T] */
    double *sorted;  /* [windows, T] */
    double nats[MAX_GROUPS], swaps[MAX_GROUPS];
} lab;

static void lab_close(lab *l) {
    om_reroute_close(l->model);
    om_compute_free(l->compute);
    om_pool_free(l->pool);
    om_free(l->truth);
    om_free(l->labels);
    om_free(l->swap);
    om_free(l->margins);
    om_free(l->sorted);
}

static int group_of(const lab *l, int router) {
    return (int) ((int64_t) router * l->n_groups / l->n_routers);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return x < y ? -1 : x > y;
}

/* The q-quantile of the finite ones among values [n]; scratch [n]. NaN: none. */
static double quantile(const double *values, int64_t n, double q, double *scratch) {
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(values[i])) {
            scratch[m++] = values[i];
        }
    }
    qsort(scratch, (size_t) m, sizeof *scratch, compare_doubles);
    return m > 0 ? scratch[(int64_t) (q * (double) (m - 1))] : (double) NAN;
}

/* Once the first run has shown the routers. */
static om_status make_room(lab *l, int n_windows, om_error *err) {
    const size_t tokens = (size_t) l->n_tokens;
    l->n_routers = om_reroute_n_routers(l->model);
    l->n_groups = l->n_routers < MAX_GROUPS ? l->n_routers : MAX_GROUPS;
    l->truth = om_alloc_aligned(tokens * (size_t) om_reroute_vocab(l->model) * sizeof(float));
    l->labels = om_calloc(tokens, sizeof *l->labels);
    l->swap = om_calloc((size_t) l->n_routers * tokens + 1, sizeof *l->swap);
    l->margins = om_calloc((size_t) (l->n_routers * n_windows) * tokens + 1, sizeof *l->margins);
    l->sorted = om_calloc((size_t) n_windows * tokens, sizeof *l->sorted);
    return l->truth && l->labels && l->swap && l->margins && l->sorted
               ? OM_OK
               : om_fail_nomem(err, tokens * (size_t) om_reroute_vocab(l->model) * sizeof(float));
}

/* Which tokens of the group's routers are sent elsewhere; returns how many. */
static double choose_swaps(lab *l, int group, const double *margins, uint64_t seed,
                           uint64_t first) {
    double n = 0;
    int routers = 0;
    for (int r = 0; r < l->n_routers; r++) {
        routers += group_of(l, r) == group;
    }
    const double p = fmin(1.0, swaps_per_token / routers / near_share);
    for (int r = 0; r < l->n_routers; r++) {
        const double *m = margins + (int64_t) r * l->n_tokens;
        const double near = quantile(m, l->n_tokens, near_share, l->sorted);
        for (int t = 0; t < l->n_tokens; t++) {
            om_rng rng = om_rng_at(seed, first + (uint64_t) (r * l->n_tokens + t));
            bool *swap = &l->swap[(int64_t) r * l->n_tokens + t];
            *swap = group_of(l, r) == group && m[t] <= near && om_rng_f64(&rng) < p;
            n += *swap;
        }
    }
    return n;
}

static om_status measure_group(lab *l, int group, const int32_t *tokens, om_error *err) {
    om_status status = OM_OK;
    om_tally tally = { 0 };
    const float *logits;
    int64_t bad;
    OM_TRY(om_reroute_run(&logits, l->model, tokens, l->swap, err));
    OM_TRY(om_tally_rows(&tally, &bad, l->truth, logits, l->labels, l->n_tokens,
                         om_reroute_vocab(l->model), l->pool, err));
    l->nats[group] += tally.sum_kld;
out:
    om_tally_release(&tally);
    return status;
}

static om_status measure_window(lab *l, const int32_t *tokens, int window, int n_windows,
                                uint64_t seed, om_error *err) {
    om_status status = OM_OK;
    const float *logits;
    OM_TRY(om_reroute_run(&logits, l->model, tokens, NULL, err));
    if (!l->truth) {
        OM_TRY(make_room(l, n_windows, err));
    }
    memcpy(l->truth, logits,
           (size_t) l->n_tokens * (size_t) om_reroute_vocab(l->model) * sizeof *l->truth);
    const double *margins = om_reroute_margins(l->model);
    for (int r = 0; r < l->n_routers; r++) {
        memcpy(l->margins + ((int64_t) r * n_windows + window) * l->n_tokens,
               margins + (int64_t) r * l->n_tokens, (size_t) l->n_tokens * sizeof *margins);
    }
    for (int g = 0; g < l->n_groups; g++) {
        const uint64_t stream = (uint64_t) (window * l->n_routers * l->n_tokens);
        l->swaps[g] += choose_swaps(l, g, margins, seed, stream);
        OM_TRY(measure_group(l, g, tokens, err));
    }
out:
    return status;
}

static om_status conclude(om_routers *out, lab *l, int n_windows, om_error *err) {
    /* E[max(0, Z)] of a standard normal: a margin m at density d near zero changes sides with
     * probability Φ(−m/σ), which integrates to d σ times this. */
    const double half_normal = 0.39894228040143268;
    out->items = om_calloc((size_t) l->n_routers + 1, sizeof *out->items);
    if (!out->items) {
        return om_fail_nomem(err, (size_t) l->n_routers * sizeof *out->items);
    }
    out->n = l->n_routers;
    for (int r = 0; r < l->n_routers; r++) {
        om_router *router = &out->items[r];
        const int64_t n = (int64_t) n_windows * l->n_tokens;
        const double q = quantile(l->margins + r * n, n, density_quantile, l->sorted);
        const int g = group_of(l, r);
        router->density = q > 0 ? density_quantile / q : 0;
        router->nats_per_swap = l->swaps[g] > 0 ? l->nats[g] / l->swaps[g] : 0;
        router->weight = half_normal * router->density * router->nats_per_swap;
    }
    return OM_OK;
}

om_status om_routers_measure(om_routers *out, const char *model_path, const om_windows *w,
                             uint64_t seed, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    lab l = { .n_tokens = w->n_tokens };
    const int n = w->n_windows < OM_ROUTERS_WINDOWS ? w->n_windows : OM_ROUTERS_WINDOWS;
    l.pool = om_pool_new(om_n_threads(env));
    OM_TRY(om_compute_new(&l.compute, om_n_threads(env), err));
    OM_TRY(om_reroute_open(&l.model, model_path, w->n_tokens, l.compute, env, err));
    for (int i = 0; i < n; i++) {
        const int64_t window = (int64_t) i * w->n_windows / n;
        om_progress(env, "routing", i, n, "windows");
        OM_TRY(measure_window(&l, w->tokens + window * w->n_tokens, i, n, seed, err));
    }
    om_progress(env, "routing", n, n, "windows");
    OM_TRY(conclude(out, &l, n, err));
out:
    lab_close(&l);
    return status;
}
