/* The catalogue of tensor types: ggml's names, ids and block sizes, and MLX's, as plain data.
 *
 * It is our own table so that allocation and report, which know no ggml, can count bytes; a unit
 * test compares every entry with the ggml we link. Rows are in ascending bits per weight, ties in
 * the order in which a planner should prefer them (kernels that run everywhere first).
 *
 * A "block" of MLX is a group: its codes, and its scale and bias of 16 bits each (affine), or its
 * scale of 8 bits. They lie in three tensors, but always together.
 *
 * Sources: ggml.h (enum ggml_type) and ggml-common.h (block structs) of the pinned llama.cpp;
 * mx.quantize of mlx 0.32.
 */
#include "model/format.h"

#include <stddef.h>
#include <strings.h>

#define PLAIN OM_FORMAT_PLAIN
#define COMMON OM_FORMAT_COMMON
#define OPT_IN OM_FORMAT_OPT_IN
#define SOURCE OM_FORMAT_SOURCE

static const om_format formats[] = {
    /* name  id  block bytes use needs_imatrix */
    { "q1_0", 41, 128, 18, OPT_IN, false, OM_MLX_NONE, 0 },
    { "iq1_s", 19, 256, 50, OPT_IN, true, OM_MLX_NONE, 0 },
    { "tq1_0", 34, 256, 54, OPT_IN, false, OM_MLX_NONE, 0 },
    { "iq1_m", 29, 256, 56, OPT_IN, false, OM_MLX_NONE, 0 },
    { "iq2_xxs", 16, 256, 66, COMMON, true, OM_MLX_NONE, 0 },
    { "tq2_0", 35, 256, 66, OPT_IN, false, OM_MLX_NONE, 0 },
    { "q2_0", 42, 64, 18, OPT_IN, false, OM_MLX_NONE, 0 },
    { "iq2_xs", 17, 256, 74, COMMON, true, OM_MLX_NONE, 0 },
    { "iq2_s", 22, 256, 82, COMMON, false, OM_MLX_NONE, 0 },
    { "q2_K", 10, 256, 84, COMMON, false, OM_MLX_NONE, 0 },
    { "iq3_xxs", 18, 256, 98, COMMON, false, OM_MLX_NONE, 0 },
    { "q3_K", 11, 256, 110, COMMON, false, OM_MLX_NONE, 0 },
    { "iq3_s", 21, 256, 110, COMMON, false, OM_MLX_NONE, 0 },
    { "iq4_xs", 23, 256, 136, COMMON, false, OM_MLX_NONE, 0 },
    { "mxfp4", 39, 32, 17, OPT_IN, false, OM_MLX_NONE, 0 },
    { "q4_K", 12, 256, 144, COMMON, false, OM_MLX_NONE, 0 },
    { "q4_0", 2, 32, 18, COMMON, false, OM_MLX_NONE, 0 },
    { "iq4_nl", 20, 32, 18, COMMON, false, OM_MLX_NONE, 0 },
    { "nvfp4", 40, 64, 36, OPT_IN, false, OM_MLX_NONE, 0 },
    { "q4_1", 3, 32, 20, COMMON, false, OM_MLX_NONE, 0 },
    { "q5_K", 13, 256, 176, COMMON, false, OM_MLX_NONE, 0 },
    { "q5_0", 6, 32, 22, COMMON, false, OM_MLX_NONE, 0 },
    { "q5_1", 7, 32, 24, COMMON, false, OM_MLX_NONE, 0 },
    { "q6_K", 14, 256, 210, COMMON, false, OM_MLX_NONE, 0 },
    { "i8", 24, 1, 1, SOURCE, false, OM_MLX_NONE, 0 },
    { "q8_0", 8, 32, 34, COMMON, false, OM_MLX_NONE, 0 },
    { "q8_1", 9, 32, 36, SOURCE, false, OM_MLX_NONE, 0 },
    { "q8_K", 15, 256, 292, SOURCE, false, OM_MLX_NONE, 0 },
    { "bf16", 30, 1, 2, PLAIN, false, OM_MLX_NONE, 0 },
    { "f16", 1, 1, 2, PLAIN, false, OM_MLX_NONE, 0 },
    { "i16", 25, 1, 2, SOURCE, false, OM_MLX_NONE, 0 },
    { "f32", 0, 1, 4, PLAIN, false, OM_MLX_NONE, 0 },
    { "i32", 26, 1, 4, SOURCE, false, OM_MLX_NONE, 0 },
    { "f64", 28, 1, 8, SOURCE, false, OM_MLX_NONE, 0 },
    { "i64", 27, 1, 8, SOURCE, false, OM_MLX_NONE, 0 },
};
enum { N_FORMATS = (int) (sizeof formats / sizeof formats[0]) };

