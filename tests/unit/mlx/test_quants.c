/* Codes, dtypes and plain rounding: against definitions spelled out bit by bit, and against bytes
 * of real mlx (tests/oracle/mlx_bits.sh compares much more of them when Python has mlx). */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "mlx/codes.h"
#include "mlx/minifloat.h"
#include "mlx/quants.h"

enum { N_IN = 384, ROWS = 2 };

static void test_codes_are_a_bit_stream(void **state) {
    (void) state;
    const int widths[] = { 2, 3, 4, 5, 6, 8 };
    for (int w = 0; w < 6; w++) {
        const int bits = widths[w];
        uint8_t codes[64], back[64];
        unsigned char packed[64 + 1];
        om_rng rng = om_rng_at(1, (uint64_t) bits);
        memset(packed, 0xA5, sizeof packed);
        for (int i = 0; i < 64; i++) {
            codes[i] = (uint8_t) (om_rng_u64(&rng) & ((1U << bits) - 1U));
        }
        om_mlx_pack(packed, codes, 64, bits);
        for (int i = 0; i < 64 * bits; i++) {
            assert_int_equal((packed[i / 8] >> (i % 8)) & 1, (codes[i / bits] >> (i % bits)) & 1);
        }
        assert_int_equal(packed[8 * bits], 0xA5);
        om_mlx_unpack(back, packed, 64, bits);
        assert_memory_equal(back, codes, sizeof codes);
    }
}

/* The nearest number of a 16-bit type, by looking at all of them; ties to the even pattern. */
static uint32_t nearest16(double x, om_mlx_dtype dtype) {
    uint32_t best = 0;
    double least = DBL_MAX;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const unsigned char bytes[2] = { (unsigned char) h, (unsigned char) (h >> 8) };
        const double d = fabs((double) om_mlx_get(bytes, dtype) - x);
        if (d < least || (d == least && h % 2 == 0)) {
            best = h;
            least = d;
        }
    }
    return best;
}

static void test_numbers_round_to_the_nearest(void **state) {
    (void) state;
    const float odd[] = { 1.0F + 0x1p-9F, 1.0F + 0x3p-9F,   1.0F + 0x1p-11F, 1.0F + 0x3p-11F,
                          0x1p-25F,       0x1.8p-24F,       0x1.8p-15F,      0x1.ffcp-15F,
                          0x1.ffep-15F,   0x1.fffffep-15F,  65504.0F,        65519.0F,
                          1e-30F,         0x1.fffffep-120F, -0.3F,           -1e-6F };
    om_rng rng = om_rng_at(2, 0);
    for (int i = 0; i < 60; i++) {
        const float x =
            i < 16 ? odd[i] : (float) ((om_rng_f64(&rng) - 0.5) * exp2(30 * om_rng_f64(&rng) - 25));
        for (int dtype = OM_MLX_BF16; dtype <= OM_MLX_F16; dtype++) {
            unsigned char bytes[2];
            om_mlx_put(bytes, x, (om_mlx_dtype) dtype);
            const float got = om_mlx_get(bytes, (om_mlx_dtype) dtype);
            const uint32_t h = nearest16((double) x, (om_mlx_dtype) dtype);
            const unsigned char best[2] = { (unsigned char) h, (unsigned char) (h >> 8) };
            if (got != om_mlx_get(best, (om_mlx_dtype) dtype)) {
                fail_msg("%a in type %d is %a", (double) x, dtype, (double) got);
            }
        }
    }
    unsigned char bytes[4];
    om_mlx_put(bytes, 65520.0F, OM_MLX_F16);
    assert_true(isinf(om_mlx_get(bytes, OM_MLX_F16)));
    om_mlx_put(bytes, -0.1F, OM_MLX_F32);
    assert_true(om_mlx_get(bytes, OM_MLX_F32) == -0.1F);
}

/* Values of the OCP specifications. */
static void test_small_floats(void **state) {
    (void) state;
    const om_format *mxfp8 = om_format_by_name("mlx_mxfp8");
    const om_format *nvfp4 = om_format_by_name("mlx_nvfp4");
    assert_true(om_mlx_minifloat_value(mxfp8, 0x7E) == 448);
    assert_true(om_mlx_minifloat_value(mxfp8, 0x38) == 1);
    assert_true(om_mlx_minifloat_value(mxfp8, 0x81) == -0x1p-9F);
    assert_true(om_mlx_minifloat_value(mxfp8, 0x08) == 0x1p-6F);
    assert_true(om_mlx_minifloat_value(nvfp4, 0xF) == -6);
    assert_true(om_mlx_minifloat_value(nvfp4, 0x3) == 1.5F);
    assert_true(om_mlx_minifloat_scale(nvfp4, 0x39) == 1.125F);
    assert_true(om_mlx_minifloat_scale(mxfp8, 127) == 1);
    assert_true(om_mlx_minifloat_scale(mxfp8, 0) == 0x1p-127F);
}

