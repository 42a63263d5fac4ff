/* An open model and one type per tensor into the header of an output GGUF, byte for byte.
 *
 *   header | source's metadata, in its order | Optimum's record | tensor table | padding
 *
 * Its size must be known before any type is chosen, because the budget is for the whole file. So
 * nothing in it may vary in length: types and offsets are integers, digests always 64 characters.
 * One routine both counts and writes (sink), which keeps the two from drifting apart.
 *
 * Dropped from the source: split.* (parts are joined), optimum.* and quantize.imatrix.* (records of
 * an earlier quantization that no longer hold).
 */
#include "model/gguf.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/gguf_file.h"

/* ---- a sink that counts, and writes when it has a buffer ---- */

typedef struct sink {
    om_buf *buf; /* NULL: only count */
    size_t n;
} sink;

static void put(sink *s, const void *bytes, size_t n) {
    if (s->buf != NULL) {
        om_buf_add(s->buf, bytes, n);
    }
    s->n += n;
}

static void put_integer(sink *s, uint64_t v, size_t n_bytes) {
    unsigned char bytes[8];
    for (size_t i = 0; i < n_bytes; i++) {
        bytes[i] = (unsigned char) (v >> (8 * i));
    }
    put(s, bytes, n_bytes);
}

static void put_string(sink *s, const char *text) {
    size_t n = strlen(text);
    put_integer(s, n, 8);
    put(s, text, n);
}

static void put_kv_integer(sink *s, const char *key, uint32_t type, uint64_t v, size_t n_bytes) {
    put_string(s, key);
    put_integer(s, type, 4);
    put_integer(s, v, n_bytes);
}

static void put_kv_f64(sink *s, const char *key, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_kv_integer(s, key, OM_GGUF_F64, bits, 8);
}

static void put_kv_string(sink *s, const char *key, const char *text) {
    put_string(s, key);
    put_integer(s, OM_GGUF_STR, 4);
    put_string(s, text);
}

/* ---- metadata ---- */

static const char key_file_type[] = "general.file_type";
static const char key_quantization[] = "general.quantization_version";
static const char key_measured[] = "optimum.measured_kld";
static const char key_measured_stderr[] = "optimum.measured_kld_stderr";

enum { QUANTIZATION_VERSION = 2 }; /* GGML_QNT_VERSION: block layouts since 2023 */

/* enum llama_ftype for files that are mostly of one type; of S, M and L the middle one. */
static uint32_t file_type_of(const om_format *f) {
    static const struct {
        const char *name;
        uint32_t file_type;
    } table[] = {
        { "f32", 0 },    { "f16", 1 },     { "q4_0", 2 },     { "q4_1", 3 },    { "q8_0", 7 },
        { "q5_0", 8 },   { "q5_1", 9 },    { "q2_K", 10 },    { "q3_K", 12 },   { "q4_K", 15 },
        { "q5_K", 17 },  { "q6_K", 18 },   { "iq2_xxs", 19 }, { "iq2_xs", 20 }, { "iq3_xxs", 23 },
        { "iq1_s", 24 }, { "iq4_nl", 25 }, { "iq3_s", 26 },   { "iq2_s", 28 },  { "iq4_xs", 30 },
        { "iq1_m", 31 }, { "bf16", 32 },   { "tq1_0", 36 },   { "tq2_0", 37 },  { "mxfp4", 38 },
        { "nvfp4", 39 }, { "q1_0", 40 },   { "q2_0", 41 },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(table[i].name, f->name) == 0) {
            return table[i].file_type;
        }
    }
    return 0;
}

/* The type that holds most weights decides; the first in the catalogue on a tie. */
static uint32_t nearest_file_type(const om_model *model, const om_format *const *types) {
    const om_format *best = om_format_at(0), *f;
    int64_t best_weights = -1;
    for (int i = 0; (f = om_format_at(i)) != NULL; i++) {
        int64_t weights = 0;
        for (int k = 0; k < om_model_n_tensors(model); k++) {
            weights += types[k] == f ? om_tensor_params(om_model_tensor(model, k)) : 0;
        }
        if (weights > best_weights) {
            best = f;
            best_weights = weights;
        }
    }
    return file_type_of(best);
}

