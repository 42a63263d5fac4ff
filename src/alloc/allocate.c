/* The verb `allocate`: profile.json and a budget -> allocation.json.
 *
 * Either the integer program chooses (plan "optimal"), or a rule over the experts (alloc/
 * expert_plans.h), or a named plan does; pins hold for all. Limits that nothing fits are a normal
 * outcome: the message says what is possible (infeasible.h). With `sweep` the whole curve from the
 * smallest file to the one that loses nothing is solved, about 40 points, and the presets are put
 * beside it.
 */
#include <math.h>
#include <string.h>

#include "alloc/allocation.h"
#include "alloc/bank_plan.h"
#include "alloc/curve.h"
#include "alloc/describe.h"
#include "alloc/expert_plans.h"
#include "alloc/infeasible.h"
#include "alloc/pins.h"
#include "alloc/plans.h"
#include "alloc/routed.h"
#include "base/bandwidth.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

/* Everything of one call. */
typedef struct job {
    const om_allocate_options *options;
    const om_env *env;
    om_profile *profile;
    om_problem problem;
    int *pick;                 /* [n_groups] */
    const om_format **types;   /* [n_units] */
    int64_t limit;             /* bytes of the whole file; INT64_MAX: no budget */
    int64_t active_limit;      /* bytes read per token; INT64_MAX: no limit */
    double bandwidth_bytes_s;  /* given or measured; 0: neither */
    om_projection projection;  /* of an expert plan */
    om_bank_plan banks;        /* of --expert-banks */
    om_allocation *allocation; /* NULL: only a sweep */
    om_curve curve;            /* of a sweep */
} job;

static void job_release(job *j) {
    om_problem_release(&j->problem);
    om_bank_plan_release(&j->banks);
    om_allocation_free(j->allocation);
    om_free(j->pick);
    om_free(j->types);
    om_profile_free(j->profile);
}

/* A named plan, as opposed to the solver's. */
static bool has_plan(const om_allocate_options *o) {
    return o->plan != NULL && strcmp(o->plan, "optimal") != 0;
}

static om_container container_of(const om_allocate_options *o) {
    return o->to != NULL && strcmp(o->to, "mlx") == 0 ? OM_CONTAINER_MLX : OM_CONTAINER_GGUF;
}

static bool has_limit(const om_allocate_options *o) {
    return o->max_active_bytes > 0 || o->min_tok_s > 0.0;
}

