/* profile.json -> om_profile.
 *
 * The reader trusts nothing: users edit the file and other tools may write it. Every number has a
 * range, every byte count is recomputed from the shape and the block of the type, so that the
 * allocator can do exact integer arithmetic on what it gets without looking again. Sums of all
 * sizes stay below 2^60, which leaves room for padding.
 *
 * Schema: docs/formats.md, "optimum.profile/1".
 */
#include "profile/profile.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/mem.h"
#include "profile/probe_json.h"

static const char schema[] = "optimum.profile/1";

enum {
    MAX_NAME = 63,
    MAX_TENSORS = 1 << 20,
    MAX_LAYERS = 1 << 16,
    MAX_EXPERTS = 1 << 16,
    MAX_ALIGNMENT = 1 << 20
};
#define MAX_BYTES ((int64_t) 1 << 50) /* of one tensor, of the metadata */
#define MAX_SUM ((int64_t) 1 << 60)   /* of all tensors */
#define MAX_FILE ((size_t) 1 << 30)

/* ---- sections ---------------------------------------------------------------------------------
 */

static om_status read_hparams(om_profile *p, const om_node *model, om_error *err) {
    if (!om_node_has(model, "hparams")) {
        return OM_OK;
    }
    om_status status = OM_OK;
    om_node h;
    OM_TRY(om_node_object(&h, model, "hparams", err));
    OM_TRY(om_node_int(&p->hparams.n_layer, &h, "n_layer", 0, MAX_LAYERS, err));
    OM_TRY(om_node_int(&p->hparams.n_head, &h, "n_head", 0, 1 << 20, err));
    OM_TRY(om_node_int(&p->hparams.n_head_kv, &h, "n_head_kv", 0, 1 << 20, err));
    OM_TRY(om_node_int(&p->hparams.n_expert, &h, "n_expert", 0, MAX_EXPERTS, err));
    if (om_node_has(&h, "n_expert_used")) {
        OM_TRY(om_node_int(&p->hparams.n_expert_used, &h, "n_expert_used", 0, MAX_EXPERTS, err));
    }
out:
    return status;
}

static om_status read_model(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node model;
    OM_TRY(om_node_object(&model, root, "model", err));
    OM_TRY(om_node_text(p->model_path, sizeof p->model_path, &model, "path", err));
    OM_TRY(om_node_sha256(p->model_sha256, &model, "sha256", err));
    OM_TRY(om_node_text(p->arch, sizeof p->arch, &model, "arch", err));
    OM_TRY(om_node_i64(&p->params, &model, "params", 1, MAX_BYTES, err));
    OM_TRY(om_node_i64(&p->file_bytes, &model, "file_bytes", 0, MAX_SUM, err));
    OM_TRY(read_hparams(p, &model, err));
out:
    return status;
}

static om_status read_calibration(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node calib, files, file;
    size_t n = 0;
    OM_TRY(om_node_object(&calib, root, "calibration", err));
    OM_TRY(om_node_array(&files, &n, &calib, "files", err));
    if (n > MAX_TENSORS) {
        OM_TRY(om_node_fail(err, &files, "more than %d files", MAX_TENSORS));
    }
    p->calib_sha256 = om_calloc(n, sizeof *p->calib_sha256);
    if (p->calib_sha256 == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *p->calib_sha256));
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&file, &files, i, err));
        OM_TRY(om_node_sha256(p->calib_sha256[i], &file, "sha256", err));
        p->n_calib++;
    }
    OM_TRY(om_node_int(&p->n_windows, &calib, "windows", 0, INT32_MAX, err));
    OM_TRY(om_node_int(&p->window_tokens, &calib, "window_tokens", 0, INT32_MAX, err));
    if (om_node_has(&calib, "select")) {
        OM_TRY(om_node_text(p->select, sizeof p->select, &calib, "select", err));
    }
    OM_TRY(om_node_u64(&p->seed, &calib, "seed", err));
    OM_TRY(om_node_i64(&p->tokens, &calib, "tokens", 0, MAX_BYTES, err));
out:
    return status;
}

