/* Tokens by id -> the three arrays of a GGUF. */
#include "hf/tokenizer_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

om_status om_vocab_init(om_vocab *v, int64_t n, om_error *err) {
    *v = (om_vocab){ 0 };
    if (n < 1 || n > INT32_MAX) {
        return om_fail(err, OM_E_FORMAT, "a vocabulary of %" PRId64 " tokens", n);
    }
    v->entries = om_calloc((size_t) n, sizeof *v->entries);
    if (v->entries == NULL) {
        return om_fail_nomem(err, (size_t) n * sizeof *v->entries);
    }
    v->n = (size_t) n;
    return OM_OK;
}

void om_vocab_set(om_vocab *v, int64_t id, const char *text, size_t length, float score, int type) {
    om_vocab_entry *e = &v->entries[id];
    /* a second file often repeats the first's token; what could not be kept is not to be read */
    if (!e->set || v->text.failed || e->length != length ||
        memcmp(v->text.data + e->at, text, length) != 0) {
        e->at = v->text.len;
        e->length = length;
        om_buf_add(&v->text, text, length);
    }
    e->score = score;
    e->type = type;
    e->set = true;
}

/* Does a token look like a control token, whatever its file says? The list is the converter's:
 * tokens that some models forgot to mark. */
static bool looks_special(const char *text) {
    static const char *const whole[] = { "<pad>", "<mask>", "<2mass>", "[@BOS@]" };
    static const char *const pairs[][2] = {
        { "<|", "|>" },
        { "<\xef\xbd\x9c", "\xef\xbd\x9c>" }, /* full-width bars, DeepSeek's */
        { "<unused", ">" },
    };
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        if (strcmp(text, whole[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (om_text_starts(text, pairs[i][0]) && om_text_ends(text, pairs[i][1])) {
            return true;
        }
    }
    return false;
}

void om_vocab_set_added(om_vocab *v, int64_t id, const char *text, float score, bool special) {
    static const char block[] = "\xe2\x96\x81"; /* U+2581, SentencePiece's space */
    if (special || looks_special(text)) {
        om_vocab_set(v, id, text, strlen(text), score, OM_TOKEN_CONTROL);
        return;
    }
    om_buf plain = { 0 };
    const char *at;
    while ((at = strstr(text, block)) != NULL) {
        om_buf_add(&plain, text, (size_t) (at - text));
        om_buf_puts(&plain, " ");
        text = at + sizeof block - 1;
    }
    om_buf_puts(&plain, text);
    if (plain.failed) {
        v->text.failed = true;
    } else {
        om_vocab_set(v, id, plain.data, plain.len, score, OM_TOKEN_USER);
    }
    om_buf_release(&plain);
}

static void put_tokens(om_pairs *pairs, const om_vocab *v) {
    om_pairs_begin_strs(pairs, "tokenizer.ggml.tokens", v->n);
    for (size_t i = 0; i < v->n; i++) {
        const om_vocab_entry *e = &v->entries[i];
        if (e->set) {
            om_pairs_item(pairs, v->text.data + e->at, e->length);
        } else {
            char pad[32];
            const int length = snprintf(pad, sizeof pad, "[PAD%zu]", i);
            om_pairs_item(pairs, pad, (size_t) length);
        }
    }
}

om_status om_vocab_put(om_pairs *pairs, const om_vocab *v, bool scores, om_error *err) {
    om_status status = OM_OK;
    int32_t *types = om_calloc(v->n, sizeof *types);
    float *values = om_calloc(v->n, sizeof *values);
    if (types == NULL || values == NULL || v->text.failed) {
        OM_TRY(om_fail_nomem(err, v->n * sizeof *types));
    }
    for (size_t i = 0; i < v->n; i++) {
        const om_vocab_entry *e = &v->entries[i];
        types[i] = e->set ? e->type : OM_TOKEN_UNUSED;
        values[i] = e->set ? e->score : -10000.0f;
    }
    put_tokens(pairs, v);
    if (scores) {
        om_pairs_f32s(pairs, "tokenizer.ggml.scores", values, v->n);
    }
    om_pairs_i32s(pairs, "tokenizer.ggml.token_type", types, v->n);
out:
    om_free(types);
    om_free(values);
    return status;
}

void om_vocab_release(om_vocab *v) {
    om_free(v->entries);
    om_buf_release(&v->text);
    *v = (om_vocab){ 0 };
}
