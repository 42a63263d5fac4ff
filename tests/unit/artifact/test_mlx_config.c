/* config.json as mlx-lm reads it: what transformers 5 leaves out is filled in, nothing that stands
 * there is changed; the types of the modules; which files are copied. That mlx-lm agrees is tested
 * by tests/oracle/mlx_load.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "artifact/mlx_config.h"
#include "base/atomic_dir.h"
#include "base/mem.h"
#include "tmpdir.h"

static const om_mlx_item dense[] = {
    { "model.embed_tokens.weight", 2, { 64, 100, 1, 1 }, NULL },
    { "model.norm.weight", 1, { 64, 1, 1, 1 }, NULL },
    { "lm_head.weight", 2, { 64, 100, 1, 1 }, NULL },
};

static om_json *parse(const char *text) {
    om_json *doc = NULL;
    om_error err = { 0 };
    if (om_json_parse(&doc, text, strlen(text), "config.json", NULL, &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return doc;
}

/* Equal texts after parsing and dumping. */
static void assert_json(const om_json *found, const char *want_text) {
    om_json *want = parse(want_text);
    char *a = om_json_dump(found), *b = om_json_dump(want);
    assert_non_null(a);
    assert_string_equal(a, b);
    om_free(a);
    om_free(b);
    om_json_free(want);
}

static void check_items(const char *source_text, const char *want, const om_mlx_item *items, int n,
                        om_mlx_dtype dtype) {
    om_error err = { 0 };
    om_json *source = parse(source_text), *config = NULL;
    char *before = om_json_dump(source);
    assert_int_equal(om_mlx_config(&config, source, items, n, dtype, &err), OM_OK);
    assert_json(config, want);
    char *after = om_json_dump(source);
    assert_string_equal(before, after);
    om_free(before);
    om_free(after);
    om_json_free(config);
    om_json_free(source);
}

/* A tied model in bf16 without quantization: only the keys of interest change. */
static void check(const char *source, const char *want) {
    om_mlx_item items[2] = { dense[0], dense[1] };
    items[0].format = items[1].format = om_format_by_name("bf16");
    check_items(source, want, items, 2, OM_MLX_BF16);
}

#define TAIL ",\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":true}"

static void rope_of_transformers_5(void **state) {
    (void) state;
    check("{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":100000.0,\"rope_type\":"
          "\"default\"}}",
          "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":100000.0,\"rope_type\":"
          "\"default\"},\"rope_theta\":100000.0" TAIL);
    check("{\"model_type\":\"llama\",\"rope_scaling\":null,\"rope_parameters\":{\"rope_theta\":5e5,"
          "\"rope_type\":\"llama3\",\"factor\":8.0}}",
          "{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\","
          "\"factor\":8.0,\"type\":\"llama3\"},\"rope_parameters\":{\"rope_theta\":5e5,"
          "\"rope_type\":\"llama3\",\"factor\":8.0},\"rope_theta\":5e5" TAIL);
    check("{\"model_type\":\"phi3\",\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":"
          "\"longrope\",\"type\":\"longrope\",\"partial_rotary_factor\":0.75,"
          "\"original_max_position_embeddings\":4096}}",
          "{\"model_type\":\"phi3\",\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":"
          "\"longrope\",\"type\":\"longrope\",\"partial_rotary_factor\":0.75,"
          "\"original_max_position_embeddings\":4096},\"rope_theta\":1e4,"
          "\"partial_rotary_factor\":0.75,\"original_max_position_embeddings\":4096,"
          "\"rope_scaling\":{\"rope_theta\":1e4,\"rope_type\":\"longrope\",\"type\":\"longrope\","
          "\"partial_rotary_factor\":0.75,\"original_max_position_embeddings\":4096}" TAIL);
}

static void what_stands_there_stays(void **state) {
    (void) state;
    check(
        "{\"rope_theta\":7.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"num_experts\":4,"
        "\"num_local_experts\":8,\"rope_parameters\":{\"rope_theta\":1.0,\"rope_type\":\"yarn\"}}",
        "{\"rope_theta\":7.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"num_experts\":4,"
        "\"num_local_experts\":8,\"rope_parameters\":{\"rope_theta\":1.0,\"rope_type\":"
        "\"yarn\"}" TAIL);
}

