/* A directory opened: config.json says which tensors a model of its family has, each is found among
 * those of the files and checked, and what is left over must be of no use. The list grows with what
 * is found, so that memory follows the files and not the numbers of config.json. */
#include "hf/directory.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "hf/directory_parse.h"
#include "hf/match.h"

struct om_hf {
    char *path;
    om_json *config;
    om_safetensors *st;
    const om_family *family;
    om_hf_tensor *tensors; /* [n] of cap */
    int n, cap;
    int64_t params;
};

bool om_hf_is_directory(const char *path) {
    char *config = om_path_join(path, "config.json");
    const bool there = config != NULL && om_file_exists(config);
    om_free(config);
    return there;
}

/* ---- the list ---- */

static om_status add_tensor(om_hf *hf, const om_hf_matcher *m, const om_family_tensor *row,
                            int layer, om_error *err) {
    om_status status = OM_OK;
    if (hf->n == hf->cap) {
        const int cap = hf->cap == 0 ? 64 : 2 * hf->cap;
        om_hf_tensor *grown = om_realloc(hf->tensors, (size_t) cap, sizeof *grown);
        if (grown == NULL) {
            return om_fail_nomem(err, (size_t) cap * sizeof *grown);
        }
        hf->tensors = grown;
        hf->cap = cap;
    }
    om_hf_tensor *t = &hf->tensors[hf->n];
    OM_TRY(om_hf_match(t, m, row, layer, err));
    hf->n++;
    hf->params += t->ne[0] * om_hf_tensor_n_rows(t);
out:
    return status;
}

static bool is_wanted(const om_hf_sizes *sizes, const om_family_tensor *row) {
    return ((row->flags & OM_IF_ATTENTION_BIAS) == 0 || sizes->attention_bias) &&
           ((row->flags & OM_IF_MLP_BIAS) == 0 || sizes->mlp_bias) &&
           ((row->flags & OM_IF_UNTIED) == 0 || !sizes->tied);
}

static om_status add_rows(om_hf *hf, const om_hf_matcher *m, const om_family_tensor *rows,
                          int layer, om_error *err) {
    om_status status = OM_OK;
    for (; rows->gguf != NULL; rows++) {
        if (is_wanted(m->sizes, rows)) {
            OM_TRY(add_tensor(hf, m, rows, layer, err));
        }
    }
out:
    return status;
}

static om_status add_all(om_hf *hf, const om_hf_matcher *m, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(add_rows(hf, m, om_family_outside(), -1, err));
    for (int layer = 0; layer < m->sizes->n_layers; layer++) {
        for (int i = 0; i < OM_FAMILY_PARTS && hf->family->parts[i] != NULL; i++) {
            OM_TRY(add_rows(hf, m, hf->family->parts[i], layer, err));
        }
    }
out:
    return status;
}

/* ---- names and ties ---- */

/* Names of a text model inside a larger one changed with transformers 4.52. */
static void choose_prefixes(om_hf_matcher *m) {
    m->body = m->family->nested ? "language_model.model." : "model.";
    m->head = om_family_prefix(m->family);
    if (m->family->nested &&
        om_hf_index_of(m->st, "model.language_model.embed_tokens.weight") >= 0) {
        m->body = "model.language_model.";
        m->head = "";
    }
}

/* Index of the output matrix; -1: none. */
static int find_head(const om_hf_matcher *m) {
    char name[64];
    (void) snprintf(name, sizeof name, "%slm_head.weight", m->head);
    return om_hf_index_of(m->st, name);
}

/* Do the embeddings serve as output? An lm_head.weight that is then there all the same is dropped,
 * as mlx-lm does. */
static void settle_tie(om_hf_sizes *sizes, const om_hf_matcher *m) {
    const int head = find_head(m);
    const bool of_mlx = om_node_has(m->config, "quantization");
    bool tied = sizes->says_tied ? sizes->tied : head < 0;
    switch (m->family->tied) {
    case OM_TIED_ALWAYS:
        tied = true;
        break;
    case OM_TIED_NEVER:
        tied = false;
        break;
    case OM_TIED_BY_PRESENCE:
        tied = of_mlx || !sizes->says_tied ? head < 0 : tied;
        break;
    case OM_TIED_BY_CONFIG:
        break;
    }
    sizes->tied = tied;
    if (tied && head >= 0) {
        m->used[head] = true;
    }
}

/* Weights that no tensor of the GGUF has would be lost silently. */
static om_status check_rest(const om_hf_matcher *m, om_error *err) {
    for (int i = 0; i < om_safetensors_n(m->st); i++) {
        const char *name = om_safetensors_at(m->st, i)->name;
        if (!m->used[i] && !om_hf_may_drop(name)) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: tensor %.160s is not part of a %s model with %d layers as "
                           "config.json describes it, and would be lost",
                           m->where, name, m->family->model_type, m->sizes->n_layers);
        }
    }
    return OM_OK;
}

/* ---- opening ---- */

static om_status find_family(om_hf *hf, const om_node *config, om_error *err) {
    om_status status = OM_OK;
    const char *type = NULL;
    OM_TRY(om_node_str(&type, config, "model_type", err));
    hf->family = om_family_by_model_type(type);
    if (hf->family == NULL) {
        status = om_fail(err, OM_E_UNSUPPORTED,
                         "%s: models of type \"%.60s\" are not in the table (%s): convert it with "
                         "llama.cpp and give the GGUF",
                         hf->path, type, om_family_list());
    }
out:
    return status;
}

