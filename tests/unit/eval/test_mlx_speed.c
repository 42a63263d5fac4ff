/* eval/mlx_speed against programs that stand in for Python, and against a real one without mlx_lm
 * when there is any. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "eval/mlx_speed.h"
#include "tmpdir.h"

static char *dir;

static int set_up(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    unsetenv("OPTIMUM_PYTHON");
    om_tmpdir_remove(dir);
    return 0;
}

/* A "Python" that runs this shell script; its arguments and input go to files. */
static void stand_in(const char *script) {
    om_buf b = { 0 };
    om_buf_printf(&b, "#!/bin/sh\n[ \"$1\" = -c ] || exit 9\ncat >%s/input\n%s\n", dir, script);
    const char *path = om_tmpdir_write(dir, "python", b.data, b.len);
    om_buf_release(&b);
    assert_int_equal(chmod(path, 0755), 0);
    setenv("OPTIMUM_PYTHON", path, 1);
}

static int n_warnings;

static void on_log(void *ud, om_log_level level, const char *line) {
    (void) ud;
    (void) line;
    n_warnings += level == OM_LOG_WARN;
}

#define SAYS "echo '{\"schema\":\"optimum.mlx_speed/1\","
#define NUMBERS                                                                \
    "\"runtime\":\"mlx_lm 1.2.3\",\"device\":\"M9\",\"prefill_tok_s\":100.5,"  \
    "\"decode_tok_s\":10.25,\"ttft_s\":0.5,\"peak_memory_bytes\":12345678901," \
    "\"probe_tokens\":100,\"probe_ppl\":7.5,"

static om_status measure(om_speed *s, om_error *err) {
    const om_env env = { .log = on_log };
    const int32_t tokens[3] = { 5, 6, 7 };
    n_warnings = 0;
    *err = (om_error){ 0 };
    return om_mlx_speed_measure(s, "some dir", tokens, 3, &env, err);
}

static void takes_over_what_it_says(void **state) {
    (void) state;
    om_speed s = { 0 };
    om_error err;
    stand_in(SAYS NUMBERS "\"prompt_tokens\":512,\"answer_tokens\":64,\"f32\":false}'");
    if (measure(&s, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(s.runtime, "mlx_lm 1.2.3");
    assert_string_equal(s.device, "M9");
    assert_true(s.prefill_tok_s == 100.5 && s.decode_tok_s == 10.25 && s.ttft_s == 0.5);
    assert_int_equal(s.memory_bytes, INT64_C(12345678901));
    assert_true(s.probe_tokens == 100 && s.probe_ppl == 7.5);
    assert_int_equal(n_warnings, 0);
    char input[8192] = { 0 };
    FILE *f = fopen(om_tmpdir_path(dir, "input"), "r");
    assert_non_null(f);
    assert_true(fread(input, 1, sizeof input - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(input, "\"model\": \"some dir\""));
    assert_non_null(strstr(input, "\"answer\": 64"));
    assert_non_null(strstr(input, "\"probe\": 3"));
    int commas = 0;
    for (const char *c = strchr(input, '['); *c != ']'; c++) {
        commas += *c == ',';
    }
    assert_int_equal(commas, 511);
    /* what it could not do as asked is said */
    stand_in(SAYS NUMBERS "\"prompt_tokens\":20,\"answer_tokens\":64,\"f32\":true}'");
    assert_int_equal(measure(&s, &err), OM_OK);
    assert_int_equal(n_warnings, 2);
}

static void what_goes_wrong_is_said(void **state) {
    (void) state;
    const struct {
        const char *script;
        om_status status;
        const char *said;
    } cases[] = {
        { SAYS "\"missing\":\"/usr/bin/python9\"}'", OM_E_UNSUPPORTED, "python9 has no mlx_lm" },
        { SAYS "\"error\":\"ValueError: bad shape\"}'", OM_E_UNSUPPORTED, "ValueError: bad shape" },
        { "echo 'Killed by metal' >&2; exit 1", OM_E_UNSUPPORTED, "Killed by metal" },
        { "kill -9 $$", OM_E_UNSUPPORTED, "137" },
        { "echo hello", OM_E_FORMAT, "what mlx_lm measured" },
        { "exit 0", OM_E_FORMAT, "what mlx_lm measured" },
        { "echo '{\"schema\":\"optimum.mlx_speed/2\"}'", OM_E_FORMAT, "mlx_speed" },
        { SAYS "\"runtime\":\"x\"}'", OM_E_FORMAT, "device" },
        { SAYS NUMBERS "\"prompt_tokens\":0,\"answer_tokens\":64,\"f32\":false}'", OM_E_FORMAT,
          "prompt_tokens" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        om_speed s = { .runtime = "untouched" };
        om_error err;
        stand_in(cases[i].script);
        assert_int_equal(measure(&s, &err), cases[i].status);
        if (strstr(err.text, cases[i].said) == NULL) {
            fail_msg("case %zu says: %s", i, err.text);
        }
        assert_string_equal(s.runtime, "untouched");
    }
    setenv("OPTIMUM_PYTHON", om_tmpdir_path(dir, "none"), 1);
    om_error err = { 0 };
    assert_int_equal(om_mlx_speed_check(NULL, &err), OM_E_IO);
    assert_non_null(strstr(err.text, "OPTIMUM_PYTHON"));
}

/* The embedded program itself: a Python that looks nowhere but into its own library has no mlx_lm.
 */
static void a_real_python(void **state) {
    (void) state;
    om_error err = { 0 };
    if (system("python3 -c 'import json, importlib.metadata' 2>/dev/null") != 0) {
        skip();
    }
    const char *path = om_tmpdir_write(dir, "bare", "#!/bin/sh\nexec python3 -S -E \"$@\"\n", 34);
    assert_int_equal(chmod(path, 0755), 0);
    setenv("OPTIMUM_PYTHON", path, 1);
    assert_int_equal(om_mlx_speed_check(NULL, &err), OM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "has no mlx_lm"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_over_what_it_says),
        cmocka_unit_test(what_goes_wrong_is_said),
        cmocka_unit_test(a_real_python),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
