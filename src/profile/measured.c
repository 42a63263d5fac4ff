/* Measuring every candidate: see measured.h. */
#include "profile/measured.h"

#include <stdio.h>
#include <string.h>

#include "ggml.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "calib/editable.h"
#include "eval/metrics.h"
#include "profile/roundtrip.h"

/* One tensor in one type. */
typedef struct candidate {
    om_choice *choice;
    const om_tensor *tensor;
    int weight;     /* index into the set of weights */
    int64_t offset; /* of the quantized bytes in the cache */
    double sum;     /* of the divergence over all positions so far */
} candidate;

typedef struct lab {
    om_editable *model;
    om_compute *compute;
    om_fisher *weights;
    const om_stats *stats;
    candidate *candidates;
    int n_candidates;
    om_map cache;
    char *cache_path;
    float *truth;    /* [T, n_vocab] logits of the unchanged model */
    float *row;      /* [experts, n_in] of the widest tensor: room for a row of any */
    int32_t *labels; /* [T] zeros: only the divergence is asked for */
    om_pool *pool;
    int done[2]; /* windows, and candidates in the next window */
    om_pacer pacer;
} lab;

static void lab_close(lab *l) {
    om_editable_close(l->model);
    om_compute_free(l->compute);
    om_map_close(&l->cache);
    if (l->cache_path) {
        (void) remove(l->cache_path);
    }
    om_free(l->cache_path);
    om_free(l->candidates);
    om_free(l->truth);
    om_free(l->row);
    om_free(l->labels);
    om_pool_free(l->pool);
}

om_status om_measured_moments(om_fisher *weights, const om_windows *w, const char *model_path,
                              const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_compute *c = NULL;
    om_editable *e = NULL;
    const float *ignored;
    OM_TRY(om_compute_new(&c, om_n_threads(env), err));
    OM_TRY(om_editable_open(&e, model_path, w->n_tokens, weights, c, env, err));
    for (int i = 0; i < w->n_windows; i++) {
        om_progress(env, "imatrix", i, w->n_windows, "windows");
        OM_TRY(om_editable_run(&ignored, e, w->tokens + (int64_t) i * w->n_tokens, true, err));
    }
    om_progress(env, "imatrix", w->n_windows, w->n_windows, "windows");
out:
    om_editable_close(e);
    om_compute_free(c);
    return status;
}

/* ---- candidates, quantized once
 * -------------------------------------------------------------------------------------- */

static om_status list_candidates(lab *l, om_profile *p, const om_model *model, om_error *err) {
    int n = 0;
    for (int u = 0; u < p->n_units; u++) {
        n += p->units[u].n_choices;
    }
    l->candidates = om_calloc((size_t) n + 1, sizeof *l->candidates);
    if (!l->candidates) {
        return om_fail_nomem(err, (size_t) n * sizeof *l->candidates);
    }
    int64_t offset = 0;
    for (int u = 0; u < p->n_units; u++) {
        om_unit *unit = &p->units[u];
        for (int k = 0; k < unit->n_choices; k++) {
            if (unit->choices[k].format == unit->source) {
                unit->choices[k].nats = 0;
                continue;
            }
            candidate *c = &l->candidates[l->n_candidates++];
            c->choice = &unit->choices[k];
            c->tensor = om_model_find(model, unit->name);
            c->weight = om_fisher_find(l->weights, unit->name);
            c->offset = offset;
            offset += c->choice->bytes;
        }
    }
    return OM_OK;
}

typedef struct quantize_args {
    const candidate *c;
    const float *importance; /* [experts, n_in] or NULL */
    unsigned char *out;
    float *rows; /* [workers, n_in] */
    om_status *status;
    om_error *errors;
} quantize_args;

static void quantize_rows(void *ctx, int64_t first, int64_t last, int worker) {
    const quantize_args *a = ctx;
    const int64_t n_in = a->c->tensor->ne[0],
                  row_bytes = om_format_size(a->c->choice->format, n_in, 1);
    float *row = a->rows + worker * n_in;
    for (int64_t r = first; r < last && a->status[worker] == OM_OK; r++) {
        a->status[worker] = om_tensor_rows_f32(row, a->c->tensor, r, 1, &a->errors[worker]);
        if (a->status[worker] == OM_OK) {
            om_roundtrip_pack(
                a->out + r * row_bytes, a->c->choice->format, a->c->tensor->format, row,
                a->importance ? a->importance + r / a->c->tensor->ne[1] * n_in : NULL, 1, n_in);
        }
    }
}

