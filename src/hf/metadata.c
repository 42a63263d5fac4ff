/* config.json -> the keys of an architecture, family by family.
 *
 * Most families share what llama.cpp's converter writes for all; Gemma 2 and Phi-3 have lists of
 * their own. The converter sees the configuration through transformers, which fills in what the
 * file leaves out, so the defaults below are those of transformers 5 (configuration_*.py).
 *
 * llama.cpp takes some facts from the architecture alone: which layers slide, the scale of
 * Gemma's queries. Where config.json says otherwise, the GGUF would run another model than the
 * directory's, so it is refused. */
#include "hf/metadata.h"

#include <string.h>

#include "base/mem.h"
#include "hf/config.h"
#include "hf/rope.h"

typedef enum list_of_keys { COMMON, GEMMA2, PHI3 } list_of_keys;

/* 0 in a number: config.json must have it, or nothing is written where it does not. */
typedef struct family {
    const char *model_type;
    list_of_keys keys;
    int64_t heads, vocab; /* 0: config.json must have them */
    int64_t heads_kv;     /* 0: as many as heads */
    int64_t context;
    double rms_eps;
    om_rope_defaults rope;
    int64_t head_dim;      /* 0: written only when config.json has it */
    bool llama;            /* head_dim from the width; vocab_size and rope.dimension_count too */
    bool head_dim_derived; /* written even when config.json has none */
    bool gemma;
    /* Do the weights of a token's experts add up to 1? llama.cpp knows it of each architecture. */
    enum { NEVER_SAID, SUM_IS_FREE, SUM_IS_ONE } expert_weights;
    int64_t experts, experts_used, expert_width, shared_width;
    int64_t window;       /* of sliding layers */
    int64_t slides_every; /* each n-th layer is a full one, the others slide; 0: none slides */
} family;

static const family families[] = {
    { .model_type = "llama",
      .context = 2048,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .llama = true,
      .head_dim_derived = true },
    { .model_type = "mistral",
      .heads_kv = 8,
      .context = 131072,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .llama = true,
      .head_dim_derived = true },
    { .model_type = "mixtral",
      .heads_kv = 8,
      .context = 131072,
      .rms_eps = 1e-5,
      .rope = { 1e6, 0 },
      .llama = true,
      .experts = 8,
      .experts_used = 2 },
    { .model_type = "qwen2",
      .heads_kv = 32,
      .context = 32768,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 } },
    { .model_type = "qwen3",
      .heads_kv = 32,
      .context = 32768,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .head_dim = 128 },
    { .model_type = "qwen2_moe",
      .heads_kv = 16,
      .context = 32768,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .experts = 60,
      .experts_used = 4,
      .expert_width = 1408,
      .shared_width = 5632,
      .expert_weights = SUM_IS_FREE },
    { .model_type = "qwen3_moe",
      .heads_kv = 4,
      .context = 32768,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .experts = 128,
      .experts_used = 8,
      .expert_width = 768,
      .expert_weights = SUM_IS_ONE },
    { .model_type = "olmoe",
      .context = 4096,
      .rms_eps = 1e-5,
      .rope = { 1e4, 0 },
      .experts = 64,
      .experts_used = 8,
      .expert_weights = SUM_IS_FREE },
    { .model_type = "gemma2",
      .keys = GEMMA2,
      .heads_kv = 4,
      .context = 8192,
      .rms_eps = 1e-6,
      .rope = { 1e4, 0 },
      .head_dim = 256,
      .gemma = true,
      .window = 4096,
      .slides_every = 2 },
    { .model_type = "gemma3_text",
      .heads_kv = 4,
      .context = 131072,
      .rms_eps = 1e-6,
      .rope = { 1e6, 1e4 },
      .head_dim = 256,
      .gemma = true,
      .window = 4096,
      .slides_every = 6 },
    { .model_type = "gemma3",
      .heads = 8,
      .vocab = 262208,
      .heads_kv = 4,
      .context = 131072,
      .rms_eps = 1e-6,
      .rope = { 1e6, 1e4 },
      .head_dim = 256,
      .gemma = true,
      .window = 4096,
      .slides_every = 6 },
    { .model_type = "phi3", .keys = PHI3, .context = 4096, .rms_eps = 1e-5, .rope = { 1e4, 0 } },
    { .model_type = "gpt_oss",
      .heads_kv = 8,
      .context = 131072,
      .rms_eps = 1e-5,
      .rope = { 150000, 0 },
      .head_dim = 64,
      .experts = 128,
      .experts_used = 4,
      .window = 128,
      .slides_every = 2 },
};

