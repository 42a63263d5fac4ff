/* Squared window gradients, reduced as they are formed: see fisher.h. */
#include "calib/fisher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/roles.h"

/* ---- the set of weights
 * ------------------------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const om_fisher_name *) a)->name, ((const om_fisher_name *) b)->name);
}

/* Everything that is added up for one weight, in the order of the checkpoint. */
typedef struct sums {
    double **values; /* [n] */
    int64_t n;
} sums;

enum { N_SUMS = 10 };

static void list_sums(sums out[N_SUMS], om_fisher_weight *w) {
    const sums all[N_SUMS] = { { &w->count, w->experts },
                               { &w->rows, w->experts * w->n_out },
                               { &w->cols, w->experts * w->n_in },
                               { &w->in_sum2, w->experts * w->n_in },
                               { &w->seen, w->n_out },
                               { &w->router_weight, w->experts },
                               { &w->windows, w->experts },
                               { &w->margin_rows, w->margins * w->experts * w->n_out },
                               { &w->margin_cols, w->margins * w->experts * w->n_in },
                               { &w->reach, 1 } };
    memcpy(out, all, sizeof all);
}

om_status om_fisher_weight_init(om_fisher_weight *w, int64_t n_out, int64_t n_in, int experts,
                                om_error *err) {
    sums all[N_SUMS];
    w->n_in = n_in;
    w->n_out = n_out;
    w->experts = experts;
    list_sums(all, w);
    for (int k = 0; k < N_SUMS; k++) {
        *all[k].values = om_calloc((size_t) all[k].n + 1, sizeof(double));
        if (!*all[k].values) {
            return om_fail_nomem(err, (size_t) all[k].n * sizeof(double));
        }
    }
    return OM_OK;
}

void om_fisher_weight_release(om_fisher_weight *w) {
    sums all[N_SUMS];
    list_sums(all, w);
    for (int k = 0; k < N_SUMS; k++) {
        om_free(*all[k].values);
    }
    *w = (om_fisher_weight){ 0 };
}

static om_status add_weight(om_fisher *f, const om_tensor *t, bool margins, om_error *err) {
    om_fisher_weight *w = &f->weights[f->n_weights];
    w->margins = margins;
    strncpy(w->name, t->name, sizeof w->name - 1);
    w->tensor = t;
    f->by_name[f->n_weights] = (om_fisher_name){ w->name, f->n_weights };
    f->n_weights++;
    return om_fisher_weight_init(w, t->ne[1], t->ne[0], (int) (t->ne[2] * t->ne[3]), err);
}

static bool is_stack(const om_tensor *t) {
    return t->n_dims == 3 && om_tensor_is_experts(t->name);
}

om_status om_fisher_new(om_fisher **out, const om_model *model, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(model);
    om_fisher *f = om_calloc(1, sizeof *f);
    if (!f) {
        return om_fail_nomem(err, sizeof *f);
    }
    f->weights = om_calloc((size_t) n, sizeof *f->weights);
    f->by_name = om_calloc((size_t) n, sizeof *f->by_name);
    if (!f->weights || !f->by_name) {
        status = om_fail_nomem(err, (size_t) n * sizeof *f->weights);
        goto out;
    }
    bool routers = false;
    for (int i = 0; i < n; i++) {
        routers = routers || is_stack(om_model_tensor(model, i));
    }
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize && (t->n_dims == 2 || is_stack(t))) {
            OM_TRY(add_weight(f, t, routers, err));
        }
    }
    qsort(f->by_name, (size_t) f->n_weights, sizeof *f->by_name, compare_names);
    *out = f;
    return OM_OK;
out:
    om_fisher_free(f);
    return status;
}

void om_fisher_free(om_fisher *f) {
    if (!f) {
        return;
    }
    for (int i = 0; i < f->n_weights; i++) {
        om_fisher_weight_release(&f->weights[i]);
    }
    om_free(f->weights);
    om_free(f->by_name);
    om_free(f);
}

int om_fisher_find(const om_fisher *f, const char *name) {
    const om_fisher_name key = { name, -1 };
    const om_fisher_name *found =
        f->n_weights ? bsearch(&key, f->by_name, (size_t) f->n_weights, sizeof key, compare_names)
                     : NULL;
    return found ? found->weight : -1;
}

