/* The dtypes of safetensors: names, widths, and their numbers as F32.
 *
 * Every number of the types decoded here is an F32 too, so decoding is moving bits: exponent and
 * fraction to their places, the bias of the exponent changed. Subnormals are whole numbers times a
 * power of two (never read as subnormal F32, which is slow and may be flushed to zero).
 *
 * Sources: safetensors 0.8.0 (names and widths); IEEE 754 binary16; "OCP 8-bit Floating Point
 * Specification" 1.0 (E4M3, E5M2); "OCP Microscaling Formats" 1.0 (E8M0).
 */
#include <string.h>

#include "model/safetensors_file.h"

static const struct {
    const char *name;
    om_st_dtype dtype;
    int bits;
} dtypes[] = {
    { "F32", OM_ST_F32, 32 },
    { "F16", OM_ST_F16, 16 },
    { "BF16", OM_ST_BF16, 16 },
    { "F8_E4M3", OM_ST_F8_E4M3, 8 },
    { "F8_E5M2", OM_ST_F8_E5M2, 8 },
    { "F8_E8M0", OM_ST_F8_E8M0, 8 },
    { "U8", OM_ST_U8, 8 },
    { "I8", OM_ST_I8, 8 },
    { "U32", OM_ST_U32, 32 },
    { "BOOL", OM_ST_OTHER, 8 },
    { "F4", OM_ST_OTHER, 4 },
    { "F6_E2M3", OM_ST_OTHER, 6 },
    { "F6_E3M2", OM_ST_OTHER, 6 },
    { "F8_E4M3FNUZ", OM_ST_OTHER, 8 },
    { "F8_E5M2FNUZ", OM_ST_OTHER, 8 },
    { "I16", OM_ST_OTHER, 16 },
    { "U16", OM_ST_OTHER, 16 },
    { "I32", OM_ST_OTHER, 32 },
    { "I64", OM_ST_OTHER, 64 },
    { "U64", OM_ST_OTHER, 64 },
    { "F64", OM_ST_OTHER, 64 },
    { "C64", OM_ST_OTHER, 64 },
};

enum { N_DTYPES = (int) (sizeof dtypes / sizeof dtypes[0]) };

bool om_st_dtype_find(om_st_dtype *dtype, int *bits, const char *name) {
    for (int i = 0; i < N_DTYPES; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = dtypes[i].dtype;
            *bits = dtypes[i].bits;
            return true;
        }
    }
    return false;
}

int om_st_dtype_bytes(om_st_dtype dtype) {
    for (int i = 0; i < N_DTYPES && dtype != OM_ST_OTHER; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].bits / 8;
        }
    }
    return 0;
}

const char *om_st_dtype_name(om_st_dtype dtype) {
    for (int i = 0; i < N_DTYPES && dtype != OM_ST_OTHER; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].name;
        }
    }
    return NULL;
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float with_sign(uint32_t sign, float magnitude) {
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    return from_bits(sign | bits);
}

/* Five bits of exponent with bias 15, ten of fraction. */
static float half_to_f32(uint32_t h) {
    const uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7FFFu;
    if (rest < 0x400u) {
        return with_sign(sign, (float) rest * 0x1p-24f);
    }
    const uint32_t bias = rest < 0x7C00u ? 127 - 15 : 255 - 31; /* infinity, NaN: the largest */
    return from_bits(sign | ((rest << 13) + (bias << 23)));
}

/* Four bits of exponent with bias 7, three of fraction; no infinities, one NaN. */
static float e4m3_to_f32(uint32_t code) {
    const uint32_t sign = (code & 0x80u) << 24, rest = code & 0x7Fu;
    if (rest < 8) {
        return with_sign(sign, (float) rest * 0x1p-9f);
    }
    return from_bits(sign | (rest == 0x7Fu ? 0x7FC00000u : (rest << 20) + ((127u - 7) << 23)));
}

/* An exponent alone. 2^-127 is a subnormal F32. */
static float e8m0_to_f32(uint32_t code) {
    if (code == 0xFFu) {
        return from_bits(0x7FC00000u);
    }
    return from_bits(code == 0 ? 0x00400000u : code << 23);
}

static uint32_t u16_at(const unsigned char *data, int64_t i) {
    uint16_t v;
    memcpy(&v, data + 2 * i, sizeof v);
    return v;
}

bool om_st_to_f32(float *out, om_st_dtype dtype, const unsigned char *data, int64_t n) {
    switch (dtype) {
    case OM_ST_F32:
        if (n > 0) {
            memcpy(out, data, (size_t) n * sizeof *out);
        }
        return true;
    case OM_ST_F16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = half_to_f32(u16_at(data, i));
        }
        return true;
    case OM_ST_BF16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = from_bits(u16_at(data, i) << 16);
        }
        return true;
    case OM_ST_F8_E4M3:
        for (int64_t i = 0; i < n; i++) {
            out[i] = e4m3_to_f32(data[i]);
        }
        return true;
    case OM_ST_F8_E5M2: /* the upper half of an F16 */
        for (int64_t i = 0; i < n; i++) {
            out[i] = half_to_f32((uint32_t) data[i] << 8);
        }
        return true;
    case OM_ST_F8_E8M0:
        for (int64_t i = 0; i < n; i++) {
            out[i] = e8m0_to_f32(data[i]);
        }
        return true;
    case OM_ST_U8:
    case OM_ST_I8:
    case OM_ST_U32:
    case OM_ST_OTHER:
        break;
    }
    return false;
}
