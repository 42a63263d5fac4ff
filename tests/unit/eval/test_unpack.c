/* Directories as models to judge: tiny random models of GGUF, written as Hugging Face and MLX
 * directories by this test, must be judged as the GGUFs they were made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/mem.h"
#include "eval/judge.h"
#include "eval/reference.h"
#include "eval/unpack.h"
#include "mlx/quants.h"
#include "model/gguf.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { N_CTX = 40, N_CHUNKS = 3, N_HEAD = 4, N_HEAD_KV = 2 };

static char *dir;
static const om_env env = { .n_threads = 1 };

static const char *path(const char *name) {
    return om_tmpdir_path(dir, name);
}

/* ---- a directory of a GGUF ---- */

typedef struct st_file {
    om_buf header, data;
} st_file;

static void put(st_file *f, const char *name, const char *dtype, int64_t rows, int64_t columns,
                const void *data, size_t n) {
    om_buf_printf(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", f->header.len ? "," : "{",
                  name, dtype);
    if (rows > 0) {
        om_buf_printf(&f->header, "%lld,", (long long) rows);
    }
    om_buf_printf(&f->header, "%lld],\"data_offsets\":[%zu,%zu]}", (long long) columns, f->data.len,
                  f->data.len + n);
    om_buf_add(&f->data, data, n);
}

static void finish(st_file *f, const char *folder) {
    om_buf all = { 0 };
    unsigned char size[8];
    om_buf_puts(&f->header, "}");
    for (int i = 0; i < 8; i++) {
        size[i] = (unsigned char) ((uint64_t) f->header.len >> (8 * i));
    }
    om_buf_add(&all, (const char *) size, 8);
    om_buf_add(&all, f->header.data, f->header.len);
    om_buf_add(&all, f->data.data, f->data.len);
    assert_false(all.failed);
    om_tmpdir_write(path(folder), "model.safetensors", all.data, all.len);
    om_buf_release(&all);
    om_buf_release(&f->header);
    om_buf_release(&f->data);
}

/* "blk.1.attn_q.weight" into "model.layers.1.self_attn.q_proj". */
static void hf_name(char out[160], const char *name) {
    static const char *const parts[][2] = {
        { "attn_norm", "input_layernorm" },    { "ffn_norm", "post_attention_layernorm" },
        { "attn_q", "self_attn.q_proj" },      { "attn_k", "self_attn.k_proj" },
        { "attn_v", "self_attn.v_proj" },      { "attn_output", "self_attn.o_proj" },
        { "ffn_gate", "mlp.gate_proj" },       { "ffn_up", "mlp.up_proj" },
        { "ffn_down", "mlp.down_proj" },       { "attn_q_norm", "self_attn.q_norm" },
        { "attn_k_norm", "self_attn.k_norm" },
    };
    int layer;
    char part[64];
    if (sscanf(name, "blk.%d.%63[a-z_].weight", &layer, part) == 2) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            if (strcmp(part, parts[i][0]) == 0) {
                snprintf(out, 160, "model.layers.%d.%s", layer, parts[i][1]);
                return;
            }
        }
        fail_msg("%s", name);
    }
    snprintf(out, 160, "%s",
             strcmp(name, "token_embd.weight") == 0 ? "model.embed_tokens"
             : strcmp(name, "output.weight") == 0   ? "lm_head"
                                                    : "model.norm");
}

/* llama.cpp keeps rows i and i + D/2 of a head side by side; Hugging Face does not. */
static void order_rows(float *out, const float *in, const om_tensor *t, bool permuted) {
    const int heads = strstr(t->name, "attn_q.") != NULL   ? N_HEAD
                      : strstr(t->name, "attn_k.") != NULL ? N_HEAD_KV
                                                           : 0;
    const int64_t rows = om_tensor_n_rows(t), width = t->ne[0];
    for (int64_t row = 0; row < rows; row++) {
        int64_t to = row;
        if (permuted && heads > 0) {
            const int64_t d = rows / heads, in_head = row % d;
            to = row / d * d + in_head % 2 * (d / 2) + in_head / 2;
        }
        memcpy(out + to * width, in + row * width, (size_t) width * sizeof *out);
    }
}

