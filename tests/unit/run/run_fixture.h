/* What the tests of run share: an environment that remembers the log, a tiny model with a text, and
 * the options of a small run. Include after cmocka. */
#ifndef OM_TESTS_RUN_FIXTURE_H
#define OM_TESTS_RUN_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "optimum.h"
#include "tiny_model.h"
#include "tmpdir.h"

/* ---- environment that remembers the log ---- */

typedef struct recorder {
    char log[32768];
    const char *cancel_at; /* cancel when this was logged */
} recorder;

static inline void record(void *ud, om_log_level level, const char *line) {
    recorder *r = ud;
    if (level != OM_LOG_DEBUG) {
        const size_t n = strlen(r->log);
        (void) snprintf(r->log + n, sizeof r->log - n, "%s\n", line);
    }
}

static inline bool cancelled(void *ud) {
    const recorder *r = ud;
    return r->cancel_at && strstr(r->log, r->cancel_at);
}

static inline om_env env_of(recorder *r) {
    return (om_env){ .log = record, .cancelled = cancelled, .ud = r, .n_threads = 2 };
}

/* ---- fixture ---- */

typedef struct fixture {
    char *dir;
    char model[256], calib[256], out[256];
    const char *calibs[1];
    om_run_options options;
} fixture;

static inline int setup(void **state) {
    static fixture f;
    char text[12000];
    size_t n = 0;
    memset(&f, 0, sizeof f);
    f.dir = om_tmpdir_new();
    (void) snprintf(f.model, sizeof f.model, "%s", om_tmpdir_path(f.dir, "tiny-f32.gguf"));
    (void) snprintf(f.out, sizeof f.out, "%s", om_tmpdir_path(f.dir, "out"));
    /* As small as K-quants allow: the profile tries every type on every matrix. */
    om_tiny_model_write_with(
        f.model, &(om_tiny_options){ .n_layer = 1, .n_ff = 256, .n_vocab = 288, .n_head = 4 });
    for (int i = 0; n < sizeof text - 64; i++) {
        n += (size_t) snprintf(text + n, 64, "Line %d of a text that repeats %d.\n", i, i * i % 97);
    }
    (void) snprintf(f.calib, sizeof f.calib, "%s", om_tmpdir_write(f.dir, "calib.txt", text, n));
    f.calibs[0] = f.calib;
    f.options = (om_run_options){ .model = f.model,
                                  .budget = { .kind = OM_BUDGET_BPW, .bpw = 6 },
                                  .calib = f.calibs,
                                  .n_calib = 1,
                                  .out_dir = f.out,
                                  .n_windows = 4,
                                  .window_tokens = 64,
                                  .n_eval_chunks = 1,
                                  .seed = 7 };
    *state = &f;
    return 0;
}

static inline int teardown(void **state) {
    fixture *f = *state;
    om_tmpdir_remove(f->dir);
    return 0;
}

static inline om_status run(om_result *r, const om_run_options *o, recorder *rec, om_error *err) {
    const om_env env = env_of(rec);
    const om_status status = om_run(r, o, &env, err);
    if (status != OM_OK && status != OM_E_CANCELLED) {
        print_message("%s: %s\n", err->where, err->text);
    }
    return status;
}

#endif
