/* GGUF or reference file -> blocks of reference logits.
 *
 * Never more than one block of logits is held (unless keep_bytes asks for it): the reference is run
 * in step with the model, or its head is applied to the stored hidden states. In a reference file
 * a token costs 4 bytes per channel instead of llama-perplexity's 2 bytes per vocabulary
 * entry, and nothing is clamped or rounded to 16 bit logits, so small divergences stay visible.
 */
#include "eval/reference.h"

#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/choices.h"
#include "eval/head.h"
#include "eval/refile.h"
#include "eval/runtime.h"
#include "eval/unpack.h"
#include "model/gguf.h"

enum { DEFAULT_CTX = 512, MAX_BLOCK = 512 };

struct om_reference {
    om_windows windows;
    char *path;
    char sha256[65];
    uint64_t vocab_hash;
    int n_vocab, n_embd, n_block;
    om_runtime *runtime; /* GGUF; NULL for a file */
    om_unpacked unpacked;
    om_refile file;
    om_head *head;
    bool has_choices;
    om_choices choices; /* of the last block */
    /* keep_bytes: logits of whole windows, [T-1, V] each, once complete */
    float **kept;   /* [n_windows]; NULL: nothing is kept */
    int *kept_from; /* [n_windows] first position kept; n_ctx: incomplete */
    int filling_from;
};

static om_status open_gguf(om_reference *ref, const om_reference_options *o, const om_env *env,
                           om_error *err) {
    om_status status = OM_OK;
    const int n_ctx = o->n_ctx > 0 ? o->n_ctx : DEFAULT_CTX;
    if (o->text == NULL) {
        return om_fail(err, OM_E_ARG, "a model as reference needs a text (--text FILE)");
    }
    om_runtime_options run = { .n_gpu_layers = o->n_gpu_layers,
                               .n_ctx = n_ctx,
                               .n_block = ref->n_block,
                               .f32_kv = o->exact,
                               .extra_bufts = !o->exact,
                               .hidden = o->hidden };
    const om_unpack_options unpack = { .f32 = o->f32,
                                       .scratch = o->scratch,
                                       .no_hash = o->no_hash };
    OM_TRY(om_unpacked_open(&ref->unpacked, o->path, &unpack, env, err));
    const char *gguf = om_model_path(ref->unpacked.model);
    memcpy(ref->sha256, ref->unpacked.sha256, sizeof(ref->sha256));
    run.choices = o->choices && o->keep_bytes == 0 && om_choices_has_experts(ref->unpacked.model);
    OM_TRY(om_windows_read(&ref->windows, gguf, &o->text, 1, n_ctx, o->n_chunks, env, err));
    OM_TRY(om_runtime_open(&ref->runtime, gguf, &run, env, err));
    ref->has_choices = run.choices;
    ref->n_vocab = om_runtime_n_vocab(ref->runtime);
    ref->n_embd = om_runtime_n_embd(ref->runtime);
    ref->vocab_hash = om_runtime_vocab_hash(ref->runtime);
out:
    return status;
}

static om_status check_request(const om_refile_header *h, const om_reference_options *o,
                               const om_env *env, om_error *err) {
    om_status status = OM_OK;
    char text_sha256[65];
    if (o->n_ctx > 0 && o->n_ctx != h->n_ctx) {
        return om_fail(err, OM_E_ARG, "%s holds windows of %d tokens, asked for %d; write it again",
                       o->path, h->n_ctx, o->n_ctx);
    }
    if (o->n_chunks > h->n_windows) {
        return om_fail(err, OM_E_ARG, "%s holds %d windows, asked for %d; write it again", o->path,
                       h->n_windows, o->n_chunks);
    }
    if (o->text != NULL) {
        OM_TRY(om_sha256_file(text_sha256, o->text, env, err));
        if (strcmp(text_sha256, h->text_sha256) != 0) {
            return om_fail(err, OM_E_MISMATCH,
                           "%s was written from another text than %s; write it again or give that "
                           "text",
                           o->path, o->text);
        }
    }
out:
    return status;
}

