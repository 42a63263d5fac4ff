/* From a row of the family's table to tensors of the directory.
 *
 * The forms a tensor may have (mlx-lm's own, one per expert, fused) are tried in turn; the first
 * whose name is there must then have the shape that config.json says, and the scales that its kind
 * of code needs. */
#include "hf/match.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/roles.h"

enum { NAME_BYTES = 256, SHAPE_BYTES = 128 };

int om_hf_index_of(const om_safetensors *st, const char *name) {
    int low = 0, high = om_safetensors_n(st) - 1;
    while (low <= high) {
        const int middle = low + (high - low) / 2;
        const int order = strcmp(om_safetensors_at(st, middle)->name, name);
        if (order == 0) {
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return -1;
}

/* ---- names ---- */

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Name in the directory of a form, with the expert's number where it has a '#'. */
static void name_of(char out[NAME_BYTES], const om_hf_matcher *m, const om_family_tensor *row,
                    int layer, const char *form, int64_t expert) {
    const char *hash = strchr(form, '#');
    char filled[NAME_BYTES];
    if (hash != NULL) {
        (void) snprintf(filled, sizeof filled, "%.*s%lld%s", (int) (hash - form), form,
                        (long long) expert, hash + 1);
        form = filled;
    }
    if (layer >= 0) {
        (void) snprintf(out, NAME_BYTES, "%slayers.%d.%.160s", m->body, layer, form);
    } else {
        (void) snprintf(out, NAME_BYTES, "%s%.160s",
                        (row->flags & OM_IF_UNTIED) != 0 ? m->head : m->body, form);
    }
}

/* The module's tensor beside its weight: ".scales" for "….weight". */
static const om_st_tensor *find_beside(const om_hf_matcher *m, const char *weight,
                                       const char *suffix) {
    char name[NAME_BYTES];
    size_t n = strlen(weight);
    n -= ends_with(weight, ".weight") ? strlen(".weight") : 0;
    (void) snprintf(name, sizeof name, "%.*s%s", (int) n, weight, suffix);
    const int i = om_hf_index_of(m->st, name);
    if (i < 0) {
        return NULL;
    }
    m->used[i] = true;
    return om_safetensors_at(m->st, i);
}

static om_status fail_missing(om_error *err, const om_hf_matcher *m, const char *name,
                              const char *why) {
    return om_fail(err, OM_E_FORMAT, "%s: tensor %s is missing%s", m->where, name, why);
}

/* ---- shapes ---- */

typedef struct shape {
    int n;
    int64_t at[OM_ST_MAX_DIMS];
} shape;

static void add_dim(shape *s, int64_t n) {
    s->at[s->n++] = n;
}

static void shape_text(char out[SHAPE_BYTES], int n, const int64_t *at) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < n && used + 24 < SHAPE_BYTES; i++) {
        const int wrote = snprintf(out + used, SHAPE_BYTES - used, "%s%lld", i > 0 ? ", " : "",
                                   (long long) at[i]);
        used += wrote > 0 ? (size_t) wrote : 0;
    }
}

static bool has_shape(const om_st_tensor *t, const shape *want) {
    if (t->n_dims != want->n) {
        return false;
    }
    for (int i = 0; i < want->n; i++) {
        if (t->shape[i] != want->at[i]) {
            return false;
        }
    }
    return true;
}

/* `row` says which numbers of config.json the shape is made of; NULL: it follows from the weights.
 */
