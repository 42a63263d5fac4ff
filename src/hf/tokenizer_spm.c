/* tokenizer.model of SentencePiece -> tokens, scores, token_type.
 *
 * The file is a protobuf message of which three fields matter (sentencepiece_model.proto):
 *
 *   ModelProto      1: repeated SentencePiece    2: TrainerSpec
 *   SentencePiece   1: piece, a string           2: score, a float    3: type, an enum
 *   TrainerSpec     3: model_type, an enum
 *
 * Everything else is skipped by its wire type. The bytes may come from anywhere. */
#include "hf/tokenizer_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "hf/config.h"

/* ---- protobuf ---- */

typedef struct message {
    const unsigned char *at, *end;
} message;

typedef struct field {
    uint64_t number;
    int wire;         /* 0 varint, 1 eight bytes, 2 bytes with a length, 5 four bytes */
    uint64_t value;   /* of all but 2 */
    message contents; /* of 2 */
} field;

static bool read_varint(uint64_t *out, message *m) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (m->at == m->end) {
            return false;
        }
        const unsigned char byte = *m->at++;
        value |= (uint64_t) (byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(uint64_t *out, message *m, size_t n) {
    if ((size_t) (m->end - m->at) < n) {
        return false;
    }
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        *out |= (uint64_t) m->at[i] << (8 * i);
    }
    m->at += n;
    return true;
}

/* false: damaged. */
static bool read_field(field *f, message *m) {
    uint64_t key = 0, length = 0;
    *f = (field){ 0 };
    if (!read_varint(&key, m)) {
        return false;
    }
    f->number = key >> 3;
    f->wire = (int) (key & 7);
    switch (f->wire) {
    case 0:
        return read_varint(&f->value, m);
    case 1:
        return read_fixed(&f->value, m, 8);
    case 2:
        if (!read_varint(&length, m) || length > (uint64_t) (m->end - m->at)) {
            return false;
        }
        f->contents = (message){ m->at, m->at + length };
        m->at += length;
        return true;
    case 5:
        return read_fixed(&f->value, m, 4);
    default: /* groups, which this message has none of */
        return false;
    }
}

/* ---- the model ---- */

typedef struct piece {
    const char *text; /* [length] in the file */
    size_t length;
    float score;
    uint64_t type;
} piece;

