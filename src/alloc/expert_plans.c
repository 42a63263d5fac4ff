/* One number per expert -> a type for every tensor, the way MoPEQ does it, projected on what a
 * stock GGUF can hold.
 *
 * MoPEQ (Chitty-Venkata, Ye and Emani, 2025) gives each expert a sensitivity, the trace of its
 * Hessian; finds clusters of all experts of the model with K-means; and gives every cluster one
 * precision of a short ascending list, the most sensitive cluster the highest. Everything that is
 * no expert gets one precision. The rules that the paper leaves to its reader are in
 * docs/method.md, section 3.1; in short: K-means on logarithms, because traces spread over orders
 * of magnitude; three neighbours of q2_K, q3_K, q4_K, q5_K, q6_K, q8_0, the largest that fit; a
 * stack gets the type nearest to the mean of its experts; what is left of the budget is spent in
 * the method's own order, the most sensitive stack first. Activation frequency is the same with
 * tokens for traces.
 *
 * Nothing here looks at nats, but for one thing: a step up that would lose more is not taken.
 */
#include "alloc/expert_plans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/plans.h"
#include "base/mem.h"

enum { CLUSTERS = OM_EXPERT_CLUSTERS, N_PRECISIONS = 6, MAX_ROUNDS = 1000 };

static const char *const precision_names[N_PRECISIONS] = { "q2_K", "q3_K", "q4_K",
                                                           "q5_K", "q6_K", "q8_0" };

static const om_format *precision_at(int i) {
    i = i < 0 ? 0 : i >= N_PRECISIONS ? N_PRECISIONS - 1 : i;
    return om_format_by_name(precision_names[i]);
}

/* The feed-forward part of one layer: its experts share scores over its stacks. */
typedef struct block {
    int layer, experts;
    int first;    /* its first expert in the arrays of all experts */
    double score; /* mean of its experts */
} block;

typedef struct plan {
    const om_problem *p;
    const om_profile *profile;
    const om_stats *stats;
    int *block_of; /* [n_units] -1: no stack */
    block *blocks; /* [n_blocks] */
    int n_blocks, n_experts;
    double *score;   /* [n_experts] logarithm of what the method looks at */
    int *cluster;    /* [n_experts] 0 … CLUSTERS - 1, ascending sensitivity */
    int *order;      /* [n_groups] stacks by falling score, then the others */
    double *scratch; /* [n_experts] */
} plan;

static void plan_release(plan *s) {
    om_free(s->block_of);
    om_free(s->blocks);
    om_free(s->score);
    om_free(s->cluster);
    om_free(s->order);
    om_free(s->scratch);
}

bool om_is_expert_plan(const char *method) {
    return method != NULL && (strcmp(method, "mopeq") == 0 || strcmp(method, "frequency") == 0);
}

/* ---- scores -----------------------------------------------------------------------------------
 */

static om_status find_blocks(plan *s, const char *method, om_error *err) {
    const om_profile *p = s->profile;
    for (int u = 0; u < p->n_units; u++) {
        const om_unit *unit = &p->units[u];
        s->block_of[u] = -1;
        if (unit->experts < 2) {
            continue;
        }
        if (unit->expert.trace == NULL) {
            return om_fail(err, OM_E_ARG,
                           "--method %s: the profile has no statistics of the experts of %s; "
                           "profile the model again with --method fisher",
                           method, unit->name);
        }
        int b = 0;
        while (b < s->n_blocks &&
               (s->blocks[b].layer != unit->layer || s->blocks[b].experts != unit->experts)) {
            b++;
        }
        if (b == s->n_blocks) {
            s->blocks[s->n_blocks++] = (block){ unit->layer, unit->experts, s->n_experts, 0.0 };
            s->n_experts += unit->experts;
        }
        s->block_of[u] = b;
    }
    if (s->n_blocks == 0) {
        return om_fail(err, OM_E_ARG,
                       "--method %s is for mixtures of experts, and %s has no stack of experts; "
                       "leave --method out",
                       method, p->model_path[0] != '\0' ? p->model_path : "this model");
    }
    return OM_OK;
}

/* The trace of an expert is that of all its matrices; the tokens are the same for each of them. An
 * expert that was never seen counts as the least that was. */
