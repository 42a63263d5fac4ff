/* Probes recognise the same rows after rounding, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/probe.h"

enum { ROWS = 16, WIDTH = 200 };

static float weights[ROWS][WIDTH];

static int set_up(void **state) {
    (void) state;
    om_rng rng = om_rng_at(5, 0);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        weights[i / WIDTH][i % WIDTH] = (float) (om_rng_f64(&rng) - 0.5);
    }
    return 0;
}

static float to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000U;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Probe of the matrix with its rows shifted by `shift`, rounded or not. */
static om_probe look(const char *name, int shift, bool rounded) {
    om_probe p = { .known = false };
    int64_t rows[OM_PROBE_ROWS];
    float row[WIDTH];
    om_probe_rows(rows, name, ROWS);
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        assert_in_range(rows[k], 0, ROWS - 1);
        for (int j = 0; j < WIDTH; j++) {
            const float w = weights[(rows[k] + shift) % ROWS][j];
            row[j] = rounded ? to_bf16(w) : w;
        }
        om_probe_look(&p, k, name, row, WIDTH);
    }
    return p;
}

static void test_same_weights(void **state) {
    (void) state;
    const om_probe exact = look("blk.0.attn_q.weight", 0, false);
    const om_probe again = look("blk.0.attn_q.weight", 0, false);
    const om_probe rounded = look("blk.0.attn_q.weight", 0, true);
    assert_true(exact.known);
    assert_memory_equal(exact.sum, again.sum, sizeof exact.sum);
    assert_memory_not_equal(exact.sum, rounded.sum, sizeof exact.sum);
    assert_true(om_probe_agrees(&exact, &rounded));
}

static void test_other_weights(void **state) {
    (void) state;
    const om_probe p = look("blk.0.attn_q.weight", 0, false);
    for (int shift = 1; shift < ROWS; shift++) { /* rows in another order */
        const om_probe q = look("blk.0.attn_q.weight", shift, false);
        assert_false(om_probe_agrees(&p, &q));
    }
    const om_probe other_name = look("blk.1.attn_q.weight", 0, false);
    assert_false(om_probe_agrees(&p, &other_name));
    const om_probe unknown = { .known = false };
    assert_true(om_probe_agrees(&p, &unknown));
}

/* The random rows of one name are the same for ever: files hold what follows from them. */
static void test_rows_are_fixed(void **state) {
    (void) state;
    int64_t rows[OM_PROBE_ROWS];
    om_probe_rows(rows, "token_embd.weight", 49152);
    om_rng rng = om_rng_at(0, om_hash_name("token_embd.weight"));
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        assert_int_equal(rows[k], om_rng_u64(&rng) % 49152);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_weights),
        cmocka_unit_test(test_other_weights),
        cmocka_unit_test(test_rows_are_fixed),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
