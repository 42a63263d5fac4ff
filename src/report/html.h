/* Text and numbers for HTML and SVG: escaping, and one way to write each kind of number. */
#ifndef OM_REPORT_HTML_H
#define OM_REPORT_HTML_H

#include <stdint.h>

#include "base/buf.h"

/** Append text so that it is inert in element content and in double-quoted attributes. Control
 * characters and invalid UTF-8 become U+FFFD. NULL appends nothing. */
void om_html_text(om_buf *b, const char *text);

/* The numbers below are plain UTF-8 (no-break spaces, superscripts): good in HTML and in a
 * terminal. */

/** Append "20.0 MB" (decimal, three digits). */
void om_put_bytes(om_buf *b, double bytes);

/** Append nats with three significant digits: "0.0234", "2.3×10⁻⁵", "0". */
void om_put_nats(om_buf *b, double nats);

/** Append "0.0234 ± 0.0004": digits follow the error. */
void om_put_nats_error(om_buf *b, double nats, double stderr_nats);

/** "120µ", "1.2m", "0.31": two digits with an SI letter, for cells and axes. Returns dst. */
const char *om_format_si(char dst[32], double value);

/** Append a number with thousands separated by thin spaces: "33 600 000". */
void om_put_count(om_buf *b, int64_t n);

/** "token_embd", "attn_q" … with line-break chances after underscores, escaped. */
void om_html_role(om_buf *b, const char *role);

#endif