static void score_experts(plan *s, bool by_trace) {
    const om_profile *p = s->profile;
    double least = HUGE_VAL;
    for (int u = 0; u < p->n_units; u++) {
        for (int e = 0; s->block_of[u] >= 0 && e < p->units[u].experts; e++) {
            double *score = &s->score[s->blocks[s->block_of[u]].first + e];
            *score = by_trace ? *score + p->units[u].expert.trace[e]
                              : fmax(*score, p->units[u].expert.tokens[e]);
        }
    }
    for (int i = 0; i < s->n_experts; i++) {
        least = s->score[i] > 0.0 ? fmin(least, s->score[i]) : least;
    }
    for (int i = 0; i < s->n_experts; i++) {
        s->score[i] = log(s->score[i] > 0.0 ? s->score[i] : isfinite(least) ? least : 1.0);
    }
    for (int b = 0; b < s->n_blocks; b++) {
        for (int e = 0; e < s->blocks[b].experts; e++) {
            s->blocks[b].score += s->score[s->blocks[b].first + e] / s->blocks[b].experts;
        }
    }
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static int nearest_center(const double center[CLUSTERS], double score) {
    int c = 0;
    while (c + 1 < CLUSTERS && score > 0.5 * (center[c] + center[c + 1])) {
        c++;
    }
    return c;
}

/* Lloyd's iteration in one dimension, from the middles of equal parts: no chance in it. Centers
 * stay sorted; an empty cluster keeps its own. */
static void find_clusters(plan *s) {
    const int n = s->n_experts;
    double center[CLUSTERS];
    memcpy(s->scratch, s->score, (size_t) n * sizeof *s->scratch);
    qsort(s->scratch, (size_t) n, sizeof *s->scratch, compare_doubles);
    for (int c = 0; c < CLUSTERS; c++) {
        center[c] = s->scratch[(int) (((int64_t) n * (2 * c + 1)) / (2 * CLUSTERS))];
    }
    for (int round = 0; round < MAX_ROUNDS; round++) {
        double sum[CLUSTERS] = { 0 };
        int count[CLUSTERS] = { 0 };
        bool moved = false;
        for (int i = 0; i < n; i++) { /* in sorted order: equal sums whatever the experts' order */
            const int c = nearest_center(center, s->scratch[i]);
            sum[c] += s->scratch[i];
            count[c]++;
        }
        for (int c = 0; c < CLUSTERS; c++) {
            const double mean = count[c] > 0 ? sum[c] / count[c] : center[c];
            moved |= mean < center[c] || mean > center[c];
            center[c] = mean;
        }
        if (!moved) {
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        s->cluster[i] = nearest_center(center, s->score[i]);
    }
}

/* ---- types ------------------------------------------------------------------------------------
 */

/* The block of a group's stacks (a pair's is the first one's); -1: an ordinary tensor. */
static int block_of_group(const plan *s, int g) {
    const om_group *group = &s->p->groups[g];
    const int last = s->block_of[group->member[group->n_members - 1]];
    return last < 0 ? -1 : s->block_of[group->member[0]];
}

static int nearest_option(const om_problem *p, int g, double bytes) {
    const om_option *options = om_problem_options_of(p, g);
    int best = 0;
    for (int j = 1; j < p->groups[g].n_options; j++) {
        if (fabs((double) options[j].bytes - bytes) < fabs((double) options[best].bytes - bytes)) {
            best = j;
        }
    }
    return best;
}

/* The mean over the experts, times their number; lowest: precision of the first cluster. */
static int stack_option(const plan *s, int g, int lowest) {
    const om_group *group = &s->p->groups[g];
    double bytes = 0.0;
    for (int m = 0; m < group->n_members; m++) {
        const om_unit *u = &s->profile->units[group->member[m]];
        const block *b = &s->blocks[s->block_of[group->member[m]]];
        for (int e = 0; e < b->experts; e++) {
            const om_format *f = precision_at(lowest + s->cluster[b->first + e]);
            bytes += om_format_bpw(f) / 8.0 * (double) (u->n_out * u->n_in);
        }
    }
    return nearest_option(s->p, g, bytes);
}

/* The type itself; where the group cannot have it, the nearest in bytes. */
static int uniform_option(const plan *s, int g, const om_format *format) {
    const om_problem *p = s->p;
    double bytes = 0.0;
    for (int j = 0; j < p->groups[g].n_options; j++) {
        if (p->formats[om_problem_options_of(p, g)[j].format] == format) {
            return j;
        }
    }
    for (int m = 0; m < p->groups[g].n_members; m++) {
        bytes +=
            om_format_bpw(format) / 8.0 * (double) s->profile->units[p->groups[g].member[m]].params;
    }
    return nearest_option(p, g, bytes);
}

static bool choose(int *pick, const plan *s, int lowest, const om_format *others) {
    for (int g = 0; g < s->p->n_groups; g++) {
        pick[g] =
            block_of_group(s, g) >= 0 ? stack_option(s, g, lowest) : uniform_option(s, g, others);
    }
    const om_choice_sum sum = om_problem_evaluate(s->p, pick);
    return sum.bytes <= s->p->budget_bytes;
}

/* The largest precisions of the experts that fit beside the others in q4_K, then the largest type
 * of the others that fits; below that the others give way too. Returns the lowest precision. */
static om_status choose_precisions(int *pick, int *lowest, const om_format **others, const plan *s,
                                   om_error *err) {
    const int q4 = 2;
    *lowest = N_PRECISIONS - 1;
    while (*lowest > 1 - CLUSTERS && !choose(pick, s, *lowest, precision_at(q4))) {
        (*lowest)--;
    }
    for (int i = N_PRECISIONS - 1; i >= 0; i--) {
        *others = precision_at(i);
        if (choose(pick, s, *lowest, *others)) {
            return OM_OK;
        }
    }
    *others = NULL;
    memset(pick, 0, (size_t) s->p->n_groups * sizeof *pick);
    if (om_problem_evaluate(s->p, pick).bytes > s->p->budget_bytes) {
        return om_fail(err, OM_E_INFEASIBLE, "no plan fits the budget");
    }
    return OM_OK;
}

/* ---- what is left -----------------------------------------------------------------------------
 */

/* Stacks by falling score, then the other tensors; both in file order where equal. Insertion: a
 * model has some hundred stacks. */
static void order_groups(plan *s) {
    int n = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int g = 0; g < s->p->n_groups; g++) {
            const int b = block_of_group(s, g);
            if ((b >= 0) != (pass == 0)) {
                continue;
            }
            int at = n++;
            for (; b >= 0 && at > 0; at--) {
                if (s->blocks[block_of_group(s, s->order[at - 1])].score >= s->blocks[b].score) {
                    break;
                }
                s->order[at] = s->order[at - 1];
            }
            s->order[at] = g;
        }
    }
}

