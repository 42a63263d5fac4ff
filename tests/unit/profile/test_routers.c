/* What changed choices of experts cost, from the model to the files: the new members of
 * profile.json and of the statistics, there, absent and damaged; and the profile of a tiny mixture
 * against its layer order, with other threads and after an interruption. */
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

#include "assert_close.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/tokens.h"
#include "optimum.h"
#include "profile/profile.h"
#include "profile/routers.h"
#include "profile/stats.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { SEED = 19, WINDOWS = 5, T = 24, LAYERS = 3 };

static char *dir;

static const char *path(const char *name) {
    return om_tmpdir_path(dir, name);
}

static int set_up(void **state) {
    (void) state;
    char text[900];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char) ("the quick brown fox. "[i * 31 % 127 % 21]);
    }
    dir = om_tmpdir_new();
    om_tmpdir_write(dir, "text.txt", text, sizeof text);
    /* No row is a multiple of 256 long: fewer types to try. */
    om_tiny_model_write_with(
        path("model.gguf"),
        &(om_tiny_options){
            .arch = "qwen3moe", .n_layer = LAYERS, .n_embd = 96, .n_ff = 64, .n_vocab = 288 });
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* ---- profile.json ---- */

/* Written by hand from docs/formats.md, not by our writer. */
static const char valid[] =
    "{\"schema\":\"optimum.profile/1\",\"tool\":\"t\",\n"
    "\"model\":{\"path\":\"m.gguf\",\"sha256\":\"\",\"arch\":\"qwen3moe\",\"params\":99328,"
    "\"file_bytes\":200000,\"hparams\":{\"n_layer\":1,\"n_head\":4,\"n_head_kv\":2,\"n_expert\":8}}"
    ",\n"
    "\"calibration\":{\"files\":[{\"sha256\":\"\"}],\"windows\":8,\"window_tokens\":512,"
    "\"seed\":\"1\",\"tokens\":4088},\n"
    "\"container\":{\"metadata_bytes\":1000,\"alignment\":32,"
    "\"fixed\":[{\"name\":\"output_norm.weight\",\"bytes\":33}]},\n"
    "\"memory\":{\"kv_bytes_per_token\":[512],\"window\":[0],\"compute_bytes\":77},\n"
    "\"method\":\"fisher\",\n"
    "\"routing\":{\"routers\":[{\"density\":0.5,\"nats_per_swap\":0.01,\"weight\":0.002},"
    "{\"density\":0.25,\"nats_per_swap\":0.04,\"weight\":0.004}]},\n"
    "\"tensors\":[\n"
    "{\"name\":\"blk.0.attn_q.weight\",\"role\":\"attn_q\",\"layer\":0,\"shape\":[64,512],"
    "\"experts\":1,\"params\":32768,\"source\":\"bf16\",\"fisher_trace\":1.5,\"reach\":0.006,"
    "\"types\":{\"q4_K\":{\"bytes\":18432,\"nats\":0.25,\"routing\":0.125},"
    "\"bf16\":{\"bytes\":65536,\"nats\":0}}},\n"
    "{\"name\":\"blk.0.ffn_up_exps.weight\",\"role\":\"ffn_up_exps\",\"layer\":0,"
    "\"shape\":[64,128],\"experts\":8,\"params\":65536,\"source\":\"f16\",\"fisher_trace\":0,"
    "\"types\":{\"q8_0\":{\"bytes\":69632,\"nats\":0.001},\"f16\":{\"bytes\":131072,"
    "\"nats\":0.0}}}]}\n";

