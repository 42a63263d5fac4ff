/* Directories that are complete or absent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/atomic_dir.h"
#include "base/mem.h"
#include "tmpdir.h"

static int setup(void **state) {
    *state = om_tmpdir_new();
    return 0;
}

static int teardown(void **state) {
    om_mem_fail_at(0);
    om_file_fail_at(0);
    om_tmpdir_remove(*state);
    return 0;
}

static bool is_a_or(const void *ud, const char *name) {
    return strcmp(name, "a") == 0 || strcmp(name, ud) == 0;
}

static const om_dir_ours ours = { is_a_or, "b" };

static void assert_content(const char *dir, const char *name, const char *want) {
    char *text = NULL;
    size_t n = 0;
    om_error err = { 0 };
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(om_file_read(&text, &n, path, 1000, &err), OM_OK);
    assert_string_equal(text, want);
    om_free(text);
}

/* "a" and "b" with the same content, all steps checked. */
static om_status write_both(const char *path, const char *content, om_error *err) {
    om_status status = OM_OK;
    om_atomic_dir d = { 0 };
    om_atomic file = { 0 };
    *err = (om_error){ 0 };
    status = om_atomic_dir_open(&d, path, err);
    if (status == OM_OK) {
        status = om_atomic_dir_file(&file, &d, "a", err);
    }
    if (status == OM_OK) {
        status = om_atomic_write(&file, content, strlen(content), err);
    }
    if (status == OM_OK) {
        status = om_atomic_dir_close(&file, err);
    }
    if (status == OM_OK) {
        status = om_atomic_dir_write(&d, "b", content, strlen(content), err);
    }
    if (status == OM_OK) {
        status = om_atomic_dir_commit(&d, ours, err);
    }
    om_atomic_dir_abort_file(&file);
    om_atomic_dir_abort(&d);
    return status;
}

static void complete_or_absent(void **state) {
    om_error err = { 0 };
    om_atomic_dir d = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    assert_int_equal(om_atomic_dir_open(&d, path, &err), OM_OK);
    assert_int_equal(om_atomic_dir_write(&d, "a", "1", 1, &err), OM_OK);
    assert_false(om_file_exists(path));
    assert_int_equal(om_tmpdir_count(*state, "out.tmp."), 1);
    om_atomic_dir_abort(&d);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
    assert_int_equal(write_both(path, "2", &err), OM_OK);
    assert_content(path, "a", "2");
    assert_content(path, "b", "2");
    assert_int_equal(om_tmpdir_count(*state, ""), 1);
}

static void an_older_result_is_replaced(void **state) {
    om_error err = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    assert_int_equal(mkdir(path, 0777), 0); /* an empty one is as good as none */
    assert_int_equal(om_atomic_dir_check(path, ours, &err), OM_OK);
    assert_int_equal(write_both(path, "first", &err), OM_OK);
    assert_int_equal(om_atomic_dir_check(path, ours, &err), OM_OK);
    assert_int_equal(write_both(path, "second", &err), OM_OK);
    assert_content(path, "a", "second");
    assert_int_equal(om_tmpdir_count(*state, ""), 1);
}

static void what_is_not_ours_stays(void **state) {
    om_error err = { 0 };
    char path[300], inner[320];
    snprintf(path, sizeof path, "%s/out", (char *) *state);
    snprintf(inner, sizeof inner, "%s/out/a", (char *) *state);
    assert_int_equal(mkdir(path, 0777), 0);
    om_tmpdir_write(path, "thesis.txt", "years", 5);
    assert_int_equal(om_atomic_dir_check(path, ours, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "thesis.txt"));
    assert_int_equal(write_both(path, "x", &err), OM_E_ARG); /* commit asks again */
    assert_content(path, "thesis.txt", "years");
    assert_int_equal(om_tmpdir_count(*state, ""), 1);
    assert_int_equal(unlink(om_tmpdir_path(path, "thesis.txt")), 0);
    assert_int_equal(mkdir(inner, 0777), 0); /* a name of ours, but a directory */
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_dir_check(path, ours, &err), OM_E_ARG);
}

static void names_that_cannot_be(void **state) {
    om_error err = { 0 };
    static const char *const names[] = { "", ".", "..", "x/", "x/.." };
    om_tmpdir_write(*state, "file", "x", 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(om_atomic_dir_check(names[i], ours, &err), OM_E_IO);
    }
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_dir_check(om_tmpdir_path(*state, "file"), ours, &err), OM_E_IO);
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_dir_check(om_tmpdir_path(*state, "no/such"), ours, &err), OM_E_IO);
    assert_int_equal(err.os_errno != 0, 1);
}

static void same_target_twice(void **state) {
    om_error err = { 0 };
    om_atomic_dir d = { 0 }, e = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    assert_int_equal(om_atomic_dir_open(&d, path, &err), OM_OK);
    assert_int_equal(om_atomic_dir_open(&e, path, &err), OM_E_ARG);
    assert_int_equal(om_tmpdir_count(*state, "out.tmp."), 1);
    om_atomic_dir_abort(&d);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
}

