/* Banks for all layers: column generation by hand.
 *
 * The configurations of a layer are too many to list, but the best one at a price for bytes is
 * quickly found (bank_configs.h). The price that matters is the one at which the whole budget is
 * spent; around it, and around the price of routing at the answer so far, every layer gets a few
 * dozen configurations. Together with all choices of one type per stack they are the options of one
 * group per layer in the same integer program as ever. Its answer gives new prices, and the round
 * is repeated while that helps. One type per stack is always among the options, so nothing is lost.
 */
#include "alloc/bank_plan.h"

#include <math.h>
#include <string.h>

#include "alloc/bank_configs.h"
#include "alloc/relax.h"
#include "alloc/routed.h"
#include "base/log.h"
#include "base/mem.h"

enum { STACKS = OM_BANK_STACKS, MAX_ROUNDS = 4, STEPS = 12 /* each way, four to a doubling */ };

static const double worth_it = 1e-4; /* of the nats: another round must bring that */
static const double tolerance = 1e-6;

typedef struct banker {
    const om_problem *p;
    const om_profile *profile;
    const om_env *env;
    int max_banks;
    om_bank_layer *layers; /* [n_layers] */
    int n_layers;
    bool *in_layer;    /* [n_groups of p] replaced by a layer's group */
    om_problem merged; /* the other groups in their order, then the layers */
    int *pick;         /* [merged.n_groups] */
} banker;

static void banker_release(banker *s) {
    for (int i = 0; s->layers != NULL && i < s->n_layers; i++) {
        om_bank_layer_release(&s->layers[i]);
    }
    om_free(s->layers);
    om_free(s->in_layer);
    om_free(s->pick);
    om_problem_release(&s->merged);
}

void om_bank_plan_release(om_bank_plan *plan) {
    om_expert_banks_free(plan->layers, plan->n_layers);
    *plan = (om_bank_plan){ 0 };
}

/* ---- layers ---- */

/* 0 … 2 for a stack of experts, else -1. */
static int stack_of(const om_unit *u) {
    static const char *const roles[STACKS] = { "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps" };
    for (int k = 0; k < STACKS; k++) {
        if (u->experts > 1 && strcmp(u->role, roles[k]) == 0) {
            return k;
        }
    }
    return -1;
}

static int find_stack(const om_profile *profile, int layer, int experts, int stack) {
    for (int u = 0; u < profile->n_units; u++) {
        if (profile->units[u].layer == layer && profile->units[u].experts == experts &&
            stack_of(&profile->units[u]) == stack) {
            return u;
        }
    }
    return -1;
}

static int group_of(const om_problem *p, int unit) {
    for (int g = 0; g < p->n_groups; g++) {
        if (p->groups[g].n_members == 1 && p->groups[g].member[0] == unit) {
            return g;
        }
    }
    return -1;
}

static bool find_layer(om_bank_layer *l, const banker *s, int gate) {
    const om_unit *u = &s->profile->units[gate];
    l->experts = u->experts;
    for (int k = 0; k < STACKS; k++) {
        l->unit[k] = find_stack(s->profile, u->layer, u->experts, k);
        l->group[k] = l->unit[k] < 0 ? -1 : group_of(s->p, l->unit[k]);
        if (l->group[k] < 0) {
            return false;
        }
    }
    return true;
}

/* A bias for each expert would have to follow it into its bank. */
static om_status check_biases(const om_profile *profile, om_error *err) {
    for (int i = 0; i < profile->n_fixed; i++) {
        if (strstr(profile->fixed[i].name, "_exps.bias") != NULL) {
            return om_fail(err, OM_E_ARG,
                           "--expert-banks: experts with biases (%s) are not written in banks: "
                           "leave it out",
                           profile->fixed[i].name);
        }
    }
    return OM_OK;
}

static om_status find_layers(banker *s, const int *pick, const om_stats *stats, om_error *err) {
    om_status status = OM_OK;
    s->layers = om_calloc((size_t) s->profile->n_units, sizeof *s->layers);
    s->in_layer = om_calloc((size_t) s->p->n_groups, sizeof *s->in_layer);
    if (s->layers == NULL || s->in_layer == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) s->profile->n_units * sizeof *s->layers));
    }
    OM_TRY(check_biases(s->profile, err));
    for (int u = 0; u < s->profile->n_units; u++) {
        om_bank_layer *l = &s->layers[s->n_layers];
        if (stack_of(&s->profile->units[u]) != OM_BANK_GATE || !find_layer(l, s, u)) {
            continue;
        }
        s->n_layers++;
        OM_TRY(om_bank_layer_init(l, s->p, s->profile, stats, err));
        int keep[STACKS];
        for (int k = 0; k < STACKS; k++) {
            s->in_layer[l->group[k]] = true;
            keep[k] = pick[l->group[k]];
        }
        OM_TRY(om_bank_layer_singles(l, keep, err));
    }
    if (s->n_layers == 0) {
        OM_TRY(om_fail(err, OM_E_ARG,
                       "--expert-banks is for mixtures of experts, and no layer of %s has a gate, "
                       "an up and a down stack of experts: leave it out",
                       s->profile->model_path[0] != '\0' ? s->profile->model_path : "this model"));
    }
