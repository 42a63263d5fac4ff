/* Logging, progress and cancellation through the caller's hooks; clocks and process facts. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void om_log(const om_env *env, om_log_level level, const char *fmt, ...) {
    if (env == NULL || env->log == NULL) {
        return;
    }
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    env->log(env->ud, level, line);
}

void om_progress(const om_env *env, const char *stage, double done, double total,
                 const char *unit) {
    if (env != NULL && env->progress != NULL) {
        env->progress(env->ud, stage, done, total, unit);
    }
}

om_status om_check_cancel(const om_env *env, om_error *err) {
    if (env != NULL && env->cancelled != NULL && env->cancelled(env->ud)) {
        return om_fail(err, OM_E_CANCELLED, "interrupted");
    }
    return OM_OK;
}

int om_n_threads(const om_env *env) {
    if (env != NULL && env->n_threads > 0) {
        return env->n_threads;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 1024 ? 1024 : (int) n;
}

double om_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

bool om_pacer_due(const om_pacer *p) {
    return om_now_s() >= p->next_s;
}

void om_pacer_done(om_pacer *p, double started_s) {
    const double now = om_now_s(), rest = 50.0 * (now - started_s);
    p->next_s = now + (rest < 20.0 ? rest : 20.0);
}

int64_t om_peak_rss_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return 0;
    }
#if defined(__APPLE__)
    return (int64_t) usage.ru_maxrss; /* bytes */
#else
    return (int64_t) usage.ru_maxrss * 1024; /* KiB on Linux and the BSDs */
#endif
}