/* The dequantized rows in the GGUF's order, back into its bytes. */
static void store(unsigned char *gguf, const om_model *m, const om_tensor *t, const float *rows,
                  bool permuted) {
    float *back = om_calloc((size_t) om_tensor_params(t), sizeof *back);
    const int heads = strstr(t->name, "attn_q.") != NULL   ? N_HEAD
                      : strstr(t->name, "attn_k.") != NULL ? N_HEAD_KV
                                                           : 0;
    const int64_t n = om_tensor_n_rows(t), width = t->ne[0];
    for (int64_t row = 0; row < n; row++) {
        int64_t from = row;
        if (permuted && heads > 0) {
            const int64_t d = n / heads, in_head = row % d;
            from = row / d * d + in_head % 2 * (d / 2) + in_head / 2;
        }
        memcpy(back + row * width, rows + from * width, (size_t) width * sizeof *back);
    }
    memcpy(gguf + (t->data - om_model_split_map(m, 0)->data), back, (size_t) t->bytes);
    om_free(back);
}

static void put_quantized(st_file *f, const char *name, const om_tensor *t, float *rows,
                          const om_format *q) {
    const int64_t n = om_tensor_n_rows(t), width = t->ne[0];
    char full[200];
    unsigned char *bytes = om_calloc((size_t) om_format_size(q, width, n), 1);
    const om_mlx_rows r = om_mlx_rows_in(bytes, q, OM_MLX_BF16, width, n);
    om_mlx_quantize_plain(&r, q, OM_MLX_BF16, rows, n, width);
    om_mlx_dequantize(rows, &r, q, OM_MLX_BF16, n, width);
    const size_t codes = (size_t) (n * om_mlx_codes_bytes(q, width));
    const size_t scales = (size_t) (n * om_mlx_scales_bytes(q, OM_MLX_BF16, width));
    snprintf(full, sizeof full, "%s.weight", name);
    put(f, full, "U32", n, width * q->bits / 32, r.codes, codes);
    snprintf(full, sizeof full, "%s.scales", name);
    put(f, full, "BF16", n, width / q->block, r.scales, scales);
    snprintf(full, sizeof full, "%s.biases", name);
    put(f, full, "BF16", n, width / q->block, r.biases, scales);
    om_free(bytes);
}

static void write_config(const char *folder, const char *model_type, const om_format *q) {
    om_buf b = { 0 };
    om_buf_printf(
        &b,
        "{\"architectures\":[\"%sForCausalLM\"],\"model_type\":\"%s\",\"hidden_size\":256,"
        "\"intermediate_size\":512,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
        "\"head_dim\":64,\"num_hidden_layers\":2,\"vocab_size\":384,\"hidden_act\":"
        "\"silu\",\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"torch_dtype\":"
        "\"float32\",\"max_position_embeddings\":2048,\"tie_word_embeddings\":false",
        strcmp(model_type, "llama") == 0 ? "Llama" : "Qwen3", model_type, N_HEAD, N_HEAD_KV);
    if (q != NULL) {
        om_buf_printf(&b, ",\"quantization\":{\"group_size\":%d,\"bits\":%d}", q->block, q->bits);
    }
    om_buf_puts(&b, "}");
    om_tmpdir_write(path(folder), "config.json", b.data, b.len);
    om_buf_release(&b);
}

/* `gguf` as the directory `folder`, its matrices as q (NULL: F32); `as` gets the GGUF of the values
 * that the directory then has. */