static om_status read_fixed(om_fixed **out, int *n_out, const om_node *container, om_error *err) {
    om_status status = OM_OK;
    om_node fixed, item;
    size_t n = 0;
    OM_TRY(om_node_array(&fixed, &n, container, "fixed", err));
    if (n > MAX_TENSORS) {
        OM_TRY(om_node_fail(err, &fixed, "more than %d tensors", MAX_TENSORS));
    }
    *out = om_calloc(n, sizeof **out);
    if (*out == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof **out));
    }
    for (size_t i = 0; i < n; i++) {
        om_fixed *f = &(*out)[i];
        OM_TRY(om_node_at(&item, &fixed, i, err));
        OM_TRY(om_node_text(f->name, sizeof f->name, &item, "name", err));
        OM_TRY(om_node_i64(&f->bytes, &item, "bytes", 0, MAX_BYTES, err));
        (*n_out)++;
    }
out:
    return status;
}

static om_status read_mlx(om_mlx_contents *mlx, const om_node *container, om_error *err) {
    om_status status = OM_OK;
    om_node node;
    if (!om_node_has(container, "mlx")) {
        return OM_OK;
    }
    mlx->known = true;
    OM_TRY(om_node_object(&node, container, "mlx", err));
    OM_TRY(om_node_i64(&mlx->metadata_bytes, &node, "metadata_bytes", 0, MAX_BYTES, err));
    OM_TRY(read_fixed(&mlx->fixed, &mlx->n_fixed, &node, err));
out:
    return status;
}

static om_status read_container(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node container;
    OM_TRY(om_node_object(&container, root, "container", err));
    OM_TRY(om_node_i64(&p->metadata_bytes, &container, "metadata_bytes", 0, MAX_BYTES, err));
    OM_TRY(om_node_i64(&p->alignment, &container, "alignment", 1, MAX_ALIGNMENT, err));
    if ((p->alignment & (p->alignment - 1)) != 0) {
        OM_TRY(om_node_fail(err, &container, "alignment: %d is not a power of two",
                            (int) p->alignment));
    }
    OM_TRY(read_fixed(&p->fixed, &p->n_fixed, &container, err));
    OM_TRY(read_mlx(&p->mlx, &container, err));
out:
    return status;
}

/* Arrays of one number per layer; `factor` turns bytes of an F16 cache into values. */
static om_status read_per_layer(int64_t **out, size_t *n, const om_node *memory, const char *key,
                                int64_t factor, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    OM_TRY(om_node_array(&array, n, memory, key, err));
    if (*n > MAX_LAYERS) {
        OM_TRY(om_node_fail(err, &array, "more than %d layers", MAX_LAYERS));
    }
    *out = om_calloc(*n, sizeof **out);
    if (*out == NULL) {
        OM_TRY(om_fail_nomem(err, *n * sizeof **out));
    }
    for (size_t i = 0; i < *n; i++) {
        int64_t v = 0;
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_value_i64(&v, &item, 0, (int64_t) 1 << 40, err));
        if (v % factor != 0) {
            OM_TRY(om_node_fail(err, &item, "not a multiple of %d", (int) factor));
        }
        (*out)[i] = v / factor;
    }
out:
    return status;
}

static om_status read_memory(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_memory *m = &p->memory;
    om_node memory;
    size_t n_kv = 0, n_window = 0;
    OM_TRY(om_node_object(&memory, root, "memory", err));
    OM_TRY(read_per_layer(&m->kv_values_per_token, &n_kv, &memory, "kv_bytes_per_token", 2, err));
    OM_TRY(read_per_layer(&m->window, &n_window, &memory, "window", 1, err));
    if (n_kv != n_window) {
        OM_TRY(om_node_fail(err, &memory, "window: %zu layers, kv_bytes_per_token has %zu",
                            n_window, n_kv));
    }
    m->n_layers = (int) n_kv;
    OM_TRY(om_node_i64(&m->compute_bytes, &memory, "compute_bytes", 0, MAX_BYTES, err));
    if (om_node_has(&memory, "compute_estimated")) {
        OM_TRY(om_node_bool(&m->compute_estimated, &memory, "compute_estimated", err));
    }
out:
    return status;
}

