/* libllama's and ggml's messages, through our log hook. Their hook is one per process, so a verb
 * takes it for as long as it works with libllama and puts back what was there before. */
#ifndef OM_MODEL_LLAMA_LOG_H
#define OM_MODEL_LLAMA_LOG_H

#include "base/error.h"

enum { OM_LLAMA_LOG_LINE = 256 };

/** On the caller's stack between begin and end; zero-initialised. */
typedef struct om_llama_log {
    const om_env *env;
    const char *model; /* path, for messages about an abort; borrowed, may be NULL */
    /* Also called with every complete line when not NULL (e.g. to read buffer sizes). */
    void (*line)(void *ud, const char *text);
    void *ud;
    char last_error[OM_LLAMA_LOG_LINE]; /* the last line of level error, without newline; "" none */
    char partial[OM_LLAMA_LOG_LINE];    /* a line still without its newline */
    int level;
    void (*old_hook)(void); /* what was installed before; private */
    void *old_ud;
    struct om_llama_log *outer;
    bool active;
} om_llama_log;

/** From now on an assertion that fails in ggml or libllama goes through om_panic before they abort
 * the process. Called by whatever brings ggml in: om_model_open, om_llama_log_begin. */
void om_llama_catch_abort(void);

/** Route all messages to env's log (debug) and keep the last error. env may be NULL. Calls may be
 * nested on one thread; two threads must not do this at once. */
void om_llama_log_begin(om_llama_log *log, const om_env *env);
/** Put the former hook back. Harmless without begin, and twice. */
void om_llama_log_end(om_llama_log *log);
/** What llama_model_load_from_file's NULL means: OM_E_UNSUPPORTED when this llama.cpp does not know
 * the architecture or the tokenizer, OM_E_NOMEM, else OM_E_FORMAT; with llama.cpp's reason. */
om_status om_llama_load_failed(const om_llama_log *log, const char *path,
                               om_error *err) OM_WARN_UNUSED;

/** Does last_error speak of a failed allocation? */
bool om_llama_short_of_memory(const om_llama_log *log);

/** last_error, or `fallback` when there is none: for messages after a bare failure code. */
const char *om_llama_log_reason(const om_llama_log *log, const char *fallback);

#endif
