/* Errors of the real quantizers on sampled rows: see qerror.h. */
#include "profile/qerror.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "profile/roundtrip.h"

enum { ROW_BLOCK = 8 }; /* rows one work item quantizes */

int64_t om_qerror_default_rows(int64_t n_out, int experts) {
    const int64_t alone = n_out / 48 > 64 ? n_out / 48 : 64;
    const int64_t n = (alone > 384 ? 384 : alone) * 8 / (experts < 8 ? 8 : experts);
    return n < 8 ? 8 : n;
}

/* One matrix of a tensor with its marginals. */
typedef struct matrix {
    const om_tensor *tensor;
    int64_t first, n_out, n_in;              /* rows [first, first + n_out) of the tensor */
    const float *rows, *cols;                /* [n_out], [n_in] marginals of F */
    const double *margin_rows, *margin_cols; /* the same of the margins; NULL: none */
} matrix;

/* ---- which rows
 * --------------------------------------------------------------------------------------------------
 */

typedef struct energy_args {
    const matrix *m;
    double *energy; /* [n_out] r_i · Σ_j c_j w_ij² */
    float *scratch; /* [workers, ROW_BLOCK, n_in] */
    int64_t *bad;   /* [workers] first row that is not finite, -1 */
    om_status *status;
    om_error *errors; /* [workers] */
} energy_args;

static void row_energies(void *ctx, int64_t first, int64_t last, int worker) {
    const energy_args *a = ctx;
    const int64_t n_in = a->m->n_in;
    float *rows = a->scratch + worker * ROW_BLOCK * n_in;
    for (int64_t r0 = first; r0 < last; r0 += ROW_BLOCK) {
        const int64_t n = r0 + ROW_BLOCK < last ? ROW_BLOCK : last - r0;
        const om_status status =
            om_tensor_rows_f32(rows, a->m->tensor, a->m->first + r0, n, &a->errors[worker]);
        if (status != OM_OK) {
            a->status[worker] = status;
            return;
        }
        for (int64_t r = 0; r < n; r++) {
            double lane[8] = { 0 };
            const float *w = rows + r * n_in, *c = a->m->cols;
            for (int64_t j = 0; j < n_in; j++) {
                lane[j & 7] += (double) c[j] * (double) w[j] * (double) w[j];
            }
            double sum = 0;
            for (int k = 0; k < 8; k++) {
                sum += lane[k];
            }
            if (!isfinite(sum) && a->bad[worker] < 0) {
                a->bad[worker] = r0 + r;
            }
            a->energy[r0 + r] = sum * (double) a->m->rows[r0 + r];
        }
    }
}

static om_status measure_rows(double *energy, const matrix *m, om_pool *pool, om_error *err) {
    om_status status = OM_OK;
    const int n_workers = om_pool_size(pool);
    energy_args a = { m, energy, NULL, NULL, NULL, NULL };
    a.scratch = om_calloc((size_t) n_workers, (size_t) (ROW_BLOCK * m->n_in) * sizeof(float));
    a.bad = om_calloc((size_t) n_workers, sizeof *a.bad);
    a.status = om_calloc((size_t) n_workers, sizeof *a.status);
    a.errors = om_calloc((size_t) n_workers, sizeof *a.errors);
    if (!a.scratch || !a.bad || !a.status || !a.errors) {
        status = om_fail_nomem(err, (size_t) (n_workers * ROW_BLOCK * m->n_in) * sizeof(float));
        goto out;
    }
    memset(a.bad, 0xFF, (size_t) n_workers * sizeof *a.bad);
    om_parallel_for(pool, m->n_out, 16 * ROW_BLOCK, row_energies, &a);
    for (int w = 0; w < n_workers; w++) {
        if (a.status[w] != OM_OK) {
            *err = a.errors[w];
            status = a.status[w];
        } else if (a.bad[w] >= 0) {
            status = om_fail(
                err, OM_E_NUMERIC,
                "%s: row %lld holds a weight that is not a finite number; the model is damaged",
                m->tensor->name, (long long) (m->first + a.bad[w]));
        }
    }
out:
    om_free(a.scratch);
    om_free(a.bad);
    om_free(a.status);
    om_free(a.errors);
    return status;
}

typedef struct sample {
    int64_t *rows;  /* [n] ascending */
    double *weight; /* [n] r_i / probability */
    int64_t n;
} sample;

/* Systematic sampling with probability in proportion to the energy; rows above the step are
 * certain. */
