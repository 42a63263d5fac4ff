/* Scale and bias of each affine group by the weighted error (docs/method.md eq. 18).
 *
 * For given codes the best scale and bias are a weighted least-squares line; for given scale and
 * bias the best codes are the nearest. Alternating the two ends in one of many local minima, so it
 * starts from a grid of ranges, and since scale and bias are stored in few digits it ends among the
 * numbers there are: at 8 bits a scale of BF16 is so coarse that only trying them helps.
 *
 * Sixteen pairs of scale and bias are tried at once, one per lane: the loops over lanes vectorize,
 * each lane adds its weights in their order, and so the result is the same on every machine. A
 * group is computed in units of a power of two, exact in both directions, that brings its largest
 * weight to [1, 2). */
#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "mlx/codes.h"
#include "mlx/minifloat.h"
#include "mlx/quants.h"

enum { LANES = 16 };

/* Every weight counts at least this share of its group's mean: what the text did not excite may be
 * excited yet, and must not be cut off. */
static const float least_importance = 1e-2F;

typedef struct group {
    float w[OM_MLX_MAX_GROUP];     /* weights * unit */
    float c[OM_MLX_MAX_GROUP];     /* importance, mean 1, and the least */
    float given[OM_MLX_MAX_GROUP]; /* importance as it is given; all 1 when it is not known */
    int n;
    float c_sum;
    float low, high; /* of w */
    float top;       /* the last code */
    float unit;      /* a power of two */
    bool even;       /* are there at least n / 4 weights that matter? */
    om_mlx_dtype dtype;
} group;

typedef struct trials {
    float scale[LANES], bias[LANES];
} trials;

/* Sums over the group's weights, per lane; e the residual, q the code. */
typedef struct sums {
    float cee[LANES], ce[LANES], ceq[LANES], cq[LANES], cqq[LANES];
} sums;

typedef struct choice {
    float scale, bias, error;
} choice;

/* What pairs are tried. Where the optimum lies was measured by trying all pairs (docs/method.md):
 * at few bits the range shrinks by up to a half; at many it grows by up to a sixth, for the sake of
 * a scale and a bias that happen to suit. */
typedef struct plan {
    int bits;
    float first, last; /* grid of scales, in ranges of the group / top */
    int n_scales;
    float offset; /* grid of centres: this part of the range to both sides */
    int n_offsets;
    int refits; /* alternations from the best of each lane; 0: scales as stored, no alternations */
    int n_around; /* scales looked at to both sides of the best */
    int n_near;   /* rounds of going to the best of the neighbours */
} plan;

static const plan usual[] = {
    { 2, 0.42F, 0.90F, 8, 0.12F, 8, 3, 0, 2 },  { 3, 0.60F, 1.05F, 8, 0.07F, 8, 3, 0, 2 },
    { 4, 0.84F, 1.16F, 8, 0.035F, 8, 3, 0, 2 }, { 5, 0.93F, 1.16F, 16, 0.017F, 4, 3, 0, 2 },
    { 6, 0.97F, 1.16F, 16, 0.01F, 4, 3, 2, 1 }, { 8, 0.985F, 1.12F, 24, 0, 8, 0, 0, 2 },
};

/* Where a few weights have most of the importance: the optimum serves those and lies anywhere. */
static const plan uneven[] = {
    { 2, 0.25F, 0.95F, 16, 0.20F, 16, 3, 0, 2 }, { 3, 0.40F, 1.10F, 16, 0.15F, 16, 3, 0, 2 },
    { 4, 0.70F, 1.15F, 16, 0.07F, 16, 3, 0, 2 }, { 5, 0.80F, 1.16F, 16, 0.04F, 16, 3, 0, 2 },
    { 6, 0.88F, 1.16F, 16, 0.02F, 16, 3, 2, 2 }, { 8, 0.97F, 1.20F, 36, 0, 8, 0, 0, 2 },
};

/* ---- lanes */

static inline float rounded(float x, om_mlx_dtype dtype) {
    const uint32_t bits = om_float_bits(x), sign = bits & 0x80000000U;
    uint32_t u = bits & 0x7FFFFFFFU;
    float a = om_float_from(u), most = FLT_MAX;
    if (dtype == OM_MLX_BF16) {
        u = (u + 0x7FFFU + ((u >> 16) & 1U)) & 0xFFFF0000U;
        a = om_float_from(u);
        most = 0x1.FEp127F;
    } else if (dtype == OM_MLX_F16) {
        const float subnormal = (a + 0.5F) - 0.5F; /* the last bit of FP16 weighs 2^-24 */
        u = (u + 0xFFFU + ((u >> 13) & 1U)) & 0xFFFFE000U;
        a = a < 0x1p-14F ? subnormal : om_float_from(u);
        most = 65504.0F;
    }
    a = a < most ? a : most;
    return om_float_from(om_float_bits(a) | sign);
}

