/* Growable text: JSON, HTML, tables. Errors are sticky: append freely, check once. */
#ifndef OM_BASE_BUF_H
#define OM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/** Zero-initialised is valid and empty. `data` is NUL-terminated once anything was appended. */
typedef struct om_buf {
    char *data;
    size_t len, cap;
    bool failed; /* out of memory somewhere; appends are ignored from then on */
} om_buf;

/** Append n bytes, a string, formatted text. */
void om_buf_add(om_buf *b, const char *bytes, size_t n);
void om_buf_puts(om_buf *b, const char *s);
void om_buf_printf(om_buf *b, const char *fmt, ...) OM_PRINTF(2, 3);
void om_buf_release(om_buf *b);

/** Append a word for the shell: as it is when harmless, else in single quotes. */
void om_buf_put_word(om_buf *b, const char *word);

/** Hand the text over: owned by the caller (om_free), "" when nothing was appended, NULL when
 * memory ran out. */
char *om_buf_take(om_buf *b);

/** Does a text begin, or end, like this? */
bool om_text_starts(const char *text, const char *start);
bool om_text_ends(const char *text, const char *end);

/** "16.71 MB" / "2.5 GiB": decimal below, binary with `binary`; returns dst. */
const char *om_format_bytes(char dst[32], double bytes, bool binary);

/** Parse SIZE: bytes, or a number with B, KB, MB, GB, TB, KiB, MiB, GiB, TiB (case-insensitive,
 * optional space). false: not a size, negative, or larger than 2^62. */
bool om_parse_bytes(int64_t *out, const char *text);

#endif
