/* plan -> GGUF: header, then tensor after tensor in file order; and the check of the result.
 *
 * The record in the header holds the predicted loss of what was really written, which is known only
 * at the end: the header (whose length never varies) is written twice, before and after the data.
 * The file has a temporary name until it is complete and synced (base/file.h).
 *
 * The check trusts nothing of the writing: it opens the file with the reader that any GGUF goes
 * through, compares the table with the plan, and quantizes one row of each tensor again. */
#include "artifact/gguf_write.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "artifact/inputs.h"
#include "artifact/rowquant.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

static om_status write_to_file(void *ud, const void *data, size_t n, om_error *err) {
    return om_atomic_write(ud, data, n, err);
}

static om_rowquant_job job_of(const om_plan *plan, const om_plan_item *item,
                              const float *importance) {
    const bool known = item->stats != NULL && item->stats->rows != NULL && plan->stats_tokens > 0;
    return (om_rowquant_job){
        .tensor = item->tensor,
        .to = item->to,
        .experts = item->experts,
        .importance = importance,
        .rows = known ? item->stats->rows : NULL,
        .cols = known ? item->stats->cols : NULL,
        .tokens = plan->stats_tokens,
    };
}

/* Requantizing adds one rounding to another: said once, with the first tensor as the example. */
static void warn_requantized(const om_plan *plan, const om_env *env) {
    int n = 0, first = -1;
    for (int i = 0; i < plan->n_items; i++) {
        const om_plan_item *item = &plan->items[i];
        if (item->to != item->tensor->format && item->tensor->format->block > 1) {
            first = first < 0 ? i : first;
            n++;
        }
    }
    if (n > 0) {
        om_log(env, OM_LOG_WARN,
               "%d tensors are already quantized in the source (%s is %s): the losses add up; a "
               "full-precision source gives a better file",
               n, plan->items[first].tensor->name, plan->items[first].tensor->format->name);
    }
}

static om_status write_header(om_atomic *file, const om_plan *plan, const om_gguf_record *record,
                              om_error *err) {
    om_status status = OM_OK;
    unsigned char *header = NULL;
    size_t size = 0;
    OM_TRY(om_gguf_metadata(&header, &size, plan->model, plan->types, record, err));
    if ((int64_t) size != plan->metadata_bytes) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "the header has %zu bytes, %" PRId64 " were planned",
                       size, plan->metadata_bytes));
    }
    if (fseek(file->file, 0, SEEK_SET) != 0) {
        OM_TRY(om_fail_errno(err, "%s: cannot go back to the header", file->path));
    }
    OM_TRY(om_atomic_write(file, header, size, err));
out:
    om_free(header);
    return status;
}

static om_status write_tensors(double *total_nats, om_plan *plan, om_rowquant *q, om_error *err) {
    om_status status = OM_OK;
    float *importance = NULL;
    double total = 0;
    for (int i = 0; i < plan->n_items; i++) {
        om_plan_item *item = &plan->items[i];
        OM_TRY(om_inputs_importance(&importance, item->stats, err));
        const om_rowquant_job job = job_of(plan, item, importance);
        OM_TRY(om_rowquant_tensor(&item->nats, q, plan->model, &job, plan->alignment, err));
        total += item->nats;
        om_free(importance);
        importance = NULL;
    }
    OM_TRY(om_rowquant_flush(q, err));
    *total_nats = total;
out:
    om_free(importance);
    return status;
}