static om_status quantize_candidate(const candidate *c, unsigned char *out, float *importance,
                                    om_pool *pool, const om_stats *stats, om_error *err) {
    const int64_t n_in = c->tensor->ne[0];
    const int n_workers = om_pool_size(pool);
    const om_tensor_stats *t = om_stats_find(stats, c->tensor->name);
    quantize_args a = { .c = c, .out = out };
    om_status status = OM_OK;
    a.importance = t && t->in_sum2 ? importance : NULL;
    for (int e = 0; a.importance && e < t->experts; e++) {
        (void) om_stats_importance(importance + e * n_in, t, e);
    }
    a.rows = om_calloc((size_t) n_workers, (size_t) n_in * sizeof(float));
    a.status = om_calloc((size_t) n_workers, sizeof *a.status);
    a.errors = om_calloc((size_t) n_workers, sizeof *a.errors);
    if (!a.rows || !a.status || !a.errors) {
        status = om_fail_nomem(err, (size_t) (n_workers * n_in) * sizeof(float));
        goto out;
    }
    om_roundtrip_init(c->choice->format);
    om_parallel_for(pool, om_tensor_n_rows(c->tensor), 16, quantize_rows, &a);
    for (int k = 0; k < n_workers; k++) {
        if (a.status[k] != OM_OK) {
            *err = a.errors[k];
            status = a.status[k];
        }
    }
out:
    om_free(a.rows);
    om_free(a.status);
    om_free(a.errors);
    return status;
}

/* The cache file: all candidates one after another. */
static om_status quantize_all(lab *l, const char *path, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_atomic file = { 0 };
    unsigned char *bytes = NULL;
    float *importance = NULL;
    int64_t largest = 0, widest = 0, total = 0;
    char need[32];
    for (int i = 0; i < l->n_candidates; i++) {
        const candidate *c = &l->candidates[i];
        largest = c->choice->bytes > largest ? c->choice->bytes : largest;
        const int64_t inputs = c->tensor->ne[0] * c->tensor->ne[2] * c->tensor->ne[3];
        widest = inputs > widest ? inputs : widest;
        total += c->choice->bytes;
    }
    const int64_t disk = om_disk_free(path);
    if (disk >= 0 && disk < total + (64 << 20)) {
        return om_fail(
            err, OM_E_LIMIT,
            "%s: the quantized candidates need %s of disk; free some or name fewer --types", path,
            om_format_bytes(need, (double) total, false));
    }
    bytes = om_alloc_aligned((size_t) largest + 64);
    importance = om_calloc((size_t) widest + 1, sizeof *importance);
    l->row = om_calloc((size_t) widest + 1, sizeof *l->row);
    if (!bytes || !importance || !l->row) {
        status = om_fail_nomem(err, (size_t) largest);
        goto out;
    }
    OM_TRY(om_atomic_open(&file, path, err));
    for (int i = 0; i < l->n_candidates; i++) {
        OM_TRY(om_check_cancel(env, err));
        om_progress(env, "candidates", i, l->n_candidates, "tensors × types");
        OM_TRY(quantize_candidate(&l->candidates[i], bytes, importance, l->pool, l->stats, err));
        OM_TRY(om_atomic_write(&file, bytes, (size_t) l->candidates[i].choice->bytes, err));
    }
    OM_TRY(om_atomic_commit(&file, err));
    om_progress(env, "candidates", l->n_candidates, l->n_candidates, "tensors × types");
    OM_TRY(om_map_open(&l->cache, path, err));
    (void) remove(path); /* the mapping keeps it; nothing is left behind however this ends */
out:
    om_atomic_abort(&file);
    om_free(bytes);
    om_free(importance);
    return status;
}

/* ---- one window
 * ----------------------------------------------------------------------------------------------------------
 */

/* Dequantize the candidate over the weight, in the weight's own type. */
static void install(lab *l, const candidate *c) {
    const int64_t n_in = c->tensor->ne[0], row_bytes = om_format_size(c->choice->format, n_in, 1);
    const int64_t weight_row = om_format_size(c->tensor->format, n_in, 1);
    const enum ggml_type own = (enum ggml_type) c->tensor->format->ggml_type;
    const unsigned char *packed = l->cache.data + c->offset;
    unsigned char *to = om_editable_weight(l->model, c->weight);
    for (int64_t r = 0; r < om_tensor_n_rows(c->tensor); r++) {
        om_roundtrip_unpack(l->row, c->choice->format, c->tensor->format, packed + r * row_bytes, 1,
                            n_in);
        if (own == GGML_TYPE_F32) {
            memcpy(to + r * weight_row, l->row, (size_t) weight_row);
        } else {
            ggml_quantize_chunk(own, l->row, to + r * weight_row, 0, 1, n_in, NULL);
        }
    }
}

