/* What will be written: one line per tensor of the output file, exact to the byte. */
#ifndef OM_ARTIFACT_PLAN_H
#define OM_ARTIFACT_PLAN_H

#include "alloc/allocation.h"
#include "base/buf.h"
#include "model/gguf.h"
#include "profile/stats.h"

typedef struct om_plan_item {
    const om_tensor *tensor; /* source, borrowed from the model */
    const om_format *to;
    const om_tensor_stats *stats; /* of this tensor, shape checked, borrowed; NULL: none */
    int experts;                  /* matrices in the stack: ne[2] * ne[3] */
    int64_t offset;               /* from the start of the file */
    int64_t bytes;                /* without padding */
    double nats;                  /* filled by om_plan_write: 0 copied, NaN unknown */
} om_plan_item;

typedef struct om_plan {
    const om_model *model;
    om_plan_item *items; /* [n_items] all tensors in file order */
    int n_items;
    const om_format **types; /* [n_items] items[i].to, as om_gguf_metadata wants it */
    int64_t metadata_bytes, alignment, file_bytes;
    int64_t stats_tokens; /* N of eq. (1); 0: no marginals */
} om_plan;

/** Match an allocation with a model and statistics (NULL: none). Shapes in *stats may be completed
 * (om_stats_shape). *out owned (om_plan_free); it borrows model and stats.
 *
 *  Errors: OM_E_MISMATCH (a tensor of the allocation is not in the model, its block does not divide
 *          the row, a type that llama.cpp could not load, statistics of another shape, importance
 *          needed and missing), each with the tensor's name.
 *  Cost:   metadata only. */
om_status om_plan_make(om_plan **out, const om_model *model, const om_allocation *a,
                       om_stats *stats, om_error *err) OM_WARN_UNUSED;
void om_plan_free(om_plan *plan);

/** Table "tensor, shape, from, to, bytes" with a total line. */
void om_plan_print(om_buf *out, const om_plan *plan);

/** Seconds the quantization will take on n_threads: a rough figure from rates per type. */
double om_plan_seconds(const om_plan *plan, int n_threads);

#endif
