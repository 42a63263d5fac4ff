/* Pairs under construction, read back by ggml's own reader. */
#ifndef OM_TESTS_READ_PAIRS_H
#define OM_TESTS_READ_PAIRS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gguf.h>

#include "hf/pairs.h"
#include "tmpdir.h"

/** A file of nothing but these pairs, opened: gguf_free it. */
static inline struct gguf_context *read_pairs(const char *dir, const om_pairs *pairs) {
    om_buf b = { 0 };
    om_buf_add(&b, "GGUF", 4);
    om_pairs_put(&b, 3, 4);
    om_pairs_put(&b, 0, 8);
    om_pairs_put(&b, pairs->n, 8);
    om_buf_add(&b, pairs->bytes.data, pairs->bytes.len);
    const char *path = om_tmpdir_write(dir, "pairs.gguf", b.data, b.len);
    om_buf_release(&b);
    struct gguf_context *g =
        gguf_init_from_file(path, (struct gguf_init_params){ .no_alloc = true });
    if (g == NULL) {
        fprintf(stderr, "the pairs are no GGUF\n");
        exit(1);
    }
    return g;
}

/* A number of any type, -1e30 when it is absent. */
static inline double pair_number(const struct gguf_context *g, const char *key) {
    const int64_t i = gguf_find_key(g, key);
    const enum gguf_type type = i < 0 ? GGUF_TYPE_STRING : gguf_get_kv_type(g, i);
    if (type == GGUF_TYPE_UINT32) {
        return gguf_get_val_u32(g, i);
    }
    if (type == GGUF_TYPE_INT32) {
        return gguf_get_val_i32(g, i);
    }
    if (type == GGUF_TYPE_FLOAT32) {
        return (double) gguf_get_val_f32(g, i);
    }
    return type == GGUF_TYPE_BOOL ? (double) gguf_get_val_bool(g, i) : -1e30;
}

static inline const char *pair_text(const struct gguf_context *g, const char *key) {
    const int64_t i = gguf_find_key(g, key);
    return i < 0 || gguf_get_kv_type(g, i) != GGUF_TYPE_STRING ? "(none)" : gguf_get_val_str(g, i);
}

/* All items of an array as text with "|" between them, in a static buffer. */
static inline const char *pair_items(const struct gguf_context *g, const char *key) {
    static char text[4096];
    const int64_t i = gguf_find_key(g, key);
    size_t n = 0;
    text[0] = '\0';
    for (size_t k = 0; i >= 0 && k < gguf_get_arr_n(g, i) && n < sizeof text; k++) {
        const char *bar = k == 0 ? "" : "|";
        const size_t room = sizeof text - n;
        int length = 0;
        if (gguf_get_arr_type(g, i) == GGUF_TYPE_STRING) {
            length = snprintf(text + n, room, "%s%s", bar, gguf_get_arr_str(g, i, k));
        } else if (gguf_get_arr_type(g, i) == GGUF_TYPE_INT32) {
            const int32_t *items = gguf_get_arr_data(g, i);
            length = snprintf(text + n, room, "%s%d", bar, items[k]);
        } else {
            const float *items = gguf_get_arr_data(g, i);
            length = snprintf(text + n, room, "%s%g", bar, (double) items[k]);
        }
        n += length > 0 ? (size_t) length : 0;
    }
    return i < 0 ? "(none)" : text;
}

#endif
