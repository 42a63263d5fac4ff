/* A path into an open model: every part mapped, headers parsed (gguf_file.c), one tensor list.
 *
 * A split model is opened through its first part, which holds all metadata; the other parts are
 * found by their names ("…-00002-of-00003.gguf") and must agree on split.no and split.count.
 * Weights are never read here: pages of the mapping come in when somebody touches tensor->data.
 */
#include "model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <ggml-cpu.h>
#include <ggml.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/gguf_file.h"
#include "model/llama_log.h"
#include "model/roles.h"

typedef struct part {
    char *path;
    om_map map;
    bool borrowed; /* map is somebody else's memory */
    om_gguf_file file;
} part;

struct om_model {
    part *parts; /* [n_parts] */
    int n_parts;
    const char *arch;    /* in parts[0] */
    om_tensor *tensors;  /* [n_tensors] file order */
    om_tensor **by_name; /* [n_tensors] sorted */
    int n_tensors;
    int64_t params, file_bytes;
};

/* ---- lookups ---- */

/* The pair for a key in which "%s" stands for the architecture. */
static const om_gguf_kv *find(const om_model *model, const char *key) {
    const char *hole = strstr(key, "%s");
    if (hole == NULL) {
        return om_gguf_file_find(&model->parts[0].file, key);
    }
    char full[192];
    int n = snprintf(full, sizeof full, "%.*s%s%s", (int) (hole - key), key, model->arch, hole + 2);
    if (n < 0 || (size_t) n >= sizeof full) {
        return NULL;
    }
    return om_gguf_file_find(&model->parts[0].file, full);
}

uint64_t om_model_u64(const om_model *model, const char *key, uint64_t fallback) {
    const om_gguf_kv *kv = find(model, key);
    uint64_t v;
    return kv != NULL && !kv->is_array && om_gguf_kv_u64(&v, kv, 0) ? v : fallback;
}

double om_model_f64(const om_model *model, const char *key, double fallback) {
    const om_gguf_kv *kv = find(model, key);
    double v;
    return kv != NULL && !kv->is_array && om_gguf_kv_f64(&v, kv, 0) ? v : fallback;
}

const char *om_model_str(const om_model *model, const char *key, const char *fallback) {
    const om_gguf_kv *kv = find(model, key);
    return kv != NULL && kv->str != NULL ? kv->str : fallback;
}

int64_t om_model_array_n(const om_model *model, const char *key) {
    const om_gguf_kv *kv = find(model, key);
    return kv != NULL && kv->is_array ? (int64_t) kv->n : -1;
}

uint64_t om_model_u64_at(const om_model *model, const char *key, int layer, uint64_t fallback) {
    const om_gguf_kv *kv = find(model, key);
    uint64_t v;
    if (kv == NULL || layer < 0) {
        return fallback;
    }
    return om_gguf_kv_u64(&v, kv, kv->is_array ? (uint64_t) layer : 0) ? v : fallback;
}

const char *om_model_path(const om_model *model) {
    return model->parts[0].path;
}
const char *om_model_arch(const om_model *model) {
    return model->arch;
}
int om_model_n_tensors(const om_model *model) {
    return model->n_tensors;
}
const om_tensor *om_model_tensor(const om_model *model, int i) {
    return &model->tensors[i];
}
int64_t om_model_params(const om_model *model) {
    return model->params;
}
int64_t om_model_file_bytes(const om_model *model) {
    return model->file_bytes;
}
int om_model_n_splits(const om_model *model) {
    return model->n_parts;
}
const char *om_model_split_path(const om_model *model, int i) {
    return model->parts[i].path;
}
const om_map *om_model_split_map(const om_model *model, int i) {
    return &model->parts[i].map;
}
int64_t om_gguf_alignment(const om_model *model) {
    return (int64_t) model->parts[0].file.alignment;
}
const om_gguf_file *om_model_header(const om_model *model) {
    return &model->parts[0].file;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(om_tensor *const *) a)->name, (*(om_tensor *const *) b)->name);
}

const om_tensor *om_model_find(const om_model *model, const char *name) {
    om_tensor key = { .name = name }, *p = &key;
    om_tensor **hit = bsearch(&p, (void *) model->by_name, (size_t) model->n_tensors,
                              sizeof *model->by_name, by_name);
    return hit != NULL ? *hit : NULL;
}

/* ---- opening ---- */

