/* The verb `profile`: model + text → statistics file and profile.json.
 *
 *   windows of tokens ─ pass (calib) ─▶ Fisher marginals, E[x²] ─▶ profile.stats.gguf
 *   marginals + the real quantizers' errors on sampled rows (qerror) ─▶ nats per tensor and type ─▶
 * profile.json
 */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "calib/pass.h"
#include "model/candidates.h"
#include "model/llama_log.h"
#include "profile/measured.h"
#include "profile/profile.h"
#include "profile/qerror.h"
#include "profile/stats.h"

enum { DEFAULT_WINDOWS = 96, DEFAULT_TOKENS = 512, FEW_WINDOWS = 32 };

/* ---- windows
 * -------------------------------------------------------------------------------------------------------
 */

/* Keep n windows spread evenly over the text: a text often changes its kind from beginning to end.
 */
static void spread_windows(om_windows *w, int n) {
    if (n >= w->n_windows) {
        return;
    }
    const size_t bytes = (size_t) w->n_tokens * sizeof *w->tokens;
    for (int i = 0; i < n; i++) {
        const int64_t from = (int64_t) i * w->n_windows / n;
        memmove(w->tokens + (int64_t) i * w->n_tokens, w->tokens + from * w->n_tokens, bytes);
    }
    w->n_windows = n;
}

static om_status read_windows(om_windows *w, const om_profile_options *o, const om_env *env,
                              om_error *err) {
    const int n_tokens = o->window_tokens ? o->window_tokens : DEFAULT_TOKENS;
    if (n_tokens < 16 || n_tokens > 1 << 20) {
        return om_fail(err, OM_E_ARG, "--window-tokens %d: expected 16 to 1048576", n_tokens);
    }
    om_status status = om_windows_read(w, o->model, o->calib, o->n_calib, n_tokens, 0, env, err);
    if (status != OM_OK) {
        return status;
    }
    const int want = o->n_windows ? o->n_windows : DEFAULT_WINDOWS;
    if (w->n_windows < want && o->n_windows) {
        om_log(env, OM_LOG_WARN, "the text gives %d windows of %d tokens, not %d", w->n_windows,
               n_tokens, want);
    }
    spread_windows(w, want);
    if (w->n_windows < FEW_WINDOWS) {
        om_log(env, OM_LOG_WARN,
               "only %d windows: types will be ranked well, but the predicted level comes out too "
               "low (method.md)",
               w->n_windows);
    }
    return OM_OK;
}

/* ---- statistics
 * ------------------------------------------------------------------------------------------------------
 */

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

static om_status fill_tensor_stats(om_tensor_stats *t, const om_fisher_weight *w, om_error *err) {
    memcpy(t->name, w->name, sizeof t->name);
    t->n_in = w->n_in;
    t->n_out = w->n_out;
    t->experts = 1;
    t->in_sum2 = om_calloc((size_t) w->n_in, sizeof(float));
    t->counts = om_calloc(1, sizeof(float));
    t->rows = om_calloc((size_t) w->n_out, sizeof(float));
    t->cols = om_calloc((size_t) w->n_in, sizeof(float));
    if (!t->in_sum2 || !t->counts || !t->rows || !t->cols) {
        return om_fail_nomem(err, (size_t) (w->n_out + 2 * w->n_in) * sizeof(float));
    }
    for (int64_t i = 0; i < w->n_out; i++) {
        t->rows[i] = (float) w->rows[i];
    }
    for (int64_t j = 0; j < w->n_in; j++) {
        t->cols[j] = (float) w->cols[j];
        t->in_sum2[j] = (float) w->in_sum2[j];
        t->total += w->cols[j];
    }
    t->counts[0] = (float) w->count;
    if (w->count <= 0) {
        finish_embedding(t, w);
    }
    return OM_OK;
}

