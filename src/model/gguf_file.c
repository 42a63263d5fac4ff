/* Bytes into a checked header: the GGUF format, version 2 and 3, little-endian.
 *
 * ggml has a reader too; ours exists because a file is an untrusted input here: it may claim 2^60
 * keys, tensors that overlap, or sizes whose product wraps. Every length is compared with what is
 * left of the file before it is used, and arrays grow as entries are really found.
 *
 * Not done here: split files and lookups (gguf.c), writing (gguf_out.c).
 * Source: docs/formats.md; gguf.h of ggml.
 */
#include "model/gguf_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct cursor {
    const unsigned char *data;
    size_t size, at;
    const char *path;
    om_error *err;
} cursor;

static om_status fail_truncated(const cursor *c, uint64_t needed) {
    (void) om_fail(c->err, OM_E_FORMAT,
                   "%s: the header is cut off or damaged: %llu bytes expected at offset %zu, the "
                   "file has %zu in all; download it again",
                   c->path, (unsigned long long) needed, c->at, c->size);
    return OM_E_FORMAT; /* a constant: compilers then see that outs are set on success */
}

static om_status take(const unsigned char **out, cursor *c, uint64_t n) {
    if (n > c->size - c->at) {
        return fail_truncated(c, n);
    }
    *out = c->data + c->at;
    c->at += (size_t) n;
    return OM_OK;
}

static uint64_t little_endian(const unsigned char *p, int n_bytes) {
    uint64_t v = 0;
    for (int i = n_bytes - 1; i >= 0; i--) {
        v = v << 8 | p[i];
    }
    return v;
}

static om_status take_u32(uint32_t *out, cursor *c) {
    const unsigned char *p;
    om_status status = take(&p, c, 4);
    if (status == OM_OK) {
        *out = (uint32_t) little_endian(p, 4);
    }
    return status;
}

static om_status take_u64(uint64_t *out, cursor *c) {
    const unsigned char *p;
    om_status status = take(&p, c, 8);
    if (status == OM_OK) {
        *out = little_endian(p, 8);
    }
    return status;
}

static om_status take_string(const unsigned char **out, uint64_t *n, cursor *c) {
    om_status status = take_u64(n, c);
    return status != OM_OK ? status : take(out, c, *n);
}

/* Room for item n of an array that doubles. */
static om_status grow(void **items, size_t *cap, size_t n, size_t item_bytes, om_error *err) {
    if (n < *cap) {
        return OM_OK;
    }
    size_t wanted = *cap == 0 ? 16 : *cap * 2;
    void *p = om_realloc(*items, wanted, item_bytes);
    if (p == NULL) {
        return om_fail_nomem(err, wanted * item_bytes);
    }
    *items = p;
    *cap = wanted;
    return OM_OK;
}

/* ---- metadata ---- */

/* 0: not a scalar of fixed size. */
static unsigned scalar_bytes(uint32_t type) {
    static const unsigned char bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return type < sizeof bytes ? bytes[type] : 0;
}

static om_status take_items(cursor *c, om_gguf_kv *kv) {
    const unsigned char *p;
    if (kv->type == OM_GGUF_STR) {
        for (uint64_t i = 0; i < kv->n; i++) {
            uint64_t n;
            om_status status = take_string(&p, &n, c);
            if (status != OM_OK) {
                return status;
            }
        }
        return OM_OK;
    }
    unsigned bytes = scalar_bytes(kv->type);
    if (bytes == 0) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: metadata \"%s\" has the unknown value type %u; the file is damaged or "
                       "from a newer format",
                       c->path, kv->key, (unsigned) kv->type);
    }
    if (kv->n > c->size / bytes) {
        return fail_truncated(c, kv->n);
    }
    return take(&p, c, kv->n * bytes);
}

static bool is_printable(const unsigned char *s, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        if (s[i] < 0x20 || s[i] > 0x7E) {
            return false;
        }
    }
    return n > 0;
}

