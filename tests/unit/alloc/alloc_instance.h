/* Random but plausible profiles for allocation tests: nats fall about fourfold a bit, with noise.
 */
#ifndef OM_TEST_ALLOC_INSTANCE_H
#define OM_TEST_ALLOC_INSTANCE_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "profile/profile.h"

typedef struct instance_spec {
    uint64_t seed;
    int n_units;   /* in layers of ffn_gate, ffn_up, ffn_down, attn_q */
    int n_types;   /* besides the source type bf16 */
    int n_experts; /* of the stacks of every second layer (ffn_*_exps); 0: dense */
} instance_spec;

/* Ascending bytes. Rows of 768 weights take all of them. */
static const char *const instance_types[] = { "iq2_xxs", "iq2_xs", "iq2_s", "q2_K", "iq3_xxs",
                                              "q3_K",    "iq4_xs", "q4_K",  "q4_0", "q5_K",
                                              "q5_0",    "q5_1",   "q6_K",  "q8_0" };
enum { INSTANCE_TYPES = 14 };

static inline void instance_unit(om_unit *u, int i, const instance_spec *spec, om_rng *rng) {
    static const char *const roles[] = { "ffn_gate", "ffn_up", "ffn_down", "attn_q" };
    u->layer = i / 4;
    (void) snprintf(u->role, sizeof u->role, "%s", roles[i % 4]);
    (void) snprintf(u->name, sizeof u->name, "blk.%d.%.30s.weight", u->layer, u->role);
    u->n_in = 768;
    u->n_out = 1 + (int64_t) (om_rng_u64(rng) % 2000);
    u->experts = 1;
    u->params = u->n_in * u->n_out;
    u->source = om_format_by_name("bf16");
    u->choices = om_calloc((size_t) spec->n_types + 1, sizeof *u->choices);
    double sensitivity = exp(6.0 * om_rng_f64(rng)) * 1e-3;
    /* Always q4_0 (the tests pin it), the others spread over the list. */
    for (int j = 0; j < INSTANCE_TYPES; j++) {
        const om_format *f = om_format_by_name(instance_types[j]);
        bool wanted =
            j == 8 || (u->n_choices < spec->n_types - (j < 8 ? 1 : 0) &&
                       (INSTANCE_TYPES - j <= spec->n_types - u->n_choices ||
                        om_rng_u64(rng) % (uint64_t) INSTANCE_TYPES < (uint64_t) spec->n_types));
        if (wanted && u->n_choices < spec->n_types) {
            double noise = 0.7 + 0.6 * om_rng_f64(rng);
            u->choices[u->n_choices++] =
                (om_choice){ .format = f,
                             .bytes = om_format_size(f, u->n_in, u->n_out),
                             .nats = sensitivity * noise * exp(-1.4 * om_format_bpw(f)) };
        }
    }
    u->choices[u->n_choices++] =
        (om_choice){ .format = u->source, .bytes = om_format_size(u->source, u->n_in, u->n_out) };
}

/* Turn the feed-forward part of the even layers into stacks about as large as the matrix was, with
 * one to three experts used per token. */
static inline void instance_experts(om_profile *p, const instance_spec *spec) {
    om_rng rng = om_rng_at(spec->seed, 2);
    for (int i = 0; i < p->n_units; i++) {
        om_unit *u = &p->units[i];
        om_rng layer = om_rng_at(spec->seed, 100 + (uint64_t) u->layer);
        if (u->layer % 2 != 0 || strncmp(u->role, "ffn", 3) != 0) {
            continue;
        }
        const double used = 1.0 + (double) (om_rng_u64(&layer) % 3);
        double **const arrays[] = { &u->expert.trace, &u->expert.tokens, &u->expert.router_weight,
                                    &u->expert.windows };
        u->experts = spec->n_experts;
        u->n_out = u->n_out / u->experts + 1;
        u->params = u->n_in * u->n_out * u->experts;
        (void) strncat(u->role, "_exps", sizeof u->role - strlen(u->role) - 1);
        (void) snprintf(u->name, sizeof u->name, "blk.%d.%.30s.weight", u->layer, u->role);
        for (int k = 0; k < 4; k++) {
            *arrays[k] = om_calloc((size_t) u->experts, sizeof **arrays[k]);
        }
        for (int e = 0; e < u->experts; e++) {
            u->expert.tokens[e] = used * (double) p->tokens / u->experts *
                                  (e == 0   ? 1.5
                                   : e == 1 ? 0.5
                                            : 1.0);
            u->expert.trace[e] = e == 2 ? 0.0 : exp(5.0 * om_rng_f64(&rng));
            u->expert.windows[e] = 1.0;
        }
        for (int j = 0; j < u->n_choices; j++) {
            u->choices[j].bytes =
                om_format_size(u->choices[j].format, u->n_in, u->n_out * u->experts);
        }
    }
}

static inline om_profile *instance_profile(const instance_spec *spec) {
    om_rng rng = om_rng_at(spec->seed, 0);
    om_profile *p = om_calloc(1, sizeof *p);
    p->alignment = 32;
    p->metadata_bytes = 32 * (int64_t) (om_rng_u64(&rng) % 1000);
    p->n_units = spec->n_units;
    p->units = om_calloc((size_t) spec->n_units, sizeof *p->units);
    for (int i = 0; i < spec->n_units; i++) {
        instance_unit(&p->units[i], i, spec, &rng);
    }
    p->tokens = 4096;
    if (spec->n_experts > 0) {
        instance_experts(p, spec);
    }
    for (int i = 0; i < spec->n_units; i++) {
        p->params += p->units[i].params;
    }
    (void) snprintf(p->method, sizeof p->method, "fisher");
    (void) snprintf(p->arch, sizeof p->arch, "llama");
    return p;
}

static inline void instance_free(om_profile *p) {
    om_profile_free(p);
}

#endif
