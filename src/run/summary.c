/* A finished run -> a screen of text that a person understands, and the same as JSON. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "calib/cover.h"
#include "report/html.h"
#include "report/verdict.h"
#include "run/job.h"

/* ---- before ---- */

/* Upper bound of the file, for the disk: exact for a size, close for the others. */
static int64_t most_bytes(const om_job *job) {
    const om_budget *b = &job->options->budget;
    const double bytes =
        b->kind == OM_BUDGET_BPW ? b->bpw * (double) job->model_params / 8 : (double) b->bytes;
    return bytes < (double) job->model_bytes ? (int64_t) bytes : job->model_bytes;
}

void om_job_plan_text(om_buf *out, const om_job *job) {
    const om_run_options *o = job->options;
    const int windows = o->n_windows > 0 ? o->n_windows : 96;
    const int tokens = o->window_tokens > 0 ? o->window_tokens : 512;
    const int chunks = o->n_eval_chunks > 0 ? o->n_eval_chunks : OM_RUN_EVAL_CHUNKS;
    const int files = o->no_baselines ? 1 : 1 + OM_RUN_MAX_BASELINES;
    char model[32], most[32], disk[32];
    if (job->is_directory) {
        om_buf_printf(out, "gguf       %s, of about %s, is made and kept\n", job->gguf,
                      om_format_bytes(model, (double) job->model_bytes, false));
    }
    om_buf_printf(out,
                  "reference  the full-precision model (%s) reads up to %d windows of %d tokens\n",
                  om_format_bytes(model, (double) job->model_bytes, false), chunks, OM_RUN_CTX);
    om_buf_printf(
        out,
        "profile    up to %d windows of %d tokens, each about three forward passes; says its "
        "memory before it starts\n",
        windows, tokens);
    if (om_job_covers(o)) {
        om_buf_printf(
            out, "           before it a forward pass over up to %d windows, to choose those\n",
            OM_COVER_CANDIDATES * windows);
    }
    om_buf_printf(out, "allocate   one type per tensor within the budget, and the whole curve\n");
    om_buf_printf(out, "quantize   one file of at most %s\n",
                  om_format_bytes(most, (double) most_bytes(job), false));
    om_buf_printf(out, "eval       %s\n",
                  files > 1
                      ? "that file, then up to 3 plain ones that are not larger, one at a time"
                      : "that file");
    om_buf_printf(out, "report     %s\n", job->report);
    om_buf_printf(out, "disk       up to %s in %s, besides the statistics and the reference file\n",
                  om_format_bytes(disk,
                                  (files > 1 ? 2.0 : 1.0) * (double) most_bytes(job) +
                                      (job->is_directory ? (double) job->model_bytes : 0.0),
                                  false),
                  o->out_dir);
    if (job->container == OM_CONTAINER_MLX) {
        om_buf_printf(out, "           and %s for what is judged in F32, removed after it\n",
                      om_format_bytes(disk, 4.0 * (double) job->model_params, false));
    }
}

om_status om_job_plan_result(om_result *out, const om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf text = { 0 };
    om_json *doc = om_json_new_document("optimum.run/1");
    om_json_set_bool(doc, "dry_run", true);
    om_json_set_str(doc, "out_dir", job->options->out_dir);
    om_json_set_i64(doc, "model_bytes", job->model_bytes);
    om_json_set_i64(doc, "file_bytes_at_most", most_bytes(job));
    om_job_plan_text(&text, job);
    r.json = om_json_dump(doc);
    r.text = om_buf_take(&text);
    if (!r.json || !r.text) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    *out = r;
    r = (om_result){ 0 };
out:
    om_result_release(&r);
    om_buf_release(&text);
    om_json_free(doc);
    return status;
}

/* ---- after ---- */

static void text_size(om_buf *out, const om_job *job) {
    const om_allocation *a = job->chosen;
    om_buf_puts(out, "  size      ");
    om_put_bytes(out, (double) a->bytes);
    if (a->budget_bytes > 0) {
        om_buf_puts(out, " of ");
        om_put_bytes(out, (double) a->budget_bytes);
        om_buf_printf(out, " that the budget allows (%.1f %%)",
                      100 * (double) a->bytes / (double) a->budget_bytes);
    }
    om_buf_printf(out, ", %.2f bits per weight\n", a->bpw);
    if (a->active_bytes > 0) {
        om_buf_puts(out, "  reads     ");
        om_put_bytes(out, (double) a->active_bytes);
        om_buf_puts(out, " of weights per token\n");
    }
}

static void text_quality(om_buf *out, const om_evaluation *e) {
    om_buf_puts(out, "  quality   KLD ");
    om_put_nats_error(out, e->kld_mean, e->kld_stderr);
    om_buf_printf(out,
                  " nats per token: the same most likely token in %.1f %% of places,\n"
                  "            perplexity %.2f (full precision %.2f)\n",
                  100 * e->top1_agreement, e->ppl, e->ppl_reference);
    if (e->routing.n_layers > 0) {
        om_buf_printf(out,
                      "            routing: %.1f %% of the experts are those of full precision, "
                      "%.2f flips a token\n",
                      100 * e->routing.agreement, e->routing.flips_per_token);
    }
}

