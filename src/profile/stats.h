/* The statistics file (profile.stats.gguf): what one pass over the text keeps of each tensor.
 *
 * A GGUF whose imatrix part llama-quantize --imatrix reads: general.type = "imatrix",
 * "<name>.in_sum2" [n_in, experts] and "<name>.counts" [1, experts] in F32; and, for the Fisher
 * diagonal F = sum over windows of G∘G,
 * "<name>.fisher_rows" [n_out, experts], "<name>.fisher_cols" [n_in, experts] in F32
 * (docs/method.md eq. 2, 3). A stack of experts also has "<name>.expert_nats" [types, experts], the
 * cost of each expert alone, with the types in "optimum.stats.types.<name>", and where the routers
 * were measured "<name>.expert_routing" [types, experts]. The pass accumulates
 * in double; what is kept is rounded to F32 once (7 digits, far below the sampling error), only the
 * totals stay double (metadata). */
#ifndef OM_PROFILE_STATS_H
#define OM_PROFILE_STATS_H

#include "base/file.h"

typedef struct om_tensor_stats {
    char name[64];
    int64_t n_in, n_out;
    int experts;
    float *in_sum2; /* [experts, n_in] sum over tokens of x^2; NULL: the tensor has no matmul input
                       (pure embedding) */
    float *counts;  /* [experts] tokens */
    float *rows;    /* [experts, n_out] row marginals of F; NULL in a foreign imatrix */
    float *cols;    /* [experts, n_in] column marginals of F; NULL in a foreign imatrix */
    double total;   /* sum of F over all experts; 0 in a foreign imatrix */
    float *nats;    /* [experts, n_nats] cost of each expert alone in each of nats_types; NULL:
                       not a stack */
    float *routing; /* [experts, n_nats] nats of the choices that each alone changes (method.md
                       eq. 15), not in nats; NULL: not measured */
    int n_nats;
    char nats_types[1024]; /* "q4_K,q8_0": comma-separated, n_nats of them */
    unsigned mapped; /* bit k: the k-th of in_sum2, rows, cols, nats, routing lies in om_stats.map
                        and is read-only */
} om_tensor_stats;

enum {
    OM_STATS_PASS = 5 /* of the arithmetic of the pass: rises when equal work gives other sums */
};

typedef struct om_stats {
    om_tensor_stats *tensors; /* [n_tensors] */
    int n_tensors;
    char model_sha256[65], calib_sha256[65]; /* "" in a foreign imatrix */
    int n_windows, window_tokens;
    int pass; /* OM_STATS_PASS of whoever made them; 0 unknown */
    int64_t tokens;
    uint64_t seed;
    char sha256[65]; /* of the file, filled by om_stats_read */
    om_map map;      /* owned; of the file that om_stats_read was given */
} om_stats;

/** Read our statistics, or any imatrix (GGUF, or the legacy .dat): rows, cols are NULL then. *out
 * owned; the large arrays stay in the file and are not to be written to. Errors: OM_E_IO,
 * OM_E_FORMAT, OM_E_NUMERIC (not finite or negative values, with the tensor's name). */
om_status om_stats_read(om_stats **out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same for bytes in memory; `name` is for messages. */
om_status om_stats_parse(om_stats **out, const om_map *bytes, const char *name,
                         om_error *err) OM_WARN_UNUSED;
/** Write atomically; equal statistics give equal bytes. imatrix_only leaves the Fisher marginals
 * out. */
om_status om_stats_write(const om_stats *s, const char *path, bool imatrix_only,
                         om_error *err) OM_WARN_UNUSED;
void om_stats_free(om_stats *s);
const om_tensor_stats *om_stats_find(const om_stats *s, const char *name);

/** Column of t->nats and t->routing for a type; -1: t is NULL or has none. */
int om_stats_column(const om_tensor_stats *t, const char *type);

/** Importance for rounding expert e: out [n_in] f32 = in_sum2 / count, all ones when count is 0
 * (llama.cpp's rule). Equal bit for bit to what llama-quantize computes from the same file. false:
 * no input statistics. */
bool om_stats_importance(float *out, const om_tensor_stats *t, int expert);

/** Agree on the shape with the model's tensor (n_in weights a row, `experts` matrices). A legacy
 * .dat is flat: n_in * experts values with one count; it is cut into experts here. Call it before
 * om_stats_importance whenever the file may be foreign. Errors: OM_E_MISMATCH with both shapes. */
om_status om_stats_shape(om_tensor_stats *t, int64_t n_in, int experts,
                         om_error *err) OM_WARN_UNUSED;

#endif
