/* What mlx_load.py cannot do itself:
 *
 *   mlx_load stats SOURCE OUT                   made-up statistics for every matrix of a directory
 *   mlx_load allocate SOURCE STATS OUT PLAN     allocation.json; PLAN is a type, or mixed:N: all
 *                                               types of MLX in turn from the N-th, and none
 *   mlx_load quantize SOURCE ALLOCATION OUT ROUND
 *   mlx_load export ALLOCATION OUT
 *   mlx_load dump DIR OUT.safetensors           every tensor as numbers, F32, under mlx-lm's name
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/allocation.h"
#include "base/mem.h"
#include "base/rng.h"
#include "hf/directory.h"
#include "mlx/layout.h"
#include "profile/stats.h"

static void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fprintf(stderr, "%s: %s\n", err->where, err->text);
        exit(1);
    }
}

static int64_t rows_of(const om_hf_tensor *t) {
    return t->n_dims < 2 ? 1 : t->ne[1] * t->ne[2];
}

static float *made_up(const char *name, uint64_t salt, int64_t n) {
    om_rng rng = om_rng_at(salt, om_hash_name(name));
    float *v = om_calloc((size_t) n, sizeof *v);
    for (int64_t i = 0; v != NULL && i < n; i++) {
        v[i] = (float) (om_rng_f64(&rng) * om_rng_f64(&rng));
    }
    return v;
}

static int make_stats(const char *source, const char *out) {
    om_error err = { 0 };
    om_hf *hf = NULL;
    must(om_hf_open(&hf, source, &err), &err);
    om_stats *s = om_calloc(1, sizeof *s);
    s->tensors = om_calloc((size_t) om_hf_n_tensors(hf), sizeof *s->tensors);
    s->tokens = 1024;
    memset(s->model_sha256, '0', 64);
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        if (!t->may_quantize) {
            continue;
        }
        om_tensor_stats *e = &s->tensors[s->n_tensors++];
        strcpy(e->name, t->name);
        e->n_in = t->ne[0];
        e->n_out = t->ne[1];
        e->experts = (int) t->ne[2];
        e->in_sum2 = made_up(t->name, 1, e->n_in * e->experts);
        e->counts = om_calloc((size_t) e->experts, sizeof *e->counts);
        for (int k = 0; k < e->experts; k++) {
            e->counts[k] = 100;
        }
        e->rows = made_up(t->name, 2, e->n_out * e->experts);
        e->cols = made_up(t->name, 3, e->n_in * e->experts);
        for (int64_t k = 0; k < e->n_out * e->experts; k++) {
            e->total += (double) e->rows[k];
        }
    }
    must(om_stats_write(s, out, false, &err), &err);
    om_stats_free(s);
    om_hf_free(hf);
    return 0;
}

/* Every seventh tensor stays as it is. */
static const om_format *type_for(const om_hf_tensor *t, const char *plan, int i) {
    if (strncmp(plan, "mixed:", 6) != 0) {
        return om_format_by_name(plan);
    }
    int n = 0, k = i + (int) strtol(plan + 6, NULL, 10);
    while (om_format_mlx_at(n) != NULL) {
        n++;
    }
    if (k % 7 == 6) {
        return om_format_by_name("bf16");
    }
    while (om_format_size(om_format_mlx_at(k % n), t->ne[0], 1) < 0) {
        k++;
    }
    return om_format_mlx_at(k % n);
}

