/* mlx_lm.convert's recipes, and allocations for MLX from profile to file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "alloc/plans.h"
#include "alloc/recipes.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/file.h"
#include "tmpdir.h"

enum { LAYERS = 30 };

static char *dir;
static const char *profile_path;

/* Five matrices a layer in four types, the more bits the better; and an embedding. */
static void put_tensor(om_buf *b, const char *name, const char *role, int layer, double weight) {
    static const struct {
        const char *name;
        int bytes;
        double nats;
    } types[] = { { "mlx_2bit_g64", 64 * 160, 1 },
                  { "mlx_3bit_g64", 64 * 224, 0.2 },
                  { "mlx_4bit_g64", 64 * 288, 0.05 },
                  { "mlx_6bit_g64", 64 * 416, 0.003 },
                  { "mlx_8bit_g128", 64 * 528, 0.0002 } };
    om_buf_printf(b,
                  "%s{\"name\":\"%s\",\"role\":\"%s\",\"layer\":%d,\"shape\":[64,512],"
                  "\"experts\":1,\"params\":32768,\"source\":\"bf16\",\"fisher_trace\":1,"
                  "\"probe\":[1,2,3,4,5,6,7,8],\"types\":{\"bf16\":{\"bytes\":65536,\"nats\":0}",
                  layer < 0 ? "" : ",\n", name, role, layer);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        om_buf_printf(b, ",\"%s\":{\"bytes\":%d,\"nats\":%g}", types[i].name, types[i].bytes,
                      weight * types[i].nats);
    }
    om_buf_puts(b, "}}");
}

static char *profile_text(void) {
    static const char *const roles[] = { "attn_q", "attn_v", "ffn_gate", "ffn_up", "ffn_down" };
    om_buf b = { 0 };
    om_buf_printf(&b,
                  "{\"schema\":\"optimum.profile/1\",\"tool\":\"t\",\"model\":{\"path\":\"m.gguf\","
                  "\"sha256\":\"\",\"arch\":\"llama\",\"params\":%d,\"file_bytes\":1},"
                  "\"calibration\":{\"files\":[],\"windows\":8,\"window_tokens\":512,\"seed\":0,"
                  "\"tokens\":4088},\"container\":{\"metadata_bytes\":1000,\"alignment\":32,"
                  "\"fixed\":[],\"mlx\":{\"metadata_bytes\":3000,\"fixed\":[]}},"
                  "\"memory\":{\"kv_bytes_per_token\":[],\"window\":[],\"compute_bytes\":77},"
                  "\"method\":\"fisher\",\"tensors\":[",
                  32768 * (5 * LAYERS + 1));
    put_tensor(&b, "token_embd.weight", "token_embd", -1, 1);
    for (int i = 0; i < LAYERS; i++) {
        for (int k = 0; k < 5; k++) {
            char name[64];
            (void) snprintf(name, sizeof name, "blk.%d.%s.weight", i, roles[k]);
            put_tensor(&b, name, roles[k], i, 1.0 + (i * 7 + k * 3) % 5);
        }
    }
    om_buf_puts(&b, "]}\n");
    return om_buf_take(&b);
}

static int set_up(void **state) {
    (void) state;
    om_error err = { 0 };
    dir = om_tmpdir_new();
    profile_path = om_strdup(om_tmpdir_path(dir, "profile.json"));
    char *text = profile_text();
    const om_status status = om_file_write(profile_path, text, strlen(text), &err);
    om_free(text);
    return status == OM_OK ? 0 : 1;
}

static int tear_down(void **state) {
    (void) state;
    om_free((char *) (uintptr_t) profile_path);
    om_tmpdir_remove(dir);
    return 0;
}

static om_status allocate(om_allocation **out, om_allocate_options o, om_error *err) {
    om_result result = { 0 };
    memset(err, 0, sizeof *err);
    o.profile = profile_path;
    o.out = om_tmpdir_path(dir, "allocation.json");
    om_status status = om_allocate(&result, &o, NULL, err);
    if (status == OM_OK && om_allocation_read(out, o.out, err) != OM_OK) {
        fail_msg("%s", err->text);
    }
    om_result_release(&result);
    return status;
}

/* Layers with the high width of a model of 30, as measured on mlx-lm 0.32.2. */
static bool is_high(int layer) {
    static const int high[] = { 0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29 };
    for (size_t i = 0; i < sizeof high / sizeof high[0]; i++) {
        if (high[i] == layer) {
            return true;
        }
    }
    return false;
}

static void test_mixed(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    const om_allocate_options o = { .plan = "mlx:mixed_3_6", .to = "mlx" };
    assert_int_equal(allocate(&a, o, &err), OM_OK);
    assert_int_equal(a->container, OM_CONTAINER_MLX);
    assert_string_equal(a->plan, "mlx:mixed_3_6");
    int64_t bytes = 3000;
    for (int i = 0; i < a->n_tensors; i++) {
        const char *name = a->tensors[i].name;
        int layer = -1;
        char role[32] = "";
        (void) sscanf(name, "blk.%d.%31[a-z_]", &layer, role);
        const bool may = strcmp(role, "attn_v") == 0 || strcmp(role, "ffn_down") == 0;
        const bool high = may && is_high(layer);
        assert_string_equal(a->tensors[i].format->name, high ? "mlx_6bit_g64" : "mlx_3bit_g64");
        bytes += om_format_size(a->tensors[i].format, 512, 64);
        assert_true(a->tensors[i].probe.known);
    }
    assert_int_equal(a->bytes, bytes);
    om_allocation_free(a);
}

