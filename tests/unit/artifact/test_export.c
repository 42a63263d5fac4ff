/* The recipe for llama-quantize, character by character, and the command that goes with it; the
 * module for mlx_lm.convert (that mlx-lm runs it: tests/oracle/mlx_load.sh). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "base/file.h"
#include "base/mem.h"
#include "hf/family.h"
#include "tmpdir.h"

static om_allocation *example(const char *odd_name) {
    om_allocation *a = om_calloc(1, sizeof *a);
    a->tensors = om_calloc(3, sizeof *a->tensors);
    a->n_tensors = 3;
    strcpy(a->tensors[0].name, "token_embd.weight");
    a->tensors[0].format = om_format_by_name("q6_K");
    strcpy(a->tensors[1].name, "blk.12.ffn_down_exps.weight");
    a->tensors[1].format = om_format_by_name("iq3_s");
    strcpy(a->tensors[2].name, odd_name);
    a->tensors[2].format = om_format_by_name("iq3_s");
    memset(a->model_sha256, 'a', 64);
    memset(a->profile_sha256, 'b', 64);
    memset(a->calib_sha256, 'c', 64);
    memset(a->stats_sha256, 'd', 64);
    strcpy(a->profile_path, "profile.json");
    strcpy(a->stats_path, "it's profile.stats.gguf");
    strcpy(a->plan, "optimal");
    strcpy(a->budget_kind, "none");
    strcpy(a->solver.status, "optimal");
    a->bytes = 1000;
    a->bpw = 4.0;
    return a;
}

static om_status run(om_result *r, const char *dir, const char *odd_name, const char *to,
                     om_error *err) {
    om_allocation *a = example(odd_name);
    *err = (om_error){ 0 };
    const char *json = om_tmpdir_path(dir, "allocation.json");
    if (om_allocation_write(a, json, err) != OM_OK) {
        fail_msg("%s", err->text);
    }
    om_allocation_free(a);
    const om_export_options o = { .allocation = json,
                                  .to = to,
                                  .out = om_tmpdir_path(dir, "recipe.txt") };
    return om_export(r, &o, NULL, err);
}

static void recipe_is_anchored_and_escaped(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_result r = { 0 };
    om_error err;
    char *text = NULL;
    size_t n = 0;
    if (run(&r, dir, "v.Proj+W=x", "llama.cpp", &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(om_file_read(&text, &n, om_tmpdir_path(dir, "recipe.txt"), 4096, &err), OM_OK);
    assert_string_equal(text, "^token_embd\\.weight$=q6_K\n"
                              "^blk\\.12\\.ffn_down_exps\\.weight$=iq3_s\n"
                              "^v\\.\\x50roj\\x2b\\x57\\x3dx$=iq3_s\n");
    assert_non_null(strstr(r.text, "llama-quantize --imatrix 'it'\\''s profile.stats.gguf' "
                                   "--tensor-type-file "));
    assert_non_null(strstr(r.text, "recipe.txt MODEL.gguf OUTPUT.gguf IQ3_S\n"));
    assert_non_null(strstr(r.json, "\"command\": \"llama-quantize --imatrix "));
    om_free(text);
    om_result_release(&r);
    om_tmpdir_remove(dir);
}

static void what_cannot_be_said_is_refused(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_result r = { 0 };
    om_error err;
    assert_int_equal(run(&r, dir, "with space", NULL, &err), OM_E_UNSUPPORTED);
    assert_int_equal(run(&r, dir, "output.weight", "ollama", &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "expected llama.cpp"));
    assert_int_equal(om_tmpdir_count(dir, "recipe"), 0);
    om_tmpdir_remove(dir);
}

static om_status run_mlx(om_result *r, const char *dir, const char *name, const char *type,
                         const char *to, om_error *err) {
    om_allocation *a = example(name);
    *err = (om_error){ 0 };
    a->container = OM_CONTAINER_MLX;
    a->tensors[0].format = om_format_by_name("mlx_8bit_g64");
    a->tensors[1].format = om_format_by_name("mlx_mxfp4");
    a->tensors[2].format = om_format_by_name(type);
    const char *json = om_tmpdir_path(dir, "allocation.json");
    if (om_allocation_write(a, json, err) != OM_OK) {
        fail_msg("%s", err->text);
    }
    om_allocation_free(a);
    const om_export_options o = { .allocation = json,
                                  .to = to,
                                  .out = om_tmpdir_path(dir, "it's.py") };
    return om_export(r, &o, NULL, err);
}

static void module_for_mlx_lm(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_result r = { 0 };
    om_error err;
    char *text = NULL;
    size_t n = 0;
    if (run_mlx(&r, dir, "blk.0.attn_q.weight", "bf16", "mlx", &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(om_file_read(&text, &n, om_tmpdir_path(dir, "it's.py"), 8192, &err), OM_OK);
    assert_non_null(strstr(text, "GROUP_SIZE = 32\nBITS = 4\n"));
    assert_non_null(strstr(text, "TYPES = {\n    \"token_embd\": (64, 8, \"affine\"),\n    "
                                 "\"blk.12.ffn_down_exps\": (32, 4, \"mxfp4\"),\n    "
                                 "\"blk.0.attn_q\": None,\n}\n"));
    /* three families call it differently */
    assert_non_null(strstr(text, "    \"mlp.switch_mlp.down_proj\": \"ffn_down_exps\",\n"));
    assert_non_null(
        strstr(text, "    \"block_sparse_moe.switch_mlp.down_proj\": \"ffn_down_exps\","));
    assert_non_null(strstr(text, "    \"mlp.experts.down_proj\": \"ffn_down_exps\",\n"));
    assert_non_null(strstr(text, "OUTSIDE = {\n    \"embed_tokens\": \"token_embd\",\n}\n"));
    assert_non_null(strstr(r.text, "/it'\\''s.py' MODEL OUTPUT\n"));
    assert_non_null(strstr(r.text, "q_group_size=32, q_bits=4,"));
    om_free(text);
    om_result_release(&r);
    om_tmpdir_remove(dir);
}

