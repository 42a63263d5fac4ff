/* source config.json + types -> config.json for mlx-lm; and which other files belong to a model.
 *
 * mlx-lm fills its classes from config.json by name: what is missing takes a default in silence. So
 * the keys that newer transformers moved elsewhere are written where mlx-lm looks for them (checked
 * against the classes of mlx-lm 0.32). Nothing that stands in the source is changed by this.
 *
 * The entries of "quantization" are keyword arguments of mlx's to_quantized, and other readers know
 * fewer of them: group_size and bits, and "mode" only where it is not "affine". A reader older than
 * mlx-lm 0.32.2 takes the top-level values for every module that is not named, so all modules of
 * another type are. */
#include "artifact/mlx_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/atomic_dir.h"
#include "base/buf.h"
#include "base/mem.h"
#include "hf/directory.h"

/* ---- members ---- */

static bool object_at(om_node *out, const om_node *parent, const char *key) {
    om_error ignored = { 0 };
    return om_node_has(parent, key) && om_node_object(out, parent, key, &ignored) == OM_OK;
}

static const char *string_at(const om_node *parent, const char *key) {
    om_error ignored = { 0 };
    const char *text = NULL;
    return om_node_has(parent, key) && om_node_str(&text, parent, key, &ignored) == OM_OK ? text
                                                                                          : NULL;
}

/* Copy from[key] to config[as] unless the source has a value there. */
static void fill(om_json *config, const om_node *source, const char *as, const om_node *from,
                 const char *key) {
    if (!om_node_has(source, as) && om_node_has(from, key)) {
        om_json_set(config, as, om_json_copy(om_node_get(from, key)));
    }
}

/* ---- rotary positions ---- */

/* rope_parameters of transformers 5 as rope_scaling: "type" is what older code asks for. */
static void fill_scaling(om_json *config, const om_node *source, const om_node *rope) {
    const char *type = string_at(rope, "rope_type");
    if (om_node_has(source, "rope_scaling") || type == NULL || strcmp(type, "default") == 0) {
        return;
    }
    om_json *scaling = om_json_copy(rope->value);
    if (scaling != NULL && !om_node_has(rope, "type")) {
        om_json_set_str(scaling, "type", type);
    }
    om_json_set(config, "rope_scaling", scaling);
}

static void fill_rope(om_json *config, const om_node *source) {
    om_node rope, full, sliding;
    if (!object_at(&rope, source, "rope_parameters")) {
        return;
    }
    if (object_at(&full, &rope, "full_attention")) { /* one set for each kind of layer: Gemma 3 */
        fill(config, source, "rope_theta", &full, "rope_theta");
        fill_scaling(config, source, &full);
        if (object_at(&sliding, &rope, "sliding_attention")) {
            fill(config, source, "rope_local_base_freq", &sliding, "rope_theta");
        }
        return;
    }
    fill(config, source, "rope_theta", &rope, "rope_theta");
    fill(config, source, "partial_rotary_factor", &rope, "partial_rotary_factor");
    fill(config, source, "original_max_position_embeddings", &rope,
         "original_max_position_embeddings");
    fill_scaling(config, source, &rope);
}

/* Every n-th layer sees everything: n from the list of the layers' kinds. */
static void fill_pattern(om_json *config, const om_node *source) {
    om_error ignored = { 0 };
    om_node types, type;
    const char *model = string_at(source, "model_type"), *text = NULL;
    size_t n = 0;
    if (model == NULL || strncmp(model, "gemma3", 6) != 0 ||
        om_node_has(source, "sliding_window_pattern") || !om_node_has(source, "layer_types") ||
        om_node_array(&types, &n, source, "layer_types", &ignored) != OM_OK) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (om_node_at(&type, &types, i, &ignored) == OM_OK &&
            om_node_value_str(&text, &type, &ignored) == OM_OK &&
            strcmp(text, "full_attention") == 0) {
            om_json_set_i64(config, "sliding_window_pattern", (int64_t) i + 1);
            return;
        }
    }
}

/* ---- the rest ---- */

