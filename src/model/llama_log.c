/* The process-wide log hook of llama.cpp into om_log, for a while. */
#include "model/llama_log.h"

#include <stdlib.h>
#include <string.h>

#include <llama.h>

#include "base/error.h"
#include "base/log.h"

/* The one whose model is being worked on; process-wide like the hooks themselves. */
static om_llama_log *innermost;

/* "/build/ggml/src/ops.cpp:4132: GGML_ASSERT(eps >= 0.0f) failed": what first, then where. */
static void on_abort(const char *text) {
    const size_t n = strcspn(text, " ");
    const bool placed = n > 2 && text[n - 1] == ':' && text[n] == ' ';
    size_t from = placed ? n : 0;
    while (from > 0 && text[from - 1] != '/') {
        from--;
    }
    const char *model = innermost != NULL ? innermost->model : NULL;
    const bool memory = strstr(text, "mem_buffer") != NULL || strstr(text, "alloc") != NULL;
    om_panic("%s%sllama.cpp gave up: %s (%.*s); most likely %s", model != NULL ? model : "",
             model != NULL ? ": " : "", placed ? text + n + 1 : text,
             placed ? (int) (n - from - 1) : 2, placed ? text + from : "??",
             memory ? "memory is short: free some or use smaller windows"
                    : "the file is damaged or its parameters contradict each other: download or "
                      "convert it again");
}

/* std::set_terminate, by the name that it has in object files on Linux and macOS alike: some of
 * libllama's functions let exceptions out, and nobody in C can catch them. */
extern void (*_ZSt13set_terminatePFvvE(void (*handler)(void)))(void);

static void on_exception(void) {
    const char *model = innermost != NULL ? innermost->model : NULL;
    om_panic("%s%sllama.cpp gave up (an exception that it does not catch); most likely memory is "
             "short: free some or use smaller windows",
             model != NULL ? model : "", model != NULL ? ": " : "");
    /* the C++ run-time aborts when its handler returns */
}

void om_llama_catch_abort(void) {
    (void) ggml_set_abort_callback(on_abort);
    (void) _ZSt13set_terminatePFvvE(on_exception);
}

/* "llama_model_load: error loading model: unknown model architecture": the reason is at the end. */
static const char *skip_stutter(const char *line) {
    static const char *const noise[] = {
        "llama_model_load: ",    "llama_model_load_from_file_impl: ",
        "error loading model: ", "llama_init_from_model: ",
        "check_tensor_dims: ",   "done_getting_tensors: "
    };
    for (int i = 0; i < (int) (sizeof noise / sizeof noise[0]); i++) {
        const size_t n = strlen(noise[i]);
        if (strncmp(line, noise[i], n) == 0) {
            line += n;
        }
    }
    return line;
}

static void finish_line(om_llama_log *log) {
    if (log->partial[0] == '\0') {
        return;
    }
    om_log(log->env, OM_LOG_DEBUG, "llama.cpp: %s", log->partial);
    /* "…: failed to load model" follows the line with the reason: it says nothing by itself. */
    bool is_echo = strstr(log->partial, "failed to load model") != NULL;
    if (log->level == GGML_LOG_LEVEL_ERROR && (!is_echo || log->last_error[0] == '\0')) {
        memcpy(log->last_error, log->partial, sizeof log->last_error);
    }
    if (log->line != NULL) {
        log->line(log->ud, log->partial);
    }
    log->partial[0] = '\0';
}

/* Messages come in pieces: a line may be continued (GGML_LOG_LEVEL_CONT) and one text may hold
 * several lines. A line longer than the buffer is cut. */
static void hook(enum ggml_log_level level, const char *text, void *ud) {
    om_llama_log *log = ud;
    if (level != GGML_LOG_LEVEL_CONT) {
        finish_line(log);
        log->level = (int) level;
    }
    while (*text != '\0') {
        size_t n = strcspn(text, "\n"), have = strlen(log->partial);
        size_t room = sizeof log->partial - 1 - have, keep = n < room ? n : room;
        memcpy(log->partial + have, text, keep);
        log->partial[have + keep] = '\0';
        text += n;
        if (*text == '\n') {
            finish_line(log);
            text++;
        }
    }
}

void om_llama_log_begin(om_llama_log *log, const om_env *env) {
    ggml_log_callback old = NULL;
    om_llama_catch_abort();
    llama_log_get(&old, &log->old_ud);
    log->old_hook = (void (*)(void)) old;
    log->env = env;
    log->outer = innermost;
    innermost = log;
    log->last_error[0] = log->partial[0] = '\0';
    log->active = true;
    llama_log_set(hook, log);
}

void om_llama_log_end(om_llama_log *log) {
    if (!log->active) {
        return;
    }
    finish_line(log);
    innermost = log->outer;
    llama_log_set((ggml_log_callback) log->old_hook, log->old_ud);
    log->active = false;
}

const char *om_llama_log_reason(const om_llama_log *log, const char *fallback) {
    return log->last_error[0] != '\0' ? skip_stutter(log->last_error) : fallback;
}

bool om_llama_short_of_memory(const om_llama_log *log) {
    static const char *const words[] = { "bad_alloc", "unable to allocate", "failed to allocate",
                                         "Cannot allocate memory", "ret = -2" };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strstr(log->last_error, words[i]) != NULL) {
            return true;
        }
    }
    return false;
}

om_status om_llama_load_failed(const om_llama_log *log, const char *path, om_error *err) {
    static const char *const unknown[] = { "unknown model architecture", "unknown tokenizer",
                                           "unknown pre-tokenizer",
                                           "cannot be used as main model" };
    const char *reason = om_llama_log_reason(log, "no reason given");
    for (int i = 0; i < 4; i++) {
        if (strstr(reason, unknown[i]) != NULL) {
            return om_fail(err, OM_E_UNSUPPORTED,
                           "%s: the llama.cpp in this version cannot run this model: %s; try a "
                           "newer Optimum",
                           path, reason);
        }
    }
    if (om_llama_short_of_memory(log)) {
        return om_fail(err, OM_E_NOMEM, "%s: memory is short: %s", path, reason);
    }
    return om_fail(err, OM_E_FORMAT, "%s: llama.cpp cannot load this model: %s", path, reason);
}