static om_status parse_kv(om_gguf_kv *kv, cursor *c) {
    om_status status = OM_OK;
    const unsigned char *p;
    uint64_t n;
    kv->entry = c->data + c->at;
    OM_TRY(take_string(&p, &n, c));
    if (n > 65535 || !is_printable(p, n)) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: a metadata key at offset %zu is not printable text; the file is "
                       "damaged, download it again",
                       c->path, (size_t) (kv->entry - c->data));
    }
    kv->key = om_strndup((const char *) p, (size_t) n);
    if (kv->key == NULL) {
        return om_fail_nomem(c->err, (size_t) n);
    }
    OM_TRY(take_u32(&kv->type, c));
    kv->n = 1;
    kv->is_array = kv->type == OM_GGUF_ARRAY;
    if (kv->is_array) {
        OM_TRY(take_u32(&kv->type, c));
        OM_TRY(take_u64(&kv->n, c));
    }
    kv->value = c->data + c->at;
    OM_TRY(take_items(c, kv));
    kv->entry_bytes = (size_t) (c->data + c->at - kv->entry);
    if (kv->type == OM_GGUF_STR && !kv->is_array) {
        size_t length = (size_t) little_endian(kv->value, 8);
        kv->str = om_strndup((const char *) kv->value + 8, length);
        if (kv->str == NULL) {
            return om_fail_nomem(c->err, length);
        }
    }
out:
    return status;
}

bool om_gguf_kv_u64(uint64_t *out, const om_gguf_kv *kv, uint64_t i) {
    unsigned bytes = scalar_bytes(kv->type);
    if (i >= kv->n || bytes == 0 || kv->type == OM_GGUF_F32 || kv->type == OM_GGUF_F64) {
        return false;
    }
    uint64_t v = little_endian(kv->value + i * bytes, (int) bytes);
    bool is_signed = kv->type == OM_GGUF_I8 || kv->type == OM_GGUF_I16 || kv->type == OM_GGUF_I32 ||
                     kv->type == OM_GGUF_I64;
    if (is_signed && v >> (8 * bytes - 1) != 0) {
        return false;
    }
    *out = v;
    return true;
}

bool om_gguf_kv_f64(double *out, const om_gguf_kv *kv, uint64_t i) {
    uint64_t u;
    if (i < kv->n && kv->type == OM_GGUF_F32) {
        uint32_t bits = (uint32_t) little_endian(kv->value + i * 4, 4);
        float f;
        memcpy(&f, &bits, sizeof f);
        *out = (double) f;
        return true;
    }
    if (i < kv->n && kv->type == OM_GGUF_F64) {
        uint64_t bits = little_endian(kv->value + i * 8, 8);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (om_gguf_kv_u64(&u, kv, i)) {
        *out = (double) u;
        return true;
    }
    return false;
}

const om_gguf_kv *om_gguf_file_find(const om_gguf_file *file, const char *key) {
    for (size_t i = 0; i < file->n_kvs; i++) {
        if (strcmp(file->kvs[i].key, key) == 0) {
            return &file->kvs[i];
        }
    }
    return NULL;
}

/* ---- tensor table ---- */

/* Fill ne and bytes; the product of the dimensions must stay far from overflow. */
static om_status parse_shape(om_gguf_info *t, cursor *c) {
    om_status status = OM_OK;
    uint32_t n_dims, type;
    OM_TRY(take_u32(&n_dims, c));
    if (n_dims < 1 || n_dims > 4) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: tensor %s has %u dimensions, expected 1 to 4; the file is damaged",
                       c->path, t->name, (unsigned) n_dims);
    }
    t->n_dims = (int) n_dims;
    t->ne[0] = t->ne[1] = t->ne[2] = t->ne[3] = 1;
    int64_t left = INT64_MAX / 32; /* weights; at most 8 bytes each, and padding */
    for (uint32_t i = 0; i < n_dims; i++) {
        uint64_t ne;
        OM_TRY(take_u64(&ne, c));
        if (ne == 0 || ne > (uint64_t) left) {
            return om_fail(c->err, OM_E_FORMAT,
                           "%s: tensor %s has an impossible size (dimension %u is %llu); the file "
                           "is damaged",
                           c->path, t->name, (unsigned) i, (unsigned long long) ne);
        }
        t->ne[i] = (int64_t) ne;
        left /= (int64_t) ne;
    }
    OM_TRY(take_u32(&type, c));
    t->format = type <= INT32_MAX ? om_format_by_type((int) type) : NULL;
    if (t->format == NULL) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: tensor %s has the type %u, which this version does not know (retired, "
                       "or newer than the llama.cpp it was built with)",
                       c->path, t->name, (unsigned) type);
    }
    t->bytes = om_format_size(t->format, t->ne[0], t->ne[1] * t->ne[2] * t->ne[3]);
    if (t->bytes < 0) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: tensor %s is %s, but its rows of %lld weights are no multiple of %d; "
                       "the file is damaged",
                       c->path, t->name, t->format->name, (long long) t->ne[0], t->format->block);
    }
    OM_TRY(take_u64(&t->offset, c));
