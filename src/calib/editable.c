/* libllama with its weights in writable memory: see editable.h. */
#include "calib/editable.h"

#include <string.h>

#include "base/mem.h"
#include "calib/forward.h"

struct om_editable {
    om_forward *forward;
    om_compute *compute; /* borrowed */
    om_fisher *weights;
    void **data; /* [n_weights] */
    bool collect;
};

typedef struct square_args {
    om_fisher_weight *w;
    const struct ggml_tensor *x; /* [n_in, T, …] contiguous rows; [n_in, 1 or K, T] of a stack */
    const struct ggml_tensor *ids; /* [K, T] expert of each slot; NULL: not a stack */
} square_args;

static int expert_of(const struct ggml_tensor *ids, int64_t slot) {
    const int64_t k = slot % ids->ne[0], t = slot / ids->ne[0];
    return *(const int32_t *) (const void *) ((const char *) ids->data + (size_t) k * ids->nb[0] +
                                              (size_t) t * ids->nb[1]);
}

/* Inputs j = first .. last over all tokens, in order. */
static void add_squares(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const square_args *a = ctx;
    const int64_t n = a->ids ? ggml_nelements(a->ids) : ggml_nrows(a->x);
    const int64_t shared = n / ggml_nrows(a->x); /* slots that see one row of x */
    for (int64_t slot = 0; slot < n; slot++) {
        const float *x = (const float *) a->x->data + slot / shared * a->x->ne[0];
        double *sum = a->w->in_sum2 + (a->ids ? expert_of(a->ids, slot) * a->w->n_in : (int64_t) 0);
        for (int64_t j = first; j < last; j++) {
            sum[j] += (double) x[j] * (double) x[j];
        }
    }
}

static void collect_input(om_editable *e, om_fisher_weight *w, const struct ggml_tensor *node) {
    square_args a = { w, node->src[1], node->op == GGML_OP_MUL_MAT_ID ? node->src[2] : NULL };
    om_compute_parallel(e->compute, w->n_in, 64, add_squares, &a);
    if (!a.ids) {
        *w->count += (double) ggml_nrows(a.x);
        return;
    }
    for (int64_t slot = 0; slot < ggml_nelements(a.ids); slot++) {
        w->count[expert_of(a.ids, slot)] += 1;
    }
}

static bool reads_matrix(const struct ggml_tensor *node) {
    return (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_MUL_MAT_ID ||
            node->op == GGML_OP_GET_ROWS) &&
           node->src[0];
}

static bool see_node(struct ggml_tensor *node, bool ask, void *ud) {
    om_editable *e = ud;
    const int i = reads_matrix(node) ? om_fisher_find(e->weights, node->src[0]->name) : -1;
    if (i < 0) {
        return false;
    }
    e->data[i] = node->src[0]->data;
    const struct ggml_tensor *x = node->src[1];
    if (!e->collect || node->op == GGML_OP_GET_ROWS || x->type != GGML_TYPE_F32 ||
        !ggml_is_contiguous(x)) {
        return false;
    }
    if (!ask) { /* nodes before this one run together with it, so only now is the input complete */
        collect_input(e, &e->weights->weights[i], node);
    }
    return true;
}

om_status om_editable_open(om_editable **out, const char *model_path, int n_tokens,
                           om_fisher *weights, om_compute *compute, const om_env *env,
                           om_error *err) {
    om_status status = OM_OK;
    om_editable *e = om_calloc(1, sizeof *e);
    if (!e) {
        return om_fail_nomem(err, sizeof *e);
    }
    e->weights = weights;
    e->compute = compute;
    e->data = om_calloc((size_t) weights->n_weights, sizeof *e->data);
    if (!e->data) {
        status = om_fail_nomem(err, (size_t) weights->n_weights * sizeof *e->data);
        goto out;
    }
    const om_forward_setup setup = { .model_path = model_path,
                                     .n_tokens = n_tokens,
                                     .writable = true,
                                     .callback = see_node,
                                     .ud = e };
    OM_TRY(om_forward_open(&e->forward, &setup, compute, env, err));
out:
    if (status != OM_OK) {
        om_editable_close(e);
        return status;
    }
    *out = e;
    return OM_OK;
}

void om_editable_close(om_editable *e) {
    if (e) {
        om_forward_close(e->forward);
        om_free(e->data);
        om_free(e);
    }
}

om_status om_editable_run(const float **logits, om_editable *e, const int32_t *tokens, bool collect,
                          om_error *err) {
    e->collect = collect;
    return om_forward_run(logits, e->forward, tokens, err);
}

int om_editable_vocab(const om_editable *e) {
    return om_forward_vocab(e->forward);
}

void *om_editable_weight(om_editable *e, int weight) {
    return e->data[weight];
}
