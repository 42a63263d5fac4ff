/* config.json as the Hugging Face library would see it: values of "text_config" win over the
 * root's, absent ones take the family's default. Private to src/hf. */
#ifndef OM_HF_CONFIG_H
#define OM_HF_CONFIG_H

#include "base/json.h"

/* Bounds of config.json's numbers: nothing may grow with more. */
enum { OM_HF_MAX_WIDTH = 1 << 24, OM_HF_MAX_HEADS = 1 << 16 };

typedef struct om_config {
    om_node root;
    om_node text; /* "text_config", valid when has_text */
    bool has_text;
} om_config;

/** `doc` and `file` (for messages) are borrowed. *out is filled in place and must not be copied:
 * its nodes refer to it. */
om_status om_config_init(om_config *out, const om_json *doc, const char *file,
                         om_error *err) OM_WARN_UNUSED;

/** The object that holds the member, not null; NULL: none does. */
const om_node *om_config_find(const om_config *c, const char *key);
/** Is the member there and null? */
bool om_config_is_null(const om_config *c, const char *key);

/** A number that must be there. Errors: OM_E_FORMAT with the path in config.json. */
om_status om_config_i64(int64_t *out, const om_config *c, const char *key, int64_t min, int64_t max,
                        om_error *err) OM_WARN_UNUSED;
/** These keep *out as it is (the default) when the member is absent or null. */
om_status om_config_get_i64(int64_t *out, const om_config *c, const char *key, int64_t min,
                            int64_t max, om_error *err) OM_WARN_UNUSED;
om_status om_config_get_f64(double *out, const om_config *c, const char *key,
                            om_error *err) OM_WARN_UNUSED;
om_status om_config_get_bool(bool *out, const om_config *c, const char *key,
                             om_error *err) OM_WARN_UNUSED;

/** What is not written here, with what to do instead. Returns OM_E_UNSUPPORTED. */
om_status om_hf_refuse(om_error *err, const char *fmt, ...) OM_PRINTF(2, 3);

#endif
