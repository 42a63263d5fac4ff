/* What the kinds of tokenizers share. Private to src/hf; the entry points that take bytes or
 * documents serve tests and fuzzing too. */
#ifndef OM_HF_TOKENIZER_PARTS_H
#define OM_HF_TOKENIZER_PARTS_H

#include "base/json.h"
#include "hf/pairs.h"

/** tokenizer.ggml.token_type; the numbers of llama.h and of SentencePiece. */
enum {
    OM_TOKEN_NORMAL = 1,
    OM_TOKEN_UNKNOWN = 2,
    OM_TOKEN_CONTROL = 3,
    OM_TOKEN_USER = 4, /* added, but no control token */
    OM_TOKEN_UNUSED = 5,
    OM_TOKEN_BYTE = 6
};

/* ---- a vocabulary of a size that is known beforehand ---- */

typedef struct om_vocab_entry {
    size_t at, length; /* in text */
    float score;
    int32_t type;
    bool set; /* else "[PADi]", unused */
} om_vocab_entry;

typedef struct om_vocab {
    om_vocab_entry *entries; /* [n] owned */
    size_t n;
    om_buf text;
} om_vocab;

/** All n tokens unset. Errors: OM_E_FORMAT for a number that no model has; OM_E_NOMEM. */
om_status om_vocab_init(om_vocab *v, int64_t n, om_error *err) OM_WARN_UNUSED;
/** Token `id` (0 <= id < n) becomes these bytes; a second call replaces it. */
void om_vocab_set(om_vocab *v, int64_t id, const char *text, size_t length, float score, int type);
/** The same for an added token: a control token when `special` or when it looks like one, else
 * user-defined, with U+2581 as a space. */
void om_vocab_set_added(om_vocab *v, int64_t id, const char *text, float score, bool special);
/** tokens, scores when wanted, token_type. Errors: OM_E_NOMEM. */
om_status om_vocab_put(om_pairs *pairs, const om_vocab *v, bool scores,
                       om_error *err) OM_WARN_UNUSED;
void om_vocab_release(om_vocab *v);

/* ---- the files ---- */

typedef struct om_tokenizer_files {
    const char *dir;      /* borrowed */
    const om_json *model; /* config.json, borrowed */
    om_json *tokenizer;   /* tokenizer.json; these are NULL when there is no such file */
    om_json *config;      /* tokenizer_config.json */
    om_json *added;       /* added_tokens.json */
    om_json *chat;        /* chat_template.json */
    char *jinja;          /* chat_template.jinja */
} om_tokenizer_files;

/** Is there a member, and is it not null? false without a document. */
bool om_files_have(const om_json *doc, const char *key);

/* ---- byte-level BPE (tokenizer_bpe.c, tokenizer_pre.c) ---- */

/** tokenizer.ggml.pre of a tokenizer.json. Errors: OM_E_UNSUPPORTED when it is not in the table. */
om_status om_tokenizer_pre(const char **out, const om_json *tokenizer,
                           om_error *err) OM_WARN_UNUSED;
/** model, pre, tokens, token_type, merges. */
om_status om_tokenizer_bpe(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                           om_error *err) OM_WARN_UNUSED;

/* ---- SentencePiece (tokenizer_spm.c) ---- */

/** Fill `v` from the bytes of a tokenizer.model. Pieces past v->n are dropped. `name` for
 * messages. Errors: OM_E_FORMAT (damaged protobuf, no pieces). */
om_status om_spm_parse(om_vocab *v, const void *data, size_t size, const char *name,
                       om_error *err) OM_WARN_UNUSED;
/** model, pre, tokens, scores, token_type from tokenizer.model and the files that add tokens.
 * phi3: its converter also takes added tokens from tokenizer.json, and only the files' word for
 * which are control tokens. */
om_status om_tokenizer_spm(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                           bool phi3, om_error *err) OM_WARN_UNUSED;

/* ---- SentencePiece without its model (tokenizer_chars.c) ---- */

/** Is it BPE over characters with bytes to fall back on? false without a document. */
bool om_tokenizer_is_chars(const om_json *tokenizer);
/** model, pre, add_space_prefix, tokens, scores, token_type from tokenizer.json. */
om_status om_tokenizer_chars(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                             om_error *err) OM_WARN_UNUSED;

/* ---- special tokens and chat template (tokenizer_special.c) ---- */

typedef struct om_special_options {
    int64_t n_vocab; /* ids from here on are dropped; 0: no limit */
    bool no_bos;     /* add_bos_token is false whatever the files say */
} om_special_options;

/** A member that may be of any type: the string, or an object's "content"; NULL else. Borrowed. */
const char *om_token_text(const om_node *object, const char *key);
/** ids, add_bos_token …, chat templates. */
om_status om_tokenizer_special(om_pairs *pairs, const om_tokenizer_files *files,
                               const om_special_options *options, om_error *err) OM_WARN_UNUSED;

#endif
