/* Text -> inert HTML, numbers -> text a person reads.
 *
 * Everything that comes from a file (names, paths, labels) passes through om_html_text: a tensor
 * may be called anything, and a report is opened in a browser.
 */
#include "report/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 sequence at s, or 0 when it is not valid (overlong, surrogate, cut, > 10FFFF).
 */
static size_t utf8_length(const unsigned char *s) {
    const size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (n == 0 || s[0] > 0xF4) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) {
        return 0;
    }
    return n;
}

static const char *entity(unsigned char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void om_html_text(om_buf *b, const char *text) {
    if (!text) {
        return;
    }
    const unsigned char *s = (const unsigned char *) text;
    while (*s) {
        const char *safe = entity(*s);
        const size_t n = utf8_length(s);
        const bool control = (*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7F;
        if (safe) {
            om_buf_puts(b, safe);
            s++;
        } else if (n == 0 || control) {
            om_buf_puts(b, "\xEF\xBF\xBD");
            s++;
        } else {
            om_buf_add(b, (const char *) s, n);
            s += n;
        }
    }
}

void om_put_bytes(om_buf *b, double bytes) {
    static const char *const unit[] = { "B", "kB", "MB", "GB", "TB", "PB" };
    int i = 0;
    while (bytes >= 999.5 && i < 5) {
        bytes /= 1000;
        i++;
    }
    const int digits = i == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
    om_buf_printf(b, "%.*f\xC2\xA0%s", digits, bytes, unit[i]);
}

void om_put_nats(om_buf *b, double nats) {
    static const char *const superscript[] = { "⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹" };
    if (!isfinite(nats)) {
        om_buf_puts(b, "–");
    } else if (nats == 0) {
        om_buf_puts(b, "0");
    } else if (fabs(nats) >= 9.9995e-4) {
        const int digits = 2 - (int) floor(log10(fabs(nats)));
        om_buf_printf(b, "%.*f", digits < 0 ? 0 : digits, nats);
    } else {
        int exponent = (int) floor(log10(fabs(nats)));
        double mantissa = nats / pow(10, exponent);
        if (fabs(mantissa) >= 9.95) {
            mantissa /= 10;
            exponent++;
        }
        om_buf_printf(b, "%.1f×10⁻", mantissa);
        const int e = -exponent;
        if (e >= 100) {
            om_buf_puts(b, superscript[e / 100 % 10]);
        }
        if (e >= 10) {
            om_buf_puts(b, superscript[e / 10 % 10]);
        }
        om_buf_puts(b, superscript[e % 10]);
    }
}

void om_put_nats_error(om_buf *b, double nats, double stderr_nats) {
    if (!(stderr_nats > 0) || !isfinite(stderr_nats)) {
        om_put_nats(b, nats);
        return;
    }
    int digits = (int) ceil(-log10(stderr_nats));
    /* One digit of an error that begins with 1 may hide half of it. */
    if (stderr_nats * pow(10, digits) < 1.95) {
        digits++;
    }
    digits = digits < 2 ? 2 : digits > 8 ? 8 : digits;
    om_buf_printf(b, "%.*f\xC2\xA0±\xC2\xA0%.*f", digits, nats, digits, stderr_nats);
}

const char *om_format_si(char dst[32], double value) {
    static const char *const letter[] = { "", "m", "µ", "n", "p" };
    if (!isfinite(value)) {
        return memcpy(dst, "–", sizeof "–");
    }
    if (value <= 0) {
        return memcpy(dst, "0", 2);
    }
    int i = 0;
    while (value < 0.0995 && i < 1) {
        value *= 1000;
        i++;
    }
    while (value < 0.995 && i >= 1 && i < 4) {
        value *= 1000;
        i++;
    }
    (void) snprintf(dst, 32,
                    value < 0.995  ? "%.2f%s"
                    : value < 9.95 ? "%.1f%s"
                                   : "%.0f%s",
                    value, letter[i]);
    return dst;
}

void om_put_count(om_buf *b, int64_t n) {
    char digits[32];
    const int len = snprintf(digits, sizeof digits, "%lld", (long long) n);
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-') {
            om_buf_puts(b, "\xE2\x80\xAF");
        }
        om_buf_add(b, &digits[i], 1);
    }
}

void om_html_role(om_buf *b, const char *role) {
    char part[64];
    while (*role) {
        const char *underscore = strchr(role, '_');
        size_t n = underscore ? (size_t) (underscore - role) + 1 : strlen(role);
        n = n < sizeof part ? n : sizeof part - 1;
        memcpy(part, role, n);
        part[n] = '\0';
        om_html_text(b, part);
        role += n;
        if (*role) {
            om_buf_puts(b, "<wbr>");
        }
    }
}