static double bits_per_weight(const job *j, int64_t bytes) {
    return 8.0 * (double) bytes / (double) j->profile->params;
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

static om_status explain(job *j, om_error *err) {
    return om_infeasible(j->pick, &j->problem, j->profile, j->options, j->env, err);
}

/* The groups' options as a type per tensor. */
static void take_pick(job *j) {
    for (int g = 0; g < j->problem.n_groups; g++) {
        const om_group *group = &j->problem.groups[g];
        const om_option *o = &om_problem_options_of(&j->problem, g)[j->pick[g]];
        for (int m = 0; m < group->n_members; m++) {
            j->types[group->member[m]] = j->problem.formats[o->format];
        }
    }
}

static om_status choose_optimal(job *j, om_error *err) {
    om_status status = OM_OK;
    om_solution s = { 0 };
    om_error why = { 0 };
    om_allocation *a = j->allocation;
    status = om_problem_solve_routed(j->pick, &s, &j->problem, 0.0, j->env, &why);
    if (status == OM_E_INFEASIBLE) {
        return explain(j, err);
    }
    if (status != OM_OK) {
        *err = why;
        return status;
    }
    take_pick(j);
    memcpy(a->plan, "optimal", sizeof "optimal");
    if (s.proven) {
        memcpy(a->solver.status, "optimal", sizeof "optimal");
    } else {
        memcpy(a->solver.status, "limit", sizeof "limit");
    }
    a->solver.gap = s.gap;
    a->solver.seconds = s.seconds;
    if (!s.proven) {
        om_log(j->env, OM_LOG_WARN,
               "the search stopped at its limit: the allocation is within %.1e of the best", s.gap);
    }
    return status;
}

/* The statistics of the profile, for the costs of single experts; *out stays NULL when they are
 * gone or others. */
static om_status read_expert_stats(om_stats **out, const job *j, om_error *err) {
    om_status status = OM_OK;
    om_stats *stats = NULL;
    const om_profile *p = j->profile;
    char *path =
        p->stats_path[0] != '\0' ? om_path_find_beside(p->stats_path, j->options->profile) : NULL;
    if (path != NULL) {
        OM_TRY(om_stats_read(&stats, path, err));
    }
    if (stats != NULL &&
        (p->stats_sha256[0] == '\0' || strcmp(stats->sha256, p->stats_sha256) == 0)) {
        *out = stats;
        stats = NULL;
    }
out:
    om_stats_free(stats);
    om_free(path);
    return status;
}

static om_status choose_by_experts(job *j, om_error *err) {
    om_status status = OM_OK;
    om_stats *stats = NULL;
    om_error why = { 0 };
    om_allocation *a = j->allocation;
    const char *method = j->options->method;
    OM_TRY(read_expert_stats(&stats, j, err));
    if (stats == NULL) {
        const char *path = j->profile->stats_path;
        om_log(j->env, OM_LOG_WARN,
               "the profile's statistics%s%s are not to be had: the cost of one type per stack is "
               "estimated from the traces",
               path[0] != '\0' ? " " : "", path);
    }
    status = om_expert_plan(j->pick, &j->projection, &j->problem, j->profile, method, stats, &why);
    if (status == OM_E_INFEASIBLE) {
        OM_TRY(explain(j, err));
    }
    if (status != OM_OK) {
        *err = why;
        goto out;
    }
    take_pick(j);
    memcpy(a->plan, method, strlen(method) + 1);
    memcpy(a->solver.status, "none", sizeof "none");
out:
    om_stats_free(stats);
    return status;
}

/* After choose_optimal: its answer is where the search for banks begins. */
static om_status choose_banks(job *j, om_error *err) {
    om_status status = OM_OK;
    om_stats *stats = NULL;
    om_allocation *a = j->allocation;
    OM_TRY(read_expert_stats(&stats, j, err));
    if (stats == NULL) {
        const char *path = j->profile->stats_path;
        OM_TRY(
            om_fail(err, OM_E_ARG,
                    "--expert-banks needs the profile's statistics%s%s, which are not to be had: "
                    "put them where the profile says, or profile again",
                    path[0] != '\0' ? ", " : "", path));
    }
    OM_TRY(om_bank_plan_make(&j->banks, j->types, j->pick, &j->problem, j->profile, stats,
                             j->options->expert_banks, j->env, err));
    memcpy(a->plan, "expert-banks", sizeof "expert-banks");
    a->solver.gap = fmax(a->solver.gap, j->banks.gap);
    a->solver.seconds += j->banks.seconds;
    a->banks = j->banks.layers;
    a->n_banked = j->banks.n_layers;
    j->banks.layers = NULL;
    j->banks.n_layers = 0;
out:
    om_stats_free(stats);
    return status;
}

static om_status choose_by_plan(job *j, om_error *err) {
    om_status status = OM_OK;
    om_pins pins = { 0 };
    const om_allocate_options *o = j->options;
    om_allocation *a = j->allocation;
    char need[32], have[32];
    if (strlen(o->plan) >= sizeof a->plan) {
        OM_TRY(om_fail(err, OM_E_ARG, "unknown plan '%.64s'", o->plan));
    }
    OM_TRY(om_plan_types(j->types, j->profile, o->plan, j->limit == INT64_MAX ? 0 : j->limit, err));
    OM_TRY(om_pins_resolve(&pins, j->profile, o->pins, o->n_pins, err));
    for (int i = 0; i < j->profile->n_units; i++) {
        j->types[i] = pins.format[i] != NULL ? pins.format[i] : j->types[i];
    }
    const int64_t bytes = om_plan_sum(j->profile, j->types).bytes;
    if (bytes > j->limit) {
        OM_TRY(om_fail(err, OM_E_INFEASIBLE,
                       "plan %s needs %lld bytes (%s, %.3f bpw), the budget is %lld (%s); choose a "
                       "smaller plan or let the solver choose (no --plan)",
                       o->plan, (long long) bytes, om_format_bytes(need, (double) bytes, false),
                       bits_per_weight(j, bytes), (long long) j->limit,
                       om_format_bytes(have, (double) j->limit, false)));
    }
    memcpy(a->plan, o->plan, strlen(o->plan) + 1);
    memcpy(a->solver.status, "none", sizeof "none");
out:
    om_pins_release(&pins);
    return status;
}

/* ---- the allocation ---------------------------------------------------------------------------
 */

/* One digest for the calibration: the file's own, or that of the list. */
static om_status digest_calibration(char hex[65], const om_profile *p) {
    if (p->n_calib == 1) {
        memcpy(hex, p->calib_sha256[0], 65);
        return OM_OK;
    }
    om_buf list = { 0 };
    for (int i = 0; i < p->n_calib; i++) {
        om_buf_puts(&list, p->calib_sha256[i]);
    }
    if (list.len > 0 && !list.failed) {
        om_sha256_bytes(hex, list.data, list.len);
    }
    om_status status = list.failed ? OM_E_NOMEM : OM_OK;
    om_buf_release(&list);
    return status;
}

static om_status start_allocation(job *j, om_error *err) {
    static const char *const kinds[] = { [OM_BUDGET_NONE] = "none",
                                         [OM_BUDGET_SIZE] = "size",
                                         [OM_BUDGET_BPW] = "bpw",
                                         [OM_BUDGET_MEMORY] = "memory" };
    const om_profile *p = j->profile;
    om_allocation *a = om_calloc(1, sizeof *a);
    if (a == NULL) {
        return om_fail_nomem(err, sizeof *a);
    }
    j->allocation = a;
    a->tensors = om_calloc((size_t) p->n_units, sizeof *a->tensors);
    if (a->tensors == NULL || digest_calibration(a->calib_sha256, p) != OM_OK) {
        return om_fail_nomem(err, (size_t) p->n_units * sizeof *a->tensors);
    }
    size_t n = strlen(j->options->profile);
    if (n >= sizeof a->profile_path) {
        return om_fail(err, OM_E_ARG, "the path of the profile is longer than %zu characters",
                       sizeof a->profile_path - 1);
    }
    memcpy(a->profile_path, j->options->profile, n + 1);
    memcpy(a->profile_sha256, p->sha256, sizeof a->profile_sha256);
    memcpy(a->model_sha256, p->model_sha256, sizeof a->model_sha256);
    memcpy(a->stats_path, p->stats_path, sizeof a->stats_path);
    memcpy(a->stats_sha256, p->stats_sha256, sizeof a->stats_sha256);
    a->container = p->container;
    a->seed = p->seed;
    a->calib_tokens = p->tokens;
    const char *kind = kinds[j->options->budget.kind];
    memcpy(a->budget_kind, kind, strlen(kind) + 1);
    a->budget_bytes = j->limit == INT64_MAX ? 0 : j->limit;
    a->max_active_bytes = j->active_limit == INT64_MAX ? 0 : j->active_limit;
    return OM_OK;
}

static om_status choose(job *j, om_error *err) {
    om_status status = OM_OK;
    if (has_plan(j->options)) {
        OM_TRY(choose_by_plan(j, err));
    } else if (om_is_expert_plan(j->options->method)) {
        OM_TRY(choose_by_experts(j, err));
    } else {
        OM_TRY(choose_optimal(j, err));
        if (j->options->expert_banks > 0) {
            OM_TRY(choose_banks(j, err));
        }
    }
out:
    return status;
}

/* What it all adds up to, by tensors instead of groups of the program. */
static void sum_allocation(job *j) {
    om_allocation *a = j->allocation;
    const om_plan_total total = om_plan_sum(j->profile, j->types);
    a->bytes = total.bytes;
    a->active_bytes = total.active_bytes;
    a->predicted_nats = total.nats;
    a->routing_nats = total.routing_nats;
    if (a->n_banked > 0) {
        const om_choice_sum *sum = &j->banks.sum;
        a->bytes += om_bank_extra_bytes(a->banks, a->n_banked, j->profile, j->types);
        a->active_bytes = sum->active_bytes;
        a->predicted_nats = sum->nats;
        a->routing_nats = om_routers_nats(j->problem.routing_weight, sum->routing);
    }
    a->bpw = bits_per_weight(j, a->bytes);
}

static om_status make_allocation(job *j, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(start_allocation(j, err));
    om_allocation *a = j->allocation;
    OM_TRY(choose(j, err));
    for (int i = 0; i < j->profile->n_units; i++) {
        om_assignment *t = &a->tensors[a->n_tensors++];
        memcpy(t->name, j->profile->units[i].name, sizeof t->name);
        t->format = j->types[i];
        if (a->container == OM_CONTAINER_MLX) { /* quantize gets no file to compare digests with */
            t->probe = j->profile->units[i].probe;
        }
    }
    sum_allocation(j);
    if (a->bytes > j->limit) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "the allocation has %lld bytes, the budget is %lld",
                       (long long) a->bytes, (long long) j->limit));
    }
    if (a->active_bytes > j->active_limit) { /* a rule does not look at this limit */
        OM_TRY(om_fail(err, OM_E_INFEASIBLE,
                       "plan %s reads %lld bytes per token, the limit is %lld; choose a smaller "
                       "budget or let the solver choose",
                       a->plan, (long long) a->active_bytes, (long long) j->active_limit));
    }
