/* Random statistics of a tensor, the same for the same name: what quantizing a GGUF and a directory
 * are both tested with. */
#ifndef STATS_FIXTURE_H
#define STATS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "profile/stats.h"

static inline void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fail_msg("%s: %s", err->where, err->text);
    }
}

static inline float *random_floats(const char *name, uint64_t salt, int64_t n) {
    om_rng rng = om_rng_at(salt, om_hash_name(name));
    float *v = om_calloc((size_t) n, sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        v[i] = (float) (om_rng_f64(&rng) * om_rng_f64(&rng) * 10.0);
    }
    return v;
}

/* Of a stack [experts, n_out, n_in]; the embedding has no inputs; one expert never saw a token. */
static inline om_tensor_stats random_stats(const char *name, int64_t n_in, int64_t n_out,
                                           int experts) {
    om_tensor_stats e = { .n_in = n_in, .n_out = n_out, .experts = experts };
    memcpy(e.name, name, strlen(name) + 1);
    if (strcmp(name, "token_embd.weight") != 0) {
        e.in_sum2 = random_floats(name, 1, n_in * experts);
        e.counts = om_calloc((size_t) experts, sizeof *e.counts);
        for (int k = 0; k < experts; k++) {
            e.counts[k] = k == 1 ? 0.0F : (float) (90 + k);
        }
    }
    e.rows = random_floats(name, 2, n_out * experts);
    e.cols = random_floats(name, 3, n_in * experts);
    for (int64_t k = 0; k < n_out * experts; k++) {
        e.total += (double) e.rows[k];
    }
    return e;
}

#endif
