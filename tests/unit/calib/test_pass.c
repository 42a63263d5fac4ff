/* The pass over windows: sums do not depend on interruptions; checkpoints are only taken from the
 * same work and undamaged; cancelling leaves a current one; failing allocations leave nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "calib/pass.h"
#include "tiny_model.h"
#include "tmpdir.h"

enum { T = 8, N_WINDOWS = 4 };

static const char key[65] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static const char other_key[65] =
    "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static char *dir;
static om_model *model;
static char model_path[512];

static om_windows text(void) {
    static int32_t tokens[N_WINDOWS * T];
    for (int i = 0; i < N_WINDOWS * T; i++) {
        tokens[i] = 3 + i * 7 % 250;
    }
    return (om_windows){ .tokens = tokens, .n_windows = N_WINDOWS, .n_tokens = T, .n_vocab = 288 };
}

static om_fisher *new_fisher(void) {
    om_fisher *f = NULL;
    om_error err = { 0 };
    assert_int_equal(om_fisher_new(&f, model, &err), OM_OK);
    return f;
}

static void assert_same(const om_fisher *a, const om_fisher *b) {
    for (int i = 0; i < a->n_weights; i++) {
        const om_fisher_weight *x = &a->weights[i], *y = &b->weights[i];
        assert_true(*x->count == *y->count);
        assert_memory_equal(x->rows, y->rows, (size_t) x->n_out * sizeof(double));
        assert_memory_equal(x->cols, y->cols, (size_t) x->n_in * sizeof(double));
        assert_memory_equal(x->in_sum2, y->in_sum2, (size_t) x->n_in * sizeof(double));
        assert_memory_equal(x->seen, y->seen, (size_t) x->n_out * sizeof(double));
    }
}

/* Says "cancel" from the given progress report on. */
typedef struct stopper {
    int at, seen;
} stopper;

static void count_progress(void *ud, const char *stage, double done, double total,
                           const char *unit) {
    (void) stage, (void) total, (void) unit;
    ((stopper *) ud)->seen = (int) done;
}

static bool stop_now(void *ud) {
    return ((const stopper *) ud)->seen >= ((const stopper *) ud)->at;
}

static om_status run(om_fisher *f, om_pass_cost *cost, const char *checkpoint, const char *with_key,
                     stopper *s, om_error *err) {
    const om_windows w = text();
    const om_pass_options o = {
        .model_path = model_path, .seed = 5, .checkpoint = checkpoint, .key = with_key
    };
    const om_env env = {
        .n_threads = 1, .progress = count_progress, .cancelled = stop_now, .ud = s
    };
    return om_pass_run(f, cost, &w, &o, &env, err);
}

static void test_resume(void **state) {
    (void) state;
    om_pass_cost cost;
    om_error err = { 0 };
    stopper never = { .at = 1000 };
    om_fisher *whole = new_fisher();
    assert_int_equal(run(whole, &cost, NULL, key, &never, &err), OM_OK);
    assert_true(cost.tape_bytes > 0 && cost.predicted_peak_bytes > cost.tape_bytes);
    assert_true(whole->weights[1].rows[0] > 0);

    const char *checkpoint = om_tmpdir_path(dir, "resume");
    stopper soon = { .at = 2 };
    om_fisher *part = new_fisher();
    assert_int_equal(run(part, &cost, checkpoint, key, &soon, &err), OM_E_CANCELLED);
    om_fisher_free(part);

    om_fisher *rest = new_fisher();
    om_error err2 = { 0 };
    assert_int_equal(run(rest, &cost, checkpoint, key, &never, &err2), OM_OK);
    assert_int_equal(cost.windows_resumed, 2);
    assert_same(rest, whole);
    om_fisher_free(rest);

    rest = new_fisher(); /* another key: from the start */
    assert_int_equal(run(rest, &cost, checkpoint, other_key, &never, &err2), OM_OK);
    assert_int_equal(cost.windows_resumed, 0);
    assert_same(rest, whole);
    om_fisher_free(rest);
    om_fisher_free(whole);
}

/* Sums of windows add up: two calls of om_pass_one with drawn labels are not a requirement, but
 * equal seeds must draw equal labels. */
static void test_drawn_labels(void **state) {
    (void) state;
    const om_windows w = text();
    double loss[3];
    const uint64_t seeds[3] = { 1, 1, 2 };
    for (int i = 0; i < 3; i++) {
        om_error err = { 0 };
        om_fisher *f = new_fisher();
        const om_env env = { .n_threads = 1 };
        assert_int_equal(
            om_pass_one(f, NULL, &loss[i], w.tokens, NULL, T, model_path, seeds[i], &env, &err),
            OM_OK);
        om_fisher_free(f);
    }
    assert_true(loss[0] == loss[1]);
    assert_true(loss[0] != loss[2]);
}