/* To what can be stored. */
static inline void round_as(trials *t, float unit, om_mlx_dtype dtype) {
    const float back = 1.0F / unit;
    for (int k = 0; k < LANES; k++) {
        t->scale[k] = rounded(t->scale[k] * back, dtype) * unit;
        t->bias[k] = rounded(t->bias[k] * back, dtype) * unit;
    }
}

static void round_trials(trials *t, const group *g) {
    switch (g->dtype) {
    case OM_MLX_BF16:
        round_as(t, g->unit, OM_MLX_BF16);
        break;
    case OM_MLX_F16:
        round_as(t, g->unit, OM_MLX_F16);
        break;
    case OM_MLX_F32:
        round_as(t, g->unit, OM_MLX_F32);
        break;
    }
}

static inline float code_of(float w, float bias, float inverse, float top) {
    float q = (w - bias) * inverse;
    q = q > 0 ? q : 0;
    q = q < top ? q : top;
    return om_rint_small(q);
}

/* Codes and errors of sixteen pairs; the other sums only when `fit`. */
static inline void sum_up(sums *out, const trials *t, const group *g, bool fit) {
    float cee[LANES] = { 0 }, ce[LANES] = { 0 }, ceq[LANES] = { 0 }, cq[LANES] = { 0 };
    float cqq[LANES] = { 0 }, inverse[LANES];
    for (int k = 0; k < LANES; k++) {
        inverse[k] = 1.0F / t->scale[k];
    }
    const float top = g->top;
    for (int j = 0; j < g->n; j++) {
        const float w = g->w[j], c = g->c[j];
        for (int k = 0; k < LANES; k++) {
            const float q = code_of(w, t->bias[k], inverse[k], top);
            const float e = w - (t->scale[k] * q + t->bias[k]);
            cee[k] += c * e * e;
            if (fit) {
                ce[k] += c * e;
                ceq[k] += c * e * q;
                cq[k] += c * q;
                cqq[k] += c * q * q;
            }
        }
    }
    memcpy(out->cee, cee, sizeof cee);
    memcpy(out->ce, ce, sizeof ce);
    memcpy(out->ceq, ceq, sizeof ceq);
    memcpy(out->cq, cq, sizeof cq);
    memcpy(out->cqq, cqq, sizeof cqq);
}

static void sum_for_fit(sums *out, const trials *t, const group *g) {
    sum_up(out, t, g, true);
}

static void sum_errors(sums *out, const trials *t, const group *g) {
    sum_up(out, t, g, false);
}

/* The least-squares line through the residuals, added to the pair; what error the same codes would
 * then have. */
static void refit(trials *next, float *error, const trials *t, const sums *s, const group *g) {
    for (int k = 0; k < LANES; k++) {
        const float det = g->c_sum * s->cqq[k] - s->cq[k] * s->cq[k];
        const bool line = det > 1e-6F * g->c_sum * s->cqq[k]; /* else all codes are the same */
        const float slope = g->c_sum * s->ceq[k] - s->cq[k] * s->ce[k];
        const float d_scale = line ? slope / det : 0;
        const float d_bias = (s->ce[k] - d_scale * s->cq[k]) / g->c_sum;
        next->scale[k] = t->scale[k] + d_scale;
        next->bias[k] = t->bias[k] + d_bias;
        error[k] = s->cee[k] - d_scale * s->ceq[k] - d_bias * s->ce[k];
    }
}

static void take_best(choice *best, const trials *t, const sums *s) {
    for (int k = 0; k < LANES; k++) {
        if (s->cee[k] < best->error) {
            *best = (choice){ t->scale[k], t->bias[k], s->cee[k] };
        }
    }
}

static void try_all(choice *best, trials *t, const group *g) {
    sums s;
    round_trials(t, g);
    sum_errors(&s, t, g);
    take_best(best, t, &s);
}

/* ---- stages */