static om_status take_windows(om_reference *ref, int n_chunks, om_error *err) {
    const om_refile_header *h = &ref->file.header;
    om_windows *w = &ref->windows;
    w->n_windows = n_chunks > 0 ? n_chunks : h->n_windows;
    w->n_tokens = h->n_ctx;
    w->n_vocab = h->n_vocab;
    w->bos = h->bos;
    memcpy(w->sha256, h->text_sha256, sizeof(w->sha256));
    const size_t n = (size_t) w->n_windows * (size_t) w->n_tokens;
    w->tokens = om_calloc(n, sizeof(int32_t));
    if (w->tokens == NULL) {
        return om_fail_nomem(err, n * sizeof(int32_t));
    }
    memcpy(w->tokens, ref->file.tokens, n * sizeof(int32_t));
    return OM_OK;
}

static om_status open_file(om_reference *ref, const om_reference_options *o, const om_env *env,
                           om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_refile_open(&ref->file, o->path, err));
    const om_refile_header *h = &ref->file.header;
    OM_TRY(check_request(h, o, env, err));
    OM_TRY(take_windows(ref, o->n_chunks, err));
    memcpy(ref->sha256, h->model_sha256, sizeof(ref->sha256));
    ref->n_vocab = h->n_vocab;
    ref->n_embd = h->n_embd;
    ref->vocab_hash = h->vocab_hash;
    ref->has_choices = h->n_layers > 0;
    if (ref->n_block > h->n_ctx) {
        ref->n_block = h->n_ctx;
    }
    const om_head_spec spec = {
        .n_embd = h->n_embd,
        .n_vocab = h->n_vocab,
        .format = h->format,
        .weight = ref->file.weight,
        .bias = ref->file.bias,
        .scale = h->scale,
        .softcap = h->softcap,
    };
    OM_TRY(om_head_new(&ref->head, &spec, ref->n_block, om_n_threads(env), err));
out:
    return status;
}

/* Keep either the whole text or nothing: a part would help little and be hard to predict. */
static om_status plan_keeping(om_reference *ref, int64_t keep_bytes, om_error *err) {
    const om_windows *w = &ref->windows;
    const double need = 4.0 * w->n_windows * (w->n_tokens - 1) * ref->n_vocab;
    if (need > (double) keep_bytes) {
        return OM_OK;
    }
    ref->kept = om_calloc((size_t) w->n_windows, sizeof(float *));
    ref->kept_from = om_calloc((size_t) w->n_windows, sizeof(int));
    if (ref->kept == NULL || ref->kept_from == NULL) {
        return om_fail_nomem(err, (size_t) w->n_windows * sizeof(float *));
    }
    for (int i = 0; i < w->n_windows; i++) {
        ref->kept_from[i] = w->n_tokens;
    }
    return OM_OK;
}

om_status om_reference_open(om_reference **out, const om_reference_options *o, const om_env *env,
                            om_error *err) {
    om_status status = OM_OK;
    om_reference *ref = om_calloc(1, sizeof(*ref));
    if (ref == NULL) {
        return om_fail_nomem(err, sizeof(*ref));
    }
    ref->path = om_strdup(o->path);
    if (ref->path == NULL) {
        status = om_fail_nomem(err, strlen(o->path) + 1);
        goto out;
    }
    if (o->n_ctx < 0 || o->n_ctx == 1 || o->n_chunks < 0) {
        status = om_fail(err, OM_E_ARG,
                         "expected a context of at least 2 tokens and a number of chunks that is "
                         "not negative, found %d and %d",
                         o->n_ctx, o->n_chunks);
        goto out;
    }
    ref->n_block = o->n_ctx > 0 && o->n_ctx < MAX_BLOCK ? o->n_ctx : MAX_BLOCK;
    if (om_refile_is(o->path)) {
        OM_TRY(open_file(ref, o, env, err));
    } else {
        OM_TRY(open_gguf(ref, o, env, err));
    }
    OM_TRY(plan_keeping(ref, o->keep_bytes, err));
    *out = ref;
    ref = NULL;
out:
    om_reference_free(ref);
    return status;
}

