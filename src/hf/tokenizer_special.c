/* Special tokens and chat template -> tokenizer.ggml.*_token_id, add_*_token,
 * tokenizer.chat_template.
 *
 * Three files speak of special tokens, and the first that does wins: tokenizer_config.json names
 * them by text, tokenizer.json's post-processor shows which of them surround a text, config.json
 * has ids. The order and the reading of templates follow SpecialVocab of llama.cpp's gguf-py. */
#include "hf/tokenizer_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

typedef enum special_kind { BOS, EOS, UNK, SEP, PAD, CLS, MASK, EOT, EOM, N_KINDS } special_kind;

static const struct {
    const char *name;    /* in "bos_token", "bos_token_id", "add_bos_token" */
    const char *id_key;  /* NULL: GGUF has no such key */
    const char *add_key; /* NULL: likewise */
} kinds[N_KINDS] = {
    [BOS] = { "bos", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token" },
    [EOS] = { "eos", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token" },
    [UNK] = { "unk", "tokenizer.ggml.unknown_token_id", NULL },
    [SEP] = { "sep", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.add_sep_token" },
    [PAD] = { "pad", "tokenizer.ggml.padding_token_id", NULL },
    [CLS] = { "cls", NULL, NULL },
    [MASK] = { "mask", "tokenizer.ggml.mask_token_id", NULL },
    [EOT] = { "eot", "tokenizer.ggml.eot_token_id", NULL },
    [EOM] = { "eom", "tokenizer.ggml.eom_token_id", NULL },
};

typedef struct special {
    const char *text[N_KINDS]; /* borrowed from the documents; NULL: not named */
    bool asked[N_KINDS];       /* eot and eom only when a template made room for them */
    int add[N_KINDS];          /* -1 nobody said, 0, 1 */
    int64_t id[N_KINDS];       /* -1 none */
} special;

static bool same(const char *a, const char *b) {
    return a != NULL && b != NULL && strcmp(a, b) == 0;
}

const char *om_token_text(const om_node *object, const char *key) {
    const char *text = NULL;
    om_node token;
    om_error ignored = { 0 };
    if (om_node_str(&text, object, key, &ignored) == OM_OK) {
        return text;
    }
    if (om_node_object(&token, object, key, &ignored) == OM_OK &&
        om_node_str(&text, &token, "content", &ignored) == OM_OK) {
        return text;
    }
    return NULL;
}

static void read_texts(special *s, const om_tokenizer_files *files) {
    if (files->config == NULL) {
        return;
    }
    const om_node config = om_node_root(files->config, "tokenizer_config.json");
    for (int k = 0; k < EOT; k++) {
        char key[32];
        snprintf(key, sizeof key, "%s_token", kinds[k].name);
        s->text[k] = om_token_text(&config, key);
    }
}

/* ---- the post-processor ---- */

/* The id of a step {"SpecialToken": {"id": …}}; NULL: another step. */
static const char *template_token(const om_node *steps, size_t i) {
    om_node step, token;
    const char *id = NULL;
    om_error ignored = { 0 };
    if (om_node_at(&step, steps, i, &ignored) != OM_OK ||
        om_node_object(&token, &step, "SpecialToken", &ignored) != OM_OK ||
        om_node_str(&id, &token, "id", &ignored) != OM_OK) {
        return NULL;
    }
    return id;
}

static void read_first(special *s, const char *first, bool has_config) {
    if (!has_config) {
        s->text[BOS] = first;
    } else if (!same(first, s->text[BOS]) && !same(first, s->text[CLS])) {
        if (s->text[BOS] == NULL) {
            s->text[BOS] = first;
        }
        if (s->text[CLS] == NULL) {
            s->text[CLS] = first;
        }
    }
    s->add[BOS] = same(first, s->text[BOS]) || same(first, s->text[CLS]);
}

/* A text that ends in another token than eos: that one is the end, and the former eos ends turns.
 */
static void read_last(special *s, const char *last, bool has_config) {
    if (has_config && !same(last, s->text[EOS])) {
        for (int k = EOT; k <= EOM; k++) {
            if (!s->asked[k]) {
                s->asked[k] = true;
                s->text[k] = s->text[EOS];
                break;
            }
        }
    }
    s->text[EOS] = last;
    s->add[EOS] = 1;
}

/* "A sep B" in the template for two texts, without what surrounds both. */
static void read_pair(special *s, const om_node *processor, const char *first, const char *last) {
    om_node pair;
    om_error ignored = { 0 };
    size_t n = 0;
    if (om_node_array(&pair, &n, processor, "pair", &ignored) != OM_OK || n < 2) {
        return;
    }
    size_t from = first != NULL && same(template_token(&pair, 0), first) ? 1 : 0;
    size_t to = last != NULL && same(template_token(&pair, n - 1), last) ? n - 1 : n;
    if (to < from + 3 || to > from + 4) { /* nothing between A and B, or what nobody knows */
        return;
    }
    bool add = false;
    for (size_t i = from + 1; i + 1 < to; i++) {
        const char *between = template_token(&pair, i);
        const bool known = same(between, s->text[SEP]) || same(between, s->text[EOS]);
        add = add || (known && (i > from + 1 || last == NULL));
    }
    s->add[SEP] = add;
}

static void read_template(special *s, const om_node *processor, bool has_config) {
    om_node single;
    om_error ignored = { 0 };
    size_t n = 0;
    const char *first = NULL, *last = NULL;
    if (om_node_array(&single, &n, processor, "single", &ignored) == OM_OK && n > 1) {
        first = template_token(&single, 0);
        last = template_token(&single, n - 1);
    }
    if (first != NULL) {
        read_first(s, first, has_config);
    }
    if (last != NULL) {
        read_last(s, last, has_config);
    }
    read_pair(s, processor, first, last);
}

static void read_processor(special *s, const om_node *processor, bool has_config) {
    const char *type = NULL;
    om_error ignored = { 0 };
    if (om_node_str(&type, processor, "type", &ignored) != OM_OK) {
        return;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        s->add[BOS] = s->add[BOS] < 0 ? 0 : s->add[BOS];
        s->add[EOS] = s->add[EOS] < 0 ? 0 : s->add[EOS];
    } else if (strcmp(type, "RobertaProcessing") == 0) {
        s->add[BOS] = s->add[EOS] = s->add[SEP] = 1;
    } else if (strcmp(type, "TemplateProcessing") == 0) {
        read_template(s, processor, has_config);
    }
}

static om_status read_post_processor(special *s, const om_tokenizer_files *files, om_error *err) {
    om_status status = OM_OK;
    om_node post, list, processor;
    size_t n = 0;
    if (!om_files_have(files->tokenizer, "post_processor")) {
        return OM_OK;
    }
    const om_node root = om_node_root(files->tokenizer, "tokenizer.json");
    const bool has_config = files->config != NULL;
    OM_TRY(om_node_object(&post, &root, "post_processor", err));
    if (!om_node_has(&post, "processors")) {
        read_processor(s, &post, has_config);
        return OM_OK;
    }
    OM_TRY(om_node_array(&list, &n, &post, "processors", err));
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&processor, &list, i, err));
        read_processor(s, &processor, has_config);
    }
out:
    return status;
}

