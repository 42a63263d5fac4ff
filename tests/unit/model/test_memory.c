/* Our KV bytes against what libllama itself allocates, and budgets. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <llama.h>

#include "model/llama_log.h"
#include "model/memory.h"
#include "model/memory_sim.h"
#include "tiny_model.h"
#include "tmpdir.h"

static char *dir;

static int setup(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return 0;
}

static int teardown(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static void memory_of(om_memory *m, const char *path) {
    om_model *model = NULL;
    om_error err = { 0 };
    assert_int_equal(om_model_open(&model, path, &err), OM_OK);
    assert_int_equal(om_memory_of(m, model, NULL, &err), OM_OK);
    om_model_free(model);
}

/* Real contexts: bytes of K and V that libllama reports for them, by its log. */
static void read_kv(void *ud, const char *line) {
    const char *p = strstr(line, "size = ");
    if (p != NULL && strstr(line, " cells,") != NULL && strstr(line, "), K (") != NULL) {
        *(double *) ud += strtod(p + 7, NULL) * 1048576.0;
    }
}

static double llama_kv_bytes(const char *path, int n_ctx, enum ggml_type type) {
    double bytes = 0;
    om_llama_log log = { .line = read_kv, .ud = &bytes };
    om_llama_log_begin(&log, NULL);
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    assert_non_null(model);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = (uint32_t) n_ctx;
    cp.type_k = cp.type_v = type;
    cp.swa_full = false;
    cp.n_threads = cp.n_threads_batch = 1;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    assert_non_null(ctx);
    llama_free(ctx);
    llama_model_free(model);
    om_llama_log_end(&log);
    return bytes;
}

static void check_kv(const char *path) {
    static const struct {
        int n_ctx;
        enum ggml_type type;
    } cases[] = { { 512, GGML_TYPE_F16 },
                  { 700, GGML_TYPE_F16 },
                  { 2048, GGML_TYPE_F16 },
                  { 2048, GGML_TYPE_Q8_0 },
                  { 8192, GGML_TYPE_Q4_0 } };
    om_memory m;
    memory_of(&m, path);
    assert_false(m.compute_estimated);
    assert_true(m.compute_bytes > 100000);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double theirs = llama_kv_bytes(path, cases[i].n_ctx, cases[i].type);
        double ours =
            (double) om_memory_kv_bytes(&m, cases[i].n_ctx, ggml_type_name(cases[i].type));
        if (fabs(ours - theirs) > 12000) { /* the log has 0.01 MiB, twice with windows */
            print_message("%s, %d tokens: ours %.0f, libllama %.0f\n", path, cases[i].n_ctx, ours,
                          theirs);
            fail();
        }
    }
    om_memory_release(&m);
}

static void test_kv_equals_libllama(void **state) {
    (void) state;
    static const char *const archs[] = { "llama", "qwen2", "qwen3moe", "gemma2", "gemma3", "phi3" };
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        const char *path = om_tmpdir_path(dir, archs[i]);
        om_tiny_options o = { .arch = archs[i], .n_layer = 7, .n_head_kv = i % 2 ? 4 : 2 };
        o.n_embd = 128;
        o.n_ff = 64;
        om_tiny_model_write_with(path, &o);
        check_kv(path);
    }
}

/* The tables, without libllama's correction: gemma 2 alternates, gemma 3 has every sixth global. */
static void test_windows(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "window");
    om_tiny_options o = { .arch = "gemma3", .n_layer = 7, .n_window = 100 };
    om_tiny_model_write_with(path, &o);
    om_memory m;
    memory_of(&m, path);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(m.window[i], i == 5 ? 0 : 100);
        assert_int_equal(m.kv_values_per_token[i], 2 * 2 * 64);
    }
    om_memory_release(&m);
    o.arch = "gemma2";
    om_tiny_model_write_with(path, &o);
    memory_of(&m, path);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(m.window[i], i % 2 ? 0 : 100);
    }
    om_memory_release(&m);
}

static void test_compute_grows_with_context(void **state) {
    (void) state;
    static const char *const archs[] = { "llama", "gemma3" };
    for (int i = 0; i < 2; i++) {
        const char *path = om_tmpdir_path(dir, archs[i]);
        om_tiny_model_write(path, archs[i], GGML_TYPE_BF16);
        om_memory m;
        memory_of(&m, path);
        om_memory_sim sim;
        static const int contexts[] = { 512, 4096, 16384, 65536 };
        for (int k = 0; k < 4; k++) {
            assert_true(om_memory_simulate(&sim, path, contexts[k], NULL));
            assert_true((double) om_memory_compute_bytes(&m, contexts[k]) >=
                        sim.compute_bytes - 12000);
        }
        om_memory_release(&m);
    }
}

static om_memory *example(void) {
    static int64_t values[3] = { 1024, 512, 0 }, window[3] = { 0, 1000, 0 };
    static om_memory m = { .n_layers = 3, .compute_bytes = 50 << 20 };
    m.kv_values_per_token = values;
    m.window = window;
    return &m;
}

