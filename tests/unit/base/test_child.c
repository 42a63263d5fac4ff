/* base/child: programs of the system, fed, read, stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/child.h"
#include "base/log.h"
#include "base/mem.h"

static om_status sh(om_child_result *out, const char *script, const char *input, size_t n,
                    size_t max_output, const om_env *env, om_error *err) {
    const char *const argv[] = { "sh", "-c", script, NULL };
    const om_child child = { .argv = argv, .input = input, .n_input = n, .max_output = max_output };
    return om_child_run(out, &child, env, err);
}

static void reads_and_prints(void **state) {
    (void) state;
    om_error err = { 0 };
    om_child_result r;
    assert_int_equal(sh(&r, "cat; echo done", "some\ntext", 9, 0, NULL, &err), OM_OK);
    assert_string_equal(r.output.data, "some\ntextdone\n");
    assert_string_equal(r.last_line, "");
    assert_int_equal(r.exit_code, 0);
    om_child_result_release(&r);
    assert_int_equal(sh(&r, "wc -c", NULL, 0, 0, NULL, &err),
                     OM_OK); /* no input: empty, not ours */
    assert_int_equal(strtol(r.output.data, NULL, 10), 0);
    om_child_result_release(&r);
}

/* More than the pipes hold, both ways, and nobody waits for the other. */
static void much_of_both(void **state) {
    (void) state;
    enum { N = 3 << 20 };
    om_error err = { 0 };
    om_child_result r;
    char *input = om_calloc(N, 1);
    memset(input, 'x', N);
    assert_int_equal(sh(&r, "cat; head -c 300000 /dev/zero >&2", input, N, N, NULL, &err), OM_OK);
    assert_int_equal(r.output.len, N);
    assert_memory_equal(r.output.data, input, N);
    om_child_result_release(&r);
    /* a child that does not read its input */
    assert_int_equal(sh(&r, "exit 3", input, N, 0, NULL, &err), OM_OK);
    assert_int_equal(r.exit_code, 3);
    om_child_result_release(&r);
    assert_int_equal(sh(&r, "cat", input, N, N - 1, NULL, &err), OM_E_LIMIT);
    om_free(input);
}

static void count_lines(void *ud, om_log_level level, const char *line) {
    assert_int_equal(level, OM_LOG_DEBUG);
    assert_true(strlen(line) > 0);
    (*(int *) ud)++;
}

static void tells_what_it_said_last(void **state) {
    (void) state;
    int n = 0;
    const om_env env = { .log = count_lines, .ud = &n };
    om_error err = { 0 };
    om_child_result r;
    assert_int_equal(
        sh(&r, "printf 'one\\n10%%\\r20%%\\n\\n  \\nlast' >&2; exit 7", NULL, 0, 0, &env, &err),
        OM_OK);
    assert_string_equal(r.last_line, "last");
    assert_int_equal(r.exit_code, 7);
    assert_int_equal(n, 4);
    om_child_result_release(&r);
    assert_int_equal(sh(&r, "kill -TERM $$", NULL, 0, 0, NULL, &err), OM_OK);
    assert_int_equal(r.exit_code, 128 + 15);
    om_child_result_release(&r);
}

/* An exit code that is lost must not look like success. */
static void nobody_tells_the_exit_code(void **state) {
    (void) state;
    om_error err = { 0 };
    om_child_result r;
    assert_true(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
    assert_int_equal(sh(&r, "echo done; exit 3", NULL, 0, 0, NULL, &err), OM_OK);
    assert_true(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
    assert_string_equal(r.output.data, "done\n");
    assert_int_equal(r.exit_code, -1);
    om_child_result_release(&r);
}

static void no_such_program(void **state) {
    (void) state;
    const char *const argv[] = { "optimum-no-such-program", NULL };
    const om_child child = { .argv = argv };
    om_error err = { 0 };
    om_child_result r = { 0 };
    assert_int_equal(om_child_run(&r, &child, NULL, &err), OM_E_IO);
    assert_int_equal(err.os_errno, ENOENT);
    assert_non_null(strstr(err.text, "optimum-no-such-program"));
    assert_null(r.output.data);
}

static bool after_some_polls(void *ud) {
    return atomic_fetch_add((atomic_int *) ud, 1) >= 2;
}

/* One that sleeps, and one that will not hear of SIGTERM. */
static void cancelled(void **state) {
    (void) state;
    const char *const scripts[] = { "exec sleep 60",
                                    "trap '' TERM; exec >&- 2>&-; while :; do sleep 1; done" };
    for (int i = 0; i < 2; i++) {
        atomic_int polls = 0;
        const om_env env = { .cancelled = after_some_polls, .ud = &polls };
        om_error err = { 0 };
        om_child_result r = { 0 };
        const double start = om_now_s();
        assert_int_equal(sh(&r, scripts[i], NULL, 0, 0, &env, &err), OM_E_CANCELLED);
        assert_true(om_now_s() - start < 20.0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_prints),        cmocka_unit_test(much_of_both),
        cmocka_unit_test(tells_what_it_said_last), cmocka_unit_test(nobody_tells_the_exit_code),
        cmocka_unit_test(no_such_program),         cmocka_unit_test(cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
