/* Windows against libllama's tokenizer called directly, cut here the way llama-perplexity cuts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <llama.h>

#include "base/file.h"
#include "model/tokens.h"
#include "tiny_model.h"
#include "tmpdir.h"

static char *dir;

static void quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void) level;
    (void) text;
    (void) ud;
}

static int setup(void **state) {
    (void) state;
    llama_log_set(quiet, NULL);
    dir = om_tmpdir_new();
    return 0;
}

static int teardown(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static const char text_a[] =
    "The quick brown fox <s> jumps over the lazy dog.\nAgain and again, the "
    "same \xE2\x82\xAC words; and some numbers 12345.\n";
static const char text_b[] = "A second file that ends in two newlines\n\n";

static void check(bool no_bos) {
    const char *model_path = om_tmpdir_path(dir, no_bos ? "n.gguf" : "b.gguf");
    om_tiny_options o = { .no_bos = no_bos };
    om_tiny_model_write_with(model_path, &o);
    const char *texts[] = { om_tmpdir_write(dir, "a.txt", text_a, strlen(text_a)),
                            om_tmpdir_write(dir, "b.txt", text_b, strlen(text_b)) };
    struct llama_model_params mp = llama_model_default_params();
    mp.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(model_path, mp);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    char all[512];
    snprintf(all, sizeof all, "%s%s", text_a, text_b);
    llama_token expected[512];
    int n = llama_tokenize(vocab, all, (int) strlen(all) - 1, expected, 512, true, false);
    assert_true(n > 40);
    assert_int_equal(expected[0] == llama_vocab_bos(vocab), !no_bos);
    om_windows w = { 0 };
    om_error err = { 0 };
    enum { T = 16 };
    assert_int_equal(om_windows_read(&w, model_path, texts, 2, T, 0, NULL, &err), OM_OK);
    assert_int_equal(w.n_windows, n / T);
    assert_int_equal(w.n_tokens, T);
    assert_int_equal(w.n_vocab, 384);
    assert_int_equal(w.bos, !no_bos);
    for (int i = 0; i < w.n_windows * T; i++) {
        bool first = i % T == 0 && !no_bos;
        assert_int_equal(w.tokens[i], first ? llama_vocab_bos(vocab) : expected[i]);
    }
    char hex[65];
    om_sha256_bytes(hex, all, strlen(all));
    assert_string_equal(w.sha256, hex);
    om_windows_release(&w);
    assert_int_equal(om_windows_read(&w, model_path, texts, 2, T, 2, NULL, &err), OM_OK);
    assert_int_equal(w.n_windows, 2);
    om_windows_release(&w);
    llama_model_free(model);
}

static void test_windows(void **state) {
    (void) state;
    check(false);
    check(true);
}

static void expect(om_status status, const char *message, const char *model, const char *text,
                   int n_tokens) {
    om_windows w = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_windows_read(&w, model, &text, 1, n_tokens, 0, NULL, &err), status);
    if (strstr(err.text, message) == NULL) {
        print_message("expected \"%s\" in: %s\n", message, err.text);
        fail();
    }
    assert_null(w.tokens);
}

static void test_errors(void **state) {
    (void) state;
    const char *model = om_tmpdir_path(dir, "m.gguf");
    om_tiny_model_write(model, "llama", GGML_TYPE_BF16);
    const char *text = om_tmpdir_write(dir, "short.txt", "a few words", 11);
    expect(OM_E_ARG, "at least one window of 512", model, text, 512);
    expect(OM_E_ARG, "at least 2 tokens", model, text, 1);
    expect(OM_E_ARG, "the file is empty", model, om_tmpdir_write(dir, "empty.txt", "", 0), 16);
    expect(OM_E_IO, "none.txt", model, om_tmpdir_path(dir, "none.txt"), 16);
    const char *bad = om_tmpdir_write(dir, "bad.gguf", "GGUFxxxx", 8);
    expect(OM_E_FORMAT, "bad.gguf: llama.cpp cannot load", bad, text, 16);
    om_windows w = { 0 };
    om_windows_release(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
