/* See reroute.h. */
#include "calib/reroute.h"

#include <math.h>
#include <string.h>

#include "ggml.h"

#include "base/mem.h"
#include "calib/forward.h"
#include "calib/margin.h"

/* One ARGSORT of the graph, in its order: the same in every window. */
typedef struct sorting {
    const struct ggml_tensor *node; /* of the window at hand */
    float *scores;                  /* [T, E] copy, owned; its buffer may be used again */
    int64_t n_experts;
    int router; /* number among the routers; -1: it orders something else */
    int64_t n_used;
    bool logarithm; /* margins are differences of logarithms */
} sorting;

struct om_reroute {
    om_forward *forward;
    int n_tokens;
    sorting *sortings;
    int n_sortings, cap_sortings;
    int at; /* sortings met in the window at hand */
    int n_routers;
    double *margins; /* [n_routers, T] */
    const bool *swap;
    bool failed; /* out of memory inside the callback */
};

static bool is_sorting(const struct om_reroute *r, const struct ggml_tensor *t) {
    return t->op == GGML_OP_ARGSORT && t->type == GGML_TYPE_I32 &&
           t->src[0]->type == GGML_TYPE_F32 && ggml_is_contiguous(t->src[0]) &&
           ggml_is_contiguous(t) && t->ne[1] == r->n_tokens && t->ne[2] * t->ne[3] == 1;
}

static bool grow(om_reroute *r) {
    if (r->n_sortings < r->cap_sortings) {
        return true;
    }
    const int more = r->cap_sortings ? 2 * r->cap_sortings : 64;
    sorting *p = om_realloc(r->sortings, (size_t) more, sizeof *p);
    if (!p) {
        return false;
    }
    r->sortings = p;
    r->cap_sortings = more;
    return true;
}

/* After an ARGSORT of a run without swaps. */
static void keep_scores(om_reroute *r, const struct ggml_tensor *node) {
    const size_t bytes = ggml_nbytes(node->src[0]);
    if (r->at == r->n_sortings) {
        r->failed = r->failed || !grow(r);
        if (r->failed) {
            return;
        }
        r->sortings[r->n_sortings++] = (sorting){
            .router = -1,
            .n_experts = node->ne[0],
            .logarithm = om_scores_are_probabilities(node->src[0]),
        };
    }
    sorting *s = &r->sortings[r->at];
    s->node = node;
    s->scores = s->scores ? s->scores : om_calloc(1, bytes);
    if (!s->scores || s->n_experts != node->ne[0]) {
        r->failed = true;
        return;
    }
    memcpy(s->scores, node->src[0]->data, bytes);
}

/* After an ARGSORT of a run with swaps. */
static void swap_choices(om_reroute *r, struct ggml_tensor *node) {
    const sorting *s = r->at < r->n_sortings ? &r->sortings[r->at] : NULL;
    if (!s || s->router < 0) {
        return;
    }
    for (int t = 0; t < r->n_tokens; t++) {
        if (r->swap[(int64_t) s->router * r->n_tokens + t]) {
            int32_t *row = (int32_t *) node->data + t * s->n_experts + s->n_used - 1;
            const int32_t last = row[0];
            row[0] = row[1];
            row[1] = last;
        }
    }
}

/* A product with a stack shows which ARGSORT is a router's. */
static void note_router(om_reroute *r, const struct ggml_tensor *node) {
    const struct ggml_tensor *ids = node->src[2];
    for (int i = r->at - 1; i >= 0; i--) {
        sorting *s = &r->sortings[i];
        if (ids->view_src == s->node && ids->view_offs == 0 && ids->nb[1] == s->node->nb[1]) {
            s->router = s->router < 0 && ids->ne[0] < s->n_experts ? r->n_routers++ : s->router;
            s->n_used = ids->ne[0];
            return;
        }
    }
}

static bool see_node(struct ggml_tensor *node, bool ask, void *ud) {
    om_reroute *r = ud;
    if (ask && node->op == GGML_OP_MUL_MAT_ID && !r->swap) {
        note_router(r, node);
    }
    if (ask || !is_sorting(r, node)) {
        return is_sorting(r, node);
    }
    if (r->swap) {
        swap_choices(r, node);
    } else {
        keep_scores(r, node);
    }
    r->at++;
    return !r->failed;
}

om_status om_reroute_open(om_reroute **out, const char *model_path, int n_tokens, om_compute *c,
                          const om_env *env, om_error *err) {
    om_reroute *r = om_calloc(1, sizeof *r);
    if (!r) {
        return om_fail_nomem(err, sizeof *r);
    }
    r->n_tokens = n_tokens;
    const om_forward_setup setup = {
        .model_path = model_path, .n_tokens = n_tokens, .callback = see_node, .ud = r
    };
    const om_status status = om_forward_open(&r->forward, &setup, c, env, err);
    if (status != OM_OK) {
        om_reroute_close(r);
        return status;
    }
    *out = r;
    return OM_OK;
}

void om_reroute_close(om_reroute *r) {
    if (!r) {
        return;
    }
    om_forward_close(r->forward);
    for (int i = 0; i < r->n_sortings; i++) {
        om_free(r->sortings[i].scores);
    }
    om_free(r->sortings);
    om_free(r->margins);
    om_free(r);
}

/* Margins of a router from its scores: the choice is the n_used best of them. */
static void fill_margins(const om_reroute *r, const sorting *s) {
    for (int t = 0; t < r->n_tokens; t++) {
        om_margin m;
        double *out = &r->margins[(int64_t) s->router * r->n_tokens + t];
        *out = om_margin_of_best(&m, s->scores + t * s->n_experts, s->n_experts, s->n_used,
                                 s->logarithm)
                   ? m.value
                   : (double) NAN;
    }
}

static om_status record_margins(om_reroute *r, om_error *err) {
    const size_t n = (size_t) r->n_routers * (size_t) r->n_tokens;
    r->margins = r->margins ? r->margins : om_calloc(n + 1, sizeof *r->margins);
    if (!r->margins) {
        return om_fail_nomem(err, n * sizeof *r->margins);
    }
    for (int i = 0; i < r->n_sortings; i++) {
        if (r->sortings[i].router >= 0) {
            fill_margins(r, &r->sortings[i]);
        }
    }
    return OM_OK;
}

om_status om_reroute_run(const float **logits, om_reroute *r, const int32_t *tokens,
                         const bool *swap, om_error *err) {
    om_status status = OM_OK;
    r->swap = swap;
    r->at = 0;
    status = om_forward_run(logits, r->forward, tokens, err);
    if (r->failed) {
        return om_fail(err, OM_E_NOMEM, "not enough memory for the scores of the routers");
    }
    if (status == OM_OK && !swap) {
        status = record_margins(r, err);
    }
    return status;
}

int om_reroute_n_routers(const om_reroute *r) {
    return r->n_routers;
}

const double *om_reroute_margins(const om_reroute *r) {
    return r->margins;
}

int om_reroute_vocab(const om_reroute *r) {
    return om_forward_vocab(r->forward);
}
