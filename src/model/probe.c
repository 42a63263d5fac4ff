/* Random projections of four rows. Rounding a weight to BF16 changes it by at most 2^-8 of itself,
 * at random, so a signed sum moves by about 0.2 % of the row's norm; 2 % are never reached by the
 * same row and rarely by another one. */
#include "model/probe.h"

#include <math.h>

#include "base/rng.h"

static om_rng generator(const char *name, uint64_t what) {
    return om_rng_at(what, om_hash_name(name));
}

void om_probe_rows(int64_t rows[OM_PROBE_ROWS], const char *name, int64_t n_rows) {
    om_rng rng = generator(name, 0);
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        rows[k] = (int64_t) (om_rng_u64(&rng) % (uint64_t) n_rows);
    }
}

void om_probe_look(om_probe *probe, int k, const char *name, const float *row, int64_t n) {
    om_rng rng = generator(name, 1 + (uint64_t) k);
    double sum = 0, squares = 0;
    uint64_t signs = 0;
    for (int64_t j = 0; j < n; j++) {
        signs = j % 64 == 0 ? om_rng_u64(&rng) : signs >> 1;
        const double w = (double) row[j];
        sum += (signs & 1) != 0 ? w : -w;
        squares += w * w;
    }
    probe->sum[k] = sum;
    probe->norm[k] = sqrt(squares);
    probe->known = true;
}

bool om_probe_agrees(const om_probe *a, const om_probe *b) {
    for (int k = 0; k < OM_PROBE_ROWS && a->known && b->known; k++) {
        const double limit = 0.02 * fmax(a->norm[k], b->norm[k]);
        if (!(fabs(a->sum[k] - b->sum[k]) <= limit) || !(fabs(a->norm[k] - b->norm[k]) <= limit)) {
            return false;
        }
    }
    return true;
}
