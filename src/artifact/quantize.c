/* The verb `quantize`: allocation.json + model + statistics -> GGUF, checked, and what it is.
 *
 * Order: everything cheap that can fail (files, plan, space) before the model is hashed, the hash
 * before anything is written. A dry run stops after the plan and reads no weight. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "artifact/gguf_write.h"
#include "artifact/inputs.h"
#include "artifact/outcome.h"
#include "artifact/quantize_mlx.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hf/directory.h"
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

static om_status check_container(const om_allocation *a, const om_quantize_options *o,
                                 om_error *err) {
    if (a->container == OM_CONTAINER_MLX) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s is an allocation for MLX: give --to mlx and the model's Hugging Face "
                       "directory, or allocate with --to gguf",
                       o->allocation);
    }
    return OM_OK;
}

static om_status check_options(const om_quantize_options *o, om_error *err) {
    if (o->round != NULL) {
        return om_fail(err, OM_E_ARG, "--round is for --to mlx; a GGUF is rounded by ggml");
    }
    if (om_hf_is_directory(o->model)) {
        return om_fail(err, OM_E_ARG,
                       "%s is a directory, and a GGUF is made from a GGUF: give the one that "
                       "profile made of it (profile.gguf beside profile.json)",
                       o->model);
    }
    return OM_OK;
}

/* ---- result ---- */

static om_outcome_tensor tensor_at(const void *ud, int i) {
    const om_plan_item *item = &((const om_plan *) ud)->items[i];
    return (om_outcome_tensor){
        .name = item->tensor->name,
        .from = item->tensor->format->name,
        .type = item->to->name,
        .bytes = item->bytes,
        .nats = item->nats,
        .quantized = item->to != item->tensor->format,
    };
}

static void print_plan(om_buf *out, const void *plan) {
    om_plan_print(out, plan);
}

/* ---- the verb ---- */

static om_status write_and_check(om_outcome *r, om_plan *plan, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    char model_sha256[65], size[32];
    const om_gguf_record record = om_inputs_record(r->allocation);
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

static om_status quantize_gguf(om_result *out, const om_quantize_options *options,
                               const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_allocation *allocation = NULL;
    om_model *model = NULL;
    om_stats *stats = NULL;
    om_plan *plan = NULL;
    char *stats_path = NULL, model_sha256[65];
    om_outcome r = { .options = options, .total_nats = (double) NAN };

    OM_TRY(om_allocation_read(&allocation, options->allocation, err));
    OM_TRY(check_container(allocation, options, err));
    OM_TRY(check_options(options, err));
    OM_TRY(om_model_open(&model, options->model, err));
    if (!options->dry_run) {
        OM_TRY(check_output(options, model, err));
    }
    OM_TRY(om_inputs_stats(&stats, &stats_path, options, allocation, env, err));
    OM_TRY(om_plan_make(&plan, model, allocation, stats, err));
    r.allocation = allocation;
    r.stats = stats;
    r.stats_path = stats_path;
    r.model_path = om_model_path(model);
    r.params = om_model_params(model);
    r.source_bytes = om_model_file_bytes(model);
    r.bytes = plan->file_bytes;
    r.plan = plan;
    r.n_tensors = plan->n_items;
    r.tensor = tensor_at;
    r.print = print_plan;
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
    OM_TRY(om_outcome_result(out, &r, err));
out:
    om_plan_free(plan);
    om_stats_free(stats);
    om_free(stats_path);
    om_model_free(model);
    om_allocation_free(allocation);
    return status;
}

om_status om_quantize(om_result *out, const om_quantize_options *options, const om_env *env,
                      om_error *err) {
    om_status status = OM_OK;
    om_llama_log log = { .model = options->model };
    om_llama_log_begin(&log, env);
    OM_TRY(om_inputs_check(options, err));
    const bool mlx =
        options->to != NULL ? strcmp(options->to, "mlx") == 0 : om_hf_is_directory(options->model);
    OM_TRY(mlx ? om_quantize_mlx(out, options, env, err) : quantize_gguf(out, options, env, err));
out:
    if (status != OM_OK) {
        (void) om_error_context(err, "quantize");
    }
    om_llama_log_end(&log);
    return status;
}
