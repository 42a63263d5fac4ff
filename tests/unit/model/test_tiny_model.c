/* Every architecture of the test models loads in stock libllama and gives finite, varied logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <llama.h>

#include "tiny_model.h"

static void silent(enum ggml_log_level level, const char *text, void *ud) {
    (void) ud;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static void check_runs(const om_tiny_options *o) {
    char path[] = "/tmp/om_tiny_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    om_tiny_model_write_with(path, o);
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    assert_non_null(model);
    unlink(path);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 256;
    cp.n_threads = cp.n_threads_batch = 1;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    assert_non_null(ctx);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    llama_token tokens[64];
    const char *text = "the cat sat on the mat, \xC3\xA9t\xC3\xA9.";
    int n = llama_tokenize(vocab, text, (int) strlen(text), tokens, 64, true, false);
    assert_true(n > 5);
    assert_int_equal(llama_vocab_get_add_bos(vocab), !o->no_bos);
    assert_int_equal(llama_decode(ctx, llama_batch_get_one(tokens, n)), 0);
    const float *logits = llama_get_logits_ith(ctx, -1);
    int n_vocab = llama_vocab_n_tokens(vocab);
    double sum = 0, sum2 = 0;
    for (int i = 0; i < n_vocab; i++) {
        assert_true(isfinite(logits[i]));
        sum += (double) logits[i];
        sum2 += (double) logits[i] * (double) logits[i];
    }
    double mean = sum / n_vocab, sigma = sqrt(sum2 / n_vocab - mean * mean);
    assert_true(sigma > 0.3 && sigma < 10);
    llama_free(ctx);
    llama_model_free(model);
}

static void test_architectures(void **state) {
    (void) state;
    static const char *const archs[] = { "llama",  "qwen2",   "qwen3",    "gemma2",
                                         "gemma3", "phi3",    "qwen2moe", "qwen3moe",
                                         "olmoe",  "gpt-oss", "dots1" };
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        check_runs(&(om_tiny_options){ .arch = archs[i], .type = GGML_TYPE_BF16 });
        check_runs(&(om_tiny_options){ .arch = archs[i], .tied = true, .no_bos = true });
    }
    check_runs(&(om_tiny_options){ .arch = "llama", .n_expert = 4, .n_layer = 3, .n_embd = 128 });
    check_runs(&(om_tiny_options){
        .arch = "dots1", .n_expert = 8, .n_expert_used = 3, .n_expert_groups = 4, .n_layer = 3 });
}

int main(void) {
    llama_log_set(silent, NULL);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_architectures) };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    return rc;
}
