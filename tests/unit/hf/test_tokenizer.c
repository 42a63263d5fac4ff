/* Tokenizer files -> tokenizer.* of a GGUF, on small files made here. Tokens, types and special ids
 * are compared with llama.cpp's converter, and what llama.cpp makes of a text with the Hugging Face
 * library, by tests/oracle/hf_to_gguf.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "hf/tokenizer.h"
#include "hf/tokenizer_parts.h"
#include "read_pairs.h"

static char *dir;

static int make_dir(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    return 0;
}

static int remove_dir(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static void write_text(const char *name, const char *text) {
    om_tmpdir_write(dir, name, text, strlen(text));
}

static om_status convert(om_pairs *pairs, const char *type, const char *config, int64_t n_vocab,
                         om_error *err) {
    om_json *doc = NULL;
    om_status status = om_json_parse(&doc, config, strlen(config), "config.json", NULL, err);
    if (status == OM_OK) {
        status = om_hf_tokenizer(pairs, dir, type, doc, n_vocab, err);
    }
    om_json_free(doc);
    return status;
}

static struct gguf_context *convert_ok(const char *type, const char *config, int64_t n_vocab) {
    om_pairs pairs = { .arch = "demo" };
    om_error err = { 0 };
    if (convert(&pairs, type, config, n_vocab, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    struct gguf_context *g = read_pairs(dir, &pairs);
    om_pairs_release(&pairs);
    return g;
}

/* ---- byte-level BPE ---- */

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define PRE "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" DIGITS "," BYTES "]}"
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3,\"\\u0120a\":4,\"<s>\":5}"
#define ADDED                                                                \
    "\"added_tokens\":[{\"id\":6,\"content\":\"<|end|>\",\"special\":true}," \
    "{\"id\":7,\"content\":\"x\\u2581y\",\"special\":false},"                \
    "{\"id\":8,\"content\":\"<|tool|>\",\"special\":false}]"

static void test_bytes(void **state) {
    (void) state;
    write_text("tokenizer.json", "{" ADDED "," PRE ",\"model\":{\"type\":\"BPE\"," VOCAB
                                 ",\"merges\":[\"a b\",\"\\u0120 a\"]}}");
    write_text("tokenizer_config.json",
               "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<|end|>\"},"
               "\"add_bos_token\":false,\"model_max_length\":1000000000000000019884624838656,"
               "\"chat_template\":\"{{ \\\"12345678901234567890\\\" }}\"}");
    struct gguf_context *g =
        convert_ok("qwen3", "{\"pad_token_id\":7,\"eos_token_id\":[6,5],\"bos_token_id\":2}", 11);
    assert_string_equal(pair_text(g, "tokenizer.ggml.model"), "gpt2");
    assert_string_equal(pair_text(g, "tokenizer.ggml.pre"), "smollm");
    assert_string_equal(pair_items(g, "tokenizer.ggml.tokens"),
                        "a|b|\xc4\xa0|ab|\xc4\xa0"
                        "a|<s>|<|end|>|x y|<|tool|>|[PAD9]|[PAD10]");
    /* normal; a special token of the vocabulary; added: control, user, looks like control; unused
     */
    assert_string_equal(pair_items(g, "tokenizer.ggml.token_type"), "1|1|1|1|1|3|3|4|3|5|5");
    assert_string_equal(pair_items(g, "tokenizer.ggml.merges"), "a b|\xc4\xa0 a");
    assert_string_equal(pair_items(g, "tokenizer.ggml.scores"), "(none)");
    /* <s> is not among the added tokens, so config.json decides */
    assert_true(pair_number(g, "tokenizer.ggml.bos_token_id") == 2);
    assert_true(pair_number(g, "tokenizer.ggml.eos_token_id") == 6);
    assert_true(pair_number(g, "tokenizer.ggml.padding_token_id") == 7);
    assert_true(pair_number(g, "tokenizer.ggml.unknown_token_id") < 0);
    assert_true(pair_number(g, "tokenizer.ggml.add_bos_token") == 0);
    assert_true(pair_number(g, "tokenizer.ggml.add_eos_token") < 0);
    assert_string_equal(pair_text(g, "tokenizer.chat_template"), "{{ \"12345678901234567890\" }}");
    gguf_free(g);
}