static om_status check_shape(const om_hf_matcher *m, const om_st_tensor *t, const shape *want,
                             const om_family_tensor *row, om_error *err) {
    char found_text[SHAPE_BYTES], want_text[SHAPE_BYTES], keys[192] = "";
    size_t used = 0;
    if (has_shape(t, want)) {
        return OM_OK;
    }
    for (int i = 0; row != NULL && i < OM_FAMILY_DIMS && row->shape[i] != OM_DIM_END; i++) {
        const int wrote = snprintf(keys + used, sizeof keys - used, "%s%s", i == 0 ? ": " : ", ",
                                   om_hf_dim_name(row->shape[i]));
        used += wrote > 0 ? (size_t) wrote : 0;
        used = used < sizeof keys ? used : sizeof keys - 1;
    }
    shape_text(found_text, t->n_dims, t->shape);
    shape_text(want_text, want->n, want->at);
    return om_fail(err, OM_E_FORMAT, "%s: %s has shape [%s], expected [%s]%s%s", m->where, t->name,
                   found_text, want_text, row != NULL ? " from config.json" : "", keys);
}

/* ---- codes ---- */

static om_status match_dense(struct om_hf_source *s, const om_hf_matcher *m, const om_st_tensor *t,
                             om_error *err) {
    if (t->dtype != OM_ST_F32 && t->dtype != OM_ST_F16 && t->dtype != OM_ST_BF16) {
        const char *name = om_st_dtype_name(t->dtype);
        return om_fail(
            err, OM_E_FORMAT,
            "%s: %s holds %s without scales, expected F32, F16 or BF16 (or codes of MLX)", m->where,
            t->name, name != NULL ? name : "numbers of another kind");
    }
    s->code = OM_CODE_DENSE;
    s->dtype = t->dtype;
    return OM_OK;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* One scale for all, for each row, or for each block. */
static bool fp8_blocks(struct om_hf_source *s, const om_hf_matcher *m, const om_st_tensor *scales,
                       int64_t rows) {
    const int64_t *at = scales->shape, n = scales->bytes / om_st_dtype_bytes(scales->dtype);
    const int64_t down = ceil_div(rows, m->fp8_block[0]),
                  across = ceil_div(s->n_in, m->fp8_block[1]);
    if (scales->n_dims == 2 && at[0] == down && at[1] == across) {
        s->block[0] = m->fp8_block[0];
        s->block[1] = m->fp8_block[1];
        s->scale_columns = across;
        return true;
    }
    const bool each_row = n == rows && (scales->n_dims == 1 || (scales->n_dims == 2 && at[1] == 1));
    s->block[0] = each_row ? 1 : rows;
    s->block[1] = s->n_in;
    s->scale_columns = 1;
    return each_row || n == 1;
}

static om_status match_fp8(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                           om_error *err) {
    const om_st_tensor *t = part->weight;
    char found[SHAPE_BYTES];
    part->scales = find_beside(m, t->name, ".weight_scale_inv");
    if (part->scales == NULL) {
        part->scales = find_beside(m, t->name, ".weight_scale");
    }
    if (part->scales == NULL) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: %s is FP8, but neither its weight_scale_inv nor its weight_scale is "
                       "there",
                       m->where, t->name);
    }
    s->code = OM_CODE_FP8;
    s->dtype = t->dtype;
    const om_st_dtype dtype = part->scales->dtype;
    const bool numbers =
        dtype == OM_ST_F32 || dtype == OM_ST_BF16 || dtype == OM_ST_F16 || dtype == OM_ST_F8_E8M0;
    if (t->n_dims != 2 || !numbers || !fp8_blocks(s, m, part->scales, t->shape[0])) {
        shape_text(found, part->scales->n_dims, part->scales->shape);
        return om_fail(err, OM_E_FORMAT,
                       "%s: %s has shape [%s], expected one number, one for each row or one for "
                       "each block of %lld x %lld of %s",
                       m->where, part->scales->name, found, (long long) m->fp8_block[0],
                       (long long) m->fp8_block[1], t->name);
    }
    return OM_OK;
}

