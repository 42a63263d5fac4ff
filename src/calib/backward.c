/* The reverse walk: see backward.h and docs/method.md eq. 5. */
#include "calib/backward.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "calib/margin.h"

typedef struct walk {
    om_tape *tape;
    om_compute *c;
    om_fisher *fisher;
    bool keep;           /* the tape is needed again */
    const double *reach; /* [n_nodes] routers' weights behind a node; NULL: no margins */
    int *uses_left;      /* [n_weights] uses of a weight that the walk has not met yet */
    float *const *gradients;
} walk;

/* ---- gradients of roots
 * ------------------------------------------------------------------------------------------ */

static int64_t view_size(const om_view *v) {
    return v->ne[0] * v->ne[1] * v->ne[2] * v->ne[3];
}

static bool view_contiguous(const om_view *v) {
    int64_t expect = 1;
    for (int d = 0; d < 4; d++) {
        if (v->ne[d] > 1 && v->nb[d] != expect) {
            return false;
        }
        expect *= v->ne[d];
    }
    return true;
}

static bool view_is_root(const om_tape *t, const om_view *v) {
    return v->offset == 0 && view_size(v) == t->roots[v->root].size && view_contiguous(v);
}

typedef struct view_args {
    const om_view *v;
    float *root, *flat;
} view_args;

static float *view_row(const view_args *a, int64_t row) {
    const om_view *v = a->v;
    const int64_t i1 = row % v->ne[1], i2 = row / v->ne[1] % v->ne[2],
                  i3 = row / (v->ne[1] * v->ne[2]);
    return a->root + v->offset + i1 * v->nb[1] + i2 * v->nb[2] + i3 * v->nb[3];
}

/* Rows of a view never overlap, so they may be added in parallel. */
static void add_view(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const view_args *a = ctx;
    const int64_t n = a->v->ne[0], nb = a->v->nb[0];
    for (int64_t row = first; row < last; row++) {
        float *to = view_row(a, row);
        const float *from = a->flat + row * n;
        for (int64_t i = 0; i < n; i++) {
            to[i * nb] += from[i];
        }
    }
}

/* Move a view's gradient out: copied to `flat`, zero in the root. */
static void take_view(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const view_args *a = ctx;
    const int64_t n = a->v->ne[0], nb = a->v->nb[0];
    for (int64_t row = first; row < last; row++) {
        float *from = view_row(a, row), *to = a->flat + row * n;
        for (int64_t i = 0; i < n; i++) {
            to[i] = from[i * nb];
            from[i * nb] = 0;
        }
    }
}

static void for_view(walk *w, const om_view *v, void (*fn)(void *, int64_t, int64_t, int),
                     view_args *a) {
    om_compute_parallel(w->c, v->ne[1] * v->ne[2] * v->ne[3], 1 + 16384 / v->ne[0], fn, a);
}

/* Add the flat gradient d of a view to its root; d is taken. */
static om_status add_gradient_take(walk *w, const om_view *v, float *d, om_error *err) {
    om_root *root = &w->tape->roots[v->root];
    if (!root->grad && view_is_root(w->tape, v)) {
        root->grad = d;
        return OM_OK;
    }
    if (!root->grad) {
        root->grad = om_compute_alloc(w->c, root->size);
        if (!root->grad) {
            om_compute_release(w->c, d);
            return om_fail_nomem(err, (size_t) root->size * sizeof(float));
        }
        memset(root->grad, 0, (size_t) root->size * sizeof(float));
    }
    view_args a = { v, root->grad, d };
    for_view(w, v, add_view, &a);
    om_compute_release(w->c, d);
    return OM_OK;
}

/* The gradient of a node's result, flat and owned; the root keeps nothing of it. NULL *out: no
 * gradient arrived. */
static om_status take_gradient(walk *w, float **out, const om_view *v, om_error *err) {
    om_root *root = &w->tape->roots[v->root];
    *out = NULL;
    if (!root->grad) {
        return OM_OK;
    }
    if (view_is_root(w->tape, v)) {
        *out = root->grad;
        root->grad = NULL;
        return OM_OK;
    }
    float *flat = om_compute_alloc(w->c, view_size(v));
    if (!flat) {
        return om_fail_nomem(err, (size_t) view_size(v) * sizeof(float));
    }
    view_args a = { v, root->grad, flat };
    for_view(w, v, take_view, &a);
    *out = flat;
    return OM_OK;
}

