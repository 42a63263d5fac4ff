/* Branch and bound over sets of types, with an exact knapsack at the leaves.
 *
 * Without a limit on distinct types there is one set, all of them. With a limit of N the tree
 * splits on "type f is not used" / "type f is one of the N"; the linear relaxation over the types
 * still allowed is a lower bound that costs microseconds (relax.c), so that all C(18, 4) = 3,060
 * sets would be looked at in less than a second, and nearly all are cut off earlier. One binary per
 * type in the integer program, the textbook way, has a far weaker relaxation.
 *
 * A limit on active bytes is priced into the relaxation (om_relax_run_priced), and its row goes to
 * HiGHS with the core.
 *
 * A leaf is a plain multiple-choice knapsack. What its relaxation cannot rule out (reduced cost
 * below the distance between bound and best answer, docs/method.md eq. 10a) is the core, typically
 * a few dozen options, and goes to HiGHS. The answer is evaluated in integers and in our own sum
 * before it replaces the best one so far.
 */
#include "alloc/search.h"

#include <math.h>
#include <string.h>

#include "alloc/relax.h"
#include "alloc/solve.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_WORK = 1 << 30 }; /* options looked at by relaxations before the search stops */

typedef struct search {
    const om_problem *p;
    const om_env *env;
    om_relax relax;
    om_relax trial; /* of branching and of the start */
    int *best;      /* [n_groups] */
    om_choice_sum best_sum;
    double best_bound; /* smallest bound of what was cut off or left unproven */
    double tolerance;
    int64_t work;
    int n_sets, n_cores;
    bool stopped; /* the work limit */
} search;

static int count_bits(uint64_t mask) {
    int n = 0;
    for (; mask != 0; mask &= mask - 1) {
        n++;
    }
    return n;
}

static uint64_t all_types(const om_problem *p) {
    return p->n_formats >= 64 ? UINT64_MAX : ((uint64_t) 1 << p->n_formats) - 1;
}

static double cutoff(const search *s) {
    return s->best_sum.nats * (1.0 - s->tolerance); /* infinite before the first answer */
}

/* Accept an answer only by exact evaluation, and only when it is better. */
static void offer(search *s, const int *pick) {
    om_choice_sum sum = om_problem_evaluate(s->p, pick);
    if (om_problem_feasible(s->p, &sum) && sum.nats < s->best_sum.nats) {
        s->best_sum = sum;
        memcpy(s->best, pick, (size_t) s->p->n_groups * sizeof *pick);
    }
}

static void offer_priced(void *ctx, const int *pick) {
    offer(ctx, pick);
}

static void run(search *s, om_relax *r, uint64_t allowed) {
    s->work +=
        (int64_t) om_relax_run_priced(r, allowed, cutoff(s), offer_priced, s) * s->p->n_options;
    s->n_sets++;
}

/* ---- the core of a leaf -----------------------------------------------------------------------
 */

typedef struct leaf {
    om_core core;
    int *option; /* [n_items] option inside its group */
    int *start;  /* [n_groups] */
    int *pick;   /* [n_groups] of the core */
    int *full;   /* [n_groups] of the problem */
} leaf;

static void leaf_release(leaf *l) {
    om_free(l->core.first);
    om_free(l->core.bytes);
    om_free(l->core.active_bytes);
    om_free(l->core.cost);
    om_free(l->option);
    om_free(l->start);
    om_free(l->pick);
    om_free(l->full);
}

static om_status leaf_alloc(leaf *l, const om_problem *p, om_error *err) {
    size_t n = (size_t) p->n_options, groups = (size_t) p->n_groups;
    l->core.first = om_calloc(groups + 1, sizeof *l->core.first);
    l->core.bytes = om_calloc(n, sizeof *l->core.bytes);
    l->core.active_bytes =
        om_problem_limits_active(p) ? om_calloc(n, sizeof *l->core.active_bytes) : NULL;
    l->core.cost = om_calloc(n, sizeof *l->core.cost);
    l->option = om_calloc(n, sizeof *l->option);
    l->start = om_calloc(groups, sizeof *l->start);
    l->pick = om_calloc(groups, sizeof *l->pick);
    l->full = om_calloc(groups, sizeof *l->full);
    if (l->core.first == NULL || l->core.bytes == NULL || l->core.cost == NULL ||
        (l->core.active_bytes == NULL && om_problem_limits_active(p)) || l->option == NULL ||
        l->start == NULL || l->pick == NULL || l->full == NULL) {
        return om_fail_nomem(err, n * sizeof *l->core.cost);
    }
    return OM_OK;
}