static bool read_piece(piece *p, message m) {
    *p = (piece){ .text = "", .type = OM_TOKEN_NORMAL };
    field f;
    while (m.at < m.end) {
        if (!read_field(&f, &m)) {
            return false;
        }
        if (f.number == 1 && f.wire == 2) {
            p->text = (const char *) f.contents.at;
            p->length = (size_t) (f.contents.end - f.contents.at);
        } else if (f.number == 2 && f.wire == 5) {
            const uint32_t bits = (uint32_t) f.value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (f.number == 3 && f.wire == 0) {
            p->type = f.value;
        }
    }
    return true;
}

static om_status damaged(om_error *err, const char *name) {
    return om_fail(err, OM_E_FORMAT, "%s: not a model of SentencePiece, or damaged", name);
}

/* llama.cpp joins pieces by their scores, as the BPE of SentencePiece does. A trainer that says
 * nothing made a unigram model: that is the default of the message. */
static om_status check_trainer(message m, const char *name, om_error *err) {
    enum { UNIGRAM = 1, BPE = 2 };
    uint64_t type = UNIGRAM;
    field f;
    while (m.at < m.end) {
        if (!read_field(&f, &m)) {
            return damaged(err, name);
        }
        type = f.number == 3 && f.wire == 0 ? f.value : type;
    }
    if (type != BPE) {
        return om_hf_refuse(err, "%s: a unigram, word or character model, not BPE", name);
    }
    return OM_OK;
}

om_status om_spm_parse(om_vocab *v, const void *data, size_t size, const char *name,
                       om_error *err) {
    om_status status = OM_OK;
    message m = { data, (const unsigned char *) data + size };
    int64_t n = 0;
    while (m.at < m.end) {
        field f;
        piece p;
        if (!read_field(&f, &m)) {
            OM_TRY(damaged(err, name));
        }
        if (f.number == 2 && f.wire == 2) {
            OM_TRY(check_trainer(f.contents, name, err));
        }
        if (f.number != 1 || f.wire != 2) {
            continue;
        }
        if (!read_piece(&p, f.contents) || p.type < OM_TOKEN_NORMAL || p.type > OM_TOKEN_BYTE) {
            OM_TRY(damaged(err, name));
        }
        if (n < (int64_t) v->n) {
            /* SentencePiece's own user-defined pieces are ordinary to llama.cpp's converter */
            const int type = p.type == OM_TOKEN_USER ? OM_TOKEN_NORMAL : (int) p.type;
            om_vocab_set(v, n, p.text, p.length, p.score, type);
        }
        n++;
    }
    if (n == 0) {
        OM_TRY(damaged(err, name));
    }
out:
    return status;
}

/* ---- tokens added by other files ---- */

static const float score_of_added = -1000;

/* "32000" -> 32000; -1: no id, or past the vocabulary (then it is left out). */
static int64_t parse_id(const char *text, const om_vocab *v) {
    char *end = NULL;
    errno = 0;
    const long id = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    return end != NULL && *end == '\0' && errno == 0 && (uint64_t) id < v->n ? id : -1;
}

static om_status add_from_map(om_vocab *v, const om_json *doc, om_error *err) {
    om_status status = OM_OK;
    om_node entry;
    void *iter = NULL;
    if (doc == NULL) {
        return OM_OK;
    }
    const om_node root = om_node_root(doc, "added_tokens.json");
    while (om_node_next(&entry, &root, &iter)) {
        int64_t id = 0;
        OM_TRY(om_node_value_i64(&id, &entry, 0, INT32_MAX, err));
        if (id < (int64_t) v->n) {
            om_vocab_set(v, id, entry.key, strlen(entry.key), score_of_added, OM_TOKEN_USER);
        }
    }
out:
    return status;
}

/* {"content": …, "special": …} */
static om_status add_token(om_vocab *v, int64_t id, const om_node *token, bool phi3,
                           om_error *err) {
    om_status status = OM_OK;
    const char *content = NULL;
    bool special = false;
    OM_TRY(om_node_str(&content, token, "content", err));
    if (om_node_has(token, "special")) {
        OM_TRY(om_node_bool(&special, token, "special", err));
    }
    if (id < 0 || id >= (int64_t) v->n) {
        goto out;
    }
    if (phi3) {
        om_vocab_set(v, id, content, strlen(content), score_of_added,
                     special ? OM_TOKEN_CONTROL : OM_TOKEN_USER);
    } else {
        om_vocab_set_added(v, id, content, score_of_added, special);
    }
out:
    return status;
}

static om_status add_from_config(om_vocab *v, const om_json *doc, bool phi3, om_error *err) {
    om_status status = OM_OK;
    om_node decoder, token;
    void *iter = NULL;
    if (!om_files_have(doc, "added_tokens_decoder")) {
        return OM_OK;
    }
    const om_node root = om_node_root(doc, "tokenizer_config.json");
    OM_TRY(om_node_object(&decoder, &root, "added_tokens_decoder", err));
    while (om_node_next(&token, &decoder, &iter)) {
        OM_TRY(add_token(v, parse_id(token.key, v), &token, phi3, err));
    }
out:
    return status;
}

static om_status add_from_tokenizer(om_vocab *v, const om_json *doc, om_error *err) {
    om_status status = OM_OK;
    om_node list, token;
    size_t n = 0;
    if (!om_files_have(doc, "added_tokens")) {
        return OM_OK;
    }
    const om_node root = om_node_root(doc, "tokenizer.json");
    OM_TRY(om_node_array(&list, &n, &root, "added_tokens", err));
    for (size_t i = 0; i < n; i++) {
        int64_t id = 0;
        OM_TRY(om_node_at(&token, &list, i, err));
        OM_TRY(om_node_i64(&id, &token, "id", 0, INT32_MAX, err));
        OM_TRY(add_token(v, id, &token, true, err));
    }
out:
    return status;
}

om_status om_tokenizer_spm(om_pairs *pairs, const om_tokenizer_files *files, int64_t n_vocab,
                           bool phi3, om_error *err) {
    om_status status = OM_OK;
    om_vocab v = { 0 };
    om_map map = { 0 };
    char *path = om_path_join(files->dir, "tokenizer.model");
    if (path == NULL) {
        OM_TRY(om_fail_nomem(err, strlen(files->dir)));
    }
    OM_TRY(om_map_open(&map, path, err));
    OM_TRY(om_vocab_init(&v, n_vocab, err));
    OM_TRY(om_spm_parse(&v, map.data, map.size, path, err));
    OM_TRY(add_from_map(&v, files->added, err));
    OM_TRY(add_from_config(&v, files->config, phi3, err));
    if (phi3) {
        OM_TRY(add_from_tokenizer(&v, files->tokenizer, err));
    }
    om_pairs_str(pairs, "tokenizer.ggml.model", "llama");
    om_pairs_str(pairs, "tokenizer.ggml.pre", "default");
    OM_TRY(om_vocab_put(pairs, &v, true, err));
out:
    om_vocab_release(&v);
    om_map_close(&map);
    om_free(path);
    return status;
}