om_status om_plan_write(double *total_nats, char sha256[65], om_plan *plan,
                        const om_gguf_record *record, const char *path, const om_env *env,
                        om_error *err) {
    om_status status = OM_OK;
    om_rowquant *q = NULL;
    om_atomic file = { 0 };
    om_gguf_record final = *record;
    double total = (double) NAN;

    OM_TRY(om_disk_check(path, plan->file_bytes, err));
    warn_requantized(plan, env);
    OM_TRY(om_atomic_open(&file, path, err));
    OM_TRY(om_rowquant_new(&q, (om_sink){ write_to_file, &file }, env, err));
    om_rowquant_progress(q, plan->metadata_bytes, plan->file_bytes);
    OM_TRY(write_header(&file, plan, record, err));
    OM_TRY(write_tensors(&total, plan, q, err));
    if (isfinite(total)) {
        total += record->routing_nats;
        final.predicted_nats = total;
        OM_TRY(write_header(&file, plan, &final, err));
    }
    /* checked under its temporary name: a file that has the right name is right */
    if (fflush(file.file) != 0) {
        OM_TRY(om_fail_errno(err, "cannot write %s", path));
    }
    OM_TRY(om_plan_verify(plan, file.tmp, record->seed, err));
    OM_TRY(om_sha256_file(sha256, file.tmp, env, err));
    OM_TRY(om_atomic_commit(&file, err));
    *total_nats = total;
out:
    om_atomic_abort(&file);
    om_rowquant_free(q);
    return status;
}

/* ---- the check ---- */

static om_status different(om_error *err, const char *path, const om_plan_item *item,
                           const char *what) {
    return om_fail(err, OM_E_INTERNAL,
                   "%s: %s of %s is not what was planned, so the file was removed; please report "
                   "this",
                   path, what, item->tensor->name);
}

static om_status compare_entry(const om_plan_item *item, const om_tensor *t, const om_map *map,
                               const char *path, om_error *err) {
    if (strcmp(t->name, item->tensor->name) != 0) {
        return different(err, path, item, "the name");
    }
    if (t->format != item->to) {
        return different(err, path, item, "the type");
    }
    if (memcmp(t->ne, item->tensor->ne, sizeof t->ne) != 0) {
        return different(err, path, item, "the shape");
    }
    if (t->bytes != item->bytes || t->data - map->data != item->offset) {
        return different(err, path, item, "the place in the file");
    }
    return OM_OK;
}

static om_status compare_row(const om_plan *plan, const om_plan_item *item, const om_tensor *t,
                             const char *path, uint64_t seed, om_error *err) {
    om_status status = OM_OK;
    const int64_t n_rows = om_tensor_n_rows(t);
    const int64_t row_bytes = t->bytes / n_rows;
    om_rng rng = om_rng_at(seed, om_hash_name(t->name));
    const int64_t row = (int64_t) (om_rng_u64(&rng) % (uint64_t) n_rows);
    const unsigned char *found = t->data + row * row_bytes;
    float *importance = NULL;
    float *scratch = om_calloc((size_t) t->ne[0], sizeof *scratch);
    unsigned char *again = om_calloc((size_t) row_bytes, 1);

    if (scratch == NULL || again == NULL) {
        OM_TRY(om_fail_nomem(err, (size_t) t->ne[0] * sizeof *scratch));
    }
    if (item->to == item->tensor->format) {
        memcpy(again, item->tensor->data + row * row_bytes, (size_t) row_bytes);
    } else {
        OM_TRY(om_inputs_importance(&importance, item->stats, err));
        const om_rowquant_job job = job_of(plan, item, importance);
        OM_TRY(om_rows_quantize(again, scratch, &job, row, 1, err));
    }
    if (memcmp(again, found, (size_t) row_bytes) != 0) {
        OM_TRY(different(err, path, item, "a row"));
    }
out:
    om_free(importance);
    om_free(scratch);
    om_free(again);
    return status;
}

om_status om_plan_verify(const om_plan *plan, const char *path, uint64_t seed, om_error *err) {
    om_status status = OM_OK;
    om_model *written = NULL;
    const int64_t size = om_file_size(path);
    if (size != plan->file_bytes) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "%s has %" PRId64 " bytes, %" PRId64 " were planned",
                       path, size, plan->file_bytes));
    }
    OM_TRY(om_model_open(&written, path, err));
    if (om_model_n_tensors(written) != plan->n_items) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "%s has %d tensors, %d were planned", path,
                       om_model_n_tensors(written), plan->n_items));
    }
    for (int i = 0; i < plan->n_items; i++) {
        const om_tensor *t = om_model_tensor(written, i);
        const om_map *map = om_model_split_map(written, t->split);
        OM_TRY(compare_entry(&plan->items[i], t, map, path, err));
        OM_TRY(compare_row(plan, &plan->items[i], t, path, seed, err));
    }
out:
    om_model_free(written);
    return status;
}
