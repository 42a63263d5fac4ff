/* A model as llama.cpp can load it: a GGUF as it is, a Hugging Face or MLX directory written out as
 * a GGUF that is gone afterwards. Whoever judges need not know which of them it is. */
#ifndef OM_EVAL_UNPACK_H
#define OM_EVAL_UNPACK_H

#include <stdbool.h>

#include "base/error.h"
#include "model/gguf.h"

typedef struct om_unpack_options {
    const char *like; /* a GGUF of the same model whose metadata and tokenizer are taken; NULL: the
                         directory's own, as om_hf_to_gguf makes them */
    bool f32;         /* a directory's matrices in F32: with those of 16 bits llama.cpp rounds its
                         activations, which mlx does not; false: without `like` in the
                         directory's own precision */
    const char *scratch; /* folder to try for the temporary GGUF; NULL: the system's alone */
    bool no_hash;        /* do not read the model for its SHA-256 (64 zeros then) */
} om_unpack_options;

typedef struct om_unpacked {
    om_container container; /* OM_CONTAINER_MLX: a directory, quantized or not */
    char sha256[65];        /* of what `path` named: the GGUF, or the directory */
    int64_t bytes;          /* of the GGUF with all its parts; of all model*.safetensors */
    int64_t params;
    om_model *model; /* the GGUF, opened; its path is what llama.cpp loads */
    char *temporary; /* private: NULL for a GGUF */
} om_unpacked;

/** Open a GGUF, or write a directory out. Zeroed is empty; om_unpacked_release removes the file
 * (so does om_atomic_abort_all).
 *
 *  The file goes to the first folder of $TMPDIR, `scratch`, /var/tmp and /tmp that has room; where
 *  and how large is logged before.
 *  Errors: those of om_model_open, om_hf_open, om_hf_to_gguf and om_hf_to_gguf_like; OM_E_LIMIT
 *  when no folder has room (with what each has).
 *  Cost: a directory is read and written once. */
om_status om_unpacked_open(om_unpacked *out, const char *path, const om_unpack_options *options,
                           const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_unpacked_release(om_unpacked *u);

#endif
