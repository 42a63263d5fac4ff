/* What a model needs at run time besides its file: KV cache and compute buffers; and what a budget
 * leaves. */
#ifndef OM_MODEL_MEMORY_H
#define OM_MODEL_MEMORY_H

#include "model/gguf.h"

/** KV cache and compute buffers, as profile.json keeps them so that budgets need no model. Layers
 * without attention have 0. Owned arrays; om_memory_release. */
typedef struct om_memory {
    int n_layers;
    int64_t *kv_values_per_token; /* [n_layers] K plus V values one token adds (GQA counted) */
    int64_t *window;              /* [n_layers] tokens the layer keeps; 0 = all (sliding windows) */
    int64_t compute_bytes;  /* compute buffers at ctx 4096, ubatch 512, and the state of recurrent
                               layers; measured by libllama without weights */
    bool compute_estimated; /* libllama could not simulate: a formula */
} om_memory;

/** Cost: metadata; compute buffers are simulated by libllama (no weights loaded). */
om_status om_memory_of(om_memory *out, const om_model *model, const om_env *env,
                       om_error *err) OM_WARN_UNUSED;
void om_memory_release(om_memory *m);

/** Bytes of the KV cache for n_ctx tokens in kv_type ("f16", "q8_0", …). -1: no type that llama.cpp
 * keeps a cache in. Rounded as llama.cpp does: to 256 tokens, a window plus one ubatch. */
int64_t om_memory_kv_bytes(const om_memory *m, int n_ctx, const char *kv_type);

/** Compute buffers for n_ctx tokens: compute_bytes, and above 4096 tokens the growth of the
 * attention mask (flash attention on; an upper bound). */
int64_t om_memory_compute_bytes(const om_memory *m, int n_ctx);

/** Memory that a model may use on this machine: macOS lets the GPU wire only a part of it
 * (iogpu.wired_limit_mb, by default two thirds to three quarters). 0: unknown, ask the user. */
int64_t om_default_memory_bytes(void);

/** The whole file's byte limit for a budget. params: of the model. Errors: OM_E_ARG (bad values),
 * OM_E_INFEASIBLE (memory is used up before any weight). Needs no model: m comes from profile.json
 * or om_memory_of. */
om_status om_budget_file_bytes(int64_t *out, const om_budget *budget, const om_memory *m,
                               int64_t params, om_error *err) OM_WARN_UNUSED;

#endif