/* Merges as pairs may hold spaces. */
static void test_merges_as_pairs(void **state) {
    (void) state;
    write_text("tokenizer.json", "{" PRE ",\"model\":{\"type\":\"BPE\"," VOCAB
                                 ",\"merges\":[[\"a\",\"b\"],[\" \",\"a b\"]]}}");
    write_text("tokenizer_config.json", "{}");
    struct gguf_context *g = convert_ok("qwen3", "{}", 6);
    assert_string_equal(pair_items(g, "tokenizer.ggml.merges"), "a b|\xc4\xa0 a\xc4\xa0"
                                                                "b");
    gguf_free(g);
}

#define LLAMA3                                                                               \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n" \
    "\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"    \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define QWEN2                                                                                \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n" \
    "\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"         \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define O200K_PART(m)                                                                \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]" m \
    "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define O200K                                                                                    \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" O200K_PART(                                  \
        "*") "+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" O200K_PART("+") "*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" \
                                                               "\\\\p{N}{1,3}| "                 \
                                                               "?[^\\\\s\\\\p{L}\\\\p{N}]+["     \
                                                               "\\\\r\\\\n/"                     \
                                                               "]*|\\\\s*[\\\\r\\\\n]+|"         \
                                                               "\\\\s+(?!\\\\S)|\\\\s+\"},"      \
                                                               "\"behavior\":\"Removed\","       \
                                                               "\"invert\":true}"
#define TEKKEN                                                                         \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" O200K_PART("*") "+|" O200K_PART(   \
        "+") "*|"                                                                      \
             "\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|" \
             "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define PLAIN "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"

/* The steps of published tokenizers. */
static const struct {
    const char *steps, *more, *pre;
} pres[] = {
    { BYTES, "", "gpt-2" },
    { DIGITS "," BYTES, "", "smollm" },
    { LLAMA3 "," PLAIN, ",\"ignore_merges\":true", "llama-bpe" },
    { LLAMA3 "," PLAIN, ",\"ignore_merges\":false", "dbrx" },
    { LLAMA3 "," PLAIN, "", "dbrx" },
    { QWEN2 "," PLAIN, "", "qwen2" },
    { O200K "," PLAIN, "", "gpt-4o" },
    { TEKKEN "," PLAIN, ",\"ignore_merges\":true", "tekken" },
    { QWEN2, "", NULL },
    { QWEN2 "," BYTES, "", NULL },
    { BYTES "," DIGITS, "", NULL },
    { "{\"type\":\"ByteLevel\"}", "", NULL }, /* adds a space unless told otherwise */
    { "{\"type\":\"Digits\",\"individual_digits\":false}," BYTES, "", NULL },
    { "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"}," PLAIN, "",
      NULL },
    { "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}," PLAIN, "",
      NULL },
    { "{\"type\":\"Whitespace\"}", "", NULL },
    { "", "", NULL },
};

static om_status pre_of(const char **pre, const char *text, om_error *err) {
    om_json *doc = NULL;
    assert_int_equal(om_json_parse(&doc, text, strlen(text), "t", NULL, err), OM_OK);
    const om_status status = om_tokenizer_pre(pre, doc, err);
    om_json_free(doc);
    return status;
}

static void test_pre(void **state) {
    (void) state;
    for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++) {
        char text[4096];
        const char *pre = NULL;
        om_error err = { 0 };
        snprintf(text, sizeof text,
                 "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s]},"
                 "\"model\":{\"type\":\"BPE\"%s},\"normalizer\":{\"type\":\"NFC\"}}",
                 pres[i].steps, pres[i].more);
        const om_status status = pre_of(&pre, text, &err);
        if (pres[i].pre == NULL) {
            assert_int_equal(status, OM_E_UNSUPPORTED);
            assert_non_null(strstr(err.text, "convert_hf_to_gguf.py"));
        } else if (status != OM_OK || strcmp(pre, pres[i].pre) != 0) {
            fail_msg("%s: %s", pres[i].pre, status == OM_OK ? pre : err.text);
        }
    }
    const char *pre = NULL;
    om_error err = { 0 };
    assert_int_equal(pre_of(&pre, "{\"model\":{},\"pre_tokenizer\":" BYTES "}", &err), OM_OK);
    assert_string_equal(pre, "gpt-2");
    assert_int_equal(pre_of(&pre,
                            "{\"model\":{},\"normalizer\":{\"type\":\"Lowercase\"},"
                            "\"pre_tokenizer\":" BYTES "}",
                            &err),
                     OM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "Lowercase"));
}

/* ---- special tokens ---- */