/* Nats with all bytes paid for. */
static double priced(const om_relax *r, const om_option *o) {
    return o->nats + r->lambda * (double) o->bytes + r->mu * (double) o->active_bytes;
}

/* Make the active bytes of the items [begin, end) relative to their smallest. */
static void shift_active(leaf *l, int begin, int end) {
    int64_t smallest = INT64_MAX;
    for (int i = begin; i < end; i++) {
        smallest = l->core.active_bytes[i] < smallest ? l->core.active_bytes[i] : smallest;
    }
    for (int i = begin; i < end; i++) {
        l->core.active_bytes[i] -= smallest;
    }
    l->core.active_capacity -= end > begin ? smallest : 0;
}

/* Items of one group that the bound cannot rule out; costs relative to the cheapest. Returns the
 * number of items, 0 when the bound rules out the whole set. */
static int add_group(leaf *l, const search *s, int g, uint64_t allowed, double limit) {
    const om_option *options = om_problem_options_of(s->p, g);
    const int n = s->p->groups[g].n_options;
    const int begin = l->core.first[l->core.n_groups];
    int end = begin;
    double cheapest = HUGE_VAL;
    int64_t smallest = INT64_MAX;
    for (int j = 0; j < n; j++) {
        double cost = priced(&s->relax, &options[j]);
        if (((allowed >> options[j].format) & 1) != 0 && cost < cheapest) {
            cheapest = cost;
        }
    }
    for (int j = 0; j < n; j++) {
        double cost = priced(&s->relax, &options[j]) - cheapest;
        if (((allowed >> options[j].format) & 1) == 0 || cost > limit) {
            continue;
        }
        l->option[end] = j;
        l->core.cost[end] = cost;
        if (l->core.active_bytes != NULL) {
            l->core.active_bytes[end] = options[j].active_bytes;
        }
        l->core.bytes[end++] = options[j].bytes;
        smallest = options[j].bytes < smallest ? options[j].bytes : smallest;
    }
    for (int i = begin; i < end; i++) {
        l->core.bytes[i] -= smallest;
    }
    l->core.capacity -= end > begin ? smallest : 0;
    if (l->core.active_bytes != NULL) {
        shift_active(l, begin, end);
    }
    l->core.first[++l->core.n_groups] = end;
    return end - begin;
}

/* The group's item for an option; -1: ruled out. */
static int find_item(const leaf *l, int g, int option) {
    for (int i = l->core.first[g]; i < l->core.first[g + 1]; i++) {
        if (l->option[i] == option) {
            return i - l->core.first[g];
        }
    }
    return -1;
}

static void build_core(leaf *l, const search *s, uint64_t allowed, double limit) {
    l->core.n_groups = 0;
    l->core.capacity = s->relax.budget_bytes - s->p->fixed_bytes;
    l->core.slack_cost = s->relax.lambda;
    l->core.active_capacity = s->p->max_active_bytes - s->p->fixed_active_bytes;
    l->core.active_slack_cost = s->relax.mu;
    l->core.limit = limit;
    l->core.tolerance = s->tolerance * (s->best_sum.valid ? s->best_sum.nats : s->relax.bound);
    l->core.start = s->best_sum.valid ? l->start : NULL;
    for (int g = 0; g < s->p->n_groups; g++) {
        (void) add_group(l, s, g, allowed, limit);
        int item = find_item(l, g, s->best[g]);
        l->start[g] = item;
        if (item < 0) {
            l->core.start = NULL;
        }
    }
}

/* Groups with one item left need no row: fold them away in place. Returns false when a group has
 * none. */
