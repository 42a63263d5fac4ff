/* An allocation for people, and for scripts: tables and the parts of the result JSON. */
#ifndef OM_ALLOC_DESCRIBE_H
#define OM_ALLOC_DESCRIBE_H

#include "alloc/allocation.h"
#include "base/buf.h"
#include "profile/profile.h"

/** A point of the size-quality curve. */
typedef struct om_curve_point {
    const char *name; /* of a preset; NULL on the curve. Borrowed, static */
    int64_t bytes;
    double bpw, nats;
} om_curve_point;

/** Summary, types and the ten costliest tensors. Every tensor of `a` is a unit of the profile, in
 * its order. */
void om_describe_allocation(om_buf *out, const om_allocation *a, const om_profile *profile);
/** Adds "slack_bytes", "types" and "costliest" to a document. */
void om_describe_json(om_json *doc, const om_allocation *a, const om_profile *profile);

/** The sweep as a table for people, and as the array "curve" of optimum.sweep/1 (owned). */
void om_describe_curve(om_buf *out, const om_curve_point *points, int n);
om_json *om_curve_json(const om_curve_point *points, int n);

#endif
