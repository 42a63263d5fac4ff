/* config.json: what mlx-lm's ModelArgs and llama.cpp's converter read of it to know the shapes. */
#include "hf/sizes.h"

#include <string.h>

#include "hf/config.h"

enum { MAX_LAYERS = 4096, MAX_EXPERTS = 1 << 16, MAX_VOCAB = 1 << 28, MAX_FP8_BLOCK = 1 << 16 };

/* One number: of the config, else `fallback`, where 0 means that there must be one. */
static om_status read_number(int64_t *out, const om_node *config, const char *key, int64_t fallback,
                             int64_t max, om_error *err) {
    if (fallback > 0 && !om_node_has(config, key)) {
        *out = fallback;
        return OM_OK;
    }
    return om_node_i64(out, config, key, 1, max, err);
}

static om_status read_bool(bool *there, bool *out, const om_node *config, const char *key,
                           om_error *err) {
    *there = om_node_has(config, key);
    *out = false;
    return *there ? om_node_bool(out, config, key, err) : OM_OK;
}

static om_status read_attention(om_hf_sizes *s, const om_family *f, const om_node *config,
                                om_error *err) {
    om_status status = OM_OK;
    int64_t *dim = s->dim;
    OM_TRY(read_number(&dim[OM_DIM_H], config, "num_attention_heads", f->n_heads, OM_HF_MAX_HEADS,
                       err));
    OM_TRY(read_number(&s->n_kv, config, "num_key_value_heads",
                       f->n_kv > 0 ? f->n_kv : dim[OM_DIM_H], OM_HF_MAX_HEADS, err));
    const int64_t head = f->head_dim > 0 ? f->head_dim : dim[OM_DIM_C] / dim[OM_DIM_H];
    OM_TRY(read_number(&dim[OM_DIM_D], config, "head_dim", head, OM_HF_MAX_HEADS, err));
    if (f->permutes && dim[OM_DIM_D] % 2 != 0) {
        status = om_node_fail(err, config, "head_dim is %lld, expected an even number",
                              (long long) dim[OM_DIM_D]);
        goto out;
    }
    dim[OM_DIM_HD] = dim[OM_DIM_H] * dim[OM_DIM_D];
    dim[OM_DIM_KVD] = s->n_kv * dim[OM_DIM_D];
    dim[OM_DIM_QKVD] = dim[OM_DIM_HD] + 2 * dim[OM_DIM_KVD];
out:
    return status;
}

/* Blocks without experts among others: mlx-lm has them, llama.cpp's qwen3moe and qwen2moe do not.
 */
static om_status check_all_sparse(const om_node *config, om_error *err) {
    om_status status = OM_OK;
    int64_t step = 1;
    size_t n_dense = 0;
    OM_TRY(read_number(&step, config, "decoder_sparse_step", 1, MAX_LAYERS, err));
    if (om_node_has(config, "mlp_only_layers")) {
        om_node array;
        OM_TRY(om_node_array(&array, &n_dense, config, "mlp_only_layers", err));
    }
    if (step != 1 || n_dense > 0) {
        status = om_node_fail(err, config,
                              "blocks without experts (decoder_sparse_step %lld, %zu "
                              "mlp_only_layers) are not supported: llama.cpp has experts in every "
                              "block of this family",
                              (long long) step, n_dense);
        err->status = status = OM_E_UNSUPPORTED;
    }
out:
    return status;
}

static om_status read_experts(om_hf_sizes *s, const om_family *f, const om_node *config,
                              om_error *err) {
    om_status status = OM_OK;
    int64_t *dim = s->dim;
    /* transformers 5 writes num_local_experts for every family. */
    const char *key = om_node_has(config, "num_experts") ? "num_experts" : "num_local_experts";
    OM_TRY(read_number(&dim[OM_DIM_E], config, key, 0, MAX_EXPERTS, err));
    OM_TRY(read_number(&dim[OM_DIM_FE], config, f->expert_ff_key, 0, OM_HF_MAX_WIDTH, err));
    if (om_node_has(config, "shared_expert_intermediate_size")) {
        OM_TRY(read_number(&dim[OM_DIM_FS], config, "shared_expert_intermediate_size", 0,
                           OM_HF_MAX_WIDTH, err));
    }
    OM_TRY(check_all_sparse(config, err));
out:
    return status;
}

