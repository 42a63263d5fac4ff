/* GGUF -> libllama context -> rows of logits. The only file of eval/ that calls llama.h.
 *
 * Repacked weights (use_extra_bufts, llama.cpp's default) use other kernels, whose rounding alone
 * moves a 4-bit file by about 0.001 nats against the plain kernels. Judging and timing use what
 * users run; exact judging (f32_kv, for F32 files) turns all of that off. When n_gpu_layers is 0
 * the list of devices is empty, so that not even single operations of a large batch travel to
 * a GPU.
 */
#include "eval/runtime.h"

#include <stdio.h>
#include <string.h>

#include <ggml-backend.h>
#include <llama.h>

#include "base/log.h"
#include "base/mem.h"
#include "eval/choices.h"
#include "model/llama_log.h"

struct om_runtime {
    struct llama_model *model;
    struct llama_context *ctx;
    const struct llama_vocab *vocab;
    char *path;
    struct llama_batch batch; /* room for n_block tokens */
    om_env env;
    int n_vocab, n_embd, n_block;
    int n, first_out; /* of the last decode */
    bool hidden;
    om_choice_watch *watch; /* NULL: choices are not kept */
    char device[64];
};

static bool wants_to_stop(void *ud) {
    const om_env *env = ud;
    return env->cancelled != NULL && env->cancelled(env->ud);
}

static bool see_node(struct ggml_tensor *node, bool ask, void *ud) {
    return om_choice_watch_see(ud, node, ask);
}

static bool keep_loading(float progress, void *ud) {
    (void) progress;
    return !wants_to_stop(ud);
}

static void name_device(om_runtime *rt, int n_gpu_layers, int n_threads) {
    ggml_backend_dev_t dev = NULL;
    if (n_gpu_layers != 0) {
        dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
    }
    if (dev != NULL) {
        snprintf(rt->device, sizeof(rt->device), "%.63s", ggml_backend_dev_description(dev));
        return;
    }
    dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    snprintf(rt->device, sizeof(rt->device), "%.40s, %d thread%s",
             dev != NULL ? ggml_backend_dev_description(dev) : "CPU", n_threads,
             n_threads == 1 ? "" : "s");
}

static om_status load_model(om_runtime *rt, const char *path, const om_runtime_options *o,
                            const om_llama_log *log, om_error *err) {
    ggml_backend_dev_t no_devices[1] = { NULL };
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = o->n_gpu_layers;
    params.devices = o->n_gpu_layers == 0 ? no_devices : NULL;
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    params.use_extra_bufts = o->extra_bufts;
    params.progress_callback = keep_loading;
    params.progress_callback_user_data = &rt->env;
    rt->model = llama_model_load_from_file(path, params);
    if (rt->model == NULL) {
        if (wants_to_stop(&rt->env)) {
            return om_fail(err, OM_E_CANCELLED, "interrupted while loading %s", path);
        }
        return om_llama_load_failed(log, path, err);
    }
    if (llama_model_has_encoder(rt->model) || !llama_model_has_decoder(rt->model)) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: expected a decoder-only language model, found one with an encoder",
                       path);
    }
    rt->vocab = llama_model_get_vocab(rt->model);
    rt->n_vocab = llama_vocab_n_tokens(rt->vocab);
    rt->n_embd = llama_model_n_embd_out(rt->model);
    if (rt->n_vocab <= 0 || rt->n_embd <= 0) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s: the model has no vocabulary", path);
    }
    return OM_OK;
}

static om_status make_context(om_runtime *rt, const char *path, const om_runtime_options *o,
                              const om_llama_log *log, om_error *err) {
    struct llama_context_params params = llama_context_default_params();
    const int n_threads = om_n_threads(&rt->env);
    params.n_ctx = (uint32_t) o->n_ctx;
    params.n_batch = (uint32_t) rt->n_block;
    params.n_ubatch = (uint32_t) rt->n_block;
    params.n_seq_max = 1;
    params.n_outputs_max = (uint32_t) (o->n_outputs > 0 ? o->n_outputs : rt->n_block);
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    params.embeddings = o->hidden;
    params.pooling_type = LLAMA_POOLING_TYPE_NONE;
    params.swa_full = false;
    params.abort_callback = wants_to_stop;
    params.abort_callback_data = &rt->env;
    if (rt->watch != NULL) {
        params.cb_eval = see_node;
        params.cb_eval_user_data = rt->watch;
    }
    if (o->f32_kv) {
        params.type_k = GGML_TYPE_F32;
        params.type_v = GGML_TYPE_F32;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    rt->ctx = llama_init_from_model(rt->model, params);
    if (rt->ctx == NULL) {
        return om_fail(err, OM_E_NOMEM,
                       "%s: llama.cpp cannot make a context of %d tokens: %s; try a smaller "
                       "context",
                       path, o->n_ctx, om_llama_log_reason(log, "no reason given"));
    }
    if (!llama_get_causal_attn(rt->ctx)) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "%s: expected a causal language model, found one that reads both ways",
                       path);
    }
    return OM_OK;
}

