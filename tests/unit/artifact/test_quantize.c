/* The verb quantize on tiny models: its tensors against llama_model_quantize byte for byte, its
 * nats against a plain double loop over ggml's dequantized weights, and everything that must be
 * refused without leaving a file. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include "alloc/allocation.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/gguf.h"
#include "profile/stats.h"
#include "stats_fixture.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { TOKENS = 1000 };

typedef struct fixture {
    char *dir;
    char model[256], stats[256], allocation[256], out[256];
    om_model *source;
    om_allocation *a;
} fixture;

/* Statistics for every matrix. */
static void write_stats(const fixture *f) {
    om_error err = { 0 };
    const int n = om_model_n_tensors(f->source);
    om_stats *s = om_calloc(1, sizeof *s);
    s->tensors = om_calloc((size_t) n, sizeof *s->tensors);
    s->tokens = TOKENS;
    s->n_windows = 2;
    s->window_tokens = 501;
    must(om_model_sha256(s->model_sha256, f->source, NULL, &err), &err);
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(f->source, i);
        if (!t->may_quantize) {
            continue;
        }
        s->tensors[s->n_tensors++] = random_stats(t->name, t->ne[0], t->ne[1], (int) t->ne[2]);
    }
    must(om_stats_write(s, f->stats, false, &err), &err);
    om_stats_free(s);
}

static int64_t size_of_plan(const fixture *f) {
    const int64_t alignment = om_gguf_alignment(f->source);
    int64_t bytes = om_gguf_metadata_bytes(f->source);
    for (int i = 0; i < om_model_n_tensors(f->source); i++) {
        const om_tensor *t = om_model_tensor(f->source, i);
        const om_format *to = om_allocation_find(f->a, t->name);
        to = to == NULL ? t->format : to;
        bytes += om_pad(om_format_size(to, t->ne[0], om_tensor_n_rows(t)), alignment);
    }
    return bytes;
}

static void write_allocation(fixture *f) {
    om_error err = { 0 };
    f->a->bytes = size_of_plan(f);
    f->a->bpw = 8.0 * (double) f->a->bytes / (double) om_model_params(f->source);
    must(om_allocation_write(f->a, f->allocation, &err), &err);
}

/* Building iq2's tables takes seconds: tests/oracle/quantize_bytes.py has them. */
static bool is_quick(const om_format *f) {
    return f->use == OM_FORMAT_COMMON && strncmp(f->name, "iq2", 3) != 0;
}

/* Every (quick) common type in turn, starting at `shift`. */
static void assign_types(fixture *f, int shift) {
    const om_format *types[64];
    int n_types = 0;
    for (int i = 0; om_format_at(i) != NULL; i++) {
        if (is_quick(om_format_at(i))) {
            types[n_types++] = om_format_at(i);
        }
    }
    for (int i = 0; i < f->a->n_tensors; i++) {
        om_assignment *a = &f->a->tensors[i];
        const om_tensor *t = om_model_find(f->source, a->name);
        int k = i + shift;
        do {
            a->format = types[k++ % n_types];
        } while (om_format_size(a->format, t->ne[0], 1) < 0);
    }
}

static void make_allocation(fixture *f) {
    om_error err = { 0 };
    om_stats *s = NULL;
    f->a = om_calloc(1, sizeof *f->a);
    f->a->tensors = om_calloc((size_t) om_model_n_tensors(f->source), sizeof *f->a->tensors);
    for (int i = 0; i < om_model_n_tensors(f->source); i++) {
        const om_tensor *t = om_model_tensor(f->source, i);
        if (t->may_quantize) {
            om_assignment *a = &f->a->tensors[f->a->n_tensors++];
            strcpy(a->name, t->name);
            a->format = om_format_by_name("q8_0");
        }
    }
    must(om_model_sha256(f->a->model_sha256, f->source, NULL, &err), &err);
    must(om_stats_read(&s, f->stats, &err), &err);
    strcpy(f->a->stats_path, f->stats);
    strcpy(f->a->stats_sha256, s->sha256);
    om_stats_free(s);
    strcpy(f->a->profile_path, "profile.json");
    memset(f->a->profile_sha256, '1', 64);
    memset(f->a->calib_sha256, '2', 64);
    strcpy(f->a->plan, "optimal");
    strcpy(f->a->budget_kind, "none");
    strcpy(f->a->solver.status, "optimal");
    f->a->calib_tokens = TOKENS;
    f->a->seed = 7;
    f->a->predicted_nats = 0.125;
}

