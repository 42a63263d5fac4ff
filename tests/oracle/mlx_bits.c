/* Our MLX rows of one matrix, in every type, for mlx_bits.py to compare with mlx itself:
 *
 *   mlx_bits WEIGHTS.f32 N_IN DTYPE DIR [IMPORTANCE.f32]
 *
 * WEIGHTS: rows of N_IN numbers. DTYPE: bf16, f16, f32. Writes DIR/TYPE: codes, scales, biases, and
 * what they stand for in F32. With IMPORTANCE (N_IN numbers) by the weighted search, else as
 * mx.quantize. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "mlx/quants.h"

static float *read_floats(const char *path, int64_t *n) {
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    *n = ftell(f) / (long) sizeof(float);
    rewind(f);
    float *x = om_calloc((size_t) *n, sizeof *x);
    if (x == NULL || fread(x, sizeof *x, (size_t) *n, f) != (size_t) *n) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(f);
    return x;
}

static void write_type(const char *dir, const om_format *format, om_mlx_dtype dtype,
                       const float *weights, const float *importance, int64_t n, int64_t n_in) {
    const size_t codes = (size_t) (om_mlx_codes_bytes(format, n_in) * n);
    const size_t scales = (size_t) (om_mlx_scales_bytes(format, dtype, n_in) * n);
    const size_t bytes = codes + scales * (format->mlx == OM_MLX_AFFINE ? 2 : 1);
    const size_t weights_n = (size_t) (n * n_in);
    unsigned char *buffer = om_calloc(bytes, 1);
    float *back = om_calloc(weights_n, sizeof *back);
    char path[1024];
    (void) snprintf(path, sizeof path, "%s/%s", dir, format->name);
    FILE *f = fopen(path, "wb");
    if (buffer == NULL || back == NULL || f == NULL) {
        perror(path);
        exit(1);
    }
    const om_mlx_rows rows = om_mlx_rows_in(buffer, format, dtype, n_in, n);
    if (importance != NULL) {
        om_mlx_quantize_search(&rows, format, dtype, weights, importance, n, n_in);
    } else {
        om_mlx_quantize_plain(&rows, format, dtype, weights, n, n_in);
    }
    om_mlx_dequantize(back, &rows, format, dtype, n, n_in);
    if (fwrite(buffer, 1, bytes, f) != bytes ||
        fwrite(back, sizeof *back, weights_n, f) != weights_n || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
    om_free(buffer);
    om_free(back);
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: mlx_bits WEIGHTS.f32 N_IN bf16|f16|f32 DIR [IMPORTANCE.f32]\n");
        return 2;
    }
    const int64_t n_in = strtol(argv[2], NULL, 10);
    const om_mlx_dtype dtype = strcmp(argv[3], "f32") == 0   ? OM_MLX_F32
                               : strcmp(argv[3], "f16") == 0 ? OM_MLX_F16
                                                             : OM_MLX_BF16;
    int64_t n, n_importance = 0;
    float *weights = read_floats(argv[1], &n);
    float *importance = argc == 6 ? read_floats(argv[5], &n_importance) : NULL;
    if (n_in <= 0 || n % n_in != 0 || (importance != NULL && n_importance != n_in)) {
        fprintf(stderr, "%s: not whole rows of %s\n", argv[1], argv[2]);
        return 1;
    }
    for (int i = 0; om_format_mlx_at(i) != NULL; i++) {
        if (n_in % om_format_mlx_at(i)->block == 0) {
            write_type(argv[4], om_format_mlx_at(i), dtype, weights, importance, n / n_in, n_in);
        }
    }
    om_free(weights);
    om_free(importance);
    return 0;
}