static const family *find_family(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i].model_type, model_type) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

static bool is_family(const family *f, const char *model_type) {
    return strcmp(f->model_type, model_type) == 0;
}

static bool is_gemma3(const family *f) {
    return f->gemma && f->keys == COMMON;
}

/* What every family has. */
typedef struct sizes {
    int64_t layers, context, width, ff, heads, heads_kv, vocab;
    int64_t head_dim; /* 0: not written */
    int64_t rotated;  /* of a head */
    double rms_eps;
} sizes;

static om_status read_sizes(sizes *s, const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    *s = (sizes){ .context = f->context,
                  .heads = f->heads,
                  .vocab = f->vocab,
                  .head_dim = f->head_dim,
                  .rms_eps = f->rms_eps };
    OM_TRY(om_config_i64(&s->layers, c, "num_hidden_layers", 1, 100000, err));
    OM_TRY(om_config_i64(&s->width, c, "hidden_size", 1, OM_HF_MAX_WIDTH, err));
    OM_TRY(om_config_i64(&s->ff, c, "intermediate_size", 1, INT32_MAX, err));
    if (f->heads == 0 || om_config_find(c, "num_attention_heads") != NULL) {
        OM_TRY(om_config_i64(&s->heads, c, "num_attention_heads", 1, INT32_MAX, err));
    }
    if (f->vocab == 0 || om_config_find(c, "vocab_size") != NULL) {
        OM_TRY(om_config_i64(&s->vocab, c, "vocab_size", 1, INT32_MAX, err));
    }
    s->heads_kv =
        f->heads_kv > 0 && !om_config_is_null(c, "num_key_value_heads") ? f->heads_kv : s->heads;
    OM_TRY(om_config_get_i64(&s->heads_kv, c, "num_key_value_heads", 1, INT32_MAX, err));
    OM_TRY(om_config_get_i64(&s->context, c, "max_position_embeddings", 1, UINT32_MAX, err));
    OM_TRY(om_config_get_i64(&s->head_dim, c, "head_dim", 1, OM_HF_MAX_HEADS, err));
    OM_TRY(om_config_get_f64(&s->rms_eps, c, "rms_norm_eps", err));
    s->rotated = s->head_dim > 0 ? s->head_dim : s->width / s->heads;
    if (s->head_dim == 0 && f->head_dim_derived) {
        s->head_dim = s->rotated;
    }
out:
    return status;
}

static void put_sizes(om_pairs *pairs, const sizes *s) {
    om_pairs_u32(pairs, "%s.block_count", (uint32_t) s->layers);
    om_pairs_u32(pairs, "%s.context_length", (uint32_t) s->context);
    om_pairs_u32(pairs, "%s.embedding_length", (uint32_t) s->width);
    om_pairs_u32(pairs, "%s.feed_forward_length", (uint32_t) s->ff);
    om_pairs_u32(pairs, "%s.attention.head_count", (uint32_t) s->heads);
    om_pairs_u32(pairs, "%s.attention.head_count_kv", (uint32_t) s->heads_kv);
    om_pairs_f32(pairs, "%s.attention.layer_norm_rms_epsilon", (float) s->rms_eps);
    if (s->head_dim > 0) {
        om_pairs_u32(pairs, "%s.attention.key_length", (uint32_t) s->head_dim);
        om_pairs_u32(pairs, "%s.attention.value_length", (uint32_t) s->head_dim);
    }
}

/* ---- what llama.cpp knows without being told ---- */

/* layer_types of config.json against the pattern that the architecture has built in. */
static om_status check_layer_types(const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t n = 0;
    const om_node *holder = om_config_find(c, "layer_types");
    if (holder == NULL) {
        return OM_OK;
    }
    OM_TRY(om_node_array(&array, &n, holder, "layer_types", err));
    for (size_t i = 0; i < n; i++) {
        const char *found = NULL;
        const bool slides = f->slides_every > 0 && (i + 1) % (size_t) f->slides_every != 0;
        const char *expected = slides ? "sliding_attention" : "full_attention";
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_value_str(&found, &item, err));
        if (strcmp(found, expected) != 0) {
            OM_TRY(om_hf_refuse(err,
                                "config.json: layer %zu has %.40s where llama.cpp runs %s with %s",
                                i, found, f->model_type, expected));
        }
    }
out:
    return status;
}

