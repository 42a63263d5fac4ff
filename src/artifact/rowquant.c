/* Quantizes a tensor: mapped source rows -> F32 -> ggml_quantize_chunk -> sink, in order.
 *
 * A tensor is cut into slabs, a slab into chunks of whole rows of one expert. Threads take chunks:
 * read rows as F32, check them, quantize into the slab, validate the result, and, when the Fisher
 * marginals are known, dequantize and add up the error, eq. (1) of docs/method.md. Every row is
 * quantized by ggml alone (its block scales see one row and the importance of its columns), so
 * neither the chunk nor the thread changes a byte; the error sums are kept per row and added in row
 * order, so neither changes the nats.
 *
 * There are two slabs: while one is filled the other is written, as just another item of the
 * parallel loop. Source pages are dropped from the mapping behind the work. So the memory is
 * two slabs and two chunks per thread, never a tensor.
 *
 * What it deliberately does not do: choose types, or know the file's layout (gguf_write.c does). */
#include "artifact/rowquant.h"

#include <ggml.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parallel.h"

/* Weights per chunk: 64 KiB of F32 stays in L2 together with its dequantized twin, and is long
 * enough that taking the next one costs nothing. */
enum { CHUNK_WEIGHTS = 16 * 1024 };
/* Weights per slab and thread: 64 chunks each, so that the wait at a slab's end is under 2 %. */
enum { SLAB_WEIGHTS_PER_THREAD = 1024 * 1024 };
/* A slab never holds more than this, however wide the type or many the threads. */
static const int64_t slab_bytes_max = (int64_t) 64 << 20;

typedef struct slab {
    unsigned char *data; /* [cap] u8, owned */
    size_t cap, len;
} slab;

/* Buffers of one thread. */
typedef struct scratch {
    float *source, *result; /* [chunk_rows, ne0] f32, owned */
    om_error err;           /* the worker's own: none shares memory with another */
    int64_t err_row;        /* row it failed at; -1: none */
} scratch;

struct om_rowquant {
    om_sink sink;
    const om_env *env;
    om_pool *pool;
    int n_threads;
    scratch *workers; /* [n_threads] */
    size_t scratch_floats;
    slab slabs[2];
    int filling; /* the slab being filled; the other one is written or empty */
    double *row_errors;
    size_t row_errors_cap;
    int64_t done_bytes, total_bytes; /* progress */
};

/* One slab's work, read by all threads. */
typedef struct slab_work {
    om_rowquant *q;
    const om_rowquant_job *job;
    int64_t first_row, n_rows; /* of the tensor */
    int64_t chunk_rows;
    int64_t row_bytes;
    unsigned char *out;
    double *row_errors;          /* [n_rows] f64 sum_j c_j e_ij^2; NULL: not wanted */
    atomic_int_least64_t failed; /* lowest row known to have failed; INT64_MAX: none */
    om_status write_status;
    om_error write_err;
} slab_work;

om_status om_rowquant_new(om_rowquant **out, om_sink sink, const om_env *env, om_error *err) {
    om_rowquant *q = om_calloc(1, sizeof *q);
    if (q == NULL) {
        return om_fail_nomem(err, sizeof *q);
    }
    q->sink = sink;
    q->env = env;
    q->pool = om_pool_new(om_n_threads(env));
    q->n_threads = om_pool_size(q->pool);
    q->workers = om_calloc((size_t) q->n_threads, sizeof *q->workers);
    if (q->workers == NULL) {
        om_rowquant_free(q);
        return om_fail_nomem(err, sizeof *q->workers);
    }
    *out = q;
    return OM_OK;
}

void om_rowquant_free(om_rowquant *q) {
    if (q == NULL) {
        return;
    }
    om_pool_free(q->pool);
    for (int i = 0; q->workers != NULL && i < q->n_threads; i++) {
        om_free(q->workers[i].source);
        om_free(q->workers[i].result);
    }
    om_free(q->workers);
    om_free(q->slabs[0].data);
    om_free(q->slabs[1].data);
    om_free(q->row_errors);
    om_free(q);
}

void om_rowquant_progress(om_rowquant *q, int64_t done_bytes, int64_t total_bytes) {
    q->done_bytes = done_bytes;
    q->total_bytes = total_bytes;
}

