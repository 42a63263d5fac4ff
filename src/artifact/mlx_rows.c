/* Rows as mlx-lm arranges them -> codes, scales and biases, or 16 bits; and their error in F's
 * metric. */
#include "artifact/mlx_rows.h"

#include <ggml.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/rows.h"
#include "base/mem.h"

static int64_t rows_of(const om_hf_tensor *t) {
    return t->n_dims < 2 ? 1 : t->ne[1] * t->ne[2] * t->ne[3];
}

static int64_t matrix_rows(const om_hf_tensor *t) {
    return t->n_dims < 2 ? 1 : t->ne[1];
}

void om_mlx_job_row_bytes(int64_t row_bytes[OM_MLX_PARTS], const om_mlx_job *job) {
    const int64_t n_in = job->tensor->ne[0];
    memset(row_bytes, 0, OM_MLX_PARTS * sizeof *row_bytes);
    if (job->to->mlx == OM_MLX_NONE) {
        row_bytes[0] = 2 * n_in;
        return;
    }
    row_bytes[0] = om_mlx_codes_bytes(job->to, n_in);
    row_bytes[1] = om_mlx_scales_bytes(job->to, job->dtype, n_in);
    row_bytes[2] = job->to->mlx == OM_MLX_AFFINE ? row_bytes[1] : 0;
}

static om_mlx_rows rows_in(unsigned char *const parts[OM_MLX_PARTS], const om_mlx_job *job) {
    return (om_mlx_rows){
        .codes = parts[0],
        .scales = parts[1],
        .biases = job->to->mlx == OM_MLX_AFFINE ? parts[2] : NULL,
    };
}

static bool is_half(const om_mlx_job *job) {
    return job->to->ggml_type == GGML_TYPE_F16;
}

static void from_dense(float *out, const unsigned char *data, const om_mlx_job *job, int64_t n) {
    if (is_half(job)) {
        ggml_fp16_to_fp32_row((const ggml_fp16_t *) (const void *) data, out, n);
    } else {
        ggml_bf16_to_fp32_row((const ggml_bf16_t *) (const void *) data, out, n);
    }
}

static void to_dense(unsigned char *data, const float *x, const om_mlx_job *job, int64_t n) {
    if (is_half(job)) {
        ggml_fp32_to_fp16_row(x, (ggml_fp16_t *) (void *) data, n);
    } else { /* the one that is the same on every processor */
        ggml_fp32_to_bf16_row_ref(x, (ggml_bf16_t *) (void *) data, n);
    }
}

void om_mlx_job_read(float *out, unsigned char *const parts[OM_MLX_PARTS], const om_mlx_job *job,
                     int64_t n) {
    const int64_t n_in = job->tensor->ne[0];
    if (job->to->mlx == OM_MLX_NONE) {
        from_dense(out, parts[0], job, n * n_in);
    } else {
        const om_mlx_rows rows = rows_in(parts, job);
        om_mlx_dequantize(out, &rows, job->to, job->dtype, n, n_in);
    }
}

/* Could anything overflow in 16 bits? Nearly always no. */
static om_status check_result(unsigned char *const parts[OM_MLX_PARTS], const float *source,
                              const om_mlx_job *job, int64_t first, int64_t n, om_error *err) {
    const int64_t n_in = job->tensor->ne[0];
    om_status status = OM_OK;
    if (!om_rows_have_large(source, n * n_in)) {
        return OM_OK;
    }
    float *back = om_calloc((size_t) (n * n_in), sizeof *back);
    if (back == NULL) {
        return om_fail_nomem(err, (size_t) (n * n_in) * sizeof *back);
    }
    om_mlx_job_read(back, parts, job, n);
    const int64_t bad = om_rows_not_finite(back, n * n_in);
    if (bad >= 0) {
        status =
            om_fail(err, OM_E_NUMERIC,
                    "%s: %g in row %" PRId64 " does not fit %s: choose another type for this "
                    "tensor",
                    job->tensor->name, (double) source[bad], first + bad / n_in, job->to->name);
    }
    om_free(back);
    return status;
}

/* Rows of one expert: of a router it has one. */
static int64_t expert_rows(const om_hf_tensor *t) {
    return t->n_dims < 3 ? 1 : t->ne[1];
}

int64_t om_mlx_job_source_row(const om_mlx_job *job, int64_t row) {
    const int64_t rows = expert_rows(job->tensor);
    return job->order == NULL ? row : job->order[row / rows] * rows + row % rows;
}

/* The matrix of the source that a row comes from. */
static int64_t source_matrix(const om_mlx_job *job, int64_t row) {
    return om_mlx_job_source_row(job, row) / matrix_rows(job->tensor);
}

static om_status read_source(float *out, const om_mlx_job *job, int64_t first, int64_t n,
                             om_error *err) {
    const om_hf_tensor *t = job->tensor;
    const int64_t rows = job->order == NULL ? first + n : expert_rows(t);
    om_status status = OM_OK;
    int64_t count;
    for (int64_t done = 0; done < n; done += count) {
        const int64_t row = first + done, left = rows - row % rows;
        count = n - done < left ? n - done : left;
        OM_TRY(om_hf_rows_f32(out + done * t->ne[0], job->hf, t, OM_HF_MLX,
                              om_mlx_job_source_row(job, row), count, err));
    }
out:
    return status;
}

