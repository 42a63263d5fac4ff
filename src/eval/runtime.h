/* A model in llama.cpp, ready to judge: tokens in, logits (and final hidden states) out. */
#ifndef OM_EVAL_RUNTIME_H
#define OM_EVAL_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "eval/routing.h"

typedef struct om_runtime_options {
    int n_gpu_layers; /* 0: processor only; negative: all */
    int n_ctx;        /* longest window in tokens */
    int n_block;      /* most tokens in one decode call; 0 = min(n_ctx, 512) */
    int n_outputs;    /* most tokens with logits in one call; 0 = n_block */
    bool f32_kv;      /* exact: KV cache in F32 and plain attention; false: llama.cpp's defaults */
    bool extra_bufts; /* let llama.cpp repack weights, as it does by default */
    bool hidden;      /* also keep the hidden states after the final norm */
    bool choices;     /* also keep which experts are chosen; costs a stop in each layer, so not for
                         dense models and not while timing */
} om_runtime_options;

typedef struct om_runtime om_runtime;

/** Load a GGUF, mapped. *out owned (om_runtime_free).
 *
 *  env    copied; its cancel hook is polled while the model computes
 *
 *  Errors: OM_E_IO or OM_E_FORMAT with llama.cpp's last message, OM_E_UNSUPPORTED (encoders, models
 *  without a causal decoder), OM_E_NOMEM when the context cannot be made.
 */
om_status om_runtime_open(om_runtime **out, const char *path, const om_runtime_options *options,
                          const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_runtime_free(om_runtime *rt);

/** Shape of the loaded model. */
int om_runtime_n_vocab(const om_runtime *rt);
int om_runtime_n_embd(const om_runtime *rt); /* width of a hidden state */
int om_runtime_n_block(const om_runtime *rt);
/** Digest of every token's text and of the BOS convention: equal vocabularies, equal numbers. */
uint64_t om_runtime_vocab_hash(const om_runtime *rt);
/** Name of the device that computes. Borrowed from rt. */
const char *om_runtime_device(const om_runtime *rt);

/** Feed tokens at positions pos .. pos + n - 1 of one sequence; pos == 0 starts a new one.
 *
 *  tokens     [n] i32, n <= n_block
 *  first_out  logits are kept for tokens[first_out .. n - 1]; n: none
 *
 *  Errors: OM_E_CANCELLED, OM_E_INTERNAL with llama.cpp's message.
 */
om_status om_runtime_decode(om_runtime *rt, const int32_t *tokens, int n, int pos, int first_out,
                            om_error *err) OM_WARN_UNUSED;
/** Of the last decode: [n - first_out, V] and [n - first_out, C] f32, borrowed, valid until the
 * next decode; they wait for the device. NULL when there are none. */
const float *om_runtime_logits(om_runtime *rt);
const float *om_runtime_hidden(om_runtime *rt);
/** Experts chosen in the last decode, for tokens first_out .. n - 1 at least; borrowed until the
 * next decode. Empty without `choices`, without logits, and when the graph was not understood. */
om_choices om_runtime_choices(const om_runtime *rt);

#endif
