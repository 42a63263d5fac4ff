/* Experts in banks: which parts of an MLX model they become, and what config.json says of them. */
#ifndef OM_ARTIFACT_MLX_BANKS_H
#define OM_ARTIFACT_MLX_BANKS_H

#include "alloc/allocation.h"
#include "base/buf.h"
#include "hf/directory.h"

/** How one tensor is cut. */
typedef struct om_mlx_banks {
    const int *order; /* the expert at each place, all banks one after the other; borrowed; NULL: as
                         in the source */
    int n;            /* banks that the tensor is cut into; 0: it stays whole (a router: only its
                         rows have another order) */
    const om_format *format[OM_BANKS_MAX];
    int n_experts[OM_BANKS_MAX];
} om_mlx_banks;

/** What the allocation does with a tensor. Errors: OM_E_MISMATCH (another number of experts),
 * OM_E_UNSUPPORTED (each expert has a bias). */
om_status om_mlx_banks_of(om_mlx_banks *out, const om_allocation *a, const om_hf_tensor *t,
                          om_error *err) OM_WARN_UNUSED;
/** Has the model a router for every layer in banks? Errors: OM_E_MISMATCH. */
om_status om_mlx_banks_check(const om_allocation *a, const om_hf *hf, om_error *err) OM_WARN_UNUSED;

/** Tensors that the banks add to those of the source. */
size_t om_mlx_banks_further_items(const om_allocation *a);
/** Bytes of headers that the allocation has counted for them. */
int64_t om_mlx_banks_header_bytes(const om_allocation *a);

/** "model_file" and "optimum_expert_order" of config.json; those of the source go in any case, as
 * its experts are read in their original order. */
void om_mlx_banks_config(om_json *config, const om_allocation *a, const om_hf *hf);

#endif
