/* The bytes of one safetensors file into checked tensors: 8 bytes of length, JSON, data.
 *
 * The file is an untrusted input. Every shape is multiplied with checks, and the places of the
 * tensors must tile the data exactly: the safetensors library and MLX refuse anything else, and
 * bytes that belong to no tensor, or to two, mean a damaged file.
 *
 * Not done here: directories and lookups (safetensors.c).
 * Source: the format's description in huggingface/safetensors, and what its library refuses.
 */
#include "model/safetensors_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

static const char metadata_key[] = "__metadata__";

/* Where a tensor lies, from the start of the data. */
typedef struct place {
    int64_t begin, end;
    size_t tensor;
} place;

/* ---- the frame: length and JSON ---- */

static om_status fail_short(const unsigned char *data, size_t size, const char *path,
                            om_error *err) {
    static const char pointer[] = "version https://git-lfs";
    if (size >= sizeof pointer - 1 && memcmp(data, pointer, sizeof pointer - 1) == 0) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected a safetensors file, found a pointer of Git LFS: fetch the "
                       "file itself with `git lfs pull`",
                       path);
    }
    return om_fail(err, OM_E_FORMAT,
                   "%s: expected a safetensors file, found %zu bytes, too few for a header: "
                   "download it again",
                   path, size);
}

/* Length of the JSON text, which starts behind the length itself. */
static om_status header_length(size_t *out, const unsigned char *data, size_t size,
                               const char *path, om_error *err) {
    uint64_t n = 0;
    if (size < OM_ST_LENGTH_BYTES) {
        return fail_short(data, size, path, err);
    }
    for (int i = OM_ST_LENGTH_BYTES - 1; i >= 0; i--) {
        n = n << 8 | data[i];
    }
    if (n > OM_ST_MAX_HEADER) {
        if (n == 0x206E6F6973726576u) { /* "version " */
            return fail_short(data, size, path, err);
        }
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected a header of at most %d bytes, found %" PRIu64
                       ": damaged, or no safetensors file; download it again",
                       path, OM_ST_MAX_HEADER, n);
    }
    if (n > size - OM_ST_LENGTH_BYTES) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: truncated: at least %" PRIu64
                       " bytes expected, %zu found; download it again",
                       path, n + OM_ST_LENGTH_BYTES, size);
    }
    /* JSON readers skip blanks before a value; the format does not allow them there. */
    if (n < 2 || data[OM_ST_LENGTH_BYTES] != '{') {
        return om_fail(err, OM_E_FORMAT,
                       "%s: the header is no JSON object: damaged, or no safetensors file; "
                       "download it again",
                       path);
    }
    *out = (size_t) n;
    return OM_OK;
}

/* A JSON document in memory takes some hundred bytes per object and some ten per number, so a
 * header of nothing but brackets would take a hundred times its length. The shortest entries there
 * are have 16 bytes per bracket and 5 per comma (with 8 dimensions of one digit); what is denser
 * holds no tensors, and is refused unread. Short headers are read in any case: their messages say
 * more. */
static om_status check_density(const unsigned char *text, size_t n, const char *path,
                               om_error *err) {
    enum { SHORT = 4096, BYTES_PER_BRACKET = 16, BYTES_PER_COMMA = 5 };
    size_t brackets = 0, commas = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = text[i];
        if (c == '"') {
            in_string = !in_string;
        } else if (in_string) {
            i += c == '\\'; /* whatever it escapes */
        } else {
            brackets += c == '{' || c == '[';
            commas += c == ',';
        }
    }
    if (brackets > (n + SHORT) / BYTES_PER_BRACKET || commas > (n + SHORT) / BYTES_PER_COMMA) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected a header of tensors, found %zu brackets and %zu commas in %zu "
                       "bytes: damaged, download it again",
                       path, brackets, commas, n);
    }
    return OM_OK;
}

/* ---- one tensor ---- */

