/* Rows of directories: each arrangement and each way of storing numbers, against its formula. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hf_fixture.h"

static om_hf *open_fixture(fixture *f, const char *config) {
    om_hf *hf = NULL;
    om_error err = { 0 };
    fix_write(f, config);
    if (om_hf_open(&hf, f->dir, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return hf;
}

/* Row r of q or k in llama.cpp's order: reshape [heads, 2, D/2] -> [heads, D/2, 2]. */
static int64_t row_in_llama_cpp(int64_t r) {
    int64_t at = 0;
    for (int64_t head = 0;; head++) {
        for (int64_t i = 0; i < FIX_D / 2; i++) {
            for (int64_t half = 0; half < 2; half++, at++) {
                if (at == r) {
                    return (head * 2 + half) * (FIX_D / 2) + i;
                }
            }
        }
    }
}

static void check_matrix(const om_hf *hf, const char *name, const char *hf_name, int64_t rows,
                         int64_t columns, bool permuted) {
    float *mlx = fix_read(hf, name, OM_HF_MLX), *gguf = fix_read(hf, name, OM_HF_GGUF);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t from = permuted ? row_in_llama_cpp(r) : r;
        for (int64_t c = 0; c < columns; c++) {
            assert_true(mlx[r * columns + c] == fix_number(hf_name, r * columns + c));
            assert_true(gguf[r * columns + c] == fix_number(hf_name, from * columns + c));
        }
    }
    free(mlx);
    free(gguf);
}

