/* Where the rows of one tensor lie in a directory, and how they are read. */
#ifndef OM_HF_SOURCE_H
#define OM_HF_SOURCE_H

#include "hf/directory.h"
#include "hf/family_table.h"
#include "mlx/quants.h"

typedef enum om_hf_code {
    OM_CODE_DENSE,  /* F32, F16, BF16 */
    OM_CODE_FP8,    /* E4M3 or E5M2 times a scale for each block of rows and columns */
    OM_CODE_BLOCKS, /* gpt-oss's MXFP4: 16 bytes and an E8M0 for 32 weights, rows as mlx_mxfp4 */
    OM_CODE_MLX     /* codes, scales, biases */
} om_hf_code;

/** One tensor of the directory with what belongs to it. */
typedef struct om_hf_part {
    const om_st_tensor *weight, *scales, *biases; /* scales, biases: NULL when there are none */
} om_hf_part;

/** Rows of all experts together, expert by expert. */
struct om_hf_source {
    int64_t rows; /* of one expert; 1 when n_dims is 1 */
    int64_t n_in;
    om_hf_fold fold;
    bool transposed;
    om_hf_code code;
    om_st_dtype dtype;       /* of dense and FP8 weights */
    const om_format *format; /* OM_CODE_MLX, OM_CODE_BLOCKS */
    om_mlx_dtype scale_dtype;
    int64_t block[2];      /* FP8: rows and columns that share a scale */
    int64_t scale_columns; /* FP8: scales in a row */
    int64_t permuted_head; /* GGUF: width of the heads whose rows are reordered; 0: none */
    bool plus_1;           /* GGUF: of norms */
    bool elements;         /* vectors, one for each expert: elements are reordered, not rows */
    int64_t n_experts;     /* 1: no stack */
    int n_parts;           /* 1, or one for each expert; 0: banks */
    om_hf_part *parts;     /* [n_parts] owned */
    int *place;            /* [experts] of a router or of experts in banks: where the directory has
                              the original model's experts; owned; NULL: in their order */
    int n_banks;           /* 0: no banks */
    int *first;            /* [n_banks + 1] place of each bank's first expert; owned */
    struct om_hf_source **banks; /* [n_banks] owned */
};

/** Rows as om_hf_rows_f32 gives them; the range is checked by the caller. */
void om_hf_source_rows(float *out, const struct om_hf_source *source, om_hf_view view,
                       int64_t first, int64_t n);
/** Row of the GGUF view that is row `row` of the MLX view. */
int64_t om_hf_source_gguf_row(const struct om_hf_source *source, int64_t row);
/** Drop the pages of what om_hf_source_rows reads. */
void om_hf_source_forget(const om_safetensors *st, const struct om_hf_source *source, int64_t first,
                         int64_t n);

#endif