static om_status make_stats(om_stats **out, const om_fisher *f, const om_profile *p,
                            const om_windows *w, om_error *err) {
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
    memcpy(s->model_sha256, p->model_sha256, sizeof s->model_sha256);
    memcpy(s->calib_sha256, w->sha256, sizeof s->calib_sha256);
    s->n_windows = w->n_windows;
    s->window_tokens = w->n_tokens;
    s->tokens = p->tokens;
    s->seed = p->seed;
    for (int i = 0; i < f->n_weights; i++) {
        OM_TRY(fill_tensor_stats(&s->tensors[i], &f->weights[i], err));
    }
out:
    if (status != OM_OK) {
        om_stats_free(s);
        return status;
    }
    *out = s;
    return OM_OK;
}

/* ---- units and their costs ---- */

/* Name, shape and candidates; the nats are still to come. */
static om_status describe_unit(om_unit *u, const om_tensor *t, const om_tensor_stats *stats,
                               const char *types, om_error *err) {
    om_status status = OM_OK;
    const om_format *formats[OM_CANDIDATES_MAX];
    int n = 0;
    memcpy(u->role, t->role, sizeof u->role);
    strncpy(u->name, t->name, sizeof u->name - 1);
    u->layer = t->layer;
    u->n_in = t->ne[0];
    u->n_out = t->ne[1];
    u->experts = 1;
    u->params = om_tensor_params(t);
    u->source = t->format;
    u->fisher_trace = stats->total;
    OM_TRY(om_candidates(formats, &n, OM_CANDIDATES_MAX, t, types, err));
    u->choices = om_calloc((size_t) n, sizeof *u->choices);
    if (!u->choices) {
        return om_fail_nomem(err, (size_t) n * sizeof *u->choices);
    }
    u->n_choices = n;
    for (int i = 0; i < n; i++) {
        u->choices[i].format = formats[i];
        u->choices[i].bytes = om_format_size(formats[i], u->n_in, u->n_out);
    }
out:
    return status;
}

static om_status describe_units(om_profile *p, const om_model *model, const om_stats *stats,
                                const char *types, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(model);
    p->units = om_calloc((size_t) n, sizeof *p->units);
    p->fixed = om_calloc((size_t) n, sizeof *p->fixed);
    if (!p->units || !p->fixed) {
        return om_fail_nomem(err, (size_t) n * sizeof *p->units);
    }
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        const om_tensor_stats *s = om_stats_find(stats, t->name);
        if (s) {
            OM_TRY(describe_unit(&p->units[p->n_units++], t, s, types, err));
            continue;
        }
        om_fixed *f = &p->fixed[p->n_fixed++];
        strncpy(f->name, t->name, sizeof f->name - 1);
        f->bytes = t->bytes;
    }
out:
    return status;
}

static om_status unit_costs(om_unit *u, const om_tensor *t, const om_tensor_stats *stats,
                            const om_profile *p, om_pool *pool, om_error *err) {
    const om_format *formats[OM_CANDIDATES_MAX];
    double nats[OM_CANDIDATES_MAX];
    for (int i = 0; i < u->n_choices; i++) {
        formats[i] = u->choices[i].format;
    }
    om_status status = om_qerror_tensor(nats, formats, u->n_choices, t, stats, p->tokens,
                                        om_qerror_default_rows(u->n_out), p->seed, pool, err);
    for (int i = 0; i < u->n_choices && status == OM_OK; i++) {
        u->choices[i].nats = nats[i];
    }
    return status == OM_OK ? OM_OK : om_error_context(err, "costs of %s", u->name);
}

static om_status predict_costs(om_profile *p, const om_model *model, const om_stats *stats,
                               const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_pool *pool = om_pool_new(om_n_threads(env));
    for (int i = 0; i < p->n_units; i++) {
        om_unit *u = &p->units[i];
        OM_TRY(om_check_cancel(env, err));
        om_progress(env, "costs", i, p->n_units, "tensors");
        OM_TRY(unit_costs(u, om_model_find(model, u->name), om_stats_find(stats, u->name), p, pool,
                          err));
    }
    om_progress(env, "costs", p->n_units, p->n_units, "tensors");
out:
    om_pool_free(pool);
    return status;
}

