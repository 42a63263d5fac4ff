/* Files in and out: mapped views, bounded reads, SHA-256, and writes that are complete or absent.
 *
 * A file under construction lives beside its target as PATH.tmp.PID and is renamed over it by
 * commit, so a reader never sees half a file and a crash leaves the old one. The temporaries open
 * in this process are registered (temporary.c), because a signal handler must be able to remove
 * them.
 */
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* madvise: glibc's posix_madvise ignores DONTNEED */
#endif
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash_cache.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/temporary.h"

enum { READ_CHUNK = 1 << 20 };

/* ---- opening for reading ---- */

/* A descriptor, never inherited by child processes. -1 with errno. */
static int open_read(const char *path) {
    int fd = -1;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Bytes read, 0 at the end, -1 with errno. */
static ssize_t read_some(int fd, void *dst, size_t n) {
    ssize_t got = 0;
    do {
        got = read(fd, dst, n);
    } while (got < 0 && errno == EINTR);
    return got;
}

/* ---- mapped views ---- */

om_status om_map_open(om_map *out, const char *path, om_error *err) {
    static const unsigned char empty[1];
    om_status status = OM_OK;
    struct stat st;
    const int fd = open_read(path);
    if (fd < 0) {
        return om_fail_errno(err, "cannot open %s", path);
    }
    if (fstat(fd, &st) != 0) {
        status = om_fail_errno(err, "cannot inspect %s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        status = om_fail(err, OM_E_IO, "%s is not a regular file", path);
        goto out;
    }
    if (st.st_size == 0) {
        *out = (om_map){ .data = empty, .size = 0 };
        goto out;
    }
    if ((uintmax_t) st.st_size > PTRDIFF_MAX) {
        status = om_fail(err, OM_E_IO, "%s is too large to be mapped on this machine", path);
        goto out;
    }
    void *data = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        status = om_fail_errno(err, "cannot map %s", path);
        goto out;
    }
    *out = (om_map){ .data = data, .size = (size_t) st.st_size };
out:
    close(fd); /* a mapping outlives its descriptor */
    return status;
}

void om_map_close(om_map *map) {
    if (map->size > 0) {
        munmap((void *) (uintptr_t) map->data, map->size);
    }
    *map = (om_map){ 0 };
}

void om_map_forget(const om_map *map, size_t offset, size_t size) {
    const long page_size = sysconf(_SC_PAGESIZE);
    if (page_size <= 0 || offset >= map->size) {
        return;
    }
    const size_t page = (size_t) page_size;
    const size_t end = size > map->size - offset ? map->size : offset + size;
    /* inward: a page shared with a neighbour may be in use there. The mapping starts on a page. */
    const size_t first = (offset + page - 1) / page * page;
    const size_t last = end == map->size ? end : end / page * page;
    if (first < last) {
        (void) madvise((void *) ((uintptr_t) map->data + first), last - first, MADV_DONTNEED);
    }
}

/* ---- whole reads ---- */

om_status om_file_read(char **out, size_t *size, const char *path, size_t max_bytes,
                       om_error *err) {
    om_status status = OM_OK;
    char *data = NULL;
    size_t cap = 0, len = 0;
    struct stat st;
    const int fd = open_read(path);
    if (fd < 0) {
        return om_fail_errno(err, "cannot open %s", path);
    }
    if (max_bytes > PTRDIFF_MAX - 2) {
        max_bytes = PTRDIFF_MAX - 2;
    }
    /* The size is a hint only: the file may be a pipe, or grow while it is read. */
    cap = 4096;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        cap = (uintmax_t) st.st_size > max_bytes ? max_bytes : (size_t) st.st_size;
    }
    for (;;) {
        char *grown = om_realloc(data, cap + 2, 1); /* a byte more than allowed, and the NUL */
        if (grown == NULL) {
            status = om_fail_nomem(err, cap + 2);
            goto out;
        }
        data = grown;
        ssize_t got = 1;
        while (len < cap + 1 && (got = read_some(fd, data + len, cap + 1 - len)) > 0) {
            len += (size_t) got;
        }
        if (got < 0) {
            status = om_fail_errno(err, "cannot read %s", path);
            goto out;
        }
        if (len > max_bytes) {
            char limit[32];
            status = om_fail(err, OM_E_FORMAT, "%s is larger than the %s expected at most", path,
                             om_format_bytes(limit, (double) max_bytes, true));
            goto out;
        }
        if (got == 0) {
            break;
        }
        cap = cap > max_bytes / 2 ? max_bytes : cap * 2;
    }
    data[len] = '\0';
    *out = data;
    *size = len;
    data = NULL;
out:
    om_free(data);
    close(fd);
    return status;
}

