/* The ways in which weights are stored: plain, FP8 with scales, gpt-oss's blocks, MLX's codes.
 * Which one it is follows from the tensors that are there; their shapes must then fit each other.
 */
#include "hf/match_codes.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"

enum { NAME_BYTES = 256, SHAPE_BYTES = 128 };

/* The module's tensor beside its weight: ".scales" for "….weight". */
static const om_st_tensor *find_beside(const om_hf_matcher *m, const char *weight,
                                       const char *suffix) {
    char name[NAME_BYTES];
    size_t n = strlen(weight);
    n -= om_text_ends(weight, ".weight") ? strlen(".weight") : 0;
    (void) snprintf(name, sizeof name, "%.*s%s", (int) n, weight, suffix);
    const int i = om_hf_index_of(m->st, name);
    if (i < 0) {
        return NULL;
    }
    m->used[i] = true;
    return om_safetensors_at(m->st, i);
}

/* ---- shapes ---- */

static void shape_text(char out[SHAPE_BYTES], int n, const int64_t *at) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < n && used + 24 < SHAPE_BYTES; i++) {
        const int wrote = snprintf(out + used, SHAPE_BYTES - used, "%s%lld", i > 0 ? ", " : "",
                                   (long long) at[i]);
        used += wrote > 0 ? (size_t) wrote : 0;
    }
}

static bool has_shape(const om_st_tensor *t, const om_hf_shape *want) {
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
static om_status check_shape(const om_hf_matcher *m, const om_st_tensor *t, const om_hf_shape *want,
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
        return om_fail(err, OM_E_FORMAT, "%s: tensor %s is missing", m->where, name);
    }
    m->used[i] = true;
    part->scales = om_safetensors_at(m->st, i);
    if (t->dtype != OM_ST_U8 || part->scales->dtype != OM_ST_U8) {
        return om_fail(err, OM_E_FORMAT, "%s: %s and its scales must be U8", m->where, t->name);
    }
    s->code = OM_CODE_BLOCKS;
    s->format = om_format_by_name("mlx_mxfp4"); /* the same bytes in the same order */
    const om_hf_shape want = { 3, { t->shape[0], t->shape[1], t->shape[2] } };
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
    const size_t n = strlen(path) - (om_text_ends(path, ".weight") ? strlen(".weight") : 0);
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
                           const om_hf_shape *dense, const char *path, om_error *err) {
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
    om_hf_shape codes = *dense, per_group = *dense;
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

/* ---- any of them ---- */

om_status om_hf_match_codes(struct om_hf_source *s, om_hf_part *part, const om_hf_matcher *m,
                            const om_hf_expected *expected, om_error *err) {
    om_status status = OM_OK;
    const om_st_tensor *t = part->weight;
    part->scales = expected->may_be_codes ? find_beside(m, t->name, ".scales") : NULL;
    if (part->scales != NULL) {
        return match_mlx(s, part, m, &expected->shape, expected->path, err);
    }
    OM_TRY(check_shape(m, t, &expected->shape, expected->row, err));
    if (expected->blocks) {
        OM_TRY(match_blocks(s, part, m, err));
    } else if (t->dtype == OM_ST_F8_E4M3 || t->dtype == OM_ST_F8_E5M2) {
        OM_TRY(match_fp8(s, part, m, err));
    } else {
        OM_TRY(match_dense(s, m, t, err));
    }
out:
    return status;
}
