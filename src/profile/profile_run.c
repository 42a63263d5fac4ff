/* The verb `profile`: model + text → statistics file and profile.json.
 *
 *   windows of tokens ─ pass (calib) ─▶ Fisher marginals, E[x²] ─▶ profile.stats.gguf
 *   marginals + the real quantizers' errors on sampled rows (qerror) ─▶ nats per tensor and type ─▶
 * profile.json
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "calib/cover.h"
#include "calib/pass.h"
#include "hf/directory.h"
#include "model/candidates.h"
#include "model/llama_log.h"
#include "model/probe.h"
#include "profile/measured.h"
#include "profile/mlx_contents.h"
#include "profile/profile.h"
#include "profile/qerror.h"
#include "profile/routers.h"
#include "profile/source.h"
#include "profile/stats_make.h"
#include "profile/windows.h"

/* ---- units and their costs ---- */

static unsigned containers_of(const om_profile_options *o) {
    if (strcmp(o->to, "gguf") == 0) {
        return OM_FOR_GGUF;
    }
    return strcmp(o->to, "mlx") == 0 ? OM_FOR_MLX : OM_FOR_BOTH;
}

/* By these numbers a writer knows that a directory holds the weights that were measured. */
static om_status look_at_weights(om_probe *probe, const om_tensor *t, om_error *err) {
    om_status status = OM_OK;
    int64_t rows[OM_PROBE_ROWS];
    float *row = om_calloc((size_t) t->ne[0], sizeof *row);
    if (!row) {
        return om_fail_nomem(err, (size_t) t->ne[0] * sizeof *row);
    }
    om_probe_rows(rows, t->name, om_tensor_n_rows(t));
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        OM_TRY(om_tensor_rows_f32(row, t, rows[k], 1, err));
        om_probe_look(probe, k, t->name, row, t->ne[0]);
    }
out:
    om_free(row);
    return status;
}

/* Name, shape and candidates; the nats are still to come. */
static om_status describe_unit(om_unit *u, const om_tensor *t, const om_tensor_stats *stats,
                               const om_profile_options *o, om_error *err) {
    om_status status = OM_OK;
    const om_format *formats[OM_CANDIDATES_MAX];
    int n = 0;
    memcpy(u->role, t->role, sizeof u->role);
    strncpy(u->name, t->name, sizeof u->name - 1);
    u->layer = t->layer;
    u->n_in = t->ne[0];
    u->n_out = t->ne[1];
    u->experts = stats->experts;
    u->params = om_tensor_params(t);
    u->source = t->format;
    u->fisher_trace = stats->total;
    OM_TRY(look_at_weights(&u->probe, t, err));
    OM_TRY(om_candidates(formats, &n, OM_CANDIDATES_MAX, t, o->types, containers_of(o), err));
    u->choices = om_calloc((size_t) n, sizeof *u->choices);
    if (!u->choices) {
        return om_fail_nomem(err, (size_t) n * sizeof *u->choices);
    }
    u->n_choices = n;
    for (int i = 0; i < n; i++) {
        u->choices[i].format = formats[i];
        u->choices[i].bytes = om_format_size(formats[i], u->n_in, u->n_out * u->experts);
    }
out:
    return status;
}

/* What the text showed of each expert, as measured: without the prior of the statistics. */
static om_status describe_experts(om_unit *u, const om_fisher_weight *w, om_error *err) {
    double **const arrays[] = { &u->expert.trace, &u->expert.tokens, &u->expert.router_weight,
                                &u->expert.windows };
    const double *const sources[] = { NULL, w->count, w->router_weight, w->windows };
    for (int k = 0; k < 4; k++) {
        *arrays[k] = om_calloc((size_t) u->experts, sizeof **arrays[k]);
        if (!*arrays[k]) {
            return om_fail_nomem(err, (size_t) u->experts * sizeof **arrays[k]);
        }
        for (int e = 0; e < u->experts && sources[k]; e++) {
            (*arrays[k])[e] = sources[k][e];
        }
    }
    for (int64_t i = 0; i < u->experts * u->n_in; i++) {
        u->expert.trace[i / u->n_in] += w->cols[i];
    }
    return OM_OK;
}