static int allocate(const char *source, const char *stats, const char *out, const char *plan) {
    om_error err = { 0 };
    om_hf *hf = NULL;
    om_stats *s = NULL;
    must(om_hf_open(&hf, source, &err), &err);
    const int n = om_hf_n_tensors(hf);
    om_allocation a = { .container = OM_CONTAINER_MLX };
    om_mlx_item *items = om_calloc((size_t) n, sizeof *items);
    a.tensors = om_calloc((size_t) n, sizeof *a.tensors);
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        const om_format *f = om_format_by_name("bf16");
        if (t->may_quantize) {
            f = type_for(t, plan, a.n_tensors);
            strcpy(a.tensors[a.n_tensors].name, t->name);
            a.tensors[a.n_tensors++].format = f;
        }
        items[i] = (om_mlx_item){ .path = t->path, .n_dims = t->n_dims, .format = f };
        memcpy(items[i].ne, t->ne, sizeof t->ne);
        a.bytes += om_format_size(f, t->ne[0], rows_of(t));
    }
    a.bytes += om_mlx_metadata_bytes(items, n);
    must(om_stats_read(&s, stats, &err), &err);
    snprintf(a.stats_path, sizeof a.stats_path, "%s", stats);
    memcpy(a.stats_sha256, s->sha256, sizeof a.stats_sha256);
    memset(a.model_sha256, '0', 64);
    memset(a.profile_sha256, '0', 64);
    memset(a.calib_sha256, '0', 64);
    strcpy(a.profile_path, "none");
    strcpy(a.plan, "optimal");
    strcpy(a.budget_kind, "none");
    strcpy(a.solver.status, "optimal");
    a.bpw = 8.0 * (double) a.bytes / (double) om_hf_params(hf);
    must(om_allocation_write(&a, out, &err), &err);
    om_stats_free(s);
    om_free(items);
    om_free(a.tensors);
    om_hf_free(hf);
    return 0;
}

static int quantize(const char *source, const char *allocation, const char *out,
                    const char *round) {
    om_error err = { 0 };
    om_result r = { 0 };
    const om_quantize_options o = {
        .model = source, .allocation = allocation, .out = out, .to = "mlx", .round = round
    };
    must(om_quantize(&r, &o, NULL, &err), &err);
    om_result_release(&r);
    return 0;
}

static int export(const char *allocation, const char *out) {
    om_error err = { 0 };
    om_result r = { 0 };
    const om_export_options o = { .allocation = allocation, .to = "mlx", .out = out };
    must(om_export(&r, &o, NULL, &err), &err);
    om_result_release(&r);
    return 0;
}

static int dump(const char *dir, const char *out) {
    om_error err = { 0 };
    om_hf *hf = NULL;
    unsigned char *header = NULL;
    size_t size = 0;
    must(om_hf_open(&hf, dir, &err), &err);
    const int n = om_hf_n_tensors(hf);
    om_st_tensor *list = om_calloc((size_t) n, sizeof *list);
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        list[i] = (om_st_tensor){ .name = t->path, .dtype = OM_ST_F32, .n_dims = t->n_dims };
        for (int k = 0; k < t->n_dims; k++) {
            list[i].shape[k] = t->ne[t->n_dims - 1 - k];
        }
    }
    must(om_st_header(&header, &size, list, n, NULL, 0, 0, &err), &err);
    FILE *file = fopen(out, "wb");
    bool ok = file != NULL && fwrite(header, 1, size, file) == size;
    for (int i = 0; i < n && ok; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        float *row = om_calloc((size_t) t->ne[0], sizeof *row);
        for (int64_t k = 0; k < rows_of(t) && ok; k++) {
            must(om_hf_rows_f32(row, hf, t, OM_HF_MLX, k, 1, &err), &err);
            ok = fwrite(row, sizeof *row, (size_t) t->ne[0], file) == (size_t) t->ne[0];
        }
        om_free(row);
    }
    if (!ok || fclose(file) != 0) {
        fprintf(stderr, "cannot write %s\n", out);
        return 1;
    }
    om_free(header);
    om_free(list);
    om_hf_free(hf);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "stats") == 0) {
        return make_stats(argv[2], argv[3]);
    }
    if (argc == 6 && strcmp(argv[1], "allocate") == 0) {
        return allocate(argv[2], argv[3], argv[4], argv[5]);
    }
    if (argc == 6 && strcmp(argv[1], "quantize") == 0) {
        return quantize(argv[2], argv[3], argv[4], argv[5]);
    }
    if (argc == 4 && strcmp(argv[1], "export") == 0) {
        return export(argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "dump") == 0) {
        return dump(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: see the top of tests/oracle/mlx_load.c\n");
    return 2;
}
