/* Router counts and the greedy choice: see cover.h.
 *
 * What a router chose is the list of expert numbers that every product with a stack takes (src[2]
 * of MUL_MAT_ID), whatever the architecture computed it from. Counts are whole numbers, so the
 * choice is exact.
 */
#include "calib/cover.h"

#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "calib/forward.h"
#include "model/roles.h"

/* ---- the stacks that speak for their layers ---- */

typedef struct group {
    const om_tensor *stack;
    int first; /* expert 0 of the stack in a row of counts */
} group;

static bool is_stack(const om_tensor *t) {
    return t->n_dims == 3 && t->ne[2] > 1 && t->ne[2] <= 1 << 16 && om_tensor_is_experts(t->name);
}

/* The first stack of its layer with that many experts. */
static bool speaks(const om_model *model, int i) {
    const om_tensor *t = om_model_tensor(model, i);
    if (!is_stack(t)) {
        return false;
    }
    for (int k = 0; k < i; k++) {
        const om_tensor *o = om_model_tensor(model, k);
        if (o->layer == t->layer && o->ne[2] == t->ne[2] && is_stack(o)) {
            return false;
        }
    }
    return true;
}

int om_cover_experts(const om_model *model) {
    int64_t n = 0;
    for (int i = 0; i < om_model_n_tensors(model) && n < 1 << 24; i++) {
        n += speaks(model, i) ? om_model_tensor(model, i)->ne[2] : 0;
    }
    return (int) n;
}

om_status om_cover_check(const om_model *model, om_error *err) {
    if (om_cover_experts(model) > 0) {
        return OM_OK;
    }
    return om_fail(err, OM_E_ARG,
                   "--select cover chooses windows that show all experts, but %s (%s) has no "
                   "experts: leave it out",
                   om_model_path(model), om_model_arch(model));
}

/* ---- counting ---- */

typedef struct counter {
    group *groups; /* [n_groups] */
    int n_groups;
    bool bad;      /* the graph named an expert that the stack does not have */
    uint32_t *row; /* [n_experts] of the window at hand */
} counter;

static const group *find_group(const counter *c, const struct ggml_tensor *node) {
    for (int i = 0; node->op == GGML_OP_MUL_MAT_ID && i < c->n_groups; i++) {
        if (strcmp(c->groups[i].stack->name, node->src[0]->name) == 0) {
            return &c->groups[i];
        }
    }
    return NULL;
}

static bool see_node(struct ggml_tensor *node, bool ask, void *ud) {
    counter *c = ud;
    const group *g = find_group(c, node);
    if (ask || !g) {
        return g != NULL;
    }
    const struct ggml_tensor *ids = node->src[2]; /* [K, T] i32 */
    for (int64_t t = 0; t < ids->ne[1]; t++) {
        for (int64_t k = 0; k < ids->ne[0]; k++) {
            const char *at =
                (const char *) ids->data + (size_t) k * ids->nb[0] + (size_t) t * ids->nb[1];
            const int32_t e = *(const int32_t *) (const void *) at;
            if (e < 0 || e >= g->stack->ne[2]) {
                c->bad = true;
                continue;
            }
            c->row[g->first + e]++;
        }
    }
    return true;
}

static om_status counter_init(counter *c, om_cover_counts *out, const om_model *model,
                              const om_windows *w, om_error *err) {
    const int n = om_cover_experts(model);
    const om_status status = om_cover_check(model, err);
    if (status != OM_OK) {
        return status;
    }
    const size_t size = (size_t) n * (size_t) w->n_windows;
    c->groups = om_calloc((size_t) om_model_n_tensors(model), sizeof *c->groups);
    out->counts = om_calloc(size, sizeof *out->counts);
    if (!c->groups || !out->counts) {
        return om_fail_nomem(err, size * sizeof *out->counts);
    }
    for (int i = 0, first = 0; i < om_model_n_tensors(model); i++) {
        if (speaks(model, i)) {
            const om_tensor *t = om_model_tensor(model, i);
            c->groups[c->n_groups++] = (group){ t, first };
            first += (int) t->ne[2];
        }
    }
    out->n_windows = w->n_windows;
    out->n_experts = n;
    return OM_OK;
}

static om_status state_cost(const om_cover_counts *c, double window_s, int64_t max_ram_bytes,
                            const om_env *env, om_error *err) {
    char peak[32], limit[32];
    const int64_t bytes = om_peak_rss_bytes();
    om_format_bytes(peak, (double) bytes, true);
    if (max_ram_bytes > 0 && bytes > max_ram_bytes) {
        return om_fail(err, OM_E_LIMIT,
                       "choosing windows needs about %s, more than --max-ram %s; leave --select "
                       "cover out or allow more",
                       peak, om_format_bytes(limit, (double) max_ram_bytes, true));
    }
    om_log(env, OM_LOG_INFO,
           "cover: %d candidate windows, forward only, about %.0f s, peak memory about %s",
           c->n_windows, window_s * (c->n_windows - 1), peak);
    return OM_OK;
}

