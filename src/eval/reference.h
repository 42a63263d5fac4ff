/* What a model is judged against: logits of the reference on fixed token windows, one block at a
 * time. Either the full-precision GGUF runs along, or a compact reference file is read. */
#ifndef OM_EVAL_REFERENCE_H
#define OM_EVAL_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "eval/routing.h"
#include "model/tokens.h"

typedef struct om_reference_options {
    const char *path; /* GGUF, Hugging Face directory or reference file */
    const char *text; /* NULL: the text that a reference file was written from */
    int n_ctx;        /* 0: 512, or the reference file's */
    int n_chunks;     /* 0: all */
    int n_gpu_layers; /* as in om_runtime_options */
    bool exact;       /* as in om_judge_options */
    bool hidden;      /* GGUF: keep hidden states, for om_reference_write */
    bool choices; /* also tell which experts it chose, when it has experts; needs keep_bytes 0 */
    bool no_hash; /* do not read a GGUF for its SHA-256 (64 zeros then) */
    bool f32;     /* of a directory, as in om_unpack_options: when a directory may be judged */
    const char *scratch; /* as in om_unpack_options */
    int64_t keep_bytes;  /* keep logits in memory, at most so many bytes, when the same reference is
                            used again and again; 0: no */
} om_reference_options;

typedef struct om_reference om_reference;

/** *out owned (om_reference_free). env is copied.
 *
 *  Errors: OM_E_IO, OM_E_FORMAT; OM_E_ARG (no text; text too short; a reference file has fewer
 *  windows or another context length than asked); OM_E_MISMATCH (a reference file of another text);
 *  those of om_runtime_open and om_unpacked_open.
 */
om_status om_reference_open(om_reference **out, const om_reference_options *options,
                            const om_env *env, om_error *err) OM_WARN_UNUSED;
void om_reference_free(om_reference *ref);

/** The windows to judge on; their sha256 is the text's. Borrowed. */
const om_windows *om_reference_windows(const om_reference *ref);
int om_reference_n_vocab(const om_reference *ref);
uint64_t om_reference_vocab_hash(const om_reference *ref);
const char *om_reference_sha256(const om_reference *ref); /* of the model, also for a file */
const char *om_reference_path(const om_reference *ref);   /* as given */
/** Path of the GGUF that runs, of a directory a temporary one; NULL for a file. */
const char *om_reference_gguf(const om_reference *ref);
bool om_reference_is_file(const om_reference *ref);
int om_reference_n_block(const om_reference *ref); /* most tokens in one om_reference_rows */
/** The running model, borrowed; NULL for a file. */
struct om_runtime *om_reference_runtime(om_reference *ref);

/** Logits of the reference for positions [pos + first_out, pos + n) of a window.
 *
 *  Blocks of a window are asked for in order, from pos = 0, with n <= n_block. The window's last
 *  position has no label: first_out .. n must not include it.
 *  *logits    [n - first_out, V] f32, borrowed, valid until the next call; NULL when first_out == n
 */
om_status om_reference_rows(const float **logits, om_reference *ref, int window, int pos, int n,
                            int first_out, om_error *err) OM_WARN_UNUSED;

/** Can it tell which experts it chose? */
bool om_reference_has_choices(const om_reference *ref);
/** Experts that the reference chose for the block of the last om_reference_rows, from first_out on.
 * Borrowed, valid until the next call; empty without experts, without `choices`, and for a file
 * that does not hold them. */
om_choices om_reference_choices(const om_reference *ref);

/** Run a GGUF reference (opened with `hidden`) over all windows and write the compact file, with
 * the choices when it was opened with `choices` and has experts.
 *
 *  *refused   true, with OM_OK and no file: logits recomputed from the hidden states differ from
 *             llama.cpp's by more than 1e-3 (an architecture whose head does more than a matrix
 *             product, scale and soft cap); `why` then says so in one line
 *  Errors: OM_E_NUMERIC, OM_E_CANCELLED, OM_E_LIMIT (disk), OM_E_IO. Progress: "reference".
 */
om_status om_reference_write(bool *refused, char why[256], om_reference *ref, const char *path,
                             const om_env *env, om_error *err) OM_WARN_UNUSED;

#endif
