/* The mlx-cpu wheel for x86 brings the reference BLAS: about 2 GFLOP/s. Preloaded, this sends its
 * F32 products to the OpenBLAS inside numpy's wheel: ten times as fast, the same results up to
 * rounding. For bench/mlx_judge.py only.
 *
 *   cc -O2 -shared -fPIC -o blas_shim.so blas_shim.c -ldl
 *   SHIM_OPENBLAS=.../numpy.libs/libscipy_openblas64_*.so LD_PRELOAD=./blas_shim.so python ...
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                        const float *, int64_t, float, float *, int64_t);
static sgemm64 sgemm;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("SHIM_OPENBLAS");
    void *library = path != NULL ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (library != NULL) {
        *(void **) &sgemm = dlsym(library, "scipy_cblas_sgemm64_");
    }
    if (path != NULL && sgemm == NULL) {
        (void) fprintf(stderr, "blas_shim: no sgemm in %s\n", path);
        abort();
    }
}

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    if (sgemm == NULL) {
        (void) fprintf(stderr, "blas_shim: set SHIM_OPENBLAS\n");
        abort();
    }
    sgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
