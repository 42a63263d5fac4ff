/* What an MLX model will consist of: one line per tensor of the source, exact to the byte. */
#ifndef OM_ARTIFACT_MLX_PLAN_H
#define OM_ARTIFACT_MLX_PLAN_H

#include "alloc/allocation.h"
#include "artifact/mlx_rows.h"
#include "base/buf.h"
#include "mlx/layout.h"
#include "profile/stats.h"

typedef struct om_mlx_plan_item {
    const om_hf_tensor *tensor;   /* source, borrowed from the directory */
    const om_format *to;          /* a type of MLX; else the plan's dense format */
    const om_tensor_stats *stats; /* of this tensor, shape checked, borrowed; NULL: none */
    int experts;                  /* matrices in the stack, or in the bank */
    char path[OM_HF_PATH];        /* mlx-lm's; of a bank its own */
    int bank;                     /* -1: the whole tensor */
    const int *order; /* of experts in banks, and of their router: the expert at each place;
                         borrowed from the allocation; NULL: as in the source */
    int64_t bytes;    /* of its tensors together */
    double nats;      /* filled by om_mlx_write: 0 kept in 16 bits, NaN unknown */
} om_mlx_plan_item;

typedef struct om_mlx_plan {
    const om_hf *hf;
    const om_allocation *allocation;
    om_mlx_plan_item *items;   /* [n_items] in the order of the source's GGUF, bank by bank */
    om_mlx_item *layout_items; /* [n_items] the same for the layout */
    int n_items;
    om_mlx_layout layout;
    om_mlx_dtype dtype;     /* of everything that is not a code */
    const om_format *dense; /* its format */
    bool cast;              /* the source has F32 weights: they lose precision */
    bool search;            /* scales are searched where there is importance */
    char **copies;          /* [n_copies] files to copy from the source */
    int n_copies;
    int64_t copies_bytes;
    int64_t stats_tokens; /* N of eq. (1); 0: no marginals */
} om_mlx_plan;

/** Match an allocation with a directory and statistics (NULL: none; scales are not searched then).
 * *out owned (om_mlx_plan_free); it borrows all three.
 *
 *  search  search scales and biases where the importance is known
 *  limit   bytes of a shard's tensors; 0: mlx-lm's 5 GiB
 *
 *  Errors: OM_E_MISMATCH (a tensor of the allocation is not in the model or may not be quantized, a
 *          quantizable one is missing in the allocation, a type of a GGUF, statistics of another
 *          shape, banks of another number of experts), OM_E_UNSUPPORTED (a group does not divide
 *          the row, banks of experts with biases), each with the tensor's name;
 *          OM_E_FORMAT (no tokenizer). Cost: no weights are read. */
om_status om_mlx_plan_make(om_mlx_plan **out, const om_hf *hf, const om_allocation *a,
                           om_stats *stats, bool search, int64_t limit,
                           om_error *err) OM_WARN_UNUSED;
void om_mlx_plan_free(om_mlx_plan *plan); /* accepts NULL */

/** Are these the weights that the allocation was made for? Compares the probes of its tensors with
 * the directory's rows. Errors: OM_E_MISMATCH names the tensor. Cost: four rows of each tensor. */
om_status om_mlx_plan_check_model(const om_hf *hf, const om_allocation *a,
                                  om_error *err) OM_WARN_UNUSED;

/** How an item is made; importance [experts, ne0] from om_inputs_importance, may be NULL. */
om_mlx_job om_mlx_plan_job(const om_mlx_plan *plan, const om_mlx_plan_item *item,
                           const float *importance);

/** Table "module, shape, from, to, bytes" with a total line. */
void om_mlx_plan_print(om_buf *out, const om_mlx_plan *plan);
/** Seconds the quantization will take on n_threads: rough. */
double om_mlx_plan_seconds(const om_mlx_plan *plan, int n_threads);

#endif
