/* The check of a written MLX model. It trusts nothing of the writing: the directory is opened with
 * the reader that any directory goes through, its tensors are compared with the plan, and one row
 * of each is made again and also read as numbers. */
#include <inttypes.h>
#include <string.h>

#include "artifact/inputs.h"
#include "artifact/mlx_write.h"
#include "base/mem.h"
#include "base/rng.h"

static om_status different(om_error *err, const om_mlx_plan_item *item, const char *what) {
    return om_fail(err, OM_E_INTERNAL,
                   "%s of %s is not what was planned, so the result was removed; please report "
                   "this",
                   what, item->path);
}

static om_status compare_entry(const om_mlx_plan_item *item, const om_hf_tensor *t, om_error *err) {
    if (t == NULL || strcmp(t->path, item->tensor->path) != 0) {
        return different(err, item, "the name");
    }
    if (item->bank < 0 && t->format != item->to) { /* banks: their rows and bytes say it */
        return different(err, item, "the type");
    }
    if (t->n_dims != item->tensor->n_dims || memcmp(t->ne, item->tensor->ne, sizeof t->ne) != 0) {
        return different(err, item, "the shape");
    }
    return OM_OK;
}

/* One row, made again and as the file has it. */
typedef struct row_pair {
    float *source, *again, *read; /* [n_in] */
    unsigned char *made;          /* the parts one behind the other */
    unsigned char *parts[OM_MLX_PARTS];
} row_pair;

static om_status new_pair(row_pair *p, const om_mlx_job *job, om_error *err) {
    const size_t n = (size_t) job->tensor->ne[0];
    int64_t row_bytes[OM_MLX_PARTS], total = 0;
    om_mlx_job_row_bytes(row_bytes, job);
    for (int k = 0; k < OM_MLX_PARTS; k++) {
        total += row_bytes[k];
    }
    p->source = om_calloc(n, sizeof *p->source);
    p->again = om_calloc(n, sizeof *p->again);
    p->read = om_calloc(n, sizeof *p->read);
    p->made = om_alloc_aligned((size_t) total);
    if (p->source == NULL || p->again == NULL || p->read == NULL || p->made == NULL) {
        return om_fail_nomem(err, n * sizeof *p->source);
    }
    unsigned char *at = p->made;
    for (int k = 0; k < OM_MLX_PARTS; k++) {
        p->parts[k] = at;
        at += row_bytes[k];
    }
    return OM_OK;
}

static void free_pair(row_pair *p) {
    om_free(p->source);
    om_free(p->again);
    om_free(p->read);
    om_free(p->made);
}

/* tensors: the item's first in the layout. */
static om_status compare_bytes(const row_pair *p, const om_mlx_job *job,
                               const om_mlx_plan_item *item, const om_mlx_tensor *tensors,
                               const om_hf *written, int64_t row, om_error *err) {
    int64_t row_bytes[OM_MLX_PARTS];
    om_mlx_job_row_bytes(row_bytes, job);
    for (int k = 0; k < OM_MLX_PARTS && row_bytes[k] > 0; k++) {
        const om_st_tensor *st = om_safetensors_find(om_hf_safetensors(written), tensors[k].name);
        if (st == NULL || st->dtype != tensors[k].st.dtype || st->bytes != tensors[k].st.bytes) {
            return different(err, item, "a tensor");
        }
        if (memcmp(st->data + row * row_bytes[k], p->parts[k], (size_t) row_bytes[k]) != 0) {
            return different(err, item, "a row");
        }
    }
    return OM_OK;
}

static om_status compare_row(const om_mlx_plan *plan, const om_mlx_plan_item *item,
                             const om_mlx_tensor *tensors, const om_hf *written,
                             const om_hf_tensor *t, uint64_t seed, om_error *err) {
    om_status status = OM_OK;
    float *importance = NULL;
    row_pair p = { 0 };
    const int64_t n_rows = t->ne[1] * item->experts;
    om_rng rng = om_rng_at(seed, om_hash_name(t->name));
    const int64_t row = (int64_t) (om_rng_u64(&rng) % (uint64_t) n_rows);
    OM_TRY(om_inputs_importance(&importance, item->stats, err));
    const om_mlx_job job = om_mlx_plan_job(plan, item, importance);
    OM_TRY(new_pair(&p, &job, err));
    OM_TRY(om_mlx_job_make(p.parts, p.source, &job, row, 1, err));
    OM_TRY(compare_bytes(&p, &job, item, tensors, written, row, err));
    om_mlx_job_read(p.again, p.parts, &job, 1);
    OM_TRY(om_hf_rows_f32(p.read, written, t, OM_HF_MLX, om_mlx_job_source_row(&job, row), 1, err));
    if (memcmp(p.again, p.read, (size_t) t->ne[0] * sizeof *p.read) != 0) {
        OM_TRY(different(err, item, "a row as read"));
    }
out:
    om_free(importance);
    free_pair(&p);
    return status;
}

static om_status compare_shards(const om_mlx_plan *plan, const om_hf *written, om_error *err) {
    const om_safetensors *st = om_hf_safetensors(written);
    const om_mlx_layout *layout = &plan->layout;
    if (om_safetensors_n_shards(st) != layout->n_shards ||
        om_safetensors_n(st) != layout->n_tensors ||
        om_hf_n_tensors(written) != om_hf_n_tensors(plan->hf)) {
        return om_fail(
            err, OM_E_INTERNAL, "the result has %d tensors in %d files, %d in %d planned",
            om_safetensors_n(st), om_safetensors_n_shards(st), layout->n_tensors, layout->n_shards);
    }
    for (int s = 0; s < layout->n_shards; s++) {
        if (om_safetensors_shard_bytes(st, s) != layout->shard_bytes[s]) {
            return om_fail(err, OM_E_INTERNAL, "%s has %" PRId64 " bytes, %" PRId64 " were planned",
                           om_safetensors_shard_path(st, s), om_safetensors_shard_bytes(st, s),
                           layout->shard_bytes[s]);
        }
    }
    return OM_OK;
}

om_status om_mlx_verify(const om_mlx_plan *plan, const char *path, uint64_t seed, om_error *err) {
    om_status status = OM_OK;
    om_hf *written = NULL;
    int first = 0;
    OM_TRY(om_hf_open(&written, path, err));
    OM_TRY(compare_shards(plan, written, err));
    for (int i = 0; i < plan->n_items; i++) {
        const om_hf_tensor *t = om_hf_find(written, plan->items[i].tensor->name);
        OM_TRY(compare_entry(&plan->items[i], t, err));
        OM_TRY(compare_row(plan, &plan->items[i], &plan->layout.tensors[first], written, t, seed,
                           err));
        while (first < plan->layout.n_tensors && plan->layout.tensors[first].item == i) {
            first++;
        }
    }
out:
    om_hf_free(written);
    return status;
}