static om_status check_sliding(const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    bool sliding = false;
    int64_t every = f->slides_every;
    OM_TRY(check_layer_types(f, c, err));
    OM_TRY(om_config_get_bool(&sliding, c, "use_sliding_window", err));
    if (sliding && f->slides_every == 0) {
        OM_TRY(om_hf_refuse(err, "config.json: use_sliding_window in a %s", f->model_type));
    }
    if (is_gemma3(f)) {
        OM_TRY(om_config_get_i64(&every, c, "_sliding_window_pattern", 0, INT32_MAX, err));
        OM_TRY(om_config_get_i64(&every, c, "sliding_window_pattern", 0, INT32_MAX, err));
        if (every != f->slides_every) {
            OM_TRY(om_hf_refuse(err, "config.json: sliding_window_pattern %lld, llama.cpp has %lld",
                                (long long) every, (long long) f->slides_every));
        }
    }
out:
    return status;
}

/* Gemma's queries are scaled by 1 / sqrt of a number in the config; llama.cpp derives it. */
static om_status check_query_scale(const sizes *s, int64_t layers_27b, const om_config *c,
                                   om_error *err) {
    double found = (double) s->head_dim;
    const double expected = (double) (s->layers == layers_27b ? s->width / s->heads : s->head_dim);
    om_status status = om_config_get_f64(&found, c, "query_pre_attn_scalar", err);
    if (status == OM_OK && (found < expected || found > expected)) {
        status = om_hf_refuse(err, "config.json: query_pre_attn_scalar %g, llama.cpp has %g", found,
                              expected);
    }
    return status;
}

/* Variants of a family that transformers has and llama.cpp has not. */
static om_status check_variants(const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    const char *key = f->gemma ? "hidden_activation" : "hidden_act";
    const char *expected = f->gemma ? "gelu_pytorch_tanh" : "silu", *found = expected;
    const om_node *holder = om_config_find(c, key);
    double rotated = 1;
    if (holder != NULL) {
        OM_TRY(om_node_str(&found, holder, key, err));
    }
    if (strcmp(found, expected) != 0) {
        OM_TRY(om_hf_refuse(err, "config.json: %s \"%.40s\", llama.cpp runs %s with %s", key, found,
                            f->model_type, expected));
    }
    OM_TRY(om_config_get_f64(&rotated, c, "partial_rotary_factor", err));
    if (f->keys != PHI3 && rotated < 1) {
        OM_TRY(om_hf_refuse(err, "config.json: partial_rotary_factor %g in a %s", rotated,
                            f->model_type));
    }
    if (om_config_find(c, "clip_qkv") != NULL) {
        OM_TRY(om_hf_refuse(err, "config.json: clip_qkv in a %s", f->model_type));
    }
out:
    return status;
}

/* A mixture in every layer is the only arrangement that the architectures have. */
static om_status check_experts(const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    int64_t step = 1;
    bool norm = false;
    size_t n_dense = 0;
    om_node array;
    const om_node *holder = om_config_find(c, "mlp_only_layers");
    OM_TRY(om_config_get_i64(&step, c, "decoder_sparse_step", 0, INT32_MAX, err));
    if (holder != NULL) {
        OM_TRY(om_node_array(&array, &n_dense, holder, "mlp_only_layers", err));
    }
    if (step != 1 || n_dense > 0) {
        OM_TRY(om_hf_refuse(err, "config.json: layers without experts among layers with them"));
    }
    OM_TRY(om_config_get_bool(&norm, c, "norm_topk_prob", err));
    if (f->expert_weights != NEVER_SAID && norm != (f->expert_weights == SUM_IS_ONE)) {
        OM_TRY(om_hf_refuse(err, "config.json: norm_topk_prob %s, llama.cpp runs %s with %s",
                            norm ? "true" : "false", f->model_type, norm ? "false" : "true"));
    }
out:
    return status;
}

/* ---- parts ---- */

