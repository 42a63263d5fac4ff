/* How long an allocation takes: random profiles of the sizes that occur (a 300-tensor model, a
 * 5,000-tensor one), with and without a limit on distinct types; and with the bytes read per token
 * limited to a part of what the budget alone takes. Prints a table; no files. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc/search.h"
#include "base/mem.h"
#include "base/rng.h"

static const char *const types[] = { "iq2_xxs", "iq2_xs", "iq2_s", "q2_K", "iq3_xxs", "q3_K",
                                     "iq4_xs",  "q4_K",   "q5_K",  "q6_K", "q8_0",    "bf16" };
enum { N_TYPES = (int) (sizeof types / sizeof types[0]) };

static void fill_unit(om_unit *u, int i, om_rng *rng) {
    static const int64_t rows[] = { 512, 1024, 2048, 4096, 11008 };
    (void) snprintf(u->name, sizeof u->name, "blk.%d.t%d.weight", i / 7, i % 7);
    (void) snprintf(u->role, sizeof u->role, "t%d", i % 7);
    u->layer = i / 7;
    u->n_in = 4096;
    u->n_out = rows[om_rng_u64(rng) % 5];
    u->experts = 1;
    u->params = u->n_in * u->n_out;
    u->source = om_format_by_name("bf16");
    double sensitivity = exp(4.0 * om_rng_f64(rng)) * (double) u->n_out * 1e-8;
    for (int j = 0; j < N_TYPES; j++) {
        const om_format *f = om_format_by_name(types[j]);
        double nats = sensitivity * (0.8 + 0.4 * om_rng_f64(rng)) * exp(-1.35 * om_format_bpw(f));
        u->choices[u->n_choices++] = (om_choice){ .format = f,
                                                  .bytes = om_format_size(f, u->n_in, u->n_out),
                                                  .nats = f == u->source ? 0.0 : nats };
    }
}

/* Three of seven tensors become stacks of 8 experts, 1 used: an eighth is read per token. */
static void make_stack(om_unit *u) {
    u->experts = 8;
    u->n_out /= 8;
}

static om_profile *make_profile(int n_units) {
    om_rng rng = om_rng_at(7, (uint64_t) n_units);
    om_profile *p = om_calloc(1, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->alignment = 32;
    p->metadata_bytes = 4 << 20;
    p->hparams.n_expert = 8;
    p->hparams.n_expert_used = 1;
    p->units = om_calloc((size_t) n_units, sizeof *p->units);
    for (int i = 0; p->units != NULL && i < n_units; i++) {
        om_unit *u = &p->units[p->n_units++];
        u->choices = om_calloc(N_TYPES, sizeof *u->choices);
        if (u->choices == NULL) {
            break;
        }
        fill_unit(u, i, &rng);
        if (i % 7 > 3) {
            make_stack(u);
        }
        p->params += u->params;
    }
    if (p->n_units == n_units) {
        return p;
    }
    om_profile_free(p);
    return NULL;
}

/* active: limit of the bytes read per token, as a part of what the budget alone takes; 0: none. */
static int bench(int n_units, int n_tiers, double bpw, double active) {
    om_profile *profile = make_profile(n_units);
    om_problem problem = { 0 };
    om_solution s = { 0 };
    om_error err = { 0 };
    int *pick = om_calloc((size_t) n_units, sizeof *pick);
    om_status status = OM_E_NOMEM;
    if (profile != NULL && pick != NULL) {
        om_problem_options options = { .n_tiers = n_tiers,
                                       .budget_bytes =
                                           (int64_t) (bpw / 8.0 * (double) profile->params),
                                       .max_active_bytes = active > 0.0 };
        status = om_problem_build(&problem, profile, &options, &err);
        if (status == OM_OK && active > 0.0) {
            problem.max_active_bytes = INT64_MAX;
            status = om_problem_solve(pick, &s, &problem, 0.0, NULL, &err);
            problem.max_active_bytes = (int64_t) (active * (double) s.sum.active_bytes);
        }
        if (status == OM_OK) {
            status = om_problem_solve(pick, &s, &problem, 0.0, NULL, &err);
        }
    }
    if (status == OM_OK) {
        printf("%6d x %2d  %5.2f bpw  tiers %2d  active %4.2f  %8.3f s  nats %-12.6g gap %8.1e%s  "
               "sets "
               "%5d  cores %3d  unused %lld bytes\n",
               n_units, N_TYPES, bpw, n_tiers, active, s.seconds, s.sum.nats, s.gap,
               s.proven ? "" : " (limit)", s.n_sets, s.n_cores,
               (long long) (problem.budget_bytes - s.sum.bytes));
    } else {
        fprintf(stderr, "%d x %d: %s\n", n_units, N_TYPES, err.text);
    }
    om_problem_release(&problem);
    om_profile_free(profile);
    om_free(pick);
    return status == OM_OK ? 0 : 1;
}

int main(void) {
    static const double bpws[] = { 2.7, 3.5, 4.5, 6.0 };
    static const double actives[] = { 0.99, 0.95, 0.85 };
    int bad = 0;
    for (int i = 0; i < 4; i++) {
        bad |= bench(300, 0, bpws[i], 0.0);
        bad |= bench(300, 4, bpws[i], 0.0);
    }
    for (int i = 0; i < 4; i++) {
        bad |= bench(300, 2 + 2 * i, 4.2, 0.0);
    }
    for (int i = 0; i < 4; i++) {
        bad |= bench(1000, 0, bpws[i], 0.0);
        bad |= bench(5000, 0, bpws[i], 0.0);
    }
    bad |= bench(5000, 4, 4.2, 0.0);
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 3; k++) {
            bad |= bench(300, 0, bpws[i], actives[k]);
            bad |= bench(300, 4, bpws[i], actives[k]);
        }
    }
    bad |= bench(1000, 0, 4.5, 0.95);
    bad |= bench(5000, 0, 4.5, 0.95);
    return bad;
}
