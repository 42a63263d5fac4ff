/* config.json -> keys of an architecture. What llama.cpp's converter writes is compared by
 * tests/oracle/hf_to_gguf.sh; here are both forms of configurations, defaults, refusals, damage. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "hf/metadata.h"
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

#define SIZES                                                              \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"vocab_size\":100"

static om_status make(om_hf_metadata *m, om_pairs *pairs, const char *type, const char *config,
                      om_error *err) {
    om_json *doc = NULL;
    om_status status = om_json_parse(&doc, config, strlen(config), "config.json", NULL, err);
    if (status == OM_OK) {
        status = om_hf_metadata_make(m, pairs, type, doc, "config.json", err);
    }
    om_json_free(doc);
    return status;
}

/* The pairs of a configuration that must be fine. */
static struct gguf_context *pairs_of(om_hf_metadata *m, const char *type, const char *config) {
    om_pairs pairs = { .arch = "demo" };
    om_error err = { 0 };
    if (make(m, &pairs, type, config, &err) != OM_OK) {
        fail_msg("%s: %s", type, err.text);
    }
    struct gguf_context *g = read_pairs(dir, &pairs);
    om_pairs_release(&pairs);
    return g;
}

static void expect(const struct gguf_context *g, const char *key, double value) {
    const double found = pair_number(g, key);
    if (fabs(found - value) > 1e-6 * fabs(value)) {
        fail_msg("%s is %g, expected %g", key, found, value);
    }
}

static void expect_absent(const struct gguf_context *g, const char *key) {
    if (gguf_find_key(g, key) >= 0) {
        fail_msg("%s is there", key);
    }
}

static void test_values(void **state) {
    (void) state;
    om_hf_metadata m;
    struct gguf_context *g = pairs_of(
        &m, "qwen3_moe",
        "{" SIZES ",\"num_key_value_heads\":2,\"max_position_embeddings\":4096,\"head_dim\":32,"
        "\"rms_norm_eps\":1e-5,\"rope_theta\":1000000,\"num_experts\":8,\"num_experts_per_tok\":3,"
        "\"num_local_experts\":4,"
        "\"moe_intermediate_size\":24,\"norm_topk_prob\":true,\"rope_scaling\":null,"
        "\"decoder_sparse_step\":1,\"mlp_only_layers\":[],\"eos_token_id\":[1,2]}");
    expect(g, "demo.block_count", 2);
    expect(g, "demo.context_length", 4096);
    expect(g, "demo.embedding_length", 64);
    expect(g, "demo.feed_forward_length", 96);
    expect(g, "demo.attention.head_count", 4);
    expect(g, "demo.attention.head_count_kv", 2);
    expect(g, "demo.attention.key_length", 32);
    expect(g, "demo.attention.value_length", 32);
    expect(g, "demo.attention.layer_norm_rms_epsilon", 1e-5);
    expect(g, "demo.rope.freq_base", 1e6);
    expect(g, "demo.expert_count", 8);
    expect(g, "demo.expert_used_count", 3);
    expect(g, "demo.expert_feed_forward_length", 24);
    expect_absent(g, "demo.vocab_size");
    expect_absent(g, "demo.rope.scaling.type");
    assert_int_equal(m.vocab_size, 100);
    assert_int_equal(m.n_extras, 0);
    gguf_free(g);
}

