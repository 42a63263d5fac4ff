/* Runs that see and change what routers choose, on a tiny model of every kind of router: scores and
 * choices as a callback of our own sees them under libllama's names, margins from a sort of those,
 * and swaps against the same swap made by hand in the plain forward pass. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "assert_close.h"
#include "base/rng.h"
#include "calib/forward.h"
#include "calib/reroute.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { SEED = 31, T = 12, E = 8, K = 3, LAYERS = 3, V = 288 };

typedef struct kind {
    const char *arch;
    int groups;
    int first;      /* layer of the first router */
    bool logarithm; /* the scale of its margins */
} kind;

static const kind kinds[] = {
    { "qwen3moe", 0, 0, true }, { "llama", 0, 0, true },    /* Mixtral */
    { "olmoe", 0, 0, true },    { "gpt-oss", 0, 0, false }, /* chooses by logits */
    { "dots1", 0, 1, false },                               /* sigmoid and a bias on the choice */
    { "dots1", 4, 1, false }, /* the same among the experts of two of four groups */
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static char *dir;
static int32_t tokens[2][T];

static const char *model_of(const kind *k) {
    char name[64];
    (void) snprintf(name, sizeof name, "%s-%d.gguf", k->arch, k->groups);
    return om_tmpdir_path(dir, name);
}

/* ---- a callback of our own ---- */

typedef struct witness {
    float scores[LAYERS][T][E]; /* what was sorted, the last of its names */
    int32_t chosen[LAYERS][T][K];
    int seen[LAYERS];
    int swap_layer, swap_token; /* -1: none */
} witness;

/* "NAME…-LAYER" → LAYER, else -1. */
static int layer_of(const struct ggml_tensor *t, const char *name) {
    const char *dash = strrchr(t->name, '-');
    if (strncmp(t->name, name, strlen(name)) != 0 || !dash) {
        return -1;
    }
    const int layer = atoi(dash + 1);
    return layer < LAYERS ? layer : -1;
}

/* Experts of a token by their scores, the best first; equal scores do not occur. */
static void rank(int out[E], const float scores[E]) {
    for (int e = 0; e < E; e++) {
        int at = 0;
        for (int o = 0; o < E; o++) {
            at += scores[o] > scores[e] || (scores[o] == scores[e] && o < e);
        }
        out[at] = e;
    }
}

static int32_t *choice_of(const struct ggml_tensor *t, int token) {
    return (int32_t *) (void *) ((char *) t->data + (size_t) token * t->nb[1]);
}

static bool watch(struct ggml_tensor *t, bool ask, void *ud) {
    witness *w = ud;
    const int scores = layer_of(t, "ffn_moe_probs"), topk = layer_of(t, "ffn_moe_topk");
    if (ask || (scores < 0 && topk < 0)) {
        return scores >= 0 || topk >= 0;
    }
    if (scores >= 0) { /* then biased, then masked: the last one is sorted */
        assert_int_equal(ggml_nelements(t), T * E);
        memcpy(w->scores[scores], t->data, sizeof w->scores[scores]);
        return true;
    }
    if (topk == w->swap_layer) {
        int order[E];
        rank(order, w->scores[topk][w->swap_token]);
        choice_of(t, w->swap_token)[K - 1] = order[K];
    }
    for (int i = 0; i < T; i++) {
        memcpy(w->chosen[topk][i], choice_of(t, i), sizeof w->chosen[topk][i]);
    }
    w->seen[topk]++;
    return true;
}

/* ---- a bench: both ways to run a model, open at the same time ---- */

typedef struct bench {
    const kind *k;
    om_compute *compute;
    om_reroute *r;
    om_forward *plain; /* watched by w */
    witness w;
} bench;

static bench benches[N_KINDS];

static void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fail_msg("%s", err->text);
    }
}

static om_forward *open_forward(const bench *b, void *watcher) {
    om_forward *f = NULL;
    om_error err = { 0 };
    const om_forward_setup setup = { .model_path = model_of(b->k),
                                     .n_tokens = T,
                                     .callback = watcher ? watch : NULL,
                                     .ud = watcher };
    must(om_forward_open(&f, &setup, b->compute, NULL, &err), &err);
    return f;
}

