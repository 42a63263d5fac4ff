/* What quantize to MLX must refuse, without leaving a file. */
#include "mlx_fixture.h"

/* ---- refusals ---- */

static void dry_run_writes_nothing(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_result r = { 0 };
    om_error err = { 0 };
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .dry_run = true };
    char bytes[64];
    must(om_quantize(&r, &o, NULL, &err), &err);
    snprintf(bytes, sizeof bytes, "%lld", (long long) f.a->bytes);
    assert_non_null(strstr(r.text, bytes));
    assert_non_null(strstr(r.text, "model.layers.0.mlp.down_proj.weight"));
    assert_non_null(strstr(r.json, "\"dry_run\": true"));
    assert_non_null(strstr(r.json, "\"to\": \"mlx\""));
    expect_no_output(&f);
    om_result_release(&r);
    end(&f);
}

static void wrong_allocations_are_refused(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_error err = { 0 };
    om_assignment *a = f.a->tensors, kept = a[1];
    const int n = f.a->n_tensors;
    strcpy(a[1].name, "blk.9.attn_q.weight");
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "blk.9.attn_q.weight is in the allocation but not in");
    strcpy(a[1].name, "output_norm.weight");
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "output_norm.weight: this tensor stays as it is");
    a[1] = a[n - 1]; /* one is missing, another there twice */
    f.a->n_tensors--;
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "but not in the allocation");
    f.a->n_tensors = n;
    a[1] = kept;
    a[1].format = om_format_by_name("mlx_4bit_g128"); /* rows of 64 */
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_UNSUPPORTED, "rows of 64 weights cannot be mlx_4bit_g128");
    a[1] = kept;
    write_allocation(&f);
    f.a->bytes += 8;
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "\"bytes\"");
    end(&f);
}

static void allocations_for_a_gguf_are_refused(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_error err = { 0 };
    om_result r = { 0 };
    f.a->container = OM_CONTAINER_GGUF;
    for (int i = 0; i < f.a->n_tensors; i++) {
        f.a->tensors[i].format = om_format_by_name("q8_0");
        f.a->tensors[i].probe = (om_probe){ 0 };
    }
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    expect_refused(&f, OM_E_MISMATCH, "allocate with --to mlx");
    const om_quantize_options o = {
        .model = f.stats, .allocation = f.allocation, .out = f.out, .to = "mlx"
    };
    f.a->container = OM_CONTAINER_MLX;
    f.a->tensors[0].format = om_format_by_name("bf16");
    for (int i = 0; i < f.a->n_tensors; i++) {
        f.a->tensors[i].format = om_format_by_name("bf16");
    }
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    assert_int_equal(om_quantize(&r, &o, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "is no Hugging Face directory"));
    end(&f);
}

static void options_of_the_other_container_are_refused(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_error err = { 0 };
    om_result r = { 0 };
    f.a->container = OM_CONTAINER_GGUF;
    for (int i = 0; i < f.a->n_tensors; i++) {
        f.a->tensors[i].format = om_format_by_name("q8_0");
        f.a->tensors[i].probe = (om_probe){ 0 };
    }
    must(om_allocation_write(f.a, f.allocation, &err), &err);
    om_quantize_options o = {
        .model = f.model, .allocation = f.allocation, .out = f.out, .to = "gguf"
    };
    assert_int_equal(om_quantize(&r, &o, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "give the one that profile made"));
    o.model = f.stats; /* a GGUF */
    o.round = "plain";
    err = (om_error){ 0 };
    assert_int_equal(om_quantize(&r, &o, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "--round is for --to mlx"));
    expect_no_output(&f);
    end(&f);
}

/* The weights of another model with the same shapes: found by their content. */
static void another_model_is_refused(void **state) {
    (void) state;
    fixture f = begin(&llama);
    char other[300];
    snprintf(other, sizeof other, "%s/other", f.dir);
    om_tiny_hf_options o = llama;
    o.scale = 1.1F;
    om_tiny_hf_write(other, &o);
    strcpy(f.model, other);
    expect_refused(&f, OM_E_MISMATCH, "are not those that were profiled");
    end(&f);
}

