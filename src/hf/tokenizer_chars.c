/* tokenizer.json of a SentencePiece model whose tokenizer.model is not there: BPE over characters,
 * with bytes for those that have no piece.
 *
 * llama.cpp joins the pair whose piece has the highest score; the merges of tokenizer.json are in
 * the order of those scores. So the score of a piece is its first merge's place, negative, and the
 * pieces come out as the Hugging Face tokenizer has them. (llama.cpp's converter gives all pieces
 * one score, and its files then split words otherwise.) ignore_merges says nothing here: nothing is
 * split before it is joined, so only a text that is one piece could skip the merges. */
#include "hf/tokenizer_parts.h"

#include <string.h>

#include "base/mem.h"
#include "hf/config.h"

static const char block[] = "\xe2\x96\x81"; /* U+2581, a space within pieces */

/* What no merge makes: last. Below every place of a merge, and exact in a float. */
static const float score_of_unmerged = -1e9f;

bool om_tokenizer_is_chars(const om_json *tokenizer) {
    const om_node root = om_node_root(tokenizer, "tokenizer.json");
    om_node model;
    om_error ignored = { 0 };
    const char *type = NULL;
    bool fallback = false;
    return tokenizer != NULL && om_node_object(&model, &root, "model", &ignored) == OM_OK &&
           om_node_str(&type, &model, "type", &ignored) == OM_OK && strcmp(type, "BPE") == 0 &&
           om_node_bool(&fallback, &model, "byte_fallback", &ignored) == OM_OK && fallback;
}

/* ---- spaces ---- */

/* {"type": "Replace", "pattern": {"String": " "}, "content": "▁"} */
static bool is_replace(const om_node *step) {
    om_node pattern;
    om_error ignored = { 0 };
    const char *from = "", *to = "";
    return om_node_object(&pattern, step, "pattern", &ignored) == OM_OK &&
           om_node_str(&from, &pattern, "String", &ignored) == OM_OK && strcmp(from, " ") == 0 &&
           om_node_str(&to, step, "content", &ignored) == OM_OK && strcmp(to, block) == 0;
}

static om_status read_normalizer(bool *prefix, const om_node *step, om_error *err) {
    om_status status = OM_OK;
    om_node list, item;
    size_t n = 0;
    const char *type = NULL, *text = "";
    OM_TRY(om_node_str(&type, step, "type", err));
    if (strcmp(type, "Sequence") == 0) {
        OM_TRY(om_node_array(&list, &n, step, "normalizers", err));
        for (size_t i = 0; i < n; i++) {
            OM_TRY(om_node_at(&item, &list, i, err));
            OM_TRY(om_node_str(&type, &item, "type", err));
            if (strcmp(type, "Sequence") == 0) { /* never within each other */
                OM_TRY(om_hf_refuse(err, "tokenizer.json: nested normalizers"));
            }
            OM_TRY(read_normalizer(prefix, &item, err));
        }
        goto out;
    }
    bool known = strcmp(type, "NFC") == 0 || (strcmp(type, "Replace") == 0 && is_replace(step));
    if (strcmp(type, "Prepend") == 0) {
        OM_TRY(om_node_str(&text, step, "prepend", err));
        known = *prefix = strcmp(text, block) == 0;
    }
    if (!known) {
        OM_TRY(
            om_hf_refuse(err, "tokenizer.json: normalizer %.40s in a SentencePiece model", type));
    }
out:
    return status;
}

/* Nothing; Metaspace that does not split; or a split at spaces, of which the normalizer left none
 * (Gemma). */
static om_status read_pre_tokenizer(bool *prefix, const om_node *pre, om_error *err) {
    om_status status = OM_OK;
    om_node pattern;
    const char *type = NULL, *text = "";
    bool split = true;
    OM_TRY(om_node_str(&type, pre, "type", err));
    if (strcmp(type, "Metaspace") == 0) {
        text = "always";
        if (om_node_has(pre, "split")) {
            OM_TRY(om_node_bool(&split, pre, "split", err));
        }
        if (om_node_has(pre, "prepend_scheme")) {
            OM_TRY(om_node_str(&text, pre, "prepend_scheme", err));
        }
        *prefix = strcmp(text, "never") != 0;
    } else if (strcmp(type, "Split") == 0) {
        OM_TRY(om_node_object(&pattern, pre, "pattern", err));
        if (om_node_has(&pattern, "String")) {
            OM_TRY(om_node_str(&text, &pattern, "String", err));
        }
        split = strcmp(text, " ") != 0;
    }
    if (split) {
        OM_TRY(om_hf_refuse(err, "tokenizer.json: pre-tokenizer %.40s in a SentencePiece model",
                            type));
    }
out:
    return status;
}

