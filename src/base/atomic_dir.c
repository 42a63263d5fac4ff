/* Directories written beside their target and renamed when complete.
 *
 * Each file of a directory under construction is registered like a temporary file of its own, and
 * so is the directory, so that a signal handler can remove them (temporary.c).
 *
 * rename() replaces an empty directory only. An older result is moved to PATH.old.PID first, which
 * leaves a moment in which neither stands under the name; both are complete then. */
#include "base/atomic_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/temporary.h"

/* ---- listing ---- */

void om_dir_list_free(char **names, int n) {
    for (int i = 0; names != NULL && i < n; i++) {
        om_free(names[i]);
    }
    om_free(names);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *) a, *(char *const *) b);
}

static om_status add_name(char ***names, int *n, int *cap, const char *name, om_error *err) {
    if (*n == *cap) {
        const int more = *cap == 0 ? 32 : *cap * 2;
        char **grown = om_realloc(*names, (size_t) more, sizeof **names);
        if (grown == NULL) {
            return om_fail_nomem(err, (size_t) more * sizeof **names);
        }
        *names = grown;
        *cap = more;
    }
    (*names)[*n] = om_strdup(name);
    if ((*names)[*n] == NULL) {
        return om_fail_nomem(err, strlen(name));
    }
    ++*n;
    return OM_OK;
}

om_status om_dir_list(char ***out, int *n, const char *path, om_error *err) {
    om_status status = OM_OK;
    char **names = NULL;
    int count = 0, cap = 0;
    DIR *d = opendir(path);
    if (d == NULL) {
        return om_fail_errno(err, "cannot read the directory %s", path);
    }
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (e == NULL) {
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            OM_TRY(add_name(&names, &count, &cap, e->d_name, err));
        }
    }
    if (errno != 0) {
        OM_TRY(om_fail_errno(err, "cannot read the directory %s", path));
    }
    if (count > 0) {
        qsort(names, (size_t) count, sizeof *names, by_name);
    }
    *out = names;
    *n = count;
    names = NULL;
out:
    closedir(d);
    om_dir_list_free(names, count);
    return status;
}

/* ---- the target ---- */

static om_status check_old(bool *exists, const char *path, om_dir_ours ours, om_error *err) {
    om_status status = OM_OK;
    struct stat st;
    char **names = NULL;
    int n = 0;
    *exists = lstat(path, &st) == 0;
    if (!*exists) {
        return OM_OK;
    }
    if (!S_ISDIR(st.st_mode)) {
        return om_fail(err, OM_E_IO, "cannot write the directory %s: something else has this name",
                       path);
    }
    OM_TRY(om_dir_list(&names, &n, path, err));
    for (int i = 0; i < n; i++) {
        char *entry = om_path_join(path, names[i]);
        const bool file = entry != NULL && lstat(entry, &st) == 0 && !S_ISDIR(st.st_mode);
        om_free(entry);
        if (!file || !ours.is(ours.ud, names[i])) {
            OM_TRY(om_fail(err, OM_E_ARG,
                           "%s exists and holds %s, which would be lost: move the directory away, "
                           "or write to another name",
                           path, names[i]));
        }
    }
out:
    om_dir_list_free(names, n);
    return status;
}

om_status om_atomic_dir_check(const char *path, om_dir_ours ours, om_error *err) {
    om_status status = OM_OK;
    struct stat st;
    bool exists = false;
    char *parent = om_directory_of(path);
    if (parent == NULL) {
        return om_fail_nomem(err, strlen(path));
    }
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        OM_TRY(om_fail(err, OM_E_IO, "cannot write '%s': expected the name of a directory", path));
    }
    if (stat(parent, &st) != 0 || access(parent, W_OK | X_OK) != 0) {
        OM_TRY(om_fail_errno(err, "cannot write %s: its directory %s", path, parent));
    }
    OM_TRY(check_old(&exists, path, ours, err));
out:
    om_free(parent);
    return status;
}

/* ---- construction ---- */