out:
    return status;
}

/* ---- the verb ---------------------------------------------------------------------------------
 */

static om_status check_options(const om_allocate_options *o, om_error *err) {
    const bool has_budget = o->budget.kind != OM_BUDGET_NONE;
    const bool by_experts = om_is_expert_plan(o->method);
    if (o->profile == NULL) {
        return om_fail(err, OM_E_ARG, "expected a profile.json");
    }
    if (o->to != NULL && strcmp(o->to, "gguf") != 0 && strcmp(o->to, "mlx") != 0) {
        return om_fail(err, OM_E_ARG, "--to %s: expected gguf or mlx", o->to);
    }
    if (o->n_tiers < 0 || o->n_tiers > OM_PROBLEM_MAX_FORMATS) {
        return om_fail(err, OM_E_ARG, "--tiers: expected 1 to %d types, found %d",
                       OM_PROBLEM_MAX_FORMATS, o->n_tiers);
    }
    if (o->method != NULL && !by_experts && strcmp(o->method, "optimal") != 0) {
        return om_fail(err, OM_E_ARG,
                       "unknown method '%.64s'; expected optimal, mopeq or frequency", o->method);
    }
    if (by_experts && container_of(o) == OM_CONTAINER_MLX) {
        return om_fail(err, OM_E_ARG, "--method %s chooses among types of GGUF: leave out --to mlx",
                       o->method);
    }
    if (by_experts && (has_plan(o) || o->n_tiers > 0)) {
        return om_fail(err, OM_E_ARG, "--method %s excludes --plan and --tiers", o->method);
    }
    if (by_experts && !has_budget) {
        return om_fail(err, OM_E_ARG, "--method %s needs a budget: --memory, --size or --bpw",
                       o->method);
    }
    if (o->expert_banks != 0 && (o->expert_banks < 2 || o->expert_banks > OM_BANKS_MAX)) {
        return om_fail(err, OM_E_ARG, "--expert-banks: expected 2 to %d banks, found %d",
                       OM_BANKS_MAX, o->expert_banks);
    }
    if (o->expert_banks > 0 && container_of(o) != OM_CONTAINER_MLX) {
        return om_fail(err, OM_E_ARG,
                       "--expert-banks is for --to mlx: a GGUF has one type per stack");
    }
    if (o->expert_banks > 0 && (has_plan(o) || by_experts || o->n_tiers > 0 || o->sweep)) {
        return om_fail(err, OM_E_ARG,
                       "--expert-banks excludes --plan, --method, --tiers and --sweep");
    }
    if (o->max_active_bytes < 0 || !(o->min_tok_s >= 0.0) || !(o->bandwidth_bytes_s >= 0.0) ||
        !isfinite(o->min_tok_s) || !isfinite(o->bandwidth_bytes_s)) {
        return om_fail(err, OM_E_ARG, "limits on bytes and tokens per second must not be negative");
    }
    if (o->max_active_bytes > 0 && o->min_tok_s > 0.0) {
        return om_fail(err, OM_E_ARG,
                       "--max-active-bytes and --min-tok-s are the same limit: give one");
    }
    if (!has_budget && !has_plan(o) && !o->sweep && !has_limit(o)) {
        return om_fail(err, OM_E_ARG, "expected a budget: --memory, --size or --bpw (or a --plan)");
    }
    return OM_OK;
}

