/* Experts in banks, as Optimum's own MLX directories may have them: "optimum_expert_order" of
 * config.json says which experts of the original model each bank of a layer holds. Private to
 * src/hf. */
#ifndef OM_HF_BANKS_H
#define OM_HF_BANKS_H

#include "hf/sizes.h"

typedef struct om_hf_banks {
    int layer;
    int n_banks;
    int *first; /* [n_banks + 1] place of each bank's first expert; the last: number of experts */
    int *place; /* [experts] where the directory has the original model's experts */
} om_hf_banks;

/** Read the member, if there is one (*out NULL: none). *out owned (om_hf_banks_free). Errors:
 * OM_E_FORMAT with the JSON path (no module of experts of the family, no permutation of all
 * experts); OM_E_UNSUPPORTED (a family whose experts have biases). */
om_status om_hf_banks_read(om_hf_banks **out, int *n, const om_node *config,
                           const om_family *family, const om_hf_sizes *sizes,
                           om_error *err) OM_WARN_UNUSED;
void om_hf_banks_free(om_hf_banks *all, int n); /* accepts NULL */
/** NULL: the layer's experts are no banks. */
const om_hf_banks *om_hf_banks_of(const om_hf_banks *all, int n, int layer);

/** Is it a stack of experts? */
bool om_hf_is_stack(const om_family_tensor *row);
/** Has it a row for each expert, as routers do? */
bool om_hf_is_router(const om_family_tensor *row);
#endif