static fixture begin(const om_tiny_options *options) {
    fixture f = { .dir = om_tmpdir_new() };
    om_error err = { 0 };
    snprintf(f.model, sizeof f.model, "%s/model.gguf", f.dir);
    snprintf(f.stats, sizeof f.stats, "%s/stats.gguf", f.dir);
    snprintf(f.allocation, sizeof f.allocation, "%s/allocation.json", f.dir);
    snprintf(f.out, sizeof f.out, "%s/out.gguf", f.dir);
    om_tiny_model_write_with(f.model, options);
    must(om_model_open(&f.source, f.model, &err), &err);
    write_stats(&f);
    make_allocation(&f);
    write_allocation(&f);
    return f;
}

static fixture begin_small(void) {
    return begin(&(om_tiny_options){
        .type = GGML_TYPE_BF16, .n_layer = 1, .n_embd = 64, .n_ff = 96, .n_vocab = 288 });
}

static void end(fixture *f) {
    om_model_free(f->source);
    om_allocation_free(f->a);
    om_tmpdir_remove(f->dir);
}

static om_status quantize(om_result *r, const fixture *f, int n_threads, om_error *err) {
    const om_quantize_options o = { .model = f->model, .allocation = f->allocation, .out = f->out };
    const om_env env = { .n_threads = n_threads };
    *err = (om_error){ 0 };
    return om_quantize(r, &o, &env, err);
}

static void expect_no_output(const fixture *f) {
    assert_int_equal(om_tmpdir_count(f->dir, "out.gguf"), 0);
}

static void expect_refused(const fixture *f, om_status want, const char *part_of_text) {
    om_result r = { 0 };
    om_error err;
    assert_int_equal(quantize(&r, f, 2, &err), want);
    if (strstr(err.text, part_of_text) == NULL) {
        fail_msg("expected \"%s\" in: %s", part_of_text, err.text);
    }
    assert_null(r.json);
    expect_no_output(f);
}

/* ---- bytes ---- */

typedef struct reference {
    struct llama_model_imatrix_data imatrix[64];
    struct llama_model_tensor_override types[64];
    char patterns[64][160];
    int n;
} reference;

static void add_reference(reference *ref, const om_assignment *a, const om_tensor_stats *s) {
    char *p = ref->patterns[ref->n];
    *p++ = '^';
    for (const char *c = a->name; *c != '\0'; c++) {
        if (*c == '.') {
            *p++ = '\\';
        }
        *p++ = *c;
    }
    strcpy(p, "$");
    ref->types[ref->n].pattern = ref->patterns[ref->n];
    ref->types[ref->n].type = (enum ggml_type) a->format->ggml_type;
    ref->n++;
    if (s == NULL || s->in_sum2 == NULL) {
        return;
    }
    /* llama-quantize's arithmetic, written down here a second time */
    float *v = om_calloc((size_t) (s->n_in * s->experts), sizeof *v);
    for (int64_t i = 0; i < s->n_in * s->experts; i++) {
        const float count = s->counts[i / s->n_in];
        v[i] = count > 0.0F ? s->in_sum2[i] / count : 1.0F;
    }
    int k = 0;
    while (ref->imatrix[k].name != NULL) {
        k++;
    }
    ref->imatrix[k] =
        (struct llama_model_imatrix_data){ a->name, v, (size_t) (s->n_in * s->experts) };
}

static void quantize_with_llama(const fixture *f, const char *out) {
    om_error err = { 0 };
    om_stats *s = NULL;
    must(om_stats_read(&s, f->stats, &err), &err);
    reference *ref = om_calloc(1, sizeof *ref);
    for (int i = 0; i < f->a->n_tensors; i++) {
        add_reference(ref, &f->a->tensors[i], om_stats_find(s, f->a->tensors[i].name));
    }
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.nthread = 2;
    p.ftype = LLAMA_FTYPE_MOSTLY_Q4_K_M;
    p.imatrix = ref->imatrix;
    p.tt_overrides = ref->types;
    assert_int_equal(llama_model_quantize(f->model, out, &p), 0);
    for (int k = 0; ref->imatrix[k].name != NULL; k++) {
        om_free((void *) (uintptr_t) ref->imatrix[k].data);
    }
    om_free(ref);
    om_stats_free(s);
}

