/* Model and reference side by side, block by block -> om_evaluation.
 *
 * Position i of a window predicts token i + 1, so the last position is never computed. Score "all"
 * takes positions 0 .. T-2 (T-1 a window); "second-half" is llama-perplexity's rule, positions T/2
 * .. T-2, where every prediction has at least half a window to look back on. Choices of experts are
 * compared at the same positions.
 */
#include "eval/judge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/choices.h"
#include "eval/metrics.h"
#include "eval/runtime.h"
#include "eval/speed.h"
#include "eval/unpack.h"
#include "model/gguf.h"

om_status om_score_start(int *first, const char *score, int n_ctx, om_error *err) {
    if (score == NULL || strcmp(score, "all") == 0) {
        *first = 0;
        return OM_OK;
    }
    if (strcmp(score, "second-half") == 0) {
        *first = n_ctx / 2;
        if (n_ctx - *first - 1 < 1) {
            return om_fail(err, OM_E_ARG, "a context of %d tokens has no second half to score",
                           n_ctx);
        }
        return OM_OK;
    }
    return om_fail(err, OM_E_ARG, "expected the score \"all\" or \"second-half\", found \"%s\"",
                   score);
}

typedef struct judging {
    om_reference *ref;
    om_runtime *model;
    const om_windows *windows;
    om_pool *pool;
    om_tally tally;
    om_agreement agreement;
    int first; /* scored from this position on */
    int n_vocab;
    int probe; /* tokens of the first window whose loss is wanted alone */
    double probe_nll;
} judging;

static om_status non_finite(om_error *err, const judging *j, int window, int pos, bool reference) {
    *err = (om_error){ 0 };
    return om_fail(err, OM_E_NUMERIC,
                   "%s gives logits that are not finite in window %d at position %d; the file is "
                   "damaged or its types do not suit it",
                   reference ? "the reference" : "the model", window + 1,
                   pos < j->windows->n_tokens ? pos : 0);
}

static bool row_is_finite(const float *row, int n_vocab) {
    for (int i = 0; i < n_vocab; i++) {
        if (!(row[i] - row[i] == 0.0f)) {
            return false;
        }
    }
    return true;
}

/* After the block was scored, so that all its logits are finite. */
static om_status add_probe(judging *j, const float *rows, int pos, int n, const int32_t *labels,
                           om_error *err) {
    om_row_score score;
    float *scratch = om_calloc((size_t) j->n_vocab, sizeof *scratch);
    if (scratch == NULL) {
        return om_fail_nomem(err, (size_t) j->n_vocab * sizeof *scratch);
    }
    for (int i = 0; i < n && pos + i < j->probe; i++) {
        const float *row = rows + (int64_t) i * j->n_vocab;
        if (om_score_row(&score, row, row, j->n_vocab, labels[i], scratch)) {
            j->probe_nll += score.nll;
        }
    }
    om_free(scratch);
    return OM_OK;
}

static om_status judge_block(judging *j, int window, int pos, int n, om_error *err) {
    om_status status = OM_OK;
    const int32_t *tokens = j->windows->tokens + (int64_t) window * j->windows->n_tokens + pos;
    int first_out = j->first > pos ? j->first - pos : 0;
    first_out = first_out < n ? first_out : n;
    const float *ref_rows, *rows;
    OM_TRY(om_runtime_decode(j->model, tokens, n, pos, first_out, err));
    OM_TRY(om_reference_rows(&ref_rows, j->ref, window, pos, n, first_out, err));
    if (first_out == n) {
        goto out;
    }
    rows = om_runtime_logits(j->model);
    if (rows == NULL) {
        status = om_fail(err, OM_E_INTERNAL, "the model gave no logits");
        goto out;
    }
    const om_choices ref_choices = om_reference_choices(j->ref);
    const om_choices choices = om_runtime_choices(j->model);
    om_agreement_add(&j->agreement, &ref_choices, &choices, first_out, n);
    int64_t bad = 0;
    status = om_tally_rows(&j->tally, &bad, ref_rows, rows, tokens + first_out + 1, n - first_out,
                           j->n_vocab, j->pool, err);
    if (status == OM_E_NUMERIC) {
        const bool reference = !row_is_finite(ref_rows + bad * j->n_vocab, j->n_vocab);
        status = non_finite(err, j, window, pos + first_out + (int) bad, reference);
    }
    OM_TRY(status);
    if (window == 0 && j->first == 0 && pos < j->probe) {
        OM_TRY(add_probe(j, rows, pos, n, tokens + 1, err));
    }
out:
    return status;
}

static om_status judge_window(judging *j, int window, om_error *err) {
    om_status status = OM_OK;
    const int n_rows = j->windows->n_tokens - 1, n_block = om_reference_n_block(j->ref);
    for (int pos = 0; pos < n_rows; pos += n_block) {
        const int n = n_rows - pos < n_block ? n_rows - pos : n_block;
        OM_TRY(judge_block(j, window, pos, n, err));
    }
out:
    return status;
}

static om_status check_vocabulary(const judging *j, om_error *err) {
    const int n = om_runtime_n_vocab(j->model);
    if (n != om_reference_n_vocab(j->ref)) {
        return om_fail(err, OM_E_MISMATCH,
                       "the model has a vocabulary of %d tokens, the reference of %d; give the "
                       "full-precision file of the same model as reference",
                       n, om_reference_n_vocab(j->ref));
    }
    if (om_runtime_vocab_hash(j->model) != om_reference_vocab_hash(j->ref)) {
        return om_fail(err, OM_E_MISMATCH,
                       "the tokenizer of the model is not the reference's; give the full-precision "
                       "file of the same model as reference");
    }
    return OM_OK;
}

