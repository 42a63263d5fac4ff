/* plan -> directory: copied files, config.json, index, then tensor after tensor into the shards;
 * and the model card.
 *
 * A module's codes, scales and biases are made together, row after row, but lie one behind the
 * other, so each slab is written in three places. A shard is open from its first tensor to its
 * last; the first one to the end, because its header tells the predicted loss of what was really
 * written (its length never varies).
 *
 * Everything happens in a temporary directory that gets its name when all is complete, verified and
 * synced (base/atomic_dir.h). */
#include "artifact/mlx_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "artifact/inputs.h"
#include "artifact/mlx_banks.h"
#include "artifact/mlx_card.h"
#include "artifact/mlx_config.h"
#include "artifact/slabs.h"
#include "base/atomic_dir.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct writer {
    om_mlx_plan *plan;
    const om_env *env;
    om_atomic_dir dir;
    om_atomic *shards; /* [n_shards] */
    int64_t *at;       /* [n_shards] position of each file */
    int opened;        /* shards [0, opened) were opened */
    om_slabs *slabs;
} writer;

/* ---- what the target may hold ---- */

static bool is_ours(const void *ud, const char *name) {
    const om_mlx_plan *plan = ud;
    for (int i = 0; i < plan->n_copies; i++) {
        if (strcmp(plan->copies[i], name) == 0) {
            return true;
        }
    }
    return om_mlx_is_written(name);
}

om_status om_mlx_check_target(const om_mlx_plan *plan, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_error why = { 0 };
    om_safetensors *old = NULL;
    char **names = NULL;
    int n = 0;
    OM_TRY(om_atomic_dir_check(path, (om_dir_ours){ is_ours, plan }, err));
    if (!om_file_exists(path)) {
        return OM_OK;
    }
    OM_TRY(om_dir_list(&names, &n, path, err));
    if (n > 0 && (om_safetensors_open(&old, path, &why) != OM_OK ||
                  om_safetensors_metadata(old, "optimum") == NULL)) {
        OM_TRY(om_fail(err, OM_E_ARG,
                       "%s exists and is not an earlier result of Optimum: move it away, or write "
                       "to another name",
                       path));
    }
out:
    om_safetensors_free(old);
    om_dir_list_free(names, n);
    return status;
}

/* ---- headers ---- */

/* {"schema":…} in one line: our texts hold no line breaks but those of the layout. */
static char *one_line(const om_json *doc) {
    om_buf b = { 0 };
    char *text = om_json_dump(doc);
    for (const char *p = text; p != NULL && *p != '\0';) {
        if (*p == '\n') {
            p += 1 + strspn(p + 1, " ");
        } else {
            om_buf_add(&b, p, 1);
            p++;
        }
    }
    om_free(text);
    if (text == NULL) {
        om_buf_release(&b);
        return NULL;
    }
    return om_buf_take(&b);
}

static char *record_text(const om_mlx_plan *plan, const om_gguf_record *r) {
    om_json *doc = om_json_new_document("optimum.mlx/1");
    om_json_set_str(doc, "source_sha256", r->source_sha256);
    om_json_set_str(doc, "profile_sha256", r->profile_sha256);
    om_json_set_str(doc, "allocation_sha256", r->allocation_sha256);
    om_json_set_str(doc, "calib_sha256", r->calib_sha256);
    om_json_set_u64(doc, "seed", r->seed);
    om_json_set_u64(doc, "calib_tokens", r->calib_tokens);
    om_json_set_i64(doc, "budget_bytes", r->budget_bytes);
    om_json_set_str(doc, "round", plan->search ? "search" : "plain");
    om_json_set_f64(doc, "predicted_nats", r->predicted_nats);
    char *text = one_line(doc);
    om_json_free(doc);
    return text;
}

/* Tensors of a shard, as the header wants them. *out owned. */
static om_status tensors_of(om_st_tensor **out, int *n, const om_mlx_layout *layout, int shard,
                            om_error *err) {
    om_st_tensor *t = om_calloc((size_t) layout->n_tensors, sizeof *t);
    if (t == NULL) {
        return om_fail_nomem(err, (size_t) layout->n_tensors * sizeof *t);
    }
    *n = 0;
    for (int i = 0; i < layout->n_tensors; i++) {
        if (layout->tensors[i].shard == shard) {
            t[(*n)++] = layout->tensors[i].st;
        }
    }
    *out = t;
    return OM_OK;
}

