/* What one row of logits says: NLL, KL divergence from the reference, top-1 agreement; and their
 * statistics over a text. Pure arithmetic: no ggml, no files. */
#ifndef OM_EVAL_METRICS_H
#define OM_EVAL_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/parallel.h"

/** exp of floats: out[i] = exp(x[i]).
 *
 *  x      [n] f32; out [n] f32, may be x itself
 *
 *  Relative error at most 1.2e-7 (one unit in the last place) for |x| <= 87.3; below -87.3
 *  the result is 0, above 87.3 it is exp(87.3); NaN gives an unspecified number.
 *  Cost: about 1 ns an element without any instruction set beyond the compiler's default.
 */
void om_exp_row(float *out, const float *x, int64_t n);

/** One scored token; everything in nats. */
typedef struct om_row_score {
    double nll;     /* -log p_model(label) */
    double nll_ref; /* -log p_reference(label) */
    double kld;     /* KL(p_reference || p_model) over the whole vocabulary, >= 0 up to rounding */
    bool same_top;  /* the first most probable token is the same */
} om_row_score;

/** Score one pair of rows.
 *
 *  ref, model [V] f32 logits; label in [0, V); scratch [V] f32, overwritten
 *
 *  KLD is computed as log E_p[exp(-u)], u the centred logit difference, so that equal rows give
 *  exactly 0 and small divergences keep their digits (docs/method.md, "judging").
 *  Errors: false when a logit is not finite (*out unspecified).
 *  Cost:   O(V), one to two exponentials per element.
 */
bool om_score_row(om_row_score *out, const float *ref, const float *model, int64_t n_vocab,
                  int32_t label, float *scratch) OM_WARN_UNUSED;

/* ---- accumulation ---- */

/** Running sums over scored tokens. Zeroed is empty; om_tally_release. The order of additions is
 * the order of tokens, whatever the number of threads. */
typedef struct om_tally {
    int64_t n; /* tokens */
    double sum_nll, sum_nll2, sum_nll_ref, sum_kld, sum_kld2;
    int64_t n_same_top;
    float *kld;  /* [n] f32, one per token, for the quantiles */
    int64_t cap; /* allocated length of kld */
} om_tally;

/** Score a block of rows and add them.
 *
 *  ref, model [n, V] f32 logits, borrowed; labels [n] i32, label of row i
 *  *bad_row   on OM_E_NUMERIC: index of the first row with a logit that is not finite
 *
 *  Errors: OM_E_NOMEM, OM_E_NUMERIC (the text names the row within the block; *t unchanged).
 *  Cost:   O(n * V / threads) and [threads, V] floats.
 */
om_status om_tally_rows(om_tally *t, int64_t *bad_row, const float *ref, const float *model,
                        const int32_t *labels, int64_t n, int64_t n_vocab, om_pool *pool,
                        om_error *err) OM_WARN_UNUSED;
void om_tally_release(om_tally *t);

/** The statistics of a tally. */
typedef struct om_summary {
    int64_t tokens;
    double ppl, ppl_stderr, ppl_ref;
    double kld_mean, kld_stderr, kld_median, kld_p99, kld_max;
    double top1_agreement; /* 0..1 */
} om_summary;

/** Standard errors as llama-perplexity gives them: sqrt((E[x²] - E[x]²) / (n - 1)), 0 for n <= 10;
 * times the perplexity for ppl_stderr. Quantiles are exact, linear between neighbours. Sorts
 * t->kld. An empty tally gives zeros. */
om_summary om_tally_summary(om_tally *t);

#endif