/* ---- atomic writes ---- */

/* The target may be absent or a regular file: renaming over /dev/null would destroy the device. */
static om_status check_target(const char *dir, const char *path, om_error *err) {
    struct stat st;
    const size_t len = strlen(path);
    if (len == 0 || path[len - 1] == '/') {
        return om_fail(err, OM_E_IO, "cannot write '%s': expected the name of a file", path);
    }
    if (stat(dir, &st) != 0) {
        return om_fail_errno(err, "cannot write %s: its directory %s", path, dir);
    }
    if (!S_ISDIR(st.st_mode)) {
        return om_fail(err, OM_E_IO, "cannot write %s: %s is not a directory", path, dir);
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return om_fail(err, OM_E_IO, "cannot write %s: it exists and is not a regular file", path);
    }
    return OM_OK;
}

om_status om_file_check_output(const char *path, const char *const *inputs, int n_inputs,
                               om_error *err) {
    om_status status = OM_OK;
    if (path == NULL) {
        return OM_OK;
    }
    char *dir = om_directory_of(path);
    if (dir == NULL) {
        return om_fail_nomem(err, strlen(path));
    }
    for (int i = 0; i < n_inputs; i++) {
        if (inputs[i] != NULL && om_file_is_same(path, inputs[i])) {
            status = om_fail(err, OM_E_ARG,
                             "%s would be overwritten, but it is used otherwise as well: write to "
                             "another name",
                             inputs[i]);
            goto out;
        }
    }
    OM_TRY(check_target(dir, path, err));
    if (access(dir, W_OK | X_OK) != 0) {
        status = om_fail_errno(err, "cannot write %s: its directory %s", path, dir);
    }
out:
    om_free(dir);
    return status;
}

