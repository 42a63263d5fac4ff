/* The parts of the comparison with llama-quantize that a shell cannot do (quantize_bytes.sh,
 * bench/bench_quantize.sh):
 *
 *   quantize_bytes prepare MODEL DIR PLAN     DIR/allocation.json and DIR/recipe.txt; PLAN is a
 * type, or mixed:N: all common types in turn from the N-th quantize_bytes quantize MODEL DIR
 * IMATRIX OUT THREADS quantize_bytes stats IMATRIX OUT          the imatrix as one of our
 * statistics files, with made-up Fisher marginals beside it quantize_bytes compare A B the same
 * tensors, types, shapes and bytes?
 *
 * compare reads both files with ggml's reader, not ours. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <gguf.h>

#include "alloc/allocation.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/gguf.h"
#include "profile/stats.h"

static void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fprintf(stderr, "%s: %s\n", err->where, err->text);
        exit(1);
    }
}

static const om_format *type_for(const om_tensor *t, const char *plan, int i) {
    const om_format *types[64];
    int n = 0, k = i;
    if (strncmp(plan, "mixed:", 6) != 0) {
        const om_format *f = om_format_by_name(plan);
        if (f == NULL) {
            fprintf(stderr, "%s: not a type\n", plan);
            exit(2);
        }
        return om_format_size(f, t->ne[0], 1) < 0 ? t->format : f;
    }
    for (int f = 0; om_format_at(f) != NULL; f++) {
        if (om_format_at(f)->use == OM_FORMAT_COMMON) {
            types[n++] = om_format_at(f);
        }
    }
    k += (int) strtol(plan + 6, NULL, 10);
    const bool embedding = strcmp(t->name, "token_embd.weight") == 0; /* has no importance */
    while (om_format_size(types[k % n], t->ne[0], 1) < 0 ||
           (embedding && types[k % n]->needs_imatrix)) {
        k++;
    }
    return types[k % n];
}

static int prepare(const char *model_path, const char *dir, const char *plan) {
    om_error err = { 0 };
    om_model *m = NULL;
    om_result r = { 0 };
    char path[1024], recipe[1024];
    must(om_model_open(&m, model_path, &err), &err);
    om_allocation a = { .predicted_nats = 0, .bytes = om_gguf_metadata_bytes(m) };
    a.tensors = om_calloc((size_t) om_model_n_tensors(m), sizeof *a.tensors);
    for (int i = 0; i < om_model_n_tensors(m); i++) {
        const om_tensor *t = om_model_tensor(m, i);
        const om_format *f = t->format;
        if (t->may_quantize) {
            f = type_for(t, plan, a.n_tensors);
            strcpy(a.tensors[a.n_tensors].name, t->name);
            a.tensors[a.n_tensors++].format = f;
        }
        a.bytes += om_pad(om_format_size(f, t->ne[0], om_tensor_n_rows(t)), om_gguf_alignment(m));
    }
    must(om_model_sha256(a.model_sha256, m, NULL, &err), &err);
    memset(a.profile_sha256, '0', 64);
    memset(a.calib_sha256, '0', 64);
    strcpy(a.profile_path, "none");
    strcpy(a.plan, "optimal");
    strcpy(a.budget_kind, "none");
    strcpy(a.solver.status, "optimal");
    a.bpw = 8.0 * (double) a.bytes / (double) om_model_params(m);
    snprintf(path, sizeof path, "%s/allocation.json", dir);
    snprintf(recipe, sizeof recipe, "%s/recipe.txt", dir);
    must(om_allocation_write(&a, path, &err), &err);
    const om_export_options o = { .allocation = path, .to = "llama.cpp", .out = recipe };
    must(om_export(&r, &o, NULL, &err), &err);
    om_result_release(&r);
    om_free(a.tensors);
    om_model_free(m);
    return 0;
}