#define SPECIAL(text) "{\"SpecialToken\":{\"id\":\"" text "\",\"type_id\":0}}"
#define A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define B "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}"
#define TOKENS                                                                         \
    "\"added_tokens\":[{\"id\":6,\"content\":\"<b>\"},{\"id\":7,\"content\":\"<e>\"}," \
    "{\"id\":8,\"content\":\"<t>\"},{\"id\":9,\"content\":\"<p>\"}]"

/* -1: no such pair */
static const struct {
    const char *processor, *config;
    int bos, eos, eot, add_bos, add_eos, add_sep;
} specials[] = {
    { "null", "{\"bos_token\":\"<b>\",\"add_bos_token\":true,\"add_eos_token\":false}", 6, -1, -1,
      1, 0, -1 },
    { "{\"type\":\"ByteLevel\"}", "{\"eos_token\":\"<e>\",\"add_eos_token\":true}", -1, 7, -1, 0, 0,
      -1 },
    { "{\"type\":\"TemplateProcessing\",\"single\":[" SPECIAL("<b>") "," A "],\"pair\":[" SPECIAL(
          "<b>") "," A "," B "]}",
      "{\"bos_token\":\"<b>\",\"eos_token\":\"<e>\",\"add_bos_token\":false}", 6, 7, -1, 1, -1,
      -1 },
    { "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
      "\"TemplateProcessing\",\"single\":[" A "," SPECIAL("<t>") "]}]}",
      "{\"eos_token\":\"<e>\"}", -1, 8, 7, 0, 1, -1 },
    { "{\"type\":\"TemplateProcessing\",\"single\":[" SPECIAL("<b>") "," A "]}", "{}", 6, -1, -1, 1,
      -1, -1 },
    { "{\"type\":\"TemplateProcessing\",\"single\":[" A "],\"pair\":[" A "," SPECIAL("<e>") "," B
                                                                                            "]}",
      "{\"eos_token\":\"<e>\"}", -1, 7, -1, -1, -1, 1 },
    { "{\"type\":\"RobertaProcessing\"}", "{\"bos_token\":\"<b>\"}", 6, -1, -1, 1, 1, 1 },
    { "{\"type\":\"Other\"}", "{\"cls_token\":\"<b>\",\"sep_token\":\"<e>\"}", 6, 7, -1, -1, -1,
      -1 },
};

static void expect_int(const struct gguf_context *g, const char *key, int expected, size_t i) {
    const double found = pair_number(g, key);
    if ((expected < 0) != (found < 0) || (expected >= 0 && (int) found != expected)) {
        fail_msg("case %zu: %s is %g, expected %d", i, key, found, expected);
    }
}

static void test_special(void **state) {
    (void) state;
    for (size_t i = 0; i < sizeof specials / sizeof specials[0]; i++) {
        char text[4096];
        snprintf(text, sizeof text,
                 "{" TOKENS "," PRE ",\"post_processor\":%s,\"model\":{\"type\":\"BPE\"," VOCAB
                 ",\"merges\":[\"a b\"]}}",
                 specials[i].processor);
        write_text("tokenizer.json", text);
        write_text("tokenizer_config.json", specials[i].config);
        struct gguf_context *g = convert_ok("llama", "{}", 10);
        expect_int(g, "tokenizer.ggml.bos_token_id", specials[i].bos, i);
        expect_int(g, "tokenizer.ggml.eos_token_id", specials[i].eos, i);
        expect_int(g, "tokenizer.ggml.eot_token_id", specials[i].eot, i);
        expect_int(g, "tokenizer.ggml.add_bos_token", specials[i].add_bos, i);
        expect_int(g, "tokenizer.ggml.add_eos_token", specials[i].add_eos, i);
        expect_int(g, "tokenizer.ggml.add_sep_token", specials[i].add_sep, i);
        gguf_free(g);
    }
}

static void test_chat_template(void **state) {
    (void) state;
    write_text("tokenizer.json",
               "{" PRE ",\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}}");
    write_text("tokenizer_config.json",
               "{\"chat_template\":[{\"name\":\"default\",\"template\":\"d\"},"
               "{\"name\":\"tool use\",\"template\":\"t\"}]}");
    write_text("chat_template.jinja", "from the file");
    struct gguf_context *g = convert_ok("qwen3", "{}", 6);
    assert_string_equal(pair_text(g, "tokenizer.chat_template"), "d");
    assert_string_equal(pair_text(g, "tokenizer.chat_template.tool_use"), "t");
    assert_string_equal(pair_items(g, "tokenizer.chat_templates"), "tool_use");
    gguf_free(g);
    write_text("tokenizer_config.json", "{\"chat_template\":null}");
    g = convert_ok("qwen3", "{}", 6);
    assert_string_equal(pair_text(g, "tokenizer.chat_template"), "from the file");
    gguf_free(g);
    remove(om_tmpdir_path(dir, "chat_template.jinja"));
    write_text("chat_template.json", "{\"chat_template\":\"from JSON\"}");
    g = convert_ok("qwen3", "{}", 6);
    assert_string_equal(pair_text(g, "tokenizer.chat_template"), "from JSON");
    gguf_free(g);
    remove(om_tmpdir_path(dir, "chat_template.json"));
}