static om_profile *parse_ok(const char *text) {
    om_profile *p = NULL;
    om_error err = { 0 };
    if (om_profile_parse(&p, text, strlen(text), "p.json", &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return p;
}

static void check_values(const om_profile *p) {
    assert_int_equal(p->routers.n, 2);
    assert_close(p->routers.items[0].density, 0.5, 0, 0);
    assert_close(p->routers.items[1].nats_per_swap, 0.04, 0, 0);
    assert_close(p->routers.items[1].weight, 0.004, 0, 0);
    assert_close(om_routers_weight(&p->routers), 0.006, 0, 1e-15);
    assert_close(p->units[0].reach, 0.006, 0, 0);
    assert_close(p->units[0].choices[0].routing, 0.125, 0, 0);
    assert_close(p->units[0].choices[1].routing, 0, 0, 0);
    assert_close(p->units[1].reach, 0, 0, 0);
    assert_close(p->units[1].choices[0].routing, 0, 0, 0);
}

static void test_json_round_trip(void **state) {
    (void) state;
    om_error err = { 0 };
    char sha[2][65];
    om_profile *p = parse_ok(valid), *q = NULL;
    check_values(p);
    assert_int_equal(om_profile_write(p, path("one.json"), &err), OM_OK);
    assert_int_equal(om_profile_read(&q, path("one.json"), &err), OM_OK);
    check_values(q);
    assert_int_equal(om_profile_write(q, path("two.json"), &err), OM_OK);
    assert_int_equal(om_sha256_file(sha[0], path("one.json"), NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(sha[1], path("two.json"), NULL, &err), OM_OK);
    assert_string_equal(sha[0], sha[1]);
    /* What could not be read back is not written. */
    static const double bad[] = { (double) NAN, (double) INFINITY, -1, 1e13 };
    for (int i = 0; i < 4; i++) {
        q->routers.items[1].weight = bad[i];
        err = (om_error){ 0 };
        assert_int_equal(om_profile_write(q, path("bad.json"), &err), OM_E_INTERNAL);
    }
    q->routers.items[1].weight = 0;
    for (int i = 0; i < 8; i++) {
        q->units[0].choices[0].routing = i < 4 ? bad[i] : 0;
        q->units[0].reach = i < 4 ? 0 : bad[i - 4];
        err = (om_error){ 0 };
        assert_int_equal(om_profile_write(q, path("bad.json"), &err), OM_E_INTERNAL);
    }
    assert_int_equal(om_tmpdir_count(dir, "bad"), 0);
    om_profile_free(p);
    om_profile_free(q);
}

/* The valid file with one piece replaced. */
static char *replaced(const char *from, const char *to) {
    static char text[4096];
    const char *at = strstr(valid, from);
    assert_non_null(at);
    const int n =
        snprintf(text, sizeof text, "%.*s%s%s", (int) (at - valid), valid, to, at + strlen(from));
    assert_true(n > 0 && n < (int) sizeof text);
    return text;
}

static void test_json_absent(void **state) {
    (void) state;
    om_profile *p = parse_ok(
        replaced("\"routing\":{\"routers\":[{\"density\"", "\"other\":{\"x\":[{\"density\""));
    assert_int_equal(p->routers.n, 0);
    assert_close(om_routers_weight(&p->routers), 0, 0, 0);
    om_profile_free(p);
    p = parse_ok(replaced(",\"reach\":0.006", ""));
    assert_close(p->units[0].reach, 0, 0, 0);
    om_profile_free(p);
    p = parse_ok(replaced(",\"routing\":0.125", ""));
    assert_close(p->units[0].choices[0].routing, 0, 0, 0);
    om_profile_free(p);
}

static void refuse(const char *from, const char *to, const char *why) {
    om_profile *p = NULL;
    om_error err = { 0 };
    const char *text = replaced(from, to);
    const om_status status = om_profile_parse(&p, text, strlen(text), "p.json", &err);
    if (status != OM_E_FORMAT || !strstr(err.text, why) || strchr(err.text, '\n') || p) {
        fail_msg("%s -> %s: status %d, expected '%s' in: %s", from, to, status, why, err.text);
    }
}

static void test_json_damaged(void **state) {
    (void) state;
    refuse("0.125", "-0.125", "routing");
    refuse("0.125", "1e300", "routing");
    refuse("0.125", "\"x\"", "routing");
    refuse("\"weight\":0.002", "\"weight\":null", "weight");
    refuse(",\"weight\":0.002", "", "weight");
    refuse("\"reach\":0.006", "\"reach\":-1", "reach");
    refuse("\"reach\":0.006", "\"reach\":[]", "reach");
    refuse("\"density\":0.5", "\"density\":-0.5", "density");
    refuse("\"nats_per_swap\":0.04", "\"nats_per_swap\":1e13", "nats_per_swap");
    refuse("\"weight\":0.002", "\"weight\":true", "weight");
    refuse("{\"density\":0.5,\"nats_per_swap\":0.01,\"weight\":0.002}", "7", "routers");
    refuse("\"routing\":{\"routers\"", "\"routing\":{\"other\"", "routers");
    refuse("\"routing\":{\"routers\":[", "\"routing\":[],\"other\":{\"x\":[", "routing");
    /* The type that the source has is no change. */
    refuse("\"bytes\":65536,\"nats\":0}", "\"bytes\":65536,\"nats\":0,\"routing\":1}", "source");
}

static void test_nats(void **state) {
    (void) state;
    assert_close(om_routers_nats(4, 9), 6, 0, 1e-15);
    assert_close(om_routers_nats(0, 9), 0, 0, 0);
    assert_close(om_routers_nats(4, 0), 0, 0, 0);
}

/* ---- the statistics file ---- */

static om_stats *read_stats(const char *name) {
    om_stats *s = NULL;
    om_error err = { 0 };
    if (om_stats_read(&s, path(name), &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return s;
}

static float *floats(int64_t n, float first) {
    float *v = om_calloc((size_t) n, sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        v[i] = first + (float) i / 3.0F;
    }
    return v;
}

static om_stats *example(void) {
    om_stats *s = om_calloc(1, sizeof *s);
    s->tensors = om_calloc(1, sizeof *s->tensors);
    s->n_tensors = 1;
    s->n_windows = s->window_tokens = 1;
    s->tokens = 1;
    om_tensor_stats *t = s->tensors;
    (void) snprintf(t->name, sizeof t->name, "blk.0.ffn_up_exps.weight");
    t->n_in = 4;
    t->n_out = 6;
    t->experts = 3;
    t->in_sum2 = floats(12, 1);
    t->counts = floats(3, 1);
    t->rows = floats(18, 0);
    t->cols = floats(12, 0);
    t->total = 51; /* its rows */
    t->n_nats = 2;
    t->nats = floats(6, 2);
    t->routing = floats(6, 5);
    (void) snprintf(t->nats_types, sizeof t->nats_types, "q4_0,q8_0");
    return s;
}

static void test_stats_round_trip(void **state) {
    (void) state;
    om_error err = { 0 };
    om_stats *s = example();
    assert_int_equal(om_stats_write(s, path("s.gguf"), false, &err), OM_OK);
    om_stats *r = read_stats("s.gguf");
    assert_int_equal(r->tensors->n_nats, 2);
    assert_memory_equal(r->tensors->nats, s->tensors->nats, 6 * sizeof(float));
    assert_memory_equal(r->tensors->routing, s->tensors->routing, 6 * sizeof(float));
    assert_int_equal(om_stats_write(r, path("again.gguf"), false, &err), OM_OK);
    om_stats *again = read_stats("again.gguf");
    assert_string_equal(again->sha256, r->sha256);
    om_stats_free(again);
    om_stats_free(r);
    /* an imatrix has neither */
    assert_int_equal(om_stats_write(s, path("s.gguf"), true, &err), OM_OK);
    r = read_stats("s.gguf");
    assert_true(r->tensors->nats == NULL && r->tensors->routing == NULL);
    om_stats_free(r);
    /* and statistics from before the routers were measured have only the first */
    om_free(s->tensors->routing);
    s->tensors->routing = NULL;
    assert_int_equal(om_stats_write(s, path("s.gguf"), false, &err), OM_OK);
    r = read_stats("s.gguf");
    assert_true(r->tensors->nats != NULL && r->tensors->routing == NULL);
    om_stats_free(r);
    om_stats_free(s);
}

/* With ggml's own writer: expert_routing [n0, n1] beside (or without) expert_nats [2, 3]. */
static void write_foreign(const char *to, bool with_nats, int n0, int n1, float value) {
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){ .mem_size = 1 << 16 });
    struct gguf_context *gguf = gguf_init_empty();
    const struct {
        const char *suffix;
        int n0, n1;
    } parts[] = { { "in_sum2", 4, 3 },     { "counts", 1, 3 },           { "fisher_rows", 6, 3 },
                  { "fisher_cols", 4, 3 }, { "expert_routing", n0, n1 }, { "expert_nats", 2, 3 } };
    gguf_set_val_str(gguf, "general.type", "imatrix");
    gguf_set_val_u32(gguf, "imatrix.chunk_count", 1);
    gguf_set_val_u32(gguf, "imatrix.chunk_size", 1);
    gguf_set_val_f64(gguf, "optimum.stats.total.blk.0.ffn_up_exps.weight", 18);
    gguf_set_val_str(gguf, "optimum.stats.types.blk.0.ffn_up_exps.weight", "q4_0,q8_0");
    for (int i = 0; i < (with_nats ? 6 : 5); i++) {
        struct ggml_tensor *t = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, parts[i].n0, parts[i].n1);
        ggml_format_name(t, "blk.0.ffn_up_exps.weight.%s", parts[i].suffix);
        for (int64_t k = 0; k < ggml_nelements(t); k++) {
            ((float *) t->data)[k] = i == 4 ? value : 1;
        }
        gguf_add_tensor(gguf, t);
    }
    assert_true(gguf_write_to_file(gguf, to, false));
    gguf_free(gguf);
    ggml_free(ctx);
}

static void refuse_stats(bool with_nats, int n0, int n1, float value, om_status want) {
    om_stats *s = NULL;
    om_error err = { 0 };
    write_foreign(path("f.gguf"), with_nats, n0, n1, value);
    assert_int_equal(om_stats_read(&s, path("f.gguf"), &err), want);
    assert_null(s);
    assert_non_null(strstr(err.text, "blk.0.ffn_up_exps.weight"));
    assert_null(strchr(err.text, '\n'));
}

static void test_stats_damaged(void **state) {
    (void) state;
    write_foreign(path("f.gguf"), true, 2, 3, 0.5F);
    om_stats *s = read_stats("f.gguf");
    assert_true(s->tensors->routing != NULL && s->tensors->routing[5] == 0.5F);
    om_stats_free(s);
    refuse_stats(true, 3, 3, 0.5F, OM_E_FORMAT);
    refuse_stats(true, 2, 2, 0.5F, OM_E_FORMAT);
    refuse_stats(true, 3, 2, 0.5F, OM_E_FORMAT);
    refuse_stats(false, 2, 3, 0.5F, OM_E_FORMAT);
    refuse_stats(true, 2, 3, -0.5F, OM_E_NUMERIC);
    refuse_stats(true, 2, 3, NAN, OM_E_NUMERIC);
}

/* ---- a profile ---- */

static om_status run_profile(const om_env *env, int n_windows, bool restart) {
    const char *calib[] = { path("text.txt") };
    const om_profile_options o = { .model = path("model.gguf"),
                                   .calib = calib,
                                   .n_calib = 1,
                                   .out = path("profile.json"),
                                   .types = "q4_0,q8_0",
                                   .n_windows = n_windows,
                                   .window_tokens = T,
                                   .seed = SEED,
                                   .restart = restart };
    om_result result = { 0 };
    om_error err = { 0 };
    const om_status status = om_profile_run(&result, &o, env, &err);
    om_result_release(&result);
    if (status != OM_OK && status != OM_E_CANCELLED) {
        fail_msg("%s", err.text);
    }
    return status;
}

/* Before the router of its layer: attention, embedding. Behind: experts. The last layer's experts
 * and the output reach no router. */
static int routers_behind(const om_unit *u) {
    if (u->layer < 0) {
        return strcmp(u->role, "output") == 0 ? 0 : LAYERS;
    }
    return LAYERS - u->layer - (strncmp(u->role, "ffn_", 4) == 0);
}

static void check_unit(const om_unit *u, const om_tensor_stats *s, const om_routers *r) {
    double reach = 0;
    const int behind = routers_behind(u);
    for (int i = LAYERS - behind; i < LAYERS; i++) {
        reach += r->items[i].weight;
    }
    assert_close(u->reach, reach, 0, 1e-12);
    for (int c = 0; c < u->n_choices; c++) {
        const bool changes = u->choices[c].format != u->source;
        assert_int_equal(u->choices[c].routing > 0, changes && behind > 0);
        assert_true(u->choices[c].nats > 0 || !changes);
    }
    const om_choice *q4 = om_unit_choice(u, om_format_by_name("q4_0")),
                    *q8 = om_unit_choice(u, om_format_by_name("q8_0"));
    assert_true(behind == 0 || q4->routing > 20 * q8->routing); /* 16 times the step */
    assert_int_equal(s->routing != NULL, u->experts > 1);
    for (int i = 0; u->experts > 1 && i < u->experts * s->n_nats; i++) {
        const bool source = i % s->n_nats == s->n_nats - 1;
        const bool seen = u->expert.tokens[i / s->n_nats] > 0;
        assert_true(s->routing[i] >= 0);
        assert_true((s->routing[i] > 0) == (behind > 0 && !source && seen));
    }
}

static void test_profile(void **state) {
    (void) state;
    om_error err = { 0 };
    om_profile *p = NULL;
    assert_int_equal(run_profile(&(om_env){ .n_threads = 1 }, WINDOWS, true), OM_OK);
    assert_int_equal(om_profile_read(&p, path("profile.json"), &err), OM_OK);
    om_stats *s = read_stats("profile.stats.gguf");
    assert_int_equal(p->routers.n, LAYERS);
    for (int i = 0; i < LAYERS; i++) {
        const om_router *r = &p->routers.items[i];
        assert_true(r->density > 0 && r->nats_per_swap > 0);
        /* E[max(0, Z)] of a standard normal is 1/sqrt(2 pi). */
        assert_close(r->weight, r->density * r->nats_per_swap / sqrt(2 * 3.14159265358979324), 0,
                     1e-12);
    }
    for (int i = 0; i < p->n_units; i++) {
        check_unit(&p->units[i], om_stats_find(s, p->units[i].name), &p->routers);
    }
    om_stats_free(s);
    om_profile_free(p);
}

/* ---- the same bytes ---- */

typedef struct stopper {
    const char *stage;
    double at;
    bool now;
} stopper;

static void see_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    stopper *s = ud;
    (void) total, (void) unit;
    s->now = s->now || (strcmp(stage, s->stage) == 0 && done >= s->at);
}

static bool stop_now(void *ud) {
    return ((const stopper *) ud)->now;
}

static void digests(char json[65], char stats[65]) {
    om_error err = { 0 };
    assert_int_equal(om_sha256_file(json, path("profile.json"), NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(stats, path("profile.stats.gguf"), NULL, &err), OM_OK);
}

static void test_threads(void **state) {
    (void) state;
    char want[2][65], got[2][65];
    assert_int_equal(run_profile(&(om_env){ .n_threads = 1 }, 1, true), OM_OK);
    digests(want[0], want[1]);
    assert_int_equal(run_profile(&(om_env){ .n_threads = 2 }, 1, true), OM_OK);
    digests(got[0], got[1]);
    assert_string_equal(got[0], want[0]);
    assert_string_equal(got[1], want[1]);
}

static void test_after_interruption(void **state) {
    (void) state;
    char want[2][65], got[2][65];
    assert_int_equal(run_profile(&(om_env){ .n_threads = 1 }, WINDOWS, true), OM_OK);
    digests(want[0], want[1]);
    /* Stopped while the routers are measured, in the pass, and while the costs are. */
    static const stopper stops[] = { { "routing", 2, false },
                                     { "profile", 2, false },
                                     { "costs", 3, false } };
    for (int i = 0; i < 3; i++) {
        stopper s = stops[i];
        const om_env stopped = {
            .n_threads = 1, .progress = see_progress, .cancelled = stop_now, .ud = &s
        };
        remove(path("profile.json"));
        assert_int_equal(run_profile(&stopped, WINDOWS, i == 0), OM_E_CANCELLED);
        assert_false(om_file_exists(path("profile.json")));
        assert_int_equal(om_file_exists(path("profile.checkpoint")), i > 0);
        if (i == 0) {
            continue; /* nothing to resume */
        }
        assert_int_equal(run_profile(&(om_env){ .n_threads = 1 }, WINDOWS, false), OM_OK);
        digests(got[0], got[1]);
        assert_string_equal(got[0], want[0]);
        assert_string_equal(got[1], want[1]);
    }
}

/* ---- the measurement ---- */

/* Over all windows by hand: only the number of routers and their order are the graph's. */
static void test_measure(void **state) {
    (void) state;
    om_routers one = { 0 }, two = { 0 }, dense = { 0 };
    om_error err = { 0 };
    int32_t tokens[2 * T];
    for (int i = 0; i < 2 * T; i++) {
        tokens[i] = 3 + i * 37 % 251;
    }
    const om_windows w = { .tokens = tokens, .n_windows = 2, .n_tokens = T, .n_vocab = 288 };
    const om_env env = { .n_threads = 1 };
    assert_int_equal(om_routers_measure(&one, path("model.gguf"), &w, SEED, &env, &err), OM_OK);
    assert_int_equal(om_routers_measure(&two, path("model.gguf"), &w, SEED + 1, &env, &err), OM_OK);
    assert_int_equal(one.n, LAYERS);
    for (int i = 0; i < LAYERS; i++) { /* the seed chooses who is sent elsewhere, nothing more */
        assert_close(one.items[i].density, two.items[i].density, 0, 0);
        assert_true(one.items[i].nats_per_swap > 0 && one.items[i].nats_per_swap < 1);
        assert_true(one.items[i].nats_per_swap != two.items[i].nats_per_swap);
    }
    om_tiny_model_write_with(
        path("dense.gguf"),
        &(om_tiny_options){ .arch = "llama", .n_embd = 64, .n_ff = 32, .n_vocab = 288 });
    assert_int_equal(om_routers_measure(&dense, path("dense.gguf"), &w, SEED, &env, &err), OM_OK);
    assert_int_equal(dense.n, 0);
    om_routers_release(&one);
    om_routers_release(&two);
    om_routers_release(&dense);
}

/* Every allocation of our own failing in turn. */
static void test_measure_out_of_memory(void **state) {
    (void) state;
    int32_t tokens[T];
    om_status status = OM_E_NOMEM;
    for (int i = 0; i < T; i++) {
        tokens[i] = 3 + i * 37 % 251;
    }
    const om_windows w = { .tokens = tokens, .n_windows = 1, .n_tokens = T, .n_vocab = 288 };
    const om_env env = { .n_threads = 1 };
    for (long n = 1; n < 200 && status != OM_OK; n++) {
        om_routers r = { 0 };
        om_error err = { 0 };
        om_mem_fail_at(n);
        status = om_routers_measure(&r, path("model.gguf"), &w, SEED, &env, &err);
        om_mem_fail_at(0);
        assert_true(status == OM_OK || (status == OM_E_NOMEM && r.n == 0));
        om_routers_release(&r);
    }
    assert_int_equal(status, OM_OK);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_round_trip),
        cmocka_unit_test(test_json_absent),
        cmocka_unit_test(test_json_damaged),
        cmocka_unit_test(test_nats),
        cmocka_unit_test(test_stats_round_trip),
        cmocka_unit_test(test_stats_damaged),
        cmocka_unit_test(test_measure),
        cmocka_unit_test(test_measure_out_of_memory),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_after_interruption),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
