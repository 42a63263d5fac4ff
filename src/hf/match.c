/* From a row of the family's table to tensors of the directory.
 *
 * The forms a tensor may have (mlx-lm's own, one per expert, fused) are tried in turn; the first
 * whose name is there must then have the shape that config.json says. */
#include "hf/match.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "hf/match_codes.h"
#include "model/roles.h"

enum { NAME_BYTES = 256 };

int om_hf_index_of(const om_safetensors *st, const char *name) {
    const om_st_tensor *t = om_safetensors_find(st, name);
    return t != NULL ? (int) (t - om_safetensors_at(st, 0)) : -1;
}

/* ---- names ---- */

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

static om_status fail_missing(om_error *err, const om_hf_matcher *m, const char *name,
                              const char *why) {
    return om_fail(err, OM_E_FORMAT, "%s: tensor %s is missing%s", m->where, name, why);
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

static void add_dim(om_hf_shape *s, int64_t n) {
    s->at[s->n++] = n;
}

/* Shape that one part must have when it is not quantized, or is in blocks. */
static om_hf_shape part_shape(const wanted *w) {
    om_hf_shape want = { 0 };
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
    char name[NAME_BYTES];
    const om_hf_expected expected = {
        .shape = part_shape(w),
        .blocks = w->form != NULL && w->form->blocks,
        .may_be_codes = w->n_dims > 1 && om_text_ends(form_name(w), ".weight"),
        .row = w->row,
        .path = w->path,
    };
    name_of(name, m, w->row, w->layer, form_name(w), expert);
    const int i = om_hf_index_of(m->st, name);
    if (i < 0) {
        return fail_missing(err, m, name, "");
    }
    if (expected.blocks && w->n_in % 32 != 0) {
        return om_fail(err, OM_E_FORMAT, "%s: rows of %lld weights are no blocks of 32: %s",
                       m->where, (long long) w->n_in, name);
    }
    m->used[i] = true;
    part->weight = om_safetensors_at(m->st, i);
    return om_hf_match_codes(s, part, m, &expected, err);
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

/* A tensor without weights would fit, and rows are divided by their number and length. */
static om_status check_lengths(const om_hf_tensor *t, const om_hf_matcher *m,
                               const om_family_tensor *row, om_error *err) {
    for (int i = 0; i < t->n_dims; i++) {
        if (t->ne[t->n_dims - 1 - i] < 1) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: config.json does not say the length of %s: %s is missing", m->where,
                           t->path, om_hf_dim_name(row->shape[i]));
        }
    }
    return OM_OK;
}

/* ---- experts in banks ---- */

static om_status copy_ints(int **out, const int *from, size_t n, om_error *err) {
    *out = om_calloc(n, sizeof **out);
    if (*out == NULL) {
        return om_fail_nomem(err, n * sizeof **out);
    }
    memcpy(*out, from, n * sizeof **out);
    return OM_OK;
}

/* One bank: a stack of fewer experts under a name of its own. */
static om_status match_bank(struct om_hf_source *s, const om_hf_matcher *m, const wanted *stack,
                            const om_hf_banks *banks, int bank, om_error *err) {
    wanted w = *stack;
    char name[OM_HF_PATH], path[OM_HF_PATH];
    om_hf_bank_path(name, stack->row->mlx, bank);
    om_hf_bank_path(path, stack->path, bank);
    const om_hf_form form = { .name = name };
    w.form = &form;
    w.path = path;
    w.experts = banks->first[bank + 1] - banks->first[bank];
    set_source(s, m, &w);
    return match_parts(s, m, &w, err);
}

static om_status match_banks(struct om_hf_source *s, const om_hf_matcher *m, const wanted *w,
                             const om_hf_banks *banks, om_error *err) {
    om_status status = OM_OK;
    s->banks = om_calloc((size_t) banks->n_banks, sizeof(struct om_hf_source *));
    if (s->banks == NULL) {
        return om_fail_nomem(err, (size_t) banks->n_banks * sizeof(struct om_hf_source *));
    }
    OM_TRY(copy_ints(&s->place, banks->place, (size_t) w->experts, err));
    OM_TRY(copy_ints(&s->first, banks->first, (size_t) banks->n_banks + 1, err));
    for (int b = 0; b < banks->n_banks; b++) {
        s->banks[b] = om_calloc(1, sizeof *s);
        s->n_banks = b + 1;
        if (s->banks[b] == NULL) {
            return om_fail_nomem(err, sizeof *s);
        }
        OM_TRY(match_bank(s->banks[b], m, w, banks, b, err));
    }
out:
    return status;
}

/* Of the bank with the most experts; of one that is quantized, if any is. */
static const om_format *format_of_banks(const struct om_hf_source *s) {
    const om_format *best = NULL;
    int64_t most = 0;
    for (int b = 0; b < s->n_banks; b++) {
        const om_format *f = format_of(s->banks[b]);
        const bool coded = f->mlx != OM_MLX_NONE;
        const bool better = best == NULL || (coded && best->mlx == OM_MLX_NONE) ||
                            (coded == (best->mlx != OM_MLX_NONE) && s->banks[b]->n_experts > most);
        if (better) {
            best = f;
            most = s->banks[b]->n_experts;
        }
    }
    return best;
}

/* ---- one tensor, whatever it is ---- */

static om_status match_source(struct om_hf_source *s, const om_hf_matcher *m, wanted *w,
                              om_error *err) {
    om_status status = OM_OK;
    const om_hf_banks *banks = om_hf_banks_of(m->banks, m->n_banked, w->layer);
    if (banks != NULL && om_hf_is_stack(w->row)) {
        set_source(s, m, w);
        return match_banks(s, m, w, banks, err);
    }
    if (!find_form(w, m)) {
        return fail_no_form(err, m, w);
    }
    set_source(s, m, w);
    if (banks != NULL && om_hf_is_router(w->row)) {
        OM_TRY(copy_ints(&s->place, banks->place, (size_t) m->sizes->dim[OM_DIM_E], err));
    }
    OM_TRY(match_parts(s, m, w, err));
out:
    return status;
}

om_status om_hf_match(om_hf_tensor *out, const om_hf_matcher *m, const om_family_tensor *row,
                      int layer, om_error *err) {
    om_status status = OM_OK;
    om_hf_tensor t = { 0 };
    wanted w = { .row = row, .layer = layer };
    struct om_hf_source *s = NULL;
    describe(&t, &w, m);
    OM_TRY(check_lengths(&t, m, row, err));
    s = om_calloc(1, sizeof *s);
    if (s == NULL) {
        return om_fail_nomem(err, sizeof *s);
    }
    OM_TRY(match_source(s, m, &w, err));
    if (s->elements && s->code != OM_CODE_DENSE) {
        status = om_fail(err, OM_E_FORMAT, "%s: %s must be F32, F16 or BF16", m->where, t.path);
        goto out;
    }
    t.format = s->n_banks > 0 ? format_of_banks(s) : format_of(s);
    t.source = s;
    s = NULL;
    *out = t;
out:
    om_hf_source_free(s);
    return status;
}

void om_hf_source_free(struct om_hf_source *source) {
    if (source == NULL) {
        return;
    }
    for (int b = 0; b < source->n_banks; b++) {
        om_hf_source_free(source->banks[b]);
    }
    om_free((void *) source->banks);
    om_free(source->place);
    om_free(source->first);
    om_free(source->parts);
    om_free(source);
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
        if (om_text_ends(name, ends[i])) {
            return true;
        }
    }
    return false;
}
