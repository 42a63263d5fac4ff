/* Options into a GGUF with a random model and a minimal SentencePiece vocabulary, through ggml's
 * own writer. Shapes follow what libllama's loaders ask for (src/models in llama.cpp). */
#include "tiny_model.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gguf.h>

#include "base/rng.h"

typedef struct builder {
    om_tiny_options o;
    struct ggml_context *ctx;
    struct gguf_context *gguf;
} builder;

static void die(const char *what, const char *path) {
    fprintf(stderr, "tiny_model: %s: %s\n", what, path);
    exit(1);
}

/* ---- metadata ---- */

static void set_u32(builder *b, const char *key, int value) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", b->o.arch, key);
    gguf_set_val_u32(b->gguf, name, (uint32_t) value);
}

static void set_f32(builder *b, const char *key, float value) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", b->o.arch, key);
    gguf_set_val_f32(b->gguf, name, value);
}

static bool is_arch(const builder *b, const char *arch) {
    return strcmp(b->o.arch, arch) == 0;
}

static bool is_gemma(const builder *b) {
    return is_arch(b, "gemma2") || is_arch(b, "gemma3");
}

/* Does the architecture always have experts? */
static bool is_mixture(const builder *b) {
    static const char *const archs[] = { "qwen2moe", "qwen3moe", "olmoe", "gpt-oss", "dots1" };
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (is_arch(b, archs[i])) {
            return true;
        }
    }
    return false;
}

/* Width of the expert that every token passes; 0: none. */
static int shared_width(const builder *b) {
    return is_arch(b, "qwen2moe") || is_arch(b, "dots1") ? 2 * b->o.n_ff : 0;
}

static void set_expert_hparams(builder *b) {
    const om_tiny_options *o = &b->o;
    set_u32(b, "expert_count", o->n_expert);
    set_u32(b, "expert_used_count", o->n_expert_used);
    set_u32(b, "expert_feed_forward_length", o->n_ff);
    if (is_arch(b, "qwen2moe")) {
        set_u32(b, "expert_shared_feed_forward_length", shared_width(b));
    }
    if (is_arch(b, "dots1")) {
        set_u32(b, "leading_dense_block_count", 1);
        set_u32(b, "expert_shared_count", 2);
        set_u32(b, "expert_gating_func", 2); /* sigmoid */
        set_f32(b, "expert_weights_scale", 2.5f);
        gguf_set_val_bool(b->gguf, "dots1.expert_weights_norm", true);
    }
    if (o->n_expert_groups > 0) {
        set_u32(b, "expert_group_count", o->n_expert_groups);
        set_u32(b, "expert_group_used_count", o->n_expert_groups / 2);
    }
}

static void set_hparams(builder *b) {
    const om_tiny_options *o = &b->o;
    gguf_set_val_str(b->gguf, "general.architecture", o->arch);
    gguf_set_val_str(b->gguf, "general.name", "tiny");
    gguf_set_val_u32(b->gguf, "general.file_type", o->type == GGML_TYPE_BF16 ? 32 : 0);
    set_u32(b, "block_count", o->n_layer);
    set_u32(b, "context_length", 2048);
    set_u32(b, "embedding_length", o->n_embd);
    set_u32(b, "feed_forward_length", o->n_ff);
    set_u32(b, "attention.head_count", o->n_head);
    set_u32(b, "attention.head_count_kv", o->n_head_kv);
    set_u32(b, "attention.key_length", o->head_dim);
    set_u32(b, "attention.value_length", o->head_dim);
    set_u32(b, "rope.dimension_count", o->head_dim);
    set_u32(b, "vocab_size", o->n_vocab);
    set_f32(b, "attention.layer_norm_rms_epsilon", 1e-6f);
    set_f32(b, "rope.freq_base", 10000.0f);
    if (is_gemma(b) || is_arch(b, "gpt-oss")) {
        set_u32(b, "attention.sliding_window", o->n_window);
    }
    if (is_arch(b, "gemma2")) {
        set_f32(b, "attn_logit_softcapping", 50.0f);
        set_f32(b, "final_logit_softcapping", 30.0f);
    }
    if (is_arch(b, "phi3")) {
        set_u32(b, "rope.scaling.original_context_length", 2048);
    }
    if (o->n_expert > 0) {
        set_expert_hparams(b);
    }
}

/* 3 special tokens, 256 bytes, then single letters and pairs: enough for libllama to tokenize any
 * text and for merges to happen. */
