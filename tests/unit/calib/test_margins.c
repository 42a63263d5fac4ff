/* What om_backward_margins says of a weight, against what changing the weight does: a forward pass
 * with writable weights is perturbed by small random signs, a callback reads the routers' scores,
 * and the mean squared change of the margins is the prediction's. Also: how far each weight
 * reaches, that the tape stays whole, and that threads change nothing. */
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
#include "base/mem.h"
#include "base/rng.h"
#include "calib/backward.h"
#include "calib/forward.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { SEED = 41, T = 24, E = 8, K = 2, LAYERS = 3, V = 288, MOST = LAYERS };

static const double weights[MOST] = { 0.5, 1.5, 0.25 }; /* of the routers */

static char *dir;
static int32_t tokens[T];

static int set_up(void **state) {
    (void) state;
    om_rng rng = om_rng_at(SEED, 0);
    dir = om_tmpdir_new();
    for (int i = 0; i < T; i++) {
        tokens[i] = 3 + (int32_t) (om_rng_u64(&rng) % 280);
    }
    return 0;
}

static int tear_down(void **state) {
    (void) state;
    om_tmpdir_remove(dir);
    return 0;
}

static void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fail_msg("%s", err->text);
    }
}

/* ---- a bench: a tape and a pass whose weights can be changed ---- */

typedef struct bench {
    char path[256];
    om_model *model;
    om_compute *compute;
    om_fisher *fisher;
    om_tape tape;
    om_forward *recorded, *changed;
    int n_routers;
    float scores[LAYERS][T][E]; /* of the changed pass; by layer */
    const char *wanted;         /* the weight to be changed … */
    struct ggml_tensor *found;  /* … once it has been seen */
} bench;

static int weight_of(void *ud, const char *name) {
    return om_fisher_find(ud, name);
}

static bool watch(struct ggml_tensor *t, bool ask, void *ud) {
    bench *b = ud;
    const char *dash = strrchr(t->name, '-');
    const bool scores = strncmp(t->name, "ffn_moe_probs", 13) == 0 && dash;
    if (ask && b->wanted && t->src[0] && strcmp(t->src[0]->name, b->wanted) == 0) {
        b->found = t->src[0];
    }
    if (!ask && scores) { /* with a bias or a mask: the last of its names is sorted */
        memcpy(b->scores[atoi(dash + 1)], t->data, sizeof b->scores[0]);
    }
    return scores;
}

static bench *open_bench(const om_tiny_options *o, int n_threads) {
    bench *b = calloc(1, sizeof *b);
    om_error err = { 0 };
    assert_non_null(b);
    static int n; /* the file of an open bench stays as it is */
    char name[32];
    (void) snprintf(name, sizeof name, "%d.gguf", n++);
    (void) snprintf(b->path, sizeof b->path, "%s", om_tmpdir_path(dir, name));
    om_tiny_model_write_with(b->path, o);
    must(om_model_open(&b->model, b->path, &err), &err);
    must(om_compute_new(&b->compute, n_threads, &err), &err);
    must(om_fisher_new(&b->fisher, b->model, &err), &err);
    b->tape.compute = b->compute;
    b->tape.weight_of = weight_of;
    b->tape.ud = b->fisher;
    om_forward_setup setup = {
        .model_path = b->path, .n_tokens = T, .callback = om_tape_callback, .ud = &b->tape
    };
    must(om_forward_open(&b->recorded, &setup, b->compute, NULL, &err), &err);
    return b;
}

static void close_bench(bench *b) {
    om_tape_release(&b->tape);
    om_forward_close(b->changed); /* last opened, first closed: each has a hook in libllama's log */
    om_forward_close(b->recorded);
    om_fisher_free(b->fisher);
    om_compute_free(b->compute);
    om_model_free(b->model);
    free(b);
}

