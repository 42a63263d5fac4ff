/* Safetensors files of a directory as one set of tensors: which files, which tensor, whose bytes.
 *
 * mlx-lm loads whatever matches "model*.safetensors" and lets later files win; a tensor that two
 * files hold is refused here, because nobody can know which one is meant.
 */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/atomic_dir.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/safetensors_file.h"

static const char prefix[] = "model", suffix[] = ".safetensors";
static const char index_name[] = "model.safetensors.index.json";

typedef struct shard {
    char *path;       /* owned */
    const char *name; /* its last part */
    om_map map;       /* zeroed when the bytes are the caller's */
    size_t size;
    om_st_file file; /* its tensors move to the set */
} shard;

struct om_safetensors {
    shard *shards; /* [n_shards] sorted by name */
    int n_shards;
    om_st_tensor *tensors; /* [n] sorted by name */
    int n;
};

/* ---- the set ---- */

static int by_name(const void *a, const void *b) {
    const om_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Move the tensors of all shards into one sorted array. */
static om_status merge(om_safetensors *st, om_error *err) {
    size_t n = 0;
    for (int i = 0; i < st->n_shards; i++) {
        n += st->shards[i].file.n;
    }
    if (n > INT32_MAX) {
        return om_fail(err, OM_E_FORMAT, "%s: more tensors than can be counted: damaged",
                       st->shards[0].path);
    }
    st->tensors = om_calloc(n, sizeof *st->tensors);
    if (st->tensors == NULL) {
        return om_fail_nomem(err, n * sizeof *st->tensors);
    }
    for (int i = 0; i < st->n_shards; i++) {
        om_st_file *f = &st->shards[i].file;
        for (size_t j = 0; j < f->n; j++) {
            st->tensors[st->n] = f->tensors[j];
            st->tensors[st->n++].shard = i;
        }
        om_free(f->tensors);
        f->tensors = NULL;
        f->n = 0;
    }
    qsort(st->tensors, n, sizeof *st->tensors, by_name);
    for (int i = 1; i < st->n; i++) {
        const om_st_tensor *a = &st->tensors[i - 1], *b = &st->tensors[i];
        if (strcmp(a->name, b->name) == 0) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: tensor \"%.100s\" stands in %s too: remove the file that does not "
                           "belong to the model",
                           st->shards[a->shard].path, a->name, st->shards[b->shard].name);
        }
    }
    return OM_OK;
}

void om_safetensors_free(om_safetensors *st) {
    for (int i = 0; st != NULL && i < st->n_shards; i++) {
        om_st_file_release(&st->shards[i].file);
        om_map_close(&st->shards[i].map);
        om_free(st->shards[i].path);
    }
    if (st != NULL) {
        om_free(st->shards);
        om_free(st->tensors);
    }
    om_free(st);
}

static om_status new_set(om_safetensors **out, size_t n_shards, om_error *err) {
    om_safetensors *st = om_calloc(1, sizeof *st);
    if (st != NULL) {
        st->shards = om_calloc(n_shards, sizeof *st->shards);
    }
    if (st == NULL || st->shards == NULL) {
        om_free(st);
        return om_fail_nomem(err, n_shards * sizeof(shard));
    }
    *out = st;
    return OM_OK;
}

om_status om_safetensors_parse(om_safetensors **out, const void *data, size_t size,
                               const char *name, om_error *err) {
    om_status status = OM_OK;
    om_safetensors *st = NULL;
    OM_TRY(new_set(&st, 1, err));
    shard *s = &st->shards[st->n_shards++];
    s->size = size;
    s->path = om_strdup(name);
    if (s->path == NULL) {
        status = om_fail_nomem(err, strlen(name));
        goto out;
    }
    s->name = s->path;
    OM_TRY(om_st_file_parse(&s->file, data, size, s->path, err));
    OM_TRY(merge(st, err));
    *out = st;
    st = NULL;
out:
    om_safetensors_free(st);
    return status;
}

/* ---- directories ---- */

