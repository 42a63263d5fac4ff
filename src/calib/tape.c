/* Recording a window: see tape.h. */
#include "calib/tape.h"

#include <string.h>

#include "ggml-backend.h"

#include "base/mem.h"
#include "calib/margin.h"

/* ---- growing arrays and the address hash
 * ------------------------------------------------------------------------ */

static bool grow(void **items, int *cap, int n, size_t size) {
    if (n < *cap) {
        return true;
    }
    const int more = *cap ? *cap * 2 : 256;
    void *p = om_realloc(*items, (size_t) more, size);
    if (!p) {
        return false;
    }
    *items = p;
    *cap = more;
    return true;
}

static unsigned slot_of(const void *p, int n_slots) {
    return (unsigned) (((uint64_t) (uintptr_t) p * 0x9E3779B97F4A7C15ULL) >> 32) &
           (unsigned) (n_slots - 1);
}

/* The place of address p in a hash whose entries are index + 1 of an array; entry 0 = free. */
static int *find_slot(int *slots, int n_slots, const void *p,
                      const void *(*id_at)(const om_tape *t, int i), const om_tape *tape) {
    unsigned s = slot_of(p, n_slots);
    while (slots[s] && id_at(tape, slots[s] - 1) != p) {
        s = (s + 1) & (unsigned) (n_slots - 1);
    }
    return &slots[s];
}

static const void *root_id(const om_tape *t, int i) {
    return t->roots[i].id;
}

static const void *saved_id(const om_tape *t, int i) {
    return t->saved[i].id;
}

static bool ensure_slots(om_tape *t) {
    if (t->root_slots) {
        return t->n_roots * 2 < t->n_slots && t->n_saved * 2 < t->n_slots;
    }
    t->n_slots = 1 << 16; /* graphs have a few thousand tensors */
    t->root_slots = om_calloc((size_t) t->n_slots, sizeof(int));
    t->saved_slots = om_calloc((size_t) t->n_slots, sizeof(int));
    if (!t->root_slots || !t->saved_slots) { /* both or none */
        om_free(t->root_slots);
        om_free(t->saved_slots);
        t->root_slots = t->saved_slots = NULL;
        return false;
    }
    return true;
}

void om_tape_reset(om_tape *t) {
    for (int i = 0; i < t->n_nodes; i++) {
        om_free(t->nodes[i].index);
    }
    for (int i = 0; i < t->n_saved; i++) {
        if (!t->saved[i].borrowed) {
            om_compute_release(t->compute, t->saved[i].array.data);
        }
    }
    for (int i = 0; i < t->n_roots; i++) {
        om_compute_release(t->compute, t->roots[i].grad);
    }
    for (int i = 0; i < t->n_routes; i++) {
        om_free(t->routes[i].weights);
    }
    t->n_nodes = t->n_saved = t->n_roots = t->n_routes = t->n_rankings = 0;
    t->saved_bytes = 0;
    if (t->root_slots) {
        memset(t->root_slots, 0, (size_t) t->n_slots * sizeof(int));
        memset(t->saved_slots, 0, (size_t) t->n_slots * sizeof(int));
    }
    memset(&t->err, 0, sizeof t->err);
}

void om_tape_release(om_tape *t) {
    om_tape_reset(t);
    om_free(t->nodes);
    om_free(t->roots);
    om_free(t->saved);
    om_free(t->routes);
    om_free(t->rankings);
    om_free(t->root_slots);
    om_free(t->saved_slots);
    *t = (om_tape){ 0 };
}

/* ---- roots and views
 * ------------------------------------------------------------------------------------------------
 */

static const struct ggml_tensor *root_tensor(const struct ggml_tensor *t) {
    while (t->view_src) {
        t = t->view_src;
    }
    return t;
}

static int find_root(const om_tape *t, const struct ggml_tensor *tensor) {
    const int *s = find_slot(t->root_slots, t->n_slots, root_tensor(tensor), root_id, t);
    return *s - 1;
}

static bool is_active(const om_tape *t, const struct ggml_tensor *tensor) {
    const int r = tensor ? find_root(t, tensor) : -1;
    return r >= 0 && t->roots[r].active;
}

