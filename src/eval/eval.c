/* The verb: options -> reference (running or stored) -> judgement -> eval.json and text for people.
 */
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "eval/evaluation_json.h"
#include "eval/judge.h"
#include "eval/mlx_speed.h"
#include "eval/reference.h"
#include "eval/refile.h"
#include "hf/directory.h"
#include "model/gguf.h"
#include "model/llama_log.h"
#include "optimum.h"

/* ---- text for people ---- */

static void add_speed(om_buf *b, const om_evaluation *e) {
    char memory[32];
    if (!(e->prefill_tok_s > 0.0)) {
        return;
    }
    om_buf_printf(b, "speed      prefill %.1f tok/s, decode %.1f tok/s, first token after %.3f s\n",
                  e->prefill_tok_s, e->decode_tok_s, e->ttft_s);
    om_buf_printf(b, "memory     %s while running, %s on %s\n",
                  om_format_bytes(memory, (double) e->peak_memory_bytes, false), e->runtime,
                  e->device);
}

static void add_probe(om_buf *b, const om_evaluation *e) {
    if (e->probe_tokens > 0) {
        om_buf_printf(b, "agreement  perplexity of the first %d tokens: %.4f by %s, %.4f here\n",
                      e->probe_tokens, e->probe_ppl_runtime, e->runtime, e->probe_ppl);
    }
}

/* The runtime's arithmetic explains a few percent; a wrong rotation or a tensor in a wrong place
 * more. */
static const double max_disagreement = 0.05;

static void warn_of_probe(const om_evaluation *e, const om_env *env) {
    if (e->probe_tokens > 0 &&
        !(fabs(e->probe_ppl_runtime - e->probe_ppl) <= max_disagreement * e->probe_ppl)) {
        om_log(env, OM_LOG_WARN,
               "%s does not compute what was judged here: perplexity %.4f instead of %.4f on the "
               "first %d tokens; does its config.json say all that mlx_lm needs?",
               e->runtime, e->probe_ppl_runtime, e->probe_ppl, e->probe_tokens);
    }
}

enum { FEW_LAYERS = 12 }; /* shown to everybody; more are for --verbose */

static void add_layers(om_buf *b, const om_routing *r, int first, int n) {
    for (int l = first; l < first + n && l < r->n_layers; l++) {
        om_buf_printf(b, "%s%d: %.2f %%", l > first ? ", " : "", r->layer[l],
                      100.0 * r->layer_agreement[l]);
    }
}

static void add_routing(om_buf *b, const om_routing *r) {
    if (r->n_layers == 0) {
        return;
    }
    const int worst = om_routing_worst(r);
    om_buf_printf(b,
                  "routing    %.2f %% of the experts chosen (%d of %d) are the reference's, %.2f "
                  "flips a token; least in layer %d: %.2f %%\n",
                  100.0 * r->agreement, r->n_used, r->n_experts, r->flips_per_token,
                  r->layer[worst], 100.0 * r->layer_agreement[worst]);
    for (int l = 0; r->n_layers <= FEW_LAYERS && l < r->n_layers; l += 6) {
        om_buf_puts(b, l == 0 ? "  layers   " : "           ");
        add_layers(b, r, l, 6);
        om_buf_puts(b, "\n");
    }
}

static void log_routing(const om_routing *r, const om_env *env) {
    for (int l = 0; r->n_layers > FEW_LAYERS && l < r->n_layers; l += 6) {
        om_buf b = { 0 };
        add_layers(&b, r, l, 6);
        om_log(env, OM_LOG_DEBUG, "routing agreement by layer: %s", b.data != NULL ? b.data : "");
        om_buf_release(&b);
    }
}

static char *describe(const om_evaluation *e) {
    om_buf b = { 0 };
    char size[32];
    om_buf_printf(&b, "%s\n", e->model_path);
    om_buf_printf(&b, "KLD        %.6f ± %.6f nats a token (median %.6f, p99 %.6f, max %.6f)\n",
                  e->kld_mean, e->kld_stderr, e->kld_median, e->kld_p99, e->kld_max);
    om_buf_printf(&b, "perplexity %.4f ± %.4f, reference %.4f, ratio %.5f\n", e->ppl, e->ppl_stderr,
                  e->ppl_reference, e->ppl_reference > 0.0 ? e->ppl / e->ppl_reference : 0.0);
    om_buf_printf(&b, "same top-1 %.2f %%\n", 100.0 * e->top1_agreement);
    add_routing(&b, &e->routing);
    om_buf_printf(&b, "size       %s, %.3f bits per weight\n",
                  om_format_bytes(size, (double) e->file_bytes, false), e->bpw);
    add_speed(&b, e);
    add_probe(&b, e);
    om_buf_printf(&b, "scored     %lld tokens (%s), %d windows of %d\n", (long long) e->tokens,
                  e->score, e->n_chunks, e->n_ctx);
    return om_buf_take(&b);
}

