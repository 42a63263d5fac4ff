/* The stages of a run: each turns files into files by one call of a public verb.
 *
 * Every stage computes the hash of what it depends on, is skipped when that hash and its outputs
 * are there, and is recorded only when it has succeeded. So a run that was stopped, or failed on a
 * full disk, continues where it was.
 */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "profile/source.h"
#include "run/job.h"

/* The record of a stage: what is made for MLX alone has its own beside the GGUF's. */
static const char *record_of(char name[80], const om_job *job, const char *stage) {
    const bool shared = strncmp(stage, "reference", 9) == 0 || strcmp(stage, "profile") == 0;
    const bool mlx = job->container == OM_CONTAINER_MLX && !shared;
    (void) snprintf(name, 80, "%s%s", stage, mlx ? " mlx" : "");
    return name;
}

om_status om_job_done(om_job *job, const char *stage, const char *key, om_error *err) {
    char name[80];
    return om_run_state_done(&job->state, record_of(name, job, stage), key, err);
}

bool om_job_kept(const om_job *job, const char *stage, const char *key, const char *const *outputs,
                 int n_outputs) {
    char name[80];
    const char *record = record_of(name, job, stage);
    if (!om_run_state_fresh(&job->state, record, key, outputs, n_outputs)) {
        om_log(job->env, OM_LOG_INFO, "%s", stage);
        return false;
    }
    om_log(job->env, OM_LOG_INFO, "%s: kept, nothing it depends on has changed", stage);
    return true;
}

/* ---- the full-precision GGUF ---- */

/* It knows by itself whether it is there (profile/source.h), so the state is not asked. */
om_status om_stage_gguf(om_job *job, om_error *err) {
    om_status status = OM_OK;
    char *gguf = NULL;
    if (!job->is_directory) {
        return OM_OK;
    }
    OM_TRY(om_profile_source(&gguf, job->options->model, job->gguf, job->env, err));
    OM_TRY(om_job_check_model(job, err));
out:
    om_free(gguf);
    return status;
}

/* ---- texts and reference ---- */

om_status om_stage_texts(om_job *job, om_error *err) {
    const om_status status = om_run_texts_make(&job->texts, job->options, err);
    if (status == OM_OK && job->texts.built_in) {
        om_log(job->env, OM_LOG_WARN,
               "calibrating on the text built into Optimum: a stand-in; give text like the "
               "model's work with --calib");
    }
    return status;
}

static int eval_chunks(const om_job *job) {
    const int n = job->options->n_eval_chunks;
    return n > 0 ? n : OM_RUN_EVAL_CHUNKS;
}

om_status om_key_judge(om_buf *key, const om_job *job, om_error *err) {
    om_key_str(key, "reference", job->state.model_sha256);
    om_key_i64(key, "chunks", eval_chunks(job));
    om_key_i64(key, "ctx", OM_RUN_CTX);
    return om_key_file(key, "eval text", job->texts.eval, err);
}

om_eval_options om_job_eval_options(const om_job *job, const char *model, const char *out) {
    return (om_eval_options){
        .model = model,
        .reference = job->reference_is_model ? job->gguf : job->reference,
        .text = job->texts.eval,
        .out = out,
        .n_ctx = OM_RUN_CTX,
        /* A reference file holds the windows there are, perhaps fewer than asked for: all of it. */
        .n_chunks = job->reference_is_model ? eval_chunks(job) : 0,
    };
}

