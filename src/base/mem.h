/* Memory: checked sizes, one allocator with a fault point for tests. */
#ifndef OM_BASE_MEM_H
#define OM_BASE_MEM_H

#include <stddef.h>

/** Zeroed array of n elements of `size` bytes; NULL on overflow or when memory is short; never NULL
 * for n == 0. */
void *om_calloc(size_t n, size_t size);

/** As realloc for an array; the new part is not zeroed. NULL leaves the old array as it was. */
void *om_realloc(void *p, size_t n, size_t size);

/** Uninitialised, aligned to 64 bytes (ggml tensors, vector loads). Freed with om_free like
 * everything else. */
void *om_alloc_aligned(size_t bytes);

/** Owned copies (om_free); NULL when memory is short. om_strndup: at most n characters. */
char *om_strdup(const char *s);
char *om_strndup(const char *s, size_t n);

/** Accepts NULL. */
void om_free(void *p);

/** Tests: let the n-th allocation from now fail (1 = the next one), 0 = never. */
void om_mem_fail_at(long n);

#endif
