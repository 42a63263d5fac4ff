/* A running reference -> the compact reference file.
 *
 * The first window decides everything before a byte is written: which scale and soft cap of the
 * metadata the head really applies (architectures disagree: cohere multiplies by logit_scale,
 * granite divides by it, gemma3 has no cap), and that logits recomputed from the hidden states are
 * llama.cpp's.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/head.h"
#include "eval/reference.h"
#include "eval/refile.h"
#include "eval/runtime.h"
#include "model/gguf.h"

static const double max_logit_error = 1e-3;

typedef struct writer {
    om_reference *ref;
    om_runtime *rt;
    const om_windows *windows;
    om_model *model;
    const om_env *env;
    om_refile_header header;
    const void *weight;
    float *bias;       /* [V]; NULL: none */
    float *first;      /* [T-1, C] hidden states of the first window */
    int32_t *layers;   /* [L'] with experts; NULL: none */
    uint16_t *choices; /* [L', T-1, K] of the window at hand */
    om_atomic file;
    double error; /* largest |recomputed - llama.cpp's logit| of the first window */
} writer;

static om_status find_head(writer *w, om_error *err) {
    const om_tensor *t = om_model_find(w->model, "output.weight");
    if (t == NULL) {
        t = om_model_find(w->model, "token_embd.weight");
    }
    om_refile_header *h = &w->header;
    h->n_windows = w->windows->n_windows;
    h->n_ctx = w->windows->n_tokens;
    h->n_vocab = om_runtime_n_vocab(w->rt);
    h->n_embd = om_runtime_n_embd(w->rt);
    h->bos = w->windows->bos;
    h->vocab_hash = om_reference_vocab_hash(w->ref);
    h->scale = 1.0f;
    memcpy(h->model_sha256, om_reference_sha256(w->ref), 65);
    memcpy(h->text_sha256, w->windows->sha256, 65);
    if (t == NULL || t->ne[0] != h->n_embd || t->ne[1] != h->n_vocab ||
        om_tensor_n_rows(t) != t->ne[1]) {
        return OM_OK; /* weight stays NULL: refused */
    }
    h->format = t->format;
    const om_tensor *bias = om_model_find(w->model, "output.bias");
    if (bias != NULL && bias->ne[0] == h->n_vocab && om_tensor_n_rows(bias) == 1) {
        h->has_bias = true;
        w->bias = om_calloc((size_t) h->n_vocab, sizeof(float));
        if (w->bias == NULL) {
            return om_fail_nomem(err, (size_t) h->n_vocab * sizeof(float));
        }
        const om_status status = om_tensor_rows_f32(w->bias, bias, 0, 1, err);
        if (status != OM_OK) {
            return status;
        }
    }
    w->weight = t->data;
    return OM_OK;
}

static om_status new_head(om_head **out, const writer *w, float scale, float softcap,
                          om_error *err) {
    const om_head_spec spec = {
        .n_embd = w->header.n_embd,
        .n_vocab = w->header.n_vocab,
        .format = w->header.format,
        .weight = w->weight,
        .bias = w->bias,
        .scale = scale,
        .softcap = softcap,
    };
    return om_head_new(out, &spec, om_reference_n_block(w->ref), om_n_threads(w->env), err);
}

/* Largest absolute difference; infinity when one side is not finite. */
static double largest_difference(const float *a, const float *b, int64_t n) {
    float worst = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        const float d = fabsf(a[i] - b[i]);
        if (!(d <= worst)) {
            worst = d;
        }
    }
    return isnan(worst) ? (double) INFINITY : (double) worst;
}

static om_status try_head(double *error, const writer *w, float scale, float softcap,
                          const float *hidden, int n, const float *want, om_error *err) {
    om_status status = OM_OK;
    om_head *head = NULL;
    const float *got;
    OM_TRY(new_head(&head, w, scale, softcap, err));
    OM_TRY(om_head_logits(&got, head, hidden, n, err));
    *error = largest_difference(got, want, (int64_t) n * w->header.n_vocab);
out:
    om_head_free(head);
    return status;
}

