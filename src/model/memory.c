/* Metadata of a model into what it needs at run time, and a budget into a file size.
 *
 * KV cache: one token adds head_count_kv * (key_length + value_length) values per layer. Exceptions
 * are facts about architectures, in two tables below: layers with a sliding window keep only the
 * window, recurrent layers keep no tokens, MLA stores one latent vector (K alone), layers of a
 * draft head are not part of the context. The sum is then compared with libllama's own
 * (memory_sim.c) and, where an architecture does something that is not in the tables, scaled to it.
 *
 * Source: src/models, llama-hparams.cpp and llama-kv-cache-iswa.cpp of the pinned llama.cpp.
 */
#include "model/memory.h"

#include <math.h>
#include <string.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/memory_sim.h"

/* llama.cpp rounds a cache up to a multiple of this many tokens. */
enum { CELLS = 256, DEFAULT_CTX = 4096, MAX_LAYERS = 512 };
static const int64_t default_reserve_bytes = 256 << 20;

/* ---- sliding windows ---- */

enum { NO_WINDOW_KEY = 0 };

/* Layer i has a window unless it is the last of each group of `period` (the first of each with
 * dense_first). A pattern in the metadata wins. period 0: only a pattern tells. */
typedef struct window_rule {
    const char *arch;
    int period;
    bool dense_first;
    int window; /* when the metadata has none; NO_WINDOW_KEY: then there are no windows */
} window_rule;

static const window_rule window_rules[] = {
    { "afmoe", 4, false, NO_WINDOW_KEY },
    { "cohere2", 4, false, NO_WINDOW_KEY },
    { "cohere2moe", 4, true, NO_WINDOW_KEY },
    { "dots3note", 0, false, NO_WINDOW_KEY },
    { "exaone-moe", 4, false, 128 },
    { "exaone4", 4, false, 4096 }, /* 64 layers only, see below */
    { "gemma2", 2, false, 4096 },
    { "gemma3", 6, false, NO_WINDOW_KEY },
    { "gemma3n", 5, false, NO_WINDOW_KEY },
    { "gemma4", 0, false, NO_WINDOW_KEY },
    { "gpt-oss", 2, false, NO_WINDOW_KEY },
    { "granite_swa", 0, false, NO_WINDOW_KEY },
    { "laguna", 4, true, NO_WINDOW_KEY },
    { "lfm2", 1 << 20, false, NO_WINDOW_KEY }, /* every attention layer */
    { "llama4", 4, false, 8192 },              /* chunks, always of 8192 */
    { "maple", 0, false, NO_WINDOW_KEY },
    { "mellum", 4, false, NO_WINDOW_KEY },
    { "mimo2", 0, false, NO_WINDOW_KEY },
    { "muse-glimmer", 4, false, NO_WINDOW_KEY },
    { "olmo2", 4, false, NO_WINDOW_KEY },
    { "plamo3", 8, false, NO_WINDOW_KEY },
    { "smallthinker", 4, true, NO_WINDOW_KEY },
    { "spark2_5", 0, false, NO_WINDOW_KEY },
    { "step35", 0, false, NO_WINDOW_KEY },
};

static const char key_window[] = "%s.attention.sliding_window";
static const char key_pattern[] = "%s.attention.sliding_window_pattern";

static const window_rule *window_rule_of(const om_model *model, int n_layers) {
    for (size_t i = 0; i < sizeof window_rules / sizeof window_rules[0]; i++) {
        if (strcmp(window_rules[i].arch, om_model_arch(model)) == 0) {
            bool small_exaone = strcmp(om_model_arch(model), "exaone4") == 0 && n_layers != 64;
            return small_exaone ? NULL : &window_rules[i];
        }
    }
    return NULL; /* a window that libllama does not use either (phi3, old mistral files) */
}

/* Tokens that layer i keeps; 0 = all. */
static int64_t window_of(const om_model *model, const window_rule *rule, int i) {
    if (rule == NULL) {
        return 0;
    }
    int64_t window =
        (int64_t) (om_model_u64(model, key_window, (uint64_t) rule->window) & INT32_MAX);
    if (window > 0 && (strcmp(rule->arch, "llama4") == 0)) {
        window = 8192;
    } else if (window > 0 && strcmp(rule->arch, "smallthinker") == 0) {
        window = 4096;
    }
    if (om_model_array_n(model, key_pattern) >= 0) {
        return om_model_u64_at(model, key_pattern, i, 0) != 0 ? window : 0;
    }
    int64_t period =
        (int64_t) (om_model_u64(model, key_pattern, (uint64_t) rule->period) & INT32_MAX);
    if (period == 0) {
        return rule->period == 0 ? 0 : window;
    }
    bool dense = i % period == (rule->dense_first ? 0 : period - 1);
    return dense ? 0 : window;
}

