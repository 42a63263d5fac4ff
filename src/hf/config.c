/* config.json -> values with defaults. */
#include "hf/config.h"

#include <stdarg.h>
#include <stdio.h>

om_status om_config_init(om_config *out, const om_json *doc, const char *file, om_error *err) {
    *out = (om_config){ .root = om_node_root(doc, file) };
    if (!om_node_has(&out->root, "text_config")) {
        return OM_OK;
    }
    out->has_text = true;
    return om_node_object(&out->text, &out->root, "text_config", err);
}

const om_node *om_config_find(const om_config *c, const char *key) {
    if (c->has_text && om_node_has(&c->text, key)) {
        return &c->text;
    }
    return om_node_has(&c->root, key) ? &c->root : NULL;
}

bool om_config_is_null(const om_config *c, const char *key) {
    return om_config_find(c, key) == NULL && (om_node_get(&c->root, key) != NULL ||
                                              (c->has_text && om_node_get(&c->text, key) != NULL));
}

om_status om_config_i64(int64_t *out, const om_config *c, const char *key, int64_t min, int64_t max,
                        om_error *err) {
    const om_node *object = om_config_find(c, key);
    return om_node_i64(out, object != NULL ? object : &c->root, key, min, max, err);
}

om_status om_config_get_i64(int64_t *out, const om_config *c, const char *key, int64_t min,
                            int64_t max, om_error *err) {
    const om_node *object = om_config_find(c, key);
    return object != NULL ? om_node_i64(out, object, key, min, max, err) : OM_OK;
}

om_status om_config_get_f64(double *out, const om_config *c, const char *key, om_error *err) {
    const om_node *object = om_config_find(c, key);
    return object != NULL ? om_node_f64(out, object, key, err) : OM_OK;
}

om_status om_config_get_bool(bool *out, const om_config *c, const char *key, om_error *err) {
    const om_node *object = om_config_find(c, key);
    return object != NULL ? om_node_bool(out, object, key, err) : OM_OK;
}

om_status om_hf_refuse(om_error *err, const char *fmt, ...) {
    char what[320];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return om_fail(err, OM_E_UNSUPPORTED,
                   "%s: make a GGUF with llama.cpp's convert_hf_to_gguf.py and give Optimum that",
                   what);
}
