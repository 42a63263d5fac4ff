/* Safetensors: the weights of a Hugging Face or MLX directory, mapped, never read whole; and the
 * header of files to write. Nobody else knows the byte layout. */
#ifndef OM_MODEL_SAFETENSORS_H
#define OM_MODEL_SAFETENSORS_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/file.h"

typedef enum om_st_dtype {
    OM_ST_F32,
    OM_ST_F16,
    OM_ST_BF16,
    OM_ST_F8_E4M3,
    OM_ST_F8_E5M2,
    OM_ST_F8_E8M0,
    OM_ST_U8,
    OM_ST_I8,
    OM_ST_U32,
    OM_ST_OTHER /* known width, of no use here: I16 … F64, BOOL */
} om_st_dtype;

enum { OM_ST_MAX_DIMS = 8 };

typedef struct om_st_tensor {
    const char *name; /* borrowed from the om_safetensors */
    om_st_dtype dtype;
    int n_dims;
    int64_t shape[OM_ST_MAX_DIMS]; /* slowest first, as in the file */
    const unsigned char *data;     /* [bytes] in the mapping; need not be aligned */
    int64_t bytes;
    int shard; /* index of the file it lies in */
} om_st_tensor;

/** All "model*.safetensors" of a directory as one set of tensors. */
typedef struct om_safetensors om_safetensors;

/** Open every file of `dir` that matches "model*.safetensors", in order of their names, as mlx-lm
 * does (an index file is not consulted, but when "model.safetensors.index.json" is there, every
 * file that it names must be).
 *
 *  Errors: OM_E_IO; OM_E_FORMAT with the file's name (no such file, truncated, header longer than
 *  the file or 100,000,000 bytes, no JSON, duplicate or missing fields, unknown dtype, negative or
 *  overflowing shape, offsets that do not fit dtype x shape, overlap, leave holes or pass the end,
 *  a tensor that stands in two files). Cost: headers only. */
om_status om_safetensors_open(om_safetensors **out, const char *dir, om_error *err) OM_WARN_UNUSED;
/** The same for one file in memory (borrowed until om_safetensors_free); for tests and fuzzing. */
om_status om_safetensors_parse(om_safetensors **out, const void *data, size_t size,
                               const char *name, om_error *err) OM_WARN_UNUSED;
void om_safetensors_free(om_safetensors *st); /* accepts NULL */

/* Borrowed, valid until om_safetensors_free. */
int om_safetensors_n(const om_safetensors *st);
const om_st_tensor *om_safetensors_at(const om_safetensors *st,
                                      int i); /* one array, sorted by name */
const om_st_tensor *om_safetensors_find(const om_safetensors *st,
                                        const char *name); /* NULL: none */
int om_safetensors_n_shards(const om_safetensors *st);
const char *om_safetensors_shard_path(const om_safetensors *st, int shard);
int64_t om_safetensors_shard_bytes(const om_safetensors *st, int shard); /* of the file */
int64_t om_safetensors_bytes(const om_safetensors *st);                  /* of all files */
/** A value of the first file's "__metadata__"; NULL: none. */
const char *om_safetensors_metadata(const om_safetensors *st, const char *key);
/** Drop the pages of these bytes of a tensor's data from this process. */
void om_safetensors_forget(const om_safetensors *st, const om_st_tensor *t, int64_t offset,
                           int64_t bytes);

/** Bytes of one element; 0 for OM_ST_OTHER. */
int om_st_dtype_bytes(om_st_dtype dtype);
/** "BF16", …; NULL for OM_ST_OTHER. */
const char *om_st_dtype_name(om_st_dtype dtype);
/** n elements from `data` (any alignment) in F32: F32, F16, BF16, F8_E4M3, F8_E5M2, E8M0
 * (2^(x-127)); false: the dtype holds no numbers of this kind. Exact. */
bool om_st_to_f32(float *out, om_st_dtype dtype, const unsigned char *data, int64_t n);

/* ---- writing: the header of one file is made when all its tensors are known ---- */

/** Everything before the data of a file: 8 bytes of length, JSON, spaces. Keys in the order given;
 * offsets follow from the shapes, without gaps.
 *
 *  metadata  [n_metadata] pairs of key and value
 *  pad_to    length of the whole in bytes, a multiple of 8; 0: the least multiple of 8. Errors:
 *            OM_E_INTERNAL when it does not fit.
 *  *out      owned (om_free), *size its length */
om_status om_st_header(unsigned char **out, size_t *size, const om_st_tensor *tensors, int n,
                       const char *const (*metadata)[2], int n_metadata, size_t pad_to,
                       om_error *err) OM_WARN_UNUSED;

#endif