static om_status open_part(part *p, const char *path, om_error *err) {
    p->path = om_strdup(path);
    if (p->path == NULL) {
        return om_fail_nomem(err, strlen(path));
    }
    om_status status = om_map_open(&p->map, path, err);
    if (status != OM_OK) {
        return status;
    }
    return om_gguf_file_parse(&p->file, p->map.data, p->map.size, path, err);
}

static bool file_u64(uint64_t *out, const om_gguf_file *file, const char *key) {
    const om_gguf_kv *kv = om_gguf_file_find(file, key);
    return kv != NULL && !kv->is_array && om_gguf_kv_u64(out, kv, 0);
}

/* "…-00001-of-00003.gguf" with another number; owned. NULL: path is not of that form, or memory is
 * short (told apart by err). */
static char *sibling_path(const char *path, uint64_t no, uint64_t count, om_error *err) {
    char tail[40];
    snprintf(tail, sizeof tail, "-00001-of-%05llu.gguf", (unsigned long long) count);
    size_t n = strlen(path), m = strlen(tail);
    if (n < m || strcmp(path + n - m, tail) != 0) {
        om_fail(err, OM_E_FORMAT,
                "%s: the first of %llu parts, so its name must end in \"%s\"; give it its original "
                "name",
                path, (unsigned long long) count, tail);
        return NULL;
    }
    om_buf b = { 0 };
    om_buf_add(&b, path, n - m);
    om_buf_printf(&b, "-%05llu-of-%05llu.gguf", (unsigned long long) no + 1,
                  (unsigned long long) count);
    char *text = om_buf_take(&b);
    if (text == NULL) {
        om_fail_nomem(err, n);
    }
    return text;
}

static om_status open_sibling(part *p, const char *first, uint64_t no, uint64_t count,
                              om_error *err) {
    char *path = sibling_path(first, no, count, err);
    om_status status = OM_OK;
    if (path == NULL) {
        return err->status;
    }
    if (!om_file_exists(path)) {
        status = om_fail(err, OM_E_FORMAT,
                         "part %llu of %llu is missing: %s; download it into the same folder",
                         (unsigned long long) no + 1, (unsigned long long) count, path);
        goto out;
    }
    OM_TRY(open_part(p, path, err));
    uint64_t its_no = 0, its_count = 0;
    if (!file_u64(&its_no, &p->file, "split.no") || its_no != no ||
        !file_u64(&its_count, &p->file, "split.count") || its_count != count) {
        status = om_fail(err, OM_E_FORMAT,
                         "%s: expected part %llu of %llu (split.no, split.count), but the file "
                         "says otherwise; the parts do not belong together",
                         path, (unsigned long long) no + 1, (unsigned long long) count);
    }
out:
    om_free(path);
    return status;
}

/* Open parts 2 … N when the first part says that there are any. */
static om_status open_siblings(om_model *m, om_error *err) {
    const part *first = &m->parts[0];
    uint64_t count = 1, no = 0;
    (void) file_u64(&count, &first->file, "split.count");
    (void) file_u64(&no, &first->file, "split.no");
    if (count <= 1) {
        return OM_OK;
    }
    if (no != 0) {
        return om_fail(err, OM_E_ARG,
                       "%s: part %llu of %llu of a split model; give the first part "
                       "(…-00001-of-%05llu.gguf)",
                       first->path, (unsigned long long) no + 1, (unsigned long long) count,
                       (unsigned long long) count);
    }
    if (count > 99999 || first->borrowed) {
        return om_fail(err, OM_E_FORMAT, "%s: %llu parts cannot be opened", first->path,
                       (unsigned long long) count);
    }
    /* One at a time: a hostile count stops at the first part that is not there. */
    for (uint64_t i = 1; i < count; i++) {
        part *parts = om_realloc(m->parts, i + 1, sizeof *parts);
        if (parts == NULL) {
            return om_fail_nomem(err, (i + 1) * sizeof *parts);
        }
        m->parts = parts;
        m->parts[i] = (part){ 0 };
        m->n_parts++;
        om_status status = open_sibling(&m->parts[i], m->parts[0].path, i, count, err);
        if (status != OM_OK) {
            return status;
        }
    }
    return OM_OK;
}

static bool can_dequantize(const om_format *f) {
    const struct ggml_type_traits *traits = ggml_get_type_traits((enum ggml_type) f->ggml_type);
    return f->ggml_type == GGML_TYPE_F32 || traits->to_float != NULL;
}