static void fill(om_evaluation *e, judging *j, const char *score) {
    const om_summary s = om_tally_summary(&j->tally);
    const om_windows *w = j->windows;
    snprintf(e->reference_path, sizeof(e->reference_path), "%s", om_reference_path(j->ref));
    memcpy(e->reference_sha256, om_reference_sha256(j->ref), sizeof(e->reference_sha256));
    memcpy(e->text_sha256, w->sha256, sizeof(e->text_sha256));
    snprintf(e->score, sizeof(e->score), "%s", score != NULL ? score : "all");
    snprintf(e->device, sizeof(e->device), "%s", om_runtime_device(j->model));
    e->n_ctx = w->n_tokens;
    e->n_chunks = w->n_windows;
    e->tokens = s.tokens;
    e->ppl = s.ppl;
    e->ppl_stderr = s.ppl_stderr;
    e->ppl_reference = s.ppl_ref;
    e->kld_mean = s.kld_mean;
    e->kld_stderr = s.kld_stderr;
    e->kld_median = s.kld_median;
    e->kld_p99 = s.kld_p99;
    e->kld_max = s.kld_max;
    e->top1_agreement = s.top1_agreement;
    e->routing = om_agreement_summary(&j->agreement);
    if (j->probe > 0 && j->first == 0 && j->probe < w->n_tokens) {
        e->probe_tokens = j->probe;
        e->probe_ppl = exp(j->probe_nll / j->probe);
    }
}

om_status om_judge_runtime(om_evaluation *out, om_reference *ref, om_runtime *model,
                           const om_judge_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    judging j = { .ref = ref,
                  .model = model,
                  .windows = om_reference_windows(ref),
                  .n_vocab = om_reference_n_vocab(ref),
                  .probe = o->probe };
    OM_TRY(om_score_start(&j.first, o->score, j.windows->n_tokens, err));
    OM_TRY(check_vocabulary(&j, err));
    j.pool = om_pool_new(om_n_threads(env));
    for (int i = 0; i < j.windows->n_windows; i++) {
        OM_TRY(om_check_cancel(env, err));
        OM_TRY(judge_window(&j, i, err));
        if (!o->quiet) {
            om_progress(env, "eval", i + 1, j.windows->n_windows, "windows");
        }
    }
    fill(out, &j, o->score);
    if (j.agreement.differs) {
        om_log(env, OM_LOG_WARN,
               "routing is not compared: the reference has other layers with experts, or another "
               "number of experts");
    }
out:
    om_pool_free(j.pool);
    om_tally_release(&j.tally);
    return status;
}

static void describe_file(om_evaluation *e, const om_unpacked *u, const char *path) {
    snprintf(e->model_path, sizeof(e->model_path), "%.*s", (int) om_path_length(path), path);
    memcpy(e->model_sha256, u->sha256, sizeof(e->model_sha256));
    e->container = u->container;
    e->file_bytes = u->bytes;
    e->bpw = u->params > 0 ? (double) u->bytes * 8.0 / (double) u->params : 0.0;
}

static om_status time_file(om_evaluation *e, const om_unpacked *u, const om_windows *w,
                           const om_judge_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_speed speed;
    if (!o->speed || u->container != OM_CONTAINER_GGUF) {
        return OM_OK;
    }
    OM_TRY(om_speed_measure(&speed, om_model_path(u->model), o->n_gpu_layers, w->tokens,
                            w->n_tokens, env, err));
    om_evaluation_set_speed(e, &speed);
out:
    return status;
}

om_status om_judge(om_evaluation *out, om_reference *ref, const char *model_path,
                   const om_judge_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_unpacked unpacked = { 0 };
    om_runtime *runtime = NULL;
    om_evaluation e = { 0 };
    const om_windows *w = om_reference_windows(ref);
    om_runtime_options run = { .n_gpu_layers = o->n_gpu_layers,
                               .n_ctx = w->n_tokens,
                               .n_block = om_reference_n_block(ref),
                               .f32_kv = o->exact,
                               .extra_bufts = !o->exact };
    const om_unpack_options unpack = { .like = o->like != NULL ? o->like : om_reference_gguf(ref),
                                       .f32 = true,
                                       .scratch = o->scratch,
                                       .no_hash = o->no_hash };
    OM_TRY(om_unpacked_open(&unpacked, model_path, &unpack, env, err));
    run.choices = o->routing && om_choices_has_experts(unpacked.model);
    if (run.choices && !om_reference_has_choices(ref)) {
        run.choices = false;
        om_log(env, OM_LOG_INFO,
               "routing is not compared: %s does not hold which experts the reference chose; a "
               "reference file written anew does",
               om_reference_path(ref));
    }
    describe_file(&e, &unpacked, model_path);
    OM_TRY(time_file(&e, &unpacked, w, o, env, err));
    OM_TRY(om_runtime_open(&runtime, om_model_path(unpacked.model), &run, env, err));
    OM_TRY(om_judge_runtime(&e, ref, runtime, o, env, err));
    *out = e;
out:
    om_runtime_free(runtime);
    om_unpacked_release(&unpacked);
    return status;
}
