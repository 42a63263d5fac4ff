/* Byte-level BPE of a tokenizer.json -> tokens, token_type, merges.
 *
 * Tokens of the model stand in the file as GGUF has them, bytes written as printable characters.
 * Added tokens stand there as plain text, which is what llama.cpp expects of them. */
#include "hf/tokenizer_parts.h"

#include <inttypes.h>
#include <string.h>

#include "hf/config.h"

/* What only other kinds of BPE have. */
static om_status check_model(const om_node *model, om_error *err) {
    om_status status = OM_OK;
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const char *type = NULL;
    bool fallback = false;
    OM_TRY(om_node_str(&type, model, "type", err));
    if (strcmp(type, "BPE") != 0) {
        OM_TRY(om_hf_refuse(err, "tokenizer.json: a tokenizer of type \"%.40s\"", type));
    }
    if (om_node_has(model, "byte_fallback")) {
        OM_TRY(om_node_bool(&fallback, model, "byte_fallback", err));
    }
    if (fallback) {
        OM_TRY(om_hf_refuse(err, "tokenizer.json: BPE over characters (byte_fallback)"));
    }
    for (size_t i = 0; i < sizeof affixes / sizeof affixes[0]; i++) {
        const char *affix = "";
        if (om_node_has(model, affixes[i])) {
            OM_TRY(om_node_str(&affix, model, affixes[i], err));
        }
        if (affix[0] != '\0') {
            OM_TRY(om_hf_refuse(err, "tokenizer.json: BPE with %s", affixes[i]));
        }
    }
out:
    return status;
}

static om_status read_vocab(om_vocab *v, const om_node *model, om_error *err) {
    om_status status = OM_OK;
    om_node vocab, entry;
    void *iter = NULL;
    OM_TRY(om_node_object(&vocab, model, "vocab", err));
    while (om_node_next(&entry, &vocab, &iter)) {
        int64_t id = 0;
        OM_TRY(om_node_value_i64(&id, &entry, 0, (int64_t) v->n - 1, err));
        om_vocab_set(v, id, entry.key, strlen(entry.key), 0, OM_TOKEN_NORMAL);
    }
out:
    return status;
}

/* One added token. The same text in the model's vocabulary must have the same id. */
static om_status read_added(om_vocab *v, const om_node *token, const om_node *vocab,
                            om_error *err) {
    om_status status = OM_OK;
    int64_t id = 0, id_in_vocab = 0;
    const char *content = NULL;
    bool special = false;
    OM_TRY(om_node_i64(&id, token, "id", 0, (int64_t) v->n - 1, err));
    OM_TRY(om_node_str(&content, token, "content", err));
    if (om_node_has(token, "special")) {
        OM_TRY(om_node_bool(&special, token, "special", err));
    }
    if (om_node_has(vocab, content)) {
        OM_TRY(om_node_i64(&id_in_vocab, vocab, content, 0, (int64_t) v->n - 1, err));
        if (id_in_vocab != id) {
            OM_TRY(om_node_fail(err, token, "id %" PRId64 ", but %" PRId64 " in model.vocab", id,
                                id_in_vocab));
        }
    }
    om_vocab_set_added(v, id, content, 0, special);
out:
    return status;
}

static om_status read_all_added(om_vocab *v, const om_node *root, const om_node *model,
                                om_error *err) {
    om_status status = OM_OK;
    om_node list, token, vocab;
    size_t n = 0;
    if (!om_node_has(root, "added_tokens")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&vocab, model, "vocab", err));
    OM_TRY(om_node_array(&list, &n, root, "added_tokens", err));
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&token, &list, i, err));
        OM_TRY(read_added(v, &token, &vocab, err));
    }
out:
    return status;
}

/* tokenizer_config.json's bos_token and the like are control tokens even where tokenizer.json does
 * not list them as added. */