/* Matrices are there to be multiplied with; in a type that has no such function ggml calls NULL. */
static om_status check_matrix_type(const om_model *m, const om_tensor *t, int n_dims,
                                   om_error *err) {
    if (om_tensor_may_quantize(t->name, n_dims) && !om_tensor_arch_copies(m->arch, t->name) &&
        ggml_get_type_traits_cpu((enum ggml_type) t->format->ggml_type)->vec_dot == NULL) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: tensor %s is %s, a type that llama.cpp cannot multiply with; the file "
                       "is damaged",
                       m->parts[t->split].path, t->name, t->format->name);
    }
    return OM_OK;
}

static om_status fill_tensor(om_tensor *t, const om_gguf_info *info, const om_model *m, int i_part,
                             om_error *err) {
    const part *p = &m->parts[i_part];
    t->name = info->name;
    om_tensor_role(t->role, &t->layer, info->name);
    t->n_dims = info->n_dims;
    int n_dims = 1; /* as ggml counts them: the last dimension larger than 1 */
    for (int d = 0; d < 4; d++) {
        t->ne[d] = info->ne[d];
        n_dims = info->ne[d] > 1 ? d + 1 : n_dims;
    }
    t->format = info->format;
    t->bytes = info->bytes;
    t->data = p->map.data + p->file.data_start + info->offset;
    t->split = i_part;
    t->may_quantize = om_tensor_may_quantize(t->name, n_dims) &&
                      !om_tensor_arch_copies(m->arch, t->name) && can_dequantize(t->format);
    return check_matrix_type(m, t, n_dims, err);
}

static om_status check_split_tensors(const om_model *m, om_error *err) {
    uint64_t expected;
    if (m->n_parts > 1 && file_u64(&expected, &m->parts[0].file, "split.tensors.count") &&
        expected != (uint64_t) m->n_tensors) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected %llu tensors in all parts, found %d; the parts do not belong "
                       "together",
                       m->parts[0].path, (unsigned long long) expected, m->n_tensors);
    }
    for (int i = 1; i < m->n_tensors; i++) {
        if (strcmp(m->by_name[i - 1]->name, m->by_name[i]->name) == 0) {
            return om_fail(err, OM_E_FORMAT, "%s: tensor %s stands in two parts", m->parts[0].path,
                           m->by_name[i]->name);
        }
    }
    return OM_OK;
}

/* The tensors of all parts, in file order. */
static om_status list_tensors(om_model *m, om_error *err) {
    size_t n = 0;
    for (int i = 0; i < m->n_parts; i++) {
        n += m->parts[i].file.n_infos;
        m->file_bytes += (int64_t) m->parts[i].map.size;
    }
    if (n == 0 || n > INT32_MAX) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected a model, found %zu tensors (a file with the vocabulary only?)",
                       m->parts[0].path, n);
    }
    m->tensors = om_calloc(n, sizeof *m->tensors);
    m->by_name = om_calloc(n, sizeof *m->by_name);
    if (m->tensors == NULL || m->by_name == NULL) {
        return om_fail_nomem(err, n * sizeof *m->tensors);
    }
    for (int i = 0; i < m->n_parts; i++) {
        const om_gguf_file *file = &m->parts[i].file;
        for (size_t k = 0; k < file->n_infos; k++) {
            om_tensor *t = &m->tensors[m->n_tensors];
            const om_status status = fill_tensor(t, &file->infos[k], m, i, err);
            if (status != OM_OK) {
                return status;
            }
            m->by_name[m->n_tensors++] = t;
            /* No overflow: every tensor lies in its file on bytes of its own, and no type packs
             * more than 8 weights into a byte. */
            m->params += om_tensor_params(t);
        }
    }
    qsort((void *) m->by_name, n, sizeof *m->by_name, by_name);
    return check_split_tensors(m, err);
}

/* Printable and short: it becomes part of keys and of messages. */
static bool is_name(const char *s) {
    size_t n = 0;
    for (; s[n] != '\0'; n++) {
        if (s[n] <= ' ' || s[n] > '~') {
            return false;
        }
    }
    return n > 0 && n < 64;
}

static om_status finish_open(om_model **out, om_model *m, om_error *err) {
    om_status status = OM_OK;
    const char *path = m->parts[0].path;
    m->arch = om_model_str(m, "general.architecture", NULL);
    if (m->arch == NULL || !is_name(m->arch)) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected general.architecture to name the model's architecture; the "
                       "file is no model, or damaged",
                       path);
    }
    OM_TRY(open_siblings(m, err));
    OM_TRY(list_tensors(m, err));
    *out = m;
