/* ggml's CPU thread pool behind om_compute: see compute.h. Each call builds a graph of one node
 * over caller-owned memory, which costs a few microseconds, and runs it on the pool. */
#include "calib/compute.h"

#include <stdatomic.h>
#include <string.h>

#include "ggml-cpu.h"
#include "ggml.h"

#include "base/mem.h"

struct om_compute {
    struct ggml_threadpool *pool;
    int n_threads;
    void *arena; /* tensors and graph of the one-node graph being run */
    size_t arena_bytes;
    unsigned char *work; /* ggml's scratch */
    size_t work_bytes;
    struct block *idle; /* released scratch, for reuse */
    int64_t used_bytes, peak_bytes;
};

/* Scratch block: this header, then the floats, 64-byte aligned. */
struct block {
    struct block *next;
    int64_t n;
    char pad[48];
};
_Static_assert(sizeof(struct block) == 64, "keeps the floats aligned");

om_status om_compute_new(om_compute **out, int n_threads, om_error *err) {
    om_compute *c = om_calloc(1, sizeof *c);
    if (!c) {
        return om_fail_nomem(err, sizeof *c);
    }
    c->n_threads = n_threads < 1 ? 1 : n_threads;
    c->arena_bytes = 16 * ggml_tensor_overhead() + ggml_graph_overhead_custom(16, false) + 1024;
    c->arena = om_alloc_aligned(c->arena_bytes);
    struct ggml_threadpool_params params = ggml_threadpool_params_default(c->n_threads);
    c->pool = c->arena ? ggml_threadpool_new(&params) : NULL;
    if (!c->pool) {
        om_compute_free(c);
        return om_fail(err, OM_E_NOMEM, "cannot start %d compute threads", n_threads);
    }
    *out = c;
    return OM_OK;
}

void om_compute_free(om_compute *c) {
    if (!c) {
        return;
    }
    if (c->pool) {
        ggml_threadpool_free(c->pool);
    }
    while (c->idle) {
        struct block *next = c->idle->next;
        om_free(c->idle);
        c->idle = next;
    }
    om_free(c->arena);
    om_free(c->work);
    om_free(c);
}

struct ggml_threadpool *om_compute_threadpool(const om_compute *c) {
    return c->pool;
}

int om_compute_threads(const om_compute *c) {
    return c->n_threads;
}

/* ---- scratch
 * --------------------------------------------------------------------------------------------- */

/* The tokens of an expert are another number in every window: rounded up to one of eight sizes
 * between two powers of two, blocks repeat all the same. What is rounded up is never touched. */
static int64_t size_class(int64_t n) {
    int64_t step = 1;
    while (step * 16 <= n) {
        step *= 2;
    }
    return (n + step - 1) / step * step;
}

float *om_compute_alloc(om_compute *c, int64_t n_floats) {
    const int64_t n = size_class(n_floats);
    const int64_t bytes = (int64_t) sizeof(struct block) + n * (int64_t) sizeof(float);
    struct block *b = NULL;
    for (struct block **p = &c->idle; *p; p = &(*p)->next) {
        if ((*p)->n == n) { /* sizes repeat from window to window */
            b = *p;
            *p = b->next;
            break;
        }
    }
    if (!b) {
        b = om_alloc_aligned((size_t) bytes);
        if (!b) {
            return NULL;
        }
        b->n = n;
    }
    c->used_bytes += bytes;
    c->peak_bytes = c->used_bytes > c->peak_bytes ? c->used_bytes : c->peak_bytes;
    return (float *) (b + 1);
}

void om_compute_release(om_compute *c, float *p) {
    if (!p) {
        return;
    }
    struct block *b = (struct block *) p - 1;
    c->used_bytes -= (int64_t) sizeof *b + b->n * (int64_t) sizeof(float);
    b->next = c->idle;
    c->idle = b;
}

int64_t om_compute_peak_bytes(const om_compute *c) {
    return c->peak_bytes;
}

/* ---- one-node graphs
 * ------------------------------------------------------------------------------------- */

static struct ggml_context *begin(om_compute *c) {
    struct ggml_init_params params = { .mem_size = c->arena_bytes,
                                       .mem_buffer = c->arena,
                                       .no_alloc = true };
    return ggml_init(params);
}

static struct ggml_tensor *wrap(struct ggml_context *ctx, enum ggml_type type, const int64_t ne[4],
                                const void *data) {
    struct ggml_tensor *t = ggml_new_tensor(ctx, type, 4, ne);
    t->data = (void *) (uintptr_t) data; /* sources are only read */
    return t;
}

