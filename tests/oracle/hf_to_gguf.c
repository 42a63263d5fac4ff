/* What the script beside this needs of the library:
 *
 *   hf_to_gguf DIRECTORY OUT.gguf [LIKE.gguf]    the conversion
 *   hf_to_gguf --tokens MODEL.gguf TEXT          llama.cpp's tokens of a text file, on one line
 */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "hf/to_gguf.h"
#include "llama.h"

static void be_quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void) level;
    (void) text;
    (void) ud;
}

static int print_tokens(const char *path, const char *text_path) {
    om_error err = { 0 };
    char *text = NULL;
    size_t size = 0;
    llama_log_set(be_quiet, NULL);
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (model == NULL || om_file_read(&text, &size, text_path, 1 << 24, &err) != OM_OK) {
        fprintf(stderr, "%s: cannot be loaded, or %s\n", path, err.text);
        return 1;
    }
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    llama_token *tokens = om_calloc(size + 16, sizeof *tokens);
    const int32_t n = tokens == NULL ? 0
                                     : llama_tokenize(vocab, text, (int32_t) size, tokens,
                                                      (int32_t) size + 16, true, true);
    for (int32_t i = 0; i < n; i++) {
        printf("%d%c", tokens[i], i + 1 < n ? ' ' : '\n');
    }
    om_free(tokens);
    om_free(text);
    llama_model_free(model);
    return n > 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    om_error err = { 0 };
    om_hf *hf = NULL;
    om_model *like = NULL;
    om_status status = OM_OK;
    if (argc == 4 && strcmp(argv[1], "--tokens") == 0) {
        return print_tokens(argv[2], argv[3]);
    }
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: hf_to_gguf DIRECTORY OUT.gguf [LIKE.gguf]\n");
        return 2;
    }
    OM_TRY(om_hf_open(&hf, argv[1], &err));
    if (argc == 4) {
        OM_TRY(om_model_open(&like, argv[3], &err));
        OM_TRY(om_hf_to_gguf_like(hf, like, argv[2], NULL, &err));
    } else {
        OM_TRY(om_hf_to_gguf(hf, false, argv[2], NULL, &err));
    }
out:
    if (status != OM_OK) {
        fprintf(stderr, "%s: %s\n", om_status_name(status), err.text);
    }
    om_model_free(like);
    om_hf_free(hf);
    return status == OM_OK ? 0 : 1;
}
