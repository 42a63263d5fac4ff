/* A report from files on disk: well-formed, inert, honest, and refused when files do not belong
 * together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/safetensors.h"
#include "report/input.h"
#include "report/verdict.h"
#include "html_check.h"
#include "tmpdir.h"

#define SHA_M "1111111111111111111111111111111111111111111111111111111111111111"
#define SHA_C "2222222222222222222222222222222222222222222222222222222222222222"
#define SHA_T "3333333333333333333333333333333333333333333333333333333333333333"

enum { N_LAYERS = 3, N_UNITS = 2 * N_LAYERS + 1, N_TYPES = 4 };

typedef struct fixture {
    char *dir;
    char profile[256], allocation[256], eval[256], baseline[2][256], sweep[256], html[256];
    const char *baselines[2];
    int64_t bytes;
    om_report_options options;
} fixture;

static void path_to(char dst[256], const fixture *f, const char *name) {
    (void) snprintf(dst, 256, "%s", om_tmpdir_path(f->dir, name));
}

/* ---- files ---- */

static void fill_unit(om_unit *u, om_choice *choices, const char *name, const char *role, int layer,
                      int64_t n_out) {
    static const char *const types[N_TYPES] = { "q3_K", "q4_K", "q6_K", "bf16" };
    static const double nats[N_TYPES] = { 4e-3, 1e-3, 6e-5, 0 };
    (void) snprintf(u->name, sizeof u->name, "%s", name);
    (void) snprintf(u->role, sizeof u->role, "%s", role);
    u->layer = layer;
    u->n_out = n_out;
    u->n_in = 256;
    u->experts = 1;
    u->params = n_out * 256;
    u->source = om_format_by_name("bf16");
    u->fisher_trace = 3;
    u->choices = choices;
    u->n_choices = N_TYPES;
    for (int i = 0; i < N_TYPES; i++) {
        const om_format *f = om_format_by_name(types[i]);
        choices[i] = (om_choice){ .format = f,
                                  .bytes = om_format_size(f, 256, n_out),
                                  .nats = nats[i] * (layer + 2) };
    }
}

