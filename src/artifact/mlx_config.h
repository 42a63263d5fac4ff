/* The small files of an MLX model: config.json, the index of the shards, and what is copied. */
#ifndef OM_ARTIFACT_MLX_CONFIG_H
#define OM_ARTIFACT_MLX_CONFIG_H

#include <stdbool.h>

#include "base/json.h"
#include "mlx/layout.h"

/** config.json of the output: the source's, every key kept but "_name_or_path" and its own
 * quantization, with
 *
 *  - the keys that mlx-lm reads and newer transformers leave out: rope_theta, rope_scaling,
 *    rope_local_base_freq, partial_rotary_factor, num_experts, torch_dtype … (also in
 *    "text_config"); without them mlx-lm takes other values silently;
 *  - torch_dtype and dtype as written, tie_word_embeddings as the tensors are;
 *  - "quantization" and, identical, "quantization_config": the most common type, then every module
 *    of another one; neither when nothing is quantized.
 *
 *  items  [n] all tensors of the output
 *  *out   owned (om_json_free)
 *
 *  Errors: OM_E_NOMEM. */
om_status om_mlx_config(om_json **out, const om_json *source, const om_mlx_item *items, int n,
                        om_mlx_dtype dtype, om_error *err) OM_WARN_UNUSED;

/** The most common type of MLX among the items, ties to the one that comes first in the catalogue;
 * NULL: nothing is quantized. */
const om_format *om_mlx_config_default(const om_mlx_item *items, int n);

/** model.safetensors.index.json, owned (om_json_free). parameters: weights before quantization. */
om_status om_mlx_index(om_json **out, const om_mlx_layout *layout, int64_t parameters,
                       om_error *err) OM_WARN_UNUSED;

/** Is a file of this name copied from the source's directory: tokenizer, chat template, generation
 * settings, code, licence? */
bool om_mlx_is_copied(const char *name);
/** Is it one that every model of ours has: config.json, README.md, the weights and their index? */
bool om_mlx_is_written(const char *name);

/** Names of the files to copy, sorted, owned (om_dir_list_free). Errors: OM_E_FORMAT (no tokenizer:
 * the model could not be used), OM_E_IO. */
om_status om_mlx_copies(char ***out, int *n, const char *dir, om_error *err) OM_WARN_UNUSED;

#endif
