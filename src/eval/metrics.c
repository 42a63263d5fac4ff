/* Two rows of logits -> NLL, KL divergence, top-1 agreement; many rows -> statistics.
 *
 * With p the reference's distribution, d = ref - model (logits) and c near E_p[d], let u = d - c.
 * Then
 *     KL(p || q) = E_p[d] + log E_p[exp(-d)] = δ + log1p(E_p[exp(-u) - 1 + u] - δ),   δ = E_p[u].
 * Every term exp(-u) - 1 + u is >= 0 and of second order, so nothing cancels: equal rows give 0,
 * and a divergence of 1e-9 nats is as precise as one of 1. log-sum-exp of the model then needs no
 * exponentials of its own: lse_model = lse_ref - c + (KL - δ).
 *
 * Speed: the exponentials dominate. Loops run over lanes of independent sums, which a compiler may
 * turn into vectors without being allowed to reassociate; each block of 256 is then added up in
 * double. Lanes and blocks are fixed, so a row's result does not depend on threads or vector
 * width.
 */
#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

enum { LANES = 16, BLOCK = 256 };

/* Below this |u| the series of exp(-u) - 1 + u is used: there the direct form loses digits. */
#define SMALL_U 0.5f

/* ---- bits of floats ----
 * Comparisons on the bit patterns: the compiler may turn these into vector masks, while comparing
 * floats (which may trap) keeps it from vectorising without -fno-trapping-math. */

static inline uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof(b));
    return b;
}

static inline float float_of(uint32_t b) {
    float x;
    memcpy(&x, &b, sizeof(x));
    return x;
}

/* |x| as an integer that orders like |x|; NaN is above infinity. */
static inline int32_t magnitude(float x) {
    return (int32_t) (bits_of(x) & 0x7FFFFFFFu);
}

/* All ones when a > b, else 0. */
static inline uint32_t mask_gt(int32_t a, int32_t b) {
    return 0u - (uint32_t) (a > b);
}

static inline float select_f32(uint32_t mask, float yes, float no) {
    return float_of((bits_of(yes) & mask) | (bits_of(no) & ~mask));
}

/* A signed integer that orders like x. */
static inline int32_t order_key(float x) {
    const uint32_t b = bits_of(x), negative = 0u - (b >> 31);
    return (int32_t) (b ^ (negative & 0x7FFFFFFFu));
}

static inline float key_value(int32_t key) {
    const uint32_t k = (uint32_t) key, negative = 0u - (k >> 31);
    return float_of(k ^ (negative & 0x7FFFFFFFu));
}

/* ---- exp ---- */

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln2 / 2. Adding 1.5 * 2^23 rounds to an integer
 * and leaves it in the low bits; ln 2 is split so that n * LN2_HI is exact. The polynomial is the
 * Taylor series to r^7: its remainder, 6e-9, is far below a float's last place. */
static inline float exp_f32(float x) {
    const float log2e = 1.44269504f, magic = 12582912.0f;
    const float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const float limit = 87.3f, largest = 8.2361304e37f; /* exp(limit) */
    const float shifted = x * log2e + magic;
    const float n = shifted - magic;
    const float r = (x - n * ln2_hi) - n * ln2_lo;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    p = p + 1.0f;
    const float scale = float_of((bits_of(shifted) - 0x4B400000u + 127u) << 23);
    const uint32_t beyond = mask_gt(magnitude(x), magnitude(limit));
    const uint32_t negative = 0u - (bits_of(x) >> 31);
    return select_f32(beyond, float_of(bits_of(largest) & ~negative), p * scale);
}

void om_exp_row(float *out, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = exp_f32(x[i]);
    }
}

/* exp(-u) - 1 + u for |u| <= SMALL_U by its series; the first term left out is 4e-8 of the sum. */
static inline float g_small(float u) {
    float s = 1.0f / 40320.0f;
    s = s * u - 1.0f / 5040.0f;
    s = s * u + 1.0f / 720.0f;
    s = s * u - 1.0f / 120.0f;
    s = s * u + 1.0f / 24.0f;
    s = s * u - 1.0f / 6.0f;
    s = s * u + 0.5f;
    return s * (u * u);
}

