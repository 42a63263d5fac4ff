/* JSON: documents with a schema, values fetched with messages that name the JSON path. jansson's
 * type is only forward-declared; every file that builds or walks JSON includes this header alone.
 */
#ifndef OM_BASE_JSON_H
#define OM_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

typedef struct json_t om_json; /* reference counted */

void om_json_free(om_json *doc); /* one reference; accepts NULL */

/* ---- reading: errors are OM_E_FORMAT, e.g. "profile.json: tensors[3].types.q4_K.nats: expected a
 * number" ---- */

/** Where a value sits, for messages. Keep on the stack; parents must outlive children. */
typedef struct om_node {
    const om_json *value;
    const struct om_node *parent;
    const char *key; /* NULL for an array element */
    size_t index;
    const char *file; /* root only */
} om_node;

/** Parse a file of at most 1 GiB and check "schema" equals `schema` ("optimum.profile/1"): a newer
 * major version is refused with both versions in the text; NULL: any JSON object. *out owned.
 * Duplicate keys, NaN, trailing bytes are errors. */
om_status om_json_load(om_json **out, const char *path, const char *schema,
                       om_error *err) OM_WARN_UNUSED;
om_status om_json_parse(om_json **out, const char *text, size_t n, const char *name,
                        const char *schema, om_error *err) OM_WARN_UNUSED;

/** The document itself as a node; `file` is for messages, borrowed. */
om_node om_node_root(const om_json *doc, const char *file);

/* Required members; the node is filled and refers to `parent`. Wrong type or absent: error with the
 * path. */
om_status om_node_object(om_node *out, const om_node *parent, const char *key,
                         om_error *err) OM_WARN_UNUSED;
om_status om_node_array(om_node *out, size_t *n, const om_node *parent, const char *key,
                        om_error *err) OM_WARN_UNUSED;
om_status om_node_at(om_node *out, const om_node *array, size_t i, om_error *err) OM_WARN_UNUSED;
om_status om_node_str(const char **out, const om_node *parent, const char *key,
                      om_error *err) OM_WARN_UNUSED; /* borrowed */
om_status om_node_i64(int64_t *out, const om_node *parent, const char *key, int64_t min,
                      int64_t max, om_error *err) OM_WARN_UNUSED;
om_status om_node_f64(double *out, const om_node *parent, const char *key,
                      om_error *err) OM_WARN_UNUSED; /* finite */
om_status om_node_bool(bool *out, const om_node *parent, const char *key,
                       om_error *err) OM_WARN_UNUSED;
bool om_node_has(const om_node *parent, const char *key); /* present and not null */
/** Whatever stands there; NULL: absent, or the parent is no object. Borrowed. */
const om_json *om_node_get(const om_node *parent, const char *key);
/** This element itself as a number or string (array elements). */
om_status om_node_value_i64(int64_t *out, const om_node *node, int64_t min, int64_t max,
                            om_error *err) OM_WARN_UNUSED;
om_status om_node_value_f64(double *out, const om_node *node, om_error *err) OM_WARN_UNUSED;
om_status om_node_value_str(const char **out, const om_node *node, om_error *err) OM_WARN_UNUSED;
/** Its length, when it is an array itself. */
om_status om_node_value_array(size_t *n, const om_node *node, om_error *err) OM_WARN_UNUSED;
/** Members of an object in file order: call with *iter = NULL first; false at the end. */
bool om_node_next(om_node *out, const om_node *object, void **iter);
/** Fail at this node: "file: path: message". */
om_status om_node_fail(om_error *err, const om_node *node, const char *fmt, ...) OM_PRINTF(3, 4);

/* ---- writing: NULL values are ignored and remembered, so check once at om_json_dump ---- */

om_json *om_json_object(void);
om_json *om_json_array(void);
void om_json_set(om_json *object, const char *key, om_json *value);        /* takes value */
void om_json_remove(om_json *object, const char *key);                     /* absent: nothing */
void om_json_set_str(om_json *object, const char *key, const char *value); /* NULL writes null */
void om_json_set_i64(om_json *object, const char *key, int64_t value);
void om_json_set_f64(om_json *object, const char *key, double value); /* not finite writes null */
void om_json_set_bool(om_json *object, const char *key, bool value);
void om_json_push(om_json *array, om_json *value); /* takes value */
/** A copy that can be changed without changing the original, members in their order; owned. */
om_json *om_json_copy(const om_json *value);
om_json *om_json_str(const char *value);
om_json *om_json_i64(int64_t value);
om_json *om_json_f64(double value);

/** A new document: {"schema":…, "tool":"optimum VERSION"}. */
om_json *om_json_new_document(const char *schema);
/** Canonical text: insertion order kept (equal inputs give equal bytes), one space indent, %.17g
 * shortest, newline at the end. Owned; NULL when memory is short. */
char *om_json_dump(const om_json *doc);
/** Append one string as JSON, with quotes and escapes (bytes that are no UTF-8 become U+FFFD), for
 * formats with a layout of their own. */
void om_json_put_str(om_buf *b, const char *value);
/** om_json_dump to a file, atomically. */
om_status om_json_save(const om_json *doc, const char *path, om_error *err) OM_WARN_UNUSED;

#endif