/* Both files through ggml's reader: the same tensors, types and bytes (the order may differ). */
static void assert_same_tensors(const char *ours, const char *theirs) {
    struct ggml_context *a = NULL, *b = NULL;
    struct gguf_context *ga =
        gguf_init_from_file(ours, (struct gguf_init_params){ .no_alloc = false, .ctx = &a });
    struct gguf_context *gb =
        gguf_init_from_file(theirs, (struct gguf_init_params){ .no_alloc = false, .ctx = &b });
    assert_non_null(ga);
    assert_non_null(gb);
    assert_int_equal(gguf_get_n_tensors(ga), gguf_get_n_tensors(gb));
    for (int64_t i = 0; i < gguf_get_n_tensors(ga); i++) {
        const char *name = gguf_get_tensor_name(ga, i);
        const struct ggml_tensor *x = ggml_get_tensor(a, name), *y = ggml_get_tensor(b, name);
        assert_non_null(y);
        if (x->type != y->type || memcmp(x->data, y->data, ggml_nbytes(x)) != 0) {
            fail_msg("%s differs: %s, llama.cpp %s", name, ggml_type_name(x->type),
                     ggml_type_name(y->type));
        }
    }
    gguf_free(ga);
    gguf_free(gb);
    ggml_free(a);
    ggml_free(b);
}

static void check_bytes(const om_tiny_options *options, int shift) {
    fixture f = begin(options);
    om_result r = { 0 };
    om_error err;
    char theirs[256];
    snprintf(theirs, sizeof theirs, "%s/theirs.gguf", f.dir);
    assign_types(&f, shift);
    write_allocation(&f);
    must(quantize(&r, &f, 2, &err), &err);
    quantize_with_llama(&f, theirs);
    assert_same_tensors(f.out, theirs);
    assert_int_equal(om_file_size(f.out), f.a->bytes);
    om_result_release(&r);
    end(&f);
}

static void bytes_equal_llama_dense(void **state) {
    (void) state;
    check_bytes(
        &(om_tiny_options){ .type = GGML_TYPE_BF16, .n_layer = 1, .n_ff = 256, .n_vocab = 288 }, 0);
}

static void bytes_equal_llama_dense_shifted(void **state) {
    (void) state;
    check_bytes(
        &(om_tiny_options){ .type = GGML_TYPE_F16, .n_layer = 1, .n_ff = 256, .n_vocab = 288 }, 8);
}

static void bytes_equal_llama_experts(void **state) {
    (void) state;
    check_bytes(&(om_tiny_options){ .arch = "qwen3moe",
                                    .type = GGML_TYPE_F32,
                                    .n_layer = 1,
                                    .n_vocab = 288,
                                    .n_ff = 256,
                                    .n_expert = 3 },
                4);
}

/* Slabs and threads change nothing; a row of 17 blocks of 32 pads the tensor. */
static void threads_change_nothing(void **state) {
    (void) state;
    fixture f = begin_small();
    om_result r1 = { 0 }, r4 = { 0 };
    om_error err;
    char sha1[65], sha4[65];
    f.a->tensors[1].format = om_format_by_name("q4_0");
    f.a->tensors[2].format = om_format_by_name("q5_1");
    f.a->tensors[3].format = f.source != NULL ? om_format_by_name("bf16") : NULL; /* copied */
    write_allocation(&f);
    must(quantize(&r1, &f, 1, &err), &err);
    must(om_sha256_file(sha1, f.out, NULL, &err), &err);
    must(quantize(&r4, &f, 4, &err), &err);
    must(om_sha256_file(sha4, f.out, NULL, &err), &err);
    assert_string_equal(sha1, sha4); /* the record's nats included */
    om_result_release(&r1);
    om_result_release(&r4);
    end(&f);
}

static void stock_llama_loads_it(void **state) {
    (void) state;
    fixture f = begin_small();
    om_result r = { 0 };
    om_error err;
    must(quantize(&r, &f, 2, &err), &err);
    llama_backend_init();
    struct llama_model *m = llama_model_load_from_file(f.out, llama_model_default_params());
    assert_non_null(m);
    llama_model_free(m);
    om_result_release(&r);
    end(&f);
}

