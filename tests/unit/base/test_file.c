/* base/file: bounded reads, mapped views, SHA-256 against published vectors, and writes that are
 * complete or absent whatever fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/temporary.h"
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

static void assert_content(const char *path, const char *text) {
    om_error err = { 0 };
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(om_file_read(&data, &n, path, 1 << 20, &err), OM_OK);
    assert_int_equal(n, strlen(text));
    assert_string_equal(data, text);
    om_free(data);
}

/* ---- reading ---- */

static void test_read_bounds(void **state) {
    om_error err = { 0 };
    char *data = NULL;
    size_t n = 99;
    const char *path = om_tmpdir_write(*state, "f", "hello", 5);
    assert_int_equal(om_file_read(&data, &n, path, 5, &err), OM_OK);
    assert_int_equal(n, 5);
    assert_string_equal(data, "hello");
    om_free(data);
    data = NULL;
    assert_int_equal(om_file_read(&data, &n, path, 4, &err), OM_E_FORMAT);
    assert_null(data);
    assert_non_null(strstr(err.text, path));

    err = (om_error){ 0 };
    assert_int_equal(om_file_read(&data, &n, om_tmpdir_path(*state, "none"), 4, &err), OM_E_IO);
    assert_int_equal(err.os_errno, ENOENT);
    err = (om_error){ 0 };
    assert_int_equal(om_file_read(&data, &n, *state, 4, &err), OM_E_IO); /* a folder */
    assert_null(data);

    path = om_tmpdir_write(*state, "empty", "", 0);
    err = (om_error){ 0 };
    assert_int_equal(om_file_read(&data, &n, path, SIZE_MAX, &err), OM_OK);
    assert_int_equal(n, 0);
    assert_string_equal(data, "");
    om_free(data);
}

/* A pipe has no size: the read must grow, and stop at the bound. */
static void test_read_pipe(void **state) {
    om_error err = { 0 };
    char *data = NULL;
    size_t n = 0;
    for (int round = 0; round < 2; round++) {
        const char *path = om_tmpdir_path(*state, round == 0 ? "pipe0" : "pipe1");
        assert_int_equal(mkfifo(path, 0600), 0);
        const pid_t pid = fork();
        if (pid == 0) {
            FILE *f = fopen(path, "wb");
            for (int i = 0; f != NULL && i < 20000; i++) {
                fprintf(f, "%05d", i);
            }
            _exit(f != NULL && fclose(f) == 0 ? 0 : 1);
        }
        const om_status want = round == 0 ? OM_OK : OM_E_FORMAT;
        assert_int_equal(om_file_read(&data, &n, path, round == 0 ? 100000 : 99999, &err), want);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    assert_int_equal(n, 100000);
    assert_memory_equal(data + 5 * 12345, "12345", 5);
    om_free(data);
}

static void test_map(void **state) {
    om_error err = { 0 };
    om_map map = { 0 };
    om_map_close(&map);
    const size_t n = 3 * 65536 + 17;
    unsigned char *bytes = malloc(n);
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char) (i * 7 + i / 256);
    }
    const char *path = om_tmpdir_write(*state, "f", bytes, n);
    assert_int_equal(om_map_open(&map, path, &err), OM_OK);
    assert_int_equal(map.size, n);
    assert_memory_equal(map.data, bytes, n);
    om_map_forget(&map, 1, n - 1); /* content comes back from the file */
    om_map_forget(&map, 0, SIZE_MAX);
    om_map_forget(&map, n + 5, 3);
    om_map_forget(&map, 100, 5);
    assert_memory_equal(map.data, bytes, n);
    om_map_close(&map);
    assert_null(map.data);
    free(bytes);

    assert_int_equal(om_map_open(&map, om_tmpdir_write(*state, "e", "", 0), &err), OM_OK);
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    om_map_forget(&map, 0, 10);
    om_map_close(&map);
    assert_int_equal(om_map_open(&map, om_tmpdir_path(*state, "none"), &err), OM_E_IO);
    err = (om_error){ 0 };
    assert_int_equal(om_map_open(&map, *state, &err), OM_E_IO);
    assert_non_null(strstr(err.text, "not a regular file"));
}

