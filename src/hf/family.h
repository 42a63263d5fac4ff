/* Model families: how Hugging Face, llama.cpp and mlx-lm name and arrange the same weights. */
#ifndef OM_HF_FAMILY_H
#define OM_HF_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/** One family of the table in family.c: "llama", "qwen3_moe" … */
typedef struct om_family om_family;

/** By "model_type" of config.json ("qwen3"); NULL: not in the table. */
const om_family *om_family_by_model_type(const char *model_type);
/** By general.architecture of a GGUF and whether it has experts ("llama" with experts is mixtral);
 * NULL: not in the table. Families that differ in nothing but their name (llama, mistral) give the
 * first of them. */
const om_family *om_family_by_arch(const char *arch, bool experts);
/** The i-th of the table, NULL past the end. */
const om_family *om_family_at(int i);
const char *om_family_model_type(const om_family *family);
const char *om_family_arch(const om_family *family); /* of the GGUF */
/** "llama, mistral, …": for messages. Borrowed, static. */
const char *om_family_list(void);

enum { OM_HF_PATH = 160 }; /* room for the longest path */

/** mlx-lm's name of a GGUF tensor: "blk.3.ffn_up_exps.weight" into
 * "model.layers.3.mlp.switch_mlp.up_proj.weight". false: mlx-lm has no such tensor (rope_freqs), or
 * the name is none of the family's. */
bool om_family_mlx_name(char out[OM_HF_PATH], const om_family *family, const char *gguf_name);

#endif