static om_status seek(writer *w, int shard, int64_t offset, om_error *err) {
    if (w->at[shard] != offset && fseeko(w->shards[shard].file, (off_t) offset, SEEK_SET) != 0) {
        return om_fail_errno(err, "%s: cannot go to byte %" PRId64, w->shards[shard].path, offset);
    }
    w->at[shard] = offset;
    return OM_OK;
}

static om_status write_header(writer *w, int shard, const om_gguf_record *record, om_error *err) {
    om_status status = OM_OK;
    const om_mlx_layout *layout = &w->plan->layout;
    om_st_tensor *tensors = NULL;
    unsigned char *header = NULL;
    size_t size = 0;
    int n = 0;
    char *text = record_text(w->plan, record);
    if (text == NULL) {
        OM_TRY(om_fail_nomem(err, OM_MLX_RECORD));
    }
    const char *const metadata[][2] = { { "format", "mlx" }, { "optimum", text } };
    OM_TRY(tensors_of(&tensors, &n, layout, shard, err));
    OM_TRY(om_st_header(&header, &size, tensors, n, metadata, shard == 0 ? 2 : 1,
                        (size_t) layout->header_bytes[shard], err));
    OM_TRY(seek(w, shard, 0, err));
    OM_TRY(om_atomic_write(&w->shards[shard], header, size, err));
    w->at[shard] = (int64_t) size;
out:
    om_free(text);
    om_free(tensors);
    om_free(header);
    return status;
}

/* ---- shards ---- */

static om_status open_shards(writer *w, int last, const om_gguf_record *record, om_error *err) {
    om_status status = OM_OK;
    char name[64];
    while (w->opened <= last) {
        om_mlx_shard_name(name, w->opened, w->plan->layout.n_shards);
        OM_TRY(om_atomic_dir_file(&w->shards[w->opened], &w->dir, name, err));
        w->opened++;
        OM_TRY(write_header(w, w->opened - 1, record, err));
        om_slabs_written(w->slabs, w->plan->layout.header_bytes[w->opened - 1]);
    }
out:
    return status;
}

/* Shards before `first` get no more rows; the first of all still gets its record. */
static om_status close_shards(writer *w, int first, om_error *err) {
    om_status status = OM_OK;
    for (int s = 1; s < first && s < w->opened; s++) {
        if (w->shards[s].file != NULL) {
            OM_TRY(om_slabs_flush(w->slabs, err));
            OM_TRY(om_atomic_dir_close(&w->shards[s], err));
        }
    }
out:
    return status;
}

static om_status write_piece(void *ud, const om_piece *piece, om_error *err) {
    om_status status = OM_OK;
    writer *w = ud;
    OM_TRY(seek(w, piece->file, piece->offset, err));
    OM_TRY(om_atomic_write(&w->shards[piece->file], piece->data, piece->n, err));
    w->at[piece->file] += (int64_t) piece->n;
out:
    return status;
}

/* ---- one item ---- */

static om_status make_rows(const void *ud, const om_chunk *c, om_error *err) {
    const om_mlx_job *job = ud;
    om_status status = om_mlx_job_make(c->parts, c->source, job, c->first, c->n, err);
    if (status == OM_OK && c->errors != NULL) {
        om_mlx_job_errors(c->errors, c->result, c->source, c->parts, job, c->first, c->n);
    }
    return status;
}

static void forget_rows(const void *ud, int64_t first, int64_t n) {
    const om_mlx_job *job = ud;
    const int64_t row = om_mlx_job_source_row(job, first);
    if (job->order == NULL || job->tensor->n_dims == 3) { /* of a router any row may come next */
        om_hf_forget(job->hf, job->tensor, row, n);
    }
}