/* FIPS 180-2 and NIST long-message vectors. */
static void test_sha256(void **state) {
    om_error err = { 0 };
    char hex[65];
    om_sha256_bytes(hex, "abc", 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    om_sha256_bytes(hex, NULL, 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const size_t n = 1000000;
    char *a = malloc(n);
    memset(a, 'a', n);
    const char *path = om_tmpdir_write(*state, "million", a, n);
    free(a);
    assert_int_equal(om_sha256_file(hex, path, NULL, &err), OM_OK);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    path = om_tmpdir_write(*state, "empty", "", 0);
    assert_int_equal(om_sha256_file(hex, path, NULL, &err), OM_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(om_sha256_file(hex, om_tmpdir_path(*state, "none"), NULL, &err), OM_E_IO);
}

typedef struct watch {
    double last, total;
    int n, n_complete;
    bool went_back, cancel;
} watch;

static void on_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    watch *w = ud;
    w->n++;
    w->went_back =
        w->went_back || done < w->last || strcmp(stage, "hash") != 0 || strcmp(unit, "bytes") != 0;
    w->last = done;
    w->total = total;
    w->n_complete += done == total;
}

static bool on_cancel(void *ud) {
    return ((watch *) ud)->cancel;
}

static void test_sha256_progress_and_cancel(void **state) {
    om_error err = { 0 };
    char hex[65] = "untouched";
    const size_t n = 5u << 20;
    char *zeros = calloc(n, 1);
    const char *path = om_tmpdir_write(*state, "f", zeros, n);
    free(zeros);
    watch w = { 0 };
    const om_env env = { .progress = on_progress, .cancelled = on_cancel, .ud = &w };
    assert_int_equal(om_sha256_file(hex, path, &env, &err), OM_OK);
    assert_string_equal(hex, "c036cbb7553a909f8b8877d4461924307f27ecb66cff928eeeafd569c3887e29");
    assert_false(w.went_back);
    assert_int_equal(w.n_complete, 1);
    assert_true(w.total == (double) n && w.n >= 2);
    strcpy(hex, "untouched");
    w.cancel = true;
    assert_int_equal(om_sha256_file(hex, path, &env, &err), OM_E_CANCELLED);
    assert_string_equal(hex, "untouched");
}

/* ---- writing ---- */

static void test_write_replaces_at_once(void **state) {
    om_error err = { 0 };
    const char *path = om_tmpdir_write(*state, "out", "old", 3);
    om_atomic a = { 0 };
    assert_int_equal(om_atomic_open(&a, path, &err), OM_OK);
    assert_int_equal(om_atomic_write(&a, "new content", 11, &err), OM_OK);
    assert_int_equal(om_atomic_write(&a, NULL, 0, &err), OM_OK);
    assert_int_equal(fflush(a.file), 0);
    assert_content(path, "old");
    assert_int_equal(om_tmpdir_count(*state, ""), 2);
    assert_int_equal(om_atomic_commit(&a, &err), OM_OK);
    om_atomic_abort(&a);
    assert_content(path, "new content");
    assert_int_equal(om_tmpdir_count(*state, ""), 1);
}

static void test_abort_leaves_nothing(void **state) {
    om_error err = { 0 };
    om_atomic a = { 0 };
    om_atomic_abort(&a);
    assert_int_equal(om_atomic_open(&a, om_tmpdir_path(*state, "out"), &err), OM_OK);
    assert_int_equal(om_atomic_write(&a, "x", 1, &err), OM_OK);
    om_atomic_abort(&a);
    om_atomic_abort(&a);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
    assert_int_equal(om_atomic_commit(&a, &err), OM_E_INTERNAL);
}

/* Whatever write fails, as on a full disk: the old file stays, nothing is left over. */
static void test_full_disk(void **state) {
    const char *path = om_tmpdir_write(*state, "out", "old", 3);
    for (long at = 1;; at++) {
        om_error err = { 0 };
        om_file_fail_at(at);
        const om_status status = om_file_write(path, "new", 3, &err);
        om_file_fail_at(0);
        if (status == OM_OK) {
            assert_int_equal(at, 3); /* the write, the commit */
            break;
        }
        assert_int_equal(status, OM_E_IO);
        assert_int_equal(err.os_errno, ENOSPC);
        assert_non_null(strstr(err.text, path));
        assert_non_null(strstr(err.text, "No space left"));
        assert_content(path, "old");
        assert_int_equal(om_tmpdir_count(*state, ""), 1);
    }
    assert_content(path, "new");
}

static void test_short_memory(void **state) {
    const char *path = om_tmpdir_path(*state, "out");
    for (long at = 1;; at++) {
        om_error err = { 0 };
        om_mem_fail_at(at);
        const om_status status = om_file_write(path, "new", 3, &err);
        om_mem_fail_at(0);
        if (status == OM_OK) {
            assert_true(at > 2);
            break;
        }
        assert_int_equal(status, OM_E_NOMEM);
        assert_int_equal(om_tmpdir_count(*state, ""), 0);
    }
}

static void test_bad_targets(void **state) {
    char *dir = *state;
    om_error err = { 0 };
    om_atomic a = { 0 };
    assert_int_equal(om_atomic_open(&a, om_tmpdir_path(dir, "no/such/out"), &err), OM_E_IO);
    assert_non_null(strstr(err.text, "No such file or directory"));
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_open(&a, dir, &err), OM_E_IO);
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_open(&a, "/dev/null", &err), OM_E_IO);
    assert_non_null(strstr(err.text, "not a regular file"));
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_open(&a, "", &err), OM_E_IO);
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_open(&a, om_tmpdir_path(dir, "x/"), &err), OM_E_IO);
    om_tmpdir_write(dir, "file", "", 0);
    err = (om_error){ 0 };
    assert_int_equal(om_atomic_open(&a, om_tmpdir_path(dir, "file/out"), &err), OM_E_IO);
    assert_null(a.file);
    assert_null(a.tmp);
    assert_int_equal(om_tmpdir_count(dir, ""), 1);
}