static om_status put_experts(om_pairs *pairs, const family *f, const om_config *c, om_error *err) {
    om_status status = OM_OK;
    int64_t n = f->experts, used = f->experts_used;
    OM_TRY(om_config_get_i64(&n, c, "num_local_experts", 1, INT32_MAX, err));
    OM_TRY(om_config_get_i64(&n, c, "num_experts", 1, INT32_MAX, err)); /* wins, as in sizes.c */
    OM_TRY(om_config_get_i64(&used, c, "num_experts_per_tok", 1, INT32_MAX, err));
    om_pairs_u32(pairs, "%s.expert_count", (uint32_t) n);
    om_pairs_u32(pairs, "%s.expert_used_count", (uint32_t) used);
    OM_TRY(check_experts(f, c, err));
    if (f->expert_width > 0) {
        int64_t width = f->expert_width;
        OM_TRY(om_config_get_i64(&width, c, "moe_intermediate_size", 1, INT32_MAX, err));
        om_pairs_u32(pairs, "%s.expert_feed_forward_length", (uint32_t) width);
    }
    int64_t shared = f->shared_width;
    OM_TRY(om_config_get_i64(&shared, c, "shared_expert_intermediate_size", 0, INT32_MAX, err));
    if (f->expert_width > 0 && shared > 0) {
        om_pairs_u32(pairs, "%s.expert_shared_feed_forward_length", (uint32_t) shared);
    }
out:
    return status;
}

static om_status put_window(om_pairs *pairs, int64_t fallback, const om_config *c, om_error *err) {
    int64_t window = fallback;
    om_status status = om_config_get_i64(&window, c, "sliding_window", 0, INT32_MAX, err);
    if (status == OM_OK) {
        om_pairs_u32(pairs, "%s.attention.sliding_window", (uint32_t) window);
    }
    return status;
}

static om_status check_rope(const family *f, const om_rope *rope, om_error *err) {
    om_status status = OM_OK;
    double rotated = 1;
    if (rope->has_params && om_node_has(&rope->params, "partial_rotary_factor")) {
        OM_TRY(om_node_f64(&rotated, &rope->params, "partial_rotary_factor", err));
    }
    if (rotated < 1) {
        OM_TRY(om_hf_refuse(err, "config.json: partial_rotary_factor %g in a %s", rotated,
                            f->model_type));
    }
    if (is_family(f, "gpt_oss") && !rope->has_params) { /* transformers would take the 20b's */
        OM_TRY(om_hf_refuse(err, "config.json: a gpt_oss without rope_scaling"));
    }
out:
    return status;
}

static om_status put_common(om_hf_metadata *out, om_pairs *pairs, const family *f, const sizes *s,
                            const om_config *c, om_error *err) {
    om_status status = OM_OK;
    om_rope rope;
    put_sizes(pairs, s);
    OM_TRY(om_rope_read(&rope, c, &f->rope, s->context, err));
    OM_TRY(check_rope(f, &rope, err));
    OM_TRY(om_rope_put(pairs, &rope, err));
    if (f->experts > 0) {
        OM_TRY(put_experts(pairs, f, c, err));
    }
    if (f->llama) {
        om_pairs_u32(pairs, "%s.vocab_size", (uint32_t) s->vocab);
        om_pairs_u32(pairs, "%s.rope.dimension_count", (uint32_t) s->rotated);
    }
    if (strcmp(rope.type, "llama3") == 0) {
        if (!f->llama) {
            OM_TRY(om_hf_refuse(err, "config.json: rope of type llama3 in a %s", f->model_type));
        }
        OM_TRY(om_rope_freqs(out, &rope, s->rotated, err));
    }
out:
    return status;
}

static om_status put_gemma3(om_pairs *pairs, const family *f, const sizes *s, const om_config *c,
                            om_error *err) {
    om_status status = OM_OK;
    double cap = 0, attention_cap = 0;
    OM_TRY(check_query_scale(s, 62, c, err));
    OM_TRY(om_config_get_f64(&attention_cap, c, "attn_logit_softcapping", err));
    OM_TRY(om_config_get_f64(&cap, c, "final_logit_softcapping", err));
    if (attention_cap > 0) {
        OM_TRY(om_hf_refuse(err, "config.json: attn_logit_softcapping in a Gemma 3"));
    }
    if (cap > 0) {
        om_pairs_f32(pairs, "%s.final_logit_softcapping", (float) cap);
    }
    OM_TRY(put_window(pairs, f->window, c, err));
out:
    return status;
}

