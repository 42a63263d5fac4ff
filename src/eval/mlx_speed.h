/* How fast an MLX directory is in mlx-lm itself, and whether mlx-lm predicts with it what we think:
 * a Python with mlx_lm, started as a program. */
#ifndef OM_EVAL_MLX_SPEED_H
#define OM_EVAL_MLX_SPEED_H

#include <stdint.h>

#include "base/error.h"
#include "eval/speed.h"

/** Is there a Python ($OPTIMUM_PYTHON, else python3) that has mlx_lm? Cheap: nothing is loaded.
 * Errors: OM_E_IO (no such program), OM_E_UNSUPPORTED (no mlx_lm), both with what to do. */
om_status om_mlx_speed_check(const om_env *env, om_error *err) OM_WARN_UNUSED;

/** mlx_lm.load and stream_generate on the model as it is: a prompt of at most 512 tokens, then at
 * most 64 more, fewer of both where that would take longer than half a minute (then a log line).
 * memory_bytes is mlx's own peak, weights included.
 *
 *  tokens [n] i32, n >= 1: a text; the prompt is its beginning, repeated as often as needed, and so
 *         is what the perplexity is of, but not repeated
 *  Errors: those of om_mlx_speed_check; OM_E_UNSUPPORTED with Python's words when mlx_lm does not
 *  load or run the model; OM_E_CANCELLED, OM_E_INTERNAL. */
om_status om_mlx_speed_measure(om_speed *out, const char *dir, const int32_t *tokens, int n,
                               const om_env *env, om_error *err) OM_WARN_UNUSED;

#endif
