/* A directory -> GGUF: header, then tensor after tensor, a few rows at a time.
 *
 * Types follow llama.cpp's converter: matrices keep the source's precision; vectors, biases, norms
 * and routers are F32. A row goes through F32, which is exact for BF16 and F16, so their bits come
 * out as they went in. The file has a temporary name until it is complete and was opened again by
 * the reader that any GGUF goes through. */
#include "hf/to_gguf.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "ggml.h"
#include "hf/general.h"
#include "hf/metadata.h"
#include "hf/pairs.h"
#include "hf/tokenizer.h"

enum { ALIGNMENT = 32, CHUNK_BYTES = 4 << 20 };

/* ---- rows ---- */

static bool is_router(const char *name) {
    return strstr(name, ".ffn_gate_inp.") != NULL || strstr(name, ".ffn_gate_inp_shexp.") != NULL;
}

/* The type that a tensor of the directory gets. */
static const om_format *type_of(const om_hf_tensor *t, bool f32) {
    const bool plain = t->format->ggml_type >= 0 && t->format->block == 1;
    const bool always_f32 = f32 || t->n_dims < 2 || !om_text_ends(t->name, ".weight") ||
                            om_text_ends(t->name, "_norm.weight") || is_router(t->name);
    return plain && !always_f32 ? t->format : om_format_by_type(GGML_TYPE_F32);
}

typedef struct writer {
    const om_hf *hf; /* borrowed */
    om_atomic file;
    const om_env *env;
    float *rows;          /* [n_floats] */
    unsigned char *coded; /* [4 * n_floats] */
    int64_t n_floats;
    int64_t done, total; /* bytes of the file */
} writer;

static om_status write_bytes(writer *w, const void *data, int64_t n, om_error *err) {
    om_status status = om_atomic_write(&w->file, data, (size_t) n, err);
    w->done += n;
    om_progress(w->env, "convert", (double) w->done, (double) w->total, "bytes");
    return status;
}

/* Zeros up to the next tensor; the last one is padded too, as ggml's writer does. */
static om_status write_padding(writer *w, int64_t bytes, int64_t alignment, om_error *err) {
    static const unsigned char zeros[4096];
    int64_t left = om_pad(bytes, alignment) - bytes;
    om_status status = OM_OK;
    while (left > 0 && status == OM_OK) {
        const int64_t n = left < (int64_t) sizeof zeros ? left : (int64_t) sizeof zeros;
        status = write_bytes(w, zeros, n, err);
        left -= n;
    }
    return status;
}

static om_status check_finite(const float *x, int64_t n, const char *name, om_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return om_fail(err, OM_E_NUMERIC,
                           "tensor %s holds a NaN or an infinity: the directory is damaged", name);
        }
    }
    return OM_OK;
}

static om_status encode(unsigned char *out, const float *x, int64_t n, const om_format *format,
                        const char *name, om_error *err) {
    switch (format->ggml_type) {
    case GGML_TYPE_F32:
        memcpy(out, x, (size_t) n * sizeof *x);
        return OM_OK;
    case GGML_TYPE_F16:
        ggml_fp32_to_fp16_row(x, (ggml_fp16_t *) (void *) out, n);
        return OM_OK;
    case GGML_TYPE_BF16:
        ggml_fp32_to_bf16_row(x, (ggml_bf16_t *) (void *) out, n);
        return OM_OK;
    default:
        return om_fail(err, OM_E_INTERNAL, "tensor %s cannot be written as %s", name, format->name);
    }
}

static om_status write_tensor(writer *w, const om_hf_tensor *t, const om_format *format,
                              om_error *err) {
    om_status status = OM_OK;
    const int64_t n_rows = om_hf_tensor_n_rows(t);
    const int64_t at_once = t->ne[0] < w->n_floats ? w->n_floats / t->ne[0] : 1;
    for (int64_t row = 0; row < n_rows; row += at_once) {
        const int64_t n = n_rows - row < at_once ? n_rows - row : at_once;
        OM_TRY(om_check_cancel(w->env, err));
        OM_TRY(om_hf_rows_f32(w->rows, w->hf, t, OM_HF_GGUF, row, n, err));
        OM_TRY(check_finite(w->rows, n * t->ne[0], t->name, err));
        OM_TRY(encode(w->coded, w->rows, n * t->ne[0], format, t->name, err));
        OM_TRY(write_bytes(w, w->coded, n * t->ne[0] * format->block_bytes, err));
        om_hf_forget(w->hf, t, row, n);
    }
out:
    return status;
}

