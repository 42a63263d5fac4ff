/* Graph nodes -> choices, on nodes made by hand: names as a scheduler changes them, lists with
 * strides, lists of the last layer, and graphs that are not understood. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include "eval/choices.h"

enum { N_BLOCK = 8, N_EXPERTS = 5, N_USED = 2 };

static char warnings[2048];

static void record(void *ud, om_log_level level, const char *line) {
    (void) ud;
    if (level == OM_LOG_WARN) {
        const size_t n = strlen(warnings);
        (void) snprintf(warnings + n, sizeof(warnings) - n, "%s\n", line);
    }
}

typedef struct graph {
    struct ggml_context *ctx;
    ggml_backend_t backend;
    ggml_backend_buffer_t buffer;
    om_choice_watch *watch;
} graph;

static void start(graph *g) {
    const om_env env = { .log = record };
    om_error err = { 0 };
    warnings[0] = '\0';
    *g = (graph){ .ctx = ggml_init((struct ggml_init_params){
                      .mem_size = 64 * ggml_tensor_overhead(), .no_alloc = true }),
                  .backend = ggml_backend_cpu_init() };
    assert_int_equal(om_choice_watch_new(&g->watch, N_BLOCK, &env, &err), OM_OK);
}

static void finish(graph *g) {
    om_choice_watch_free(g->watch);
    ggml_backend_buffer_free(g->buffer);
    ggml_backend_free(g->backend);
    ggml_free(g->ctx);
}

/* A product of a stack with that name; its list is a view of all experts sorted: [K, n] of [E, n].
 */
static struct ggml_tensor *product(graph *g, const char *name, int n_used, int n) {
    struct ggml_tensor *stack = ggml_new_tensor_3d(g->ctx, GGML_TYPE_F32, 4, 4, N_EXPERTS);
    struct ggml_tensor *x = ggml_new_tensor_3d(g->ctx, GGML_TYPE_F32, 4, 1, n);
    struct ggml_tensor *sorted = ggml_new_tensor_2d(g->ctx, GGML_TYPE_I32, N_EXPERTS, n);
    struct ggml_tensor *list = ggml_view_4d(g->ctx, sorted, n_used, n, 1, 1, sorted->nb[1],
                                            sorted->nb[2], sorted->nb[3], 0);
    ggml_set_name(stack, name);
    return ggml_mul_mat_id(g->ctx, stack, x, list);
}

/* Expert k of token t is (t + k + add) mod E. */
static void fill(struct ggml_tensor *node, int add) {
    struct ggml_tensor *sorted = node->src[2]->view_src;
    for (int t = 0; t < sorted->ne[1]; t++) {
        int32_t row[N_EXPERTS];
        for (int k = 0; k < N_EXPERTS; k++) {
            row[k] = (t + k + add) % N_EXPERTS;
        }
        ggml_backend_tensor_set(sorted, row, (size_t) t * sorted->nb[1], sizeof(row));
    }
}

static void allocate(graph *g) {
    g->buffer = ggml_backend_alloc_ctx_tensors(g->ctx, g->backend);
    assert_non_null(g->buffer);
}

/* As llama.cpp does: ask, and show what was asked for. Returns whether it was. */
static bool show(graph *g, struct ggml_tensor *node) {
    if (!om_choice_watch_see(g->watch, node, true)) {
        return false;
    }
    assert_true(om_choice_watch_see(g->watch, node, false));
    return true;
}

static om_choices end(graph *g) {
    om_error err = { 0 };
    assert_int_equal(om_choice_watch_end(g->watch, &err), OM_OK);
    return om_choice_watch_get(g->watch);
}