static const float *record(bench *b) {
    const float *logits = NULL;
    om_error err = { 0 };
    om_tape_reset(&b->tape);
    must(om_forward_run(&logits, b->recorded, tokens, &err), &err);
    must(b->tape.err.status, &b->tape.err);
    return logits;
}

static void follow(bench *b, int n_routers, uint64_t first) {
    om_error err = { 0 };
    must(om_backward_margins(&b->tape, weights, n_routers, b->fisher, SEED, first, &err), &err);
}

static om_fisher_weight *find(const bench *b, const char *name) {
    const int i = om_fisher_find(b->fisher, name);
    assert_true(i >= 0);
    return &b->fisher->weights[i];
}

static double sum_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

/* ---- the truth ---- */

typedef struct margin {
    int last, next;
    double value;
} margin;

/* Of a router by a plain search; the scale is the caller's. */
static margin margin_of(const float *s, bool logarithm) {
    int order[E];
    for (int e = 0; e < E; e++) {
        int at = 0;
        for (int o = 0; o < E; o++) {
            at += s[o] > s[e] || (s[o] == s[e] && o < e);
        }
        order[at] = e;
    }
    margin m = { order[K - 1], order[K], 0 };
    const double last = (double) s[m.last], next = (double) s[m.next];
    m.value = logarithm ? log(last) - log(next) : last - next;
    return m;
}

static void run_changed(bench *b) {
    const float *logits = NULL;
    om_error err = { 0 };
    must(om_forward_run(&logits, b->changed, tokens, &err), &err);
}

/* Σ over routers of weight · mean over tokens of (change of the margin)², over draws of signs. */
static double measure(bench *b, const char *name, bool logarithm, int draws) {
    static margin before[LAYERS][T];
    const int first = LAYERS - b->n_routers;
    om_error err = { 0 };
    const om_forward_setup setup = {
        .model_path = b->path, .n_tokens = T, .writable = true, .callback = watch, .ud = b
    };
    b->wanted = name;
    b->found = NULL;
    if (!b->changed) {
        must(om_forward_open(&b->changed, &setup, b->compute, NULL, &err), &err);
    }
    run_changed(b);
    assert_non_null(b->found);
    for (int i = 0; i < LAYERS * T; i++) {
        before[i / T][i % T] = margin_of(b->scores[i / T][i % T], logarithm);
    }
    const int64_t n = ggml_nelements(b->found);
    float *w = b->found->data, *keep = malloc((size_t) n * sizeof *keep);
    assert_non_null(keep);
    memcpy(keep, w, (size_t) n * sizeof *keep);
    double total = 0, square = 0;
    int flipped = 0;
    for (int64_t i = 0; i < n; i++) {
        square += (double) keep[i] * (double) keep[i];
    }
    const double eps = 2e-4 * sqrt(square / (double) n);
    for (int d = 0; d < draws; d++) {
        om_rng rng = om_rng_at(SEED, 1000 + (uint64_t) d);
        for (int64_t i = 0; i < n; i++) {
            w[i] = keep[i] + (float) (om_rng_u64(&rng) >> 63 ? eps : -eps);
        }
        run_changed(b);
        for (int l = first; l < LAYERS; l++) {
            for (int t = 0; t < T; t++) {
                const margin m = margin_of(b->scores[l][t], logarithm), *was = &before[l][t];
                if (!isfinite(was->value)) { /* the other groups cannot be chosen */
                    continue;
                }
                flipped += m.last != was->last || m.next != was->next;
                const double dm = m.value - was->value;
                total += weights[l - first] * dm * dm / T / draws;
            }
        }
    }
    memcpy(w, keep, (size_t) n * sizeof *keep);
    free(keep);
    if (flipped > 0) {
        fail_msg("%s: a step moved %d choices; take another seed", name, flipped);
    }
    return total / eps / eps;
}