static bool is_shard(const char *name) {
    const size_t n = strlen(name), head = sizeof prefix - 1, tail = sizeof suffix - 1;
    return n >= head + tail && memcmp(name, prefix, head) == 0 &&
           strcmp(name + n - tail, suffix) == 0;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* The names of the weight files, sorted; om_dir_list_free. */
static om_status list_shards(char ***out, int *n, const char *dir, om_error *err) {
    char **names = NULL;
    int n_names = 0, kept = 0;
    const om_status status = om_dir_list(&names, &n_names, dir, err);
    if (status != OM_OK) {
        return status;
    }
    for (int i = 0; i < n_names; i++) {
        if (is_shard(names[i])) {
            names[kept++] = names[i];
        } else {
            om_free(names[i]);
        }
    }
    *out = names;
    *n = kept;
    return OM_OK;
}

/* Every file of the index must be among the names. */
static om_status check_index(char *const *names, int n, const char *dir, om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_node map, entry;
    const char *file = NULL;
    char *path = om_path_join(dir, index_name);
    if (path == NULL) {
        return om_fail_nomem(err, strlen(dir));
    }
    if (!om_file_exists(path)) {
        goto out;
    }
    OM_TRY(om_json_load(&doc, path, NULL, err));
    const om_node root = om_node_root(doc, path);
    OM_TRY(om_node_object(&map, &root, "weight_map", err));
    for (void *it = NULL; om_node_next(&entry, &map, &it);) {
        OM_TRY(om_node_value_str(&file, &entry, err));
        if (n == 0 || bsearch(&file, names, (size_t) n, sizeof *names, by_text) == NULL) {
            status = om_fail(err, OM_E_FORMAT,
                             is_shard(file) ? "%s: names %.100s, which is not there: download it"
                                            : "%s: names %.100s, expected model*.safetensors",
                             path, file);
            goto out;
        }
    }
out:
    om_json_free(doc);
    om_free(path);
    return status;
}

static om_status open_shard(om_safetensors *st, const char *dir, const char *name, om_error *err) {
    om_status status = OM_OK;
    shard *s = &st->shards[st->n_shards++];
    s->path = om_path_join(dir, name);
    if (s->path == NULL) {
        return om_fail_nomem(err, strlen(dir) + strlen(name));
    }
    s->name = s->path + strlen(s->path) - strlen(name);
    OM_TRY(om_map_open(&s->map, s->path, err));
    s->size = s->map.size;
    OM_TRY(om_st_file_parse(&s->file, s->map.data, s->map.size, s->path, err));
out:
    return status;
}

om_status om_safetensors_open(om_safetensors **out, const char *dir, om_error *err) {
    om_status status = OM_OK;
    om_safetensors *st = NULL;
    char **names = NULL;
    int n = 0;
    OM_TRY(list_shards(&names, &n, dir, err));
    OM_TRY(check_index(names, n, dir, err));
    if (n == 0) {
        status =
            om_fail(err, OM_E_FORMAT, "%s: expected files model*.safetensors, found none", dir);
        goto out;
    }
    OM_TRY(new_set(&st, (size_t) n, err));
    for (int i = 0; i < n; i++) {
        OM_TRY(open_shard(st, dir, names[i], err));
    }
    OM_TRY(merge(st, err));
    *out = st;
    st = NULL;
out:
    om_safetensors_free(st);
    om_dir_list_free(names, n);
    return status;
}

/* ---- lookups ---- */

int om_safetensors_n(const om_safetensors *st) {
    return st->n;
}

const om_st_tensor *om_safetensors_at(const om_safetensors *st, int i) {
    return &st->tensors[i];
}

const om_st_tensor *om_safetensors_find(const om_safetensors *st, const char *name) {
    const om_st_tensor key = { .name = name };
    return bsearch(&key, st->tensors, (size_t) st->n, sizeof key, by_name);
}

int om_safetensors_n_shards(const om_safetensors *st) {
    return st->n_shards;
}

const char *om_safetensors_shard_path(const om_safetensors *st, int i) {
    return st->shards[i].path;
}

int64_t om_safetensors_shard_bytes(const om_safetensors *st, int i) {
    return (int64_t) st->shards[i].size;
}

int64_t om_safetensors_bytes(const om_safetensors *st) {
    int64_t bytes = 0;
    for (int i = 0; i < om_safetensors_n_shards(st); i++) {
        bytes += om_safetensors_shard_bytes(st, i);
    }
    return bytes;
}

const char *om_safetensors_metadata(const om_safetensors *st, const char *key) {
    const om_st_file *f = &st->shards[0].file;
    for (size_t i = 0; i < f->n_metadata; i++) {
        if (strcmp(f->metadata[i].key, key) == 0) {
            return f->metadata[i].value;
        }
    }
    return NULL;
}

void om_safetensors_forget(const om_safetensors *st, const om_st_tensor *t, int64_t offset,
                           int64_t bytes) {
    const om_map *map = &st->shards[t->shard].map;
    if (map->size == 0 || offset < 0 || bytes <= 0 || offset >= t->bytes) {
        return;
    }
    const int64_t n = bytes < t->bytes - offset ? bytes : t->bytes - offset;
    om_map_forget(map, (size_t) (t->data - map->data) + (size_t) offset, (size_t) n);
}
