/* Margins of a router's choices: how far the last expert chosen is ahead of the first one left out,
 * and what a margin follows from (docs/method.md eq. 14).
 *
 * No gradient passes a choice, but one passes the scores that it is made by. */
#ifndef OM_CALIB_MARGIN_H
#define OM_CALIB_MARGIN_H

#include <stdbool.h>
#include <stdint.h>

/** The two experts between which a token's choice is decided. */
typedef struct om_margin {
    int64_t last, next;           /* the last one chosen, the first one left out */
    double value;                 /* >= 0; score units, or their logarithm's */
    float slope_last, slope_next; /* d(value) / d(score of each) */
} om_margin;

struct ggml_tensor;

/** Are the scores what a softmax or a sigmoid gives? Then margins are differences of logarithms: of
 * a softmax these are the differences of the router's logits, the same scale for every token.
 * Scores with a bias on the choice are not. The graph says so, not the values: one router has one
 * scale in all windows. */
bool om_scores_are_probabilities(const struct ggml_tensor *scores);

/** The margin of one token. false: everything is chosen, scores are not finite, or the one left out
 * is so small (below FLT_MIN) that its logarithm has no slope.
 *
 *  scores    [n_experts]
 *  chosen    [n_used] experts, in any order
 *  logarithm what om_scores_are_probabilities said of the router */
bool om_margin_of(om_margin *out, const float *scores, int64_t n_experts, const int64_t *chosen,
                  int64_t n_used, bool logarithm);
/** The same of the n_used <= OM_MARGIN_USED experts with the highest scores. */
bool om_margin_of_best(om_margin *out, const float *scores, int64_t n_experts, int64_t n_used,
                       bool logarithm);
enum { OM_MARGIN_USED = 256 };

#endif
