/* One model against an open reference: the library form of `optimum eval`. */
#ifndef OM_EVAL_JUDGE_H
#define OM_EVAL_JUDGE_H

#include <stdbool.h>

#include "base/error.h"
#include "eval/evaluation.h"
#include "eval/reference.h"

typedef struct om_judge_options {
    const char *score; /* NULL or "all"; "second-half" */
    int n_gpu_layers;
    bool exact;   /* F32 cache, plain kernels: for F32 files, to see the weights' effect alone */
    bool speed;   /* also time prefill and decode and measure memory; of a GGUF only */
    bool no_hash; /* do not read the model for its SHA-256 (64 zeros then) */
    const char *like;    /* for a directory, as in om_unpack_options; NULL: the reference's GGUF, if
                            it has one */
    const char *scratch; /* as in om_unpack_options */
    bool quiet;          /* no progress */
    bool routing;        /* compare the choices of experts too, of a mixture */
    int probe; /* also the perplexity of the first so many tokens predicted (score "all", first
                  window): probe_ppl */
} om_judge_options;

/** Score a GGUF, or a directory for mlx-lm. *out is filled (label stays empty); outs untouched on
 * failure.
 *
 *  Errors: OM_E_MISMATCH (another vocabulary), OM_E_NUMERIC (logits not finite, with window and
 *  position), OM_E_ARG (unknown score), OM_E_CANCELLED, those of om_unpacked_open and
 *  om_runtime_open.
 *  Cost: loads the model mapped (a directory's is written first, in F32); one forward pass over the
 * windows; memory of one block of logits for each side.
 */
om_status om_judge(om_evaluation *out, om_reference *ref, const char *model_path,
                   const om_judge_options *options, const om_env *env,
                   om_error *err) OM_WARN_UNUSED;

struct om_runtime;
/** The same for a model that is loaded already: fills tokens, perplexities, divergences, top-1, the
 * reference's and the text's fields, and nothing about the file. Routing is compared when both
 * sides were opened with `choices`. */
om_status om_judge_runtime(om_evaluation *out, om_reference *ref, struct om_runtime *model,
                           const om_judge_options *options, const om_env *env,
                           om_error *err) OM_WARN_UNUSED;

/** n_ctx tokens of context, the position from which tokens are scored. Errors: OM_E_ARG. */
om_status om_score_start(int *first, const char *score, int n_ctx, om_error *err) OM_WARN_UNUSED;

#endif