static void report_progress(om_rowquant *q, size_t n) {
    q->done_bytes += (int64_t) n;
    om_progress(q->env, "quantize", (double) q->done_bytes, (double) q->total_bytes, "bytes");
}

/* ---- one chunk ---- */

static void work_chunk(slab_work *w, scratch *s, int64_t first, int64_t n) {
    const om_rowquant_job *job = w->job;
    unsigned char *out = w->out + (first - w->first_row) * w->row_bytes;
    om_status status = om_check_cancel(w->q->env, &s->err);
    if (status == OM_OK) {
        status = om_rows_quantize(out, s->source, job, first, n, &s->err);
    }
    if (status != OM_OK) {
        s->err_row = first;
        int_least64_t seen = atomic_load(&w->failed);
        while (first < seen && !atomic_compare_exchange_weak(&w->failed, &seen, first)) {
        }
        return;
    }
    if (w->row_errors == NULL) {
        return;
    }
    om_rows_errors(w->row_errors + (first - w->first_row), s->result, s->source, out, job, first,
                   n);
}

static om_status write_slab(om_rowquant *q, slab *s, om_error *err) {
    om_status status = OM_OK;
    if (s->len > 0) {
        OM_TRY(q->sink.write(q->sink.ud, s->data, s->len, err));
        report_progress(q, s->len);
        s->len = 0;
    }
out:
    return status;
}

/* Items of the parallel loop: 0 writes the previous slab, the others are chunks. */
static void work_items(void *ctx, int64_t first, int64_t last, int worker) {
    slab_work *w = ctx;
    scratch *s = &w->q->workers[worker];
    for (int64_t item = first; item < last; item++) {
        if (item == 0) {
            w->write_status = write_slab(w->q, &w->q->slabs[1 - w->q->filling], &w->write_err);
            continue;
        }
        /* A chunk ends with its expert: the next rows have another importance. */
        const int64_t n_out = w->job->tensor->ne[1];
        const int64_t end = w->first_row + w->n_rows;
        int64_t row = w->first_row + (item - 1) * w->chunk_rows;
        const int64_t stop = row + w->chunk_rows < end ? row + w->chunk_rows : end;
        while (row < stop && s->err_row < 0 && row < atomic_load(&w->failed)) {
            const int64_t expert_end = (row / n_out + 1) * n_out;
            const int64_t n = (expert_end < stop ? expert_end : stop) - row;
            work_chunk(w, s, row, n);
            row += n;
        }
    }
}

/* ---- one slab ---- */

static om_status grow(void **p, size_t *cap, size_t n, size_t size, om_error *err) {
    if (n <= *cap) {
        return OM_OK;
    }
    if (size != 0 && n > SIZE_MAX / size) {
        return om_fail_nomem(err, SIZE_MAX);
    }
    om_free(*p);
    *cap = 0;
    *p = om_alloc_aligned(n * size);
    if (*p == NULL) {
        return om_fail_nomem(err, n * size);
    }
    *cap = n;
    return OM_OK;
}

static om_status prepare_scratch(om_rowquant *q, size_t floats, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < q->n_threads; i++) {
        size_t a = q->scratch_floats, b = q->scratch_floats;
        OM_TRY(grow((void **) &q->workers[i].source, &a, floats, sizeof(float), err));
        OM_TRY(grow((void **) &q->workers[i].result, &b, floats, sizeof(float), err));
    }
    if (floats > q->scratch_floats) {
        q->scratch_floats = floats;
    }
out:
    return status;
}

/* Of several failures the lowest row is reported, whoever found it first. */
static om_status first_failure(const slab_work *w, om_error *err) {
    if (w->write_status != OM_OK) {
        *err = w->write_err;
        return err->status;
    }
    const scratch *worst = NULL;
    for (int i = 0; i < w->q->n_threads; i++) {
        const scratch *s = &w->q->workers[i];
        if (s->err_row >= 0 && (worst == NULL || s->err_row < worst->err_row)) {
            worst = s;
        }
    }
    if (worst == NULL) {
        return OM_OK;
    }
    *err = worst->err;
    return err->status;
}

