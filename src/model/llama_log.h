/* libllama's and ggml's messages, through our log hook. Their hook is one per process, so a verb
 * takes it for as long as it works with libllama and puts back what was there before. */
#ifndef OM_MODEL_LLAMA_LOG_H
#define OM_MODEL_LLAMA_LOG_H

#include "optimum.h"

enum { OM_LLAMA_LOG_LINE = 256 };

/** On the caller's stack between begin and end; zero-initialised. */
typedef struct om_llama_log {
    const om_env *env;
    /* Also called with every complete line when not NULL (e.g. to read buffer sizes). */
    void (*line)(void *ud, const char *text);
    void *ud;
    char last_error[OM_LLAMA_LOG_LINE]; /* the last line of level error, without newline; "" none */
    char partial[OM_LLAMA_LOG_LINE];    /* a line still without its newline */
    int level;
    void (*old_hook)(void); /* what was installed before; private */
    void *old_ud;
    bool active;
} om_llama_log;

/** Route all messages to env's log (debug) and keep the last error. env may be NULL. Calls may be
 * nested on one thread; two threads must not do this at once. */
void om_llama_log_begin(om_llama_log *log, const om_env *env);
/** Put the former hook back. Harmless without begin, and twice. */
void om_llama_log_end(om_llama_log *log);
/** last_error, or `fallback` when there is none: for messages after a bare failure code. */
const char *om_llama_log_reason(const om_llama_log *log, const char *fallback);

#endif