static bool shrink_core(om_core *core, leaf *l, int *kept) {
    int n = 0, items = 0;
    for (int g = 0; g < core->n_groups; g++) {
        int begin = core->first[g], end = core->first[g + 1];
        if (end == begin) {
            return false;
        }
        if (end - begin == 1) {
            continue; /* its bytes are already in the capacity, its cost is 0 */
        }
        core->first[n] = items;
        l->start[n] = l->start[g];
        kept[n++] = g;
        for (int i = begin; i < end; i++, items++) {
            core->bytes[items] = core->bytes[i];
            core->cost[items] = core->cost[i];
            if (core->active_bytes != NULL) {
                core->active_bytes[items] = core->active_bytes[i];
            }
            l->option[items] = l->option[i];
        }
    }
    core->first[n] = items;
    core->n_groups = n;
    return true;
}

/* No answer has more nats than this. */
static double most_nats(const search *s) {
    double sum = 0.0;
    for (int g = 0; g < s->p->n_groups; g++) {
        double most = 0.0;
        for (int j = 0; j < s->p->groups[g].n_options; j++) {
            most = fmax(most, om_problem_options_of(s->p, g)[j].nats);
        }
        sum += most;
    }
    return sum;
}

/* HiGHS's answer, as a choice of the whole problem; kept: the core's groups. */
static om_status take_answer(search *s, leaf *l, const int *kept, om_error *err) {
    for (int i = 0; i < l->core.n_groups; i++) {
        l->full[kept[i]] = l->option[l->core.first[i] + l->pick[i]];
    }
    om_choice_sum sum = om_problem_evaluate(s->p, l->full);
    if (sum.valid && sum.active_bytes > s->p->max_active_bytes && sum.bytes <= s->p->budget_bytes) {
        s->stopped = true; /* by less than its tolerance on a row of huge numbers: not proven */
        return OM_OK;
    }
    if (!om_problem_feasible(s->p, &sum)) {
        return om_fail(err, OM_E_INTERNAL, "HiGHS's answer has %lld bytes, %lld are allowed",
                       (long long) sum.bytes, (long long) s->p->budget_bytes);
    }
    offer(s, l->full);
    return OM_OK;
}

/* Exact answer of one set of types whose relaxation is in s->relax. */
static om_status solve_core(search *s, uint64_t allowed, om_error *err) {
    om_status status = OM_OK;
    leaf l = { 0 };
    om_core_result result = { 0 };
    const double bound = s->relax.bound;
    const double known = s->best_sum.valid ? s->best_sum.nats : most_nats(s);
    int *kept = NULL;
    OM_TRY(leaf_alloc(&l, s->p, err));
    kept = om_calloc((size_t) s->p->n_groups, sizeof *kept);
    if (kept == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) s->p->n_groups * sizeof *kept));
    }
    const double limit = (known - bound) * (1.0 + 1e-9);
    build_core(&l, s, allowed, limit > 0.0 ? limit : 1.0);
    for (int g = 0; g < s->p->n_groups; g++) {
        l.full[g] = l.core.first[g] < l.core.first[g + 1] ? l.option[l.core.first[g]] : -1;
    }
    if (!shrink_core(&l.core, &l, kept) || l.core.n_groups == 0 || l.core.capacity < 0 ||
        l.core.active_capacity < 0) {
        offer(s, l.full);
        s->best_bound = fmin(s->best_bound, s->best_sum.nats);
        goto out;
    }
    s->n_cores++;
    OM_TRY(om_core_solve(l.pick, &result, &l.core, err));
    s->best_bound = fmin(s->best_bound, bound + result.bound);
    s->stopped |= !result.proven;
    if (result.found) {
        OM_TRY(take_answer(s, &l, kept, err));
    }
out:
    om_free(kept);
    leaf_release(&l);
    return status;
}

static om_status solve_leaf(search *s, uint64_t allowed, om_error *err) {
    om_status status = OM_OK;
    const bool limited = om_problem_limits_active(s->p);
    if ((s->relax.lambda <= 0.0 && !limited) || s->relax.bound >= cutoff(s)) {
        s->best_bound = fmin(s->best_bound, s->relax.bound);
        return OM_OK;
    }
    const bool had_answer = s->best_sum.valid;
    OM_TRY(solve_core(s, allowed, err));
    if (!had_answer && s->best_sum.valid) {
        OM_TRY(solve_core(s, allowed, err)); /* once more with a core that fits the answer */
    }
out:
    return status;
}

