/* The GGUF that is measured, of whatever the user gave. */
#ifndef OM_PROFILE_SOURCE_H
#define OM_PROFILE_SOURCE_H

#include "base/error.h"

/** *gguf owned (om_free): `model` itself when it is a file; of a Hugging Face directory a GGUF of
 * its weights at `to`, made unless one of the very same directory is there already.
 *
 *  Errors: those of om_hf_open and om_hf_to_gguf; OM_E_ARG when `to` is a file that was not made
 *  from this directory. Cost: one read of the weights, one GGUF of the model's size. */
om_status om_profile_source(char **gguf, const char *model, const char *to, const om_env *env,
                            om_error *err) OM_WARN_UNUSED;

#endif