static om_status describe_units(om_profile *p, const om_model *model, const om_fisher *fisher,
                                const om_stats *stats, const om_profile_options *o, om_error *err) {
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
            om_unit *u = &p->units[p->n_units++];
            OM_TRY(describe_unit(u, t, s, o, err));
            if (u->experts > 1) {
                OM_TRY(describe_experts(u, &fisher->weights[om_fisher_find(fisher, t->name)], err));
            }
            continue;
        }
        om_fixed *f = &p->fixed[p->n_fixed++];
        strncpy(f->name, t->name, sizeof f->name - 1);
        f->bytes = t->bytes;
    }
out:
    return status;
}

/* The costs of each expert alone are kept in the statistics file: a plan per expert and the report
 * want them, and nobody can recompute them without the weights. */
static om_status room_for_experts(om_tensor_stats *stats, const om_unit *u, om_error *err) {
    size_t at = 0;
    stats->nats = om_calloc((size_t) (u->experts * u->n_choices), sizeof *stats->nats);
    stats->routing = om_calloc((size_t) (u->experts * u->n_choices), sizeof *stats->routing);
    if (!stats->nats || !stats->routing) {
        return om_fail_nomem(err, (size_t) (u->experts * u->n_choices) * sizeof *stats->nats);
    }
    stats->n_nats = u->n_choices;
    for (int i = 0; i < u->n_choices; i++) {
        const int n = snprintf(stats->nats_types + at, sizeof stats->nats_types - at, "%s%s",
                               i ? "," : "", u->choices[i].format->name);
        at += (size_t) n;
        if (n < 0 || at >= sizeof stats->nats_types) {
            return om_fail(err, OM_E_INTERNAL, "%s: too many types", u->name);
        }
    }
    return OM_OK;
}

/* One expert alone: only the tokens that it sees are disturbed, so that the same variance over all
 * tokens changes fewer choices (docs/method.md eq. 15a). */
static void note_expert(om_tensor_stats *stats, const om_unit *u, int e, const double *nats,
                        const double *routing, int64_t tokens) {
    const double share = u->expert.tokens[e] / (double) tokens;
    for (int i = 0; i < u->n_choices; i++) {
        stats->nats[e * u->n_choices + i] = (float) nats[i];
        stats->routing[e * u->n_choices + i] =
            (float) (sqrt(share) * om_routers_nats(u->reach, routing[i]));
    }
}

static om_status unit_costs(om_unit *u, const om_tensor *t, om_tensor_stats *stats,
                            const om_fisher_weight *w, const om_profile *p, om_pool *pool,
                            om_error *err) {
    om_status status = OM_OK;
    const om_format *formats[OM_CANDIDATES_MAX];
    double nats[OM_CANDIDATES_MAX], routing[OM_CANDIDATES_MAX] = { 0 };
    const int followed = (p->n_windows + OM_MARGIN_EVERY - 1) / OM_MARGIN_EVERY;
    const om_margin_sums margins = { w->margin_rows, w->margin_cols,
                                     (double) followed * p->window_tokens };
    if (u->experts > 1) {
        OM_TRY(room_for_experts(stats, u, err));
    }
    for (int i = 0; i < u->n_choices; i++) {
        formats[i] = u->choices[i].format;
    }
    u->reach = *w->reach;
    for (int e = 0; e < u->experts; e++) {
        OM_TRY(om_qerror_matrix(nats, routing, formats, u->n_choices, t, e, stats,
                                u->reach > 0 ? &margins : NULL, p->tokens,
                                om_qerror_default_rows(u->n_out, u->experts), p->seed, pool, err));
        for (int i = 0; i < u->n_choices; i++) {
            u->choices[i].nats += nats[i];
            u->choices[i].routing += routing[i];
        }
        if (u->experts > 1) {
            note_expert(stats, u, e, nats, routing, p->tokens);
        }
    }
out:
    return status == OM_OK ? OM_OK : om_error_context(err, "costs of %s", u->name);
}

