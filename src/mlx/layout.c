/* Items of a model -> tensors, shards, offsets and header lengths of its safetensors files.
 *
 * A budget is kept to the byte, so the headers must not grow with the choice of types: what a
 * module becomes (one tensor, or three with other shapes) changes their length. So their sum is
 * fixed at the length they could have at most, every header but the last is as long as its tensors
 * need, and the last is filled with spaces up to the sum.
 *
 * What is counted is the compact text of om_st_header, with an offset's digits at their widest in
 * the file; mlx-lm's own headers differ from it by the bytes of these spaces alone. */
#include "mlx/layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static const int64_t default_limit = (int64_t) 5 << 30; /* mlx-lm's */

/* ---- lengths ---- */

#define LITERAL(text) ((int64_t) sizeof(text) - 1)

static int64_t digits_of(int64_t x) {
    int64_t n = 1;
    for (; x >= 10; x /= 10) {
        n++;
    }
    return n;
}

static int64_t pad8(int64_t bytes) {
    return (bytes + 7) / 8 * 8;
}

/* One member of a header, the comma before it included. */
static int64_t entry_bytes(size_t name_length, const int64_t *dims, int n_dims, int64_t digits) {
    int64_t n = LITERAL(",\"\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[,]}") +
                (int64_t) name_length + 2 * digits + n_dims - 1;
    for (int i = 0; i < n_dims; i++) {
        n += digits_of(dims[i]);
    }
    return n;
}

/* The length, the braces and "__metadata__"; in the first file with the record at its longest. */
static int64_t shard_overhead(bool first) {
    return 8 + LITERAL("{\"__metadata__\":{\"format\":\"mlx\"}}") +
           (first ? LITERAL(",\"optimum\":\"\"") + OM_MLX_RECORD : 0);
}

/* ---- items ---- */

static const char weight_suffix[] = ".weight";

static int64_t params_of(const om_mlx_item *item) {
    int64_t n = 1;
    for (int i = 0; i < item->n_dims; i++) {
        n *= item->ne[i];
    }
    return n;
}

/* Length of "model.layers.0.mlp.up_proj" in "model.layers.0.mlp.up_proj.weight"; -1: no weight. */
static int64_t module_length(const char *path) {
    const size_t n = strlen(path), suffix = sizeof weight_suffix - 1;
    return n > suffix && strcmp(path + n - suffix, weight_suffix) == 0 ? (int64_t) (n - suffix)
                                                                       : -1;
}

/* Dimensions without the slowest ones of 1: in a GGUF [1, C] is a vector. */
static int dims_of(const om_mlx_item *item) {
    int n = item->n_dims;
    while (n > 1 && item->ne[n - 1] == 1) {
        n--;
    }
    return n;
}

/* By its name and shape alone, so that the answer does not depend on the choice of types. */
static bool could_be_quantized(const om_mlx_item *item) {
    return dims_of(item) >= 2 && item->ne[0] % 16 == 0 && module_length(item->path) >= 0;
}

/* Bytes in 16 bits a weight: no type takes more. */
static int64_t largest_bytes(const om_mlx_item *items, int n) {
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        total += 2 * params_of(&items[i]);
    }
    return total;
}

/* Two neighbouring shards hold more than the limit together, else they were one. */
static int64_t shards_at_most(int64_t bytes, int64_t limit) {
    return 2 * (bytes / limit) + 1;
}

static int64_t metadata_bytes(const om_mlx_item *items, int n, int64_t limit) {
    const int64_t largest = largest_bytes(items, n), digits = digits_of(largest);
    int64_t total = shard_overhead(true) + 7;
    total += (shards_at_most(largest, limit) - 1) * (shard_overhead(false) + 7);
    for (int i = 0; i < n; i++) {
        const om_mlx_item *item = &items[i];
        const size_t length = strlen(item->path);
        const int64_t ones = 2 * LITERAL("1,"); /* dimensions that the GGUF does not have */
        /* ".scales" and ".biases" are as long as ".weight", their rows and offsets shorter */
        total += (could_be_quantized(item) ? 3 : 1) *
                 (entry_bytes(length, item->ne, dims_of(item), digits) + ones);
    }
    return pad8(total);
}

