/* The tokenizer files of a directory -> tokenizer.* of a GGUF, as llama.cpp's converter writes
 * them. */
#ifndef OM_HF_TOKENIZER_H
#define OM_HF_TOKENIZER_H

#include "base/json.h"
#include "hf/pairs.h"

/** Append vocabulary, merges or scores, special tokens and chat template to `pairs`.
 *
 *  dir         holds tokenizer.json or tokenizer.model, tokenizer_config.json, …
 *  model_type  of the family: which file decides differs between families
 *  config      config.json (ids of special tokens)
 *  n_vocab     rows of the embedding: the vocabulary is padded to as many
 *
 *  Errors: OM_E_IO, OM_E_FORMAT (files missing or damaged), OM_E_UNSUPPORTED (a kind of tokenizer
 *          or of pre-tokenizer that is not in the tables, said with what to do instead). */
om_status om_hf_tokenizer(om_pairs *pairs, const char *dir, const char *model_type,
                          const om_json *config, int64_t n_vocab, om_error *err) OM_WARN_UNUSED;

#endif