/* The limit on bytes per token, if there is one; measures when it must. */
static om_status find_active_limit(job *j, om_error *err) {
    om_status status = OM_OK;
    const om_allocate_options *o = j->options;
    char rate[32];
    j->active_limit = o->max_active_bytes > 0 ? o->max_active_bytes : INT64_MAX;
    j->bandwidth_bytes_s = o->bandwidth_bytes_s;
    if (o->min_tok_s <= 0.0) {
        return OM_OK;
    }
    if (j->bandwidth_bytes_s <= 0.0) {
        OM_TRY(om_bandwidth_measure(&j->bandwidth_bytes_s, j->env, err));
        om_log(j->env, OM_LOG_INFO, "memory bandwidth of this machine, measured: %s/s",
               om_format_bytes(rate, j->bandwidth_bytes_s, false));
    }
    const double limit = floor(j->bandwidth_bytes_s / o->min_tok_s);
    j->active_limit = limit < 1.0 ? 1 : limit < 0x1p60 ? (int64_t) limit : INT64_C(1) << 60;
out:
    return status;
}

static om_status prepare(job *j, om_error *err) {
    om_status status = OM_OK;
    const om_allocate_options *o = j->options;
    OM_TRY(check_options(o, err));
    OM_TRY(om_profile_read(&j->profile, o->profile, err));
    OM_TRY(om_profile_for(j->profile, container_of(o), err));
    OM_TRY(find_active_limit(j, err));
    j->limit = INT64_MAX;
    if (o->budget.kind != OM_BUDGET_NONE) {
        OM_TRY(om_budget_file_bytes(&j->limit, &o->budget, &j->profile->memory, j->profile->params,
                                    err));
    }
    const om_problem_options po = {
        .types = o->types,
        .pins = o->pins,
        .n_pins = o->n_pins,
        .untie_gate_up = o->untie_gate_up,
        .n_tiers = o->n_tiers,
        .budget_bytes = j->limit,
        .max_active_bytes = j->active_limit,
        .keep_dominated = om_is_expert_plan(o->method),
    };
    j->pick = om_calloc((size_t) j->profile->n_units, sizeof *j->pick);
    j->types = om_calloc((size_t) j->profile->n_units, sizeof *j->types);
    if (j->pick == NULL || j->types == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) j->profile->n_units * sizeof *j->types));
    }
    if (!has_plan(o) || o->sweep) {
        OM_TRY(om_problem_build(&j->problem, j->profile, &po, err));
    }