static om_status fail_here(om_tape *t, om_status status, const struct ggml_tensor *node,
                           const char *what) {
    char op[48];
    return om_fail(&t->err, status, "%s at tensor '%s': %s",
                   om_vjp_op_name(op, node->op, node->op_params), node->name, what);
}

/* The root of a node's result, made if it is new. */
static om_status add_root(om_tape *t, int *out, const struct ggml_tensor *tensor) {
    const struct ggml_tensor *root = root_tensor(tensor);
    int *s = find_slot(t->root_slots, t->n_slots, root, root_id, t);
    if (!*s) {
        if (!grow((void **) &t->roots, &t->cap_roots, t->n_roots, sizeof *t->roots)) {
            return om_fail_nomem(&t->err, sizeof *t->roots);
        }
        t->roots[t->n_roots] = (om_root){ .id = root, .size = ggml_nelements(root) };
        *s = ++t->n_roots;
    }
    *out = *s - 1;
    return OM_OK;
}

static om_status make_view(om_tape *t, om_view *v, int root, const struct ggml_tensor *tensor) {
    const struct ggml_tensor *owner = root_tensor(tensor);
    if (tensor->type != GGML_TYPE_F32 || owner->type != GGML_TYPE_F32) {
        return fail_here(t, OM_E_UNSUPPORTED, tensor,
                         "a gradient would pass through a tensor that is not F32");
    }
    *v = (om_view){ .root = root };
    v->offset =
        ((const char *) tensor->data - (const char *) owner->data) / (int64_t) sizeof(float);
    for (int d = 0; d < 4; d++) {
        v->ne[d] = tensor->ne[d];
        v->nb[d] = (int64_t) (tensor->nb[d] / sizeof(float));
    }
    return OM_OK;
}

/* ---- copies
 * --------------------------------------------------------------------------------------------------------------
 */

typedef struct copy_args {
    float *out;
    const struct ggml_tensor *t;
} copy_args;

static void copy_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const copy_args *a = ctx;
    const struct ggml_tensor *t = a->t;
    for (int64_t row = first; row < last; row++) {
        const int64_t i1 = row % t->ne[1], i2 = row / t->ne[1] % t->ne[2],
                      i3 = row / (t->ne[1] * t->ne[2]);
        const char *src = (const char *) t->data + (size_t) i1 * t->nb[1] + (size_t) i2 * t->nb[2] +
                          (size_t) i3 * t->nb[3];
        float *dst = a->out + row * t->ne[0];
        if (t->type != GGML_TYPE_F32) {
            ggml_get_type_traits(t->type)->to_float(src, dst, t->ne[0]);
            continue;
        }
        if (t->nb[0] == sizeof(float)) {
            memcpy(dst, src, (size_t) t->ne[0] * sizeof(float));
            continue;
        }
        for (int64_t i = 0; i < t->ne[0]; i++) {
            memcpy(dst + i, src + (size_t) i * t->nb[0], sizeof(float));
        }
    }
}