/* ---- profile.json
 * ----------------------------------------------------------------------------------------------------------
 */

static om_status describe_model(om_profile *p, const om_model *model, const om_env *env,
                                om_error *err) {
    om_status status = OM_OK;
    snprintf(p->model_path, sizeof p->model_path, "%s", om_model_path(model));
    snprintf(p->arch, sizeof p->arch, "%s", om_model_arch(model));
    OM_TRY(om_model_sha256(p->model_sha256, model, env, err));
    p->params = om_model_params(model);
    p->file_bytes = om_model_file_bytes(model);
    p->metadata_bytes = om_gguf_metadata_bytes(model);
    p->alignment = om_gguf_alignment(model);
    p->hparams.n_layer = (int) om_model_u64(model, "%s.block_count", 0);
    p->hparams.n_head = (int) om_model_u64_at(model, "%s.attention.head_count", 0, 0);
    p->hparams.n_head_kv =
        (int) om_model_u64_at(model, "%s.attention.head_count_kv", 0, (uint64_t) p->hparams.n_head);
    p->hparams.n_expert = (int) om_model_u64(model, "%s.expert_count", 0);
    OM_TRY(om_memory_of(&p->memory, model, env, err));
out:
    return status;
}

static om_status describe_calibration(om_profile *p, const om_windows *w,
                                      const om_profile_options *o, om_error *err) {
    om_status status = OM_OK;
    p->calib_sha256 = om_calloc((size_t) o->n_calib, sizeof *p->calib_sha256);
    if (!p->calib_sha256) {
        return om_fail_nomem(err, (size_t) o->n_calib * sizeof *p->calib_sha256);
    }
    for (int i = 0; i < o->n_calib; i++) {
        OM_TRY(om_sha256_file(p->calib_sha256[i], o->calib[i], NULL, err));
        p->n_calib++;
    }
    p->n_windows = w->n_windows;
    p->window_tokens = w->n_tokens;
    p->tokens = (int64_t) w->n_windows * w->n_tokens;
    p->seed = o->seed;
    snprintf(p->method, sizeof p->method, "%s", o->method ? o->method : "fisher");
out:
    return status;
}

/* Everything the sums depend on; an equal key means equal sums. */
static void work_key(char key[65], const om_profile *p, const om_windows *w, const char *types) {
    char text[512], types_key[65];
    om_sha256_bytes(types_key, types ? types : "", types ? strlen(types) : 0);
    const int n =
        snprintf(text, sizeof text, "%s/2 %s %s %d %d %llu %s", p->method, p->model_sha256,
                 w->sha256, w->n_windows, w->n_tokens, (unsigned long long) p->seed, types_key);
    om_sha256_bytes(key, text, (size_t) n);
}

static void warn_about_source(const om_model *model, const om_env *env) {
    int64_t quantized = 0, all = 0;
    const om_format *example = NULL;
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        all += om_tensor_params(t);
        if (t->format->use != OM_FORMAT_PLAIN) {
            quantized += om_tensor_params(t);
            example = t->format;
        }
    }
    if (example && all > 0) {
        om_log(env, OM_LOG_WARN,
               "the source is already quantized (%.0f %% of its weights, e.g. %s): losses are "
               "measured against it, not against "
               "the original model; the type a tensor already has costs nothing more",
               100.0 * (double) quantized / (double) all, example->name);
    }
}

/* ---- the verb
 * ----------------------------------------------------------------------------------------------------------------
 */