/* ---- products with weights
 * ------------------------------------------------------------------------------------------ */

/* Reads libllama's own mapping of the weight: a second mapping of the file would count twice as
 * resident memory. */
typedef struct dequant_args {
    const struct ggml_tensor *tensor;
    const char *data;         /* of the matrix: the tensor's, or one expert's */
    ggml_to_float_t to_float; /* NULL: F32 */
    int64_t first;            /* row of the weight */
    const om_packed *wt;      /* [n_in, n]: n rows transposed */
    float *scratch;           /* [workers, 32, n_in] */
} dequant_args;

static void dequant_transposed(void *ctx, int64_t first, int64_t last, int worker) {
    const dequant_args *a = ctx;
    const int64_t n_in = a->tensor->ne[0], ld = a->wt->ne[0];
    float *rows = a->scratch + worker * 32 * n_in, *f32 = a->wt->data;
    uint16_t *bf16 = a->wt->data;
    for (int64_t r0 = first; r0 < last; r0 += 32) {
        const int64_t n = r0 + 32 < last ? 32 : last - r0;
        for (int64_t r = 0; r < n; r++) {
            const char *row = a->data + (size_t) (a->first + r0 + r) * a->tensor->nb[1];
            if (a->to_float) {
                a->to_float(row, rows + r * n_in, n_in);
            } else {
                memcpy(rows + r * n_in, row, (size_t) n_in * sizeof(float));
            }
        }
        for (int64_t j = 0; j < n_in && a->wt->bf16; j++) {
            for (int64_t r = 0; r < n; r++) {
                bf16[j * ld + r0 + r] = om_bf16(rows[r * n_in + j]);
            }
        }
        for (int64_t j = 0; j < n_in && !a->wt->bf16; j++) {
            for (int64_t r = 0; r < n; r++) {
                f32[j * ld + r0 + r] = rows[r * n_in + j];
            }
        }
    }
}

/* dx [n_in, T] = Wᵀ delta [n_out, T] with W matrix e of the tensor, a block of W's rows at a time
 * so that the dequantized copy stays small. */
static om_status input_gradient(walk *w, float *dx, const struct ggml_tensor *tensor, int64_t e,
                                const float *delta, int64_t T, om_error *err) {
    om_status status = OM_OK;
    const int64_t n_in = tensor->ne[0], n_out = tensor->ne[1];
    int64_t block = (8 << 20) / n_in / 64 * 64; /* 32 MB of weights */
    block = block < 64 ? 64 : block > n_out ? n_out : block;
    const ggml_to_float_t to_float = ggml_get_type_traits(tensor->type)->to_float;
    if (!to_float && tensor->type != GGML_TYPE_F32) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s: ggml cannot dequantize type %s", tensor->name,
                       ggml_type_name(tensor->type));
    }
    om_packed wt = { .bf16 = w->fisher->bf16, .ne = { block, n_in } };
    wt.data = om_compute_alloc(w->c, om_packed_floats(&wt));
    float *part = NULL;
    float *scratch = om_compute_alloc(w->c, om_compute_threads(w->c) * 32 * n_in);
    if (block < n_out) {
        part = om_compute_alloc(w->c, n_in * T);
    }
    if (!wt.data || !scratch || (block < n_out && !part)) {
        status = om_fail_nomem(err, (size_t) (block * n_in) * sizeof(float));
        goto out;
    }
    for (int64_t first = 0; first < n_out; first += block) {
        const int64_t n = first + block < n_out ? block : n_out - first;
        wt.ne[0] = n;
        dequant_args d = { tensor,   (const char *) tensor->data + (size_t) e * tensor->nb[2],
                           to_float, first,
                           &wt,      scratch };
        om_compute_parallel(w->c, n, 32, dequant_transposed, &d);
        om_array b = { { n, T, 1, 1 }, (float *) (uintptr_t) (delta + first) };
        OM_TRY(om_compute_matmul_packed(w->c, first ? part : dx, &wt, &b, n_out, err));
        if (first) {
            om_view flat = { .ne = { n_in, T, 1, 1 }, .nb = { 1, n_in, 0, 0 } };
            view_args add = { &flat, dx, part };
            for_view(w, &flat, add_view, &add);
        }
    }
