/* A tiny directory with made-up statistics and an allocation of all types, for the tests of the MLX
 * writer. */
#ifndef OM_TESTS_MLX_FIXTURE_H
#define OM_TESTS_MLX_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "artifact/inputs.h"
#include "artifact/mlx_write.h"
#include "base/atomic_dir.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "stats_fixture.h"
#include "tiny_hf.h"
#include "tmpdir.h"

enum { TOKENS = 1000 };

typedef struct fixture {
    char *dir;
    char model[256], stats[256], allocation[256], out[256];
    om_hf *source;
    om_allocation *a;
} fixture;

/* Statistics for every matrix. */
static inline void write_stats(const fixture *f) {
    om_error err = { 0 };
    const int n = om_hf_n_tensors(f->source);
    om_stats *s = om_calloc(1, sizeof *s);
    s->tensors = om_calloc((size_t) n, sizeof *s->tensors);
    s->tokens = TOKENS;
    memset(s->model_sha256, '3', 64);
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(f->source, i);
        if (!t->may_quantize) {
            continue;
        }
        s->tensors[s->n_tensors++] = random_stats(t->name, t->ne[0], t->ne[1], (int) t->ne[2]);
    }
    must(om_stats_write(s, f->stats, false, &err), &err);
    om_stats_free(s);
}

/* As profile counts: all headers, and each tensor in its type. */
static inline int64_t size_of_plan(const fixture *f) {
    const int n = om_hf_n_tensors(f->source);
    om_mlx_item *items = om_calloc((size_t) n, sizeof *items);
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(f->source, i);
        const om_format *to = om_allocation_find(f->a, t->name);
        to = to == NULL || to->mlx == OM_MLX_NONE ? om_format_by_name("bf16") : to;
        bytes += om_format_size(to, t->ne[0], om_hf_tensor_n_rows(t));
        items[i] = (om_mlx_item){ .path = t->path, .n_dims = t->n_dims, .format = to };
        memcpy(items[i].ne, t->ne, sizeof t->ne);
    }
    bytes += om_mlx_metadata_bytes(items, n);
    om_free(items);
    return bytes;
}

static inline void write_allocation(fixture *f) {
    om_error err = { 0 };
    f->a->bytes = size_of_plan(f);
    f->a->bpw = 8.0 * (double) f->a->bytes / (double) om_hf_params(f->source);
    must(om_allocation_write(f->a, f->allocation, &err), &err);
}

static inline om_probe probe_of(const om_hf *hf, const om_hf_tensor *t) {
    om_error err = { 0 };
    om_probe probe = { 0 };
    int64_t rows[OM_PROBE_ROWS];
    float *row = om_calloc((size_t) t->ne[0], sizeof *row);
    om_probe_rows(rows, t->name, om_hf_tensor_n_rows(t));
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        must(om_hf_rows_f32(row, hf, t, OM_HF_GGUF, rows[k], 1, &err), &err);
        om_probe_look(&probe, k, t->name, row, t->ne[0]);
    }
    om_free(row);
    return probe;
}

/* Every type of MLX in turn; one tensor stays as it is. */
static inline void make_allocation(fixture *f) {
    om_error err = { 0 };
    om_stats *s = NULL;
    om_allocation *a = f->a = om_calloc(1, sizeof *f->a);
    a->tensors = om_calloc((size_t) om_hf_n_tensors(f->source), sizeof *a->tensors);
    int k = 0;
    for (int i = 0; i < om_hf_n_tensors(f->source); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(f->source, i);
        if (!t->may_quantize) {
            continue;
        }
        om_assignment *to = &a->tensors[a->n_tensors++];
        strcpy(to->name, t->name);
        to->probe = probe_of(f->source, t);
        do {
            to->format = om_format_mlx_at(k++ % 21);
        } while (om_format_size(to->format, t->ne[0], 1) < 0);
    }
    a->tensors[2].format = om_format_by_name("bf16");
    a->container = OM_CONTAINER_MLX;
    must(om_stats_read(&s, f->stats, &err), &err);
    strcpy(a->stats_path, f->stats);
    strcpy(a->stats_sha256, s->sha256);
    om_stats_free(s);
    strcpy(a->profile_path, "profile.json");
    memset(a->model_sha256, '3', 64);
    memset(a->profile_sha256, '1', 64);
    memset(a->calib_sha256, '2', 64);
    strcpy(a->plan, "optimal");
    strcpy(a->budget_kind, "none");
    strcpy(a->solver.status, "optimal");
    a->calib_tokens = TOKENS;
    a->seed = 7;
    a->predicted_nats = 0.125;
}

static inline fixture begin(const om_tiny_hf_options *o) {
    fixture f = { .dir = om_tmpdir_new() };
    om_error err = { 0 };
    snprintf(f.model, sizeof f.model, "%s/model", f.dir);
    snprintf(f.stats, sizeof f.stats, "%s/stats.gguf", f.dir);
    snprintf(f.allocation, sizeof f.allocation, "%s/allocation.json", f.dir);
    snprintf(f.out, sizeof f.out, "%s/out", f.dir);
    om_tiny_hf_write(f.model, o);
    must(om_hf_open(&f.source, f.model, &err), &err);
    write_stats(&f);
    make_allocation(&f);
    write_allocation(&f);
    return f;
}

static inline void end(fixture *f) {
    om_hf_free(f->source);
    om_allocation_free(f->a);
    om_tmpdir_remove(f->dir);
}

static inline om_status quantize(om_result *r, const fixture *f, const char *round, int threads,
                                 om_error *err) {
    const om_env env = { .n_threads = threads };
    const om_quantize_options o = {
        .model = f->model, .allocation = f->allocation, .out = f->out, .round = round
    };
    *err = (om_error){ 0 };
    return om_quantize(r, &o, &env, err);
}

static inline void expect_no_output(const fixture *f) {
    assert_false(om_file_exists(f->out));
    assert_int_equal(om_tmpdir_count(f->dir, "tmp"), 0);
}

static inline void expect_refused(const fixture *f, om_status want, const char *text) {
    om_result r = { 0 };
    om_error err;
    const om_status status = quantize(&r, f, NULL, 1, &err);
    if (status != want || strstr(err.text, text) == NULL) {
        fail_msg("status %d, %s; expected %d, …%s…", status, err.text, want, text);
    }
    assert_string_equal(err.where, "quantize");
    assert_null(r.json);
    expect_no_output(f);
}

static const om_tiny_hf_options llama = { .untied = true, .n_layer = 2 };
static const om_tiny_hf_options moe = { .model_type = "qwen3_moe", .n_ff = 64 };

#endif