static void test_small_floats_survive(void **state) {
    (void) state;
    for (int e4m3 = 0; e4m3 < 2; e4m3++) {
        const om_format *f = om_format_by_name(e4m3 ? "mlx_mxfp8" : "mlx_mxfp4");
        for (int first = 0; first < (e4m3 ? 0x7F : 8); first++) {
            float w[32] = { e4m3 ? 448.0F : 6.0F };
            uint8_t codes[32], scale;
            w[1] = om_mlx_minifloat_value(f, (uint8_t) first);
            w[2] = -w[1];
            om_mlx_minifloat_plain(codes, &scale, f, OM_MLX_F32, w);
            assert_int_equal(scale, 127);
            assert_int_equal(codes[1], first);
            assert_true(om_mlx_minifloat_value(f, codes[2]) == w[2]);
        }
    }
}

static void test_sizes(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        unsigned char *base = om_calloc(1, 1 << 16);
        const om_mlx_rows rows = om_mlx_rows_in(base, f, OM_MLX_BF16, N_IN, 5);
        const unsigned char *last = rows.biases != NULL ? rows.biases : rows.scales;
        assert_ptr_equal(rows.codes, base);
        assert_int_equal(rows.scales - rows.codes, 5 * om_mlx_codes_bytes(f, N_IN));
        assert_int_equal(last - base + 5 * om_mlx_scales_bytes(f, OM_MLX_BF16, N_IN),
                         om_format_size(f, N_IN, 5));
        assert_int_equal(rows.biases != NULL, f->mlx == OM_MLX_AFFINE);
        om_free(base);
    }
    assert_int_equal(om_mlx_scales_bytes(om_format_by_name("mlx_4bit_g64"), OM_MLX_F32, 128), 8);
}

/* Exact in every dtype: all kinds of groups, many ties. The same in the Python that made the table:
 *   w = ((7 j^2 + 13 j) mod 255 - 127) / 64 for j < 768, parts of it scaled, folded and levelled */
static void make_weights(float *w) {
    for (int j = 0; j < ROWS * N_IN; j++) {
        w[j] = (float) ((j * j * 7 + j * 13) % 255 - 127) / 64.0F;
        w[j] = j >= 128 && j < 256 ? w[j] * 0.25F : w[j];
        w[j] = j >= 256 && j < 384 ? fabsf(w[j]) : w[j];
        w[j] = j >= 384 && j < 512 ? -fabsf(w[j]) : w[j];
        w[j] = j >= 512 && j < 544 ? 0.0F : j >= 544 && j < 576 ? 0.75F : w[j];
    }
}

static uint64_t fnv1a(const unsigned char *p, int64_t n) {
    uint64_t h = 0xCBF29CE484222325U;
    for (int64_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001B3U;
    }
    return h;
}

/* FNV-1a of codes, scales and biases that mx.quantize of mlx 0.32.4 made of those weights. */
static const struct {
    const char *name;
    uint64_t hash[3]; /* bf16, f16, f32 */
} golden[] = {
    { "mlx_2bit_g128", { 0xA4CDB61D530696F4U, 0xEFE2A84E63D3A258U, 0x0DCD33D99FBBB254U } },
    { "mlx_2bit_g64", { 0xAF7EAC21D021AF3BU, 0x5A11905AECB4112EU, 0x5B358C23327057C3U } },
    { "mlx_2bit_g32", { 0x903E6FA9E2FAF901U, 0x3E50F99D1DA42D56U, 0xD57426B69854DCE5U } },
    { "mlx_3bit_g128", { 0x8DB6E288B7CEE6DFU, 0x68944CCEA95888DDU, 0x86C9D3DD04080F57U } },
    { "mlx_3bit_g64", { 0x9B265AB801433ADBU, 0x0F90B3FF658A2172U, 0xEAE939EBD51E9E8FU } },
    { "mlx_3bit_g32", { 0x5B7590E670FF138CU, 0x4D1241143A347E4CU, 0x6443B684B913B3C2U } },
    { "mlx_4bit_g128", { 0xE7F107AE02DD1DDBU, 0x7F21738882688FA9U, 0x89751163CF4EA99BU } },
    { "mlx_4bit_g64", { 0xCAD5E80F61F8ACC5U, 0x0E10685231D1A17BU, 0x236327AE4EB45D75U } },
    { "mlx_4bit_g32", { 0x8A4CCFC3298F93C3U, 0x791570BF1A8411C5U, 0x2843FF5BBAD3D401U } },
    { "mlx_5bit_g128", { 0x0AE668B81F691B74U, 0xA89FFF2D10B6960CU, 0x44AB92448F7909B4U } },
    { "mlx_5bit_g64", { 0x2738A0CA55AE071AU, 0x6B9F41282AD76F15U, 0x86949A5F93F0F0CDU } },
    { "mlx_5bit_g32", { 0x056659E5841EA896U, 0xFD3B1BDF480962F5U, 0x4D560FF9FE183000U } },
    { "mlx_6bit_g128", { 0x080EA7DDA0C9C66AU, 0x366AAB2103441E82U, 0x66758D56A5DBE276U } },
    { "mlx_6bit_g64", { 0xCCCA7EA9417A53E7U, 0xE1A5DDAA4784E771U, 0xF84D5FB5A4E6E10EU } },
    { "mlx_6bit_g32", { 0xF0222AF8B8952EC3U, 0x0C38CE8BAA437677U, 0x3260867B0FFA9C6CU } },
    { "mlx_8bit_g128", { 0x7CE1541C03F3F010U, 0xF9A4ED02D1F854A2U, 0xCFE69FD7C93DA820U } },
    { "mlx_8bit_g64", { 0x48B9C44B93FDDA48U, 0xC5E1442F6D8068ECU, 0x89FDB4889C919E50U } },
    { "mlx_8bit_g32", { 0x4A47B1F3CD48796EU, 0xB521E817B11E642DU, 0x89C764CE9AFF2B7BU } },
    { "mlx_mxfp4", { 0xC902AEA0AC93DB6AU, 0xC902AEA0AC93DB6AU, 0xC902AEA0AC93DB6AU } },
    { "mlx_nvfp4", { 0x9F49E6084C01AE19U, 0x9F49E6084C01AE19U, 0x9F49E6084C01AE19U } },
    { "mlx_mxfp8", { 0xF2E7204BE0331B24U, 0xF2E7204BE0331B24U, 0xF2E7204BE0331B24U } },
};