/* A grid of ranges, each refitted once; then alternations from the best of each lane. */
static void search_ranges(choice *best, const plan *p, const group *g) {
    const float range = g->high - g->low, middle = 0.5F * (g->high + g->low);
    trials t, next, kept = { { 0 }, { 0 } };
    sums s;
    float error[LANES], least[LANES];
    for (int k = 0; k < LANES; k++) {
        least[k] = FLT_MAX;
    }
    for (int i = 0; i < p->n_scales * p->n_offsets; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            const float along = (float) ((i + k) / p->n_offsets) / (float) (p->n_scales - 1);
            const float across = (float) (2 * ((i + k) % p->n_offsets) + 1) / (float) p->n_offsets;
            const float span = range * (p->first + (p->last - p->first) * along);
            t.scale[k] = span / g->top;
            t.bias[k] = middle + range * p->offset * (across - 1) - 0.5F * span;
        }
        sum_for_fit(&s, &t, g);
        refit(&next, error, &t, &s, g);
        for (int k = 0; k < LANES; k++) {
            const bool better = error[k] < least[k];
            least[k] = better ? error[k] : least[k];
            kept.scale[k] = better ? next.scale[k] : kept.scale[k];
            kept.bias[k] = better ? next.bias[k] : kept.bias[k];
        }
    }
    for (int i = 0; i < p->refits; i++) {
        round_trials(&kept, g);
        sum_for_fit(&s, &kept, g);
        take_best(best, &kept, &s);
        refit(&next, error, &kept, &s, g);
        kept = next;
    }
}

/* Eight grids of one scale that cover the range, or miss at most half a step of it; from both ends,
 * since the end with the smaller magnitude can be stored more finely. */
static void search_stored(choice *best, const plan *p, const group *g) {
    const float range = g->high - g->low, middle = 0.5F * (g->high + g->low);
    for (int i = 0; i < p->n_scales; i++) {
        const float along = (float) i / (float) (p->n_scales - 1);
        trials t;
        for (int k = 0; k < LANES; k++) {
            t.scale[k] = range * (p->first + (p->last - p->first) * along) / g->top;
            t.bias[k] = 0;
        }
        round_trials(&t, g);
        for (int k = 0; k < LANES; k++) {
            const float span = t.scale[k] * g->top;
            const float free = 0.5F * (t.scale[k] + (span > range ? span - range : 0));
            const float across = (float) (2 * (k % 8) + 1) / 8.0F - 1;
            t.scale[k] = k < 8 ? t.scale[k] : -t.scale[k];
            t.bias[k] = middle + free * across - (k < 8 ? 0.5F : -0.5F) * span;
        }
        try_all(best, &t, g);
    }
}

/* The distance of neighbouring BF16 numbers near x; of finer dtypes too, whose own steps are too
 * small to change a code. */
static float step_of(float x) {
    const float step = om_float_from(om_float_bits(x) & 0x7F800000U) * 0x1p-7F;
    return step > 0 ? step : 0x1p-120F;
}

/* Scales near the best with eight biases each within a step, from both ends, around the same
 * centre. */
static void look_around(choice *best, int n_around, const group *g) {
    const float scale = fabsf(best->scale), step = step_of(scale);
    const float middle = best->bias + 0.5F * g->top * best->scale;
    for (int i = -n_around; i <= n_around; i++) {
        trials t;
        for (int k = 0; k < LANES; k++) {
            const float s = scale + (float) i * step;
            const float across = (float) (2 * (k % 8) + 1) / 16.0F - 0.5F;
            t.scale[k] = k < 8 ? s : -s;
            t.bias[k] = middle - 0.5F * g->top * t.scale[k] + s * across;
        }
        try_all(best, &t, g);
    }
}

/* One step of the scale and two of the bias, and the same grid from its other end. */
static void look_near(choice *best, const group *g) {
    const float ds = step_of(best->scale), db = step_of(best->bias);
    trials t;
    for (int k = 0; k < LANES; k++) {
        t.scale[k] = best->scale + (float) (k % 3 - 1) * ds;
        t.bias[k] = best->bias + (float) (k / 3 - 2) * db;
    }
    t.scale[15] = -best->scale;
    t.bias[15] = best->bias + g->top * best->scale;
    try_all(best, &t, g);
}

static choice search_group(const group *g, int bits) {
    choice best = { 0, g->low, FLT_MAX };
    const plan *p = g->even ? usual : uneven;
    while (p->bits != bits) {
        p++;
    }
    if (p->refits > 0) {
        search_ranges(&best, p, g);
    } else {
        search_stored(&best, p, g);
    }
    if (p->n_around > 0) {
        look_around(&best, p->n_around, g);
    }
    for (int i = 0; i < p->n_near; i++) {
        const float before = best.error;
        look_near(&best, g);
        if (!(best.error < before)) {
            break;
        }
    }
    return best;
}

/* ---- groups in and out */

/* given: the importance, all 1 when it is zero or no number; c: with mean 1, and at least the
 * least. */