static void restore(lab *l, const candidate *c) {
    memcpy(om_editable_weight(l->model, c->weight), c->tensor->data, (size_t) c->tensor->bytes);
}

static om_status measure_candidate(lab *l, candidate *c, const int32_t *tokens, int n_tokens,
                                   om_error *err) {
    if (!om_editable_weight(l->model, c->weight)) {
        return OM_OK; /* the graph never uses it: nothing is lost */
    }
    om_tally tally = { 0 };
    const float *logits;
    int64_t bad;
    install(l, c);
    om_status status = om_editable_run(&logits, l->model, tokens, false, err);
    restore(l, c);
    if (status == OM_OK) {
        status = om_tally_rows(&tally, &bad, l->truth, logits, l->labels, n_tokens,
                               om_editable_vocab(l->model), l->pool, err);
    }
    c->sum += status == OM_OK ? tally.sum_kld : 0.0;
    om_tally_release(&tally);
    return status == OM_OK
               ? OM_OK
               : om_error_context(err, "%s in %s", c->tensor->name, c->choice->format->name);
}

/* ---- checkpoint: key, windows done, candidates done in the next one, sums, SHA-256 of all before
 * ------------------------------------------------------------------------------------ */

static om_status save_sums(lab *l, const om_measured_options *o, om_error *err) {
    om_buf b = { 0 };
    char digest[65];
    const double since = om_now_s();
    om_buf_add(&b, o->key, 65);
    om_buf_add(&b, (const char *) l->done, sizeof l->done);
    for (int i = 0; i < l->n_candidates; i++) {
        om_buf_add(&b, (const char *) &l->candidates[i].sum, sizeof(double));
    }
    om_sha256_bytes(digest, b.data, b.len);
    om_buf_add(&b, digest, sizeof digest);
    om_status status =
        b.failed ? om_fail_nomem(err, b.len) : om_file_write(o->checkpoint, b.data, b.len, err);
    om_buf_release(&b);
    om_pacer_done(&l->pacer, since);
    return status;
}

static bool is_intact(const char *data, size_t size, const char *key) {
    char digest[65];
    om_sha256_bytes(digest, data, size - sizeof digest);
    return memcmp(data, key, 65) == 0 &&
           memcmp(data + size - sizeof digest, digest, sizeof digest) == 0;
}

static bool is_plausible(const int done[2], int n_windows, int n_candidates) {
    return done[0] >= 0 && done[0] <= n_windows && done[1] >= 0 && done[1] <= n_candidates &&
           (done[0] < n_windows || done[1] == 0);
}

static om_status load_sums(lab *l, int n_windows, const om_measured_options *o, om_error *err) {
    const size_t expect = 65 + sizeof l->done + (size_t) l->n_candidates * sizeof(double) + 65;
    char *data;
    size_t size;
    int done[2];
    if (!o->checkpoint || o->restart || om_file_size(o->checkpoint) != (int64_t) expect) {
        return OM_OK;
    }
    om_status status = om_file_read(&data, &size, o->checkpoint, expect, err);
    if (status == OM_OK && size == expect && is_intact(data, size, o->key)) {
        memcpy(done, data + 65, sizeof done);
        const bool ok = is_plausible(done, n_windows, l->n_candidates);
        for (int i = 0; ok && i < l->n_candidates; i++) {
            memcpy(&l->candidates[i].sum, data + 65 + sizeof done + (size_t) i * sizeof(double),
                   sizeof(double));
        }
        if (ok) {
            memcpy(l->done, done, sizeof done);
        }
    }
    om_free(data);
    return status;
}

/* ---- a window
 * ------------------------------------------------------------------------------------ */

