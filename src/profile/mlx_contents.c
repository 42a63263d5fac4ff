/* The GGUF's tensors under mlx-lm's names: which stay dense, and how long the headers will be. */
#include "profile/mlx_contents.h"

#include <string.h>

#include "base/mem.h"
#include "hf/family.h"
#include "mlx/layout.h"
#include "model/candidates.h"

static om_status check_family(const om_family **out, const om_model *model, om_error *err) {
    const char *arch = om_model_arch(model);
    *out = om_family_by_arch(arch, om_model_u64(model, "%s.expert_count", 0) > 0);
    if (*out == NULL) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: models of the family %s cannot be written for MLX; known are %.300s",
                       om_model_path(model), arch, om_family_list());
    }
    return OM_OK;
}

static void add_dense(om_mlx_contents *out, const om_tensor *t) {
    om_fixed *f = &out->fixed[out->n_fixed++];
    const size_t n = strlen(t->name);
    memcpy(f->name, t->name, n < sizeof f->name ? n : sizeof f->name - 1);
    f->bytes = 2 * om_tensor_params(t);
}

om_status om_mlx_contents_of(om_mlx_contents *out, const om_model *model, om_error *err) {
    om_status status = OM_OK;
    const int n = om_model_n_tensors(model);
    const om_family *family = NULL;
    int n_items = 0;
    om_mlx_item *items = om_calloc((size_t) n, sizeof *items);
    char(*paths)[OM_HF_PATH] = om_calloc((size_t) n, sizeof *paths);
    out->fixed = om_calloc((size_t) n, sizeof *out->fixed);
    if (items == NULL || paths == NULL || out->fixed == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) n * sizeof *paths));
    }
    OM_TRY(check_family(&family, model, err));
    for (int i = 0; i < n; i++) {
        const om_tensor *t = om_model_tensor(model, i);
        if (om_family_mlx_name(paths[n_items], family, t->name)) {
            om_mlx_item *item = &items[n_items];
            *item = (om_mlx_item){ .path = paths[n_items], .n_dims = t->n_dims };
            memcpy(item->ne, t->ne, sizeof item->ne);
            item->format = om_format_by_name("bf16");
            n_items++;
            if (!t->may_quantize) {
                add_dense(out, t);
            }
        } else if (t->may_quantize) {
            OM_TRY(om_fail(err, OM_E_UNSUPPORTED, "%s: mlx-lm's %s has no place for the tensor %s",
                           om_model_path(model), om_family_model_type(family), t->name));
        }
    }
    out->metadata_bytes = om_mlx_metadata_bytes(items, n_items);
    out->known = true;
out:
    om_free(items);
    om_free(paths);
    return status;
}

om_status om_mlx_smallest_bytes(int64_t *out, const om_model *model, om_error *err) {
    om_status status = OM_OK;
    om_mlx_contents contents = { 0 };
    OM_TRY(om_mlx_contents_of(&contents, model, err));
    int64_t bytes = contents.metadata_bytes;
    for (int i = 0; i < contents.n_fixed; i++) {
        bytes += contents.fixed[i].bytes;
    }
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const om_tensor *t = om_model_tensor(model, i);
        const om_format *types[OM_CANDIDATES_MAX];
        int n = 0;
        if (t->may_quantize) {
            OM_TRY(om_candidates(types, &n, OM_CANDIDATES_MAX, t, NULL, OM_FOR_MLX, err));
            const om_format *smallest =
                types[0] == t->format ? om_format_by_name("bf16") : types[0];
            bytes += om_format_size(smallest, t->ne[0], om_tensor_n_rows(t));
        }
    }
    *out = bytes;
out:
    om_free(contents.fixed);
    return status;
}