/* ---- one pair of rows ---- */

typedef struct peaks {
    float ref, model;
    bool finite;
} peaks;

static peaks find_peaks(const float *ref, const float *model, int64_t n) {
    int32_t x[LANES], y[LANES], widest[LANES] = { 0 };
    for (int j = 0; j < LANES; j++) {
        x[j] = order_key(ref[0]);
        y[j] = order_key(model[0]);
    }
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t size = n - i < LANES ? n - i : LANES;
        for (int64_t j = 0; j < size; j++) {
            const int32_t a = order_key(ref[i + j]), b = order_key(model[i + j]);
            const int32_t c = magnitude(ref[i + j]), d = magnitude(model[i + j]);
            const int32_t wide = c > d ? c : d;
            x[j] = a > x[j] ? a : x[j];
            y[j] = b > y[j] ? b : y[j];
            widest[j] = wide > widest[j] ? wide : widest[j];
        }
    }
    int32_t top = x[0], top_model = y[0], top_wide = widest[0];
    for (int j = 1; j < LANES; j++) {
        top = x[j] > top ? x[j] : top;
        top_model = y[j] > top_model ? y[j] : top_model;
        top_wide = widest[j] > top_wide ? widest[j] : top_wide;
    }
    return (peaks){ key_value(top), key_value(top_model), top_wide < magnitude(INFINITY) };
}

/* Index of the first element equal to `value`, which occurs. Zeros of either sign are told apart,
 * as in find_peaks. */
static int64_t first_equal(const float *row, int64_t n, float value) {
    const uint32_t want = bits_of(value);
    int64_t start = 0;
    for (; start + BLOCK <= n; start += BLOCK) {
        uint32_t differs = 1;
        for (int64_t i = start; i < start + BLOCK; i++) {
            differs &= (uint32_t) (bits_of(row[i]) != want);
        }
        if (!differs) {
            break;
        }
    }
    while (start < n && bits_of(row[start]) != want) {
        start++;
    }
    return start;
}

static double sum_lanes(const float *lane) {
    double s = 0.0;
    for (int j = 0; j < LANES; j++) {
        s += (double) lane[j];
    }
    return s;
}

typedef struct pair_sums {
    double a, b;
} pair_sums;

/* scratch = e = exp(ref - peak); a = Σ e, b = Σ e (ref - model). */
static pair_sums weigh(float *scratch, const float *ref, const float *model, int64_t n,
                       float peak) {
    pair_sums total = { 0.0, 0.0 };
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int64_t end = start + BLOCK < n ? start + BLOCK : n;
        float s[LANES] = { 0 }, d[LANES] = { 0 };
        for (int64_t i = start; i < end; i++) {
            scratch[i] = exp_f32(ref[i] - peak);
        }
        int64_t i = start;
        for (; i + LANES <= end; i += LANES) {
            for (int j = 0; j < LANES; j++) {
                s[j] += scratch[i + j];
                d[j] += scratch[i + j] * (ref[i + j] - model[i + j]);
            }
        }
        for (int j = 0; i < end; i++, j++) {
            s[j] += scratch[i];
            d[j] += scratch[i] * (ref[i] - model[i]);
        }
        total.a += sum_lanes(s);
        total.b += sum_lanes(d);
    }
    return total;
}

/* What a block of pass three works on. shift: exp(model + shift) has the scale of the weights e. */
typedef struct centred {
    const float *e, *ref, *model;
    float centre, shift;
} centred;

/* term[i] = e (exp(-u) - 1 + u), eu[i] = e u for the n <= BLOCK elements of a block. */
static void block_terms(float *term, float *eu, const centred *c, int64_t n) {
    const int32_t small = magnitude(SMALL_U);
    float u[BLOCK];
    uint32_t large = 0;
    for (int64_t i = 0; i < n; i++) {
        u[i] = (c->ref[i] - c->model[i]) - c->centre;
        eu[i] = c->e[i] * u[i];
        term[i] = c->e[i] * g_small(u[i]);
        large |= mask_gt(magnitude(u[i]), small);
    }
    if (!large) {
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const float direct = exp_f32(c->model[i] + c->shift) - c->e[i] + eu[i];
        term[i] = select_f32(mask_gt(magnitude(u[i]), small), direct, term[i]);
    }
}

