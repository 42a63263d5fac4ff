/* Digests of large files, remembered between runs: a 100 GB model is read once for its SHA-256, not
 * once per verb.
 *
 * A digest is kept under the file's identity (device, inode, size, times of last change to contents
 * and inode). Files changed less than two seconds ago are not remembered: a second change could
 * carry the same times (git's rule for its index). A cache that cannot be read or written is no
 * error. */
#ifndef OM_BASE_HASH_CACHE_H
#define OM_BASE_HASH_CACHE_H

#include <stdbool.h>
#include <sys/stat.h>

/** Smallest file worth remembering, in bytes. */
enum { OM_HASH_CACHE_MIN_BYTES = 16 << 20 };

/** true: hex holds the digest of the file that `st` describes. Set OPTIMUM_NO_HASH_CACHE to always
 * read. */
bool om_hash_cache_get(char hex[65], const struct stat *st);
/** Remember a digest; `st` from before the file was read. Does nothing for small or fresh files. */
void om_hash_cache_put(const char hex[65], const struct stat *st);

#endif