static om_status report(om_result *out, const om_profile *p, const om_profile_options *o,
                        const om_pass_cost *cost, double costs_s, om_error *err) {
    om_buf text = { 0 };
    char peak[32];
    om_buf_printf(&text, "profile    %s\nstatistics %s\n", o->out, p->stats_path);
    om_buf_printf(
        &text, "%d windows of %d tokens in %.1f s, costs of %d tensors in %.1f s, peak memory %s\n",
        p->n_windows, p->window_tokens, cost->total_s, p->n_units, costs_s,
        om_format_bytes(peak, (double) cost->peak_bytes, true));
    om_json *doc = om_json_new_document("optimum.profile_result/1");
    om_json_set_str(doc, "profile", o->out);
    om_json_set_str(doc, "stats", p->stats_path);
    om_json_set_i64(doc, "windows", p->n_windows);
    om_json_set_i64(doc, "window_tokens", p->window_tokens);
    om_json_set_i64(doc, "windows_resumed", cost->windows_resumed);
    om_json_set_f64(doc, "pass_seconds", cost->total_s);
    om_json_set_f64(doc, "forward_seconds", cost->forward_s);
    om_json_set_f64(doc, "costs_seconds", costs_s);
    om_json_set_i64(doc, "tape_bytes", cost->tape_bytes);
    om_json_set_i64(doc, "predicted_peak_bytes", cost->predicted_peak_bytes);
    om_json_set_i64(doc, "peak_bytes", cost->peak_bytes);
    out->json = om_json_dump(doc);
    out->text = om_buf_take(&text);
    om_json_free(doc);
    if (!out->json || !out->text) {
        om_result_release(out);
        return om_fail_nomem(err, 4096);
    }
    return OM_OK;
}

/* "DIR/profile.json" → "DIR/profile" + suffix. */
static char *beside(const char *path, const char *suffix) {
    om_buf b = { 0 };
    const size_t n = strlen(path), cut = n > 5 && strcmp(path + n - 5, ".json") == 0 ? n - 5 : n;
    om_buf_add(&b, path, cut);
    om_buf_puts(&b, suffix);
    return om_buf_take(&b);
}

static om_status check_options(const om_profile_options *o, om_error *err) {
    if (!o->model || !o->out || o->n_calib < 1) {
        return om_fail(err, OM_E_ARG,
                       "profile needs a model, at least one --calib file and -o profile.json");
    }
    if (o->method && strcmp(o->method, "fisher") != 0 && strcmp(o->method, "measured") != 0) {
        return om_fail(err, OM_E_ARG, "--method %s: expected fisher or measured", o->method);
    }
    return om_candidates_check(o->types, err);
}

/* What the verb holds while it works. */
typedef struct job {
    const om_profile_options *o;
    const om_env *env;
    om_model *model;
    om_windows windows;
    om_fisher *fisher;
    om_stats *stats;
    om_profile *p;
    char *stats_path, *checkpoint;
    char key[65];
    om_pass_cost cost;
    double costs_s;
} job;

static void job_release(job *j) {
    om_free(j->stats_path);
    om_free(j->checkpoint);
    om_stats_free(j->stats);
    om_fisher_free(j->fisher);
    om_windows_release(&j->windows);
    om_model_free(j->model);
    om_profile_free(j->p);
}

/* Every tensor that may be quantized must be one that is measured: leaving some as they are without
 * a word would waste the budget. */
static om_status check_tensors(const om_model *model, const om_fisher *f, om_error *err) {
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize && om_fisher_find(f, t->name) < 0) {
            return om_fail(
                err, OM_E_UNSUPPORTED,
                "%s is a stack of matrices (%s): mixture-of-experts models cannot be profiled "
                "yet; use a dense model",
                t->name, om_model_arch(model));
        }
    }
    return f->n_weights > 0
               ? OM_OK
               : om_fail(err, OM_E_UNSUPPORTED, "%s holds no tensor that may be quantized",
                         om_model_path(model));
}

static om_status check_outputs(const job *j, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    const char *const outputs[] = { o->out, j->stats_path, o->imatrix_out };
    for (int i = 0; i < 3; i++) {
        OM_TRY(om_file_check_output(outputs[i], &o->model, 1, err));
        OM_TRY(om_file_check_output(outputs[i], o->calib, o->n_calib, err));
        OM_TRY(om_file_check_output(outputs[i], outputs, i, err));
    }
out:
    return status;
}