/* ---- reduction
 * ------------------------------------------------------------------------------------------------------
 */

enum {
    CHUNK = 32
}; /* rows whose column sums are added up before they join the others: fixes the order of addition
    */

typedef struct reduce_args {
    const float *g; /* [n, n_in] block of G */
    int64_t n, n_in;
    double *rows;    /* [n] */
    double *partial; /* [chunks, n_in] */
    double *cols;    /* [n_in] */
} reduce_args;

/* Sum of squares in eight fixed lanes: vectorises, and one order of addition on every machine. */
static double sum_squares(const float *x, int64_t n) {
    double lane[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++) {
            lane[k] += (double) x[i + k] * (double) x[i + k];
        }
    }
    double sum =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    for (; i < n; i++) {
        sum += (double) x[i] * (double) x[i];
    }
    return sum;
}

static void reduce_chunk(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const reduce_args *a = ctx;
    double *restrict partial = a->partial + first / CHUNK * a->n_in;
    memset(partial, 0, (size_t) a->n_in * sizeof *partial);
    for (int64_t i = first; i < last; i++) {
        const float *g = a->g + i * a->n_in;
        a->rows[i] += sum_squares(g, a->n_in);
        for (int64_t j = 0; j < a->n_in; j++) {
            partial[j] += (double) g[j] * (double) g[j];
        }
    }
}

static void add_partials(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const reduce_args *a = ctx;
    for (int64_t k = 0; k < (a->n + CHUNK - 1) / CHUNK; k++) {
        const double *partial = a->partial + k * a->n_in;
        for (int64_t j = first; j < last; j++) {
            a->cols[j] += partial[j];
        }
    }
}

static void reduce_block(om_compute *c, reduce_args *a) {
    om_compute_parallel(c, a->n, CHUNK, reduce_chunk, a);
    om_compute_parallel(c, a->n_in, 256, add_partials, a);
}

/* ---- one weight's gradient, block by block
 * ----------------------------------------------------------------------------- */

typedef struct scatter_args {
    float *g; /* [n, n_in] */
    const om_weight_use *use;
    int64_t first_row, n, n_in;
} scatter_args;

/* An embedding's gradient: the rows' gradients, added where they were gathered. Columns are split
 * over threads. */
static void scatter_columns(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const scatter_args *a = ctx;
    for (int64_t t = 0; t < a->use->n_tokens; t++) {
        const int64_t row = a->use->rows[t] - a->first_row;
        if (row < 0 || row >= a->n) {
            continue;
        }
        const float *d = a->use->delta + t * a->n_in;
        float *g = a->g + row * a->n_in;
        for (int64_t j = first; j < last; j++) {
            g[j] += d[j];
        }
    }
}

typedef struct add_args {
    float *to;
    const float *from;
} add_args;

static void add_range(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const add_args *a = ctx;
    for (int64_t i = first; i < last; i++) {
        a->to[i] += a->from[i];
    }
}

/* Scratch of one accumulation. */
typedef struct work {
    float *g, *extra;          /* [block, n_in] */
    float *delta_t;            /* [block, T] transposed columns of delta */
    om_packed xt[OM_MAX_USES]; /* [n_in, T] transposed inputs */
    double *partial;
    int64_t block;
} work;

/* G[first .. first+n) of one product use into `out`. */
static om_status product_block(om_compute *c, float *out, const om_fisher_weight *w,
                               const om_weight_use *use, const om_packed *xt, float *delta_t,
                               int64_t first, int64_t n, om_error *err) {
    const int64_t T = use->n_tokens;
    om_compute_transpose(c, delta_t, use->delta + first, n, T, 1, w->n_out);
    om_array b = { { T, n, 1, 1 }, delta_t };
    return om_compute_matmul_packed(c, out, xt, &b, 0, err);
}

static om_status gradient_block(om_compute *c, work *s, const om_fisher_weight *w, int64_t first,
                                int64_t n, om_error *err) {
    om_status status = OM_OK;
    bool filled = false;
    for (int u = 0; u < w->n_uses; u++) {
        if (!w->uses[u].x) {
            continue;
        }
        float *to = filled ? s->extra : s->g;
        OM_TRY(product_block(c, to, w, &w->uses[u], &s->xt[u], s->delta_t, first, n, err));
        if (filled) {
            add_args a = { s->g, s->extra };
            om_compute_parallel(c, n * w->n_in, 1 << 16, add_range, &a);
        }
        filled = true;
    }
    if (!filled) {
        memset(s->g, 0, (size_t) (n * w->n_in) * sizeof(float));
    }
    for (int u = 0; u < w->n_uses; u++) {
        if (!w->uses[u].x) {
            scatter_args a = { s->g, &w->uses[u], first, n, w->n_in };
            om_compute_parallel(c, w->n_in, 128, scatter_columns, &a);
        }
    }
out:
    return status;
}

