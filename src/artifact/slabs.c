/* A tensor is cut into slabs, a slab into chunks of whole rows of one matrix. Threads take chunks:
 * the writer's function makes their bytes and, when the Fisher marginals are known, the error of
 * each row, eq. (1) of docs/method.md. Every row is made from itself alone, so neither the chunk
 * nor the thread changes a byte; the errors are kept per row and added in row order, so neither
 * changes the nats.
 *
 * There are two slabs: while one is filled the other is written, as just another item of the
 * parallel loop. A slab holds its parts one behind the other, each a row after row. So the memory
 * is two slabs and two chunks per thread, never a tensor. */
#include "artifact/slabs.h"

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
    size_t cap;
    om_piece pieces[OM_SLAB_PARTS];
    int n_pieces;
} slab;

/* Buffers of one thread. */
typedef struct scratch {
    float *source, *result; /* [chunk_rows, n_in] f32, owned */
    om_error err;           /* the worker's own: none shares memory with another */
    int64_t err_row;        /* row it failed at; -1: none */
} scratch;

struct om_slabs {
    om_piece_sink sink;
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
    om_slabs *s;
    const om_slab_job *job;
    int64_t first_row, n_rows; /* of the tensor */
    int64_t chunk_rows;
    unsigned char *parts[OM_SLAB_PARTS]; /* in the slab */
    double *row_errors;                  /* [n_rows]; NULL: not wanted */
    atomic_int_least64_t failed;         /* lowest row known to have failed; INT64_MAX: none */
    om_status write_status;
    om_error write_err;
} slab_work;

om_status om_slabs_new(om_slabs **out, om_piece_sink sink, const om_env *env, om_error *err) {
    om_slabs *s = om_calloc(1, sizeof *s);
    if (s == NULL) {
        return om_fail_nomem(err, sizeof *s);
    }
    s->sink = sink;
    s->env = env;
    s->pool = om_pool_new(om_n_threads(env));
    s->n_threads = om_pool_size(s->pool);
    s->workers = om_calloc((size_t) s->n_threads, sizeof *s->workers);
    if (s->workers == NULL) {
        om_slabs_free(s);
        return om_fail_nomem(err, sizeof *s->workers);
    }
    *out = s;
    return OM_OK;
}

void om_slabs_free(om_slabs *s) {
    if (s == NULL) {
        return;
    }
    om_pool_free(s->pool);
    for (int i = 0; s->workers != NULL && i < s->n_threads; i++) {
        om_free(s->workers[i].source);
        om_free(s->workers[i].result);
    }
    om_free(s->workers);
    om_free(s->slabs[0].data);
    om_free(s->slabs[1].data);
    om_free(s->row_errors);
    om_free(s);
}

void om_slabs_progress(om_slabs *s, int64_t done_bytes, int64_t total_bytes) {
    s->done_bytes = done_bytes;
    s->total_bytes = total_bytes;
}

void om_slabs_written(om_slabs *s, int64_t n) {
    s->done_bytes += n;
    om_progress(s->env, "quantize", (double) s->done_bytes, (double) s->total_bytes, "bytes");
}

/* ---- one chunk ---- */

static void work_chunk(slab_work *w, scratch *s, int64_t first, int64_t n) {
    const om_slab_job *job = w->job;
    const int64_t at = first - w->first_row;
    om_chunk chunk = { .first = first, .n = n, .source = s->source, .result = s->result };
    for (int k = 0; k < OM_SLAB_PARTS; k++) {
        chunk.parts[k] =
            job->parts[k].row_bytes > 0 ? w->parts[k] + at * job->parts[k].row_bytes : NULL;
    }
    chunk.errors = w->row_errors == NULL ? NULL : w->row_errors + at;
    om_status status = om_check_cancel(w->s->env, &s->err);
    if (status == OM_OK) {
        status = job->make(job->ud, &chunk, &s->err);
    }
    if (status != OM_OK) {
        s->err_row = first;
        int_least64_t seen = atomic_load(&w->failed);
        while (first < seen && !atomic_compare_exchange_weak(&w->failed, &seen, first)) {
        }
    }
}

static om_status write_slab(om_slabs *s, slab *which, om_error *err) {
    om_status status = OM_OK;
    for (int k = 0; k < which->n_pieces; k++) {
        OM_TRY(s->sink.write(s->sink.ud, &which->pieces[k], err));
        om_slabs_written(s, (int64_t) which->pieces[k].n);
    }
    which->n_pieces = 0;
out:
    return status;
}

