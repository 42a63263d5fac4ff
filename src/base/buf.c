/* Growable text, and sizes as people write them ("24GiB").
 *
 * Sizes are parsed and printed without strtod/printf decimals from the locale: "2.5GiB" must mean
 * the same everywhere. The fraction is kept as an exact integer ratio, so "1.1GB" is 1100000000.
 */
#include "base/buf.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* Room for `extra` more bytes and the NUL; false (and failed) when memory is short. */
static bool reserve(om_buf *b, size_t extra) {
    if (b->failed || extra > SIZE_MAX / 4 - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + extra + 1;
    if (need <= b->cap) {
        return true;
    }
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need) {
        cap *= 2;
    }
    char *data = om_realloc(b->data, cap, 1);
    if (data == NULL) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void om_buf_add(om_buf *b, const char *bytes, size_t n) {
    if (!reserve(b, n)) {
        return;
    }
    if (n > 0) {
        memcpy(b->data + b->len, bytes, n);
    }
    b->len += n;
    b->data[b->len] = '\0';
}

void om_buf_puts(om_buf *b, const char *s) {
    om_buf_add(b, s, strlen(s));
}

void om_buf_printf(om_buf *b, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
    } else if (reserve(b, (size_t) n)) {
        vsnprintf(b->data + b->len, (size_t) n + 1, fmt, again);
        b->len += (size_t) n;
    }
    va_end(again);
}

void om_buf_release(om_buf *b) {
    om_free(b->data);
    *b = (om_buf){ 0 };
}

void om_buf_put_word(om_buf *b, const char *word) {
    if (word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                          "_-./+:,@%=")] == '\0' &&
        word[0] != '\0') {
        om_buf_puts(b, word);
        return;
    }
    om_buf_puts(b, "'");
    for (const char *p = word; *p != '\0'; p++) {
        if (*p == '\'') {
            om_buf_puts(b, "'\\''");
        } else {
            om_buf_add(b, p, 1);
        }
    }
    om_buf_puts(b, "'");
}

char *om_buf_take(om_buf *b) {
    char *data = b->data;
    if (b->failed) {
        om_buf_release(b);
        return NULL;
    }
    if (data == NULL) {
        data = om_strdup("");
    }
    *b = (om_buf){ 0 };
    return data;
}

bool om_text_starts(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

bool om_text_ends(const char *text, const char *end) {
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && memcmp(text + n - n_end, end, n_end) == 0;
}

void om_result_release(om_result *result) {
    om_free(result->json);
    om_free(result->text);
    *result = (om_result){ 0 };
}

const char *om_format_bytes(char dst[32], double bytes, bool binary) {
    static const char *const decimal_units[] = { "B", "KB", "MB", "GB", "TB" };
    static const char *const binary_units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    const double step = binary ? 1024.0 : 1000.0;
    double value = bytes;
    size_t unit = 0;
    /* 999.995 would print as "1000.00" */
    while (unit < 4 && fabs(value) >= (unit == 0 ? step - 0.5 : step - 0.005)) {
        value /= step;
        unit++;
    }
    const char *name = binary ? binary_units[unit] : decimal_units[unit];
    if (unit == 0) {
        snprintf(dst, 32, "%.0f %s", value, name);
        return dst;
    }
    if (!(fabs(value) < 1e9)) {
        snprintf(dst, 32, "%.3g %s", value, name);
        return dst;
    }
    /* two decimals without trailing zeros, with a point in every locale */
    long long hundredths = llround(fabs(value) * 100.0);
    int n = snprintf(dst, 32, "%s%lld", value < 0 ? "-" : "", hundredths / 100);
    if (n > 0 && hundredths % 100 != 0) {
        int len = hundredths % 10 == 0 ? 1 : 2;
        n += snprintf(dst + n, 32 - (size_t) n, ".%0*lld", len,
                      len == 1 ? hundredths % 100 / 10 : hundredths % 100);
    }
    snprintf(dst + n, 32 - (size_t) n, " %s", name);
    return dst;
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
}

/* "", "b", "kb", "kib", "k" …: the factor, or 0 when it is no unit. A bare letter is refused: "24G"
 * means GB to one person and GiB to the next. */
static int64_t unit_factor(const char *s) {
    static const char prefixes[] = "kmgt";
    char u[4] = { 0 };
    size_t len = strlen(s);
    if (len > 3) {
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        u[i] = lower(s[i]);
    }
    if (u[0] == '\0' || strcmp(u, "b") == 0) {
        return 1;
    }
    const char *p = strchr(prefixes, u[0]);
    bool binary = strcmp(u + 1, "ib") == 0;
    if (p == NULL || (!binary && strcmp(u + 1, "b") != 0)) {
        return 0;
    }
    int64_t factor = 1;
    for (int i = 0; i <= (int) (p - prefixes); i++) {
        factor *= binary ? 1024 : 1000;
    }
    return factor;
}

bool om_parse_bytes(int64_t *out, const char *text) {
    const int64_t limit = INT64_C(1) << 62;
    int64_t whole = 0;
    bool digits = false;
    const char *s = text;
    for (; *s >= '0' && *s <= '9'; s++) {
        digits = true;
        if (whole > limit / 10) {
            return false;
        }
        whole = whole * 10 + (*s - '0');
    }
    /* fraction = num / den, at most nine digits: more cannot matter */
    int64_t num = 0, den = 1;
    bool fraction = *s == '.';
    if (fraction) {
        s++;
        if (!digits && !(*s >= '0' && *s <= '9')) {
            return false;
        }
        for (; *s >= '0' && *s <= '9'; s++) {
            digits = true;
            if (den < 1000000000) {
                num = num * 10 + (*s - '0');
                den *= 10;
            }
        }
    }
    if (!digits) {
        return false;
    }
    if (*s == ' ') {
        s++;
        if (*s == '\0') {
            return false;
        }
    }
    const int64_t factor = unit_factor(s);
    if (factor == 0 || (fraction && factor == 1)) {
        return false;
    }
    if (whole > limit / factor) {
        return false;
    }
    /* factor / den first loses nothing that matters: factor <= 2^40, num < 1e9 */
    const double part = (double) num / (double) den * (double) factor;
    const int64_t bytes = whole * factor + (int64_t) (part + 0.5);
    if (bytes > limit) {
        return false;
    }
    *out = bytes;
    return true;
}