static void choose_rows(sample *s, const double *energy, const matrix *m, int64_t want,
                        uint64_t seed) {
    const int64_t n_out = m->n_out;
    double total = 0, step = 0;
    int64_t certain = 0;
    for (int64_t i = 0; i < n_out; i++) {
        total += energy[i];
    }
    /* Rows whose expected number of draws is one or more are certain. What they take lowers the
     * step for the rest, so the set only grows; it is complete when it stops growing, or when
     * nothing is left to draw. */
    for (;;) {
        double rest = 0;
        int64_t now = 0;
        for (int64_t i = 0; i < n_out; i++) {
            if (step > 0 && energy[i] >= step) {
                now++;
            } else {
                rest += energy[i];
            }
        }
        if ((step > 0 && now == certain) || rest <= 0 || now >= want) {
            break;
        }
        certain = now;
        step = rest / (double) (want - certain);
    }
    om_rng rng = om_rng_at(seed, om_hash_name(m->tensor->name) + (uint64_t) (m->first / n_out));
    double at = om_rng_f64(&rng) * step, sum = 0;
    s->n = 0;
    for (int64_t i = 0; i < n_out && total > 0; i++) {
        if (want >= n_out || energy[i] >= step) {
            if (energy[i] > 0) {
                s->rows[s->n] = i;
                s->weight[s->n++] = (double) m->rows[i];
            }
            continue;
        }
        sum += energy[i];
        if (sum > at) {
            s->rows[s->n] = i;
            s->weight[s->n++] = (double) m->rows[i] * step / energy[i];
            at += step;
        }
    }
}

/* ---- their errors
 * --------------------------------------------------------------------------------------------------
 */

typedef struct error_args {
    const om_format *const *formats;
    const matrix *m;
    const float *importance; /* [n_in] or NULL */
    const float *source;     /* [n, n_in] sampled rows */
    const sample *s;
    int64_t blocks;        /* of ROW_BLOCK sampled rows */
    double *sums;          /* [n_formats, blocks] Σ weight_i Σ_j c_j e_ij² */
    double *margin_sums;   /* the same of the margins; NULL: none */
    float *scratch;        /* [workers, ROW_BLOCK, n_in] */
    unsigned char *packed; /* [workers, packed_bytes] */
    size_t packed_bytes;
} error_args;

/* Σ_i weight_i m_i / r_i Σ_j cm_j e_ij² over the rows of a block, with m, cm of the margins. */
static double margin_error(const error_args *a, const float *back, int64_t r0, int64_t n) {
    const int64_t n_in = a->m->n_in;
    double all = 0;
    for (int64_t r = 0; r < n; r++) {
        const float *w = a->source + (r0 + r) * n_in, *q = back + r * n_in;
        const int64_t row = a->s->rows[r0 + r];
        double lane[8] = { 0 }, sum = 0;
        for (int64_t j = 0; j < n_in; j++) {
            const double e = (double) q[j] - (double) w[j];
            lane[j & 7] += a->m->margin_cols[j] * e * e;
        }
        for (int k = 0; k < 8; k++) {
            sum += lane[k];
        }
        all += sum * a->s->weight[r0 + r] * a->m->margin_rows[row] / (double) a->m->rows[row];
    }
    return all;
}

/* Item = (format, block of rows). */
static void block_errors(void *ctx, int64_t first, int64_t last, int worker) {
    const error_args *a = ctx;
    const int64_t n_in = a->m->n_in;
    float *back = a->scratch + worker * ROW_BLOCK * n_in;
    unsigned char *packed = a->packed + (size_t) worker * a->packed_bytes;
    for (int64_t item = first; item < last; item++) {
        const om_format *format = a->formats[item / a->blocks];
        const int64_t r0 = item % a->blocks * ROW_BLOCK;
        const int64_t n = r0 + ROW_BLOCK < a->s->n ? ROW_BLOCK : a->s->n - r0;
        a->sums[item] = 0;
        if (format == a->m->tensor->format) {
            continue;
        }
        const om_format *own = a->m->tensor->format;
        const float *source = a->source + r0 * n_in;
        om_roundtrip_pack(packed, format, own, source, a->importance, n, n_in);
        om_roundtrip_unpack(back, format, own, packed, n, n_in);
        for (int64_t r = 0; r < n; r++) {
            double lane[8] = { 0 };
            for (int64_t j = 0; j < n_in; j++) {
                const double e = (double) back[r * n_in + j] - (double) source[r * n_in + j];
                lane[j & 7] += (double) a->m->cols[j] * e * e;
            }
            double sum = 0;
            for (int k = 0; k < 8; k++) {
                sum += lane[k];
            }
            a->sums[item] += sum * a->s->weight[r0 + r];
        }
        if (a->margin_sums) {
            a->margin_sums[item] = margin_error(a, back, r0, n);
        }
    }
}

