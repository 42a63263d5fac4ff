/* A model's output head alone: hidden states in, logits out, with the operations llama.cpp uses. */
#ifndef OM_EVAL_HEAD_H
#define OM_EVAL_HEAD_H

#include <stdint.h>

#include "base/error.h"
#include "model/format.h"

/** What the head computes: z = W h (+ bias), times scale; then cap * tanh(z / cap) when cap > 0. */
typedef struct om_head_spec {
    int64_t n_embd, n_vocab;
    const om_format *format; /* of the weight */
    const void *weight;      /* n_vocab rows of n_embd, borrowed; 64-byte alignment is not needed */
    const float *bias;       /* [V] f32, borrowed; NULL: none */
    float scale;             /* 1: none */
    float softcap;           /* 0: none */
} om_head_spec;

typedef struct om_head om_head;

/** Room for n_rows at a time. *out owned (om_head_free). The weight is used in place when it is
 * aligned to 32 bytes, else copied. Cost: n_rows * V floats. */
om_status om_head_new(om_head **out, const om_head_spec *spec, int n_rows, int n_threads,
                      om_error *err) OM_WARN_UNUSED;
void om_head_free(om_head *head);

/** Logits of n <= n_rows hidden states. hidden [n, C] f32; *logits [n, V] f32, borrowed, valid
 * until the next call. Errors: OM_E_INTERNAL. */
om_status om_head_logits(const float **logits, om_head *head, const float *hidden, int n,
                         om_error *err) OM_WARN_UNUSED;

#endif
