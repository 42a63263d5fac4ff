/* One switch between ggml's types and MLX's. */
#include "profile/roundtrip.h"

#include <string.h>

#include "ggml.h"

#include "mlx/quants.h"

static om_mlx_dtype dtype_of(const om_format *source) {
    return strcmp(source->name, "f16") == 0 ? OM_MLX_F16 : OM_MLX_BF16;
}

void om_roundtrip_init(const om_format *format) {
    if (format->mlx == OM_MLX_NONE) {
        ggml_quantize_init((enum ggml_type) format->ggml_type);
    }
}

void om_roundtrip_pack(unsigned char *packed, const om_format *format, const om_format *source,
                       const float *rows, const float *importance, int64_t n, int64_t n_in) {
    if (format->mlx == OM_MLX_NONE) {
        ggml_quantize_chunk((enum ggml_type) format->ggml_type, rows, packed, 0, n, n_in,
                            importance);
        return;
    }
    const om_mlx_dtype dtype = dtype_of(source);
    const om_mlx_rows to = om_mlx_rows_in(packed, format, dtype, n_in, n);
    if (importance == NULL) { /* unweighted, a search does harm */
        om_mlx_quantize_plain(&to, format, dtype, rows, n, n_in);
    } else {
        om_mlx_quantize_search(&to, format, dtype, rows, importance, n, n_in);
    }
}

void om_roundtrip_unpack(float *rows, const om_format *format, const om_format *source,
                         const unsigned char *packed, int64_t n, int64_t n_in) {
    if (format->mlx == OM_MLX_NONE) {
        ggml_get_type_traits((enum ggml_type) format->ggml_type)->to_float(packed, rows, n * n_in);
        return;
    }
    const om_mlx_dtype dtype = dtype_of(source);
    /* rows that are only read */
    const om_mlx_rows from =
        om_mlx_rows_in((unsigned char *) (uintptr_t) packed, format, dtype, n_in, n);
    om_mlx_dequantize(rows, &from, format, dtype, n, n_in);
}
