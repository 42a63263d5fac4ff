/* JSON documents on jansson: a schema check at the door, values fetched with the path in the
 * message, and a canonical writer of our own.
 *
 * The writer is ours because equal inputs must give equal bytes on every machine: members in
 * insertion order, every number as the shortest decimal that reads back as the same double, a point
 * whatever the locale. jansson's own dump would print 17 digits for all.
 *
 * jansson allocates through om_calloc, so the fault point covers it. Each block carries a header:
 * during a parse it links the blocks, so that a parse that runs out of memory can be undone; for a
 * container (whose block starts with its json_t) the header remembers that a value went
 * missing, and om_json_dump then refuses: builders can ignore errors until the end.
 */
#include "base/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define MAX_FILE_BYTES ((size_t) 1 << 30)

/* ---- allocation and remembered failures ---- */

typedef union block_header {
    struct {
        union block_header *prev, *next; /* neighbours in the parse that made it, else NULL */
        bool incomplete;
    } s;
    max_align_t align;
} block_header;

/* The parse that runs in this thread: every block it holds, and where to go when memory runs out.
 */
typedef struct parse_guard {
    block_header head; /* of a ring */
    jmp_buf out_of_memory;
} parse_guard;

static _Thread_local parse_guard *guard;

static void unlink_block(block_header *h) {
    if (h->s.next != NULL) {
        h->s.prev->s.next = h->s.next;
        h->s.next->s.prev = h->s.prev;
    }
}

static void *block_alloc(size_t n) {
    block_header *h = NULL;
    if (n <= SIZE_MAX - sizeof(block_header)) {
        h = om_calloc(n + sizeof(block_header), 1);
    }
    if (guard == NULL) {
        return h == NULL ? NULL : h + 1;
    }
    if (h == NULL) {
        longjmp(guard->out_of_memory, 1);
    }
    h->s.prev = &guard->head;
    h->s.next = guard->head.s.next;
    h->s.next->s.prev = h;
    guard->head.s.next = h;
    return h + 1;
}

static void block_free(void *p) {
    if (p != NULL) {
        block_header *h = (block_header *) p - 1;
        unlink_block(h);
        om_free(h);
    }
}

/* json_loadb, or NULL with *no_memory. jansson's lexer goes on after a failed allocation and writes
 * outside its buffer (2.14), so a parse leaves it by a jump, and its blocks are freed here. */
static json_t *load_guarded(const char *text, size_t n, json_error_t *e, bool *no_memory) {
    parse_guard g;
    g.head.s.prev = g.head.s.next = &g.head;
    *no_memory = false;
    guard = &g;
    if (setjmp(g.out_of_memory) != 0) {
        guard = NULL;
        *no_memory = true;
        for (block_header *h = g.head.s.next, *next; h != &g.head; h = next) {
            next = h->s.next;
            om_free(h);
        }
        return NULL;
    }
    json_t *doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, e);
    guard = NULL;
    for (block_header *h = g.head.s.next, *next; h != &g.head; h = next) {
        next = h->s.next;
        h->s.prev = h->s.next = NULL; /* the ring ends with this frame */
    }
    return doc;
}

static void install_allocator(void) {
    json_set_alloc_funcs(block_alloc, block_free);
}

static void init_jansson(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void) pthread_once(&once, install_allocator);
}

static block_header *header_of(const json_t *container) {
    return (block_header *) (uintptr_t) container - 1;
}

static void mark_incomplete(json_t *container) {
    if (container != NULL) {
        header_of(container)->s.incomplete = true;
    }
}

void om_json_free(om_json *doc) {
    json_decref(doc);
}

/* ---- text that jansson accepts ---- */

/* Length of the valid UTF-8 sequence at s (1..4), 0 when there is none. */
static size_t utf8_length(const unsigned char *s) {
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    const size_t n = s[0] < 0x80           ? 1
                     : (s[0] >> 5) == 0x06 ? 2
                     : (s[0] >> 4) == 0x0E ? 3
                     : (s[0] >> 3) == 0x1E ? 4
                                           : 0;
    if (n < 2) {
        return n;
    }
    uint32_t code = s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
        code = code << 6 | (s[i] & 0x3Fu);
    }
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    return code < least[n] || code > 0x10FFFF || surrogate ? 0 : n;
}