static om_status job_open(job *j, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    j->p = om_calloc(1, sizeof *j->p);
    j->stats_path = o->stats_out ? om_strdup(o->stats_out) : beside(o->out, ".stats.gguf");
    j->checkpoint = beside(o->out, ".checkpoint");
    if (!j->p || !j->stats_path || !j->checkpoint) {
        return om_fail_nomem(err, sizeof *j->p);
    }
    OM_TRY(check_outputs(j, err));
    OM_TRY(om_model_open(&j->model, o->model, err));
    warn_about_source(j->model, j->env);
    OM_TRY(describe_model(j->p, j->model, j->env, err));
    OM_TRY(read_windows(&j->windows, o, j->env, err));
    OM_TRY(describe_calibration(j->p, &j->windows, o, err));
    OM_TRY(om_fisher_new(&j->fisher, j->model, err));
    OM_TRY(check_tensors(j->model, j->fisher, err));
    work_key(j->key, j->p, &j->windows, o->types);
out:
    return status;
}

/* The statistics, in memory. */
static om_status collect(job *j, bool measured, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    const om_pass_options pass = { o->model,      o->seed, o->max_ram_bytes,
                                   j->checkpoint, j->key,  o->restart };
    if (measured) {
        OM_TRY(om_measured_moments(j->fisher, &j->windows, o->model, j->env, err));
    } else {
        OM_TRY(om_pass_run(j->fisher, &j->cost, &j->windows, &pass, j->env, err));
    }
    OM_TRY(make_stats(&j->stats, j->fisher, j->p, &j->windows, err));
out:
    return status;
}

/* All files at the very end and profile.json last: a run that is stopped earlier leaves an older
 * pair of profile and statistics as it was. */
static om_status save(job *j, bool measured, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    OM_TRY(om_check_cancel(j->env, err));
    OM_TRY(om_stats_write(j->stats, j->stats_path, measured, err));
    if (o->imatrix_out) {
        OM_TRY(om_stats_write(j->stats, o->imatrix_out, true, err));
    }
    snprintf(j->p->stats_path, sizeof j->p->stats_path, "%s", j->stats_path);
    OM_TRY(om_sha256_file(j->p->stats_sha256, j->stats_path, NULL, err));
    OM_TRY(om_profile_write(j->p, o->out, err));
out:
    return status;
}

om_status om_profile_run(om_result *out, const om_profile_options *o, const om_env *env,
                         om_error *err) {
    om_status status = OM_OK;
    job j = { .o = o, .env = env };
    om_llama_log log = { .model = o->model };
    om_llama_log_begin(&log, env);
    OM_TRY(check_options(o, err));
    const bool measured = o->method && strcmp(o->method, "measured") == 0;
    OM_TRY(job_open(&j, err));
    OM_TRY(collect(&j, measured, err));
    OM_TRY(describe_units(j.p, j.model, j.stats, o->types, err));
    const double start = om_now_s();
    if (measured) {
        const om_measured_options m = { o->model, j.checkpoint, j.key, o->restart };
        OM_TRY(om_measured_fill(j.p, j.model, j.fisher, j.stats, &j.windows, &m, env, err));
    } else {
        OM_TRY(predict_costs(j.p, j.model, j.stats, env, err));
    }
    j.costs_s = om_now_s() - start;
    OM_TRY(save(&j, measured, err));
    OM_TRY(report(out, j.p, o, &j.cost, j.costs_s, err));
    (void) remove(j.checkpoint); /* the work it could save is done */
out:
    if (status == OM_E_NUMERIC) {
        om_error which = { 0 };
        if (om_model_check_finite(j.model, env, &which) == OM_E_NUMERIC) {
            *err = which;
        }
        (void) remove(j.checkpoint); /* the same work would fail again */
    }
    job_release(&j);
    om_llama_log_end(&log);
    return status;
}
