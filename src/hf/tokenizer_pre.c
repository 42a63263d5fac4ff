/* pre_tokenizer of a tokenizer.json -> tokenizer.ggml.pre.
 *
 * llama.cpp has each splitting rule under the name of the model that had it first. Its converter
 * recognises a rule by a hash of what the tokenizer makes of a test text, which names one
 * vocabulary; here the rule itself is compared: the steps of the pre-tokenizer, written on one
 * line, must be a line of the table. Names that llama.cpp treats alike (starcoder and smollm, phi-2
 * and gpt-2 …) are one line.
 *
 * Sources: the regular expressions in the comments of llama.cpp's src/llama-vocab.cpp, and the
 * tokenizer.json files of the models named. */
#include "hf/tokenizer_parts.h"

#include <string.h>

#include "hf/config.h"

/* The parts that the rules have in common. */
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define MARKS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define MARKS_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(contractions)                                                                   \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" contractions "|[^\\r\\n\\p{L}\\p{N}]?" UPPER \
    "+" LOWER "*" contractions

typedef enum ignore_merges { ANY, NO, YES } ignore_merges;

static const struct {
    const char *steps, *pre;
    ignore_merges ignore; /* a whole word that is a token needs no merges */
} table[] = {
    { "bytes+regex", "gpt-2", ANY },
    { "digits bytes+regex", "smollm", ANY },
    { "split " CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" MARKS "|" SPACES " bytes", "llama-bpe", YES },
    { "split " CONTRACTIONS "|" WORD "|\\p{N}{1,3}|" MARKS "|" SPACES " bytes", "dbrx", NO },
    { "split " CONTRACTIONS "|" WORD "|\\p{N}|" MARKS "|" SPACES " bytes", "qwen2", ANY },
    { "split " CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
      "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES " bytes",
      "qwen35", ANY },
    { "split " CASED(CONTRACTIONS "?") "|\\p{N}{1,3}|" MARKS_SLASH "|" SPACES " bytes", "gpt-4o",
      ANY },
    { "split [\\r\\n] split \\s?\\p{L}+ split \\s?\\p{P}+ "
      "split [\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+ "
      "digits bytes", /* ranges 4E00-9FA5, 0800-4E00, AC00-D7FF */
      "deepseek-coder", ANY },
    { "split " CASED("") "|\\p{N}|" MARKS_SLASH "|" SPACES " bytes", "tekken", ANY },
};

/* A line break within a pattern, however it was written, as its escape. */
static void put_pattern(om_buf *b, const char *pattern) {
    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '\r') {
            om_buf_puts(b, "\\r");
        } else if (*pattern == '\n') {
            om_buf_puts(b, "\\n");
        } else {
            om_buf_add(b, pattern, 1);
        }
    }
}

/* `fallback` is kept when the member is absent. */
static om_status get_bool(bool *out, const om_node *object, const char *key, om_error *err) {
    return om_node_has(object, key) ? om_node_bool(out, object, key, err) : OM_OK;
}

/* Pieces between matches are kept as pieces, matches too: "Isolated", or the inverse said as
 * "Removed" with invert (patterns that match everything). */
static om_status put_split(om_buf *b, const om_node *step, om_error *err) {
    om_status status = OM_OK;
    const char *behavior = NULL, *pattern = NULL;
    bool invert = false;
    om_node holder;
    OM_TRY(om_node_str(&behavior, step, "behavior", err));
    OM_TRY(get_bool(&invert, step, "invert", err));
    OM_TRY(om_node_object(&holder, step, "pattern", err));
    if (!om_node_has(&holder, "Regex") || strcmp(behavior, invert ? "Removed" : "Isolated") != 0) {
        om_buf_puts(b, "other-split");
        goto out;
    }
    OM_TRY(om_node_str(&pattern, &holder, "Regex", err));
    om_buf_puts(b, "split ");
    put_pattern(b, pattern);
out:
    return status;
}