/* The config of the language model: the document itself, or its "text_config". */
static void fill_model(om_json *config, const om_node *source, const char *dtype) {
    fill_rope(config, source);
    fill_pattern(config, source);
    fill(config, source, "num_experts", source, "num_local_experts");
    if (om_node_has(source, "dtype")) {
        om_json_set_str(config, "dtype", dtype);
    }
    om_json_set_str(config, "torch_dtype", dtype);
}

static bool has_head(const om_mlx_item *items, int n) {
    for (int i = 0; i < n; i++) {
        if (om_text_ends(items[i].path, "lm_head.weight")) {
            return true;
        }
    }
    return false;
}

/* mlx-lm's classes differ in what they assume when the key is missing. It is written where the
 * source has it, else at the top. */
static void set_tied(om_json *config, const om_node *source, om_json *text, const om_node *inner,
                     bool tied) {
    const bool in_text = text != NULL && om_node_has(inner, "tie_word_embeddings");
    if (in_text) {
        om_json_set_bool(text, "tie_word_embeddings", tied);
    }
    if (!in_text || om_node_has(source, "tie_word_embeddings")) {
        om_json_set_bool(config, "tie_word_embeddings", tied);
    }
}

/* ---- quantization ---- */

const om_format *om_mlx_config_default(const om_mlx_item *items, int n) {
    const om_format *best = NULL;
    int most = 0;
    for (int k = 0; om_format_mlx_at(k) != NULL; k++) {
        int count = 0;
        for (int i = 0; i < n; i++) {
            count += items[i].format == om_format_mlx_at(k);
        }
        if (count > most) {
            best = om_format_mlx_at(k);
            most = count;
        }
    }
    return best;
}

static om_json *type_of(const om_format *format, bool with_mode) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "group_size", format->block);
    om_json_set_i64(o, "bits", format->bits);
    if (with_mode || format->mlx != OM_MLX_AFFINE) {
        om_json_set_str(o, "mode", om_mlx_mode_name(format->mlx));
    }
    return o;
}

static om_status put_quantization(om_json *config, const om_mlx_item *items, int n, om_error *err) {
    const om_format *common = om_mlx_config_default(items, n);
    if (common == NULL) {
        return OM_OK;
    }
    om_json *q = type_of(common, true);
    for (int i = 0; i < n; i++) {
        if (items[i].format->mlx == OM_MLX_NONE || items[i].format == common) {
            continue;
        }
        const size_t length = strlen(items[i].path) - strlen(".weight");
        char *module = om_strndup(items[i].path, length);
        if (module == NULL) {
            om_json_free(q);
            return om_fail_nomem(err, length);
        }
        om_json_set(q, module, type_of(items[i].format, false));
        om_free(module);
    }
    om_json_set(config, "quantization_config", om_json_copy(q));
    om_json_set(config, "quantization", q);
    return OM_OK;
}

om_status om_mlx_config(om_json **out, const om_json *source, const om_mlx_item *items, int n,
                        om_mlx_dtype dtype, om_error *err) {
    om_status status = OM_OK;
    const char *dtype_name = dtype == OM_MLX_F16 ? "float16" : "bfloat16";
    const om_node root = om_node_root(source, "config.json");
    om_node inner;
    om_json *text = NULL, *config = om_json_copy(source);
    if (config == NULL) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    static const char *const dropped[] = { "_name_or_path", "quantization", "quantization_config" };
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) {
        om_json_remove(config, dropped[i]);
    }
    fill_model(config, &root, dtype_name);
    if (object_at(&inner, &root, "text_config")) {
        text = om_json_copy(inner.value);
        if (text == NULL) {
            OM_TRY(om_fail_nomem(err, 0));
        }
        om_json_remove(text, "quantization_config");
        fill_model(text, &inner, dtype_name);
        fill(config, &root, "vocab_size", &inner, "vocab_size"); /* Gemma 3 reads it above */
    }
    set_tied(config, &root, text, &inner, !has_head(items, n));
    if (text != NULL) {
        om_json_set(config, "text_config", text);
        text = NULL;
    }
    OM_TRY(put_quantization(config, items, n, err));
    *out = config;
    config = NULL;
