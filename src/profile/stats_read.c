/* Reads statistics: our own GGUF, llama-imatrix's GGUF, or the legacy imatrix .dat.
 *
 * A stack of experts has megabytes of statistics and a large model gigabytes, so what a GGUF holds
 * is checked and left in the mapping, whose pages are given back behind the check.
 *
 * All three are untrusted. GGUF's container is checked by om_model_open (bounds, overlaps,
 * duplicate names); here the parts are paired by name, their shapes compared, and every value
 * checked to be finite and not negative. The legacy format has no shapes at all: an entry is a flat
 * list, kept as one matrix with n_in values until om_stats_shape learns the tensor's shape from the
 * model.
 *
 * Legacy layout: int32 n_entries; each int32 length, name, int32 ncall, int32 nval, float[nval] =
 * mean * ncall; optionally int32 chunks, int32 length, dataset name. */
#include "profile/stats.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/gguf_file.h"

/* In pairs, but for the last two, of which the second needs the first. */
enum { IN_SUM2, COUNTS, ROWS, COLS, NATS, ROUTING, N_PARTS };
static const char *const suffixes[N_PARTS] = { ".in_sum2",     ".counts",      ".fisher_rows",
                                               ".fisher_cols", ".expert_nats", ".expert_routing" };

/* Above this a float count no longer fits the integer that llama-quantize rounds it to. */
static const float count_max = 1e15F;

/* Entries by name while reading: open addressing, so that a file with a million names stays linear.
 */
typedef struct index_of {
    om_stats *stats;
    int32_t *slots; /* [n_slots] entry + 1, 0 = empty */
    size_t n_slots; /* power of two, more than twice the entries that can come */
} index_of;

static om_status index_init(index_of *ix, om_stats *s, size_t max_entries, om_error *err) {
    ix->stats = s;
    ix->n_slots = 16;
    while (ix->n_slots < 2 * max_entries + 2) {
        ix->n_slots *= 2;
    }
    ix->slots = om_calloc(ix->n_slots, sizeof *ix->slots);
    s->tensors = om_calloc(max_entries, sizeof *s->tensors);
    if (ix->slots == NULL || s->tensors == NULL) {
        return om_fail_nomem(err, ix->n_slots * sizeof *ix->slots);
    }
    return OM_OK;
}

/* The entry called `name` (at most 63 bytes, NUL-terminated), made when new. */
static int index_get(index_of *ix, const char *name, bool *is_new) {
    size_t slot = (size_t) om_hash_name(name) & (ix->n_slots - 1);
    for (; ix->slots[slot] != 0; slot = (slot + 1) & (ix->n_slots - 1)) {
        if (strcmp(ix->stats->tensors[ix->slots[slot] - 1].name, name) == 0) {
            *is_new = false;
            return ix->slots[slot] - 1;
        }
    }
    const int i = ix->stats->n_tensors++;
    memcpy(ix->stats->tensors[i].name, name, strlen(name) + 1);
    ix->slots[slot] = i + 1;
    *is_new = true;
    return i;
}

static om_status check_values(const float *v, int64_t n, float max, const char *name,
                              const char *suffix, om_error *err) {
    for (int64_t k = 0; k < n; k++) {
        if (!isfinite(v[k]) || v[k] < 0.0F || v[k] > max) {
            return om_fail(err, OM_E_NUMERIC,
                           "%s%s: value %" PRId64 " is %g, expected a finite number >= 0%s", name,
                           suffix, k, (double) v[k], v[k] > max ? " and a plausible count" : "");
        }
    }
    return OM_OK;
}

/* ---- GGUF ---- */

typedef struct source {
    const char *path;
    om_map map;
    om_gguf_file file;
    bool keep; /* it is a mapping, and outlives the reading */
} source;

/* The tensors of one entry; NULL: not in the file. */
typedef struct parts_of_entry {
    const om_gguf_info *at[N_PARTS];
} parts_of_entry;

