/* Stage records <-> run.json.
 *
 * A stage is skipped when the hash of its inputs and options is the one it was finished with and
 * its outputs are there. Outputs are not hashed again on purpose: a user may edit allocation.json
 * and run again, and the stages below notice by its content. run.json is a cache: losing it costs
 * time, never correctness, so a damaged one is a warning.
 */
#include "run/state.h"

#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

static const char schema[] = "optimum.run-state/1";

/* ---- file ---- */

static om_status read_digest(char hex[65], const om_node *node, const char *key, om_error *err) {
    const char *s = NULL;
    om_status status = om_node_str(&s, node, key, err);
    if (status == OM_OK && strlen(s) != 64) {
        status = om_node_fail(err, node, "%s: expected 64 hex digits", key);
    }
    if (status == OM_OK) {
        memcpy(hex, s, 65);
    }
    return status;
}

static om_status read_stages(om_run_state *s, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t n = 0;
    OM_TRY(om_node_array(&array, &n, root, "stages", err));
    for (size_t i = 0; i < n && i < OM_RUN_MAX_STAGES; i++) {
        const char *name = NULL;
        om_stage_record *r = &s->stages[s->n_stages];
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_str(&name, &item, "name", err));
        if (strlen(name) >= sizeof r->name) {
            OM_TRY(om_node_fail(err, &item, "name: too long"));
        }
        memcpy(r->name, name, strlen(name) + 1);
        OM_TRY(read_digest(r->key, &item, "key", err));
        s->n_stages++;
    }
out:
    return status;
}

static om_status read_state(om_run_state *s, om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_node model;
    OM_TRY(om_json_load(&doc, s->path, schema, err));
    const om_node root = om_node_root(doc, s->path);
    OM_TRY(om_node_object(&model, &root, "model", err));
    OM_TRY(read_digest(s->model_signature, &model, "signature", err));
    OM_TRY(read_digest(s->model_sha256, &model, "sha256", err));
    OM_TRY(read_stages(s, &root, err));
out:
    om_json_free(doc);
    return status;
}

om_status om_run_state_open(om_run_state *out, const char *path, const om_env *env, om_error *err) {
    om_run_state s = { .path = om_strdup(path) };
    if (!s.path) {
        return om_fail_nomem(err, strlen(path) + 1);
    }
    if (om_file_exists(path)) {
        om_error why = { 0 };
        if (read_state(&s, &why) != OM_OK) {
            om_log(env, OM_LOG_WARN, "%s: starting over, nothing is kept", why.text);
            s = (om_run_state){ .path = s.path };
        }
    }
    *out = s;
    return OM_OK;
}

void om_run_state_release(om_run_state *s) {
    om_free(s->path);
    *s = (om_run_state){ 0 };
}

static om_status save(const om_run_state *s, om_error *err) {
    om_json *doc = om_json_new_document(schema);
    om_json *model = om_json_object();
    om_json_set_str(model, "signature", s->model_signature);
    om_json_set_str(model, "sha256", s->model_sha256);
    om_json_set(doc, "model", model);
    om_json *stages = om_json_array();
    for (int i = 0; i < s->n_stages; i++) {
        om_json *stage = om_json_object();
        om_json_set_str(stage, "name", s->stages[i].name);
        om_json_set_str(stage, "key", s->stages[i].key);
        om_json_push(stages, stage);
    }
    om_json_set(doc, "stages", stages);
    const om_status status = om_json_save(doc, s->path, err);
    om_json_free(doc);
    return status;
}

/* ---- stages ---- */

static int find(const om_run_state *s, const char *stage) {
    for (int i = 0; i < s->n_stages; i++) {
        if (strcmp(s->stages[i].name, stage) == 0) {
            return i;
        }
    }
    return -1;
}

bool om_run_state_fresh(const om_run_state *s, const char *stage, const char *key,
                        const char *const *outputs, int n_outputs) {
    const int i = find(s, stage);
    if (i < 0 || strcmp(s->stages[i].key, key) != 0) {
        return false;
    }
    for (int j = 0; j < n_outputs; j++) {
        if (!om_file_exists(outputs[j])) {
            return false;
        }
    }
    return true;
}

om_status om_run_state_done(om_run_state *s, const char *stage, const char *key, om_error *err) {
    int i = find(s, stage);
    if (i < 0) {
        /* Full only after many different sets of baselines: the oldest record goes. */
        if (s->n_stages == OM_RUN_MAX_STAGES) {
            memmove(&s->stages[0], &s->stages[1], (OM_RUN_MAX_STAGES - 1) * sizeof s->stages[0]);
            s->n_stages--;
        }
        i = s->n_stages++;
        s->stages[i] = (om_stage_record){ 0 };
        const size_t n = strlen(stage);
        memcpy(s->stages[i].name, stage, n < 63 ? n : 63);
    }
    memcpy(s->stages[i].key, key, 65);
    return save(s, err);
}

/* ---- model ---- */

static om_status signature(char hex[65], const om_model *model, om_error *err) {
    om_buf key = { 0 };
    for (int i = 0; i < om_model_n_splits(model); i++) {
        struct stat st;
        const char *path = om_model_split_path(model, i);
        if (stat(path, &st) != 0) {
            om_buf_release(&key);
            return om_fail_errno(err, "cannot read %s", path);
        }
        om_key_i64(&key, "bytes", (int64_t) st.st_size);
        om_key_i64(&key, "time", (int64_t) st.st_mtime);
        om_key_i64(&key, "inode", (int64_t) st.st_ino);
    }
    return om_key_finish(hex, &key, err);
}

om_status om_run_state_model(om_run_state *s, const om_model *model, const om_env *env,
                             om_error *err) {
    om_status status = OM_OK;
    char now[65], sha256[65];
    OM_TRY(signature(now, model, err));
    if (strcmp(now, s->model_signature) != 0) {
        OM_TRY(om_model_sha256(sha256, model, env, err));
        memcpy(s->model_signature, now, 65);
        memcpy(s->model_sha256, sha256, 65);
    }
out:
    return status;
}

/* ---- keys ---- */

void om_key_str(om_buf *key, const char *name, const char *value) {
    /* The length keeps neighbours apart: ("a", "b=c") and ("a=b", "c") give different keys. */
    if (value) {
        om_buf_printf(key, "%s=%zu:%s\n", name, strlen(value), value);
    } else {
        om_buf_printf(key, "%s\n", name);
    }
}

void om_key_i64(om_buf *key, const char *name, int64_t value) {
    om_buf_printf(key, "%s=%lld\n", name, (long long) value);
}

void om_key_f64(om_buf *key, const char *name, double value) {
    om_buf_printf(key, "%s=%.17g\n", name, value);
}

om_status om_key_file(om_buf *key, const char *name, const char *path, om_error *err) {
    char sha256[65];
    const om_status status = om_sha256_file(sha256, path, NULL, err);
    if (status == OM_OK) {
        om_key_str(key, name, sha256);
    }
    return status;
}

om_status om_key_finish(char hex[65], om_buf *key, om_error *err) {
    om_key_str(key, "tool", OM_VERSION);
    if (key->failed) {
        om_buf_release(key);
        return om_fail_nomem(err, 0);
    }
    om_sha256_bytes(hex, key->data, key->len);
    om_buf_release(key);
    return OM_OK;
}