static void one_node_of_a_layer_speaks(void **state) {
    (void) state;
    graph g;
    start(&g);
    struct ggml_tensor *up = product(&g, "blk.2.ffn_up_exps.weight", N_USED, 3);
    struct ggml_tensor *gate = product(&g, "blk.2.ffn_gate_exps.weight", N_USED, 3);
    /* as a scheduler names its copy of a weight that lies elsewhere */
    struct ggml_tensor *next = product(&g, "CUDA0#blk.13.ffn_up_exps.weight#0", N_USED, 3);
    struct ggml_tensor *next_down = product(&g, "CUDA0#blk.13.ffn_down_exps.weight#1", N_USED, 3);
    struct ggml_tensor *elsewhere = product(&g, "experts.weight", N_USED, 3);
    struct ggml_tensor *sum = ggml_add(g.ctx, up, gate);
    ggml_set_name(sum, "blk.2.ffn_up_exps.weight");
    allocate(&g);
    fill(up, 0);
    fill(next, 3);
    for (int pass = 0; pass < 2; pass++) { /* the second graph is the same */
        om_choice_watch_begin(g.watch, 3, 0);
        assert_true(show(&g, up));
        assert_false(show(&g, gate) || show(&g, sum) || show(&g, elsewhere));
        assert_true(show(&g, next));
        assert_false(show(&g, next_down));
        const om_choices c = end(&g);
        assert_int_equal(c.n_layers, 2);
        assert_int_equal(c.n_experts, N_EXPERTS);
        assert_int_equal(c.n_used, N_USED);
        assert_true(c.layers[0] == 2 && c.layers[1] == 13);
        for (int t = 0; t < 3; t++) {
            for (int k = 0; k < N_USED; k++) {
                assert_int_equal(c.ids[t * N_USED + k], (t + k) % N_EXPERTS);
                assert_int_equal(c.ids[c.layer_stride + t * N_USED + k], (t + k + 3) % N_EXPERTS);
            }
        }
    }
    assert_string_equal(warnings, "");
    finish(&g);
}

static void last_layers_may_drop_tokens(void **state) {
    (void) state;
    graph g;
    start(&g);
    struct ggml_tensor *all = product(&g, "blk.0.ffn_up_exps.weight", N_USED, 5);
    struct ggml_tensor *some = product(&g, "blk.1.ffn_up_exps.weight", N_USED, 2);
    allocate(&g);
    fill(all, 0);
    fill(some, 1);
    om_choice_watch_begin(g.watch, 5, 3);
    assert_true(show(&g, all) && show(&g, some));
    const om_choices c = end(&g);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.ids[3 * N_USED], 3);
    assert_int_equal(c.ids[c.layer_stride + 3 * N_USED], 1); /* its own token 0 */
    assert_int_equal(c.ids[c.layer_stride + 4 * N_USED + 1], 3);
    om_choice_watch_begin(g.watch, 5, 5); /* no logits: nothing to compare */
    assert_true(show(&g, all));
    assert_int_equal(end(&g).n_layers, 0);
    assert_string_equal(warnings, "");
    finish(&g);
}

static void odd_graphs_are_told_once(void **state) {
    (void) state;
    static const char *const words[] = { "uses 3 of 5", "4 lists", "chose expert 5",
                                         "after layer 1", "did not say" };
    for (int i = 0; i < 5; i++) {
        graph g;
        start(&g);
        struct ggml_tensor *first = product(&g, "blk.1.ffn_up_exps.weight", N_USED, 3);
        struct ggml_tensor *second =
            product(&g, i == 3 ? "blk.0.ffn_up_exps.weight" : "blk.2.ffn_up_exps.weight",
                    i == 0 ? 3 : N_USED, i == 1 ? 4 : 3);
        allocate(&g);
        fill(first, 0);
        fill(second, 0);
        if (i == 2) {
            const int32_t bad = N_EXPERTS;
            ggml_backend_tensor_set(second->src[2]->view_src, &bad, 0, sizeof(bad));
        }
        for (int pass = 0; pass < 3; pass++) {
            om_choice_watch_begin(g.watch, 3, 0);
            (void) show(&g, first);
            if (i < 4 || pass == 0) {
                (void) show(&g, second);
            }
            assert_int_equal(end(&g).n_layers, i == 4 && pass == 0 ? 2 : 0);
        }
        const char *told = strstr(warnings, words[i]);
        if (told == NULL || strstr(told + 1, "routing") != NULL) {
            fail_msg("expected \"%s\" once, found:\n%s", words[i], warnings);
        }
        finish(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_node_of_a_layer_speaks),
        cmocka_unit_test(last_layers_may_drop_tokens),
        cmocka_unit_test(odd_graphs_are_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