/* ---- the tree over sets of types --------------------------------------------------------------
 */

/* Bytes each type holds in an answer: the heaviest undecided type is branched on, the lightest one
 * is given up first. */
static void weigh_types(double weight[OM_PROBLEM_MAX_FORMATS], const om_problem *p,
                        const int *pick) {
    memset(weight, 0, OM_PROBLEM_MAX_FORMATS * sizeof *weight);
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *o = &om_problem_options_of(p, g)[pick[g]];
        weight[o->format] += (double) o->bytes;
    }
}

/* A first answer with few types: give up the type that costs least, again and again. */
static void first_answer(search *s, uint64_t required, int n_tiers) {
    om_relax *r = &s->trial;
    uint64_t allowed = all_types(s->p);
    while (count_bits(allowed) > n_tiers) {
        double best = HUGE_VAL;
        uint64_t drop = 0;
        for (int f = 0; f < s->p->n_formats; f++) {
            uint64_t bit = (uint64_t) 1 << f;
            if ((allowed & bit) == 0 || (required & bit) != 0) {
                continue;
            }
            run(s, r, allowed & ~bit);
            if (r->feasible && r->bound < best) {
                best = r->bound;
                drop = bit;
            }
        }
        if (drop == 0) {
            return; /* the tree finds out */
        }
        allowed &= ~drop;
    }
    run(s, r, allowed);
    if (r->feasible) {
        om_relax_improve(r, allowed);
        offer(s, r->pick);
    }
}

static int pick_branch(const search *s, uint64_t undecided) {
    double weight[OM_PROBLEM_MAX_FORMATS];
    int best = -1;
    weigh_types(weight, s->p, s->relax.pick);
    for (int f = 0; f < s->p->n_formats; f++) {
        if (((undecided >> f) & 1) != 0 && (best < 0 || weight[f] > weight[best])) {
            best = f;
        }
    }
    return best;
}

/* One set at the top of the stack: either cut off, a leaf, or two smaller ones. */
typedef struct node {
    uint64_t allowed, required;
    double bound; /* of the parent */
} node;

static om_status visit(search *s, node *stack, int *depth, om_error *err) {
    const node n = stack[--*depth];
    const int n_tiers = s->p->n_tiers > 0 ? s->p->n_tiers : OM_PROBLEM_MAX_FORMATS;
    uint64_t allowed = n.allowed;
    if (count_bits(n.required) >= n_tiers) {
        allowed = n.required;
    }
    if (n.bound >= cutoff(s)) {
        s->best_bound = fmin(s->best_bound, n.bound);
        return OM_OK;
    }
    if (s->work > MAX_WORK) {
        s->stopped = true;
        s->best_bound = fmin(s->best_bound, n.bound);
        return OM_OK;
    }
    run(s, &s->relax, allowed);
    if (!s->relax.feasible) {
        return OM_OK;
    }
    if (s->relax.bound >= cutoff(s)) {
        s->best_bound = fmin(s->best_bound, s->relax.bound);
        return OM_OK;
    }
    if (count_bits(allowed) <= n_tiers || count_bits(s->relax.used) <= n_tiers) {
        offer(s, s->relax.pick);
    }
    if (count_bits(allowed) <= n_tiers) {
        om_relax_improve(&s->relax, allowed);
        offer(s, s->relax.pick);
        return solve_leaf(s, allowed, err);
    }
    uint64_t bit = (uint64_t) 1 << pick_branch(s, allowed & ~n.required);
    stack[(*depth)++] = (node){ allowed & ~bit, n.required, s->relax.bound };
    stack[(*depth)++] = (node){ allowed, n.required | bit, s->relax.bound };
    return OM_OK;
}

/* Types that some group cannot do without. */
static uint64_t required_types(const om_problem *p) {
    uint64_t required = 0;
    for (int g = 0; g < p->n_groups; g++) {
        const om_option *options = om_problem_options_of(p, g);
        uint64_t mask = 0;
        for (int j = 0; j < p->groups[g].n_options; j++) {
            mask |= (uint64_t) 1 << options[j].format;
        }
        required |= count_bits(mask) == 1 ? mask : 0;
    }
    return required;
}

