/* Catalogue of the types a tensor may be stored in, with the facts the planner needs: ggml's (own
 * table, checked against ggml in a test, so that allocation and report need no ggml) and MLX's. */
#ifndef OM_MODEL_FORMAT_H
#define OM_MODEL_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef enum om_format_use {
    OM_FORMAT_PLAIN,  /* f32, f16, bf16: a source; a candidate only for a tensor that already has it
                       */
    OM_FORMAT_COMMON, /* candidate by default: stock llama.cpp runs it well on every backend */
    OM_FORMAT_OPT_IN, /* only when named in --types: too new, too slow or too weak (q1_0, tq1_0,
                         iq1_s, nvfp4 …) */
    OM_FORMAT_SOURCE  /* readable as a source, never written (q8_1, q8_K, retired types) */
} om_format_use;

/** What an output is: one GGUF, or a directory for mlx-lm. */
typedef enum om_container { OM_CONTAINER_GGUF, OM_CONTAINER_MLX, OM_CONTAINER_COUNT } om_container;

/** How MLX reads a code (mlx's names of the modes). */
typedef enum om_mlx_mode {
    OM_MLX_NONE,   /* a type of ggml */
    OM_MLX_AFFINE, /* scale * code + bias; scale and bias in 16 bits each */
    OM_MLX_MXFP4,  /* FP4 (E2M1) * 2^(scale - 127) */
    OM_MLX_NVFP4,  /* FP4 (E2M1) * scale in E4M3 */
    OM_MLX_MXFP8   /* E4M3 * 2^(scale - 127) */
} om_mlx_mode;

typedef struct om_format {
    const char *name; /* "q4_K": ggml_type_name's spelling; "mlx_4bit_g64" */
    int ggml_type;    /* enum ggml_type; -1: a type of MLX */
    int block;        /* weights per block; a row must be a multiple */
    int block_bytes;
    om_format_use use;
    bool needs_imatrix; /* ggml refuses to quantize without importance */
    om_mlx_mode mlx;
    int bits; /* of an MLX code; 0: a type of ggml */
} om_format;

/** MLX's name of a mode, as config.json has it: "affine" also for OM_MLX_NONE. */
const char *om_mlx_mode_name(om_mlx_mode mode);
/** By name, case-insensitive; NULL: unknown. */
const om_format *om_format_by_name(const char *name);
/** By ggml type id; NULL: unknown. */
const om_format *om_format_by_type(int ggml_type);
/** i-th type of GGUF, NULL past the end: for loops over the catalogue, ascending bits per weight.
 */
const om_format *om_format_at(int i);
/** The same for the quantized types of MLX; what it stores plainly (bf16, f16, f32) is above. */
const om_format *om_format_mlx_at(int i);
/** Can the container hold it? Plain types are in both. */
bool om_format_in(const om_format *format, om_container container);
/** "gguf" or "mlx". */
const char *om_container_name(om_container container);
double om_format_bpw(const om_format *format);
/** Bytes of n_rows rows of n_per_row weights; -1 when the block does not divide the row.
 * (om_format_bytes of base/buf.h is another thing: it prints a number of bytes.) */
int64_t om_format_size(const om_format *format, int64_t n_per_row, int64_t n_rows);
/** "q4_K, q5_K, …" of everything that may be asked for, MLX's types in short: for messages.
 * Borrowed, static. */
const char *om_format_list(void);

#endif