static void open_bench(bench *b, const kind *k, int n_threads) {
    om_error err = { 0 };
    b->k = k;
    must(om_compute_new(&b->compute, n_threads, &err), &err);
    must(om_reroute_open(&b->r, model_of(k), T, b->compute, NULL, &err), &err);
}

static void close_bench(bench *b) {
    om_forward_close(b->plain); /* last opened, first closed: each has a hook in libllama's log */
    om_reroute_close(b->r);
    om_compute_free(b->compute);
}

static const float *run(bench *b, const int32_t *window, const bool *swap) {
    om_error err = { 0 };
    const float *logits = NULL;
    must(om_reroute_run(&logits, b->r, window, swap, &err), &err);
    return logits;
}

/* The plain forward pass, b->w watching it and swapping for a token of a layer; -1: none. */
static const float *watched_run(bench *b, const int32_t *window, int layer, int token) {
    om_error err = { 0 };
    const float *logits = NULL;
    b->w = (witness){ .swap_layer = layer, .swap_token = token };
    must(om_forward_run(&logits, b->plain, window, &err), &err);
    return logits;
}

static int set_up(void **state) {
    (void) state;
    om_rng rng = om_rng_at(SEED, 0);
    dir = om_tmpdir_new();
    for (int i = 0; i < 2 * T; i++) {
        tokens[i / T][i % T] = 3 + (int32_t) (om_rng_u64(&rng) % 280);
    }
    for (int i = 0; i < N_KINDS; i++) {
        const om_tiny_options o = { .arch = kinds[i].arch,
                                    .n_layer = LAYERS,
                                    .n_embd = 64,
                                    .n_ff = 32,
                                    .n_expert = E,
                                    .n_expert_used = K,
                                    .n_expert_groups = kinds[i].groups,
                                    .n_vocab = V };
        om_tiny_model_write_with(model_of(&kinds[i]), &o);
        open_bench(&benches[i], &kinds[i], 1);
        benches[i].plain = open_forward(&benches[i], &benches[i].w);
    }
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    for (int i = N_KINDS - 1; i >= 0; i--) {
        close_bench(&benches[i]);
    }
    om_tmpdir_remove(dir);
    return 0;
}

static int n_routers(const kind *k) {
    return LAYERS - k->first;
}

/* ---- what it sees ---- */

static void check_margins(const bench *b) {
    const double *margins = om_reroute_margins(b->r);
    int given = 0;
    for (int r = 0; r < n_routers(b->k); r++) {
        for (int t = 0; t < T; t++) {
            int order[E];
            const float *s = b->w.scores[b->k->first + r][t];
            rank(order, s);
            for (int k = 0; k < K; k++) { /* the choice is that of the scores */
                assert_int_equal(b->w.chosen[b->k->first + r][t][k], order[k]);
            }
            const double last = (double) s[order[K - 1]], next = (double) s[order[K]];
            const double want = !isfinite(next)   ? (double) NAN
                                : b->k->logarithm ? log(last) - log(next)
                                                  : last - next;
            assert_close(margins[r * T + t], want, 1e-12, 1e-12);
            given += isfinite(want);
        }
    }
    assert_true(given > n_routers(b->k) * T / 2);
}

static void test_margins(void **state) {
    (void) state;
    for (int i = 0; i < N_KINDS; i++) {
        bench *b = &benches[i];
        for (int window = 0; window < 3; window++) { /* and back to the first one */
            const float *logits = watched_run(b, tokens[window % 2], -1, 0);
            assert_memory_equal(run(b, tokens[window % 2], NULL), logits, sizeof(float) * T * V);
            assert_int_equal(om_reroute_n_routers(b->r), n_routers(b->k));
            assert_int_equal(om_reroute_vocab(b->r), V);
            for (int l = 0; l < LAYERS; l++) {
                assert_int_equal(b->w.seen[l], l >= b->k->first);
            }
            check_margins(b);
        }
    }
}