void om_reference_free(om_reference *ref) {
    if (ref == NULL) {
        return;
    }
    for (int i = 0; ref->kept != NULL && i < ref->windows.n_windows; i++) {
        om_free(ref->kept[i]);
    }
    om_free(ref->kept);
    om_free(ref->kept_from);
    om_head_free(ref->head); /* before the mapping its weight lies in */
    om_refile_close(&ref->file);
    om_runtime_free(ref->runtime);
    om_unpacked_release(&ref->unpacked);
    om_windows_release(&ref->windows);
    om_free(ref->path);
    om_free(ref);
}

const om_windows *om_reference_windows(const om_reference *ref) {
    return &ref->windows;
}

int om_reference_n_vocab(const om_reference *ref) {
    return ref->n_vocab;
}

uint64_t om_reference_vocab_hash(const om_reference *ref) {
    return ref->vocab_hash;
}

const char *om_reference_sha256(const om_reference *ref) {
    return ref->sha256;
}

const char *om_reference_path(const om_reference *ref) {
    return ref->path;
}

const char *om_reference_gguf(const om_reference *ref) {
    return ref->unpacked.model != NULL ? om_model_path(ref->unpacked.model) : NULL;
}

bool om_reference_is_file(const om_reference *ref) {
    return ref->runtime == NULL;
}

int om_reference_n_block(const om_reference *ref) {
    return ref->n_block;
}

om_runtime *om_reference_runtime(om_reference *ref) {
    return ref->runtime;
}

bool om_reference_has_choices(const om_reference *ref) {
    return ref->has_choices;
}

om_choices om_reference_choices(const om_reference *ref) {
    return ref->choices;
}

static om_status compute_rows(const float **logits, om_reference *ref, int window, int pos, int n,
                              int first_out, om_error *err) {
    om_status status = OM_OK;
    *logits = NULL;
    if (ref->runtime != NULL) {
        const int32_t *tokens =
            ref->windows.tokens + (int64_t) window * ref->windows.n_tokens + pos;
        OM_TRY(om_runtime_decode(ref->runtime, tokens, n, pos, first_out, err));
        *logits = om_runtime_logits(ref->runtime);
        ref->choices = om_runtime_choices(ref->runtime);
    } else if (first_out < n) {
        const float *hidden = om_refile_hidden(&ref->file, window, pos + first_out);
        OM_TRY(om_head_logits(logits, ref->head, hidden, n - first_out, err));
        ref->choices = om_refile_choices(&ref->file, window, pos);
    }
    if (*logits == NULL && first_out < n) {
        status = om_fail(err, OM_E_INTERNAL, "the reference gave no logits");
    }
out:
    return status;
}

/* Copy a block into the window's store; a window counts as kept when its last block has come. */
static void keep_rows(om_reference *ref, const float *logits, int window, int pos, int n,
                      int first_out) {
    const int n_rows = ref->windows.n_tokens - 1;
    const size_t n_vocab = (size_t) ref->n_vocab;
    if (pos == 0) {
        ref->kept_from[window] = ref->windows.n_tokens;
        ref->filling_from = ref->windows.n_tokens;
    }
    if (ref->kept[window] == NULL) {
        ref->kept[window] = om_calloc((size_t) n_rows, n_vocab * sizeof(float));
    }
    if (ref->kept[window] == NULL) {
        return; /* short of memory: this window is computed again next time */
    }
    if (first_out < n) {
        if (ref->filling_from > pos + first_out) {
            ref->filling_from = pos + first_out;
        }
        memcpy(ref->kept[window] + (size_t) (pos + first_out) * n_vocab, logits,
               (size_t) (n - first_out) * n_vocab * sizeof(float));
    }
    if (pos + n >= n_rows) {
        ref->kept_from[window] = ref->filling_from;
    }
}

om_status om_reference_rows(const float **logits, om_reference *ref, int window, int pos, int n,
                            int first_out, om_error *err) {
    om_status status = OM_OK;
    ref->choices = (om_choices){ 0 };
    if (ref->kept != NULL && ref->kept_from[window] <= pos + first_out) {
        *logits = first_out < n
                      ? ref->kept[window] + (size_t) (pos + first_out) * (size_t) ref->n_vocab
                      : NULL;
        return OM_OK;
    }
    OM_TRY(compute_rows(logits, ref, window, pos, n, first_out, err));
    if (ref->kept != NULL) {
        keep_rows(ref, *logits, window, pos, n, first_out);
    }
out:
    return status;
}
