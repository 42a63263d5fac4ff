/* `run`: a model, a budget and some text -> the quantized model, its proof and a report.
 *
 *   inspect (is the budget possible?) → GGUF of a directory → texts → reference → profile →
 *   allocate, sweep → quantize → eval → baselines → report
 *
 * Only the public verbs do the work; this folder decides the order, the file names and what may be
 * kept. A failure or a cancelled run leaves every finished stage, and the next run goes on from
 * there.
 */
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/job.h"

static om_status open_state(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_model *model = NULL;
    char *path = NULL;
    OM_TRY(om_mkdirs(job->options->out_dir, err));
    path = om_path_join(job->options->out_dir, "run.json");
    if (!path) {
        OM_TRY(om_fail_nomem(err, strlen(job->options->out_dir) + 16));
    }
    OM_TRY(om_run_state_open(&job->state, path, job->env, err));
    OM_TRY(om_stage_gguf(job, err));
    OM_TRY(om_model_open(&model, job->gguf, err));
    OM_TRY(om_run_state_model(&job->state, model, job->env, err));
out:
    om_model_free(model);
    om_free(path);
    return status;
}

static om_status log_plan(const om_job *job, om_error *err) {
    om_buf text = { 0 };
    om_job_plan_text(&text, job);
    const om_status status = text.failed ? om_fail_nomem(err, text.len) : OM_OK;
    for (char *line = text.data; line && *line;) {
        char *end = strchr(line, '\n');
        if (end) {
            *end = '\0';
        }
        om_log(job->env, OM_LOG_INFO, "%s", line);
        line = end ? end + 1 : NULL;
    }
    om_buf_release(&text);
    return status;
}

static om_status run_stages(om_job *job, om_error *err) {
    static om_status (*const stages[])(om_job *, om_error *) = {
        open_state,         om_stage_texts,  om_stage_reference, om_stage_profile,
        om_stage_allocate,  om_stage_sweep,  om_stage_quantize,  om_stage_eval,
        om_stage_baselines, om_stage_report,
    };
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        om_status status = om_check_cancel(job->env, err);
        if (status == OM_OK) {
            status = stages[i](job, err);
        }
        if (status != OM_OK) {
            return status;
        }
    }
    return OM_OK;
}

static om_status run_for(om_result *out, const om_run_options *options, om_container container,
                         const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_job job = { 0 };
    OM_TRY(om_job_init(&job, options, container, env, err));
    if (options->dry_run) {
        OM_TRY(om_job_plan_result(out, &job, err));
        goto out;
    }
    OM_TRY(log_plan(&job, err));
    OM_TRY(run_stages(&job, err));
    OM_TRY(om_job_result(out, &job, err));
out:
    om_job_release(&job);
    return status;
}

/* One result after the other, in text and as {"gguf": …, "mlx": …}. */
static om_status join(om_result *out, const om_result *gguf, const om_result *mlx, om_error *err) {
    om_buf text = { 0 }, json = { 0 };
    om_buf_printf(&text, "%s\n%s", gguf->text, mlx->text);
    om_buf_printf(&json, "{\n\"schema\": \"optimum.run_both/1\",\n\"gguf\": %s,\n\"mlx\": %s}\n",
                  gguf->json, mlx->json);
    om_result r = { .json = om_buf_take(&json), .text = om_buf_take(&text) };
    om_buf_release(&text);
    om_buf_release(&json);
    if (r.json == NULL || r.text == NULL) {
        om_result_release(&r);
        return om_fail_nomem(err, 0);
    }
    *out = r;
    return OM_OK;
}

om_status om_run(om_result *out, const om_run_options *options, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_result gguf = { 0 }, mlx = { 0 };
    const char *to = options->to ? options->to : "gguf";
    if (strcmp(to, "both") != 0) {
        const om_container container =
            strcmp(to, "mlx") == 0 ? OM_CONTAINER_MLX : OM_CONTAINER_GGUF;
        OM_TRY(run_for(out, options, container, env, err));
        goto out;
    }
    OM_TRY(run_for(&gguf, options, OM_CONTAINER_GGUF, env, err));
    OM_TRY(run_for(&mlx, options, OM_CONTAINER_MLX, env, err));
    OM_TRY(join(out, &gguf, &mlx, err));
out:
    om_result_release(&gguf);
    om_result_release(&mlx);
    return status == OM_OK ? OM_OK : om_error_context(err, "run");
}
