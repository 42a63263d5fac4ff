/* The rows of one tensor after another, made by all threads and written in order, with bounded
 * memory: what the writers of GGUF and of MLX have in common. Knows no types and no files. */
#ifndef OM_ARTIFACT_SLABS_H
#define OM_ARTIFACT_SLABS_H

#include <stdbool.h>

#include "base/error.h"

enum { OM_SLAB_PARTS = 3 /* an MLX module: codes, scales, biases */ };

/** Bytes of consecutive rows, for the sink. */
typedef struct om_piece {
    const unsigned char *data; /* [n] */
    size_t n;
    int file;       /* the part's, as the job said */
    int64_t offset; /* the part's, advanced to these rows */
} om_piece;

/** Where the pieces go: called by one thread at a time, slab after slab in order. */
typedef struct om_piece_sink {
    om_status (*write)(void *ud, const om_piece *piece, om_error *err);
    void *ud;
} om_piece_sink;

/** What one thread is to make: rows of one matrix. */
typedef struct om_chunk {
    int64_t first, n;                    /* rows of the tensor */
    unsigned char *parts[OM_SLAB_PARTS]; /* where their bytes go, part by part */
    float *source, *result;              /* [n, n_in] scratch of this thread */
    double *errors; /* [n] out; sum_j c_j (w_ij - q_ij)^2 of each; NULL: not wanted */
} om_chunk;

/** One tensor. Everything borrowed for the duration of the call. */
typedef struct om_slab_job {
    int64_t n_in;
    int64_t matrix_rows; /* rows of each matrix */
    int64_t matrices;    /* in the stack */
    struct {
        int64_t row_bytes; /* 0: no such part */
        int file;          /* handed to the sink */
        int64_t offset;    /* of the first row */
    } parts[OM_SLAB_PARTS];
    int64_t pad_bytes; /* zeros behind the last row of part 0 (the only part then) */

    /* Called by any thread. */
    om_status (*make)(const void *ud, const om_chunk *chunk, om_error *err);
    /* These rows are done with: drop their pages. */
    void (*forget)(const void *ud, int64_t first, int64_t n);
    const void *ud;

    const float *rows; /* [matrices, matrix_rows] f32 row marginals of F; NULL: errors are not
                          wanted */
    int64_t tokens;    /* N of eq. (1), > 0 with rows */
} om_slab_job;

/** Threads, scratch and two slabs of output, used for tensor after tensor. */
typedef struct om_slabs om_slabs;

/** *out owned (om_slabs_free). Memory: about 3 MB per thread whatever the model's size. */
om_status om_slabs_new(om_slabs **out, om_piece_sink sink, const om_env *env,
                       om_error *err) OM_WARN_UNUSED;
void om_slabs_free(om_slabs *s);

/** Make all rows of a tensor and hand them to the sink.
 *
 *  nats  out; what the rows made cost (docs/method.md eq. 1) with F_ij = r_i c_j / sum r per
 *        matrix; NaN without marginals. Independent of the number of threads.
 *
 *  The last slab may still be in memory on return: om_slabs_flush. Progress counts bytes written.
 *  Errors: of several rows that fail the first one's; whatever the sink says; OM_E_CANCELLED. The
 *  sink has then received a prefix. */
om_status om_slabs_run(double *nats, om_slabs *s, const om_slab_job *job,
                       om_error *err) OM_WARN_UNUSED;

/** Write what is still in memory. Call before using the file. */
om_status om_slabs_flush(om_slabs *s, om_error *err) OM_WARN_UNUSED;

/** Progress of the whole output: called from now on as om_progress(env, "quantize", done, total).
 */
void om_slabs_progress(om_slabs *s, int64_t done_bytes, int64_t total_bytes);
/** n bytes were written by other means. */
void om_slabs_written(om_slabs *s, int64_t n);

#endif
