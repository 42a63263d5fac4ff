/* Text to token windows with the model's own tokenizer (libllama, vocabulary only). */
#ifndef OM_MODEL_TOKENS_H
#define OM_MODEL_TOKENS_H

#include "base/error.h"

/** Token windows of a text, cut as llama.cpp's tools do: the whole text is tokenized once (BOS
 * first when the vocabulary wants it), then cut into consecutive windows; in each the first token
 * is replaced by BOS when the vocabulary wants BOS. A tail shorter than a window is dropped. One
 * newline at the very end of the text is no text (their -f drops it). */
typedef struct om_windows {
    int32_t *tokens; /* [n_windows, n_tokens] i32, owned */
    int n_windows;
    int n_tokens;
    int n_vocab;
    bool bos;        /* the first token of each window is BOS */
    char sha256[65]; /* of the concatenated texts */
} om_windows;

/** Read the texts and tokenize them with the model's vocabulary. max_windows 0 = all; otherwise the
 * first ones. Errors: OM_E_IO, OM_E_ARG when the text gives no window (says how many tokens it
 * gives). */
om_status om_windows_read(om_windows *out, const char *model_path, const char *const *texts,
                          int n_texts, int n_tokens, int max_windows, const om_env *env,
                          om_error *err) OM_WARN_UNUSED;
void om_windows_release(om_windows *w);

#endif
