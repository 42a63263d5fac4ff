/* The small decisions of a run: names, cuts, keys, which presets, what may be kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "run/job.h"
#include "tmpdir.h"

static void model_names(void **state) {
    (void) state;
    static const char *const cases[][2] = {
        { "/m/SmolLM2-135M-BF16.gguf", "SmolLM2-135M" },
        { "Qwen3-235B-A22B-f16-00001-of-00010.gguf", "Qwen3-235B-A22B" },
        { "model.F32.GGUF", "model" },
        { "plain.gguf", "plain" },
        { "no-extension", "no-extension" },
        { "bf16.gguf", "bf16" },
        { "a-00001-of-0001.gguf", "a-00001-of-0001" },
        { "/models/Qwen3-8B/", "Qwen3-8B" }, /* a folder */
        { "/models/SmolLM2-BF16", "SmolLM2" },
        { "/", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[64];
        om_job_model_name(name, sizeof name, cases[i][0]);
        assert_string_equal(name, cases[i][1]);
    }
    char tiny[6];
    om_job_model_name(tiny, sizeof tiny, "abcdefghij.gguf");
    assert_string_equal(tiny, "abcde");
}

static void text_is_cut_at_a_line_end(void **state) {
    (void) state;
    /* The only line end before nine tenths leaves less than half: as if there were none. */
    assert_int_equal(om_run_text_cut("0123456\n89abcdefghi\n", 20), 18);
    assert_int_equal(om_run_text_cut("0123456789abc\nefghij", 20), 14);
    assert_int_equal(om_run_text_cut("", 0), 0);
    /* No line end: between characters, never inside one ("é" is two bytes at 17 and 18). */
    assert_int_equal(om_run_text_cut("01234567890123456\xC3\xA9X", 20), 17);
}

static om_sweep_point point(const char *name, int64_t bytes, double nats) {
    om_sweep_point p = { .bytes = bytes, .nats = nats };
    (void) snprintf(p.name, sizeof p.name, "%s", name);
    return p;
}

static void baselines_are_not_larger(void **state) {
    (void) state;
    om_sweep_point presets[] = { point("A", 100, .5), point("B", 200, .1), point("C", 300, .4),
                                 point("D", 300, .4), point("E", 350, .3), point("F", 400, .01) };
    const om_sweep sweep = { .presets = presets, .n_presets = 6 };
    int chosen[OM_RUN_MAX_BASELINES];
    /* The two largest that fit (D and C are one file), and the best of the rest. */
    assert_int_equal(om_baselines_choose(chosen, &sweep, 399), 3);
    assert_string_equal(presets[chosen[0]].name, "E");
    assert_string_equal(presets[chosen[1]].name, "D");
    assert_string_equal(presets[chosen[2]].name, "B");
    /* The size itself fits. */
    assert_int_equal(om_baselines_choose(chosen, &sweep, 400), 2);
    assert_string_equal(presets[chosen[0]].name, "F");
    assert_int_equal(om_baselines_choose(chosen, &sweep, 100), 1);
    assert_int_equal(om_baselines_choose(chosen, &sweep, 99), 0);
}

static void keys_tell_inputs_apart(void **state) {
    (void) state;
    om_error err = { 0 };
    om_buf a = { 0 }, b = { 0 };
    char x[65], y[65];
    om_key_str(&a, "pin", "q=1\nr");
    om_key_str(&b, "pin", "q=1");
    om_key_str(&b, "r", NULL);
    assert_int_equal(om_key_finish(x, &a, &err), OM_OK);
    assert_int_equal(om_key_finish(y, &b, &err), OM_OK);
    assert_string_not_equal(x, y);
    om_key_f64(&a, "bpw", 4.5);
    om_key_f64(&b, "bpw", 4.5);
    assert_int_equal(om_key_finish(x, &a, &err), OM_OK);
    assert_int_equal(om_key_finish(y, &b, &err), OM_OK);
    assert_string_equal(x, y);
    assert_int_equal(om_key_file(&a, "f", "/nowhere/f", &err), OM_E_IO);
    om_buf_release(&a);
}