/* Dimensions that are 0 count as 1: so the product of any of them fits as well. */
static om_status read_shape(om_st_tensor *t, int64_t *elements, const om_node *entry,
                            om_error *err) {
    om_status status = OM_OK;
    om_node shape, dim;
    size_t n = 0;
    int64_t product = 1;
    bool empty = false;
    OM_TRY(om_node_array(&shape, &n, entry, "shape", err));
    if (n > OM_ST_MAX_DIMS) {
        return om_node_fail(err, &shape, "expected at most %d dimensions, found %zu",
                            OM_ST_MAX_DIMS, n);
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&dim, &shape, i, err));
        OM_TRY(om_node_value_i64(&t->shape[i], &dim, 0, INT64_MAX, err));
        if (t->shape[i] == 0) {
            empty = true;
        } else if (product > INT64_MAX / 64 / t->shape[i]) { /* 64: bits of the widest dtype */
            return om_node_fail(err, &shape, "more elements than any file can hold: damaged");
        } else {
            product *= t->shape[i];
        }
    }
    t->n_dims = (int) n;
    *elements = empty ? 0 : product;
out:
    return status;
}

static om_status read_offsets(place *p, const om_node *entry, om_error *err) {
    om_status status = OM_OK;
    om_node offsets, item;
    size_t n = 0;
    OM_TRY(om_node_array(&offsets, &n, entry, "data_offsets", err));
    if (n != 2) {
        return om_node_fail(err, &offsets, "expected a begin and an end, found %zu numbers", n);
    }
    OM_TRY(om_node_at(&item, &offsets, 0, err));
    OM_TRY(om_node_value_i64(&p->begin, &item, 0, INT64_MAX, err));
    OM_TRY(om_node_at(&item, &offsets, 1, err));
    OM_TRY(om_node_value_i64(&p->end, &item, p->begin, INT64_MAX, err));
out:
    return status;
}

/* Everything but name and data. */
static om_status read_tensor(om_st_tensor *t, place *p, const om_node *entry, om_error *err) {
    om_status status = OM_OK;
    const char *dtype = NULL;
    int64_t elements = 0;
    int bits = 0;
    OM_TRY(om_node_str(&dtype, entry, "dtype", err));
    if (!om_st_dtype_find(&t->dtype, &bits, dtype)) {
        return om_node_fail(err, entry, "unknown dtype \"%.32s\": damaged, or of a newer format",
                            dtype);
    }
    OM_TRY(read_shape(t, &elements, entry, err));
    OM_TRY(read_offsets(p, entry, err));
    if (elements * bits % 8 != 0) {
        return om_node_fail(err, entry, "%" PRId64 " elements of %s are not whole bytes", elements,
                            dtype);
    }
    t->bytes = elements * bits / 8;
    if (p->end - p->begin != t->bytes) {
        return om_node_fail(err, entry,
                            "dtype %s and shape need %" PRId64 " bytes, data_offsets give %" PRId64,
                            dtype, t->bytes, p->end - p->begin);
    }
out:
    return status;
}

/* ---- all tensors ---- */

/* The text that must outlive the JSON document is copied into one block. */
static const char *keep(char **end, const char *text) {
    const size_t n = strlen(text) + 1;
    char *copy = *end;
    memcpy(copy, text, n);
    *end += n;
    return copy;
}

/* Arrays for what the document really holds; counts stay 0. */
static om_status make_room(om_st_file *f, place **places, const om_node *root, om_error *err) {
    om_node entry, pair;
    size_t n = 0, n_pairs = 0, bytes = 0;
    for (void *it = NULL; om_node_next(&entry, root, &it);) {
        if (strcmp(entry.key, metadata_key) != 0) {
            n++;
            bytes += strlen(entry.key) + 1;
            continue;
        }
        for (void *in = NULL; om_node_next(&pair, &entry, &in);) {
            const char *value = NULL;
            const om_status status = om_node_value_str(&value, &pair, err);
            if (status != OM_OK) {
                return status;
            }
            n_pairs++;
            bytes += strlen(pair.key) + strlen(value) + 2;
        }
    }
    f->tensors = om_calloc(n, sizeof *f->tensors);
    f->metadata = om_calloc(n_pairs, sizeof *f->metadata);
    f->text = om_calloc(bytes, 1);
    *places = om_calloc(n, sizeof **places);
    if (f->tensors == NULL || f->metadata == NULL || f->text == NULL || *places == NULL) {
        return om_fail_nomem(err, n * (sizeof *f->tensors + sizeof **places) + bytes);
    }
    return OM_OK;
}

