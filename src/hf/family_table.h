/* The table of families, for the files of this folder: each tensor of a block once, with its name
 * in llama.cpp and in mlx-lm, the other forms in which Hugging Face directories hold it, and its
 * shape in letters (src/README.md). */
#ifndef OM_HF_FAMILY_TABLE_H
#define OM_HF_FAMILY_TABLE_H

#include "hf/family.h"

/** The lengths that shapes are made of; each is one or two numbers of config.json. */
typedef enum om_hf_dim {
    OM_DIM_END, /* of a shape */
    OM_DIM_1,
    OM_DIM_V,    /* vocabulary */
    OM_DIM_C,    /* width of the model */
    OM_DIM_D,    /* width of a head */
    OM_DIM_H,    /* heads */
    OM_DIM_HD,   /* H * D */
    OM_DIM_KVD,  /* KV * D */
    OM_DIM_QKVD, /* (H + 2 KV) * D */
    OM_DIM_F,    /* width of the feed-forward part */
    OM_DIM_2F,   /* gate and up fused */
    OM_DIM_E,    /* experts */
    OM_DIM_FE,   /* F of one expert */
    OM_DIM_FS,   /* F of the shared expert */
    OM_DIM_COUNT
} om_hf_dim;

enum { OM_FAMILY_DIMS = 3, OM_FAMILY_PARTS = 7 };

/** How rows of a tensor lie in a Hugging Face tensor that is not of the same shape. */
typedef enum om_hf_fold {
    OM_FOLD_NONE,   /* the same rows */
    OM_FOLD_FIRST,  /* the first half of twice as many rows */
    OM_FOLD_SECOND, /* the second half */
    OM_FOLD_EVEN,   /* every second row from 0; of a matrix of biases: every second column */
    OM_FOLD_ODD     /* every second row from 1 */
} om_hf_fold;

/** Another form of a tensor than mlx-lm's own. A '#' in the name is the number of the expert: one
 * tensor for each. */
typedef struct om_hf_form {
    const char *name;
    om_hf_fold fold;
    bool transposed; /* [E, n_in, n_out] */
    bool blocks; /* MXFP4: "…_blocks" [E, n_out, n_in/32, 16] and "…_scales" [E, n_out, n_in/32] */
} om_hf_form;

enum {
    OM_ROTARY_Q = 1,          /* rows that llama.cpp reorders when the family permutes (H heads) */
    OM_ROTARY_K = 2,          /* the same with KV heads */
    OM_NORM = 4,              /* 1 + w in the GGUF of families whose norms are stored as w */
    OM_IF_ATTENTION_BIAS = 8, /* there when config.json says "attention_bias": true */
    OM_IF_MLP_BIAS = 16,      /* "mlp_bias" */
    OM_IF_UNTIED = 32,        /* there unless the embeddings serve as output too */
};

typedef struct om_family_tensor {
    const char *gguf;                /* without "blk.N."; NULL ends the list */
    const char *mlx;                 /* without "model.layers.N." */
    om_hf_dim shape[OM_FAMILY_DIMS]; /* slowest first */
    unsigned flags;
    const om_hf_form *forms; /* ends with a NULL name; NULL: mlx-lm's form is Hugging Face's too */
} om_family_tensor;

typedef enum om_hf_tied {
    OM_TIED_BY_CONFIG, /* "tie_word_embeddings"; without it: tied when there is no lm_head.weight */
    OM_TIED_ALWAYS,    /* an lm_head.weight is ignored */
    OM_TIED_NEVER,     /* mlx-lm's module has an lm_head whatever the config says */
    OM_TIED_BY_PRESENCE /* of an MLX directory: mlx-lm looks for lm_head.weight; else by config */
} om_hf_tied;

struct om_family {
    const char *model_type, *arch;
    bool experts;    /* every block is a mixture */
    bool permutes;   /* llama.cpp reorders rows of q and k (its rotation pairs neighbours) */
    bool norms_of_1; /* the GGUF keeps 1 + w of the norms */
    bool nested;     /* numbers under "text_config", names under "language_model." */
    om_hf_tied tied;
    const char *expert_ff_key; /* of FE in config.json */
    int64_t n_heads, n_kv, head_dim,
        n_vocab; /* when config.json is silent; 0: required or derived */
    const om_family_tensor *parts[OM_FAMILY_PARTS]; /* of a block, in order; NULL ends */
};

/** Tensors outside of blocks: of all families the same. "lm_head.weight" has no "model." before it.
 */
const om_family_tensor *om_family_outside(void);
/** "num_attention_heads * head_dim" …: for messages. */
const char *om_hf_dim_name(om_hf_dim dim);
/** Prefix of mlx-lm's names: "language_model." or "". */
const char *om_family_prefix(const om_family *family);

#endif
