/* A Hugging Face or MLX directory seen as the tensors of a GGUF.
 *
 * Whatever the directory holds (one tensor per expert, fused or stacked ones, experts in banks, FP8
 * with block scales, MXFP4 blocks, MLX's codes with scales and biases), it is listed here as one
 * tensor per
 * tensor of the GGUF, with mlx-lm's name beside it, and read in F32 rows. */
#ifndef OM_HF_DIRECTORY_H
#define OM_HF_DIRECTORY_H

#include "base/json.h"
#include "hf/family.h"
#include "model/safetensors.h"
#include "model/format.h"

typedef struct om_hf_tensor {
    char name[64];         /* of the GGUF: "blk.0.attn_q.weight" */
    char path[OM_HF_PATH]; /* mlx-lm's: "model.layers.0.self_attn.q_proj.weight" */
    int n_dims;
    int64_t ne[4]; /* ggml order: ne[0] = weights per row; ne[2] = experts; 1 past n_dims */
    const om_format *format; /* as stored: bf16, f16, f32 (FP8 and MXFP4 sources count as bf16), or
                                a type of MLX */
    bool may_quantize;       /* a module of mlx-lm with to_quantized that llama.cpp quantizes too:
                                linear layers, embeddings, stacks of experts; not routers, norms */
    const struct om_hf_source *source; /* private */
} om_hf_tensor;

typedef struct om_hf om_hf;

/** In which arrangement rows are read. They differ in the order of the rows (llama.cpp permutes q
 * and k of the Llama family) and in some norms (Gemma: GGUF keeps 1 + w). */
typedef enum om_hf_view { OM_HF_MLX, OM_HF_GGUF } om_hf_view;

/** Is it a directory that holds a config.json? */
bool om_hf_is_directory(const char *path);

/** Open config.json and the weights; nothing large is read.
 *
 *  Errors: OM_E_IO; OM_E_FORMAT (config.json or a safetensors file is damaged, a tensor is missing
 *  or has another shape than config.json says, quantized in a way that is not read here);
 *  OM_E_UNSUPPORTED (the family is not in the table: its name and the table). */
om_status om_hf_open(om_hf **out, const char *dir, om_error *err) OM_WARN_UNUSED;
void om_hf_free(om_hf *hf); /* accepts NULL */

/* Borrowed, valid until om_hf_free. */
const char *om_hf_path(const om_hf *hf);
const om_family *om_hf_family(const om_hf *hf);
const om_json *om_hf_config(const om_hf *hf); /* config.json */
const om_safetensors *om_hf_safetensors(const om_hf *hf);
int om_hf_n_tensors(const om_hf *hf);
/** i-th tensor: token_embd, output_norm, output unless tied, then block by block. */
const om_hf_tensor *om_hf_tensor_at(const om_hf *hf, int i);
const om_hf_tensor *om_hf_find(const om_hf *hf, const char *gguf_name); /* NULL: none */
int64_t om_hf_params(const om_hf *hf);

/** Rows [first, first + n) of the tensor seen as a matrix [rows, ne0], out [n, ne0] f32. A 1-D
 * tensor is one row. MLX's codes are read as scale * code + bias in F32. Thread-safe.
 * Errors: OM_E_INTERNAL (rows that do not exist); all else was checked when opening. */
om_status om_hf_rows_f32(float *out, const om_hf *hf, const om_hf_tensor *t, om_hf_view view,
                         int64_t first, int64_t n, om_error *err) OM_WARN_UNUSED;
/** Paths of experts in banks: "….mlp.switch_mlp.gate_proj.weight" into
 * "….mlp.switch_mlp.banks.2.gate_proj.weight", and into "….mlp.switch_mlp". */
void om_hf_bank_path(char out[OM_HF_PATH], const char *path, int bank);
void om_hf_stack_path(char out[OM_HF_PATH], const char *path);
/** The Python module that makes mlx-lm run them: its name in the directory, and its text. */
#define OM_HF_BANKS_FILE "optimum_banks.py"
extern const unsigned char om_hf_banks_module[]; /* NUL-terminated */
extern const size_t om_hf_banks_module_size;

/** Rows of all matrices together. */
static inline int64_t om_hf_tensor_n_rows(const om_hf_tensor *t) {
    return t->ne[1] * t->ne[2] * t->ne[3];
}
/** Which row of OM_HF_GGUF row `row` of OM_HF_MLX is (0 <= row < om_hf_tensor_n_rows): statistics
 * are in the GGUF's order. */
int64_t om_hf_gguf_row(const om_hf_tensor *t, int64_t row);
/** Drop the pages of these rows from this process. */
void om_hf_forget(const om_hf *hf, const om_hf_tensor *t, int64_t first, int64_t n);
/** SHA-256 over config.json's and all shards' digests in order. */
om_status om_hf_sha256(char hex[65], const om_hf *hf, const om_env *env,
                       om_error *err) OM_WARN_UNUSED;

#endif
