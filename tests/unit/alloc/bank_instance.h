/* Random mixtures of experts for MLX, with the costs of single experts, for the tests of banks. */
#ifndef OM_TEST_BANK_INSTANCE_H
#define OM_TEST_BANK_INSTANCE_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "profile/profile.h"
#include "profile/stats.h"

typedef struct bank_spec {
    uint64_t seed;
    int n_layers, n_experts;
    int n_types;   /* of the list below, besides bf16 */
    double noise;  /* 0: the experts' curves are multiples of each other */
    double spread; /* of the experts' sensitivities, as a power of e; 0: all alike */
    bool routed;
} bank_spec;

static const char *const bank_types[] = { "mlx_2bit_g128", "mlx_3bit_g128", "mlx_4bit_g128",
                                          "mlx_5bit_g128", "mlx_6bit_g128", "mlx_8bit_g64" };
enum { BANK_TYPES = 6, BANK_IN = 256, BANK_OUT = 16, BANK_ROLES = 4 };

static inline void bank_unit(om_unit *u, om_tensor_stats *t, const bank_spec *spec, int layer,
                             int role, om_rng *rng) {
    static const char *const roles[BANK_ROLES] = { "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps",
                                                   "attn_q" };
    const int experts = role < 3 ? spec->n_experts : 1;
    size_t at = 0;
    u->layer = layer;
    (void) snprintf(u->role, sizeof u->role, "%s", roles[role]);
    (void) snprintf(u->name, sizeof u->name, "blk.%d.%.30s.weight", layer, u->role);
    memcpy(t->name, u->name, sizeof t->name);
    u->n_in = BANK_IN;
    u->n_out = BANK_OUT;
    u->experts = experts;
    u->params = u->n_in * u->n_out * experts;
    u->source = om_format_by_name("bf16");
    u->reach = spec->routed ? 2.0 : 0.0;
    u->n_choices = spec->n_types + 1;
    u->choices = om_calloc((size_t) u->n_choices, sizeof *u->choices);
    u->expert.tokens = om_calloc((size_t) experts, sizeof(double));
    t->experts = experts;
    t->n_nats = u->n_choices;
    t->nats = om_calloc((size_t) (experts * t->n_nats), sizeof(float));
    t->routing = om_calloc((size_t) (experts * t->n_nats), sizeof(float));
    for (int e = 0; e < experts; e++) {
        const double s = exp(spec->spread * om_rng_f64(rng)) * 1e-3;
        u->expert.tokens[e] = 100.0 + 50.0 * (e % 3);
        for (int j = 0; j < spec->n_types; j++) {
            const om_format *f = om_format_by_name(bank_types[j]);
            const double noise = exp(spec->noise * (om_rng_f64(rng) - 0.5));
            const double nats = s * noise * exp(-1.4 * om_format_bpw(f));
            const double routing = spec->routed ? 0.3 * nats : 0.0;
            const double share = u->expert.tokens[e] / 1000.0;
            t->nats[e * t->n_nats + j] = (float) nats;
            t->routing[e * t->n_nats + j] = (float) sqrt(share * u->reach * routing);
            u->choices[j].nats += nats;
            u->choices[j].routing += routing;
        }
    }
    for (int j = 0; j < u->n_choices; j++) {
        om_choice *c = &u->choices[j];
        c->format = j < spec->n_types ? om_format_by_name(bank_types[j]) : u->source;
        c->bytes = om_format_size(c->format, u->n_in, u->n_out * experts);
        at += (size_t) snprintf(t->nats_types + at, sizeof t->nats_types - at, "%s%s",
                                j > 0 ? "," : "", c->format->name);
    }
}

static inline om_profile *bank_profile(om_stats **stats, const bank_spec *spec) {
    om_rng rng = om_rng_at(spec->seed, 0);
    om_profile *p = om_calloc(1, sizeof *p);
    p->container = OM_CONTAINER_MLX;
    p->alignment = 1;
    p->metadata_bytes = 1000;
    p->tokens = 1000;
    p->n_units = BANK_ROLES * spec->n_layers;
    p->units = om_calloc((size_t) p->n_units, sizeof *p->units);
    *stats = om_calloc(1, sizeof **stats);
    (*stats)->tensors = om_calloc((size_t) p->n_units, sizeof *(*stats)->tensors);
    (*stats)->n_tensors = p->n_units;
    for (int i = 0; i < p->n_units; i++) {
        bank_unit(&p->units[i], &(*stats)->tensors[i], spec, i / BANK_ROLES, i % BANK_ROLES, &rng);
        p->params += p->units[i].params;
    }
    if (spec->routed) {
        p->routers.n = 1;
        p->routers.items = om_calloc(1, sizeof *p->routers.items);
        p->routers.items[0].weight = 2.0;
    }
    return p;
}

#endif