static void write_profile(const fixture *f, uint64_t seed) {
    om_unit units[N_UNITS] = { 0 };
    om_choice choices[N_UNITS][N_TYPES];
    char name[64];
    /* Names come from a file that anybody may have made. */
    fill_unit(&units[0], choices[0], "token_embd\"><script>.weight", "token_embd\"><script>", -1,
              512);
    for (int l = 0; l < N_LAYERS; l++) {
        (void) snprintf(name, sizeof name, "blk.%d.attn_v.weight", l);
        fill_unit(&units[1 + 2 * l], choices[1 + 2 * l], name, "attn_v", l, 64);
        (void) snprintf(name, sizeof name, "blk.%d.ffn_<b>.weight", l);
        fill_unit(&units[2 + 2 * l], choices[2 + 2 * l], name, "ffn_<b>", l, 256);
    }
    char calib[1][65] = { SHA_C };
    om_profile p = { .model_path = "/models/<img src=x>&\"model\".gguf",
                     .model_sha256 = SHA_M,
                     .arch = "llama",
                     .params = 512 * 256 + N_LAYERS * 320 * 256,
                     .file_bytes = 1000000,
                     .calib_sha256 = calib,
                     .n_calib = 1,
                     .n_windows = 4,
                     .window_tokens = 128,
                     .seed = seed,
                     .tokens = 512,
                     .metadata_bytes = 4096,
                     .alignment = 32,
                     .method = "fisher",
                     .units = units,
                     .n_units = N_UNITS };
    om_error err = { 0 };
    if (om_profile_write(&p, f->profile, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
}

static void write_allocation(fixture *f, int n_tensors) {
    om_error err = { 0 };
    om_profile *p = NULL;
    om_assignment tensors[N_UNITS];
    assert_int_equal(om_profile_read(&p, f->profile, &err), OM_OK);
    om_allocation a = { .model_sha256 = SHA_M,
                        .plan = "optimal",
                        .budget_kind = "size",
                        .budget_bytes = 300000,
                        .tensors = tensors,
                        .n_tensors = n_tensors,
                        .bytes = f->bytes,
                        .bpw = 4.6,
                        .predicted_nats = 0.021,
                        .solver = { .status = "optimal", .seconds = 0.25 } };
    memcpy(a.profile_sha256, p->sha256, 65);
    for (int i = 0; i < n_tensors; i++) {
        memcpy(tensors[i].name, p->units[i].name, 64);
        tensors[i].format = om_format_by_name(i % 2 ? "q6_K" : "q4_K");
    }
    assert_int_equal(om_allocation_write(&a, f->allocation, &err), OM_OK);
    om_profile_free(p);
}

static om_evaluation evaluation(const char *label, int64_t bytes, double kld) {
    om_evaluation e = { .model_path = "/out/file.gguf",
                        .model_sha256 = SHA_C,
                        .reference_path = "/models/ref.gguf",
                        .reference_sha256 = SHA_M,
                        .text_sha256 = SHA_T,
                        .score = "all",
                        .n_ctx = 512,
                        .n_chunks = 40,
                        .tokens = 20440,
                        .ppl = 12.5,
                        .ppl_stderr = .1,
                        .ppl_reference = 12.2,
                        .kld_mean = kld,
                        .kld_stderr = kld / 60,
                        .kld_median = kld / 2,
                        .kld_p99 = 9 * kld,
                        .kld_max = 60 * kld,
                        .top1_agreement = .962,
                        .file_bytes = bytes,
                        .bpw = 4.6,
                        .device = "CPU <fast>" };
    (void) snprintf(e.label, sizeof e.label, "%s", label);
    return e;
}

static void write_evaluation(const char *path, om_evaluation e) {
    om_error err = { 0 };
    if (om_evaluation_write(&e, path, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
}

static int setup(void **state) {
    static fixture f;
    f = (fixture){ .dir = om_tmpdir_new(), .bytes = 250000 };
    path_to(f.profile, &f, "profile.json");
    path_to(f.allocation, &f, "allocation.json");
    path_to(f.eval, &f, "eval.json");
    path_to(f.baseline[0], &f, "b0.json");
    path_to(f.baseline[1], &f, "b1.json");
    path_to(f.html, &f, "report.html");
    write_profile(&f, 7);
    write_allocation(&f, N_UNITS);
    write_evaluation(f.eval, evaluation("optimal", f.bytes, 0.0234));
    write_evaluation(f.baseline[0], evaluation("preset:Q3_K_M", f.bytes - 1000, 0.0459));
    write_evaluation(f.baseline[1], evaluation("preset:Q4_K_M", f.bytes + 9000, 0.0101));
    static const char sweep[] =
        "{\"schema\":\"optimum.sweep/1\",\"curve\":[{\"bytes\":200000,\"bpw\":3.7,\"nats\":0.08},"
        "{\"bytes\":300000,\"bpw\":5.5,\"nats\":0.006},{\"bytes\":500000,\"nats\":0}],"
        "\"presets\":[{\"name\":\"Q3_K_M\",\"bytes\":249000,\"nats\":0.04},"
        "{\"name\":\"<Q9>\",\"bytes\":270000,\"nats\":0.02}]}";
    (void) snprintf(f.sweep, sizeof f.sweep, "%s",
                    om_tmpdir_write(f.dir, "curve.json", sweep, sizeof sweep - 1));
    f.baselines[0] = f.baseline[0];
    f.baselines[1] = f.baseline[1];
    f.options = (om_report_options){ .profile = f.profile,
                                     .allocation = f.allocation,
                                     .eval = f.eval,
                                     .baselines = f.baselines,
                                     .n_baselines = 2,
                                     .sweep = f.sweep,
                                     .out = f.html };
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    om_tmpdir_remove(f->dir);
    return 0;
}

/* ---- running it ---- */

static char *report(const fixture *f) {
    om_result r = { 0 };
    om_error err = { 0 };
    const om_env env = { 0 };
    char *html = NULL;
    size_t n = 0;
    if (om_report(&r, &f->options, &env, &err) != OM_OK) {
        fail_msg("%s: %s", err.where, err.text);
    }
    assert_int_equal(om_file_read(&html, &n, f->html, 1 << 24, &err), OM_OK);
    assert_int_equal(strlen(html), n);
    om_result_release(&r);
    return html;
}

static void refused(const fixture *f, om_status expected, const char *word) {
    om_result r = { 0 };
    om_error err = { 0 };
    const om_env env = { 0 };
    assert_int_equal(om_report(&r, &f->options, &env, &err), expected);
    if (!strstr(err.text, word)) {
        fail_msg("\"%s\" does not mention %s", err.text, word);
    }
    assert_null(r.text);
    assert_false(om_file_exists(f->html));
    assert_string_equal(err.where, "report");
}

/* ---- tests ---- */

static void is_well_formed_and_inert(void **state) {
    fixture *f = *state;
    char *html = report(f);
    check_balanced(html);
    assert_null(strstr(html, "{{"));
    assert_int_equal(count(html, "<script"), 1);
    assert_null(strstr(html, "<img"));
    assert_null(strstr(html, "<b>.weight"));
    assert_null(strstr(html, "<Q9>"));
    assert_non_null(strstr(html, "&lt;Q9&gt;"));
    assert_non_null(strstr(html, "CPU &lt;fast&gt;"));
    /* Nothing is loaded from anywhere, and no path of the machine is shown. */
    assert_null(strstr(html, "http://"));
    assert_null(strstr(html, "https://"));
    assert_null(strstr(html, " src=\""));
    assert_null(strstr(html, "/models/"));
    assert_null(strstr(html, "/out/"));
    om_free(html);
}

static void says_what_was_found(void **state) {
    fixture *f = *state;
    char *html = report(f);
    assert_non_null(strstr(html, "51 % of the KLD of Q3_K_M at the same size"));
    assert_non_null(strstr(html, "0.0234\xC2\xA0±\xC2\xA0"
                                 "0.0004"));
    assert_non_null(strstr(html, "96.2\xC2\xA0%"));
    assert_non_null(strstr(html, "seed 7"));
    assert_non_null(strstr(html, SHA_M));
    assert_non_null(strstr(html, SHA_T));
    /* One cell per tensor in each heat map, two drawings of the chart. */
    assert_int_equal(count(html, "<td class=\"b"), 2 * N_LAYERS);
    assert_int_equal(count(html, "<td class=\"s"), 2 * N_LAYERS);
    assert_int_equal(count(html, "role=\"img\""), 2);
    om_free(html);
}

static void equal_inputs_give_equal_bytes(void **state) {
    fixture *f = *state;
    char *a = report(f), *b = report(f);
    assert_string_equal(a, b);
    om_free(a);
    om_free(b);
}

static void admits_a_loss(void **state) {
    fixture *f = *state;
    write_evaluation(f->baseline[0], evaluation("preset:Q3_K_M", f->bytes, 0.0200));
    char *html = report(f);
    assert_non_null(strstr(html, "class=\"hero worse\""));
    assert_non_null(strstr(html, "Worse: 1.17 times the KLD of Q3_K_M"));
    om_free(html);
    write_evaluation(f->baseline[0], evaluation("preset:Q3_K_M", f->bytes, 0.0232));
    html = report(f);
    assert_non_null(strstr(html, "No measurable difference from Q3_K_M"));
    om_free(html);
}

static void works_without_measurement(void **state) {
    fixture *f = *state;
    f->options.eval = NULL;
    f->options.n_baselines = 0;
    f->options.sweep = NULL;
    char *html = report(f);
    check_balanced(html);
    assert_non_null(strstr(html, "Not measured"));
    assert_non_null(strstr(html, "class=\"hero none\""));
    om_free(html);
}

static void refuses_a_broken_chain(void **state) {
    fixture *f = *state;
    write_evaluation(f->eval, evaluation("optimal", f->bytes + 1, 0.02));
    refused(f, OM_E_MISMATCH, "bytes");
    write_evaluation(f->eval, evaluation("optimal", f->bytes, 0.02));

    om_evaluation other = evaluation("preset:Q3_K_M", f->bytes, 0.02);
    other.text_sha256[0] = '9';
    write_evaluation(f->baseline[1], other);
    refused(f, OM_E_MISMATCH, "text");
    other = evaluation("preset:Q3_K_M", f->bytes, 0.02);
    other.reference_sha256[0] = '9';
    write_evaluation(f->baseline[1], other);
    refused(f, OM_E_MISMATCH, "reference");
    other = evaluation("preset:Q3_K_M", f->bytes, 0.02);
    other.tokens++;
    write_evaluation(f->baseline[1], other);
    refused(f, OM_E_MISMATCH, "chunks");
    write_evaluation(f->baseline[1], evaluation("preset:Q3_K_M", f->bytes, 0.02));

    write_allocation(f, N_UNITS - 1);
    refused(f, OM_E_MISMATCH, "no type");
    write_allocation(f, N_UNITS);

    static const char sweep[] =
        "{\"schema\":\"optimum.sweep/1\",\"profile_sha256\":\"" SHA_C "\",\"curve\":[]}";
    (void) om_tmpdir_write(f->dir, "curve.json", sweep, sizeof sweep - 1);
    refused(f, OM_E_MISMATCH, "curve");
    f->options.sweep = NULL;

    write_profile(f, 8); /* another profile than the allocation's */
    refused(f, OM_E_MISMATCH, "another profile");
}

static void refuses_damaged_sweeps(void **state) {
    fixture *f = *state;
    static const char *const bad[] = {
        "{\"schema\":\"optimum.sweep/1\"}",
        "{\"schema\":\"optimum.sweep/1\",\"curve\":[{\"bytes\":0,\"nats\":1}]}",
        "{\"schema\":\"optimum.sweep/1\",\"curve\":[{\"bytes\":5,\"nats\":-1}]}",
        "{\"schema\":\"optimum.sweep/1\",\"curve\":[],\"presets\":[{\"bytes\":5,\"nats\":1}]}",
        ("{\"schema\":\"optimum.sweep/1\",\"curve\":[],\"presets\":[{\"name\":\"\",\"bytes\":5,"
         "\"nats\":1}]}"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        (void) om_tmpdir_write(f->dir, "curve.json", bad[i], strlen(bad[i]));
        refused(f, OM_E_FORMAT, "curve.json");
    }
    f->options.out = NULL;
    refused(f, OM_E_ARG, "output");
}

/* model.safetensors that says it was made from an allocation. */
static void write_shard(const fixture *f, const char *allocation) {
    char record[160];
    om_error err = { 0 };
    unsigned char *header = NULL;
    size_t n = 0;
    (void) snprintf(record, sizeof record,
                    "{\"schema\":\"optimum.mlx/1\",\"allocation_sha256\":\"%s\"}", allocation);
    const om_st_tensor tensor = { .name = "x", .dtype = OM_ST_U8, .n_dims = 1, .shape = { 0 } };
    const char *const metadata[][2] = { { "optimum", record } };
    assert_int_equal(om_st_header(&header, &n, &tensor, 1, metadata, 1, 0, &err), OM_OK);
    om_tmpdir_write(f->dir, "model.safetensors", header, n);
    om_free(header);
}

/* What is said of llama.cpp is not said of a directory for mlx-lm. */
static void speaks_of_the_runtime(void **state) {
    fixture *f = *state;
    char *html = report(f);
    assert_non_null(strstr(html, "llama-server -m file.gguf"));
    assert_non_null(strstr(html, "round activations to 8 bits"));
    om_free(html);
    om_error err = { 0 };
    om_profile *p = NULL;
    om_allocation *a = NULL;
    assert_int_equal(om_profile_read(&p, f->profile, &err), OM_OK);
    p->mlx.known = true;
    for (int i = 0; i < p->n_units; i++) { /* something to choose in MLX */
        om_choice *c = &p->units[i].choices[0];
        c->format = om_format_by_name("mlx_4bit_g64");
        c->bytes = om_format_size(c->format, p->units[i].n_in, p->units[i].n_out);
    }
    assert_int_equal(om_profile_write(p, f->profile, &err), OM_OK);
    om_profile_free(p);
    assert_int_equal(om_profile_read(&p, f->profile, &err), OM_OK);
    assert_int_equal(om_allocation_read(&a, f->allocation, &err), OM_OK);
    memcpy(a->profile_sha256, p->sha256, sizeof a->profile_sha256);
    a->container = OM_CONTAINER_MLX;
    for (int i = 0; i < a->n_tensors; i++) {
        a->tensors[i].format = om_format_by_name("mlx_4bit_g64");
    }
    assert_int_equal(om_allocation_write(a, f->allocation, &err), OM_OK);
    om_evaluation e = evaluation("optimal", f->bytes, 0.0234);
    e.container = OM_CONTAINER_MLX;
    write_evaluation(f->eval, e);
    html = report(f);
    assert_non_null(strstr(html, "mlx_lm.server --model file.gguf"));
    assert_null(strstr(html, "round activations to 8 bits"));
    assert_null(strstr(html, "llama-server"));
    om_free(html);
    om_profile_free(p);
    om_allocation_free(a);
    /* The directory itself says which allocation made it. */
    (void) snprintf(e.model_path, sizeof e.model_path, "%s", f->dir);
    write_evaluation(f->eval, e);
    assert_int_equal(om_allocation_read(&a, f->allocation, &err), OM_OK);
    write_shard(f, a->sha256);
    om_free(report(f));
    write_shard(f, SHA_T);
    assert_int_equal(unlink(f->html), 0);
    refused(f, OM_E_MISMATCH, "another allocation");
    om_allocation_free(a);
}

static void compares_fairly(void **state) {
    (void) state;
    om_evaluation ours = evaluation("optimal", 1000, 0.02), a = evaluation("preset:A", 1000, 0.03),
                  b = evaluation("preset:B", 900, 0.025), big = evaluation("preset:C", 1001, 0.001);
    om_evaluation *const all[] = { &a, &b, &big };
    om_verdict v = om_verdict_of(&ours, all, 3);
    assert_int_equal(v.kind, OM_VERDICT_BETTER);
    assert_int_equal(v.i_rival, 1); /* the best that is not larger, though smaller than needed */
    assert_true(v.ratio > 0.799 && v.ratio < 0.801);
    v = om_verdict_of(&ours, &all[2], 1);
    assert_int_equal(v.kind, OM_VERDICT_NONE);
    assert_int_equal(v.i_rival, -1);
    ours.kld_stderr = a.kld_stderr = 0;
    v = om_verdict_of(&ours, all, 1);
    assert_int_equal(v.kind, OM_VERDICT_BETTER);
    ours.kld_mean = a.kld_mean = 0;
    v = om_verdict_of(&ours, all, 1);
    assert_int_equal(v.kind, OM_VERDICT_EQUAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(is_well_formed_and_inert, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_was_found, setup, teardown),
        cmocka_unit_test_setup_teardown(equal_inputs_give_equal_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(admits_a_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(works_without_measurement, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_broken_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_damaged_sweeps, setup, teardown),
        cmocka_unit_test_setup_teardown(speaks_of_the_runtime, setup, teardown),
        cmocka_unit_test(compares_fairly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
