/* See margin.h. */
#include "calib/margin.h"

#include <float.h>
#include <math.h>

#include "ggml.h"

bool om_scores_are_probabilities(const struct ggml_tensor *scores) {
    while (scores->op == GGML_OP_VIEW || scores->op == GGML_OP_RESHAPE ||
           scores->op == GGML_OP_CONT) {
        scores = scores->src[0];
    }
    return scores->op == GGML_OP_SOFT_MAX ||
           (scores->op == GGML_OP_UNARY && ggml_get_unary_op(scores) == GGML_UNARY_OP_SIGMOID);
}

static bool is_chosen(const int64_t *chosen, int64_t n_used, int64_t expert) {
    for (int64_t k = 0; k < n_used; k++) {
        if (chosen[k] == expert) {
            return true;
        }
    }
    return false;
}

bool om_margin_of(om_margin *out, const float *scores, int64_t n_experts, const int64_t *chosen,
                  int64_t n_used, bool logarithm) {
    om_margin m = { .last = -1, .next = -1 };
    for (int64_t e = 0; e < n_experts; e++) {
        int64_t *at = is_chosen(chosen, n_used, e) ? &m.last : &m.next;
        const bool better =
            *at >= 0 && (at == &m.last ? scores[e] < scores[*at] : scores[e] > scores[*at]);
        *at = *at < 0 || better ? e : *at;
    }
    if (m.last < 0 || m.next < 0 || !isfinite(scores[m.last]) || !isfinite(scores[m.next]) ||
        (logarithm && scores[m.next] < FLT_MIN)) {
        return false;
    }
    const double last = (double) scores[m.last], next = (double) scores[m.next];
    m.value = fmax(0.0, logarithm ? log(last) - log(next) : last - next);
    m.slope_last = logarithm ? 1.0F / scores[m.last] : 1.0F;
    m.slope_next = logarithm ? -1.0F / scores[m.next] : -1.0F;
    *out = m;
    return true;
}

bool om_margin_of_best(om_margin *out, const float *scores, int64_t n_experts, int64_t n_used,
                       bool logarithm) {
    int64_t chosen[OM_MARGIN_USED];
    if (n_used > OM_MARGIN_USED || n_used > n_experts) {
        return false;
    }
    for (int64_t k = 0; k < n_used; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < n_experts; e++) {
            if (!is_chosen(chosen, k, e) && (best < 0 || scores[e] > scores[best])) {
                best = e;
            }
        }
        chosen[k] = best;
    }
    return om_margin_of(out, scores, n_experts, chosen, n_used, logarithm);
}