static void release_work(om_compute *c, work *s, int n_uses) {
    om_compute_release(c, s->g);
    om_compute_release(c, s->extra);
    om_compute_release(c, s->delta_t);
    om_compute_release(c, (float *) s->partial);
    for (int u = 0; u < n_uses; u++) {
        om_compute_release(c, s->xt[u].data);
    }
}

static om_status prepare_work(om_compute *c, work *s, const om_fisher_weight *w, bool bf16,
                              om_error *err) {
    int n_products = 0;
    int64_t T = 1;
    for (int u = 0; u < w->n_uses; u++) {
        if (w->uses[u].x) {
            n_products++;
            T = w->uses[u].n_tokens > T ? w->uses[u].n_tokens : T;
        }
    }
    /* Blocks of about 2 MB of G stay in cache between the product and the reduction. */
    s->block = (1 << 19) / w->n_in / CHUNK * CHUNK;
    s->block = s->block < CHUNK ? CHUNK : s->block > w->n_out ? w->n_out : s->block;
    const int64_t chunks = (s->block + CHUNK - 1) / CHUNK;
    s->g = om_compute_alloc(c, s->block * w->n_in);
    s->extra = n_products > 1 ? om_compute_alloc(c, s->block * w->n_in) : NULL;
    s->delta_t = om_compute_alloc(c, s->block * T);
    s->partial = (double *) om_compute_alloc(c, chunks * w->n_in * 2);
    bool ok = s->g && s->delta_t && s->partial && (n_products < 2 || s->extra);
    for (int u = 0; u < w->n_uses && ok; u++) {
        if (w->uses[u].x) {
            s->xt[u] = (om_packed){ .bf16 = bf16, .ne = { w->uses[u].n_tokens, w->n_in } };
            s->xt[u].data = om_compute_alloc(c, om_packed_floats(&s->xt[u]));
            ok = s->xt[u].data != NULL;
            if (ok) {
                om_compute_transpose_packed(c, &s->xt[u], w->uses[u].x, 0);
            }
        }
    }
    return ok ? OM_OK : om_fail_nomem(err, (size_t) (s->block * w->n_in) * sizeof(float));
}

typedef struct input_args {
    om_fisher_weight *w;
    const om_weight_use *use;
} input_args;

/* Inputs j = first .. last of all tokens: the sum runs over tokens in order. */
static void input_squares(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const input_args *a = ctx;
    double *restrict sum = a->w->in_sum2;
    for (int64_t t = 0; t < a->use->n_tokens; t++) {
        const float *x = a->use->x + t * a->w->n_in;
        for (int64_t j = first; j < last; j++) {
            sum[j] += (double) x[j] * (double) x[j];
        }
    }
}

/* What a use shows of the inputs. Not of margins: these pass over windows that were seen already.
 */
static void add_inputs(om_fisher_weight *w, om_compute *c, const om_weight_use *use) {
    if (use->x && w->in_sum2) {
        input_args a = { w, use };
        om_compute_parallel(c, w->n_in, 64, input_squares, &a);
        *w->count += (double) (use->n_tokens - use->n_blank);
    }
    for (int64_t t = 0; !use->x && w->in_sum2 && t < use->n_tokens; t++) {
        w->seen[use->rows[t]] += 1;
    }
}

/* Matrix e of a stack as a weight of its own: the sums are the stack's. */
static om_fisher_weight slice_of(const om_fisher_weight *w, int64_t e) {
    om_fisher_weight one = *w;
    one.experts = 1;
    one.rows += e * w->n_out;
    one.cols += e * w->n_in;
    one.in_sum2 = w->in_sum2 ? w->in_sum2 + e * w->n_in : NULL;
    one.count += e;
    one.router_weight += e;
    one.windows += e;
    one.n_uses = 0;
    return one;
}