/* ---- values per token ---- */

static bool is_one_of(const char *arch, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(arch, *list) == 0) {
            return true;
        }
    }
    return false;
}

/* Models whose context keeps no tokens: recurrent ones and encoders. */
static bool keeps_no_tokens(const char *arch) {
    static const char *const list[] = { "mamba",
                                        "mamba2",
                                        "rwkv6",
                                        "rwkv6qwen2",
                                        "rwkv7",
                                        "arwkv7",
                                        "bert",
                                        "modern-bert",
                                        "nomic-bert",
                                        "neo-bert",
                                        "nomic-bert-moe",
                                        "eurobert",
                                        "dream",
                                        "jina-bert-v2",
                                        "jina-bert-v3",
                                        "llada",
                                        "gemma-embedding",
                                        "llada-moe",
                                        "rnd1",
                                        "wavtokenizer-dec",
                                        NULL };
    return is_one_of(arch, list);
}

/* A recurrent layer of a hybrid model. Most hybrids say so with head_count_kv 0; these do not. */
static bool is_recurrent_layer(const om_model *model, int i) {
    static const char *const interval_archs[] = { "qwen3next", "qwen35",     "qwen35moe",
                                                  "qwen4exp",  "minimax-01", NULL };
    const char *arch = om_model_arch(model);
    if (strcmp(arch, "nemotron_h") == 0 || strcmp(arch, "nemotron_h_moe") == 0) {
        return om_model_u64_at(model, "%s.feed_forward_length", i, 0) != 0;
    }
    if (!is_one_of(arch, interval_archs)) {
        return false;
    }
    static const char key_layers[] = "%s.attention.recurrent_layers";
    uint64_t listed = om_model_u64_at(model, key_layers, i, UINT64_MAX);
    if (listed != UINT64_MAX) {
        return listed != 0;
    }
    uint64_t fallback = strcmp(arch, "minimax-01") == 0 ? 8 : 4;
    uint64_t interval = om_model_u64(model, "%s.full_attention_interval", fallback);
    return interval != 0 && ((uint64_t) i + 1) % interval != 0;
}

/* Layers from this one on use the cache of an earlier layer, or belong to a draft head. */
static int first_layer_without_cache(const om_model *model, int n_layers) {
    const char *arch = om_model_arch(model);
    uint64_t nextn = om_model_u64(model, "%s.nextn_predict_layers", 0);
    int end = nextn < (uint64_t) n_layers ? n_layers - (int) nextn : n_layers;
    if (strcmp(arch, "gemma3n") == 0) {
        end = end < 20 ? end : 20;
    } else if (strcmp(arch, "gemma4") == 0) {
        uint64_t shared = om_model_u64(model, "%s.attention.shared_kv_layers", 0);
        end = shared < (uint64_t) end ? end - (int) shared : 0;
    }
    return end;
}

/* A dimension from the metadata, bounded so that products of three stay exact. */
static int64_t dimension(const om_model *model, const char *key, int layer, int64_t fallback) {
    uint64_t v = om_model_u64_at(model, key, layer, (uint64_t) fallback);
    return v <= 1u << 20 ? (int64_t) v : 0;
}

static int64_t kv_values(const om_model *model, int i, bool has_window) {
    int64_t n_head = dimension(model, "%s.attention.head_count", i, 0);
    int64_t first_head = dimension(model, "%s.attention.head_count", 0, 0);
    int64_t n_head_kv = dimension(model, "%s.attention.head_count_kv", i, n_head);
    int64_t n_embd = dimension(model, "%s.embedding_length", 0, 0);
    int64_t head_dim = first_head > 0 ? n_embd / first_head : 0;
    int64_t k = dimension(model, "%s.attention.key_length", 0, head_dim);
    int64_t v = dimension(model, "%s.attention.value_length", 0, head_dim);
    if (has_window) {
        k = dimension(model, "%s.attention.key_length_swa", 0, k);
        v = dimension(model, "%s.attention.value_length_swa", 0, v);
    }
    if (dimension(model, "%s.attention.key_length_mla", 0, 0) > 0) {
        v = 0; /* K holds the latent vector, from which V is computed */
    }
    return n_head_kv * (k + v);
}

