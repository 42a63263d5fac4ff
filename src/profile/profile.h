/* profile.json in memory: the sensitivity of a model's tensors, what a type costs in bytes and
 * nats. */
#ifndef OM_PROFILE_PROFILE_H
#define OM_PROFILE_PROFILE_H

#include "base/error.h"
#include "model/format.h"
#include "model/memory.h"
#include "model/probe.h"

/** One candidate: store this tensor in this type. */
typedef struct om_choice {
    const om_format *format;
    int64_t bytes;  /* in the file, without padding */
    double nats;    /* predicted KL divergence per token, >= 0 (docs/method.md eq. 1) */
    double routing; /* what it adds to the variance of the routers' margins, in nats (eq. 15) */
} om_choice;

/** What the text showed of each expert of a stack; arrays owned by the unit. */
typedef struct om_expert_stats {
    double *trace;         /* [experts] sum of F (method.md eq. 2), as measured */
    double *tokens;        /* [experts] tokens routed to it */
    double *router_weight; /* [experts] sum over those tokens of the router's weight */
    double *windows;       /* [experts] windows in which it was chosen at least once */
} om_expert_stats;

typedef struct om_unit {
    char name[64]; /* GGUF tensor name */
    char role[64];
    int layer;           /* -1: outside of blocks */
    int64_t n_out, n_in; /* matrix [n_out, n_in] of one expert */
    int experts;         /* matrices in the stack, 1 when dense */
    int64_t params;
    const om_format *source; /* type in the source file */
    double fisher_trace;     /* sum over the tensor of F, for the report; 0 unknown */
    double reach;            /* sum of the weights of the routers behind it (eq. 15) */
    om_probe probe;          /* of the source's weights */
    om_expert_stats expert;  /* all NULL: dense, or a profile without them */
    om_choice *choices; /* [n_choices] ascending bytes; the source type is among them with 0 nats */
    int n_choices;
} om_unit;

/** One router, in the order of the graph (docs/method.md eq. 14). */
typedef struct om_router {
    double density;       /* of its margins near zero, per unit of margin */
    double nats_per_swap; /* divergence per token that got another expert */
    double weight;        /* nats for margins that move by one (standard deviation) */
} om_router;

typedef struct om_routers {
    om_router *items; /* [n] */
    int n;            /* 0: a dense model, or not measured */
} om_routers;

typedef struct om_fixed {
    char name[64];
    int64_t bytes; /* copied as it is, without padding */
} om_fixed;

/** What an MLX model holds besides the tensors to choose for. */
typedef struct om_mlx_contents {
    bool known;             /* false: profiled for GGUF only */
    int64_t metadata_bytes; /* headers of all files (mlx/layout.h) */
    om_fixed *fixed;        /* dense tensors, by their names in the GGUF */
    int n_fixed;
} om_mlx_contents;

typedef struct om_profile {
    char model_path[1024], model_sha256[65], arch[64];
    int64_t params;     /* all tensors, fixed ones too: what bits per weight divide by */
    int64_t file_bytes; /* of the source */
    char (*calib_sha256)[65];
    int n_calib;
    int n_windows, window_tokens;
    char select[16]; /* how the windows were chosen: "" spread over the text, "cover" */
    uint64_t seed;
    int64_t tokens; /* scored: N of eq. (1) */
    /* Of the container below, and so are the units' choices after om_profile_for; before it they
     * are of both, and these are the GGUF's. */
    int64_t metadata_bytes, alignment;
    om_fixed *fixed;
    int n_fixed;
    om_container container;
    om_mlx_contents mlx;
    om_memory memory;
    char method[16];                         /* "fisher" or "measured" */
    char stats_path[1024], stats_sha256[65]; /* "" when there are none */
    om_routers routers;
    om_unit *units; /* file order */
    int n_units;
    /* What the presets of llama-quantize ask about the model, of layer 0; n_head 0: unknown, then
     * they are derived from the shapes */
    struct {
        int n_layer, n_head, n_head_kv, n_expert, n_expert_used; /* n_expert_used 0: unknown */
    } hparams;
    char sha256[65]; /* of profile.json itself, filled by om_profile_read */
} om_profile;

/** Read and check profile.json. *out owned (om_profile_free). Errors: OM_E_IO, OM_E_FORMAT with the
 * JSON path. */
om_status om_profile_read(om_profile **out, const char *path, om_error *err) OM_WARN_UNUSED;
/** The same for a document in memory; `name` is for messages. */
om_status om_profile_parse(om_profile **out, const char *text, size_t n, const char *name,
                           om_error *err) OM_WARN_UNUSED;
/** Write atomically; equal profiles give equal bytes. What could not be read back is refused
 * (OM_E_INTERNAL). */
om_status om_profile_write(const om_profile *profile, const char *path,
                           om_error *err) OM_WARN_UNUSED;
void om_profile_free(om_profile *profile);

/** Keep what one container needs: its types (plain ones included), its contents. To be called once,
 * before anything is chosen. In MLX a tensor that is not quantized has 16 bits a weight.
 * Errors: OM_E_ARG when the profile was not made for it. */
om_status om_profile_for(om_profile *profile, om_container container, om_error *err) OM_WARN_UNUSED;
/** Was it made for this container? */
bool om_profile_has(const om_profile *profile, om_container container);

/** Sum of the routers' weights. */
double om_routers_weight(const om_routers *r);
void om_routers_release(om_routers *r); /* accepts a zeroed struct */
/** What changed choices of experts cost when the margins' weighted variance is `routing`, nats
 * (docs/method.md eq. 15): sqrt(weight · routing). */
double om_routers_nats(double weight, double routing);

/** NULL when the unit has no such candidate. */
const om_choice *om_unit_choice(const om_unit *unit, const om_format *format);
/** The candidate nearest to the 4.5 bits per weight of q4_K and mlx_4bit_g64: where "at about 4
 * bits" is read off. NULL: no candidates. */
const om_choice *om_unit_four_bit(const om_unit *unit);
/** Bytes of the output that no choice changes: metadata and fixed tensors, padded. */
int64_t om_profile_fixed_bytes(const om_profile *profile);

#endif
