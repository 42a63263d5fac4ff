/* allocation.json in memory: one type per tensor. */
#ifndef OM_ALLOC_ALLOCATION_H
#define OM_ALLOC_ALLOCATION_H

#include "alloc/expert_banks.h"
#include "base/error.h"
#include "base/json.h"
#include "model/format.h"
#include "model/probe.h"

typedef struct om_assignment {
    char name[64];
    const om_format *format;
    om_probe probe; /* of the weights; known only in an allocation for MLX */
} om_assignment;

typedef struct om_allocation {
    char profile_path[1024], profile_sha256[65];
    char model_sha256[65];
    char stats_path[1024],
        stats_sha256[65];  /* from the profile: what quantize rounds with; "" none */
    char calib_sha256[65]; /* one digest for all calibration files */
    uint64_t seed;
    int64_t calib_tokens;
    om_container container;   /* of the result: GGUF, or MLX's directory */
    char plan[32];            /* "optimal", "preset:Q4_K_M", … */
    char budget_kind[8];      /* "size", "bpw", "memory", "none" (a plan without a budget) */
    int64_t budget_bytes;     /* limit of the whole file; 0 none */
    int64_t max_active_bytes; /* limit of the bytes read per token; 0 none */
    om_assignment *tensors;   /* [n_tensors] the quantizable tensors in file order */
    int n_tensors;
    om_expert_banks *banks; /* [n_banked] layers whose experts have several types; of their stacks
                               `tensors` has the type of the largest bank */
    int n_banked;
    int64_t bytes;        /* of the whole file, exact */
    int64_t active_bytes; /* read per token (active.h); 0: a file without it */
    double bpw;
    double predicted_nats;
    double routing_nats; /* of it: changed choices of experts; 0: a dense model */
    struct {
        char status[32];
        double gap, seconds; /* seconds NaN: not kept (files hold no wall clock) */
    } solver;
    char sha256[65]; /* of allocation.json itself, filled by om_allocation_read */
} om_allocation;

/** Read and check allocation.json. *out owned (om_allocation_free). Errors: OM_E_IO, OM_E_FORMAT
 * with the JSON path. */
om_status om_allocation_read(om_allocation **out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same for a document in memory; `name` is for messages. */
om_status om_allocation_parse(om_allocation **out, const char *text, size_t n, const char *name,
                              om_error *err) OM_WARN_UNUSED;
/** Write atomically; equal allocations give equal bytes (solver.seconds is left out for that). */
om_status om_allocation_write(const om_allocation *a, const char *path,
                              om_error *err) OM_WARN_UNUSED;
/** The document as it is written, but with solver.seconds; owned. */
om_json *om_allocation_json(const om_allocation *a);
void om_allocation_free(om_allocation *a);
/** NULL: the tensor is not in the allocation (it is copied as it is). */
const om_format *om_allocation_find(const om_allocation *a, const char *name);

#endif