static bool is_utf8(const char *s) {
    while (*s != '\0') {
        const size_t n = utf8_length((const unsigned char *) s);
        if (n == 0) {
            return false;
        }
        s += n;
    }
    return true;
}

/* A copy with U+FFFD for every byte that is no UTF-8 (file and tensor names may hold any bytes);
 * owned, NULL when memory is short. */
static char *to_utf8(const char *s) {
    om_buf b = { 0 };
    while (*s != '\0') {
        const size_t n = utf8_length((const unsigned char *) s);
        om_buf_add(&b, n == 0 ? "\xEF\xBF\xBD" : s, n == 0 ? 3 : n);
        s += n == 0 ? 1 : n;
    }
    return om_buf_take(&b);
}

/* ---- messages ---- */

static void put_key(om_buf *b, const char *key, bool first) {
    bool plain = key[0] != '\0' && strlen(key) <= 64;
    for (const char *c = key; *c != '\0' && plain; c++) {
        plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
                *c == '_' || *c == '-';
    }
    if (plain) {
        om_buf_printf(b, "%s%s", first ? "" : ".", key);
    } else {
        om_buf_printf(b, "[\"%.100s\"]", key);
    }
}

/* Deep documents would not fit a message: only the ends of the path are shown. */
static void put_path(om_buf *b, const om_node *node) {
    enum { SHOWN = 8 };
    const om_node *chain[SHOWN];
    int n = 0;
    bool cut = false;
    for (; node->parent != NULL; node = node->parent) {
        if (n == SHOWN) {
            cut = true;
            continue;
        }
        chain[n++] = node;
    }
    om_buf_printf(b, "%s: ", node->file != NULL ? node->file : "JSON");
    if (cut) {
        om_buf_puts(b, "...");
    }
    for (int i = n; i-- > 0;) {
        if (chain[i]->key == NULL) {
            om_buf_printf(b, "[%zu]", chain[i]->index);
        } else {
            put_key(b, chain[i]->key, i == n - 1 && !cut);
        }
    }
    if (n > 0) {
        om_buf_puts(b, ": ");
    }
}

om_status om_node_fail(om_error *err, const om_node *node, const char *fmt, ...) {
    char message[384];
    om_buf path = { 0 };
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    put_path(&path, node);
    om_status status = om_fail(err, OM_E_FORMAT, "%s%s",
                               path.failed || path.data == NULL ? "" : path.data, message);
    om_buf_release(&path);
    return status;
}

/* ---- reading documents ---- */

/* The N of "optimum.profile/N", -1 when `schema` is of another kind. */
static long schema_version(const char *schema, const char *kind, size_t kind_len) {
    if (strncmp(schema, kind, kind_len) != 0 || schema[kind_len] != '/') {
        return -1;
    }
    const char *digits = schema + kind_len + 1;
    char *end = NULL;
    if (*digits < '0' || *digits > '9') {
        return -1;
    }
    const long version = strtol(digits, &end, 10);
    return *end == '\0' ? version : -1;
}

static om_status check_schema(const json_t *doc, const char *name, const char *wanted,
                              om_error *err) {
    const json_t *value = json_object_get(doc, "schema");
    if (!json_is_string(value)) {
        return om_fail(err, OM_E_FORMAT, "%s: expected an %s document, found JSON without a schema",
                       name, wanted);
    }
    const char *found = json_string_value(value);
    if (strcmp(found, wanted) == 0) {
        return OM_OK;
    }
    const char *slash = strrchr(wanted, '/');
    const size_t kind_len = slash == NULL ? strlen(wanted) : (size_t) (slash - wanted);
    const long have = schema_version(found, wanted, kind_len);
    const long want = schema_version(wanted, wanted, kind_len);
    if (have > want) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: written by a newer version (%.64s; this one reads %s): update optimum",
                       name, found, wanted);
    }
    if (have >= 0) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: written by an older version (%.64s; this one reads %s): make it again",
                       name, found, wanted);
    }
    return om_fail(err, OM_E_FORMAT, "%s: expected an %s document, found %.64s", name, wanted,
                   found);
}