out:
    om_compute_release(w->c, wt.data);
    om_compute_release(w->c, part);
    om_compute_release(w->c, scratch);
    return status;
}

/* The same for a stack: every slot's gradient through the matrix of its expert. dx [T, K, n_in], or
 * [T, n_in] when the slots of a token share their input, whose gradients then add in order of the
 * experts. */
static om_status stack_input_gradient(walk *w, float *dx, const om_tape_node *n,
                                      const om_weight_use *use, om_error *err) {
    om_status status = OM_OK;
    const struct ggml_tensor *tensor = n->weight_tensor;
    const int64_t n_in = tensor->ne[0], n_out = tensor->ne[1], T = use->n_tokens;
    const int64_t n_slots = T * use->n_slots;
    float *delta = om_compute_alloc(w->c, T * n_out), *part = om_compute_alloc(w->c, T * n_in);
    int64_t *slots = om_calloc((size_t) T, sizeof *slots);
    if (!delta || !part || !slots) {
        status = om_fail_nomem(err, (size_t) (T * (n_in + n_out)) * sizeof(float));
        goto out;
    }
    memset(dx, 0, (size_t) ((use->shared_x ? T : n_slots) * n_in) * sizeof *dx);
    for (int64_t e = 0; e < tensor->ne[2]; e++) {
        int64_t m = 0;
        for (int64_t slot = 0; slot < n_slots && m < T; slot++) {
            if (use->experts[slot] == e) {
                memcpy(delta + m * n_out, use->delta + slot * n_out,
                       (size_t) n_out * sizeof *delta);
                slots[m++] = use->shared_x ? slot / use->n_slots : slot;
            }
        }
        if (m > 0) {
            OM_TRY(input_gradient(w, part, tensor, e, delta, m, err));
        }
        for (int64_t k = 0; k < m; k++) {
            for (int64_t j = 0; j < n_in; j++) {
                dx[slots[k] * n_in + j] += part[k * n_in + j];
            }
        }
    }
out:
    om_compute_release(w->c, delta);
    om_compute_release(w->c, part);
    om_free(slots);
    return status;
}

/* One use of a weight is behind the walk; after the last one its gradient is complete. */
static om_status pass_use(walk *w, int weight, om_error *err) {
    if (--w->uses_left[weight] > 0 || w->fisher->weights[weight].n_uses == 0) {
        return OM_OK;
    }
    return om_fisher_accumulate(w->fisher, weight, w->c, w->gradients ? w->gradients[weight] : NULL,
                                err);
}

/* What the node says of its use; delta is the caller's. */
static om_status describe_use(om_weight_use *use, const walk *w, const om_tape_node *n,
                              om_error *err) {
    use->n_slots = 1;
    use->n_tokens = n->dst.ne[1] * n->dst.ne[2] * n->dst.ne[3];
    if (n->op == GGML_OP_GET_ROWS) {
        use->rows = n->index;
        return OM_OK;
    }
    use->x = w->tape->saved[n->saved[1]].array.data;
    if (n->op == GGML_OP_MUL_MAT) {
        return OM_OK;
    }
    const om_route *route = &w->tape->routes[n->route];
    const int64_t experts = n->weight_tensor->ne[2];
    use->n_slots = n->dst.ne[1];
    use->n_tokens = n->dst.ne[2];
    use->experts = n->index;
    use->router_weights = route->weights;
    use->shared_x = n->src[1].ne[1] == 1 && use->n_slots > 1;
    for (int64_t i = 0; i < n->n_index; i++) {
        if (n->index[i] < 0 || n->index[i] >= experts) {
            return om_fail(err, OM_E_INTERNAL, "expert %lld of %lld chosen in %s",
                           (long long) n->index[i], (long long) experts, n->name);
        }
    }
    return OM_OK;
}

