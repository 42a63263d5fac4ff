/* Squared window gradients, reduced as they are formed: see fisher.h. */
#include "calib/fisher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

/* ---- the set of weights
 * ------------------------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const om_fisher_name *) a)->name, ((const om_fisher_name *) b)->name);
}

static om_status add_weight(om_fisher *f, const om_tensor *t, om_error *err) {
    om_fisher_weight *w = &f->weights[f->n_weights];
    strncpy(w->name, t->name, sizeof w->name - 1);
    w->tensor = t;
    w->n_in = t->ne[0];
    w->n_out = t->ne[1];
    w->rows = om_calloc((size_t) w->n_out, sizeof(double));
    w->cols = om_calloc((size_t) w->n_in, sizeof(double));
    w->in_sum2 = om_calloc((size_t) w->n_in, sizeof(double));
    w->seen = om_calloc((size_t) w->n_out, sizeof(double));
    f->by_name[f->n_weights] = (om_fisher_name){ w->name, f->n_weights };
    f->n_weights++;
    return w->rows && w->cols && w->in_sum2 && w->seen
               ? OM_OK
               : om_fail_nomem(err, (size_t) (2 * w->n_out + 2 * w->n_in) * sizeof(double));
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
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize && t->n_dims == 2) {
            OM_TRY(add_weight(f, t, err));
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
        om_free(f->weights[i].rows);
        om_free(f->weights[i].cols);
        om_free(f->weights[i].in_sum2);
        om_free(f->weights[i].seen);
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

om_status om_fisher_accumulate(om_fisher *f, int weight, om_compute *c, float *gradient_out,
                               om_error *err) {
    om_status status = OM_OK;
    om_fisher_weight *w = &f->weights[weight];
    work s = { 0 };
    OM_TRY(prepare_work(c, &s, w, f->bf16, err));
    for (int u = 0; u < w->n_uses; u++) {
        if (w->uses[u].x) {
            input_args a = { w, &w->uses[u] };
            om_compute_parallel(c, w->n_in, 64, input_squares, &a);
            w->count += (double) w->uses[u].n_tokens;
            continue;
        }
        for (int64_t t = 0; t < w->uses[u].n_tokens; t++) {
            w->seen[w->uses[u].rows[t]] += 1;
        }
    }
    for (int64_t first = 0; first < w->n_out; first += s.block) {
        const int64_t n = first + s.block < w->n_out ? s.block : w->n_out - first;
        OM_TRY(gradient_block(c, &s, w, first, n, err));
        reduce_args a = { s.g, n, w->n_in, w->rows + first, s.partial, w->cols };
        reduce_block(c, &a);
        if (gradient_out) {
            memcpy(gradient_out + first * w->n_in, s.g, (size_t) (n * w->n_in) * sizeof(float));
        }
    }
    double total = 0;
    for (int64_t j = 0; j < w->n_in; j++) {
        total += w->cols[j];
    }
    if (!isfinite(total)) {
        status =
            om_fail(err, OM_E_NUMERIC,
                    "the gradient of %s is not finite; the model or the text is damaged", w->name);
    }
out:
    release_work(c, &s, w->n_uses);
    for (int u = 0; u < w->n_uses; u++) {
        om_compute_release(c, w->uses[u].delta);
    }
    w->n_uses = 0;
    return status;
}

/* ---- checkpoint
 * -----------------------------------------------------------------------------------------------------
 */

/* "OMCK" version key done, then per weight: count, rows, cols, in_sum2, seen as native doubles (a
 * checkpoint never leaves the machine), then the SHA-256 of all before. */
static const char magic[8] = "OMCK002";

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
        const om_fisher_weight *w = &f->weights[i];
        (void) put(&b, &w->count, sizeof w->count);
        (void) put(&b, w->rows, (size_t) w->n_out * sizeof(double));
        (void) put(&b, w->cols, (size_t) w->n_in * sizeof(double));
        (void) put(&b, w->in_sum2, (size_t) w->n_in * sizeof(double));
        (void) put(&b, w->seen, (size_t) w->n_out * sizeof(double));
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
        expect += (size_t) (1 + 2 * f->weights[i].n_out + 2 * f->weights[i].n_in) * sizeof(double);
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
                om_fisher_weight *w = &f->weights[i];
                take(&w->count, &p, sizeof w->count);
                take(w->rows, &p, (size_t) w->n_out * sizeof(double));
                take(w->cols, &p, (size_t) w->n_in * sizeof(double));
                take(w->in_sum2, &p, (size_t) w->n_in * sizeof(double));
                take(w->seen, &p, (size_t) w->n_out * sizeof(double));
            }
        }
    }
    om_free(data);
    return OM_OK;
}