/* ---- SentencePiece ---- */

static void put_varint(om_buf *b, uint64_t v) {
    while (v >= 0x80) {
        om_pairs_put(b, (v & 0x7F) | 0x80, 1);
        v >>= 7;
    }
    om_pairs_put(b, v, 1);
}

/* Field `number` with bytes. */
static void put_field(om_buf *b, uint64_t number, const char *bytes, size_t n) {
    put_varint(b, number << 3 | 2);
    put_varint(b, n);
    om_buf_add(b, bytes, n);
}

static void put_piece(om_buf *b, const char *text, float score, int type) {
    om_buf piece = { 0 };
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    put_field(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | 5);
    om_pairs_put(&piece, bits, 4);
    if (type != OM_TOKEN_NORMAL) { /* the default is left out */
        put_varint(&piece, 3 << 3);
        put_varint(&piece, (uint64_t) type);
    }
    put_field(b, 1, piece.data, piece.len);
    om_buf_release(&piece);
}

static void make_model(om_buf *b, char model_type) {
    const char trainer[] = { 3 << 3, model_type, 4 << 3, 9 };
    put_piece(b, "<unk>", 0, OM_TOKEN_UNKNOWN);
    put_piece(b, "<s>", 0, OM_TOKEN_CONTROL);
    put_piece(b, "<0x0A>", 0, OM_TOKEN_BYTE);
    put_piece(b, "\xe2\x96\x81t", -1, OM_TOKEN_NORMAL);
    put_piece(b, "<mark>", 0, OM_TOKEN_USER);
    put_piece(b, "old", -3.5f, OM_TOKEN_UNUSED);
    put_field(b, 2, trainer, sizeof trainer);
    put_field(b, 3, "", 0);
}

static void write_model(char model_type) {
    om_buf b = { 0 };
    make_model(&b, model_type);
    om_tmpdir_write(dir, "tokenizer.model", b.data, b.len);
    om_buf_release(&b);
}

static void remove_files(void) {
    static const char *const names[] = { "tokenizer.model", "tokenizer.json", "added_tokens.json",
                                         "tokenizer_config.json" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        remove(om_tmpdir_path(dir, names[i]));
    }
}

static void test_spm(void **state) {
    (void) state;
    remove_files();
    write_model(2);
    write_text("added_tokens.json", "{\"<new>\":6,\"too far\":9}");
    write_text("tokenizer_config.json",
               "{\"add_prefix_space\":true,\"bos_token\":\"<s>\",\"added_tokens_decoder\":{"
               "\"1\":{\"content\":\"<s>\",\"special\":true},"
               "\"7\":{\"content\":\"a\\u2581b\"},\"90\":{\"content\":\"far\"}}}");
    struct gguf_context *g = convert_ok("llama", "{\"bos_token_id\":1,\"eos_token_id\":90}", 9);
    assert_string_equal(pair_text(g, "tokenizer.ggml.model"), "llama");
    assert_string_equal(pair_text(g, "tokenizer.ggml.pre"), "default");
    assert_string_equal(pair_items(g, "tokenizer.ggml.tokens"),
                        "<unk>|<s>|<0x0A>|\xe2\x96\x81t|<mark>|old|<new>|a b|[PAD8]");
    assert_string_equal(pair_items(g, "tokenizer.ggml.token_type"), "2|3|6|1|1|5|4|4|5");
    assert_string_equal(pair_items(g, "tokenizer.ggml.scores"),
                        "0|-1000|0|-1|0|-3.5|-1000|-1000|-10000");
    assert_true(pair_number(g, "tokenizer.ggml.add_space_prefix") == 1);
    assert_true(pair_number(g, "tokenizer.ggml.bos_token_id") == 1);
    assert_true(pair_number(g, "tokenizer.ggml.eos_token_id") < 0); /* past the vocabulary */
    gguf_free(g);
    g = convert_ok("gemma2", "{}", 4);
    assert_string_equal(pair_items(g, "tokenizer.ggml.tokens"), "<unk>|<s>|<0x0A>|\xe2\x96\x81t");
    assert_true(pair_number(g, "tokenizer.ggml.add_space_prefix") == 0);
    gguf_free(g);
}