/* ---- ids ---- */

static void set_id(special *s, int kind, int64_t id, int64_t n_vocab) {
    if (s->id[kind] < 0 && (n_vocab == 0 || id < n_vocab)) {
        s->id[kind] = id;
    }
}

static om_status find_added(special *s, const om_tokenizer_files *files, int64_t n_vocab,
                            om_error *err) {
    om_status status = OM_OK;
    om_node list, token;
    size_t n = 0;
    if (files->config == NULL || !om_files_have(files->tokenizer, "added_tokens")) {
        return OM_OK;
    }
    const om_node root = om_node_root(files->tokenizer, "tokenizer.json");
    OM_TRY(om_node_array(&list, &n, &root, "added_tokens", err));
    for (size_t i = 0; i < n; i++) {
        const char *content = NULL;
        int64_t id = 0;
        OM_TRY(om_node_at(&token, &list, i, err));
        OM_TRY(om_node_str(&content, &token, "content", err));
        OM_TRY(om_node_i64(&id, &token, "id", 0, INT32_MAX, err));
        for (int k = 0; k < N_KINDS; k++) {
            if (s->asked[k] && same(content, s->text[k])) {
                set_id(s, k, id, n_vocab);
            }
        }
    }
out:
    return status;
}

static void read_model_ids(special *s, const om_node *object, int64_t n_vocab) {
    for (int k = 0; k < N_KINDS; k++) {
        char key[32];
        int64_t id = 0;
        om_error ignored = { 0 };
        snprintf(key, sizeof key, "%s_token_id", kinds[k].name);
        /* a list of ids (several tokens end a text) names none */
        if (s->asked[k] && om_node_i64(&id, object, key, 0, INT32_MAX, &ignored) == OM_OK) {
            set_id(s, k, id, n_vocab);
        }
    }
}

static void read_ids_of_model(special *s, const om_tokenizer_files *files, int64_t n_vocab) {
    om_node text;
    om_error ignored = { 0 };
    const om_node root = om_node_root(files->model, "config.json");
    read_model_ids(s, &root, n_vocab);
    if (om_node_object(&text, &root, "text_config", &ignored) == OM_OK) {
        read_model_ids(s, &text, n_vocab);
    }
}

