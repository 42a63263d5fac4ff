/* A directory becomes a GGUF: metadata and tokenizer from its JSON files, weights streamed. */
#ifndef OM_HF_TO_GGUF_H
#define OM_HF_TO_GGUF_H

#include "hf/directory.h"
#include "model/gguf.h"

/** Key of the metadata under which om_hf_gguf_sha256 is kept. */
#define OM_HF_SOURCE_KEY "optimum.directory.sha256"

/** What llama.cpp's converter would make of the directory, in the source's own precision (FP8 and
 * MXFP4 as BF16; MLX's codes as F32), written atomically.
 *
 *  f32  every tensor in F32
 *
 *  Errors: OM_E_UNSUPPORTED (a tokenizer or a kind of attention that is not in the tables: use
 *  llama.cpp's convert_hf_to_gguf.py and give that GGUF), OM_E_FORMAT, OM_E_IO (also: not enough
 *  free space, said before any work), OM_E_NUMERIC, OM_E_CANCELLED.
 *  Cost: one read of the weights, and another for their digest when it is not known yet; memory: a
 *  few rows. */
om_status om_hf_to_gguf(const om_hf *hf, bool f32, const char *path, const om_env *env,
                        om_error *err) OM_WARN_UNUSED;

/** SHA-256 over all that om_hf_to_gguf reads: om_hf_sha256, and the names and digests of the files
 * of the tokenizer and of the sampling that are there. */
om_status om_hf_gguf_sha256(char hex[65], const om_hf *hf, const om_env *env,
                            om_error *err) OM_WARN_UNUSED;

/** The same weights in F32 under the metadata of another GGUF of the model: its tokenizer and its
 * hyper-parameters. Every tensor of `like` must be there with its shape (tensors that mlx-lm does
 * not have, like rope_freqs, are copied from `like`). Errors: OM_E_MISMATCH names the tensor. */
om_status om_hf_to_gguf_like(const om_hf *hf, const om_model *like, const char *path,
                             const om_env *env, om_error *err) OM_WARN_UNUSED;

#endif
