/* How fast a model is on this machine, and what it occupies while it runs. */
#ifndef OM_EVAL_SPEED_H
#define OM_EVAL_SPEED_H

#include <stdint.h>

#include "base/error.h"

typedef struct om_speed {
    double prefill_tok_s; /* 512 tokens of prompt */
    double decode_tok_s;  /* 64 tokens, greedy, after that prompt */
    double ttft_s;        /* prompt in, first token out; the model is loaded and warm */
    int64_t memory_bytes; /* growth of this process and of the device while it runs; 0 unknown */
    char runtime[64];     /* what ran it: "llama.cpp", "mlx_lm 0.32.2" */
    char device[64];
    int probe_tokens; /* mlx_lm: predicted by it, of the first window from its start; 0: none */
    double probe_ppl; /* with this perplexity */
} om_speed;

/** Load with llama.cpp's own defaults (repacked weights, F16 cache) and time it: one warm-up, then
 * the median of three prefills when they are short.
 *
 *  tokens [n] i32, n >= 1: the prompt, repeated as often as needed
 *  Errors: those of om_runtime_open and om_runtime_decode.
 */
om_status om_speed_measure(om_speed *out, const char *path, int n_gpu_layers, const int32_t *tokens,
                           int n, const om_env *env, om_error *err) OM_WARN_UNUSED;

#endif
