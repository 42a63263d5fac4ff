/* Scale and bias of each group by the weighted error (docs/method.md eq. 18). */
#include "mlx/codes.h"
#include "mlx/minifloat.h"
#include "mlx/quants.h"

/* Of small floats the scale is searched; affine groups are rounded plainly. */
void om_mlx_quantize_search(const om_mlx_rows *out, const om_format *format, om_mlx_dtype dtype,
                            const float *source, const float *importance, int64_t n, int64_t n_in) {
    if (format->mlx == OM_MLX_AFFINE) {
        om_mlx_quantize_plain(out, format, dtype, source, n, n_in);
        return;
    }
    const int64_t groups = n_in / format->block;
    for (int64_t g = 0; g < n * groups; g++) {
        uint8_t codes[OM_MLX_MAX_GROUP];
        om_mlx_minifloat_search(codes, out->scales + g, format, dtype, source + g * format->block,
                                importance + g % groups * format->block);
        om_mlx_pack(out->codes + g * om_mlx_codes_bytes(format, format->block), codes,
                    format->block, format->bits);
    }
}