static void write_directory(const char *folder, const char *gguf, const char *arch,
                            const om_format *q, const char *as) {
    om_error err = { 0 };
    om_model *m = NULL;
    st_file f = { 0 };
    const bool permuted = strcmp(arch, "llama") == 0;
    mkdir(path(folder), 0777);
    assert_int_equal(om_model_open(&m, path(gguf), &err), OM_OK);
    const om_map *map = om_model_split_map(m, 0);
    unsigned char *copy = om_calloc(map->size, 1);
    memcpy(copy, map->data, map->size);
    for (int i = 0; i < om_model_n_tensors(m); i++) {
        const om_tensor *t = om_model_tensor(m, i);
        char name[160], full[200];
        float *rows = om_calloc((size_t) om_tensor_params(t), sizeof *rows);
        float *ordered = om_calloc((size_t) om_tensor_params(t), sizeof *rows);
        hf_name(name, t->name);
        snprintf(full, sizeof full, "%s.weight", name);
        assert_int_equal(om_tensor_rows_f32(rows, t, 0, om_tensor_n_rows(t), &err), OM_OK);
        order_rows(ordered, rows, t, permuted);
        if (q != NULL && t->n_dims > 1) {
            put_quantized(&f, name, t, ordered, q);
            store(copy, m, t, ordered, permuted);
        } else {
            put(&f, full, "F32", t->n_dims > 1 ? t->ne[1] : 0, t->ne[0], ordered,
                (size_t) t->bytes);
        }
        om_free(ordered);
        om_free(rows);
    }
    om_tmpdir_write(dir, as, copy, map->size);
    om_free(copy);
    om_model_free(m);
    finish(&f, folder);
    write_config(folder, arch, q);
}

static int set_up(void **state) {
    (void) state;
    dir = om_tmpdir_new();
    char text[4000];
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char) ("etaoin shrdlu, cmf."[i * 7919 % 6007 % 19]);
    }
    om_tmpdir_write(dir, "text.txt", text, sizeof(text));
    om_tiny_model_write(path("llama.gguf"), "llama", GGML_TYPE_F32);
    om_tiny_model_write(path("qwen3.gguf"), "qwen3", GGML_TYPE_F32);
    write_directory("llama", "llama.gguf", "llama", NULL, "same.gguf");
    write_directory("llama-4", "llama.gguf", "llama", om_format_by_name("mlx_4bit_g64"),
                    "llama-4.gguf");
    write_directory("qwen3-3", "qwen3.gguf", "qwen3", om_format_by_name("mlx_3bit_g32"),
                    "qwen3-3.gguf");
    mkdir(path("tmp"), 0777);
    setenv("TMPDIR", path("tmp"), 1);
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

/* ---- judging ---- */