static om_status run_slab(slab_work *w, om_error *err) {
    om_rowquant *q = w->q;
    for (int i = 0; i < q->n_threads; i++) {
        q->workers[i].err = (om_error){ 0 };
        q->workers[i].err_row = -1;
    }
    atomic_store(&w->failed, INT64_MAX);
    w->write_status = OM_OK;
    const int64_t n_chunks = (w->n_rows + w->chunk_rows - 1) / w->chunk_rows;
    om_parallel_for(q->pool, n_chunks + 1, 1, work_items, w);
    return first_failure(w, err);
}

/* ---- one tensor ---- */

/* Drop the tensor's pages [first, first + n) from the mapping: they have been used. */
static void forget(const om_model *model, const om_tensor *t, int64_t first, int64_t n) {
    const om_map *map = om_model_split_map(model, t->split);
    om_map_forget(map, (size_t) (t->data - map->data) + (size_t) first, (size_t) n);
}

om_status om_rowquant_flush(om_rowquant *q, om_error *err) {
    return write_slab(q, &q->slabs[1 - q->filling], err);
}

static om_status pad_sink(om_rowquant *q, int64_t bytes, int64_t alignment, om_error *err) {
    static const unsigned char zeros[64] = { 0 };
    om_status status = OM_OK;
    for (int64_t left = om_pad(bytes, alignment) - bytes; left > 0;) {
        const int64_t n = left < (int64_t) sizeof zeros ? left : (int64_t) sizeof zeros;
        OM_TRY(q->sink.write(q->sink.ud, zeros, (size_t) n, err));
        left -= n;
    }
    report_progress(q, (size_t) (om_pad(bytes, alignment) - bytes));
out:
    return status;
}

/* ggml's own validation prints to standard error what it finds, so it is asked only about types
 * that have scales. */
static om_status check_plain_rows(const om_tensor *t, int64_t first, int64_t n, om_error *err) {
    om_status status = OM_OK;
    float *row = om_calloc((size_t) t->ne[0], sizeof *row);
    if (row == NULL) {
        return om_fail_nomem(err, (size_t) t->ne[0] * sizeof *row);
    }
    for (int64_t r = first; r < first + n; r++) {
        OM_TRY(om_tensor_rows_f32(row, t, r, 1, err));
        const int64_t bad = om_rows_not_finite(row, t->ne[0]);
        if (bad >= 0) {
            OM_TRY(om_fail(err, OM_E_NUMERIC,
                           "%s: row %" PRId64 ", column %" PRId64 " of the source is %g: the "
                           "model's file is damaged or was converted wrongly",
                           t->name, r, bad, (double) row[bad]));
        }
    }
out:
    om_free(row);
    return status;
}

static bool is_plain_float(const om_format *f) {
    return f->ggml_type == GGML_TYPE_F32 || f->ggml_type == GGML_TYPE_F16 ||
           f->ggml_type == GGML_TYPE_BF16;
}

/* Copied row by row group: validated and forgotten in the same step, so that one pass over the
 * pages is enough. */
static om_status copy_tensor(om_rowquant *q, const om_model *model, const om_tensor *t,
                             int64_t alignment, om_error *err) {
    const int64_t row_bytes = t->bytes / om_tensor_n_rows(t);
    const int64_t step = row_bytes * ((8 << 20) / row_bytes > 1 ? (8 << 20) / row_bytes : 1);
    om_status status = OM_OK;
    OM_TRY(om_rowquant_flush(q, err));
    for (int64_t at = 0; at < t->bytes; at += step) {
        const int64_t n = t->bytes - at < step ? t->bytes - at : step;
        OM_TRY(om_check_cancel(q->env, err));
        if (is_plain_float(t->format)) {
            OM_TRY(check_plain_rows(t, at / row_bytes, n / row_bytes, err));
        } else if (!ggml_validate_row_data((enum ggml_type) t->format->ggml_type, t->data + at,
                                           (size_t) n)) {
            OM_TRY(om_fail(err, OM_E_NUMERIC,
                           "%s: NaN or infinity in the source (rows %" PRId64 " and up): the "
                           "model's file is damaged or was converted wrongly",
                           t->name, at / row_bytes));
        }
        OM_TRY(q->sink.write(q->sink.ud, t->data + at, (size_t) n, err));
        report_progress(q, (size_t) n);
        forget(model, t, at, n);
    }
    OM_TRY(pad_sink(q, t->bytes, alignment, err));
out:
    return status;
}

