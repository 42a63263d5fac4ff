/* profile.json: round trip, every check of the reader, and thousands of damaged files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "profile/profile.h"
#include "tmpdir.h"

/* Written by hand from docs/formats.md, not by our writer. */
static const char valid[] =
    "{\"schema\":\"optimum.profile/1\",\"tool\":\"t\",\n"
    "\"model\":{\"path\":\"m.gguf\",\"sha256\":\"\",\"arch\":\"llama\",\"params\":99328,"
    "\"file_bytes\":200000,\"hparams\":{\"n_layer\":1,\"n_head\":4,\"n_head_kv\":2,\"n_expert\":0}}"
    ",\n"
    "\"calibration\":{\"files\":[{\"sha256\":\"\"}],\"windows\":8,\"window_tokens\":512,"
    "\"seed\":\"18446744073709551615\",\"tokens\":4088},\n"
    "\"container\":{\"metadata_bytes\":1000,\"alignment\":32,"
    "\"fixed\":[{\"name\":\"output_norm.weight\",\"bytes\":33}]},\n"
    "\"memory\":{\"kv_bytes_per_token\":[512],\"window\":[0],\"compute_bytes\":77},\n"
    "\"method\":\"fisher\",\"stats\":{\"path\":\"s.gguf\",\"sha256\":\"\"},\n"
    "\"tensors\":[\n"
    "{\"name\":\"blk.0.ffn_down.weight\",\"role\":\"ffn_down\",\"layer\":0,\"shape\":[64,512],"
    "\"experts\":1,\"params\":32768,\"source\":\"bf16\",\"fisher_trace\":1.5,"
    "\"types\":{\"bf16\":{\"bytes\":65536,\"nats\":0},\"q4_K\":{\"bytes\":18432,\"nats\":0.25}}},\n"
    "{\"name\":\"blk.0.ffn_up_exps.weight\",\"role\":\"ffn_up_exps\",\"layer\":0,\"shape\":[64,128]"
    ","
    "\"experts\":8,\"params\":65536,\"source\":\"f16\",\"fisher_trace\":0,"
    "\"types\":{\"q8_0\":{\"bytes\":69632,\"nats\":0.001},\"f16\":{\"bytes\":131072,\"nats\":0.0}}}"
    "]}\n";

static om_status parse(om_profile **out, const char *text, size_t n, om_error *err) {
    memset(err, 0, sizeof *err);
    return om_profile_parse(out, text, n, "p.json", err);
}

