/* The weighted search: against plain rounding on all kinds of groups, against all pairs of scale
 * and bias that there are, and what it must never do. Seeds are fixed and named in failures. */
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
#include "mlx/quants.h"

enum { N_IN = 256, MAX_BYTES = N_IN * 8 * 2 };

static double normal(om_rng *rng) {
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        sum += om_rng_f64(rng);
    }
    return sum;
}

/* Rows of the kinds that weights come in, and that they do not. */
static void make_row(float *w, int kind, om_rng *rng) {
    static const float sizes[] = { 0.05F, 1e-8F, 1e4F, 1e-30F, 1e-42F, 3e37F };
    for (int j = 0; j < N_IN; j++) {
        const double x = normal(rng);
        w[j] = kind < 6     ? (float) x * sizes[kind]
               : kind == 6  ? (float) (x * x * x * 0.01)                     /* heavy tails */
               : kind == 7  ? (float) (x * 0.1 + 3)                          /* all positive */
               : kind == 8  ? (float) (-fabs(x) - 0.5)                       /* all negative */
               : kind == 9  ? (float) ((int) (om_rng_u64(rng) % 15) - 7) / 8 /* ties */
               : kind == 10 ? (j % 37 == 0 ? 1.0F : 0.0F)                    /* sparse */
               : kind == 11 ? 0.7F
               : kind == 12 ? -1e30F
                            : 0.0F;
    }
}
enum { KINDS = 14 };

static void make_importance(float *c, int kind, om_rng *rng) {
    for (int j = 0; j < N_IN; j++) {
        c[j] = kind == 0   ? 1.0F
               : kind == 1 ? (float) exp(normal(rng))
               : kind == 2 ? (float) exp(3 * normal(rng)) * 1e12F
               : kind == 3 ? (om_rng_u64(rng) % 3 ? 0.0F : 1.0F)
                           : 0.0F;
    }
}
enum { IMPORTANCES = 5 };

static float in_dtype(float x, om_mlx_dtype dtype) {
    unsigned char bytes[4];
    om_mlx_put(bytes, x, dtype);
    return om_mlx_get(bytes, dtype);
}

/* Of all weights, or of one group. */
static double loss(const float *w, const float *back, const float *c, int n) {
    double sum = 0;
    for (int j = 0; j < n; j++) {
        const double e = (double) w[j] - (double) back[j];
        sum += (c == NULL ? 1 : (double) c[j]) * (e * e);
    }
    return sum;
}

static void quantize(float *back, unsigned char *buffer, const om_format *f, om_mlx_dtype dtype,
                     const float *w, const float *c) {
    const om_mlx_rows rows = om_mlx_rows_in(buffer, f, dtype, N_IN, 1);
    if (c != NULL) {
        om_mlx_quantize_search(&rows, f, dtype, w, c, 1, N_IN);
    } else {
        om_mlx_quantize_plain(&rows, f, dtype, w, 1, N_IN);
    }
    om_mlx_dequantize(back, &rows, f, dtype, 1, N_IN);
}

static void never_worse_than_plain(const om_format *f, om_mlx_dtype dtype, int kind, int weights) {
    float w[N_IN], c[N_IN], plain[N_IN], searched[N_IN];
    unsigned char buffer[MAX_BYTES];
    om_rng rng = om_rng_at(3, (uint64_t) (kind * IMPORTANCES + weights));
    make_row(w, kind, &rng);
    make_importance(c, weights, &rng);
    for (int j = 0; j < N_IN; j++) {
        w[j] = in_dtype(w[j], dtype);
        w[j] = isfinite(w[j]) ? w[j] : 60000.0F;
    }
    quantize(plain, buffer, f, dtype, w, NULL);
    quantize(searched, buffer, f, dtype, w, c);
    for (int g = 0; g < N_IN; g += f->block) {
        bool any = false; /* none: all count the same */
        for (int j = g; j < g + f->block; j++) {
            any = any || c[j] > 0;
            assert_true(isfinite(searched[j]));
        }
        const float *by = any ? c + g : NULL;
        const double a = loss(w + g, searched + g, by, f->block);
        const double b = loss(w + g, plain + g, by, f->block);
        if (isfinite(b) && a > b * (1 + 1e-12)) {
            fail_msg("%s, dtype %d, kind %d, importance %d, weight %d: %g, plain %g", f->name,
                     (int) dtype, kind, weights, g, a, b);
        }
    }
}

