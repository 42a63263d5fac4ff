/* Statistics in memory and their GGUF writer.
 *
 * Turns an om_stats into a GGUF v3 that llama-quantize --imatrix accepts (facts:
 * common_imatrix_load in llama.cpp): the three imatrix.* keys must be there, and every
 * "<name>.in_sum2" needs its
 * "<name>.counts". Tensors that are only looked up (embeddings) have Fisher marginals but no input
 * statistics; llama-quantize ignores names it does not know, so both live in one file.
 *
 * The bytes are a function of the om_stats alone: no date, no path, tensors in the order given. The
 * reader is in stats_read.c. */
#include "profile/stats.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

enum { ALIGNMENT = 32, GGUF_U32 = 4, GGUF_STR = 8, GGUF_ARR = 9, GGUF_U64 = 10, GGUF_F64 = 12 };

/* ggml refuses tensor names of 64 bytes and more. */
enum { NAME_MAX_BYTES = 63 };

void om_stats_free(om_stats *s) {
    if (s == NULL) {
        return;
    }
    for (int i = 0; i < s->n_tensors; i++) {
        const om_tensor_stats *t = &s->tensors[i];
        float *const arrays[] = { t->in_sum2, t->rows, t->cols, t->nats, t->routing };
        for (unsigned k = 0; k < 5; k++) {
            if (!(t->mapped >> k & 1U)) {
                om_free(arrays[k]);
            }
        }
        om_free(t->counts);
    }
    om_free(s->tensors);
    om_map_close(&s->map);
    om_free(s);
}

const om_tensor_stats *om_stats_find(const om_stats *s, const char *name) {
    for (int i = 0; i < s->n_tensors; i++) {
        if (strcmp(s->tensors[i].name, name) == 0) {
            return &s->tensors[i];
        }
    }
    return NULL;
}

int om_stats_column(const om_tensor_stats *t, const char *type) {
    const size_t n = strlen(type);
    const char *names = t != NULL && t->nats != NULL ? t->nats_types : "";
    for (int column = 0; t != NULL && column < t->n_nats; column++) {
        const size_t length = strcspn(names, ",");
        if (length == n && strncmp(names, type, n) == 0) {
            return column;
        }
        names += length + (names[length] != '\0');
    }
    return -1;
}

bool om_stats_importance(float *out, const om_tensor_stats *t, int expert) {
    if (t->in_sum2 == NULL || expert < 0 || expert >= t->experts) {
        return false;
    }
    const float *sum2 = t->in_sum2 + (int64_t) expert * t->n_in;
    /* Rounded to a whole number and divided in float: llama-quantize's order of operations. */
    const float count = (float) lroundf(t->counts[expert]);
    for (int64_t j = 0; j < t->n_in; j++) {
        out[j] = count > 0.0F ? sum2[j] / count : 1.0F;
    }
    return true;
}

om_status om_stats_shape(om_tensor_stats *t, int64_t n_in, int experts, om_error *err) {
    if (t->n_in == n_in && t->experts == experts) {
        return OM_OK;
    }
    const bool flat = t->experts == 1 && t->rows == NULL && t->in_sum2 != NULL && experts > 0 &&
                      n_in > 0 && t->n_in % n_in == 0 && t->n_in / n_in == experts;
    if (!flat) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s: statistics are for %d x %" PRId64 " inputs, the model's tensor has "
                       "%d x %" PRId64 ": they come from another model",
                       t->name, t->experts, t->n_in, experts, n_in);
    }
    float *counts = om_calloc((size_t) experts, sizeof *counts);
    if (counts == NULL) {
        return om_fail_nomem(err, (size_t) experts * sizeof *counts);
    }
    for (int e = 0; e < experts; e++) {
        counts[e] = t->counts[0];
    }
    om_free(t->counts);
    t->counts = counts;
    t->n_in = n_in;
    t->experts = experts;
    return OM_OK;
}

/* ---- writing ---- */

static void put_int(om_buf *b, uint64_t v, size_t n_bytes) {
    char le[8];
    for (size_t i = 0; i < n_bytes; i++) {
        le[i] = (char) (unsigned char) (v >> (8 * i));
    }
    om_buf_add(b, le, n_bytes);
}

