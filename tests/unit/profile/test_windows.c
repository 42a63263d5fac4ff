/* Profiles of a small mixture of experts on windows chosen to cover them: the result says what it
 * brought, the counts are those that the pass finds, an interrupted choice is not made again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "optimum.h"
#include "profile/experts.h"
#include "profile/windows.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { T = 32, WANTED = 3 };

static char *dir;
static char model[512], out[512], calib[512];
static const char *calibs[1] = { calib };

typedef struct recorder {
    char log[16384];
    const char *cancel_at; /* cancel when this stage reports, or this was logged */
    bool stop;
} recorder;

static void record(void *ud, om_log_level level, const char *line) {
    recorder *r = ud;
    const size_t n = strlen(r->log);
    if (level != OM_LOG_DEBUG) {
        (void) snprintf(r->log + n, sizeof r->log - n, "%s\n", line);
    }
}

static void progress(void *ud, const char *stage, double done, double total, const char *unit) {
    recorder *r = ud;
    (void) done, (void) total, (void) unit;
    r->stop |= r->cancel_at && strcmp(stage, r->cancel_at) == 0;
}

static bool stopped(void *ud) {
    return ((const recorder *) ud)->stop;
}

static om_status profile(om_result *result, recorder *r, const om_profile_options *o,
                         om_error *err) {
    const om_env env = {
        .log = record, .progress = progress, .cancelled = stopped, .ud = r, .n_threads = 1
    };
    *err = (om_error){ 0 };
    return om_profile_run(result, o, &env, err);
}

static om_profile_options options(const char *select) {
    return (om_profile_options){ .model = model,
                                 .calib = calibs,
                                 .n_calib = 1,
                                 .out = out,
                                 .types = "q8_0",
                                 .n_windows = WANTED,
                                 .window_tokens = T,
                                 .select = select };
}

static int number_of(const char *json, const char *name) {
    char key[64];
    int value = -1;
    (void) snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(json, key);
    assert_non_null(at);
    assert_int_equal(sscanf(at + strlen(key), "%d", &value), 1);
    return value;
}

static void test_cover(void **state) {
    (void) state;
    om_result result = { 0 };
    om_error err;
    recorder r = { 0 };
    const om_profile_options o = options("cover");
    if (profile(&result, &r, &o, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(number_of(result.json, "candidates"), 4 * WANTED);
    const int before = number_of(result.json, "few_spread"),
              after = number_of(result.json, "few_cover");
    assert_true(after <= before);
    assert_non_null(strstr(result.text, "coverage"));
    /* The pass over the windows chosen counts the same. */
    om_profile *p = NULL;
    om_experts e;
    assert_int_equal(om_profile_read(&p, out, &err), OM_OK);
    assert_string_equal(p->select, "cover");
    assert_int_equal(p->n_windows, WANTED);
    assert_int_equal(om_experts_of(&e, p, &err), OM_OK);
    assert_int_equal(e.n, number_of(result.json, "experts"));
    assert_int_equal(om_experts_few(&e), after);
    assert_int_equal(om_tmpdir_count(dir, ".cover"), 0);
    assert_int_equal(om_tmpdir_count(dir, ".checkpoint"), 0);
    om_experts_release(&e);
    om_profile_free(p);
    om_result_release(&result);
}

static void test_resumes(void **state) {
    (void) state;
    om_result result = { 0 };
    om_error err;
    om_profile_options o = options("cover");
    recorder whole = { 0 }, cut = { .cancel_at = "profile" }, rest = { 0 }, again = { 0 };
    char *first = NULL, *second = NULL;
    size_t n = 0;
    assert_int_equal(profile(&result, &whole, &o, &err), OM_OK);
    om_result_release(&result);
    assert_int_equal(om_file_read(&first, &n, out, 1 << 24, &err), OM_OK);

    assert_int_equal(profile(&result, &cut, &o, &err), OM_E_CANCELLED);
    assert_int_equal(om_tmpdir_count(dir, ".cover"), 1);
    assert_int_equal(profile(&result, &rest, &o, &err), OM_OK);
    assert_non_null(strstr(rest.log, "chosen before the interruption"));
    assert_null(strstr(rest.log, "forward only"));
    om_result_release(&result);
    assert_int_equal(om_file_read(&second, &n, out, 1 << 24, &err), OM_OK);
    assert_string_equal(first, second);
    om_free(second);

    /* A damaged memo, or one of other work, is made again. */
    (void) om_tmpdir_write(dir, "p.cover", "{\"schema\":\"optimum.cover/1\",\"key\":\"", 34);
    assert_int_equal(profile(&result, &again, &o, &err), OM_OK);
    assert_non_null(strstr(again.log, "forward only"));
    om_result_release(&result);
    assert_int_equal(om_file_read(&second, &n, out, 1 << 24, &err), OM_OK);
    assert_string_equal(first, second);
    om_free(first);
    om_free(second);
}

static void test_refuses(void **state) {
    (void) state;
    om_result result = { 0 };
    om_error err;
    recorder r = { 0 };
    om_profile_options o = options("most");
    assert_int_equal(profile(&result, &r, &o, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "spread or cover"));
    const char *dense = om_tmpdir_path(dir, "dense.gguf");
    om_tiny_model_write(dense, "llama", GGML_TYPE_F32);
    o = options("cover");
    o.model = dense;
    assert_int_equal(profile(&result, &r, &o, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "has no experts"));
}

static int setup(void **state) {
    (void) state;
    char text[16000];
    size_t n = 0;
    dir = om_tmpdir_new();
    (void) snprintf(model, sizeof model, "%s", om_tmpdir_path(dir, "m.gguf"));
    (void) snprintf(out, sizeof out, "%s", om_tmpdir_path(dir, "p.json"));
    om_tiny_model_write_with(model, &(om_tiny_options){ .arch = "qwen3moe",
                                                        .n_layer = 2,
                                                        .n_embd = 64,
                                                        .n_ff = 32,
                                                        .n_vocab = 288,
                                                        .n_expert = 16,
                                                        .n_expert_used = 2,
                                                        .head_dim = 16 });
    for (int i = 0; n < sizeof text - 64; i++) {
        n += (size_t) snprintf(text + n, 64, "%c line %d of a text, %d.\n", 'A' + i % 26, i,
                               i * i % 97);
    }
    (void) snprintf(calib, sizeof calib, "%s", om_tmpdir_write(dir, "calib.txt", text, n));
    return 0;
}

static int teardown(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cover),
        cmocka_unit_test(test_resumes),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
