/* One GGUF file taken apart: metadata pairs and tensor table, bounds checked, nothing copied but
 * names. Shared by the reader (gguf.c) and the writer (gguf_out.c); nobody else includes it. */
#ifndef OM_MODEL_GGUF_FILE_H
#define OM_MODEL_GGUF_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"

/* Value types of the format (gguf.h of ggml has the same numbers). */
enum {
    OM_GGUF_U8 = 0,
    OM_GGUF_I8 = 1,
    OM_GGUF_U16 = 2,
    OM_GGUF_I16 = 3,
    OM_GGUF_U32 = 4,
    OM_GGUF_I32 = 5,
    OM_GGUF_F32 = 6,
    OM_GGUF_BOOL = 7,
    OM_GGUF_STR = 8,
    OM_GGUF_ARRAY = 9,
    OM_GGUF_U64 = 10,
    OM_GGUF_I64 = 11,
    OM_GGUF_F64 = 12
};

/* Pointers go into the bytes that were parsed. */
typedef struct om_gguf_kv {
    char *key;     /* owned */
    char *str;     /* owned, NUL-terminated: the value of a string; else NULL */
    uint32_t type; /* of the value; of the items when is_array */
    bool is_array;
    uint64_t n;                 /* items; 1 for a scalar */
    const unsigned char *value; /* first item (of a string: its length) */
    const unsigned char *entry; /* [entry_bytes] the whole pair as it stands in the file */
    size_t entry_bytes;
} om_gguf_kv;

typedef struct om_gguf_info {
    char name[64];
    int n_dims;
    int64_t ne[4]; /* > 0; their product fits in 62 bits */
    const om_format *format;
    int64_t bytes;   /* without padding */
    uint64_t offset; /* from data_start */
} om_gguf_info;

typedef struct om_gguf_file {
    uint32_t version;
    size_t alignment;
    om_gguf_kv *kvs;
    size_t n_kvs;
    om_gguf_info *infos;
    size_t n_infos;
    size_t data_start; /* offset of the tensor data: a multiple of the alignment, at most size
                          when there are tensors */
} om_gguf_file;

/** Parse the header. Memory grows with what was really there, never with a count that the file
 * claims. Tensors lie inside `size` bytes and do not overlap; keys and names are unique.
 * Errors: OM_E_FORMAT, with `path` in the text; *out is then empty. */
om_status om_gguf_file_parse(om_gguf_file *out, const unsigned char *data, size_t size,
                             const char *path, om_error *err) OM_WARN_UNUSED;
void om_gguf_file_release(om_gguf_file *file);

/** NULL: absent. */
const om_gguf_kv *om_gguf_file_find(const om_gguf_file *file, const char *key);

/** Item i of a pair as an integer or a number; false when it is neither (or negative for u64). */
bool om_gguf_kv_u64(uint64_t *out, const om_gguf_kv *kv, uint64_t i);
bool om_gguf_kv_f64(double *out, const om_gguf_kv *kv, uint64_t i);

/** The metadata of an open model, for the writer. */
const om_gguf_file *om_model_header(const om_model *model);

#endif