static om_status measure_window(lab *l, const om_windows *w, const om_measured_options *o,
                                const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const int32_t *tokens = w->tokens + (int64_t) l->done[0] * w->n_tokens;
    const double before = (double) l->done[0] * l->n_candidates;
    const double total = (double) w->n_windows * l->n_candidates;
    const float *logits;
    OM_TRY(om_editable_run(&logits, l->model, tokens, false, err));
    memcpy(l->truth, logits,
           (size_t) w->n_tokens * (size_t) om_editable_vocab(l->model) * sizeof(float));
    while (l->done[1] < l->n_candidates) {
        om_progress(env, "measure", before + l->done[1], total, "forward passes");
        OM_TRY(measure_candidate(l, &l->candidates[l->done[1]], tokens, w->n_tokens, err));
        l->done[1]++;
        if (om_pacer_due(&l->pacer)) {
            OM_TRY(save_sums(l, o, err));
        }
    }
    l->done[0]++;
    l->done[1] = 0;
out:
    return status;
}

/* ---- all of it
 * ------------------------------------------------------------------------------------------------------------------
 */

static om_status open_lab(lab *l, om_profile *p, const om_model *model, om_fisher *weights,
                          const om_stats *stats, const om_windows *w, const om_measured_options *o,
                          const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_buf path = { 0 };
    l->weights = weights;
    l->stats = stats;
    l->pool = om_pool_new(om_n_threads(env));
    OM_TRY(list_candidates(l, p, model, err));
    om_buf_printf(&path, "%s.cache", o->checkpoint);
    l->cache_path = om_buf_take(&path);
    if (!l->cache_path) {
        status = om_fail_nomem(err, 1024);
        goto out;
    }
    OM_TRY(quantize_all(l, l->cache_path, env, err));
    OM_TRY(om_compute_new(&l->compute, om_n_threads(env), err));
    OM_TRY(om_editable_open(&l->model, o->model_path, w->n_tokens, weights, l->compute, env, err));
    l->truth = om_alloc_aligned((size_t) w->n_tokens * (size_t) om_editable_vocab(l->model) *
                                sizeof(float));
    l->labels = om_calloc((size_t) w->n_tokens, sizeof *l->labels);
    if (!l->truth || !l->labels) {
        status = om_fail_nomem(err, (size_t) w->n_tokens * (size_t) om_editable_vocab(l->model) *
                                        sizeof(float));
    }
out:
    return status;
}

static void state_measured_cost(const lab *l, const om_model *model, int windows,
                                const om_env *env) {
    om_log(env, OM_LOG_INFO, "measure: %d tensors × types on %d windows: %.0f forward passes",
           l->n_candidates, windows, (double) (l->n_candidates + 1) * windows);
    const om_format *f = l->n_candidates ? l->candidates[0].tensor->format : NULL;
    if (f && strcmp(f->name, "f32") != 0) {
        om_log(env, OM_LOG_WARN,
               "%s is not F32: each dequantized weight is rounded once more, to %s; convert to F32 "
               "for the "
               "finest types",
               om_model_path(model), f->name);
    }
}

om_status om_measured_fill(om_profile *p, const om_model *model, om_fisher *weights,
                           const om_stats *stats, const om_windows *w, const om_measured_options *o,
                           const om_env *env, om_error *err) {
    om_status status = OM_OK;
    lab l = { 0 };
    OM_TRY(open_lab(&l, p, model, weights, stats, w, o, env, err));
    OM_TRY(load_sums(&l, w->n_windows, o, err));
    const double done = (double) l.done[0] * l.n_candidates + l.done[1];
    const double total = (double) w->n_windows * l.n_candidates;
    if (done > 0) {
        om_log(env, OM_LOG_INFO, "measure: resuming after %.0f of %.0f forward passes", done,
               total);
    }
    state_measured_cost(&l, model, w->n_windows - l.done[0], env);
    while (status == OM_OK && l.done[0] < w->n_windows) {
        status = measure_window(&l, w, o, env, err);
    }
    if (status == OM_E_CANCELLED) { /* a sum is only added to when its pass is complete */
        om_error late = { 0 };
        if (save_sums(&l, o, &late) != OM_OK) {
            om_log(env, OM_LOG_WARN, "the checkpoint could not be brought up to date: %s",
                   late.text);
        }
    }
    OM_TRY(status);
    om_progress(env, "measure", total, total, "forward passes");
    for (int i = 0; i < l.n_candidates; i++) {
        const double mean = l.candidates[i].sum / ((double) w->n_windows * w->n_tokens);
        l.candidates[i].choice->nats = mean > 0 ? mean : 0;
    }
out:
    lab_close(&l);
    return status;
}