static int64_t n_values(const om_gguf_info *t) {
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

/* Bits of om_tensor_stats.mapped; counts are few, and always copied. */
static const unsigned mapped_bits[N_PARTS] = {
    [IN_SUM2] = 1, [ROWS] = 2, [COLS] = 4, [NATS] = 8, [ROUTING] = 16
};

static om_status take_part(float **out, om_tensor_stats *t, const source *src,
                           const om_gguf_info *part, int kind, om_error *err) {
    const int64_t n = n_values(part);
    const size_t at = src->file.data_start + part->offset, bytes = (size_t) n * sizeof(float);
    /* A hostile alignment may leave the data unaligned. */
    if (src->keep && mapped_bits[kind] != 0 && at % sizeof(float) == 0) {
        *out = (float *) (uintptr_t) (src->map.data + at);
        t->mapped |= mapped_bits[kind];
    } else {
        *out = om_calloc((size_t) n, sizeof **out);
        if (*out == NULL) {
            return om_fail_nomem(err, bytes);
        }
        memcpy(*out, src->map.data + at, bytes);
    }
    return check_values(*out, n, kind == COUNTS ? count_max : INFINITY, t->name, suffixes[kind],
                        err);
}

/* The pages of an entry that has been read. */
static void forget(const source *src, const parts_of_entry *parts) {
    for (int k = 0; k < N_PARTS && src->keep; k++) {
        const om_gguf_info *part = parts->at[k];
        if (part != NULL) {
            om_map_forget(&src->map, src->file.data_start + part->offset,
                          (size_t) n_values(part) * sizeof(float));
        }
    }
}

static om_status shape_error(const om_tensor_stats *t, const source *src, om_error *err) {
    return om_fail(err, OM_E_FORMAT,
                   "%s: the statistics of %s have shapes that do not fit together; the file is "
                   "damaged",
                   src->path, t->name);
}

static om_status check_pairs(const om_tensor_stats *t, const parts_of_entry *parts,
                             const source *src, om_error *err) {
    for (int k = 0; k < NATS; k += 2) {
        const bool first = parts->at[k] != NULL, second = parts->at[k + 1] != NULL;
        if (first != second) {
            return om_fail(err, OM_E_FORMAT, "%s: %s%s is there but %s%s is missing", src->path,
                           t->name, suffixes[first ? k : k + 1], t->name,
                           suffixes[first ? k + 1 : k]);
        }
    }
    for (int k = 0; k < N_PARTS; k++) {
        if (parts->at[k] != NULL && parts->at[k]->format != om_format_by_name("f32")) {
            return om_fail(err, OM_E_FORMAT, "%s: %s%s has type %s, expected f32", src->path,
                           t->name, suffixes[k], parts->at[k]->format->name);
        }
    }
    return OM_OK;
}

/* The entry's shape. llama-quantize takes in_sum2 as a flat list cut into as many matrices as there
 * are counts, whatever the dimensions say; so do we. */
static om_status set_shape(om_tensor_stats *t, const parts_of_entry *parts, const source *src,
                           om_error *err) {
    if (parts->at[IN_SUM2] != NULL) {
        const int64_t n = n_values(parts->at[IN_SUM2]);
        const int64_t experts = n_values(parts->at[COUNTS]);
        if (experts > INT_MAX || n % experts != 0) {
            return shape_error(t, src, err);
        }
        t->experts = (int) experts;
        t->n_in = n / experts;
    }
    if (parts->at[ROWS] != NULL) {
        const om_gguf_info *rows = parts->at[ROWS], *cols = parts->at[COLS];
        const int64_t experts = n_values(rows) / rows->ne[0];
        if (experts > INT_MAX || n_values(cols) / cols->ne[0] != experts ||
            (t->experts != 0 && (t->experts != experts || t->n_in != cols->ne[0]))) {
            return shape_error(t, src, err);
        }
        t->experts = (int) experts;
        t->n_in = cols->ne[0];
        t->n_out = rows->ne[0];
    }
    if (parts->at[NATS] != NULL) {
        const om_gguf_info *nats = parts->at[NATS];
        if (nats->ne[0] > 64 || nats->ne[0] * t->experts != n_values(nats)) {
            return shape_error(t, src, err);
        }
        t->n_nats = (int) nats->ne[0];
    }
    if (parts->at[ROUTING] != NULL) {
        const om_gguf_info *nats = parts->at[NATS], *routing = parts->at[ROUTING];
        if (nats == NULL || routing->ne[0] != nats->ne[0] || n_values(routing) != n_values(nats)) {
            return shape_error(t, src, err);
        }
    }
    return OM_OK;
}

/* The names that belong to the columns of the costs per expert. */
static om_status read_nats_types(om_tensor_stats *t, const source *src, om_error *err) {
    char key[128];
    snprintf(key, sizeof key, "optimum.stats.types.%s", t->name);
    const om_gguf_kv *kv = om_gguf_file_find(&src->file, key);
    const char *types = kv != NULL && kv->str != NULL ? kv->str : "";
    int n = types[0] != '\0';
    for (const char *p = types; *p != '\0'; p++) {
        n += *p == ',';
    }
    if (n != t->n_nats || strlen(types) >= sizeof t->nats_types) {
        return om_fail(err, OM_E_FORMAT, "%s: %s names %d types, %s.expert_nats has %d columns",
                       src->path, key, n, t->name, t->n_nats);
    }
    memcpy(t->nats_types, types, strlen(types) + 1);
    return OM_OK;
}

static om_status read_total(om_tensor_stats *t, const source *src, om_error *err) {
    char key[128];
    snprintf(key, sizeof key, "optimum.stats.total.%s", t->name);
    double sum = 0;
    for (int64_t k = 0; k < t->n_out * t->experts; k++) {
        sum += (double) t->rows[k];
    }
    const om_gguf_kv *kv = om_gguf_file_find(&src->file, key);
    if (kv == NULL || !om_gguf_kv_f64(&t->total, kv, 0)) {
        t->total = sum;
    }
    /* The rows were rounded to F32 after the total was taken: not equal, but close. */
    if (!isfinite(t->total) || fabs(t->total - sum) > 1e-3 * sum + 1e-30) {
        return om_fail(err, OM_E_FORMAT, "%s: the total of %s is %g, its rows add up to %g",
                       src->path, t->name, t->total, sum);
    }
    return OM_OK;
}

static om_status read_entry(om_tensor_stats *t, const parts_of_entry *parts, const source *src,
                            om_error *err) {
    float **const to[N_PARTS] = {
        &t->in_sum2, &t->counts, &t->rows, &t->cols, &t->nats, &t->routing
    };
    om_status status = OM_OK;
    OM_TRY(check_pairs(t, parts, src, err));
    OM_TRY(set_shape(t, parts, src, err));
    for (int k = 0; k < N_PARTS; k++) {
        if (parts->at[k] != NULL) {
            OM_TRY(take_part(to[k], t, src, parts->at[k], k, err));
        }
    }
    if (t->rows != NULL) {
        OM_TRY(read_total(t, src, err));
    }
    if (t->nats != NULL) {
        OM_TRY(read_nats_types(t, src, err));
    }
    forget(src, parts);
out:
    return status;
}

static void copy_digest(char out[65], const om_gguf_file *file, const char *key) {
    const om_gguf_kv *kv = om_gguf_file_find(file, key);
    if (kv != NULL && kv->str != NULL && om_is_sha256(kv->str, strlen(kv->str))) {
        memcpy(out, kv->str, 65);
    }
}

/* 0 when absent or out of range. */
static uint64_t number(const om_gguf_file *file, const char *key, uint64_t max) {
    uint64_t v = 0;
    const om_gguf_kv *kv = om_gguf_file_find(file, key);
    return kv != NULL && !kv->is_array && om_gguf_kv_u64(&v, kv, 0) && v <= max ? v : 0;
}

static void read_metadata(om_stats *s, const om_gguf_file *file) {
    copy_digest(s->model_sha256, file, "optimum.stats.model_sha256");
    copy_digest(s->calib_sha256, file, "optimum.stats.calib_sha256");
    s->n_windows = (int) number(file, "imatrix.chunk_count", INT_MAX);
    s->window_tokens = (int) number(file, "imatrix.chunk_size", INT_MAX);
    s->pass = (int) number(file, "optimum.stats.pass", INT_MAX);
    s->tokens = (int64_t) number(file, "optimum.stats.tokens", INT64_MAX);
    s->seed = number(file, "optimum.stats.seed", UINT64_MAX);
}

/* Which statistic a tensor of the file is: name gets the part before the suffix. -1: none of ours.
 */
static int split_name(char name[64], const char *full) {
    const size_t n = strlen(full);
    for (int k = 0; k < N_PARTS; k++) {
        const size_t m = strlen(suffixes[k]);
        if (n > m && n - m < 64 && strcmp(full + n - m, suffixes[k]) == 0) {
            memcpy(name, full, n - m);
            name[n - m] = '\0';
            return k;
        }
    }
    return -1;
}

static om_status read_gguf(om_stats *s, const om_map *map, bool keep, const char *path,
                           om_error *err) {
    om_status status = OM_OK;
    source src = { .path = path, .map = *map, .keep = keep };
    index_of ix = { 0 };
    parts_of_entry *parts = NULL;

    OM_TRY(om_gguf_file_parse(&src.file, map->data, map->size, path, err));
    const size_t n = src.file.n_infos;
    OM_TRY(index_init(&ix, s, n, err));
    parts = om_calloc(n, sizeof *parts);
    if (parts == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *parts));
    }
    for (size_t i = 0; i < n; i++) {
        const om_gguf_info *t = &src.file.infos[i];
        char name[64];
        bool is_new;
        const int kind = split_name(name, t->name);
        if (kind >= 0) {
            parts[index_get(&ix, name, &is_new)].at[kind] = t;
        }
    }
    read_metadata(s, &src.file);
    for (int i = 0; i < s->n_tensors; i++) {
        OM_TRY(read_entry(&s->tensors[i], &parts[i], &src, err));
    }