/* Phi-3's own reading: tokenizer.json adds tokens, and only the files say what is control. */
static void test_phi3(void **state) {
    (void) state;
    remove_files();
    write_model(2);
    write_text("tokenizer.json", "{\"added_tokens\":[{\"id\":6,\"content\":\"<|end|>\"},"
                                 "{\"id\":7,\"content\":\"a\\u2581b\",\"special\":true}]}");
    struct gguf_context *g = convert_ok("phi3", "{}", 8);
    assert_string_equal(pair_items(g, "tokenizer.ggml.tokens"),
                        "<unk>|<s>|<0x0A>|\xe2\x96\x81t|<mark>|old|<|end|>|a\xe2\x96\x81"
                        "b");
    assert_string_equal(pair_items(g, "tokenizer.ggml.token_type"), "2|3|6|1|1|5|4|3");
    gguf_free(g);
}

/* The same kind of tokenizer where only tokenizer.json is there: places of merges as scores. */
static void test_chars(void **state) {
    (void) state;
    remove_files();
    write_text("tokenizer.json",
               "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true}],"
               "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":"
               "\"first\",\"split\":false},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
               "\"vocab\":{\"<s>\":0,\"<0x0A>\":1,\"a\":2,\"b\":3,\"ab\":4,\"aba\":5},"
               "\"merges\":[\"a b\",[\"ab\",\"a\"],\"a b\"]}}");
    struct gguf_context *g = convert_ok("llama", "{}", 6);
    assert_string_equal(pair_text(g, "tokenizer.ggml.model"), "llama");
    assert_string_equal(pair_items(g, "tokenizer.ggml.token_type"), "3|6|1|1|1|1");
    assert_string_equal(pair_items(g, "tokenizer.ggml.scores"), "-1000|-1e+09|-1e+09|-1e+09|-1|-2");
    assert_true(pair_number(g, "tokenizer.ggml.add_space_prefix") == 1);
    gguf_free(g);
}

/* ---- what is refused ---- */

#define MODEL(more) "{" PRE ",\"model\":{\"type\":\"BPE\"," VOCAB more "}}"
#define CHARS(more) \
    "{" more "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true," VOCAB ",\"merges\":[]}}"

static const struct {
    const char *type, *tokenizer, *text;
    om_status status;
} refused[] = {
    { "qwen3", NULL, "tokenizer.json", OM_E_FORMAT },
    { "gemma2", NULL, "tokenizer.model", OM_E_FORMAT },
    { "gemma2", MODEL(",\"merges\":[\"a b\"]"), "tokenizer.model", OM_E_FORMAT },
    { "bert", "{}", "bert", OM_E_UNSUPPORTED },
    { "qwen3", "{", "tokenizer.json", OM_E_FORMAT },
    { "qwen3", "{}", "model", OM_E_FORMAT },
    { "qwen3", "{\"model\":{\"type\":\"Unigram\"}}", "Unigram", OM_E_UNSUPPORTED },
    { "qwen3", "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}",
      "end_of_word_suffix", OM_E_UNSUPPORTED },
    { "gpt_oss", CHARS(""), "byte_fallback", OM_E_UNSUPPORTED },
    { "llama", CHARS("\"normalizer\":{\"type\":\"NFKC\"},"), "NFKC", OM_E_UNSUPPORTED },
    { "llama", CHARS("\"pre_tokenizer\":{\"type\":\"Metaspace\"},"), "Metaspace",
      OM_E_UNSUPPORTED },
    { "qwen3", MODEL(""), "merges", OM_E_FORMAT },
    { "qwen3", MODEL(",\"merges\":[]"), "expected merges", OM_E_FORMAT },
    { "qwen3", MODEL(",\"merges\":[\"a b\",1]"), "merges[1]", OM_E_FORMAT },
    { "qwen3", MODEL(",\"merges\":[[\"a\"]]"), "merges[0]", OM_E_FORMAT },
    { "qwen3", "{" PRE ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":6},\"merges\":[\"a b\"]}}",
      "vocab.a: expected an integer from 0 to 5, found 6", OM_E_FORMAT },
    { "qwen3",
      "{" PRE ",\"added_tokens\":[{\"id\":1,\"content\":\"a\"}],\"model\":{\"type\":\"BPE\"," VOCAB
      ",\"merges\":[\"a b\"]}}",
      "id 1, but 0", OM_E_FORMAT },
};

