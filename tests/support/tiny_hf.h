/* Tiny Hugging Face directories with seeded weights, written by code that shares nothing with the
 * readers under test but the header of safetensors files. */
#ifndef OM_TESTS_TINY_HF_H
#define OM_TESTS_TINY_HF_H

#include <stdbool.h>

/** Zero means the default in parentheses. */
typedef struct om_tiny_hf_options {
    const char *model_type; /* ("llama"), "qwen3", "qwen3_moe" */
    const char *dtype;      /* ("bfloat16"), "float16", "float32" */
    int n_layer;            /* (1) */
    int n_embd;             /* (64) */
    int n_ff;               /* (96); of one expert */
    int n_head, n_head_kv;  /* (4), (2) */
    int head_dim;           /* (16) */
    int n_vocab;            /* (100) */
    int n_expert;           /* qwen3_moe: (4) */
    bool untied;            /* with an lm_head */
    bool no_tokenizer;
    bool sparse;        /* the data is a hole in the file: all zero */
    float scale;        /* of all weights (1) */
    const char *nan_at; /* the third value of the sixth row of this tensor is a NaN */
} om_tiny_hf_options;

/** Make the directory `dir` (its parent exists) with config.json, model.safetensors and stand-ins
 * for a tokenizer. A failure ends the test program. Equal options give equal bytes. */
void om_tiny_hf_write(const char *dir, const om_tiny_hf_options *options);

#endif