static om_status check_finite(const om_fisher_weight *w, om_error *err) {
    double total = 0;
    for (int64_t j = 0; j < w->n_in; j++) {
        total += w->cols[j];
    }
    return isfinite(total)
               ? OM_OK
               : om_fail(err, OM_E_NUMERIC,
                         "the gradient of %s is not finite; the model or the text is damaged",
                         w->name);
}

/* One matrix: G block by block, squared and reduced. */
static om_status accumulate_matrix(om_fisher_weight *w, om_compute *c, bool bf16,
                                   float *gradient_out, om_error *err) {
    om_status status = OM_OK;
    work s = { 0 };
    OM_TRY(prepare_work(c, &s, w, bf16, err));
    for (int u = 0; u < w->n_uses; u++) {
        add_inputs(w, c, &w->uses[u]);
    }
    *w->windows += w->in_sum2 ? 1 : 0;
    for (int64_t first = 0; first < w->n_out; first += s.block) {
        const int64_t n = first + s.block < w->n_out ? s.block : w->n_out - first;
        OM_TRY(gradient_block(c, &s, w, first, n, err));
        reduce_args a = { s.g, n, w->n_in, w->rows + first, s.partial, w->cols };
        reduce_block(c, &a);
        if (gradient_out) {
            memcpy(gradient_out + first * w->n_in, s.g, (size_t) (n * w->n_in) * sizeof(float));
        }
    }
    OM_TRY(check_finite(w, err));
out:
    release_work(c, &s, w->n_uses);
    return status;
}

/* ---- stacks of experts
 * ------------------------------------------------------------------------------------------ */

/* The kernels of ggml's matrix products are fast when the inner dimension is a multiple of this, so
 * the tokens of an expert are filled up with rows of zeros, which change no sum. */
enum { PAD = 32 };

static int64_t padded(int64_t n) {
    return (n + PAD - 1) / PAD * PAD;
}

/* Scratch of one stack, sized for an expert that every token chose; T rows each. */
typedef struct stack_work {
    float *x, *delta;      /* [T, n_in], [T, n_out] of one expert */
    float *xt, *delta_t;   /* their transposes, [n_in, T_e], [n_out, T_e] */
    float *gram, *product; /* [T_e, T_e]; [max(n_in, n_out), T_e] */
    int64_t *slots;        /* [T] slots of one expert, in order of the tokens */
} stack_work;

static void release_stack(om_compute *c, stack_work *s) {
    float *const all[] = { s->x, s->delta, s->xt, s->delta_t, s->gram, s->product };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        om_compute_release(c, all[i]);
    }
    om_free(s->slots);
}

static om_status prepare_stack(om_compute *c, stack_work *s, const om_fisher_weight *w,
                               int64_t n_tokens, om_error *err) {
    const int64_t T = padded(n_tokens);
    const int64_t widest = w->n_in > w->n_out ? w->n_in : w->n_out;
    s->x = om_compute_alloc(c, T * w->n_in);
    s->delta = om_compute_alloc(c, T * w->n_out);
    s->xt = om_compute_alloc(c, T * w->n_in);
    s->delta_t = om_compute_alloc(c, T * w->n_out);
    s->gram = om_compute_alloc(c, T * T);
    s->product = om_compute_alloc(c, T * widest);
    s->slots = om_calloc((size_t) T, sizeof *s->slots);
    return s->x && s->delta && s->xt && s->delta_t && s->gram && s->product && s->slots
               ? OM_OK
               : om_fail_nomem(err, (size_t) (T * (T + 3 * widest)) * sizeof(float));
}

typedef struct quadratic_args {
    const float *a, *b; /* [n, T] */
    int64_t T;
    double *out; /* [n] += Σ_t a_t b_t */
} quadratic_args;

static void quadratic_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const quadratic_args *q = ctx;
    for (int64_t i = first; i < last; i++) {
        const float *a = q->a + i * q->T, *b = q->b + i * q->T;
        double sum = 0;
        for (int64_t t = 0; t < q->T; t++) {
            sum += (double) a[t] * (double) b[t];
        }
        q->out[i] += sum > 0 ? sum : 0; /* a sum of squares: only rounding can make it negative */
    }
}

/* out[i] += v_iᵀ (Mᵀ M) v_i with M [T, width] and v_i the i-th of n rows of V [n, T]: the sums of
 * squares of V M without the product itself. */