static void put_str(om_buf *b, const char *s) {
    put_int(b, strlen(s), 8);
    om_buf_puts(b, s);
}

static void put_key(om_buf *b, const char *key, int type, uint64_t *n_kv) {
    put_str(b, key);
    put_int(b, (uint64_t) type, 4);
    (*n_kv)++;
}

static void put_key_str(om_buf *b, const char *key, const char *value, uint64_t *n_kv) {
    put_key(b, key, GGUF_STR, n_kv);
    put_str(b, value);
}

static void put_key_int(om_buf *b, const char *key, int type, uint64_t value, uint64_t *n_kv) {
    put_key(b, key, type, n_kv);
    put_int(b, value, type == GGUF_U32 ? 4 : 8);
}

static void put_metadata(om_buf *b, const om_stats *s, bool imatrix_only, uint64_t *n_kv) {
    char dataset[80];
    snprintf(dataset, sizeof dataset, "sha256:%s", s->calib_sha256);
    put_key_str(b, "general.type", "imatrix", n_kv);
    put_key(b, "imatrix.datasets", GGUF_ARR, n_kv);
    put_int(b, GGUF_STR, 4);
    put_int(b, 1, 8);
    put_str(b, dataset);
    put_key_int(b, "imatrix.chunk_count", GGUF_U32, (uint64_t) s->n_windows, n_kv);
    put_key_int(b, "imatrix.chunk_size", GGUF_U32, (uint64_t) s->window_tokens, n_kv);
    put_key_int(b, "optimum.stats.version", GGUF_U32, 1, n_kv);
    put_key_int(b, "optimum.stats.pass", GGUF_U32, (uint64_t) s->pass, n_kv);
    put_key_str(b, "optimum.stats.model_sha256", s->model_sha256, n_kv);
    put_key_str(b, "optimum.stats.calib_sha256", s->calib_sha256, n_kv);
    put_key_int(b, "optimum.stats.tokens", GGUF_U64, (uint64_t) s->tokens, n_kv);
    put_key_int(b, "optimum.stats.seed", GGUF_U64, s->seed, n_kv);
    for (int i = 0; i < s->n_tensors && !imatrix_only; i++) {
        if (s->tensors[i].rows != NULL) {
            char key[128];
            uint64_t bits;
            snprintf(key, sizeof key, "optimum.stats.total.%s", s->tensors[i].name);
            memcpy(&bits, &s->tensors[i].total, sizeof bits);
            put_key_int(b, key, GGUF_F64, bits, n_kv);
        }
        if (s->tensors[i].nats != NULL) {
            char key[128];
            snprintf(key, sizeof key, "optimum.stats.types.%s", s->tensors[i].name);
            put_key_str(b, key, s->tensors[i].nats_types, n_kv);
        }
    }
}

/* One F32 matrix of the file: what the tensor table and the data section both walk over. */
typedef struct part {
    const char *suffix;
    const float *data; /* [ne1, ne0] f32, borrowed */
    int64_t ne0, ne1;
} part;

enum { MAX_PARTS = 6 };

static int parts_of(part out[MAX_PARTS], const om_tensor_stats *t, bool imatrix_only) {
    int n = 0;
    if (t->in_sum2 != NULL) {
        out[n++] = (part){ ".in_sum2", t->in_sum2, t->n_in, t->experts };
        out[n++] = (part){ ".counts", t->counts, 1, t->experts };
    }
    if (t->rows != NULL && !imatrix_only) {
        out[n++] = (part){ ".fisher_rows", t->rows, t->n_out, t->experts };
        out[n++] = (part){ ".fisher_cols", t->cols, t->n_in, t->experts };
    }
    if (t->nats != NULL && !imatrix_only) {
        out[n++] = (part){ ".expert_nats", t->nats, t->n_nats, t->experts };
    }
    if (t->routing != NULL && !imatrix_only) {
        out[n++] = (part){ ".expert_routing", t->routing, t->n_nats, t->experts };
    }
    return n;
}

