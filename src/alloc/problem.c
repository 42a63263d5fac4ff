/* profile.json -> multiple-choice knapsack, and the exact arithmetic on its answers.
 *
 * Order of decisions: a pin decides alone (it need not be in --types); otherwise --types filters
 * the tensor's candidates. A pair that shares a type (ffn_gate and ffn_up of a layer: stock CUDA
 * kernels fuse them only when equal) has the types both may have. Bytes are integers throughout;
 * the reader of profile.json bounds their sum by 2^60, so nothing here can overflow.
 *
 * Presolve drops what can never be in an optimal answer, i.e. options with not fewer bytes and not
 * fewer nats than another one. Options that are merely above the lower convex hull stay: under an
 * exact budget they are often the ones that fill the last bytes.
 */
#include "alloc/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/active.h"
#include "alloc/pins.h"
#include "base/mem.h"

/* ---- types the user allows --------------------------------------------------------------------
 */

enum { MAX_TYPES = 64 };

typedef struct type_filter {
    const om_format *formats[MAX_TYPES];
    int n; /* 0: everything is allowed */
} type_filter;

static om_status parse_types(type_filter *out, const char *types, om_error *err) {
    while (types != NULL && *types != '\0') {
        size_t n = strcspn(types, ",");
        char name[32];
        size_t skip = strspn(types, " ");
        skip = skip < n ? skip : n;
        size_t len = n - skip;
        while (len > 0 && types[skip + len - 1] == ' ') {
            len--;
        }
        if (len >= sizeof name || out->n == MAX_TYPES) {
            return om_fail(err, OM_E_ARG, "--types: too long at '%.32s'", types);
        }
        memcpy(name, types + skip, len);
        name[len] = '\0';
        const om_format *format = om_format_by_name(name);
        if (format == NULL) {
            return om_fail(err, OM_E_ARG, "--types: unknown type '%s'; known are %.300s", name,
                           om_format_list());
        }
        out->formats[out->n++] = format;
        types += n + (types[n] == ',');
    }
    return OM_OK;
}

static bool type_allowed(const type_filter *filter, const om_format *format) {
    for (int i = 0; i < filter->n; i++) {
        if (filter->formats[i] == format) {
            return true;
        }
    }
    return filter->n == 0;
}

/* ---- groups -----------------------------------------------------------------------------------
 */

/* "ffn_gate", "ffn_gate_exps", "ffn_gate_shexp" -> the suffix that its ffn_up shares; NULL: another
 * role. */
static const char *gate_suffix(const char *role) {
    static const char prefix[] = "ffn_gate";
    return strncmp(role, prefix, sizeof prefix - 1) == 0 ? role + sizeof prefix - 1 : NULL;
}

static bool is_up_of(const om_unit *up, const om_unit *gate) {
    static const char prefix[] = "ffn_up";
    const char *suffix = gate_suffix(gate->role);
    return suffix != NULL && gate->layer >= 0 && up->layer == gate->layer &&
           strncmp(up->role, prefix, sizeof prefix - 1) == 0 &&
           strcmp(up->role + sizeof prefix - 1, suffix) == 0;
}

/* partner[u] = the other half of a tied pair, -1 alone. Tensors of a layer are neighbours in any
 * sane file; the whole list is searched all the same, but only once per gate. */
static void find_partners(int *partner, const om_profile *p, bool untie) {
    for (int u = 0; u < p->n_units; u++) {
        partner[u] = -1;
    }
    for (int u = 0; u < p->n_units && !untie; u++) {
        if (gate_suffix(p->units[u].role) == NULL) {
            continue;
        }
        for (int v = 0; v < p->n_units; v++) {
            if (partner[v] < 0 && partner[u] < 0 && is_up_of(&p->units[v], &p->units[u])) {
                partner[u] = v;
                partner[v] = u;
            }
        }
    }
}

static void make_groups(om_problem *out, const om_profile *p, const int *partner) {
    for (int u = 0; u < p->n_units; u++) {
        if (partner[u] >= 0 && partner[u] < u) {
            continue; /* came with its first member */
        }
        om_group *g = &out->groups[out->n_groups++];
        *g = (om_group){ .member = { u, partner[u] },
                         .n_members = partner[u] < 0 ? 1 : 2,
                         .pin = -1 };
    }
}

/* ---- options ----------------------------------------------------------------------------------
 */

typedef struct builder {
    om_problem *out;
    const om_profile *profile;
    const om_pins *pins;
    const type_filter *filter;
    const om_problem_options *options;
    om_active active;
} builder;

static int format_index(om_problem *p, const om_format *format) {
    for (int i = 0; i < p->n_formats; i++) {
        if (p->formats[i] == format) {
            return i;
        }
    }
    if (p->n_formats == OM_PROBLEM_MAX_FORMATS) {
        return -1;
    }
    p->formats[p->n_formats] = format;
    return p->n_formats++;
}

