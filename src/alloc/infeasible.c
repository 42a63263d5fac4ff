/* A problem without an answer -> which limit is to blame, and the least it would have to be. */
#include "alloc/infeasible.h"

#include <stdio.h>

#include "alloc/search.h"
#include "base/buf.h"
#include "base/mem.h"

static double bits_per_weight(const om_profile *profile, int64_t bytes) {
    return 8.0 * (double) bytes / (double) profile->params;
}

/* pick: the smallest choice. Fixed parts, pins and the largest tensor are what sets it. least: the
 * fewest active bytes of all choices. */
static om_status fail_too_small(const int *pick, const om_problem *p, const om_profile *profile,
                                const om_allocate_options *options, int64_t smallest, int64_t least,
                                om_error *err) {
    char have[32], need[32], fixed[32], pinned[32], top[32], also[64] = "";
    int64_t pinned_bytes = 0;
    int largest = 0;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *o = &om_problem_options_of(p, g)[pick[g]];
        pinned_bytes += p->groups[g].pin >= 0 ? o->bytes : 0;
        if (o->bytes > om_problem_options_of(p, largest)[pick[largest]].bytes) {
            largest = g;
        }
    }
    if (least > p->max_active_bytes) {
        (void) snprintf(also, sizeof also, "; at least %lld bytes are read per token, too",
                        (long long) least);
    }
    const om_option *o = &om_problem_options_of(p, largest)[pick[largest]];
    return om_fail(
        err, OM_E_INFEASIBLE,
        "budget %s (%.3f bpw) is too small; the smallest file is %lld bytes (%s, %.3f bpw): "
        "metadata and copied tensors %s, pinned %s, the rest in its smallest types (most: %s%s "
        "%s, %s)%s%s",
        om_format_bytes(have, (double) p->budget_bytes, false),
        bits_per_weight(profile, p->budget_bytes), (long long) smallest,
        om_format_bytes(need, (double) smallest, false), bits_per_weight(profile, smallest),
        om_format_bytes(fixed, (double) p->fixed_bytes, false),
        om_format_bytes(pinned, (double) pinned_bytes, false),
        profile->units[p->groups[largest].member[0]].name,
        p->groups[largest].n_members == 2 ? " and its pair" : "", p->formats[o->format]->name,
        om_format_bytes(top, (double) o->bytes, false),
        options->types != NULL || options->n_tiers > 0
            ? "; a wider --types or more --tiers may allow less"
            : "",
        also);
}

/* least: within the budget; alone: without it. */
static om_status fail_active(const om_problem *p, int64_t least, int64_t alone, om_error *err) {
    char have[32], need[32];
    if (alone <= p->max_active_bytes) {
        return om_fail(err, OM_E_INFEASIBLE,
                       "the budget and the limit of %lld bytes read per token can each be met, but "
                       "not both: what fits the budget reads at least %lld bytes per token (%s)",
                       (long long) p->max_active_bytes, (long long) least,
                       om_format_bytes(need, (double) least, false));
    }
    return om_fail(err, OM_E_INFEASIBLE,
                   "the limit of %lld bytes read per token (%s) is too small; the least that any "
                   "choice%s reads is %lld bytes (%s)",
                   (long long) p->max_active_bytes,
                   om_format_bytes(have, (double) p->max_active_bytes, false),
                   p->budget_bytes == INT64_MAX ? "" : " within the budget", (long long) least,
                   om_format_bytes(need, (double) least, false));
}

om_status om_infeasible(int *pick, const om_problem *p, const om_profile *profile,
                        const om_allocate_options *options, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_choice_sum smallest, least, alone;
    om_error ignored = { 0 };
    int *scratch = om_calloc((size_t) p->n_groups, sizeof *scratch);
    if (scratch == NULL) {
        return om_fail_nomem(err, (size_t) p->n_groups * sizeof *scratch);
    }
    status = om_problem_smallest(pick, &smallest, p, env, &ignored);
    if (status == OM_E_INFEASIBLE) {
        OM_TRY(om_fail(err, OM_E_INFEASIBLE,
                       "--tiers %d: some tensors have no type in common with the others, so more "
                       "distinct types are needed whatever the budget; allow more tiers",
                       options->n_tiers));
    }
    if (status != OM_OK) {
        *err = ignored;
        goto out;
    }
    om_problem any_size = *p; /* borrows the groups */
    any_size.budget_bytes = INT64_MAX;
    alone = smallest;
    if (om_problem_limits_active(p)) {
        OM_TRY(om_problem_least_active(scratch, &alone, &any_size, env, err));
    }
    if (smallest.bytes > p->budget_bytes) {
        OM_TRY(fail_too_small(pick, p, profile, options, smallest.bytes, alone.active_bytes, err));
    }
    OM_TRY(om_problem_least_active(scratch, &least, p, env, err));
    status = fail_active(p, least.active_bytes, alone.active_bytes, err);
out:
    om_free(scratch);
    return status;
}