int64_t om_mlx_metadata_bytes(const om_mlx_item *items, int n) {
    return metadata_bytes(items, n, default_limit);
}

/* ---- tensors ---- */

static om_status check_item(const om_mlx_item *item, om_error *err) {
    const om_format *f = item->format;
    if (strlen(item->path) >= sizeof((om_mlx_tensor *) 0)->name) {
        return om_fail(err, OM_E_INTERNAL, "%.80s…: the path of a module is too long", item->path);
    }
    if (f->mlx == OM_MLX_NONE) {
        return OM_OK;
    }
    if (module_length(item->path) < 0 || item->n_dims < 2) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: only matrices called \"….weight\" can be %s: leave it as it is",
                       item->path, f->name);
    }
    if (item->ne[0] % f->block != 0) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: rows of %" PRId64 " weights cannot be %s (groups of %d): choose "
                       "another type for it",
                       item->path, item->ne[0], f->name, f->block);
    }
    return OM_OK;
}

/* A tensor with the item's rows, each of `width` elements. */
static void put_tensor(om_mlx_layout *layout, const om_mlx_item *item, int index,
                       const char *suffix, om_st_dtype dtype, int element_bytes, int64_t width) {
    om_mlx_tensor *t = &layout->tensors[layout->n_tensors++];
    const int64_t module = suffix == NULL ? -1 : module_length(item->path);
    *t = (om_mlx_tensor){ .item = index };
    if (module < 0) {
        (void) snprintf(t->name, sizeof t->name, "%s", item->path);
    } else {
        (void) snprintf(t->name, sizeof t->name, "%.*s%s", (int) module, item->path, suffix);
    }
    t->st.name = t->name;
    t->st.dtype = dtype;
    t->st.n_dims = item->n_dims;
    t->st.bytes = element_bytes;
    for (int k = 0; k < item->n_dims; k++) {
        const int64_t ne = k == item->n_dims - 1 ? width : item->ne[item->n_dims - 1 - k];
        t->st.shape[k] = ne;
        t->st.bytes *= ne;
    }
}

static void put_item(om_mlx_layout *layout, const om_mlx_item *item, int index,
                     om_mlx_dtype dtype) {
    const om_format *f = item->format;
    const om_st_dtype dense = dtype == OM_MLX_F16 ? OM_ST_F16 : OM_ST_BF16;
    const int64_t n_in = item->ne[0];
    if (f->mlx == OM_MLX_NONE) {
        put_tensor(layout, item, index, NULL, dense, 2, n_in);
        return;
    }
    put_tensor(layout, item, index, weight_suffix, OM_ST_U32, 4, n_in * f->bits / 32);
    if (f->mlx == OM_MLX_AFFINE) {
        put_tensor(layout, item, index, ".scales", dense, 2, n_in / f->block);
        put_tensor(layout, item, index, ".biases", dense, 2, n_in / f->block);
    } else {
        put_tensor(layout, item, index, ".scales", OM_ST_U8, 1, n_in / f->block);
    }
}

/* ---- shards ---- */

/* Tensors [first, last) go to the current shard, or to a new one when they do not fit. */
static void place(om_mlx_layout *layout, int first, int last, int64_t limit, int64_t *filled) {
    int64_t bytes = 0;
    for (int i = first; i < last; i++) {
        bytes += layout->tensors[i].st.bytes;
    }
    if (*filled > 0 && *filled + bytes > limit) {
        layout->n_shards++;
        *filled = 0;
    }
    for (int i = first; i < last; i++) {
        layout->tensors[i].shard = layout->n_shards - 1;
        layout->tensors[i].st.shard = layout->n_shards - 1;
        layout->tensors[i].offset = *filled; /* from the start of the data, for now */
        *filled += layout->tensors[i].st.bytes;
    }
}

