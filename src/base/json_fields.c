/* Shared members of our documents: see json_fields.h. */
#include "base/json_fields.h"

#include <string.h>

#include "base/buf.h"
#include "base/file.h"

om_status om_node_text(char *dst, size_t cap, const om_node *parent, const char *key,
                       om_error *err) {
    const char *s = NULL;
    om_status status = om_node_str(&s, parent, key, err);
    if (status != OM_OK) {
        return status;
    }
    const size_t n = strlen(s);
    if (n >= cap) {
        return om_node_fail(err, parent, "%s: %zu characters, at most %zu expected", key, n,
                            cap - 1);
    }
    memcpy(dst, s, n + 1);
    return OM_OK;
}

om_status om_node_sha256(char hex[65], const om_node *parent, const char *key, om_error *err) {
    char text[65];
    om_status status = om_node_text(text, sizeof text, parent, key, err);
    if (status != OM_OK) {
        return status;
    }
    if (text[0] != '\0' && !om_is_sha256(text, strlen(text))) {
        return om_node_fail(err, parent, "%s: expected 64 lower-case hex digits", key);
    }
    memcpy(hex, text, strlen(text) + 1);
    return OM_OK;
}

om_status om_node_int(int *out, const om_node *parent, const char *key, int min, int max,
                      om_error *err) {
    int64_t v = 0;
    om_status status = om_node_i64(&v, parent, key, min, max, err);
    if (status == OM_OK) {
        *out = (int) v;
    }
    return status;
}

om_status om_node_u64(uint64_t *out, const om_node *parent, const char *key, om_error *err) {
    const char *s = NULL;
    om_error ignored = { 0 };
    if (om_node_str(&s, parent, key, &ignored) != OM_OK) {
        int64_t v = 0;
        om_status status = om_node_i64(&v, parent, key, 0, INT64_MAX, err);
        if (status == OM_OK) {
            *out = (uint64_t) v;
        }
        return status;
    }
    const size_t n = strlen(s);
    uint64_t v = 0;
    bool ok = n > 0 && n <= 20 && strspn(s, "0123456789") == n;
    for (size_t i = 0; ok && i < n; i++) {
        const uint64_t digit = (uint64_t) (s[i] - '0');
        ok = v <= (UINT64_MAX - digit) / 10;
        v = ok ? v * 10 + digit : v;
    }
    if (!ok) {
        return om_node_fail(err, parent, "%s: expected a number of 64 bits, found \"%.32s\"", key,
                            s);
    }
    *out = v;
    return OM_OK;
}

void om_json_set_u64(om_json *object, const char *key, uint64_t value) {
    if (value <= (uint64_t) 1 << 53) {
        om_json_set_i64(object, key, (int64_t) value);
        return;
    }
    om_buf digits = { 0 };
    om_buf_printf(&digits, "%llu", (unsigned long long) value);
    om_json_set_str(object, key, digits.failed ? NULL : digits.data);
    om_buf_release(&digits);
}