/* The gradient of the input of a product with a weight, added to its root. */
static om_status pass_input(walk *w, const om_tape_node *n, const om_weight_use *use,
                            om_error *err) {
    float *dx = om_compute_alloc(w->c, view_size(&n->src[1]));
    if (!dx) {
        return om_fail_nomem(err, (size_t) view_size(&n->src[1]) * sizeof(float));
    }
    const om_status status =
        use->experts ? stack_input_gradient(w, dx, n, use, err)
                     : input_gradient(w, dx, n->weight_tensor, 0, use->delta, use->n_tokens, err);
    if (status != OM_OK) {
        om_compute_release(w->c, dx);
        return status;
    }
    return add_gradient_take(w, &n->src[1], dx, err);
}

/* A node whose source 0 is a profiled weight: pass the gradient on to the input, and keep the use
 * for the weight's own gradient. g is taken. */
static om_status weight_node(walk *w, const om_tape_node *n, float *g, om_error *err) {
    om_status status = OM_OK;
    om_fisher_weight *fw = &w->fisher->weights[n->weight];
    om_weight_use use = { .delta = g };
    OM_TRY(describe_use(&use, w, n, err));
    if (n->op != GGML_OP_GET_ROWS && n->want[1]) {
        OM_TRY(pass_input(w, n, &use, err));
    }
    if (fw->n_uses == OM_MAX_USES) {
        status = om_fail(err, OM_E_UNSUPPORTED, "%s is used more than %d times in one pass",
                         fw->name, OM_MAX_USES);
        goto out;
    }
    fw->uses[fw->n_uses++] = use;
    if (w->reach) { /* the walk meets the first use last */
        *fw->reach = w->reach[n - w->tape->nodes + 1];
    }
    return pass_use(w, n->weight, err);
out:
    om_compute_release(w->c, g);
    return status;
}

/* ---- all other nodes
 * ---------------------------------------------------------------------------------------------------
 */

static void clear_written_rows(const om_tape_node *n, float *grad) {
    const int64_t width = n->src[0].ne[0], n_src = n->src[0].ne[1],
                  batches = n->src[0].ne[2] * n->src[0].ne[3];
    for (int64_t b = 0; b < batches; b++) {
        for (int64_t i = 0; i < n_src; i++) {
            const int64_t row = n->index[(b * n_src + i) % n->n_index];
            memset(grad + (b * n->dst.ne[1] + row) * width, 0, (size_t) width * sizeof(float));
        }
    }
}

static om_status apply_rule(walk *w, const om_tape_node *n, const float *g, om_error *err) {
    om_status status = OM_OK;
    om_vjp_args a = { .params = n->params, .index = n->index, .n_index = n->n_index, .g = g };
    memcpy(a.dst.ne, n->dst.ne, sizeof a.dst.ne);
    a.dst.data = n->saved_dst >= 0 ? w->tape->saved[n->saved_dst].array.data : NULL;
    for (int i = 0; i < OM_VJP_SRC; i++) {
        memcpy(a.src[i].ne, n->src[i].ne, sizeof a.src[i].ne);
        a.src[i].data = n->saved[i] >= 0 ? w->tape->saved[n->saved[i]].array.data : NULL;
        if (n->want[i]) {
            a.grad[i] = om_compute_alloc(w->c, view_size(&n->src[i]));
            if (!a.grad[i]) {
                status = om_fail_nomem(err, (size_t) view_size(&n->src[i]) * sizeof(float));
                goto out;
            }
        }
    }
    OM_TRY(n->rule->apply(w->c, &a, err));
    for (int i = 0; i < OM_VJP_SRC; i++) {
        if (n->want[i]) {
            float *d = a.grad[i];
            a.grad[i] = NULL;
            OM_TRY(add_gradient_take(w, &n->src[i], d, err));
        }
    }
out:
    for (int i = 0; i < OM_VJP_SRC; i++) {
        om_compute_release(w->c, a.grad[i]);
    }
    return status == OM_OK ? OM_OK : om_error_context(err, "backward %s", n->name);
}

/* Rows written into a cache: their gradient is read in place, then cleared, because before the
 * write the rows held something else. The rest of the cache keeps its gradient. */
static om_status set_rows_node(walk *w, const om_tape_node *n, om_error *err) {
    om_root *root = &w->tape->roots[n->dst.root];
    if (!root->grad) {
        return OM_OK;
    }
    if (!view_contiguous(&n->dst)) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "SET_ROWS into a strided view ('%s'); use --method measured", n->name);
    }
    om_status status = apply_rule(w, n, root->grad + n->dst.offset, err);
    clear_written_rows(n, root->grad + n->dst.offset);
    return status;
}