/* "…_blocks" has been found and has its shape [E, rows, n_in / 32, 16]. */
static om_status match_blocks(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                              om_error *err) {
    const om_st_tensor *t = part->weight;
    char name[NAME_BYTES];
    const size_t n = strlen(t->name) - strlen("blocks");
    (void) snprintf(name, sizeof name, "%.*sscales", (int) n, t->name);
    const int i = om_hf_index_of(m->st, name);
    if (i < 0) {
        return fail_missing(err, m, name, "");
    }
    m->used[i] = true;
    part->scales = om_safetensors_at(m->st, i);
    if (t->dtype != OM_ST_U8 || part->scales->dtype != OM_ST_U8) {
        return om_fail(err, OM_E_FORMAT, "%s: %s and its scales must be U8", m->where, t->name);
    }
    s->code = OM_CODE_BLOCKS;
    const shape want = { 3, { t->shape[0], t->shape[1], t->shape[2] } };
    return check_shape(m, part->scales, &want, NULL, err);
}

/* ---- MLX's codes ---- */

static const om_format *mlx_format(om_mlx_mode mode, int64_t bits, int64_t group) {
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        if (f->mlx == mode && f->bits == bits && f->block == group) {
            return f;
        }
    }
    return NULL;
}

/* What config.json says of one module, if it says anything, must be what the shapes say. */
static om_status check_entry(const om_hf_matcher *m, const char *path, const om_format *format,
                             om_error *err) {
    om_status status = OM_OK;
    char module[OM_HF_PATH];
    om_node all, entry;
    om_error ignored = { 0 };
    bool flag = true;
    int64_t bits = format->bits, group = format->block;
    const size_t n = strlen(path) - (ends_with(path, ".weight") ? strlen(".weight") : 0);
    (void) snprintf(module, sizeof module, "%.*s", (int) n, path);
    if (!om_node_has(m->config, "quantization")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&all, m->config, "quantization", err));
    if (!om_node_has(&all, module)) {
        return OM_OK; /* it has the default, or mlx-lm too looks at the shapes */
    }
    if (om_node_bool(&flag, &all, module, &ignored) == OM_OK) {
        if (!flag) {
            status = om_node_fail(err, &all, "%s is false, but its scales are there", module);
        }
        goto out;
    }
    OM_TRY(om_node_object(&entry, &all, module, err));
    if (om_node_has(&entry, "bits")) {
        OM_TRY(om_node_i64(&bits, &entry, "bits", 1, 64, err));
    }
    if (om_node_has(&entry, "group_size")) {
        OM_TRY(om_node_i64(&group, &entry, "group_size", 1, 1 << 20, err));
    }
    if (bits != format->bits || group != format->block) {
        status = om_node_fail(err, &entry, "%lld bits in groups of %lld, but the weights are %s",
                              (long long) bits, (long long) group, format->name);
    }
out:
    return status;
}

static om_status mlx_scale_dtype(om_mlx_dtype *out, const om_hf_matcher *m,
                                 const om_st_tensor *scales, om_error *err) {
    if (scales->dtype != OM_ST_BF16 && scales->dtype != OM_ST_F16 && scales->dtype != OM_ST_F32) {
        return om_fail(err, OM_E_FORMAT, "%s: %s must be BF16, F16 or F32", m->where, scales->name);
    }
    *out = scales->dtype == OM_ST_BF16  ? OM_MLX_BF16
           : scales->dtype == OM_ST_F16 ? OM_MLX_F16
                                        : OM_MLX_F32;
    return OM_OK;
}

