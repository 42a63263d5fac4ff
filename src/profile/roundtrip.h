/* Rows through a type and back, with the real quantizers: ggml's, or ours for MLX. */
#ifndef OM_PROFILE_ROUNDTRIP_H
#define OM_PROFILE_ROUNDTRIP_H

#include "model/format.h"

/** To be called once per type before threads start: ggml makes its tables. */
void om_roundtrip_init(const om_format *format);

/** packed [om_format_size(format, n_in, n)] u8 = rows [n, n_in] f32 in a type.
 *
 *  importance  [n_in] f32 or NULL
 *  source      the rows' own type: MLX's scales are F16 when it is F16, else BF16
 *
 * Thread-safe. */
void om_roundtrip_pack(unsigned char *packed, const om_format *format, const om_format *source,
                       const float *rows, const float *importance, int64_t n, int64_t n_in);
/** And back: rows [n, n_in] f32. */
void om_roundtrip_unpack(float *rows, const om_format *format, const om_format *source,
                         const unsigned char *packed, int64_t n, int64_t n_in);

#endif