static om_status put_step(om_buf *b, const om_node *step, om_error *err) {
    om_status status = OM_OK;
    const char *type = NULL;
    bool flag = false;
    OM_TRY(om_node_str(&type, step, "type", err));
    if (b->len > 0) {
        om_buf_puts(b, " ");
    }
    if (strcmp(type, "ByteLevel") == 0) {
        bool prefix = true, regex = true; /* the library's defaults */
        OM_TRY(get_bool(&prefix, step, "add_prefix_space", err));
        OM_TRY(get_bool(&regex, step, "use_regex", err));
        om_buf_printf(b, "bytes%s%s", regex ? "+regex" : "", prefix ? "+prefix" : "");
    } else if (strcmp(type, "Digits") == 0) {
        OM_TRY(get_bool(&flag, step, "individual_digits", err));
        om_buf_puts(b, flag ? "digits" : "digit-runs");
    } else if (strcmp(type, "Split") == 0) {
        OM_TRY(put_split(b, step, err));
    } else {
        om_buf_puts(b, type);
    }
out:
    return status;
}

static om_status put_steps(om_buf *b, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    const char *type = NULL;
    om_node pre, list, step;
    size_t n = 0;
    OM_TRY(om_node_object(&pre, root, "pre_tokenizer", err));
    OM_TRY(om_node_str(&type, &pre, "type", err));
    if (strcmp(type, "Sequence") != 0) {
        return put_step(b, &pre, err);
    }
    OM_TRY(om_node_array(&list, &n, &pre, "pretokenizers", err));
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&step, &list, i, err));
        OM_TRY(put_step(b, &step, err));
    }
out:
    return status;
}

/* NFC changes nothing that llama.cpp would do otherwise; it has no other normalizer for BPE. */
static om_status check_normalizer(const om_node *root, om_error *err) {
    om_status status = OM_OK;
    const char *type = NULL;
    om_node normalizer, list, item;
    size_t n = 0;
    if (!om_node_has(root, "normalizer")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&normalizer, root, "normalizer", err));
    OM_TRY(om_node_str(&type, &normalizer, "type", err));
    if (strcmp(type, "Sequence") == 0) {
        OM_TRY(om_node_array(&list, &n, &normalizer, "normalizers", err));
        type = "NFC";
        for (size_t i = 0; i < n && strcmp(type, "NFC") == 0; i++) {
            OM_TRY(om_node_at(&item, &list, i, err));
            OM_TRY(om_node_str(&type, &item, "type", err));
        }
    }
    if (strcmp(type, "NFC") != 0) {
        OM_TRY(om_hf_refuse(err, "tokenizer.json: normalizer %.40s", type));
    }
out:
    return status;
}

om_status om_tokenizer_pre(const char **out, const om_json *tokenizer, om_error *err) {
    om_status status = OM_OK;
    const om_node root = om_node_root(tokenizer, "tokenizer.json");
    om_buf steps = { 0 };
    om_node model;
    bool ignore = false;
    OM_TRY(om_node_object(&model, &root, "model", err));
    OM_TRY(get_bool(&ignore, &model, "ignore_merges", err));
    OM_TRY(check_normalizer(&root, err));
    if (!om_node_has(&root, "pre_tokenizer")) {
        OM_TRY(om_hf_refuse(err, "tokenizer.json: no pre_tokenizer"));
    }
    OM_TRY(put_steps(&steps, &root, err));
    if (steps.failed) {
        OM_TRY(om_fail_nomem(err, steps.cap));
    }
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(steps.data != NULL ? steps.data : "", table[i].steps) == 0 &&
            (table[i].ignore == ANY || (table[i].ignore == YES) == ignore)) {
            *out = table[i].pre;
            goto out;
        }
    }
    status = om_hf_refuse(err, "tokenizer.json: unknown pre-tokenizer \"%.120s\"",
                          steps.data != NULL ? steps.data : "");
out:
    om_buf_release(&steps);
    return status;
}