/* Width and group follow from the lengths of the rows, as mlx-lm too infers them. */
static om_status match_mlx(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                           const shape *dense, const char *path, om_error *err) {
    om_status status = OM_OK;
    const om_st_tensor *t = part->weight, *scales = part->scales;
    part->biases = find_beside(m, t->name, ".biases");
    const bool same_dims = t->n_dims == dense->n && scales->n_dims == dense->n;
    const int64_t words = same_dims ? t->shape[dense->n - 1] : 0;
    const int64_t groups = same_dims ? scales->shape[dense->n - 1] : 0;
    const bool whole = t->dtype == OM_ST_U32 && words > 0 && words <= s->n_in && groups > 0 &&
                       32 * words % s->n_in == 0 && s->n_in % groups == 0;
    const int64_t bits = whole ? 32 * words / s->n_in : 0, group = whole ? s->n_in / groups : 0;
    const om_mlx_mode mode = part->biases != NULL ? OM_MLX_AFFINE
                             : bits == 8          ? OM_MLX_MXFP8
                             : group == 16        ? OM_MLX_NVFP4
                                                  : OM_MLX_MXFP4;
    s->code = OM_CODE_MLX;
    s->format = mlx_format(mode, bits, group);
    if (s->format == NULL) {
        return om_fail(
            err, OM_E_FORMAT, "%s: %s with its scales%s is no type of MLX for rows of %lld weights",
            m->where, t->name, part->biases != NULL ? " and biases" : "", (long long) s->n_in);
    }
    shape codes = *dense, per_group = *dense;
    codes.at[dense->n - 1] = words;
    per_group.at[dense->n - 1] = groups;
    OM_TRY(check_shape(m, t, &codes, NULL, err));
    OM_TRY(check_shape(m, scales, &per_group, NULL, err));
    if (part->biases != NULL) {
        OM_TRY(mlx_scale_dtype(&s->scale_dtype, m, scales, err));
        OM_TRY(check_shape(m, part->biases, &per_group, NULL, err));
    }
    const om_st_dtype wanted = part->biases != NULL ? scales->dtype : OM_ST_U8;
    const om_st_tensor *other = part->biases != NULL ? part->biases : scales;
    if (other->dtype != wanted) {
        status = om_fail(err, OM_E_FORMAT, "%s: %s must be %s", m->where, other->name,
                         om_st_dtype_name(wanted));
        goto out;
    }
    OM_TRY(check_entry(m, path, s->format, err));
out:
    return status;
}

/* ---- one tensor ---- */

/* What the source of a tensor is made from. */
typedef struct wanted {
    const om_family_tensor *row;
    const om_hf_form *form; /* NULL: mlx-lm's */
    int layer;
    const char *path; /* mlx-lm's */
    int n_dims;       /* of the tensor */
    int64_t experts, rows, n_in;
} wanted;

static const char *form_name(const wanted *w) {
    return w->form != NULL ? w->form->name : w->row->mlx;
}

static bool per_expert(const wanted *w) {
    return strchr(form_name(w), '#') != NULL;
}

/* Shape that one part must have when it is dense. */
static shape dense_shape(const wanted *w) {
    shape want = { 0 };
    const om_hf_fold fold = w->form != NULL ? w->form->fold : OM_FOLD_NONE;
    const int64_t twice = fold == OM_FOLD_NONE ? 1 : 2;
    if (w->n_dims == 1) {
        add_dim(&want, w->n_in);
    } else if (w->n_dims == 2) { /* a fold of biases doubles their length */
        add_dim(&want, w->rows);
        add_dim(&want, w->n_in * twice);
    } else {
        if (!per_expert(w)) {
            add_dim(&want, w->experts);
        }
        const bool turned = w->form != NULL && w->form->transposed;
        add_dim(&want, turned ? w->n_in : w->rows * twice);
        add_dim(&want, turned ? w->rows * twice : w->n_in);
    }
    if (w->form != NULL && w->form->blocks) {
        want.at[want.n - 1] = w->n_in / 32;
        add_dim(&want, 16);
    }
    return want;
}