static om_status walk_node(walk *w, const om_tape_node *n, om_error *err) {
    if (n->op == GGML_OP_SET_ROWS) {
        return set_rows_node(w, n, err);
    }
    float *g;
    om_status status = take_gradient(w, &g, &n->dst, err);
    if (status != OM_OK) {
        return status;
    }
    if (!g && n->weight >= 0) { /* nobody uses this product: it adds nothing */
        return pass_use(w, n->weight, err);
    }
    if (!g) {
        return OM_OK;
    }
    if (n->weight >= 0) {
        return weight_node(w, n, g, err);
    }
    status = apply_rule(w, n, g, err);
    om_compute_release(w->c, g);
    return status;
}

/* Copies are dropped as soon as the last node that needs them has been passed. */
static void count_last_needs(const om_tape *t, int *first_need) {
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        for (int s = 0; s < OM_VJP_SRC; s++) {
            if (t->nodes[i].saved[s] >= 0) {
                first_need[t->nodes[i].saved[s]] = i;
            }
        }
        if (t->nodes[i].saved_dst >= 0) {
            first_need[t->nodes[i].saved_dst] = i;
        }
    }
}

static void drop_saved(walk *w, const om_tape_node *n, int *first_need, int i) {
    const int ids[OM_VJP_SRC + 1] = { n->saved[0], n->saved[1], n->saved[2], n->saved_dst };
    for (int k = 0; k < OM_VJP_SRC + 1; k++) {
        om_saved *s = ids[k] >= 0 ? &w->tape->saved[ids[k]] : NULL;
        const bool waits =
            n->weight >= 0 && w->uses_left[n->weight] > 0; /* a tied weight still needs its input */
        if (s && waits) { /* other nodes may share the copy: it stays until the tape is reset */
            first_need[ids[k]] = -1;
        }
        if (s && !s->borrowed && s->array.data && first_need[ids[k]] == i) {
            om_compute_release(w->c, s->array.data);
            s->array.data = NULL;
        }
    }
}

/* All nodes in reverse; the gradients to begin with lie in their roots. */
static om_status walk_tape(walk *w, om_error *err) {
    om_status status = OM_OK;
    om_tape *tape = w->tape;
    int *first_need = om_calloc((size_t) tape->n_saved + 1, sizeof(int));
    w->uses_left = om_calloc((size_t) w->fisher->n_weights + 1, sizeof(int));
    if (!w->uses_left || !first_need) {
        OM_TRY(om_fail_nomem(err, (size_t) tape->n_saved * sizeof(int)));
    }
    count_last_needs(tape, first_need);
    for (int i = 0; i < tape->n_nodes; i++) {
        if (tape->nodes[i].weight >= 0) {
            w->uses_left[tape->nodes[i].weight]++;
        }
    }
    for (int i = tape->n_nodes - 1; i >= 0; i--) {
        OM_TRY(walk_node(w, &tape->nodes[i], err));
        if (!w->keep) {
            drop_saved(w, &tape->nodes[i], first_need, i);
        }
    }
out:
    for (int i = 0; i < w->fisher->n_weights;
         i++) { /* after a failure: uses that wait for others */
        for (int u = 0; u < w->fisher->weights[i].n_uses; u++) {
            om_compute_release(tape->compute, w->fisher->weights[i].uses[u].delta);
        }
        w->fisher->weights[i].n_uses = 0;
    }
    om_free(first_need);
    om_free(w->uses_left);
    return status;
}

om_status om_backward(om_tape *tape, float *logits_grad, om_fisher *fisher, float *const *gradients,
                      om_error *err) {
    om_status status = OM_OK;
    walk w = { .tape = tape, .c = tape->compute, .fisher = fisher, .gradients = gradients };
    if (tape->n_nodes == 0) {
        om_compute_release(tape->compute, logits_grad);
        return om_fail(err, OM_E_INTERNAL, "nothing was recorded");
    }
    fisher->margins = false;
    OM_TRY(add_gradient_take(&w, &tape->nodes[tape->n_nodes - 1].dst, logits_grad, err));
    OM_TRY(walk_tape(&w, err));
out:
    return status;
}