static void test_same_target_twice(void **state) {
    om_error err = { 0 };
    om_atomic a = { 0 }, b = { 0 };
    const char *path = om_tmpdir_path(*state, "out");
    assert_int_equal(om_atomic_open(&a, path, &err), OM_OK);
    assert_int_equal(om_atomic_write(&a, "first", 5, &err), OM_OK);
    assert_int_equal(om_atomic_open(&b, path, &err), OM_E_ARG);
    om_atomic_abort(&b);
    assert_int_equal(om_atomic_commit(&a, &err), OM_OK);
    assert_content(path, "first");
}

/* The registry has an end, and says so. */
static void test_many_open_files(void **state) {
    enum { N = 1024 };
    static char names[N][16];
    om_atomic file = { 0 };
    om_error err = { 0 };
    bool busy = false;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "f%d", i);
        assert_true(om_temporary_add(names[i], &busy));
    }
    const char *path = om_tmpdir_path(*state, "out");
    assert_int_equal(om_atomic_open(&file, path, &err), OM_E_LIMIT);
    assert_true(om_temporary_take(names[N / 2]));
    assert_int_equal(om_atomic_open(&file, path, &err), OM_OK);
    assert_false(om_temporary_add(names[0], &busy));
    assert_true(busy);
    om_atomic_abort(&file);
    for (int i = 0; i < N; i++) {
        assert_int_equal(om_temporary_take(names[i]), i != N / 2);
    }
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
}