/* The next option that has more bytes and loses less; -1: none. */
static int step_up(const om_problem *p, int g, int now) {
    const om_option *options = om_problem_options_of(p, g);
    for (int j = now + 1; j < p->groups[g].n_options; j++) {
        if (options[j].bytes > options[now].bytes && options[j].nats < options[now].nats) {
            return j;
        }
    }
    return -1;
}

/* One step for each, again and again, as long as any fits: first the stacks, then the others. */
static void fill_up(int *pick, const plan *s) {
    const om_problem *p = s->p;
    int64_t left = p->budget_bytes - om_problem_evaluate(p, pick).bytes;
    for (int pass = 0; pass < 2; pass++) {
        for (bool any = true; any;) {
            any = false;
            for (int i = 0; i < p->n_groups; i++) {
                const int g = s->order[i];
                const om_option *options = om_problem_options_of(p, g);
                const int j =
                    (block_of_group(s, g) >= 0) == (pass == 0) ? step_up(p, g, pick[g]) : -1;
                if (j >= 0 && options[j].bytes - options[pick[g]].bytes <= left) {
                    left -= options[j].bytes - options[pick[g]].bytes;
                    pick[g] = j;
                    any = true;
                }
            }
        }
    }
}

/* ---- the projection ---------------------------------------------------------------------------
 */

