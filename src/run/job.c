/* Options -> a checked job: paths, the types to profile, the model opened once for its numbers. */
#include "run/job.h"

#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "calib/cover.h"
#include "model/candidates.h"

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
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    n = n < cap - 1 ? n : cap - 1;
    memcpy(dst, name, n);
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

static om_status set_paths(om_job *job, om_error *err) {
    const char *dir = job->options->out_dir;
    const struct {
        char **path;
        const char *name;
    } file[] = { { &job->profile, "profile.json" },       { &job->stats, "profile.stats.gguf" },
                 { &job->allocation, "allocation.json" }, { &job->curve, "curve.json" },
                 { &job->reference, "reference.omref" },  { &job->eval, "eval.json" },
                 { &job->report, "report.html" } };
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        *file[i].path = om_path_join(dir, file[i].name);
        if (!*file[i].path) {
            return om_fail_nomem(err, strlen(dir) + 32);
        }
    }
    return OM_OK;
}

/* ---- types to profile ---- */

/* Does a list "a,b,c", or the type of a pin "REGEX=TYPE", name a type that is not profiled by
 * default? Appends it to extra. */
static void collect_opt_in(om_buf *extra, const char *list, size_t n) {
    char name[32];
    size_t start = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && list[i] != ',') {
            continue;
        }
        size_t first = start, last = i;
        while (first < last && list[first] == ' ') {
            first++;
        }
        while (last > first && list[last - 1] == ' ') {
            last--;
        }
        if (last - first > 0 && last - first < sizeof name) {
            memcpy(name, list + first, last - first);
            name[last - first] = '\0';
            const om_format *f = om_format_by_name(name);
            if (f && f->use == OM_FORMAT_OPT_IN) {
                om_buf_printf(extra, ",%s", f->name);
            }
        }
        start = i + 1;
    }
}

/* The profile serves other budgets and the presets too, so a short list of types never shortens it:
 * types that are not common are added to the default. */
static om_status set_types(om_job *job, om_error *err) {
    const om_run_options *o = job->options;
    om_buf extra = { 0 }, all = { 0 };
    if (o->types) {
        collect_opt_in(&extra, o->types, strlen(o->types));
    }
    for (int i = 0; i < o->n_pins; i++) {
        const char *type = strrchr(o->pins[i], '=');
        if (type) {
            collect_opt_in(&extra, type + 1, strlen(type + 1));
        }
    }
    if (extra.len > 0) {
        const om_format *f;
        for (int i = 0; (f = om_format_at(i)) != NULL; i++) {
            if (f->use == OM_FORMAT_COMMON) {
                om_buf_printf(&all, "%s%s", all.len > 0 ? "," : "", f->name);
            }
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
    for (int i = 0; i < o->n_calib; i++) {
        if (!om_file_exists(o->calib[i])) {
            return om_fail(err, OM_E_IO, "no calibration text at %s", o->calib[i]);
        }
    }
    /* Hours before it is needed, so look now. */
    if (o->eval_text && !om_file_exists(o->eval_text)) {
        return om_fail(err, OM_E_IO, "no evaluation text at %s", o->eval_text);
    }
    for (int i = 0; i < o->n_pins; i++) {
        const char *type = strrchr(o->pins[i], '=');
        if (!type || !om_format_by_name(type + 1)) {
            return om_fail(err, OM_E_ARG, "pin \"%s\": expected REGEX=TYPE with TYPE one of %s",
                           o->pins[i], om_format_list());
        }
    }
    if (o->select && !om_job_covers(o) && strcmp(o->select, "spread") != 0) {
        return om_fail(err, OM_E_ARG, "--select %s: expected spread or cover", o->select);
    }
    return om_candidates_check(o->types, err);
}

om_status om_job_init(om_job *job, const om_run_options *options, const om_env *env,
                      om_error *err) {
    om_status status = OM_OK;
    om_result facts = { 0 };
    om_model *model = NULL;
    *job = (om_job){ .options = options, .env = env };
    OM_TRY(check_options(options, err));
    /* The budget first: an impossible one must not cost anything. */
    OM_TRY(om_inspect(&facts,
                      &(om_inspect_options){ .model = options->model, .budget = options->budget },
                      env, err));
    om_log(env, OM_LOG_DEBUG, "%s", facts.text);
    OM_TRY(om_model_open(&model, options->model, err));
    job->model_bytes = om_model_file_bytes(model);
    job->model_params = om_model_params(model);
    if (om_job_covers(options)) {
        OM_TRY(om_cover_check(model, err));
    }
    OM_TRY(set_paths(job, err));
    OM_TRY(set_types(job, err));
out:
    om_result_release(&facts);
    om_model_free(model);
    return status;
}

void om_job_release(om_job *job) {
    char *const strings[] = { job->profile, job->stats,     job->allocation,
                              job->curve,   job->reference, job->eval,
                              job->report,  job->artifact,  job->types };
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