static bool in_model(const struct ggml_tensor *t) {
    return t->buffer &&
           ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

/* A constant of the model in another type (a router in F16): read as F32. */
static bool can_convert(const struct ggml_tensor *t) {
    return in_model(t) && ggml_is_contiguous(t) && ggml_get_type_traits(t->type)->to_float;
}

/* Keep the tensor's contents; *out = index of the copy, shared when it was kept before. */
static om_status save(om_tape *t, int *out, const struct ggml_tensor *tensor) {
    int *s = find_slot(t->saved_slots, t->n_slots, tensor, saved_id, t);
    if (!*s) {
        if (tensor->type != GGML_TYPE_F32 && !can_convert(tensor)) {
            return fail_here(t, OM_E_UNSUPPORTED, tensor, "expected F32 data");
        }
        if (!grow((void **) &t->saved, &t->cap_saved, t->n_saved, sizeof *t->saved)) {
            return om_fail_nomem(&t->err, sizeof *t->saved);
        }
        om_saved saved = { .id = tensor };
        memcpy(saved.array.ne, tensor->ne, sizeof saved.array.ne);
        const int64_t n = ggml_nelements(tensor);
        if (tensor->type == GGML_TYPE_F32 && in_model(tensor) && ggml_is_contiguous(tensor)) {
            saved.array.data = tensor->data;
            saved.borrowed = true;
        } else {
            t->saved_bytes += n * (int64_t) sizeof(float);
            if (!t->measure) {
                saved.array.data = om_compute_alloc(t->compute, n);
                if (!saved.array.data) {
                    return om_fail_nomem(&t->err, (size_t) n * sizeof(float));
                }
                copy_args a = { saved.array.data, tensor };
                om_compute_parallel(t->compute, ggml_nrows(tensor), 1 + 65536 / tensor->ne[0],
                                    copy_rows, &a);
            }
        }
        t->saved[t->n_saved] = saved;
        *s = ++t->n_saved;
    }
    *out = *s - 1;
    return OM_OK;
}

/* Integers as they lie: what argsort gives is a matrix of which the first columns are used. */
static void copy_index(int64_t *out, const struct ggml_tensor *t) {
    for (int64_t row = 0; row < ggml_nrows(t); row++) {
        const int64_t i1 = row % t->ne[1], i2 = row / t->ne[1] % t->ne[2],
                      i3 = row / (t->ne[1] * t->ne[2]);
        const char *src = (const char *) t->data + (size_t) i1 * t->nb[1] + (size_t) i2 * t->nb[2] +
                          (size_t) i3 * t->nb[3];
        for (int64_t i = 0; i < t->ne[0]; i++) {
            *out++ = t->type == GGML_TYPE_I64 ? ((const int64_t *) (const void *) src)[i]
                                              : ((const int32_t *) (const void *) src)[i];
        }
    }
}

static om_status save_index(om_tape *t, om_tape_node *n, const struct ggml_tensor *tensor) {
    n->n_index = ggml_nelements(tensor);
    n->index = om_calloc((size_t) n->n_index, sizeof *n->index);
    if (!n->index) {
        return om_fail_nomem(&t->err, (size_t) n->n_index * sizeof *n->index);
    }
    t->saved_bytes += n->n_index * (int64_t) sizeof *n->index;
    if ((tensor->type != GGML_TYPE_I32 && tensor->type != GGML_TYPE_I64) ||
        tensor->nb[0] != ggml_type_size(tensor->type)) {
        return fail_here(t, OM_E_UNSUPPORTED, tensor, "expected rows of integers");
    }
    copy_index(n->index, tensor);
    return OM_OK;
}

/* ---- choices of experts
 * ------------------------------------------------------------------------------------------ */

/* The route of a product with a stack: products that read the same tensor of choices share one. */
static om_status find_route(om_tape *t, int *out, const struct ggml_tensor *ids) {
    for (int i = t->n_routes - 1; i >= 0; i--) {
        if (t->routes[i].id == ids) {
            *out = i;
            return OM_OK;
        }
    }
    if (!grow((void **) &t->routes, &t->cap_routes, t->n_routes, sizeof *t->routes)) {
        return om_fail_nomem(&t->err, sizeof *t->routes);
    }
    om_route route = { .id = ids, .ranking = t->n_rankings - 1, .node = -1 };
    while (route.ranking >= 0 && t->rankings[route.ranking].id != root_tensor(ids)) {
        route.ranking--;
    }
    t->routes[t->n_routes] = route;
    *out = t->n_routes++;
    return OM_OK;
}

/* Scores are kept when a gradient can reach them: what decides a choice near a tie
 * (docs/method.md eq. 14). */
static om_status record_ranking(om_tape *t, const struct ggml_tensor *node) {
    om_status status = OM_OK;
    const struct ggml_tensor *scores = node->src[0];
    if (!is_active(t, scores) || scores->type != GGML_TYPE_F32) {
        return OM_OK;
    }
    if (!grow((void **) &t->rankings, &t->cap_rankings, t->n_rankings, sizeof *t->rankings)) {
        return om_fail_nomem(&t->err, sizeof *t->rankings);
    }
    om_ranking r = { .id = node, .before = t->n_nodes };
    r.logarithm = om_scores_are_probabilities(scores);
    OM_TRY(make_view(t, &r.scores, find_root(t, scores), scores));
    OM_TRY(save(t, &r.saved, scores));
    t->rankings[t->n_rankings++] = r;
out:
    return status;
}

/* The choice that the rows in `t` were gathered by, through whatever normalises and scales them. */
static const struct ggml_tensor *gathered_by(const struct ggml_tensor *t) {
    for (int depth = 0; t && depth < 16; depth++, t = t->src[0]) {
        if (t->op == GGML_OP_GET_ROWS) {
            return t->src[1];
        }
    }
    return NULL;
}

/* The experts' outputs, or their inputs, [C, K, T] times [1, K, T] that was gathered by a choice:
 * the second factor is what the router gives to each. No architecture needs to be known. */
static om_status keep_router_weights(om_tape *t, const om_tape_node *n,
                                     const struct ggml_tensor *node) {
    const int64_t *w = node->src[1]->ne, *x = node->src[0]->ne;
    if (t->measure || n->saved[1] < 0 || w[0] != 1 || w[3] != 1 || x[1] != w[1] || x[2] != w[2]) {
        return OM_OK;
    }
    const struct ggml_tensor *ids = gathered_by(node->src[1]);
    if (!ids || ids->ne[0] != w[1] || ids->ne[1] != w[2] || ids->ne[2] != 1 || ids->ne[3] != 1) {
        return OM_OK;
    }
    int route = -1;
    om_status status = find_route(t, &route, ids);
    const size_t bytes = (size_t) (w[1] * w[2]) * sizeof(float);
    if (status != OM_OK || t->routes[route].weights) {
        return status;
    }
    float *copy = om_calloc(1, bytes);
    if (!copy) {
        return om_fail_nomem(&t->err, bytes);
    }
    memcpy(copy, t->saved[n->saved[1]].array.data, bytes);
    t->routes[route].weights = copy;
    return OM_OK;
}

/* ---- nodes
 * -----------------------------------------------------------------------------------------------------------------
 */

/* A choice is piecewise constant: no gradient passes it (what a changed choice costs is measured
 * apart, docs/method.md). Nor does it pass FILL, which takes its source's shape alone (experts
 * outside of the chosen groups). */
static bool passes_no_gradient(enum ggml_op op) {
    return op == GGML_OP_ARGSORT || op == GGML_OP_TOP_K || op == GGML_OP_ARGMAX ||
           op == GGML_OP_FILL;
}

static bool moves_no_data(enum ggml_op op) {
    return op == GGML_OP_NONE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE ||
           op == GGML_OP_PERMUTE || op == GGML_OP_TRANSPOSE;
}

/* The profiled weight that source 0 is, when the op reads it as a matrix; -1: none. */
static int weight_index(const om_tape *t, const struct ggml_tensor *node) {
    if ((node->op != GGML_OP_MUL_MAT && node->op != GGML_OP_MUL_MAT_ID &&
         node->op != GGML_OP_GET_ROWS) ||
        !in_model(node->src[0])) {
        return -1;
    }
    return t->weight_of(t->ud, node->src[0]->name);
}

/* Does a gradient have to pass this node, and through which sources? */
static bool is_relevant(const om_tape *t, const struct ggml_tensor *node, int weight) {
    if (weight >= 0) {
        return true;
    }
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (is_active(t, node->src[i])) {
            return true;
        }
    }
    return false;
}