/* Add eq. (1) of the rows [first, first + n) to *sum: r_i / total_e * row_errors[i], in row order.
 */
static void add_nats(double *sum, const om_rowquant_job *job, const double *totals,
                     const double *row_errors, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double total = totals[(first + i) / job->tensor->ne[1]];
        if (total > 0) {
            *sum += (double) job->rows[first + i] / total * row_errors[i];
        }
    }
}

/* [experts] f64 sums of the rows of F, owned; in row order. */
static double *expert_totals(const om_rowquant_job *job) {
    double *totals = om_calloc((size_t) job->experts, sizeof *totals);
    for (int64_t i = 0; totals != NULL && i < om_tensor_n_rows(job->tensor); i++) {
        totals[i / job->tensor->ne[1]] += (double) job->rows[i];
    }
    return totals;
}

static om_status quantize_slabs(double *nats, om_rowquant *q, const om_model *model,
                                const om_rowquant_job *job, int64_t alignment, om_error *err) {
    const om_tensor *t = job->tensor;
    const int64_t n_rows = om_tensor_n_rows(t), n_in = t->ne[0];
    const bool want_nats = job->rows != NULL;
    const int64_t source_row = t->bytes / n_rows;
    slab_work w = { .q = q, .job = job, .row_bytes = om_format_size(job->to, n_in, 1) };
    w.chunk_rows = CHUNK_WEIGHTS / n_in > 1 ? CHUNK_WEIGHTS / n_in : 1;
    int64_t slab_rows = (int64_t) SLAB_WEIGHTS_PER_THREAD * q->n_threads / n_in;
    if (slab_rows > slab_bytes_max / w.row_bytes) {
        slab_rows = slab_bytes_max / w.row_bytes;
    }
    slab_rows = slab_rows < 1 ? 1 : slab_rows > n_rows ? n_rows : slab_rows;
    double *totals = NULL;
    double sum = 0;
    om_status status = OM_OK;

    ggml_quantize_init((enum ggml_type) job->to->ggml_type); /* builds tables: before threads */
    OM_TRY(prepare_scratch(q, (size_t) (w.chunk_rows * n_in), err));
    if (want_nats) {
        OM_TRY(grow((void **) &q->row_errors, &q->row_errors_cap, (size_t) slab_rows,
                    sizeof *q->row_errors, err));
        w.row_errors = q->row_errors;
        totals = expert_totals(job);
        if (totals == NULL) {
            OM_TRY(om_fail_nomem(err, (size_t) job->experts * sizeof *totals));
        }
    }
    for (int64_t row = 0; row < n_rows; row += slab_rows) {
        slab *s = &q->slabs[q->filling];
        w.first_row = row;
        w.n_rows = n_rows - row < slab_rows ? n_rows - row : slab_rows;
        const int64_t len = w.n_rows * w.row_bytes;
        const bool last = row + w.n_rows == n_rows;
        const int64_t pad =
            last ? om_pad(n_rows * w.row_bytes, alignment) - n_rows * w.row_bytes : 0;
        OM_TRY(grow((void **) &s->data, &s->cap, (size_t) (len + pad), 1, err));
        w.out = s->data;
        OM_TRY(run_slab(&w, err));
        memset(s->data + len, 0, (size_t) pad);
        s->len = (size_t) (len + pad);
        q->filling = 1 - q->filling;
        if (want_nats) {
            add_nats(&sum, job, totals, q->row_errors, row, w.n_rows);
        }
        forget(model, t, row * source_row, w.n_rows * source_row);
    }
    *nats = want_nats ? sum / (2.0 * (double) job->tokens) : (double) NAN;
out:
    om_free(totals);
    return status;
}

om_status om_rowquant_tensor(double *nats, om_rowquant *q, const om_model *model,
                             const om_rowquant_job *job, int64_t alignment, om_error *err) {
    om_status status = OM_OK;
    *nats = 0;
    if (job->to == job->tensor->format) {
        return copy_tensor(q, model, job->tensor, alignment, err);
    }
    OM_TRY(om_rows_check(job, err));
    OM_TRY(quantize_slabs(nats, q, model, job, alignment, err));
out:
    return status;
}
