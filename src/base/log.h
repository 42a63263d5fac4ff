/* What the library says while it works: always through the caller's hooks.
 *
 *   level   meant for
 *   error   never used by the library: errors are returned
 *   warn    the result is valid but may surprise (too little text, source already quantized)
 *   info    what is being done and what it will cost, before long work
 *   debug   developers, and everything ggml and llama.cpp print
 */
#ifndef OM_BASE_LOG_H
#define OM_BASE_LOG_H

#include "base/error.h"

void om_log(const om_env *env, om_log_level level, const char *fmt, ...)
    OM_PRINTF(3, 4); /* env may be NULL */
void om_progress(const om_env *env, const char *stage, double done, double total, const char *unit);
/** OM_E_CANCELLED when the caller wants to stop, else OM_OK. Cheap: call it in every outer loop. */
om_status om_check_cancel(const om_env *env, om_error *err) OM_WARN_UNUSED;
/** env->n_threads, or the number of processors; at least 1. */
int om_n_threads(const om_env *env);
/** Monotonic seconds, for rates and speed measurements only; never in artifacts. */
double om_now_s(void);
/** When to write the next checkpoint: at once the first time (a place that cannot be written
 * shows), then so that writing takes at most 2 % of the time, but at least every 20 s.
 * Zero-initialised. */
typedef struct om_pacer {
    double next_s;
} om_pacer;
bool om_pacer_due(const om_pacer *p);
void om_pacer_done(om_pacer *p, double started_s); /* om_now_s when writing began */
/** Peak resident set of this process in bytes (getrusage); 0 unknown. */
int64_t om_peak_rss_bytes(void);

#endif
