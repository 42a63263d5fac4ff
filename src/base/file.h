/* Files: mapped views, whole reads with a bound, atomic writes, SHA-256. */
#ifndef OM_BASE_FILE_H
#define OM_BASE_FILE_H

#include <stdio.h>

#include "base/error.h"

/** Read-only view of a file; mmapped. */
typedef struct om_map {
    const unsigned char *data; /* [size] u8 */
    size_t size;
} om_map;

/** Map a regular file. Errors: OM_E_IO with the path in the text. An empty file gives size 0, data
 * non-NULL. */
om_status om_map_open(om_map *out, const char *path, om_error *err) OM_WARN_UNUSED;
void om_map_close(om_map *map); /* accepts a zeroed struct */

/** Drop the pages of [offset, offset+size) from this process (they come back from the file when
 * touched). */
void om_map_forget(const om_map *map, size_t offset, size_t size);

/** Read a whole file of at most max_bytes into owned, NUL-terminated memory (om_free). Errors:
 * OM_E_IO, OM_E_FORMAT when larger. */
om_status om_file_read(char **out, size_t *size, const char *path, size_t max_bytes,
                       om_error *err) OM_WARN_UNUSED;

/** A file under construction: a temporary name beside `path` until commit. */
typedef struct om_atomic {
    FILE *file;
    char *path, *tmp;
} om_atomic;

/** Open `path`.tmp.PID beside the target (unlinked by om_atomic_abort, and by om_atomic_abort_all
 * on a signal). Refuses when the target's directory does not exist. Leftovers of dead processes for
 * the same target are removed. */
om_status om_atomic_open(om_atomic *out, const char *path, om_error *err) OM_WARN_UNUSED;
/** Write or fail with a message that names the path and the system's reason (full disk). */
om_status om_atomic_write(om_atomic *a, const void *data, size_t n, om_error *err) OM_WARN_UNUSED;
/** Flush, fsync, rename over the target, fsync the directory. On failure the temporary file is
 * removed. */
om_status om_atomic_commit(om_atomic *a, om_error *err) OM_WARN_UNUSED;
/** Remove the temporary file; accepts a zeroed, committed or failed struct. */
void om_atomic_abort(om_atomic *a);
/** Remove every temporary file and directory that is open in this process; for signal handlers
 * (async-signal-safe: nothing but unlink and rmdir on stored paths). The process must end soon
 * after: open structs stay as they are. */
void om_atomic_abort_all(void);
/** A name for a file that is gone when we are: DIR/NAME.tmp.PID, removed by om_temporary_remove and
 * by om_atomic_abort_all; who writes the file makes it (om_atomic_open takes the name). Leftovers
 * of dead processes for the same DIR/NAME are removed. *out owned (om_temporary_remove). Errors:
 * OM_E_ARG (the name is in use in this process), OM_E_IO, OM_E_LIMIT. */
om_status om_temporary_new(char **out, const char *dir, const char *name,
                           om_error *err) OM_WARN_UNUSED;
void om_temporary_remove(char *path); /* unlinks and frees; accepts NULL, no such file is fine */
/** Tests: let the n-th write or commit from now fail as on a full disk (1 = the next), 0 = never.
 */
void om_file_fail_at(long n);

/** The three steps above for text or bytes already in memory. */
om_status om_file_write(const char *path, const void *data, size_t n, om_error *err) OM_WARN_UNUSED;

/** Before long work: can `path` be written, and is it none of the inputs (the rename would replace
 * it)? NULLs are skipped. Errors: OM_E_ARG for an input or another output's name, OM_E_IO. */
om_status om_file_check_output(const char *path, const char *const *inputs, int n_inputs,
                               om_error *err) OM_WARN_UNUSED;

/** Lower-case hex SHA-256 of a file (65 bytes with NUL). Reports progress "hash" when env != NULL
 * and cancels. Cost: one read of the file, none when it was hashed before and has not
 * changed since (hash_cache.h). For a split GGUF call it per file and combine with
 * om_sha256_bytes. */
om_status om_sha256_file(char hex[65], const char *path, const om_env *env,
                         om_error *err) OM_WARN_UNUSED;
void om_sha256_bytes(char hex[65], const void *data, size_t n);
/** Are these n bytes a digest as the two functions above write it: 64 lower-case hex digits? */
bool om_is_sha256(const char *text, size_t n);

/** What stands at a path, of any kind. */
bool om_file_exists(const char *path);
int64_t om_file_size(const char *path);             /* -1: no such file */
bool om_file_is_same(const char *a, const char *b); /* one file or directory under two names? */
/** Free bytes of the file system that holds `path` (or its directory); -1 unknown. */
int64_t om_disk_free(const char *path);
/** Is there room for `bytes` where the output `path` will be? An unknown room is enough: writing
 * will tell. Errors: OM_E_IO with both numbers. */
om_status om_disk_check(const char *path, int64_t bytes, om_error *err) OM_WARN_UNUSED;
/** mkdir -p. */
om_status om_mkdirs(const char *path, om_error *err) OM_WARN_UNUSED;
/** Length of a path without slashes at its end: "models/Qwen3-8B/" is "models/Qwen3-8B", "/" stays.
 */
size_t om_path_length(const char *path);
/** What follows the last slash; the whole path when nothing does. Borrowed. */
const char *om_path_name(const char *path);
/** Owned: dir + "/" + name (om_free). NULL when memory is short. */
char *om_path_join(const char *dir, const char *name);
/** A path written into the file `document`: as it is, or beside the document when the folder has
 * moved. Owned; NULL: neither exists. A hash decides whether it is the right file. */
char *om_path_find_beside(const char *path, const char *document);

#endif