static bool is_dropped(const char *key) {
    return om_text_starts(key, "split.") || om_text_starts(key, "optimum.") ||
           om_text_starts(key, "quantize.imatrix.");
}

/* Returns how many pairs it put. */
static uint64_t put_source_kvs(sink *s, const om_model *model, uint32_t file_type) {
    const om_gguf_file *header = om_model_header(model);
    uint64_t n = 0;
    bool has_file_type = false, has_version = false;
    for (size_t i = 0; i < header->n_kvs; i++) {
        const om_gguf_kv *kv = &header->kvs[i];
        if (is_dropped(kv->key)) {
            continue;
        }
        n++;
        if (strcmp(kv->key, key_file_type) == 0) {
            put_kv_integer(s, key_file_type, OM_GGUF_U32, file_type, 4);
            has_file_type = true;
        } else if (strcmp(kv->key, key_quantization) == 0) {
            put_kv_integer(s, key_quantization, OM_GGUF_U32, QUANTIZATION_VERSION, 4);
            has_version = true;
        } else {
            put(s, kv->entry, kv->entry_bytes);
        }
    }
    if (!has_file_type) {
        put_kv_integer(s, key_file_type, OM_GGUF_U32, file_type, 4);
        n++;
    }
    if (!has_version) {
        put_kv_integer(s, key_quantization, OM_GGUF_U32, QUANTIZATION_VERSION, 4);
        n++;
    }
    return n;
}

static void put_digest(sink *s, const char *key, const char digest[65]) {
    char zeros[65];
    memset(zeros, '0', 64);
    zeros[64] = '\0';
    put_kv_string(s, key, digest[0] != '\0' ? digest : zeros);
}

static uint64_t put_record(sink *s, const om_gguf_record *r) {
    put_kv_string(s, "optimum.version", OM_VERSION);
    put_digest(s, "optimum.source.sha256", r->source_sha256);
    put_digest(s, "optimum.calib.sha256", r->calib_sha256);
    put_digest(s, "optimum.profile.sha256", r->profile_sha256);
    put_digest(s, "optimum.allocation.sha256", r->allocation_sha256);
    put_kv_integer(s, "optimum.seed", OM_GGUF_U64, r->seed, 8);
    put_kv_integer(s, "optimum.calib.tokens", OM_GGUF_U64, r->calib_tokens, 8);
    put_kv_integer(s, "optimum.budget_bytes", OM_GGUF_I64, (uint64_t) r->budget_bytes, 8);
    put_kv_f64(s, "optimum.predicted_nats", r->predicted_nats);
    put_kv_f64(s, key_measured, r->measured_kld);
    put_kv_f64(s, key_measured_stderr, r->measured_kld_stderr);
    return 11;
}

static void put_tensor_table(sink *s, const om_model *model, const om_format *const *types) {
    int64_t offset = 0;
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        const om_format *f = types != NULL ? types[i] : t->format;
        put_string(s, t->name);
        put_integer(s, (uint64_t) t->n_dims, 4);
        for (int d = 0; d < t->n_dims; d++) {
            put_integer(s, (uint64_t) t->ne[d], 8);
        }
        put_integer(s, (uint64_t) f->ggml_type, 4);
        put_integer(s, (uint64_t) offset, 8);
        offset +=
            om_pad(om_format_size(f, t->ne[0], om_tensor_n_rows(t)), om_gguf_alignment(model));
    }
}

static void put_padding(sink *s, int64_t alignment) {
    size_t padded = (size_t) om_pad((int64_t) s->n, alignment);
    while (s->n < padded) {
        put_integer(s, 0, 1);
    }
}

/* types NULL: only the size matters. */
static void put_all(sink *s, const om_model *model, const om_format *const *types,
                    const om_gguf_record *record) {
    uint32_t file_type = types != NULL ? nearest_file_type(model, types) : 0;
    sink count = { 0 };
    uint64_t n_kvs = put_source_kvs(&count, model, file_type) + put_record(&count, record);
    put(s, "GGUF", 4);
    put_integer(s, 3, 4);
    put_integer(s, (uint64_t) om_model_n_tensors(model), 8);
    put_integer(s, n_kvs, 8);
    put_source_kvs(s, model, file_type);
    put_record(s, record);
    put_tensor_table(s, model, types);
    put_padding(s, om_gguf_alignment(model));
}

