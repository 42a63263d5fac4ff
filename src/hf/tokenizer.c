/* Which of a directory's files is the tokenizer, family by family, as in llama.cpp's converter. */
#include "hf/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "hf/config.h"
#include "hf/tokenizer_parts.h"

/* The largest tokenizer.json that people use has 34 MB. */
static const size_t max_bytes = (size_t) 256 << 20;

bool om_files_have(const om_json *doc, const char *key) {
    const om_node root = om_node_root(doc, "");
    return doc != NULL && om_node_has(&root, key);
}

/* ---- files ---- */

static om_status read_text(char **out, size_t *n, const char *dir, const char *name,
                           om_error *err) {
    char *path = om_path_join(dir, name);
    if (path == NULL) {
        return om_fail_nomem(err, strlen(dir));
    }
    om_status status = om_file_exists(path) ? om_file_read(out, n, path, max_bytes, err) : OM_OK;
    om_free(path);
    return status;
}

/* Where the string that begins at text[at] ends; n when it does not. */
static size_t skip_string(const char *text, size_t at, size_t n) {
    for (at++; at < n && text[at] != '"'; at++) {
        at += text[at] == '\\';
    }
    return at < n ? at + 1 : n;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* The text with integers of more than 18 digits as reals: "model_max_length" is 10^30 in many
 * tokenizer_config.json, which no integer of ours holds. */
static void shorten_integers(om_buf *out, const char *text, size_t n) {
    size_t kept = 0, at = 0;
    while (at < n) {
        if (text[at] == '"') {
            at = skip_string(text, at, n);
        } else if (is_digit(text[at])) {
            const size_t start = at;
            while (at < n && is_digit(text[at])) {
                at++;
            }
            const bool fraction =
                (start > 0 && (text[start - 1] == '.' || text[start - 1] == '+')) ||
                (at < n && strchr(".eE", text[at]) != NULL);
            if (at - start > 18 && !fraction) {
                om_buf_add(out, text + kept, at - kept);
                om_buf_puts(out, ".0");
                kept = at;
            }
        } else {
            at++;
        }
    }
    om_buf_add(out, text + kept, n - kept);
}

/* *out stays NULL when there is no such file. */
static om_status read_json(om_json **out, const char *dir, const char *name, om_error *err) {
    om_status status = OM_OK;
    char *text = NULL;
    om_buf plain = { 0 };
    size_t n = 0;
    OM_TRY(read_text(&text, &n, dir, name, err));
    if (text == NULL) {
        goto out;
    }
    shorten_integers(&plain, text, n);
    if (plain.failed) {
        OM_TRY(om_fail_nomem(err, n));
    }
    om_free(text);
    text = NULL;
    OM_TRY(om_json_parse(out, plain.data, plain.len, name, NULL, err));
out:
    om_free(text);
    om_buf_release(&plain);
    return status;
}

static om_status read_files(om_tokenizer_files *files, om_error *err) {
    om_status status = OM_OK;
    size_t n = 0;
    OM_TRY(read_json(&files->tokenizer, files->dir, "tokenizer.json", err));
    OM_TRY(read_json(&files->config, files->dir, "tokenizer_config.json", err));
    OM_TRY(read_json(&files->added, files->dir, "added_tokens.json", err));
    OM_TRY(read_json(&files->chat, files->dir, "chat_template.json", err));
    OM_TRY(read_text(&files->jinja, &n, files->dir, "chat_template.jinja", err));
out:
    return status;
}

static void release_files(om_tokenizer_files *files) {
    om_json_free(files->tokenizer);
    om_json_free(files->config);
    om_json_free(files->added);
    om_json_free(files->chat);
    om_free(files->jinja);
}

static bool has_file(const char *dir, const char *name) {
    char *path = om_path_join(dir, name);
    const bool found = path != NULL && om_file_exists(path);
    om_free(path);
    return found;
}

/* ---- families ---- */

typedef enum source {
    BPE,        /* byte-level BPE of tokenizer.json whatever else there is */
    SPM_OR_BPE, /* SentencePiece when there is a tokenizer.model, or tokenizer.json holds one */
    SPM,        /* SentencePiece, from either file */
    SPM_PHI3    /* the same, but GPT2Tokenizer in tokenizer_config.json means byte-level BPE */
} source;

static const struct family {
    const char *model_type;
    source source;
    bool llama; /* what only the Llama family's converter does */
    bool gemma; /* no space before a text */
} families[] = {
    { "llama", SPM_OR_BPE, true, false },   { "mistral", SPM_OR_BPE, true, false },
    { "mixtral", SPM_OR_BPE, true, false }, { "qwen2", SPM_OR_BPE, false, false },
    { "qwen3", SPM_OR_BPE, false, false },  { "qwen2_moe", BPE, false, false },
    { "qwen3_moe", BPE, false, false },     { "gemma2", SPM, false, true },
    { "gemma3_text", SPM, false, true },    { "phi3", SPM_PHI3, false, false },
    { "gpt_oss", BPE, false, false },       { "olmoe", BPE, false, false },
    { "gemma3", SPM, false, true },
};

static const struct family *find_family(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i].model_type, model_type) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

