/* Sums into statistics: see stats_make.h. */
#include "profile/stats_make.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

/* An embedding that is only looked up. It has no matrix input; within a row its error counts by the
 * column marginals, so these, scaled to a mean of one, take the place of E[x²] (method.md eq. 4).
 * And tokens that the text never used will be used: what rows seen once add to F is what another
 * text of this length would add to rows unseen so far (Good & Turing), so the unseen rows share
 * that. */
static void finish_embedding(om_tensor_stats *t, const om_fisher_weight *w) {
    double mean = 0, once = 0, unseen = 0, total = 0;
    for (int64_t i = 0; i < w->n_out; i++) {
        once += w->seen[i] > 0.5 && w->seen[i] < 1.5 ? w->rows[i] : 0;
        unseen += w->seen[i] > 0.5 ? 0 : 1;
        total += w->rows[i];
    }
    for (int64_t i = 0; i < w->n_out && unseen > 0; i++) {
        t->rows[i] += w->seen[i] > 0.5 ? 0 : (float) (once / unseen);
    }
    const double more = unseen > 0 && total > 0 ? 1 + once / total : 1;
    t->total *= more;
    for (int64_t j = 0; j < w->n_in; j++) {
        mean += w->cols[j] / (double) w->n_in;
        t->cols[j] = (float) (w->cols[j] * more);
    }
    if (mean <= 0) { /* no gradient was taken (method measured): round without importance */
        om_free(t->in_sum2);
        om_free(t->counts);
        t->in_sum2 = t->counts = NULL;
        return;
    }
    for (int64_t j = 0; j < w->n_in; j++) {
        t->in_sum2[j] = (float) (w->cols[j] / mean);
    }
    t->counts[0] = 1.0F;
}

/* out [experts, n] = scale * (sums + prior tokens of the average expert). */
static om_status with_prior(float *out, const double *sums, int64_t n, int experts, double tokens,
                            double scale, om_error *err) {
    double *mean = om_calloc((size_t) n, sizeof *mean); /* per token */
    if (!mean) {
        return om_fail_nomem(err, (size_t) n * sizeof *mean);
    }
    for (int64_t i = 0; i < experts * n; i++) {
        mean[i % n] += sums[i] / tokens;
    }
    for (int64_t i = 0; i < experts * n; i++) {
        out[i] = (float) (scale * (sums[i] + OM_EXPERT_PRIOR * mean[i % n]));
    }
    om_free(mean);
    return OM_OK;
}

static om_status fill_stack(om_tensor_stats *t, const om_fisher_weight *w, om_error *err) {
    om_status status = OM_OK;
    double tokens = 0;
    for (int e = 0; e < w->experts; e++) {
        tokens += w->count[e];
    }
    if (tokens <= 0) { /* the graph never reads it: nothing is known, nothing is lost */
        return OM_OK;
    }
    const double scale = tokens / (tokens + (double) OM_EXPERT_PRIOR * w->experts);
    OM_TRY(with_prior(t->rows, w->rows, w->n_out, w->experts, tokens, scale, err));
    OM_TRY(with_prior(t->cols, w->cols, w->n_in, w->experts, tokens, scale, err));
    OM_TRY(with_prior(t->in_sum2, w->in_sum2, w->n_in, w->experts, tokens, 1, err));
    for (int e = 0; e < w->experts; e++) {
        t->counts[e] = (float) (w->count[e] + OM_EXPERT_PRIOR);
    }
out:
    return status;
}

static void fill_matrix(om_tensor_stats *t, const om_fisher_weight *w) {
    for (int64_t i = 0; i < w->n_out; i++) {
        t->rows[i] = (float) w->rows[i];
    }
    for (int64_t j = 0; j < w->n_in; j++) {
        t->cols[j] = (float) w->cols[j];
        t->in_sum2[j] = (float) w->in_sum2[j];
    }
    t->counts[0] = (float) w->count[0];
}