/* Nats of expert e of a unit alone in one of the unit's types. */
static double expert_nats(const om_unit *u, const om_tensor_stats *t, const om_choice *c, int e) {
    const int column = om_stats_column(t, c->format->name);
    if (column >= 0) {
        return (double) t->nats[(int64_t) e * t->n_nats + column];
    }
    if (c->nats <= 0.0) {
        return 0.0; /* its own type */
    }
    double trace = 0.0;
    for (int i = 0; i < u->experts; i++) {
        trace += u->expert.trace[i];
    }
    return trace > 0.0 ? c->nats * u->expert.trace[e] / trace : c->nats / u->experts;
}

static const om_tensor_stats *stats_of(const plan *s, const om_unit *u) {
    const om_tensor_stats *t = s->stats != NULL ? om_stats_find(s->stats, u->name) : NULL;
    return t != NULL && t->nats != NULL && t->experts == u->experts ? t : NULL;
}

/* What a stack would be with each expert in the type of its cluster. */
static void add_per_expert(om_projection *out, const plan *s, int g, int lowest) {
    const om_group *group = &s->p->groups[g];
    for (int m = 0; m < group->n_members; m++) {
        const om_unit *u = &s->profile->units[group->member[m]];
        const block *b = &s->blocks[s->block_of[group->member[m]]];
        const om_tensor_stats *t = stats_of(s, u);
        int64_t bytes = 0;
        out->measured &= t != NULL;
        for (int e = 0; e < b->experts; e++) {
            const om_format *f = precision_at(lowest + s->cluster[b->first + e]);
            const om_choice *c = om_unit_nearest(u, f);
            bytes += c->bytes / u->experts;
            out->per_expert_nats += expert_nats(u, t, c, e);
        }
        out->per_expert_bytes += om_pad(bytes, s->profile->alignment);
    }
}

static void project(om_projection *out, const plan *s, const int *pick, int lowest,
                    const om_format *others) {
    const om_choice_sum sum = om_problem_evaluate(s->p, pick);
    *out = (om_projection){ .others = others,
                            .per_expert_bytes = s->p->fixed_bytes,
                            .stack_bytes = sum.bytes,
                            .stack_nats = sum.nats,
                            .measured = true };
    for (int i = 0; i < s->n_experts; i++) {
        out->n_experts[s->cluster[i]]++;
    }
    for (int c = 0; c < CLUSTERS && others != NULL; c++) {
        out->precision[c] = precision_at(lowest + c);
    }
    for (int g = 0; g < s->p->n_groups; g++) {
        const om_option *o = &om_problem_options_of(s->p, g)[pick[g]];
        if (block_of_group(s, g) >= 0 && s->p->groups[g].pin < 0 && others != NULL) {
            add_per_expert(out, s, g, lowest);
        } else {
            out->per_expert_bytes += o->bytes;
            out->per_expert_nats += o->nats;
        }
    }
}

om_status om_expert_plan(int *pick, om_projection *projection, const om_problem *p,
                         const om_profile *profile, const char *method, const om_stats *stats,
                         om_error *err) {
    om_status status = OM_OK;
    int lowest = 0;
    const om_format *others = NULL;
    const size_t n = (size_t) profile->n_units;
    plan s = { .p = p, .profile = profile, .stats = stats };
    s.block_of = om_calloc(n, sizeof *s.block_of);
    s.blocks = om_calloc(n, sizeof *s.blocks);
    s.order = om_calloc((size_t) p->n_groups, sizeof *s.order);
    if (s.block_of == NULL || s.blocks == NULL || s.order == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *s.blocks));
    }
    OM_TRY(find_blocks(&s, method, err));
    s.score = om_calloc((size_t) s.n_experts, sizeof *s.score);
    s.cluster = om_calloc((size_t) s.n_experts, sizeof *s.cluster);
    s.scratch = om_calloc((size_t) s.n_experts, sizeof *s.scratch);
    if (s.score == NULL || s.cluster == NULL || s.scratch == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) s.n_experts * sizeof *s.score));
    }
    score_experts(&s, strcmp(method, "mopeq") == 0);
    find_clusters(&s);
    OM_TRY(choose_precisions(pick, &lowest, &others, &s, err));
    project(projection, &s, pick, lowest, others);
    order_groups(&s);
    fill_up(pick, &s);
out:
    plan_release(&s);
    return status;
}