static void test_kv_bytes(void **state) {
    (void) state;
    const om_memory *m = example();
    assert_int_equal(om_memory_kv_bytes(m, 4096, "f16"), 2 * (1024 * 4096 + 512 * 1536));
    assert_int_equal(om_memory_kv_bytes(m, 4000, "f16"), 2 * (1024 * 4096 + 512 * 1536));
    assert_int_equal(om_memory_kv_bytes(m, 1, "f16"), 2 * (1024 + 512) * 256);
    assert_int_equal(om_memory_kv_bytes(m, 4096, "Q8_0"), (1024 * 4096 + 512 * 1536) / 32 * 34);
    assert_int_equal(om_memory_kv_bytes(m, 0, "f16"), 0);
    assert_int_equal(om_memory_kv_bytes(m, 4096, "q4_K"), -1);
    assert_int_equal(om_memory_kv_bytes(m, 4096, "none"), -1);
    assert_true(om_memory_kv_bytes(m, INT32_MAX, "f32") > 0);
}

static void test_budget(void **state) {
    (void) state;
    const om_memory *m = example();
    om_error err = { 0 };
    int64_t out = -5;
    om_budget b = { .kind = OM_BUDGET_SIZE, .bytes = 123456789 };
    assert_int_equal(om_budget_file_bytes(&out, &b, m, 1000, &err), OM_OK);
    assert_int_equal(out, 123456789);
    b = (om_budget){ .kind = OM_BUDGET_BPW, .bpw = 4.5 };
    assert_int_equal(om_budget_file_bytes(&out, &b, m, 1001, &err), OM_OK);
    assert_int_equal(out, 563); /* 563.06 */
    b = (om_budget){ .kind = OM_BUDGET_MEMORY, .bytes = 1 << 30, .n_ctx = 8192, .kv_type = "q8_0" };
    b.reserve_bytes = 1 << 20;
    assert_int_equal(om_budget_file_bytes(&out, &b, m, 1000, &err), OM_OK);
    assert_int_equal(out, (1 << 30) - (1 << 20) - om_memory_kv_bytes(m, 8192, "q8_0") -
                              om_memory_compute_bytes(m, 8192));
    b = (om_budget){ .kind = OM_BUDGET_MEMORY, .bytes = 1 << 30 }; /* 4096, f16, 256 MiB */
    assert_int_equal(om_budget_file_bytes(&out, &b, m, 1000, &err), OM_OK);
    assert_int_equal(out,
                     (1 << 30) - (256 << 20) - om_memory_kv_bytes(m, 4096, "f16") - (50 << 20));

    static const struct {
        om_budget budget;
        om_status status;
        const char *text;
    } bad[] = {
        { { .kind = OM_BUDGET_NONE }, OM_E_ARG, "budget" },
        { { .kind = OM_BUDGET_SIZE, .bytes = 0 }, OM_E_ARG, "size" },
        { { .kind = OM_BUDGET_BPW, .bpw = -1 }, OM_E_ARG, "bits per weight" },
        { { .kind = OM_BUDGET_BPW, .bpw = (double) NAN }, OM_E_ARG, "bits per weight" },
        { { .kind = OM_BUDGET_MEMORY, .bytes = -1 }, OM_E_ARG, "memory" },
        { { .kind = OM_BUDGET_MEMORY, .bytes = 1 << 30, .kv_type = "q4_K" }, OM_E_ARG, "q8_0" },
        { { .kind = OM_BUDGET_MEMORY, .bytes = 300 << 20 }, OM_E_INFEASIBLE, "KV cache" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (om_error){ 0 };
        out = 7;
        assert_int_equal(om_budget_file_bytes(&out, &bad[i].budget, m, 1000, &err), bad[i].status);
        assert_non_null(strstr(err.text, bad[i].text));
        assert_int_equal(out, 7);
    }
}

static void test_log_hook_is_put_back(void **state) {
    (void) state;
    ggml_log_callback before = NULL, after = NULL;
    void *ud_before = NULL, *ud_after = NULL;
    llama_log_get(&before, &ud_before);
    om_memory_sim sim;
    assert_false(om_memory_simulate(&sim, om_tmpdir_path(dir, "no such file"), 512, NULL));
    om_llama_log log = { 0 };
    om_llama_log_begin(&log, NULL);
    assert_null(llama_model_load_from_file(om_tmpdir_write(dir, "bad", "GGUF", 4),
                                           llama_model_default_params()));
    om_llama_log_end(&log);
    om_llama_log_end(&log);
    assert_true(strlen(om_llama_log_reason(&log, "")) > 10);
    llama_log_get(&after, &ud_after);
    assert_true(before == after && ud_before == ud_after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_equals_libllama),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_compute_grows_with_context),
        cmocka_unit_test(test_kv_bytes),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_log_hook_is_put_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
