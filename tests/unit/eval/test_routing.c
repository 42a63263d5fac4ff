/* Routing agreement: counted again from nodes with other names, through a stored reference, on
 * every kind of mixture; and what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <ggml-backend.h>
#include <llama.h>

#include "base/file.h"
#include "base/mem.h"
#include "eval/judge.h"
#include "eval/refile.h"
#include "model/gguf.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { N_CTX = 40, N_CHUNKS = 3, MAX_LAYERS = 3, MAX_USED = 4 };

static char *dir;
static char log_text[4096];

static void record(void *ud, om_log_level level, const char *line) {
    (void) ud;
    if (level == OM_LOG_WARN || level == OM_LOG_INFO) {
        const size_t n = strlen(log_text);
        (void) snprintf(log_text + n, sizeof(log_text) - n, "%s\n", line);
    }
}

static const om_env env = { .n_threads = 1, .log = record };

static const char *path(const char *name) {
    return om_tmpdir_path(dir, name);
}

static int set_up(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    char text[4000];
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char) ("etaoin shrdlu, cmf."[i * 7919 % 6007 % 19]);
    }
    om_tmpdir_write(dir, "text.txt", text, sizeof(text));
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* ---- models ---- */

#define SMALL .n_embd = 64, .n_ff = 64, .n_vocab = 288

static const om_tiny_options kinds[] = {
    { .arch = "qwen3moe", .n_expert = 8, .n_expert_used = 3, SMALL },
    { .arch = "llama", .n_expert = 4, SMALL },
    { .arch = "olmoe", .n_expert = 6, .n_expert_used = 4, .n_layer = 3, SMALL },
    { .arch = "gpt-oss", .n_expert = 4, .n_expert_used = 1, SMALL },
    { .arch = "qwen2moe", .n_expert = 5, SMALL },
    /* one layer of 39 times 3: an odd number of 16-bit numbers in a window of the file */
    { .arch = "dots1", .n_expert = 8, .n_expert_used = 3, .n_expert_groups = 4, SMALL },
};
enum { N_KINDS = sizeof(kinds) / sizeof(*kinds) };

/* The same model with routers that are a little different. */
static void write_perturbed(const char *to, const char *from) {
    om_model *model = NULL;
    om_error err = { 0 };
    size_t size;
    char *bytes;
    assert_int_equal(om_file_read(&bytes, &size, path(from), 1 << 28, &err), OM_OK);
    assert_int_equal(om_model_open(&model, path(from), &err), OM_OK);
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (strstr(t->name, "ffn_gate_inp.weight") == NULL) {
            continue;
        }
        size_t at = 0; /* found by its contents */
        const size_t n = (size_t) (t->ne[0] * t->ne[1]);
        while (at + n * 4 <= size && memcmp(bytes + at, t->data, n * 4) != 0) {
            at += 32;
        }
        assert_true(at + n * 4 <= size);
        for (size_t k = 0; k < n; k++) {
            float v;
            memcpy(&v, bytes + at + 4 * k, 4);
            v += 0.04f * (float) ((int) (k * 2654435761u >> 8 & 15) - 7) / 7.0f;
            memcpy(bytes + at + 4 * k, &v, 4);
        }
    }
    om_tmpdir_write(dir, to, bytes, size);
    om_model_free(model);
    om_free(bytes);
}

static void write_pair(const om_tiny_options *kind) {
    om_tiny_model_write_with(path("a.gguf"), kind);
    write_perturbed("b.gguf", "a.gguf");
}

/* ---- the library's way ---- */

