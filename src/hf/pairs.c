/* Metadata pairs -> bytes: key, type of the value, value; all little-endian (docs/gguf.md of ggml).
 */
#include "hf/pairs.h"

#include <string.h>

#include "gguf.h"

void om_pairs_put(om_buf *b, uint64_t value, size_t n_bytes) {
    char bytes[8];
    for (size_t i = 0; i < n_bytes; i++) {
        bytes[i] = (char) (unsigned char) (value >> (8 * i));
    }
    om_buf_add(b, bytes, n_bytes);
}

void om_pairs_put_str(om_buf *b, const char *text, size_t length) {
    om_pairs_put(b, length, 8);
    om_buf_add(b, text, length);
}

static void put_key(om_pairs *p, const char *key, enum gguf_type type) {
    static const char of_arch[] = "%s.";
    const size_t prefix = sizeof of_arch - 1;
    if (strncmp(key, of_arch, prefix) == 0) {
        const size_t n_arch = strlen(p->arch), n_rest = strlen(key) - prefix + 1;
        om_pairs_put(&p->bytes, n_arch + n_rest, 8);
        om_buf_add(&p->bytes, p->arch, n_arch);
        om_buf_add(&p->bytes, key + prefix - 1, n_rest);
    } else {
        om_pairs_put_str(&p->bytes, key, strlen(key));
    }
    om_pairs_put(&p->bytes, (uint64_t) type, 4);
    p->n++;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void om_pairs_u32(om_pairs *p, const char *key, uint32_t value) {
    put_key(p, key, GGUF_TYPE_UINT32);
    om_pairs_put(&p->bytes, value, 4);
}

void om_pairs_i32(om_pairs *p, const char *key, int32_t value) {
    put_key(p, key, GGUF_TYPE_INT32);
    om_pairs_put(&p->bytes, (uint32_t) value, 4);
}

void om_pairs_f32(om_pairs *p, const char *key, float value) {
    put_key(p, key, GGUF_TYPE_FLOAT32);
    om_pairs_put(&p->bytes, bits_of(value), 4);
}

void om_pairs_bool(om_pairs *p, const char *key, bool value) {
    put_key(p, key, GGUF_TYPE_BOOL);
    om_pairs_put(&p->bytes, value, 1);
}

void om_pairs_str(om_pairs *p, const char *key, const char *value) {
    put_key(p, key, GGUF_TYPE_STRING);
    om_pairs_put_str(&p->bytes, value, strlen(value));
}

static void begin_array(om_pairs *p, const char *key, enum gguf_type items, size_t n) {
    put_key(p, key, GGUF_TYPE_ARRAY);
    om_pairs_put(&p->bytes, (uint64_t) items, 4);
    om_pairs_put(&p->bytes, n, 8);
}

void om_pairs_i32s(om_pairs *p, const char *key, const int32_t *values, size_t n) {
    begin_array(p, key, GGUF_TYPE_INT32, n);
    for (size_t i = 0; i < n; i++) {
        om_pairs_put(&p->bytes, (uint32_t) values[i], 4);
    }
}

void om_pairs_f32s(om_pairs *p, const char *key, const float *values, size_t n) {
    begin_array(p, key, GGUF_TYPE_FLOAT32, n);
    for (size_t i = 0; i < n; i++) {
        om_pairs_put(&p->bytes, bits_of(values[i]), 4);
    }
}

void om_pairs_begin_strs(om_pairs *p, const char *key, size_t n) {
    begin_array(p, key, GGUF_TYPE_STRING, n);
}

void om_pairs_item(om_pairs *p, const char *text, size_t length) {
    om_pairs_put_str(&p->bytes, text, length);
}

void om_pairs_release(om_pairs *p) {
    om_buf_release(&p->bytes);
    p->n = 0;
}