static void test_llama_order(void **state) {
    (void) state;
    fixture f = { 0 };
    char n[FIX_NAME];
    fix_llama(&f, true);
    for (int layer = 0; layer < 2; layer++) {
        fix_add1(&f, fix_layer(n, layer, "self_attn.q_proj.bias"), OM_ST_F32, FIX_H * FIX_D);
        fix_add1(&f, fix_layer(n, layer, "self_attn.k_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add1(&f, fix_layer(n, layer, "self_attn.v_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add1(&f, fix_layer(n, layer, "self_attn.o_proj.bias"), OM_ST_BF16, FIX_C);
    }
    om_hf *hf = open_fixture(&f, FIX_CONFIG("llama", ", \"attention_bias\": true"));
    check_matrix(hf, "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 32, 32, true);
    check_matrix(hf, "blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", 16, 32, true);
    check_matrix(hf, "blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", 16, 32,
                 false);
    check_matrix(hf, "output.weight", "lm_head.weight", 40, 32, false);
    /* biases: one row, whose elements are reordered like the rows of the matrix */
    const char *bias = "model.layers.1.self_attn.q_proj.bias";
    float *mlx = fix_read(hf, "blk.1.attn_q.bias", OM_HF_MLX);
    float *gguf = fix_read(hf, "blk.1.attn_q.bias", OM_HF_GGUF);
    for (int64_t i = 0; i < FIX_H * FIX_D; i++) {
        assert_true(mlx[i] == fix_number(bias, i));
        assert_true(gguf[i] == fix_number(bias, row_in_llama_cpp(i)));
    }
    free(mlx);
    free(gguf);
    om_hf_free(hf);
    fix_release(&f);
}

static void test_qwen_order(void **state) {
    (void) state;
    fixture f = { 0 };
    char n[FIX_NAME];
    fix_qwen3_moe(&f);
    fix_add_experts(&f, 0);
    fix_add_experts(&f, 1);
    om_hf *hf = open_fixture(&f, FIX_CONFIG("qwen3_moe", FIX_MOE));
    check_matrix(hf, "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 32, 32,
                 false);
    float *got = fix_read(hf, "blk.1.ffn_down_exps.weight", OM_HF_GGUF);
    for (int e = 0; e < FIX_E; e++) {
        char rest[64];
        (void) snprintf(rest, sizeof rest, "mlp.experts.%d.down_proj.weight", e);
        fix_layer(n, 1, rest);
        for (int64_t i = 0; i < FIX_C * FIX_FE; i++) {
            assert_true(got[e * FIX_C * FIX_FE + i] == fix_number(n, i));
        }
    }
    free(got);
    om_hf_free(hf);
    fix_release(&f);
}

/* Gate and up of all experts in one tensor, first all rows of gate. */
static void test_fused_experts(void **state) {
    (void) state;
    fixture f = { 0 };
    char n[FIX_NAME];
    fix_qwen3_moe(&f);
    for (int layer = 0; layer < 2; layer++) {
        fix_add3(&f, fix_layer(n, layer, "mlp.experts.gate_up_proj"), OM_ST_BF16, FIX_E, 2 * FIX_FE,
                 FIX_C);
        fix_add3(&f, fix_layer(n, layer, "mlp.experts.down_proj"), OM_ST_BF16, FIX_E, FIX_C,
                 FIX_FE);
    }
    om_hf *hf = open_fixture(&f, FIX_CONFIG("qwen3_moe", FIX_MOE));
    const char *fused = "model.layers.1.mlp.experts.gate_up_proj";
    float *gate = fix_read(hf, "blk.1.ffn_gate_exps.weight", OM_HF_MLX);
    float *up = fix_read(hf, "blk.1.ffn_up_exps.weight", OM_HF_GGUF);
    for (int64_t e = 0; e < FIX_E; e++) {
        for (int64_t i = 0; i < FIX_FE * FIX_C; i++) {
            const int64_t at = e * 2 * FIX_FE * FIX_C + i;
            assert_true(gate[e * FIX_FE * FIX_C + i] == fix_number(fused, at));
            assert_true(up[e * FIX_FE * FIX_C + i] == fix_number(fused, at + FIX_FE * FIX_C));
        }
    }
    free(gate);
    free(up);
    om_hf_free(hf);
    fix_release(&f);
}

static void test_gemma_norms(void **state) {
    (void) state;
    fixture f = { 0 };
    char n[FIX_NAME];
    fix_llama(&f, false);
    for (int layer = 0; layer < 2; layer++) {
        fix_add1(&f, fix_layer(n, layer, "pre_feedforward_layernorm.weight"), OM_ST_BF16, FIX_C);
        fix_add1(&f, fix_layer(n, layer, "post_feedforward_layernorm.weight"), OM_ST_BF16, FIX_C);
    }
    om_hf *hf = open_fixture(&f, FIX_CONFIG("gemma2", ""));
    static const char *const pairs[][2] = {
        { "output_norm.weight", "model.norm.weight" },
        { "blk.1.attn_norm.weight", "model.layers.1.input_layernorm.weight" },
        { "blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight" },
        { "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight" },
    };
    for (size_t p = 0; p < sizeof pairs / sizeof pairs[0]; p++) {
        float *mlx = fix_read(hf, pairs[p][0], OM_HF_MLX);
        float *gguf = fix_read(hf, pairs[p][0], OM_HF_GGUF);
        for (int64_t i = 0; i < FIX_C; i++) {
            assert_true(mlx[i] == fix_number(pairs[p][1], i));
            assert_true(gguf[i] == 1.0F + fix_number(pairs[p][1], i));
        }
        free(mlx);
        free(gguf);
    }
    check_matrix(hf, "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 32, 32,
                 false);
    om_hf_free(hf);
    fix_release(&f);
}

/* ---- FP8 ---- */

/* Replaces layer 0's o_proj [32, 32] by FP8 with scales of the given shape. */
static void make_fp8(fixture *f, const char *suffix, int n_dims, int64_t a, int64_t b) {
    const char *w = "model.layers.0.self_attn.o_proj.weight";
    char name[FIX_NAME];
    fix_llama(f, true);
    fix_remove(f, w);
    fix_add2(f, w, OM_ST_F8_E4M3, FIX_C, FIX_H * FIX_D);
    (void) snprintf(name, sizeof name, "%s%s", w, suffix);
    fix_add(f, name, OM_ST_F32, n_dims, (const int64_t[]){ a, b });
}

static void check_fp8(const char *more, const char *suffix, int n_dims, int64_t a, int64_t b,
                      int64_t block_rows, int64_t block_columns) {
    fixture f = { 0 };
    char config[512], scale[FIX_NAME];
    make_fp8(&f, suffix, n_dims, a, b);
    (void) snprintf(config, sizeof config, FIX_CONFIG("llama", "%s"), more);
    om_hf *hf = open_fixture(&f, config);
    assert_string_equal(om_hf_find(hf, "blk.0.attn_output.weight")->format->name, "bf16");
    const int w = fix_index(&f, "model.layers.0.self_attn.o_proj.weight");
    (void) snprintf(scale, sizeof scale, "%s%s", f.names[w], suffix);
    float *got = fix_read(hf, "blk.0.attn_output.weight", OM_HF_GGUF);
    const int64_t across = (32 + block_columns - 1) / block_columns;
    for (int64_t r = 0; r < 32; r++) {
        for (int64_t c = 0; c < 32; c++) {
            const float s = fix_number(scale, r / block_rows * across + c / block_columns);
            assert_true(got[r * 32 + c] == fix_e4m3(f.data[w][r * 32 + c]) * s);
        }
    }
    free(got);
    om_hf_free(hf);
    fix_release(&f);
}

#define FIX_FP8 ", \"quantization_config\": {\"quant_method\": \"fp8\""

static void test_fp8(void **state) {
    (void) state;
    check_fp8(FIX_FP8 "}", "_scale_inv", 2, 1, 1, 128, 128);
    check_fp8(FIX_FP8 ", \"weight_block_size\": [16, 12]}", "_scale_inv", 2, 2, 3, 16, 12);
    check_fp8(FIX_FP8 ", \"weight_block_size\": [12, 16]}", "_scale_inv", 2, 3, 2, 12, 16);
    check_fp8(FIX_FP8 "}", "_scale", 2, 32, 1, 1, 32);
    check_fp8(FIX_FP8 "}", "_scale", 1, 32, 0, 1, 32);
    check_fp8(FIX_FP8 "}", "_scale", 1, 1, 0, 32, 32);
    check_fp8(FIX_FP8 "}", "_scale", 0, 0, 0, 32, 32);
}

/* ---- gpt-oss ---- */

static void add_oss(fixture *f, bool blocks) {
    char n[FIX_NAME];
    fix_add_outside(f, true);
    for (int layer = 0; layer < 2; layer++) {
        fix_add_attention(f, layer);
        fix_add1(f, fix_layer(n, layer, "self_attn.q_proj.bias"), OM_ST_BF16, FIX_H * FIX_D);
        fix_add1(f, fix_layer(n, layer, "self_attn.k_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add1(f, fix_layer(n, layer, "self_attn.v_proj.bias"), OM_ST_BF16, FIX_KV * FIX_D);
        fix_add1(f, fix_layer(n, layer, "self_attn.o_proj.bias"), OM_ST_BF16, FIX_C);
        fix_add1(f, fix_layer(n, layer, "self_attn.sinks"), OM_ST_BF16, FIX_H);
        fix_add2(f, fix_layer(n, layer, "mlp.router.weight"), OM_ST_BF16, FIX_E, FIX_C);
        fix_add1(f, fix_layer(n, layer, "mlp.router.bias"), OM_ST_BF16, FIX_E);
        fix_add2(f, fix_layer(n, layer, "mlp.experts.gate_up_proj_bias"), OM_ST_BF16, FIX_E,
                 2 * 64);
        fix_add2(f, fix_layer(n, layer, "mlp.experts.down_proj_bias"), OM_ST_BF16, FIX_E, FIX_C);
        if (blocks) {
            fix_add(f, fix_layer(n, layer, "mlp.experts.gate_up_proj_blocks"), OM_ST_U8, 4,
                    (const int64_t[]){ FIX_E, 2 * 64, 1, 16 });
            fix_add3(f, fix_layer(n, layer, "mlp.experts.gate_up_proj_scales"), OM_ST_U8, FIX_E,
                     2 * 64, 1);
            fix_add(f, fix_layer(n, layer, "mlp.experts.down_proj_blocks"), OM_ST_U8, 4,
                    (const int64_t[]){ FIX_E, FIX_C, 2, 16 });
            fix_add3(f, fix_layer(n, layer, "mlp.experts.down_proj_scales"), OM_ST_U8, FIX_E, FIX_C,
                     2);
        } else {
            fix_add3(f, fix_layer(n, layer, "mlp.experts.gate_up_proj"), OM_ST_BF16, FIX_E, FIX_C,
                     2 * 64);
            fix_add3(f, fix_layer(n, layer, "mlp.experts.down_proj"), OM_ST_BF16, FIX_E, 64, FIX_C);
        }
    }
}

#define FIX_OSS                                                                       \
    "{\"model_type\": \"gpt_oss\", \"hidden_size\": 32, \"num_attention_heads\": 4, " \
    "\"num_key_value_heads\": 2, \"head_dim\": 8, \"intermediate_size\": 64, "        \
    "\"vocab_size\": 40, \"num_hidden_layers\": 2, \"num_local_experts\": 4, "        \
    "\"attention_bias\": true}"

/* Scales of 2^(b - 127); a NaN (255) would compare unequal to itself and is left out. */
static float e2m1(unsigned code, unsigned char scale) {
    static const float value[8] = { 0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F };
    const float v = ldexpf(value[code & 7], (int) scale - 127);
    return code & 8 ? -v : v;
}

static void test_oss_blocks(void **state) {
    (void) state;
    fixture f = { 0 };
    add_oss(&f, true);
    for (int i = 0; i < f.n; i++) {
        for (int64_t b = 0; strstr(f.names[i], "_scales") != NULL && b < f.t[i].bytes; b++) {
            f.data[i][b] = (unsigned char) (f.data[i][b] % 250);
        }
    }
    om_hf *hf = open_fixture(&f, FIX_OSS);
    const om_hf_tensor *t = om_hf_find(hf, "blk.1.ffn_up_exps.weight");
    assert_string_equal(t->format->name, "bf16");
    assert_string_equal(t->path, "model.layers.1.mlp.experts.up_proj.weight");
    const unsigned char *codes =
        f.data[fix_index(&f, "model.layers.1.mlp.experts.gate_up_proj_blocks")];
    const unsigned char *scales =
        f.data[fix_index(&f, "model.layers.1.mlp.experts.gate_up_proj_scales")];
    float *gate = fix_read(hf, "blk.1.ffn_gate_exps.weight", OM_HF_MLX);
    float *up = fix_read(hf, "blk.1.ffn_up_exps.weight", OM_HF_GGUF);
    for (int64_t r = 0; r < FIX_E * 64; r++) {
        for (int64_t c = 0; c < 32; c++) {
            const unsigned shift = c % 2 == 0 ? 0 : 4;
            const int64_t even = 2 * r, odd = 2 * r + 1; /* gate and up take turns */
            assert_true(gate[r * 32 + c] ==
                        e2m1((unsigned) codes[even * 16 + c / 2] >> shift, scales[even]));
            assert_true(up[r * 32 + c] ==
                        e2m1((unsigned) codes[odd * 16 + c / 2] >> shift, scales[odd]));
        }
    }
    free(gate);
    free(up);
    om_hf_free(hf);
    fix_release(&f);
}

static void test_oss_transposed(void **state) {
    (void) state;
    fixture f = { 0 };
    add_oss(&f, false);
    om_hf *hf = open_fixture(&f, FIX_OSS);
    const char *fused = "model.layers.0.mlp.experts.gate_up_proj";
    const char *down_name = "model.layers.0.mlp.experts.down_proj";
    const char *bias_name = "model.layers.0.mlp.experts.gate_up_proj_bias";
    float *up = fix_read(hf, "blk.0.ffn_up_exps.weight", OM_HF_MLX);
    float *down = fix_read(hf, "blk.0.ffn_down_exps.weight", OM_HF_GGUF);
    float *bias = fix_read(hf, "blk.0.ffn_up_exps.bias", OM_HF_GGUF);
    for (int64_t e = 0; e < FIX_E; e++) {
        for (int64_t o = 0; o < 64; o++) {
            assert_true(bias[e * 64 + o] == fix_number(bias_name, e * 128 + 2 * o + 1));
            for (int64_t i = 0; i < FIX_C; i++) {
                assert_true(up[(e * 64 + o) * FIX_C + i] ==
                            fix_number(fused, (e * FIX_C + i) * 128 + 2 * o + 1));
                assert_true(down[(e * FIX_C + i) * 64 + o] ==
                            fix_number(down_name, (e * 64 + o) * FIX_C + i));
            }
        }
    }
    free(up);
    free(down);
    free(bias);
    /* a whole tensor at once, across experts and longer than the reader's buffer */
    const om_hf_tensor *t = om_hf_find(hf, "blk.0.ffn_gate_exps.weight");
    float *pieces = fix_read(hf, t->name, OM_HF_MLX);
    float *whole = calloc(FIX_E * 64 * FIX_C, sizeof *whole);
    om_error err = { 0 };
    assert_int_equal(om_hf_rows_f32(whole, hf, t, OM_HF_MLX, 0, FIX_E * 64, &err), OM_OK);
    assert_memory_equal(pieces, whole, FIX_E * 64 * FIX_C * sizeof *whole);
    free(pieces);
    free(whole);
    om_hf_free(hf);
    fix_release(&f);
}

/* ---- MLX ---- */

/* Replaces a matrix by codes of `bits` in groups, its scales and biases in BF16. */
static void make_mlx(fixture *f, const char *module, int64_t rows, int64_t n_in, int bits,
                     int group) {
    char name[FIX_NAME];
    (void) snprintf(name, sizeof name, "%s.weight", module);
    fix_remove(f, name);
    fix_add2(f, name, OM_ST_U32, rows, n_in * bits / 32);
    (void) snprintf(name, sizeof name, "%s.scales", module);
    fix_add2(f, name, OM_ST_BF16, rows, n_in / group);
    (void) snprintf(name, sizeof name, "%s.biases", module);
    fix_add2(f, name, OM_ST_BF16, rows, n_in / group);
}

static float mlx_value(const fixture *f, const char *module, int64_t row, int64_t i, int64_t n_in,
                       int bits, int group) {
    char name[FIX_NAME];
    (void) snprintf(name, sizeof name, "%s.weight", module);
    const unsigned char *codes = f->data[fix_index(f, name)] + row * n_in * bits / 8;
    unsigned q = 0;
    for (int b = 0; b < bits; b++) {
        const int64_t bit = i * bits + b;
        q |= (unsigned) (codes[bit / 8] >> (bit % 8) & 1) << b;
    }
    (void) snprintf(name, sizeof name, "%s.scales", module);
    const float scale = fix_number(name, row * (n_in / group) + i / group);
    (void) snprintf(name, sizeof name, "%s.biases", module);
    return scale * (float) q + fix_number(name, row * (n_in / group) + i / group);
}

static void test_mlx(void **state) {
    (void) state;
    fixture f = { 0 };
    const char *q = "model.layers.1.self_attn.q_proj", *e = "model.embed_tokens";
    fix_llama(&f, false);
    make_mlx(&f, q, 32, 32, 5, 32);
    make_mlx(&f, e, 40, 32, 8, 32);
    om_hf *hf = open_fixture(
        &f, FIX_CONFIG("llama", ", \"tie_word_embeddings\": true, \"quantization\": "
                                "{\"group_size\": 64, \"bits\": 4, "
                                "\"model.embed_tokens\": {\"group_size\": 32, "
                                "\"bits\": 8}, \"model.layers.0.mlp.up_proj\": false}"));
    assert_string_equal(om_hf_find(hf, "blk.1.attn_q.weight")->format->name, "mlx_5bit_g32");
    assert_string_equal(om_hf_find(hf, "token_embd.weight")->format->name, "mlx_8bit_g32");
    assert_string_equal(om_hf_find(hf, "blk.1.attn_k.weight")->format->name, "bf16");
    float *mlx = fix_read(hf, "blk.1.attn_q.weight", OM_HF_MLX);
    float *gguf = fix_read(hf, "blk.1.attn_q.weight", OM_HF_GGUF);
    float *embd = fix_read(hf, "token_embd.weight", OM_HF_GGUF);
    for (int64_t r = 0; r < 32; r++) {
        for (int64_t i = 0; i < 32; i++) {
            assert_true(mlx[r * 32 + i] == mlx_value(&f, q, r, i, 32, 5, 32));
            assert_true(gguf[r * 32 + i] == mlx_value(&f, q, row_in_llama_cpp(r), i, 32, 5, 32));
            assert_true(embd[r * 32 + i] == mlx_value(&f, e, r, i, 32, 8, 32));
        }
    }
    free(mlx);
    free(gguf);
    free(embd);
    om_hf_free(hf);
    fix_release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_order),
        cmocka_unit_test(test_qwen_order),
        cmocka_unit_test(test_fused_experts),
        cmocka_unit_test(test_gemma_norms),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_oss_blocks),
        cmocka_unit_test(test_oss_transposed),
        cmocka_unit_test(test_mlx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