static om_status search_tree(search *s, om_error *err) {
    om_status status = OM_OK;
    node stack[2 * OM_PROBLEM_MAX_FORMATS + 2]; /* each level leaves one node behind */
    int depth = 0;
    uint64_t required = required_types(s->p);
    if (s->p->n_tiers > 0) {
        if (count_bits(required) > s->p->n_tiers) {
            return OM_OK; /* nothing fits: best_sum stays invalid */
        }
        first_answer(s, required, s->p->n_tiers);
    }
    stack[depth++] = (node){ all_types(s->p), required, 0.0 };
    while (depth > 0) {
        OM_TRY(om_check_cancel(s->env, err));
        OM_TRY(visit(s, stack, &depth, err));
    }
out:
    return status;
}

om_status om_problem_solve(int *pick, om_solution *out, const om_problem *p, double tolerance,
                           const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const double begin = om_now_s();
    search s = { .p = p,
                 .env = env,
                 .best_sum = { .bytes = INT64_MAX, .nats = HUGE_VAL },
                 .best_bound = HUGE_VAL,
                 .tolerance = tolerance };
    if (!(tolerance > 0.0)) {
        s.tolerance = p->n_groups <= 64     ? 1e-9
                      : p->n_groups <= 400  ? 1e-7
                      : p->n_groups <= 1000 ? 1e-6
                                            : 5e-6;
    }
    s.best = om_calloc((size_t) p->n_groups, sizeof *s.best);
    if (s.best == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_groups * sizeof *s.best));
    }
    OM_TRY(om_relax_init(&s.relax, p, err));
    OM_TRY(om_relax_init(&s.trial, p, err));
    OM_TRY(search_tree(&s, err));
    if (!s.best_sum.valid) {
        OM_TRY(om_fail(err, OM_E_INFEASIBLE, "no allocation fits the budget"));
    }
    memcpy(pick, s.best, (size_t) p->n_groups * sizeof *pick);
    const double nats = s.best_sum.nats, bound = fmin(s.best_bound, nats);
    *out = (om_solution){ .sum = s.best_sum,
                          .gap = nats > 0.0 ? fmax(0.0, nats - bound) / nats : 0.0,
                          .proven = !s.stopped,
                          .n_sets = s.n_sets,
                          .n_cores = s.n_cores,
                          .seconds = om_now_s() - begin };
out:
    om_relax_release(&s.relax);
    om_relax_release(&s.trial);
    om_free(s.best);
    return status;
}

/* The same search with bytes or active bytes for nats, and no limit on active bytes. */
static om_status minimise_bytes(int *pick, om_choice_sum *out, const om_problem *p,
                                int64_t budget_bytes, bool active, const om_env *env,
                                om_error *err) {
    om_status status = OM_OK;
    om_solution solution = { 0 };
    om_problem by_bytes = *p;
    by_bytes.budget_bytes = budget_bytes;
    by_bytes.max_active_bytes = INT64_MAX;
    by_bytes.routing_weight = 0;
    by_bytes.options = om_calloc((size_t) p->n_options, sizeof *p->options);
    if (by_bytes.options == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_options * sizeof *p->options));
    }
    for (int i = 0; i < p->n_options; i++) {
        const om_option *o = &p->options[i];
        by_bytes.options[i] = *o;
        by_bytes.options[i].nats = (double) (active ? o->active_bytes : o->bytes);
    }
    OM_TRY(om_problem_solve(pick, &solution, &by_bytes, 1e-15, env, err));
    *out = om_problem_evaluate(p, pick);
out:
    om_free(by_bytes.options);
    return status;
}

om_status om_problem_smallest(int *pick, om_choice_sum *out, const om_problem *p, const om_env *env,
                              om_error *err) {
    return minimise_bytes(pick, out, p, INT64_MAX, false, env, err);
}

om_status om_problem_least_active(int *pick, om_choice_sum *out, const om_problem *p,
                                  const om_env *env, om_error *err) {
    return minimise_bytes(pick, out, p, p->budget_bytes, true, env, err);
}
