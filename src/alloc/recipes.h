/* What mlx_lm.convert would choose: its mixed recipes and its uniform conversions, as plans. */
#ifndef OM_ALLOC_RECIPES_H
#define OM_ALLOC_RECIPES_H

#include "profile/profile.h"

/** "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6", "uniform_2" … "uniform_8", in order of i;
 * NULL past the end. */
const char *om_recipe_name(int i);

/** types [n_units], each one of the unit's choices, of a profile for MLX. Groups of 64, as
 * mlx_lm.convert has them by default. Routers, which it quantizes too, stay as they are.
 * Errors: OM_E_ARG for an unknown recipe, and for a profile that is not for MLX. */
om_status om_recipe_types(const om_format **types, const om_profile *profile, const char *name,
                          om_error *err) OM_WARN_UNUSED;

#endif
