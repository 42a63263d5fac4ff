/* Statistics of the same work are kept: no second pass for the types of another container, and the
 * profile is the one that a pass would have given. */
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
#include "profile/profile.h"
#include "tiny_model.h"
#include "tmpdir.h"

static char *dir;
static char model[512], stats[512], calib[512];
static const char *calibs[1] = { calib };

static int setup(void **state) {
    (void) state;
    char text[16000];
    size_t n = 0;
    dir = om_tmpdir_new();
    (void) snprintf(model, sizeof model, "%s", om_tmpdir_path(dir, "m.gguf"));
    (void) snprintf(stats, sizeof stats, "%s", om_tmpdir_path(dir, "s.gguf"));
    om_tiny_model_write(model, "llama", GGML_TYPE_F32);
    for (int i = 0; n < sizeof text - 32; i++) {
        n += (size_t) snprintf(text + n, sizeof text - n, "line %d of %d\n", i, i * i % 97);
    }
    (void) snprintf(calib, sizeof calib, "%s", om_tmpdir_write(dir, "calib.txt", text, n));
    return 0;
}

static int teardown(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* The profile `name`, and whether its statistics were there already. */
static om_profile *profile(bool *kept, const char *name, const char *to, uint64_t seed,
                           bool restart) {
    char out[512];
    om_result result = { 0 };
    om_error err = { 0 };
    om_profile *p = NULL;
    const om_env env = { .n_threads = 1 };
    (void) snprintf(out, sizeof out, "%s", om_tmpdir_path(dir, name));
    const om_profile_options o = { .model = model,
                                   .calib = calibs,
                                   .n_calib = 1,
                                   .out = out,
                                   .stats_out = stats,
                                   .to = to,
                                   .n_windows = 2,
                                   .window_tokens = 32,
                                   .seed = seed,
                                   .restart = restart };
    if (om_profile_run(&result, &o, &env, &err) != OM_OK ||
        om_profile_read(&p, out, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    *kept = strstr(result.json, "\"statistics_kept\": true") != NULL;
    om_result_release(&result);
    return p;
}

static void assert_same_choices(const om_profile *a, const om_profile *b) {
    assert_int_equal(a->n_units, b->n_units);
    for (int i = 0; i < a->n_units; i++) {
        for (int k = 0; k < b->units[i].n_choices; k++) {
            const om_choice *c = &b->units[i].choices[k];
            const om_choice *other = om_unit_choice(&a->units[i], c->format);
            assert_non_null(other);
            assert_true(other->nats == c->nats); /* bit for bit */
        }
    }
}

static void test_other_container(void **state) {
    (void) state;
    bool kept;
    om_profile *gguf = profile(&kept, "gguf.json", "gguf", 1, false);
    assert_false(kept);
    om_profile *both = profile(&kept, "both.json", "both", 1, false);
    assert_true(kept);
    assert_same_choices(both, gguf);
    om_profile *again = profile(&kept, "again.json", "both", 1, true); /* --restart */
    assert_false(kept);
    assert_same_choices(again, both);
    assert_true(both->units[0].n_choices > gguf->units[0].n_choices + 10);
    om_profile_free(gguf);
    om_profile_free(both);
    om_profile_free(again);
}

static void test_other_work(void **state) {
    (void) state;
    bool kept;
    om_profile_free(profile(&kept, "one.json", "gguf", 1, true));
    om_profile_free(profile(&kept, "two.json", "gguf", 2, false)); /* other labels */
    assert_false(kept);
    om_profile_free(profile(&kept, "two.json", "gguf", 2, false));
    assert_true(kept);
    char *bytes = NULL;
    size_t n = 0;
    om_error err = { 0 };
    assert_int_equal(om_file_read(&bytes, &n, stats, 1 << 26, &err), OM_OK);
    assert_int_equal(om_file_write(stats, bytes, n / 2, &err), OM_OK); /* damaged */
    om_free(bytes);
    om_profile_free(profile(&kept, "two.json", "gguf", 2, false));
    assert_false(kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_container),
        cmocka_unit_test(test_other_work),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
