/* MLX's quantized rows: codes, scales and biases, made and read. The arithmetic of mx.quantize and
 * mx.dequantize (docs/method.md eq. 17), and a rounding that minimises the weighted error (eq. 18).
 * No files here. */
#ifndef OM_MLX_QUANTS_H
#define OM_MLX_QUANTS_H

#include "base/error.h"
#include "model/format.h"

/** Of the scales and biases of affine types: the dtype of the model. */
typedef enum om_mlx_dtype { OM_MLX_BF16, OM_MLX_F16, OM_MLX_F32 } om_mlx_dtype;

/** Where the three tensors' rows go, or come from; contiguous. */
typedef struct om_mlx_rows {
    unsigned char *codes;  /* [n, n_in * bits / 8] */
    unsigned char *scales; /* [n, n_in / group] in dtype; u8 for mxfp4, nvfp4, mxfp8 */
    unsigned char *biases; /* the same; NULL: no affine type */
} om_mlx_rows;

/** Bytes of one row of codes, and of scales (biases have as many when affine). n_in % block == 0.
 */
int64_t om_mlx_codes_bytes(const om_format *format, int64_t n_in);
int64_t om_mlx_scales_bytes(const om_format *format, om_mlx_dtype dtype, int64_t n_in);
/** The rows inside one buffer of n rows: all codes, all scales, all biases. With a 16-bit dtype the
 * buffer has om_format_size(format, n_in, n) bytes. */
om_mlx_rows om_mlx_rows_in(unsigned char *buffer, const om_format *format, om_mlx_dtype dtype,
                           int64_t n_in, int64_t n);

/** As mx.quantize, bit for bit (its CPU backend): min and max of each group. source [n, n_in] f32,
 * finite, representable in dtype for the equality to hold. Thread-safe, no allocation. */
void om_mlx_quantize_plain(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                           const float *source, int64_t n, int64_t n_in);

/** Scale and bias of each group chosen to minimise sum_j importance_j * (w_j - ŵ_j)^2, codes
 * computed from both as they are stored. Never worse than om_mlx_quantize_plain in that sum,
 * group by group. Never infinite: what the dtype cannot hold becomes its largest number.
 *
 *  importance  [n_in] f32, >= 0, not all of it may be known: a group whose importance is all zero
 *              counts every weight the same, and no weight counts less than 1 % of its group's mean
 *
 * Thread-safe, no allocation; a row's bytes do not depend on the rows beside it, nor on the
 * machine. Source: docs/method.md eq. 18. */
void om_mlx_quantize_search(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                            const float *source, const float *importance, int64_t n, int64_t n_in);

/** out [n, n_in] f32 = scale * code + bias in F32, from the stored scale and bias. */
void om_mlx_dequantize(float *out, const om_mlx_rows *rows, const om_format *format,
                       om_mlx_dtype dtype, int64_t n, int64_t n_in);

#endif
