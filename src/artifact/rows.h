/* A few rows of one tensor: F32, quantized bytes, and what the rounding costs. No threads here. */
#ifndef OM_ARTIFACT_ROWS_H
#define OM_ARTIFACT_ROWS_H

#include "base/error.h"
#include "model/format.h"
#include "model/gguf.h"

/** One tensor to write. Everything borrowed for the duration of the call. */
typedef struct om_rowquant_job {
    const om_tensor *tensor;
    const om_format *to;     /* equal to tensor->format: copied byte for byte */
    int experts;             /* matrices in the stack: ne[2] * ne[3] */
    const float *importance; /* [experts, ne0] f32; NULL: none */
    const float *rows;       /* [experts, ne1] f32 row marginals of F; NULL: nats stay unknown */
    const float *cols;       /* [experts, ne0] f32 column marginals of F; NULL with rows */
    int64_t tokens;          /* N of eq. (1), > 0 when rows are given */
} om_rowquant_job;

/** Can the job be done at all? Errors: OM_E_MISMATCH (block does not divide the row, importance
 * needed and missing). Call it before om_rows_quantize: ggml aborts on both. */
om_status om_rows_check(const om_rowquant_job *job, om_error *err) OM_WARN_UNUSED;

/** Index of the first value that is not finite; -1: none. */
int64_t om_rows_not_finite(const float *x, int64_t n);

/** Could a scale overflow? They have 16 bits and are at most as large as the largest weight or so;
 * nearly always no: false when no |x| is above 10,000. */
bool om_rows_have_large(const float *x, int64_t n);
/** sum_j c_j (a_j - b_j)^2 over n, in a fixed order. */
double om_rows_weighted_error(const float *a, const float *b, const float *c, int64_t n);

/** Quantize rows [first, first + n), which must lie in one matrix of the stack.
 *
 *  out     [om_format_size(to, ne0, n)] u8
 *  source  out [n, ne0] f32; the rows before quantization
 *
 *  Errors: OM_E_NUMERIC with tensor, row and column (source not finite), or when ggml's validation
 *          refuses the result. Thread-safe after ggml_quantize_init(to). A row's bytes do not
 *          depend on the rows beside it. */
om_status om_rows_quantize(unsigned char *out, float *source, const om_rowquant_job *job,
                           int64_t first, int64_t n, om_error *err) OM_WARN_UNUSED;

/** errors [n] f64 = sum_j c_j (w_ij - q_ij)^2 of the same rows; scratch [n, ne0] f32 receives the
 * dequantized rows. Summed in a fixed order. job->cols is not NULL. */
void om_rows_errors(double *errors, float *scratch, const float *source, const unsigned char *data,
                    const om_rowquant_job *job, int64_t first, int64_t n);

#endif