static om_reference *open_reference(const char *file, bool choices, bool hidden) {
    const om_reference_options o = { .path = path(file),
                                     .text = path("text.txt"),
                                     .n_ctx = N_CTX,
                                     .n_chunks = N_CHUNKS,
                                     .choices = choices,
                                     .no_hash = true,
                                     .hidden = hidden };
    om_reference *ref = NULL;
    om_error err = { 0 };
    if (om_reference_open(&ref, &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return ref;
}

static om_evaluation judge(om_reference *ref, const char *model, const char *score) {
    om_evaluation e;
    om_error err = { 0 };
    const om_judge_options o = { .score = score, .no_hash = true, .routing = true };
    if (om_judge(&e, ref, path(model), &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return e;
}

static void write_reference(const char *file, const char *model, bool choices) {
    om_error err = { 0 };
    bool refused = true;
    char why[256];
    om_reference *ref = open_reference(model, choices, true);
    if (om_reference_write(&refused, why, ref, path(file), &env, &err) != OM_OK || refused) {
        fail_msg("%s %s", err.text, why);
    }
    om_reference_free(ref);
}

/* ---- another way: the node that makes the list, by its name ---- */

typedef struct lists {
    int n, window; /* tokens of a window; the window at hand */
    int n_used, n_layers;
    int layer[MAX_LAYERS];
    int32_t ids[MAX_LAYERS][N_CHUNKS][N_CTX][MAX_USED];
} lists;

static bool collect(struct ggml_tensor *node, bool ask, void *ud) {
    lists *c = ud;
    int layer;
    char end;
    if (sscanf(node->name, "ffn_moe_topk-%d%c", &layer, &end) != 1) {
        return false;
    }
    if (ask) {
        return true;
    }
    int i = 0;
    while (i < c->n_layers && c->layer[i] != layer) {
        i++;
    }
    assert_true(i < MAX_LAYERS && node->ne[0] <= MAX_USED && node->ne[1] == c->n);
    c->layer[i] = layer;
    c->n_layers = i == c->n_layers ? i + 1 : c->n_layers;
    c->n_used = (int) node->ne[0];
    for (int t = 0; t < c->n; t++) {
        ggml_backend_tensor_get(node, c->ids[i][c->window][t], (size_t) t * node->nb[1],
                                (size_t) node->ne[0] * 4);
    }
    return true;
}

static void quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void) level;
    (void) text;
    (void) ud;
}

static void collect_lists(lists *c, const char *file, const om_windows *w) {
    ggml_backend_dev_t no_devices[1] = { NULL };
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();
    memset(c, 0, sizeof(*c));
    llama_log_set(quiet, NULL);
    mp.devices = no_devices;
    struct llama_model *model = llama_model_load_from_file(path(file), mp);
    assert_non_null(model);
    cp.n_ctx = cp.n_batch = cp.n_ubatch = N_CTX;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.cb_eval = collect;
    cp.cb_eval_user_data = c;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    assert_non_null(ctx);
    struct llama_batch b = llama_batch_init(N_CTX, 0, 1);
    c->n = b.n_tokens = N_CTX - 1;
    for (c->window = 0; c->window < N_CHUNKS; c->window++) {
        llama_memory_clear(llama_get_memory(ctx), true);
        for (int i = 0; i < c->n; i++) {
            b.token[i] = w->tokens[c->window * N_CTX + i];
            b.pos[i] = i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = true;
        }
        assert_int_equal(llama_decode(ctx, b), 0);
    }
    llama_batch_free(b);
    llama_free(ctx);
    llama_model_free(model);
}

static double count_agreement(const lists *a, const lists *b, int layer, int first) {
    int both = 0, all = 0;
    for (int w = 0; w < N_CHUNKS; w++) {
        for (int t = first; t < a->n; t++) {
            for (int i = 0; i < a->n_used; i++) {
                bool found = false;
                for (int k = 0; k < a->n_used; k++) {
                    found |= a->ids[layer][w][t][i] == b->ids[layer][w][t][k];
                }
                both += found;
                all++;
            }
        }
    }
    return (double) both / all;
}

static void expect_counted(const om_routing *r, const lists *a, const lists *b, int first) {
    double sum = 0.0;
    assert_int_equal(r->n_layers, a->n_layers);
    assert_int_equal(r->n_used, a->n_used);
    for (int l = 0; l < a->n_layers; l++) {
        const double want = count_agreement(a, b, l, first);
        assert_int_equal(r->layer[l], a->layer[l]);
        if (r->layer_agreement[l] != want) {
            fail_msg("layer %d: %.17g, counted %.17g", a->layer[l], r->layer_agreement[l], want);
        }
        assert_true(r->layer_agreement[l] <= 1.0 &&
                    r->layer_agreement[l] >= r->layer_agreement[om_routing_worst(r)]);
        sum += want;
    }
    const double mean = sum / a->n_layers, flips = a->n_used * (a->n_layers - sum);
    assert_true(r->agreement > mean - 1e-12 && r->agreement < mean + 1e-12);
    assert_true(r->flips_per_token > flips - 1e-9 && r->flips_per_token < flips + 1e-9);
}

/* ---- tests ---- */

static void counts_follow_the_definition(void **state) {
    (void) state;
    const int32_t layers[] = { 1, 4 };
    /* two layers, three tokens, two of five experts; the order within a token does not matter */
    const uint16_t ids_a[] = { 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1 };
    const uint16_t ids_b[] = { 1, 0, 3, 0, 1, 2, 1, 2, 4, 3, 1, 4 };
    const om_choices a = { 2, 5, 2, layers, ids_a, 6 }, b = { 2, 5, 2, layers, ids_b, 6 };
    const om_choices none = { 0 };
    om_choices other = b;
    om_agreement all = { 0 }, tail = { 0 };
    om_agreement_add(&all, &a, &b, 0, 3);
    om_agreement_add(&all, &a, &none, 0, 3);
    om_agreement_add(&all, &none, &b, 0, 3);
    om_agreement_add(&all, &a, &b, 3, 3);
    om_routing r = om_agreement_summary(&all);
    assert_int_equal(r.n_layers, 2);
    assert_int_equal(r.layer[1], 4);
    assert_true(r.layer_agreement[0] == 3.0 / 6 && r.layer_agreement[1] == 5.0 / 6);
    assert_true(r.agreement == 8.0 / 12 && r.flips_per_token == 4.0 / 3);
    assert_int_equal(om_routing_worst(&r), 0);
    om_agreement_add(&tail, &a, &b, 1, 3);
    r = om_agreement_summary(&tail);
    assert_true(r.layer_agreement[0] == 1.0 / 4 && r.layer_agreement[1] == 3.0 / 4);
    other.n_experts = 6;
    om_agreement_add(&tail, &a, &other, 0, 3);
    assert_int_equal(om_agreement_summary(&tail).n_layers, 0);
    assert_int_equal(om_agreement_summary(&(om_agreement){ 0 }).n_layers, 0);
}

static void model_against_itself_agrees_exactly(void **state) {
    (void) state;
    for (int i = 0; i < N_KINDS; i++) {
        om_tiny_model_write_with(path("a.gguf"), &kinds[i]);
        om_reference *ref = open_reference("a.gguf", true, false);
        const om_evaluation e = judge(ref, "a.gguf", NULL);
        const om_routing *r = &e.routing;
        const bool dots = strcmp(kinds[i].arch, "dots1") == 0;
        const int n_layer = kinds[i].n_layer > 0 ? kinds[i].n_layer : 2;
        assert_int_equal(r->n_layers, dots ? n_layer - 1 : n_layer);
        assert_int_equal(r->layer[0], dots ? 1 : 0);
        assert_int_equal(r->n_experts, kinds[i].n_expert);
        assert_int_equal(r->n_used, kinds[i].n_expert_used > 0 ? kinds[i].n_expert_used : 2);
        assert_true(r->agreement == 1.0 && r->flips_per_token == 0.0);
        for (int l = 0; l < r->n_layers; l++) {
            assert_true(r->layer_agreement[l] == 1.0);
        }
        om_reference_free(ref);
    }
}

static void changed_routers_are_counted(void **state) {
    (void) state;
    static lists a, b;
    for (int i = 0; i < N_KINDS; i++) {
        write_pair(&kinds[i]);
        om_reference *ref = open_reference("a.gguf", true, false);
        collect_lists(&a, "a.gguf", om_reference_windows(ref));
        collect_lists(&b, "b.gguf", om_reference_windows(ref));
        const om_evaluation all = judge(ref, "b.gguf", NULL),
                            half = judge(ref, "b.gguf", "second-half");
        expect_counted(&all.routing, &a, &b, 0);
        expect_counted(&half.routing, &a, &b, N_CTX / 2);
        if (!(all.routing.agreement < 1.0)) {
            fail_msg("%s: nothing flipped", kinds[i].arch);
        }
        om_reference_free(ref);
    }
}

static void stored_choices_are_the_running_ones(void **state) {
    (void) state;
    const char *const scores[] = { "all", "second-half" };
    for (int i = 0; i < N_KINDS; i++) {
        write_pair(&kinds[i]);
        write_reference("a.ref", "a.gguf", true);
        om_reference *running = open_reference("a.gguf", true, false);
        om_reference *stored = open_reference("a.ref", true, false);
        assert_true(om_reference_has_choices(running) && om_reference_has_choices(stored));
        for (int k = 0; k < 2; k++) {
            const om_evaluation want = judge(running, "b.gguf", scores[k]);
            const om_evaluation got = judge(stored, "b.gguf", scores[k]);
            assert_true(want.routing.n_layers > 0);
            assert_memory_equal(&got.routing, &want.routing, sizeof(om_routing));
        }
        om_reference_free(running);
        om_reference_free(stored);
    }
}

static void long_windows_are_cut_into_blocks(void **state) {
    (void) state;
    om_reference_options o = { .path = path("a.gguf"),
                               .text = path("text.txt"),
                               .n_ctx = 1300, /* blocks of 512, 512, 275 */
                               .n_chunks = 1,
                               .choices = true,
                               .hidden = true };
    om_error err = { 0 };
    om_reference *ref = NULL;
    bool refused;
    char why[256];
    write_pair(&kinds[0]);
    assert_int_equal(om_reference_open(&ref, &o, &env, &err), OM_OK);
    const om_evaluation want = judge(ref, "b.gguf", "second-half");
    assert_int_equal(om_reference_write(&refused, why, ref, path("long.ref"), &env, &err), OM_OK);
    assert_false(refused);
    om_reference_free(ref);
    o.path = path("long.ref");
    ref = NULL;
    assert_int_equal(om_reference_open(&ref, &o, &env, &err), OM_OK);
    const om_evaluation got = judge(ref, "b.gguf", "second-half");
    assert_true(want.routing.n_layers == 2 && want.routing.agreement < 1.0);
    assert_memory_equal(&got.routing, &want.routing, sizeof(om_routing));
    om_reference_free(ref);
}

static void watching_changes_no_other_number(void **state) {
    (void) state;
    write_pair(&kinds[0]);
    om_error err = { 0 };
    om_evaluation plain;
    const om_judge_options o = { 0 };
    om_reference *ref = open_reference("a.gguf", false, false);
    assert_int_equal(om_judge(&plain, ref, path("b.gguf"), &o, &env, &err), OM_OK);
    om_reference_free(ref);
    ref = open_reference("a.gguf", true, false);
    om_evaluation watched = judge(ref, "b.gguf", NULL);
    om_reference_free(ref);
    assert_true(watched.routing.n_layers == 2 && plain.routing.n_layers == 0);
    assert_true(watched.kld_mean == plain.kld_mean && watched.kld_max == plain.kld_max);
    assert_true(watched.ppl == plain.ppl && watched.ppl_reference == plain.ppl_reference);
}

static void nothing_to_compare_is_no_error(void **state) {
    (void) state;
    om_tiny_model_write(path("dense.gguf"), "llama", GGML_TYPE_F32);
    write_reference("dense.ref", "dense.gguf", true);
    om_reference *ref = open_reference("dense.gguf", true, false);
    assert_false(om_reference_has_choices(ref));
    log_text[0] = '\0';
    assert_int_equal(judge(ref, "dense.gguf", NULL).routing.n_layers, 0);
    assert_null(strstr(log_text, "routing"));
    om_reference_free(ref);

    /* a file without choices, as earlier programs wrote them */
    write_pair(&kinds[0]);
    write_reference("old.ref", "a.gguf", false);
    ref = open_reference("old.ref", true, false);
    assert_int_equal(judge(ref, "b.gguf", NULL).routing.n_layers, 0);
    assert_non_null(strstr(log_text, "does not hold which experts"));
    om_reference_free(ref);

    om_tiny_options fewer = kinds[0];
    fewer.n_expert = 6;
    om_tiny_model_write_with(path("fewer.gguf"), &fewer);
    ref = open_reference("a.gguf", true, false);
    assert_int_equal(judge(ref, "fewer.gguf", NULL).routing.n_layers, 0);
    assert_non_null(strstr(log_text, "another number of experts"));
    om_reference_free(ref);
}

/* ---- files ---- */

static void read_all(char **bytes, size_t *size, const char *file) {
    om_error err = { 0 };
    assert_int_equal(om_file_read(bytes, size, path(file), 1 << 28, &err), OM_OK);
}

static om_status open_bytes(const char *bytes, size_t size) {
    om_refile f = { 0 };
    om_error err = { 0 };
    om_tmpdir_write(dir, "hostile.ref", bytes, size);
    const om_status status = om_refile_open(&f, path("hostile.ref"), &err);
    if (status == OM_OK) {
        const om_refile_header *h = &f.header;
        const om_choices c = om_refile_choices(&f, h->n_windows - 1, h->n_ctx - 2);
        if (c.n_layers > 0) { /* the last one is inside of the mapping, and an expert */
            assert_in_range(c.ids[(c.n_layers - 1) * c.layer_stride + c.n_used - 1], 0,
                            c.n_experts - 1);
        }
    } else {
        assert_true(err.text[0] != '\0');
    }
    om_refile_close(&f);
    return status;
}

static void only_mixtures_get_version_2(void **state) {
    (void) state;
    size_t size, dense_size;
    om_refile f = { 0 };
    om_error err = { 0 };
    om_tiny_model_write_with(path("a.gguf"), &kinds[0]);
    om_tiny_model_write(path("dense.gguf"), "llama", GGML_TYPE_F32);
    write_reference("a.ref", "a.gguf", true);
    write_reference("dense.ref", "dense.gguf", true);
    char *bytes, *dense;
    read_all(&bytes, &size, "a.ref");
    read_all(&dense, &dense_size, "dense.ref");
    assert_memory_equal(bytes, "OMREF002", 8);
    assert_memory_equal(dense, "OMREF001", 8);
    assert_int_equal(om_refile_open(&f, path("a.ref"), &err), OM_OK);
    assert_int_equal(f.header.n_layers, 2);
    assert_int_equal(f.header.n_experts, 8);
    assert_int_equal(f.header.n_used, 3);
    assert_int_equal(f.layers[1], 1);
    assert_int_equal(om_refile_bytes(&f.header), (int64_t) size);
    om_refile_close(&f);
    memcpy(bytes, "OMREF001", 8); /* the counts say less than there is */
    assert_int_equal(open_bytes(bytes, size), OM_E_FORMAT);
    memcpy(dense, "OMREF002", 8);
    assert_int_equal(open_bytes(dense, dense_size), OM_E_FORMAT);
    memcpy(dense, "OMREF003", 8);
    assert_int_equal(open_bytes(dense, dense_size), OM_E_FORMAT);
    om_free(bytes);
    om_free(dense);
}

static void expect_refused(char *bytes, size_t size, size_t at, uint32_t value, size_t width) {
    char old[4];
    memcpy(old, bytes + at, width);
    memcpy(bytes + at, &value,
           width); /* the machine's order is little-endian or it does not matter */
    if (memcmp(old, bytes + at, width) != 0 && open_bytes(bytes, size) != OM_E_FORMAT) {
        fail_msg("%zu bytes at %zu: %u was accepted", width, at, (unsigned) value);
    }
    memcpy(bytes + at, old, width);
}

static void damaged_choices_are_refused(void **state) {
    (void) state;
    static const uint32_t counts[] = { 0, 1, 4, 9, 0xFF, 0xFFFF, 0x10001, 0x7FFFFFFF, 0xFFFFFFFF };
    size_t size;
    om_tiny_model_write_with(path("a.gguf"), &kinds[0]);
    write_reference("a.ref", "a.gguf", true);
    char *bytes;
    read_all(&bytes, &size, "a.ref");
    assert_int_equal(open_bytes(bytes, size), OM_OK);
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        expect_refused(bytes, size, 56, counts[i], 4); /* K */
        expect_refused(bytes, size, 60, counts[i], 4); /* layers */
    }
    /* E: too few for the numbers that are there, or for K, or too many */
    const uint32_t wrong[] = { 0, 1, 2, 0x10001, 0xFFFFFFFF };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        expect_refused(bytes, size, 44, wrong[i], 4);
    }
    const size_t layers = 512 + N_CHUNKS * N_CTX * 4;
    const uint32_t first[] = { 1, 2, 0x7FFFFFFF, 0xFFFFFFFF };
    for (size_t i = 0; i < sizeof(first) / sizeof(*first); i++) {
        expect_refused(bytes, size, layers, first[i], 4);
    }
    expect_refused(bytes, size, layers + 4, 0, 4);
    /* the last window's choices stand at the end: [2, N_CTX - 1, 3] u16, a multiple of 4 bytes */
    const size_t n = 2 * (N_CTX - 1) * 3;
    for (size_t i = 1; i <= n; i += 29) {
        expect_refused(bytes, size, size - 2 * i, 8, 2);
        expect_refused(bytes, size, size - 2 * i, 0xFFFF, 2);
    }
    for (size_t cut = 1; cut <= 4; cut++) {
        assert_int_equal(open_bytes(bytes, size - cut), OM_E_FORMAT);
    }
    om_free(bytes);
}