static void test_limit(void **state) {
    (void) state;
    const om_windows w = text();
    const om_pass_options o = { .model_path = model_path, .max_ram_bytes = 1 << 20 };
    const om_env env = { .n_threads = 1 };
    om_fisher *f = new_fisher();
    om_pass_cost cost;
    om_error err = { 0 };
    assert_int_equal(om_pass_run(f, &cost, &w, &o, &env, &err), OM_E_LIMIT);
    assert_non_null(strstr(err.text, "--max-ram 1"));
    om_fisher_free(f);
}

/* ---- checkpoints ---- */

static void test_checkpoint(void **state) {
    (void) state;
    om_error err = { 0 };
    om_fisher *f = new_fisher(), *g = new_fisher(), *empty = new_fisher();
    for (int i = 0; i < f->n_weights; i++) {
        f->weights[i].rows[0] = 0.1 * (i + 1);
        f->weights[i].cols[f->weights[i].n_in - 1] = 1.0 / 3.0;
        f->weights[i].in_sum2[3] = 5e-300;
        f->weights[i].seen[1] = 2;
        *f->weights[i].count = 77;
    }
    const char *path = om_tmpdir_path(dir, "checkpoint");
    int done = -1;
    assert_int_equal(om_fisher_load(g, &done, path, key, &err), OM_OK); /* no such file */
    assert_int_equal(done, 0);
    assert_int_equal(om_fisher_save(f, path, key, 9, &err), OM_OK);
    assert_int_equal(om_fisher_load(g, &done, path, key, &err), OM_OK);
    assert_int_equal(done, 9);
    assert_same(f, g);
    assert_int_equal(om_fisher_load(empty, &done, path, other_key, &err), OM_OK);
    assert_int_equal(done, 0);

    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char bytes[4 << 20];
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_true(size > 1000 && size < sizeof bytes - 1);
    const size_t sizes[] = { size, size - 1, size + 1, 0 };
    for (int k = 0; k < 4; k++) { /* one bit turned, cut, longer, empty */
        bytes[size / 2] ^= k == 0;
        om_tmpdir_write(dir, "checkpoint", bytes, sizes[k]);
        bytes[size / 2] ^= k == 0;
        done = -1;
        om_error none = { 0 };
        assert_int_equal(om_fisher_load(empty, &done, path, key, &none), OM_OK);
        assert_int_equal(done, 0);
        assert_int_equal(none.status, OM_OK); /* no stale message that a later failure would show */
        assert_true(*empty->weights[0].count == 0 && empty->weights[0].rows[0] == 0);
    }
    om_fisher_free(f);
    om_fisher_free(g);
    om_fisher_free(empty);
}

static void test_find(void **state) {
    (void) state;
    om_fisher *f = new_fisher();
    for (int i = 0; i < f->n_weights; i++) {
        assert_int_equal(om_fisher_find(f, f->weights[i].name), i);
    }
    assert_int_equal(om_fisher_find(f, "blk.0.attn_norm.weight"), -1);
    assert_int_equal(om_fisher_find(f, ""), -1);
    om_fisher_free(f);
}

/* ---- failures ---- */

/* Every allocation of ours fails once: a clean status each time (leaks show under the sanitizer).
 */
static void test_no_memory(void **state) {
    (void) state;
    const om_windows w = text();
    const om_env env = { .n_threads = 1 };
    int failures = 0;
    for (long n = 1; n < 100000; n += 1 + n / 40) {
        om_fisher *f = new_fisher();
        om_error err = { 0 };
        om_mem_fail_at(n);
        const om_status status =
            om_pass_one(f, NULL, NULL, w.tokens, NULL, T, model_path, 1, &env, &err);
        om_mem_fail_at(0);
        om_fisher_free(f);
        if (status == OM_OK) {
            break;
        }
        assert_int_equal(status, OM_E_NOMEM);
        failures++;
    }
    assert_true(failures > 20);
}

static void test_no_model(void **state) {
    (void) state;
    const om_windows w = text();
    const om_env env = { .n_threads = 1 };
    om_fisher *f = new_fisher();
    om_error err = { 0 };
    const char *path = om_tmpdir_write(dir, "broken.gguf", "GGUF", 4);
    assert_int_equal(om_pass_one(f, NULL, NULL, w.tokens, NULL, T, path, 1, &env, &err),
                     OM_E_FORMAT);
    om_fisher_free(f);
}

static int set_up(void **state) {
    (void) state;
    om_error err = { 0 };
    dir = om_tmpdir_new();
    snprintf(model_path, sizeof model_path, "%s/tiny.gguf", dir);
    om_tiny_model_write_with(
        model_path, &(om_tiny_options){
                        .arch = "llama", .n_embd = 32, .n_ff = 48, .n_vocab = 288, .tied = true });
    return om_model_open(&model, model_path, &err) == OM_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void) state;
    om_model_free(model);
    om_tmpdir_remove(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),   cmocka_unit_test(test_drawn_labels),
        cmocka_unit_test(test_limit),    cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_find),     cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_no_model),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
