/* The compact reference file: hidden states of a text, from which the reference's logits are
 * recomputed, and of a mixture the experts it chose. Layout in docs/formats.md; magic "OMREF001",
 * or "OMREF002" with choices. */
#ifndef OM_EVAL_REFILE_H
#define OM_EVAL_REFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "eval/routing.h"
#include "model/format.h"

/** Everything but the arrays; all offsets follow from it. */
typedef struct om_refile_header {
    int n_windows, n_ctx; /* B, T: hidden states of positions 0 .. T-2 of each window */
    int n_vocab, n_embd;  /* V, C */
    bool bos;             /* windows begin with BOS */
    bool has_bias;
    int n_layers;            /* layers with experts whose choices are kept; 0: none, version 001 */
    int n_experts, n_used;   /* E, K; 0 without layers */
    float scale, softcap;    /* as in om_head_spec */
    const om_format *format; /* of the head's weight */
    uint64_t vocab_hash;     /* om_runtime_vocab_hash of the reference */
    char model_sha256[65];   /* of the GGUF; 64 zeros: not computed */
    char text_sha256[65];
} om_refile_header;

typedef struct om_refile {
    om_refile_header header;
    om_map map;
    const int32_t *tokens;        /* [B, T] i32 */
    const int32_t *layers;        /* [n_layers] i32, ascending; NULL without choices */
    const float *bias;            /* [V] f32; NULL: none */
    const void *weight;           /* [V, C] in header.format */
    const unsigned char *windows; /* [B] of hidden states [T-1, C] f32 and of choices
                                     [n_layers, T-1, K] u16, padded to 4 bytes */
    int64_t window_bytes;
} om_refile;

/** Does the file begin with the magic? false also when it cannot be read. */
bool om_refile_is(const char *path);

/** Map and check. Errors: OM_E_IO; OM_E_FORMAT (another version, counts that do not fit the file's
 * size, tokens outside of the vocabulary, experts that the model does not have). Close with
 * om_refile_close. */
om_status om_refile_open(om_refile *out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same for bytes in memory, which become the file's map: whoever made them frees them. */
om_status om_refile_parse(om_refile *out, const om_map *bytes, const char *name,
                          om_error *err) OM_WARN_UNUSED;
void om_refile_close(om_refile *f); /* accepts a zeroed struct */

/** Hidden states [T-1-first, C] f32 from position `first` of a window on; borrowed. */
const float *om_refile_hidden(const om_refile *f, int window, int first);

/** Choices from position `first` of a window on; borrowed; empty without any. */
om_choices om_refile_choices(const om_refile *f, int window, int first);

/** Bytes of the whole file; -1: the counts are out of range. */
int64_t om_refile_bytes(const om_refile_header *h);

/** Start a file: header, tokens [B, T], layers [n_layers] or NULL, bias [V] or NULL, weight. Then
 * for every window in order om_refile_add and om_refile_add_choices, then om_atomic_commit. Errors:
 * as om_atomic_write; OM_E_LIMIT when the disk has too little room. */
om_status om_refile_begin(om_atomic *a, const om_refile_header *h, const char *path,
                          const int32_t *tokens, const int32_t *layers, const float *bias,
                          const void *weight, om_error *err) OM_WARN_UNUSED;
/** hidden [n, C] f32 of the next n positions. */
om_status om_refile_add(om_atomic *a, const om_refile_header *h, const float *hidden, int n,
                        om_error *err) OM_WARN_UNUSED;
/** ids [n_layers, T-1, K] u16 of a whole window; nothing to do without layers. */
om_status om_refile_add_choices(om_atomic *a, const om_refile_header *h, const uint16_t *ids,
                                om_error *err) OM_WARN_UNUSED;

#endif