static om_status read_spaces(bool *prefix, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node step;
    *prefix = false;
    if (om_node_has(root, "normalizer")) {
        OM_TRY(om_node_object(&step, root, "normalizer", err));
        OM_TRY(read_normalizer(prefix, &step, err));
    }
    if (om_node_has(root, "pre_tokenizer")) {
        OM_TRY(om_node_object(&step, root, "pre_tokenizer", err));
        OM_TRY(read_pre_tokenizer(prefix, &step, err));
    }
out:
    return status;
}

/* ---- pieces ---- */

static bool is_byte(const char *text) {
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>' &&
           strspn(text + 3, "0123456789abcdefABCDEF") == 2;
}

static om_status read_vocab(om_vocab *v, const om_node *vocab, om_error *err) {
    om_status status = OM_OK;
    om_node entry;
    void *iter = NULL;
    while (om_node_next(&entry, vocab, &iter)) {
        int64_t id = 0;
        OM_TRY(om_node_value_i64(&id, &entry, 0, (int64_t) v->n - 1, err));
        om_vocab_set(v, id, entry.key, strlen(entry.key), score_of_unmerged,
                     is_byte(entry.key) ? OM_TOKEN_BYTE : OM_TOKEN_NORMAL);
    }
out:
    return status;
}

/* The two parts of a merge, in either form, as one text. */
static om_status join_merge(om_buf *out, const om_node *merge, om_error *err) {
    om_status status = OM_OK;
    om_node item;
    const char *left = NULL, *right = NULL;
    om_error ignored = { 0 };
    out->len = 0;
    if (om_node_value_str(&left, merge, &ignored) == OM_OK) {
        const char *space = strchr(left, ' ');
        if (space == NULL) {
            OM_TRY(om_node_fail(err, merge, "expected two parts"));
        }
        om_buf_add(out, left, (size_t) (space - left));
        om_buf_puts(out, space + 1);
    } else {
        OM_TRY(om_node_at(&item, merge, 0, err));
        OM_TRY(om_node_value_str(&left, &item, err));
        OM_TRY(om_node_at(&item, merge, 1, err));
        OM_TRY(om_node_value_str(&right, &item, err));
        om_buf_puts(out, left);
        om_buf_puts(out, right);
    }
    if (out->failed) {
        OM_TRY(om_fail_nomem(err, out->cap));
    }
out:
    return status;
}

static om_status read_merges(om_vocab *v, const om_node *model, const om_node *vocab,
                             om_error *err) {
    om_status status = OM_OK;
    om_node merges, merge;
    om_buf piece = { 0 };
    size_t n = 0;
    OM_TRY(om_node_array(&merges, &n, model, "merges", err));
    for (size_t i = 0; i < n; i++) {
        int64_t id = 0;
        OM_TRY(om_node_at(&merge, &merges, i, err));
        OM_TRY(join_merge(&piece, &merge, err));
        OM_TRY(om_node_i64(&id, vocab, piece.data, 0, (int64_t) v->n - 1, err));
        if (v->entries[id].score <= score_of_unmerged) {
            v->entries[id].score = -(float) (i + 1);
        }
    }
out:
    om_buf_release(&piece);
    return status;
}

static om_status read_added(om_vocab *v, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node list, token;
    size_t n = 0;
    if (!om_node_has(root, "added_tokens")) {
        return OM_OK;
    }
    OM_TRY(om_node_array(&list, &n, root, "added_tokens", err));
    for (size_t i = 0; i < n; i++) {
        int64_t id = 0;
        const char *content = NULL;
        bool special = false;
        OM_TRY(om_node_at(&token, &list, i, err));
        OM_TRY(om_node_i64(&id, &token, "id", 0, (int64_t) v->n - 1, err));
        OM_TRY(om_node_str(&content, &token, "content", err));
        if (om_node_has(&token, "special")) {
            OM_TRY(om_node_bool(&special, &token, "special", err));
        }
        om_vocab_set_added(v, id, content, -1000, special);
    }
out:
    return status;
}

om_status om_tokenizer_chars(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                             om_error *err) {
    om_status status = OM_OK;
    om_vocab v = { 0 };
    om_node model, vocab;
    bool prefix = false;
    const om_node root = om_node_root(files->tokenizer, "tokenizer.json");
    OM_TRY(om_node_object(&model, &root, "model", err));
    OM_TRY(om_node_object(&vocab, &model, "vocab", err));
    OM_TRY(read_spaces(&prefix, &root, err));
    OM_TRY(om_vocab_init(&v, n_vocab, err));
    OM_TRY(read_vocab(&v, &vocab, err));
    OM_TRY(read_merges(&v, &model, &vocab, err));
    OM_TRY(read_added(&v, &root, err));
    om_pairs_str(pairs, "tokenizer.ggml.model", "llama");
    om_pairs_str(pairs, "tokenizer.ggml.pre", "default");
    om_pairs_bool(pairs, "tokenizer.ggml.add_space_prefix", prefix);
    OM_TRY(om_vocab_put(pairs, &v, true, err));
out:
    om_vocab_release(&v);
    return status;
}