static om_status put_gemma2(om_pairs *pairs, const family *f, const sizes *s, const om_config *c,
                            om_error *err) {
    om_status status = OM_OK;
    om_rope rope;
    double attention_cap = 50, final_cap = 30;
    put_sizes(pairs, s);
    OM_TRY(om_rope_read(&rope, c, &f->rope, s->context, err));
    if (strcmp(rope.type, "default") != 0 || rope.theta < 1e4 || rope.theta > 1e4) {
        OM_TRY(om_hf_refuse(err, "config.json: rope other than Gemma 2's own (base 10000)"));
    }
    OM_TRY(check_query_scale(s, 46, c, err));
    OM_TRY(om_config_get_f64(&attention_cap, c, "attn_logit_softcapping", err));
    OM_TRY(om_config_get_f64(&final_cap, c, "final_logit_softcapping", err));
    if (om_config_is_null(c, "attn_logit_softcapping") ||
        om_config_is_null(c, "final_logit_softcapping")) {
        OM_TRY(om_hf_refuse(err, "config.json: a gemma2 without logit softcapping"));
    }
    om_pairs_f32(pairs, "%s.attn_logit_softcapping", (float) attention_cap);
    om_pairs_f32(pairs, "%s.final_logit_softcapping", (float) final_cap);
    OM_TRY(put_window(pairs, f->window, c, err));
out:
    return status;
}

static om_status put_phi3(om_hf_metadata *out, om_pairs *pairs, const family *f, sizes *s,
                          const om_config *c, om_error *err) {
    om_status status = OM_OK;
    om_rope rope;
    double part = 1;
    s->head_dim = 0; /* llama.cpp has width / heads */
    put_sizes(pairs, s);
    OM_TRY(om_rope_read(&rope, c, &f->rope, 4096, err));
    OM_TRY(om_config_get_f64(&part, c, "partial_rotary_factor", err));
    if (rope.has_params && om_node_has(&rope.params, "partial_rotary_factor")) {
        OM_TRY(om_node_f64(&part, &rope.params, "partial_rotary_factor", err));
    }
    if (!(part > 0) || part > 1) {
        OM_TRY(om_fail(err, OM_E_FORMAT, "config.json: partial_rotary_factor %g is not in (0, 1]",
                       part));
    }
    const int64_t rotated = (int64_t) (part * (double) s->width) / s->heads;
    om_pairs_u32(pairs, "%s.rope.scaling.original_context_length",
                 (uint32_t) rope.original_context);
    om_pairs_u32(pairs, "%s.rope.dimension_count", (uint32_t) rotated);
    om_pairs_f32(pairs, "%s.rope.freq_base", (float) rope.theta);
    OM_TRY(om_rope_longrope(out, pairs, &rope, s->context, rotated, err));
    OM_TRY(put_window(pairs, 0, c, err));
out:
    return status;
}

static om_status put_family(om_hf_metadata *out, om_pairs *pairs, const family *f, sizes *s,
                            const om_config *c, om_error *err) {
    om_status status = OM_OK;
    switch (f->keys) {
    case GEMMA2:
        return put_gemma2(pairs, f, s, c, err);
    case PHI3:
        return put_phi3(out, pairs, f, s, c, err);
    case COMMON:
        break;
    }
    OM_TRY(put_common(out, pairs, f, s, c, err));
    if (is_gemma3(f)) {
        OM_TRY(put_gemma3(pairs, f, s, c, err));
    } else if (is_family(f, "gpt_oss")) {
        OM_TRY(put_window(pairs, f->window, c, err));
        om_pairs_u32(pairs, "%s.expert_feed_forward_length", (uint32_t) s->ff);
    }
out:
    return status;
}

om_status om_hf_metadata_make(om_hf_metadata *out, om_pairs *pairs, const char *model_type,
                              const om_json *config, const char *file, om_error *err) {
    om_status status = OM_OK;
    om_config c;
    sizes s;
    const family *f = find_family(model_type);
    *out = (om_hf_metadata){ 0 };
    if (f == NULL) {
        return om_hf_refuse(err, "config.json: no metadata for models of type \"%.40s\"",
                            model_type);
    }
    OM_TRY(om_config_init(&c, config, file, err));
    OM_TRY(read_sizes(&s, f, &c, err));
    OM_TRY(check_sliding(f, &c, err));
    OM_TRY(check_variants(f, &c, err));
    OM_TRY(put_family(out, pairs, f, &s, &c, err));
    out->vocab_size = s.vocab;
    if (pairs->bytes.failed) {
        OM_TRY(om_fail_nomem(err, pairs->bytes.cap));
    }
out:
    if (status != OM_OK) {
        om_hf_metadata_release(out);
    }
    return status;
}

void om_hf_metadata_release(om_hf_metadata *m) {
    for (int i = 0; i < m->n_extras; i++) {
        om_free(m->extras[i].values);
    }
    *m = (om_hf_metadata){ 0 };
}
