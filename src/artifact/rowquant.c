/* Quantizes a tensor: mapped source rows -> F32 -> ggml_quantize_chunk -> sink, in order.
 *
 * Threads, slabs and nats are those of slabs.c; here is what one chunk of rows is for a GGUF: read
 * as F32, checked, quantized by ggml alone (its block scales see one row and the importance of its
 * columns), validated, dequantized for the error. Source pages are dropped from the mapping behind
 * the work.
 *
 * What it deliberately does not do: choose types, or know the file's layout (gguf_write.c does). */
#include "artifact/rowquant.h"

#include <ggml.h>
#include <inttypes.h>
#include <math.h>

#include "artifact/slabs.h"
#include "base/log.h"
#include "base/mem.h"

struct om_rowquant {
    om_sink sink;
    const om_env *env;
    om_slabs *slabs;
};

static om_status write_piece(void *ud, const om_piece *piece, om_error *err) {
    const om_rowquant *q = ud;
    return q->sink.write(q->sink.ud, piece->data, piece->n, err);
}

om_status om_rowquant_new(om_rowquant **out, om_sink sink, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_rowquant *q = om_calloc(1, sizeof *q);
    if (q == NULL) {
        return om_fail_nomem(err, sizeof *q);
    }
    q->sink = sink;
    q->env = env;
    OM_TRY(om_slabs_new(&q->slabs, (om_piece_sink){ write_piece, q }, env, err));
    *out = q;
    q = NULL;
out:
    om_rowquant_free(q);
    return status;
}

void om_rowquant_free(om_rowquant *q) {
    if (q != NULL) {
        om_slabs_free(q->slabs);
        om_free(q);
    }
}

void om_rowquant_progress(om_rowquant *q, int64_t done_bytes, int64_t total_bytes) {
    om_slabs_progress(q->slabs, done_bytes, total_bytes);
}

om_status om_rowquant_flush(om_rowquant *q, om_error *err) {
    return om_slabs_flush(q->slabs, err);
}

/* Drop bytes [first, first + n) of the tensor from the mapping: they have been used. */
static void forget(const om_model *model, const om_tensor *t, int64_t first, int64_t n) {
    const om_map *map = om_model_split_map(model, t->split);
    om_map_forget(map, (size_t) (t->data - map->data) + (size_t) first, (size_t) n);
}

/* ---- copies ---- */

static om_status pad_sink(om_rowquant *q, int64_t bytes, int64_t alignment, om_error *err) {
    static const unsigned char zeros[64] = { 0 };
    om_status status = OM_OK;
    for (int64_t left = om_pad(bytes, alignment) - bytes; left > 0;) {
        const int64_t n = left < (int64_t) sizeof zeros ? left : (int64_t) sizeof zeros;
        OM_TRY(q->sink.write(q->sink.ud, zeros, (size_t) n, err));
        left -= n;
    }
    om_slabs_written(q->slabs, om_pad(bytes, alignment) - bytes);
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
        om_slabs_written(q->slabs, n);
        forget(model, t, at, n);
    }
    OM_TRY(pad_sink(q, t->bytes, alignment, err));
out:
    return status;
}

/* ---- quantization ---- */

typedef struct source {
    const om_model *model;
    const om_rowquant_job *job;
} source;

static om_status make_rows(const void *ud, const om_chunk *c, om_error *err) {
    const om_rowquant_job *job = ((const source *) ud)->job;
    om_status status = om_rows_quantize(c->parts[0], c->source, job, c->first, c->n, err);
    if (status == OM_OK && c->errors != NULL) {
        om_rows_errors(c->errors, c->result, c->source, c->parts[0], job, c->first, c->n);
    }
    return status;
}

static void forget_rows(const void *ud, int64_t first, int64_t n) {
    const source *s = ud;
    const om_tensor *t = s->job->tensor;
    const int64_t row_bytes = t->bytes / om_tensor_n_rows(t);
    forget(s->model, t, first * row_bytes, n * row_bytes);
}

om_status om_rowquant_tensor(double *nats, om_rowquant *q, const om_model *model,
                             const om_rowquant_job *job, int64_t alignment, om_error *err) {
    om_status status = OM_OK;
    const om_tensor *t = job->tensor;
    const source s = { model, job };
    *nats = 0;
    if (job->to == t->format) {
        return copy_tensor(q, model, t, alignment, err);
    }
    OM_TRY(om_rows_check(job, err));
    const int64_t bytes = om_format_size(job->to, t->ne[0], om_tensor_n_rows(t));
    const om_slab_job slab_job = {
        .n_in = t->ne[0],
        .matrix_rows = t->ne[1],
        .matrices = job->experts,
        .parts = { { .row_bytes = om_format_size(job->to, t->ne[0], 1) } },
        .pad_bytes = om_pad(bytes, alignment) - bytes,
        .make = make_rows,
        .forget = forget_rows,
        .ud = &s,
        .rows = job->rows,
        .tokens = job->tokens,
    };
    ggml_quantize_init((enum ggml_type) job->to->ggml_type); /* builds tables: before threads */
    OM_TRY(om_slabs_run(nats, q->slabs, &slab_job, err));
out:
    return status;
}