/* Find scale and soft cap on the first block. A head that fits none leaves the smallest error. */
static om_status choose_head(writer *w, const float *hidden, int n, const float *want,
                             om_error *err) {
    om_status status = OM_OK;
    const float given = (float) om_model_f64(w->model, "%s.logit_scale", 0.0);
    const float cap = (float) om_model_f64(w->model, "%s.final_logit_softcapping", 0.0);
    const float scales[3] = { 1.0f, given, given > 0.0f ? 1.0f / given : 0.0f };
    double best = (double) INFINITY;
    for (int i = 0; i < 6 && best > max_logit_error; i++) {
        const float scale = scales[i / 2], softcap = i % 2 == 0 ? cap : 0.0f;
        double error;
        if (!(scale > 0.0f) || softcap < 0.0f) {
            continue;
        }
        OM_TRY(try_head(&error, w, scale, softcap, hidden, n, want, err));
        if (error < best || i == 0) {
            best = error;
            w->header.scale = scale;
            w->header.softcap = softcap;
        }
    }
out:
    return status;
}

/* The first window's first block says what there is to keep. */
static om_status settle_choices(writer *w, const om_choices *c, om_error *err) {
    om_refile_header *h = &w->header;
    const size_t n_layers = (size_t) c->n_layers;
    const size_t n = n_layers * (size_t) (h->n_ctx - 1) * (size_t) c->n_used;
    w->layers = om_calloc(n_layers, sizeof(*w->layers));
    w->choices = om_calloc(n, sizeof(*w->choices));
    if (w->layers == NULL || w->choices == NULL) {
        return om_fail_nomem(err, n * sizeof(*w->choices));
    }
    memcpy(w->layers, c->layers, n_layers * sizeof(*w->layers));
    h->n_layers = c->n_layers;
    h->n_experts = c->n_experts;
    h->n_used = c->n_used;
    return OM_OK;
}

/* Copy the choices of the block just computed. Within the first window they can still be given up;
 * later the header has promised them. */
static om_status keep_choices(writer *w, int window, int pos, int n, om_error *err) {
    om_status status = OM_OK;
    const om_choices c = om_runtime_choices(w->rt);
    om_refile_header *h = &w->header;
    if (window == 0 && pos == 0 && c.n_layers > 0) {
        OM_TRY(settle_choices(w, &c, err));
    }
    if (h->n_layers == 0) {
        return OM_OK;
    }
    if (c.n_layers != h->n_layers || c.n_experts != h->n_experts || c.n_used != h->n_used) {
        if (window > 0) {
            return om_fail(err, OM_E_INTERNAL,
                           "the layers with experts are not those of the first window in window %d",
                           window);
        }
        h->n_layers = h->n_experts = h->n_used = 0;
        return OM_OK;
    }
    for (int l = 0; l < c.n_layers; l++) {
        const int64_t row = (int64_t) l * (h->n_ctx - 1) + pos;
        memcpy(w->choices + row * c.n_used, c.ids + l * c.layer_stride,
               (size_t) n * (size_t) c.n_used * sizeof(*w->choices));
    }
out:
    return status;
}

/* Fills w->first, w->choices, w->error and the header's scale, soft cap and counts of experts. */
static om_status first_window(writer *w, om_error *err) {
    om_status status = OM_OK;
    om_head *head = NULL;
    const int n_block = om_reference_n_block(w->ref), n_rows = w->header.n_ctx - 1;
    const int64_t n_embd = w->header.n_embd, n_vocab = w->header.n_vocab;
    for (int pos = 0; pos < n_rows; pos += n_block) {
        const int n = n_rows - pos < n_block ? n_rows - pos : n_block;
        const float *got;
        OM_TRY(om_runtime_decode(w->rt, w->windows->tokens + pos, n, pos, 0, err));
        const float *logits = om_runtime_logits(w->rt), *hidden = om_runtime_hidden(w->rt);
        if (logits == NULL || hidden == NULL) {
            w->weight = NULL;
            goto out;
        }
        if (pos == 0) {
            OM_TRY(choose_head(w, hidden, n, logits, err));
            OM_TRY(new_head(&head, w, w->header.scale, w->header.softcap, err));
        }
        OM_TRY(om_head_logits(&got, head, hidden, n, err));
        w->error = fmax(w->error, largest_difference(got, logits, n * n_vocab));
        memcpy(w->first + pos * n_embd, hidden, (size_t) (n * n_embd) * sizeof(float));
        OM_TRY(keep_choices(w, 0, pos, n, err));
    }
out:
    om_head_free(head);
    return status;
}