/* Files that are `ours`; anything that came meanwhile stays, and the directory too. */
static void remove_old(const char *path, om_dir_ours ours) {
    om_error ignored = { 0 };
    char **names = NULL;
    int n = 0;
    if (om_dir_list(&names, &n, path, &ignored) != OM_OK) {
        return;
    }
    for (int i = 0; i < n; i++) {
        char *entry = ours.is(ours.ud, names[i]) ? om_path_join(path, names[i]) : NULL;
        if (entry != NULL) {
            (void) unlink(entry);
        }
        om_free(entry);
    }
    (void) rmdir(path);
    om_dir_list_free(names, n);
}

static om_status add_temporary(char *tmp, const char *path, om_error *err) {
    bool busy = false;
    if (!om_temporary_add(tmp, &busy)) {
        return om_fail(err, busy ? OM_E_ARG : OM_E_LIMIT,
                       busy ? "%s is already being written"
                            : "cannot write %s: too many files under construction",
                       path);
    }
    return OM_OK;
}

om_status om_atomic_dir_open(om_atomic_dir *out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_buf tmp = { 0 };
    om_atomic_dir d = { .path = om_strdup(path) };
    char *parent = om_directory_of(path), *name = NULL;
    om_buf_printf(&tmp, "%s.tmp.%ld", path, (long) getpid());
    name = om_buf_take(&tmp);
    if (parent == NULL || d.path == NULL || name == NULL) {
        OM_TRY(om_fail_nomem(err, strlen(path)));
    }
    om_temporary_clean(parent, path);
    OM_TRY(add_temporary(name, path, err));
    d.tmp = name;
    name = NULL;
    bool made = mkdir(d.tmp, 0777) == 0;
    if (!made && errno == EEXIST) {
        /* ours by PID but not open here: a dead process had the same number */
        om_directory_remove(AT_FDCWD, d.tmp);
        made = mkdir(d.tmp, 0777) == 0;
    }
    if (!made) {
        OM_TRY(om_fail_errno(err, "cannot create the directory %s", d.tmp));
    }
    *out = d;
    d = (om_atomic_dir){ 0 };
out:
    om_free(parent);
    om_free(name);
    om_atomic_dir_abort(&d);
    return status;
}

/* A new registered name in the directory; borrowed from d->files. */
static om_status add_file(char **out, om_atomic_dir *d, const char *name, om_error *err) {
    om_status status = OM_OK;
    char *tmp = om_path_join(d->tmp, name);
    if (tmp == NULL) {
        return om_fail_nomem(err, strlen(name));
    }
    if (d->n_files == d->cap) {
        const int more = d->cap == 0 ? 32 : d->cap * 2;
        char **grown = om_realloc(d->files, (size_t) more, sizeof *d->files);
        if (grown == NULL) {
            OM_TRY(om_fail_nomem(err, (size_t) more * sizeof *d->files));
        }
        d->files = grown;
        d->cap = more;
    }
    OM_TRY(add_temporary(tmp, name, err));
    d->files[d->n_files++] = tmp;
    *out = tmp;
    tmp = NULL;
out:
    om_free(tmp);
    return status;
}

om_status om_atomic_dir_file(om_atomic *out, om_atomic_dir *d, const char *name, om_error *err) {
    om_status status = OM_OK;
    om_atomic a = { 0 };
    char *tmp = NULL;
    int fd = -1;
    a.path = om_path_join(d->path, name);
    if (a.path == NULL) {
        OM_TRY(om_fail_nomem(err, strlen(name)));
    }
    OM_TRY(add_file(&tmp, d, name, err));
    fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    a.file = fd < 0 ? NULL : fdopen(fd, "w+b");
    if (a.file == NULL) {
        OM_TRY(om_fail_errno(err, "cannot create %s", a.path));
    }
    fd = -1;
    *out = a;
    a = (om_atomic){ 0 };
out:
    if (fd >= 0) {
        close(fd);
    }
    om_free(a.path);
    return status;
}

