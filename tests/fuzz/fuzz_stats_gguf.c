/* Any bytes as statistics or as an imatrix, GGUF or legacy: read, and when they pass, take the
 * importance of every matrix in every way a model could ask for it. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "profile/stats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ROW = 1 << 16 };

static void use_tensor(om_tensor_stats *t) {
    om_error err = { 0 };
    const int64_t n = t->n_in * t->experts;
    if (n < 1 || n > MAX_ROW) {
        return;
    }
    const int experts = n % 4 == 0 ? 4 : 1;
    const om_status status = om_stats_shape(t, n / experts, experts, &err);
    if (status != OM_OK && (status != OM_E_MISMATCH || err.text[0] == '\0')) {
        abort();
    }
    float *importance = om_calloc((size_t) t->n_in, sizeof *importance);
    for (int e = 0; importance != NULL && e < t->experts; e++) {
        if (!om_stats_importance(importance, t, e)) {
            continue;
        }
        for (int64_t j = 0; j < t->n_in; j++) {
            if (!(importance[j] >= 0.0f)) {
                abort();
            }
        }
    }
    om_free(importance);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_stats *s = NULL;
    om_error err = { 0 };
    unsigned char *copy = om_alloc_aligned(size > 0 ? size : 1); /* as a mapping would be */
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    const om_status status =
        om_stats_parse(&s, &(om_map){ .data = copy, .size = size }, "fuzz", &err);
    if ((status == OM_OK) != (s != NULL) || (status != OM_OK && err.text[0] == '\0')) {
        abort();
    }
    om_free(copy); /* nothing that was read may point into it */
    for (int i = 0; s != NULL && i < s->n_tensors; i++) {
        if (om_stats_find(s, s->tensors[i].name) != &s->tensors[i]) {
            abort();
        }
        use_tensor(&s->tensors[i]);
    }
    om_stats_free(s);
    return 0;
}
