/* The catalogue against ggml's own tables, and candidates of a tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <ggml.h>

#include "model/candidates.h"
#include "model/format.h"

static void test_every_entry_equals_ggml(void **state) {
    (void) state;
    int n = 0;
    const om_format *f;
    double last = 0;
    for (; (f = om_format_at(n)) != NULL; n++) {
        enum ggml_type type = (enum ggml_type) f->ggml_type;
        assert_string_equal(f->name, ggml_type_name(type));
        assert_int_equal(f->block, ggml_blck_size(type));
        assert_int_equal(f->block_bytes, ggml_type_size(type));
        assert_int_equal(f->needs_imatrix, ggml_quantize_requires_imatrix(type));
        assert_ptr_equal(om_format_by_name(f->name), f);
        assert_ptr_equal(om_format_by_type(f->ggml_type), f);
        assert_true(om_format_bpw(f) >= last);
        last = om_format_bpw(f);
        /* What may be written must be quantizable and readable again. */
        bool writable = f->use == OM_FORMAT_COMMON || f->use == OM_FORMAT_OPT_IN;
        assert_int_equal(writable, ggml_is_quantized(type) && type != GGML_TYPE_Q8_1 &&
                                       type != GGML_TYPE_Q8_K);
        assert_int_equal(om_format_size(f, 3 * f->block, 5), 5 * ggml_row_size(type, 3 * f->block));
        if (f->block > 1) {
            assert_int_equal(om_format_size(f, 3 * f->block + 1, 5), -1);
        }
    }
    int known_to_ggml = 0;
    for (int t = 0; t < GGML_TYPE_COUNT; t++) {
        known_to_ggml += ggml_type_size((enum ggml_type) t) > 0;
    }
    assert_int_equal(n, known_to_ggml);
    assert_null(om_format_at(-1));
}

static void test_names(void **state) {
    (void) state;
    assert_string_equal(om_format_by_name("Q4_k")->name, "q4_K");
    assert_null(om_format_by_name("q4_K_M"));
    assert_null(om_format_by_name(""));
    assert_null(om_format_by_name(NULL));
    assert_null(om_format_by_type(4)); /* retired */
    assert_null(om_format_by_type(-1));
}

/* The list in messages is written by hand: it must name exactly what may be asked for. */
static void test_list(void **state) {
    (void) state;
    char expected[1024] = "";
    const om_format *f;
    for (int i = 0; (f = om_format_at(i)) != NULL; i++) {
        if (f->use == OM_FORMAT_COMMON || f->use == OM_FORMAT_OPT_IN) {
            strncat(expected, expected[0] != '\0' ? ", " : "", 3);
            strncat(expected, f->name, 16);
        }
    }
    assert_memory_equal(om_format_list(), expected, strlen(expected));
    assert_string_equal(om_format_list() + strlen(expected),
                        "; for MLX mlx_Nbit_gG (N 2, 3, 4, 5, 6, 8; G 32, 64, 128), mlx_mxfp4, "
                        "mlx_nvfp4, mlx_mxfp8");
}

static void test_mlx_types(void **state) {
    (void) state;
    static const int bits[] = { 2, 3, 4, 5, 6, 8 };
    const om_format *f;
    double last = 0;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        assert_true(om_format_bpw(f) >= last);
        last = om_format_bpw(f);
        assert_ptr_equal(om_format_by_name(f->name), f);
        assert_true(om_format_in(f, OM_CONTAINER_MLX));
        assert_false(om_format_in(f, OM_CONTAINER_GGUF));
    }
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        for (int group = 32; group <= 128; group *= 2) {
            char name[32];
            snprintf(name, sizeof name, "mlx_%dbit_g%d", bits[i], group);
            f = om_format_by_name(name);
            assert_non_null(f);
            assert_int_equal(f->bits, bits[i]);
            /* bits per weight as mlx-lm counts them: codes, and 32 bits a group */
            assert_int_equal(om_format_size(f, 256, 3), 3 * (256 * bits[i] / 8 + 256 / group * 4));
        }
    }
    assert_true(om_format_in(om_format_by_name("bf16"), OM_CONTAINER_MLX));
    assert_true(om_format_in(om_format_by_name("bf16"), OM_CONTAINER_GGUF));
    assert_false(om_format_in(om_format_by_name("q4_K"), OM_CONTAINER_MLX));
}