static om_status read_stats(om_profile *p, const om_node *root, om_error *err) {
    if (!om_node_has(root, "stats")) {
        return OM_OK;
    }
    om_status status = OM_OK;
    om_node stats;
    OM_TRY(om_node_object(&stats, root, "stats", err));
    OM_TRY(om_node_text(p->stats_path, sizeof p->stats_path, &stats, "path", err));
    OM_TRY(om_node_sha256(p->stats_sha256, &stats, "sha256", err));
out:
    return status;
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

static om_status read_shape(om_unit *u, const om_node *tensor, om_error *err) {
    om_status status = OM_OK;
    om_node shape, item;
    size_t n = 0;
    int64_t dims[2] = { 0, 0 };
    OM_TRY(om_node_array(&shape, &n, tensor, "shape", err));
    if (n != 2) {
        OM_TRY(om_node_fail(err, &shape, "expected [n_out, n_in], found %zu numbers", n));
    }
    for (size_t i = 0; i < 2; i++) {
        OM_TRY(om_node_at(&item, &shape, i, err));
        OM_TRY(om_node_value_i64(&dims[i], &item, 1, INT32_MAX, err));
    }
    u->n_out = dims[0];
    u->n_in = dims[1];
    OM_TRY(om_node_int(&u->experts, tensor, "experts", 1, MAX_EXPERTS, err));
    OM_TRY(om_node_i64(&u->params, tensor, "params", 1, MAX_BYTES, err));
    /* n_out * n_in < 2^62; divide instead of multiplying by the experts. */
    if (u->params % u->experts != 0 || u->params / u->experts != u->n_out * u->n_in) {
        OM_TRY(om_node_fail(err, tensor, "params: %lld is not %lld x %lld x %d experts",
                            (long long) u->params, (long long) u->n_out, (long long) u->n_in,
                            u->experts));
    }
out:
    return status;
}

/* A number from 0 to 1e12. */
static om_status read_positive(double *out, const om_node *parent, const char *key, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_node_f64(out, parent, key, err));
    if (!(*out >= 0.0) || *out > 1e12) {
        OM_TRY(
            om_node_fail(err, parent, "%s: expected a number from 0 to 1e12, found %g", key, *out));
    }
out:
    return status;
}

/* The same, or 0 when it is absent. */
static om_status read_optional(double *out, const om_node *parent, const char *key, om_error *err) {
    *out = 0;
    return om_node_has(parent, key) ? read_positive(out, parent, key, err) : OM_OK;
}

/* The catalogue's largest entry is 8 bytes a weight and params < 2^50: no product overflows. */
static om_status read_choice(om_choice *c, const om_unit *u, const om_node *node, om_error *err) {
    om_status status = OM_OK;
    c->format = om_format_by_name(node->key);
    if (c->format == NULL) {
        OM_TRY(om_node_fail(err, node, "unknown type; known are %.300s", om_format_list()));
    }
    OM_TRY(om_node_i64(&c->bytes, node, "bytes", 1, MAX_BYTES * 8, err));
    int64_t expected = om_format_size(c->format, u->n_in, u->n_out * u->experts);
    if (expected < 0) {
        OM_TRY(om_node_fail(err, node, "blocks of %d weights do not divide rows of %lld",
                            c->format->block, (long long) u->n_in));
    }
    if (c->bytes != expected) {
        OM_TRY(om_node_fail(err, node, "bytes: %lld, but the shape needs %lld",
                            (long long) c->bytes, (long long) expected));
    }
    OM_TRY(om_node_f64(&c->nats, node, "nats", err));
    if (!(c->nats >= 0.0) || c->nats > 1e9) {
        OM_TRY(om_node_fail(err, node, "nats: expected a number from 0 to 1e9, found %g", c->nats));
    }
    OM_TRY(read_optional(&c->routing, node, "routing", err));
out:
    return status;
}

