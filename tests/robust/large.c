/* Model -> profile.json and statistics as a profile of it would look, with invented numbers: what
 * the stages after the profile are given for models too large to run here.
 *
 *   robust_large MODEL.gguf PROFILE.json STATS.gguf [hash]
 *
 * The statistics are a header and a hole in the file. The model's own digest is invented too,
 * unless it is asked for: without it the model can be planned for, and not be quantized. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ggml.h>
#include <gguf.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/candidates.h"
#include "model/roles.h"
#include "profile/profile.h"

enum { SEED = 5, WINDOWS = 64, WINDOW_TOKENS = 512 };

static void die(const char *what) {
    fprintf(stderr, "robust_large: %s\n", what);
    exit(2);
}

/* An om_calloc that cannot fail. */
static void *room(size_t n, size_t size) {
    void *p = om_calloc(n, size);
    if (p == NULL) {
        die("out of memory");
    }
    return p;
}

/* Costs fall fourfold a bit; the tensors differ a hundredfold. */
static om_status add_choices(om_unit *u, const om_tensor *t, om_rng *rng, om_error *err) {
    const om_format *formats[OM_CANDIDATES_MAX];
    const double sensitivity = exp(4.6 * om_rng_f64(rng)) * 1e-2;
    om_status status =
        om_candidates(formats, &u->n_choices, OM_CANDIDATES_MAX, t, NULL, OM_FOR_GGUF, err);
    if (status != OM_OK) {
        return status;
    }
    u->choices = room((size_t) u->n_choices, sizeof *u->choices);
    for (int i = 0; i < u->n_choices; i++) {
        u->choices[i] = (om_choice){
            .format = formats[i],
            .bytes = om_format_size(formats[i], u->n_in, u->n_out * u->experts),
            .nats =
                formats[i] == t->format ? 0 : sensitivity * exp(-1.4 * om_format_bpw(formats[i])),
        };
    }
    return OM_OK;
}

static void add_experts(om_unit *u, om_rng *rng) {
    double **const arrays[] = { &u->expert.trace, &u->expert.tokens, &u->expert.router_weight,
                                &u->expert.windows };
    for (int k = 0; k < 4; k++) {
        *arrays[k] = room((size_t) u->experts, sizeof **arrays[k]);
        for (int e = 0; e < u->experts; e++) {
            (*arrays[k])[e] = floor(WINDOWS * om_rng_f64(rng)) + (k % 2 ? 0 : om_rng_f64(rng));
        }
    }
}

static om_status add_unit(om_profile *p, const om_tensor *t, om_error *err) {
    om_unit *u = &p->units[p->n_units++];
    om_rng rng = om_rng_at(SEED, om_hash_name(t->name));
    snprintf(u->name, sizeof u->name, "%s", t->name);
    memcpy(u->role, t->role, sizeof u->role);
    u->layer = t->layer;
    u->n_in = t->ne[0];
    u->n_out = t->ne[1];
    u->experts = om_tensor_is_experts(t->name) ? (int) t->ne[2] : 1;
    u->params = om_tensor_params(t);
    u->source = t->format;
    u->fisher_trace = om_rng_f64(&rng);
    if (u->experts > 1) {
        add_experts(u, &rng);
    }
    return add_choices(u, t, &rng, err);
}