static om_tensor tensor_of(int64_t n0, int64_t n1, const char *type, bool may_quantize) {
    om_tensor t = { .name = "t.weight", .n_dims = 2, .ne = { n0, n1, 1, 1 } };
    t.format = om_format_by_name(type);
    t.bytes = om_format_size(t.format, n0, n1);
    t.may_quantize = may_quantize;
    return t;
}

static int candidates_of(const om_tensor *t, const char *types, const char *expected) {
    const om_format *out[OM_CANDIDATES_MAX];
    int n = 0;
    om_error err = { 0 };
    char names[512] = "";
    int64_t last = -1;
    assert_int_equal(om_candidates(out, &n, OM_CANDIDATES_MAX, t, types, OM_FOR_GGUF, &err), OM_OK);
    for (int i = 0; i < n; i++) {
        strncat(names, i > 0 ? " " : "", 2);
        strncat(names, out[i]->name, 16);
        int64_t bytes = om_format_size(out[i], t->ne[0], om_tensor_n_rows(t));
        assert_true(bytes >= last);
        last = bytes;
    }
    if (expected != NULL) {
        assert_string_equal(names, expected);
    }
    return n;
}

static void test_candidates(void **state) {
    (void) state;
    om_tensor wide = tensor_of(512, 64, "bf16", true), odd = tensor_of(2880, 64, "bf16", true);
    om_tensor tiny = tensor_of(40, 64, "f16", true), fixed = tensor_of(512, 64, "f32", false);
    om_tensor quantized = tensor_of(512, 64, "q4_K", true);
    candidates_of(&wide, NULL,
                  "iq2_xxs iq2_xs iq2_s q2_K iq3_xxs q3_K iq3_s iq4_xs q4_K q4_0 iq4_nl q4_1 q5_K "
                  "q5_0 q5_1 q6_K q8_0 bf16");
    candidates_of(&odd, NULL, "q4_0 iq4_nl q4_1 q5_0 q5_1 q8_0 bf16");
    candidates_of(&tiny, NULL, "f16");
    candidates_of(&fixed, NULL, "f32");
    candidates_of(&fixed, "q8_0", "f32");
    candidates_of(&wide, "q8_0, Q4_K,iq1_s", "iq1_s q4_K q8_0 bf16");
    candidates_of(&quantized, "q8_0,q4_0,q3_K", "q3_K q4_K");
}

static void test_candidate_errors(void **state) {
    (void) state;
    om_error err = { 0 };
    assert_int_equal(om_candidates_check(NULL, &err), OM_OK);
    assert_int_equal(om_candidates_check("q4_K_M", &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "\"q4_K_M\""));
    assert_non_null(strstr(err.text, "q4_K, "));
    err = (om_error){ 0 };
    assert_int_equal(om_candidates_check("q8_1", &err), OM_E_ARG);
    err = (om_error){ 0 };
    assert_int_equal(om_candidates_check(" , ", &err), OM_E_ARG);
    err = (om_error){ 0 };
    assert_int_equal(om_candidates_check("a_type_with_a_name_of_more_than_31_characters", &err),
                     OM_E_ARG);
    const om_format *out[2];
    int n = 7;
    om_tensor wide = tensor_of(512, 64, "bf16", true);
    err = (om_error){ 0 };
    assert_int_equal(om_candidates(out, &n, 2, &wide, NULL, OM_FOR_GGUF, &err), OM_E_INTERNAL);
    assert_int_equal(n, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_entry_equals_ggml),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_mlx_types),
        cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_candidate_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
