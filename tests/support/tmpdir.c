/* Test folders. Uses the C library only: what is tested must not build its own bench. */
#include "tmpdir.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_BUFFERS = 16, MAX_PATH = 4096 };

static void die(const char *what, const char *path) {
    fprintf(stderr, "tmpdir: cannot %s %s\n", what, path);
    exit(1);
}

/* Cut silently only if a test uses a path longer than any it could open. */
static const char *join(const char *dir, const char *name) {
    static char buffers[N_BUFFERS][MAX_PATH];
    static unsigned next;
    char *dst = buffers[next++ % N_BUFFERS];
    if (snprintf(dst, MAX_PATH, "%s/%s", dir, name) >= MAX_PATH) {
        die("join", dir);
    }
    return dst;
}

char *om_tmpdir_new(void) {
    const char *base = getenv("TMPDIR");
    char *dir = malloc(MAX_PATH);
    if (dir == NULL) {
        die("allocate a name in", "/tmp");
        return NULL;
    }
    snprintf(dir, MAX_PATH, "%s/optimum-test-XXXXXX", base != NULL && *base != 0 ? base : "/tmp");
    if (mkdtemp(dir) == NULL) {
        die("create", dir);
    }
    return dir;
}

static void remove_tree(const char *path) {
    struct stat st;
    if (lstat(path, &st) != 0) {
        return;
    }
    if (!S_ISDIR(st.st_mode)) {
        (void) unlink(path);
        return;
    }
    (void) chmod(path, 0700); /* tests make folders read-only */
    DIR *d = opendir(path);
    for (const struct dirent *e = d == NULL ? NULL : readdir(d); e != NULL; e = readdir(d)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            char *child = malloc(strlen(path) + strlen(e->d_name) + 2);
            if (child == NULL) {
                die("remove", path);
                return;
            }
            sprintf(child, "%s/%s", path, e->d_name);
            remove_tree(child);
            free(child);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    (void) rmdir(path);
}

void om_tmpdir_remove(char *dir) {
    if (dir != NULL) {
        remove_tree(dir);
        free(dir);
    }
}

const char *om_tmpdir_path(const char *dir, const char *name) {
    return join(dir, name);
}

const char *om_tmpdir_write(const char *dir, const char *name, const void *data, size_t n) {
    const char *path = join(dir, name);
    FILE *f = fopen(path, "wb");
    if (f == NULL) {
        die("create", path);
        return NULL;
    }
    const size_t written = n == 0 ? 0 : fwrite(data, 1, n, f);
    if (fclose(f) != 0 || written != n) {
        die("write", path);
    }
    return path;
}

int om_tmpdir_count(const char *dir, const char *part) {
    int n = 0;
    DIR *d = opendir(dir);
    if (d == NULL) {
        return 0;
    }
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        const int dots = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
        n += !dots && strstr(e->d_name, part) != NULL;
    }
    closedir(d);
    return n;
}

const char *om_shared_path(const char *name) {
    const char *shared = getenv("OPTIMUM_SHARED");
    const char *path =
        join(shared != NULL && *shared != 0 ? shared : OM_TEST_SOURCE_DIR "/../shared", name);
    return access(path, R_OK) == 0 ? path : NULL;
}
