/* eval.json in memory: how one file or directory compares with the reference. */
#ifndef OM_EVAL_EVALUATION_H
#define OM_EVAL_EVALUATION_H

#include "base/error.h"
#include "eval/routing.h"
#include "eval/speed.h"
#include "model/format.h"

typedef struct om_evaluation {
    char model_path[1024], model_sha256[65], reference_path[1024], reference_sha256[65],
        text_sha256[65];
    om_container container; /* GGUF, or a directory for mlx-lm */
    char label[64];         /* "" or what the file is: "preset:Q4_K_M", "optimal" (set by run) */
    char score[16];         /* "all" or "second-half" */
    int n_ctx, n_chunks;
    int64_t tokens; /* scored */
    double ppl, ppl_stderr, ppl_reference;
    double kld_mean, kld_stderr, kld_median, kld_p99,
        kld_max;           /* nats; stderr over tokens as llama-perplexity */
    double top1_agreement; /* 0..1 */
    int64_t file_bytes;    /* of a directory: all model*.safetensors */
    double bpw;
    char runtime[64]; /* what was timed: "llama.cpp", "mlx_lm 0.32.2"; "" not measured, or older */
    char device[64];
    double prefill_tok_s, decode_tok_s, ttft_s; /* 0 not measured */
    int64_t peak_memory_bytes;
    int probe_tokens; /* first tokens that the runtime was asked to predict as well; 0: it was not
                       */
    double probe_ppl, probe_ppl_runtime; /* of them, here and there; 0: not finite */
    om_routing routing;                  /* no layers: a dense model, or not measured */
} om_evaluation;

/** Take over what was timed. */
void om_evaluation_set_speed(om_evaluation *e, const om_speed *speed);

/** Read and check eval.json, or write it atomically. *out owned (om_evaluation_free). Errors:
 * OM_E_IO, OM_E_FORMAT with the JSON path. */
om_status om_evaluation_read(om_evaluation **out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same for a document in memory; `name` is for messages. */
om_status om_evaluation_parse(om_evaluation **out, const char *text, size_t n, const char *name,
                              om_error *err) OM_WARN_UNUSED;
om_status om_evaluation_write(const om_evaluation *e, const char *path,
                              om_error *err) OM_WARN_UNUSED;
void om_evaluation_free(om_evaluation *e);

#endif