om_status om_atomic_dir_close(om_atomic *file, om_error *err) {
    om_status status = OM_OK;
    if (file->file == NULL) {
        return om_fail(err, OM_E_INTERNAL, "a file that is not open was closed");
    }
    errno = EIO; /* ferror after a direct write to file->file tells no reason */
    if (ferror(file->file) != 0 || om_file_should_fail() || fflush(file->file) != 0 ||
        fsync(fileno(file->file)) != 0) {
        status = om_fail_errno(err, "cannot write %s", file->path);
    }
    if (fclose(file->file) != 0 && status == OM_OK) {
        status = om_fail_errno(err, "cannot write %s", file->path);
    }
    file->file = NULL;
    om_atomic_dir_abort_file(file);
    return status;
}

void om_atomic_dir_abort_file(om_atomic *file) {
    if (file->file != NULL) {
        fclose(file->file);
    }
    om_free(file->path);
    *file = (om_atomic){ 0 };
}

om_status om_atomic_dir_write(om_atomic_dir *d, const char *name, const void *data, size_t n,
                              om_error *err) {
    om_status status = OM_OK;
    om_atomic file = { 0 };
    OM_TRY(om_atomic_dir_file(&file, d, name, err));
    OM_TRY(om_atomic_write(&file, data, n, err));
    OM_TRY(om_atomic_dir_close(&file, err));
out:
    om_atomic_dir_abort_file(&file);
    return status;
}

/* ---- the end ---- */

/* Strings that a signal handler took are never freed: it may be reading them. */
static void release(om_atomic_dir *d) {
    for (int i = 0; i < d->n_files; i++) {
        if (d->settled || om_temporary_take(d->files[i])) {
            om_free(d->files[i]);
        }
    }
    if (d->tmp != NULL && (d->settled || om_temporary_take(d->tmp))) {
        om_free(d->tmp);
    }
    om_free(d->files);
    om_free(d->path);
    *d = (om_atomic_dir){ 0 };
}

void om_atomic_dir_abort(om_atomic_dir *d) {
    for (int i = 0; i < d->n_files; i++) {
        (void) unlink(d->files[i]);
    }
    if (d->tmp != NULL) {
        (void) rmdir(d->tmp);
    }
    release(d);
}

/* From here on a signal removes nothing: between two renames nothing else may be left. false: a
 * handler has begun to remove, the process is about to end. */
static bool settle(om_atomic_dir *d) {
    bool all = om_temporary_take(d->tmp);
    for (int i = 0; i < d->n_files; i++) {
        all = om_temporary_take(d->files[i]) && all;
    }
    d->settled = all;
    return all;
}

static om_status replace(om_atomic_dir *d, const char *old, om_error *err) {
    if (rename(d->path, old) != 0) {
        return om_fail_errno(err, "cannot move %s away", d->path);
    }
    if (rename(d->tmp, d->path) != 0) {
        const om_status status = om_fail_errno(err, "cannot rename %s to %s", d->tmp, d->path);
        (void) rename(old, d->path);
        return status;
    }
    return OM_OK;
}

om_status om_atomic_dir_commit(om_atomic_dir *d, om_dir_ours ours, om_error *err) {
    om_status status = OM_OK;
    om_buf name = { 0 };
    bool exists = false;
    char *old = NULL;
    if (d->tmp == NULL) {
        return om_fail(err, OM_E_INTERNAL, "a directory that is not open was committed");
    }
    OM_TRY(check_old(&exists, d->path, ours, err));
    om_directory_sync(d->tmp);
    if (om_file_should_fail()) {
        OM_TRY(om_fail_errno(err, "cannot write %s", d->path));
    }
    if (!settle(d)) {
        OM_TRY(om_fail(err, OM_E_CANCELLED, "interrupted"));
    }
    if (exists) {
        om_buf_printf(&name, "%s.old.%ld", d->path, (long) getpid());
        old = om_buf_take(&name);
        if (old == NULL) {
            OM_TRY(om_fail_nomem(err, strlen(d->path)));
        }
        OM_TRY(replace(d, old, err));
        remove_old(old, ours);
    } else if (rename(d->tmp, d->path) != 0) {
        OM_TRY(om_fail_errno(err, "cannot rename %s to %s", d->tmp, d->path));
    }
    char *parent = om_directory_of(d->path);
    if (parent != NULL) {
        om_directory_sync(parent);
    }
    om_free(parent);
    release(d);
out:
    om_free(old);
    om_atomic_dir_abort(d);
    return status;
}
