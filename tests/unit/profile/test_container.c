/* A profile for both containers, cut down to one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "profile/profile.h"

/* Written by hand from docs/formats.md: an F32 source, of which MLX keeps 16 bits. */
static const char both[] =
    "{\"schema\":\"optimum.profile/1\",\"tool\":\"t\",\n"
    "\"model\":{\"path\":\"m.gguf\",\"sha256\":\"\",\"arch\":\"llama\",\"params\":33000,"
    "\"file_bytes\":200000},\n"
    "\"calibration\":{\"files\":[],\"windows\":8,\"window_tokens\":512,\"seed\":0,"
    "\"tokens\":4088},\n"
    "\"container\":{\"metadata_bytes\":1000,\"alignment\":32,"
    "\"fixed\":[{\"name\":\"output_norm.weight\",\"bytes\":256}],"
    "\"mlx\":{\"metadata_bytes\":3000,\"fixed\":[{\"name\":\"output_norm.weight\",\"bytes\":128}]}}"
    ","
    "\n"
    "\"memory\":{\"kv_bytes_per_token\":[],\"window\":[],\"compute_bytes\":77},\n"
    "\"method\":\"fisher\",\"tensors\":[\n"
    "{\"name\":\"blk.0.ffn_down.weight\",\"role\":\"ffn_down\",\"layer\":0,\"shape\":[64,512],"
    "\"experts\":1,\"params\":32768,\"source\":\"f32\",\"fisher_trace\":1.5,"
    "\"probe\":[1,2,-3,4,5,6,7,8],"
    "\"types\":{\"f32\":{\"bytes\":131072,\"nats\":0},\"q4_K\":{\"bytes\":18432,\"nats\":0.25},"
    "\"mlx_4bit_g64\":{\"bytes\":18432,\"nats\":0.2},"
    "\"mlx_8bit_g32\":{\"bytes\":36864,\"nats\":0.01}}}]}\n";

static om_profile *parse(const char *text) {
    om_profile *p = NULL;
    om_error err = { 0 };
    if (om_profile_parse(&p, text, strlen(text), "p.json", &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    return p;
}

static void test_gguf(void **state) {
    (void) state;
    om_error err = { 0 };
    om_profile *p = parse(both);
    assert_int_equal(p->units[0].n_choices, 4);
    assert_true(p->units[0].probe.known);
    assert_true(p->units[0].probe.sum[1] == -3 && p->units[0].probe.norm[3] == 8);
    assert_int_equal(om_profile_for(p, OM_CONTAINER_GGUF, &err), OM_OK);
    assert_int_equal(p->units[0].n_choices, 2);
    assert_string_equal(p->units[0].choices[0].format->name, "q4_K");
    assert_string_equal(p->units[0].choices[1].format->name, "f32");
    assert_int_equal(om_profile_fixed_bytes(p), 1024 + 256);
    om_profile_free(p);
}

static void test_mlx(void **state) {
    (void) state;
    om_error err = { 0 };
    om_profile *p = parse(both);
    assert_int_equal(om_profile_for(p, OM_CONTAINER_MLX, &err), OM_OK);
    const om_unit *u = &p->units[0];
    assert_int_equal(u->n_choices, 3);
    assert_string_equal(u->choices[0].format->name, "mlx_4bit_g64");
    assert_string_equal(u->choices[1].format->name, "mlx_8bit_g32");
    assert_string_equal(u->choices[2].format->name, "bf16"); /* 16 bits, no loss */
    assert_int_equal(u->choices[2].bytes, 65536);
    assert_true(u->choices[2].nats == 0);
    assert_ptr_equal(u->source, om_format_by_name("bf16"));
    assert_int_equal(om_profile_fixed_bytes(p), 3000 + 128); /* no padding between tensors */
    assert_string_equal(om_unit_four_bit(u)->format->name, "mlx_4bit_g64");
    om_profile_free(p);
}

static void test_made_for_one(void **state) {
    (void) state;
    om_error err = { 0 };
    char text[sizeof both];
    memcpy(text, both, sizeof both);
    char *mlx = strstr(text, ",\"mlx\":{"); /* the contents of MLX become something unknown */
    memcpy(mlx, ",\"xxx\":{", 8);
    om_profile *p = parse(text);
    assert_int_equal(om_profile_for(p, OM_CONTAINER_MLX, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "--to mlx"));
    om_profile_free(p);

    memcpy(text, both, sizeof both);
    char *q4_k = strstr(text, "\"q4_K\":{\"bytes\":18432,\"nats\":0.25},");
    memset(q4_k, ' ', strlen("\"q4_K\":{\"bytes\":18432,\"nats\":0.25},"));
    p = parse(text);
    memset(&err, 0, sizeof err);
    assert_int_equal(om_profile_for(p, OM_CONTAINER_GGUF, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "--to gguf"));
    om_profile_free(p);
}

/* 2^13 tensors of 2^50 bytes do not fit in 63 bits. */
static void test_sums_of_mlx(void **state) {
    (void) state;
    om_buf text = { 0 };
    om_profile *p = NULL;
    om_error err = { 0 };
    const char *fixed = strstr(both, "{\"name\":\"output_norm.weight\",\"bytes\":128}");
    om_buf_add(&text, both, (size_t) (fixed - both));
    for (int i = 0; i < 8192; i++) {
        om_buf_printf(&text, "{\"name\":\"n%d\",\"bytes\":1125899906842624},", i);
    }
    om_buf_puts(&text, fixed);
    assert_int_equal(om_profile_parse(&p, text.data, text.len, "p.json", &err), OM_E_FORMAT);
    assert_non_null(strstr(err.text, "add up to more than 2^60"));
    om_buf_release(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_mlx),
        cmocka_unit_test(test_made_for_one),
        cmocka_unit_test(test_sums_of_mlx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