static om_status add_quadratic(double *out, om_compute *c, const stack_work *s, const float *m,
                               int64_t width, const float *v, int64_t n, int64_t T, om_error *err) {
    om_status status = OM_OK;
    const om_array rows = { { width, T, 1, 1 }, (float *) (uintptr_t) m };
    const om_array gram = { { T, T, 1, 1 }, s->gram };
    const om_array vectors = { { T, n, 1, 1 }, (float *) (uintptr_t) v };
    OM_TRY(om_compute_matmul(c, s->gram, &rows, &rows, 0, err));
    OM_TRY(om_compute_matmul(c, s->product, &gram, &vectors, 0, err));
    quadratic_args q = { v, s->product, T, out };
    om_compute_parallel(c, n, 64, quadratic_rows, &q);
out:
    return status;
}

/* Row and column sums of G∘G, G = Σ_t δ_t x_tᵀ over few tokens (method.md eq. 3a). */
static om_status accumulate_few(om_fisher_weight *w, om_compute *c, const stack_work *s,
                                const om_weight_use *use, om_error *err) {
    om_status status = OM_OK;
    const int64_t T = use->n_tokens;
    add_inputs(w, c, use);
    om_compute_transpose(c, s->xt, s->x, w->n_in, T, 1, 0);
    om_compute_transpose(c, s->delta_t, s->delta, w->n_out, T, 1, 0);
    OM_TRY(add_quadratic(w->rows, c, s, s->x, w->n_in, s->delta_t, w->n_out, T, err));
    OM_TRY(add_quadratic(w->cols, c, s, s->delta, w->n_out, s->xt, w->n_in, T, err));
    *w->windows += w->in_sum2 ? 1 : 0;
    OM_TRY(check_finite(w, err));
out:
    return status;
}

/* The tokens of expert e side by side, then zeros up to a multiple of PAD; returns how many tokens.
 */
static int64_t gather_expert(stack_work *s, const om_fisher_weight *w, const om_weight_use *use,
                             int64_t e) {
    int64_t n = 0;
    for (int64_t slot = 0; slot < use->n_tokens * use->n_slots; slot++) {
        if (use->experts[slot] != e || n == use->n_tokens) { /* a router chooses an expert once */
            continue;
        }
        const int64_t from = use->shared_x ? slot / use->n_slots : slot;
        memcpy(s->x + n * w->n_in, use->x + from * w->n_in, (size_t) w->n_in * sizeof(float));
        memcpy(s->delta + n * w->n_out, use->delta + slot * w->n_out,
               (size_t) w->n_out * sizeof(float));
        s->slots[n++] = slot;
    }
    const size_t blank = (size_t) (padded(n) - n) * sizeof(float);
    memset(s->x + n * w->n_in, 0, blank * (size_t) w->n_in);
    memset(s->delta + n * w->n_out, 0, blank * (size_t) w->n_out);
    return n;
}

static om_status accumulate_stack(om_fisher_weight *w, om_compute *c, bool bf16,
                                  float *gradient_out, om_error *err) {
    om_status status = OM_OK;
    stack_work s = { 0 };
    const om_weight_use *use = &w->uses[0];
    if (w->n_uses > 1) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: a stack of experts is used more than once in one pass; use --method "
                       "measured",
                       w->name);
    }
    OM_TRY(prepare_stack(c, &s, w, use->n_tokens, err));
    if (gradient_out) {
        memset(gradient_out, 0, (size_t) (w->experts * w->n_out * w->n_in) * sizeof *gradient_out);
    }
    for (int64_t e = 0; e < w->experts; e++) {
        om_fisher_weight one = slice_of(w, e);
        const int64_t T = gather_expert(&s, w, use, e);
        for (int64_t i = 0; i < T && use->router_weights && w->in_sum2; i++) {
            *one.router_weight += (double) use->router_weights[s.slots[i]];
        }
        if (T == 0) {
            continue;
        }
        const om_weight_use gathered = {
            .x = s.x, .delta = s.delta, .n_tokens = padded(T), .n_blank = padded(T) - T
        };
        const bool few = 2 * T * (w->n_in + w->n_out) < w->n_in * w->n_out;
        if (few && !gradient_out) {
            OM_TRY(accumulate_few(&one, c, &s, &gathered, err));
            continue;
        }
        one.uses[one.n_uses++] = gathered;
        OM_TRY(accumulate_matrix(&one, c, bf16,
                                 gradient_out ? gradient_out + e * w->n_out * w->n_in : NULL, err));
    }
