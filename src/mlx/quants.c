/* MLX's rows: where their three parts lie, plain rounding, and back to F32.
 *
 * Affine (docs/method.md eq. 17): ŵ = scale * code + bias over groups of 32, 64 or 128 weights,
 * scale and bias in the dtype of the model. How mx.quantize chooses them: one end of the group,
 * that of larger magnitude, is the bias; the scale makes zero a code. Facts from experiments with
 * mlx 0.32.4; in binary32, every operation rounded by itself (-ffp-contract=off). */
#include "mlx/quants.h"

#include <math.h>
#include <stddef.h>

#include "mlx/codes.h"
#include "mlx/minifloat.h"

static int64_t scale_bytes(const om_format *format, om_mlx_dtype dtype) {
    return format->mlx == OM_MLX_AFFINE ? om_mlx_dtype_bytes(dtype) : 1;
}

int64_t om_mlx_codes_bytes(const om_format *format, int64_t n_in) {
    return n_in / 8 * format->bits;
}

int64_t om_mlx_scales_bytes(const om_format *format, om_mlx_dtype dtype, int64_t n_in) {
    return n_in / format->block * scale_bytes(format, dtype);
}

om_mlx_rows om_mlx_rows_in(unsigned char *buffer, const om_format *format, om_mlx_dtype dtype,
                           int64_t n_in, int64_t n) {
    om_mlx_rows rows = { .codes = buffer };
    rows.scales = buffer + om_mlx_codes_bytes(format, n_in) * n;
    rows.biases = format->mlx == OM_MLX_AFFINE
                      ? rows.scales + om_mlx_scales_bytes(format, dtype, n_in) * n
                      : NULL;
    return rows;
}

/* Sixteen lanes, so that it vectorizes; the order does not matter to a minimum. */
static void range_of(float *least, float *most, const float *w, int n) {
    float low[16], high[16];
    memcpy(low, w, sizeof low);
    memcpy(high, w, sizeof high);
    for (int j = 16; j < n; j += 16) {
        for (int k = 0; k < 16; k++) {
            low[k] = w[j + k] < low[k] ? w[j + k] : low[k];
            high[k] = w[j + k] > high[k] ? w[j + k] : high[k];
        }
    }
    for (int k = 1; k < 16; k++) {
        low[0] = low[k] < low[0] ? low[k] : low[0];
        high[0] = high[k] > high[0] ? high[k] : high[0];
    }
    *least = low[0];
    *most = high[0];
}

/* One end of the group is the bias and gets code 0; the scale makes zero a code. */
void om_mlx_plain_affine(uint8_t *codes, float *scale, float *bias, const float *w, int n,
                         int bits) {
    const float top = (float) ((1 << bits) - 1);
    float least, most;
    range_of(&least, &most, w, n);
    const bool from_least = fabsf(least) > fabsf(most);
    float s = (most - least) / top;
    s = s > 1e-7F ? s : 1e-7F;
    s = from_least ? s : -s;
    const float edge = from_least ? least : most, zero = rintf(edge / s);
    const float b = zero != 0 ? edge : 0;
    s = zero != 0 ? edge / zero : s;
    for (int j = 0; j < n; j++) {
        float q = (w[j] - b) / s;
        q = q > 0 ? q : 0;
        q = q < top ? q : top;
        codes[j] = (uint8_t) (int) om_rint_small(q);
    }
    *scale = s;
    *bias = b;
}

static void plain_group(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                        const float *w, int64_t group) {
    uint8_t codes[OM_MLX_MAX_GROUP];
    const int n = format->block;
    if (format->mlx != OM_MLX_AFFINE) {
        om_mlx_minifloat_plain(codes, out->scales + group, format, dtype, w);
    } else {
        float scale, bias;
        om_mlx_plain_affine(codes, &scale, &bias, w, n, format->bits);
        om_mlx_put(out->scales + group * om_mlx_dtype_bytes(dtype), scale, dtype);
        om_mlx_put(out->biases + group * om_mlx_dtype_bytes(dtype), bias, dtype);
    }
    om_mlx_pack(out->codes + group * om_mlx_codes_bytes(format, n), codes, n, format->bits);
}

void om_mlx_quantize_plain(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                           const float *source, int64_t n, int64_t n_in) {
    const int64_t groups = n * (n_in / format->block);
    for (int64_t g = 0; g < groups; g++) {
        plain_group(out, format, dtype, source + g * format->block, g);
    }
}

void om_mlx_dequantize(float *out, const om_mlx_rows *rows, const om_format *format,
                       om_mlx_dtype dtype, int64_t n, int64_t n_in) {
    const int64_t groups = n * (n_in / format->block), bytes = scale_bytes(format, dtype);
    const int block = format->block;
    for (int64_t g = 0; g < groups; g++, out += block) {
        uint8_t codes[OM_MLX_MAX_GROUP];
        om_mlx_unpack(codes, rows->codes + g * om_mlx_codes_bytes(format, block), block,
                      format->bits);
        if (format->mlx == OM_MLX_AFFINE) {
            const float scale = om_mlx_get(rows->scales + g * bytes, dtype);
            const float bias = om_mlx_get(rows->biases + g * bytes, dtype);
            for (int j = 0; j < block; j++) {
                out[j] = scale * (float) codes[j] + bias;
            }
        } else {
            const float scale = om_mlx_minifloat_scale(format, rows->scales[g]);
            for (int j = 0; j < block; j++) {
                out[j] = scale * om_mlx_minifloat_value(format, codes[j]);
            }
        }
    }
}
