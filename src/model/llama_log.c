/* The process-wide log hook of llama.cpp into om_log, for a while. */
#include "model/llama_log.h"

#include <string.h>

#include <llama.h>

#include "base/log.h"

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
    llama_log_get(&old, &log->old_ud);
    log->old_hook = (void (*)(void)) old;
    log->env = env;
    log->last_error[0] = log->partial[0] = '\0';
    log->active = true;
    llama_log_set(hook, log);
}

void om_llama_log_end(om_llama_log *log) {
    if (!log->active) {
        return;
    }
    finish_line(log);
    llama_log_set((ggml_log_callback) log->old_hook, log->old_ud);
    log->active = false;
}

const char *om_llama_log_reason(const om_llama_log *log, const char *fallback) {
    return log->last_error[0] != '\0' ? log->last_error : fallback;
}