/* ---- a file under construction ---- */

/* `header` [n] precedes the data, `total` is the whole file. */
static om_status writer_open(writer *w, const om_hf *hf, const char *path, const void *header,
                             int64_t n, int64_t total, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    *w = (writer){ .hf = hf, .env = env, .total = total, .n_floats = CHUNK_BYTES / 4 };
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const int64_t row = om_hf_tensor_at(hf, i)->ne[0];
        w->n_floats = row > w->n_floats ? row : w->n_floats;
    }
    OM_TRY(om_disk_check(path, total, err));
    w->rows = om_alloc_aligned((size_t) w->n_floats * sizeof *w->rows);
    w->coded = om_alloc_aligned((size_t) w->n_floats * sizeof *w->rows);
    if (w->rows == NULL || w->coded == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) w->n_floats * sizeof *w->rows));
    }
    OM_TRY(om_atomic_open(&w->file, path, err));
    OM_TRY(write_bytes(w, header, n, err));
out:
    return status;
}

/* The file under its temporary name must be what any reader takes. */
static om_status writer_commit(writer *w, om_error *err) {
    om_status status = OM_OK;
    om_model *written = NULL;
    if (w->done != w->total) {
        OM_TRY(om_fail(err, OM_E_INTERNAL,
                       "%s: %" PRId64 " bytes written, %" PRId64 " were planned", w->file.path,
                       w->done, w->total));
    }
    if (fflush(w->file.file) != 0) {
        OM_TRY(om_fail_errno(err, "cannot write %s", w->file.path));
    }
    OM_TRY(om_model_open(&written, w->file.tmp, err));
    OM_TRY(om_atomic_commit(&w->file, err));
out:
    om_model_free(written);
    return status;
}

static void writer_close(writer *w) {
    om_atomic_abort(&w->file);
    om_free(w->rows);
    om_free(w->coded);
}

/* ---- with metadata of our own ---- */

/* `name` and its digest, when there is such a file. */
static om_status add_digest(om_buf *all, const char *dir, const char *name, const om_env *env,
                            om_error *err) {
    om_status status = OM_OK;
    char one[65];
    char *path = om_path_join(dir, name);
    if (path == NULL) {
        return om_fail_nomem(err, strlen(dir));
    }
    if (om_file_exists(path)) {
        OM_TRY(om_sha256_file(one, path, env, err));
        om_buf_printf(all, " %s %s", name, one);
    }
out:
    om_free(path);
    return status;
}

om_status om_hf_gguf_sha256(char hex[65], const om_hf *hf, const om_env *env, om_error *err) {
    /* beside config.json and the weights: what tokenizer.c and general.c read */
    static const char *const names[] = { "tokenizer.json",        "tokenizer.model",
                                         "added_tokens.json",     "tokenizer_config.json",
                                         "chat_template.json",    "chat_template.jinja",
                                         "generation_config.json" };
    om_status status = OM_OK;
    om_buf all = { 0 };
    char weights[65];
    OM_TRY(om_hf_sha256(weights, hf, env, err));
    om_buf_puts(&all, weights);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OM_TRY(add_digest(&all, om_hf_path(hf), names[i], env, err));
    }
    if (all.failed) {
        OM_TRY(om_fail_nomem(err, all.cap));
    }
    om_sha256_bytes(hex, all.data, all.len);
out:
    om_buf_release(&all);
    return status;
}

static void put_info(om_buf *b, int64_t *offset, const char *name, int n_dims, const int64_t *ne,
                     const om_format *format) {
    int64_t weights = 1;
    om_pairs_put_str(b, name, strlen(name));
    om_pairs_put(b, (uint64_t) n_dims, 4);
    for (int d = 0; d < n_dims; d++) {
        om_pairs_put(b, (uint64_t) ne[d], 8);
        weights *= ne[d];
    }
    om_pairs_put(b, (uint64_t) format->ggml_type, 4);
    om_pairs_put(b, (uint64_t) *offset, 8);
    *offset += om_pad(weights * format->block_bytes, ALIGNMENT);
}