out:
    om_free(parts);
    om_free(ix.slots);
    om_gguf_file_release(&src.file);
    return status;
}

/* ---- legacy .dat ---- */

typedef struct cursor {
    const unsigned char *p, *end;
} cursor;

static bool take(void *out, cursor *c, size_t n) {
    if ((size_t) (c->end - c->p) < n) {
        return false;
    }
    memcpy(out, c->p, n);
    c->p += n;
    return true;
}

static om_status read_legacy_entry(index_of *ix, cursor *c, const char *path, int32_t i,
                                   om_error *err) {
    int32_t len = 0, ncall = 0, nval = 0;
    char name[64] = { 0 };
    bool is_new = false;
    if (!take(&len, c, 4) || len < 1 || len > 63 || !take(name, c, (size_t) len) ||
        strlen(name) != (size_t) len || !take(&ncall, c, 4) || !take(&nval, c, 4) || nval < 1 ||
        (size_t) (c->end - c->p) / sizeof(float) < (size_t) nval) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: neither a GGUF nor a legacy imatrix (entry %d is damaged or cut short)",
                       path, (int) i + 1);
    }
    om_tensor_stats *t = &ix->stats->tensors[index_get(ix, name, &is_new)];
    if (!is_new) {
        return om_fail(err, OM_E_FORMAT, "%s: two entries are called %s", path, name);
    }
    t->n_in = nval;
    t->experts = 1;
    t->in_sum2 = om_calloc((size_t) nval, sizeof(float));
    t->counts = om_calloc(1, sizeof(float));
    if (t->in_sum2 == NULL || t->counts == NULL) {
        return om_fail_nomem(err, (size_t) nval * sizeof(float));
    }
    /* With ncall <= 0 llama-quantize takes the values as they are: a count of one does that. */
    t->counts[0] = ncall > 0 ? (float) ncall : 1.0F;
    (void) take(t->in_sum2, c, (size_t) nval * sizeof(float));
    return check_values(t->in_sum2, nval, INFINITY, name, "", err);
}

