/* Rows of one matrix: checked, quantized by ggml, validated, and their error in F's metric.
 *
 * The kernels are written for the compiler's vectorizer in a fixed order of operations, so that the
 * same file and the same nats come out of every machine: no float sum whose order the compiler may
 * choose, and no fused multiply-add that the source does not ask for (-ffp-contract=off). */
#include "artifact/rows.h"

#include <ggml.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"

/* The sum of x * 0 is 0 exactly when all are finite, and unlike a test per value it vectorizes. */
int64_t om_rows_not_finite(const float *x, int64_t n) {
    float lanes[16] = { 0 };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int k = 0; k < 16; k++) {
            lanes[k] += x[i + k] * 0.0F;
        }
    }
    bool clean = true;
    for (int k = 0; k < 16; k++) {
        clean = clean && lanes[k] == 0.0F;
    }
    for (i = clean ? i : 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return i;
        }
    }
    return -1;
}

/* Eight lanes, so that it vectorizes, then a tree. */
double om_rows_weighted_error(const float *a, const float *b, const float *c, int64_t n) {
    double lanes[8] = { 0 };
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        for (int k = 0; k < 8; k++) {
            const double e = (double) a[j + k] - (double) b[j + k];
            lanes[k] += (double) c[j + k] * (e * e);
        }
    }
    for (int k = 0; j < n; j++, k++) {
        const double e = (double) a[j] - (double) b[j];
        lanes[k] += (double) c[j] * (e * e);
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static void dequantize(float *out, const om_format *format, const unsigned char *data, int64_t n) {
    if (format->ggml_type == GGML_TYPE_F32) {
        memcpy(out, data, (size_t) n * sizeof *out);
        return;
    }
    ggml_get_type_traits((enum ggml_type) format->ggml_type)->to_float(data, out, n);
}

om_status om_rows_check(const om_rowquant_job *job, om_error *err) {
    const om_tensor *t = job->tensor;
    if (om_format_size(job->to, t->ne[0], om_tensor_n_rows(t)) < 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: rows of %" PRId64
                       " weights cannot be %s (blocks of %d): choose another "
                       "type for it",
                       t->name, t->ne[0], job->to->name, job->to->block);
    }
    if (job->importance == NULL &&
        ggml_quantize_requires_imatrix((enum ggml_type) job->to->ggml_type)) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: %s needs importance statistics and there are none for this tensor: "
                       "choose another type for it",
                       t->name, job->to->name);
    }
    return OM_OK;
}

/* The bits of floats without sign are ordered as the floats are, and integers vectorize. */
bool om_rows_have_large(const float *x, int64_t n) {
    const float limit = 10000.0F;
    uint32_t largest = 0, limit_bits;
    memcpy(&limit_bits, &limit, sizeof limit_bits);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFF;
        largest = bits > largest ? bits : largest;
    }
    return largest > limit_bits;
}

/* ggml's own validation prints what it finds to standard error, so for large weights the numbers
 * are looked at first. */
static om_status check_result(bool *valid, const unsigned char *data, const float *source,
                              const om_rowquant_job *job, int64_t n, om_error *err) {
    const int64_t n_in = job->tensor->ne[0], row_bytes = om_format_size(job->to, n_in, 1);
    *valid = true;
    if (om_rows_have_large(source, n * n_in)) {
        float *row = om_calloc((size_t) n_in, sizeof *row);
        if (row == NULL) {
            return om_fail_nomem(err, (size_t) n_in * sizeof *row);
        }
        for (int64_t r = 0; r < n && *valid; r++) {
            dequantize(row, job->to, data + r * row_bytes, n_in);
            *valid = om_rows_not_finite(row, n_in) < 0;
        }
        om_free(row);
    }
    *valid = *valid && ggml_validate_row_data((enum ggml_type) job->to->ggml_type, data,
                                              (size_t) (n * row_bytes));
    return OM_OK;
}

om_status om_rows_quantize(unsigned char *out, float *source, const om_rowquant_job *job,
                           int64_t first, int64_t n, om_error *err) {
    const om_tensor *t = job->tensor;
    const enum ggml_type type = (enum ggml_type) job->to->ggml_type;
    om_status status = OM_OK;
    OM_TRY(om_tensor_rows_f32(source, t, first, n, err));
    const int64_t bad = om_rows_not_finite(source, n * t->ne[0]);
    if (bad >= 0) {
        return om_fail(err, OM_E_NUMERIC,
                       "%s: row %" PRId64 ", column %" PRId64 " of the source is %g: the model's "
                       "file is damaged or was converted wrongly",
                       t->name, first + bad / t->ne[0], bad % t->ne[0], (double) source[bad]);
    }
    const float *importance =
        job->importance == NULL ? NULL : job->importance + first / t->ne[1] * t->ne[0];
    (void) ggml_quantize_chunk(type, source, out, 0, n, t->ne[0], importance);
    bool valid = false;
    OM_TRY(check_result(&valid, out, source, job, n, err));
    if (!valid) {
        return om_fail(err, OM_E_NUMERIC,
                       "%s: rows %" PRId64 " to %" PRId64 " do not fit %s (a scale is not finite): "
                       "choose another type for this tensor",
                       t->name, first, first + n - 1, job->to->name);
    }
out:
    return status;
}

void om_rows_errors(double *errors, float *scratch, const float *source, const unsigned char *data,
                    const om_rowquant_job *job, int64_t first, int64_t n) {
    const int64_t n_in = job->tensor->ne[0];
    const float *cols = job->cols + first / job->tensor->ne[1] * n_in;
    dequantize(scratch, job->to, data, n * n_in);
    for (int64_t i = 0; i < n; i++) {
        errors[i] = om_rows_weighted_error(source + i * n_in, scratch + i * n_in, cols, n_in);
    }
}
