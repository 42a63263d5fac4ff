/* Any bytes as profile.json: read, and when they pass, use every number of it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "profile/experts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_experts(const om_profile *p) {
    om_experts e;
    om_concentration c;
    om_error err = { 0 };
    if (om_experts_of(&e, p, &err) == OM_OK &&
        om_experts_concentration(&c, e.all, e.n, OM_EXPERT_TRACE, &err) == OM_OK) {
        const om_expert_scale s = om_experts_scale(&e, OM_EXPERT_TRACE, 8);
        for (int i = 0; i < e.n; i++) {
            const int shade = om_expert_shade(&s, e.all[i].trace);
            if (shade < -1 || shade > 7 || !(c.gini >= -1e-9 && c.gini <= 1)) {
                abort();
            }
        }
    }
    om_experts_release(&e);
}

static void use(const om_profile *p) {
    int64_t bytes = om_profile_fixed_bytes(p);
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = &p->units[i];
        if (u->n_choices < 1 || om_unit_choice(u, u->source) == NULL || u->params < 1) {
            abort();
        }
        for (int j = 0; j < u->n_choices; j++) {
            const om_choice *c = &u->choices[j];
            if (!(c->nats >= 0.0) || c->bytes < 1 || (j > 0 && c->bytes < c[-1].bytes)) {
                abort();
            }
        }
        bytes += om_pad(u->choices[u->n_choices - 1].bytes, p->alignment);
        if (bytes < 0 || bytes > (int64_t) 1 << 62) {
            abort();
        }
    }
    if (p->n_units < 1) {
        abort();
    }
    use_experts(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_profile *p = NULL;
    om_error err = { 0 };
    om_status status = om_profile_parse(&p, (const char *) data, size, "fuzz", &err);
    if ((status == OM_OK) != (p != NULL) || (status != OM_OK && err.text[0] == '\0')) {
        abort();
    }
    if (status == OM_OK) {
        use(p);
    }
    om_profile_free(p);
    return 0;
}