static om_status read_legacy(om_stats *s, const om_map *map, const char *path, om_error *err) {
    om_status status = OM_OK;
    index_of ix = { 0 };
    cursor c = { map->data, map->data + map->size };
    int32_t n = 0, chunks = 0;
    /* The smallest entry: three integers, a name of one byte, one value. */
    if (!take(&n, &c, 4) || n < 1 || (size_t) n > map->size / 17) {
        OM_TRY(om_fail(err, OM_E_FORMAT, "%s: neither a GGUF nor a legacy imatrix", path));
    }
    OM_TRY(index_init(&ix, s, (size_t) n, err));
    for (int32_t i = 0; i < n; i++) {
        OM_TRY(read_legacy_entry(&ix, &c, path, i, err));
    }
    if (take(&chunks, &c, 4) && chunks > 0) {
        s->n_windows = chunks;
    }
out:
    om_free(ix.slots);
    return status;
}

static om_status parse(om_stats **out, const om_map *map, bool keep, const char *path,
                       om_error *err) {
    om_status status = OM_OK;
    om_stats *s = om_calloc(1, sizeof *s);
    if (s == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *s));
    }
    if (map->size >= 4 && memcmp(map->data, "GGUF", 4) == 0) {
        OM_TRY(read_gguf(s, map, keep, path, err));
    } else {
        OM_TRY(read_legacy(s, map, path, err));
    }
    if (s->n_tensors == 0) {
        OM_TRY(om_fail(err, OM_E_FORMAT,
                       "%s: holds no importance statistics (no tensor ends in .in_sum2); expected "
                       "a file of optimum profile or llama-imatrix",
                       path));
    }
    *out = s;
    s = NULL;
out:
    om_stats_free(s);
    return status;
}

om_status om_stats_parse(om_stats **out, const om_map *map, const char *path, om_error *err) {
    om_status status = parse(out, map, false, path, err);
    if (status == OM_OK) {
        om_sha256_bytes((*out)->sha256, map->data, map->size);
    }
    return status;
}

om_status om_stats_read(om_stats **out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_map map = { 0 };
    om_stats *s = NULL;
    OM_TRY(om_map_open(&map, path, err));
    OM_TRY(parse(&s, &map, true, path, err));
    s->map = map;
    map = (om_map){ 0 };
    OM_TRY(om_sha256_file(s->sha256, path, NULL, err));
    *out = s;
    s = NULL;
out:
    om_stats_free(s);
    om_map_close(&map);
    return status;
}