static void missing_tokenizer_is_refused(void **state) {
    (void) state;
    om_tiny_hf_options o = llama;
    o.no_tokenizer = true;
    fixture f = begin(&o);
    expect_refused(&f, OM_E_FORMAT, "no tokenizer");
    end(&f);
}

static void not_finite_source_is_refused(void **state) {
    (void) state;
    om_tiny_hf_options o = llama;
    o.nan_at = "model.layers.1.mlp.up_proj.weight";
    fixture f = begin(&o);
    for (int i = 0; i < f.a->n_tensors; i++) {
        f.a->tensors[i].probe = (om_probe){ 0 };
    }
    write_allocation(&f);
    expect_refused(&f, OM_E_NUMERIC, "blk.1.ffn_up.weight: row 5, column 2 of the source is nan");
    for (int i = 0; i < f.a->n_tensors; i++) { /* also when it stays dense */
        f.a->tensors[i].format = om_format_by_name("bf16");
    }
    write_allocation(&f);
    expect_refused(&f, OM_E_NUMERIC, "blk.1.ffn_up.weight: row 5, column 2");
    end(&f);
}

/* Numbers that F16 does not hold, as they are and as scale and bias. */
static void overflow_is_refused(void **state) {
    (void) state;
    fixture f = begin(&(om_tiny_hf_options){ .dtype = "float32", .scale = 1e7F });
    const char *const types[] = { "f16", "mlx_8bit_g32", "mlx_2bit_g64" };
    unsigned char bytes[512];
    float source[64];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        om_error err = { 0 };
        om_mlx_job job = { .hf = f.source,
                           .tensor = om_hf_find(f.source, "blk.0.ffn_up.weight"),
                           .to = om_format_by_name(types[i]),
                           .dtype = OM_MLX_F16 };
        unsigned char *const parts[] = { bytes, bytes + 256, bytes + 384 };
        assert_int_equal(om_mlx_job_make(parts, source, &job, 3, 1, &err), OM_E_NUMERIC);
        assert_non_null(strstr(err.text, "row 3 does not fit"));
        err = (om_error){ 0 };
        job.dtype = OM_MLX_BF16;
        job.to = i == 0 ? om_format_by_name("bf16") : job.to;
        must(om_mlx_job_make(parts, source, &job, 3, 1, &err), &err);
    }
    end(&f);
}

static void foreign_directories_stay(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_result r = { 0 };
    om_error err;
    assert_int_equal(mkdir(f.out, 0777), 0);
    must(quantize(&r, &f, NULL, 1, &err), &err); /* an empty one is nobody's */
    om_result_release(&r);
    om_tmpdir_write(f.out, "notes.txt", "mine", 4);
    assert_int_equal(quantize(&r, &f, NULL, 1, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "notes.txt"));
    assert_int_equal(unlink(om_tmpdir_path(f.out, "notes.txt")), 0);
    om_tmpdir_write(f.out, "model.safetensors", "x", 1);
    assert_int_equal(quantize(&r, &f, NULL, 1, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "not an earlier result of Optimum"));
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .out = f.model };
    err = (om_error){ 0 };
    assert_int_equal(om_quantize(&r, &o, NULL, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "it is the model"));
    om_tmpdir_write(f.dir, "file", "x", 1);
    snprintf(f.out, sizeof f.out, "%s/file", f.dir);
    assert_int_equal(quantize(&r, &f, NULL, 1, &err), OM_E_IO);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dry_run_writes_nothing),
        cmocka_unit_test(wrong_allocations_are_refused),
        cmocka_unit_test(allocations_for_a_gguf_are_refused),
        cmocka_unit_test(options_of_the_other_container_are_refused),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(missing_tokenizer_is_refused),
        cmocka_unit_test(not_finite_source_is_refused),
        cmocka_unit_test(overflow_is_refused),
        cmocka_unit_test(foreign_directories_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
