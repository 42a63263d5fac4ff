/* What quantize found, as JSON and for people: the same for both containers. */
#ifndef OM_ARTIFACT_OUTCOME_H
#define OM_ARTIFACT_OUTCOME_H

#include "alloc/allocation.h"
#include "base/buf.h"
#include "profile/stats.h"

typedef struct om_outcome_tensor {
    const char *name;
    const char *path; /* mlx-lm's; NULL in a GGUF */
    const char *from, *type;
    int64_t bytes;
    double nats;
    bool quantized; /* else copied, or kept in 16 bits */
} om_outcome_tensor;

/** Everything borrowed. */
typedef struct om_outcome {
    const om_quantize_options *options;
    const om_allocation *allocation;
    const char *model_path;
    int64_t params, source_bytes, bytes;
    const char *stats_path; /* NULL: none */
    const om_stats *stats;  /* NULL: none */
    char sha256[65];        /* of the output; "" in a dry run */
    double total_nats;      /* NaN unknown */
    double seconds;         /* measured, or estimated in a dry run */

    int shards;        /* of an MLX model; 0: a GGUF */
    const char *round; /* of an MLX model: "search" or "plain" */

    const void *plan;
    int n_tensors;
    om_outcome_tensor (*tensor)(const void *plan, int i);
    void (*print)(om_buf *out, const void *plan); /* the table of a dry run */
} om_outcome;

/** *out owned (om_result_release). Errors: OM_E_NOMEM. */
om_status om_outcome_result(om_result *out, const om_outcome *r, om_error *err) OM_WARN_UNUSED;

#endif