static void test_never_worse_than_plain(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        for (int dtype = OM_MLX_BF16; dtype <= OM_MLX_F32; dtype++) {
            for (int k = 0; k < KINDS * IMPORTANCES; k++) {
                never_worse_than_plain(f, (om_mlx_dtype) dtype, k / IMPORTANCES, k % IMPORTANCES);
            }
        }
    }
}

/* The next BF16 number away from zero. */
static float next_bf16(float x) {
    return om_float_from(om_float_bits(x) + 0x10000U);
}

static double loss_of_pair(const float *w, const float *c, int n, float scale, float bias,
                           float top) {
    double sum = 0;
    for (int j = 0; j < n; j++) {
        float q = rintf((w[j] - bias) / scale);
        q = q < 0 ? 0 : q > top ? top : q;
        const double e = (double) w[j] - (double) (scale * q + bias);
        sum += (double) c[j] * (e * e);
    }
    return sum;
}

/* Over all scales in BF16 of a wide range with 64 biases each, from both ends. */
static double least_loss(const float *w, const float *c, const om_format *f) {
    const float top = (float) ((1 << f->bits) - 1);
    float low = w[0], high = w[0];
    double least = DBL_MAX;
    for (int j = 1; j < f->block; j++) {
        low = w[j] < low ? w[j] : low;
        high = w[j] > high ? w[j] : high;
    }
    const float full = (high - low) / top, middle = 0.5F * (low + high);
    for (float s = in_dtype(full * 0.4F, OM_MLX_BF16); s < full * 1.25F; s = next_bf16(s)) {
        const float free = 0.5F * fabsf(top * s - (high - low)) + s;
        for (int i = 0; i < 128; i++) {
            const float scale = i < 64 ? s : -s;
            const float at = middle + free * ((float) (i % 64) / 31.5F - 1) - 0.5F * top * scale;
            const double e = loss_of_pair(w, c, f->block, scale, in_dtype(at, OM_MLX_BF16), top);
            least = e < least ? e : least;
        }
    }
    return least;
}

static void test_near_the_best_there_is(void **state) {
    (void) state;
    const char *names[] = { "mlx_2bit_g64", "mlx_3bit_g32", "mlx_4bit_g64", "mlx_4bit_g32",
                            "mlx_5bit_g32", "mlx_6bit_g32", "mlx_8bit_g64" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const om_format *f = om_format_by_name(names[i]);
        double ratios = 0;
        int n = 0;
        for (int row = 0; row < 6; row++) {
            float w[N_IN], c[N_IN], back[N_IN];
            unsigned char buffer[MAX_BYTES];
            om_rng rng = om_rng_at(4, (uint64_t) row);
            make_row(w, 0, &rng);
            make_importance(c, row < 2 ? 0 : 1, &rng);
            for (int j = 0; j < N_IN; j++) {
                w[j] = in_dtype(w[j], OM_MLX_BF16);
                c[j] += 0.05F; /* so that the floor of the search hardly matters */
            }
            quantize(back, buffer, f, OM_MLX_BF16, w, c);
            for (int g = 0; g < N_IN; g += f->block, n++) {
                ratios += loss(w + g, back + g, c + g, f->block) / least_loss(w + g, c + g, f);
            }
        }
        if (ratios / n > 1.03) {
            fail_msg("%s: on average %.4f of the least loss", f->name, ratios / n);
        }
    }
}

/* Weights that lie on a grid of 4 bits already, whose ends need not occur. */
static void test_finds_a_grid_again(void **state) {
    (void) state;
    const om_format *f = om_format_by_name("mlx_4bit_g32");
    int exact = 0, groups = 0;
    for (int row = 0; row < 8; row++) {
        float w[N_IN], c[N_IN], back[N_IN];
        unsigned char buffer[MAX_BYTES];
        om_rng rng = om_rng_at(5, (uint64_t) row);
        make_importance(c, 1, &rng);
        for (int g = 0; g < N_IN; g += 32) {
            const float s = in_dtype(0.01F + 0.05F * (float) om_rng_f64(&rng), OM_MLX_BF16);
            const float b = in_dtype(-8 * s * (float) (0.8 + 0.4 * om_rng_f64(&rng)), OM_MLX_BF16);
            for (int j = g; j < g + 32; j++) {
                w[j] = s * (float) (om_rng_u64(&rng) % 14 + 1) + b;
            }
        }
        quantize(back, buffer, f, OM_MLX_BF16, w, c);
        for (int g = 0; g < N_IN; g += 32, groups++) {
            exact += loss(w + g, back + g, NULL, 32) < 1e-12;
        }
    }
    if (exact < groups * 9 / 10) {
        fail_msg("%d of %d groups", exact, groups);
    }
}