om_status om_json_parse(om_json **out, const char *text, size_t n, const char *name,
                        const char *schema, om_error *err) {
    om_status status = OM_OK;
    json_error_t e;
    bool no_memory = false;
    init_jansson();
    json_t *doc = load_guarded(text, n, &e, &no_memory);
    if (doc == NULL) {
        if (no_memory) {
            return om_fail_nomem(err, n);
        }
        return om_fail(err, OM_E_FORMAT, "%s: line %d, column %d: not valid JSON: %s", name, e.line,
                       e.column, e.text);
    }
    if (!json_is_object(doc)) {
        status = om_fail(err, OM_E_FORMAT, "%s: expected a JSON object, found an array", name);
        goto out;
    }
    if (schema != NULL) {
        OM_TRY(check_schema(doc, name, schema, err));
    }
    *out = doc;
    doc = NULL;
out:
    json_decref(doc);
    return status;
}

om_status om_json_load(om_json **out, const char *path, const char *schema, om_error *err) {
    om_status status = OM_OK;
    char *text = NULL;
    size_t n = 0;
    OM_TRY(om_file_read(&text, &n, path, MAX_FILE_BYTES, err));
    OM_TRY(om_json_parse(out, text, n, path, schema, err));
out:
    om_free(text);
    return status;
}

/* ---- fetching values ---- */

om_node om_node_root(const om_json *doc, const char *file) {
    return (om_node){ .value = doc, .file = file };
}