static void test_leftovers_of_dead_processes(void **state) {
    om_error err = { 0 };
    char name[64];
    const pid_t dead = fork();
    if (dead == 0) {
        _exit(0);
    }
    waitpid(dead, NULL, 0);
    snprintf(name, sizeof name, "out.tmp.%ld", (long) dead);
    om_tmpdir_write(*state, name, "half", 4);
    snprintf(name, sizeof name, "other.tmp.%ld", (long) dead);
    om_tmpdir_write(*state, name, "half", 4);
    om_tmpdir_write(*state, "out.tmp.12x", "mine", 4);
    snprintf(name, sizeof name, "out.tmp.%ld", (long) getppid()); /* alive */
    om_tmpdir_write(*state, name, "half", 4);
    snprintf(name, sizeof name, "out.tmp.%ld", (long) getpid()); /* an earlier owner of our PID */
    om_tmpdir_write(*state, name, "leftover", 8);
    assert_int_equal(om_file_write(om_tmpdir_path(*state, "out"), "x", 1, &err), OM_OK);
    assert_content(om_tmpdir_path(*state, "out"), "x");
    assert_int_equal(om_tmpdir_count(*state, "out.tmp."), 2);
    assert_int_equal(om_tmpdir_count(*state, "other.tmp."), 1);
}

static void test_abort_all_in_a_dying_process(void **state) {
    const pid_t pid = fork();
    if (pid == 0) {
        om_error err = { 0 };
        om_atomic a = { 0 }, b = { 0 };
        if (om_atomic_open(&a, om_tmpdir_path(*state, "a"), &err) != OM_OK ||
            om_atomic_open(&b, om_tmpdir_path(*state, "b"), &err) != OM_OK) {
            _exit(1);
        }
        if (om_tmpdir_count(*state, "tmp") != 2) {
            _exit(2);
        }
        om_atomic_abort_all();
        if (om_tmpdir_count(*state, "tmp") != 0) {
            _exit(3);
        }
        om_atomic_abort(&a); /* legal after it */
        _exit(om_atomic_commit(&b, &err) == OM_E_IO ? 0 : 4);
    }
    int wait_status = 0;
    waitpid(pid, &wait_status, 0);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
}

static void test_temporary_names(void **state) {
    om_error err = { 0 };
    char *a = NULL, *b = NULL;
    assert_int_equal(om_temporary_new(&a, *state, "t", &err), OM_OK);
    assert_int_equal(om_tmpdir_count(*state, ""), 0); /* a name only */
    assert_int_equal(om_temporary_new(&b, *state, "t", &err), OM_E_ARG);
    assert_null(b);
    assert_int_equal(om_file_write(a, "x", 1, &err), OM_OK); /* atomically, under that name */
    assert_content(a, "x");
    om_temporary_remove(a);
    assert_int_equal(om_tmpdir_count(*state, ""), 0);
    err = (om_error){ 0 };
    assert_int_equal(om_temporary_new(&b, *state, "t", &err), OM_OK); /* never written */
    om_temporary_remove(b);
    om_temporary_remove(NULL);
    err = (om_error){ 0 };
    b = NULL;
    assert_int_equal(om_temporary_new(&b, om_tmpdir_path(*state, "none"), "t", &err), OM_E_IO);
    assert_null(b);
}

/* A process dies with its file finished, with its file half written, and by a signal. */
static void test_temporaries_of_dying_processes(void **state) {
    for (int how = 0; how < 3; how++) {
        om_error err = { 0 };
        const pid_t pid = fork();
        if (pid == 0) {
            char *t = NULL;
            om_atomic a = { 0 };
            if (om_temporary_new(&t, *state, "t", &err) != OM_OK ||
                (how == 0 ? om_file_write(t, "x", 1, &err) : om_atomic_open(&a, t, &err)) !=
                    OM_OK) {
                _exit(1);
            }
            if (how == 2) {
                om_atomic_abort_all();
            }
            _exit(0);
        }
        int wait_status = 0;
        waitpid(pid, &wait_status, 0);
        assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
        assert_int_equal(om_tmpdir_count(*state, ""), how == 2 ? 0 : 1);
        char *next = NULL;
        assert_int_equal(om_temporary_new(&next, *state, "t", &err), OM_OK);
        assert_int_equal(om_tmpdir_count(*state, ""), 0);
        om_temporary_remove(next);
    }
}

