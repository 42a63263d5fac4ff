/* Any bytes as a tokenizer: JSON as every file of a directory at once, anything else as
 * SentencePiece's model. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "hf/tokenizer_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_VOCAB = 300 };

/* A failure must say what is wrong. */
static void check(om_status status, const om_error *err) {
    if (status != OM_OK && err->text[0] == '\0') {
        abort();
    }
}

static void use_json(const uint8_t *data, size_t size) {
    om_json *doc = NULL;
    om_error err = { 0 };
    const char *pre = NULL;
    if (om_json_parse(&doc, (const char *) data, size, "input", NULL, &err) != OM_OK) {
        return;
    }
    const om_tokenizer_files files = {
        .dir = ".", .model = doc, .tokenizer = doc, .config = doc, .chat = doc
    };
    const om_special_options options = { .n_vocab = N_VOCAB };
    om_pairs pairs = { .arch = "llama" };
    check(om_tokenizer_pre(&pre, doc, &err), &err);
    err = (om_error){ 0 };
    check(om_tokenizer_bpe(&pairs, &files, N_VOCAB, &err), &err);
    err = (om_error){ 0 };
    (void) om_tokenizer_is_chars(doc);
    check(om_tokenizer_chars(&pairs, &files, N_VOCAB, &err), &err);
    err = (om_error){ 0 };
    check(om_tokenizer_special(&pairs, &files, &options, &err), &err);
    om_pairs_release(&pairs);
    om_json_free(doc);
}

static void use_model(const uint8_t *data, size_t size) {
    om_vocab v = { 0 };
    om_pairs pairs = { .arch = "llama" };
    om_error err = { 0 };
    if (om_vocab_init(&v, N_VOCAB, &err) == OM_OK) {
        const om_status status = om_spm_parse(&v, data, size, "input", &err);
        check(status, &err);
        if (status == OM_OK) {
            check(om_vocab_put(&pairs, &v, true, &err), &err);
        }
    }
    om_vocab_release(&v);
    om_pairs_release(&pairs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1); /* exactly as long, so that a sanitizer sees the end */
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    if (size > 0 && copy[0] == '{') {
        use_json(copy, size);
    } else {
        uint8_t *exact = malloc(size > 0 ? size : 1);
        if (exact != NULL) {
            memcpy(exact, data, size);
            use_model(exact, size);
        }
        free(exact);
    }
    free(copy);
    return 0;
}