static om_status fill_tensor(om_tensor_stats *t, const om_fisher_weight *w, om_error *err) {
    const size_t experts = (size_t) w->experts, n_in = experts * (size_t) w->n_in;
    memcpy(t->name, w->name, sizeof t->name);
    t->n_in = w->n_in;
    t->n_out = w->n_out;
    t->experts = w->experts;
    t->in_sum2 = om_calloc(n_in, sizeof(float));
    t->counts = om_calloc(experts, sizeof(float));
    t->rows = om_calloc(experts * (size_t) w->n_out, sizeof(float));
    t->cols = om_calloc(n_in, sizeof(float));
    if (!t->in_sum2 || !t->counts || !t->rows || !t->cols) {
        return om_fail_nomem(err, (2 * n_in + experts * (size_t) w->n_out) * sizeof(float));
    }
    for (size_t j = 0; j < n_in; j++) {
        t->total += w->cols[j];
    }
    if (w->experts > 1) {
        return fill_stack(t, w, err);
    }
    fill_matrix(t, w);
    if (w->count[0] <= 0) {
        finish_embedding(t, w);
    }
    return OM_OK;
}

om_status om_stats_make(om_stats **out, const om_fisher *f, const om_stats_origin *origin,
                        om_error *err) {
    om_status status = OM_OK;
    om_stats *s = om_calloc(1, sizeof *s);
    if (!s) {
        return om_fail_nomem(err, sizeof *s);
    }
    s->tensors = om_calloc((size_t) f->n_weights, sizeof *s->tensors);
    if (!s->tensors) {
        status = om_fail_nomem(err, (size_t) f->n_weights * sizeof *s->tensors);
        goto out;
    }
    s->n_tensors = f->n_weights;
    memcpy(s->model_sha256, origin->model_sha256, sizeof s->model_sha256);
    memcpy(s->calib_sha256, origin->calib_sha256, sizeof s->calib_sha256);
    s->n_windows = origin->n_windows;
    s->window_tokens = origin->window_tokens;
    s->pass = OM_STATS_PASS;
    s->tokens = origin->tokens;
    s->seed = origin->seed;
    for (int i = 0; i < f->n_weights; i++) {
        OM_TRY(fill_tensor(&s->tensors[i], &f->weights[i], err));
    }
out:
    if (status != OM_OK) {
        om_stats_free(s);
        return status;
    }
    *out = s;
    return OM_OK;
}

/* ---- coverage
 * ------------------------------------------------------------------------------------------------
 */

/* Experts of a layer share their tokens: one stack of each layer speaks for all. */
static bool speaks_for_layer(const om_fisher_weight *w) {
    return w->experts > 1 && strstr(w->name, ".ffn_down_exps.") != NULL;
}

void om_stats_warn_coverage(const om_fisher *f, const om_stats_origin *origin, const om_env *env) {
    enum { NAMED = 12 };
    om_buf names = { 0 };
    int few = 0, all = 0;
    double rarest = (double) INFINITY;
    for (int i = 0; i < f->n_weights; i++) {
        const om_fisher_weight *w = &f->weights[i];
        for (int e = 0; e < w->experts && speaks_for_layer(w); e++) {
            all++;
            if (w->count[e] >= OM_EXPERT_FEW) {
                continue;
            }
            rarest = w->count[e] < rarest ? w->count[e] : rarest;
            if (few++ < NAMED) {
                om_buf_printf(&names, "%s%.*s:%d", few > 1 ? ", " : "",
                              (int) (strstr(w->name, ".ffn_down") - w->name), w->name, e);
            }
        }
    }
    if (few > 0 && !names.failed) {
        /* An expert that was never seen is taken to come once in a text of this length. */
        const double more = OM_EXPERT_FEW / (rarest > 0 ? rarest : 1) * (double) origin->tokens;
        om_log(env, OM_LOG_WARN,
               "%d of %d experts saw fewer than %d tokens (%s%s); their statistics lean on their "
               "layer's mean (prior: %d tokens). %s%.0f tokens of such text would show the rarest "
               "often enough%s",
               few, all, OM_EXPERT_FEW, names.data, few > NAMED ? ", …" : "", OM_EXPERT_PRIOR,
               rarest > 0 ? "About " : "More than ", more,
               origin->covered ? "" : "; --select cover picks windows that do");
    }
    om_buf_release(&names);
}