static void test_plain_gives_mlx_bytes(void **state) {
    (void) state;
    float w[ROWS * N_IN];
    make_weights(w);
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        const om_format *f = om_format_by_name(golden[i].name);
        for (int dtype = OM_MLX_BF16; dtype <= OM_MLX_F32; dtype++) {
            unsigned char *buffer = om_calloc(1, 1 << 13);
            const om_mlx_rows rows = om_mlx_rows_in(buffer, f, (om_mlx_dtype) dtype, N_IN, ROWS);
            const int64_t bytes = ROWS * (om_mlx_codes_bytes(f, N_IN) +
                                          om_mlx_scales_bytes(f, (om_mlx_dtype) dtype, N_IN) *
                                              (f->mlx == OM_MLX_AFFINE ? 2 : 1));
            om_mlx_quantize_plain(&rows, f, (om_mlx_dtype) dtype, w, ROWS, N_IN);
            if (fnv1a(buffer, bytes) != golden[i].hash[dtype]) {
                fail_msg("%s with dtype %d is not what mlx makes of it", f->name, dtype);
            }
            om_free(buffer);
        }
    }
}

/* Reading, from the definition: the j-th code of the stream times its group's scale plus bias. */
static void test_dequantize(void **state) {
    (void) state;
    const om_format *f;
    float w[ROWS * N_IN], back[ROWS * N_IN];
    make_weights(w);
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        unsigned char *buffer = om_calloc(1, 1 << 13);
        const om_mlx_rows rows = om_mlx_rows_in(buffer, f, OM_MLX_F16, N_IN, ROWS);
        om_mlx_quantize_plain(&rows, f, OM_MLX_F16, w, ROWS, N_IN);
        om_mlx_dequantize(back, &rows, f, OM_MLX_F16, ROWS, N_IN);
        for (int j = 0; j < ROWS * N_IN; j++) {
            uint32_t code = 0;
            for (int b = 0; b < f->bits; b++) {
                const int at = j * f->bits + b;
                code |= (uint32_t) ((rows.codes[at / 8] >> (at % 8)) & 1) << b;
            }
            const int g = j / f->block;
            float expected;
            if (f->mlx == OM_MLX_AFFINE) {
                expected = om_mlx_get(rows.scales + 2 * g, OM_MLX_F16) * (float) code;
                expected += om_mlx_get(rows.biases + 2 * g, OM_MLX_F16);
            } else {
                expected = om_mlx_minifloat_scale(f, rows.scales[g]) *
                           om_mlx_minifloat_value(f, (uint8_t) code);
            }
            assert_true(back[j] == expected);
            /* and near enough: mlx cuts off up to half a step of the range, which is at most 4 */
            if (f->mlx == OM_MLX_AFFINE) {
                assert_true(fabsf(back[j] - w[j]) <= 4.1F / (float) ((1 << f->bits) - 1));
            }
        }
        om_free(buffer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_are_a_bit_stream),
        cmocka_unit_test(test_numbers_round_to_the_nearest),
        cmocka_unit_test(test_small_floats),
        cmocka_unit_test(test_small_floats_survive),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_plain_gives_mlx_bytes),
        cmocka_unit_test(test_dequantize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