om_status om_mlx_job_make(unsigned char *const parts[OM_MLX_PARTS], float *source,
                          const om_mlx_job *job, int64_t first, int64_t n, om_error *err) {
    const om_hf_tensor *t = job->tensor;
    const int64_t n_in = t->ne[0];
    om_status status = OM_OK;
    OM_TRY(read_source(source, job, first, n, err));
    const int64_t bad = om_rows_not_finite(source, n * n_in);
    if (bad >= 0) {
        OM_TRY(om_fail(err, OM_E_NUMERIC,
                       "%s: row %" PRId64 ", column %" PRId64 " of the source is %g: the model's "
                       "file is damaged or was converted wrongly",
                       t->name, om_mlx_job_source_row(job, first + bad / n_in), bad % n_in,
                       (double) source[bad]));
    }
    if (job->to->mlx == OM_MLX_NONE) {
        to_dense(parts[0], source, job, n * n_in);
    } else {
        const om_mlx_rows rows = rows_in(parts, job);
        if (job->importance == NULL) {
            om_mlx_quantize_plain(&rows, job->to, job->dtype, source, n, n_in);
        } else {
            om_mlx_quantize_search(&rows, job->to, job->dtype, source,
                                   job->importance + source_matrix(job, first) * n_in, n, n_in);
        }
    }
    OM_TRY(check_result(parts, source, job, first, n, err));
out:
    return status;
}

void om_mlx_job_errors(double *errors, float *scratch, const float *source,
                       unsigned char *const parts[OM_MLX_PARTS], const om_mlx_job *job,
                       int64_t first, int64_t n) {
    const int64_t n_in = job->tensor->ne[0];
    const float *cols = job->cols + source_matrix(job, first) * n_in;
    om_mlx_job_read(scratch, parts, job, n);
    for (int64_t i = 0; i < n; i++) {
        errors[i] = om_rows_weighted_error(source + i * n_in, scratch + i * n_in, cols, n_in);
    }
}

/* ---- the order of rows ---- */

typedef struct row_hash {
    uint64_t hash;
    int64_t row;
} row_hash;

static int by_hash(const void *a, const void *b) {
    const row_hash *x = a, *y = b;
    if (x->hash != y->hash) {
        return x->hash < y->hash ? -1 : 1;
    }
    return x->row < y->row ? -1 : x->row > y->row;
}

static uint64_t hash_of(const float *row, int64_t n) {
    uint64_t h = 0xCBF29CE484222325ULL;
    for (int64_t j = 0; j < n; j++) {
        uint32_t bits;
        memcpy(&bits, row + j, sizeof bits);
        h = (h ^ bits) * 0x9E3779B97F4A7C15ULL;
        h ^= h >> 29;
    }
    return h;
}

/* Rows 1 to 31, and 31 more over the whole: any reordering of heads moves the first ones. */
static om_status same_order(bool *same, const om_hf *hf, const om_hf_tensor *t, float *a, float *b,
                            om_error *err) {
    om_status status = OM_OK;
    const int64_t n_rows = rows_of(t);
    *same = true;
    for (int64_t k = 1; k < 63 && *same; k++) {
        const int64_t row = k < 32 ? k : n_rows / 32 * (k - 31);
        if (row < n_rows) {
            OM_TRY(om_hf_rows_f32(a, hf, t, OM_HF_MLX, row, 1, err));
            OM_TRY(om_hf_rows_f32(b, hf, t, OM_HF_GGUF, row, 1, err));
            *same = memcmp(a, b, (size_t) t->ne[0] * sizeof *a) == 0;
        }
    }
out:
    return status;
}

static om_status hash_rows(row_hash *out, const om_hf *hf, const om_hf_tensor *t, om_hf_view view,
                           float *row, om_error *err) {
    om_status status = OM_OK;
    for (int64_t i = 0; i < rows_of(t); i++) {
        OM_TRY(om_hf_rows_f32(row, hf, t, view, i, 1, err));
        out[i] = (row_hash){ hash_of(row, t->ne[0]), i };
    }
    qsort(out, (size_t) rows_of(t), sizeof *out, by_hash);
out:
    return status;
}

om_status om_mlx_row_order(int64_t **out, const om_hf *hf, const om_hf_tensor *t, om_error *err) {
    om_status status = OM_OK;
    const int64_t n_rows = rows_of(t);
    bool same = true;
    row_hash *here = NULL, *there = NULL;
    int64_t *order = NULL;
    float *a = om_calloc((size_t) t->ne[0], sizeof *a),
          *b = om_calloc((size_t) t->ne[0], sizeof *b);
    *out = NULL;
    if (a == NULL || b == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) t->ne[0] * sizeof *a));
    }
    OM_TRY(same_order(&same, hf, t, a, b, err));
    if (same) {
        goto out;
    }
    here = om_calloc((size_t) n_rows, sizeof *here);
    there = om_calloc((size_t) n_rows, sizeof *there);
    order = om_calloc((size_t) n_rows, sizeof *order);
    if (here == NULL || there == NULL || order == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n_rows * sizeof *here));
    }
    OM_TRY(hash_rows(here, hf, t, OM_HF_MLX, a, err));
    OM_TRY(hash_rows(there, hf, t, OM_HF_GGUF, a, err));
    for (int64_t i = 0; i < n_rows; i++) {
        if (here[i].hash != there[i].hash) {
            OM_TRY(om_fail(err, OM_E_INTERNAL, "%s: row %" PRId64 " is not among the GGUF's rows",
                           t->name, here[i].row));
        }
        order[here[i].row] = there[i].row;
    }
    *out = order;
    order = NULL;
out:
    om_free(a);
    om_free(b);
    om_free(here);
    om_free(there);
    om_free(order);
    return status;
}