static om_status measure_errors(error_args *a, int n_formats, om_pool *pool, om_error *err) {
    const int64_t n_in = a->m->n_in;
    const int n_workers = om_pool_size(pool);
    for (int i = 0; i < n_formats; i++) {
        const size_t bytes = (size_t) om_format_size(a->formats[i], n_in, ROW_BLOCK);
        a->packed_bytes = bytes > a->packed_bytes ? bytes : a->packed_bytes;
    }
    a->packed_bytes = (a->packed_bytes + 63) / 64 * 64;
    a->scratch = om_calloc((size_t) n_workers, (size_t) (ROW_BLOCK * n_in) * sizeof(float));
    a->packed = om_alloc_aligned((size_t) n_workers * a->packed_bytes);
    if (!a->scratch || !a->packed) {
        return om_fail_nomem(err, (size_t) n_workers * a->packed_bytes);
    }
    for (int i = 0; i < n_formats; i++) {
        om_roundtrip_init(a->formats[i]);
    }
    om_parallel_for(pool, n_formats * a->blocks, 1, block_errors, a);
    return OM_OK;
}

/* Σ over blocks of a format's sums, divided by the total of the marginals and by the scale. */
static double total_of(const double *sums, int64_t blocks, double total, double scale) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; b++) {
        sum += sums[b];
    }
    return total > 0 ? sum / total / scale : 0.0; /* F_ij ≈ r_i c_j / total */
}

om_status om_qerror_matrix(double *nats, double *routing, const om_format *const *formats,
                           int n_formats, const om_tensor *tensor, int expert,
                           const om_tensor_stats *stats, const om_margin_sums *margins,
                           int64_t tokens, int64_t n_rows, uint64_t seed, om_pool *pool,
                           om_error *err) {
    om_status status = OM_OK;
    const int64_t n_in = tensor->ne[0], n_out = stats->n_out;
    const matrix m = { tensor,
                       expert * n_out,
                       n_out,
                       n_in,
                       stats->rows + expert * n_out,
                       stats->cols + expert * n_in,
                       margins ? margins->rows + expert * n_out : NULL,
                       margins ? margins->cols + expert * n_in : NULL };
    sample s = { 0 };
    error_args a = { .formats = formats, .m = &m, .s = &s };
    float *importance = om_calloc((size_t) n_in, sizeof *importance), *source = NULL;
    double *energy = om_calloc((size_t) n_out, sizeof *energy), total = 0, margin_total = 0;
    s.rows = om_calloc((size_t) n_out, sizeof *s.rows);
    s.weight = om_calloc((size_t) n_out, sizeof *s.weight);
    if (!importance || !energy || !s.rows || !s.weight) {
        status = om_fail_nomem(err, (size_t) n_out * sizeof *energy);
        goto out;
    }
    OM_TRY(measure_rows(energy, &m, pool, err));
    choose_rows(&s, energy, &m, n_rows, seed);
    source = om_alloc_aligned((size_t) ((s.n + 1) * n_in) * sizeof *source);
    a.blocks = (s.n + ROW_BLOCK - 1) / ROW_BLOCK;
    a.sums = om_calloc((size_t) (n_formats * a.blocks + 1), sizeof *a.sums);
    a.margin_sums =
        margins ? om_calloc((size_t) (n_formats * a.blocks + 1), sizeof *a.margin_sums) : NULL;
    if (!source || !a.sums || (margins && !a.margin_sums)) {
        status = om_fail_nomem(err, (size_t) (s.n * n_in) * sizeof *source);
        goto out;
    }
    for (int64_t i = 0; i < s.n; i++) {
        OM_TRY(om_tensor_rows_f32(source + i * n_in, tensor, m.first + s.rows[i], 1, err));
    }
    a.source = source;
    a.importance = om_stats_importance(importance, stats, expert) ? importance : NULL;
    OM_TRY(measure_errors(&a, n_formats, pool, err));
    for (int64_t j = 0; j < n_in; j++) {
        total += (double) m.cols[j];
        margin_total += margins ? m.margin_cols[j] : 0;
    }
    total = stats->experts > 1 ? total : stats->total;
    for (int f = 0; f < n_formats; f++) {
        nats[f] = total_of(a.sums + f * a.blocks, a.blocks, total, 2.0 * (double) tokens);
        if (margins) {
            routing[f] =
                total_of(a.margin_sums + f * a.blocks, a.blocks, margin_total, margins->tokens);
        }
    }
out:
    om_free(importance);
    om_free(energy);
    om_free(s.rows);
    om_free(s.weight);
    om_free(source);
    om_free(a.sums);
    om_free(a.margin_sums);
    om_free(a.scratch);
    om_free(a.packed);
    return status;
}