static om_status read_metadata(om_st_file *f, char **end, const om_node *root, om_error *err) {
    om_node object, pair;
    om_status status = om_node_object(&object, root, metadata_key, err);
    for (void *it = NULL; status == OM_OK && om_node_next(&pair, &object, &it);) {
        const char *value = NULL;
        status = om_node_value_str(&value, &pair, err);
        if (status == OM_OK) {
            const char *key = keep(end, pair.key);
            f->metadata[f->n_metadata++] = (om_st_pair){ key, keep(end, value) };
        }
    }
    return status;
}

static om_status read_entries(om_st_file *f, place **places, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node entry;
    OM_TRY(make_room(f, places, root, err));
    char *end = f->text;
    for (void *it = NULL; om_node_next(&entry, root, &it);) {
        if (strcmp(entry.key, metadata_key) == 0) {
            OM_TRY(read_metadata(f, &end, root, err));
            continue;
        }
        om_st_tensor *t = &f->tensors[f->n];
        place *p = &(*places)[f->n];
        OM_TRY(read_tensor(t, p, &entry, err));
        t->name = keep(&end, entry.key);
        p->tensor = f->n++;
    }
out:
    return status;
}

/* ---- the data ---- */

/* An empty tensor goes before the one that begins at the same byte. */
static int by_place(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Point every tensor at its bytes. places [f->n] is sorted. */
static om_status place_data(om_st_file *f, place *places, const unsigned char *data, size_t size,
                            size_t start, const char *path, om_error *err) {
    int64_t at = 0;
    qsort(places, f->n, sizeof *places, by_place);
    for (size_t i = 0; i < f->n; i++) {
        const place *p = &places[i];
        if (p->begin != at) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: tensor \"%.100s\" begins at byte %" PRId64
                           " of the data, expected %" PRId64 ": %s; damaged, download it again",
                           path, f->tensors[p->tensor].name, p->begin, at,
                           p->begin < at ? "it overlaps another" : "bytes of no tensor before it");
        }
        at = p->end;
    }
    if ((uint64_t) at > size - start) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: truncated: %" PRIu64 " bytes expected, %zu found; download it again",
                       path, (uint64_t) at + start, size);
    }
    if ((uint64_t) at < size - start) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: %" PRIu64 " bytes expected, %zu found: the last %" PRIu64
                       " belong to no tensor; damaged, download it again",
                       path, (uint64_t) at + start, size, size - start - (uint64_t) at);
    }
    for (size_t i = 0; i < f->n; i++) {
        f->tensors[places[i].tensor].data = data + start + places[i].begin;
    }
    return OM_OK;
}

void om_st_file_release(om_st_file *file) {
    om_free(file->tensors);
    om_free(file->metadata);
    om_free(file->text);
    *file = (om_st_file){ 0 };
}

om_status om_st_file_parse(om_st_file *out, const unsigned char *data, size_t size,
                           const char *path, om_error *err) {
    om_status status = OM_OK;
    om_st_file f = { 0 };
    om_json *doc = NULL;
    place *places = NULL;
    size_t n = 0;
    OM_TRY(header_length(&n, data, size, path, err));
    OM_TRY(check_density(data + OM_ST_LENGTH_BYTES, n, path, err));
    OM_TRY(om_json_parse(&doc, (const char *) data + OM_ST_LENGTH_BYTES, n, path, NULL, err));
    const om_node root = om_node_root(doc, path);
    OM_TRY(read_entries(&f, &places, &root, err));
    OM_TRY(place_data(&f, places, data, size, OM_ST_LENGTH_BYTES + n, path, err));
    *out = f;
    f = (om_st_file){ 0 };
out:
    om_st_file_release(&f);
    om_free(places);
    om_json_free(doc);
    return status;
}
