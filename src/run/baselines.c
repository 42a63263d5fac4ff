/* The presets of llama-quantize, or the recipes of mlx_lm.convert, at our size, made with our own
 * writer and judged on the same text.
 *
 * A comparison is fair when the rival is not larger, rounded as its own tool would (llama-quantize
 * with the same statistics, mlx_lm.convert by minimum and maximum) and measured by the same judge.
 * Files are made one at a time and deleted after the judgement: their eval.json is what counts. A
 * preset that cannot be made for this model is a warning, not the end of the run.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/atomic_dir.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/job.h"

static bool listed(const int *chosen, int n, int i) {
    for (int j = 0; j < n; j++) {
        if (chosen[j] == i) {
            return true;
        }
    }
    return false;
}

/* presets are sorted by bytes; two recipes can give one and the same file on a small model. */
static bool same_file(const om_sweep_point *a, const om_sweep_point *b) {
    return a->bytes == b->bytes && a->nats == b->nats;
}

int om_baselines_choose(int chosen[OM_RUN_MAX_BASELINES], const om_sweep *sweep,
                        int64_t max_bytes) {
    int n = 0, best = -1;
    for (int i = sweep->n_presets - 1; i >= 0; i--) {
        const om_sweep_point *p = &sweep->presets[i];
        if (p->bytes > max_bytes || (n > 0 && same_file(p, &sweep->presets[chosen[n - 1]]))) {
            continue;
        }
        if (n < 2) {
            chosen[n++] = i;
        }
        if (best < 0 || p->nats < sweep->presets[best].nats) {
            best = i;
        }
    }
    if (best >= 0 && n < OM_RUN_MAX_BASELINES && !listed(chosen, n, best)) {
        chosen[n++] = best;
    }
    return n;
}

/* Paths of one baseline; owned. */
typedef struct baseline {
    char stage[64], plan[48];
    char *eval, *allocation, *artifact;
} baseline;

static void baseline_release(baseline *b) {
    om_free(b->eval);
    om_free(b->allocation);
    om_free(b->artifact);
}

static om_status baseline_init(baseline *b, const om_job *job, const char *preset, om_error *err) {
    char file[96];
    const char *dir = job->options->out_dir;
    (void) snprintf(b->stage, sizeof b->stage, "baseline %s", preset);
    const bool mlx = job->container == OM_CONTAINER_MLX;
    (void) snprintf(b->plan, sizeof b->plan, "%s:%s", mlx ? "mlx" : "preset", preset);
    (void) snprintf(file, sizeof file, "baseline-%s.eval.json", preset);
    b->eval = om_path_join(dir, file);
    (void) snprintf(file, sizeof file, "baseline-%s.allocation.json", preset);
    b->allocation = om_path_join(dir, file);
    (void) snprintf(file, sizeof file, "baseline-%s%s", preset, mlx ? "" : ".gguf");
    b->artifact = om_path_join(dir, file);
    return b->eval && b->allocation && b->artifact ? OM_OK : om_fail_nomem(err, sizeof file);
}

static om_status set_label(const baseline *b, om_error *err) {
    om_status status = OM_OK;
    om_evaluation *e = NULL;
    OM_TRY(om_evaluation_read(&e, b->eval, err));
    memcpy(e->label, b->plan, sizeof b->plan);
    OM_TRY(om_evaluation_write(e, b->eval, err));
out:
    om_evaluation_free(e);
    return status;
}

/* A file, or a directory of files. */
static void remove_artifact(const char *path) {
    om_error ignored = { 0 };
    char **names = NULL;
    int n = 0;
    if (unlink(path) == 0 || om_dir_list(&names, &n, path, &ignored) != OM_OK) {
        return;
    }
    for (int i = 0; i < n; i++) {
        char *file = om_path_join(path, names[i]);
        if (file != NULL) {
            (void) unlink(file);
        }
        om_free(file);
    }
    om_dir_list_free(names, n);
    (void) rmdir(path);
}

static om_status make_and_judge(const om_job *job, const baseline *b, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    bool made = false; /* else what has the name is not ours to delete */
    const bool mlx = job->container == OM_CONTAINER_MLX;
    OM_TRY(om_allocate(&r,
                       &(om_allocate_options){ .profile = job->profile,
                                               .to = om_container_name(job->container),
                                               .plan = b->plan,
                                               .out = b->allocation },
                       job->env, err));
    om_result_release(&r);
    OM_TRY(om_quantize(&r,
                       &(om_quantize_options){ .model = om_job_weights(job),
                                               .to = om_container_name(job->container),
                                               .round = mlx ? "plain" : NULL,
                                               .allocation = b->allocation,
                                               .out = b->artifact },
                       job->env, err));
    made = true;
    om_result_release(&r);
    om_eval_options options = om_job_eval_options(job, b->artifact, b->eval);
    options.no_speed = true;
    OM_TRY(om_eval(&r, &options, job->env, err));
    OM_TRY(set_label(b, err));
out:
    om_result_release(&r);
    if (made) {
        remove_artifact(b->artifact);
    }
    (void) unlink(b->allocation);
    return status;
}

/* Failures that concern this preset alone. */
static bool only_this_preset(om_status status) {
    return status == OM_E_UNSUPPORTED || status == OM_E_MISMATCH || status == OM_E_ARG ||
           status == OM_E_INFEASIBLE;
}

static om_status one_baseline(om_job *job, const char *preset, om_error *err) {
    om_status status = OM_OK;
    baseline b = { 0 };
    om_buf k = { 0 };
    char key[65];
    OM_TRY(baseline_init(&b, job, preset, err));
    const char *const outputs[] = { b.eval };
    om_key_str(&k, "plan", b.plan);
    OM_TRY(om_key_file(&k, "profile", job->profile, err));
    OM_TRY(om_key_judge(&k, job, err));
    OM_TRY(om_key_finish(key, &k, err));
    if (!om_job_kept(job, b.stage, key, outputs, 1)) {
        om_error why = { 0 };
        status = make_and_judge(job, &b, &why);
        if (only_this_preset(status)) {
            om_log(job->env, OM_LOG_WARN, "%s left out: %s", b.stage, why.text);
            status = OM_OK;
            goto out;
        }
        if (status != OM_OK) {
            *err = why;
            goto out;
        }
        OM_TRY(om_job_done(job, b.stage, key, err));
    }
    job->baselines[job->n_baselines++] = b.eval;
    b.eval = NULL;
out:
    om_buf_release(&k);
    baseline_release(&b);
    return status;
}

om_status om_stage_baselines(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_sweep sweep = { 0 };
    int chosen[OM_RUN_MAX_BASELINES];
    if (job->options->no_baselines) {
        return OM_OK;
    }
    OM_TRY(om_sweep_read(&sweep, job->curve, err));
    const int n = om_baselines_choose(chosen, &sweep, job->chosen->bytes);
    if (n == 0) {
        om_log(job->env, OM_LOG_WARN, "%s is as small as this file: nothing to compare with",
               job->container == OM_CONTAINER_MLX ? "no recipe of mlx_lm.convert"
                                                  : "no preset of llama-quantize");
    }
    for (int i = 0; i < n; i++) {
        OM_TRY(om_check_cancel(job->env, err));
        OM_TRY(one_baseline(job, sweep.presets[chosen[i]].name, err));
    }
out:
    om_sweep_release(&sweep);
    return status;
}
