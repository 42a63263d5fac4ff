/* A directory of a tiny model -> GGUF: bits of the weights, types, the two ways to metadata, and
 * that nothing is left behind when something is wrong. llama.cpp's converter and llama.cpp itself
 * judge real models in tests/oracle/hf_to_gguf.sh. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "hf/to_gguf.h"
#include "tmpdir.h"

static char *dir;
static const char *hf_dir, *out; /* within dir */

static const struct {
    const char *hf, *gguf;
    int64_t rows, columns; /* columns 0: a vector */
} tensors[] = {
    { "model.embed_tokens.weight", "token_embd.weight", 9, 32 },
    { "model.norm.weight", "output_norm.weight", 32, 0 },
    { "model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", 32, 0 },
    { "model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 32, 32 },
    { "model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 16, 32 },
    { "model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", 16, 32 },
    { "model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", 32, 32 },
    { "model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight", 16, 0 },
    { "model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight", 16, 0 },
    { "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", 32, 0 },
    { "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", 48, 32 },
    { "model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 48, 32 },
    { "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", 32, 48 },
};
enum { N_TENSORS = (int) (sizeof tensors / sizeof tensors[0]) };

static const char config[] =
    "{\"model_type\":\"qwen3\",\"hidden_size\":32,\"intermediate_size\":48,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,"
    "\"vocab_size\":9,\"tie_word_embeddings\":true,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
    "\"max_position_embeddings\":64}";

static const char tokenizer[] =
    "{\"added_tokens\":[{\"id\":8,\"content\":\"<|end|>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"type\":"
    "\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";

static int64_t n_of(int i) {
    return tensors[i].rows * (tensors[i].columns > 0 ? tensors[i].columns : 1);
}

/* Finite bits of a 16-bit float, the smallest and the largest among them. */
static uint16_t weight_bits(int tensor, int64_t k) {
    om_rng rng = om_rng_at((uint64_t) tensor, (uint64_t) k);
    const uint16_t bits = (uint16_t) om_rng_u64(&rng);
    return k == 0 ? 1 : k == 1 ? 0x8000 : (bits & 0x7C00) == 0x7C00 ? bits & 0x83FF : bits;
}

/* The directory with all weights in F16 or BF16; `damage` (or -1) gets an infinity. */
static void write_directory(const char *dtype, int damage) {
    om_buf header = { 0 }, file = { 0 };
    int64_t at = 0;
    om_buf_puts(&header, "{");
    for (int i = 0; i < N_TENSORS; i++) {
        om_buf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", i > 0 ? "," : "",
                      tensors[i].hf, dtype, (long long) tensors[i].rows);
        if (tensors[i].columns > 0) {
            om_buf_printf(&header, ",%lld", (long long) tensors[i].columns);
        }
        om_buf_printf(&header, "],\"data_offsets\":[%lld,%lld]}", (long long) at,
                      (long long) (at + 2 * n_of(i)));
        at += 2 * n_of(i);
    }
    om_buf_puts(&header, "}");
    const uint64_t length = header.len;
    om_buf_add(&file, (const char *) &length, sizeof length);
    om_buf_add(&file, header.data, header.len);
    for (int i = 0; i < N_TENSORS; i++) {
        for (int64_t k = 0; k < n_of(i); k++) {
            const uint16_t inf = strcmp(dtype, "F16") == 0 ? 0x7C00 : 0x7F80;
            const uint16_t bits = i == damage && k == 5 ? inf : weight_bits(i, k);
            om_buf_add(&file, (const char *) &bits, sizeof bits);
        }
    }
    assert_false(file.failed);
    om_tmpdir_write(dir, "hf/model.safetensors", file.data, file.len);
    om_tmpdir_write(dir, "hf/config.json", config, sizeof config - 1);
    om_tmpdir_write(dir, "hf/tokenizer.json", tokenizer, sizeof tokenizer - 1);
    om_buf_release(&header);
    om_buf_release(&file);
}

static int make_dir(void **state) {
    (void) state;
    static char hf_path[512], out_path[512];
    om_error err = { 0 };
    dir = om_tmpdir_new();
    snprintf(hf_path, sizeof hf_path, "%s/hf", dir);
    snprintf(out_path, sizeof out_path, "%s/out.gguf", dir);
    hf_dir = hf_path;
    out = out_path;
    return om_mkdirs(hf_dir, &err) == OM_OK ? 0 : -1;
}

static int remove_dir(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static om_status convert(const om_model *like, const om_env *env, om_error *err) {
    om_hf *hf = NULL;
    om_status status = om_hf_open(&hf, hf_dir, err);
    if (status == OM_OK) {
        status = like != NULL ? om_hf_to_gguf_like(hf, like, out, env, err)
                              : om_hf_to_gguf(hf, false, out, env, err);
    }
    om_hf_free(hf);
    return status;
}

static om_model *convert_ok(const om_model *like) {
    om_model *m = NULL;
    om_error err = { 0 };
    if (convert(like, NULL, &err) != OM_OK || om_model_open(&m, out, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return m;
}

/* ---- the weights ---- */

static float value_of(int type, uint16_t bits) {
    if (type == GGML_TYPE_F16) {
        return ggml_fp16_to_fp32(bits);
    }
    return ggml_bf16_to_fp32((ggml_bf16_t){ bits });
}

/* Every weight, as it is stored; `matrix` is the type of matrices, vectors are F32. */
static void check_weights(const om_model *m, int source, int matrix) {
    assert_int_equal(om_model_n_tensors(m), N_TENSORS);
    for (int i = 0; i < N_TENSORS; i++) {
        const om_tensor *t = om_model_find(m, tensors[i].gguf);
        const bool vector = tensors[i].columns == 0;
        const int type = vector ? GGML_TYPE_F32 : matrix;
        assert_non_null(t);
        assert_int_equal(t->format->ggml_type, type);
        assert_int_equal(t->ne[0], vector ? tensors[i].rows : tensors[i].columns);
        assert_int_equal(om_tensor_n_rows(t), vector ? 1 : tensors[i].rows);
        for (int64_t k = 0; k < n_of(i); k++) {
            const uint16_t bits = weight_bits(i, k);
            const float value = value_of(source, bits);
            if (type == GGML_TYPE_F32) {
                assert_memory_equal(t->data + 4 * k, &value, 4);
            } else {
                assert_memory_equal(t->data + 2 * k, &bits, 2);
            }
        }
    }
}

static void test_bits(void **state) {
    (void) state;
    static const struct {
        const char *name;
        int type;
        uint64_t file_type;
    } dtypes[] = { { "BF16", GGML_TYPE_BF16, 32 }, { "F16", GGML_TYPE_F16, 1 } };
    for (size_t i = 0; i < 2; i++) {
        char sha256[65];
        om_error err = { 0 };
        om_hf *hf = NULL;
        write_directory(dtypes[i].name, -1);
        om_model *m = convert_ok(NULL);
        check_weights(m, dtypes[i].type, dtypes[i].type);
        assert_string_equal(om_model_arch(m), "qwen3");
        assert_string_equal(om_model_str(m, "general.name", ""), "hf");
        assert_int_equal(om_model_u64(m, "general.file_type", 99), dtypes[i].file_type);
        assert_int_equal(om_model_u64(m, "%s.attention.key_length", 0), 16);
        assert_int_equal(om_model_array_n(m, "tokenizer.ggml.tokens"), 9);
        assert_int_equal(om_hf_open(&hf, hf_dir, &err), OM_OK);
        assert_int_equal(om_hf_gguf_sha256(sha256, hf, NULL, &err), OM_OK);
        assert_string_equal(om_model_str(m, OM_HF_SOURCE_KEY, ""), sha256);
        om_hf_free(hf);
        om_model_free(m);
    }
}

/* A GGUF is of a directory only as long as the tokenizer is the same, too. */
static void test_digest(void **state) {
    (void) state;
    char before[65], after[65], weights[65], again[65];
    om_error err = { 0 };
    om_hf *hf = NULL;
    write_directory("BF16", -1);
    assert_int_equal(om_hf_open(&hf, hf_dir, &err), OM_OK);
    assert_int_equal(om_hf_sha256(weights, hf, NULL, &err), OM_OK);
    assert_int_equal(om_hf_gguf_sha256(before, hf, NULL, &err), OM_OK);
    om_tmpdir_write(hf_dir, "chat_template.jinja", "{{ x }}", 7);
    assert_int_equal(om_hf_gguf_sha256(after, hf, NULL, &err), OM_OK);
    assert_int_equal(om_hf_sha256(again, hf, NULL, &err), OM_OK);
    assert_string_equal(weights, again);
    assert_string_not_equal(before, after);
    assert_int_equal(remove(om_tmpdir_path(hf_dir, "chat_template.jinja")), 0);
    assert_int_equal(om_hf_gguf_sha256(again, hf, NULL, &err), OM_OK);
    assert_string_equal(before, again);
    om_hf_free(hf);
}

static om_buf read_out(void) {
    om_buf b = { 0 };
    om_error err = { 0 };
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(om_file_read(&data, &n, out, 1 << 20, &err), OM_OK);
    om_buf_add(&b, data, n);
    om_free(data);
    return b;
}

/* The same file for any number of threads, and again. */
static void test_deterministic(void **state) {
    (void) state;
    om_buf first = { 0 };
    write_directory("BF16", -1);
    for (int threads = 1; threads <= 3; threads++) {
        const om_env env = { .n_threads = threads };
        om_error err = { 0 };
        assert_int_equal(convert(NULL, &env, &err), OM_OK);
        om_buf b = read_out();
        if (threads > 1) {
            assert_int_equal(b.len, first.len);
            assert_memory_equal(b.data, first.data, b.len);
        }
        om_buf_release(&first);
        first = b;
    }
    om_buf_release(&first);
}

/* ---- under another file's metadata ---- */

static void test_like(void **state) {
    (void) state;
    om_error err = { 0 };
    om_model *like = NULL;
    const char *like_path = om_tmpdir_path(dir, "like.gguf");
    write_directory("BF16", -1);
    om_model_free(convert_ok(NULL));
    assert_int_equal(rename(out, like_path), 0);
    assert_int_equal(om_model_open(&like, like_path, &err), OM_OK);

    write_directory("F16", -1); /* other weights of the same shapes */
    om_model *m = convert_ok(like);
    check_weights(m, GGML_TYPE_F16, GGML_TYPE_F32);
    assert_int_equal(om_model_u64(m, "general.file_type", 99), 0);
    assert_string_equal(om_model_str(m, "general.name", ""), "hf");
    assert_int_equal(om_model_array_n(m, "tokenizer.ggml.tokens"), 9);
    om_model_free(m);
    om_model_free(like);
    remove(like_path);
}

/* ---- when something is wrong ---- */

typedef struct hooks {
    int calls, cancel_at;
    double done, total;
} hooks;

static bool cancelled(void *ud) {
    hooks *h = ud;
    return ++h->calls == h->cancel_at;
}

static void progress(void *ud, const char *stage, double done, double total, const char *unit) {
    hooks *h = ud;
    if (strcmp(stage, "convert") == 0) {
        assert_true(done >= h->done && done <= total);
        assert_string_equal(unit, "bytes");
        h->done = done;
        h->total = total;
    }
}

static void test_progress_and_cancel(void **state) {
    (void) state;
    write_directory("BF16", -1);
    hooks h = { 0 };
    const om_env env = { .progress = progress, .cancelled = cancelled, .ud = &h };
    om_error err = { 0 };
    assert_int_equal(convert(NULL, &env, &err), OM_OK);
    assert_true(h.total > 0 && h.done >= h.total);
    assert_int_equal(om_file_size(out), (int64_t) h.total);
    const int calls = h.calls;
    assert_true(calls >= N_TENSORS);
    remove(out);
    h = (hooks){ .cancel_at = calls };
    assert_int_equal(convert(NULL, &env, &err), OM_E_CANCELLED);
    assert_int_equal(om_tmpdir_count(dir, "out.gguf"), 0);
}

static void expect_failure(om_status status, const char *text) {
    om_error err = { 0 };
    const om_status found = convert(NULL, NULL, &err);
    if (found != status || strstr(err.text, text) == NULL) {
        fail_msg("%s: %s", om_status_name(found), err.text);
    }
    assert_int_equal(om_tmpdir_count(dir, "out.gguf"), 0);
}

static void test_refused(void **state) {
    (void) state;
    write_directory("BF16", 11);
    expect_failure(OM_E_NUMERIC, "blk.0.ffn_up.weight");
    write_directory("BF16", -1);
    om_tmpdir_write(dir, "hf/tokenizer.json", "{}", 2);
    expect_failure(OM_E_FORMAT, "tokenizer.json");
    remove(om_tmpdir_path(dir, "hf/tokenizer.json"));
    expect_failure(OM_E_FORMAT, "no tokenizer.json");
    write_directory("BF16", -1);
}

static void test_full_disk(void **state) {
    (void) state;
    write_directory("BF16", -1);
    for (long n = 1;; n++) {
        om_error err = { 0 };
        om_file_fail_at(n);
        const om_status status = convert(NULL, NULL, &err);
        om_file_fail_at(0);
        if (status == OM_OK) {
            assert_true(n > N_TENSORS);
            remove(out);
            return;
        }
        assert_int_equal(status, OM_E_IO);
        assert_int_equal(om_tmpdir_count(dir, "out.gguf"), 0);
    }
}

static void test_out_of_memory(void **state) {
    (void) state;
    write_directory("BF16", -1);
    for (long n = 1;; n++) {
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = convert(NULL, NULL, &err);
        om_mem_fail_at(0);
        if (status == OM_OK) {
            assert_true(n > 50);
            remove(out);
            return;
        }
        assert_int_equal(status, OM_E_NOMEM);
        assert_int_equal(om_tmpdir_count(dir, "out.gguf"), 0);
    }
}

/* A GGUF of another model: one tensor fewer, one more, another shape. */
static void test_like_of_another_model(void **state) {
    (void) state;
    static const struct {
        const char *from, *to, *text;
    } changes[] = {
        { "blk.0.ffn_up.weight", "blk.0.ffn_xx.weight", "blk.0.ffn_xx.weight" },
        { "output_norm.weight", "rope_freqs.weightx", "output_norm.weight" },
    };
    const char *like_path = om_tmpdir_path(dir, "like.gguf");
    write_directory("BF16", -1);
    om_model_free(convert_ok(NULL));
    om_buf good = read_out();
    remove(out);
    for (size_t i = 0; i < 2; i++) {
        om_error err = { 0 };
        om_model *like = NULL;
        const size_t n = strlen(changes[i].from);
        char *copy = om_calloc(good.len, 1);
        assert_non_null(copy);
        memcpy(copy, good.data, good.len);
        for (size_t k = 0; k + n < good.len; k++) {
            if (memcmp(copy + k, changes[i].from, n) == 0) {
                memcpy(copy + k, changes[i].to, n);
            }
        }
        om_tmpdir_write(dir, "like.gguf", copy, good.len);
        om_free(copy);
        assert_int_equal(om_model_open(&like, like_path, &err), OM_OK);
        assert_int_equal(convert(like, NULL, &err), OM_E_MISMATCH);
        assert_non_null(strstr(err.text, changes[i].text));
        om_model_free(like);
        assert_int_equal(om_tmpdir_count(dir, "out.gguf"), 0);
    }
    om_buf_release(&good);
    remove(like_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_like),
        cmocka_unit_test(test_like_of_another_model),
        cmocka_unit_test(test_progress_and_cancel),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