static void failing_writes_leave_nothing(void **state) {
    om_error err = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    bool succeeded = false;
    for (long n = 1; n < 20 && !succeeded; n++) {
        om_file_fail_at(n);
        succeeded = write_both(path, "x", &err) == OM_OK;
        om_file_fail_at(0);
        if (!succeeded) {
            assert_int_equal(err.status, OM_E_IO);
            assert_non_null(strstr(err.text, "No space left"));
            assert_null(strstr(err.text, ".tmp."));
            assert_int_equal(om_tmpdir_count(*state, ""), 0);
        }
    }
    assert_true(succeeded);
}

static void failing_allocations_leave_nothing(void **state) {
    om_error err = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    bool succeeded = false;
    for (long n = 1; n < 100 && !succeeded; n++) {
        om_mem_fail_at(n);
        succeeded = write_both(path, "x", &err) == OM_OK;
        om_mem_fail_at(0);
        assert_int_equal(om_tmpdir_count(*state, ""), succeeded ? 1 : 0);
    }
    assert_true(succeeded);
}

static void leftovers_of_dead_processes(void **state) {
    om_error err = { 0 };
    char name[300];
    const pid_t dead = fork();
    if (dead == 0) {
        _exit(0);
    }
    waitpid(dead, NULL, 0);
    const pid_t pids[] = { dead, getpid() };
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s/out.tmp.%ld", (char *) *state, (long) pids[i]);
        assert_int_equal(mkdir(name, 0777), 0);
        om_tmpdir_write(name, "a", "half", 4);
    }
    assert_int_equal(write_both(om_tmpdir_path(*state, "out"), "x", &err), OM_OK);
    assert_int_equal(om_tmpdir_count(*state, ""), 1);
}

/* Who may write beside the target may guess our temporary name. */
static void a_link_of_that_name_is_not_followed(void **state) {
    om_error err = { 0 };
    char victim[300], name[300];
    snprintf(victim, sizeof victim, "%s/victim", (char *) *state);
    snprintf(name, sizeof name, "%s/out.tmp.%ld", (char *) *state, (long) getpid());
    assert_int_equal(mkdir(victim, 0777), 0);
    om_tmpdir_write(victim, "a", "years", 5);
    assert_int_equal(symlink(victim, name), 0);
    assert_int_equal(write_both(om_tmpdir_path(*state, "out"), "x", &err), OM_E_IO);
    assert_content(victim, "a", "years");
    /* nor is a directory used in which something is that we cannot remove */
    char inner[320];
    snprintf(inner, sizeof inner, "%s/inner", name);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(mkdir(name, 0777), 0);
    assert_int_equal(mkdir(inner, 0777), 0);
    err = (om_error){ 0 };
    assert_int_equal(write_both(om_tmpdir_path(*state, "out"), "x", &err), OM_E_IO);
    assert_false(om_file_exists(om_tmpdir_path(*state, "out")));
    assert_int_equal(rmdir(inner), 0);
}

static void abort_all_in_a_dying_process(void **state) {
    const pid_t pid = fork();
    if (pid == 0) {
        om_error err = { 0 };
        om_atomic_dir d = { 0 };
        om_atomic file = { 0 };
        if (om_atomic_dir_open(&d, om_tmpdir_path(*state, "out"), &err) != OM_OK ||
            om_atomic_dir_write(&d, "a", "1", 1, &err) != OM_OK ||
            om_atomic_dir_file(&file, &d, "b", &err) != OM_OK) {
            _exit(1);
        }
        om_atomic_abort_all();
        if (om_tmpdir_count(*state, "") != 0) {
            _exit(2);
        }
        om_atomic_dir_abort_file(&file); /* legal after it */
        _exit(om_atomic_dir_commit(&d, ours, &err) != OM_OK ? 0 : 3);
    }
    int wait_status = 0;
    waitpid(pid, &wait_status, 0);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
}

static void lists_are_sorted(void **state) {
    om_error err = { 0 };
    char **names = NULL;
    int n = 0;
    for (int i = 99; i >= 0; i--) {
        char name[16];
        snprintf(name, sizeof name, "%02d", i);
        om_tmpdir_write(*state, name, "", 0);
    }
    assert_int_equal(om_dir_list(&names, &n, *state, &err), OM_OK);
    assert_int_equal(n, 100);
    assert_string_equal(names[0], "00");
    assert_string_equal(names[99], "99");
    om_dir_list_free(names, n);
    assert_int_equal(om_dir_list(&names, &n, om_tmpdir_path(*state, "no"), &err), OM_E_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(complete_or_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(an_older_result_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_ours_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_cannot_be, setup, teardown),
        cmocka_unit_test_setup_teardown(same_target_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_writes_leave_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_allocations_leave_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(leftovers_of_dead_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_link_of_that_name_is_not_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(abort_all_in_a_dying_process, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_are_sorted, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
