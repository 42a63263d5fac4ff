/* A directory that is complete or absent: written beside its target, renamed when all is there. */
#ifndef OM_BASE_ATOMIC_DIR_H
#define OM_BASE_ATOMIC_DIR_H

#include <stdbool.h>

#include "base/file.h"

/** A directory under construction: `path`.tmp.PID beside the target until commit. */
typedef struct om_atomic_dir {
    char *path, *tmp;
    char **files; /* [n_files] what was opened in it, registered for om_atomic_abort_all */
    int n_files, cap;
    bool settled; /* complete: no longer registered */
} om_atomic_dir;

/** Which files of a directory may be deleted. */
typedef struct om_dir_ours {
    bool (*is)(const void *ud, const char *name);
    const void *ud;
} om_dir_ours;

/** Names of the entries of a directory, sorted, without "." and "..". *out owned
 * (om_dir_list_free). Errors: OM_E_IO. */
om_status om_dir_list(char ***out, int *n, const char *path, om_error *err) OM_WARN_UNUSED;
void om_dir_list_free(char **names, int n);

/** Before long work: can the directory `path` be made? It must be absent, or hold only files that
 * are `ours`: they will be deleted. Errors: OM_E_ARG names the entry; OM_E_IO. */
om_status om_atomic_dir_check(const char *path, om_dir_ours ours, om_error *err) OM_WARN_UNUSED;

/** Make the temporary directory. Leftovers of dead processes for the same target are removed. */
om_status om_atomic_dir_open(om_atomic_dir *out, const char *path, om_error *err) OM_WARN_UNUSED;
/** Open a new file in it, for om_atomic_write; messages name it under its final path. End it with
 * om_atomic_dir_close, or om_atomic_dir_abort_file; never with the functions of om_atomic. */
om_status om_atomic_dir_file(om_atomic *out, om_atomic_dir *d, const char *name,
                             om_error *err) OM_WARN_UNUSED;
/** Flush, fsync and close; the file stays in the directory. */
om_status om_atomic_dir_close(om_atomic *file, om_error *err) OM_WARN_UNUSED;
/** Close without a check; accepts a zeroed struct. The file goes with the directory. */
void om_atomic_dir_abort_file(om_atomic *file);
/** The three steps above for bytes in memory. */
om_status om_atomic_dir_write(om_atomic_dir *d, const char *name, const void *data, size_t n,
                              om_error *err) OM_WARN_UNUSED;

/** Give the directory its name. An older directory there is moved aside first and deleted after,
 * or moved back when the renaming fails. All files must be closed. On failure the temporary
 * directory is removed.
 *
 *  ours  as above; asked again, since the target may have changed meanwhile */
om_status om_atomic_dir_commit(om_atomic_dir *d, om_dir_ours ours, om_error *err) OM_WARN_UNUSED;
/** Remove the temporary directory and its files; accepts a zeroed or committed struct. */
void om_atomic_dir_abort(om_atomic_dir *d);

#endif