static void containers_are_not_mixed(void **state) {
    (void) state;
    char *dir = om_tmpdir_new();
    om_result r = { 0 };
    om_error err;
    assert_int_equal(run(&r, dir, "output.weight", "mlx", &err), OM_E_MISMATCH);
    assert_non_null(strstr(err.text, "allocate with --to mlx"));
    assert_int_equal(run_mlx(&r, dir, "output.weight", "bf16", "llama.cpp", &err), OM_E_MISMATCH);
    assert_non_null(strstr(err.text, "allocate with --to gguf"));
    assert_int_equal(run_mlx(&r, dir, "blk.0.ssm_in.weight", "bf16", "mlx", &err),
                     OM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "blk.0.ssm_in.weight"));
    assert_int_equal(run_mlx(&r, dir, "blk.0.\");evil(.weight", "bf16", "mlx", &err),
                     OM_E_UNSUPPORTED);
    assert_int_equal(om_tmpdir_count(dir, ".py"), 0);
    om_tmpdir_remove(dir);
}

/* What the module rests on: over all families no path stands for two tensors. */
static void paths_are_unambiguous(void **state) {
    (void) state;
    static const char *const roles[] = {
        "attn_q",         "attn_k",        "attn_v",         "attn_output",
        "attn_qkv",       "ffn_gate",      "ffn_up",         "ffn_down",
        "ffn_gate_inp",   "ffn_gate_exps", "ffn_up_exps",    "ffn_down_exps",
        "ffn_gate_shexp", "ffn_up_shexp",  "ffn_down_shexp", "ffn_gate_inp_shexp",
    };
    enum { N = (int) (sizeof roles / sizeof *roles) };
    static char paths[64 * N][OM_HF_PATH];
    int owner[64 * N], n = 0;
    char list[512], *rest = list;
    snprintf(list, sizeof list, "%s", om_family_list());
    for (char *name = strtok_r(list, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
        const om_family *family = om_family_by_model_type(name);
        assert_non_null(family);
        for (int i = 0; i < N; i++) {
            char tensor[64];
            snprintf(tensor, sizeof tensor, "blk.7.%s.weight", roles[i]);
            if (om_family_mlx_name(paths[n], family, tensor)) {
                for (int k = 0; k < n; k++) {
                    assert_true(strcmp(paths[k], paths[n]) != 0 || owner[k] == i);
                }
                owner[n++] = i;
            }
        }
    }
    assert_true(n > 5 * N);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipe_is_anchored_and_escaped),
        cmocka_unit_test(what_cannot_be_said_is_refused),
        cmocka_unit_test(module_for_mlx_lm),
        cmocka_unit_test(containers_are_not_mixed),
        cmocka_unit_test(paths_are_unambiguous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
