/* A profile made for both containers, cut down to one. */
#include <string.h>

#include "base/mem.h"
#include "profile/profile.h"

bool om_profile_has(const om_profile *p, om_container container) {
    if (container == OM_CONTAINER_MLX) {
        return p->mlx.known;
    }
    /* Nothing but types of MLX to choose from: made for MLX alone. */
    bool other = false;
    for (int i = 0; i < p->n_units; i++) {
        for (int k = 0; k < p->units[i].n_choices; k++) {
            const om_format *f = p->units[i].choices[k].format;
            if (f->mlx == OM_MLX_NONE && f != p->units[i].source) {
                return true;
            }
            other |= f->mlx != OM_MLX_NONE;
        }
    }
    return !other;
}

static void keep_choices(om_unit *u, om_container container) {
    int n = 0;
    for (int i = 0; i < u->n_choices; i++) {
        const om_choice c = u->choices[i];
        if (c.format == u->source || om_format_in(c.format, container)) {
            u->choices[n++] = c;
        }
    }
    u->n_choices = n;
}

/* In MLX an unquantized matrix has 16 bits a weight, whatever the GGUF it was profiled from has.
 * The source is the largest choice there or not at all: types that are not smaller are dropped. */
static void store_source_dense(om_unit *u) {
    const om_format *f16 = om_format_by_name("f16"), *bf16 = om_format_by_name("bf16");
    const om_format *dense = u->source == f16 ? f16 : bf16;
    const int64_t bytes = 2 * u->params;
    int n = 0;
    for (int i = 0; i < u->n_choices; i++) {
        const om_choice c = u->choices[i];
        if (c.format->mlx != OM_MLX_NONE && c.bytes < bytes) {
            u->choices[n++] = c;
        }
    }
    u->choices[n++] = (om_choice){ .format = dense, .bytes = bytes }; /* the source's own place */
    u->n_choices = n;
    u->source = dense;
}

om_status om_profile_for(om_profile *p, om_container container, om_error *err) {
    if (!om_profile_has(p, container)) {
        const char *name = om_container_name(container);
        return om_fail(err, OM_E_ARG,
                       "the profile of %s was not made for %s: profile again with --to %s or "
                       "--to both",
                       p->model_path, container == OM_CONTAINER_MLX ? "MLX" : "GGUF", name);
    }
    for (int i = 0; i < p->n_units; i++) {
        keep_choices(&p->units[i], container);
    }
    p->container = container;
    if (container == OM_CONTAINER_MLX) {
        for (int i = 0; i < p->n_units; i++) {
            store_source_dense(&p->units[i]);
        }
        om_free(p->fixed);
        p->fixed = p->mlx.fixed;
        p->n_fixed = p->mlx.n_fixed;
        p->metadata_bytes = p->mlx.metadata_bytes;
        p->alignment = 1; /* tensors follow each other without gaps */
        p->mlx.fixed = NULL;
        p->mlx.n_fixed = 0;
    }
    return OM_OK;
}
