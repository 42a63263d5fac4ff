/* An allocation for people, and for scripts: tables and the parts of the result JSON. */
#ifndef OM_ALLOC_DESCRIBE_H
#define OM_ALLOC_DESCRIBE_H

#include "alloc/allocation.h"
#include "alloc/expert_plans.h"
#include "base/buf.h"
#include "profile/profile.h"

/** A point of the size-quality curve. */
typedef struct om_curve_point {
    const char *name; /* of a preset; NULL on the curve. Borrowed, static */
    int64_t bytes, active_bytes;
    double bpw, nats;
} om_curve_point;

/** Summary, types and the ten costliest tensors. Every tensor of `a` is a unit of the profile, in
 * its order. bandwidth_bytes_s: of memory, for the ceiling in tokens per second; 0: unknown. */
void om_describe_allocation(om_buf *out, const om_allocation *a, const om_profile *profile,
                            double bandwidth_bytes_s);
/** Adds "slack_bytes", "types", "costliest" and, with a bandwidth, "bandwidth_bytes_s" and
 * "tok_s_ceiling" to a document. */
void om_describe_json(om_json *doc, const om_allocation *a, const om_profile *profile,
                      double bandwidth_bytes_s);

/** The banks of an allocation, a line for each, and what they gain; stack_nats: predicted for the
 * best allocation without them. */
void om_describe_banks(om_buf *out, const om_allocation *a, double stack_nats);

/** What the container costs a plan per expert: two lines for people, an object (owned). */
void om_describe_projection(om_buf *out, const om_projection *projection);
om_json *om_projection_json(const om_projection *projection);

/** The sweep as a table for people, and as the array "curve" of optimum.sweep/1 (owned). */
void om_describe_curve(om_buf *out, const om_curve_point *points, int n);
om_json *om_curve_json(const om_curve_point *points, int n);

#endif
