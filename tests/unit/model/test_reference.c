/* On the reference model, against numbers that stock tools print. Skipped (77) when it is absent:
 * OPTIMUM_SHARED must hold text/ and, as GGUF, models/ref-dense.gguf (or OPTIMUM_TEST_MODELS the
 * GGUF).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/memory.h"
#include "model/tokens.h"
#include "tmpdir.h"

enum { SKIPPED = 77 };

static char model_path[4096], valid_path[4096], calib_path[4096];

static bool locate(void) {
    const char *folder = getenv("OPTIMUM_TEST_MODELS"),
               *shared = om_shared_path("models/ref-dense.gguf");
    if (folder != NULL) {
        snprintf(model_path, sizeof model_path, "%s/ref-dense.gguf", folder);
    } else {
        snprintf(model_path, sizeof model_path, "%s", shared != NULL ? shared : "");
    }
    const char *valid = om_shared_path("text/valid.txt"), *calib = om_shared_path("text/calib.txt");
    snprintf(valid_path, sizeof valid_path, "%s", valid != NULL ? valid : "");
    snprintf(calib_path, sizeof calib_path, "%s", calib != NULL ? calib : "");
    return access(model_path, R_OK) == 0 && valid_path[0] != '\0' && calib_path[0] != '\0';
}

/* llama-perplexity -c 512 -f valid.txt: "calculating perplexity over 598 chunks"; -c 256 -f
 * calib.txt: 2398. */
static void test_chunks(void **state) {
    (void) state;
    om_windows w;
    om_error err = { 0 };
    const char *texts[] = { valid_path };
    assert_int_equal(om_windows_read(&w, model_path, texts, 1, 512, 0, NULL, &err), OM_OK);
    assert_int_equal(w.n_windows, 598);
    assert_false(w.bos);
    om_windows_release(&w);
    texts[0] = calib_path;
    assert_int_equal(om_windows_read(&w, model_path, texts, 1, 256, 0, NULL, &err), OM_OK);
    assert_int_equal(w.n_windows, 2398);
    om_windows_release(&w);
}

/* llama.cpp at 4096 tokens, F16: "size = 32.00 MiB (4096 cells, 8 layers)"; at q8_0 17.00 MiB. */
static void test_memory(void **state) {
    (void) state;
    om_model *model = NULL;
    om_memory m;
    om_error err = { 0 };
    assert_int_equal(om_model_open(&model, model_path, &err), OM_OK);
    assert_int_equal(om_memory_of(&m, model, NULL, &err), OM_OK);
    assert_int_equal(om_memory_kv_bytes(&m, 4096, "f16"), 32 << 20);
    assert_int_equal(om_memory_kv_bytes(&m, 4096, "q8_0"), 17 << 20);
    assert_true(fabs((double) m.compute_bytes - 34.0 * 1048576) < 200000);
    om_memory_release(&m);
    om_model_free(model);
}

int main(void) {
    if (!locate()) {
        fprintf(stderr, "skipped: no ref-dense.gguf (OPTIMUM_SHARED, OPTIMUM_TEST_MODELS)\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
