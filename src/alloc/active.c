/* profile.json -> bytes read per token (docs/method.md eq. 10b, 10c).
 *
 * Only weights are counted: the KV cache grows with the context and no type here changes it. What
 * the text measured goes before what the model says, because routers exist that use a different
 * number of experts from token to token. A share is a rational number with a small denominator in
 * every case that occurs, so rounding up costs less than one byte a tensor.
 */
#include "alloc/active.h"

#include <math.h>
#include <string.h>

om_active om_active_of(const om_profile *p) {
    om_active a = { .profile = p };
    for (int i = 0; i < p->n_units; i++) {
        a.has_output |= strcmp(p->units[i].name, "output.weight") == 0;
    }
    for (int i = 0; i < p->n_fixed; i++) {
        a.has_output |= strcmp(p->fixed[i].name, "output.weight") == 0;
    }
    return a;
}

/* Gemma 3n's table per layer is looked up whether or not the other one is tied. */
static bool is_looked_up(const om_active *a, const om_unit *u) {
    return strcmp(u->role, "per_layer_token_embd") == 0 ||
           (a->has_output && strcmp(u->role, "token_embd") == 0);
}

/* Experts used per token; 0: unknown. */
static double experts_used(const om_profile *p, const om_unit *u) {
    double routed = 0.0;
    for (int e = 0; u->expert.tokens != NULL && e < u->experts; e++) {
        routed += u->expert.tokens[e];
    }
    if (routed > 0.0 && p->tokens > 0) {
        return routed / (double) p->tokens;
    }
    return u->experts == p->hparams.n_expert ? (double) p->hparams.n_expert_used : 0.0;
}

double om_active_share(const om_active *a, int i_unit) {
    const om_unit *u = &a->profile->units[i_unit];
    if (is_looked_up(a, u)) {
        return 1.0 / (double) u->n_out;
    }
    if (u->experts > 1) {
        const double used = experts_used(a->profile, u);
        return used > 0.0 && used < (double) u->experts ? used / (double) u->experts : 1.0;
    }
    return 1.0;
}

int64_t om_active_bytes(const om_active *a, int i_unit, int64_t bytes) {
    const double share = om_active_share(a, i_unit);
    if (share >= 1.0) {
        return bytes;
    }
    const double exact = share * (double) bytes;
    /* bytes / n_out is a whole row; its double may lie a rounding above it. */
    const double near = nearbyint(exact);
    const double rounded = fabs(exact - near) <= 1e-12 * exact ? near : ceil(exact);
    return rounded < (double) bytes ? (int64_t) rounded : bytes;
}

int64_t om_active_fixed_bytes(const om_profile *p) {
    int64_t bytes = 0;
    for (int i = 0; i < p->n_fixed; i++) {
        bytes += p->fixed[i].bytes;
    }
    return bytes;
}