/* What transformers 5.24 fills in for a configuration that has only SIZES. */
static void test_defaults(void **state) {
    (void) state;
    static const struct {
        const char *type;
        double kv, context, eps, base, head;
    } table[] = {
        { "llama", 4, 2048, 1e-6, 1e4, 16 },        { "mistral", 8, 131072, 1e-6, 1e4, 16 },
        { "qwen2", 32, 32768, 1e-6, 1e4, -1e30 },   { "qwen3", 32, 32768, 1e-6, 1e4, 128 },
        { "mixtral", 8, 131072, 1e-5, 1e6, -1e30 }, { "gemma3_text", 4, 131072, 1e-6, 1e6, 256 },
        { "gpt_oss", 8, 131072, 1e-5, 150000, 64 }, { "phi3", 4, 4096, 1e-5, 1e4, -1e30 },
    };
    om_hf_metadata m;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const bool oss = strcmp(table[i].type, "gpt_oss") == 0; /* has no default for its rope */
        struct gguf_context *g =
            pairs_of(&m, table[i].type,
                     oss ? "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0}}"
                         : "{" SIZES "}");
        expect(g, "demo.attention.head_count_kv", table[i].kv);
        expect(g, "demo.context_length", table[i].context);
        expect(g, "demo.attention.layer_norm_rms_epsilon", table[i].eps);
        expect(g, "demo.rope.freq_base", table[i].base);
        expect(g, "demo.attention.key_length", table[i].head);
        gguf_free(g);
    }
    struct gguf_context *g =
        pairs_of(&m, "mistral", "{" SIZES ",\"num_key_value_heads\":null,\"head_dim\":null}");
    expect(g, "demo.attention.head_count_kv", 4);
    expect(g, "demo.rope.dimension_count", 16);
    gguf_free(g);
}

/* The same model as transformers 4 and 5 write it. */
static const struct {
    const char *type, *old_form, *new_form;
} forms[] = {
    { "qwen2", "{" SIZES ",\"rope_theta\":5e5}",
      "{" SIZES ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e5}}" },
    { "qwen2",
      "{" SIZES ",\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
      "\"original_max_position_embeddings\":512,\"beta_fast\":16}}",
      "{" SIZES ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"beta_fast\":16,"
      "\"original_max_position_embeddings\":512,\"rope_theta\":1e6}}" },
    { "llama",
      "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
      "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
      "\"original_max_position_embeddings\":64}}",
      "{" SIZES ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
      "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"rope_theta\":10000.0,"
      "\"original_max_position_embeddings\":64}}" },
    { "gemma3_text",
      "{" SIZES ",\"rope_theta\":2e6,\"rope_local_base_freq\":5000,"
      "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0},"
      "\"sliding_window_pattern\":6}",
      "{" SIZES ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\","
      "\"factor\":8.0,\"rope_theta\":2e6},\"sliding_attention\":{\"rope_type\":\"default\","
      "\"rope_theta\":5000}},\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]}" },
    { "qwen3_moe", "{" SIZES ",\"num_experts\":6,\"norm_topk_prob\":true}",
      "{" SIZES ",\"num_local_experts\":6,\"norm_topk_prob\":true}" },
    { "qwen2", "{" SIZES "}", "{\"vocab_size\":7,\"text_config\":{" SIZES "}}" },
};

static void test_both_forms(void **state) {
    (void) state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        om_pairs a = { .arch = "demo" }, b = { .arch = "demo" };
        om_hf_metadata m, n;
        om_error err = { 0 };
        assert_int_equal(make(&m, &a, forms[i].type, forms[i].old_form, &err), OM_OK);
        assert_int_equal(make(&n, &b, forms[i].type, forms[i].new_form, &err), OM_OK);
        assert_int_equal(a.n, b.n);
        assert_int_equal(a.bytes.len, b.bytes.len);
        assert_memory_equal(a.bytes.data, b.bytes.data, a.bytes.len);
        assert_int_equal(m.vocab_size, n.vocab_size);
        assert_int_equal(m.n_extras, n.n_extras);
        om_pairs_release(&a);
        om_pairs_release(&b);
        om_hf_metadata_release(&m);
        om_hf_metadata_release(&n);
    }
}

static void test_scaling(void **state) {
    (void) state;
    om_hf_metadata m;
    struct gguf_context *g =
        pairs_of(&m, "qwen3",
                 "{" SIZES ",\"max_position_embeddings\":1024,\"rope_scaling\":{\"type\":\"yarn\","
                 "\"factor\":2.5,\"attn_factor\":1.5,\"extrapolation_factor\":0.5,"
                 "\"beta_slow\":2}}");
    assert_string_equal(pair_text(g, "demo.rope.scaling.type"), "yarn");
    expect(g, "demo.rope.scaling.factor", 2.5);
    expect(g, "demo.rope.scaling.original_context_length", 1024);
    expect(g, "demo.rope.scaling.yarn_attn_factor", 1.5);
    expect(g, "demo.rope.scaling.yarn_ext_factor", 0.5);
    expect(g, "demo.rope.scaling.yarn_beta_slow", 2);
    expect_absent(g, "demo.rope.scaling.yarn_beta_fast");
    gguf_free(g);
}