static void gemma_3(void **state) {
    (void) state;
    check("{\"model_type\":\"gemma3_text\",\"layer_types\":[\"sliding_attention\","
          "\"sliding_attention\",\"full_attention\",\"sliding_attention\"],\"rope_parameters\":"
          "{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,\"rope_theta\":1e6},"
          "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}}}",
          "{\"model_type\":\"gemma3_text\",\"layer_types\":[\"sliding_attention\","
          "\"sliding_attention\",\"full_attention\",\"sliding_attention\"],\"rope_parameters\":"
          "{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,\"rope_theta\":1e6},"
          "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}},"
          "\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0,"
          "\"rope_theta\":1e6,\"type\":\"linear\"},\"rope_local_base_freq\":1e4,"
          "\"sliding_window_pattern\":3" TAIL);
    /* with a part for pictures: the language model's keys are inside */
    check("{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma3_text\","
          "\"vocab_size\":9,\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},"
          "\"sliding_attention\":{\"rope_theta\":1e4}}}}",
          "{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma3_text\","
          "\"vocab_size\":9,\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},"
          "\"sliding_attention\":{\"rope_theta\":1e4}},\"rope_theta\":1e6,"
          "\"rope_local_base_freq\":1e4,\"torch_dtype\":\"bfloat16\"},"
          "\"torch_dtype\":\"bfloat16\",\"vocab_size\":9,\"tie_word_embeddings\":true}");
}

static void experts_and_dtype(void **state) {
    (void) state;
    check("{\"_name_or_path\":\"x/y\",\"model_type\":\"qwen3_moe\",\"num_local_experts\":128,"
          "\"dtype\":\"float32\",\"quantization_config\":{\"quant_method\":\"fp8\"}}",
          "{\"model_type\":\"qwen3_moe\",\"num_local_experts\":128,\"dtype\":\"bfloat16\","
          "\"num_experts\":128" TAIL);
}

static void tied_as_the_tensors_are(void **state) {
    (void) state;
    om_mlx_item items[3] = { dense[0], dense[1], dense[2] };
    items[0].format = items[1].format = items[2].format = om_format_by_name("f16");
    check_items("{\"a\":1}", "{\"a\":1,\"torch_dtype\":\"float16\",\"tie_word_embeddings\":false}",
                items, 3, OM_MLX_F16);
    check_items("{\"text_config\":{\"tie_word_embeddings\":true}}",
                "{\"text_config\":{\"tie_word_embeddings\":false,\"torch_dtype\":\"float16\"},"
                "\"torch_dtype\":\"float16\"}",
                items, 3, OM_MLX_F16);
    check_items("{\"tie_word_embeddings\":false}",
                "{\"tie_word_embeddings\":true,\"torch_dtype\":\"float16\"}", items, 2, OM_MLX_F16);
}

static void modules_of_other_types_are_named(void **state) {
    (void) state;
    const om_format *q4 = om_format_by_name("mlx_4bit_g64");
    const om_mlx_item items[] = {
        { "model.embed_tokens.weight", 2, { 64, 9, 1, 1 }, om_format_by_name("mlx_8bit_g64") },
        { "model.layers.0.self_attn.q_proj.weight", 2, { 64, 9, 1, 1 }, q4 },
        { "model.layers.0.self_attn.q_proj.bias", 1, { 9, 1, 1, 1 }, om_format_by_name("bf16") },
        { "model.layers.0.self_attn.k_proj.weight", 2, { 64, 9, 1, 1 }, om_format_by_name("bf16") },
        { "model.layers.0.mlp.up_proj.weight", 2, { 64, 9, 1, 1 }, q4 },
        { "model.layers.0.mlp.down_proj.weight",
          2,
          { 64, 9, 1, 1 },
          om_format_by_name("mlx_mxfp4") },
    };
#define Q                                                                                          \
    "{\"group_size\":64,\"bits\":4,\"mode\":\"affine\",\"model.embed_tokens\":{\"group_size\":64," \
    "\"bits\":8},\"model.layers.0.mlp.down_proj\":{\"group_size\":32,\"bits\":4,\"mode\":"         \
    "\"mxfp4\"}}"
    check_items("{\"quantization\":{\"bits\":3}}",
                "{\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":true,"
                "\"quantization_config\":" Q ",\"quantization\":" Q "}",
                items, 6, OM_MLX_BF16);
    assert_ptr_equal(om_mlx_config_default(items, 6), q4);
    assert_null(om_mlx_config_default(items + 2, 2));
}

