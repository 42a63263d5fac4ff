/* The verb `quantize`: allocation.json + model + statistics -> GGUF, checked, and what it is.
 *
 * Order: everything cheap that can fail (files, plan, space) before the model is hashed, the hash
 * before anything is written. A dry run stops after the plan and reads no weight. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "artifact/gguf_write.h"
#include "artifact/inputs.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/llama_log.h"

/* ---- inputs ---- */

/* The rename would replace the source, full precision and possibly the only copy. */
static om_status check_output(const om_quantize_options *o, const om_model *model, om_error *err) {
    om_status status = OM_OK;
    const char *const inputs[] = { o->allocation, o->stats, o->imatrix };
    for (int i = 0; i < om_model_n_splits(model); i++) {
        const char *part = om_model_split_path(model, i);
        OM_TRY(om_file_check_output(o->out, &part, 1, err));
    }
    OM_TRY(om_file_check_output(o->out, inputs, 3, err));
out:
    return status;
}

static om_status check_model(char sha256[65], const om_model *model, const om_allocation *a,
                             const om_env *env, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_model_sha256(sha256, model, env, err));
    if (strcmp(sha256, a->model_sha256) != 0) {
        OM_TRY(om_fail(err, OM_E_MISMATCH,
                       "%s has sha256 %s, the allocation was made for %s: give that model, or "
                       "profile and allocate for this one",
                       om_model_path(model), sha256, a->model_sha256));
    }
out:
    return status;
}

static om_gguf_record record_of(const om_allocation *a) {
    om_gguf_record r = {
        .seed = a->seed,
        .calib_tokens = a->calib_tokens < 0 ? 0 : (uint64_t) a->calib_tokens,
        .budget_bytes = a->budget_bytes,
        .predicted_nats = a->predicted_nats,
        .routing_nats = a->routing_nats,
        .measured_kld = (double) NAN,
        .measured_kld_stderr = (double) NAN,
    };
    memcpy(r.source_sha256, a->model_sha256, sizeof r.source_sha256);
    memcpy(r.calib_sha256, a->calib_sha256, sizeof r.calib_sha256);
    memcpy(r.profile_sha256, a->profile_sha256, sizeof r.profile_sha256);
    memcpy(r.allocation_sha256, a->sha256, sizeof r.allocation_sha256);
    return r;
}

/* ---- result ---- */

typedef struct outcome {
    const om_quantize_options *options;
    const om_plan *plan;
    const om_allocation *allocation;
    const char *stats_path; /* NULL: none */
    const om_stats *stats;  /* NULL: none */
    char sha256[65];        /* of the file; "" in a dry run */
    double total_nats;      /* NaN unknown */
    double seconds;         /* measured, or estimated in a dry run */
} outcome;

static double bits_per_weight(const om_plan *plan) {
    return 8.0 * (double) plan->file_bytes / (double) om_model_params(plan->model);
}

static char *result_json(const outcome *r) {
    om_json *doc = om_json_new_document("optimum.quantize/1");
    om_json *tensors = om_json_array();
    om_json_set_bool(doc, "dry_run", r->options->dry_run);
    om_json_set_str(doc, "path", r->options->out);
    om_json_set_str(doc, "sha256", r->sha256[0] != '\0' ? r->sha256 : NULL);
    om_json_set_i64(doc, "bytes", r->plan->file_bytes);
    om_json_set_f64(doc, "bpw", bits_per_weight(r->plan));
    om_json_set_str(doc, "model", om_model_path(r->plan->model));
    om_json_set_str(doc, "model_sha256", r->allocation->model_sha256);
    om_json_set_str(doc, "allocation_sha256", r->allocation->sha256);
    om_json_set_str(doc, "stats", r->stats_path);
    om_json_set_str(doc, "stats_sha256", r->stats == NULL ? NULL : r->stats->sha256);
    om_json_set_f64(doc, "predicted_nats", r->allocation->predicted_nats);
    om_json_set_f64(doc, "predicted_nats_exact", r->total_nats);
    om_json_set_f64(doc, "seconds", r->seconds);
    for (int i = 0; i < r->plan->n_items; i++) {
        const om_plan_item *item = &r->plan->items[i];
        om_json *t = om_json_object();
        om_json_set_str(t, "name", item->tensor->name);
        om_json_set_str(t, "from", item->tensor->format->name);
        om_json_set_str(t, "type", item->to->name);
        om_json_set_i64(t, "bytes", item->bytes);
        om_json_set_f64(t, "nats", item->nats);
        om_json_push(tensors, t);
    }
    om_json_set(doc, "tensors", tensors);
    char *text = om_json_dump(doc);
    om_json_free(doc);
    return text;
}

