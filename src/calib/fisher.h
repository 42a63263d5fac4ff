/* Fisher accumulators: what one pass keeps of each weight (docs/method.md eq. 2–4).
 *
 * For every window the weight's gradient G [n_out, n_in] is formed in row blocks, squared and
 * reduced at once to its row and column sums; the whole of G never exists. A weight that is used
 * several times (tied embeddings) waits until its last use, because gradients add before they are
 * squared. Sums are in double and in a fixed order. */
#ifndef OM_CALIB_FISHER_H
#define OM_CALIB_FISHER_H

#include "calib/compute.h"
#include "model/gguf.h"

/** One use of a weight in the window. Arrays are borrowed until om_fisher_accumulate. With a stack
 * of experts every token has K slots, one for each expert chosen for it: K is n_slots, 1 otherwise.
 */
typedef struct om_weight_use {
    const float *x; /* [T, n_in] input rows of a product, or [T, K, n_in]; NULL for an embedding */
    float *delta;   /* [T, K, n_out] gradient of the product, or [T, n_in] of the gathered rows;
                       owned, om_compute */
    const int64_t *rows;         /* [T] gathered rows of an embedding */
    int64_t n_tokens;            /* T */
    int64_t n_blank;             /* the last of them that are rows of zeros and no tokens */
    int64_t n_slots;             /* K */
    const int64_t *experts;      /* [T, K] the expert of each slot; NULL: not a stack */
    const float *router_weights; /* [T, K]; NULL: unknown */
    bool shared_x;               /* x is [T, n_in]: all slots of a token see the same input */
} om_weight_use;

enum { OM_MAX_USES = 8 };

typedef struct om_fisher_weight {
    char name[64];
    const om_tensor *tensor; /* borrowed from the model */
    int64_t n_in, n_out;     /* of one matrix */
    int experts;             /* matrices in the stack; 1: not a stack */
    int margins;     /* 1: the model has routers, and margin_… are kept; 0: they are empty */
    double *rows;    /* [experts, n_out] sum over windows and columns of G∘G */
    double *cols;    /* [experts, n_in] sum over windows and rows of G∘G */
    double *in_sum2; /* [experts, n_in] sum over tokens of x² */
    double *seen;    /* [n_out] times a row was looked up (embeddings) */
    double *count;   /* [experts] tokens in in_sum2; 0: never the matrix of a product */
    double *router_weight; /* [experts] sum of the router's weights over those tokens */
    double *windows;       /* [experts] windows in which the matrix was used */
    double *margin_rows;   /* [experts, n_out] as rows, of the gradient of the routers' margins */
    double *margin_cols;   /* [experts, n_in] as cols, likewise */
    double *reach;         /* [1] routers' weights after it: routing.h; not added up */
    om_weight_use uses[OM_MAX_USES];
    int n_uses; /* in the window at hand */
} om_fisher_weight;

/** A name and where it stands. */
typedef struct om_fisher_name {
    const char *name;
    int weight;
} om_fisher_name;

typedef struct om_fisher {
    om_fisher_weight *weights; /* [n_weights] the tensors that may be quantized, in file order */
    int n_weights;
    bool bf16;    /* form G from inputs and gradients rounded to BF16: for sources that are not F32,
                     where the processor has the instructions (relative error of G about 0.3 %) */
    bool margins; /* the gradients at hand are those of the routers' margins (backward.h) */
    om_fisher_name *by_name; /* [n_weights] in order of name: what om_fisher_find bisects */
} om_fisher;

/** Zeroed sums for a weight of `experts` matrices [n_out, n_in]; name and tensor are the caller's
 * to set. Release it also after a failure. Errors: OM_E_NOMEM. */
om_status om_fisher_weight_init(om_fisher_weight *w, int64_t n_out, int64_t n_in, int experts,
                                om_error *err) OM_WARN_UNUSED;
void om_fisher_weight_release(om_fisher_weight *w); /* accepts a zeroed struct */

/** Accumulators for every matrix of the model that may be quantized; all zero. Borrowed: model. */
om_status om_fisher_new(om_fisher **out, const om_model *model, om_error *err) OM_WARN_UNUSED;
void om_fisher_free(om_fisher *f);
/** Index of a weight by name, -1: none. O(log n). */
int om_fisher_find(const om_fisher *f, const char *name);

/** The window's gradient of one weight from its uses: add its square's sums, and the inputs'
 * squares; with f->margins only its square's, to margin_rows and margin_cols. Clears the uses
 * (deltas are released). gradient_out, when not NULL, receives G [experts, n_out, n_in] (tests). A
 * stack is taken expert by expert: with T_e tokens, small against the matrix, the sums come from
 * Gram matrices of the tokens and G is never formed (method.md eq. 3a).
 */
om_status om_fisher_accumulate(om_fisher *f, int weight, om_compute *c, float *gradient_out,
                               om_error *err) OM_WARN_UNUSED;

/** Checkpoint: the sums as they are, bit for bit. `key` (hex SHA-256) names the work; done =
 * windows finished. Reading gives OM_OK and *done = 0 when there is no file or it belongs to other
 * work. */
om_status om_fisher_save(const om_fisher *f, const char *path, const char key[65], int done,
                         om_error *err) OM_WARN_UNUSED;
om_status om_fisher_load(om_fisher *f, int *done, const char *path, const char key[65],
                         om_error *err) OM_WARN_UNUSED;

#endif
