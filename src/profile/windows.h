/* The windows a profile is measured on: spread over the text, or chosen to show all experts. */
#ifndef OM_PROFILE_WINDOWS_H
#define OM_PROFILE_WINDOWS_H

#include "model/gguf.h"
#include "model/tokens.h"

/** What a choice for coverage brought; all zero when there was none. */
typedef struct om_coverage {
    int n_experts;  /* of all layers */
    int candidates; /* windows chosen from */
    int few_spread; /* experts below OM_EXPERT_FEW tokens had the windows been spread evenly */
    int few_cover;  /* the same with those chosen */
} om_coverage;

/** Windows wanted: --windows, or the default; no more than the text gives. Errors: OM_E_ARG for
 * options, those of om_windows_read. *out are the windows themselves with `spread`, the candidates
 * with `cover` (at most OM_COVER_CANDIDATES for each window wanted, spread over the text). */
om_status om_profile_windows_read(om_windows *out, int *n_wanted, const om_profile_options *o,
                                  const om_env *env, om_error *err) OM_WARN_UNUSED;

/** Keep those n_wanted of the candidates that show the experts best (calib/cover.h), in the order
 * of the text. The choice is kept in the file `memo`, so that a profile that was interrupted does
 * not count again; the caller removes it. key: hex SHA-256 of what the choice depends on.
 *
 * Errors: those of om_cover_count and of writing the memo. */
om_status om_profile_windows_cover(om_windows *w, om_coverage *out, int n_wanted,
                                   const om_model *model, const om_profile_options *o,
                                   const char *memo, const char key[65], const om_env *env,
                                   om_error *err) OM_WARN_UNUSED;

#endif