static const char *type_name(const json_t *v) {
    if (v == NULL) {
        return "nothing";
    }
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

static om_status fail_type(om_error *err, const om_node *node, const char *expected) {
    return om_node_fail(err, node, "expected %s, found %s", expected, type_name(node->value));
}

static om_node member(const om_node *parent, const char *key) {
    return (om_node){ .value = json_object_get(parent->value, key), .parent = parent, .key = key };
}

om_status om_node_object(om_node *out, const om_node *parent, const char *key, om_error *err) {
    const om_node node = member(parent, key);
    if (!json_is_object(node.value)) {
        return fail_type(err, &node, "an object");
    }
    *out = node;
    return OM_OK;
}

om_status om_node_array(om_node *out, size_t *n, const om_node *parent, const char *key,
                        om_error *err) {
    const om_node node = member(parent, key);
    if (!json_is_array(node.value)) {
        return fail_type(err, &node, "an array");
    }
    *out = node;
    *n = json_array_size(node.value);
    return OM_OK;
}

om_status om_node_value_array(size_t *n, const om_node *node, om_error *err) {
    if (!json_is_array(node->value)) {
        return fail_type(err, node, "an array");
    }
    *n = json_array_size(node->value);
    return OM_OK;
}

om_status om_node_at(om_node *out, const om_node *array, size_t i, om_error *err) {
    const om_node node = { .value = json_array_get(array->value, i), .parent = array, .index = i };
    if (node.value == NULL) {
        return om_node_fail(err, array, "expected at least %zu elements, found %zu", i + 1,
                            json_array_size(array->value));
    }
    *out = node;
    return OM_OK;
}

om_status om_node_value_str(const char **out, const om_node *node, om_error *err) {
    if (!json_is_string(node->value)) {
        return fail_type(err, node, "a string");
    }
    *out = json_string_value(node->value);
    return OM_OK;
}

om_status om_node_value_i64(int64_t *out, const om_node *node, int64_t min, int64_t max,
                            om_error *err) {
    if (!json_is_integer(node->value)) {
        return fail_type(err, node, "an integer");
    }
    const int64_t value = (int64_t) json_integer_value(node->value);
    if (value < min || value > max) {
        return om_node_fail(err, node,
                            "expected an integer from %" PRId64 " to %" PRId64 ", found %" PRId64,
                            min, max, value);
    }
    *out = value;
    return OM_OK;
}

om_status om_node_value_f64(double *out, const om_node *node, om_error *err) {
    if (!json_is_number(node->value)) {
        return fail_type(err, node, "a number");
    }
    const double value = json_number_value(node->value);
    if (!isfinite(value)) {
        return om_node_fail(err, node, "expected a finite number");
    }
    *out = value;
    return OM_OK;
}

om_status om_node_str(const char **out, const om_node *parent, const char *key, om_error *err) {
    const om_node node = member(parent, key);
    return om_node_value_str(out, &node, err);
}

om_status om_node_i64(int64_t *out, const om_node *parent, const char *key, int64_t min,
                      int64_t max, om_error *err) {
    const om_node node = member(parent, key);
    return om_node_value_i64(out, &node, min, max, err);
}

om_status om_node_f64(double *out, const om_node *parent, const char *key, om_error *err) {
    const om_node node = member(parent, key);
    return om_node_value_f64(out, &node, err);
}

om_status om_node_bool(bool *out, const om_node *parent, const char *key, om_error *err) {
    const om_node node = member(parent, key);
    if (!json_is_boolean(node.value)) {
        return fail_type(err, &node, "true or false");
    }
    *out = json_is_true(node.value);
    return OM_OK;
}

bool om_node_has(const om_node *parent, const char *key) {
    const json_t *value = json_object_get(parent->value, key);
    return value != NULL && !json_is_null(value);
}

const om_json *om_node_get(const om_node *parent, const char *key) {
    return json_object_get(parent->value, key);
}

bool om_node_next(om_node *out, const om_node *object, void **iter) {
    json_t *o = (json_t *) (uintptr_t) object->value; /* jansson's iterators lack const */
    *iter = *iter == NULL ? json_object_iter(o) : json_object_iter_next(o, *iter);
    if (*iter == NULL) {
        return false;
    }
    *out = (om_node){ .value = json_object_iter_value(*iter),
                      .parent = object,
                      .key = json_object_iter_key(*iter) };
    return true;
}

/* ---- building ---- */

om_json *om_json_object(void) {
    init_jansson();
    return json_object();
}

om_json *om_json_array(void) {
    init_jansson();
    return json_array();
}

om_json *om_json_str(const char *value) {
    init_jansson();
    if (value == NULL) {
        return json_null();
    }
    if (is_utf8(value)) {
        return json_string(value);
    }
    char *clean = to_utf8(value);
    json_t *s = clean == NULL ? NULL : json_string(clean);
    om_free(clean);
    return s;
}

om_json *om_json_i64(int64_t value) {
    init_jansson();
    return json_integer((json_int_t) value);
}

om_json *om_json_f64(double value) {
    init_jansson();
    return isfinite(value) ? json_real(value) : json_null();
}

void om_json_set(om_json *object, const char *key, om_json *value) {
    char *clean = NULL;
    if (!is_utf8(key)) {
        clean = to_utf8(key);
        key = clean;
    }
    /* takes the value even when it fails */
    if (json_object_set_new(object, key, value) != 0) {
        mark_incomplete(object);
    }
    om_free(clean);
}

void om_json_set_str(om_json *object, const char *key, const char *value) {
    om_json_set(object, key, om_json_str(value));
}

void om_json_set_i64(om_json *object, const char *key, int64_t value) {
    om_json_set(object, key, om_json_i64(value));
}

void om_json_set_f64(om_json *object, const char *key, double value) {
    om_json_set(object, key, om_json_f64(value));
}

void om_json_set_bool(om_json *object, const char *key, bool value) {
    om_json_set(object, key, value ? json_true() : json_false());
}

void om_json_remove(om_json *object, const char *key) {
    (void) json_object_del(object, key);
}

om_json *om_json_copy(const om_json *value) {
    init_jansson();
    return value == NULL ? NULL : json_deep_copy(value);
}

void om_json_push(om_json *array, om_json *value) {
    if (json_array_append_new(array, value) != 0) {
        mark_incomplete(array);
    }
}

om_json *om_json_new_document(const char *schema) {
    om_json *doc = om_json_object();
    if (doc != NULL) {
        om_json_set_str(doc, "schema", schema);
        om_json_set_str(doc, "tool", "optimum " OM_VERSION);
    }
    return doc;
}

/* ---- writing ---- */

static void put_string(om_buf *b, const char *s) {
    om_buf_puts(b, "\"");
    const char *run = s;
    for (;; s++) {
        const unsigned char c = (unsigned char) *s;
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
            continue;
        }
        om_buf_add(b, run, (size_t) (s - run));
        if (c == '\0') {
            break;
        }
        run = s + 1;
        if (c == '"' || c == '\\') {
            om_buf_printf(b, "\\%c", c);
        } else if (c == '\n') {
            om_buf_puts(b, "\\n");
        } else if (c == '\t') {
            om_buf_puts(b, "\\t");
        } else {
            om_buf_printf(b, "\\u%04x", c);
        }
    }
    om_buf_puts(b, "\"");
}