static size_t find(const char *text, const char *part) {
    const char *at = strstr(text, part);
    assert_non_null(at);
    return (size_t) (at - text);
}

static om_evaluation small_evaluation(void) {
    om_evaluation e = { .n_ctx = 512, .tokens = 10, .ppl = 2.0, .score = "all" };
    e.routing = (om_routing){ .n_layers = 2,
                              .n_experts = 128,
                              .n_used = 8,
                              .agreement = 0.9375,
                              .flips_per_token = 1.0,
                              .layer = { 3, 47 },
                              .layer_agreement = { 1.0 / 3, 1.0 } };
    return e;
}

static void evaluation_survives_the_file(void **state) {
    (void) state;
    static const struct {
        const char *from, *to;
    } changes[] = {
        { "\"experts\": 128", "\"experts\": 0" },
        { "\"experts\": 128", "\"experts\": 65537" },
        { "\"used\": 8", "\"used\": 129" },
        { "\"used\": 8", "\"used\": 0" },
        { "\"agreement\": 0.9375", "\"agreement\": 1.001" },
        { "\"agreement\": 0.9375", "\"agreement\": null" },
        { "\"flips_per_token\": 1.0", "\"flips_per_token\": -1" },
        { "\"layer\": 47", "\"layer\": 3" },
        { "\"layer\": 3,", "\"layer\": -1," },
        { "\"agreement\": 1.0", "\"agreement\": -0.5" },
        { "\"layers\": [", "\"layers\": [], \"other\": [" },
    };
    om_evaluation *back = NULL;
    om_error err = { 0 };
    const om_evaluation e = small_evaluation();
    assert_int_equal(om_evaluation_write(&e, path("e.json"), &err), OM_OK);
    assert_int_equal(om_evaluation_read(&back, path("e.json"), &err), OM_OK);
    assert_memory_equal(&back->routing, &e.routing, sizeof(e.routing));
    om_evaluation_free(back);
    size_t size;
    char *good, bad[8192];
    read_all(&good, &size, "e.json");
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        const size_t n = find(good, changes[i].from);
        (void) snprintf(bad, sizeof(bad), "%.*s%s%s", (int) n, good, changes[i].to,
                        good + n + strlen(changes[i].from));
        back = NULL;
        if (om_evaluation_parse(&back, bad, strlen(bad), "bad", &err) != OM_E_FORMAT) {
            fail_msg("%s was accepted", changes[i].to);
        }
        assert_null(back);
    }
    om_free(good);
}