static om_status check_supported(om_tape *t, const struct ggml_tensor *node,
                                 const om_vjp_rule *rule) {
    char op[48];
    if (!rule) {
        return om_fail(&t->err, OM_E_UNSUPPORTED,
                       "no gradient rule for op %s (tensor '%s'); use --method measured, which "
                       "needs forward passes only",
                       om_vjp_op_name(op, node->op, node->op_params), node->name);
    }
    const bool writes_into_src = node->op == GGML_OP_SET_ROWS || node->op == GGML_OP_CPY;
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        const bool covered = i < OM_VJP_SRC && (rule->grads >> i & 1U);
        if (!covered && !(writes_into_src && i > 0) && is_active(t, node->src[i])) {
            return om_fail(&t->err, OM_E_UNSUPPORTED,
                           "no gradient rule for source %d of op %s (tensor '%s'); use --method "
                           "measured, which needs "
                           "forward passes only",
                           i, om_vjp_op_name(op, node->op, node->op_params), node->name);
        }
    }
    return OM_OK;
}

/* Before the node runs: everything about its sources. */
static om_status record_sources(om_tape *t, const struct ggml_tensor *node, int weight) {
    om_status status = OM_OK;
    const om_vjp_rule *rule = om_vjp_find(node->op, node->op_params);
    OM_TRY(check_supported(t, node, rule));
    if (!grow((void **) &t->nodes, &t->cap_nodes, t->n_nodes, sizeof *t->nodes)) {
        return om_fail_nomem(&t->err, sizeof *t->nodes);
    }
    om_tape_node *n = &t->nodes[t->n_nodes++];
    *n = (om_tape_node){ .rule = rule,
                         .op = node->op,
                         .weight = weight,
                         .saved = { -1, -1, -1 },
                         .saved_dst = -1,
                         .route = -1 };
    n->weight_tensor = weight >= 0 ? node->src[0] : NULL;
    memcpy(n->params, node->op_params, sizeof n->params);
    memcpy(n->name, node->name, sizeof n->name);
    n->name[sizeof n->name - 1] = 0;

    unsigned need = 0;
    for (int i = 0; i < OM_VJP_SRC; i++) {
        n->src[i].root = -1;
        const struct ggml_tensor *src = node->src[i];
        if (!src) {
            continue;
        }
        n->want[i] = (rule->grads >> i & 1U) && is_active(t, src);
        if (n->want[i]) {
            OM_TRY(make_view(t, &n->src[i], find_root(t, src), src));
            need |= rule->need[i];
        } else {
            memcpy(n->src[i].ne, src->ne, sizeof src->ne);
        }
    }
    if (weight >= 0) { /* backward.c reads the weight itself, and the rows that met it */
        need = node->op == GGML_OP_GET_ROWS ? 0 : OM_NEED_SRC1;
    } else if (node->op == GGML_OP_MUL_MAT_ID) {
        return fail_here(t, OM_E_UNSUPPORTED, node,
                         "the stack of experts is no weight that may be quantized; use --method "
                         "measured");
    }
    for (int i = 0; i < OM_VJP_SRC; i++) {
        if ((need >> i & 1U) && node->src[i]) {
            OM_TRY(save(t, &n->saved[i], node->src[i]));
        }
    }
    if (rule->index_src >= 0) {
        OM_TRY(save_index(t, n, node->src[rule->index_src]));
    }
    if (node->op == GGML_OP_MUL_MAT_ID) {
        OM_TRY(find_route(t, &n->route, node->src[2]));
        t->routes[n->route].node = t->n_nodes - 1;
    } else if (node->op == GGML_OP_MUL) {
        OM_TRY(keep_router_weights(t, n, node));
    }
out:
    return status;
}

