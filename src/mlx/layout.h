/* How an MLX model lies in files: which tensors each module becomes, which shard they go to, and
 * the bytes of every file, exactly, before anything is written. */
#ifndef OM_MLX_LAYOUT_H
#define OM_MLX_LAYOUT_H

#include "model/safetensors.h"
#include "mlx/quants.h"

/** One weight or bias of a module of mlx-lm. */
typedef struct om_mlx_item {
    const char *path; /* "model.layers.0.self_attn.q_proj.weight" */
    int n_dims;
    int64_t ne[4];           /* ggml order */
    const om_format *format; /* plain: dense, in the model's dtype; else a type of MLX */
} om_mlx_item;

/** Bytes of all headers together, whatever the formats of the items: shorter ones are padded to it.
 * The rest of the model is om_format_size of each item (dense: 16 bits a weight), without padding.
 * For shards of 5 GiB. Slowest dimensions of 1 do not count: items of a GGUF give the same. */
int64_t om_mlx_metadata_bytes(const om_mlx_item *items, int n);

enum { OM_MLX_RECORD = 1024 }; /* most bytes of the "optimum" record, JSON escapes included */

/** A tensor of the output. */
typedef struct om_mlx_tensor {
    char name[192];  /* "….weight", "….scales", "….biases", "….bias" */
    int item;        /* index of its item */
    om_st_tensor st; /* dtype, shape and bytes; name points to the above */
    int shard;
    int64_t offset; /* from the start of the shard's file */
} om_mlx_tensor;

typedef struct om_mlx_layout {
    om_mlx_tensor
        *tensors; /* [n_tensors] in the items' order; of a module weight, scales, biases */
    int n_tensors;
    int n_shards;
    int64_t *shard_bytes;  /* [n_shards] whole files */
    int64_t *header_bytes; /* [n_shards] */
    int64_t total_bytes;   /* all shards: om_mlx_metadata_bytes (limit 0) + the items */
    int64_t data_bytes;    /* tensors alone: the index's total_size */
} om_mlx_layout;

/** dtype: of dense tensors, scales and biases (16 bits). Shards hold at most `limit` bytes of
 * tensors (0: 5 GiB); the tensors of a module stay in one shard unless they alone exceed it.
 * Errors: OM_E_UNSUPPORTED (a group does not divide the row). Release in any case. */
om_status om_mlx_layout_make(om_mlx_layout *out, const om_mlx_item *items, int n,
                             om_mlx_dtype dtype, int64_t limit, om_error *err) OM_WARN_UNUSED;
/** The same with headers of `metadata_bytes` together, whatever the items would have at most: for
 * items that were cut out of others (experts in banks), when the budget knows those. Errors also:
 * OM_E_INTERNAL (the headers need more). */
om_status om_mlx_layout_make_in(om_mlx_layout *out, const om_mlx_item *items, int n,
                                om_mlx_dtype dtype, int64_t limit, int64_t metadata_bytes,
                                om_error *err) OM_WARN_UNUSED;
void om_mlx_layout_release(om_mlx_layout *layout);
/** "model.safetensors", or "model-00001-of-00003.safetensors". */
void om_mlx_shard_name(char out[64], int shard, int n_shards);

#endif
