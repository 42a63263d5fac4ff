/* Options -> a checked job: paths, the types to profile, the model opened once for its numbers. */
#include "run/job.h"

#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "calib/cover.h"
#include "hf/directory.h"
#include "model/candidates.h"
#include "profile/mlx_contents.h"

/* ---- names ---- */

static bool is_precision(const char *s) {
    static const char *const word[] = { "bf16", "f16", "f32", "fp16", "fp32" };
    for (size_t i = 0; i < sizeof word / sizeof word[0]; i++) {
        if (strcasecmp(s, word[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* "-00001-of-00003" at the end: 15 characters. */
static bool is_split(const char *s) {
    return strlen(s) == 15 && s[0] == '-' && strspn(s + 1, "0123456789") == 5 &&
           strncmp(s + 6, "-of-", 4) == 0 && strspn(s + 10, "0123456789") == 5;
}

void om_job_model_name(char *dst, size_t cap, const char *path) {
    const size_t end = om_path_length(path); /* of a folder the name may end in slashes */
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    size_t n = end - start < cap - 1 ? end - start : cap - 1;
    memcpy(dst, path + start, n);
    dst[n] = '\0';
    if (n > 5 && strcasecmp(dst + n - 5, ".gguf") == 0) {
        dst[n -= 5] = '\0';
    }
    if (n > 15 && is_split(dst + n - 15)) {
        dst[n -= 15] = '\0';
    }
    for (size_t i = n; i > 1; i--) {
        if (dst[i - 1] == '-' || dst[i - 1] == '.' || dst[i - 1] == '_') {
            if (is_precision(dst + i)) {
                dst[i - 1] = '\0';
            }
            break;
        }
    }
}

/* What is made for one container has the container in its name, so that both fit in one folder. */
static om_status set_paths(om_job *job, om_error *err) {
    const char *dir = job->options->out_dir;
    const bool mlx = job->container == OM_CONTAINER_MLX;
    char gguf[256];
    om_job_model_name(gguf, sizeof gguf - 5, job->options->model);
    memcpy(gguf + strlen(gguf), ".gguf", 6);
    const struct {
        char **path;
        const char *name;
    } file[] = { { &job->gguf, gguf },
                 { &job->profile, "profile.json" },
                 { &job->stats, "profile.stats.gguf" },
                 { &job->reference, "reference.omref" },
                 { &job->allocation, mlx ? "allocation.mlx.json" : "allocation.json" },
                 { &job->curve, mlx ? "curve.mlx.json" : "curve.json" },
                 { &job->eval, mlx ? "eval.mlx.json" : "eval.json" },
                 { &job->report, mlx ? "report.mlx.html" : "report.html" } };
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        *file[i].path = om_path_join(dir, file[i].name);
        if (!*file[i].path) {
            return om_fail_nomem(err, strlen(dir) + 32);
        }
    }
    if (!job->is_directory) { /* nothing to make */
        om_free(job->gguf);
        job->gguf = om_strdup(job->options->model);
    }
    return job->gguf ? OM_OK : om_fail_nomem(err, strlen(dir));
}

/* ---- types to profile ---- */

/* The next of "a,b,c", NULL when no type has this name; false at the end. */
static bool next_type(const om_format **out, const char **list) {
    char name[32];
    const char *p = *list + strspn(*list, " ,");
    const size_t n = strcspn(p, " ,"), kept = n < sizeof name ? n : sizeof name - 1;
    memcpy(name, p, kept);
    name[kept] = '\0';
    *out = om_format_by_name(name);
    *list = p + n;
    return n > 0;
}

/* Append the types of a list that are not profiled by default. */
static void collect_opt_in(om_buf *extra, const char *list) {
    const om_format *f;
    while (next_type(&f, &list)) {
        if (f && f->use == OM_FORMAT_OPT_IN) {
            om_buf_printf(extra, ",%s", f->name);
        }
    }
}

/* What is profiled by default, of one catalogue. */
static void put_common(om_buf *list, const om_format *(*at)(int i)) {
    const om_format *f;
    for (int i = 0; (f = at(i)) != NULL; i++) {
        if (f->use == OM_FORMAT_COMMON) {
            om_buf_printf(list, "%s%s", list->len > 0 ? "," : "", f->name);
        }
    }
}

/* The profile serves other budgets and the presets too, so a short list of types never shortens it:
 * types that are not common are added to the default. */
static om_status set_types(om_job *job, om_error *err) {
    const om_run_options *o = job->options;
    om_buf extra = { 0 }, all = { 0 };
    if (o->types) {
        collect_opt_in(&extra, o->types);
    }
    for (int i = 0; i < o->n_pins; i++) {
        const char *type = strrchr(o->pins[i], '=');
        if (type) {
            collect_opt_in(&extra, type + 1);
        }
    }
    if (extra.len > 0) {
        put_common(&all, om_format_at);
        if (om_job_profiles_mlx(o)) {
            put_common(&all, om_format_mlx_at);
        }
        om_buf_puts(&all, extra.data);
        job->types = om_buf_take(&all);
    }
    const bool failed = extra.failed || (extra.len > 0 && !job->types);
    om_buf_release(&extra);
    om_buf_release(&all);
    return failed ? om_fail_nomem(err, 0) : OM_OK;
}

/* ---- checks ---- */

bool om_job_covers(const om_run_options *o) {
    return o->select && strcmp(o->select, "cover") == 0;
}

bool om_job_profiles_mlx(const om_run_options *o) {
    return o->to && strcmp(o->to, "gguf") != 0;
}

static bool makes(const om_run_options *o, om_container container) {
    const bool mlx = om_job_profiles_mlx(o);
    return (mlx && strcmp(o->to, "both") == 0) || mlx == (container == OM_CONTAINER_MLX);
}

/* Every container that is made must have types left: hours lie between the first result and the
 * second. */
static om_status check_types(const om_run_options *o, om_container container, om_error *err) {
    const bool mlx = container == OM_CONTAINER_MLX;
    const om_format *f;
    bool some = o->types == NULL;
    for (const char *list = o->types; list && next_type(&f, &list);) {
        some = some || (f && om_format_in(f, container));
    }
    if (!some) {
        return om_fail(err, OM_E_ARG, "--types %s names no type of %s: add one, or leave it out",
                       o->types, mlx ? "MLX" : "GGUF");
    }
    for (int i = 0; i < o->n_pins; i++) {
        f = om_format_by_name(strrchr(o->pins[i], '=') + 1);
        if (!om_format_in(f, container)) {
            return om_fail(err, OM_E_ARG,
                           "pin \"%s\": %s is no type of %s; for both containers run once with "
                           "--to gguf and once with --to mlx",
                           o->pins[i], f->name, mlx ? "MLX" : "GGUF");
        }
    }
    return OM_OK;
}

static om_status check_names(const om_run_options *o, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < o->n_pins; i++) {
        const char *type = strrchr(o->pins[i], '=');
        if (!type || !om_format_by_name(type + 1)) {
            OM_TRY(om_fail(err, OM_E_ARG, "pin \"%s\": expected REGEX=TYPE with TYPE one of %s",
                           o->pins[i], om_format_list()));
        }
    }
    OM_TRY(om_candidates_check(o->types, err));
    for (int c = 0; c < OM_CONTAINER_COUNT; c++) {
        if (makes(o, (om_container) c)) {
            OM_TRY(check_types(o, (om_container) c, err));
        }
    }
out:
    return status;
}

static om_status check_options(const om_run_options *o, om_error *err) {
    if (!o->model || !o->out_dir) {
        return om_fail(err, OM_E_ARG, "run needs a model and an output folder (-o DIR)");
    }
    if (o->budget.kind == OM_BUDGET_NONE) {
        return om_fail(err, OM_E_ARG,
                       "run needs a budget: --memory SIZE, --size SIZE or --bpw BITS");
    }
    if (o->n_windows < 0 || o->window_tokens < 0 || o->n_eval_chunks < 0 || o->n_tiers < 0) {
        return om_fail(err, OM_E_ARG, "windows, tokens, chunks and tiers must not be negative");
    }
    if (o->max_active_bytes < 0 || o->min_tok_s < 0.0 || o->bandwidth_bytes_s < 0.0 ||
        (o->max_active_bytes > 0 && o->min_tok_s > 0.0)) {
        return om_fail(err, OM_E_ARG,
                       "give --max-active-bytes or --min-tok-s, the same limit, not both");
    }
    if (o->to && strcmp(o->to, "gguf") != 0 && strcmp(o->to, "mlx") != 0 &&
        strcmp(o->to, "both") != 0) {
        return om_fail(err, OM_E_ARG, "--to %s: expected gguf, mlx or both", o->to);
    }
    for (int i = 0; i < o->n_calib; i++) {
        if (!om_file_exists(o->calib[i])) {
            return om_fail(err, OM_E_IO, "no calibration text at %s", o->calib[i]);
        }
    }
    /* Hours before it is needed, so look now. */
    if (o->eval_text && !om_file_exists(o->eval_text)) {
        return om_fail(err, OM_E_IO, "no evaluation text at %s", o->eval_text);
    }
    if (o->select && !om_job_covers(o) && strcmp(o->select, "spread") != 0) {
        return om_fail(err, OM_E_ARG, "--select %s: expected spread or cover", o->select);
    }
    return check_names(o, err);
}

/* What om_inspect says of a GGUF's budget, for MLX. */
static om_status check_mlx_budget(const om_job *job, const om_model *model, om_error *err) {
    om_status status = OM_OK;
    om_memory memory = { 0 };
    int64_t limit = 0, smallest = 0;
    char need[32], have[32];
    OM_TRY(om_mlx_smallest_bytes(&smallest, model, err));
    OM_TRY(om_memory_of(&memory, model, job->env, err));
    OM_TRY(
        om_budget_file_bytes(&limit, &job->options->budget, &memory, om_model_params(model), err));
    if (smallest > limit) {
        OM_TRY(om_fail(err, OM_E_INFEASIBLE,
                       "the budget allows an MLX model of %s, the smallest has %s (2 bits in the "
                       "widest groups that fit): raise the budget to %lld bytes or choose a "
                       "smaller model",
                       om_format_bytes(have, (double) limit, false),
                       om_format_bytes(need, (double) smallest, false), (long long) smallest));
    }
out:
    om_memory_release(&memory);
    return status;
}

om_status om_job_check_model(om_job *job, om_error *err) {
    om_status status = OM_OK;
    om_result facts = { 0 };
    om_model *model = NULL;
    const om_run_options *o = job->options;
    /* The budget first: an impossible one must not cost anything. */
    OM_TRY(om_inspect(&facts,
                      &(om_inspect_options){ .model = job->gguf,
                                             .budget = job->container == OM_CONTAINER_GGUF
                                                           ? o->budget
                                                           : (om_budget){ 0 } },
                      job->env, err));
    om_log(job->env, OM_LOG_DEBUG, "%s", facts.text);
    OM_TRY(om_model_open(&model, job->gguf, err));
    job->model_bytes = om_model_file_bytes(model);
    job->model_params = om_model_params(model);
    if (job->container == OM_CONTAINER_MLX) {
        OM_TRY(check_mlx_budget(job, model, err));
    }
    if (om_job_covers(o)) {
        OM_TRY(om_cover_check(model, err));
    }
out:
    om_result_release(&facts);
    om_model_free(model);
    return status;
}

/* Of a directory only what its headers say: the rest when its GGUF is there. */
static om_status look_at_directory(om_job *job, om_error *err) {
    om_hf *hf = NULL;
    const om_status status = om_hf_open(&hf, job->options->model, err);
    if (status == OM_OK) {
        job->model_bytes = om_safetensors_bytes(om_hf_safetensors(hf));
        job->model_params = om_hf_params(hf);
    }
    om_hf_free(hf);
    return status;
}

om_status om_job_init(om_job *job, const om_run_options *options, om_container container,
                      const om_env *env, om_error *err) {
    om_status status = OM_OK;
    *job = (om_job){ .options = options, .env = env, .container = container };
    OM_TRY(check_options(options, err));
    job->is_directory = om_hf_is_directory(options->model);
    if (om_job_profiles_mlx(options) && !job->is_directory) { /* also before the GGUF of both */
        OM_TRY(om_fail(err, OM_E_ARG,
                       "%s: --to %s needs the model's Hugging Face folder (config.json, "
                       "safetensors, tokenizer)",
                       options->model, options->to));
    }
    OM_TRY(set_paths(job, err));
    OM_TRY(set_types(job, err));
    OM_TRY(job->is_directory ? look_at_directory(job, err) : om_job_check_model(job, err));
out:
    return status;
}

void om_job_release(om_job *job) {
    char *const strings[] = { job->gguf,     job->profile,   job->stats, job->allocation,
                              job->curve,    job->reference, job->eval,  job->report,
                              job->artifact, job->types };
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        om_free(strings[i]);
    }
    for (int i = 0; i < job->n_baselines; i++) {
        om_free(job->baselines[i]);
    }
    om_allocation_free(job->chosen);
    om_evaluation_free(job->judged);
    om_run_texts_release(&job->texts);
    om_run_state_release(&job->state);
    *job = (om_job){ 0 };
}
