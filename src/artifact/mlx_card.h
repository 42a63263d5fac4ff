/* The model card: what stands in README.md of an MLX model. */
#ifndef OM_ARTIFACT_MLX_CARD_H
#define OM_ARTIFACT_MLX_CARD_H

#include "artifact/mlx_plan.h"
#include "model/gguf.h"

/** Front matter of the Hugging Face hub, then the recipe: sizes, types by role, predicted loss, how
 * to run the model and how it was made. Paths of this machine are left out.
 *
 *  o     model, allocation and out as given
 *  *out  owned (om_free)
 *
 * The licence is taken over from the source's README.md when its front matter names one. */
om_status om_mlx_card(char **out, const om_mlx_plan *plan, const om_allocation *a,
                      const om_quantize_options *o, const om_gguf_record *record,
                      om_error *err) OM_WARN_UNUSED;

#endif