/* The factors of llama3's scaling, by the definition in double. */
static void test_llama3_factors(void **state) {
    (void) state;
    om_hf_metadata m;
    struct gguf_context *g =
        pairs_of(&m, "llama",
                 "{" SIZES ",\"head_dim\":128,\"rope_theta\":500000.0,\"rope_scaling\":{"
                 "\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
                 "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}");
    gguf_free(g);
    assert_int_equal(m.n_extras, 1);
    assert_string_equal(m.extras[0].name, "rope_freqs.weight");
    assert_int_equal(m.extras[0].n, 64);
    int n_one = 0, n_full = 0;
    for (int i = 0; i < 64; i++) {
        const double wave = 2 * acos(-1.0) * pow(500000.0, 2.0 * i / 128);
        const double smooth = (8192 / wave - 1) / (4.0 - 1.0);
        const double expected = smooth > 1 ? 1 : smooth < 0 ? 32 : 1 / ((1 - smooth) / 32 + smooth);
        const double found = (double) m.extras[0].values[i];
        if (fabs(found - expected) > 1e-4 * expected) {
            fail_msg("factor %d is %g, expected %g", i, found, expected);
        }
        n_one += found <= 1;
        n_full += found >= 32;
    }
    assert_true(n_one > 10 && n_full > 10 && n_one + n_full < 64);
    om_hf_metadata_release(&m);
}

static void test_longrope(void **state) {
    (void) state;
    om_hf_metadata m;
    struct gguf_context *g =
        pairs_of(&m, "phi3",
                 "{" SIZES ",\"max_position_embeddings\":8192,\"partial_rotary_factor\":0.5,"
                 "\"original_max_position_embeddings\":4096,\"sliding_window\":null,"
                 "\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[1,2,3,4],"
                 "\"short_factor\":[1,1,1,1.5]}}");
    expect(g, "demo.rope.dimension_count", 8);
    expect(g, "demo.rope.scaling.original_context_length", 4096);
    expect(g, "demo.rope.scaling.attn_factor", sqrt(1 + log(2.0) / log(4096.0)));
    expect(g, "demo.attention.sliding_window", 0);
    expect_absent(g, "demo.attention.key_length");
    gguf_free(g);
    assert_int_equal(m.n_extras, 2);
    assert_string_equal(m.extras[0].name, "rope_factors_long.weight");
    assert_string_equal(m.extras[1].name, "rope_factors_short.weight");
    assert_true(m.extras[0].values[3] == 4.0f && m.extras[1].values[3] == 1.5f);
    om_hf_metadata_release(&m);
}