static void state_survives_and_forgives(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_error err = { 0 };
    om_run_state s = { 0 };
    char path[256], output[256], key[65];
    (void) snprintf(path, sizeof path, "%s", om_tmpdir_path(dir, "run.json"));
    (void) snprintf(output, sizeof output, "%s", om_tmpdir_write(dir, "out", "x", 1));
    const char *const outputs[] = { output };
    memset(key, 'a', 64);
    key[64] = '\0';

    assert_int_equal(om_run_state_open(&s, path, NULL, &err), OM_OK);
    assert_false(om_run_state_fresh(&s, "profile", key, outputs, 1));
    memset(s.model_sha256, 'b', 64);
    memset(s.model_signature, 'c', 64);
    for (int i = 0; i < OM_RUN_MAX_STAGES + 3; i++) { /* more than there is room for */
        char name[64];
        (void) snprintf(name, sizeof name, "stage %d", i);
        assert_int_equal(om_run_state_done(&s, name, key, &err), OM_OK);
    }
    assert_int_equal(om_run_state_done(&s, "profile", key, &err), OM_OK);
    om_run_state_release(&s);

    assert_int_equal(om_run_state_open(&s, path, NULL, &err), OM_OK);
    assert_int_equal(s.n_stages, OM_RUN_MAX_STAGES);
    assert_true(om_run_state_fresh(&s, "profile", key, outputs, 1));
    key[0] = 'f';
    assert_false(om_run_state_fresh(&s, "profile", key, outputs, 1));
    key[0] = 'a';
    const char *const missing[] = { output, "/nowhere/else" };
    assert_false(om_run_state_fresh(&s, "profile", key, missing, 2));
    om_run_state_release(&s);

    (void) om_tmpdir_write(dir, "run.json", "{\"schema\":", 10);
    assert_int_equal(om_run_state_open(&s, path, NULL, &err), OM_OK);
    assert_int_equal(s.n_stages, 0);
    om_run_state_release(&s);
    om_tmpdir_remove(dir);
}

static void texts_are_split_once(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_error err = { 0 };
    om_run_texts t = { 0 };
    char a[256], b[256];
    (void) snprintf(a, sizeof a, "%s", om_tmpdir_write(dir, "a", "aaaaaaaa\nbbbbbbbb\nc\n", 20));
    (void) snprintf(b, sizeof b, "%s", om_tmpdir_write(dir, "b", "dddddddd\neeeeeeee\nf\n", 20));
    const char *const calib[] = { a, b };
    om_run_options o = { .calib = calib, .n_calib = 2, .out_dir = dir };

    assert_int_equal(om_run_texts_make(&t, &o, &err), OM_OK);
    assert_true(t.held_out);
    assert_false(t.built_in);
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(om_file_read(&text, &n, t.eval, 100, &err), OM_OK);
    assert_string_equal(text, "c\nf\n"); /* the end of each */
    om_free(text);
    assert_int_equal(om_file_read(&text, &n, t.calib[0], 100, &err), OM_OK);
    assert_string_equal(text, "aaaaaaaa\nbbbbbbbb\ndddddddd\neeeeeeee\n");
    om_free(text);
    om_run_texts_release(&t);

    o.eval_text = b; /* given: nothing is held out, files are used as they are */
    assert_int_equal(om_run_texts_make(&t, &o, &err), OM_OK);
    assert_false(t.held_out);
    assert_int_equal(t.n_calib, 2);
    assert_string_equal(t.calib[1], b);
    om_run_texts_release(&t);

    (void) om_tmpdir_write(dir, "a", "", 0);
    o = (om_run_options){ .calib = calib, .n_calib = 1, .out_dir = dir };
    assert_int_equal(om_run_texts_make(&t, &o, &err), OM_E_ARG);
    om_tmpdir_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_names),
        cmocka_unit_test(text_is_cut_at_a_line_end),
        cmocka_unit_test(baselines_are_not_larger),
        cmocka_unit_test(keys_tell_inputs_apart),
        cmocka_unit_test(state_survives_and_forgives),
        cmocka_unit_test(texts_are_split_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
