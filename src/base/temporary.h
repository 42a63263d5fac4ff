/* Temporary files and directories of this process, so that a signal handler can remove them, and
 * what dead processes left. Shared by file.c and atomic_dir.c only. */
#ifndef OM_BASE_TEMPORARY_H
#define OM_BASE_TEMPORARY_H

#include <stdbool.h>

/** Register the path of a file or directory before it exists: om_atomic_abort_all removes it from
 * then on. `tmp` must stay as it is until om_temporary_take. false: no slot left, or the same name
 * is registered already (*busy). Thread-safe. */
bool om_temporary_add(char *tmp, bool *busy);
/** true: the string is the caller's again. false: a signal handler took it and may be reading it,
 * so it is never freed. */
bool om_temporary_take(char *tmp);

/** Remove what killed processes left for the target `path` ("NAME.tmp.PID" in its directory `dir`),
 * directories with the files in them; failing to is no error. */
void om_temporary_clean(const char *dir, const char *path);

/** Remove the directory `name` in `parent` (a descriptor, or AT_FDCWD) and the files in it. With
 * anything else in it, it stays; a symbolic link is not followed. Failing to is no error. */
void om_directory_remove(int parent, const char *name);

/** The fault point of om_file_fail_at: true, with errno ENOSPC, when this write is to fail. */
bool om_file_should_fail(void);

/** The directory part of `path`: owned (om_free); NULL when memory is short. */
char *om_directory_of(const char *path);
/** fsync of a directory, as far as the system can; failing to is no error. */
void om_directory_sync(const char *dir);

#endif