out:
    release_stack(c, &s);
    return status;
}

static void clear_uses(om_fisher_weight *w, om_compute *c) {
    for (int u = 0; u < w->n_uses; u++) {
        om_compute_release(c, w->uses[u].delta);
    }
    w->n_uses = 0;
}

om_status om_fisher_accumulate(om_fisher *f, int weight, om_compute *c, float *gradient_out,
                               om_error *err) {
    om_fisher_weight *w = &f->weights[weight], view = *w;
    if (f->margins) {
        view.rows = w->margin_rows;
        view.cols = w->margin_cols;
        view.in_sum2 = NULL;
    }
    const om_status status = w->n_uses > 0 && w->uses[0].experts
                                 ? accumulate_stack(&view, c, f->bf16, gradient_out, err)
                                 : accumulate_matrix(&view, c, f->bf16, gradient_out, err);
    clear_uses(w, c);
    return status;
}

/* ---- checkpoint
 * -----------------------------------------------------------------------------------------------------
 */

/* "OMCK" version key done, then per weight the sums in the order of list_sums as native doubles (a
 * checkpoint never leaves the machine), then the SHA-256 of all before. */
static const char magic[8] = "OMCK004";

static om_status put(om_buf *b, const void *data, size_t n) {
    om_buf_add(b, data, n);
    return b->failed ? OM_E_NOMEM : OM_OK;
}

om_status om_fisher_save(const om_fisher *f, const char *path, const char key[65], int done,
                         om_error *err) {
    om_status status = OM_OK;
    om_buf b = { 0 };
    char digest[65];
    (void) put(&b, magic, sizeof magic);
    (void) put(&b, key, 65);
    (void) put(&b, &done, sizeof done);
    for (int i = 0; i < f->n_weights; i++) {
        sums all[N_SUMS];
        list_sums(all, &f->weights[i]);
        for (int k = 0; k < N_SUMS; k++) {
            (void) put(&b, *all[k].values, (size_t) all[k].n * sizeof(double));
        }
    }
    if (b.failed) {
        status = om_fail_nomem(err, b.len);
        goto out;
    }
    om_sha256_bytes(digest, b.data, b.len);
    OM_TRY(put(&b, digest, sizeof digest));
    OM_TRY(om_file_write(path, b.data, b.len, err));
out:
    om_buf_release(&b);
    return status;
}

static void take(void *to, const char **p, size_t n) {
    memcpy(to, *p, n);
    *p += n;
}

om_status om_fisher_load(om_fisher *f, int *done, const char *path, const char key[65],
                         om_error *err) {
    *done = 0;
    if (!om_file_exists(path)) {
        return OM_OK;
    }
    size_t expect = sizeof magic + 65 + sizeof *done + 65;
    for (int i = 0; i < f->n_weights; i++) {
        sums all[N_SUMS];
        list_sums(all, &f->weights[i]);
        for (int k = 0; k < N_SUMS; k++) {
            expect += (size_t) all[k].n * sizeof(double);
        }
    }
    char *data;
    size_t size;
    om_status status = om_file_read(&data, &size, path, expect, err);
    if (status != OM_OK) {
        if (status == OM_E_FORMAT) { /* larger than ours: other work */
            *err = (om_error){ 0 };
            return OM_OK;
        }
        return status;
    }
    char digest[65];
    const char *p = data;
    if (size == expect) {
        om_sha256_bytes(digest, data, size - 65);
        if (memcmp(digest, data + size - 65, 65) == 0 && memcmp(data, magic, sizeof magic) == 0 &&
            memcmp(data + sizeof magic, key, 65) == 0) {
            p += sizeof magic + 65;
            take(done, &p, sizeof *done);
            for (int i = 0; i < f->n_weights; i++) {
                sums all[N_SUMS];
                list_sums(all, &f->weights[i]);
                for (int k = 0; k < N_SUMS; k++) {
                    take(*all[k].values, &p, (size_t) all[k].n * sizeof(double));
                }
            }
        }
    }
    om_free(data);
    return OM_OK;
}