/* Before the profile although it is needed after it: a text that is too short shows here. */
om_status om_stage_reference(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    om_error why = { 0 };
    static const char no_file[] = "reference without a file"; /* learnt once, not in every run */
    const char *const outputs[] = { job->reference };
    OM_TRY(om_key_judge(&k, job, err));
    OM_TRY(om_key_finish(key, &k, err));
    if (om_run_state_fresh(&job->state, no_file, key, NULL, 0)) {
        job->reference_is_model = true;
        goto out;
    }
    if (om_job_kept(job, "reference", key, outputs, 1)) {
        goto out;
    }
    status = om_eval(&r,
                     &(om_eval_options){ .reference = job->gguf,
                                         .reference_out = job->reference,
                                         .text = job->texts.eval,
                                         .n_ctx = OM_RUN_CTX,
                                         .n_chunks = eval_chunks(job) },
                     job->env, &why);
    if (status == OM_E_UNSUPPORTED) {
        om_log(job->env, OM_LOG_WARN, "%s; the full model runs beside every file that is judged",
               why.text);
        job->reference_is_model = true;
        status = om_job_done(job, no_file, key, err);
        goto out;
    }
    if (status != OM_OK) {
        *err = why;
        goto out;
    }
    OM_TRY(om_job_done(job, "reference", key, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

/* ---- profile ---- */

om_status om_stage_profile(om_job *job, om_error *err) {
    om_status status = OM_OK;
    const om_run_options *o = job->options;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    const char *const outputs[] = { job->profile, job->stats };
    /* for MLX the types of GGUF are measured too: they cost little, and one profile serves both */
    const char *to = om_job_profiles_mlx(o) ? "both" : NULL;
    om_key_str(&k, "model", job->state.model_sha256);
    for (int i = 0; i < job->texts.n_calib; i++) {
        OM_TRY(om_key_file(&k, "calibration", job->texts.calib[i], err));
    }
    om_key_str(&k, "types", job->types);
    if (to) { /* keys of earlier runs stay what they were */
        om_key_str(&k, "to", to);
    }
    om_key_i64(&k, "windows", o->n_windows);
    om_key_i64(&k, "window tokens", o->window_tokens);
    om_key_i64(&k, "seed high", (int64_t) (o->seed >> 32));
    om_key_i64(&k, "seed low", (int64_t) (o->seed & 0xFFFFFFFF));
    if (om_job_covers(o)) {
        om_key_str(&k, "select", o->select);
    }
    OM_TRY(om_key_finish(key, &k, err));
    if (om_job_kept(job, "profile", key, outputs, 2)) {
        goto out;
    }
    OM_TRY(om_profile_run(&r,
                          &(om_profile_options){ .model = job->gguf,
                                                 .to = to,
                                                 .calib = (const char *const *) job->texts.calib,
                                                 .n_calib = job->texts.n_calib,
                                                 .out = job->profile,
                                                 .stats_out = job->stats,
                                                 .types = job->types,
                                                 .n_windows = o->n_windows,
                                                 .window_tokens = o->window_tokens,
                                                 .select = o->select,
                                                 .seed = o->seed,
                                                 .max_ram_bytes = o->max_ram_bytes },
                          job->env, err));
    OM_TRY(om_job_done(job, "profile", key, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

/* ---- allocate and sweep ---- */

static om_status key_solver(om_buf *k, const om_job *job, om_error *err) {
    const om_run_options *o = job->options;
    om_key_str(k, "types", o->types);
    om_key_i64(k, "tiers", o->n_tiers);
    for (int i = 0; i < o->n_pins; i++) {
        om_key_str(k, "pin", o->pins[i]);
    }
    return om_key_file(k, "profile", job->profile, err);
}

static void key_budget(om_buf *k, const om_budget *b) {
    om_key_i64(k, "budget", b->kind);
    om_key_f64(k, "bpw", b->bpw);
    om_key_i64(k, "bytes", b->bytes);
    om_key_i64(k, "reserve", b->reserve_bytes);
    om_key_i64(k, "ctx", b->n_ctx);
    om_key_str(k, "kv", b->kv_type);
}

/* Nothing without a limit: keys of earlier runs stay what they were. */
static void key_limit(om_buf *k, const om_run_options *o) {
    if (o->max_active_bytes > 0) {
        om_key_i64(k, "active", o->max_active_bytes);
    }
    if (o->min_tok_s > 0.0) {
        om_key_f64(k, "tok_s", o->min_tok_s);
        om_key_f64(k, "bandwidth", o->bandwidth_bytes_s);
    }
}

static om_allocate_options solver_options(const om_job *job) {
    const om_run_options *o = job->options;
    return (om_allocate_options){ .profile = job->profile,
                                  .to = om_container_name(job->container),
                                  .budget = o->budget,
                                  .n_tiers = o->n_tiers,
                                  .types = o->types,
                                  .pins = o->pins,
                                  .n_pins = o->n_pins };
}

static om_status set_artifact(om_job *job, om_error *err) {
    char model[200], file[256];
    om_job_model_name(model, sizeof model, job->options->model);
    (void) snprintf(file, sizeof file, "%s-opt-%.2fbpw%s", model, job->chosen->bpw,
                    job->container == OM_CONTAINER_MLX ? "-mlx" : ".gguf");
    job->artifact = om_path_join(job->options->out_dir, file);
    return job->artifact ? OM_OK : om_fail_nomem(err, sizeof file);
}

om_status om_stage_allocate(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    const char *const outputs[] = { job->allocation };
    OM_TRY(key_solver(&k, job, err));
    key_budget(&k, &job->options->budget);
    key_limit(&k, job->options);
    OM_TRY(om_key_finish(key, &k, err));
    if (!om_job_kept(job, "allocate", key, outputs, 1)) {
        om_allocate_options options = solver_options(job);
        options.out = job->allocation;
        options.max_active_bytes = job->options->max_active_bytes;
        options.min_tok_s = job->options->min_tok_s;
        options.bandwidth_bytes_s = job->options->bandwidth_bytes_s;
        OM_TRY(om_allocate(&r, &options, job->env, err));
        OM_TRY(om_job_done(job, "allocate", key, err));
    }
    OM_TRY(om_allocation_read(&job->chosen, job->allocation, err));
    OM_TRY(set_artifact(job, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

om_status om_stage_sweep(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    const char *const outputs[] = { job->curve };
    OM_TRY(key_solver(&k, job, err));
    OM_TRY(om_key_finish(key, &k, err));
    if (om_job_kept(job, "sweep", key, outputs, 1)) {
        goto out;
    }
    om_allocate_options options = solver_options(job);
    /* The curve is one of all sizes: without a budget nothing else is solved. */
    options.budget = (om_budget){ 0 };
    options.sweep = true;
    OM_TRY(om_allocate(&r, &options, job->env, err));
    OM_TRY(om_file_write(job->curve, r.json, strlen(r.json), err));
    OM_TRY(om_job_done(job, "sweep", key, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

/* ---- quantize ---- */

const char *om_job_weights(const om_job *job) {
    return job->container == OM_CONTAINER_MLX ? job->options->model : job->gguf;
}

static om_status key_quantize(om_buf *k, const om_job *job, om_error *err) {
    om_key_str(k, "model", job->state.model_sha256);
    om_key_str(k, "file", job->artifact);
    return om_key_file(k, "allocation", job->allocation, err);
}

static om_status check_disk(const om_job *job, om_error *err) {
    const int64_t free_bytes = om_disk_free(job->options->out_dir);
    if (free_bytes >= 0 && free_bytes < job->chosen->bytes) {
        char need[32], have[32];
        return om_fail(err, OM_E_LIMIT,
                       "the file needs %s, but %s has %s free: make room, then run "
                       "again; finished stages are kept",
                       om_format_bytes(need, (double) job->chosen->bytes, false),
                       job->options->out_dir, om_format_bytes(have, (double) free_bytes, false));
    }
    return OM_OK;
}

om_status om_stage_quantize(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    const char *const outputs[] = { job->artifact };
    OM_TRY(key_quantize(&k, job, err));
    OM_TRY(om_key_finish(key, &k, err));
    /* A file of another size is not the one that was recorded: as good as absent. A directory is
     * renamed into place when it is whole. */
    const bool intact =
        job->container == OM_CONTAINER_MLX || om_file_size(job->artifact) == job->chosen->bytes;
    if (om_job_kept(job, "quantize", intact ? key : "", outputs, 1)) {
        goto out;
    }
    OM_TRY(check_disk(job, err));
    OM_TRY(om_quantize(&r,
                       &(om_quantize_options){ .model = om_job_weights(job),
                                               .to = om_container_name(job->container),
                                               .allocation = job->allocation,
                                               .out = job->artifact },
                       job->env, err));
    job->quantized = true;
    OM_TRY(om_job_done(job, "quantize", key, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

/* ---- eval ---- */

/* The measured quality goes into the file's metadata, which changes the file's digest: the one in
 * eval.json must be that of the file as it is now. */
static om_status put_measured(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_evaluation *e = NULL;
    OM_TRY(om_evaluation_read(&e, job->eval, err));
    if (job->container == OM_CONTAINER_GGUF) {
        OM_TRY(om_gguf_patch_measured(job->artifact, e->kld_mean, e->kld_stderr, err));
        OM_TRY(om_sha256_file(e->model_sha256, job->artifact, job->env, err));
    }
    memcpy(e->label, "optimal", sizeof "optimal");
    OM_TRY(om_evaluation_write(e, job->eval, err));
out:
    om_evaluation_free(e);
    return status;
}

om_status om_stage_eval(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf k = { 0 };
    char key[65];
    const char *const outputs[] = { job->eval };
    OM_TRY(key_quantize(&k, job, err));
    OM_TRY(om_key_judge(&k, job, err));
    OM_TRY(om_key_finish(key, &k, err));
    /* A file that was written again has lost its measurement. */
    if (!om_job_kept(job, "eval", job->quantized ? "" : key, outputs, 1)) {
        const om_eval_options options = om_job_eval_options(job, job->artifact, job->eval);
        OM_TRY(om_eval(&r, &options, job->env, err));
        OM_TRY(put_measured(job, err));
        OM_TRY(om_job_done(job, "eval", key, err));
    }
    OM_TRY(om_evaluation_read(&job->judged, job->eval, err));
out:
    om_buf_release(&k);
    om_result_release(&r);
    return status;
}

/* ---- report ---- */

om_status om_stage_report(om_job *job, om_error *err) {
    om_result r = { 0 };
    om_log(job->env, OM_LOG_INFO, "report");
    const om_status status =
        om_report(&r,
                  &(om_report_options){ .profile = job->profile,
                                        .allocation = job->allocation,
                                        .eval = job->eval,
                                        .baselines = (const char *const *) job->baselines,
                                        .n_baselines = job->n_baselines,
                                        .sweep = job->curve,
                                        .out = job->report },
                  job->env, err);
    om_result_release(&r);
    return status;
}
