/* Our decisions for every preset against those of llama-quantize (tests/golden/presets, made by
 * tests/oracle/compare_presets.py from the real tool), with and without an importance matrix. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/plans.h"
#include "alloc/presets.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/roles.h"

enum { MAX_UNITS = 1024 };

/* tests/golden/presets, found from this file's own path. */
static const char *golden_dir(void) {
    static char dir[1024];
    static const char here[] = __FILE__;
    const char *unit = strstr(here, "unit/alloc/test_presets.c");
    assert_non_null(unit);
    (void) snprintf(dir, sizeof dir, "%.*sgolden/presets", (int) (unit - here), here);
    return dir;
}

typedef struct golden {
    om_profile profile;
    om_unit units[MAX_UNITS];
    const om_format *types[MAX_UNITS];
    int n_presets, n_tensors;
} golden;

static void add_tensor(golden *g, const char *line) {
    om_unit *u = &g->units[g->profile.n_units++];
    assert_true(g->profile.n_units <= MAX_UNITS);
    *u = (om_unit){ .source = om_format_by_name("bf16") };
    long long n_out, n_in;
    assert_int_equal(sscanf(line, "tensor %63s %lld %lld %d", u->name, &n_out, &n_in, &u->experts),
                     4);
    u->n_out = n_out;
    u->n_in = n_in;
    u->params = n_out * n_in * u->experts;
    om_tensor_role(u->role, &u->layer, u->name);
}

static void compare_types(golden *g, const char *list, const char *what) {
    int at = 0;
    char copy[64];
    while (*list != '\0') {
        size_t n = strcspn(list, " ");
        assert_true(n < sizeof copy);
        memcpy(copy, list, n);
        copy[n] = '\0';
        char *star = strchr(copy, '*');
        int count = star != NULL ? atoi(star + 1) : 1;
        if (star != NULL) {
            *star = '\0';
        }
        for (; count > 0; count--, at++) {
            assert_true(at < g->profile.n_units);
            if (g->types[at] != om_format_by_name(copy)) {
                fail_msg("%s: %s is %s here, %s in llama-quantize", what, g->units[at].name,
                         g->types[at]->name, copy);
            }
        }
        list += n + (list[n] == ' ');
    }
    assert_int_equal(at, g->profile.n_units);
    g->n_tensors += at;
}

static void check_preset(golden *g, const char *line, const char *file) {
    char preset[32], with[16], what[128];
    int skip = 0;
    om_error err = { 0 };
    assert_int_equal(sscanf(line, "preset %31s %15s %n", preset, with, &skip), 2);
    for (int imatrix = 0; imatrix < 2; imatrix++) {
        if (strcmp(with, imatrix ? "plain" : "imatrix") == 0) {
            continue;
        }
        (void) snprintf(what, sizeof what, "%.40s %s %s", file, preset,
                        imatrix ? "imatrix" : "plain");
        assert_int_equal(om_preset_raw_types(g->types, &g->profile, preset, imatrix != 0, &err),
                         OM_OK);
        compare_types(g, line + skip, what);
        g->n_presets++;
    }
}

static void check_golden(const char *path, const char *file, bool derive) {
    char *text = NULL;
    size_t size = 0;
    om_error err = { 0 };
    golden *g = om_calloc(1, sizeof *g);
    assert_non_null(g);
    assert_int_equal(om_file_read(&text, &size, path, 1 << 24, &err), OM_OK);
    g->profile.units = g->units;
    for (char *line = text, *end; *line != '\0'; line = end + 1) {
        end = line + strcspn(line, "\n");
        assert_int_equal(*end, '\n');
        *end = '\0';
        if (strncmp(line, "model ", 6) == 0) {
            om_profile *p = &g->profile;
            assert_int_equal(sscanf(line, "model %63s %d %d %d %d", p->arch, &p->hparams.n_layer,
                                    &p->hparams.n_head, &p->hparams.n_head_kv,
                                    &p->hparams.n_expert),
                             5);
            if (derive) {
                memset(&p->hparams, 0, sizeof p->hparams);
            }
        } else if (strncmp(line, "tensor ", 7) == 0) {
            add_tensor(g, line);
        } else {
            check_preset(g, line, file);
        }
    }
    assert_int_equal(g->n_presets, 50);
    assert_true(g->n_tensors > 0);
    om_free(text);
    om_free(g);
}

static void check_all(bool derive) {
    int n = 0;
    DIR *dir = opendir(golden_dir());
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strstr(entry->d_name, ".txt") != NULL) {
            char *path = om_path_join(golden_dir(), entry->d_name);
            check_golden(path, entry->d_name, derive);
            om_free(path);
            n++;
        }
    }
    closedir(dir);
    assert_true(n >= 10);
}

static void test_equals_llama_quantize(void **state) {
    (void) state;
    check_all(false);
}

/* Profiles without hparams: what the shapes say is enough for all of these. */
static void test_derived_from_shapes(void **state) {
    (void) state;
    check_all(true);
}

static void test_unknown(void **state) {
    (void) state;
    om_profile p = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_preset_types(NULL, &p, "Q4_K_X", &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "Q4_K_M"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_llama_quantize),
        cmocka_unit_test(test_derived_from_shapes),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
