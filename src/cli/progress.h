/* What the user sees while a verb works: log lines, progress, and the event file. */
#ifndef OM_CLI_PROGRESS_H
#define OM_CLI_PROGRESS_H

#include <stdio.h>

#include "optimum.h"

typedef struct om_progress_view om_progress_view;

typedef struct om_progress_options {
    FILE *stream; /* stderr; borrowed */
    bool tty;     /* redraw one line instead of printing new ones */
    bool quiet, verbose;
    const char *log_json;        /* file for events; NULL = none */
    const char *command;         /* for the start event */
    int argc;                    /* arguments of the start event */
    char **argv;                 /* [argc] */
    double (*now_s)(void);       /* monotonic seconds; NULL = om_now_s (tests set their own) */
    bool (*cancelled)(void *ud); /* handed on to the environment */
} om_progress_options;

/** Errors: OM_E_IO when log_json cannot be written, OM_E_NOMEM. *out owned: om_progress_close. */
om_status om_progress_open(om_progress_view **out, const om_progress_options *options,
                           om_error *err) OM_WARN_UNUSED;
/** Hooks for a verb; `ud` is the view, which must outlive it. Callable from any thread. */
om_env om_progress_env(om_progress_view *view, int n_threads);
/** Take the progress line away, so that other text can be printed. */
void om_progress_finish(om_progress_view *view);
/** "optimum: error: where: text", also as an event. */
void om_progress_error(om_progress_view *view, const om_error *err);
/** The exit event, and free. Accepts NULL. */
void om_progress_close(om_progress_view *view, int exit_code);

#endif
