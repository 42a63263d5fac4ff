/* The recipe for llama-quantize, character by character, and the command that goes with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "base/file.h"
#include "base/mem.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipe_is_anchored_and_escaped),
        cmocka_unit_test(what_cannot_be_said_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
