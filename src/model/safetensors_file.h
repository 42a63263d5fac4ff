/* One safetensors file taken apart: tensors and metadata, bounds checked, nothing copied but text.
 * Behind safetensors.h; nobody else includes it. */
#ifndef OM_MODEL_SAFETENSORS_FILE_H
#define OM_MODEL_SAFETENSORS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "model/safetensors.h"

/* Bounds of the length of the JSON header, those of the safetensors library. */
enum { OM_ST_LENGTH_BYTES = 8, OM_ST_MAX_HEADER = 100000000 };

typedef struct om_st_pair {
    const char *key, *value;
} om_st_pair;

typedef struct om_st_file {
    om_st_tensor *tensors; /* [n] in the header's order; data points into the bytes parsed */
    size_t n;
    om_st_pair *metadata; /* [n_metadata] */
    size_t n_metadata;
    char *text; /* holds all names, keys and values */
} om_st_file;

/** Parse the header of a file of `size` bytes. Memory grows with what the header really holds.
 * Errors: those of om_safetensors_open for one file, `path` in the text; *out is then empty. */
om_status om_st_file_parse(om_st_file *out, const unsigned char *data, size_t size,
                           const char *path, om_error *err) OM_WARN_UNUSED;
void om_st_file_release(om_st_file *file);

/** "BF16" and so on, all that the safetensors library knows: its dtype (OM_ST_OTHER for most) and
 * bits of one element. false: no such dtype. */
bool om_st_dtype_find(om_st_dtype *dtype, int *bits, const char *name);

#endif