/* Run the graph that ends in `node` and close the context. */
static om_status finish(om_compute *c, struct ggml_context *ctx, struct ggml_tensor *node,
                        om_error *err) {
    struct ggml_cgraph *graph = ggml_new_graph_custom(ctx, 16, false);
    ggml_build_forward_expand(graph, node);
    struct ggml_cplan plan = ggml_graph_plan(graph, c->n_threads, c->pool);
    if (plan.work_size > c->work_bytes) {
        om_free(c->work);
        c->work_bytes = 0;
        c->work = om_alloc_aligned(plan.work_size);
        if (!c->work) {
            ggml_free(ctx);
            return om_fail_nomem(err, plan.work_size);
        }
        c->work_bytes = plan.work_size;
    }
    plan.work_data = c->work;
    enum ggml_status status = ggml_graph_compute(graph, &plan);
    ggml_free(ctx);
    return status == GGML_STATUS_SUCCESS
               ? OM_OK
               : om_fail(err, OM_E_INTERNAL, "ggml could not compute a graph");
}

static om_status matmul(om_compute *c, float *out, enum ggml_type type, const int64_t a_ne[4],
                        const void *a, const om_array *b, int64_t ldb, om_error *err) {
    struct ggml_context *ctx = begin(c);
    struct ggml_tensor *ta = wrap(ctx, type, a_ne, a);
    struct ggml_tensor *tb = wrap(ctx, GGML_TYPE_F32, b->ne, b->data);
    if (ldb) {
        tb->nb[1] = (size_t) ldb * sizeof(float);
        tb->nb[2] = tb->nb[3] = tb->nb[1] * (size_t) b->ne[1];
    }
    struct ggml_tensor *node = ggml_mul_mat(ctx, ta, tb);
    node->data = out;
    return finish(c, ctx, node, err);
}

om_status om_compute_matmul(om_compute *c, float *out, const om_array *a, const om_array *b,
                            int64_t ldb, om_error *err) {
    return matmul(c, out, GGML_TYPE_F32, a->ne, a->data, b, ldb, err);
}

bool om_compute_has_bf16(void) {
    return ggml_cpu_has_avx512_bf16() != 0;
}

om_status om_compute_matmul_packed(om_compute *c, float *out, const om_packed *a, const om_array *b,
                                   int64_t ldb, om_error *err) {
    const int64_t ne[4] = { a->ne[0], a->ne[1], 1, 1 };
    return matmul(c, out, a->bf16 ? GGML_TYPE_BF16 : GGML_TYPE_F32, ne, a->data, b, ldb, err);
}

om_status om_compute_softmax(om_compute *c, float *p, const float *x, int64_t n, int64_t rows,
                             om_error *err) {
    struct ggml_context *ctx = begin(c);
    struct ggml_tensor *tx = wrap(ctx, GGML_TYPE_F32, (int64_t[4]){ n, rows, 1, 1 }, x);
    struct ggml_tensor *node = ggml_soft_max(ctx, tx);
    node->data = p;
    return finish(c, ctx, node, err);
}

om_status om_compute_rope_back(om_compute *c, float *dx, const om_array *g, const int32_t *pos,
                               int64_t n_pos, const float *freq_factors, const int32_t *params,
                               om_error *err) {
    float f[6]; /* freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow */
    memcpy(f, params + 5, sizeof f);
    int sections[4];
    memcpy(sections, params + 11, sizeof sections);
    const int n_dims = params[1], mode = params[2], n_ctx_orig = params[4];

    struct ggml_context *ctx = begin(c);
    struct ggml_tensor *tg = wrap(ctx, GGML_TYPE_F32, g->ne, g->data);
    struct ggml_tensor *tp = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_pos);
    tp->data = (void *) (uintptr_t) pos;
    struct ggml_tensor *tf = NULL;
    if (freq_factors) {
        tf = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_dims / 2);
        tf->data = (void *) (uintptr_t) freq_factors;
    }
    const bool multi = (mode & GGML_ROPE_TYPE_MROPE) != 0;
    struct ggml_tensor *node =
        multi ? ggml_rope_multi_back(ctx, tg, tp, tf, n_dims, sections, mode, n_ctx_orig, f[0],
                                     f[1], f[2], f[3], f[4], f[5])
              : ggml_rope_ext_back(ctx, tg, tp, tf, n_dims, mode, n_ctx_orig, f[0], f[1], f[2],
                                   f[3], f[4], f[5]);
    node->data = dx;
    return finish(c, ctx, node, err);
}