/* a = Σ e (exp(-u) - 1 + u), b = Σ e u. */
static pair_sums spread(const centred *whole, int64_t n) {
    pair_sums total = { 0.0, 0.0 };
    centred c = *whole;
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int64_t size = n - start < BLOCK ? n - start : BLOCK;
        float term[BLOCK + LANES] = { 0 }, eu[BLOCK + LANES] = { 0 };
        float g[LANES] = { 0 }, m[LANES] = { 0 };
        block_terms(term, eu, &c, size);
        for (int64_t i = 0; i < size; i += LANES) {
            for (int j = 0; j < LANES; j++) {
                g[j] += term[i + j];
                m[j] += eu[i + j];
            }
        }
        total.a += sum_lanes(g);
        total.b += sum_lanes(m);
        c.e += size;
        c.ref += size;
        c.model += size;
    }
    return total;
}

/* For rows so far apart (60 nats and more) that floats overflow on the way. */
static void score_far_apart(om_row_score *out, const float *ref, const float *model, int64_t n,
                            peaks peak) {
    double sum_ref = 0.0, sum_model = 0.0, cross = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double e = exp((double) ref[i] - (double) peak.ref);
        sum_ref += e;
        sum_model += exp((double) model[i] - (double) peak.model);
        cross += e > 0.0 ? e * ((double) ref[i] - (double) model[i]) : 0.0;
    }
    const double lse_ref = (double) peak.ref + log(sum_ref);
    const double lse_model = (double) peak.model + log(sum_model);
    out->kld = cross / sum_ref - lse_ref + lse_model;
    out->nll += lse_model;
}

bool om_score_row(om_row_score *out, const float *ref, const float *model, int64_t n_vocab,
                  int32_t label, float *scratch) {
    const peaks peak = find_peaks(ref, model, n_vocab);
    if (!peak.finite) {
        return false;
    }
    out->same_top = first_equal(ref, n_vocab, peak.ref) == first_equal(model, n_vocab, peak.model);

    const pair_sums w = weigh(scratch, ref, model, n_vocab, peak.ref);
    const double lse_ref = (double) peak.ref + log(w.a);
    const float centre = (float) (w.b / w.a);
    const centred c = { scratch, ref, model, centre, centre - peak.ref };
    const pair_sums s = spread(&c, n_vocab);
    const double spread_mean = s.a / w.a, delta = s.b / w.a;

    out->nll_ref = lse_ref - (double) ref[label];
    out->nll = -(double) model[label];
    if (spread_mean < 1e26 && fabs(delta) < 0.5) {
        const double kld = delta + log1p(spread_mean - delta);
        out->kld = kld > 0.0 ? kld : 0.0;
        out->nll += lse_ref - ((double) centre + delta) + kld;
    } else {
        score_far_apart(out, ref, model, n_vocab, peak);
    }
    return true;
}

/* ---- accumulation ---- */

typedef struct row_job {
    const float *ref, *model;
    const int32_t *labels;
    int64_t n_vocab;
    om_row_score *scores; /* [n] */
    bool *ok;             /* [n] */
    float *scratch;       /* [threads, V] */
} row_job;

static void score_rows(void *ctx, int64_t first, int64_t last, int worker) {
    row_job *job = ctx;
    for (int64_t i = first; i < last; i++) {
        job->ok[i] = om_score_row(&job->scores[i], job->ref + i * job->n_vocab,
                                  job->model + i * job->n_vocab, job->n_vocab, job->labels[i],
                                  job->scratch + (int64_t) worker * job->n_vocab);
    }
}