out:
    return status;
}

/* ---- prices ---- */

/* What a unit of routing costs where the sum is `routing` (the derivative of eq. 15a). */
static double routing_price(const om_problem *p, double routing) {
    return p->routing_weight > 0 && routing > 0 ? 0.5 * sqrt(p->routing_weight / routing) : 0.0;
}

static void ignore(void *ctx, const int *pick) {
    (void) ctx;
    (void) pick;
}

/* Of a byte, at the relaxation's optimum; 0: the budget does not bind. */
static om_status byte_price(double *out, const om_problem *p, double per_routing, om_error *err) {
    om_status status = OM_OK;
    om_relax r = { 0 };
    om_problem linear = *p;
    linear.routing_weight = 0;
    linear.options = om_calloc((size_t) p->n_options, sizeof *linear.options);
    if (linear.options == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_options * sizeof *linear.options));
    }
    for (int i = 0; i < p->n_options; i++) {
        linear.options[i] = p->options[i];
        linear.options[i].nats += per_routing * p->options[i].routing;
    }
    OM_TRY(om_relax_init(&r, &linear, err));
    (void) om_relax_run_priced(&r, UINT64_MAX, HUGE_VAL, ignore, NULL);
    *out = r.lambda;
out:
    om_relax_release(&r);
    om_free(linear.options);
    return status;
}

/* ---- the program ---- */

static int options_of_layers(const banker *s) {
    int n = 0;
    for (int i = 0; i < s->n_layers; i++) {
        n += s->layers[i].n_configs;
    }
    return n;
}

/* All options have type 0: which types they stand for is the plan's business. */
static void merge(banker *s) {
    om_problem *m = &s->merged;
    m->n_groups = 0;
    m->n_options = 0;
    for (int g = 0; g < s->p->n_groups; g++) {
        if (s->in_layer[g]) {
            continue;
        }
        om_group *group = &m->groups[m->n_groups++];
        *group = s->p->groups[g];
        group->first = m->n_options;
        for (int j = 0; j < group->n_options; j++) {
            om_option *o = &m->options[m->n_options++];
            *o = om_problem_options_of(s->p, g)[j];
            o->format = 0;
        }
    }
    for (int i = 0; i < s->n_layers; i++) {
        const om_bank_layer *l = &s->layers[i];
        m->groups[m->n_groups++] =
            (om_group){ .pin = -1, .first = m->n_options, .n_options = l->n_configs };
        for (int j = 0; j < l->n_configs; j++) {
            const om_bank_config *c = &l->configs[j];
            m->options[m->n_options++] = (om_option){ .bytes = c->bytes,
                                                      .active_bytes = c->active_bytes,
                                                      .nats = c->nats,
                                                      .routing = c->routing };
        }
    }
}

static om_status make_program(banker *s, om_error *err) {
    const size_t n = (size_t) (s->p->n_options + options_of_layers(s));
    om_problem_release(&s->merged);
    s->merged = *s->p;
    s->merged.n_formats = 1;
    s->merged.options = om_calloc(n, sizeof *s->merged.options);
    s->merged.groups = om_calloc((size_t) (s->p->n_groups + s->n_layers), sizeof *s->merged.groups);
    if (s->merged.options == NULL || s->merged.groups == NULL) {
        return om_fail_nomem(err, n * sizeof *s->merged.options);
    }
    merge(s);
    return OM_OK;
}

static om_status add_configs(banker *s, double per_byte, double per_routing, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < s->n_layers; i++) {
        OM_TRY(om_check_cancel(s->env, err));
        for (int step = -STEPS; step <= STEPS; step++) {
            const om_bank_price price = { per_byte * exp2(step / 4.0), per_routing };
            OM_TRY(om_bank_layer_add(&s->layers[i], &price, s->max_banks, err));
        }
        OM_TRY(om_bank_layer_prune(&s->layers[i], per_routing, err));
    }
out:
    return status;
}

/* ---- the answer ---- */

static om_status take_layer(om_expert_banks *out, const om_format **types, const banker *s,
                            const om_bank_layer *l, const om_bank_config *c, om_error *err) {
    int n = 0;
    out->order = om_calloc((size_t) l->experts, sizeof *out->order);
    if (out->order == NULL) {
        return om_fail_nomem(err, (size_t) l->experts * sizeof *out->order);
    }
    out->n_experts = l->experts;
    out->n_banks = c->n_banks;
    for (int b = 0; b < c->n_banks; b++) {
        om_bank *bank = &out->banks[b];
        for (int k = 0; k < STACKS; k++) {
            const om_bank_types *stack = &l->stack[k];
            bank->format[k] = s->p->formats[stack->options[c->type[b][k]].format];
        }
        for (int e = 0; e < l->experts; e++) {
            if (c->bank_of[e] != b) {
                continue;
            }
            out->order[n++] = e;
            bank->n_experts++;
            for (int k = 0; k < STACKS; k++) {
                bank->nats[k] += l->stack[k].nats[e * l->stack[k].n + c->type[b][k]];
            }
        }
    }
    for (int k = 0; k < STACKS; k++) {
        memcpy(out->name[k], s->profile->units[l->unit[k]].name, sizeof out->name[k]);
        types[l->unit[k]] = out->banks[om_expert_banks_largest(out)].format[k];
    }
    return OM_OK;
}