static om_status fill_result(om_result *out, const om_evaluation *e, om_error *err) {
    om_json *doc = om_evaluation_to_json(e);
    om_result r = { .json = doc != NULL ? om_json_dump(doc) : NULL, .text = describe(e) };
    om_json_free(doc);
    if (r.json == NULL || r.text == NULL) {
        om_result_release(&r);
        return om_fail_nomem(err, 4096);
    }
    *out = r;
    return OM_OK;
}

/* Only the reference file was asked for. */
static om_status fill_reference_result(om_result *out, const om_reference *ref, const char *path,
                                       om_error *err) {
    const om_windows *w = om_reference_windows(ref);
    const int64_t bytes = om_file_size(path);
    char size[32];
    om_buf b = { 0 };
    om_json *doc = om_json_new_document("optimum.reference/1");
    om_json_set_str(doc, "path", path);
    om_json_set_str(doc, "model_sha256", om_reference_sha256(ref));
    om_json_set_str(doc, "text_sha256", w->sha256);
    om_json_set_i64(doc, "n_ctx", w->n_tokens);
    om_json_set_i64(doc, "n_chunks", w->n_windows);
    om_json_set_i64(doc, "bytes", bytes);
    om_buf_printf(&b, "reference file %s: %s, %d windows of %d tokens\n", path,
                  om_format_bytes(size, (double) bytes, false), w->n_windows, w->n_tokens);
    om_result r = { .json = om_json_dump(doc), .text = om_buf_take(&b) };
    om_json_free(doc);
    if (r.json == NULL || r.text == NULL) {
        om_result_release(&r);
        return om_fail_nomem(err, 4096);
    }
    *out = r;
    return OM_OK;
}

/* ---- the verb ---- */

static om_status check_options(const om_eval_options *o, om_error *err) {
    int first;
    if (o->reference == NULL) {
        return om_fail(err, OM_E_ARG,
                       "no reference: give the full-precision model, a GGUF or a Hugging Face "
                       "directory, or a reference file (--reference FILE)");
    }
    if (o->model == NULL && o->reference_out == NULL) {
        return om_fail(err, OM_E_ARG, "nothing to do: give a model, or --reference-out FILE");
    }
    if (o->n_ctx < 0 || o->n_ctx > 1 << 20 || o->n_chunks < 0) {
        return om_fail(err, OM_E_ARG,
                       "expected a context of 2 to 1048576 tokens and at least one chunk, found "
                       "%d and %d",
                       o->n_ctx, o->n_chunks);
    }
    return om_score_start(&first, o->score, o->n_ctx > 0 ? o->n_ctx : 512, err);
}

/* Before any long work: is there the mlx_lm that shall time the model, and does it load such? */
static om_status check_with(const om_eval_options *o, const om_env *env, om_error *err) {
    if (o->with == NULL) {
        return OM_OK;
    }
    if (strcmp(o->with, "mlx_lm") != 0) {
        return om_fail(err, OM_E_ARG, "expected \"mlx_lm\" to time the model with, found \"%s\"",
                       o->with);
    }
    if (o->model == NULL || !om_hf_is_directory(o->model)) {
        return om_fail(err, OM_E_ARG,
                       "mlx_lm runs directories with config.json and safetensors, and %s is none; "
                       "leave out --with",
                       o->model != NULL ? o->model : "nothing");
    }
    if (o->no_speed) {
        return om_fail(err, OM_E_ARG, "--with asks for the timing that --no-speed skips");
    }
    return om_mlx_speed_check(env, err);
}

static om_status check_outputs(const om_eval_options *o, om_error *err) {
    om_status status = OM_OK;
    const char *const inputs[] = { o->model, o->reference, o->text, o->reference_out };
    OM_TRY(om_file_check_output(o->reference_out, inputs, 3, err));
    OM_TRY(om_file_check_output(o->out, inputs, 4, err));
out:
    return status;
}

/* Replace the running reference by the file it wrote; keep it running when it cannot be stored. */
static om_status store_reference(om_reference **ref, om_reference_options *ro,
                                 const om_eval_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    bool refused = false;
    char why[256];
    if (om_reference_is_file(*ref)) {
        return om_fail(err, OM_E_ARG,
                       "%s is a reference file already: copy it instead of "
                       "--reference-out",
                       o->reference);
    }
    OM_TRY(om_reference_write(&refused, why, *ref, o->reference_out, env, err));
    if (refused) {
        if (o->model == NULL) {
            return om_fail(err, OM_E_UNSUPPORTED, "%s", why);
        }
        om_log(env, OM_LOG_WARN, "%s", why);
        goto out;
    }
    om_reference_free(*ref);
    *ref = NULL;
    ro->path = o->reference_out;
    OM_TRY(om_reference_open(ref, ro, env, err));
out:
    return status;
}

