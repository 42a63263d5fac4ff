/* libllama behind om_forward: see forward.h. */
#include "calib/forward.h"

#include "llama.h"

#include "base/log.h"
#include "base/mem.h"
#include "model/llama_log.h"

struct om_forward {
    struct llama_model *model;
    struct llama_context *ctx;
    struct llama_batch batch;
    om_compute *compute;
    const om_env *env;
    om_llama_log log;
    int n_tokens, n_vocab;
};

static bool stop_when_cancelled(void *ud) {
    om_error ignored = { 0 };
    return om_check_cancel(ud, &ignored) != OM_OK;
}

static om_status make_context(om_forward *f, const om_forward_setup *setup, om_error *err) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = (uint32_t) f->n_tokens;
    p.n_seq_max = 1;
    p.n_threads = p.n_threads_batch = om_compute_threads(f->compute);
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k = p.type_v = GGML_TYPE_F32;
    p.offload_kqv = false;
    p.op_offload = false;
    p.swa_full = true;
    p.no_perf = true;
    p.cb_eval = setup->callback;
    p.cb_eval_user_data = setup->ud;
    p.abort_callback = stop_when_cancelled;
    p.abort_callback_data = (void *) (uintptr_t) f->env;
    f->ctx = llama_init_from_model(f->model, p);
    if (!f->ctx) {
        const bool memory = om_llama_short_of_memory(&f->log);
        return om_fail(err, memory ? OM_E_NOMEM : OM_E_UNSUPPORTED,
                       "libllama cannot make a context of %d tokens: %s%s", f->n_tokens,
                       memory ? "memory is short: " : "",
                       om_llama_log_reason(&f->log, "no reason given"));
    }
    struct ggml_threadpool *pool = om_compute_threadpool(f->compute);
    llama_attach_threadpool(f->ctx, pool, pool);
    return OM_OK;
}

om_status om_forward_open(om_forward **out, const om_forward_setup *setup, om_compute *c,
                          const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const char *model_path = setup->model_path;
    om_forward *f = om_calloc(1, sizeof *f);
    if (!f) {
        return om_fail_nomem(err, sizeof *f);
    }
    f->compute = c;
    f->env = env;
    f->n_tokens = setup->n_tokens;
    f->log.model = model_path;
    om_llama_log_begin(&f->log, env);
    struct llama_model_params p = llama_model_default_params();
    p.n_gpu_layers = 0;
    p.use_extra_bufts = false;
    p.load_mode = setup->writable ? LLAMA_LOAD_MODE_NONE : LLAMA_LOAD_MODE_MMAP;
    f->model = llama_model_load_from_file(model_path, p);
    if (!f->model) {
        status = om_llama_load_failed(&f->log, model_path, err);
        goto out;
    }
    char arch[64] = "such";
    (void) llama_model_meta_val_str(f->model, "general.architecture", arch, sizeof arch);
    if (llama_model_has_encoder(f->model) || llama_model_is_recurrent(f->model)) {
        status =
            om_fail(err, OM_E_UNSUPPORTED,
                    "%s: %s models are recurrent or have an encoder; only decoders with attention "
                    "can be profiled (llama-quantize with a preset takes this one)",
                    model_path, arch);
        goto out;
    }
    f->n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(f->model));
    OM_TRY(make_context(f, setup, err));
    f->batch = llama_batch_init(f->n_tokens, 0, 1);
    if (!f->batch.token) {
        status = om_fail_nomem(err, (size_t) f->n_tokens * 16);
    }
out:
    if (status != OM_OK) {
        om_forward_close(f);
        return status;
    }
    *out = f;
    return OM_OK;
}

void om_forward_close(om_forward *f) {
    if (!f) {
        return;
    }
    if (f->batch.token) {
        llama_batch_free(f->batch);
    }
    if (f->ctx) {
        llama_free(f->ctx);
    }
    if (f->model) {
        llama_model_free(f->model);
    }
    om_llama_log_end(&f->log);
    om_free(f);
}

om_status om_forward_run(const float **logits, om_forward *f, const int32_t *tokens,
                         om_error *err) {
    llama_memory_clear(llama_get_memory(f->ctx), true);
    f->batch.n_tokens = f->n_tokens;
    for (int i = 0; i < f->n_tokens; i++) {
        f->batch.token[i] = tokens[i];
        f->batch.pos[i] = i;
        f->batch.n_seq_id[i] = 1;
        f->batch.seq_id[i][0] = 0;
        f->batch.logits[i] = 1;
    }
    const int rc = llama_decode(f->ctx, f->batch);
    om_status status = om_check_cancel(f->env, err);
    if (status != OM_OK) {
        return status;
    }
    if (rc == 2) { /* aborted by the hook, which has changed its mind since */
        return om_fail(err, OM_E_CANCELLED, "interrupted");
    }
    if (rc != 0) {
        return om_fail(err, om_llama_short_of_memory(&f->log) ? OM_E_NOMEM : OM_E_INTERNAL,
                       "libllama failed to evaluate a window (code %d%s): %s", rc,
                       rc == -2 ? ", memory is short" : "",
                       om_llama_log_reason(&f->log, "no reason given"));
    }
    *logits = llama_get_logits(f->ctx);
    return *logits ? OM_OK : om_fail(err, OM_E_INTERNAL, "libllama gave no logits");
}

int om_forward_vocab(const om_forward *f) {
    return f->n_vocab;
}