static int quantize(const char *model, const char *dir, const char *imatrix, const char *out,
                    const char *threads) {
    om_error err = { 0 };
    om_result r = { 0 };
    char path[1024];
    snprintf(path, sizeof path, "%s/allocation.json", dir);
    const om_quantize_options o = {
        .model = model, .allocation = path, .out = out, .imatrix = imatrix
    };
    const om_env env = { .n_threads = (int) strtol(threads, NULL, 10) };
    must(om_quantize(&r, &o, &env, &err), &err);
    fputs(r.text, stdout);
    om_result_release(&r);
    return 0;
}

static float *made_up(const char *name, uint64_t salt, int64_t n) {
    om_rng rng = om_rng_at(salt, om_hash_name(name));
    float *v = om_calloc((size_t) n, sizeof *v);
    for (int64_t i = 0; v != NULL && i < n; i++) {
        v[i] = (float) om_rng_f64(&rng);
    }
    return v;
}

static int make_stats(const char *imatrix, const char *out, const char *model_path) {
    om_error err = { 0 };
    om_stats *s = NULL;
    om_model *m = NULL;
    must(om_stats_read(&s, imatrix, &err), &err);
    must(om_model_open(&m, model_path, &err), &err);
    must(om_model_sha256(s->model_sha256, m, NULL, &err), &err);
    s->tokens = 1024;
    for (int i = 0; i < s->n_tensors; i++) {
        om_tensor_stats *t = &s->tensors[i];
        t->n_out = om_model_find(m, t->name)->ne[1];
        t->rows = made_up(t->name, 1, t->n_out * t->experts);
        t->cols = made_up(t->name, 2, t->n_in * t->experts);
        for (int64_t k = 0; k < t->n_out * t->experts; k++) {
            t->total += (double) t->rows[k];
        }
    }
    must(om_stats_write(s, out, false, &err), &err);
    om_stats_free(s);
    om_model_free(m);
    return 0;
}

static struct gguf_context *open_gguf(struct ggml_context **ctx, const char *path) {
    struct gguf_context *g =
        gguf_init_from_file(path, (struct gguf_init_params){ .no_alloc = false, .ctx = ctx });
    if (g == NULL) {
        fprintf(stderr, "%s: ggml cannot read it\n", path);
        exit(1);
    }
    return g;
}

static int compare(const char *path_a, const char *path_b) {
    struct ggml_context *a = NULL, *b = NULL;
    struct gguf_context *ga = open_gguf(&a, path_a), *gb = open_gguf(&b, path_b);
    const int64_t n = gguf_get_n_tensors(ga);
    int64_t different = n != gguf_get_n_tensors(gb), types[GGML_TYPE_COUNT] = { 0 };
    for (int64_t i = 0; i < n; i++) {
        const char *name = gguf_get_tensor_name(ga, i);
        const struct ggml_tensor *x = ggml_get_tensor(a, name), *y = ggml_get_tensor(b, name);
        if (y == NULL || x->type != y->type || memcmp(x->ne, y->ne, sizeof x->ne) != 0 ||
            memcmp(x->data, y->data, ggml_nbytes(x)) != 0) {
            printf("%s differs: %s, %s\n", name, ggml_type_name(x->type),
                   y == NULL ? "missing" : ggml_type_name(y->type));
            different++;
        }
        types[x->type]++;
    }
    printf("%lld tensors, %lld different;", (long long) n, (long long) different);
    for (int t = 0; t < GGML_TYPE_COUNT; t++) {
        if (types[t] > 0) {
            printf(" %lld %s", (long long) types[t], ggml_type_name((enum ggml_type) t));
        }
    }
    printf("\n");
    gguf_free(ga);
    gguf_free(gb);
    ggml_free(a);
    ggml_free(b);
    return different != 0;
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "prepare") == 0) {
        return prepare(argv[2], argv[3], argv[4]);
    }
    if (argc == 7 && strcmp(argv[1], "quantize") == 0) {
        return quantize(argv[2], argv[3], argv[4], argv[5], argv[6]);
    }
    if (argc == 5 && strcmp(argv[1], "stats") == 0) {
        return make_stats(argv[2], argv[3], argv[4]);
    }
    if (argc == 4 && strcmp(argv[1], "compare") == 0) {
        return compare(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: see the top of tests/oracle/quantize_bytes.c\n");
    return 2;
}