static om_status fill(om_hf *hf, const om_node *config, om_error *err) {
    om_status status = OM_OK;
    om_hf_sizes sizes = { 0 };
    om_hf_matcher m = { .st = hf->st, .sizes = &sizes, .config = config, .where = hf->path };
    OM_TRY(find_family(hf, config, err));
    m.family = hf->family;
    OM_TRY(om_hf_sizes_read(&sizes, hf->family, config, err));
    OM_TRY(om_hf_quantization_check(m.fp8_block, config, err));
    OM_TRY(om_hf_banks_read(&m.banks, &m.n_banked, config, hf->family, &sizes, err));
    m.used = om_calloc((size_t) om_safetensors_n(hf->st), sizeof m.used[0]);
    if (m.used == NULL) {
        status = om_fail_nomem(err, (size_t) om_safetensors_n(hf->st));
        goto out;
    }
    choose_prefixes(&m);
    settle_tie(&sizes, &m);
    OM_TRY(add_all(hf, &m, err));
    OM_TRY(check_rest(&m, err));
out:
    om_hf_banks_free(m.banks, m.n_banked);
    om_free(m.used);
    return status;
}

om_status om_hf_assemble(om_hf **out, om_json *config, om_safetensors *st, const char *path,
                         om_error *err) {
    om_status status = OM_OK;
    char *file = NULL;
    om_hf *hf = om_calloc(1, sizeof *hf);
    if (hf == NULL) {
        om_json_free(config);
        om_safetensors_free(st);
        return om_fail_nomem(err, sizeof *hf);
    }
    hf->config = config;
    hf->st = st;
    hf->path = om_strndup(path, om_path_length(path));
    file = om_path_join(path, "config.json");
    if (hf->path == NULL || file == NULL) {
        status = om_fail_nomem(err, strlen(path) + 1);
        goto out;
    }
    const om_node root = om_node_root(config, file);
    OM_TRY(fill(hf, &root, err));
    *out = hf;
    hf = NULL;
out:
    om_free(file);
    om_hf_free(hf);
    return status;
}

om_status om_hf_open(om_hf **out, const char *dir, om_error *err) {
    om_status status = OM_OK;
    om_json *config = NULL;
    om_safetensors *st = NULL;
    char *file = om_path_join(dir, "config.json");
    if (file == NULL) {
        return om_fail_nomem(err, strlen(dir) + 1);
    }
    OM_TRY(om_json_load(&config, file, NULL, err));
    OM_TRY(om_safetensors_open(&st, dir, err));
    status = om_hf_assemble(out, config, st, dir, err);
    config = NULL;
    st = NULL;
out:
    om_free(file);
    om_json_free(config);
    om_safetensors_free(st);
    return status;
}

void om_hf_free(om_hf *hf) {
    if (hf == NULL) {
        return;
    }
    for (int i = 0; i < hf->n; i++) {
        om_hf_source_free((struct om_hf_source *) (uintptr_t) hf->tensors[i].source);
    }
    om_free(hf->tensors);
    om_free(hf->path);
    om_json_free(hf->config);
    om_safetensors_free(hf->st);
    om_free(hf);
}

/* ---- what was opened ---- */

const char *om_hf_path(const om_hf *hf) {
    return hf->path;
}

const om_family *om_hf_family(const om_hf *hf) {
    return hf->family;
}

const om_json *om_hf_config(const om_hf *hf) {
    return hf->config;
}

const om_safetensors *om_hf_safetensors(const om_hf *hf) {
    return hf->st;
}

int om_hf_n_tensors(const om_hf *hf) {
    return hf->n;
}

const om_hf_tensor *om_hf_tensor_at(const om_hf *hf, int i) {
    return &hf->tensors[i];
}

const om_hf_tensor *om_hf_find(const om_hf *hf, const char *gguf_name) {
    for (int i = 0; i < hf->n; i++) {
        if (strcmp(hf->tensors[i].name, gguf_name) == 0) {
            return &hf->tensors[i];
        }
    }
    return NULL;
}

int64_t om_hf_params(const om_hf *hf) {
    return hf->params;
}

static bool rows_are_there(const om_hf_tensor *t, int64_t first, int64_t n) {
    const int64_t rows = om_hf_tensor_n_rows(t);
    return first >= 0 && n >= 0 && first <= rows && n <= rows - first;
}

om_status om_hf_rows_f32(float *out, const om_hf *hf, const om_hf_tensor *t, om_hf_view view,
                         int64_t first, int64_t n, om_error *err) {
    if (!rows_are_there(t, first, n)) {
        return om_fail(err, OM_E_INTERNAL, "%s: %lld rows from %lld of %s do not exist", hf->path,
                       (long long) n, (long long) first, t->name);
    }
    om_hf_source_rows(out, t->source, view, first, n);
    return OM_OK;
}

int64_t om_hf_gguf_row(const om_hf_tensor *t, int64_t row) {
    return om_hf_source_gguf_row(t->source, row);
}

void om_hf_forget(const om_hf *hf, const om_hf_tensor *t, int64_t first, int64_t n) {
    if (rows_are_there(t, first, n) && n > 0) {
        om_hf_source_forget(hf->st, t->source, first, n);
    }
}

om_status om_hf_sha256(char hex[65], const om_hf *hf, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_buf all = { 0 };
    char one[65];
    char *file = om_path_join(hf->path, "config.json");
    if (file == NULL) {
        return om_fail_nomem(err, strlen(hf->path) + 1);
    }
    OM_TRY(om_sha256_file(one, file, env, err));
    om_buf_puts(&all, one);
    for (int i = 0; i < om_safetensors_n_shards(hf->st); i++) {
        OM_TRY(om_sha256_file(one, om_safetensors_shard_path(hf->st, i), env, err));
        om_buf_puts(&all, one);
    }
    if (all.failed) {
        status = om_fail_nomem(err, all.len);
        goto out;
    }
    om_sha256_bytes(hex, all.data, all.len);
out:
    om_free(file);
    om_buf_release(&all);
    return status;
}