static om_reference *open_reference(const char *gguf) {
    const om_reference_options o = { .path = path(gguf),
                                     .text = path("text.txt"),
                                     .n_ctx = N_CTX,
                                     .n_chunks = N_CHUNKS,
                                     .exact = true };
    om_reference *ref = NULL;
    om_error err = { 0 };
    if (om_reference_open(&ref, &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return ref;
}

static om_evaluation judge(om_reference *ref, const char *model) {
    const om_judge_options o = { .exact = true };
    om_evaluation e;
    om_error err = { 0 };
    if (om_judge(&e, ref, path(model), &o, &env, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return e;
}

static void nothing_is_left(void) {
    assert_int_equal(om_tmpdir_count(path("tmp"), ""), 0);
}

static void a_dense_directory_is_its_gguf(void **state) {
    (void) state;
    om_reference *ref = open_reference("llama.gguf");
    const om_evaluation e = judge(ref, "llama"), g = judge(ref, "llama.gguf");
    assert_true(e.kld_max == 0.0 && e.top1_agreement == 1.0 && e.ppl == e.ppl_reference);
    assert_int_equal(e.container, OM_CONTAINER_MLX);
    assert_int_equal(g.container, OM_CONTAINER_GGUF);
    assert_string_equal(e.model_path, path("llama"));
    assert_int_equal(strlen(e.model_sha256), 64);
    assert_string_not_equal(e.model_sha256, g.model_sha256);
    om_reference_free(ref);
    nothing_is_left();
}

static void codes_are_judged_as_their_values(void **state) {
    (void) state;
    const char *const kinds[][3] = { { "llama.gguf", "llama-4", "llama-4.gguf" },
                                     { "qwen3.gguf", "qwen3-3", "qwen3-3.gguf" } };
    for (int i = 0; i < 2; i++) {
        om_reference *ref = open_reference(kinds[i][0]);
        const om_evaluation e = judge(ref, kinds[i][1]), g = judge(ref, kinds[i][2]);
        assert_true(e.kld_mean > 1e-4);
        assert_true(e.kld_mean == g.kld_mean && e.kld_max == g.kld_max && e.ppl == g.ppl);
        char shard[64];
        snprintf(shard, sizeof shard, "%s/model.safetensors", kinds[i][1]);
        struct stat st;
        assert_int_equal(stat(path(shard), &st), 0);
        assert_int_equal(e.file_bytes, st.st_size);
        om_model *m = NULL;
        om_error err = { 0 };
        assert_int_equal(om_model_open(&m, path(kinds[i][0]), &err), OM_OK);
        assert_true(e.bpw == 8.0 * (double) e.file_bytes / (double) om_model_params(m));
        om_model_free(m);
        om_reference_free(ref);
    }
    nothing_is_left();
}

static void another_model_is_refused(void **state) {
    (void) state;
    const om_judge_options o = { 0 };
    om_reference *ref = open_reference("qwen3.gguf");
    om_evaluation e;
    om_error err = { 0 };
    assert_int_equal(om_judge(&e, ref, path("llama-4"), &o, &env, &err), OM_E_MISMATCH);
    om_reference_free(ref);
    nothing_is_left();
}

static void a_folder_that_is_no_model(void **state) {
    (void) state;
    const om_unpack_options o = { 0 };
    om_unpacked u = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_unpacked_open(&u, path("tmp"), &o, &env, &err), OM_E_IO);
    assert_non_null(strstr(err.text, "config.json"));
    assert_null(u.model);
    err = (om_error){ 0 };
    assert_int_equal(om_unpacked_open(&u, path("none"), &o, &env, &err), OM_E_IO);
}

static bool after_polls(void *ud) {
    return atomic_fetch_sub((atomic_int *) ud, 1) <= 0;
}

/* Cancelled early, while writing, while judging: there is nothing afterwards. */
static void cancelled_at_any_time(void **state) {
    (void) state;
    const om_judge_options o = { .exact = true };
    om_reference *ref = open_reference("llama.gguf");
    int n_cancelled = 0;
    for (int after = 0; after < 4000; after = after * 2 + 1) {
        atomic_int polls = after;
        const om_env stopping = { .n_threads = 1, .cancelled = after_polls, .ud = &polls };
        om_evaluation e;
        om_error err = { 0 };
        const om_status status = om_judge(&e, ref, path("llama-4"), &o, &stopping, &err);
        assert_true(status == OM_OK || status == OM_E_CANCELLED);
        n_cancelled += status == OM_E_CANCELLED;
        nothing_is_left();
    }
    assert_true(n_cancelled >= 3);
    om_reference_free(ref);
}

/* The verb: no speed for what llama.cpp would not run, also beside a stored reference. */
static void the_verb_on_a_directory(void **state) {
    (void) state;
    for (int stored = 0; stored < 2; stored++) {
        om_result r = { 0 };
        om_error err = { 0 };
        const om_eval_options o = { .model = path("llama-4"),
                                    .reference = path("llama.gguf"),
                                    .reference_out = stored ? path("l.omref") : NULL,
                                    .text = path("text.txt"),
                                    .out = path("e.json"),
                                    .n_ctx = N_CTX,
                                    .n_chunks = 2 };
        if (om_eval(&r, &o, &env, &err) != OM_OK) {
            fail_msg("%s", err.text);
        }
        assert_non_null(strstr(r.json, "\"container\": \"mlx\""));
        assert_null(strstr(r.json, "\"speed\""));
        om_evaluation *e = NULL;
        assert_int_equal(om_evaluation_read(&e, path("e.json"), &err), OM_OK);
        assert_int_equal(e->container, OM_CONTAINER_MLX);
        assert_true(e->kld_mean > 1e-4 && e->prefill_tok_s == 0.0);
        om_evaluation_free(e);
        om_result_release(&r);
        nothing_is_left();
    }
}

static void on_log(void *ud, om_log_level level, const char *line) {
    if (level == OM_LOG_WARN && strstr(line, "does not compute") != NULL) {
        (*(int *) ud)++;
    }
}

/* A program that says what mlx_lm would: the numbers go to eval.json, another perplexity is said.
 */
static void with_a_runtime(void **state) {
    (void) state;
    int n_warnings = 0;
    const om_env logging = { .n_threads = 1, .log = on_log, .ud = &n_warnings };
    double ppl = 1.0;
    for (int round = 0; round < 2; round++) {
        char script[1024];
        om_result r = { 0 };
        om_error err = { 0 };
        om_evaluation *e = NULL;
        snprintf(script, sizeof script,
                 "#!/bin/sh\ncat >/dev/null\necho '{\"schema\":\"optimum.mlx_speed/1\","
                 "\"runtime\":\"mlx_lm 1.2\",\"device\":\"M9\",\"prefill_tok_s\":90.0,"
                 "\"decode_tok_s\":9.0,\"ttft_s\":0.5,\"peak_memory_bytes\":1000,"
                 "\"prompt_tokens\":512,\"answer_tokens\":64,\"f32\":false,"
                 "\"probe_tokens\":20,\"probe_ppl\":%.17g}'\n",
                 ppl);
        om_tmpdir_write(dir, "python", script, strlen(script));
        assert_int_equal(chmod(path("python"), 0755), 0);
        setenv("OPTIMUM_PYTHON", path("python"), 1);
        const om_eval_options o = { .model = path("llama-4"),
                                    .reference = path("llama.gguf"),
                                    .text = path("text.txt"),
                                    .out = path("e.json"),
                                    .n_ctx = N_CTX,
                                    .n_chunks = 1,
                                    .with = "mlx_lm" };
        if (om_eval(&r, &o, &logging, &err) != OM_OK) {
            fail_msg("%s", err.text);
        }
        assert_non_null(strstr(r.text, "mlx_lm 1.2 on M9"));
        assert_int_equal(om_evaluation_read(&e, path("e.json"), &err), OM_OK);
        assert_string_equal(e->runtime, "mlx_lm 1.2");
        assert_string_equal(e->device, "M9");
        assert_true(e->decode_tok_s == 9.0 && e->peak_memory_bytes == 1000);
        assert_int_equal(e->probe_tokens, 20);
        assert_true(e->probe_ppl > 1.0 && e->probe_ppl_runtime == ppl);
        assert_int_equal(n_warnings, 1); /* in the first round only */
        ppl = e->probe_ppl * 1.04;
        om_evaluation_free(e);
        om_result_release(&r);
    }
    unsetenv("OPTIMUM_PYTHON");
    nothing_is_left();
}

static void with_what_it_cannot(void **state) {
    (void) state;
    om_result r = { 0 };
    om_eval_options o = { .model = path("llama.gguf"),
                          .reference = path("llama.gguf"),
                          .text = path("text.txt"),
                          .with = "mlx_lm" };
    om_error err = { 0 };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_ARG); /* no directory */
    assert_non_null(strstr(err.text, "llama.gguf"));
    o.model = path("llama-4");
    o.with = "mlx";
    err = (om_error){ 0 };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_ARG);
    o.with = "mlx_lm";
    o.no_speed = true;
    err = (om_error){ 0 };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_ARG);
    o.no_speed = false;
    setenv("OPTIMUM_PYTHON", "optimum-no-such-python", 1);
    err = (om_error){ 0 };
    assert_int_equal(om_eval(&r, &o, &env, &err), OM_E_IO);
    assert_non_null(strstr(err.text, "OPTIMUM_PYTHON"));
    unsetenv("OPTIMUM_PYTHON");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dense_directory_is_its_gguf),
        cmocka_unit_test(codes_are_judged_as_their_values),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(a_folder_that_is_no_model),
        cmocka_unit_test(cancelled_at_any_time),
        cmocka_unit_test(the_verb_on_a_directory),
        cmocka_unit_test(with_a_runtime),
        cmocka_unit_test(with_what_it_cannot),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