static void place_all(om_mlx_layout *layout, int64_t limit) {
    int64_t filled = 0;
    int last = 0;
    layout->n_shards = 1;
    for (int first = 0; first < layout->n_tensors; first = last) {
        int64_t bytes = 0;
        for (last = first;
             last < layout->n_tensors && layout->tensors[last].item == layout->tensors[first].item;
             last++) {
            bytes += layout->tensors[last].st.bytes;
        }
        if (bytes <= limit) {
            place(layout, first, last, limit, &filled);
            continue;
        }
        for (int i = first; i < last; i++) {
            place(layout, i, i + 1, limit, &filled);
        }
    }
}

static om_status measure(om_mlx_layout *layout, int64_t metadata, om_error *err) {
    int64_t left = metadata;
    for (int s = 0; s < layout->n_shards; s++) {
        layout->header_bytes[s] = shard_overhead(s == 0);
        layout->shard_bytes[s] = 0;
    }
    for (int i = 0; i < layout->n_tensors; i++) {
        layout->shard_bytes[layout->tensors[i].shard] += layout->tensors[i].st.bytes;
    }
    for (int i = 0; i < layout->n_tensors; i++) {
        const om_mlx_tensor *t = &layout->tensors[i];
        layout->header_bytes[t->shard] += entry_bytes(strlen(t->name), t->st.shape, t->st.n_dims,
                                                      digits_of(layout->shard_bytes[t->shard]));
    }
    for (int s = 0; s < layout->n_shards; s++) {
        const int64_t need = pad8(layout->header_bytes[s]);
        layout->header_bytes[s] = s == layout->n_shards - 1 ? left : need;
        if (layout->header_bytes[s] < need) {
            return om_fail(err, OM_E_INTERNAL,
                           "the headers need more than the %" PRId64 " bytes planned for them",
                           metadata);
        }
        left -= layout->header_bytes[s];
        layout->data_bytes += layout->shard_bytes[s];
        layout->shard_bytes[s] += layout->header_bytes[s];
        layout->total_bytes += layout->shard_bytes[s];
    }
    for (int i = 0; i < layout->n_tensors; i++) {
        layout->tensors[i].offset += layout->header_bytes[layout->tensors[i].shard];
    }
    return OM_OK;
}

om_status om_mlx_layout_make_in(om_mlx_layout *out, const om_mlx_item *items, int n,
                                om_mlx_dtype dtype, int64_t limit, int64_t metadata,
                                om_error *err) {
    om_status status = OM_OK;
    const int64_t most = limit > 0 ? limit : default_limit;
    *out = (om_mlx_layout){ 0 };
    if (n < 1 || dtype == OM_MLX_F32) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "an MLX model needs tensors, in 16 bits"));
    }
    out->tensors = om_calloc((size_t) n, 3 * sizeof *out->tensors);
    if (out->tensors == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n * 3 * sizeof *out->tensors));
    }
    for (int i = 0; i < n; i++) {
        OM_TRY(check_item(&items[i], err));
        put_item(out, &items[i], i, dtype);
    }
    place_all(out, most);
    out->shard_bytes = om_calloc((size_t) out->n_shards, sizeof *out->shard_bytes);
    out->header_bytes = om_calloc((size_t) out->n_shards, sizeof *out->header_bytes);
    if (out->shard_bytes == NULL || out->header_bytes == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) out->n_shards * sizeof *out->shard_bytes));
    }
    OM_TRY(measure(out, metadata, err));
out:
    return status;
}

om_status om_mlx_layout_make(om_mlx_layout *out, const om_mlx_item *items, int n,
                             om_mlx_dtype dtype, int64_t limit, om_error *err) {
    const int64_t metadata = metadata_bytes(items, n, limit > 0 ? limit : default_limit);
    return om_mlx_layout_make_in(out, items, n, dtype, limit, metadata, err);
}

void om_mlx_layout_release(om_mlx_layout *layout) {
    om_free(layout->tensors);
    om_free(layout->shard_bytes);
    om_free(layout->header_bytes);
    *layout = (om_mlx_layout){ 0 };
}

void om_mlx_shard_name(char out[64], int shard, int n_shards) {
    if (n_shards == 1) {
        (void) snprintf(out, 64, "model.safetensors");
    } else {
        (void) snprintf(out, 64, "model-%05d-of-%05d.safetensors", shard + 1, n_shards);
    }
}