om_status om_hf_sizes_read(om_hf_sizes *out, const om_family *f, const om_node *config,
                           om_error *err) {
    om_status status = OM_OK;
    om_hf_sizes s = { 0 };
    om_node text = *config;
    int64_t layers = 0;
    bool there;
    if (f->nested) {
        OM_TRY(om_node_object(&text, config, "text_config", err));
    }
    OM_TRY(read_number(&layers, &text, "num_hidden_layers", 0, MAX_LAYERS, err));
    OM_TRY(read_number(&s.dim[OM_DIM_C], &text, "hidden_size", 0, OM_HF_MAX_WIDTH, err));
    /* mlx-lm takes a nested model's vocabulary from the outer object. */
    const bool outer =
        f->nested && (om_node_has(config, "vocab_size") || !om_node_has(&text, "vocab_size"));
    OM_TRY(read_number(&s.dim[OM_DIM_V], outer ? config : &text, "vocab_size", f->n_vocab,
                       MAX_VOCAB, err));
    OM_TRY(read_attention(&s, f, &text, err));
    if (f->experts) {
        OM_TRY(read_experts(&s, f, &text, err));
    } else {
        OM_TRY(read_number(&s.dim[OM_DIM_F], &text, "intermediate_size", 0, OM_HF_MAX_WIDTH, err));
        s.dim[OM_DIM_2F] = 2 * s.dim[OM_DIM_F];
    }
    OM_TRY(read_bool(&there, &s.attention_bias, &text, "attention_bias", err));
    OM_TRY(read_bool(&there, &s.mlp_bias, &text, "mlp_bias", err));
    OM_TRY(read_bool(&s.says_tied, &s.tied, config, "tie_word_embeddings", err));
    if (!s.says_tied) {
        OM_TRY(read_bool(&s.says_tied, &s.tied, &text, "tie_word_embeddings", err));
    }
    s.dim[OM_DIM_1] = 1;
    s.n_layers = (int) layers;
    *out = s;
out:
    return status;
}

/* ---- how the weights are stored ---- */

static bool text_is(const om_node *node, const char *key, const char *wanted) {
    om_error ignored = { 0 };
    const char *text = NULL;
    return om_node_has(node, key) && om_node_str(&text, node, key, &ignored) == OM_OK &&
           strcmp(text, wanted) == 0;
}

/* FP8 and MXFP4 in the forms that are read here. */
static bool method_is_read(const om_node *quantization, const char *method) {
    return strcmp(method, "fp8") == 0 || strcmp(method, "fbgemm_fp8") == 0 ||
           strcmp(method, "mxfp4") == 0 ||
           (strcmp(method, "modelopt") == 0 && text_is(quantization, "quant_algo", "FP8")) ||
           (strcmp(method, "compressed-tensors") == 0 &&
            (text_is(quantization, "format", "float-quantized") ||
             text_is(quantization, "format", "naive-quantized")));
}

om_status om_hf_quantization_check(int64_t fp8_block[2], const om_node *config, om_error *err) {
    om_status status = OM_OK;
    om_node quantization, array, element;
    const char *method = NULL;
    size_t n = 0;
    fp8_block[0] = fp8_block[1] = 128;
    if (om_node_has(config, "quantization") || !om_node_has(config, "quantization_config")) {
        return OM_OK; /* MLX's, whatever else was copied from a source; or none */
    }
    OM_TRY(om_node_object(&quantization, config, "quantization_config", err));
    if (!om_node_has(&quantization, "quant_method")) {
        goto out; /* MLX's copy */
    }
    OM_TRY(om_node_str(&method, &quantization, "quant_method", err));
    if (!method_is_read(&quantization, method)) {
        status = om_node_fail(err, &quantization,
                              "weights quantized with \"%.40s\" are not read: give the model that "
                              "they were made from (BF16, F16, F32, FP8, MXFP4 or MLX)",
                              method);
        goto out;
    }
    if (om_node_has(&quantization, "weight_block_size")) {
        OM_TRY(om_node_array(&array, &n, &quantization, "weight_block_size", err));
        if (n != 2) {
            status = om_node_fail(err, &array, "expected two numbers, found %zu", n);
            goto out;
        }
        for (size_t i = 0; i < 2; i++) {
            OM_TRY(om_node_at(&element, &array, i, err));
            OM_TRY(om_node_value_i64(&fp8_block[i], &element, 1, MAX_FP8_BLOCK, err));
        }
    }
out:
    return status;
}