static void the_verb_shows_it(void **state) {
    (void) state;
    write_pair(&kinds[0]);
    om_eval_options o = { .model = path("b.gguf"),
                          .reference = path("a.gguf"),
                          .reference_out = path("verb.ref"),
                          .text = path("text.txt"),
                          .out = path("verb.json"),
                          .n_ctx = N_CTX,
                          .n_chunks = N_CHUNKS,
                          .no_speed = true };
    om_result r = { 0 };
    om_evaluation *e = NULL;
    om_error err = { 0 };
    if (om_eval(&r, &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_non_null(strstr(r.text, "\nrouting    "));
    assert_non_null(strstr(r.text, "(3 of 8)"));
    assert_non_null(strstr(r.json, "\"flips_per_token\""));
    assert_int_equal(om_evaluation_read(&e, path("verb.json"), &err), OM_OK);
    om_reference *ref = open_reference("a.gguf", true, false);
    const om_evaluation want = judge(ref, "b.gguf", NULL);
    assert_memory_equal(&e->routing, &want.routing, sizeof(om_routing));
    om_reference_free(ref);
    om_evaluation_free(e);
    om_result_release(&r);
}

static void short_memory_is_an_error(void **state) {
    (void) state;
    const om_judge_options o = { .no_hash = true, .routing = true };
    om_status status = OM_E_NOMEM;
    write_pair(&kinds[1]);
    for (long n = 1; status != OM_OK; n++) {
        om_evaluation e;
        om_error err = { 0 };
        om_reference *ref = open_reference("a.gguf", true, false);
        om_mem_fail_at(n);
        status = om_judge(&e, ref, path("b.gguf"), &o, &env, &err);
        om_mem_fail_at(0);
        if (status != OM_OK && (status != OM_E_NOMEM || err.text[0] == '\0' || n > 500)) {
            fail_msg("allocation %ld: status %d, %s", n, (int) status, err.text);
        }
        assert_true(status != OM_OK || e.routing.n_layers == 2);
        om_reference_free(ref);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_follow_the_definition),
        cmocka_unit_test(model_against_itself_agrees_exactly),
        cmocka_unit_test(changed_routers_are_counted),
        cmocka_unit_test(stored_choices_are_the_running_ones),
        cmocka_unit_test(long_windows_are_cut_into_blocks),
        cmocka_unit_test(watching_changes_no_other_number),
        cmocka_unit_test(nothing_to_compare_is_no_error),
        cmocka_unit_test(only_mixtures_get_version_2),
        cmocka_unit_test(damaged_choices_are_refused),
        cmocka_unit_test(evaluation_survives_the_file),
        cmocka_unit_test(the_verb_shows_it),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