static om_status describe(om_profile *p, const om_model *model, const char *sha256,
                          const char *stats, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(model);
    snprintf(p->model_path, sizeof p->model_path, "%s", om_model_path(model));
    snprintf(p->arch, sizeof p->arch, "%s", om_model_arch(model));
    snprintf(p->model_sha256, sizeof p->model_sha256, "%s", sha256);
    p->params = om_model_params(model);
    p->file_bytes = om_model_file_bytes(model);
    p->metadata_bytes = om_gguf_metadata_bytes(model);
    p->alignment = om_gguf_alignment(model);
    p->hparams.n_layer = (int) om_model_u64(model, "%s.block_count", 0);
    p->hparams.n_expert = (int) om_model_u64(model, "%s.expert_count", 0);
    p->n_windows = WINDOWS;
    p->window_tokens = WINDOW_TOKENS;
    p->tokens = WINDOWS * WINDOW_TOKENS;
    p->seed = SEED;
    snprintf(p->method, sizeof p->method, "fisher");
    snprintf(p->stats_path, sizeof p->stats_path, "%s", stats);
    OM_TRY(om_sha256_file(p->stats_sha256, stats, NULL, err));
    OM_TRY(om_memory_of(&p->memory, model, NULL, err));
    p->units = room((size_t) n, sizeof *p->units);
    p->fixed = room((size_t) n, sizeof *p->fixed);
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize) {
            OM_TRY(add_unit(p, t, err));
            continue;
        }
        om_fixed *f = &p->fixed[p->n_fixed++];
        snprintf(f->name, sizeof f->name, "%s", t->name);
        f->bytes = t->bytes;
    }
out:
    return status;
}

/* ---- statistics ---- */

static void add_part(struct gguf_context *g, struct ggml_context *ctx, const om_tensor *of,
                     const char *suffix, int64_t n) {
    struct ggml_tensor *t = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n, of->ne[2]);
    ggml_format_name(t, "%s%s", of->name, suffix);
    gguf_add_tensor(g, t);
}

static void write_stats(const char *path, const om_model *model, const char *sha256) {
    const int n = om_model_n_tensors(model);
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){
        .mem_size = (size_t) (4 * n + 1) * ggml_tensor_overhead(), .no_alloc = true });
    struct gguf_context *g = gguf_init_empty();
    const char *dataset = "text";
    gguf_set_val_str(g, "general.type", "imatrix");
    gguf_set_arr_str(g, "imatrix.datasets", &dataset, 1);
    gguf_set_val_u32(g, "imatrix.chunk_count", WINDOWS);
    gguf_set_val_u32(g, "imatrix.chunk_size", WINDOW_TOKENS);
    gguf_set_val_str(g, "optimum.stats.model_sha256", sha256);
    gguf_set_val_u64(g, "optimum.stats.tokens", WINDOWS * WINDOW_TOKENS);
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (t->may_quantize) {
            add_part(g, ctx, t, ".in_sum2", t->ne[0]);
            add_part(g, ctx, t, ".counts", 1);
            add_part(g, ctx, t, ".fisher_rows", t->ne[1]);
            add_part(g, ctx, t, ".fisher_cols", t->ne[0]);
        }
    }
    const int64_t last = gguf_get_n_tensors(g) - 1;
    const size_t bytes = gguf_get_meta_size(g) + gguf_get_tensor_offset(g, last) +
                         GGML_PAD(gguf_get_tensor_size(g, last), (size_t) GGUF_DEFAULT_ALIGNMENT);
    if (!gguf_write_to_file(g, path, true) || truncate(path, (off_t) bytes) != 0) {
        die("cannot write the statistics");
    }
    gguf_free(g);
    ggml_free(ctx);
}

int main(int argc, char **argv) {
    om_error err = { 0 };
    om_model *model = NULL;
    om_profile *p = room(1, sizeof *p);
    char sha256[65];
    if (argc != 4 && argc != 5) {
        die("usage: robust_large MODEL.gguf PROFILE.json STATS.gguf [hash]");
    }
    om_sha256_bytes(sha256, "large", 5);
    om_status status = om_model_open(&model, argv[1], &err);
    if (status == OM_OK && argc == 5) {
        status = om_model_sha256(sha256, model, NULL, &err);
    }
    if (status == OM_OK) {
        write_stats(argv[3], model, sha256);
        status = describe(p, model, sha256, argv[3], &err);
    }
    if (status == OM_OK) {
        status = om_profile_write(p, argv[2], &err);
    }
    if (status != OM_OK) {
        fprintf(stderr, "robust_large: %s\n", err.text);
    }
    om_profile_free(p);
    om_model_free(model);
    return status == OM_OK ? 0 : 1;
}