/* ---- nats ---- */

/* Eq. (1) by the definition: F_ij = r_i c_j / sum r, every factor in double. */
static double naive_nats(const om_tensor *source, const om_tensor *written,
                         const om_tensor_stats *s) {
    om_error err = { 0 };
    const int64_t n_in = source->ne[0], n_out = source->ne[1];
    float *w = om_calloc((size_t) n_in, sizeof *w), *q = om_calloc((size_t) n_in, sizeof *q);
    double nats = 0;
    for (int64_t e = 0; e < s->experts; e++) {
        double total = 0;
        for (int64_t i = 0; i < n_out; i++) {
            total += (double) s->rows[e * n_out + i];
        }
        for (int64_t i = 0; i < n_out; i++) {
            must(om_tensor_rows_f32(w, source, e * n_out + i, 1, &err), &err);
            must(om_tensor_rows_f32(q, written, e * n_out + i, 1, &err), &err);
            for (int64_t j = 0; j < n_in; j++) {
                const double d = (double) w[j] - (double) q[j];
                const double fisher =
                    (double) s->rows[e * n_out + i] * (double) s->cols[e * n_in + j] / total;
                nats += fisher * d * d / (2.0 * TOKENS);
            }
        }
    }
    om_free(w);
    om_free(q);
    return nats;
}

static void nats_are_those_of_the_bytes(void **state) {
    (void) state;
    fixture f = begin(&(om_tiny_options){ .arch = "qwen3moe",
                                          .type = GGML_TYPE_BF16,
                                          .n_layer = 1,
                                          .n_embd = 96,
                                          .n_ff = 64,
                                          .n_vocab = 288,
                                          .n_expert = 3 });
    om_result r = { 0 };
    om_error err;
    om_model *written = NULL;
    om_stats *s = NULL;
    om_json *doc = NULL;
    f.a->tensors[0].format = om_format_by_name("q4_0");
    f.a->tensors[f.a->n_tensors - 1].format = om_format_by_name("bf16");
    f.a->routing_nats = 0.0625; /* changed choices of experts: no sum over tensors */
    write_allocation(&f);
    must(quantize(&r, &f, 2, &err), &err);
    must(om_model_open(&written, f.out, &err), &err);
    must(om_stats_read(&s, f.stats, &err), &err);
    must(om_json_parse(&doc, r.json, strlen(r.json), "result", "optimum.quantize/1", &err), &err);
    const om_node root = om_node_root(doc, "result");
    om_node list, item;
    size_t n;
    double total = f.a->routing_nats, nats, exact;
    must(om_node_array(&list, &n, &root, "tensors", &err), &err);
    assert_int_equal(n, om_model_n_tensors(f.source));
    for (size_t i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(f.source, (int) i);
        must(om_node_at(&item, &list, i, &err), &err);
        must(om_node_f64(&nats, &item, "nats", &err), &err);
        const om_format *to = om_allocation_find(f.a, t->name);
        if (to == NULL || to == t->format) {
            assert_true(nats == 0.0);
            continue;
        }
        const double want =
            naive_nats(t, om_model_find(written, t->name), om_stats_find(s, t->name));
        assert_true(want > 0);
        assert_true(fabs(nats - want) <= 1e-12 * want);
        total += want;
    }
    must(om_node_f64(&exact, &root, "predicted_nats_exact", &err), &err);
    assert_true(fabs(exact - total) <= 1e-12 * total);
    /* and the file says the same */
    assert_true(om_model_f64(written, "optimum.predicted_nats", -1) == exact);
    om_json_free(doc);
    om_stats_free(s);
    om_model_free(written);
    om_result_release(&r);
    end(&f);
}

static void imatrix_without_marginals(void **state) {
    (void) state;
    fixture f = begin_small();
    om_result r = { 0 };
    om_error err = { 0 };
    om_stats *s = NULL;
    char imatrix[256];
    snprintf(imatrix, sizeof imatrix, "%s/imatrix.gguf", f.dir);
    must(om_stats_read(&s, f.stats, &err), &err);
    must(om_stats_write(s, imatrix, true, &err), &err);
    om_stats_free(s);
    const om_quantize_options o = {
        .model = f.model, .allocation = f.allocation, .out = f.out, .imatrix = imatrix
    };
    must(om_quantize(&r, &o, NULL, &err), &err);
    assert_non_null(strstr(r.json, "\"predicted_nats_exact\": null"));
    om_result_release(&r);
    end(&f);
}