int64_t om_gguf_metadata_bytes(const om_model *model) {
    sink s = { 0 };
    put_all(&s, model, NULL, &(om_gguf_record){ 0 });
    return (int64_t) s.n;
}

/* The caller's digests and types must be what the fixed length relies on. */
static om_status check_inputs(const om_model *model, const om_format *const *types,
                              const om_gguf_record *r, om_error *err) {
    const char *const digests[] = { r->source_sha256, r->calib_sha256, r->profile_sha256,
                                    r->allocation_sha256 };
    for (size_t i = 0; i < sizeof digests / sizeof digests[0]; i++) {
        if (digests[i][0] != '\0' && strlen(digests[i]) != 64) {
            return om_fail(err, OM_E_INTERNAL, "record: \"%s\" is no SHA-256", digests[i]);
        }
    }
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (types[i] == NULL || om_format_size(types[i], t->ne[0], om_tensor_n_rows(t)) < 0) {
            return om_fail(err, OM_E_INTERNAL, "tensor %s cannot be stored as %s", t->name,
                           types[i] != NULL ? types[i]->name : "nothing");
        }
    }
    return OM_OK;
}

om_status om_gguf_metadata(unsigned char **out, size_t *size, const om_model *model,
                           const om_format *const *types, const om_gguf_record *record,
                           om_error *err) {
    om_status status = check_inputs(model, types, record, err);
    if (status != OM_OK) {
        return status;
    }
    om_buf buf = { 0 };
    sink s = { .buf = &buf };
    put_all(&s, model, types, record);
    char *bytes = om_buf_take(&buf);
    if (bytes == NULL) {
        return om_fail_nomem(err, s.n);
    }
    *out = (unsigned char *) bytes;
    *size = s.n;
    return OM_OK;
}

/* ---- measured quality, afterwards ---- */

/* File offset of a number in the record. */
static om_status find_f64(size_t *offset, const om_gguf_file *file, const om_map *map,
                          const char *key, const char *path, om_error *err) {
    const om_gguf_kv *kv = om_gguf_file_find(file, key);
    if (kv == NULL || kv->is_array || kv->type != OM_GGUF_F64) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: no place for %s: not a file that this version of Optimum wrote", path,
                       key);
    }
    *offset = (size_t) (kv->value - map->data);
    return OM_OK;
}

static om_status write_f64(int fd, size_t offset, double v, const char *path, om_error *err) {
    unsigned char bytes[8];
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char) (bits >> (8 * i));
    }
    if (pwrite(fd, bytes, sizeof bytes, (off_t) offset) != (ssize_t) sizeof bytes) {
        return om_fail_errno(err, "%s: cannot store the measured quality", path);
    }
    return OM_OK;
}

om_status om_gguf_patch_measured(const char *path, double kld, double stderr_, om_error *err) {
    om_status status = OM_OK;
    om_map map = { 0 };
    om_gguf_file file = { 0 };
    int fd = -1;
    size_t at_kld = 0, at_stderr = 0;
    OM_TRY(om_map_open(&map, path, err));
    OM_TRY(om_gguf_file_parse(&file, map.data, map.size, path, err));
    OM_TRY(find_f64(&at_kld, &file, &map, key_measured, path, err));
    OM_TRY(find_f64(&at_stderr, &file, &map, key_measured_stderr, path, err));
    fd = open(path, O_WRONLY);
    if (fd < 0) {
        status = om_fail_errno(err, "%s: cannot be opened for writing", path);
        goto out;
    }
    OM_TRY(write_f64(fd, at_kld, kld, path, err));
    OM_TRY(write_f64(fd, at_stderr, stderr_, path, err));
    if (fsync(fd) != 0) {
        status = om_fail_errno(err, "%s: cannot store the measured quality", path);
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    om_gguf_file_release(&file);
    om_map_close(&map);
    return status;
}