om_status om_cover_count(om_cover_counts *out, const om_model *model, const om_windows *w,
                         int64_t max_ram_bytes, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    counter c = { 0 };
    om_compute *compute = NULL;
    om_forward *forward = NULL;
    *out = (om_cover_counts){ 0 };
    OM_TRY(counter_init(&c, out, model, w, err));
    OM_TRY(om_compute_new(&compute, om_n_threads(env), err));
    const om_forward_setup setup = {
        .model_path = om_model_path(model), .n_tokens = w->n_tokens, .callback = see_node, .ud = &c
    };
    OM_TRY(om_forward_open(&forward, &setup, compute, env, err));
    for (int i = 0; i < w->n_windows; i++) {
        const float *logits;
        const double start = om_now_s();
        c.row = out->counts + (int64_t) i * out->n_experts;
        OM_TRY(om_forward_run(&logits, forward, w->tokens + (int64_t) i * w->n_tokens, err));
        if (c.bad) {
            OM_TRY(
                om_fail(err, OM_E_INTERNAL, "the graph uses an expert that is not in its stack"));
        }
        if (i == 0) {
            OM_TRY(state_cost(out, om_now_s() - start, max_ram_bytes, env, err));
        }
        om_progress(env, "cover", i + 1, w->n_windows, "windows");
    }
out:
    om_forward_close(forward);
    om_compute_free(compute);
    om_free(c.groups);
    return status;
}

void om_cover_counts_release(om_cover_counts *c) {
    om_free(c->counts);
    *c = (om_cover_counts){ 0 };
}

/* ---- choosing ---- */

void om_cover_spread(int *chosen, int n, int n_windows) {
    for (int i = 0; i < n; i++) {
        chosen[i] = (int) ((int64_t) i * n_windows / n);
    }
}

static const uint32_t *row_of(const om_cover_counts *c, int window) {
    return c->counts + (int64_t) window * c->n_experts;
}

static int64_t capped(int64_t tokens, int64_t enough) {
    return tokens < enough ? tokens : enough;
}

int om_cover_few(int64_t *sum, const int *chosen, int n, const om_cover_counts *c, int64_t enough) {
    int few = 0;
    int64_t total = 0;
    for (int e = 0; e < c->n_experts; e++) {
        int64_t tokens = 0;
        for (int i = 0; i < n; i++) {
            tokens += row_of(c, chosen[i])[e];
        }
        few += tokens < enough;
        total += capped(tokens, enough);
    }
    if (sum) {
        *sum = total;
    }
    return few;
}

/* What a window adds to the sum; have [n_experts] holds the tokens so far, at most `enough`. */
static int64_t gain(const int64_t *have, const uint32_t *row, int n_experts, int64_t enough) {
    int64_t sum = 0;
    for (int e = 0; e < n_experts; e++) {
        sum += capped(have[e] + (int64_t) row[e], enough) - have[e];
    }
    return sum;
}

/* Take windows while one adds anything; returns how many. */
static int take_greedily(bool *taken, int64_t *have, int n, const om_cover_counts *c,
                         int64_t enough) {
    for (int done = 0; done < n; done++) {
        int best = -1;
        int64_t most = 0;
        for (int w = 0; w < c->n_windows; w++) {
            const int64_t g = taken[w] ? 0 : gain(have, row_of(c, w), c->n_experts, enough);
            if (g > most) {
                most = g;
                best = w;
            }
        }
        if (best < 0) {
            return done;
        }
        taken[best] = true;
        for (int e = 0; e < c->n_experts; e++) {
            have[e] = capped(have[e] + (int64_t) row_of(c, best)[e], enough);
        }
    }
    return n;
}

/* All experts are seen or cannot be: the rest should look like the text. */
static void take_spread(bool *taken, int n, int done, int n_windows) {
    const int left = n_windows - done;
    int at = 0, next = 0; /* position among those left, and how many were taken of them */
    for (int w = 0; w < n_windows && next < n - done; w++) {
        if (!taken[w] && at++ == (int64_t) next * left / (n - done)) {
            taken[w] = true;
            next++;
        }
    }
}

om_status om_cover_choose(int *chosen, int n, const om_cover_counts *c, int64_t enough,
                          om_error *err) {
    bool *taken = om_calloc((size_t) c->n_windows, sizeof *taken);
    int *spread = om_calloc((size_t) n, sizeof *spread);
    int64_t *have = om_calloc((size_t) c->n_experts, sizeof *have), greedy_sum, spread_sum;
    om_status status = OM_OK;
    if (!taken || !spread || !have) {
        OM_TRY(om_fail_nomem(err, (size_t) c->n_experts * sizeof *have));
    }
    take_spread(taken, n, take_greedily(taken, have, n, c, enough), c->n_windows);
    for (int w = 0, i = 0; w < c->n_windows; w++) {
        if (taken[w]) {
            chosen[i++] = w;
        }
    }
    om_cover_spread(spread, n, c->n_windows);
    const int greedy_few = om_cover_few(&greedy_sum, chosen, n, c, enough);
    const int spread_few = om_cover_few(&spread_sum, spread, n, c, enough);
    if (spread_few < greedy_few || (spread_few == greedy_few && spread_sum > greedy_sum)) {
        memcpy(chosen, spread, (size_t) n * sizeof *chosen);
    }
out:
    om_free(taken);
    om_free(spread);
    om_free(have);
    return status;
}