/* The pin that decides the group's type: its members must agree. */
static om_status group_pin(const om_format **format, om_group *g, const builder *b, om_error *err) {
    *format = NULL;
    for (int m = 0; m < g->n_members; m++) {
        int u = g->member[m];
        const om_format *f = b->pins->format[u];
        if (f != NULL && *format != NULL && f != *format) {
            return om_fail(err, OM_E_ARG,
                           "%s is pinned to %s and %s to %s, but they share a type; pin both alike "
                           "or use --untie-gate-up",
                           b->profile->units[g->member[0]].name, (*format)->name,
                           b->profile->units[u].name, f->name);
        }
        if (f != NULL) {
            *format = f;
            g->pin = b->pins->pin[u];
        }
    }
    return OM_OK;
}

static bool group_option(om_option *out, const om_group *g, const builder *b,
                         const om_format *format) {
    const om_profile *p = b->profile;
    *out = (om_option){ 0 };
    for (int m = 0; m < g->n_members; m++) {
        const om_choice *c = om_unit_choice(&p->units[g->member[m]], format);
        if (c == NULL) {
            return false;
        }
        out->bytes += om_pad(c->bytes, p->alignment);
        out->active_bytes += om_active_bytes(&b->active, g->member[m], c->bytes);
        out->nats += c->nats;
        out->routing += c->routing;
    }
    return true;
}

static int compare_options(const void *a, const void *b) {
    const om_option *x = a, *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? -1 : 1;
    }
    if (x->nats < y->nats || y->nats < x->nats) {
        return x->nats < y->nats ? -1 : 1;
    }
    return x->format - y->format;
}

static bool is_dominated(const om_option *o, const om_option *by, bool by_active) {
    return by->nats <= o->nats && (!by_active || by->active_bytes <= o->active_bytes);
}

/* Sorted by bytes, then nats: an option survives when it has fewer nats (or, where they count,
 * fewer active bytes) than all before it. */
static int drop_dominated(om_option *options, int n, bool by_active) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        bool dominated = false;
        for (int k = 0; k < kept && !dominated; k++) {
            dominated = is_dominated(&options[i], &options[k], by_active);
        }
        if (!dominated) {
            options[kept++] = options[i];
        }
    }
    return kept;
}

static om_status no_option(const builder *b, const om_group *g, const om_format *pinned,
                           om_error *err) {
    const om_unit *u = &b->profile->units[g->member[0]];
    const om_unit *v = &b->profile->units[g->member[g->n_members - 1]];
    char list[200];
    if (pinned != NULL) {
        return om_fail(err, OM_E_ARG,
                       "--pin %.100s: %s and %s share a type and one of them cannot be %s",
                       b->options->pins[g->pin], u->name, v->name, pinned->name);
    }
    if (g->n_members == 2 && b->filter->n == 0) {
        return om_fail(err, OM_E_ARG,
                       "%s and %s share a type but have no candidate in common; use "
                       "--untie-gate-up",
                       u->name, v->name);
    }
    return om_fail(err, OM_E_ARG,
                   "--types leaves nothing for %s (rows of %lld weights); add one of %s", u->name,
                   (long long) u->n_in, om_unit_choice_list(list, sizeof list, u));
}

static om_status add_options(const builder *b, om_group *g, om_error *err) {
    om_status status = OM_OK;
    om_problem *p = b->out;
    const om_unit *first = &b->profile->units[g->member[0]];
    const om_format *pinned = NULL;
    OM_TRY(group_pin(&pinned, g, b, err));
    g->first = p->n_options;
    om_option *options = p->options + g->first;
    int n = 0;
    for (int i = 0; i < first->n_choices; i++) {
        const om_format *format = first->choices[i].format;
        bool wanted = pinned != NULL ? format == pinned : type_allowed(b->filter, format);
        if (wanted && group_option(&options[n], g, b, format)) {
            options[n].format = format_index(p, format);
            if (options[n].format < 0) {
                OM_TRY(om_fail(err, OM_E_UNSUPPORTED, "more than %d types in one profile",
                               OM_PROBLEM_MAX_FORMATS));
            }
            n++;
        }
    }
    if (n == 0) {
        OM_TRY(no_option(b, g, pinned, err));
    }
    qsort(options, (size_t) n, sizeof *options, compare_options);
    /* With a limit on distinct types a dominated option may still be the right one: it can spare a
     * type. */
    g->n_options = p->n_tiers > 0 || p->routing_weight > 0 || b->options->keep_dominated
                       ? n
                       : drop_dominated(options, n, om_problem_limits_active(p));
    p->n_options += g->n_options;
out:
    return status;
}