/* Outputs that are not finite mostly come from a weight that is not: name it. A quantized file that
 * overflows has none. */
static void explain_numeric(const om_eval_options *o, const om_env *env, om_error *err) {
    const char *const paths[] = { o->model, o->reference };
    for (int i = 0; i < 2; i++) {
        om_error why = { 0 };
        om_model *model = NULL;
        if (paths[i] != NULL && om_model_open(&model, paths[i], &why) == OM_OK &&
            om_model_check_finite(model, env, &why) == OM_E_NUMERIC) {
            *err = (om_error){ 0 };
            om_fail(err, OM_E_NUMERIC, "%s: %s", paths[i], why.text);
        }
        om_model_free(model);
    }
}

/* The folder of the output: large files are expected there. Owned; NULL: none, or memory is short.
 */
static char *scratch_folder(const om_eval_options *o) {
    const char *slash = o->out != NULL ? strrchr(o->out, '/') : NULL;
    if (o->out == NULL || slash == o->out) {
        return NULL;
    }
    return slash != NULL ? om_strndup(o->out, (size_t) (slash - o->out)) : om_strdup(".");
}

static om_status judge_model(om_evaluation *e, om_reference *ref, const om_eval_options *o,
                             const char *scratch, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_speed speed = { 0 };
    const om_windows *w = om_reference_windows(ref);
    const bool directory = om_hf_is_directory(o->model);
    /* a reference that was stored meanwhile has no GGUF any more, but the one it was made of */
    const bool like = !om_hf_is_directory(o->reference) && !om_refile_is(o->reference);
    om_judge_options jo = { .score = o->score,
                            .n_gpu_layers = o->n_gpu_layers,
                            .exact = o->exact,
                            .speed = !o->no_speed,
                            .like = like ? o->reference : NULL,
                            .scratch = scratch,
                            .routing = true };
    if (o->with != NULL) {
        OM_TRY(om_mlx_speed_measure(&speed, o->model, w->tokens, w->n_tokens, env, err));
    } else if (directory && !o->no_speed) {
        om_log(env, OM_LOG_INFO,
               "the speed of %s is not measured: it is judged as a GGUF of F32; --with mlx_lm "
               "times the real thing",
               o->model);
    }
    jo.probe = speed.probe_tokens;
    OM_TRY(om_judge(e, ref, o->model, &jo, env, err));
    if (o->with != NULL) {
        om_evaluation_set_speed(e, &speed);
        warn_of_probe(e, env);
    }
out:
    return status;
}

om_status om_eval(om_result *out, const om_eval_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_reference *ref = NULL;
    om_evaluation e;
    char *scratch = scratch_folder(o);
    om_llama_log log = { 0 }; /* ggml speaks outside of libllama's functions as well */
    om_llama_log_begin(&log, env);
    OM_TRY(check_options(o, err));
    OM_TRY(check_outputs(o, err));
    OM_TRY(check_with(o, env, err));
    om_reference_options ro = { .path = o->reference,
                                .text = o->text,
                                .n_ctx = o->n_ctx,
                                .n_chunks = o->n_chunks,
                                .n_gpu_layers = o->n_gpu_layers,
                                .exact = o->exact,
                                .hidden = o->reference_out != NULL,
                                .choices = true,
                                .f32 = o->model == NULL || om_hf_is_directory(o->model),
                                .scratch = scratch };
    OM_TRY(om_reference_open(&ref, &ro, env, err));
    if (o->reference_out != NULL) {
        OM_TRY(store_reference(&ref, &ro, o, env, err));
    }
    if (o->model == NULL) {
        OM_TRY(fill_reference_result(out, ref, o->reference_out, err));
        goto out;
    }
    OM_TRY(judge_model(&e, ref, o, scratch, env, err));
    if (o->out != NULL) {
        OM_TRY(om_evaluation_write(&e, o->out, err));
    }
    log_routing(&e.routing, env);
    OM_TRY(fill_result(out, &e, err));
out:
    om_reference_free(ref);
    om_free(scratch);
    om_llama_log_end(&log);
    if (status == OM_E_NUMERIC) {
        explain_numeric(o, env, err);
    }
    if (status != OM_OK) {
        om_error_context(err, "eval");
    }
    return status;
}