/* The marginals of the rows, which are in the GGUF's order, in the output's. *rows owned. */
static om_status rows_in_order(float **rows, const om_mlx_job *job, const om_mlx_plan_item *item,
                               om_error *err) {
    const int64_t n = item->stats->n_out * item->experts;
    *rows = om_calloc((size_t) n, sizeof **rows);
    if (*rows == NULL) {
        return om_fail_nomem(err, (size_t) n * sizeof **rows);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = om_hf_gguf_row(job->tensor, om_mlx_job_source_row(job, i));
        (*rows)[i] = item->stats->rows[row];
    }
    return OM_OK;
}

/* tensors: the item's first in the layout. */
static om_status write_item(writer *w, om_mlx_plan_item *item, const om_mlx_tensor *tensors,
                            om_error *err) {
    om_status status = OM_OK;
    float *importance = NULL, *rows = NULL;
    int64_t row_bytes[OM_MLX_PARTS];
    const om_hf_tensor *t = item->tensor;
    OM_TRY(om_inputs_importance(&importance, item->stats, err));
    const om_mlx_job job = om_mlx_plan_job(w->plan, item, importance);
    om_slab_job slabs = {
        .n_in = t->ne[0],
        .matrix_rows = t->ne[1],
        .matrices = item->experts,
        .make = make_rows,
        .forget = forget_rows,
        .ud = &job,
        .tokens = w->plan->stats_tokens,
    };
    om_mlx_job_row_bytes(row_bytes, &job);
    for (int k = 0; k < OM_MLX_PARTS && row_bytes[k] > 0; k++) {
        slabs.parts[k].row_bytes = row_bytes[k];
        slabs.parts[k].file = tensors[k].shard;
        slabs.parts[k].offset = tensors[k].offset;
    }
    if (job.cols != NULL) {
        OM_TRY(rows_in_order(&rows, &job, item, err));
        slabs.rows = rows;
    }
    OM_TRY(om_slabs_run(&item->nats, w->slabs, &slabs, err));
    if (job.cols == NULL && item->to->mlx == OM_MLX_NONE) {
        item->nats = 0; /* 16 bits of 16, or of the 24 of F32 */
    }
out:
    om_free(importance);
    om_free(rows);
    return status;
}

static om_status write_items(double *total, writer *w, const om_gguf_record *record,
                             om_error *err) {
    om_status status = OM_OK;
    const om_mlx_layout *layout = &w->plan->layout;
    int first = 0;
    *total = record->routing_nats;
    for (int i = 0; i < w->plan->n_items; i++) {
        int last = first;
        while (last + 1 < layout->n_tensors && layout->tensors[last + 1].item == i) {
            last++;
        }
        OM_TRY(close_shards(w, layout->tensors[first].shard, err));
        OM_TRY(open_shards(w, layout->tensors[last].shard, record, err));
        OM_TRY(write_item(w, &w->plan->items[i], &layout->tensors[first], err));
        *total += w->plan->items[i].nats;
        first = last + 1;
    }
    OM_TRY(om_slabs_flush(w->slabs, err));
    OM_TRY(close_shards(w, layout->n_shards, err));
out:
    return status;
}

/* ---- small files ---- */

static om_status copy_file(writer *w, const char *name, om_error *err) {
    om_status status = OM_OK;
    om_map map = { 0 };
    char *path = om_path_join(om_hf_path(w->plan->hf), name);
    if (path == NULL) {
        return om_fail_nomem(err, strlen(name));
    }
    OM_TRY(om_map_open(&map, path, err));
    OM_TRY(om_atomic_dir_write(&w->dir, name, map.data, map.size, err));
out:
    om_map_close(&map);
    om_free(path);
    return status;
}

static om_status write_json(writer *w, const char *name, const om_json *doc, om_error *err) {
    char *text = om_json_dump(doc);
    if (text == NULL) {
        return om_fail(err, OM_E_NOMEM, "out of memory while writing %s", name);
    }
    const om_status status = om_atomic_dir_write(&w->dir, name, text, strlen(text), err);
    om_free(text);
    return status;
}