static void print_summary(om_buf *b, const outcome *r) {
    char size[32], from[32];
    int quantized = 0;
    for (int i = 0; i < r->plan->n_items; i++) {
        quantized += r->plan->items[i].to != r->plan->items[i].tensor->format;
    }
    om_format_bytes(size, (double) r->plan->file_bytes, false);
    om_format_bytes(from, (double) om_model_file_bytes(r->plan->model), false);
    if (r->options->dry_run) {
        om_plan_print(b, r->plan);
        om_buf_printf(b, "would write %s (%.3f bits per weight; the source has %s), about %.0f s\n",
                      size, bits_per_weight(r->plan), from, ceil(r->seconds));
        return;
    }
    om_buf_printf(b, "%s: %s (%" PRId64 " bytes), %.3f bits per weight; the source has %s\n",
                  r->options->out, size, r->plan->file_bytes, bits_per_weight(r->plan), from);
    om_buf_printf(b, "%d tensors quantized, %d copied, in %.1f s; checked against the plan\n",
                  quantized, r->plan->n_items - quantized, r->seconds);
    if (isfinite(r->total_nats)) {
        om_buf_printf(b,
                      "predicted loss of what was written: %.5f nats per token (allocation: "
                      "%.5f)\n",
                      r->total_nats, r->allocation->predicted_nats);
    }
    om_buf_printf(b, "sha256 %s\n", r->sha256);
}

static om_status make_result(om_result *out, const outcome *r, om_error *err) {
    om_buf text = { 0 };
    print_summary(&text, r);
    om_result result = { .json = result_json(r), .text = om_buf_take(&text) };
    om_buf_release(&text);
    if (result.json == NULL || result.text == NULL) {
        om_result_release(&result);
        return om_fail_nomem(err, 0);
    }
    *out = result;
    return OM_OK;
}

/* ---- the verb ---- */

static om_status write_and_check(outcome *r, om_plan *plan, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    char model_sha256[65], size[32];
    const om_gguf_record record = record_of(r->allocation);
    const char *path = r->options->out;

    om_log(env, OM_LOG_INFO, "writing %s to %s: about %.0f s with %d threads",
           om_format_bytes(size, (double) plan->file_bytes, false), path,
           ceil(om_plan_seconds(plan, om_n_threads(env))), om_n_threads(env));
    const double start = om_now_s();
    OM_TRY(check_model(model_sha256, plan->model, r->allocation, env, err));
    OM_TRY(om_plan_write(&r->total_nats, r->sha256, plan, &record, path, env, err));
    r->seconds = om_now_s() - start;
out:
    return status;
}

om_status om_quantize(om_result *out, const om_quantize_options *options, const om_env *env,
                      om_error *err) {
    om_status status = OM_OK;
    om_allocation *allocation = NULL;
    om_model *model = NULL;
    om_stats *stats = NULL;
    om_plan *plan = NULL;
    char *stats_path = NULL, model_sha256[65];
    outcome r = { .options = options, .total_nats = (double) NAN };

    om_llama_log log = { .model = options->model };
    om_llama_log_begin(&log, env);
    OM_TRY(om_inputs_check(options, err));
    OM_TRY(om_allocation_read(&allocation, options->allocation, err));
    OM_TRY(om_model_open(&model, options->model, err));
    if (!options->dry_run) {
        OM_TRY(check_output(options, model, err));
    }
    OM_TRY(om_inputs_stats(&stats, &stats_path, options, allocation, env, err));
    OM_TRY(om_plan_make(&plan, model, allocation, stats, err));
    r.plan = plan;
    r.allocation = allocation;
    r.stats = stats;
    r.stats_path = stats_path;
    status = om_inputs_size(plan->file_bytes, allocation, err);
    if (status != OM_OK) { /* sizes are wrong mostly because the model is another one */
        om_error why = { 0 };
        if (!options->dry_run && check_model(model_sha256, model, allocation, env, &why) != OM_OK) {
            *err = why;
            status = why.status;
        }
        goto out;
    }
    if (options->dry_run) {
        r.seconds = om_plan_seconds(plan, om_n_threads(env));
    } else {
        OM_TRY(write_and_check(&r, plan, env, err));
    }
    OM_TRY(make_result(out, &r, err));
out:
    if (status != OM_OK) {
        (void) om_error_context(err, "quantize");
    }
    om_plan_free(plan);
    om_stats_free(stats);
    om_free(stats_path);
    om_model_free(model);
    om_allocation_free(allocation);
    om_llama_log_end(&log);
    return status;
}