/* Keep choices ascending whatever order the file has them in: JSON objects have none. Ties (q3_K
 * and iq3_s) by name, so that equal profiles are equal in memory. */
static void insert_choice(om_unit *u, om_choice c) {
    int at = u->n_choices++;
    for (; at > 0; at--) {
        const om_choice *before = &u->choices[at - 1];
        if (before->bytes < c.bytes ||
            (before->bytes == c.bytes && strcmp(before->format->name, c.format->name) < 0)) {
            break;
        }
        u->choices[at] = *before;
    }
    u->choices[at] = c;
}

static om_status read_choices(om_unit *u, const om_node *tensor, om_error *err) {
    om_status status = OM_OK;
    om_node types, node;
    void *iter = NULL;
    int n = 0;
    OM_TRY(om_node_object(&types, tensor, "types", err));
    while (om_node_next(&node, &types, &iter)) {
        n++;
    }
    u->choices = om_calloc((size_t) n, sizeof *u->choices);
    if (u->choices == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n * sizeof *u->choices));
    }
    iter = NULL;
    while (om_node_next(&node, &types, &iter)) {
        om_choice c = { 0 };
        OM_TRY(read_choice(&c, u, &node, err));
        if (om_unit_choice(u, c.format) != NULL) { /* "q4_K" and "Q4_K" */
            OM_TRY(om_node_fail(err, &node, "the type is there twice"));
        }
        insert_choice(u, c);
    }
    const om_choice *source = om_unit_choice(u, u->source);
    if (source == NULL) {
        OM_TRY(om_node_fail(err, &types, "the source type %s is missing", u->source->name));
    }
    if (source->nats > 0.0 || source->routing > 0.0) {
        OM_TRY(om_node_fail(err, &types, "%s is the source type but costs %g nats, routing %g",
                            u->source->name, source->nats, source->routing));
    }
out:
    return status;
}

/* [experts] numbers >= 0. */
static om_status read_per_expert(double **out, const om_unit *u, const om_node *expert,
                                 const char *key, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t n = 0;
    OM_TRY(om_node_array(&array, &n, expert, key, err));
    if (n != (size_t) u->experts) {
        OM_TRY(om_node_fail(err, &array, "%zu numbers for %d experts", n, u->experts));
    }
    *out = om_calloc(n, sizeof **out);
    if (*out == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof **out));
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_value_f64(&(*out)[i], &item, err));
        if ((*out)[i] < 0.0) {
            OM_TRY(om_node_fail(err, &item, "%g is negative", (*out)[i]));
        }
    }
out:
    return status;
}

static om_status read_experts(om_unit *u, const om_node *tensor, om_error *err) {
    om_status status = OM_OK;
    om_node expert;
    if (!om_node_has(tensor, "expert")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&expert, tensor, "expert", err));
    OM_TRY(read_per_expert(&u->expert.trace, u, &expert, "trace", err));
    OM_TRY(read_per_expert(&u->expert.tokens, u, &expert, "tokens", err));
    OM_TRY(read_per_expert(&u->expert.router_weight, u, &expert, "router_weight", err));
    OM_TRY(read_per_expert(&u->expert.windows, u, &expert, "windows", err));
out:
    return status;
}

static om_status read_unit(om_unit *u, const om_node *tensor, om_error *err) {
    om_status status = OM_OK;
    char source[32];
    OM_TRY(om_node_text(u->name, sizeof u->name, tensor, "name", err));
    OM_TRY(om_node_text(u->role, sizeof u->role, tensor, "role", err));
    OM_TRY(om_node_int(&u->layer, tensor, "layer", -1, MAX_LAYERS, err));
    OM_TRY(read_shape(u, tensor, err));
    OM_TRY(om_node_text(source, sizeof source, tensor, "source", err));
    u->source = om_format_by_name(source);
    if (u->source == NULL) {
        OM_TRY(om_node_fail(err, tensor, "source: unknown type \"%s\"", source));
    }
    OM_TRY(om_node_f64(&u->fisher_trace, tensor, "fisher_trace", err));
    if (u->fisher_trace < 0.0) {
        OM_TRY(om_node_fail(err, tensor, "fisher_trace: %g is negative", u->fisher_trace));
    }
    OM_TRY(read_optional(&u->reach, tensor, "reach", err));
    OM_TRY(om_probe_read(&u->probe, tensor, "probe", err));
    OM_TRY(read_experts(u, tensor, err));
    OM_TRY(read_choices(u, tensor, err));
out:
    return status;
}