static void test_reads(void **state) {
    (void) state;
    om_profile *p = NULL;
    om_error err;
    if (parse(&p, valid, strlen(valid), &err) != OM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(p->n_units, 2);
    assert_int_equal(p->hparams.n_head_kv, 2);
    assert_true(p->seed == UINT64_MAX);
    assert_int_equal(p->memory.kv_values_per_token[0], 256);
    assert_int_equal(om_profile_fixed_bytes(p), 1024 + 64);
    const om_unit *u = &p->units[0];
    assert_int_equal(u->n_choices, 2);
    assert_string_equal(u->choices[0].format->name,
                        "q4_K"); /* ascending, whatever the file's order */
    assert_int_equal(om_unit_choice(u, om_format_by_name("q4_K"))->bytes, 18432);
    assert_null(om_unit_choice(u, om_format_by_name("q5_K")));
    assert_int_equal(p->units[1].experts, 8);
    om_profile_free(p);
}

static void test_round_trip(void **state) {
    (void) state;
    om_profile *p = NULL, *q = NULL;
    om_error err;
    char *dir = om_tmpdir_new();
    assert_int_equal(parse(&p, valid, strlen(valid), &err), OM_OK);
    const char *one = om_tmpdir_path(dir, "one.json"), *two = om_tmpdir_path(dir, "two.json");
    assert_int_equal(om_profile_write(p, one, &err), OM_OK);
    assert_int_equal(om_profile_read(&q, one, &err), OM_OK);
    assert_int_equal(om_profile_write(q, two, &err), OM_OK);
    char a[65], b[65];
    assert_int_equal(om_sha256_file(a, one, NULL, &err), OM_OK);
    assert_int_equal(om_sha256_file(b, two, NULL, &err), OM_OK);
    assert_string_equal(a, b);
    assert_string_equal(a, q->sha256);
    assert_true(q->seed == p->seed && q->n_fixed == 1 && q->fixed[0].bytes == 33);
    assert_true(q->units[0].fisher_trace > 1.4 && q->units[0].choices[0].nats > 0.24);
    /* A profile that could not be read back is not written. */
    q->units[0].choices[0].nats = (double) NAN;
    assert_int_equal(om_profile_write(q, om_tmpdir_path(dir, "bad.json"), &err), OM_E_INTERNAL);
    assert_int_equal(om_tmpdir_count(dir, "bad"), 0);
    om_profile_free(p);
    om_profile_free(q);
    om_tmpdir_remove(dir);
}

/* The valid file with one piece replaced must be refused with `why` in the message. */
static void refuse(const char *from, const char *to, const char *why) {
    om_profile *p = NULL;
    om_error err;
    char text[4096];
    const char *at = strstr(valid, from);
    assert_non_null(at);
    int n =
        snprintf(text, sizeof text, "%.*s%s%s", (int) (at - valid), valid, to, at + strlen(from));
    assert_true(n > 0 && n < (int) sizeof text);
    om_status status = parse(&p, text, (size_t) n, &err);
    if (status != OM_E_FORMAT || strstr(err.text, why) == NULL || p != NULL) {
        fail_msg("%s -> %s: status %d, expected '%s' in: %s", from, to, status, why, err.text);
    }
}

static void test_refuses(void **state) {
    (void) state;
    refuse("profile/1", "profile/2", "optimum.profile");
    refuse("\"q4_K\"", "\"q4_Z\"", "unknown type");
    refuse("18432", "18431", "the shape needs 18432");
    refuse("\"q8_0\":{\"bytes\":69632", "\"q4_K\":{\"bytes\":36864", "do not divide");
    refuse("0.25", "-0.25", "nats");
    refuse("0.25", "1e300", "nats");
    refuse("0.25", "\"x\"", "nats");
    refuse("\"bf16\":{\"bytes\":65536,\"nats\":0},", "", "source type bf16 is missing");
    refuse("65536,\"nats\":0}", "65536,\"nats\":0.1}", "source type");
    refuse("\"q4_K\":{", "\"Q4_K\":{\"bytes\":18432,\"nats\":0.25},\"q4_K\":{", "there twice");
    refuse("blk.0.ffn_up_exps.weight", "blk.0.ffn_down.weight", "there twice");
    refuse("output_norm.weight", "blk.0.ffn_down.weight", "there twice");
    refuse("blk.0.ffn_up_exps.weight", "", "empty name");
    refuse("99328", "98303", "more parameters");
    refuse("\"experts\":8", "\"experts\":7", "experts");
    refuse("\"experts\":8", "\"experts\":0", "experts");
    refuse("[64,512]", "[64,512,1]", "[n_out, n_in]");
    refuse("[64,512]", "[64,-512]", "shape");
    refuse("\"alignment\":32", "\"alignment\":33", "power of two");
    refuse("\"window\":[0]", "\"window\":[0,0]", "layers");
    refuse("18446744073709551615", "18446744073709551616", "seed");
    refuse("\"sha256\":\"\",\"arch\"", "\"sha256\":\"abc\",\"arch\"", "sha256");
    refuse("\"fisher_trace\":1.5", "\"fisher_trace\":-1", "fisher_trace");
    refuse("33}]", "-1}]", "bytes");
    refuse("\"method\":\"fisher\"", "\"method\":\"fisherfisherfisher\"", "method");
    refuse("[\n{\"name\"", "[],\"other\":[\n{\"name\"", "tensors");
}

/* Damaged files: a message or a profile, never a crash (the sanitizer build has the last word). */
static void test_damaged(void **state) {
    (void) state;
    const size_t n = strlen(valid);
    char *copy = om_calloc(n + 1, 1);
    om_rng rng = om_rng_at(1, 2);
    int n_refused = 0;
    for (size_t cut = 0; cut < n - 2; cut++) {
        om_profile *p = NULL;
        om_error err;
        assert_int_equal(parse(&p, valid, cut, &err), OM_E_FORMAT);
        assert_true(err.text[0] != '\0');
    }
    for (int i = 0; i < 5000; i++) {
        om_profile *p = NULL;
        om_error err;
        memcpy(copy, valid, n + 1);
        for (int k = 1 + (int) (om_rng_u64(&rng) % 3); k > 0; k--) {
            copy[om_rng_u64(&rng) % n] ^= (char) (1 << (om_rng_u64(&rng) % 8));
        }
        om_status status = parse(&p, copy, n, &err);
        assert_true((status == OM_OK) == (p != NULL));
        assert_true(status == OM_OK || status == OM_E_FORMAT);
        n_refused += status != OM_OK;
        om_profile_free(p);
    }
    assert_true(n_refused > 3000);
    om_free(copy);
}

/* Every allocation of the reader failing in turn. */
static void test_out_of_memory(void **state) {
    (void) state;
    bool done = false;
    for (long n = 1; n < 500 && !done; n++) {
        om_profile *p = NULL;
        om_error err = { 0 };
        om_mem_fail_at(n);
        om_status status = om_profile_parse(&p, valid, strlen(valid), "p.json", &err);
        om_mem_fail_at(0);
        assert_true(status == OM_OK || status == OM_E_NOMEM || status == OM_E_FORMAT);
        assert_true((status == OM_OK) == (p != NULL));
        done = status == OM_OK;
        om_profile_free(p);
    }
    assert_true(done);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),         cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refuses),       cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
