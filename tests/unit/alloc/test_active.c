/* Bytes read per token: the share of every kind of tensor, against hand-made numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/active.h"
#include "alloc/plans.h"
#include "base/mem.h"

enum { EMBEDDING, QUERY, STACK, OUTPUT, N_UNITS };

/* An embedding [1000, 256], a matrix, a stack of 8 experts, an output matrix; q8_0 is 34 bytes for
 * 32 weights. */
static om_profile *make(void) {
    static const char *const names[N_UNITS] = { "token_embd", "blk.0.attn_q", "blk.0.ffn_up_exps",
                                                "output" };
    om_profile *p = om_calloc(1, sizeof *p);
    p->alignment = 32;
    p->tokens = 512;
    p->units = om_calloc(N_UNITS, sizeof *p->units);
    p->n_units = N_UNITS;
    p->fixed = om_calloc(1, sizeof *p->fixed);
    p->n_fixed = 1;
    (void) snprintf(p->fixed[0].name, sizeof p->fixed[0].name, "output_norm.weight");
    p->fixed[0].bytes = 1001;
    p->metadata_bytes = 4096;
    for (int i = 0; i < N_UNITS; i++) {
        om_unit *u = &p->units[i];
        const char *role = strrchr(names[i], '.') != NULL ? strrchr(names[i], '.') + 1 : names[i];
        (void) snprintf(u->name, sizeof u->name, "%s.weight", names[i]);
        (void) snprintf(u->role, sizeof u->role, "%s", role);
        u->n_in = 256;
        u->n_out = i == EMBEDDING || i == OUTPUT ? 1000 : 64;
        u->experts = i == STACK ? 8 : 1;
        u->params = u->n_in * u->n_out * u->experts;
        u->source = om_format_by_name("q8_0");
        u->choices = om_calloc(1, sizeof *u->choices);
        u->n_choices = 1;
        u->choices[0] =
            (om_choice){ .format = u->source,
                         .bytes = om_format_size(u->source, 256, u->n_out * u->experts) };
        p->params += u->params;
    }
    return p;
}

static void give_tokens(om_profile *p, double per_expert) {
    om_unit *u = &p->units[STACK];
    u->expert.tokens = om_calloc((size_t) u->experts, sizeof *u->expert.tokens);
    for (int e = 0; e < u->experts; e++) {
        u->expert.tokens[e] = e == 0 ? 0.0 : e == 1 ? 2.0 * per_expert : per_expert;
    }
}

static void expect_share(const om_profile *p, int i, double share) {
    const om_active a = om_active_of(p);
    assert_true(fabs(om_active_share(&a, i) - share) < 1e-15);
}

static void test_shares(void **state) {
    (void) state;
    om_profile *p = make();
    expect_share(p, EMBEDDING, 1.0 / 1000); /* one row is looked up */
    expect_share(p, QUERY, 1.0);
    expect_share(p, OUTPUT, 1.0);
    expect_share(p, STACK, 1.0); /* nothing is known: the upper bound */
    p->hparams.n_expert = 8;
    p->hparams.n_expert_used = 2;
    expect_share(p, STACK, 0.25);
    p->hparams.n_expert = 16; /* of other stacks */
    expect_share(p, STACK, 1.0);
    give_tokens(p, 3 * 512.0 / 8);
    expect_share(p, STACK, 3.0 / 8); /* measured goes first */
    (void) snprintf(p->units[EMBEDDING].role, sizeof p->units[EMBEDDING].role,
                    "per_layer_token_embd");
    expect_share(p, EMBEDDING, 1.0 / 1000);
    om_profile_free(p);
}

static void test_tied(void **state) {
    (void) state;
    om_profile *p = make();
    (void) snprintf(p->units[OUTPUT].name, sizeof p->units[OUTPUT].name, "output_hc.weight");
    expect_share(p, EMBEDDING, 1.0); /* it is the output matrix as well */
    (void) snprintf(p->fixed[0].name, sizeof p->fixed[0].name, "output.weight");
    expect_share(p, EMBEDDING, 1.0 / 1000);
    om_profile_free(p);
}

static void test_bytes(void **state) {
    (void) state;
    om_profile *p = make();
    const om_active a = om_active_of(p);
    const om_format *types[N_UNITS];
    give_tokens(p, 2 * 512.0 / 8);
    assert_int_equal(om_active_bytes(&a, EMBEDDING, 1000 * 272), 272);
    assert_int_equal(om_active_bytes(&a, QUERY, 64 * 272), 64 * 272);
    assert_int_equal(om_active_bytes(&a, STACK, 8 * 64 * 272), 2 * 64 * 272);
    assert_int_equal(om_active_bytes(&a, STACK, 1001), 251); /* up */
    assert_int_equal(om_active_bytes(&a, STACK, 0), 0);
    assert_int_equal(om_active_fixed_bytes(p), 1001);
    for (int i = 0; i < N_UNITS; i++) {
        types[i] = p->units[i].source;
    }
    const om_plan_total sum = om_plan_sum(p, types);
    assert_int_equal(sum.active_bytes, 1001 + 272 * (1 + 64 + 128 + 1000));
    assert_int_equal(sum.bytes, 4096 + 1024 + 272 * (1000 + 64 + 512 + 1000));
    om_profile_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_tied),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