static void index_names_the_shards(void **state) {
    (void) state;
    om_error err = { 0 };
    om_mlx_layout layout;
    om_json *doc = NULL;
    om_mlx_item items[3] = { dense[1], dense[0], dense[2] };
    items[0].format = om_format_by_name("bf16");
    items[1].format = items[2].format = om_format_by_name("mlx_2bit_g32");
    assert_int_equal(om_mlx_layout_make(&layout, items, 3, OM_MLX_BF16, 2600, &err), OM_OK);
    assert_int_equal(om_mlx_index(&doc, &layout, 12864, &err), OM_OK);
    assert_json(doc,
                "{\"metadata\":{\"total_size\":4928,\"total_parameters\":12864},\"weight_map\":{"
                "\"lm_head.biases\":\"model-00002-of-00002.safetensors\","
                "\"lm_head.scales\":\"model-00002-of-00002.safetensors\","
                "\"lm_head.weight\":\"model-00002-of-00002.safetensors\","
                "\"model.embed_tokens.biases\":\"model-00001-of-00002.safetensors\","
                "\"model.embed_tokens.scales\":\"model-00001-of-00002.safetensors\","
                "\"model.embed_tokens.weight\":\"model-00001-of-00002.safetensors\","
                "\"model.norm.weight\":\"model-00001-of-00002.safetensors\"}}");
    om_json_free(doc);
    om_mlx_layout_release(&layout);
}

static void tokenizers_are_copied(void **state) {
    (void) state;
    om_error err = { 0 };
    char *dir = om_tmpdir_new(), **names = NULL;
    int n = 0;
    static const char *const source[] = {
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "README.md",
        "pytorch_model.bin",
        ".gitattributes",
        "tokenizer.json",
        "merges.txt",
        "modeling_x.py",
        "chat_template.jinja",
        "consolidated.safetensors",
        ".hidden.txt",
    };
    static const char *const copied[] = { "chat_template.jinja", "merges.txt", "modeling_x.py",
                                          "tokenizer.json", "tokenizer_config.json" };
    assert_int_equal(om_mlx_copies(&names, &n, dir, &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "no tokenizer (tokenizer.json or tokenizer.model)"));
    for (size_t i = 0; i < sizeof source / sizeof *source; i++) {
        om_tmpdir_write(dir, source[i], "x", 1);
        assert_false(om_mlx_is_written(source[i]) && om_mlx_is_copied(source[i]));
    }
    err = (om_error){ 0 };
    assert_int_equal(om_mlx_copies(&names, &n, dir, &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "no tokenizer_config.json"));
    om_tmpdir_write(dir, "tokenizer_config.json", "{}", 2);
    assert_int_equal(om_mlx_copies(&names, &n, dir, &err), OM_OK);
    assert_int_equal(n, 5);
    for (int i = 0; i < n; i++) {
        assert_string_equal(names[i], copied[i]);
    }
    om_dir_list_free(names, n);
    om_tmpdir_remove(dir);
}

static void every_failed_allocation_is_noticed(void **state) {
    (void) state;
    om_mlx_item items[3] = { dense[0], dense[1], dense[2] };
    items[0].format = om_format_by_name("mlx_4bit_g32");
    items[2].format = om_format_by_name("mlx_6bit_g32");
    items[1].format = om_format_by_name("bf16");
    om_json *source = parse("{\"text_config\":{\"rope_parameters\":{\"rope_theta\":1.0,"
                            "\"rope_type\":\"yarn\"}},\"num_local_experts\":2,\"dtype\":\"x\"}");
    bool succeeded = false;
    for (long n = 1; n < 500 && !succeeded; n++) {
        om_error err = { 0 };
        om_json *config = NULL;
        om_mem_fail_at(n);
        const om_status status = om_mlx_config(&config, source, items, 3, OM_MLX_BF16, &err);
        char *text = status == OM_OK ? om_json_dump(config) : NULL;
        om_mem_fail_at(0);
        succeeded = text != NULL;
        assert_true(status == OM_OK || status == OM_E_NOMEM);
        om_free(text);
        om_json_free(config);
    }
    assert_true(succeeded);
    om_json_free(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_of_transformers_5),
        cmocka_unit_test(what_stands_there_stays),
        cmocka_unit_test(gemma_3),
        cmocka_unit_test(experts_and_dtype),
        cmocka_unit_test(tied_as_the_tensors_are),
        cmocka_unit_test(modules_of_other_types_are_named),
        cmocka_unit_test(index_names_the_shards),
        cmocka_unit_test(tokenizers_are_copied),
        cmocka_unit_test(every_failed_allocation_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
