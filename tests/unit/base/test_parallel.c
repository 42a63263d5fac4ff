/* base/parallel: every item exactly once, fixed chunk bounds, and enough small loops to meet the
 * races (run under the thread sanitizer as well). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "base/mem.h"
#include "base/parallel.h"

enum { MAX_ITEMS = 5000 };

typedef struct tally {
    unsigned char hits[MAX_ITEMS]; /* written by whoever takes the item */
    int64_t n, grain;
    int n_workers;
    atomic_int n_bad, n_chunks;
} tally;

static void count(void *ctx, int64_t first, int64_t last, int worker) {
    tally *t = ctx;
    const int64_t want = first + t->grain < t->n ? first + t->grain : t->n;
    if (first % t->grain != 0 || last != want || worker < 0 || worker >= t->n_workers) {
        atomic_fetch_add(&t->n_bad, 1);
    }
    atomic_fetch_add(&t->n_chunks, 1);
    for (int64_t i = first; i < last; i++) {
        t->hits[i]++;
    }
}

static void check_loop(om_pool *pool, int64_t n, int64_t grain) {
    tally *t = om_calloc(1, sizeof *t);
    assert_non_null(t);
    t->n = n;
    t->grain = grain;
    t->n_workers = om_pool_size(pool);
    om_parallel_for(pool, n, grain, count, t);
    assert_int_equal(atomic_load(&t->n_bad), 0);
    assert_int_equal(atomic_load(&t->n_chunks), (n + grain - 1) / grain);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(t->hits[i], 1);
    }
    om_free(t);
}

static void test_every_item_once(void **state) {
    (void) state;
    static const int threads[] = { 0, 1, 2, 3, 8, 33 };
    static const int64_t sizes[] = { 0, 1, 2, 7, 64, 1000, MAX_ITEMS };
    static const int64_t grains[] = { 1, 3, 64, 1000, INT64_C(1) << 60 };
    for (size_t k = 0; k < sizeof threads / sizeof threads[0]; k++) {
        om_pool *pool = om_pool_new(threads[k]);
        assert_int_equal(om_pool_size(pool), threads[k] < 2 ? 1 : threads[k]);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            for (size_t j = 0; j < sizeof grains / sizeof grains[0] - 1; j++) {
                check_loop(pool, sizes[i], grains[j]);
            }
        }
        om_pool_free(pool);
    }
}

typedef struct sums {
    const int64_t *data;
    int64_t partial[64]; /* per chunk */
    int64_t grain;
} sums;

static void add_up(void *ctx, int64_t first, int64_t last, int worker) {
    sums *s = ctx;
    (void) worker;
    int64_t sum = 0;
    for (int64_t i = first; i < last; i++) {
        sum += s->data[i];
    }
    s->partial[first / s->grain] = sum;
}

/* The description of each loop must be the one the workers see, with and without sleeping. */
static void many_small_loops(int n_threads, int n_loops, bool with_pauses) {
    int64_t data[256];
    om_pool *pool = om_pool_new(n_threads);
    for (int loop = 0; loop < n_loops; loop++) {
        sums s = { .data = data, .grain = 1 + loop % 7 };
        const int64_t n = 2 + loop % 199;
        int64_t want = 0, got = 0;
        for (int64_t i = 0; i < n; i++) {
            data[i] = loop * 31 + i;
            want += data[i];
        }
        if (n / s.grain >= 63) {
            s.grain = n / 63 + 1;
        }
        om_parallel_for(pool, n, s.grain, add_up, &s);
        for (int64_t c = 0; c * s.grain < n; c++) {
            got += s.partial[c];
        }
        assert_int_equal(got, want);
        if (with_pauses && loop % 50 == 0) {
            nanosleep(&(struct timespec){ .tv_nsec = 300000 }, NULL);
        }
    }
    om_pool_free(pool);
}

static void test_many_small_loops(void **state) {
    (void) state;
    many_small_loops(2, 20000, true);
    many_small_loops(4, 2000, true);
}

static void test_create_and_free(void **state) {
    (void) state;
    for (int i = 0; i < 50; i++) {
        om_pool *pool = om_pool_new(1 + i % 5);
        if (i % 2 == 0) {
            check_loop(pool, 10, 1);
        }
        om_pool_free(pool);
    }
    om_mem_fail_at(1);
    om_pool *pool = om_pool_new(4);
    assert_null(pool); /* and NULL still works */
    check_loop(pool, 10, 3);
}

static void bad_grain(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    *(int64_t *) ctx += last - first;
}

static void test_odd_arguments(void **state) {
    (void) state;
    int64_t n = 0;
    om_parallel_for(NULL, 5, 0, bad_grain, &n);
    assert_int_equal(n, 5);
    om_parallel_for(NULL, 5, -3, bad_grain, &n);
    assert_int_equal(n, 10);
    om_parallel_for(NULL, -5, 1, bad_grain, &n);
    assert_int_equal(n, 10);
    n = 0;
    om_parallel_for(NULL, INT64_MAX, INT64_MAX - 1, bad_grain, &n); /* no overflow in the bounds */
    assert_int_equal(n, INT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_many_small_loops),
        cmocka_unit_test(test_create_and_free),
        cmocka_unit_test(test_odd_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