static om_status open_temporary(om_atomic *a, om_error *err) {
    int fd = open(a->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) {
        /* ours by PID but not open here: a dead process had the same number */
        (void) unlink(a->tmp);
        fd = open(a->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (fd < 0) {
        return om_fail_errno(err, "cannot create %s", a->tmp);
    }
    a->file = fdopen(fd, "w+b");
    if (a->file == NULL) {
        const om_status status = om_fail_errno(err, "cannot create %s", a->tmp);
        close(fd);
        return status;
    }
    return OM_OK;
}

om_status om_atomic_open(om_atomic *out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_atomic a = { 0 };
    om_buf tmp = { 0 };
    bool registered = false, busy = false;
    char *dir = om_directory_of(path);
    a.path = om_strdup(path);
    om_buf_printf(&tmp, "%s.tmp.%ld", path, (long) getpid());
    a.tmp = om_buf_take(&tmp);
    if (dir == NULL || a.path == NULL || a.tmp == NULL) {
        status = om_fail_nomem(err, strlen(path));
        goto out;
    }
    OM_TRY(check_target(dir, path, err));
    om_temporary_clean(dir, path);
    /* registered before it exists: a signal in between must find it */
    registered = om_temporary_add(a.tmp, &busy);
    if (!registered) {
        status = om_fail(err, busy ? OM_E_ARG : OM_E_LIMIT,
                         busy ? "%s is already being written"
                              : "cannot write %s: too many files under construction",
                         path);
        goto out;
    }
    OM_TRY(open_temporary(&a, err));
    *out = a;
    a = (om_atomic){ 0 };
out:
    om_free(dir);
    if (registered && a.tmp != NULL) {
        (void) unlink(a.tmp);
    }
    if (a.tmp != NULL && (!registered || om_temporary_take(a.tmp))) {
        om_free(a.tmp);
    }
    om_free(a.path);
    return status;
}

om_status om_atomic_write(om_atomic *a, const void *data, size_t n, om_error *err) {
    if (n == 0) {
        return OM_OK;
    }
    if (om_file_should_fail() || fwrite(data, 1, n, a->file) != n) {
        return om_fail_errno(err, "cannot write %s", a->path);
    }
    return OM_OK;
}

/* Everything after the rename is best effort: the file is there and complete. */
static void sync_directory(const char *path) {
    char *dir = om_directory_of(path);
    if (dir != NULL) {
        om_directory_sync(dir);
    }
    om_free(dir);
}

/* Forget the temporary's name and free the strings; the file itself is dealt with already. */
static void release_atomic(om_atomic *a) {
    if (a->tmp != NULL && om_temporary_take(a->tmp)) {
        om_free(a->tmp);
    }
    om_free(a->path);
    *a = (om_atomic){ 0 };
}

om_status om_atomic_commit(om_atomic *a, om_error *err) {
    om_status status = OM_OK;
    if (a->file == NULL) {
        return om_fail(err, OM_E_INTERNAL, "a file that is not open was committed");
    }
    errno = EIO; /* ferror after a direct write to a->file tells no reason */
    if (ferror(a->file) != 0 || om_file_should_fail() || fflush(a->file) != 0 ||
        fsync(fileno(a->file)) != 0) {
        status = om_fail_errno(err, "cannot write %s", a->path);
        goto out;
    }
    const int closed = fclose(a->file);
    a->file = NULL;
    if (closed != 0) {
        status = om_fail_errno(err, "cannot write %s", a->path);
        goto out;
    }
    if (rename(a->tmp, a->path) != 0) {
        status = om_fail_errno(err, "cannot rename %s to %s", a->tmp, a->path);
        goto out;
    }
    sync_directory(a->path);
    release_atomic(a);
out:
    om_atomic_abort(a);
    return status;
}

void om_atomic_abort(om_atomic *a) {
    if (a->file != NULL) {
        fclose(a->file);
        a->file = NULL;
    }
    if (a->tmp != NULL) {
        (void) unlink(a->tmp);
    }
    release_atomic(a);
}

om_status om_temporary_new(char **out, const char *dir, const char *name, om_error *err) {
    om_status status = OM_OK;
    bool busy = false;
    char *target = om_path_join(dir, name), *path = NULL;
    om_buf b = { 0 };
    om_buf_printf(&b, "%s.tmp.%ld", target != NULL ? target : "", (long) getpid());
    path = om_buf_take(&b);
    if (target == NULL || path == NULL) {
        status = om_fail_nomem(err, strlen(dir) + strlen(name));
        goto out;
    }
    OM_TRY(check_target(dir, target, err));
    om_temporary_clean(dir, target);
    if (!om_temporary_add(path, &busy)) {
        status = om_fail(err, busy ? OM_E_ARG : OM_E_LIMIT,
                         busy ? "%s is in use already" : "cannot use %s: too many temporary files",
                         path);
        goto out;
    }
    *out = path;
    path = NULL;
out:
    om_free(path);
    om_free(target);
    return status;
}

void om_temporary_remove(char *path) {
    if (path != NULL) {
        (void) unlink(path);
        if (om_temporary_take(path)) {
            om_free(path);
        }
    }
}

om_status om_file_write(const char *path, const void *data, size_t n, om_error *err) {
    om_status status = OM_OK;
    om_atomic a = { 0 };
    OM_TRY(om_atomic_open(&a, path, err));
    OM_TRY(om_atomic_write(&a, data, n, err));
    OM_TRY(om_atomic_commit(&a, err));
out:
    om_atomic_abort(&a);
    return status;
}

/* ---- hashes ---- */

static void hex_of(char hex[65], const unsigned char digest[32]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[64] = '\0';
}

om_status om_sha256_file(char hex[65], const char *path, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct stat st = { 0 };
    double done = 0, total = 0;
    ssize_t got = 0;
    int fd = -1;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char *chunk = om_alloc_aligned(READ_CHUNK);
    if (ctx == NULL || chunk == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
        status = om_fail_nomem(err, READ_CHUNK);
        goto out;
    }
    fd = open_read(path);
    if (fd < 0 || fstat(fd, &st) != 0) {
        status = om_fail_errno(err, "cannot open %s", path);
        goto out;
    }
    total = (double) st.st_size;
    if (om_hash_cache_get(hex, &st)) {
        goto out;
    }
    while ((got = read_some(fd, chunk, READ_CHUNK)) > 0) {
        if (EVP_DigestUpdate(ctx, chunk, (size_t) got) != 1) {
            status = om_fail(err, OM_E_INTERNAL, "libcrypto failed to hash %s", path);
            goto out;
        }
        done += (double) got;
        if (done < total) {
            om_progress(env, "hash", done, total, "bytes");
        }
        OM_TRY(om_check_cancel(env, err));
    }
    if (got < 0) {
        status = om_fail_errno(err, "cannot read %s", path);
        goto out;
    }
    if (EVP_DigestFinal_ex(ctx, digest, NULL) != 1) {
        status = om_fail(err, OM_E_INTERNAL, "libcrypto failed to hash %s", path);
        goto out;
    }
    om_progress(env, "hash", total, total, "bytes");
    hex_of(hex, digest);
    om_hash_cache_put(hex, &st);
out:
    if (fd >= 0) {
        close(fd);
    }
    om_free(chunk);
    EVP_MD_CTX_free(ctx);
    return status;
}

void om_sha256_bytes(char hex[65], const void *data, size_t n) {
    unsigned char digest[EVP_MAX_MD_SIZE] = { 0 };
    (void) EVP_Digest(n > 0 ? data : "", n, digest, NULL, EVP_sha256(), NULL);
    hex_of(hex, digest);
}

/* ---- names and places ---- */

bool om_is_sha256(const char *text, size_t n) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\0' || strchr(digits, text[i]) == NULL) {
            return false;
        }
    }
    return n == 64;
}