static void read_add_flags(special *s, const om_tokenizer_files *files) {
    if (files->config == NULL) {
        return;
    }
    const om_node config = om_node_root(files->config, "tokenizer_config.json");
    for (int k = 0; k < N_KINDS; k++) {
        char key[32];
        bool add = false;
        om_error ignored = { 0 };
        snprintf(key, sizeof key, "add_%s_token", kinds[k].name);
        if (s->add[k] < 0 && om_node_bool(&add, &config, key, &ignored) == OM_OK) {
            s->add[k] = add;
        }
    }
}

/* ---- chat templates ---- */

/* A name as part of a key. */
static void clean_name(char out[64], const char *name) {
    size_t n = 0;
    for (; *name != '\0' && n < 63; name++) {
        const char c = *name;
        const bool plain =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        out[n++] = plain ? c : '_';
    }
    out[n] = '\0';
}

static om_status put_named(om_pairs *pairs, om_buf *names, size_t *n_names, const om_node *entry,
                           om_error *err) {
    om_status status = OM_OK;
    const char *name = NULL, *text = NULL;
    char clean[64], key[96];
    OM_TRY(om_node_str(&name, entry, "name", err));
    OM_TRY(om_node_str(&text, entry, "template", err));
    clean_name(clean, name);
    if (strcmp(clean, "default") == 0) {
        om_pairs_str(pairs, "tokenizer.chat_template", text);
    } else if (clean[0] != '\0') {
        snprintf(key, sizeof key, "tokenizer.chat_template.%s", clean);
        om_pairs_str(pairs, key, text);
        om_pairs_put_str(names, clean, strlen(clean));
        ++*n_names;
    }
out:
    return status;
}

static om_status put_list(om_pairs *pairs, const om_node *list, size_t n, om_error *err) {
    om_status status = OM_OK;
    om_node entry;
    om_buf names = { 0 };
    size_t n_names = 0;
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&entry, list, i, err));
        OM_TRY(put_named(pairs, &names, &n_names, &entry, err));
    }
    if (n_names > 0) {
        om_pairs_begin_strs(pairs, "tokenizer.chat_templates", n_names);
        om_buf_add(&pairs->bytes, names.data, names.len);
        pairs->bytes.failed = pairs->bytes.failed || names.failed;
    }
out:
    om_buf_release(&names);
    return status;
}

static om_status put_template_of(om_pairs *pairs, const om_json *doc, const char *file,
                                 om_error *err) {
    om_status status = OM_OK;
    om_node list;
    om_error ignored = { 0 };
    size_t n = 0;
    const char *text = NULL;
    const om_node root = om_node_root(doc, file);
    if (om_node_array(&list, &n, &root, "chat_template", &ignored) == OM_OK) {
        return put_list(pairs, &list, n, err);
    }
    OM_TRY(om_node_str(&text, &root, "chat_template", err));
    om_pairs_str(pairs, "tokenizer.chat_template", text);
out:
    return status;
}

static om_status put_chat_template(om_pairs *pairs, const om_tokenizer_files *files,
                                   om_error *err) {
    if (files->config == NULL) {
        return OM_OK;
    }
    if (om_files_have(files->config, "chat_template")) {
        return put_template_of(pairs, files->config, "tokenizer_config.json", err);
    }
    if (files->jinja != NULL) {
        om_pairs_str(pairs, "tokenizer.chat_template", files->jinja);
        return OM_OK;
    }
    if (om_files_have(files->chat, "chat_template")) {
        return put_template_of(pairs, files->chat, "chat_template.json", err);
    }
    return OM_OK;
}

om_status om_tokenizer_special(om_pairs *pairs, const om_tokenizer_files *files,
                               const om_special_options *options, om_error *err) {
    om_status status = OM_OK;
    special s = { 0 };
    for (int k = 0; k < N_KINDS; k++) {
        s.asked[k] = k < EOT;
        s.add[k] = -1;
        s.id[k] = -1;
    }
    read_texts(&s, files);
    s.text[BOS] = s.text[BOS] != NULL ? s.text[BOS] : s.text[CLS];
    s.text[EOS] = s.text[EOS] != NULL ? s.text[EOS] : s.text[SEP];
    OM_TRY(read_post_processor(&s, files, err));
    read_add_flags(&s, files);
    OM_TRY(find_added(&s, files, options->n_vocab, err));
    read_ids_of_model(&s, files, options->n_vocab);
    s.add[BOS] = options->no_bos ? 0 : s.add[BOS];
    for (int k = 0; k < N_KINDS; k++) {
        if (s.id[k] >= 0 && kinds[k].id_key != NULL) {
            om_pairs_u32(pairs, kinds[k].id_key, (uint32_t) s.id[k]);
        }
        if (s.add[k] >= 0 && kinds[k].add_key != NULL) {
            om_pairs_bool(pairs, kinds[k].add_key, s.add[k] == 1);
        }
    }
    OM_TRY(put_chat_template(pairs, files, err));
out:
    return status;
}