om_status om_problem_build(om_problem *out, const om_profile *profile,
                           const om_problem_options *options, om_error *err) {
    om_status status = OM_OK;
    om_pins pins = { 0 };
    type_filter filter = { .n = 0 };
    size_t n_choices = 0;
    *out = (om_problem){ .fixed_bytes = om_profile_fixed_bytes(profile),
                         .budget_bytes = options->budget_bytes,
                         .fixed_active_bytes = om_active_fixed_bytes(profile),
                         .max_active_bytes =
                             options->max_active_bytes > 0 ? options->max_active_bytes : INT64_MAX,
                         .n_tiers = options->n_tiers,
                         .routing_weight = om_routers_weight(&profile->routers) };
    int *partner = om_calloc((size_t) profile->n_units, sizeof *partner);
    OM_TRY(parse_types(&filter, options->types, err));
    OM_TRY(om_pins_resolve(&pins, profile, options->pins, options->n_pins, err));
    for (int u = 0; u < profile->n_units; u++) {
        n_choices += (size_t) profile->units[u].n_choices;
    }
    out->groups = om_calloc((size_t) profile->n_units, sizeof *out->groups);
    out->options = om_calloc(n_choices, sizeof *out->options);
    if (partner == NULL || out->groups == NULL || out->options == NULL) {
        OM_TRY(om_fail_nomem(err, n_choices * sizeof *out->options));
    }
    /* only llama.cpp has kernels that want both in one type */
    const bool untie = options->untie_gate_up || profile->container == OM_CONTAINER_MLX;
    find_partners(partner, profile, untie);
    make_groups(out, profile, partner);
    const builder b = { out, profile, &pins, &filter, options, om_active_of(profile) };
    for (int g = 0; g < out->n_groups; g++) {
        OM_TRY(add_options(&b, &out->groups[g], err));
    }
out:
    om_pins_release(&pins);
    om_free(partner);
    return status;
}

void om_problem_release(om_problem *p) {
    om_free(p->groups);
    om_free(p->options);
    *p = (om_problem){ 0 };
}

/* ---- exact evaluation -------------------------------------------------------------------------
 */

static int count_bits(uint64_t mask) {
    int n = 0;
    for (; mask != 0; mask &= mask - 1) {
        n++;
    }
    return n;
}

om_choice_sum om_problem_evaluate(const om_problem *p, const int *pick) {
    om_choice_sum sum = { .bytes = p->fixed_bytes,
                          .active_bytes = p->fixed_active_bytes,
                          .valid = true };
    uint64_t used = 0;
    for (int g = 0; g < p->n_groups; g++) {
        if (pick[g] < 0 || pick[g] >= p->groups[g].n_options) {
            return (
                om_choice_sum){ .bytes = INT64_MAX, .active_bytes = INT64_MAX, .nats = HUGE_VAL };
        }
        const om_option *o = &om_problem_options_of(p, g)[pick[g]];
        sum.bytes += o->bytes;
        sum.active_bytes += o->active_bytes;
        sum.nats += o->nats;
        sum.routing += o->routing;
        used |= (uint64_t) 1 << o->format;
    }
    sum.nats += om_routers_nats(p->routing_weight, sum.routing);
    sum.n_types = count_bits(used);
    return sum;
}

bool om_problem_feasible(const om_problem *p, const om_choice_sum *sum) {
    return sum->valid && sum->bytes <= p->budget_bytes &&
           sum->active_bytes <= p->max_active_bytes &&
           (p->n_tiers <= 0 || sum->n_types <= p->n_tiers);
}

/* ---- test oracle ------------------------------------------------------------------------------
 */

om_status om_problem_brute_force(int *pick, om_choice_sum *best, const om_problem *p,
                                 om_error *err) {
    double combinations = 1.0;
    for (int g = 0; g < p->n_groups; g++) {
        combinations *= p->groups[g].n_options;
    }
    if (combinations > 0x1p26) {
        return om_fail(err, OM_E_LIMIT, "%g combinations are too many to try", combinations);
    }
    int *at = om_calloc((size_t) p->n_groups, sizeof *at);
    if (at == NULL) {
        return om_fail_nomem(err, (size_t) p->n_groups * sizeof *at);
    }
    *best = (om_choice_sum){ .bytes = INT64_MAX, .nats = HUGE_VAL };
    for (int g = 0; g >= 0;) {
        om_choice_sum sum = om_problem_evaluate(p, at);
        if (om_problem_feasible(p, &sum) && sum.nats < best->nats) {
            *best = sum;
            memcpy(pick, at, (size_t) p->n_groups * sizeof *at);
        }
        for (g = p->n_groups - 1; g >= 0 && ++at[g] == p->groups[g].n_options; g--) {
            at[g] = 0; /* an odometer */
        }
    }
    om_free(at);
    return best->valid ? OM_OK : om_fail(err, OM_E_INFEASIBLE, "no combination fits the budget");
}
