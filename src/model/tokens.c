/* Text files into token windows, cut exactly as llama-perplexity and llama-imatrix cut their
 * chunks: so numbers measured here and there are about the same tokens.
 *
 *   - the texts are joined as they are, and one newline at the very end is dropped (their -f does);
 *   - one tokenization of everything, with BOS when the vocabulary wants it, special tokens in the
 *     text taken as plain text;
 *   - window i is tokens [i*T, (i+1)*T), its first token replaced by BOS when the vocabulary wants
 *     BOS; what is left over is dropped.
 *
 * Source: tools/perplexity/perplexity.cpp and tools/imatrix/imatrix.cpp of the pinned llama.cpp.
 */
#include "model/tokens.h"

#include <string.h>

#include <llama.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/llama_log.h"

/* Tokens are counted in int32 by llama_tokenize, and a text of this size is weeks of work. */
static const size_t max_text_bytes = (size_t) 256 << 20;

typedef struct token_list {
    llama_token *ids; /* [n], owned */
    int n;
} token_list;

static om_status read_texts(om_buf *all, const char *const *texts, int n_texts, om_error *err) {
    for (int i = 0; i < n_texts; i++) {
        char *text = NULL;
        size_t n = 0;
        om_status status = om_file_read(&text, &n, texts[i], max_text_bytes, err);
        if (status != OM_OK) {
            return status;
        }
        om_buf_add(all, text, n);
        om_free(text);
        if (all->failed) {
            return om_fail_nomem(err, n);
        }
        if (all->len > max_text_bytes) {
            return om_fail(err, OM_E_ARG, "expected at most %zu MiB of text, found more; give less",
                           max_text_bytes >> 20);
        }
    }
    if (all->len == 0) {
        return om_fail(err, OM_E_ARG, "%s: expected text, the file is empty", texts[0]);
    }
    return OM_OK;
}

static om_status tokenize(token_list *out, const struct llama_vocab *vocab, const om_buf *text,
                          om_error *err) {
    size_t n_bytes = text->len;
    if (text->data[n_bytes - 1] == '\n') {
        n_bytes--;
    }
    /* A token covers at least one byte, or is BOS or EOS, in all vocabularies but a few: those
     * answer with the number they need. */
    int cap = (int) n_bytes + 2;
    for (int attempt = 0; attempt < 2; attempt++) {
        om_free(out->ids);
        out->ids = om_calloc((size_t) cap, sizeof *out->ids);
        if (out->ids == NULL) {
            return om_fail_nomem(err, (size_t) cap * sizeof *out->ids);
        }
        out->n = llama_tokenize(vocab, text->data, (int32_t) n_bytes, out->ids, cap, true, false);
        if (out->n >= 0) {
            return OM_OK;
        }
        if (out->n == INT32_MIN) {
            break;
        }
        cap = -out->n;
    }
    return om_fail(err, OM_E_UNSUPPORTED, "the model's tokenizer refuses the text");
}

static om_status cut(om_windows *w, const token_list *tokens, const struct llama_vocab *vocab,
                     int n_tokens, int max_windows, om_error *err) {
    int n = tokens->n / n_tokens;
    if (n == 0) {
        return om_fail(err, OM_E_ARG,
                       "the text gives %d tokens, expected at least one window of %d; give more "
                       "text or a shorter window",
                       tokens->n, n_tokens);
    }
    n = max_windows > 0 && max_windows < n ? max_windows : n;
    w->n_windows = n;
    w->n_tokens = n_tokens;
    w->n_vocab = llama_vocab_n_tokens(vocab);
    w->bos = llama_vocab_get_add_bos(vocab);
    w->tokens = om_calloc((size_t) n * (size_t) n_tokens, sizeof *w->tokens);
    if (w->tokens == NULL) {
        return om_fail_nomem(err, (size_t) n * (size_t) n_tokens * sizeof *w->tokens);
    }
    memcpy(w->tokens, tokens->ids, (size_t) n * (size_t) n_tokens * sizeof *w->tokens);
    for (int i = 0; w->bos && i < n; i++) {
        w->tokens[(size_t) i * (size_t) n_tokens] = llama_vocab_bos(vocab);
    }
    for (size_t i = 0; i < (size_t) n * (size_t) n_tokens; i++) {
        if (w->tokens[i] < 0 || w->tokens[i] >= w->n_vocab) { /* a hostile BOS, for one */
            return om_fail(err, OM_E_FORMAT,
                           "the tokenizer gives token %d, the vocabulary has %d; the model is "
                           "damaged",
                           (int) w->tokens[i], w->n_vocab);
        }
    }
    return OM_OK;
}

static om_status load_vocab(struct llama_model **out, const char *path, const om_llama_log *log,
                            om_error *err) {
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (model == NULL) {
        return om_llama_load_failed(log, path, err);
    }
    *out = model;
    const enum llama_vocab_type type = llama_vocab_type(llama_model_get_vocab(model));
    if (type == LLAMA_VOCAB_TYPE_NONE) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s: the model has no vocabulary to tokenize with",
                       path);
    }
    /* llama.cpp's tokenizer for it never ends when a byte is no token; RWKV is recurrent anyway */
    if (type == LLAMA_VOCAB_TYPE_RWKV) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s: RWKV models are not supported", path);
    }
    return OM_OK;
}

om_status om_windows_read(om_windows *out, const char *model_path, const char *const *texts,
                          int n_texts, int n_tokens, int max_windows, const om_env *env,
                          om_error *err) {
    om_status status = OM_OK;
    om_buf all = { 0 };
    token_list tokens = { 0 };
    om_windows w = { 0 };
    struct llama_model *model = NULL;
    om_llama_log log = { .model = model_path };
    if (n_tokens < 2 || max_windows < 0) {
        return om_fail(err, OM_E_ARG, "expected windows of at least 2 tokens, found %d", n_tokens);
    }
    OM_TRY(read_texts(&all, texts, n_texts, err));
    om_sha256_bytes(w.sha256, all.data, all.len);
    om_llama_log_begin(&log, env);
    OM_TRY(load_vocab(&model, model_path, &log, err));
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    OM_TRY(tokenize(&tokens, vocab, &all, err));
    OM_TRY(cut(&w, &tokens, vocab, n_tokens, max_windows, err));
    *out = w;
    w = (om_windows){ 0 };
out:
    llama_model_free(model);
    om_llama_log_end(&log);
    om_free(tokens.ids);
    om_buf_release(&all);
    om_windows_release(&w);
    return status;
}

void om_windows_release(om_windows *w) {
    om_free(w->tokens);
    *w = (om_windows){ 0 };
}