/* No swap, and no callback at all: the same bits. */
static void test_no_swap(void **state) {
    (void) state;
    static const bool none[LAYERS * T];
    for (int i = 0; i < N_KINDS; i++) {
        om_error err = { 0 };
        const float *plain = NULL;
        om_forward *f = open_forward(&benches[i], NULL);
        must(om_forward_run(&plain, f, tokens[0], &err), &err);
        assert_memory_equal(run(&benches[i], tokens[0], NULL), plain, sizeof(float) * T * V);
        assert_memory_equal(run(&benches[i], tokens[0], none), plain, sizeof(float) * T * V);
        om_forward_close(f);
    }
}

static void test_threads(void **state) {
    (void) state;
    bench two = { 0 };
    bool swap[LAYERS * T] = { [2 * T + 1] = true };
    open_bench(&two, &kinds[0], 2);
    for (int swaps = 0; swaps < 2; swaps++) {
        const bool *s = swaps ? swap : NULL;
        const float *logits = run(&benches[0], tokens[1], s);
        assert_memory_equal(run(&two, tokens[1], s), logits, sizeof(float) * T * V);
    }
    assert_memory_equal(om_reroute_margins(two.r), om_reroute_margins(benches[0].r),
                        sizeof(double) * LAYERS * T);
    close_bench(&two);
}

/* ---- what it changes ---- */

/* The first position at which the rows differ; T: none. */
static int first_change(const float *a, const float *b) {
    int t = 0;
    while (t < T && memcmp(a + t * V, b + t * V, sizeof(float) * V) == 0) {
        t++;
    }
    return t;
}

static void check_swap(bench *b, const float *plain, int router, int token) {
    const int layer = b->k->first + router;
    bool swap[LAYERS * T] = { false };
    int order[E];
    (void) watched_run(b, tokens[0], -1, 0);
    rank(order, b->w.scores[layer][token]);
    const float *by_hand = watched_run(b, tokens[0], layer, token);
    assert_int_equal(b->w.chosen[layer][token][K - 1], order[K]);
    swap[router * T + token] = true;
    const float *logits = run(b, tokens[0], swap);
    assert_memory_equal(logits, by_hand, sizeof(float) * T * V);
    if (first_change(logits, plain) != token) {
        fail_msg("%s, router %d: a swap at token %d changes the logits from %d on", b->k->arch,
                 router, token, first_change(logits, plain));
    }
    if (router < n_routers(b->k) - 1) { /* what follows attends to it */
        assert_memory_not_equal(logits + (T - 1) * V, plain + (T - 1) * V, sizeof(float) * V);
    }
}

static void test_swap(void **state) {
    (void) state;
    static float plain[T * V];
    for (int i = 0; i < N_KINDS; i++) {
        bench *b = &benches[i];
        memcpy(plain, run(b, tokens[0], NULL), sizeof plain);
        for (int r = 0; r < n_routers(&kinds[i]); r++) {
            int t = 5; /* a token that has a margin */
            while (t < T - 1 && !isfinite(om_reroute_margins(b->r)[r * T + t])) {
                t++;
            }
            assert_true(t < T - 1);
            check_swap(b, plain, r, t);
        }
        /* Nothing of it stays. */
        assert_memory_equal(run(b, tokens[0], NULL), plain, sizeof plain);
    }
}

static void test_dense(void **state) {
    (void) state;
    const kind dense = { "dense", 0, 0, false };
    bench b = { 0 };
    om_tiny_model_write_with(
        model_of(&dense),
        &(om_tiny_options){ .arch = "llama", .n_embd = 64, .n_ff = 32, .n_vocab = V });
    open_bench(&b, &dense, 1);
    (void) run(&b, tokens[0], NULL);
    assert_int_equal(om_reroute_n_routers(b.r), 0);
    close_bench(&b);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_margins), cmocka_unit_test(test_no_swap),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_swap),
        cmocka_unit_test(test_dense),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