static om_status read_routing(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node routing, routers, item;
    size_t n = 0;
    if (!om_node_has(root, "routing")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&routing, root, "routing", err));
    OM_TRY(om_node_array(&routers, &n, &routing, "routers", err));
    if (n > MAX_LAYERS) {
        OM_TRY(om_node_fail(err, &routers, "%zu routers, expected at most %d", n, MAX_LAYERS));
    }
    p->routers.items = om_calloc(n + 1, sizeof *p->routers.items);
    if (p->routers.items == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *p->routers.items));
    }
    p->routers.n = (int) n;
    for (size_t i = 0; i < n; i++) {
        om_router *r = &p->routers.items[i];
        OM_TRY(om_node_at(&item, &routers, i, err));
        OM_TRY(read_positive(&r->density, &item, "density", err));
        OM_TRY(read_positive(&r->nats_per_swap, &item, "nats_per_swap", err));
        OM_TRY(read_positive(&r->weight, &item, "weight", err));
    }
out:
    return status;
}

static om_status read_units(om_profile *p, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node tensors, item;
    size_t n = 0;
    OM_TRY(om_node_array(&tensors, &n, root, "tensors", err));
    if (n == 0 || n > MAX_TENSORS) {
        OM_TRY(om_node_fail(err, &tensors, "%zu tensors, expected 1 to %d", n, MAX_TENSORS));
    }
    p->units = om_calloc(n, sizeof *p->units);
    if (p->units == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *p->units));
    }
    for (size_t i = 0; i < n; i++) {
        p->n_units++; /* first, so that a half-read unit is freed */
        OM_TRY(om_node_at(&item, &tensors, i, err));
        OM_TRY(read_unit(&p->units[i], &item, err));
    }
out:
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static om_status check_names(const om_profile *p, const char *file, om_error *err) {
    om_status status = OM_OK;
    size_t n = 0;
    const char **names = om_calloc((size_t) p->n_units + (size_t) p->n_fixed, sizeof *names);
    if (names == NULL) {
        return om_fail_nomem(err, (size_t) p->n_units * sizeof *names);
    }
    for (int i = 0; i < p->n_units; i++) {
        names[n++] = p->units[i].name;
    }
    for (int i = 0; i < p->n_fixed; i++) {
        names[n++] = p->fixed[i].name;
    }
    qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        if (names[i][0] == '\0') {
            OM_TRY(om_fail(err, OM_E_FORMAT, "%s: a tensor has an empty name", file));
        }
        if (i > 0 && strcmp(names[i - 1], names[i]) == 0) {
            OM_TRY(om_fail(err, OM_E_FORMAT, "%s: tensor %s is there twice", file, names[i]));
        }
    }
out:
    om_free(names);
    return status;
}

/* Past MAX_SUM it need not be exact. */
static int64_t sum_fixed(int64_t metadata_bytes, const om_fixed *fixed, int n, int64_t alignment) {
    int64_t bytes = metadata_bytes;
    for (int i = 0; i < n && bytes <= MAX_SUM; i++) {
        bytes += om_pad(fixed[i].bytes, alignment);
    }
    return bytes;
}

static om_status check_sums(const om_profile *p, const char *file, om_error *err) {
    int64_t params = 0, bytes = sum_fixed(p->metadata_bytes, p->fixed, p->n_fixed, p->alignment);
    /* of MLX, where a matrix has at most the 16 bits a weight that model.params bounds */
    const int64_t mlx = sum_fixed(p->mlx.metadata_bytes, p->mlx.fixed, p->mlx.n_fixed, 1);
    for (int i = 0; i < p->n_units && bytes <= MAX_SUM; i++) {
        const om_unit *u = &p->units[i];
        params += u->params; /* < 2^20 tensors of < 2^50 would overflow, so stop early */
        bytes += om_pad(u->choices[u->n_choices - 1].bytes, p->alignment);
        if (params > p->params) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: the tensors have more parameters than model.params = %lld", file,
                           (long long) p->params);
        }
    }
    if (bytes > MAX_SUM || mlx > MAX_SUM) {
        return om_fail(err, OM_E_FORMAT, "%s: the sizes add up to more than 2^60 bytes", file);
    }
    return OM_OK;
}

