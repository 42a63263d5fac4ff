/* Metadata pairs of a GGUF under construction, in the bytes of the file. Errors are sticky as in
 * om_buf: append freely, check pairs->bytes.failed once. */
#ifndef OM_HF_PAIRS_H
#define OM_HF_PAIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/** {.arch = "qwen3"} is valid and empty. A key that begins with "%s." belongs to that
 * architecture. No key may be put twice. */
typedef struct om_pairs {
    const char *arch; /* borrowed */
    om_buf bytes;
    uint64_t n;
} om_pairs;

/** One pair of each type of value. */
void om_pairs_u32(om_pairs *p, const char *key, uint32_t value);
void om_pairs_i32(om_pairs *p, const char *key, int32_t value);
void om_pairs_f32(om_pairs *p, const char *key, float value);
void om_pairs_bool(om_pairs *p, const char *key, bool value);
void om_pairs_str(om_pairs *p, const char *key, const char *value);
/** Arrays of numbers; values [n]. */
void om_pairs_i32s(om_pairs *p, const char *key, const int32_t *values, size_t n);
void om_pairs_f32s(om_pairs *p, const char *key, const float *values, size_t n);
/** An array of n strings: begin, then exactly n items of `length` bytes each. */
void om_pairs_begin_strs(om_pairs *p, const char *key, size_t n);
void om_pairs_item(om_pairs *p, const char *text, size_t length);

void om_pairs_release(om_pairs *p);

/* ---- what surrounds them in the file ---- */

/** Integers of the format, little-endian, and a string with its length before it. */
void om_pairs_put(om_buf *b, uint64_t value, size_t n_bytes);
void om_pairs_put_str(om_buf *b, const char *text, size_t length);

#endif