/* Each of these would run as another model in llama.cpp, or is damaged. */
static const struct {
    const char *type, *config, *text;
    om_status status;
} refused[] = {
    { "bert", "{" SIZES "}", "\"bert\"", OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "\"dynamic\"",
      OM_E_UNSUPPORTED },
    { "qwen2", "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":2}}", "llama3",
      OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "longrope",
      OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"rope_parameters\":{\"full_attention\":{}}}", "between layers",
      OM_E_UNSUPPORTED },
    { "qwen2", "{" SIZES ",\"use_sliding_window\":true}", "use_sliding_window", OM_E_UNSUPPORTED },
    { "qwen2", "{" SIZES ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
      "layer 1 has sliding_attention", OM_E_UNSUPPORTED },
    { "gemma3_text", "{" SIZES ",\"sliding_window_pattern\":4}", "sliding_window_pattern 4",
      OM_E_UNSUPPORTED },
    { "gemma3_text", "{" SIZES ",\"query_pre_attn_scalar\":168}", "query_pre_attn_scalar 168",
      OM_E_UNSUPPORTED },
    { "gemma3_text", "{" SIZES ",\"attn_logit_softcapping\":30}", "attn_logit_softcapping",
      OM_E_UNSUPPORTED },
    { "gemma2", "{" SIZES ",\"attn_logit_softcapping\":null}", "softcapping", OM_E_UNSUPPORTED },
    { "gemma2", "{" SIZES ",\"rope_theta\":5e5}", "rope", OM_E_UNSUPPORTED },
    { "qwen3_moe", "{" SIZES ",\"norm_topk_prob\":false}", "norm_topk_prob", OM_E_UNSUPPORTED },
    { "qwen2_moe", "{" SIZES ",\"norm_topk_prob\":true}", "norm_topk_prob", OM_E_UNSUPPORTED },
    { "qwen2_moe", "{" SIZES ",\"decoder_sparse_step\":2}", "without experts", OM_E_UNSUPPORTED },
    { "qwen2_moe", "{" SIZES ",\"mlp_only_layers\":[1]}", "without experts", OM_E_UNSUPPORTED },
    { "olmoe", "{" SIZES ",\"clip_qkv\":8.0}", "clip_qkv", OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"hidden_act\":\"gelu\"}", "hidden_act \"gelu\"", OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor",
      OM_E_UNSUPPORTED },
    { "llama", "{" SIZES ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
      "partial_rotary_factor", OM_E_UNSUPPORTED },
    { "gpt_oss", "{" SIZES "}", "rope", OM_E_UNSUPPORTED },
    { "llama", "{\"hidden_size\":64}", "num_hidden_layers", OM_E_FORMAT },
    { "llama", "{" SIZES ",\"head_dim\":\"16\"}", "head_dim", OM_E_FORMAT },
    { "llama", "{" SIZES ",\"num_key_value_heads\":0}", "num_key_value_heads", OM_E_FORMAT },
    { "llama", "{" SIZES ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor", OM_E_FORMAT },
    { "llama", "{" SIZES ",\"rope_scaling\":[1]}", "rope_scaling", OM_E_FORMAT },
    { "llama",
      "{" SIZES ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
      "\"high_freq_factor\":4}}",
      "high_freq_factor", OM_E_FORMAT },
    { "phi3",
      "{" SIZES ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1],\"short_factor\":[1]}"
      "}",
      "expected 8 factors", OM_E_FORMAT },
    { "phi3", "{" SIZES ",\"partial_rotary_factor\":0}", "partial_rotary_factor", OM_E_FORMAT },
};

static void test_refused(void **state) {
    (void) state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        om_pairs pairs = { .arch = "demo" };
        om_hf_metadata m;
        om_error err = { 0 };
        const om_status status = make(&m, &pairs, refused[i].type, refused[i].config, &err);
        if (status != refused[i].status || strstr(err.text, refused[i].text) == NULL ||
            (status == OM_E_UNSUPPORTED && strstr(err.text, "convert_hf_to_gguf.py") == NULL)) {
            fail_msg("%s %s: %s: %s", refused[i].type, refused[i].config, om_status_name(status),
                     err.text);
        }
        assert_int_equal(m.n_extras, 0);
        om_pairs_release(&pairs);
    }
}

static void test_out_of_memory(void **state) {
    (void) state;
    static const char config[] =
        "{" SIZES ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2,3,4,5,6,7,8],"
        "\"short_factor\":[1,2,3,4,5,6,7,8]}}";
    for (long n = 1;; n++) {
        om_pairs pairs = { .arch = "demo" };
        om_hf_metadata m = { 0 };
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status = make(&m, &pairs, "phi3", config, &err);
        om_mem_fail_at(0);
        om_pairs_release(&pairs);
        if (status == OM_OK) {
            om_hf_metadata_release(&m);
            assert_true(n > 5);
            return;
        }
        assert_int_equal(status, OM_E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),         cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_both_forms),     cmocka_unit_test(test_scaling),
        cmocka_unit_test(test_llama3_factors), cmocka_unit_test(test_longrope),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