static om_status match_part(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                            const wanted *w, int64_t expert, om_error *err) {
    om_status status = OM_OK;
    char name[NAME_BYTES];
    const shape dense = dense_shape(w);
    name_of(name, m, w->row, w->layer, form_name(w), expert);
    const int i = om_hf_index_of(m->st, name);
    if (i < 0) {
        return fail_missing(err, m, name, "");
    }
    m->used[i] = true;
    const om_st_tensor *t = part->weight = om_safetensors_at(m->st, i);
    if (w->form != NULL && w->form->blocks) {
        if (w->n_in % 32 != 0) {
            return om_fail(err, OM_E_FORMAT, "%s: rows of %lld weights are no blocks of 32: %s",
                           m->where, (long long) w->n_in, name);
        }
        OM_TRY(check_shape(m, t, &dense, w->row, err));
        OM_TRY(match_blocks(s, part, m, err));
        goto out;
    }
    part->scales =
        w->n_dims > 1 && ends_with(name, ".weight") ? find_beside(m, name, ".scales") : NULL;
    if (part->scales != NULL) {
        OM_TRY(match_mlx(s, part, m, &dense, w->path, err));
        goto out;
    }
    OM_TRY(check_shape(m, t, &dense, w->row, err));
    if (t->dtype == OM_ST_F8_E4M3 || t->dtype == OM_ST_F8_E5M2) {
        OM_TRY(match_fp8(s, part, m, err));
    } else {
        OM_TRY(match_dense(s, m, t, err));
    }
out:
    return status;
}

/* Experts of one stack are read in one way. */
static bool same_kind(const struct om_hf_source *a, const struct om_hf_source *b) {
    return a->code == b->code && a->dtype == b->dtype && a->format == b->format &&
           a->scale_dtype == b->scale_dtype && a->block[0] == b->block[0] &&
           a->block[1] == b->block[1] && a->scale_columns == b->scale_columns;
}

static om_status match_parts(struct om_hf_source *s, const om_hf_matcher *m, const wanted *w,
                             om_error *err) {
    om_status status = OM_OK;
    const int64_t n = per_expert(w) ? w->experts : 1;
    if (n > om_safetensors_n(m->st)) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: config.json says %lld experts, but there are only %d "
                       "tensors",
                       m->where, (long long) n, om_safetensors_n(m->st));
    }
    s->parts = om_calloc((size_t) n, sizeof s->parts[0]);
    if (s->parts == NULL) {
        return om_fail_nomem(err, (size_t) n * sizeof s->parts[0]);
    }
    s->n_parts = (int) n;
    const struct om_hf_source fresh = *s;
    for (int64_t i = 0; i < n; i++) {
        struct om_hf_source one = fresh;
        OM_TRY(match_part(&one, &s->parts[i], m, w, i, err));
        if (i == 0) {
            *s = one;
        } else if (!same_kind(s, &one)) {
            status =
                om_fail(err, OM_E_FORMAT, "%s: %s is stored in another way than that of expert 0",
                        m->where, s->parts[i].weight->name);
            goto out;
        }
    }
out:
    return status;
}

/* The first form whose (first) tensor is there; false: none. */
static bool find_form(wanted *w, const om_hf_matcher *m) {
    char name[NAME_BYTES];
    const om_hf_form *form = w->row->forms;
    for (w->form = NULL;; w->form = form++) {
        name_of(name, m, w->row, w->layer, form_name(w), 0);
        if (om_hf_index_of(m->st, name) >= 0) {
            return true;
        }
        if (form == NULL || form->name == NULL) {
            return false;
        }
    }
}

static om_status fail_no_form(om_error *err, const om_hf_matcher *m, const wanted *w) {
    char name[NAME_BYTES], why[160];
    const char *form = w->row->forms != NULL ? w->row->forms[0].name : w->row->mlx;
    name_of(name, m, w->row, w->layer, form, 0);
    (void) snprintf(why, sizeof why,
                    ": config.json says %s with %d layers%s; is a file of the model missing?",
                    m->family->model_type, m->sizes->n_layers,
                    (w->row->flags & OM_IF_UNTIED) != 0 ? " and untied embeddings" : "");
    return fail_missing(err, m, name, why);
}

static void set_source(struct om_hf_source *s, const om_hf_matcher *m, const wanted *w) {
    const unsigned flags = w->row->flags;
    s->rows = w->n_dims == 1 ? 1 : w->rows;
    s->n_in = w->n_in;
    s->n_experts = w->experts;
    s->fold = w->form != NULL ? w->form->fold : OM_FOLD_NONE;
    s->transposed = w->form != NULL && w->form->transposed;
    const bool rotary = (flags & (OM_ROTARY_Q | OM_ROTARY_K)) != 0;
    s->permuted_head = m->family->permutes && rotary ? m->sizes->dim[OM_DIM_D] : 0;
    s->plus_1 = m->family->norms_of_1 && (flags & OM_NORM) != 0;
    s->elements =
        (w->n_dims == 1 && s->permuted_head > 0) || (w->n_dims == 2 && s->fold != OM_FOLD_NONE);
}

