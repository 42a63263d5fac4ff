/* Plans that need no solver: what people would use instead. */
#ifndef OM_ALLOC_PRESETS_H
#define OM_ALLOC_PRESETS_H

#include "profile/profile.h"

/** i-th preset of llama-quantize ("Q4_K_M"), NULL past the end; ascending size, roughly. */
const char *om_preset_name(int i);

/** What llama-quantize --imatrix would choose: types [n_units], one per unit of the profile, always
 * one of the unit's choices (where llama-quantize's type is none of them, the nearest one with at
 * least as many bytes). Errors: OM_E_ARG for an unknown preset, with the list. */
om_status om_preset_types(const om_format **types, const om_profile *profile, const char *name,
                          om_error *err) OM_WARN_UNUSED;

/** The same before it is fitted to the unit's choices: for the comparison with llama-quantize. */
om_status om_preset_raw_types(const om_format **types, const om_profile *profile, const char *name,
                              bool has_imatrix, om_error *err) OM_WARN_UNUSED;

#endif