/* After the node has run: its result. */
static om_status record_result(om_tape *t, const struct ggml_tensor *node) {
    om_status status = OM_OK;
    om_tape_node *n = &t->nodes[t->n_nodes - 1];
    int root = -1;
    OM_TRY(add_root(t, &root, node));
    t->roots[root].active = true;
    OM_TRY(make_view(t, &n->dst, root, node));
    unsigned need = 0;
    for (int i = 0; i < OM_VJP_SRC; i++) {
        need |= n->want[i] ? n->rule->need[i] : 0;
    }
    if (need & OM_NEED_DST) {
        OM_TRY(save(t, &n->saved_dst, node));
    }
out:
    return status;
}

bool om_tape_callback(struct ggml_tensor *node, bool ask, void *ud) {
    om_tape *t = ud;
    /* "true" to a question asks for every node by itself, so that sources are whole when the next
     * question comes. */
    if (t->err.status != OM_OK) {
        return ask;
    }
    if (!ensure_slots(t)) {
        (void) om_fail_nomem(&t->err, (size_t) t->n_slots * sizeof(int));
        return ask;
    }
    if (moves_no_data(node->op) || passes_no_gradient(node->op)) {
        if (ask && (node->op == GGML_OP_ARGSORT || node->op == GGML_OP_TOP_K)) {
            (void) record_ranking(t, node); /* a failure is in t->err */
        }
        return true;
    }
    const int weight = weight_index(t, node);
    if (!is_relevant(t, node, weight)) {
        return true;
    }
    const om_status status = ask ? record_sources(t, node, weight) : record_result(t, node);
    return ask || status == OM_OK;
}
