/* Scratch of the backward pass: blocks of sizes that differ a little are used again, so that an
 * expert's tokens, another number in every window, do not leave a block each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "calib/compute.h"

enum { SEED = 53, WIDTH = 512, MOST = 512, ROUNDS = 3000 };

static om_compute *open_compute(void) {
    om_compute *c = NULL;
    om_error err = { 0 };
    assert_int_equal(om_compute_new(&c, 1, &err), OM_OK);
    return c;
}

static void test_sizes_of_experts(void **state) {
    (void) state;
    om_compute *c = open_compute();
    om_rng rng = om_rng_at(SEED, 0);
    const float *blocks[ROUNDS];
    int n = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const int64_t tokens = 1 + (int64_t) (om_rng_u64(&rng) % MOST);
        float *p = om_compute_alloc(c, tokens * WIDTH);
        assert_non_null(p);
        assert_int_equal((uintptr_t) p % 64, 0);
        memset(p, 0, (size_t) (tokens * WIDTH) * sizeof *p);
        int at = 0;
        while (at < n && blocks[at] != p) {
            at++;
        }
        blocks[at] = p;
        n = at == n ? n + 1 : n;
        om_compute_release(c, p);
    }
    print_message("%d blocks for %d sizes\n", n, MOST);
    assert_true(n <= 8 * 9); /* eight to each doubling */
    om_compute_free(c);
}

/* What is in use is nobody else's, and counted once. */
static void test_in_use(void **state) {
    (void) state;
    om_compute *c = open_compute();
    float *a = om_compute_alloc(c, 1000), *b = om_compute_alloc(c, 1000);
    assert_true(a && b && (a + 1000 <= b || b + 1000 <= a));
    for (int i = 0; i < 1000; i++) {
        a[i] = 1;
        b[i] = 2;
    }
    assert_true(a[0] == 1 && a[999] == 1);
    om_compute_release(c, a);
    const int64_t peak = om_compute_peak_bytes(c);
    assert_true(peak >= 2 * 1000 * (int64_t) sizeof(float) && peak < 3 * 1000 * 4);
    assert_ptr_equal(om_compute_alloc(c, 999), a);
    assert_true(om_compute_peak_bytes(c) == peak);
    om_compute_release(c, a);
    om_compute_release(c, b);
    om_compute_release(c, NULL);
    for (int64_t n = 1; n < 70; n++) { /* the smallest */
        float *p = om_compute_alloc(c, n);
        assert_non_null(p);
        memset(p, 0, (size_t) n * sizeof *p);
        om_compute_release(c, p);
    }
    om_compute_free(c);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_of_experts),
        cmocka_unit_test(test_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