/* ---- margins of the routers
 * ---------------------------------------------------------------------------------------------
 */

typedef struct margin_args {
    float *grad;           /* [T, E] out, zeroed */
    const float *scores;   /* [T, E] */
    const int64_t *chosen; /* [T, K] */
    int64_t n_experts, n_used;
    bool logarithm;
    float scale;
    uint64_t seed, first;
} margin_args;

static void margin_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const margin_args *a = ctx;
    for (int64_t t = first; t < last; t++) {
        om_margin m;
        om_rng rng = om_rng_at(a->seed, a->first + (uint64_t) t);
        const float sign = om_rng_f64(&rng) < 0.5 ? -a->scale : a->scale;
        if (om_margin_of(&m, a->scores + t * a->n_experts, a->n_experts, a->chosen + t * a->n_used,
                         a->n_used, a->logarithm)) {
            a->grad[t * a->n_experts + m.last] = sign * m.slope_last;
            a->grad[t * a->n_experts + m.next] = sign * m.slope_next;
        }
    }
}

/* The gradient of a router's margins with respect to its scores, added to their root. */
static om_status start_margins(walk *w, const om_route *route, double weight, uint64_t seed,
                               uint64_t first, om_error *err) {
    const om_ranking *r = &w->tape->rankings[route->ranking];
    const om_tape_node *n = &w->tape->nodes[route->node];
    const float *scores = w->tape->saved[r->saved].array.data;
    const int64_t size = view_size(&r->scores), n_experts = r->scores.ne[0];
    margin_args a = { .scores = scores, .chosen = n->index, .n_experts = n_experts };
    a.n_used = n->dst.ne[1];
    if (size / n_experts != n->dst.ne[2]) {
        return om_fail(err, OM_E_INTERNAL, "the scores behind %s are not those of its tokens",
                       n->name);
    }
    a.grad = om_compute_alloc(w->c, size);
    if (!a.grad) {
        return om_fail_nomem(err, (size_t) size * sizeof(float));
    }
    memset(a.grad, 0, (size_t) size * sizeof(float));
    a.logarithm = r->logarithm;
    a.scale = (float) sqrt(weight);
    a.seed = seed;
    a.first = first;
    om_compute_parallel(w->c, size / n_experts, 16, margin_rows, &a);
    return add_gradient_take(w, &r->scores, a.grad, err);
}

static bool has_margins(const om_tape *t, const double *weight, int n_routers, int route) {
    return route < n_routers && weight[route] > 0 && t->routes[route].ranking >= 0 &&
           t->routes[route].node >= 0;
}

om_status om_backward_margins(om_tape *tape, const double *weight, int n_routers, om_fisher *fisher,
                              uint64_t seed, uint64_t first, om_error *err) {
    om_status status = OM_OK;
    double *reach = om_calloc((size_t) tape->n_nodes + 1, sizeof *reach);
    walk w = { .tape = tape, .c = tape->compute, .fisher = fisher, .keep = true, .reach = reach };
    if (!reach) {
        return om_fail_nomem(err, (size_t) tape->n_nodes * sizeof *reach);
    }
    for (int i = 0; i < tape->n_routes; i++) {
        if (has_margins(tape, weight, n_routers, i)) {
            const int64_t n_tokens = tape->nodes[tape->routes[i].node].dst.ne[2];
            reach[tape->rankings[tape->routes[i].ranking].before] += weight[i];
            OM_TRY(start_margins(&w, &tape->routes[i], weight[i], seed,
                                 first + (uint64_t) (i * n_tokens), err));
        }
    }
    for (int i = tape->n_nodes - 1; i >= 0; i--) { /* reach[i]: of the rankings after node i */
        reach[i] += reach[i + 1];
    }
    fisher->margins = true;
    OM_TRY(walk_tape(&w, err));
out:
    fisher->margins = false;
    for (int i = 0; i < tape->n_roots; i++) { /* what no node took: the cache before the window */
        om_compute_release(tape->compute, tape->roots[i].grad);
        tape->roots[i].grad = NULL;
    }
    om_free(reach);
    return status;
}