/* ---- refusals ---- */

static void dry_run_writes_nothing(void **state) {
    (void) state;
    fixture f = begin_small();
    om_result r = { 0 };
    om_error err = { 0 };
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .dry_run = true };
    char bytes[64];
    must(om_quantize(&r, &o, NULL, &err), &err);
    snprintf(bytes, sizeof bytes, "%lld", (long long) f.a->bytes);
    assert_non_null(strstr(r.text, bytes));
    assert_non_null(strstr(r.text, "blk.0.ffn_down.weight"));
    assert_non_null(strstr(r.json, "\"dry_run\": true"));
    expect_no_output(&f);
    om_result_release(&r);
    end(&f);
}

static void wrong_files_are_refused(void **state) {
    (void) state;
    fixture f = begin_small();
    const char good = f.a->model_sha256[0];
    f.a->model_sha256[0] = good == 'f' ? 'e' : 'f';
    write_allocation(&f);
    expect_refused(&f, OM_E_MISMATCH, f.a->model_sha256);
    f.a->model_sha256[0] = good;

    const char good_stats = f.a->stats_sha256[0];
    f.a->stats_sha256[0] = good_stats == 'f' ? 'e' : 'f';
    write_allocation(&f);
    expect_refused(&f, OM_E_MISMATCH, f.a->stats_sha256);
    f.a->stats_sha256[0] = good_stats;

    strcpy(f.a->stats_path, "/nonexistent/gone.gguf");
    write_allocation(&f);
    expect_refused(&f, OM_E_IO, "gone.gguf");
    strcpy(f.a->stats_path, f.stats);

    char name[64];
    strcpy(name, f.a->tensors[2].name);
    strcpy(f.a->tensors[2].name, "blk.9.attn_q.weight");
    write_allocation(&f);
    expect_refused(&f, OM_E_MISMATCH, "blk.9.attn_q.weight");
    strcpy(f.a->tensors[2].name, name);

    write_allocation(&f);
    f.a->bytes += 32;
    om_error err = { 0 };
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "bytes");
    end(&f);
}

static void bad_types_are_refused(void **state) {
    (void) state;
    fixture f = begin_small(); /* rows of 64: no block of 256 fits */
    om_error err = { 0 };
    f.a->tensors[1].format = om_format_by_name("q4_K");
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "blocks of 256");
    f.a->tensors[1].format = om_format_by_name("q8_0");
    strcpy(f.a->tensors[1].name, "output_norm.weight");
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "output_norm.weight");
    end(&f);
}

static void missing_importance_is_refused(void **state) {
    (void) state;
    fixture f = begin(
        &(om_tiny_options){ .type = GGML_TYPE_BF16, .n_layer = 1, .n_ff = 256, .n_vocab = 288 });
    assert_string_equal(f.a->tensors[0].name, "token_embd.weight");
    f.a->tensors[0].format = om_format_by_name("iq2_xxs"); /* no input statistics: see above */
    write_allocation(&f);
    expect_refused(&f, OM_E_MISMATCH, "token_embd.weight: iq2_xxs needs importance");
    f.a->stats_path[0] = f.a->stats_sha256[0] = '\0';
    write_allocation(&f);
    expect_refused(&f, OM_E_MISMATCH, "none are given");
    end(&f);
}

/* A NaN in row 5 of a matrix: named, and nothing is left on disk. */
static void not_finite_source_is_refused(void **state) {
    (void) state;
    fixture f = begin_small();
    om_error err = { 0 };
    const om_tensor *t = om_model_find(f.source, "blk.0.ffn_up.weight");
    const om_map *map = om_model_split_map(f.source, 0);
    const long at = (long) (t->data - map->data + (5 * t->ne[0] + 7) * 2);
    om_model_free(f.source);
    FILE *file = fopen(f.model, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite("\xC0\x7F", 1, 2, file), 2);
    assert_int_equal(fclose(file), 0);
    must(om_model_open(&f.source, f.model, &err), &err);
    write_stats(&f);
    om_allocation_free(f.a);
    make_allocation(&f);
    write_allocation(&f);
    expect_refused(&f, OM_E_NUMERIC, "blk.0.ffn_up.weight: row 5, column 7");
    f.a->tensors[0].format = om_format_by_name("q4_0");
    for (int i = 0; i < f.a->n_tensors; i++) { /* also when it is only copied */
        if (strcmp(f.a->tensors[i].name, "blk.0.ffn_up.weight") == 0) {
            f.a->tensors[i].format = om_format_by_name("bf16");
        }
    }
    write_allocation(&f);
    expect_refused(&f, OM_E_NUMERIC, "blk.0.ffn_up.weight");
    end(&f);
}