/* What the text did not excite still has to be stored: no weight may be off by more than the range.
 */
static void test_unimportant_weights_stay(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        float w[N_IN], c[N_IN], back[N_IN];
        unsigned char buffer[MAX_BYTES];
        om_rng rng = om_rng_at(6, 0);
        make_row(w, 0, &rng);
        for (int j = 0; j < N_IN; j++) {
            c[j] = j % f->block == 5 ? 1.0F : 0.0F;
        }
        quantize(back, buffer, f, OM_MLX_BF16, w, c);
        double before = 0, after = 0;
        for (int j = 0; j < N_IN; j++) {
            before += (double) w[j] * (double) w[j];
            assert_true(fabsf(back[j] - w[j]) < 0.3F);
        }
        after = loss(w, back, NULL, N_IN);
        if (after > before * (f->bits == 2 ? 0.5 : 0.15)) {
            fail_msg("%s: %g of the weights' squares are lost", f->name, after / before);
        }
    }
}

static void test_no_importance_is_equal_importance(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        float w[N_IN], c[N_IN], back[N_IN];
        unsigned char a[MAX_BYTES] = { 0 }, b[MAX_BYTES] = { 0 };
        om_rng rng = om_rng_at(7, 0);
        make_row(w, 0, &rng);
        make_importance(c, 0, &rng);
        quantize(back, a, f, OM_MLX_BF16, w, c);
        make_importance(c, 4, &rng);
        quantize(back, b, f, OM_MLX_BF16, w, c);
        assert_memory_equal(a, b, sizeof a);
    }
}

/* Several rows at once, or each alone: the same bytes. */
static void test_rows_are_independent(void **state) {
    (void) state;
    enum { ROWS = 3 };
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        float w[ROWS * N_IN], c[N_IN], back[N_IN];
        unsigned char all[ROWS * MAX_BYTES] = { 0 }, one[MAX_BYTES];
        om_rng rng = om_rng_at(8, 0);
        make_importance(c, 1, &rng);
        for (int r = 0; r < ROWS; r++) {
            make_row(w + r * N_IN, r, &rng);
        }
        const om_mlx_rows rows = om_mlx_rows_in(all, f, OM_MLX_F16, N_IN, ROWS);
        const om_mlx_rows row = om_mlx_rows_in(one, f, OM_MLX_F16, N_IN, 1);
        const size_t codes = (size_t) om_mlx_codes_bytes(f, N_IN);
        const size_t scales = (size_t) om_mlx_scales_bytes(f, OM_MLX_F16, N_IN);
        om_mlx_quantize_search(&rows, f, OM_MLX_F16, w, c, ROWS, N_IN);
        for (size_t r = 0; r < ROWS; r++) {
            quantize(back, one, f, OM_MLX_F16, w + r * N_IN, c);
            assert_memory_equal(row.codes, rows.codes + r * codes, codes);
            assert_memory_equal(row.scales, rows.scales + r * scales, scales);
            if (rows.biases != NULL) {
                assert_memory_equal(row.biases, rows.biases + r * scales, scales);
            }
        }
    }
}

static void test_constant_groups_are_exact(void **state) {
    (void) state;
    const float values[] = { 0, 0.75F, -0.75F, 0x1p-20F, -100, 1 };
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        for (int v = 0; v < (f->mlx == OM_MLX_AFFINE ? 6 : 1); v++) {
            for (int dtype = OM_MLX_BF16; dtype <= OM_MLX_F32; dtype++) {
                float w[N_IN], c[N_IN], back[N_IN];
                unsigned char buffer[MAX_BYTES];
                for (int j = 0; j < N_IN; j++) {
                    w[j] = values[v];
                    c[j] = 1;
                }
                quantize(back, buffer, f, (om_mlx_dtype) dtype, w, c);
                assert_true(loss(w, back, NULL, N_IN) == 0);
            }
        }
    }
}