/* An affine group of n weights: n * bits / 8 bytes of codes, 4 of scale and bias. */
#define AFFINE(bits, group)                                                              \
    {                                                                                    \
        "mlx_" #bits "bit_g" #group, -1, group, (group) * (bits) / 8 + 4, COMMON, false, \
            OM_MLX_AFFINE, bits                                                          \
    }

static const om_format mlx_formats[] = {
    AFFINE(2, 128),
    AFFINE(2, 64),
    AFFINE(2, 32),
    AFFINE(3, 128),
    AFFINE(3, 64),
    AFFINE(3, 32),
    AFFINE(4, 128),
    { "mlx_mxfp4", -1, 32, 17, OPT_IN, false, OM_MLX_MXFP4, 4 },
    AFFINE(4, 64),
    { "mlx_nvfp4", -1, 16, 9, OPT_IN, false, OM_MLX_NVFP4, 4 },
    AFFINE(4, 32),
    AFFINE(5, 128),
    AFFINE(5, 64),
    AFFINE(5, 32),
    AFFINE(6, 128),
    AFFINE(6, 64),
    AFFINE(6, 32),
    AFFINE(8, 128),
    { "mlx_mxfp8", -1, 32, 33, OPT_IN, false, OM_MLX_MXFP8, 8 },
    AFFINE(8, 64),
    AFFINE(8, 32),
};
enum { N_MLX_FORMATS = (int) (sizeof mlx_formats / sizeof mlx_formats[0]) };

const om_format *om_format_by_name(const char *name) {
    for (int i = 0; name != NULL && i < N_FORMATS; i++) {
        if (strcasecmp(formats[i].name, name) == 0) {
            return &formats[i];
        }
    }
    for (int i = 0; name != NULL && i < N_MLX_FORMATS; i++) {
        if (strcasecmp(mlx_formats[i].name, name) == 0) {
            return &mlx_formats[i];
        }
    }
    return NULL;
}

const om_format *om_format_by_type(int ggml_type) {
    for (int i = 0; i < N_FORMATS; i++) {
        if (formats[i].ggml_type == ggml_type) {
            return &formats[i];
        }
    }
    return NULL;
}

const om_format *om_format_at(int i) {
    return i >= 0 && i < N_FORMATS ? &formats[i] : NULL;
}

const om_format *om_format_mlx_at(int i) {
    return i >= 0 && i < N_MLX_FORMATS ? &mlx_formats[i] : NULL;
}

bool om_format_in(const om_format *format, om_container container) {
    return format->use == PLAIN || (format->mlx != OM_MLX_NONE) == (container == OM_CONTAINER_MLX);
}

const char *om_container_name(om_container container) {
    return container == OM_CONTAINER_MLX ? "mlx" : "gguf";
}

const char *om_mlx_mode_name(om_mlx_mode mode) {
    switch (mode) {
    case OM_MLX_MXFP4:
        return "mxfp4";
    case OM_MLX_NVFP4:
        return "nvfp4";
    case OM_MLX_MXFP8:
        return "mxfp8";
    case OM_MLX_NONE:
    case OM_MLX_AFFINE:
        break;
    }
    return "affine";
}

double om_format_bpw(const om_format *format) {
    return 8.0 * format->block_bytes / format->block;
}

int64_t om_format_size(const om_format *format, int64_t n_per_row, int64_t n_rows) {
    if (n_per_row % format->block != 0) {
        return -1;
    }
    return n_per_row / format->block * format->block_bytes * n_rows;
}

/* Kept by hand beside the table: a static string needs no lock and no allocation; the test walks
 * the table and compares. */
const char *om_format_list(void) {
    return "q1_0, iq1_s, tq1_0, iq1_m, iq2_xxs, tq2_0, q2_0, iq2_xs, iq2_s, q2_K, iq3_xxs, q3_K, "
           "iq3_s, iq4_xs, mxfp4, q4_K, q4_0, iq4_nl, nvfp4, q4_1, q5_K, q5_0, q5_1, q6_K, q8_0; "
           "for "
           "MLX mlx_Nbit_gG (N 2, 3, 4, 5, 6, 8; G 32, 64, 128), mlx_mxfp4, mlx_nvfp4, mlx_mxfp8";
}