static const om_format *format_of(const struct om_hf_source *s) {
    if (s->code == OM_CODE_MLX) {
        return s->format;
    }
    return om_format_by_name(s->code != OM_CODE_DENSE ? "bf16"
                             : s->dtype == OM_ST_F32  ? "f32"
                             : s->dtype == OM_ST_F16  ? "f16"
                                                      : "bf16");
}

/* Name, path and shape of a tensor from its row of the table. */
static void describe(om_hf_tensor *t, wanted *w, const om_hf_matcher *m) {
    const om_hf_dim *letters = w->row->shape;
    int64_t lengths[OM_FAMILY_DIMS];
    int n = 0, large = 0;
    while (n < OM_FAMILY_DIMS && letters[n] != OM_DIM_END) {
        lengths[n] = m->sizes->dim[letters[n]];
        large += lengths[n++] > 1;
    }
    if (w->layer >= 0) {
        (void) snprintf(t->name, sizeof t->name, "blk.%d.%s", w->layer, w->row->gguf);
    } else {
        (void) snprintf(t->name, sizeof t->name, "%s", w->row->gguf);
    }
    (void) om_family_mlx_name(t->path, m->family, t->name);
    t->n_dims = n;
    for (int i = 0; i < 4; i++) {
        t->ne[i] = i < n ? lengths[n - 1 - i] : 1;
    }
    t->may_quantize =
        om_tensor_may_quantize(t->name, large) && !om_tensor_arch_copies(m->family->arch, t->name);
    w->path = t->path;
    w->n_dims = n;
    w->experts = n == 3 ? lengths[0] : 1;
    w->rows = t->ne[1];
    w->n_in = t->ne[0];
}

om_status om_hf_match(om_hf_tensor *out, const om_hf_matcher *m, const om_family_tensor *row,
                      int layer, om_error *err) {
    om_status status = OM_OK;
    om_hf_tensor t = { 0 };
    wanted w = { .row = row, .layer = layer };
    describe(&t, &w, m);
    if (!find_form(&w, m)) {
        return fail_no_form(err, m, &w);
    }
    struct om_hf_source *s = om_calloc(1, sizeof *s);
    if (s == NULL) {
        return om_fail_nomem(err, sizeof *s);
    }
    set_source(s, m, &w);
    OM_TRY(match_parts(s, m, &w, err));
    if (s->elements && s->code != OM_CODE_DENSE) {
        status = om_fail(err, OM_E_FORMAT, "%s: %s must be F32, F16 or BF16", m->where, t.path);
        goto out;
    }
    t.format = format_of(s);
    t.source = s;
    s = NULL;
    *out = t;
out:
    om_hf_source_free(s);
    return status;
}

void om_hf_source_free(struct om_hf_source *source) {
    if (source != NULL) {
        om_free(source->parts);
        om_free(source);
    }
}

/* ---- the rest of a directory ---- */

bool om_hf_may_drop(const char *name) {
    static const char *const parts[] = {
        "rotary_emb.inv_freq",                                      /* follows from rope_theta */
        "vision_tower.", "vision_model.", "multi_modal_projector.", /* images */
    };
    static const char *const starts[] = { "mtp.", "model.mtp." };
    static const char *const ends[] = { /* FP8: scales of activations and of the KV cache */
                                        ".input_scale", ".activation_scale", ".k_scale", ".v_scale",
                                        ".input_scale_ub"
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr(name, parts[i]) != NULL) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        if (strncmp(name, starts[i], strlen(starts[i])) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (ends_with(name, ends[i])) {
            return true;
        }
    }
    return false;
}