static om_status mark_special(om_vocab *v, const om_tokenizer_files *files, const om_node *model,
                              om_error *err) {
    static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token" };
    om_status status = OM_OK;
    om_node vocab;
    if (files->config == NULL) {
        return OM_OK;
    }
    const om_node config = om_node_root(files->config, "tokenizer_config.json");
    OM_TRY(om_node_object(&vocab, model, "vocab", err));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *text = om_token_text(&config, keys[i]);
        int64_t id = 0;
        if (text != NULL && om_node_has(&vocab, text)) {
            OM_TRY(om_node_i64(&id, &vocab, text, 0, (int64_t) v->n - 1, err));
            om_vocab_set_added(v, id, text, 0, true);
        }
    }
out:
    return status;
}

/* ---- merges ---- */

/* A space within a part would end it: it is written as the byte-level alphabet has it. */
static void add_part(om_buf *b, const char *part) {
    for (; *part != '\0'; part++) {
        if (*part == ' ') {
            om_buf_puts(b, "\xc4\xa0"); /* U+0120 */
        } else {
            om_buf_add(b, part, 1);
        }
    }
}

static om_status put_pair(om_pairs *pairs, om_buf *b, const om_node *merge, om_error *err) {
    om_status status = OM_OK;
    om_node item;
    const char *left = NULL, *right = NULL;
    OM_TRY(om_node_at(&item, merge, 0, err));
    OM_TRY(om_node_value_str(&left, &item, err));
    OM_TRY(om_node_at(&item, merge, 1, err));
    OM_TRY(om_node_value_str(&right, &item, err));
    b->len = 0;
    add_part(b, left);
    om_buf_puts(b, " ");
    add_part(b, right);
    if (b->failed) {
        OM_TRY(om_fail_nomem(err, b->cap));
    }
    om_pairs_item(pairs, b->data, b->len);
out:
    return status;
}

static om_status put_merges(om_pairs *pairs, const om_node *model, om_error *err) {
    om_status status = OM_OK;
    om_node merges, merge;
    om_error ignored = { 0 };
    om_buf b = { 0 };
    size_t n = 0;
    const char *text = NULL;
    OM_TRY(om_node_array(&merges, &n, model, "merges", err));
    if (n == 0) {
        OM_TRY(om_node_fail(err, &merges, "expected merges, found none"));
    }
    om_pairs_begin_strs(pairs, "tokenizer.ggml.merges", n);
    OM_TRY(om_node_at(&merge, &merges, 0, err));
    const bool as_text = om_node_value_str(&text, &merge, &ignored) == OM_OK;
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&merge, &merges, i, err));
        if (as_text) {
            OM_TRY(om_node_value_str(&text, &merge, err));
            om_pairs_item(pairs, text, strlen(text));
        } else {
            OM_TRY(put_pair(pairs, &b, &merge, err));
        }
    }
out:
    om_buf_release(&b);
    return status;
}

om_status om_tokenizer_bpe(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                           om_error *err) {
    om_status status = OM_OK;
    om_vocab v = { 0 };
    om_node model;
    const char *pre = NULL;
    if (files->tokenizer == NULL) {
        OM_TRY(om_fail(err, OM_E_FORMAT, "%s: there is no tokenizer.json", files->dir));
    }
    const om_node root = om_node_root(files->tokenizer, "tokenizer.json");
    OM_TRY(om_node_object(&model, &root, "model", err));
    OM_TRY(check_model(&model, err));
    OM_TRY(om_tokenizer_pre(&pre, files->tokenizer, err));
    OM_TRY(om_vocab_init(&v, n_vocab, err));
    OM_TRY(read_vocab(&v, &model, err));
    OM_TRY(read_all_added(&v, &root, &model, err));
    OM_TRY(mark_special(&v, files, &model, err));
    om_pairs_str(pairs, "tokenizer.ggml.model", "gpt2");
    om_pairs_str(pairs, "tokenizer.ggml.pre", pre);
    OM_TRY(om_vocab_put(pairs, &v, false, err));
    OM_TRY(put_merges(pairs, &model, err));
out:
    om_vocab_release(&v);
    return status;
}