static void check_truth(const om_tiny_options *o, bool logarithm, const char *const *names,
                        int n_names) {
    enum { FOLLOWED = 60, DRAWS = 30 };
    bench *b = open_bench(o, 1);
    (void) record(b);
    b->n_routers = b->tape.n_routes;
    for (int i = 0; i < FOLLOWED; i++) {
        follow(b, b->n_routers, (uint64_t) (i * LAYERS * T));
    }
    for (int i = 0; i < n_names; i++) {
        const om_fisher_weight *w = find(b, names[i]);
        const double rows = sum_of(w->margin_rows, w->experts * w->n_out);
        const double cols = sum_of(w->margin_cols, w->experts * w->n_in);
        const double predicted = rows / T / FOLLOWED;
        const double measured = measure(b, names[i], logarithm, DRAWS);
        print_message("%s %-26s predicted %.5g, measured %.5g: %+.1f %%\n", o->arch, names[i],
                      predicted, measured, 100 * (predicted / measured - 1));
        assert_close(cols, rows, 0, 1e-4);
        assert_true(measured > 0);
        assert_close(predicted, measured, 0, 0.15);
    }
    close_bench(b);
}

static om_tiny_options options(const char *arch) {
    return (om_tiny_options){ .arch = arch,
                              .n_layer = LAYERS,
                              .n_embd = 64,
                              .n_ff = 32,
                              .n_expert = E,
                              .n_expert_used = K,
                              .n_vocab = V };
}

static void test_truth_softmax(void **state) {
    (void) state;
    static const char *const names[] = { "blk.0.attn_v.weight", "blk.0.ffn_down_exps.weight",
                                         "token_embd.weight", "blk.2.attn_output.weight" };
    const om_tiny_options o = options("qwen3moe");
    check_truth(&o, true, names, 4);
}

static void test_truth_groups(void **state) {
    (void) state;
    static const char *const names[] = { "blk.0.ffn_up.weight", "blk.1.ffn_gate_exps.weight" };
    om_tiny_options o = options("dots1");
    o.n_expert_groups = 4;
    check_truth(&o, false, names, 2);
}

static void test_truth_logits(void **state) {
    (void) state;
    static const char *const names[] = { "blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight" };
    const om_tiny_options o = options("gpt-oss");
    check_truth(&o, false, names, 2);
}

/* ---- how far a weight reaches ---- */

/* Attention and embedding lie before the router of their layer, the experts behind it. */
static double expected_reach(const om_tensor *t, int first) {
    double sum = 0;
    const bool behind = strncmp(t->role, "ffn_", 4) == 0 && t->layer >= first;
    for (int l = t->layer < 0 ? 0 : t->layer + behind; l < LAYERS; l++) {
        sum += l >= first ? weights[l - first] : 0;
    }
    return strcmp(t->role, "output") == 0 ? 0 : sum;
}

static void check_reach(const om_tiny_options *o, int first) {
    bench *b = open_bench(o, 1);
    (void) record(b);
    assert_int_equal(b->tape.n_routes, LAYERS - first);
    follow(b, LAYERS - first, 0);
    for (int i = 0; i < b->fisher->n_weights; i++) {
        const om_fisher_weight *w = &b->fisher->weights[i];
        const double want = expected_reach(w->tensor, first);
        if (fabs(*w->reach - want) > 1e-12) {
            fail_msg("%s %s reaches %g, expected %g", o->arch, w->name, *w->reach, want);
        }
        assert_int_equal(sum_of(w->margin_rows, w->experts * w->n_out) > 0, want > 0);
        assert_int_equal(sum_of(w->margin_cols, w->experts * w->n_in) > 0, want > 0);
    }
    close_bench(b);
}

static void test_reach(void **state) {
    (void) state;
    static const char *const archs[] = { "qwen3moe", "llama", "qwen2moe", "olmoe", "gpt-oss" };
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        const om_tiny_options o = options(archs[i]);
        check_reach(&o, 0);
    }
    om_tiny_options o = options("dots1");
    check_reach(&o, 1);
    o = options("qwen3moe");
    o.tied = true; /* of its two uses only the embedding lies before a router */
    check_reach(&o, 0);
}

