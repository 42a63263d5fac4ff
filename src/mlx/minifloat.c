/* Groups of small floats (docs/method.md, after eq. 17). A code is FP4 E2M1 or FP8 E4M3; the scale
 * is a power of two, E8M0, or (nvfp4) an E4M3.
 *
 * Facts: OCP Microscaling Formats 1.0 for the numbers; how mlx rounds, by experiment with mlx
 * 0.32.4:
 *
 * - The scale: of amax / 6 (FP4) or amax / 448 (FP8), divided in the dtype of the weights, it is
 *   the smallest power of two that is not less, or the nearest E4M3; of zero it is 2^0.
 * - FP4: the first of 0, .5, 1, 1.5, 2, 3, 4, 6, -0, -.5 … with the least distance. So ties go
 *   towards zero, -0 does not occur, and what is so far off that all distances are equal becomes 0.
 * - E4M3: ties to even, saturates at 448. */
#include "mlx/minifloat.h"

#include <math.h>
#include <stdbool.h>

#include "mlx/codes.h"

static const float fp4[16] = { 0,     0.5F,  1,     1.5F,  2,     3,     4,     6,
                               -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F };

/* Below 2^-6 the last bit of E4M3 weighs 2^-9, as that of 2^14 + x in binary32. */
static uint8_t e4m3_from(float x) {
    const uint32_t bits = om_float_bits(x);
    float a = om_float_from(bits & 0x7FFFFFFFU);
    a = a < 448 ? a : 448;
    const uint32_t u = om_float_bits(a);
    const uint32_t e = a < 0x1p-6F ? om_float_bits(a + 0x1p14F) - om_float_bits(0x1p14F)
                                   : ((u + 0x7FFFFU + ((u >> 20) & 1U)) >> 20) - (120U << 3);
    return (uint8_t) (e | ((bits >> 24) & 0x80U));
}

/* E4M3's exponent is biased by 7, binary32's by 127. */
static float e4m3_value(uint8_t code) {
    const uint32_t low = code & 0x7FU;
    const float a = low < 8 ? (float) low * 0x1p-9F : om_float_from((low << 20) + (120U << 23));
    return code & 0x80 ? -a : a;
}

/* The smallest power of two >= x. */
static uint8_t e8m0_above(float x) {
    if (x == 0) {
        return 127;
    }
    int exponent;
    const float mantissa = frexpf(x, &exponent); /* [0.5, 1) */
    exponent -= mantissa == 0.5F;
    exponent = exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
    return (uint8_t) (exponent + 127);
}

float om_mlx_minifloat_scale(const om_format *format, uint8_t scale) {
    return format->mlx == OM_MLX_NVFP4 ? e4m3_value(scale) : ldexpf(1.0F, scale - 127);
}

float om_mlx_minifloat_value(const om_format *format, uint8_t code) {
    return format->mlx == OM_MLX_MXFP8 ? e4m3_value(code) : fp4[code & 15];
}

static uint8_t fp4_from(float x) {
    uint8_t best = 0;
    float least = fabsf(x);
    for (uint8_t c = 1; c < 16; c++) {
        const float d = fabsf(x - fp4[c]);
        best = d < least ? c : best;
        least = d < least ? d : least;
    }
    return best;
}

static void encode(uint8_t *codes, const om_format *format, uint8_t scale, const float *w) {
    const float s = om_mlx_minifloat_scale(format, scale);
    for (int j = 0; j < format->block; j++) {
        const float x = s == 0 ? 0 : w[j] / s;
        codes[j] = format->mlx == OM_MLX_MXFP8 ? e4m3_from(x) : fp4_from(x);
    }
}

static float rounded(float x, om_mlx_dtype dtype) {
    unsigned char bytes[4];
    om_mlx_put(bytes, x, dtype);
    return om_mlx_get(bytes, dtype);
}

void om_mlx_minifloat_plain(uint8_t *codes, uint8_t *scale, const om_format *format,
                            om_mlx_dtype dtype, const float *w) {
    float most = 0;
    for (int j = 0; j < format->block; j++) {
        most = fabsf(w[j]) > most ? fabsf(w[j]) : most;
    }
    const float top = rounded(most / (format->mlx == OM_MLX_MXFP8 ? 448.0F : 6.0F), dtype);
    *scale = format->mlx == OM_MLX_NVFP4 ? e4m3_from(top) : e8m0_above(top);
    encode(codes, format, *scale, w);
}

static double weighted_error(const uint8_t *codes, const om_format *format, uint8_t scale,
                             const float *w, const float *c) {
    const float s = om_mlx_minifloat_scale(format, scale);
    double sum = 0;
    for (int j = 0; j < format->block; j++) {
        const double e = (double) w[j] - (double) (s * om_mlx_minifloat_value(format, codes[j]));
        sum += (double) c[j] * (e * e);
    }
    return sum;
}

void om_mlx_minifloat_search(uint8_t *codes, uint8_t *scale, const om_format *format,
                             om_mlx_dtype dtype, const float *w, const float *c,
                             const float *given) {
    om_mlx_minifloat_plain(codes, scale, format, dtype, w);
    double least = weighted_error(codes, format, *scale, w, c);
    const double plain = weighted_error(codes, format, *scale, w, given);
    /* A step of an E4M3 scale is 1/8 to 1/16: from half of mlx's to a quarter above. */
    const bool e4m3 = format->mlx == OM_MLX_NVFP4;
    const int below = e4m3 ? 8 : 1, above = e4m3 ? 3 : 1, end = e4m3 ? 126 : 254;
    const int first = *scale - below > 0 ? *scale - below : 0;
    const int last = *scale + above < end ? *scale + above : end;
    for (int s = first; s <= last; s++) {
        uint8_t trial[OM_MLX_MAX_GROUP];
        encode(trial, format, (uint8_t) s, w);
        const double e = weighted_error(trial, format, (uint8_t) s, w, c);
        if (e < least && weighted_error(trial, format, (uint8_t) s, w, given) <= plain) {
            least = e;
            *scale = (uint8_t) s;
            memcpy(codes, trial, (size_t) format->block);
        }
    }
}