out:
    return status;
}

static om_status parse_info(om_gguf_info *t, cursor *c) {
    const unsigned char *p;
    uint64_t n;
    om_status status = take_string(&p, &n, c);
    if (status != OM_OK) {
        return status;
    }
    if (n >= sizeof t->name || !is_printable(p, n)) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: a tensor name of %llu bytes before offset %zu, expected printable text "
                       "of at most 63; the file is damaged",
                       c->path, (unsigned long long) n, c->at);
    }
    memcpy(t->name, p, (size_t) n);
    t->name[n] = '\0';
    return parse_shape(t, c);
}

static int by_offset(const void *a, const void *b) {
    const om_gguf_info *x = *(om_gguf_info *const *) a, *y = *(om_gguf_info *const *) b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static om_status check_place(const om_gguf_file *f, const om_gguf_info *t, cursor *c) {
    if (t->offset % f->alignment != 0) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: tensor %s starts at %llu, no multiple of the alignment %zu; the file "
                       "is damaged",
                       c->path, t->name, (unsigned long long) t->offset, f->alignment);
    }
    size_t room = c->size > f->data_start ? c->size - f->data_start : 0;
    if (t->offset > room || (uint64_t) t->bytes > room - t->offset) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: the file is truncated: tensor %s needs %lld bytes at offset %.0f, the "
                       "file has %zu; download it again",
                       c->path, t->name, (long long) t->bytes,
                       (double) f->data_start + (double) t->offset, c->size);
    }
    return OM_OK;
}

/* Every tensor aligned, inside the file, and on bytes of its own. */
static om_status check_layout(const om_gguf_file *f, cursor *c) {
    om_status status = OM_OK;
    om_gguf_info **sorted = om_calloc(f->n_infos, sizeof *sorted);
    if (sorted == NULL) {
        return om_fail_nomem(c->err, f->n_infos * sizeof *sorted);
    }
    for (size_t i = 0; i < f->n_infos; i++) {
        OM_TRY(check_place(f, &f->infos[i], c));
        sorted[i] = &f->infos[i];
    }
    qsort(sorted, f->n_infos, sizeof *sorted, by_offset);
    for (size_t i = 1; i < f->n_infos; i++) {
        const om_gguf_info *a = sorted[i - 1], *b = sorted[i];
        if (a->offset + (uint64_t) a->bytes > b->offset) {
            status =
                om_fail(c->err, OM_E_FORMAT, "%s: tensors %s and %s overlap; the file is damaged",
                        c->path, a->name, b->name);
            goto out;
        }
    }
out:
    om_free(sorted);
    return status;
}

/* ---- the file ---- */

static int by_string(const void *a, const void *b) {
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Keys (or names) must be unique. By sorting: a hostile file cannot make this quadratic. */
static om_status check_unique(const char **strings, size_t n, const char *what, cursor *c) {
    qsort((void *) strings, n, sizeof *strings, by_string);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(strings[i - 1], strings[i]) == 0) {
            return om_fail(c->err, OM_E_FORMAT, "%s: %s %s stands twice; the file is damaged",
                           c->path, what, strings[i]);
        }
    }
    return OM_OK;
}

static om_status check_names(const om_gguf_file *f, cursor *c) {
    om_status status = OM_OK;
    size_t n = f->n_kvs > f->n_infos ? f->n_kvs : f->n_infos;
    const char **strings = om_calloc(n, sizeof *strings);
    if (strings == NULL) {
        return om_fail_nomem(c->err, n * sizeof *strings);
    }
    for (size_t i = 0; i < f->n_kvs; i++) {
        strings[i] = f->kvs[i].key;
    }
    OM_TRY(check_unique(strings, f->n_kvs, "metadata key", c));
    for (size_t i = 0; i < f->n_infos; i++) {
        strings[i] = f->infos[i].name;
    }
    OM_TRY(check_unique(strings, f->n_infos, "tensor", c));
out:
    om_free((void *) strings);
    return status;
}