static om_status reserve(om_tally *t, int64_t more, om_error *err) {
    if (t->n + more <= t->cap) {
        return OM_OK;
    }
    const int64_t cap = t->n + more > 2 * t->cap ? t->n + more : 2 * t->cap;
    float *kld = om_realloc(t->kld, (size_t) cap, sizeof(float));
    if (kld == NULL) {
        return om_fail_nomem(err, (size_t) cap * sizeof(float));
    }
    t->kld = kld;
    t->cap = cap;
    return OM_OK;
}

static void add_score(om_tally *t, const om_row_score *s) {
    t->sum_nll += s->nll;
    t->sum_nll2 += s->nll * s->nll;
    t->sum_nll_ref += s->nll_ref;
    t->sum_kld += s->kld;
    t->sum_kld2 += s->kld * s->kld;
    t->n_same_top += s->same_top ? 1 : 0;
    t->kld[t->n++] = (float) s->kld;
}

om_status om_tally_rows(om_tally *t, int64_t *bad_row, const float *ref, const float *model,
                        const int32_t *labels, int64_t n, int64_t n_vocab, om_pool *pool,
                        om_error *err) {
    om_status status = OM_OK;
    const size_t n_scratch = (size_t) om_pool_size(pool) * (size_t) n_vocab;
    row_job job = { .ref = ref, .model = model, .labels = labels, .n_vocab = n_vocab };
    job.scores = om_calloc((size_t) n, sizeof(om_row_score));
    job.ok = om_calloc((size_t) n, sizeof(bool));
    job.scratch = om_calloc(n_scratch, sizeof(float));
    if (job.scores == NULL || job.ok == NULL || job.scratch == NULL) {
        status = om_fail_nomem(err, n_scratch * sizeof(float));
        goto out;
    }
    OM_TRY(reserve(t, n, err));
    om_parallel_for(pool, n, 4, score_rows, &job);
    for (int64_t i = 0; i < n; i++) {
        if (!job.ok[i]) {
            *bad_row = i;
            status = om_fail(err, OM_E_NUMERIC, "logits of row %lld are not finite", (long long) i);
            goto out;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        add_score(t, &job.scores[i]);
    }
out:
    om_free(job.scores);
    om_free(job.ok);
    om_free(job.scratch);
    return status;
}

void om_tally_release(om_tally *t) {
    om_free(t->kld);
    *t = (om_tally){ 0 };
}

/* ---- statistics ---- */

static int compare_floats(const void *a, const void *b) {
    const float x = *(const float *) a, y = *(const float *) b;
    return x < y ? -1 : x > y;
}

static double quantile(const float *sorted, int64_t n, double fraction) {
    const double at = fraction * (double) (n - 1);
    const int64_t i = (int64_t) at;
    const int64_t next = i + 1 < n ? i + 1 : i;
    const double weight = at - (double) i;
    return (1.0 - weight) * (double) sorted[i] + weight * (double) sorted[next];
}

static double standard_error(double sum, double sum2, int64_t n) {
    const double mean = sum / (double) n;
    const double variance = sum2 / (double) n - mean * mean;
    return variance > 0.0 && n > 10 ? sqrt(variance / (double) (n - 1)) : 0.0;
}

om_summary om_tally_summary(om_tally *t) {
    om_summary s = { .tokens = t->n };
    if (t->n == 0) {
        return s;
    }
    const double n = (double) t->n;
    qsort(t->kld, (size_t) t->n, sizeof(float), compare_floats);
    s.ppl = exp(t->sum_nll / n);
    s.ppl_stderr = s.ppl * standard_error(t->sum_nll, t->sum_nll2, t->n);
    s.ppl_ref = exp(t->sum_nll_ref / n);
    s.kld_mean = t->sum_kld / n;
    s.kld_stderr = standard_error(t->sum_kld, t->sum_kld2, t->n);
    s.kld_median = quantile(t->kld, t->n, 0.5);
    s.kld_p99 = quantile(t->kld, t->n, 0.99);
    s.kld_max = (double) t->kld[t->n - 1];
    s.top1_agreement = (double) t->n_same_top / n;
    return s;
}
