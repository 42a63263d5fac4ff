/* The verb inspect: facts, sizes that the writer keeps, infeasible budgets, no weights read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/candidates.h"
#include "model/gguf.h"
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

static om_result inspect(const char *path, om_budget budget) {
    om_result r = { 0 };
    om_error err = { 0 };
    om_inspect_options o = { .model = path, .budget = budget };
    om_status status = om_inspect(&r, &o, NULL, &err);
    if (status != OM_OK) {
        print_message("%s\n", err.text);
    }
    assert_int_equal(status, OM_OK);
    return r;
}

static int64_t number(const char *json, const char *object, const char *key) {
    om_json *doc = NULL;
    om_error err = { 0 };
    assert_int_equal(om_json_parse(&doc, json, strlen(json), "inspect", "optimum.inspect/1", &err),
                     OM_OK);
    om_node root = om_node_root(doc, "inspect"), node;
    int64_t v = 0;
    assert_int_equal(om_node_object(&node, &root, object, &err), OM_OK);
    assert_int_equal(om_node_i64(&v, &node, key, INT64_MIN, INT64_MAX, &err), OM_OK);
    om_json_free(doc);
    return v;
}

/* Smallest and largest files, computed here from the candidates and the writer's header. */
static void test_sizes(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "a.gguf");
    om_tiny_model_write(path, "qwen2", GGML_TYPE_BF16);
    om_result r = inspect(path, (om_budget){ 0 });
    om_model *m = NULL;
    om_error err = { 0 };
    assert_int_equal(om_model_open(&m, path, &err), OM_OK);
    int64_t smallest = om_gguf_metadata_bytes(m), same = smallest;
    for (int i = 0; i < om_model_n_tensors(m); i++) {
        const om_tensor *t = om_model_tensor(m, i);
        /* 256 divides every row, so the smallest is iq2_xxs: 66 bytes for 256 weights. */
        int64_t least = t->may_quantize ? om_tensor_params(t) / 256 * 66 : t->bytes;
        smallest += om_pad(least, 32);
        same += om_pad(t->bytes, 32);
    }
    assert_int_equal(number(r.json, "smallest", "bytes"), smallest);
    assert_int_equal(number(r.json, "unquantized", "bytes"), same);
    assert_int_equal(number(r.json, "model", "params"), om_model_params(m));
    assert_int_equal(number(r.json, "memory", "kv_bytes"), 2 * 2 * 128 * 4096 * 2);
    assert_non_null(strstr(r.text, "attn_q"));
    assert_non_null(strstr(r.text, "copied as they are"));
    assert_null(strstr(r.text, "not possible"));
    om_result_release(&r);

    /* Exactly the smallest file is feasible; one byte less is not. */
    r = inspect(path, (om_budget){ .kind = OM_BUDGET_SIZE, .bytes = smallest });
    assert_int_equal(number(r.json, "budget", "bytes"), smallest);
    om_result_release(&r);
    om_inspect_options o = { .model = path };
    o.budget = (om_budget){ .kind = OM_BUDGET_SIZE, .bytes = smallest - 1 };
    assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_INFEASIBLE);
    char number_text[64];
    snprintf(number_text, sizeof number_text, "%lld bytes of file size", (long long) smallest);
    assert_non_null(strstr(err.text, number_text));
    assert_null(r.text);
    om_model_free(m);
}

/* The budget that the message names must work, in each kind. */
static void test_infeasible_says_what_would_do(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "b.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_BF16);
    om_budget kinds[] = { { .kind = OM_BUDGET_SIZE, .bytes = 1000 },
                          { .kind = OM_BUDGET_BPW, .bpw = 0.5 },
                          { .kind = OM_BUDGET_MEMORY, .bytes = 290 << 20 },
                          { .kind = OM_BUDGET_MEMORY, .bytes = 1 } };
    for (int i = 0; i < 4; i++) {
        om_inspect_options o = { .model = path, .budget = kinds[i] };
        om_result r = { 0 };
        om_error err = { 0 };
        if (i == 2) { /* leaves a few bytes for the file */
            om_result all = inspect(path, (om_budget){ 0 });
            o.budget.bytes = number(all.json, "memory", "kv_bytes") +
                             number(all.json, "memory", "compute_bytes") + (256 << 20) + 5000;
            om_result_release(&all);
        }
        assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_INFEASIBLE);
        const char *p = strstr(err.text, "at least ");
        assert_non_null(p);
        p += strlen("at least ");
        o.budget.bytes = strtoll(p, NULL, 10);
        o.budget.bpw = strtod(p, NULL);
        err = (om_error){ 0 };
        assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_OK);
        om_result_release(&r);
        o.budget.bytes -= 1;
        o.budget.bpw -= 0.0021;
        assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_INFEASIBLE);
    }
}

static void test_odd_rows_and_quantized_source(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "odd.gguf");
    om_tiny_options o = { .n_embd = 192, .n_ff = 256, .type = GGML_TYPE_Q8_0 };
    om_tiny_model_write_with(path, &o);
    om_result r = inspect(path, (om_budget){ .kind = OM_BUDGET_BPW, .bpw = 20 });
    assert_non_null(strstr(r.text, "A row has 192 weights"));
    assert_non_null(strstr(r.text, "quantized already"));
    assert_non_null(strstr(r.text, "fits as it is"));
    assert_non_null(strstr(r.json, "\"excluded_types\""));
    om_result_release(&r);
}

static void test_errors(void **state) {
    (void) state;
    om_result r = { 0 };
    om_error err = { 0 };
    om_inspect_options o = { 0 };
    assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_ARG);
    err = (om_error){ 0 };
    o.model = om_tmpdir_path(dir, "no such file");
    assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_IO);
    assert_string_equal(err.where, "inspect");
    err = (om_error){ 0 };
    const char *path = om_tmpdir_path(dir, "c.gguf");
    om_tiny_model_write(path, "llama", GGML_TYPE_BF16);
    o = (om_inspect_options){ .model = path };
    o.budget = (om_budget){ .kind = OM_BUDGET_MEMORY, .bytes = 1 << 30, .kv_type = "q3_K" };
    assert_int_equal(om_inspect(&r, &o, NULL, &err), OM_E_ARG);
}

/* 26 GB of weights that are a hole: no byte of them may be touched. */
static void test_big_sparse_model(void **state) {
    (void) state;
    const char *path = om_tmpdir_path(dir, "big.gguf");
    om_tiny_options o = { .type = GGML_TYPE_BF16, .n_layer = 40, .n_embd = 5120, .n_head = 40 };
    o.n_head_kv = 40;
    o.n_ff = 13824;
    o.n_vocab = 32000;
    o.sparse = true;
    om_tiny_model_write_with(path, &o);
    double start = om_now_s();
    om_result r =
        inspect(path, (om_budget){ .kind = OM_BUDGET_MEMORY, .bytes = (int64_t) 16 << 30 });
    assert_true(om_now_s() - start < 5.0);
    assert_true(number(r.json, "model", "params") > 13000000000);
    assert_int_equal(number(r.json, "memory", "kv_bytes"), (int64_t) 40 * 2 * 5120 * 4096 * 2);
    assert_true(om_peak_rss_bytes() < 400 << 20);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 26000000000);
    om_result_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_infeasible_says_what_would_do),
        cmocka_unit_test(test_odd_rows_and_quantized_source),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_big_sparse_model),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