/* ---- the whole model ---- */

static int64_t padded_cells(int64_t n_ctx) {
    return om_pad(n_ctx > 0 ? n_ctx : 0, CELLS);
}

static int64_t layer_cells(const om_memory *m, int i, int64_t n_ctx) {
    int64_t cells = padded_cells(n_ctx);
    if (m->window[i] == 0 || m->window[i] + OM_SIM_UBATCH >= cells) {
        return cells;
    }
    return padded_cells(m->window[i] + OM_SIM_UBATCH);
}

int64_t om_memory_kv_bytes(const om_memory *m, int n_ctx, const char *kv_type) {
    const om_format *f = om_format_by_name(kv_type);
    bool usable =
        f != NULL && f->block <= 32 && (f->use == OM_FORMAT_PLAIN || f->use == OM_FORMAT_COMMON);
    if (!usable) {
        return -1;
    }
    int64_t bytes = 0;
    for (int i = 0; i < m->n_layers; i++) {
        /* Every block divides 256 tokens, so this order is exact and far from overflow. */
        bytes += m->kv_values_per_token[i] * (layer_cells(m, i, n_ctx) / f->block * f->block_bytes);
    }
    return bytes;
}

int64_t om_memory_compute_bytes(const om_memory *m, int n_ctx) {
    int64_t more = padded_cells(n_ctx) - OM_SIM_CTX;
    return m->compute_bytes + (more > 0 ? more * OM_SIM_UBATCH * 2 : 0);
}

/* Make the layers' sum equal libllama's when our rules do not know the architecture. */
static void scale_to_simulation(om_memory *m, double sim_bytes, const char *arch,
                                const om_env *env) {
    double ours = (double) om_memory_kv_bytes(m, OM_SIM_CTX, "f16");
    double noise = 65536.0 + 1e-3 * sim_bytes; /* the log has two decimals of a MiB */
    if (fabs(ours - sim_bytes) <= noise) {
        return;
    }
    om_log(env, OM_LOG_DEBUG, "%s: KV cache by our rules %.0f bytes, by libllama %.0f: scaled",
           arch, ours, sim_bytes);
    int64_t even = (int64_t) ceil(sim_bytes / (2.0 * OM_SIM_CTX * m->n_layers));
    for (int i = 0; i < m->n_layers; i++) {
        double v = (double) m->kv_values_per_token[i];
        m->kv_values_per_token[i] = ours > 0 ? (int64_t) ceil(v * sim_bytes / ours) : even;
        m->window[i] = ours > 0 ? m->window[i] : 0;
    }
}

/* Logits and a few activations of one ubatch: what the buffers hold in a plain transformer. */
static int64_t guess_compute_bytes(const om_model *model) {
    int64_t n_vocab = om_model_array_n(model, "tokenizer.ggml.tokens");
    int64_t n_embd = dimension(model, "%s.embedding_length", 0, 0);
    int64_t n_ff = dimension(model, "%s.feed_forward_length", 0, 4 * n_embd);
    int64_t per_token = (n_vocab > 0 ? n_vocab : 0) + 8 * n_embd + 3 * n_ff;
    return per_token * OM_SIM_UBATCH * (int64_t) sizeof(float);
}

om_status om_memory_of(om_memory *out, const om_model *model, const om_env *env, om_error *err) {
    const char *arch = om_model_arch(model);
    uint64_t n_layers = om_model_u64(model, "%s.block_count", 0);
    if (om_model_f64(model, "%s.block_count", -1.0) < 0.0) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: expected a language model, found '%s' without %s.block_count (a vision "
                       "or audio part, or an adapter?); give the model itself",
                       om_model_path(model), arch, arch);
    }
    if (n_layers == 0 || n_layers > MAX_LAYERS) {
        return om_fail(err, OM_E_FORMAT, "%s: expected %s.block_count from 1 to %d, found %llu",
                       om_model_path(model), arch, MAX_LAYERS, (unsigned long long) n_layers);
    }
    om_memory m = { .n_layers = (int) n_layers };
    m.kv_values_per_token = om_calloc(n_layers, sizeof *m.kv_values_per_token);
    m.window = om_calloc(n_layers, sizeof *m.window);
    if (m.kv_values_per_token == NULL || m.window == NULL) {
        om_memory_release(&m);
        return om_fail_nomem(err, n_layers * sizeof *m.window);
    }
    const window_rule *rule = window_rule_of(model, m.n_layers);
    int end = first_layer_without_cache(model, m.n_layers);
    for (int i = 0; i < end && !keeps_no_tokens(arch); i++) {
        if (!is_recurrent_layer(model, i)) {
            m.window[i] = window_of(model, rule, i);
            m.kv_values_per_token[i] = kv_values(model, i, m.window[i] > 0);
        }
    }
    om_memory_sim sim;
    m.compute_estimated = !om_memory_simulate(&sim, om_model_path(model), OM_SIM_CTX, env);
    if (m.compute_estimated) {
        m.compute_bytes = guess_compute_bytes(model);
    } else {
        m.compute_bytes = (int64_t) ceil(sim.compute_bytes + sim.state_bytes);
        scale_to_simulation(&m, sim.kv_bytes, arch, env);
    }
    *out = m;
    return OM_OK;
}

