/* Text -> the windows to measure on: see windows.h. */
#include "profile/windows.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/log.h"
#include "base/mem.h"
#include "calib/cover.h"
#include "profile/experts.h"

enum { DEFAULT_WINDOWS = 96, DEFAULT_TOKENS = 512, FEW_WINDOWS = 32, MAX_WINDOWS = 1 << 24 };

static bool covers(const om_profile_options *o) {
    return o->select && strcmp(o->select, "cover") == 0;
}

/* Only windows[chosen[i]], i < n, ascending, stay. */
static void keep_windows(om_windows *w, const int *chosen, int n) {
    const size_t bytes = (size_t) w->n_tokens * sizeof *w->tokens;
    for (int i = 0; i < n; i++) {
        memmove(w->tokens + (int64_t) i * w->n_tokens,
                w->tokens + (int64_t) chosen[i] * w->n_tokens, bytes);
    }
    w->n_windows = n;
}

/* Spread evenly over the text, which often changes its kind from beginning to end. */
static om_status keep_spread(om_windows *w, int n, om_error *err) {
    int *chosen = om_calloc((size_t) n, sizeof *chosen);
    if (!chosen) {
        return om_fail_nomem(err, (size_t) n * sizeof *chosen);
    }
    om_cover_spread(chosen, n, w->n_windows);
    keep_windows(w, chosen, n);
    om_free(chosen);
    return OM_OK;
}

static int least(int64_t a, int64_t b) {
    return (int) (a < b ? a : b);
}

om_status om_profile_windows_read(om_windows *out, int *n_wanted, const om_profile_options *o,
                                  const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const int n_tokens = o->window_tokens ? o->window_tokens : DEFAULT_TOKENS;
    if (n_tokens < 16 || n_tokens > 1 << 20) {
        return om_fail(err, OM_E_ARG, "--window-tokens %d: expected 16 to 1048576", n_tokens);
    }
    if (o->select && !covers(o) && strcmp(o->select, "spread") != 0) {
        return om_fail(err, OM_E_ARG, "--select %s: expected spread or cover", o->select);
    }
    OM_TRY(om_windows_read(out, o->model, o->calib, o->n_calib, n_tokens, 0, env, err));
    const int want = o->n_windows ? o->n_windows : DEFAULT_WINDOWS;
    if (out->n_windows < want && o->n_windows) {
        om_log(env, OM_LOG_WARN, "the text gives %d windows of %d tokens, not %d", out->n_windows,
               n_tokens, want);
    }
    *n_wanted = least(want, out->n_windows);
    if (*n_wanted < FEW_WINDOWS) {
        om_log(env, OM_LOG_WARN,
               "only %d windows: types will be ranked well, but the predicted level comes out too "
               "low (method.md)",
               *n_wanted);
    }
    const int64_t candidates = (int64_t) *n_wanted * (covers(o) ? OM_COVER_CANDIDATES : 1);
    OM_TRY(keep_spread(out, least(candidates, out->n_windows), err));
out:
    return status;
}

/* ---- memo ---- */

static om_status read_memo(int *chosen, om_coverage *c, int n, const char *memo, const char *key,
                           om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_node array, item;
    char found[65];
    size_t count = 0;
    OM_TRY(om_json_load(&doc, memo, "optimum.cover/1", err));
    const om_node root = om_node_root(doc, memo);
    OM_TRY(om_node_sha256(found, &root, "key", err));
    OM_TRY(om_node_int(&c->n_experts, &root, "experts", 1, MAX_WINDOWS, err));
    OM_TRY(om_node_int(&c->few_spread, &root, "few_spread", 0, c->n_experts, err));
    OM_TRY(om_node_int(&c->few_cover, &root, "few_cover", 0, c->n_experts, err));
    OM_TRY(om_node_array(&array, &count, &root, "windows", err));
    if (strcmp(found, key) != 0 || count != (size_t) n) {
        OM_TRY(om_fail(err, OM_E_MISMATCH, "%s is of other work", memo));
    }
    for (int i = 0; i < n; i++) {
        int64_t v = 0;
        OM_TRY(om_node_at(&item, &array, (size_t) i, err));
        OM_TRY(om_node_value_i64(&v, &item, i ? chosen[i - 1] + 1 : 0, c->candidates - 1, err));
        chosen[i] = (int) v;
    }
out:
    om_json_free(doc);
    return status;
}

static om_status write_memo(const int *chosen, const om_coverage *c, int n, const char *memo,
                            const char *key, om_error *err) {
    om_json *doc = om_json_new_document("optimum.cover/1"), *windows = om_json_array();
    om_json_set_str(doc, "key", key);
    om_json_set_i64(doc, "experts", c->n_experts);
    om_json_set_i64(doc, "few_spread", c->few_spread);
    om_json_set_i64(doc, "few_cover", c->few_cover);
    for (int i = 0; i < n; i++) {
        om_json_push(windows, om_json_i64(chosen[i]));
    }
    om_json_set(doc, "windows", windows);
    const om_status status = om_json_save(doc, memo, err);
    om_json_free(doc);
    return status;
}

/* ---- cover ---- */

static om_status choose(int *chosen, om_coverage *out, int n, const om_windows *w,
                        const om_model *model, int64_t max_ram_bytes, const om_env *env,
                        om_error *err) {
    om_status status = OM_OK;
    om_cover_counts counts = { 0 };
    OM_TRY(om_cover_count(&counts, model, w, max_ram_bytes, env, err));
    out->n_experts = counts.n_experts;
    om_cover_spread(chosen, n, w->n_windows);
    out->few_spread = om_cover_few(NULL, chosen, n, &counts, OM_EXPERT_FEW);
    OM_TRY(om_cover_choose(chosen, n, &counts, OM_EXPERT_FEW, err));
    out->few_cover = om_cover_few(NULL, chosen, n, &counts, OM_EXPERT_FEW);
out:
    om_cover_counts_release(&counts);
    return status;
}

om_status om_profile_windows_cover(om_windows *w, om_coverage *out, int n, const om_model *model,
                                   const om_profile_options *o, const char *memo,
                                   const char key[65], const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_coverage c = { .candidates = w->n_windows };
    om_error ignored = { 0 }; /* a memo that cannot be used is made again */
    int *chosen = om_calloc((size_t) n, sizeof *chosen);
    if (!chosen) {
        return om_fail_nomem(err, (size_t) n * sizeof *chosen);
    }
    if (!o->restart && om_file_exists(memo) &&
        read_memo(chosen, &c, n, memo, key, &ignored) == OM_OK) {
        om_log(env, OM_LOG_INFO, "cover: the windows chosen before the interruption");
    } else {
        OM_TRY(choose(chosen, &c, n, w, model, o->max_ram_bytes, env, err));
        OM_TRY(write_memo(chosen, &c, n, memo, key, err));
    }
    om_log(env, OM_LOG_INFO,
           "cover: %d of %d experts see fewer than %d tokens in the windows chosen; with windows "
           "spread evenly it would be %d",
           c.few_cover, c.n_experts, OM_EXPERT_FEW, c.few_spread);
    keep_windows(w, chosen, n);
    *out = c;
out:
    om_free(chosen);
    return status;
}