static om_status write_small_files(writer *w, om_error *err) {
    om_status status = OM_OK;
    const om_mlx_plan *plan = w->plan;
    om_json *config = NULL, *index = NULL;
    for (int i = 0; i < plan->n_copies; i++) {
        OM_TRY(copy_file(w, plan->copies[i], err));
    }
    OM_TRY(om_mlx_config(&config, om_hf_config(plan->hf), plan->layout_items, plan->n_items,
                         plan->dtype, err));
    om_mlx_banks_config(config, plan->allocation, plan->hf);
    if (plan->allocation->n_banked > 0) {
        OM_TRY(om_atomic_dir_write(&w->dir, OM_HF_BANKS_FILE, om_hf_banks_module,
                                   om_hf_banks_module_size, err));
    }
    OM_TRY(write_json(w, "config.json", config, err));
    OM_TRY(om_mlx_index(&index, &plan->layout, om_hf_params(plan->hf), err));
    OM_TRY(write_json(w, "model.safetensors.index.json", index, err));
out:
    om_json_free(config);
    om_json_free(index);
    return status;
}

static om_status write_card(writer *w, const om_allocation *a, const om_quantize_options *o,
                            const om_gguf_record *record, om_error *err) {
    om_status status = OM_OK;
    char *text = NULL;
    OM_TRY(om_mlx_card(&text, w->plan, a, o, record, err));
    OM_TRY(om_atomic_dir_write(&w->dir, "README.md", text, strlen(text), err));
out:
    om_free(text);
    return status;
}

/* ---- all of it ---- */

static om_status open_writer(writer *w, const char *path, om_error *err) {
    om_status status = OM_OK;
    const size_t n = (size_t) w->plan->layout.n_shards;
    w->shards = om_calloc(n, sizeof *w->shards);
    w->at = om_calloc(n, sizeof *w->at);
    if (w->shards == NULL || w->at == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *w->shards));
    }
    OM_TRY(om_slabs_new(&w->slabs, (om_piece_sink){ write_piece, w }, w->env, err));
    om_slabs_progress(w->slabs, 0, w->plan->layout.total_bytes);
    OM_TRY(om_atomic_dir_open(&w->dir, path, err));
out:
    return status;
}

static void close_writer(writer *w) {
    for (int s = 0; w->shards != NULL && s < w->opened; s++) {
        om_atomic_dir_abort_file(&w->shards[s]);
    }
    om_atomic_dir_abort(&w->dir);
    om_slabs_free(w->slabs);
    om_free(w->shards);
    om_free(w->at);
}

/* The digest of what was written, under its temporary name. */
static om_status hash_result(char sha256[65], const writer *w, om_error *err) {
    om_status status = OM_OK;
    om_hf *written = NULL;
    OM_TRY(om_hf_open(&written, w->dir.tmp, err));
    OM_TRY(om_hf_sha256(sha256, written, w->env, err));
out:
    om_hf_free(written);
    return status;
}

om_status om_mlx_write(double *total_nats, char sha256[65], om_mlx_plan *plan,
                       const om_gguf_record *record, const om_allocation *a,
                       const om_quantize_options *o, const char *path, const om_env *env,
                       om_error *err) {
    om_status status = OM_OK;
    writer w = { .plan = plan, .env = env };
    om_gguf_record final = *record;
    double total = (double) NAN;

    OM_TRY(om_disk_check(path, plan->layout.total_bytes + plan->copies_bytes, err));
    OM_TRY(open_writer(&w, path, err));
    OM_TRY(write_small_files(&w, err));
    OM_TRY(write_items(&total, &w, record, err));
    if (isfinite(total)) {
        final.predicted_nats = total;
        OM_TRY(write_header(&w, 0, &final, err));
    }
    OM_TRY(om_atomic_dir_close(&w.shards[0], err));
    OM_TRY(write_card(&w, a, o, &final, err));
    /* checked under its temporary name: a directory that has the right name is right */
    OM_TRY(om_mlx_verify(plan, w.dir.tmp, record->seed, err));
    OM_TRY(hash_result(sha256, &w, err));
    OM_TRY(om_check_cancel(env, err));
    OM_TRY(om_atomic_dir_commit(&w.dir, (om_dir_ours){ is_ours, plan }, err));
    *total_nats = total;
out:
    close_writer(&w);
    return status;
}