static void model_is_never_overwritten(void **state) {
    (void) state;
    fixture f = begin_small();
    om_result r = { 0 };
    om_error err = { 0 };
    char around[512];
    snprintf(around, sizeof around, "%s/../%s/model.gguf", f.dir, strrchr(f.dir, '/') + 1);
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .out = around };
    assert_int_equal(om_quantize(&r, &o, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "would be overwritten"));
    end(&f);
}

/* ---- interruption ---- */

typedef struct countdown {
    int left;
} countdown;

static bool cancelled(void *ud) {
    countdown *c = ud;
    return c->left-- <= 0;
}

static void cancel_leaves_nothing(void **state) {
    (void) state;
    fixture f = begin_small();
    bool finished = false;
    for (int n = 0; n < 400 && !finished; n += 3) {
        countdown c = { n };
        const om_env env = { .cancelled = cancelled, .ud = &c, .n_threads = 1 };
        const om_quantize_options o = { .model = f.model,
                                        .allocation = f.allocation,
                                        .out = f.out };
        om_result r = { 0 };
        om_error err = { 0 };
        const om_status status = om_quantize(&r, &o, &env, &err);
        finished = status == OM_OK;
        if (!finished) {
            assert_int_equal(status, OM_E_CANCELLED);
            /* Once renamed the file is complete; before, there is none. */
            assert_int_equal(om_tmpdir_count(f.dir, "tmp"), 0);
        }
        om_result_release(&r);
    }
    assert_true(finished);
    end(&f);
}

static double last_done, last_total;

static void on_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    (void) ud;
    if (strcmp(stage, "quantize") == 0) {
        assert_string_equal(unit, "bytes");
        assert_true(done >= last_done && done <= total);
        last_done = done;
        last_total = total;
    }
}

static void progress_reaches_the_size(void **state) {
    (void) state;
    fixture f = begin_small();
    const om_env env = { .progress = on_progress, .n_threads = 2 };
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .out = f.out };
    om_result r = { 0 };
    om_error err = { 0 };
    last_done = last_total = 0;
    must(om_quantize(&r, &o, &env, &err), &err);
    assert_true(last_done == last_total);
    assert_true(last_total == (double) f.a->bytes);
    om_result_release(&r);
    end(&f);
}

static void every_failed_allocation_is_clean(void **state) {
    (void) state;
    fixture f = begin_small();
    bool succeeded = false;
    for (long n = 1; n < 20000 && !succeeded; n += n < 200 ? 1 : 17) {
        om_result r = { 0 };
        om_error err;
        om_mem_fail_at(n);
        const om_status status = quantize(&r, &f, 1, &err);
        om_mem_fail_at(0);
        succeeded = status == OM_OK;
        if (!succeeded) {
            assert_null(r.json);
            assert_int_equal(om_tmpdir_count(f.dir, "tmp"), 0);
        }
        om_result_release(&r);
    }
    assert_true(succeeded);
    end(&f);
}

static void quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void) ud;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(void) {
    llama_log_set(quiet, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_equal_llama_dense),
        cmocka_unit_test(bytes_equal_llama_dense_shifted),
        cmocka_unit_test(bytes_equal_llama_experts),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(stock_llama_loads_it),
        cmocka_unit_test(nats_are_those_of_the_bytes),
        cmocka_unit_test(imatrix_without_marginals),
        cmocka_unit_test(dry_run_writes_nothing),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(bad_types_are_refused),
        cmocka_unit_test(missing_importance_is_refused),
        cmocka_unit_test(not_finite_source_is_refused),
        cmocka_unit_test(model_is_never_overwritten),
        cmocka_unit_test(cancel_leaves_nothing),
        cmocka_unit_test(progress_reaches_the_size),
        cmocka_unit_test(every_failed_allocation_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
