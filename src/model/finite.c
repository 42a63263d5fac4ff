/* Which weight is NaN or infinite? Looked for when a model's output is not finite: one bad value
 * anywhere spoils all of it, and the output does not say where. */
#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/gguf.h"

static om_status check_tensor(const om_tensor *t, float *row, om_error *err) {
    om_status status = OM_OK;
    for (int64_t r = 0; r < om_tensor_n_rows(t); r++) {
        OM_TRY(om_tensor_rows_f32(row, t, r, 1, err));
        for (int64_t i = 0; i < t->ne[0]; i++) {
            if (!isfinite(row[i])) {
                return om_fail(err, OM_E_NUMERIC,
                               "%s: row %lld holds a weight that is not a finite number; the model "
                               "is damaged",
                               t->name, (long long) r);
            }
        }
    }
out:
    return status;
}

om_status om_model_check_finite(const om_model *model, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    int64_t widest = 0;
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const int64_t n = om_model_tensor(model, i)->ne[0];
        widest = n > widest ? n : widest;
    }
    float *row = om_calloc((size_t) widest + 1, sizeof *row);
    if (row == NULL) {
        return om_fail_nomem(err, (size_t) widest * sizeof *row);
    }
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        om_error skipped = { 0 }; /* a type that ggml cannot dequantize */
        OM_TRY(om_check_cancel(env, err));
        if (check_tensor(om_model_tensor(model, i), row, &skipped) == OM_E_NUMERIC) {
            *err = skipped;
            status = OM_E_NUMERIC;
            goto out;
        }
    }
out:
    om_free(row);
    return status;
}
