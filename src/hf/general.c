/* general.*: name from the directory, sampling from generation_config.json, as llama.cpp's
 * converter has it. It also guesses a finetune, a size label and a licence from the name and the
 * model card; no program needs those, so they are left out. */
#include "hf/general.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "ggml.h"

/* enum llama_ftype */
static uint32_t file_type_of(const om_format *type) {
    enum { ALL_F32 = 0, MOSTLY_F16 = 1, MOSTLY_BF16 = 32 };
    return type->ggml_type == GGML_TYPE_BF16  ? MOSTLY_BF16
           : type->ggml_type == GGML_TYPE_F16 ? MOSTLY_F16
                                              : ALL_F32;
}

static om_status put_name(om_pairs *pairs, const char *dir, om_error *err) {
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && dir[start - 1] != '/') {
        start--;
    }
    char *name = om_strndup(dir + start, end - start);
    if (name == NULL) {
        return om_fail_nomem(err, end - start);
    }
    om_pairs_str(pairs, "general.name", name);
    om_free(name);
    return OM_OK;
}

static void put_sampling(om_pairs *pairs, const om_json *doc) {
    static const struct {
        const char *member, *key;
        bool integer;
    } table[] = {
        { "top_k", "general.sampling.top_k", true },
        { "top_p", "general.sampling.top_p", false },
        { "min_p", "general.sampling.min_p", false },
        { "temperature", "general.sampling.temp", false },
        { "repetition_penalty", "general.sampling.penalty_repeat", false },
    };
    const om_node root = om_node_root(doc, "generation_config.json");
    om_error ignored = { 0 };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int64_t n = 0;
        double x = 0;
        if (table[i].integer) {
            if (om_node_i64(&n, &root, table[i].member, INT32_MIN, INT32_MAX, &ignored) == OM_OK) {
                om_pairs_i32(pairs, table[i].key, (int32_t) n);
            }
        } else if (om_node_f64(&x, &root, table[i].member, &ignored) == OM_OK) {
            om_pairs_f32(pairs, table[i].key, (float) x);
        }
    }
}

static om_status read_sampling(om_pairs *pairs, const char *dir, om_error *err) {
    om_status status = OM_OK;
    char *path = om_path_join(dir, "generation_config.json");
    om_json *doc = NULL;
    om_error ignored = { 0 };
    if (path == NULL) {
        OM_TRY(om_fail_nomem(err, strlen(dir)));
    }
    if (om_file_exists(path) && om_json_load(&doc, path, NULL, &ignored) == OM_OK) {
        put_sampling(pairs, doc);
    } else if (ignored.status == OM_E_NOMEM) {
        *err = ignored;
        status = OM_E_NOMEM;
    }
out:
    om_json_free(doc);
    om_free(path);
    return status;
}

om_status om_hf_general_put(om_pairs *pairs, const om_hf_general *general, om_error *err) {
    om_status status = OM_OK;
    om_pairs_str(pairs, "general.architecture", pairs->arch);
    om_pairs_str(pairs, "general.type", "model");
    OM_TRY(put_name(pairs, general->dir, err));
    OM_TRY(read_sampling(pairs, general->dir, err));
    om_pairs_u32(pairs, "general.file_type", file_type_of(general->type));
    om_pairs_u32(pairs, "general.quantization_version", GGML_QNT_VERSION);
out:
    return status;
}