static void text_baselines(om_buf *out, const om_evaluation *ours, om_evaluation *const *baselines,
                           int n) {
    const om_verdict v = om_verdict_of(ours, baselines, n);
    om_buf_puts(out, "  compared  ");
    om_verdict_text(out, &v, ours, baselines);
    om_buf_puts(out, "\n");
    for (int i = 0; i < n; i++) {
        const om_evaluation *b = baselines[i];
        om_buf_printf(out, "            %-8s  ", om_evaluation_name(b));
        om_put_bytes(out, (double) b->file_bytes);
        om_buf_puts(out, "  KLD ");
        om_put_nats_error(out, b->kld_mean, b->kld_stderr);
        om_buf_printf(out, "  top-1 %.1f %%\n", 100 * b->top1_agreement);
    }
    if (v.kind == OM_VERDICT_WORSE) {
        om_buf_printf(out,
                      "  NOTE      plain %s loses less and is not larger: use it "
                      "instead,\n            optimum allocate --plan %s, or try another "
                      "budget\n",
                      om_evaluation_name(baselines[v.i_rival]), baselines[v.i_rival]->label);
    }
}

static void text_command(om_buf *out, const om_job *job) {
    const om_budget *b = &job->options->budget;
    if (job->container == OM_CONTAINER_MLX) {
        om_buf_printf(out, "  run it    mlx_lm.server --model %s\n", job->artifact);
        return;
    }
    om_buf_printf(out, "  run it    llama-server -m %s", job->artifact);
    if (b->kind == OM_BUDGET_MEMORY) {
        om_buf_printf(out, " -c %d", b->n_ctx > 0 ? b->n_ctx : 4096);
        if (b->kv_type && strcmp(b->kv_type, "f16") != 0) {
            om_buf_printf(out, " --cache-type-k %s --cache-type-v %s", b->kv_type, b->kv_type);
        }
    }
    om_buf_puts(out, "\n");
}

static void fill_text(om_buf *out, const om_job *job, om_evaluation *const *baselines) {
    om_buf_printf(out, "%s\n", job->artifact);
    text_size(out, job);
    text_quality(out, job->judged);
    if (job->options->no_baselines) {
        om_buf_puts(out, "  compared  with nothing, as asked\n");
    } else {
        text_baselines(out, job->judged, baselines, job->n_baselines);
    }
    om_buf_printf(out, "  report    %s\n", job->report);
    text_command(out, job);
}

static om_json *json_evaluation(const om_evaluation *e) {
    om_json *o = om_json_object();
    om_json_set_str(o, "name", om_evaluation_name(e));
    om_json_set_i64(o, "bytes", e->file_bytes);
    om_json_set_f64(o, "kld_mean", e->kld_mean);
    om_json_set_f64(o, "kld_stderr", e->kld_stderr);
    om_json_set_f64(o, "top1_agreement", e->top1_agreement);
    if (e->routing.n_layers > 0) {
        om_json_set_f64(o, "routing_agreement", e->routing.agreement);
        om_json_set_f64(o, "flips_per_token", e->routing.flips_per_token);
    }
    om_json_set_f64(o, "ppl", e->ppl);
    return o;
}

static char *fill_json(const om_job *job, om_evaluation *const *baselines) {
    const om_verdict v = om_verdict_of(job->judged, baselines, job->n_baselines);
    om_json *doc = om_json_new_document("optimum.run/1");
    om_json_set_str(doc, "file", job->artifact);
    om_json_set_i64(doc, "bytes", job->chosen->bytes);
    om_json_set_i64(doc, "budget_bytes", job->chosen->budget_bytes);
    if (job->chosen->active_bytes > 0) {
        om_json_set_i64(doc, "active_bytes", job->chosen->active_bytes);
    }
    om_json_set_f64(doc, "bpw", job->chosen->bpw);
    om_json_set_f64(doc, "predicted_nats", job->chosen->predicted_nats);
    om_json_set(doc, "measured", json_evaluation(job->judged));
    om_json *list = om_json_array();
    for (int i = 0; i < job->n_baselines; i++) {
        om_json_push(list, json_evaluation(baselines[i]));
    }
    om_json_set(doc, "baselines", list);
    om_json_set_str(doc, "verdict", om_verdict_name(v.kind));
    if (v.i_rival >= 0) {
        om_json_set_str(doc, "rival", om_evaluation_name(baselines[v.i_rival]));
        om_json_set_f64(doc, "ratio", v.ratio);
    }
    om_json_set_str(doc, "report", job->report);
    char *json = om_json_dump(doc);
    om_json_free(doc);
    return json;
}

om_status om_job_result(om_result *out, const om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_evaluation *baselines[OM_RUN_MAX_BASELINES] = { NULL };
    om_buf text = { 0 };
    om_result r = { 0 };
    for (int i = 0; i < job->n_baselines; i++) {
        OM_TRY(om_evaluation_read(&baselines[i], job->baselines[i], err));
    }
    fill_text(&text, job, baselines);
    r.text = om_buf_take(&text);
    r.json = fill_json(job, baselines);
    if (!r.json || !r.text) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    *out = r;
    r = (om_result){ 0 };
out:
    for (int i = 0; i < OM_RUN_MAX_BASELINES; i++) {
        om_evaluation_free(baselines[i]);
    }
    om_result_release(&r);
    om_buf_release(&text);
    return status;
}