om_status om_runtime_open(om_runtime **out, const char *path, const om_runtime_options *o,
                          const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_runtime *rt = om_calloc(1, sizeof(*rt));
    if (rt == NULL) {
        return om_fail_nomem(err, sizeof(*rt));
    }
    om_llama_log log = { .model = path };
    om_llama_log_begin(&log, env);
    rt->path = om_strdup(path);
    if (rt->path == NULL) {
        status = om_fail_nomem(err, strlen(path));
        goto out;
    }
    rt->env = env != NULL ? *env : (om_env){ 0 };
    rt->n_block = o->n_block > 0 ? o->n_block : (o->n_ctx < 512 ? o->n_ctx : 512);
    rt->hidden = o->hidden;
    if (o->choices) {
        OM_TRY(om_choice_watch_new(&rt->watch, rt->n_block, env, err));
    }
    OM_TRY(load_model(rt, path, o, &log, err));
    OM_TRY(make_context(rt, path, o, &log, err));
    rt->batch = llama_batch_init(rt->n_block, 0, 1);
    if (rt->batch.token == NULL || rt->batch.logits == NULL) {
        status = om_fail_nomem(err, (size_t) rt->n_block * 16);
        goto out;
    }
    name_device(rt, o->n_gpu_layers, om_n_threads(&rt->env));
    *out = rt;
    rt = NULL;
out:
    om_runtime_free(rt);
    om_llama_log_end(&log);
    return status;
}

void om_runtime_free(om_runtime *rt) {
    if (rt == NULL) {
        return;
    }
    om_llama_log log = { .model = rt->path };
    om_llama_log_begin(&log, &rt->env);
    if (rt->batch.token != NULL) {
        llama_batch_free(rt->batch);
    }
    llama_free(rt->ctx);
    llama_model_free(rt->model);
    om_llama_log_end(&log);
    om_choice_watch_free(rt->watch);
    om_free(rt->path);
    om_free(rt);
}

int om_runtime_n_vocab(const om_runtime *rt) {
    return rt->n_vocab;
}

int om_runtime_n_embd(const om_runtime *rt) {
    return rt->n_embd;
}

int om_runtime_n_block(const om_runtime *rt) {
    return rt->n_block;
}

const char *om_runtime_device(const om_runtime *rt) {
    return rt->device;
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001B3ULL;
    }
    return h;
}

uint64_t om_runtime_vocab_hash(const om_runtime *rt) {
    const int32_t facts[3] = { rt->n_vocab, llama_vocab_bos(rt->vocab),
                               llama_vocab_get_add_bos(rt->vocab) };
    uint64_t h = hash_bytes(0xCBF29CE484222325ULL, facts, sizeof(facts));
    for (int32_t i = 0; i < rt->n_vocab; i++) {
        const char *text = llama_vocab_get_text(rt->vocab, i);
        h = text != NULL ? hash_bytes(h, text, strlen(text) + 1) : h * 31;
    }
    return h;
}

om_status om_runtime_decode(om_runtime *rt, const int32_t *tokens, int n, int pos, int first_out,
                            om_error *err) {
    if (pos == 0) {
        llama_memory_clear(llama_get_memory(rt->ctx), true);
    }
    struct llama_batch *b = &rt->batch;
    b->n_tokens = n;
    for (int i = 0; i < n; i++) {
        b->token[i] = tokens[i];
        b->pos[i] = pos + i;
        b->n_seq_id[i] = 1;
        b->seq_id[i][0] = 0;
        b->logits[i] = rt->hidden || i >= first_out; /* embeddings want every token */
    }
    rt->n = n;
    rt->first_out = first_out;
    if (rt->watch != NULL) {
        om_choice_watch_begin(rt->watch, n, first_out);
    }
    om_llama_log log = { .model = rt->path };
    om_llama_log_begin(&log, &rt->env);
    const int result = llama_decode(rt->ctx, *b);
    om_llama_log_end(&log);
    if (result == 0) {
        return rt->watch != NULL ? om_choice_watch_end(rt->watch, err) : OM_OK;
    }
    if (result == 2 || wants_to_stop(&rt->env)) {
        return om_fail(err, OM_E_CANCELLED, "interrupted");
    }
    return om_fail(err, result == -2 ? OM_E_NOMEM : OM_E_INTERNAL,
                   "llama.cpp could not decode %d tokens at position %d%s: %s", n, pos,
                   result == -2 ? ", memory is short" : "",
                   om_llama_log_reason(&log, "no reason given"));
}

const float *om_runtime_logits(om_runtime *rt) {
    return rt->first_out < rt->n ? llama_get_logits_ith(rt->ctx, rt->first_out) : NULL;
}

const float *om_runtime_hidden(om_runtime *rt) {
    return rt->hidden && rt->first_out < rt->n ? llama_get_embeddings_ith(rt->ctx, rt->first_out)
                                               : NULL;
}

om_choices om_runtime_choices(const om_runtime *rt) {
    return rt->watch != NULL ? om_choice_watch_get(rt->watch) : (om_choices){ 0 };
}