void om_json_put_str(om_buf *b, const char *value) {
    if (is_utf8(value)) {
        put_string(b, value);
        return;
    }
    char *clean = to_utf8(value);
    if (clean == NULL) {
        b->failed = true;
    } else {
        put_string(b, clean);
    }
    om_free(clean);
}

/* The shortest of 15, 16, 17 digits that reads back as the same double. */
static void put_real(om_buf *b, double value) {
    char text[40], clean[48];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    /* In some locales the decimal point is another, even a longer, sequence of bytes. */
    size_t n = 0;
    bool real = false, in_point = false;
    for (const char *c = text; *c != '\0'; c++) {
        if ((*c >= '0' && *c <= '9') || *c == '-' || *c == '+' || *c == 'e') {
            real = real || *c == 'e';
            in_point = false;
            clean[n++] = *c;
        } else if (!in_point) {
            real = in_point = true;
            clean[n++] = '.';
        }
    }
    clean[n] = '\0';
    om_buf_puts(b, clean);
    if (!real) {
        om_buf_puts(b, ".0"); /* stays a real when it is read */
    }
}

static void put_indent(om_buf *b, int depth) {
    om_buf_puts(b, "\n");
    for (int i = 0; i < depth; i++) {
        om_buf_puts(b, " ");
    }
}

static bool put_value(om_buf *b, const json_t *v, int depth);

static bool put_object(om_buf *b, const json_t *v, int depth) {
    json_t *o = (json_t *) (uintptr_t) v;
    bool ok = !header_of(v)->s.incomplete;
    const char *separator = "";
    om_buf_puts(b, "{");
    for (void *it = json_object_iter(o); it != NULL && ok; it = json_object_iter_next(o, it)) {
        om_buf_puts(b, separator);
        put_indent(b, depth + 1);
        put_string(b, json_object_iter_key(it));
        om_buf_puts(b, ": ");
        ok = put_value(b, json_object_iter_value(it), depth + 1);
        separator = ",";
    }
    if (json_object_size(v) > 0) {
        put_indent(b, depth);
    }
    om_buf_puts(b, "}");
    return ok;
}

static bool put_array(om_buf *b, const json_t *v, int depth) {
    const size_t n = json_array_size(v);
    bool ok = !header_of(v)->s.incomplete;
    om_buf_puts(b, "[");
    for (size_t i = 0; i < n && ok; i++) {
        om_buf_puts(b, i == 0 ? "" : ",");
        put_indent(b, depth + 1);
        ok = put_value(b, json_array_get(v, i), depth + 1);
    }
    if (n > 0) {
        put_indent(b, depth);
    }
    om_buf_puts(b, "]");
    return ok;
}

/* false: somewhere below a value is missing. */
static bool put_value(om_buf *b, const json_t *v, int depth) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return put_object(b, v, depth);
    case JSON_ARRAY:
        return put_array(b, v, depth);
    case JSON_STRING:
        put_string(b, json_string_value(v));
        return true;
    case JSON_INTEGER:
        om_buf_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        return true;
    case JSON_REAL:
        put_real(b, json_real_value(v));
        return true;
    case JSON_TRUE:
        om_buf_puts(b, "true");
        return true;
    case JSON_FALSE:
        om_buf_puts(b, "false");
        return true;
    case JSON_NULL:
        om_buf_puts(b, "null");
        return true;
    }
    return false;
}

char *om_json_dump(const om_json *doc) {
    om_buf b = { 0 };
    if (doc == NULL || !put_value(&b, doc, 0)) {
        om_buf_release(&b);
        return NULL;
    }
    om_buf_puts(&b, "\n");
    return om_buf_take(&b);
}

om_status om_json_save(const om_json *doc, const char *path, om_error *err) {
    char *text = om_json_dump(doc);
    if (text == NULL) {
        return om_fail(err, OM_E_NOMEM, "out of memory while writing %s", path);
    }
    om_status status = om_file_write(path, text, strlen(text), err);
    om_free(text);
    return status;
}
