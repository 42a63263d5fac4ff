/* A few numbers by which the same weights are recognised in another file, whatever its names, its
 * order of rows and its precision of 16 bits or more. */
#ifndef OM_MODEL_PROBE_H
#define OM_MODEL_PROBE_H

#include <stdbool.h>
#include <stdint.h>

enum { OM_PROBE_ROWS = 4 };

/** Of four rows of a tensor: the sum of its weights under random signs, and the Euclidean norm. The
 * rows (in the GGUF's order) and the signs follow from the tensor's name. */
typedef struct om_probe {
    double sum[OM_PROBE_ROWS], norm[OM_PROBE_ROWS];
    bool known; /* false: the rest is empty */
} om_probe;

/** Which rows of [n_rows] are looked at; a row may be named twice. */
void om_probe_rows(int64_t rows[OM_PROBE_ROWS], const char *name, int64_t n_rows);
/** Look at the k-th of them, row [n] f32. */
void om_probe_look(om_probe *probe, int k, const char *name, const float *row, int64_t n);
/** Do both look at the same rows? Rounding to BF16 is allowed for: each sum may differ by 2 % of
 * the norm, which another row passes with a chance of about 1 in 60. Unknown probes agree. */
bool om_probe_agrees(const om_probe *a, const om_probe *b);

#endif