static om_status add_window(writer *w, int window, om_error *err) {
    om_status status = OM_OK;
    const int n_block = om_reference_n_block(w->ref), n_rows = w->header.n_ctx - 1;
    const int64_t n_embd = w->header.n_embd;
    for (int pos = 0; pos < n_rows; pos += n_block) {
        const int n = n_rows - pos < n_block ? n_rows - pos : n_block;
        const float *hidden = w->first + pos * n_embd;
        if (window > 0) {
            const int32_t *tokens =
                w->windows->tokens + (int64_t) window * w->windows->n_tokens + pos;
            OM_TRY(om_runtime_decode(w->rt, tokens, n, pos, 0, err));
            hidden = om_runtime_hidden(w->rt);
            OM_TRY(keep_choices(w, window, pos, n, err));
        }
        for (int64_t i = 0; i < n * n_embd; i++) {
            if (!isfinite(hidden[i])) {
                status = om_fail(err, OM_E_NUMERIC,
                                 "the reference gives values that are not finite in window %d at "
                                 "position %d",
                                 window, pos + (int) (i / n_embd));
                goto out;
            }
        }
        OM_TRY(om_refile_add(&w->file, &w->header, hidden, n, err));
    }
    OM_TRY(om_refile_add_choices(&w->file, &w->header, w->choices, err));
out:
    return status;
}

static om_status write_file(writer *w, const char *path, om_error *err) {
    om_status status = OM_OK;
    const int n_windows = w->header.n_windows;
    om_log(w->env, OM_LOG_INFO, "reference file: %.1f MB, %d windows",
           (double) om_refile_bytes(&w->header) / 1e6, n_windows);
    OM_TRY(om_refile_begin(&w->file, &w->header, path, w->windows->tokens, w->layers, w->bias,
                           w->weight, err));
    for (int i = 0; i < n_windows; i++) {
        OM_TRY(om_check_cancel(w->env, err));
        OM_TRY(add_window(w, i, err));
        om_progress(w->env, "reference", i + 1, n_windows, "windows");
    }
    OM_TRY(om_atomic_commit(&w->file, err));
out:
    return status;
}

om_status om_reference_write(bool *refused, char why[256], om_reference *ref, const char *path,
                             const om_env *env, om_error *err) {
    om_status status = OM_OK;
    writer w = { .ref = ref,
                 .rt = om_reference_runtime(ref),
                 .windows = om_reference_windows(ref),
                 .env = env };
    *refused = false;
    why[0] = '\0';
    if (w.rt == NULL) {
        return om_fail(err, OM_E_ARG, "%s is a reference file already", om_reference_path(ref));
    }
    OM_TRY(om_model_open(&w.model, om_reference_gguf(ref), err));
    OM_TRY(find_head(&w, err));
    if (w.weight != NULL) {
        const size_t n = (size_t) w.header.n_ctx * (size_t) w.header.n_embd;
        w.first = om_calloc(n, sizeof(float));
        if (w.first == NULL) {
            status = om_fail_nomem(err, n * sizeof(float));
            goto out;
        }
        OM_TRY(first_window(&w, err));
    }
    if (w.weight == NULL || w.error > max_logit_error) {
        *refused = true;
        snprintf(why, 256,
                 "%s: logits cannot be recomputed from hidden states (%s, largest error %.3g), so "
                 "no reference file; the reference is run each time instead",
                 om_model_arch(w.model), w.weight == NULL ? "no plain output head" : "other head",
                 w.error);
        goto out;
    }
    om_log(env, OM_LOG_DEBUG, "reference head: scale %g, soft cap %g, largest logit error %.3g",
           (double) w.header.scale, (double) w.header.softcap, w.error);
    OM_TRY(write_file(&w, path, err));
out:
    om_atomic_abort(&w.file);
    om_model_free(w.model);
    om_free(w.bias);
    om_free(w.first);
    om_free(w.layers);
    om_free(w.choices);
    return status;
}
