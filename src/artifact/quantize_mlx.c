/* allocation.json + Hugging Face directory + statistics -> MLX directory, checked, and what it is.
 *
 * The order is quantize.c's: everything cheap that can fail before the weights are looked at, the
 * comparison with the profiled model before anything is written. A dry run stops after the plan. */
#include "artifact/quantize_mlx.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "artifact/inputs.h"
#include "artifact/mlx_write.h"
#include "artifact/outcome.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

static om_status check_container(const om_allocation *a, const om_quantize_options *o,
                                 om_error *err) {
    if (a->container != OM_CONTAINER_MLX) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s is an allocation for a GGUF: allocate with --to mlx, or give the GGUF "
                       "with --to gguf",
                       o->allocation);
    }
    return OM_OK;
}

static om_status open_model(om_hf **out, const om_quantize_options *o, om_error *err) {
    if (!om_hf_is_directory(o->model)) {
        return om_fail(err, OM_E_ARG,
                       "%s is no Hugging Face directory (config.json, model.safetensors, "
                       "tokenizer), which --to mlx needs: give the one that the model comes from",
                       o->model);
    }
    return om_hf_open(out, o->model, err);
}

/* "out/" and "out" are the same directory. *out owned. */
static om_status output_path(char **out, const om_quantize_options *o, om_error *err) {
    *out = o->out == NULL ? NULL : om_strndup(o->out, om_path_length(o->out));
    return o->out != NULL && *out == NULL ? om_fail_nomem(err, strlen(o->out)) : OM_OK;
}

static om_status check_output(const om_mlx_plan *plan, const char *path, om_error *err) {
    if (om_file_is_same(path, om_hf_path(plan->hf))) {
        return om_fail(err, OM_E_ARG,
                       "%s would be overwritten, but it is the model: write to another name", path);
    }
    return om_mlx_check_target(plan, path, err);
}

/* The search takes its weights from the statistics; without them it would make things worse. */
static bool wants_search(const om_quantize_options *o, const om_stats *stats, const om_env *env) {
    if (o->round != NULL && strcmp(o->round, "plain") == 0) {
        return false;
    }
    if (stats == NULL) {
        om_log(env, OM_LOG_WARN, "rounding as mlx-lm does: a better one needs statistics");
    }
    return stats != NULL;
}

static void say_casts(const om_mlx_plan *plan, const om_env *env) {
    int coded = 0;
    for (int i = 0; i < plan->n_items; i++) {
        coded += plan->items[i].tensor->format->mlx != OM_MLX_NONE;
    }
    if (plan->cast) {
        om_log(env, OM_LOG_INFO, "the source has F32 weights: what is not quantized becomes %s",
               plan->dense->name);
    }
    if (coded > 0) {
        om_log(env, OM_LOG_WARN,
               "%d tensors are already quantized in the source: the losses add up; a "
               "full-precision source gives a better model",
               coded);
    }
}

static om_outcome_tensor tensor_at(const void *ud, int i) {
    const om_mlx_plan_item *item = &((const om_mlx_plan *) ud)->items[i];
    return (om_outcome_tensor){
        .name = item->tensor->name,
        .path = item->path,
        .from = item->tensor->format->name,
        .type = item->to->name,
        .bytes = item->bytes,
        .nats = item->nats,
        .quantized = item->to->mlx != OM_MLX_NONE,
    };
}

static void print_plan(om_buf *out, const void *plan) {
    om_mlx_plan_print(out, plan);
}

static om_status write_and_check(om_outcome *r, om_mlx_plan *plan, const char *path,
                                 const om_env *env, om_error *err) {
    om_status status = OM_OK;
    char size[32];
    om_gguf_record record = om_inputs_record(r->allocation);
    om_log(env, OM_LOG_INFO, "writing %s to %s: about %.0f s with %d threads",
           om_format_bytes(size, (double) plan->layout.total_bytes, false), path,
           ceil(om_mlx_plan_seconds(plan, om_n_threads(env))), om_n_threads(env));
    const double start = om_now_s();
    OM_TRY(om_mlx_plan_check_model(plan->hf, r->allocation, err));
    OM_TRY(om_hf_sha256(record.source_sha256, plan->hf, env, err));
    OM_TRY(om_mlx_write(&r->total_nats, r->sha256, plan, &record, r->allocation, r->options, path,
                        env, err));
    r->seconds = om_now_s() - start;
out:
    return status;
}

/* Sizes are wrong mostly because the model is another one: then that is said. */
static om_status check_size(const om_mlx_plan *plan, const om_allocation *a, om_error *err) {
    om_error why = { 0 };
    const om_status status = om_inputs_size(plan->layout.total_bytes, a, err);
    if (status != OM_OK && om_mlx_plan_check_model(plan->hf, a, &why) != OM_OK) {
        *err = why;
        return why.status;
    }
    return status;
}

om_status om_quantize_mlx(om_result *out, const om_quantize_options *options, const om_env *env,
                          om_error *err) {
    om_status status = OM_OK;
    om_allocation *allocation = NULL;
    om_hf *hf = NULL;
    om_stats *stats = NULL;
    om_mlx_plan *plan = NULL;
    char *stats_path = NULL, *path = NULL;
    om_quantize_options o = *options;
    om_outcome r = { .options = &o, .total_nats = (double) NAN };

    OM_TRY(output_path(&path, options, err));
    o.out = path;
    OM_TRY(om_allocation_read(&allocation, o.allocation, err));
    OM_TRY(check_container(allocation, &o, err));
    OM_TRY(open_model(&hf, &o, err));
    OM_TRY(om_inputs_stats(&stats, &stats_path, &o, allocation, env, err));
    const bool search = wants_search(&o, stats, env);
    OM_TRY(om_mlx_plan_make(&plan, hf, allocation, stats, search, 0, err));
    if (!o.dry_run) {
        OM_TRY(check_output(plan, path, err));
    }
    say_casts(plan, env);
    if (allocation->n_banked > 0) {
        om_log(env, OM_LOG_WARN,
               "experts in banks: mlx-lm loads this model only with --trust-remote-code (Python: "
               "trust_remote_code=True), because it brings its own module, " OM_HF_BANKS_FILE);
    }
    r.allocation = allocation;
    r.stats = stats;
    r.stats_path = stats_path;
    r.model_path = om_hf_path(hf);
    r.params = om_hf_params(hf);
    r.source_bytes = om_safetensors_bytes(om_hf_safetensors(hf));
    r.bytes = plan->layout.total_bytes;
    r.shards = plan->layout.n_shards;
    r.round = plan->search ? "search" : "plain";
    r.plan = plan;
    r.n_tensors = plan->n_items;
    r.tensor = tensor_at;
    r.print = print_plan;
    OM_TRY(check_size(plan, allocation, err));
    if (o.dry_run) {
        r.seconds = om_mlx_plan_seconds(plan, om_n_threads(env));
    } else {
        OM_TRY(write_and_check(&r, plan, path, env, err));
    }
    OM_TRY(om_outcome_result(out, &r, err));
out:
    om_mlx_plan_free(plan);
    om_stats_free(stats);
    om_free(stats_path);
    om_free(path);
    om_hf_free(hf);
    om_allocation_free(allocation);
    return status;
}
