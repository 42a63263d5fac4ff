/* The machine the backward pass runs on: ggml's CPU thread pool, used for matrix products and for
 * our own loops alike, so that the forward pass, the products and the loops never compete for the
 * processors.
 *
 * Every result is independent of the number of threads: an output element is always computed by one
 * thread in a fixed order. */
#ifndef OM_CALIB_COMPUTE_H
#define OM_CALIB_COMPUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ggml_threadpool;

/** A contiguous F32 array, ggml order: ne[0] varies fastest. `data` may be NULL where only the
 * shape matters. */
typedef struct om_array {
    int64_t ne[4];
    float *data;
} om_array;

/** Elements, and rows of ne[0] elements. */
static inline int64_t om_array_size(const om_array *a) {
    return a->ne[0] * a->ne[1] * a->ne[2] * a->ne[3];
}
static inline int64_t om_array_rows(const om_array *a) {
    return a->ne[1] * a->ne[2] * a->ne[3];
}

typedef struct om_compute om_compute;

/** Start a pool of n_threads (at least one). *out owned. Errors: OM_E_NOMEM. */
om_status om_compute_new(om_compute **out, int n_threads, om_error *err) OM_WARN_UNUSED;
void om_compute_free(om_compute *c);
/** The pool, to be attached to a llama context. Borrowed. */
struct ggml_threadpool *om_compute_threadpool(const om_compute *c);
int om_compute_threads(const om_compute *c);

/** fn(ctx, first, last, worker) over chunks of `grain` items of [0, n); chunk bounds depend only on
 * n and grain. worker is in [0, om_compute_threads). fn must not call om_compute functions. */
void om_compute_parallel(om_compute *c, int64_t n, int64_t grain,
                         void (*fn)(void *ctx, int64_t first, int64_t last, int worker), void *ctx);

/** Scratch of n floats, aligned, not zeroed; kept for reuse when released, so that windows after
 * the first allocate nothing. NULL when memory is short. Not thread-safe. */
float *om_compute_alloc(om_compute *c, int64_t n);
void om_compute_release(om_compute *c, float *p); /* accepts NULL */
/** Bytes handed out now, and the most so far. */
int64_t om_compute_peak_bytes(const om_compute *c);

/** out [m, n, b, 1] = a [k, m, b', 1]ᵀ · b [k, n, b, 1] with b' dividing b (consecutive groups
 * share a matrix of a). All F32. a and out contiguous; consecutive columns of b lie ldb floats
 * apart (0 = k: contiguous; b = 1 otherwise). Errors: OM_E_NOMEM. Cost: 2·k·m·n·b operations
 * through ggml's mul_mat. */
om_status om_compute_matmul(om_compute *c, float *out, const om_array *a, const om_array *b,
                            int64_t ldb, om_error *err) OM_WARN_UNUSED;

/** Does this processor multiply BF16 natively, so that om_compute_matmul_packed is worth while? */
bool om_compute_has_bf16(void);

/** Storage of one matrix for om_compute_matmul_packed: F32, or BF16 rounded to nearest even. */
typedef struct om_packed {
    bool bf16;
    int64_t ne[2]; /* k, m */
    void *data;    /* [m, k] f32 or bf16 */
} om_packed;

static inline int64_t om_packed_floats(const om_packed *p) { /* to ask om_compute_alloc for */
    const int64_t n = p->ne[0] * p->ne[1];
    return p->bf16 ? (n + 1) / 2 : n;
}

/** out [m, n] = aᵀ · b [k, n], as om_compute_matmul; b is rounded to BF16 too when a is. */
om_status om_compute_matmul_packed(om_compute *c, float *out, const om_packed *a, const om_array *b,
                                   int64_t ldb, om_error *err) OM_WARN_UNUSED;

/** out = transpose of in [n0, n1], i.e. out->ne = {n1, n0}; columns of in lie ld floats apart (0 =
 * n0). */
void om_compute_transpose_packed(om_compute *c, const om_packed *out, const float *in, int64_t ld);

/** F32 to BF16, rounded to nearest even. */
static inline uint16_t om_bf16(float x) {
    union {
        float f;
        uint32_t u;
    } v = { x };
    if ((v.u & 0x7FFFFFFFU) > 0x7F800000U) {
        return (uint16_t) (v.u >> 16 | 64U); /* NaN stays NaN */
    }
    return (uint16_t) ((v.u + 0x7FFFU + (v.u >> 16 & 1U)) >> 16);
}

/** p = softmax over rows of x [n, rows]; may be in place. */
om_status om_compute_softmax(om_compute *c, float *p, const float *x, int64_t n, int64_t rows,
                             om_error *err) OM_WARN_UNUSED;

/** dx = (d rope(x) / dx)ᵀ g for g [head, n_head, T]; pos [T or 4 T] i32; freq_factors may be NULL;
 * params are the op_params of the GGML_OP_ROPE node. */
om_status om_compute_rope_back(om_compute *c, float *dx, const om_array *g, const int32_t *pos,
                               int64_t n_pos, const float *freq_factors, const int32_t *params,
                               om_error *err) OM_WARN_UNUSED;

/** out [n1, n0, …] = transpose of the first two dimensions of in [n0, n1, batches], whose columns
 * lie ld floats apart (0 = n0: contiguous; one batch otherwise). Not in place. */
void om_compute_transpose(om_compute *c, float *out, const float *in, int64_t n0, int64_t n1,
                          int64_t batches, int64_t ld);

#endif
