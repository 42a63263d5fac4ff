/* Codes in the bit stream of a row, and scales in their dtype. Facts: mlx's mx.quantize, by
 * experiment. */
#include "mlx/codes.h"

#include "model/safetensors.h"

/* Eight codes of b bits are b bytes whatever b is, so that is the unit. With `bits` a constant the
 * loops become straight code. */
static inline void pack_all(unsigned char *out, const uint8_t *codes, int n, int bits) {
    for (int i = 0; i < n; i += 8) {
        uint64_t word = 0;
        for (int k = 0; k < 8; k++) {
            word |= (uint64_t) codes[i + k] << (k * bits);
        }
        for (int k = 0; k < bits; k++) {
            *out++ = (unsigned char) (word >> (8 * k));
        }
    }
}

static inline void unpack_all(uint8_t *codes, const unsigned char *in, int n, int bits) {
    const uint64_t mask = (1U << bits) - 1U;
    for (int i = 0; i < n; i += 8) {
        uint64_t word = 0;
        for (int k = 0; k < bits; k++) {
            word |= (uint64_t) *in++ << (8 * k);
        }
        for (int k = 0; k < 8; k++) {
            codes[i + k] = (uint8_t) ((word >> (k * bits)) & mask);
        }
    }
}

void om_mlx_pack(unsigned char *out, const uint8_t *codes, int n, int bits) {
    switch (bits) {
    case 2:
        pack_all(out, codes, n, 2);
        break;
    case 3:
        pack_all(out, codes, n, 3);
        break;
    case 4:
        pack_all(out, codes, n, 4);
        break;
    case 5:
        pack_all(out, codes, n, 5);
        break;
    case 6:
        pack_all(out, codes, n, 6);
        break;
    default:
        memcpy(out, codes, (size_t) n);
        break;
    }
}

void om_mlx_unpack(uint8_t *codes, const unsigned char *in, int n, int bits) {
    switch (bits) {
    case 2:
        unpack_all(codes, in, n, 2);
        break;
    case 3:
        unpack_all(codes, in, n, 3);
        break;
    case 4:
        unpack_all(codes, in, n, 4);
        break;
    case 5:
        unpack_all(codes, in, n, 5);
        break;
    case 6:
        unpack_all(codes, in, n, 6);
        break;
    default:
        memcpy(codes, in, (size_t) n);
        break;
    }
}

int om_mlx_dtype_bytes(om_mlx_dtype dtype) {
    return dtype == OM_MLX_F32 ? 4 : 2;
}

void om_mlx_put(unsigned char *out, float x, om_mlx_dtype dtype) {
    const uint32_t u = dtype == OM_MLX_F32   ? om_float_bits(x)
                       : dtype == OM_MLX_F16 ? om_f16_from(x)
                                             : om_bf16_from(x);
    for (int k = 0; k < om_mlx_dtype_bytes(dtype); k++) {
        out[k] = (unsigned char) (u >> (8 * k));
    }
}

float om_mlx_get(const unsigned char *in, om_mlx_dtype dtype) {
    float x = 0;
    (void) om_st_to_f32(&x,
                        dtype == OM_MLX_F32   ? OM_ST_F32
                        : dtype == OM_MLX_F16 ? OM_ST_F16
                                              : OM_ST_BF16,
                        in, 1);
    return x;
}