static om_status parse_alignment(om_gguf_file *f, cursor *c) {
    uint64_t alignment = 32;
    const om_gguf_kv *kv = om_gguf_file_find(f, "general.alignment");
    if (kv != NULL && (kv->is_array || !om_gguf_kv_u64(&alignment, kv, 0))) {
        alignment = 0;
    }
    /* 8: the widest type in a tensor; 1 MiB: far above any page size. */
    if (alignment < 8 || alignment > 1u << 20 || (alignment & (alignment - 1)) != 0) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: general.alignment must be a power of two from 8 to 1048576; the file "
                       "is damaged",
                       c->path);
    }
    f->alignment = (size_t) alignment;
    return OM_OK;
}

static om_status parse_magic(om_gguf_file *f, cursor *c) {
    const unsigned char *magic;
    if (c->size < 24 || take(&magic, c, 4) != OM_OK || memcmp(magic, "GGUF", 4) != 0) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: not a GGUF file (it does not start with \"GGUF\")%s", c->path,
                       c->size < 24 ? "; it has fewer than 24 bytes" : "");
    }
    om_status status = take_u32(&f->version, c);
    if (status != OM_OK) {
        return status;
    }
    if (f->version != 2 && f->version != 3) {
        bool swapped = (f->version & 0xFFFF) == 0;
        return om_fail(c->err, OM_E_FORMAT, "%s: GGUF version %u%s; expected 2 or 3, little-endian",
                       c->path, (unsigned) (swapped ? f->version >> 24 : f->version),
                       swapped ? ", big-endian" : "");
    }
    return OM_OK;
}

static om_status parse(om_gguf_file *f, cursor *c) {
    om_status status = OM_OK;
    uint64_t n_infos, n_kvs;
    size_t kv_cap = 0, info_cap = 0;
    OM_TRY(parse_magic(f, c));
    OM_TRY(take_u64(&n_infos, c));
    OM_TRY(take_u64(&n_kvs, c));
    if (n_infos > INT32_MAX || n_kvs > INT32_MAX) {
        return om_fail(c->err, OM_E_FORMAT,
                       "%s: the header claims %llu tensors and %llu metadata keys; the file is "
                       "damaged",
                       c->path, (unsigned long long) n_infos, (unsigned long long) n_kvs);
    }
    for (; f->n_kvs < n_kvs; f->n_kvs++) {
        OM_TRY(grow((void **) &f->kvs, &kv_cap, f->n_kvs, sizeof *f->kvs, c->err));
        f->kvs[f->n_kvs] = (om_gguf_kv){ 0 };
        status = parse_kv(&f->kvs[f->n_kvs], c);
        if (status != OM_OK) {
            f->n_kvs++; /* its key may be owned already */
            goto out;
        }
    }
    OM_TRY(parse_alignment(f, c));
    for (; f->n_infos < n_infos; f->n_infos++) {
        OM_TRY(grow((void **) &f->infos, &info_cap, f->n_infos, sizeof *f->infos, c->err));
        OM_TRY(parse_info(&f->infos[f->n_infos], c));
    }
    f->data_start = (size_t) om_pad((int64_t) c->at, (int64_t) f->alignment);
    OM_TRY(check_names(f, c));
    OM_TRY(check_layout(f, c));
out:
    return status;
}

om_status om_gguf_file_parse(om_gguf_file *out, const unsigned char *data, size_t size,
                             const char *path, om_error *err) {
    *out = (om_gguf_file){ 0 };
    cursor c = { .data = data, .size = size, .path = path, .err = err };
    om_status status = parse(out, &c);
    if (status != OM_OK) {
        om_gguf_file_release(out);
    }
    return status;
}

void om_gguf_file_release(om_gguf_file *file) {
    for (size_t i = 0; i < file->n_kvs; i++) {
        om_free(file->kvs[i].key);
        om_free(file->kvs[i].str);
    }
    om_free(file->kvs);
    om_free(file->infos);
    *file = (om_gguf_file){ 0 };
}