/* ---- our own loops
 * ---------------------------------------------------------------------------------------- */

typedef struct loop {
    int64_t n, grain;
    void (*fn)(void *ctx, int64_t first, int64_t last, int worker);
    void *ctx;
    atomic_llong next;
} loop;

static void run_loop(struct ggml_tensor *dst, int ith, int nth, void *userdata) {
    (void) dst;
    (void) nth;
    loop *l = userdata;
    for (;;) {
        const int64_t first = atomic_fetch_add(&l->next, 1) * l->grain;
        if (first >= l->n) {
            return;
        }
        const int64_t last = first + l->grain < l->n ? first + l->grain : l->n;
        l->fn(l->ctx, first, last, ith);
    }
}

void om_compute_parallel(om_compute *c, int64_t n, int64_t grain,
                         void (*fn)(void *ctx, int64_t first, int64_t last, int worker),
                         void *fn_ctx) {
    loop l = { .n = n, .grain = grain < 1 ? 1 : grain, .fn = fn, .ctx = fn_ctx };
    atomic_init(&l.next, 0);
    if (n <= l.grain || c->n_threads == 1) {
        run_loop(NULL, 0, 1, &l);
        return;
    }
    struct ggml_context *ctx = begin(c);
    float dummy = 0;
    struct ggml_tensor *node =
        ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, NULL, 0, run_loop, GGML_N_TASKS_MAX, &l);
    node->data = &dummy;
    om_error err = { 0 };
    if (finish(c, ctx, node, &err) != OM_OK) {
        run_loop(NULL, 0, 1, &l); /* what the pool did not take, the caller does */
    }
}

typedef struct transpose_args {
    void *out;
    const float *in;
    int64_t n0, n1, blocks1, ld;
    bool bf16;
} transpose_args;

enum { TILE = 32 };

static void transpose_tile(const transpose_args *a, const float *in, float *out, const int64_t i[2],
                           const int64_t j[2]) {
    for (int64_t r = i[0]; r < i[1]; r++) {
        for (int64_t k = j[0]; k < j[1]; k++) {
            out[r * a->n1 + k] = in[k * a->ld + r];
        }
    }
}

static void transpose_tile_bf16(const transpose_args *a, const float *in, uint16_t *out,
                                const int64_t i[2], const int64_t j[2]) {
    for (int64_t r = i[0]; r < i[1]; r++) {
        for (int64_t k = j[0]; k < j[1]; k++) {
            out[r * a->n1 + k] = om_bf16(in[k * a->ld + r]);
        }
    }
}

/* Item = one stripe of TILE columns of `in`. */
static void transpose_stripes(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const transpose_args *a = ctx;
    for (int64_t s = first; s < last; s++) {
        const int64_t batch = s / a->blocks1, j0 = s % a->blocks1 * TILE;
        const int64_t j[2] = { j0, j0 + TILE < a->n1 ? j0 + TILE : a->n1 };
        const float *in = a->in + batch * a->ld * a->n1;
        for (int64_t i0 = 0; i0 < a->n0; i0 += TILE) {
            const int64_t i[2] = { i0, i0 + TILE < a->n0 ? i0 + TILE : a->n0 };
            if (a->bf16) {
                transpose_tile_bf16(a, in, a->out, i, j);
            } else {
                transpose_tile(a, in, (float *) a->out + batch * a->n0 * a->n1, i, j);
            }
        }
    }
}

void om_compute_transpose(om_compute *c, float *out, const float *in, int64_t n0, int64_t n1,
                          int64_t batches, int64_t ld) {
    transpose_args a = { out, in, n0, n1, (n1 + TILE - 1) / TILE, ld ? ld : n0, false };
    om_compute_parallel(c, a.blocks1 * batches, 4, transpose_stripes, &a);
}

void om_compute_transpose_packed(om_compute *c, const om_packed *out, const float *in, int64_t ld) {
    const int64_t n0 = out->ne[1], n1 = out->ne[0];
    transpose_args a = { out->data, in, n0, n1, (n1 + TILE - 1) / TILE, ld ? ld : n0, out->bf16 };
    om_compute_parallel(c, a.blocks1, 4, transpose_stripes, &a);
}
