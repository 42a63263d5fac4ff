/* "expert_banks" of allocation.json: round trip, and everything that must not pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/allocation.h"
#include "base/mem.h"

#define BANKS(names, order, banks) "[{ " names ", \"order\": " order ", \"banks\": " banks " }]"
#define NAMES                                                                          \
    "\"gate\": \"blk.0.ffn_gate_exps.weight\", \"up\": \"blk.0.ffn_up_exps.weight\", " \
    "\"down\": \"blk.0.ffn_down_exps.weight\""
#define ORDER "[2, 0, 3, 1]"
#define BANK(n, type) \
    "{ \"experts\": " n ", \"gate\": \"" type "\", \"up\": \"mlx_3bit_g64\", \"down\": \"bf16\" }"
#define TWO "[" BANK("1", "mlx_8bit_g64") ", " BANK("3", "mlx_2bit_g32") "]"

static om_status parse(om_allocation **out, const char *banks, const char *to, om_error *err) {
    char text[4096];
    memset(err, 0, sizeof *err);
    const int n = snprintf(
        text, sizeof text,
        "{ \"schema\": \"optimum.allocation/1\", \"profile_sha256\": \"\", \"to\": \"%s\", "
        "\"plan\": \"x\", \"budget\": { \"kind\": \"none\", \"bytes\": 0 }, \"tensors\": { "
        "\"blk.0.ffn_gate_exps.weight\": \"bf16\", \"blk.0.ffn_up_exps.weight\": \"bf16\", "
        "\"blk.0.ffn_down_exps.weight\": \"bf16\" }, \"expert_banks\": %s, \"bytes\": 1, "
        "\"bpw\": 1, \"predicted_nats\": 0, \"solver\": { \"status\": \"none\" } }",
        to, banks);
    return om_allocation_parse(out, text, (size_t) n, "a.json", err);
}

static void test_round_trip(void **state) {
    (void) state;
    om_allocation *a = NULL, *again = NULL;
    om_error err;
    om_bank_stack k = OM_BANK_GATE;
    if (parse(&a, BANKS(NAMES, ORDER, TWO), "mlx", &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    om_json *doc = om_allocation_json(a);
    char *text = om_json_dump(doc);
    assert_int_equal(om_allocation_parse(&again, text, strlen(text), "again", &err), OM_OK);
    for (const om_allocation *x = a;; x = again) {
        static const int order[] = { 2, 0, 3, 1 };
        assert_int_equal(x->n_banked, 1);
        const om_expert_banks *l =
            om_expert_banks_find(x->banks, x->n_banked, "blk.0.ffn_down_exps.weight", &k);
        assert_ptr_equal(l, x->banks);
        assert_int_equal(k, OM_BANK_DOWN);
        assert_int_equal(l->n_experts, 4);
        assert_memory_equal(l->order, order, sizeof order);
        assert_int_equal(l->n_banks, 2);
        assert_int_equal(om_expert_banks_largest(l), 1);
        assert_int_equal(l->banks[1].n_experts, 3);
        assert_string_equal(l->banks[1].format[OM_BANK_GATE]->name, "mlx_2bit_g32");
        assert_string_equal(l->banks[0].format[OM_BANK_UP]->name, "mlx_3bit_g64");
        assert_string_equal(l->banks[0].format[OM_BANK_DOWN]->name, "bf16");
        if (x == again) {
            break;
        }
    }
    assert_null(om_expert_banks_find(a->banks, a->n_banked, "blk.1.ffn_down_exps.weight", NULL));
    om_json_free(doc);
    om_free(text);
    om_allocation_free(a);
    om_allocation_free(again);
}

static void test_refused(void **state) {
    (void) state;
    static const struct {
        const char *banks, *says;
    } cases[] = {
        { "[]", "0 layers" },
        { "{}", "expected an array" },
        { "[7]", "gate" },
        { BANKS("\"gate\": \"a\"", ORDER, TWO), "up" },
        { BANKS("\"gate\": \"a\", \"up\": \"a\", \"down\": \"b\"", ORDER, TWO), "named twice" },
        { BANKS("\"gate\": \"a\", \"up\": \"b\", \"down\": \"c\"", ORDER, TWO), "a is not among" },
        { BANKS(NAMES, "[2, 0, 3, 3]", TWO), "two places" },
        { BANKS(NAMES, "[2, 0, 3, 4]", TWO), "4" },
        { BANKS(NAMES, "[2, 0, 3, -1]", TWO), "-1" },
        { BANKS(NAMES, "[0]", TWO), "1 experts" },
        { BANKS(NAMES, "[0, 1, 2]", TWO), "the banks hold 4 experts" },
        { BANKS(NAMES, ORDER, "[" BANK("4", "mlx_8bit_g64") "]"), "1 banks" },
        { BANKS(NAMES, ORDER, "[" BANK("0", "mlx_8bit_g64") ", " BANK("4", "bf16") "]"), "0" },
        { BANKS(NAMES, ORDER, "[" BANK("1", "q4_K") ", " BANK("3", "bf16") "]"), "no type of MLX" },
        { BANKS(NAMES, ORDER, "[" BANK("1", "q9") ", " BANK("3", "bf16") "]"), "no type of MLX" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        om_allocation *a = NULL;
        om_error err;
        assert_int_equal(parse(&a, cases[i].banks, "mlx", &err), OM_E_FORMAT);
        assert_null(a);
        if (strstr(err.text, cases[i].says) == NULL || strstr(err.text, "a.json") == NULL) {
            fail_msg("case %zu: \"%s\" should say \"%s\"", i, err.text, cases[i].says);
        }
    }
}

static void test_twice(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    static const char layer[] = "{ " NAMES ", \"order\": " ORDER ", \"banks\": " TWO " }";
    char banks[2 * sizeof layer + 8];
    (void) snprintf(banks, sizeof banks, "[%s, %s]", layer, layer);
    assert_int_equal(parse(&a, banks, "mlx", &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "named twice"));
}

static void test_not_in_a_gguf(void **state) {
    (void) state;
    om_allocation *a = NULL;
    om_error err;
    assert_int_equal(parse(&a, BANKS(NAMES, ORDER, TWO), "gguf", &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "only MLX"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_not_in_a_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
