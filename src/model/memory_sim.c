/* A GGUF's path into the buffer sizes that libllama would allocate.
 *
 * With `no_alloc` libllama builds the model and the context on empty buffers and reserves the worst
 * graph without allocating it. Its public API does not return the sizes; the log does, line by
 * line:
 *
 *   llama_kv_cache: size =   32.00 MiB (  4096 cells, …), K (f16): …       KV cache
 *   llama_memory_recurrent: size = … MiB (… cells, …), R (f32): …          recurrent state
 *   sched_reserve:        CPU compute buffer size =    34.00 MiB           compute buffers
 *   llama_context:        CPU  output buffer size =     0.06 MiB           logits of one token
 *
 * A format that changes upstream shows as `false` here (no compute line) and in the unit test.
 */
#include "model/memory_sim.h"

#include <stdlib.h>
#include <string.h>

#include <llama.h>

#include "base/log.h"
#include "model/llama_log.h"

/* "size = 32.00 MiB" in a line; 0 when there is none. */
static double size_in(const char *line) {
    static const char marker[] = "size = ";
    const char *p = strstr(line, marker);
    return p != NULL ? strtod(p + strlen(marker), NULL) * 1048576.0 : 0.0;
}

static void read_line(void *ud, const char *line) {
    om_memory_sim *sim = ud;
    if (strstr(line, "compute buffer size =") || strstr(line, "output buffer size =")) {
        sim->compute_bytes += size_in(line);
    } else if (strstr(line, " cells,") && strstr(line, "), K (")) {
        sim->kv_bytes += size_in(line);
    } else if (strstr(line, " cells,") && strstr(line, "), R (")) {
        sim->state_bytes += size_in(line);
    }
}

bool om_memory_simulate(om_memory_sim *out, const char *path, int n_ctx, const om_env *env) {
    om_memory_sim sim = { 0 };
    om_llama_log log = { .model = path, .line = read_line, .ud = &sim };
    om_llama_log_begin(&log, env);
    /* The CPU alone, whatever the machine has: the answer goes into profile.json, which must not
     * depend on where it was made. */
    ggml_backend_dev_t no_devices[] = { NULL };
    struct llama_model_params mp = llama_model_default_params();
    mp.no_alloc = true;
    mp.load_mode = LLAMA_LOAD_MODE_NONE; /* mapping and no_alloc exclude each other */
    mp.devices = no_devices;
    mp.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    struct llama_context *ctx = NULL;
    if (model != NULL) {
        struct llama_context_params cp = llama_context_default_params();
        cp.n_ctx = (uint32_t) n_ctx;
        cp.n_ubatch = OM_SIM_UBATCH;
        cp.type_k = cp.type_v = GGML_TYPE_F16;
        cp.swa_full = false; /* as llama-cli and llama-server; the library's default is true */
        ctx = llama_init_from_model(model, cp);
    }
    bool ok = ctx != NULL && sim.compute_bytes > 0;
    llama_free(ctx);
    llama_model_free(model);
    om_llama_log_end(&log);
    if (!ok) {
        om_log(env, OM_LOG_DEBUG, "%s: libllama cannot simulate its memory: %s", path,
               om_llama_log_reason(&log, "no reason given"));
        return false;
    }
    *out = sim;
    return true;
}
