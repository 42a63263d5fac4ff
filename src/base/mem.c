/* Memory: every allocation of the program goes through here, so that sizes are checked once and
 * tests can make the n-th allocation fail.
 *
 * om_alloc_aligned uses posix_memalign, whose result free() accepts: one om_free serves all.
 */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* Allocations left until one fails; 0 = never. Atomic because worker threads allocate too. */
static atomic_long fail_countdown;

void om_mem_fail_at(long n) {
    atomic_store(&fail_countdown, n > 0 ? n : 0);
}

static bool should_fail(void) {
    long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) {
            return left == 1;
        }
    }
    return false;
}

/* n * size in *bytes, at least 1 (malloc(0) may be NULL); false on overflow. */
static bool checked_size(size_t *bytes, size_t n, size_t size) {
    if (size != 0 && n > PTRDIFF_MAX / size) {
        return false;
    }
    *bytes = n * size;
    if (*bytes == 0) {
        *bytes = 1;
    }
    return true;
}

void *om_calloc(size_t n, size_t size) {
    size_t bytes = 0;
    if (!checked_size(&bytes, n, size) || should_fail()) {
        return NULL;
    }
    return calloc(1, bytes);
}

void *om_realloc(void *p, size_t n, size_t size) {
    size_t bytes = 0;
    if (!checked_size(&bytes, n, size) || should_fail()) {
        return NULL;
    }
    return realloc(p, bytes);
}

void *om_alloc_aligned(size_t bytes) {
    void *p = NULL;
    if (bytes > PTRDIFF_MAX - ALIGNMENT || should_fail()) {
        return NULL;
    }
    /* whole lines, so that a vector load at the end stays inside the allocation */
    size_t rounded = bytes == 0 ? ALIGNMENT : (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return posix_memalign(&p, ALIGNMENT, rounded) == 0 ? p : NULL;
}

char *om_strdup(const char *s) {
    return om_strndup(s, strlen(s));
}

char *om_strndup(const char *s, size_t n) {
    size_t len = 0;
    while (len < n && s[len] != '\0') {
        len++;
    }
    char *copy = om_calloc(len + 1, 1);
    if (copy != NULL) {
        memcpy(copy, s, len);
    }
    return copy;
}

void om_free(void *p) {
    free(p);
}