out:
    return status;
}

static om_json *result_json(const job *j) {
    om_json *allocation = NULL;
    if (j->allocation != NULL) {
        allocation = om_allocation_json(j->allocation);
        om_describe_json(allocation, j->allocation, j->profile, j->bandwidth_bytes_s);
        if (j->options->expert_banks > 0) { /* the answer without banks */
            om_json_set_f64(allocation, "one_type_per_stack_nats", j->banks.stacks.nats);
        }
        if (om_is_expert_plan(j->options->method)) {
            om_json_set(allocation, "projection", om_projection_json(&j->projection));
        }
    }
    if (!j->options->sweep) {
        return allocation;
    }
    om_json *doc = om_json_new_document("optimum.sweep/1");
    om_json_set_str(doc, "profile_sha256", j->profile->sha256);
    om_json_set(doc, "curve", om_curve_json(j->curve.best, j->curve.n_best));
    om_json_set(doc, "presets", om_curve_json(j->curve.presets, j->curve.n_presets));
    if (allocation != NULL) {
        om_json_set(doc, "allocation", allocation);
    }
    return doc;
}

static om_status make_result(om_result *out, const job *j, om_error *err) {
    om_buf text = { 0 };
    if (j->allocation != NULL) {
        if (om_is_expert_plan(j->options->method)) {
            om_describe_projection(&text, &j->projection);
        }
        om_describe_allocation(&text, j->allocation, j->profile, j->bandwidth_bytes_s);
        if (j->options->expert_banks > 0) {
            om_describe_banks(&text, j->allocation, j->banks.stacks.nats);
        }
    }
    if (j->options->sweep) {
        om_buf_puts(&text, j->allocation != NULL ? "\nOptimal files of every size\n"
                                                 : "Optimal files of every size\n");
        om_describe_curve(&text, j->curve.best, j->curve.n_best);
        om_buf_puts(&text, "\nPresets of llama-quantize, predicted\n");
        om_describe_curve(&text, j->curve.presets, j->curve.n_presets);
    }
    om_json *doc = result_json(j);
    om_result result = { .json = om_json_dump(doc), .text = om_buf_take(&text) };
    om_json_free(doc);
    om_buf_release(&text);
    if (result.json == NULL || result.text == NULL) {
        om_result_release(&result);
        return om_fail(err, OM_E_NOMEM, "not enough memory for the result");
    }
    *out = result;
    return OM_OK;
}

om_status om_allocate(om_result *out, const om_allocate_options *options, const om_env *env,
                      om_error *err) {
    om_status status = OM_OK;
    job j = { .options = options, .env = env };
    if (!options->dry_run) {
        OM_TRY(om_file_check_output(options->out, &options->profile, 1, err));
    }
    OM_TRY(prepare(&j, err));
    if (options->budget.kind != OM_BUDGET_NONE || has_plan(options) ||
        (has_limit(options) && !options->sweep)) {
        OM_TRY(make_allocation(&j, err));
    }
    if (options->sweep) {
        OM_TRY(om_curve_solve(&j.curve, &j.problem, j.profile, options, env, err));
    }
    OM_TRY(make_result(out, &j, err));
    if (options->out != NULL && j.allocation != NULL && !options->dry_run) {
        status = om_allocation_write(j.allocation, options->out, err);
        if (status != OM_OK) {
            om_result_release(out);
        }
    }
out:
    job_release(&j);
    if (status != OM_OK) {
        om_error_context(err, "allocate");
    }
    return status;
}