/* Everything before the data; *data its length with padding. */
static om_status make_header(om_buf *out, int64_t *data, const om_hf *hf, bool f32_only,
                             const om_pairs *pairs, const om_hf_metadata *m, om_error *err) {
    const int n = om_hf_n_tensors(hf);
    const om_format *f32 = om_format_by_type(GGML_TYPE_F32);
    int64_t offset = 0;
    om_buf_add(out, "GGUF", 4);
    om_pairs_put(out, 3, 4);
    om_pairs_put(out, (uint64_t) (n + m->n_extras), 8);
    om_pairs_put(out, pairs->n, 8);
    om_buf_add(out, pairs->bytes.data, pairs->bytes.len);
    for (int i = 0; i < m->n_extras; i++) {
        put_info(out, &offset, m->extras[i].name, 1, &m->extras[i].n, f32);
    }
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        put_info(out, &offset, t->name, t->n_dims, t->ne, type_of(t, f32_only));
    }
    while (!out->failed && out->len % ALIGNMENT != 0) {
        om_pairs_put(out, 0, 1);
    }
    if (out->failed) {
        return om_fail_nomem(err, out->cap);
    }
    *data = offset;
    return OM_OK;
}

static om_status make_pairs(om_pairs *pairs, om_hf_metadata *m, const om_hf *hf, bool f32,
                            const om_env *env, om_error *err) {
    om_status status = OM_OK;
    char sha256[65];
    const char *model_type = om_family_model_type(om_hf_family(hf));
    const om_hf_tensor *embedding = om_hf_find(hf, "token_embd.weight");
    om_hf_general general = { .dir = om_hf_path(hf), .type = om_format_by_type(GGML_TYPE_F32) };
    if (embedding == NULL || embedding->n_dims < 2) {
        OM_TRY(om_fail(err, OM_E_FORMAT, "%s: no embedding of tokens", om_hf_path(hf)));
    }
    for (int i = 0; i < om_hf_n_tensors(hf) && general.type->ggml_type == GGML_TYPE_F32; i++) {
        general.type = type_of(om_hf_tensor_at(hf, i), f32);
    }
    OM_TRY(om_hf_general_put(pairs, &general, err));
    OM_TRY(om_hf_metadata_make(m, pairs, model_type, om_hf_config(hf), "config.json", err));
    if (m->vocab_size != embedding->ne[1]) {
        OM_TRY(om_fail(err, OM_E_FORMAT,
                       "%s: vocab_size %" PRId64 " in config.json, %" PRId64 " embeddings",
                       om_hf_path(hf), m->vocab_size, embedding->ne[1]));
    }
    OM_TRY(om_hf_tokenizer(pairs, om_hf_path(hf), model_type, om_hf_config(hf), embedding->ne[1],
                           err));
    OM_TRY(om_hf_gguf_sha256(sha256, hf, env, err));
    om_pairs_str(pairs, OM_HF_SOURCE_KEY, sha256);
out:
    return status;
}

static om_status write_all(writer *w, const om_hf_metadata *m, bool f32, om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < m->n_extras; i++) {
        const int64_t bytes = m->extras[i].n * (int64_t) sizeof(float);
        OM_TRY(write_bytes(w, m->extras[i].values, bytes, err));
        OM_TRY(write_padding(w, bytes, ALIGNMENT, err));
    }
    for (int i = 0; i < om_hf_n_tensors(w->hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(w->hf, i);
        const om_format *format = type_of(t, f32);
        OM_TRY(write_tensor(w, t, format, err));
        OM_TRY(write_padding(w, om_format_size(format, t->ne[0], om_hf_tensor_n_rows(t)), ALIGNMENT,
                             err));
    }
out:
    return status;
}

om_status om_hf_to_gguf(const om_hf *hf, bool f32, const char *path, const om_env *env,
                        om_error *err) {
    om_status status = OM_OK;
    om_pairs pairs = { .arch = om_family_arch(om_hf_family(hf)) };
    om_hf_metadata m = { 0 };
    om_buf header = { 0 };
    writer w = { 0 };
    int64_t data = 0;
    OM_TRY(make_pairs(&pairs, &m, hf, f32, env, err));
    OM_TRY(make_header(&header, &data, hf, f32, &pairs, &m, err));
    om_pairs_release(&pairs);
    OM_TRY(writer_open(&w, hf, path, header.data, (int64_t) header.len, (int64_t) header.len + data,
                       env, err));
    OM_TRY(write_all(&w, &m, f32, err));
    OM_TRY(writer_commit(&w, err));
out:
    writer_close(&w);
    om_buf_release(&header);
    om_hf_metadata_release(&m);
    om_pairs_release(&pairs);
    return status;
}

