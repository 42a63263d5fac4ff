/* Any bytes as a GGUF: open, and when they pass for a model, use all of it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/candidates.h"
#include "model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ROW = 1 << 16, MAX_TENSORS = 64 };

static void use_tensor(const om_tensor *t) {
    om_error err = { 0 };
    const om_format *types[OM_CANDIDATES_MAX];
    int n = 0;
    if (om_candidates(types, &n, OM_CANDIDATES_MAX, t, NULL, OM_FOR_BOTH, &err) != OM_OK ||
        n == 0) {
        abort();
    }
    if (t->ne[0] > MAX_ROW || om_tensor_n_rows(t) < 1) {
        return;
    }
    float *row = om_calloc((size_t) t->ne[0], sizeof *row);
    if (row != NULL) { /* the last row: its end is the end of the tensor */
        om_status status = om_tensor_rows_f32(row, t, om_tensor_n_rows(t) - 1, 1, &err);
        if (status != OM_OK && status != OM_E_UNSUPPORTED) {
            abort();
        }
    }
    om_free(row);
}

/* The output header of the same model must have the promised size and be readable again. */
static void use_writer(const om_model *m) {
    om_error err = { 0 };
    int n = om_model_n_tensors(m);
    const om_format **types = om_calloc((size_t) n, sizeof *types);
    unsigned char *header = NULL;
    size_t size = 0;
    om_gguf_record record = { 0 };
    for (int i = 0; types != NULL && i < n; i++) {
        types[i] = om_model_tensor(m, i)->format;
    }
    if (types != NULL && om_gguf_metadata(&header, &size, m, types, &record, &err) == OM_OK &&
        (int64_t) size != om_gguf_metadata_bytes(m)) {
        abort();
    }
    om_free(header);
    om_free((void *) types);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_model *m = NULL;
    om_error err = { 0 };
    void *copy = om_alloc_aligned(size > 0 ? size : 1); /* as a mapping would be */
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    om_status status = om_model_open_bytes(&m, copy, size, "input", &err);
    if (status == OM_OK) {
        for (int i = 0; i < om_model_n_tensors(m) && i < MAX_TENSORS; i++) {
            use_tensor(om_model_tensor(m, i));
        }
        (void) om_model_u64_at(m, "%s.attention.head_count_kv", 3, 0);
        (void) om_model_f64(m, "%s.rope.freq_base", 0);
        (void) om_model_str(m, "general.name", "");
        use_writer(m);
    } else if (err.text[0] == '\0' || m != NULL) {
        abort(); /* a failure must say what is wrong and leave nothing behind */
    }
    om_model_free(m);
    om_free(copy);
    return 0;
}