static void weigh(float *c, float *given, const float *importance, int n) {
    double sum = 0;
    for (int j = 0; j < n; j++) {
        sum += (double) importance[j];
    }
    const bool known = sum > 0 && sum <= DBL_MAX;
    const double mean = sum / (double) n;
    for (int j = 0; j < n; j++) {
        given[j] = known ? importance[j] : 1.0F;
        c[j] = known ? (float) ((double) importance[j] / mean) + least_importance : 1.0F;
    }
}

/* False: nothing to search (constant, or too small for its squares). */
static bool prepare(group *g, const float *w, const float *importance, const om_format *format,
                    om_mlx_dtype dtype) {
    float most = 0, squares = 0;
    g->n = format->block;
    g->dtype = dtype;
    g->top = (float) ((1 << format->bits) - 1);
    weigh(g->c, g->given, importance, g->n);
    for (int j = 0; j < g->n; j++) {
        most = fabsf(w[j]) > most ? fabsf(w[j]) : most;
    }
    if (!(most >= 0x1p-100F) || !(most <= FLT_MAX)) {
        return false;
    }
    int exponent;
    (void) frexpf(most, &exponent);
    g->unit = ldexpf(1.0F, 1 - exponent);
    g->c_sum = 0;
    g->low = g->high = w[0] * g->unit;
    for (int j = 0; j < g->n; j++) {
        g->w[j] = w[j] * g->unit;
        g->c_sum += g->c[j];
        squares += g->c[j] * g->c[j];
        g->low = g->w[j] < g->low ? g->w[j] : g->low;
        g->high = g->w[j] > g->high ? g->w[j] : g->high;
    }
    g->even = g->c_sum * g->c_sum >= 0.25F * (float) g->n * squares;
    return g->high > g->low;
}

/* By the importance as it is given. */
static double weighted_error(const uint8_t *codes, float scale, float bias, const float *w,
                             const float *importance, int n) {
    double lanes[8] = { 0 };
    for (int j = 0; j < n; j += 8) {
        for (int k = 0; k < 8; k++) {
            const float back = scale * (float) codes[j + k] + bias;
            const double e = (double) w[j + k] - (double) back;
            lanes[k] += (double) importance[j + k] * (e * e);
        }
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static void encode(uint8_t *codes, const choice *c, const group *g) {
    const float inverse = 1.0F / c->scale;
    for (int j = 0; j < g->n; j++) {
        codes[j] = (uint8_t) (int) code_of(g->w[j], c->bias, inverse, g->top);
    }
}

static void affine_group(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                         const float *w, const float *importance, int64_t at) {
    const int n = format->block, bits = format->bits;
    uint8_t codes[OM_MLX_MAX_GROUP], searched[OM_MLX_MAX_GROUP];
    float scale, bias;
    group g;
    om_mlx_plain_affine(codes, &scale, &bias, w, n, bits);
    scale = rounded(scale, dtype);
    bias = rounded(bias, dtype);
    if (prepare(&g, w, importance, format, dtype)) {
        choice best = search_group(&g, bits);
        encode(searched, &best, &g);
        best.scale /= g.unit;
        best.bias /= g.unit;
        if (weighted_error(searched, best.scale, best.bias, w, g.given, n) <
            weighted_error(codes, scale, bias, w, g.given, n)) {
            memcpy(codes, searched, sizeof codes);
            scale = best.scale;
            bias = best.bias;
        }
    }
    om_mlx_put(out->scales + at * om_mlx_dtype_bytes(dtype), scale, dtype);
    om_mlx_put(out->biases + at * om_mlx_dtype_bytes(dtype), bias, dtype);
    om_mlx_pack(out->codes + at * om_mlx_codes_bytes(format, n), codes, n, bits);
}

static void minifloat_group(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                            const float *w, const float *importance, int64_t at) {
    const int n = format->block;
    uint8_t codes[OM_MLX_MAX_GROUP];
    float c[OM_MLX_MAX_GROUP], given[OM_MLX_MAX_GROUP];
    weigh(c, given, importance, n);
    om_mlx_minifloat_search(codes, out->scales + at, format, dtype, w, c, given);
    om_mlx_pack(out->codes + at * om_mlx_codes_bytes(format, n), codes, n, format->bits);
}

void om_mlx_quantize_search(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                            const float *source, const float *importance, int64_t n, int64_t n_in) {
    const int64_t groups = n_in / format->block;
    for (int64_t at = 0; at < n * groups; at++) {
        const float *w = source + at * format->block;
        const float *c = importance + at % groups * format->block;
        if (format->mlx == OM_MLX_AFFINE) {
            affine_group(out, format, dtype, w, c, at);
        } else {
            minifloat_group(out, format, dtype, w, c, at);
        }
    }
}
