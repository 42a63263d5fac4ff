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
    return om_mlx_job_source_row(job, row) / job->tensor->ne[1];
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