out:
    return status;
}

/* A model with one empty part; NULL when memory is short. */
static om_model *new_model(void) {
    om_model *m = om_calloc(1, sizeof *m);
    part *parts = om_calloc(1, sizeof *parts);
    if (m == NULL || parts == NULL) {
        om_free(m);
        om_free(parts);
        return NULL;
    }
    m->parts = parts;
    m->n_parts = 1;
    return m;
}

/* What people give by mistake, or to a command that takes only a GGUF. */
static om_status refuse_folder(const char *path, om_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return om_fail(err, OM_E_IO,
                       "%s: expected a GGUF, found a folder; profile, run and eval take the folder "
                       "of a Hugging Face or MLX model, which has a config.json",
                       path);
    }
    return OM_OK;
}

om_status om_model_open(om_model **out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_model *m = NULL;
    OM_TRY(refuse_folder(path, err));
    m = new_model();
    if (m == NULL) {
        return om_fail_nomem(err, sizeof *m);
    }
    om_llama_catch_abort(); /* whoever opens a model will hand its weights to ggml */
    OM_TRY(open_part(&m->parts[0], path, err));
    OM_TRY(finish_open(out, m, err));
    m = NULL;
out:
    om_model_free(m);
    return status;
}

om_status om_model_open_bytes(om_model **out, const void *data, size_t size, const char *name,
                              om_error *err) {
    om_status status = OM_OK;
    om_model *m = new_model();
    if (m == NULL) {
        return om_fail_nomem(err, sizeof *m);
    }
    part *p = &m->parts[0];
    p->borrowed = true;
    p->map = (om_map){ .data = data, .size = size };
    p->path = om_strdup(name);
    if (p->path == NULL) {
        status = om_fail_nomem(err, strlen(name));
        goto out;
    }
    OM_TRY(om_gguf_file_parse(&p->file, data, size, name, err));
    OM_TRY(finish_open(out, m, err));
    m = NULL;
out:
    om_model_free(m);
    return status;
}

void om_model_free(om_model *model) {
    if (model == NULL) {
        return;
    }
    for (int i = 0; i < model->n_parts; i++) {
        part *p = &model->parts[i];
        om_gguf_file_release(&p->file);
        if (!p->borrowed) {
            om_map_close(&p->map);
        }
        om_free(p->path);
    }
    om_free(model->parts);
    om_free(model->tensors);
    om_free((void *) model->by_name);
    om_free(model);
}

/* ---- contents ---- */

om_status om_model_sha256(char hex[65], const om_model *model, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_buf all = { 0 };
    if (model->n_parts == 1 && model->parts[0].borrowed) {
        om_sha256_bytes(hex, model->parts[0].map.data, model->parts[0].map.size);
        return OM_OK;
    }
    if (model->n_parts == 1) {
        return om_sha256_file(hex, model->parts[0].path, env, err);
    }
    for (int i = 0; i < model->n_parts; i++) {
        char digest[65];
        OM_TRY(om_sha256_file(digest, model->parts[i].path, env, err));
        om_buf_puts(&all, digest);
    }
    if (all.failed) {
        status = om_fail_nomem(err, all.len);
        goto out;
    }
    om_sha256_bytes(hex, all.data, all.len);
out:
    om_buf_release(&all);
    return status;
}

om_status om_tensor_rows_f32(float *out, const om_tensor *tensor, int64_t first, int64_t n,
                             om_error *err) {
    const om_format *f = tensor->format;
    if (!can_dequantize(f)) {
        return om_fail(err, OM_E_UNSUPPORTED, "tensor %s: ggml cannot turn %s into numbers",
                       tensor->name, f->name);
    }
    if (first < 0 || n < 0 || first > om_tensor_n_rows(tensor) - n) {
        return om_fail(err, OM_E_INTERNAL, "tensor %s: rows %lld to %lld are outside", tensor->name,
                       (long long) first, (long long) (first + n));
    }
    const unsigned char *src = tensor->data + om_format_size(f, tensor->ne[0], first);
    if (f->ggml_type == GGML_TYPE_F32) {
        memcpy(out, src, (size_t) om_format_size(f, tensor->ne[0], n));
    } else if (n > 0) {
        ggml_get_type_traits((enum ggml_type) f->ggml_type)->to_float(src, out, n * tensor->ne[0]);
    }
    return OM_OK;
}