/* ---- with the metadata of another file ---- */

static bool has_shape(const om_hf_tensor *t, const om_tensor *like) {
    for (int d = 0; d < 4; d++) {
        if ((d < t->n_dims ? t->ne[d] : 1) != like->ne[d]) {
            return false;
        }
    }
    return true;
}

/* Tensors that config.json's numbers make: a directory has none of them. */
static bool is_extra(const char *name) {
    return om_text_starts(name, "rope_freqs.") || om_text_starts(name, "rope_factors_");
}

static om_status check_like(const om_hf *hf, const om_model *like, om_error *err) {
    int n_found = 0;
    for (int i = 0; i < om_model_n_tensors(like); i++) {
        const om_tensor *l = om_model_tensor(like, i);
        const om_hf_tensor *t = om_hf_find(hf, l->name);
        if (t == NULL && !is_extra(l->name)) {
            return om_fail(err, OM_E_MISMATCH, "tensor %s of %s is not in %s: two models", l->name,
                           om_model_path(like), om_hf_path(hf));
        }
        if (t != NULL && !has_shape(t, l)) {
            return om_fail(err, OM_E_MISMATCH,
                           "tensor %s: %" PRId64 " x %" PRId64 " x %" PRId64 " in %s, another "
                           "shape in %s: two models",
                           l->name, l->ne[0], l->ne[1], l->ne[2], om_model_path(like),
                           om_hf_path(hf));
        }
        n_found += t != NULL;
    }
    for (int i = 0; i < om_hf_n_tensors(hf) && n_found < om_hf_n_tensors(hf); i++) {
        const char *name = om_hf_tensor_at(hf, i)->name;
        if (om_model_find(like, name) == NULL) {
            return om_fail(err, OM_E_MISMATCH, "tensor %s of %s is not in %s: two models", name,
                           om_hf_path(hf), om_model_path(like));
        }
    }
    return OM_OK;
}

/* F32 for what may be quantized; elsewhere `like`'s own type when it can be written. */
static const om_format *type_like(const om_hf_tensor *t, const om_tensor *like) {
    const int type = like->format->ggml_type;
    const bool plain = type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_F32;
    return t == NULL || (plain && !like->may_quantize) ? like->format
                                                       : om_format_by_type(GGML_TYPE_F32);
}

static om_status write_like(writer *w, const om_model *like, const om_format *const *types,
                            om_error *err) {
    om_status status = OM_OK;
    for (int i = 0; i < om_model_n_tensors(like); i++) {
        const om_tensor *l = om_model_tensor(like, i);
        const om_hf_tensor *t = om_hf_find(w->hf, l->name);
        const int64_t bytes = om_format_size(types[i], l->ne[0], om_tensor_n_rows(l));
        OM_TRY(t != NULL ? write_tensor(w, t, types[i], err)
                         : write_bytes(w, l->data, l->bytes, err));
        OM_TRY(write_padding(w, bytes, om_gguf_alignment(like), err));
    }
out:
    return status;
}

om_status om_hf_to_gguf_like(const om_hf *hf, const om_model *like, const char *path,
                             const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(like);
    const om_format **types = om_calloc((size_t) n, sizeof *types);
    const om_gguf_record record = { .predicted_nats = (double) NAN,
                                    .measured_kld = (double) NAN,
                                    .measured_kld_stderr = (double) NAN };
    unsigned char *header = NULL;
    size_t size = 0;
    writer w = { 0 };
    if (types == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n * sizeof *types));
    }
    OM_TRY(check_like(hf, like, err));
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        const om_tensor *l = om_model_tensor(like, i);
        types[i] = type_like(om_hf_find(hf, l->name), l);
        total += om_pad(om_format_size(types[i], l->ne[0], om_tensor_n_rows(l)),
                        om_gguf_alignment(like));
    }
    OM_TRY(om_gguf_metadata(&header, &size, like, types, &record, err));
    OM_TRY(writer_open(&w, hf, path, header, (int64_t) size, (int64_t) size + total, env, err));
    OM_TRY(write_like(&w, like, types, err));
    OM_TRY(writer_commit(&w, err));
out:
    writer_close(&w);
    om_free(header);
    om_free((void *) types);
    return status;
}
