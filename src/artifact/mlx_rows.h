/* A few rows of one tensor of a Hugging Face directory as MLX stores them. No threads here. */
#ifndef OM_ARTIFACT_MLX_ROWS_H
#define OM_ARTIFACT_MLX_ROWS_H

#include "hf/directory.h"
#include "mlx/quants.h"

enum { OM_MLX_PARTS = 3 /* weight, scales, biases */ };

/** One tensor to write. Everything borrowed for the duration of the call. */
typedef struct om_mlx_job {
    const om_hf *hf;
    const om_hf_tensor *tensor;
    const om_format *to; /* a type of MLX; bf16 or f16: dense */
    om_mlx_dtype dtype;  /* of scales and biases */
    const float
        *importance; /* [experts, ne0] f32: scales and biases are searched; NULL: plain rounding */
    const float *cols; /* [experts, ne0] f32 column marginals of F; NULL: errors are not wanted */
    const int *order;  /* of experts in banks, and of their router: the expert of the source at each
                          place; NULL: the tensor as it is */
} om_mlx_job;

/** Row of the source that becomes row `row`. */
int64_t om_mlx_job_source_row(const om_mlx_job *job, int64_t row);

/** Bytes of one row of each part; 0: no such part. */
void om_mlx_job_row_bytes(int64_t row_bytes[OM_MLX_PARTS], const om_mlx_job *job);

/** Make rows [first, first + n), in the output's order, which must lie in one matrix of the stack.
 *
 *  parts   where the rows of each part go
 *  source  out [n, ne0] f32; the rows before rounding
 *
 *  Errors: OM_E_NUMERIC with tensor, row and column (source not finite, or too large for the type);
 *          as om_hf_rows_f32. Thread-safe. A row's bytes do not depend on the rows beside it. */
om_status om_mlx_job_make(unsigned char *const parts[OM_MLX_PARTS], float *source,
                          const om_mlx_job *job, int64_t first, int64_t n,
                          om_error *err) OM_WARN_UNUSED;

/** out [n, ne0] f32: what n rows so made say. */
void om_mlx_job_read(float *out, unsigned char *const parts[OM_MLX_PARTS], const om_mlx_job *job,
                     int64_t n);

/** errors [n] f64 = sum_j c_j (w_ij - q_ij)^2 of the same rows; scratch [n, ne0] f32 receives the
 * dequantized rows. Summed in a fixed order. job->cols is not NULL. */
void om_mlx_job_errors(double *errors, float *scratch, const float *source,
                       unsigned char *const parts[OM_MLX_PARTS], const om_mlx_job *job,
                       int64_t first, int64_t n);

#endif
