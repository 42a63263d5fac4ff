/* MLX's groups of small floats: mxfp4, nvfp4, mxfp8. A group has a scale of one byte and no bias.
 */
#ifndef OM_MLX_MINIFLOAT_H
#define OM_MLX_MINIFLOAT_H

#include <stdint.h>

#include "mlx/quants.h"

/** One group as mx.quantize(mode=...): codes [format->block], the scale's byte. `dtype` is that of
 * the weights, in which mlx divides. Where all weights are below 448 * 2^-127 mlx's scale wraps
 * around to huge ones; ours stays the least there is. */
void om_mlx_minifloat_plain(uint8_t *codes, uint8_t *scale, const om_format *format,
                            om_mlx_dtype dtype, const float *w);

/** The same with the scale that loses least among those near mlx's own: sum_j c_j * (w_j - ŵ_j)^2,
 * c [format->block] f32. By `given` in place of c never worse than the plain one. */
void om_mlx_minifloat_search(uint8_t *codes, uint8_t *scale, const om_format *format,
                             om_mlx_dtype dtype, const float *w, const float *c,
                             const float *given);

/** The numbers behind a scale and a code. */
float om_mlx_minifloat_scale(const om_format *format, uint8_t scale);
float om_mlx_minifloat_value(const om_format *format, uint8_t code);

#endif