static void test_uniform(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    assert_int_equal(
        allocate(&a, (om_allocate_options){ .plan = "mlx:uniform_4", .to = "mlx" }, &err), OM_OK);
    for (int i = 0; i < a->n_tensors; i++) {
        assert_string_equal(a->tensors[i].format->name, "mlx_4bit_g64");
    }
    om_allocation_free(a);
}

/* The solver at the recipe's size is never worse, and gate and up need not be alike. */
static void test_optimal_beats_recipe(void **state) {
    (void) state;
    om_allocation *recipe = NULL, *best = NULL;
    om_error err;
    assert_int_equal(
        allocate(&recipe, (om_allocate_options){ .plan = "mlx:mixed_4_6", .to = "mlx" }, &err),
        OM_OK);
    const om_budget budget = { .kind = OM_BUDGET_SIZE, .bytes = recipe->bytes };
    assert_int_equal(allocate(&best, (om_allocate_options){ .budget = budget, .to = "mlx" }, &err),
                     OM_OK);
    assert_true(best->bytes <= recipe->bytes);
    assert_true(best->predicted_nats < recipe->predicted_nats);
    bool differ = false;
    for (int i = 0; i < LAYERS; i++) {
        char gate[64], up[64];
        (void) snprintf(gate, sizeof gate, "blk.%d.ffn_gate.weight", i);
        (void) snprintf(up, sizeof up, "blk.%d.ffn_up.weight", i);
        differ |= om_allocation_find(best, gate) != om_allocation_find(best, up);
    }
    assert_true(differ);
    om_allocation_free(recipe);
    om_allocation_free(best);
}

static void test_refusals(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    static const struct {
        const char *plan, *to, *says;
    } cases[] = {
        { "mlx:mixed_5_6", "mlx", "mixed_4_6" },
        { "preset:Q4_K_M", "mlx", "llama-quantize" },
        { "mlx:mixed_4_6", "gguf", "--to" },
        { "mlx:mixed_4_6", "onnx", "gguf or mlx" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const om_allocate_options o = { .plan = cases[i].plan, .to = cases[i].to };
        assert_int_equal(allocate(&a, o, &err), OM_E_ARG);
        if (strstr(err.text, cases[i].says) == NULL) {
            fail_msg("%s: %s", cases[i].plan, err.text);
        }
    }
}

static void test_baselines_of_gguf(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    const om_budget budget = { .kind = OM_BUDGET_BPW, .bpw = 6 };
    const om_allocate_options o = { .budget = budget, .method = "mopeq", .to = "mlx" };
    assert_int_equal(allocate(&a, o, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "types of GGUF"));
}

/* Types of the other container, and a word that is none. */
static void test_reader(void **state) {
    (void) state;
    static const char text[] =
        "{\"schema\":\"optimum.allocation/1\",\"tool\":\"t\",\"profile_sha256\":\"\",\"to\":\"%s\","
        "\"plan\":\"x\",\"budget\":{\"kind\":\"none\",\"bytes\":0},"
        "\"tensors\":{\"a.weight\":\"%s\"},\"probes\":{\"a.weight\":[1,2,3,4,5,6,7%s]},"
        "\"bytes\":1,\"bpw\":1,\"predicted_nats\":0,\"solver\":{\"status\":\"none\"}}";
    static const struct {
        const char *to, *type, *rest;
        om_status status;
    } cases[] = {
        { "mlx", "mlx_4bit_g64", ",8", OM_OK },       { "mlx", "bf16", ",8", OM_OK },
        { "mlx", "q4_K", ",8", OM_E_FORMAT },         { "gguf", "mlx_4bit_g64", ",8", OM_E_FORMAT },
        { "mlx", "mlx_4bit_g64", "", OM_E_FORMAT },   { "x", "q4_K", ",8", OM_E_FORMAT },
        { "mlx", "mlx_7bit_g64", ",8", OM_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char doc[1024];
        om_allocation *a = NULL;
        om_error err = { 0 };
        const int n = snprintf(doc, sizeof doc, text, cases[i].to, cases[i].type, cases[i].rest);
        const om_status status = om_allocation_parse(&a, doc, (size_t) n, "a.json", &err);
        if (status != cases[i].status) {
            fail_msg("case %zu: %d %s", i, status, err.text);
        }
        if (status == OM_OK) {
            assert_true(a->tensors[0].probe.norm[3] == 8);
        }
        om_allocation_free(a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_optimal_beats_recipe),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_baselines_of_gguf),
        cmocka_unit_test(test_reader),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
