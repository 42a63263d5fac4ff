/* --pin REGEX=TYPE: which type a tensor must have. */
#ifndef OM_ALLOC_PINS_H
#define OM_ALLOC_PINS_H

#include "profile/profile.h"

/** Pins resolved against a profile. */
typedef struct om_pins {
    const om_format **format; /* [n_units] NULL: free */
    int *pin;                 /* [n_units] index of the pin that decided; -1: free */
} om_pins;

/** Match every pin with every tensor: a POSIX extended regular expression, anchored at both ends,
 * on the name with or without ".weight"; the first pin that matches a tensor decides, as in
 * llama-quantize. Errors: OM_E_ARG for a pin without '=', a bad expression, an unknown type, a pin
 * that matches nothing, a type the tensor has no candidate for (its candidates are listed).
 * *out is to be released also after a failure. */
om_status om_pins_resolve(om_pins *out, const om_profile *profile, const char *const *pins,
                          int n_pins, om_error *err) OM_WARN_UNUSED;
void om_pins_release(om_pins *pins);

/** "q4_K, q8_0, bf16" of a tensor, for messages; cut when dst is full. */
const char *om_unit_choice_list(char *dst, size_t cap, const om_unit *unit);

#endif
