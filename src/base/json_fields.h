/* Members that several of our documents have: bounded text, digests, 64-bit numbers. Built on
 * json.h; errors are its: OM_E_FORMAT with file and JSON path. Outs are untouched on failure. */
#ifndef OM_BASE_JSON_FIELDS_H
#define OM_BASE_JSON_FIELDS_H

#include <stddef.h>

#include "base/json.h"

/** Copy a string member of at most cap - 1 bytes into dst [cap]. */
om_status om_node_text(char *dst, size_t cap, const om_node *parent, const char *key,
                       om_error *err) OM_WARN_UNUSED;
/** A digest: 64 lower-case hex digits, or "" for unknown. */
om_status om_node_sha256(char hex[65], const om_node *parent, const char *key,
                         om_error *err) OM_WARN_UNUSED;
/** An integer in [min, max]. */
om_status om_node_int(int *out, const om_node *parent, const char *key, int min, int max,
                      om_error *err) OM_WARN_UNUSED;
/** 64 bits as om_json_set_u64 writes them. */
om_status om_node_u64(uint64_t *out, const om_node *parent, const char *key,
                      om_error *err) OM_WARN_UNUSED;
/** A number, or a string of digits above 2^53, where readers that use doubles would change it. */
void om_json_set_u64(om_json *object, const char *key, uint64_t value);

#endif