/* The answer to the program as types and banks; it replaces the one before. */
static om_status take(om_bank_plan *out, const om_format **types, banker *s, om_error *err) {
    om_status status = OM_OK;
    int at = 0;
    om_expert_banks_free(out->layers, out->n_layers);
    out->n_layers = 0;
    out->layers = om_calloc((size_t) s->n_layers, sizeof *out->layers);
    if (out->layers == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) s->n_layers * sizeof *out->layers));
    }
    for (int g = 0; g < s->p->n_groups; g++) {
        if (!s->in_layer[g]) {
            const om_option *o = &om_problem_options_of(s->p, g)[s->pick[at++]];
            for (int m = 0; m < s->p->groups[g].n_members; m++) {
                types[s->p->groups[g].member[m]] = s->p->formats[o->format];
            }
        }
    }
    for (int i = 0; i < s->n_layers; i++) {
        om_bank_layer *l = &s->layers[i];
        om_bank_config *c = &l->configs[s->pick[at++]];
        c->keep = true;
        if (c->n_banks > 1) {
            OM_TRY(take_layer(&out->layers[out->n_layers++], types, s, l, c, err));
            continue;
        }
        for (int k = 0; k < STACKS; k++) {
            types[l->unit[k]] = s->p->formats[l->stack[k].options[c->type[0][k]].format];
        }
    }
out:
    return status;
}

static om_status solve(om_bank_plan *out, const om_format **types, banker *s, bool *better,
                       om_error *err) {
    om_status status = OM_OK;
    om_solution solution = { 0 };
    const double before = out->sum.nats;
    OM_TRY(make_program(s, err));
    OM_TRY(om_problem_solve_routed(s->pick, &solution, &s->merged, tolerance, s->env, err));
    out->seconds += solution.seconds;
    *better = solution.sum.nats < before * (1 - worth_it);
    if (solution.sum.nats < before) {
        OM_TRY(take(out, types, s, err));
        out->sum = solution.sum;
        out->gap = solution.gap;
        out->proven = solution.proven;
    }
out:
    return status;
}

om_status om_bank_plan_make(om_bank_plan *out, const om_format **types, const int *pick,
                            const om_problem *p, const om_profile *profile, const om_stats *stats,
                            int max_banks, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    double per_byte = 0.0;
    bool better = true;
    banker s = { .p = p, .profile = profile, .env = env, .max_banks = max_banks };
    *out = (om_bank_plan){ .stacks = om_problem_evaluate(p, pick), .proven = true };
    out->sum = out->stacks;
    OM_TRY(find_layers(&s, pick, stats, err));
    s.pick = om_calloc((size_t) (p->n_groups + s.n_layers), sizeof *s.pick);
    if (s.pick == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) p->n_groups * sizeof *s.pick));
    }
    double per_routing = routing_price(p, out->sum.routing);
    OM_TRY(byte_price(&per_byte, p, per_routing, err));
    for (int round = 0; round < MAX_ROUNDS && better && per_byte > 0.0; round++) {
        OM_TRY(add_configs(&s, per_byte, per_routing, err));
        OM_TRY(solve(out, types, &s, &better, err));
        per_routing = routing_price(p, out->sum.routing);
        OM_TRY(byte_price(&per_byte, &s.merged, per_routing, err));
    }
out:
    banker_release(&s);
    return status;
}

/* ---- bytes, without the program ---- */

static int unit_of(const om_profile *profile, const char *name) {
    for (int u = 0; u < profile->n_units; u++) {
        if (strcmp(profile->units[u].name, name) == 0) {
            return u;
        }
    }
    return -1;
}

static int64_t stack_extra_bytes(const om_expert_banks *l, int k, const om_profile *profile,
                                 const om_format *const *types) {
    const int u = unit_of(profile, l->name[k]);
    if (u < 0) {
        return 0;
    }
    const om_unit *unit = &profile->units[u];
    return om_expert_banks_bytes(l, (om_bank_stack) k, unit->n_in, unit->n_out) -
           om_format_size(types[u], unit->n_in, unit->n_out * unit->experts);
}

int64_t om_bank_extra_bytes(const om_expert_banks *layers, int n, const om_profile *profile,
                            const om_format *const *types) {
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        bytes += (int64_t) (layers[i].n_banks - 1) * OM_BANK_HEADER_BYTES;
        for (int k = 0; k < STACKS; k++) {
            bytes += stack_extra_bytes(&layers[i], k, profile, types);
        }
    }
    return bytes;
}
