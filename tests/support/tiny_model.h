/* Tiny random models that stock libllama loads and runs, so that tests need no download. */
#ifndef TINY_MODEL_H
#define TINY_MODEL_H

#include <stdbool.h>

#include <ggml.h>

/** 0 (and NULL, false) means the default in parentheses. */
typedef struct om_tiny_options {
    const char *arch;    /* ("llama") llama, qwen2, qwen3, gemma2, gemma3, phi3; mixtures: qwen2moe,
                            qwen3moe, olmoe, gpt-oss, dots1 (one dense layer first, the router a
                            sigmoid with a bias on the choice) */
    enum ggml_type type; /* (GGML_TYPE_F32) of the matrices; norms and biases are F32 */
    int n_layer;         /* (2) */
    int n_embd;          /* (256) */
    int n_head;          /* (4) */
    int n_head_kv;       /* (2, olmoe and dots1: n_head) */
    int head_dim;        /* (n_embd / n_head) */
    int n_ff;            /* (512); of one expert in a mixture */
    int n_expert;        /* (0, mixtures: 4); llama with experts is Mixtral's layout */
    int n_expert_used;   /* (2) */
    int n_expert_groups; /* (0) dots1: the choice is among the experts of half of the groups */
    int n_vocab;         /* (384), at least 288 */
    int n_window;        /* (0, gemma and gpt-oss: 64) sliding window in tokens */
    bool tied;           /* no output.weight: token_embd is both (gemma2 and gemma3 always;
                            qwen2moe, olmoe, gpt-oss and dots1 never) */
    bool no_bos;         /* the vocabulary does not want BOS */
    bool sparse;         /* header only, the data is a hole in the file: models of any size */
    float scale;         /* (1) multiplies the matrices' standard deviation 1/sqrt(n_in) */
} om_tiny_options;

/** Write the model. The values depend on tensor names and shapes only, so equal options give equal
 * bytes. Stops the test program with a message when it cannot. */
void om_tiny_model_write_with(const char *path, const om_tiny_options *options);

/** The same with the defaults. */
void om_tiny_model_write(const char *path, const char *arch, enum ggml_type type);

#endif