void om_memory_release(om_memory *m) {
    om_free(m->kv_values_per_token);
    om_free(m->window);
    *m = (om_memory){ 0 };
}

/* ---- budgets ---- */

static om_status memory_budget(int64_t *out, const om_budget *b, const om_memory *m,
                               om_error *err) {
    int n_ctx = b->n_ctx > 0 ? b->n_ctx : DEFAULT_CTX;
    const char *kv_type = b->kv_type != NULL ? b->kv_type : "f16";
    int64_t reserve = b->reserve_bytes > 0 ? b->reserve_bytes : default_reserve_bytes;
    if (b->bytes <= 0 || b->n_ctx < 0 || b->reserve_bytes < 0) {
        return om_fail(err, OM_E_ARG, "expected a memory size, context and reserve above zero");
    }
    int64_t kv = om_memory_kv_bytes(m, n_ctx, kv_type);
    if (kv < 0) {
        return om_fail(err, OM_E_ARG,
                       "\"%s\" is no type for the KV cache; expected f16, bf16, f32, q8_0, q5_1, "
                       "q5_0, q4_1, q4_0 or iq4_nl",
                       kv_type);
    }
    int64_t compute = om_memory_compute_bytes(m, n_ctx);
    if (b->bytes - reserve <= kv + compute) {
        char total[32], a[32], c[32], d[32];
        return om_fail(
            err, OM_E_INFEASIBLE,
            "%s of memory leave nothing for weights: KV cache %s (%d tokens, %s), compute "
            "buffers %s, reserve %s; give more memory, a shorter context or a smaller "
            "cache type",
            om_format_bytes(total, (double) b->bytes, true), om_format_bytes(a, (double) kv, true),
            n_ctx, kv_type, om_format_bytes(c, (double) compute, true),
            om_format_bytes(d, (double) reserve, true));
    }
    *out = b->bytes - reserve - kv - compute;
    return OM_OK;
}

om_status om_budget_file_bytes(int64_t *out, const om_budget *budget, const om_memory *m,
                               int64_t params, om_error *err) {
    switch (budget->kind) {
    case OM_BUDGET_SIZE:
        if (budget->bytes <= 0) {
            return om_fail(err, OM_E_ARG, "expected a file size above zero");
        }
        *out = budget->bytes;
        return OM_OK;
    case OM_BUDGET_BPW:
        if (!(budget->bpw > 0 && budget->bpw <= 64)) {
            return om_fail(err, OM_E_ARG, "expected bits per weight above 0 and up to 64, found %g",
                           budget->bpw);
        }
        *out = (int64_t) floor(budget->bpw * (double) params / 8.0);
        return OM_OK;
    case OM_BUDGET_MEMORY:
        return memory_budget(out, budget, m, err);
    case OM_BUDGET_NONE:
        break;
    }
    return om_fail(err, OM_E_ARG,
                   "expected a budget: a memory size, a file size or bits per weight");
}

int64_t om_default_memory_bytes(void) {
#ifdef __APPLE__
    int64_t installed = 0, limit_mb = 0;
    size_t n = sizeof limit_mb;
    if (sysctlbyname("iogpu.wired_limit_mb", &limit_mb, &n, NULL, 0) == 0 && limit_mb > 0) {
        return limit_mb << 20;
    }
    n = sizeof installed;
    if (sysctlbyname("hw.memsize", &installed, &n, NULL, 0) != 0) {
        return 0;
    }
    /* macOS's default: two thirds up to 36 GiB, three quarters above. */
    return installed <= (int64_t) 36 << 30 ? installed / 3 * 2 : installed / 4 * 3;
#else
    return 0;
#endif
}