static void test_refused(void **state) {
    (void) state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        om_pairs pairs = { .arch = "demo" };
        om_error err = { 0 };
        remove_files();
        if (refused[i].tokenizer != NULL) {
            write_text("tokenizer.json", refused[i].tokenizer);
        }
        const om_status status = convert(&pairs, refused[i].type, "{}", 6, &err);
        if (status != refused[i].status || strstr(err.text, refused[i].text) == NULL) {
            fail_msg("case %zu: %s: %s", i, om_status_name(status), err.text);
        }
        om_pairs_release(&pairs);
    }
}

static void test_damaged_model(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_error err = { 0 };
    om_vocab v;
    make_model(&b, 2);
    size_t n_good = 0;
    for (size_t cut = 0; cut < b.len; cut++) { /* whole pieces are left at few places */
        assert_int_equal(om_vocab_init(&v, 9, &err), OM_OK);
        n_good += om_spm_parse(&v, b.data, cut, "m", &err) == OM_OK;
        om_vocab_release(&v);
    }
    assert_int_equal(n_good, 7);
    om_buf_release(&b);
    static const char *const bad[] = {
        "",                                             /* no pieces */
        "\x0b",                                         /* a group */
        "\x0a\x05\x0a\x09",                             /* a piece longer than its message */
        "\x0a\x02\x18\x00",                             /* type 0 */
        "\x0a\x02\x18\x07",                             /* type 7 */
        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", /* an endless number */
    };
    static const size_t lengths[] = { 0, 1, 4, 4, 4, 11 };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (om_error){ 0 };
        assert_int_equal(om_vocab_init(&v, 9, &err), OM_OK);
        assert_int_equal(om_spm_parse(&v, bad[i], lengths[i], "m", &err), OM_E_FORMAT);
        om_vocab_release(&v);
    }
    static const char nothing_said[] = "\x0a\x03\x0a\x01x\x12\x02\x20\x09";
    err = (om_error){ 0 };
    assert_int_equal(om_vocab_init(&v, 9, &err), OM_OK);
    assert_int_equal(om_spm_parse(&v, nothing_said, sizeof nothing_said - 1, "m", &err),
                     OM_E_UNSUPPORTED); /* unigram is the default */
    om_vocab_release(&v);
    remove_files();
    write_model(1);
    om_pairs pairs = { .arch = "demo" };
    err = (om_error){ 0 };
    assert_int_equal(convert(&pairs, "llama", "{}", 9, &err), OM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "unigram"));
    om_pairs_release(&pairs);
}

static void test_out_of_memory(void **state) {
    (void) state;
    remove_files();
    write_text("tokenizer.json", "{" ADDED "," PRE ",\"model\":{\"type\":\"BPE\"," VOCAB
                                 ",\"merges\":[[\"a\",\"b\"]]}}");
    write_text("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"chat_template\":\"x\"}");
    for (long n = 1;; n++) {
        om_pairs pairs = { .arch = "demo" };
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = convert(&pairs, "llama", "{}", 9, &err);
        om_mem_fail_at(0);
        om_pairs_release(&pairs);
        if (status == OM_OK) {
            assert_true(n > 50);
            return;
        }
        assert_int_equal(status, OM_E_NOMEM);
    }
}

/* Two files name the same token: the second is compared with the first, which was not kept. */
static void test_token_that_was_not_kept(void **state) {
    (void) state;
    om_vocab v;
    om_error err = { 0 };
    om_pairs pairs = { .arch = "demo" };
    assert_int_equal(om_vocab_init(&v, 2, &err), OM_OK);
    om_mem_fail_at(1);
    om_vocab_set(&v, 1, "token", 5, 0, OM_TOKEN_NORMAL);
    om_mem_fail_at(0);
    om_vocab_set(&v, 1, "token", 5, 0, OM_TOKEN_NORMAL);
    assert_int_equal(om_vocab_put(&pairs, &v, false, &err), OM_E_NOMEM);
    om_vocab_release(&v);
    om_pairs_release(&pairs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_that_was_not_kept),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_merges_as_pairs),
        cmocka_unit_test(test_pre),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_chat_template),
        cmocka_unit_test(test_spm),
        cmocka_unit_test(test_phi3),
        cmocka_unit_test(test_chars),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damaged_model),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