/* Items of the parallel loop: 0 writes the previous slab, the others are chunks. */
static void work_items(void *ctx, int64_t first, int64_t last, int worker) {
    slab_work *w = ctx;
    scratch *s = &w->s->workers[worker];
    for (int64_t item = first; item < last; item++) {
        if (item == 0) {
            w->write_status = write_slab(w->s, &w->s->slabs[1 - w->s->filling], &w->write_err);
            continue;
        }
        /* A chunk ends with its matrix: the next rows have another importance. */
        const int64_t n_out = w->job->matrix_rows;
        const int64_t end = w->first_row + w->n_rows;
        int64_t row = w->first_row + (item - 1) * w->chunk_rows;
        const int64_t stop = row + w->chunk_rows < end ? row + w->chunk_rows : end;
        while (row < stop && s->err_row < 0 && row < atomic_load(&w->failed)) {
            const int64_t matrix_end = (row / n_out + 1) * n_out;
            const int64_t n = (matrix_end < stop ? matrix_end : stop) - row;
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

static om_status prepare_scratch(om_slabs *s, size_t floats, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < s->n_threads; i++) {
        size_t a = s->scratch_floats, b = s->scratch_floats;
        OM_TRY(grow((void **) &s->workers[i].source, &a, floats, sizeof(float), err));
        OM_TRY(grow((void **) &s->workers[i].result, &b, floats, sizeof(float), err));
    }
    if (floats > s->scratch_floats) {
        s->scratch_floats = floats;
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
    for (int i = 0; i < w->s->n_threads; i++) {
        const scratch *s = &w->s->workers[i];
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
    om_slabs *s = w->s;
    for (int i = 0; i < s->n_threads; i++) {
        s->workers[i].err = (om_error){ 0 };
        s->workers[i].err_row = -1;
    }
    atomic_store(&w->failed, INT64_MAX);
    w->write_status = OM_OK;
    const int64_t n_chunks = (w->n_rows + w->chunk_rows - 1) / w->chunk_rows;
    om_parallel_for(s->pool, n_chunks + 1, 1, work_items, w);
    return first_failure(w, err);
}

static int64_t bytes_per_row(const om_slab_job *job) {
    int64_t n = 0;
    for (int k = 0; k < OM_SLAB_PARTS; k++) {
        n += job->parts[k].row_bytes;
    }
    return n;
}

/* Room for the rows of this slab, part behind part. */
static om_status lay_out(slab_work *w, int64_t pad, om_error *err) {
    om_status status = OM_OK;
    const om_slab_job *job = w->job;
    slab *s = &w->s->slabs[w->s->filling];
    const size_t bytes = (size_t) (w->n_rows * bytes_per_row(job) + pad);
    OM_TRY(grow((void **) &s->data, &s->cap, bytes, 1, err));
    unsigned char *at = s->data;
    for (int k = 0; k < OM_SLAB_PARTS; k++) {
        w->parts[k] = at;
        at += w->n_rows * job->parts[k].row_bytes;
    }
    memset(at, 0, (size_t) pad);
out:
    return status;
}

/* The slab is made: what the sink gets when the next one is. */
static void hand_over(slab_work *w, int64_t pad) {
    const om_slab_job *job = w->job;
    slab *s = &w->s->slabs[w->s->filling];
    for (int k = 0; k < OM_SLAB_PARTS; k++) {
        const int64_t row_bytes = job->parts[k].row_bytes;
        if (row_bytes > 0) {
            s->pieces[s->n_pieces++] =
                (om_piece){ .data = w->parts[k],
                            .n = (size_t) (w->n_rows * row_bytes + (k == 0 ? pad : 0)),
                            .file = job->parts[k].file,
                            .offset = job->parts[k].offset + w->first_row * row_bytes };
        }
    }
    w->s->filling = 1 - w->s->filling;
}

/* ---- one tensor ---- */

om_status om_slabs_flush(om_slabs *s, om_error *err) {
    return write_slab(s, &s->slabs[1 - s->filling], err);
}

/* Add eq. (1) of the rows [first, first + n) to *sum: r_i / total_e * row_errors[i], in row order.
 */
static void add_nats(double *sum, const om_slab_job *job, const double *totals,
                     const double *row_errors, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double total = totals[(first + i) / job->matrix_rows];
        if (total > 0) {
            *sum += (double) job->rows[first + i] / total * row_errors[i];
        }
    }
}

/* [matrices] f64 sums of the rows of F, owned; in row order. */
static double *matrix_totals(const om_slab_job *job) {
    double *totals = om_calloc((size_t) job->matrices, sizeof *totals);
    for (int64_t i = 0; totals != NULL && i < job->matrices * job->matrix_rows; i++) {
        totals[i / job->matrix_rows] += (double) job->rows[i];
    }
    return totals;
}

static int64_t rows_per_slab(const om_slabs *s, const om_slab_job *job) {
    const int64_t n_rows = job->matrices * job->matrix_rows, row_bytes = bytes_per_row(job);
    int64_t rows = (int64_t) SLAB_WEIGHTS_PER_THREAD * s->n_threads / job->n_in;
    if (rows > slab_bytes_max / row_bytes) {
        rows = slab_bytes_max / row_bytes;
    }
    return rows < 1 ? 1 : rows > n_rows ? n_rows : rows;
}

om_status om_slabs_run(double *nats, om_slabs *s, const om_slab_job *job, om_error *err) {
    const int64_t n_rows = job->matrices * job->matrix_rows, slab_rows = rows_per_slab(s, job);
    slab_work w = { .s = s, .job = job };
    w.chunk_rows = CHUNK_WEIGHTS / job->n_in > 1 ? CHUNK_WEIGHTS / job->n_in : 1;
    double *totals = NULL;
    double sum = 0;
    om_status status = OM_OK;

    OM_TRY(prepare_scratch(s, (size_t) (w.chunk_rows * job->n_in), err));
    if (job->rows != NULL) {
        OM_TRY(grow((void **) &s->row_errors, &s->row_errors_cap, (size_t) slab_rows,
                    sizeof *s->row_errors, err));
        w.row_errors = s->row_errors;
        totals = matrix_totals(job);
        if (totals == NULL) {
            OM_TRY(om_fail_nomem(err, (size_t) job->matrices * sizeof *totals));
        }
    }
    for (int64_t row = 0; row < n_rows; row += slab_rows) {
        w.first_row = row;
        w.n_rows = n_rows - row < slab_rows ? n_rows - row : slab_rows;
        const int64_t pad = row + w.n_rows == n_rows ? job->pad_bytes : 0;
        OM_TRY(lay_out(&w, pad, err));
        OM_TRY(run_slab(&w, err));
        hand_over(&w, pad);
        if (job->rows != NULL) {
            add_nats(&sum, job, totals, s->row_errors, row, w.n_rows);
        }
        job->forget(job->ud, row, w.n_rows);
    }
    *nats = job->rows != NULL ? sum / (2.0 * (double) job->tokens) : (double) NAN;
out:
    om_free(totals);
    return status;
}
