/* Digests remembered between runs: found again, forgotten when the file changes, never for fresh
 * files. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash_cache.h"
#include "tmpdir.h"

static char *dir;

static int set_up(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return setenv("XDG_CACHE_HOME", dir, 1);
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* A sparse file with one byte set, last changed an hour ago as far as `modified` goes. */
static const char *make_file(const char *name, off_t size, char byte) {
    const char *path = om_tmpdir_path(dir, name);
    const int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0 && ftruncate(fd, size) == 0 && pwrite(fd, &byte, 1, 100) == 1);
    close(fd);
    return path;
}

/* What stat says, as if contents and inode had changed an hour ago. */
static struct stat old_stat(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
#if defined(__APPLE__)
    st.st_mtimespec.tv_sec -= 3600, st.st_ctimespec.tv_sec -= 3600;
#else
    st.st_mtim.tv_sec -= 3600, st.st_ctim.tv_sec -= 3600;
#endif
    return st;
}

static void test_round_trip(void **state) {
    (void) state;
    char hex[65], digest[65];
    memset(digest, 'a', 64);
    digest[64] = 0;
    struct stat st = old_stat(make_file("big", OM_HASH_CACHE_MIN_BYTES, 1));
    assert_false(om_hash_cache_get(hex, &st));
    om_hash_cache_put(digest, &st);
    assert_true(om_hash_cache_get(hex, &st));
    assert_string_equal(hex, digest);
    struct stat changed = st; /* any part of the identity counts */
    changed.st_size++;
    assert_false(om_hash_cache_get(hex, &changed));
    changed = st;
    changed.st_ino++;
    assert_false(om_hash_cache_get(hex, &changed));
    assert_int_equal(setenv("OPTIMUM_NO_HASH_CACHE", "1", 1), 0);
    assert_false(om_hash_cache_get(hex, &st));
    assert_int_equal(unsetenv("OPTIMUM_NO_HASH_CACHE"), 0);
}

static void test_small_and_fresh_are_not_kept(void **state) {
    (void) state;
    char hex[65], digest[65];
    memset(digest, 'b', 64);
    digest[64] = 0;
    struct stat st = old_stat(make_file("small", OM_HASH_CACHE_MIN_BYTES - 1, 1));
    om_hash_cache_put(digest, &st);
    assert_false(om_hash_cache_get(hex, &st));
    assert_int_equal(stat(make_file("fresh", OM_HASH_CACHE_MIN_BYTES, 1), &st), 0);
    om_hash_cache_put(digest, &st);
    assert_false(om_hash_cache_get(hex, &st));
}

/* Through om_sha256_file: a file just changed is read, whatever was there before. */
static void test_change_is_seen(void **state) {
    (void) state;
    char before[65], after[65];
    om_error err = { 0 };
    const char *path = make_file("changing", OM_HASH_CACHE_MIN_BYTES, 1);
    assert_int_equal(om_sha256_file(before, path, NULL, &err), OM_OK);
    (void) make_file("changing", OM_HASH_CACHE_MIN_BYTES, 2);
    assert_int_equal(om_sha256_file(after, path, NULL, &err), OM_OK);
    assert_string_not_equal(before, after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_small_and_fresh_are_not_kept),
        cmocka_unit_test(test_change_is_seen),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