static om_status predict_costs(om_profile *p, const om_model *model, const om_fisher *fisher,
                               om_stats *stats, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_pool *pool = om_pool_new(om_n_threads(env));
    for (int i = 0; i < p->n_units; i++) {
        om_unit *u = &p->units[i];
        OM_TRY(om_check_cancel(env, err));
        om_progress(env, "costs", i, p->n_units, "tensors");
        om_tensor_stats *s = (om_tensor_stats *) (uintptr_t) om_stats_find(stats, u->name);
        const om_fisher_weight *w = &fisher->weights[om_fisher_find(fisher, u->name)];
        OM_TRY(unit_costs(u, om_model_find(model, u->name), s, w, p, pool, err));
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
    p->hparams.n_expert_used = (int) om_model_u64(model, "%s.expert_used_count", 0);
    OM_TRY(om_memory_of(&p->memory, model, env, err));
out:
    return status;
}

static bool is_measured(const om_profile_options *o) {
    return o->method && strcmp(o->method, "measured") == 0;
}

static bool covers(const om_profile_options *o) {
    return o->select && strcmp(o->select, "cover") == 0;
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
    snprintf(p->select, sizeof p->select, "%s", covers(o) ? "cover" : "");
out:
    return status;
}

/* Of the windows as they are, however they were chosen. */
static void digest_windows(char hex[65], const om_windows *w) {
    om_sha256_bytes(hex, w->tokens,
                    (size_t) w->n_windows * (size_t) w->n_tokens * sizeof *w->tokens);
}

/* Everything the sums depend on; an equal key means equal sums. */
static void work_key(char key[65], const om_profile *p, const om_windows *w,
                     const om_profile_options *o) {
    char text[512], types_key[65], windows_key[65];
    om_sha256_bytes(types_key, o->types ? o->types : "", o->types ? strlen(o->types) : 0);
    digest_windows(windows_key, w);
    const int n = snprintf(text, sizeof text, "%s/%d %s %s %d %d %llu %s %s", p->method,
                           OM_STATS_PASS, p->model_sha256, windows_key, w->n_windows, w->n_tokens,
                           (unsigned long long) p->seed, types_key, is_measured(o) ? o->to : "");
    om_sha256_bytes(key, text, (size_t) n);
}

/* Everything the choice among these candidates depends on. */
static void cover_key(char key[65], const om_profile *p, const om_windows *w, int n_wanted) {
    char text[256], windows_key[65];
    digest_windows(windows_key, w);
    const int n = snprintf(text, sizeof text, "cover/1 %s %s %d %d", p->model_sha256, windows_key,
                           w->n_tokens, n_wanted);
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
    if (o->to && strcmp(o->to, "gguf") != 0 && strcmp(o->to, "mlx") != 0 &&
        strcmp(o->to, "both") != 0) {
        return om_fail(err, OM_E_ARG, "--to %s: expected gguf, mlx or both", o->to);
    }
    if (o->method && strcmp(o->method, "fisher") != 0 && !is_measured(o)) {
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
    bool reused; /* stats are an earlier profile's, from their file */
    om_profile *p;
    char *stats_path, *checkpoint, *memo; /* memo: the windows chosen, while unfinished */
    char key[65];
    om_coverage coverage;
    om_pass_cost cost;
    double costs_s;
} job;

static void job_release(job *j) {
    om_free(j->stats_path);
    om_free(j->checkpoint);
    om_free(j->memo);
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
            return om_fail(err, OM_E_UNSUPPORTED,
                           "%s is a stack of matrices that are no experts (%s): such a product has "
                           "no gradient "
                           "rule yet",
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

/* Before the forward passes of the choice: what the pass itself would refuse. */
static om_status choose_windows(job *j, int n_wanted, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    char key[65];
    OM_TRY(om_cover_check(j->model, err));
    if (!is_measured(o)) {
        om_windows first = j->windows;
        first.n_windows = n_wanted;
        const om_pass_options pass = { .model_path = o->model, .max_ram_bytes = o->max_ram_bytes };
        OM_TRY(om_pass_check(j->fisher, &first, &pass, j->env, err));
    }
    cover_key(key, j->p, &j->windows, n_wanted);
    OM_TRY(om_profile_windows_cover(&j->windows, &j->coverage, n_wanted, j->model, o, j->memo, key,
                                    j->env, err));
out:
    return status;
}

static om_status job_open(job *j, om_error *err) {
    om_status status = OM_OK;
    int n_wanted = 0;
    const om_profile_options *o = j->o;
    j->p = om_calloc(1, sizeof *j->p);
    j->stats_path = o->stats_out ? om_strdup(o->stats_out) : beside(o->out, ".stats.gguf");
    j->checkpoint = beside(o->out, ".checkpoint");
    j->memo = beside(o->out, ".cover");
    if (!j->p || !j->stats_path || !j->checkpoint || !j->memo) {
        return om_fail_nomem(err, sizeof *j->p);
    }
    OM_TRY(check_outputs(j, err));
    OM_TRY(om_model_open(&j->model, o->model, err));
    warn_about_source(j->model, j->env);
    OM_TRY(describe_model(j->p, j->model, j->env, err));
    if ((containers_of(o) & OM_FOR_MLX) != 0) {
        OM_TRY(om_mlx_contents_of(&j->p->mlx, j->model, err));
    }
    OM_TRY(om_profile_windows_read(&j->windows, &n_wanted, o, j->env, err));
    OM_TRY(om_fisher_new(&j->fisher, j->model, err));
    OM_TRY(check_tensors(j->model, j->fisher, err));
    if (covers(o)) {
        OM_TRY(choose_windows(j, n_wanted, err));
    }
    OM_TRY(describe_calibration(j->p, &j->windows, o, err));
    work_key(j->key, j->p, &j->windows, o);
out:
    return status;
}

/* The pass over the text; of a mixture of experts the routers are measured first, because what a
 * changed choice costs weighs the margins that the pass follows back. */
static om_status run_pass(job *j, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    om_pass_options pass = { .model_path = o->model,
                             .seed = o->seed,
                             .max_ram_bytes = o->max_ram_bytes,
                             .checkpoint = j->checkpoint,
                             .key = j->key,
                             .restart = o->restart };
    double *weight = NULL;
    const double start = om_now_s();
    if (om_cover_experts(j->model) > 0) {
        if (!covers(o)) { /* choose_windows has asked before */
            OM_TRY(om_pass_check(j->fisher, &j->windows, &pass, j->env, err));
        }
        OM_TRY(om_routers_measure(&j->p->routers, o->model, &j->windows, o->seed, j->env, err));
        pass.n_routers = j->p->routers.n;
        weight = om_calloc((size_t) pass.n_routers + 1, sizeof *weight);
        if (!weight) {
            OM_TRY(om_fail_nomem(err, (size_t) pass.n_routers * sizeof *weight));
        }
        for (int i = 0; i < pass.n_routers; i++) {
            weight[i] = j->p->routers.items[i].weight;
        }
        pass.router_weight = om_routers_weight(&j->p->routers) > 0 ? weight : NULL;
    }
    OM_TRY(om_pass_run(j->fisher, &j->cost, &j->windows, &pass, j->env, err));
    j->cost.total_s = om_now_s() - start; /* with the routers */
out:
    om_free(weight);
    return status;
}

/* Does the file hold the sums of this very work? Of a mixture it would lack the margins of the
 * routers, so the pass is made again. */
static bool is_same_work(const om_stats *s, const job *j) {
    const om_profile *p = j->p;
    if (s->pass != OM_STATS_PASS || strcmp(s->model_sha256, p->model_sha256) != 0 ||
        strcmp(s->calib_sha256, j->windows.sha256) != 0 || s->n_windows != p->n_windows ||
        s->window_tokens != p->window_tokens || s->tokens != p->tokens || s->seed != p->seed ||
        s->n_tensors != j->fisher->n_weights || om_cover_experts(j->model) > 0) {
        return false;
    }
    for (int i = 0; i < s->n_tensors; i++) {
        if (om_fisher_find(j->fisher, s->tensors[i].name) < 0 || s->tensors[i].rows == NULL) {
            return false;
        }
    }
    return true;
}

/* Statistics left by an earlier profile, of GGUF's types say: what another container's types cost
 * needs no second pass over the text. */
static void find_statistics(job *j) {
    om_error ignored = { 0 };
    if (j->o->restart || !om_file_exists(j->stats_path) ||
        om_stats_read(&j->stats, j->stats_path, &ignored) != OM_OK) {
        return;
    }
    if (!is_same_work(j->stats, j)) {
        om_stats_free(j->stats);
        j->stats = NULL;
        return;
    }
    j->reused = true;
    om_log(j->env, OM_LOG_INFO, "%s: kept, it was measured on this model and text", j->stats_path);
}

/* The statistics, in memory. */
static om_status collect(job *j, bool measured, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    if (!measured) {
        find_statistics(j);
    }
    if (j->reused) {
        return OM_OK;
    }
    if (measured) {
        OM_TRY(om_measured_moments(j->fisher, &j->windows, o->model, j->env, err));
    } else {
        OM_TRY(run_pass(j, err));
    }
    const om_stats_origin origin = { j->p->model_sha256,
                                     j->windows.sha256,
                                     j->windows.n_windows,
                                     j->windows.n_tokens,
                                     j->p->tokens,
                                     j->p->seed,
                                     covers(o) };
    OM_TRY(om_stats_make(&j->stats, j->fisher, &origin, err));
    om_stats_warn_coverage(j->fisher, &origin, j->env);
out:
    return status;
}

/* All files at the very end and profile.json last: a run that is stopped earlier leaves an older
 * pair of profile and statistics as it was. */
static om_status save(job *j, bool measured, om_error *err) {
    om_status status = OM_OK;
    const om_profile_options *o = j->o;
    OM_TRY(om_check_cancel(j->env, err));
    if (!j->reused) {
        OM_TRY(om_stats_write(j->stats, j->stats_path, measured, err));
    }
    if (o->imatrix_out) {
        OM_TRY(om_stats_write(j->stats, o->imatrix_out, true, err));
    }
    snprintf(j->p->stats_path, sizeof j->p->stats_path, "%s", j->stats_path);
    OM_TRY(om_sha256_file(j->p->stats_sha256, j->stats_path, NULL, err));
    OM_TRY(om_profile_write(j->p, o->out, err));
out:
    return status;
}

static om_json *coverage_json(const om_coverage *c) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "experts", c->n_experts);
    om_json_set_i64(o, "candidates", c->candidates);
    om_json_set_i64(o, "few_tokens", OM_EXPERT_FEW);
    om_json_set_i64(o, "few_spread", c->few_spread);
    om_json_set_i64(o, "few_cover", c->few_cover);
    return o;
}

static om_status report(om_result *out, const job *j, om_error *err) {
    const om_profile *p = j->p;
    const om_pass_cost *cost = &j->cost;
    om_buf text = { 0 };
    char peak[32];
    om_buf_printf(&text, "profile    %s\nstatistics %s\n", j->o->out, p->stats_path);
    if (j->reused) {
        om_buf_printf(&text, "statistics of %d windows kept, costs of %d tensors in %.1f s\n",
                      p->n_windows, p->n_units, j->costs_s);
    } else {
        om_buf_printf(
            &text,
            "%d windows of %d tokens in %.1f s, costs of %d tensors in %.1f s, peak memory %s\n",
            p->n_windows, p->window_tokens, cost->total_s, p->n_units, j->costs_s,
            om_format_bytes(peak, (double) cost->peak_bytes, true));
    }
    if (j->coverage.candidates > 0) {
        om_buf_printf(
            &text,
            "coverage   %d of %d experts see fewer than %d tokens; %d with windows spread "
            "evenly (%d candidates)\n",
            j->coverage.few_cover, j->coverage.n_experts, OM_EXPERT_FEW, j->coverage.few_spread,
            j->coverage.candidates);
    }
    om_json *doc = om_json_new_document("optimum.profile_result/1");
    om_json_set_str(doc, "profile", j->o->out);
    om_json_set_str(doc, "stats", p->stats_path);
    om_json_set_i64(doc, "windows", p->n_windows);
    om_json_set_i64(doc, "window_tokens", p->window_tokens);
    om_json_set_i64(doc, "windows_resumed", cost->windows_resumed);
    om_json_set_bool(doc, "statistics_kept", j->reused);
    om_json_set_f64(doc, "pass_seconds", cost->total_s);
    om_json_set_f64(doc, "forward_seconds", cost->forward_s);
    om_json_set_f64(doc, "costs_seconds", j->costs_s);
    om_json_set_i64(doc, "tape_bytes", cost->tape_bytes);
    om_json_set_i64(doc, "predicted_peak_bytes", cost->predicted_peak_bytes);
    om_json_set_i64(doc, "peak_bytes", cost->peak_bytes);
    if (j->coverage.candidates > 0) {
        om_json_set(doc, "coverage", coverage_json(&j->coverage));
    }
    out->json = om_json_dump(doc);
    out->text = om_buf_take(&text);
    om_json_free(doc);
    if (!out->json || !out->text) {
        om_result_release(out);
        return om_fail_nomem(err, 4096);
    }
    return OM_OK;
}

/* The verb, of a GGUF. */
static om_status run(om_result *out, const om_profile_options *o, const om_env *env,
                     om_error *err) {
    om_status status = OM_OK;
    job j = { .o = o, .env = env };
    om_llama_log log = { .model = o->model };
    om_llama_log_begin(&log, env);
    const bool measured = is_measured(o);
    OM_TRY(job_open(&j, err));
    OM_TRY(collect(&j, measured, err));
    OM_TRY(describe_units(j.p, j.model, j.fisher, j.stats, o, err));
    const double start = om_now_s();
    if (measured) {
        const om_measured_options m = { o->model, j.checkpoint, j.key, o->restart };
        OM_TRY(om_measured_fill(j.p, j.model, j.fisher, j.stats, &j.windows, &m, env, err));
    } else {
        OM_TRY(predict_costs(j.p, j.model, j.fisher, j.stats, env, err));
    }
    j.costs_s = om_now_s() - start;
    OM_TRY(save(&j, measured, err));
    OM_TRY(report(out, &j, err));
    (void) remove(j.checkpoint); /* the work it could save is done */
    (void) remove(j.memo);
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

om_status om_profile_run(om_result *out, const om_profile_options *options, const om_env *env,
                         om_error *err) {
    om_status status = OM_OK;
    om_profile_options o = *options;
    char *beside_profile = NULL, *gguf = NULL;
    OM_TRY(check_options(&o, err));
    beside_profile = beside(o.out, ".gguf");
    if (!beside_profile) {
        OM_TRY(om_fail_nomem(err, strlen(o.out)));
    }
    if (!o.to) {
        o.to = om_hf_is_directory(o.model) ? "both" : "gguf";
    }
    OM_TRY(om_profile_source(&gguf, o.model, o.gguf_out ? o.gguf_out : beside_profile, env, err));
    o.model = gguf;
    OM_TRY(run(out, &o, env, err));
out:
    om_free(beside_profile);
    om_free(gguf);
    return status;
}