/* Refuse to write what om_stats_read would refuse to read. */
static om_status check_part(const om_tensor_stats *t, const part *p, om_error *err) {
    if (strlen(t->name) + strlen(p->suffix) > NAME_MAX_BYTES) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s%s: a GGUF tensor name has at most %d characters",
                       t->name, p->suffix, NAME_MAX_BYTES);
    }
    for (int64_t k = 0; k < p->ne0 * p->ne1; k++) {
        if (!isfinite(p->data[k]) || p->data[k] < 0.0F) {
            return om_fail(err, OM_E_NUMERIC,
                           "%s%s: value %" PRId64 " is %g, expected a finite number >= 0", t->name,
                           p->suffix, k, (double) p->data[k]);
        }
    }
    return OM_OK;
}

static uint64_t padded(uint64_t n) {
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static om_status put_tensor_table(om_buf *b, const om_stats *s, bool imatrix_only,
                                  uint64_t *n_parts, om_error *err) {
    om_status status = OM_OK;
    uint64_t offset = 0;
    for (int i = 0; i < s->n_tensors; i++) {
        part parts[MAX_PARTS];
        const int n = parts_of(parts, &s->tensors[i], imatrix_only);
        for (int k = 0; k < n; k++) {
            OM_TRY(check_part(&s->tensors[i], &parts[k], err));
            put_int(b, strlen(s->tensors[i].name) + strlen(parts[k].suffix), 8);
            om_buf_puts(b, s->tensors[i].name);
            om_buf_puts(b, parts[k].suffix);
            put_int(b, 2, 4);
            put_int(b, (uint64_t) parts[k].ne0, 8);
            put_int(b, (uint64_t) parts[k].ne1, 8);
            put_int(b, 0, 4); /* GGML_TYPE_F32 */
            put_int(b, offset, 8);
            offset += padded((uint64_t) (parts[k].ne0 * parts[k].ne1) * sizeof(float));
            (*n_parts)++;
        }
    }
out:
    return status;
}

static om_status write_padded(om_atomic *file, const void *data, size_t n, om_error *err) {
    static const char zeros[ALIGNMENT] = { 0 };
    om_status status = OM_OK;
    OM_TRY(om_atomic_write(file, data, n, err));
    if (padded(n) > n) {
        OM_TRY(om_atomic_write(file, zeros, (size_t) (padded(n) - n), err));
    }
out:
    return status;
}

om_status om_stats_write(const om_stats *s, const char *path, bool imatrix_only, om_error *err) {
    om_status status = OM_OK;
    om_buf metadata = { 0 }, table = { 0 }, header = { 0 };
    om_atomic file = { 0 };
    uint64_t n_kv = 0, n_parts = 0;

    put_metadata(&metadata, s, imatrix_only, &n_kv);
    OM_TRY(put_tensor_table(&table, s, imatrix_only, &n_parts, err));
    om_buf_puts(&header, "GGUF");
    put_int(&header, 3, 4);
    put_int(&header, n_parts, 8);
    put_int(&header, n_kv, 8);
    om_buf_add(&header, metadata.data, metadata.len);
    if (table.len > 0) {
        om_buf_add(&header, table.data, table.len);
    }
    if (metadata.failed || table.failed || header.failed) {
        OM_TRY(om_fail_nomem(err, metadata.len + table.len));
    }
    OM_TRY(om_atomic_open(&file, path, err));
    OM_TRY(write_padded(&file, header.data, header.len, err));
    for (int i = 0; i < s->n_tensors; i++) {
        part parts[MAX_PARTS];
        const int n = parts_of(parts, &s->tensors[i], imatrix_only);
        for (int k = 0; k < n; k++) {
            OM_TRY(write_padded(&file, parts[k].data,
                                (size_t) (parts[k].ne0 * parts[k].ne1) * sizeof(float), err));
        }
    }
    OM_TRY(om_atomic_commit(&file, err));
out:
    om_atomic_abort(&file);
    om_buf_release(&metadata);
    om_buf_release(&table);
    om_buf_release(&header);
    return status;
}