/* A router without weight is as if it were not there. */
static void test_routers_of_no_interest(void **state) {
    (void) state;
    const om_tiny_options o = options("qwen3moe");
    bench *b = open_bench(&o, 1);
    (void) record(b);
    follow(b, 1, 0);
    assert_close(*find(b, "blk.0.attn_q.weight")->reach, weights[0], 0, 0);
    assert_close(*find(b, "blk.1.attn_q.weight")->reach, 0, 0, 0);
    assert_close(find(b, "blk.0.ffn_up_exps.weight")->margin_rows[0], 0, 0, 0);
    close_bench(b);
}

/* ---- what it leaves alone ---- */

static void backward(bench *b, const float *logits, float *const *gradients) {
    om_error err = { 0 };
    float *g = om_compute_alloc(b->compute, (int64_t) V * T);
    assert_non_null(g);
    for (int i = 0; i < V * T; i++) {
        g[i] = logits[i] / 7;
    }
    must(om_backward(&b->tape, g, b->fisher, gradients, &err), &err);
}

static float **room_for_gradients(const om_fisher *f) {
    float **out = calloc((size_t) f->n_weights, sizeof *out);
    assert_non_null(out);
    for (int i = 0; i < f->n_weights; i++) {
        const om_fisher_weight *w = &f->weights[i];
        out[i] = calloc((size_t) (w->experts * w->n_out * w->n_in), sizeof **out);
        assert_non_null(out[i]);
    }
    return out;
}

static void free_gradients(float **g, int n) {
    for (int i = 0; i < n; i++) {
        free(g[i]);
    }
    free((void *) g);
}

/* Everything but the margins' own sums. */
static void assert_same_sums(const om_fisher_weight *a, const om_fisher_weight *b) {
    const size_t n_out = (size_t) (a->experts * a->n_out) * sizeof(double),
                 n_in = (size_t) (a->experts * a->n_in) * sizeof(double),
                 experts = (size_t) a->experts * sizeof(double);
    assert_memory_equal(a->rows, b->rows, n_out);
    assert_memory_equal(a->cols, b->cols, n_in);
    assert_memory_equal(a->in_sum2, b->in_sum2, n_in);
    assert_memory_equal(a->seen, b->seen, (size_t) a->n_out * sizeof(double));
    assert_memory_equal(a->count, b->count, experts);
    assert_memory_equal(a->router_weight, b->router_weight, experts);
    assert_memory_equal(a->windows, b->windows, experts);
}

static void check_tape_stays(const om_tiny_options *o) {
    bench *b[2];
    float **gradients[2];
    for (int i = 0; i < 2; i++) {
        b[i] = open_bench(o, 1);
        gradients[i] = room_for_gradients(b[i]->fisher);
        const float *logits = record(b[i]);
        for (int k = 0; i == 1 && k < 2; k++) {
            follow(b[i], LAYERS, 0);
        }
        backward(b[i], logits, gradients[i]);
    }
    for (int i = 0; i < b[0]->fisher->n_weights; i++) {
        const om_fisher_weight *w = &b[0]->fisher->weights[i];
        assert_memory_equal(gradients[0][i], gradients[1][i],
                            (size_t) (w->experts * w->n_out * w->n_in) * sizeof(float));
        assert_same_sums(w, &b[1]->fisher->weights[i]);
        assert_true(sum_of(w->rows, w->experts * w->n_out) > 0);
        assert_true(sum_of(w->margin_rows, w->experts * w->n_out) == 0);
    }
    for (int i = 1; i >= 0; i--) {
        free_gradients(gradients[i], b[i]->fisher->n_weights);
        close_bench(b[i]);
    }
}

