/* A GGUF file, opened: metadata and tensor table checked against the file's size; weights mapped,
 * not read. Split files ("…-00001-of-00003.gguf") are opened as one model from their first part. */
#ifndef OM_MODEL_GGUF_H
#define OM_MODEL_GGUF_H

#include "base/error.h"
#include "base/file.h"
#include "model/format.h"

typedef struct om_tensor {
    const char *name; /* borrowed from the model, < 64 bytes */
    char role[64];    /* see roles.h */
    int layer;        /* -1: outside of blocks */
    int n_dims;
    int64_t ne[4];           /* ggml order: ne[0] = weights per row */
    const om_format *format; /* of the source */
    int64_t bytes;           /* in the file, without padding */
    const unsigned char
        *data; /* [bytes] in the mapping; valid until om_model_free; page faults read the file */
    int split; /* index of the part it lies in */
    bool may_quantize;
} om_tensor;

typedef struct om_model om_model;

/** Open and check. Errors: OM_E_IO; OM_E_FORMAT (truncated, overlapping or out-of-range tensors,
 * unknown type, duplicate names, hostile counts, missing split) with the path. Cost: metadata only.
 */
om_status om_model_open(om_model **out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same from bytes already in memory (borrowed until om_model_free); `name` is for messages.
 * Refuses parts of a split model. For tests and fuzzing. */
om_status om_model_open_bytes(om_model **out, const void *data, size_t size, const char *name,
                              om_error *err) OM_WARN_UNUSED;
void om_model_free(om_model *model); /* accepts NULL */

/* Getters: strings and tensors are borrowed, valid until om_model_free. */
const char *om_model_path(const om_model *model);                        /* of the first part */
const char *om_model_arch(const om_model *model);                        /* general.architecture */
int om_model_n_tensors(const om_model *model);                           /* of all parts */
const om_tensor *om_model_tensor(const om_model *model, int i);          /* in file order */
const om_tensor *om_model_find(const om_model *model, const char *name); /* NULL: none */
int64_t om_model_params(const om_model *model);                /* weights of all tensors */
int64_t om_model_file_bytes(const om_model *model);            /* all parts */
int om_model_n_splits(const om_model *model);                  /* parts; 1 for a single file */
const char *om_model_split_path(const om_model *model, int i); /* of part i */
const om_map *om_model_split_map(const om_model *model,
                                 int i); /* the mapping tensor->data points into */

/* Metadata: keys may hold "%s" for the architecture: om_model_u64(m, "%s.block_count", 0). */
uint64_t om_model_u64(const om_model *model, const char *key, uint64_t fallback);
double om_model_f64(const om_model *model, const char *key, double fallback);
const char *om_model_str(const om_model *model, const char *key,
                         const char *fallback); /* borrowed */
/** Elements of an array; -1: absent, or no array. */
int64_t om_model_array_n(const om_model *model, const char *key);
/** Per-layer value: array element `layer`, or the scalar for all layers. */
uint64_t om_model_u64_at(const om_model *model, const char *key, int layer, uint64_t fallback);

/** Hex SHA-256 of the file, or of the concatenated hex digests of the parts of a split model. */
om_status om_model_sha256(char hex[65], const om_model *model, const om_env *env,
                          om_error *err) OM_WARN_UNUSED;

/** Rows [first, first + n) of the tensor seen as a matrix [rows, ne0] in F32 (rows counts all
 * higher dimensions). out [n, ne0] f32. Errors: OM_E_UNSUPPORTED when ggml cannot dequantize the
 * type. Thread-safe. */
om_status om_tensor_rows_f32(float *out, const om_tensor *tensor, int64_t first, int64_t n,
                             om_error *err) OM_WARN_UNUSED;
/** OM_E_NUMERIC that names the first tensor with a NaN or an infinity, OM_OK when there is none.
 * Cost: one read of the whole model; for explaining a failure. */
om_status om_model_check_finite(const om_model *model, const om_env *env,
                                om_error *err) OM_WARN_UNUSED;
static inline int64_t om_tensor_n_rows(const om_tensor *t) {
    return t->ne[1] * t->ne[2] * t->ne[3];
}
static inline int64_t om_tensor_params(const om_tensor *t) {
    return t->ne[0] * om_tensor_n_rows(t);
}

/* ---- the container of an output file: the one place that knows its byte layout
 * ------------------------------ */

/** What an output GGUF holds besides tensor data, byte-exact: header, metadata (source's plus
 * Optimum's record, whose values all have a fixed length), tensor table, padded to the alignment.
 */
int64_t om_gguf_metadata_bytes(const om_model *model);
int64_t om_gguf_alignment(const om_model *model); /* bytes, a power of two */
static inline int64_t om_pad(int64_t bytes, int64_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

/** Optimum's record in the metadata (keys optimum.*). Digests are 64 hex characters; unknown = ""
 * is stored as 64 zeros and an unknown number as NaN, so that the length never varies. */
typedef struct om_gguf_record {
    char source_sha256[65], calib_sha256[65], profile_sha256[65], allocation_sha256[65];
    uint64_t seed, calib_tokens;
    int64_t budget_bytes;
    double routing_nats; /* part of predicted_nats that is not a sum over tensors; not written */
    double predicted_nats, measured_kld, measured_kld_stderr;
} om_gguf_record;

/** Everything of an output file that precedes the tensor data: *out owned (om_free), *size a
 * multiple of the alignment and equal to om_gguf_metadata_bytes. types [n_tensors] = target type
 * per tensor in file order. general.file_type is set to the nearest preset of the types; splits are
 * joined. */
om_status om_gguf_metadata(unsigned char **out, size_t *size, const om_model *model,
                           const om_format *const *types, const om_gguf_record *record,
                           om_error *err) OM_WARN_UNUSED;
/** Store measured quality into a finished file, in place (fixed offsets; nothing else changes). */
om_status om_gguf_patch_measured(const char *path, double kld, double stderr_,
                                 om_error *err) OM_WARN_UNUSED;

#endif
