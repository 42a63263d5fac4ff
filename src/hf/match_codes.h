/* How the weights of one tensor of a directory are stored, once it has been found: behind match.h.
 */
#ifndef OM_HF_MATCH_CODES_H
#define OM_HF_MATCH_CODES_H

#include "hf/match.h"

typedef struct om_hf_shape {
    int n;
    int64_t at[OM_ST_MAX_DIMS]; /* slowest first */
} om_hf_shape;

/** What a part must be. */
typedef struct om_hf_expected {
    om_hf_shape shape;           /* when it is dense; of blocks: [E, n_out, n_in / 32, 16] */
    bool blocks;                 /* MXFP4's */
    bool may_be_codes;           /* a matrix called ".weight": MLX's scales may lie beside it */
    const om_family_tensor *row; /* for messages */
    const char *path;            /* mlx-lm's, the key of its entry in config.json */
} om_hf_expected;

/** part->weight is there: find what belongs to it, check both, and fill in of s how it is read
 * (code, dtype, format, blocks of scales). s->n_in is set. Errors: OM_E_FORMAT names the tensor. */
om_status om_hf_match_codes(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                            const om_hf_expected *expected, om_error *err) OM_WARN_UNUSED;

#endif