out:
    om_json_free(text);
    om_json_free(config);
    return status;
}

/* ---- the index ---- */

static int by_name(const void *a, const void *b) {
    return strcmp((*(const om_mlx_tensor *const *) a)->name,
                  (*(const om_mlx_tensor *const *) b)->name);
}

om_status om_mlx_index(om_json **out, const om_mlx_layout *layout, int64_t parameters,
                       om_error *err) {
    om_json *doc = om_json_object(), *metadata = om_json_object(), *map = om_json_object();
    const om_mlx_tensor **sorted = om_calloc((size_t) layout->n_tensors, sizeof *sorted);
    if (doc == NULL || sorted == NULL) {
        om_json_free(doc);
        om_json_free(metadata);
        om_json_free(map);
        om_free(sorted);
        return om_fail_nomem(err, 0);
    }
    for (int i = 0; i < layout->n_tensors; i++) {
        sorted[i] = &layout->tensors[i];
    }
    qsort(sorted, (size_t) layout->n_tensors, sizeof *sorted, by_name);
    for (int i = 0; i < layout->n_tensors; i++) {
        char shard[64];
        om_mlx_shard_name(shard, sorted[i]->shard, layout->n_shards);
        om_json_set_str(map, sorted[i]->name, shard);
    }
    om_json_set_i64(metadata, "total_size", layout->data_bytes);
    om_json_set_i64(metadata, "total_parameters", parameters);
    om_json_set(doc, "metadata", metadata);
    om_json_set(doc, "weight_map", map);
    om_free(sorted);
    *out = doc;
    return OM_OK;
}

/* ---- files ---- */

static const char *const vocabularies[] = { "tokenizer.json", "tokenizer.model", "vocab.json",
                                            "vocab.txt", "tiktoken.model" };

bool om_mlx_is_copied(const char *name) {
    if (strcmp(name, OM_HF_BANKS_FILE) == 0) {
        return false; /* written when it is needed */
    }
    static const char *const names[] = {
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "generation_config.json",
        "LICENSE",
        "NOTICE",
    };
    static const char *const suffixes[] = { ".jinja", ".tiktoken", ".txt", ".jsonl", ".py" };
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) {
        if (strcmp(name, vocabularies[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (name[0] != '.' && om_text_ends(name, suffixes[i])) {
            return true;
        }
    }
    return false;
}

bool om_mlx_is_written(const char *name) {
    return strcmp(name, "config.json") == 0 || strcmp(name, "README.md") == 0 ||
           strcmp(name, OM_HF_BANKS_FILE) == 0 ||
           strcmp(name, "model.safetensors.index.json") == 0 ||
           (strncmp(name, "model", 5) == 0 && om_text_ends(name, ".safetensors"));
}

static bool is_vocabulary(const char *name) {
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) {
        if (strcmp(name, vocabularies[i]) == 0) {
            return true;
        }
    }
    return name[0] != '.' && om_text_ends(name, ".tiktoken");
}

om_status om_mlx_copies(char ***out, int *n, const char *dir, om_error *err) {
    om_status status = OM_OK;
    char **names = NULL;
    int count = 0, kept = 0;
    bool vocabulary = false, config = false;
    OM_TRY(om_dir_list(&names, &count, dir, err));
    for (int i = 0; i < count; i++) {
        vocabulary = vocabulary || is_vocabulary(names[i]);
        config = config || strcmp(names[i], "tokenizer_config.json") == 0;
    }
    if (!vocabulary || !config) {
        OM_TRY(om_fail(err, OM_E_FORMAT,
                       "%s has no %s: without it mlx-lm cannot load the model; get it from where "
                       "the model comes from",
                       dir,
                       vocabulary ? "tokenizer_config.json"
                                  : "tokenizer (tokenizer.json or tokenizer.model)"));
    }
    for (int i = 0; i < count; i++) {
        if (om_mlx_is_copied(names[i])) {
            names[kept++] = names[i];
        } else {
            om_free(names[i]);
        }
    }
    *out = names;
    *n = kept;
    names = NULL;
out:
    om_dir_list_free(names, count);
    return status;
}
