/* Memory -> bytes per second: every thread adds up its part of one large buffer.
 *
 * The loop does nothing but load: eight independent sums, so that it waits for memory and not for
 * the addition before. Pages are touched by the thread that reads them, as a mapped model's would
 * be. The first pass only warms up; of the others the best counts, because whatever disturbs a pass
 * makes it slower, never faster.
 */
#include "base/bandwidth.h"

#include <math.h>
#include <stdint.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"

enum {
    MAX_THREADS = 1024,
    MAX_BUFFER_MIB = 512,
    MIN_BUFFER_MIB = 64,
    CHUNK_WORDS = 1 << 17,
    MAX_PASSES = 8
};
static const double enough_s = 0.5; /* spent on passes that count */

typedef struct reading {
    uint64_t *words;
    uint64_t sums[MAX_THREADS][8]; /* [worker] kept, so that no load can be left out */
} reading;

static void touch(void *ctx, int64_t first, int64_t last, int worker) {
    reading *r = ctx;
    (void) worker;
    for (int64_t i = first; i < last; i++) {
        r->words[i] = (uint64_t) i;
    }
}

static void read_words(void *ctx, int64_t first, int64_t last, int worker) {
    reading *r = ctx;
    uint64_t sums[8] = { 0 };
    for (int64_t i = first; i + 8 <= last; i += 8) {
        for (int k = 0; k < 8; k++) {
            sums[k] += r->words[i + k];
        }
    }
    for (int k = 0; k < 8; k++) {
        r->sums[worker][k] += sums[k];
    }
}

static double two_digits(double x) {
    const double unit = pow(10.0, floor(log10(x)) - 1.0);
    return nearbyint(x / unit) * unit;
}

om_status om_bandwidth_measure(double *bytes_per_s, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const int n_threads = om_n_threads(env) < MAX_THREADS ? om_n_threads(env) : MAX_THREADS;
    om_pool *pool = om_pool_new(n_threads);
    reading *r = om_calloc(1, sizeof *r);
    size_t mib = MAX_BUFFER_MIB;
    double best = 0.0, spent = 0.0;
    if (r == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *r));
    }
    r->words = om_alloc_aligned(mib << 20);
    while (r->words == NULL && mib > MIN_BUFFER_MIB) {
        mib /= 2;
        r->words = om_alloc_aligned(mib << 20);
    }
    if (r->words == NULL) {
        OM_TRY(om_fail_nomem(err, mib << 20));
    }
    const int64_t n = (int64_t) (mib << 20) / (int64_t) sizeof *r->words;
    om_parallel_for(pool, n, CHUNK_WORDS, touch, r);
    for (int pass = 0; pass < MAX_PASSES && (pass < 2 || spent < enough_s); pass++) {
        OM_TRY(om_check_cancel(env, err));
        const double begin = om_now_s();
        om_parallel_for(pool, n, CHUNK_WORDS, read_words, r);
        const double seconds = fmax(om_now_s() - begin, 1e-6);
        if (pass > 0) {
            spent += seconds;
            best = fmax(best, (double) (mib << 20) / seconds);
        }
    }
    *bytes_per_s = two_digits(best);
out:
    if (r != NULL) {
        om_free(r->words);
    }
    om_free(r);
    om_pool_free(pool);
    return status;
}