/* ---- names and places ---- */

static void test_places(void **state) {
    om_error err = { 0 };
    const char *deep = om_tmpdir_path(*state, "a/b//c/");
    assert_int_equal(om_mkdirs(deep, &err), OM_OK);
    assert_int_equal(om_mkdirs(deep, &err), OM_OK);
    assert_true(om_file_exists(om_tmpdir_path(*state, "a/b/c")));
    assert_int_equal(om_mkdirs("/", &err), OM_OK);
    assert_int_equal(om_mkdirs("", &err), OM_OK);
    const char *file = om_tmpdir_write(*state, "file", "12345", 5);
    assert_int_equal(om_mkdirs(om_tmpdir_path(*state, "file/x"), &err), OM_E_IO);
    err = (om_error){ 0 };
    assert_int_equal(om_mkdirs(file, &err), OM_E_IO);
    assert_int_equal(om_file_size(file), 5);
    assert_int_equal(om_file_size(om_tmpdir_path(*state, "none")), -1);
    assert_false(om_file_exists(om_tmpdir_path(*state, "none")));
    assert_true(om_disk_free(file) > 0);
    assert_true(om_disk_free(om_tmpdir_path(*state, "none")) > 0);
    assert_int_equal(om_disk_free("/no/such/folder/at/all"), -1);
    err = (om_error){ 0 };
    assert_int_equal(om_disk_check(file, 1, &err), OM_OK);
    assert_int_equal(om_disk_check(file, INT64_MAX, &err), OM_E_IO);
    assert_non_null(strstr(err.text, "free some space"));
    assert_int_equal(om_path_length("a/b//"), 3);
    assert_int_equal(om_path_length("a/b"), 3);
    assert_int_equal(om_path_length("//"), 1);
    assert_int_equal(om_path_length(""), 0);

    static const char *const joined[][3] = {
        { "a", "b", "a/b" }, { "a/", "b", "a/b" }, { "", "b", "b" }, { "/", "b", "/b" }
    };
    for (size_t i = 0; i < 4; i++) {
        char *path = om_path_join(joined[i][0], joined[i][1]);
        assert_string_equal(path, joined[i][2]);
        om_free(path);
    }
}

static om_status check_output(const char *path, const char *input) {
    om_error err = { 0 };
    const om_status status = om_file_check_output(path, &input, 1, &err);
    assert_true((status == OM_OK) == (err.text[0] == '\0'));
    return status;
}

static void test_outputs_are_no_inputs(void **state) {
    const char *in = om_tmpdir_write(*state, "in", "x", 1);
    const char *link = om_tmpdir_path(*state, "link");
    assert_int_equal(symlink(in, link), 0);
    assert_int_equal(check_output(om_tmpdir_path(*state, "out"), in), OM_OK);
    assert_int_equal(check_output(om_tmpdir_path(*state, "out"), NULL), OM_OK);
    assert_int_equal(check_output(NULL, in), OM_OK);
    assert_int_equal(check_output(in, in), OM_E_ARG);
    assert_int_equal(check_output(link, in), OM_E_ARG);
    assert_int_equal(check_output("same", "same"), OM_E_ARG); /* two outputs not yet there */
    assert_int_equal(check_output(om_tmpdir_path(*state, "none/out"), in), OM_E_IO);
    assert_int_equal(check_output(om_tmpdir_path(*state, "in/out"), NULL), OM_E_IO);
    assert_int_equal(check_output(*state, in), OM_E_IO);
    assert_content(in, "x");
    assert_int_equal(om_tmpdir_count(*state, ""), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_pipe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_map, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sha256, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sha256_progress_and_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_replaces_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_targets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_target_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_open_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leftovers_of_dead_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_all_in_a_dying_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_temporary_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_temporaries_of_dying_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_places, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outputs_are_no_inputs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