static void test_tape_stays(void **state) {
    (void) state;
    om_tiny_options o = options("qwen3moe");
    o.tied = true;
    check_tape_stays(&o);
    o = options("dots1");
    o.n_expert_groups = 4;
    check_tape_stays(&o);
}

/* The same signs, twice the sums; other signs, others. */
static void test_signs(void **state) {
    (void) state;
    const om_tiny_options o = options("olmoe");
    bench *b = open_bench(&o, 1);
    (void) record(b);
    const om_fisher_weight *w = find(b, "blk.1.attn_k.weight");
    follow(b, LAYERS, 0);
    const double once = w->margin_rows[3], reach = *w->reach;
    follow(b, LAYERS, 0);
    assert_true(w->margin_rows[3] == 2 * once);
    assert_true(*w->reach == reach); /* not added up */
    follow(b, LAYERS, LAYERS * T);
    assert_true(fabs(w->margin_rows[3] - 3 * once) > 1e-3 * once);
    close_bench(b);
}

/* Every allocation failing in turn: nothing is left behind, and the tape can be walked again. */
static void test_out_of_memory(void **state) {
    (void) state;
    const om_tiny_options o = options("qwen3moe");
    bench *b = open_bench(&o, 1);
    om_status status = OM_E_NOMEM;
    int failed = 0;
    (void) record(b);
    for (long n = 1; n < 2000 && status != OM_OK; n++) {
        om_error err = { 0 };
        om_mem_fail_at(n);
        status = om_backward_margins(&b->tape, weights, LAYERS, b->fisher, SEED, 0, &err);
        om_mem_fail_at(0);
        assert_true(status == OM_OK || status == OM_E_NOMEM);
        assert_false(b->fisher->margins);
        failed += status != OM_OK;
        for (int i = 0; i < b->tape.n_roots; i++) {
            assert_null(b->tape.roots[i].grad);
        }
        for (int i = 0; i < b->fisher->n_weights; i++) {
            assert_int_equal(b->fisher->weights[i].n_uses, 0);
        }
    }
    assert_int_equal(status, OM_OK);
    assert_true(failed > 10);
    close_bench(b);
}

static void test_threads(void **state) {
    (void) state;
    const om_tiny_options o = options("qwen3moe");
    bench *b[2];
    for (int i = 0; i < 2; i++) {
        b[i] = open_bench(&o, 1 + i);
        (void) record(b[i]);
        follow(b[i], LAYERS, 0);
    }
    for (int i = 0; i < b[0]->fisher->n_weights; i++) {
        const om_fisher_weight *x = &b[0]->fisher->weights[i], *y = &b[1]->fisher->weights[i];
        assert_memory_equal(x->margin_rows, y->margin_rows,
                            (size_t) (x->experts * x->n_out) * sizeof(double));
        assert_memory_equal(x->margin_cols, y->margin_cols,
                            (size_t) (x->experts * x->n_in) * sizeof(double));
        assert_true(*x->reach == *y->reach);
    }
    close_bench(b[1]);
    close_bench(b[0]);
}

static void test_dense(void **state) {
    (void) state;
    const om_tiny_options o = { .arch = "qwen3", .n_embd = 64, .n_ff = 32, .n_vocab = V };
    bench *b = open_bench(&o, 1);
    (void) record(b);
    assert_int_equal(b->tape.n_routes, 0);
    assert_int_equal(b->tape.n_rankings, 0);
    follow(b, LAYERS, 0);
    for (int i = 0; i < b->fisher->n_weights; i++) {
        const om_fisher_weight *w = &b->fisher->weights[i];
        assert_true(w->margins == 0 && *w->reach == 0);
        assert_true(sum_of(w->rows, w->n_out) == 0);
    }
    close_bench(b);
}

int main(void) {
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth_softmax),
        cmocka_unit_test(test_truth_groups),
        cmocka_unit_test(test_truth_logits),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_routers_of_no_interest),
        cmocka_unit_test(test_tape_stays),
        cmocka_unit_test(test_signs),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_dense),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