om_status om_profile_parse(om_profile **out, const char *text, size_t n, const char *name,
                           om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_profile *p = om_calloc(1, sizeof *p);
    if (p == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *p));
    }
    OM_TRY(om_json_parse(&doc, text, n, name, schema, err));
    om_node root = om_node_root(doc, name);
    OM_TRY(read_model(p, &root, err));
    OM_TRY(read_calibration(p, &root, err));
    OM_TRY(read_container(p, &root, err));
    OM_TRY(read_memory(p, &root, err));
    OM_TRY(om_node_text(p->method, sizeof p->method, &root, "method", err));
    OM_TRY(read_stats(p, &root, err));
    OM_TRY(read_routing(p, &root, err));
    OM_TRY(read_units(p, &root, err));
    OM_TRY(check_names(p, name, err));
    OM_TRY(check_sums(p, name, err));
    om_sha256_bytes(p->sha256, text, n);
    *out = p;
    p = NULL;
out:
    om_json_free(doc);
    om_profile_free(p);
    return status;
}

om_status om_profile_read(om_profile **out, const char *path, om_error *err) {
    char *text = NULL;
    size_t n = 0;
    om_status status = om_file_read(&text, &n, path, MAX_FILE, err);
    if (status == OM_OK) {
        status = om_profile_parse(out, text, n, path, err);
    }
    om_free(text);
    return status;
}

void om_profile_free(om_profile *p) {
    if (p == NULL) {
        return;
    }
    for (int i = 0; i < p->n_units; i++) {
        om_free(p->units[i].choices);
        om_free(p->units[i].expert.trace);
        om_free(p->units[i].expert.tokens);
        om_free(p->units[i].expert.router_weight);
        om_free(p->units[i].expert.windows);
    }
    om_routers_release(&p->routers);
    om_free(p->units);
    om_free(p->fixed);
    om_free(p->mlx.fixed);
    om_free(p->calib_sha256);
    om_memory_release(&p->memory);
    om_free(p);
}

void om_routers_release(om_routers *r) {
    om_free(r->items);
    *r = (om_routers){ 0 };
}

double om_routers_weight(const om_routers *r) {
    double sum = 0;
    for (int i = 0; i < r->n; i++) {
        sum += r->items[i].weight;
    }
    return sum;
}

double om_routers_nats(double weight, double routing) {
    return weight > 0 && routing > 0 ? sqrt(weight * routing) : 0;
}

const om_choice *om_unit_choice(const om_unit *unit, const om_format *format) {
    for (int i = 0; i < unit->n_choices; i++) {
        if (unit->choices[i].format == format) {
            return &unit->choices[i];
        }
    }
    return NULL;
}

const om_choice *om_unit_four_bit(const om_unit *unit) {
    const om_choice *best = NULL;
    for (int i = 0; i < unit->n_choices; i++) {
        const om_choice *c = &unit->choices[i];
        if (strcmp(c->format->name, "q4_K") == 0 || strcmp(c->format->name, "mlx_4bit_g64") == 0) {
            return c;
        }
        if (best == NULL ||
            fabs(om_format_bpw(c->format) - 4.5) < fabs(om_format_bpw(best->format) - 4.5)) {
            best = c;
        }
    }
    return best;
}

int64_t om_profile_fixed_bytes(const om_profile *p) {
    int64_t bytes = om_pad(p->metadata_bytes, p->alignment);
    for (int i = 0; i < p->n_fixed; i++) {
        bytes += om_pad(p->fixed[i].bytes, p->alignment);
    }
    return bytes;
}
