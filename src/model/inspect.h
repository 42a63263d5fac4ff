/* What inspect finds, between the part that gathers it and the part that prints it. Private to
 * src/model. */
#ifndef OM_MODEL_INSPECT_H
#define OM_MODEL_INSPECT_H

#include "base/json.h"
#include "model/gguf.h"
#include "model/memory.h"

enum { OM_INSPECT_ROLES = 256 };

/** All tensors with one role. Sets of types are bit masks over catalogue positions. */
typedef struct om_role_info {
    const char *role; /* borrowed from the model */
    int n_tensors, n_quantizable;
    int64_t params, bytes;  /* in the source */
    int64_t smallest_bytes; /* every tensor in its smallest type */
    int64_t row;            /* weights per row; 0: they differ */
    uint64_t sources;       /* types found */
    uint64_t candidates;    /* types every tensor of the role may become, its own included */
    uint64_t excluded;      /* common types whose block does not divide the row */
} om_role_info;

typedef struct om_inspection {
    const om_model *model; /* borrowed */
    om_role_info *roles; /* [n_roles] in order of appearance; the last collects what has no room */
    int n_roles;
    int64_t metadata_bytes;
    int64_t smallest_bytes, largest_bytes; /* whole files, padded; largest: nothing quantized */
    int64_t largest_quantized_bytes;       /* every tensor in its largest type below the source */
    om_memory memory;
    int n_ctx;
    const char *kv_type;
    int64_t kv_bytes, compute_bytes, reserve_bytes;
    om_budget budget;
    int64_t budget_file_bytes; /* 0: no budget */
} om_inspection;

/** The table for people; NULL when memory is short. Owned. */
char *om_inspection_text(const om_inspection *in);
/** Schema optimum.inspect/1; NULL when memory is short. Owned. */
char *om_inspection_json(const om_inspection *in);

#endif