/* Weights beyond the dtype: the nearest that it can hold, not infinity. */
static void test_scales_are_finite(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        for (int kind = 0; kind < 3; kind++) {
            float w[N_IN], c[N_IN], back[N_IN];
            unsigned char buffer[MAX_BYTES];
            om_rng rng = om_rng_at(9, (uint64_t) kind);
            for (int j = 0; j < N_IN; j++) {
                w[j] = kind == 0   ? 2e5F * (float) normal(&rng)
                       : kind == 1 ? 1e6F
                                   : FLT_MAX * (j % 2 ? -1.0F : 1.0F);
                c[j] = 1;
            }
            quantize(back, buffer, f, kind < 2 ? OM_MLX_F16 : OM_MLX_BF16, w, c);
            for (int j = 0; j < N_IN && f->mlx == OM_MLX_AFFINE; j++) {
                assert_true(isfinite(back[j]) || kind == 2);
            }
            const om_mlx_rows rows = om_mlx_rows_in(buffer, f, OM_MLX_BF16, N_IN, 1);
            for (int g = 0; g < N_IN / f->block && f->mlx == OM_MLX_AFFINE; g++) {
                const om_mlx_dtype dtype = kind < 2 ? OM_MLX_F16 : OM_MLX_BF16;
                assert_true(isfinite(om_mlx_get(rows.scales + (ptrdiff_t) 2 * g, dtype)));
                assert_true(isfinite(om_mlx_get(rows.biases + (ptrdiff_t) 2 * g, dtype)));
            }
        }
    }
}

/* Weights 2^k times as large: the same codes, and what they stand for 2^k times as large. */
static void test_size_does_not_matter(void **state) {
    (void) state;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        for (int k = -90; k <= 90 && f->mlx == OM_MLX_AFFINE; k += 60) {
            float w[N_IN], c[N_IN], back[N_IN], scaled[N_IN];
            unsigned char a[MAX_BYTES], b[MAX_BYTES];
            om_rng rng = om_rng_at(11, 0);
            make_row(w, 0, &rng);
            make_importance(c, 1, &rng);
            quantize(back, a, f, OM_MLX_BF16, w, c);
            for (int j = 0; j < N_IN; j++) {
                w[j] = ldexpf(w[j], k);
                back[j] = ldexpf(back[j], k);
                c[j] *= 1024;
            }
            quantize(scaled, b, f, OM_MLX_BF16, w, c);
            assert_memory_equal(a, b, (size_t) om_mlx_codes_bytes(f, N_IN));
            assert_memory_equal(back, scaled, sizeof back);
        }
    }
}

/* How much it is worth, coarsely: Gaussian weights, uneven importance. */
static void test_gain(void **state) {
    (void) state;
    const struct {
        const char *name;
        double most;
    } bars[] = { { "mlx_2bit_g64", 0.70 }, { "mlx_3bit_g64", 0.75 }, { "mlx_4bit_g64", 0.78 },
                 { "mlx_4bit_g32", 0.72 }, { "mlx_5bit_g64", 0.80 }, { "mlx_6bit_g64", 0.75 },
                 { "mlx_8bit_g64", 0.50 }, { "mlx_mxfp4", 0.95 },    { "mlx_nvfp4", 0.85 } };
    for (size_t i = 0; i < sizeof bars / sizeof bars[0]; i++) {
        const om_format *f = om_format_by_name(bars[i].name);
        double plain = 0, searched = 0;
        om_rng rng = om_rng_at(10, 0);
        for (int row = 0; row < 16; row++) {
            float w[N_IN], c[N_IN], back[N_IN];
            unsigned char buffer[MAX_BYTES];
            make_row(w, 0, &rng);
            make_importance(c, 1, &rng);
            for (int j = 0; j < N_IN; j++) {
                w[j] = in_dtype(w[j], OM_MLX_BF16);
            }
            quantize(back, buffer, f, OM_MLX_BF16, w, NULL);
            plain += loss(w, back, c, N_IN);
            quantize(back, buffer, f, OM_MLX_BF16, w, c);
            searched += loss(w, back, c, N_IN);
        }
        if (searched > bars[i].most * plain) {
            fail_msg("%s: %.3f of plain rounding's loss", f->name, searched / plain);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_worse_than_plain),
        cmocka_unit_test(test_near_the_best_there_is),
        cmocka_unit_test(test_finds_a_grid_again),
        cmocka_unit_test(test_unimportant_weights_stay),
        cmocka_unit_test(test_no_importance_is_equal_importance),
        cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_constant_groups_are_exact),
        cmocka_unit_test(test_scales_are_finite),
        cmocka_unit_test(test_size_does_not_matter),
        cmocka_unit_test(test_gain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