static bool is_gpt2_class(const om_json *tokenizer_config) {
    const om_node root = om_node_root(tokenizer_config, "tokenizer_config.json");
    const char *name = NULL;
    om_error ignored = { 0 };
    return tokenizer_config != NULL &&
           om_node_str(&name, &root, "tokenizer_class", &ignored) == OM_OK &&
           strcmp(name, "GPT2Tokenizer") == 0;
}

typedef enum tokenizer_kind {
    BYTES,
    MODEL,
    CHARS
} tokenizer_kind; /* tokenizer_bpe.c, _spm.c, _chars.c */

static om_status choose(tokenizer_kind *out, const struct family *f,
                        const om_tokenizer_files *files, om_error *err) {
    const bool has_model = has_file(files->dir, "tokenizer.model");
    const bool chars = om_tokenizer_is_chars(files->tokenizer);
    const bool spm = f->source == SPM || (f->source == SPM_OR_BPE && (has_model || chars)) ||
                     (f->source == SPM_PHI3 && !is_gpt2_class(files->config));
    if (spm && !has_model && !chars) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: neither tokenizer.model nor a tokenizer.json made of one, which models "
                       "of type %s need: copy it there from the model's repository",
                       files->dir, f->model_type);
    }
    *out = !spm ? BYTES : has_model ? MODEL : CHARS;
    return OM_OK;
}

/* ---- what the Llama family has besides ---- */

static om_status put_space_prefix(om_pairs *pairs, const struct family *f,
                                  const om_tokenizer_files *files, tokenizer_kind kind,
                                  om_error *err) {
    om_status status = OM_OK;
    bool prefix = false;
    if (kind == CHARS) {
        return OM_OK; /* tokenizer.json says it better */
    }
    if (f->llama && om_files_have(files->config, "add_prefix_space")) {
        const om_node root = om_node_root(files->config, "tokenizer_config.json");
        OM_TRY(om_node_bool(&prefix, &root, "add_prefix_space", err));
        om_pairs_bool(pairs, "tokenizer.ggml.add_space_prefix", prefix);
    } else if (f->gemma) {
        om_pairs_bool(pairs, "tokenizer.ggml.add_space_prefix", false);
    }
out:
    return status;
}

/* Code Llama is known by the size of its vocabulary, and its tokens for filling in by their ids. */
static void put_code_llama(om_pairs *pairs) {
    om_pairs_u32(pairs, "tokenizer.ggml.prefix_token_id", 32007);
    om_pairs_u32(pairs, "tokenizer.ggml.suffix_token_id", 32008);
    om_pairs_u32(pairs, "tokenizer.ggml.middle_token_id", 32009);
    om_pairs_u32(pairs, "tokenizer.ggml.eot_token_id", 32010);
}

om_status om_hf_tokenizer(om_pairs *pairs, const char *dir, const char *model_type,
                          const om_json *config, int64_t n_vocab, om_error *err) {
    enum { CODE_LLAMA = 32016, GRANITE = 49152 };
    om_status status = OM_OK;
    tokenizer_kind kind = BYTES;
    om_tokenizer_files files = { .dir = dir, .model = config };
    const struct family *f = find_family(model_type);
    if (f == NULL) {
        return om_hf_refuse(err, "no tokenizer for models of type \"%.40s\"", model_type);
    }
    OM_TRY(read_files(&files, err));
    OM_TRY(choose(&kind, f, &files, err));
    OM_TRY(put_space_prefix(pairs, f, &files, kind, err));
    switch (kind) {
    case BYTES:
        OM_TRY(om_tokenizer_bpe(pairs, &files, n_vocab, err));
        break;
    case MODEL:
        OM_TRY(om_tokenizer_spm(pairs, &files, n_vocab, f->source == SPM_PHI3, err));
        break;
    case CHARS:
        OM_TRY(om_tokenizer_chars(pairs, &files, n_vocab, err));
        break;
    }
    const om_special_options options = { .n_vocab = kind != BYTES ? n_vocab : 0,
                                         .no_bos = f->llama && n_vocab == GRANITE };
    OM_TRY(om_tokenizer_special(pairs, &files, &options, err));
    if (f->llama && n_vocab == CODE_LLAMA) {
        put_code_llama(pairs);
    }
    if (pairs->bytes.failed) {
        OM_TRY(om_fail_nomem(err, pairs->bytes.cap));
    }
out:
    release_files(&files);
    return status;
}
