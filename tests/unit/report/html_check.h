/* Is it HTML that a browser reads as it was meant? Include after cmocka. */
#ifndef OM_TESTS_HTML_CHECK_H
#define OM_TESTS_HTML_CHECK_H

#include <stdbool.h>
#include <string.h>

static inline bool is_void(const char *tag) {
    static const char *const names[] = { "meta", "br", "wbr", "hr", "img", "link", "input" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(tag, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* End of a tag's text, quotes respected; NULL: not closed, or a '<' inside. */
static inline const char *tag_end(const char *s) {
    for (char quote = 0; *s; s++) {
        if (quote) {
            quote = *s == quote ? 0 : quote;
        } else if (*s == '"' || *s == '\'') {
            quote = *s;
        } else if (*s == '>') {
            return s;
        } else if (*s == '<') {
            return NULL;
        }
    }
    return NULL;
}

/* Every element closed in order; style and script taken as raw text. */
static inline void check_balanced(const char *html) {
    char stack[64][32];
    int depth = 0, n_tags = 0;
    for (const char *s = html; (s = strchr(s, '<')) != NULL;) {
        if (s[1] == '!') {
            s++;
            continue;
        }
        const char *end = tag_end(s + 1);
        if (!end) {
            fail_msg("tag not closed: %.60s", s);
        }
        const bool closing = s[1] == '/';
        const char *name = s + 1 + closing;
        const size_t n =
            strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
        if (n == 0 || n > 31) {
            fail_msg("no tag: %.60s", s);
        }
        n_tags++;
        if (closing) {
            if (depth == 0 || strncmp(stack[depth - 1], name, n) != 0 ||
                stack[depth - 1][n] != '\0') {
                fail_msg("</%.*s> closes <%s>: %.80s", (int) n, name,
                         depth ? stack[depth - 1] : "nothing", s);
            }
            depth--;
        } else {
            char tag[32];
            memcpy(tag, name, n);
            tag[n] = '\0';
            if (!is_void(tag) && end[-1] != '/') {
                assert_true(depth < 64);
                memcpy(stack[depth++], tag, n + 1);
            }
            if (strcmp(tag, "style") == 0 || strcmp(tag, "script") == 0) {
                end = strstr(end, strcmp(tag, "style") == 0 ? "</style" : "</script") - 1;
            }
        }
        s = end + 1;
    }
    assert_int_equal(depth, 0);
    assert_true(n_tags > 0);
}

static inline int count(const char *text, const char *part) {
    int n = 0;
    for (const char *s = text; (s = strstr(s, part)) != NULL; s += strlen(part)) {
        n++;
    }
    return n;
}

#endif
