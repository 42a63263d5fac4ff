/* One small file per digest in ${XDG_CACHE_HOME:-~/.cache}/optimum/sha256: see hash_cache.h. */
#include "base/hash_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#if defined(__APPLE__)
#define MODIFIED(st) ((st)->st_mtimespec)
#define CHANGED(st) ((st)->st_ctimespec)
#else
#define MODIFIED(st) ((st)->st_mtim)
#define CHANGED(st) ((st)->st_ctim)
#endif

static bool is_eligible(const struct stat *st) {
    return S_ISREG(st->st_mode) && st->st_size >= OM_HASH_CACHE_MIN_BYTES &&
           getenv("OPTIMUM_NO_HASH_CACHE") == NULL;
}

/* Owned: the folder of the cache, or NULL. */
static char *cache_folder(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    om_buf b = { 0 };
    if (xdg != NULL && xdg[0] == '/') {
        om_buf_printf(&b, "%s/optimum/sha256", xdg);
    } else if (home != NULL && home[0] == '/') {
        om_buf_printf(&b, "%s/.cache/optimum/sha256", home);
    } else {
        return NULL;
    }
    return om_buf_take(&b);
}

/* Owned: the entry of a file, named by the digest of its identity. */
static char *entry_path(const char *folder, const struct stat *st) {
    char identity[256], name[65];
    const int n =
        snprintf(identity, sizeof identity, "%llu %llu %lld %lld.%09ld %lld.%09ld",
                 (unsigned long long) st->st_dev, (unsigned long long) st->st_ino,
                 (long long) st->st_size, (long long) MODIFIED(st).tv_sec, MODIFIED(st).tv_nsec,
                 (long long) CHANGED(st).tv_sec, CHANGED(st).tv_nsec);
    om_sha256_bytes(name, identity, (size_t) n);
    return om_path_join(folder, name);
}

bool om_hash_cache_get(char hex[65], const struct stat *st) {
    bool found = false;
    char *folder = is_eligible(st) ? cache_folder() : NULL,
         *path = folder ? entry_path(folder, st) : NULL, *text = NULL;
    size_t n = 0;
    om_error ignored = { 0 };
    if (path && om_file_exists(path) && om_file_read(&text, &n, path, 64, &ignored) == OM_OK &&
        om_is_sha256(text, n)) {
        memcpy(hex, text, 65);
        found = true;
    }
    om_free(text);
    om_free(path);
    om_free(folder);
    return found;
}

void om_hash_cache_put(const char hex[65], const struct stat *st) {
    const time_t now = time(NULL);
    if (!is_eligible(st) || now - MODIFIED(st).tv_sec < 2 || now - CHANGED(st).tv_sec < 2) {
        return;
    }
    om_error ignored = { 0 };
    char *folder = cache_folder(), *path = folder ? entry_path(folder, st) : NULL;
    if (path && om_mkdirs(folder, &ignored) == OM_OK &&
        om_file_write(path, hex, 64, &ignored) != OM_OK) {
        /* nothing is lost: the file will be read again next time */
    }
    om_free(path);
    om_free(folder);
}