bool om_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool om_file_is_same(const char *a, const char *b) {
    struct stat x, y;
    return strcmp(a, b) == 0 ||
           (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

int64_t om_file_size(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t) st.st_size : -1;
}

int64_t om_disk_free(const char *path) {
    struct statvfs fs;
    int rc = statvfs(path, &fs);
    if (rc != 0 && errno == ENOENT) {
        char *dir = om_directory_of(path);
        rc = dir == NULL ? -1 : statvfs(dir, &fs);
        om_free(dir);
    }
    if (rc != 0) {
        return -1;
    }
    /* saturates: a network file system may report more than fits */
    const double bytes = (double) fs.f_bavail * (double) fs.f_frsize;
    return bytes >= 9e18 ? INT64_MAX : (int64_t) bytes;
}

om_status om_disk_check(const char *path, int64_t bytes, om_error *err) {
    const int64_t room = om_disk_free(path);
    if (room >= 0 && room < bytes) {
        char need[32], have[32];
        return om_fail(err, OM_E_IO,
                       "%s needs %s, its file system has %s free: free some space or write "
                       "elsewhere",
                       path, om_format_bytes(need, (double) bytes, false),
                       om_format_bytes(have, (double) room, false));
    }
    return OM_OK;
}

/* One directory; existing is fine. -1 with errno. */
static int make_directory(const char *path) {
    struct stat st;
    if (mkdir(path, 0777) == 0) {
        return 0;
    }
    const int saved = errno;
    if (stat(path, &st) == 0) {
        errno = ENOTDIR;
        return S_ISDIR(st.st_mode) ? 0 : -1;
    }
    errno = saved;
    return -1;
}

om_status om_mkdirs(const char *path, om_error *err) {
    om_status status = OM_OK;
    char *prefix = om_strdup(path);
    if (prefix == NULL) {
        return om_fail_nomem(err, strlen(path));
    }
    for (size_t i = 1; prefix[0] != '\0'; i++) {
        const char c = prefix[i];
        if (c != '/' && c != '\0') {
            continue;
        }
        prefix[i] = '\0';
        if (make_directory(prefix) != 0) {
            status = om_fail_errno(err, "cannot create the directory %s", prefix);
            break;
        }
        prefix[i] = c;
        if (c == '\0') {
            break;
        }
    }
    om_free(prefix);
    return status;
}

size_t om_path_length(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    return n;
}

const char *om_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL || slash[1] == '\0' ? path : slash + 1;
}

char *om_path_join(const char *dir, const char *name) {
    om_buf b = { 0 };
    const size_t len = strlen(dir);
    om_buf_puts(&b, dir);
    if (len > 0 && dir[len - 1] != '/') {
        om_buf_puts(&b, "/");
    }
    om_buf_puts(&b, name);
    return om_buf_take(&b);
}

char *om_path_find_beside(const char *path, const char *document) {
    if (om_file_exists(path)) {
        return om_strdup(path);
    }
    const char *base = strrchr(path, '/');
    const char *slash = strrchr(document, '/');
    char *dir =
        slash == NULL ? om_strdup(".") : om_strndup(document, (size_t) (slash - document) + 1);
    char *found = dir == NULL ? NULL : om_path_join(dir, base == NULL ? path : base + 1);
    om_free(dir);
    if (found != NULL && !om_file_exists(found)) {
        om_free(found);
        found = NULL;
    }
    return found;
}
