/* A folder for one test, and small files in it. Failures to make it end the test program: without a
 * folder no test can say anything. */
#ifndef OM_TESTS_TMPDIR_H
#define OM_TESTS_TMPDIR_H

#include <stddef.h>

/** A new empty folder under $TMPDIR or /tmp. Owned: om_tmpdir_remove frees the string. */
char *om_tmpdir_new(void);

/** Delete the folder with everything in it (links are not followed) and free the string; accepts
 * NULL. */
void om_tmpdir_remove(char *dir);

/** "DIR/NAME" in one of 16 rotating static buffers: valid until the 16th call after. */
const char *om_tmpdir_path(const char *dir, const char *name);

/** Write DIR/NAME (plain stdio, nothing of ours); returns om_tmpdir_path. */
const char *om_tmpdir_write(const char *dir, const char *name, const void *data, size_t n);

/** Number of entries in a folder whose name contains `part` ("" counts all). */
int om_tmpdir_count(const char *dir, const char *part);

/** OPTIMUM_SHARED/NAME when that file exists, else NULL (the test then skips). Default folder: the
 * `shared` beside the source tree. Static buffers as om_tmpdir_path. */
const char *om_shared_path(const char *name);

#endif