static void set_vocab(builder *b) {
    int n = b->o.n_vocab;
    char(*texts)[24] = calloc((size_t) n, sizeof *texts);
    const char **tokens = calloc((size_t) n, sizeof *tokens);
    float *scores = calloc((size_t) n, sizeof *scores);
    int32_t *kinds = calloc((size_t) n, sizeof *kinds);
    if (texts == NULL || tokens == NULL || scores == NULL || kinds == NULL) {
        die("out of memory", b->o.arch);
    }
    static const char letters[] = "etaoinshrdlcumwfgypbvkjxqz";
    for (int i = 0; i < n; i++) {
        int k = i - 259;
        kinds[i] = 1; /* normal */
        if (i < 3) {
            static const char *const special[] = { "<unk>", "<s>", "</s>" };
            strcpy(texts[i], special[i]);
            kinds[i] = i == 0 ? 2 : 3;
        } else if (i < 259) {
            snprintf(texts[i], sizeof texts[i], "<0x%02X>", i - 3);
            kinds[i] = 6; /* byte */
        } else if (k == 0) {
            strcpy(texts[i], "\xE2\x96\x81");
        } else if (k <= 26) {
            snprintf(texts[i], sizeof texts[i], "%c", letters[k - 1]);
        } else if (k <= 52) {
            snprintf(texts[i], sizeof texts[i], "\xE2\x96\x81%c", letters[k - 27]);
        } else if (k < 52 + 26 * 26) {
            k -= 53;
            snprintf(texts[i], sizeof texts[i], "%c%c", letters[k / 26], letters[k % 26]);
        } else {
            snprintf(texts[i], sizeof texts[i], "<extra_%d>", i);
        }
        tokens[i] = texts[i];
        scores[i] = i < 259 ? 0.0f : -(float) (i - 258);
    }
    gguf_set_val_str(b->gguf, "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(b->gguf, "tokenizer.ggml.tokens", tokens, (size_t) n);
    gguf_set_arr_data(b->gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, (size_t) n);
    gguf_set_arr_data(b->gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, kinds, (size_t) n);
    gguf_set_val_u32(b->gguf, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(b->gguf, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_u32(b->gguf, "tokenizer.ggml.unknown_token_id", 0);
    gguf_set_val_bool(b->gguf, "tokenizer.ggml.add_bos_token", !b->o.no_bos);
    free(texts);
    free((void *) tokens);
    free(scores);
    free(kinds);
}

/* ---- tensors ---- */

static void fill(struct ggml_tensor *t, float mean, float sigma) {
    int64_t n = ggml_nelements(t);
    float *values = malloc((size_t) n * sizeof *values);
    if (values == NULL) {
        die("out of memory", t->name);
    }
    om_rng rng = om_rng_at(1, om_hash_name(t->name));
    for (int64_t i = 0; i < n; i++) {
        double u = om_rng_f64(&rng), v = om_rng_f64(&rng);
        double z = sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v);
        values[i] = mean + sigma * (float) z;
    }
    ggml_quantize_chunk(t->type, values, t->data, 0, n / t->ne[0], t->ne[0], NULL);
    free(values);
}

static void add(builder *b, enum ggml_type type, const char *name, int64_t n0, int64_t n1,
                int64_t n2, float mean, float sigma) {
    int n_dims = n2 > 0 ? 3 : n1 > 0 ? 2 : 1;
    int64_t ne[3] = { n0, n1 > 0 ? n1 : 1, n2 > 0 ? n2 : 1 };
    struct ggml_tensor *t = ggml_new_tensor(b->ctx, type, n_dims, ne);
    ggml_set_name(t, name);
    if (!b->o.sparse) {
        fill(t, mean, sigma);
    }
    gguf_add_tensor(b->gguf, t);
}

static const char *in_layer(char name[64], int layer, const char *role) {
    snprintf(name, 64, "blk.%d.%s", layer, role);
    return name;
}

static void add_matrix(builder *b, int layer, const char *role, int64_t n_in, int64_t n_out,
                       int64_t experts) {
    char name[64];
    add(b, b->o.type, in_layer(name, layer, role), n_in, n_out, experts, 0.0f,
        b->o.scale / sqrtf((float) n_in));
}

static void add_vector(builder *b, int layer, const char *role, int64_t n, float mean) {
    char name[64];
    add(b, GGML_TYPE_F32, in_layer(name, layer, role), n, 0, 0, mean, 0.1f);
}

static void add_attention(builder *b, int layer) {
    const om_tiny_options *o = &b->o;
    int64_t n_q = (int64_t) o->n_head * o->head_dim, n_kv = (int64_t) o->n_head_kv * o->head_dim;
    add_vector(b, layer, "attn_norm.weight", o->n_embd, 1.0f);
    if (is_arch(b, "phi3")) {
        add_matrix(b, layer, "attn_qkv.weight", o->n_embd, n_q + 2 * n_kv, 0);
    } else {
        add_matrix(b, layer, "attn_q.weight", o->n_embd, n_q, 0);
        add_matrix(b, layer, "attn_k.weight", o->n_embd, n_kv, 0);
        add_matrix(b, layer, "attn_v.weight", o->n_embd, n_kv, 0);
    }
    if (is_arch(b, "qwen2") || is_arch(b, "qwen2moe") || is_arch(b, "gpt-oss")) {
        add_vector(b, layer, "attn_q.bias", n_q, 0.0f);
        add_vector(b, layer, "attn_k.bias", n_kv, 0.0f);
        add_vector(b, layer, "attn_v.bias", n_kv, 0.0f);
    }
    if (is_arch(b, "qwen3") || is_arch(b, "qwen3moe") || is_arch(b, "gemma3") ||
        is_arch(b, "dots1")) {
        add_vector(b, layer, "attn_q_norm.weight", o->head_dim, 1.0f);
        add_vector(b, layer, "attn_k_norm.weight", o->head_dim, 1.0f);
    }
    if (is_arch(b, "olmoe")) { /* the norm runs over all heads */
        add_vector(b, layer, "attn_q_norm.weight", n_q, 1.0f);
        add_vector(b, layer, "attn_k_norm.weight", n_kv, 1.0f);
    }
    add_matrix(b, layer, "attn_output.weight", n_q, o->n_embd, 0);
    if (is_arch(b, "gpt-oss")) {
        add_vector(b, layer, "attn_output.bias", o->n_embd, 0.0f);
        add_vector(b, layer, "attn_sinks.weight", o->n_head, 1.0f);
    }
    if (is_gemma(b) || is_arch(b, "gpt-oss")) {
        add_vector(b, layer, "post_attention_norm.weight", o->n_embd, 1.0f);
    }
}

static void add_expert_biases(builder *b, int layer) {
    const om_tiny_options *o = &b->o;
    static const char *const roles[] = { "ffn_gate_exps.bias", "ffn_up_exps.bias",
                                         "ffn_down_exps.bias" };
    char name[64];
    add_vector(b, layer, "ffn_gate_inp.bias", o->n_expert, 0.0f);
    for (int i = 0; i < 3; i++) {
        add(b, GGML_TYPE_F32, in_layer(name, layer, roles[i]), i < 2 ? o->n_ff : o->n_embd,
            o->n_expert, 0, 0.0f, 0.1f);
    }
}

static void add_experts(builder *b, int layer) {
    const om_tiny_options *o = &b->o;
    char name[64];
    add(b, GGML_TYPE_F32, in_layer(name, layer, "ffn_gate_inp.weight"), o->n_embd, o->n_expert, 0,
        0.0f, 1.0f / sqrtf((float) o->n_embd));
    add_matrix(b, layer, "ffn_gate_exps.weight", o->n_embd, o->n_ff, o->n_expert);
    add_matrix(b, layer, "ffn_up_exps.weight", o->n_embd, o->n_ff, o->n_expert);
    add_matrix(b, layer, "ffn_down_exps.weight", o->n_ff, o->n_embd, o->n_expert);
    if (is_arch(b, "gpt-oss")) {
        add_expert_biases(b, layer);
    }
    if (is_arch(b, "dots1")) {
        add_vector(b, layer, "exp_probs_b.bias", o->n_expert, 0.0f);
    }
    if (is_arch(b, "qwen2moe")) {
        add(b, GGML_TYPE_F32, in_layer(name, layer, "ffn_gate_inp_shexp.weight"), o->n_embd, 0, 0,
            0.0f, 1.0f / sqrtf((float) o->n_embd));
    }
    if (shared_width(b) > 0) {
        add_matrix(b, layer, "ffn_gate_shexp.weight", o->n_embd, shared_width(b), 0);
        add_matrix(b, layer, "ffn_up_shexp.weight", o->n_embd, shared_width(b), 0);
        add_matrix(b, layer, "ffn_down_shexp.weight", shared_width(b), o->n_embd, 0);
    }
}

static void add_ffn(builder *b, int layer) {
    const om_tiny_options *o = &b->o;
    if (!is_arch(b, "gpt-oss")) { /* there the norm is called post_attention_norm */
        add_vector(b, layer, "ffn_norm.weight", o->n_embd, 1.0f);
    }
    if (o->n_expert > 0 && !(is_arch(b, "dots1") && layer == 0)) {
        add_experts(b, layer);
    } else if (is_arch(b, "phi3")) {
        add_matrix(b, layer, "ffn_up.weight", o->n_embd, 2 * (int64_t) o->n_ff, 0);
        add_matrix(b, layer, "ffn_down.weight", o->n_ff, o->n_embd, 0);
    } else {
        add_matrix(b, layer, "ffn_gate.weight", o->n_embd, o->n_ff, 0);
        add_matrix(b, layer, "ffn_up.weight", o->n_embd, o->n_ff, 0);
        add_matrix(b, layer, "ffn_down.weight", o->n_ff, o->n_embd, 0);
    }
    if (is_gemma(b)) {
        add_vector(b, layer, "post_ffw_norm.weight", o->n_embd, 1.0f);
    }
}

static void add_tensors(builder *b) {
    const om_tiny_options *o = &b->o;
    float sigma = 2.0f / sqrtf((float) o->n_embd); /* logits with a standard deviation near 2 */
    add(b, o->type, "token_embd.weight", o->n_embd, o->n_vocab, 0, 0.0f, sigma);
    for (int i = 0; i < o->n_layer; i++) {
        add_attention(b, i);
        add_ffn(b, i);
    }
    add(b, GGML_TYPE_F32, "output_norm.weight", o->n_embd, 0, 0, 1.0f, 0.1f);
    if (!o->tied) {
        add(b, o->type, "output.weight", o->n_embd, o->n_vocab, 0, 0.0f, sigma);
    }
}

/* ---- the file ---- */

static void set_default(int *value, int fallback) {
    *value = *value > 0 ? *value : fallback;
}

static void set_defaults(builder *b) {
    om_tiny_options *o = &b->o;
    o->arch = o->arch != NULL ? o->arch : "llama";
    set_default(&o->n_layer, 2);
    set_default(&o->n_embd, 256);
    set_default(&o->n_head, 4);
    set_default(&o->n_head_kv, is_arch(b, "olmoe") || is_arch(b, "dots1") ? o->n_head : 2);
    set_default(&o->head_dim, o->n_embd / o->n_head);
    set_default(&o->n_ff, 512);
    set_default(&o->n_vocab, 384);
    set_default(&o->n_window, is_gemma(b) || is_arch(b, "gpt-oss") ? 64 : 0);
    set_default(&o->n_expert, is_mixture(b) ? 4 : 0);
    set_default(&o->n_expert_used, 2);
    o->tied = is_gemma(b) || (o->tied && (!is_mixture(b) || is_arch(b, "qwen3moe")));
    o->scale = o->scale > 0.0f ? o->scale : 1.0f;
}

static size_t weights_bytes(const builder *b) {
    const om_tiny_options *o = &b->o;
    if (o->sparse) {
        return 0;
    }
    size_t c = (size_t) o->n_embd, experts = o->n_expert > 0 ? (size_t) o->n_expert : 1;
    size_t heads = (size_t) (o->n_head + o->n_head_kv) * (size_t) o->head_dim;
    size_t ff = (size_t) o->n_ff * experts + (size_t) shared_width(b);
    size_t layer = 2 * heads * c + 3 * ff * c + (64 + experts) * c + 2 * ff;
    return 4 * ((size_t) o->n_layer * layer + 2 * (size_t) o->n_vocab * c) + (1u << 20);
}

static size_t file_bytes(const builder *b) {
    int64_t last = gguf_get_n_tensors(b->gguf) - 1;
    return gguf_get_meta_size(b->gguf) + gguf_get_tensor_offset(b->gguf, last) +
           GGML_PAD(gguf_get_tensor_size(b->gguf, last), (size_t) GGUF_DEFAULT_ALIGNMENT);
}

void om_tiny_model_write_with(const char *path, const om_tiny_options *options) {
    builder b = { .o = *options };
    set_defaults(&b);
    size_t headers = (size_t) (b.o.n_layer * 32 + 8) * ggml_tensor_overhead();
    b.ctx = ggml_init((struct ggml_init_params){ .mem_size = weights_bytes(&b) + headers,
                                                 .no_alloc = b.o.sparse });
    b.gguf = gguf_init_empty();
    if (b.ctx == NULL || b.gguf == NULL) {
        die("out of memory", path);
    }
    set_hparams(&b);
    set_vocab(&b);
    add_tensors(&b);
    if (!gguf_write_to_file(b.gguf, path, b.o.sparse)) {
        die("cannot write", path);
    }
    if (b.o.sparse && truncate(path, (off_t) file_bytes(&b)) != 0) {
        die("cannot make a sparse file", path);
    }
    gguf_free(b.gguf);
    ggml_free(b.ctx);
}

void om_tiny_model_write(const char *path, const char *arch, enum ggml_type type) {
    om_tiny_model_write_with(path, &(om_tiny_options){ .arch = arch, .type = type });
}
