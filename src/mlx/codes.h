/* What quants.c, minifloat.c and search.c share: codes in the bit stream of a row, and numbers in
 * the dtype of scales and biases, as they lie in files. */
#ifndef OM_MLX_CODES_H
#define OM_MLX_CODES_H

#include <stdint.h>
#include <string.h>

#include "mlx/quants.h"

enum { OM_MLX_MAX_GROUP = 128 }; /* weights that share a scale, at most */

/** n codes of `bits` (2, 3, 4, 5, 6, 8) as n * bits / 8 bytes and back: code i is bits
 * [i * bits, (i + 1) * bits) of the stream, least significant first. n % 8 == 0. */
void om_mlx_pack(unsigned char *out, const uint8_t *codes, int n, int bits);
void om_mlx_unpack(uint8_t *codes, const unsigned char *in, int n, int bits);

/** One affine group of n weights as mx.quantize: codes, and the scale and bias that they come from,
 * not yet rounded to the dtype. */
void om_mlx_plain_affine(uint8_t *codes, float *scale, float *bias, const float *w, int n,
                         int bits);

/** 2 or 4. */
int om_mlx_dtype_bytes(om_mlx_dtype dtype);
/** x rounded to dtype (ties to even, beyond its range infinite, as mlx casts), stored at `out`. */
void om_mlx_put(unsigned char *out, float x, om_mlx_dtype dtype);
float om_mlx_get(const unsigned char *in, om_mlx_dtype dtype);

/** A binary32's 32 bits, and back. */
static inline uint32_t om_float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/** The other way. */
static inline float om_float_from(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/** rint(x) for |x| < 2^22, ties to even: adding 1.5 * 2^23 leaves no bits after the point. Unlike
 * rintf it vectorizes everywhere. */
static inline float om_rint_small(float x) {
    return (x + 0x1.8p23F) - 0x1.8p23F;
}

/** To FP16's 16 bits. Subnormals by an addition after which the last bit weighs 2^-24. */
static inline uint16_t om_f16_from(float x) {
    const uint32_t bits = om_float_bits(x), u = bits & 0x7FFFFFFFU;
    uint32_t h;
    if (u >= 0x47800000U) { /* 2^16 and more */
        h = 0x7C00U;
    } else if (u >= 0x38800000U) { /* 2^-14 and more */
        h = ((u + 0xFFFU + ((u >> 13) & 1U)) >> 13) - (112U << 10);
    } else {
        h = om_float_bits(om_float_from(u) + 0.5F) - 0x3F000000U;
    }
    return (uint16_t) (h | ((bits >> 16) & 0x8000U));
}

/** To BF16's 16 bits. */
static inline uint16_t om_bf16_from(float x) {
    const uint32_t u = om_float_bits(x);
    return (uint16_t) ((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16);
}

#endif
