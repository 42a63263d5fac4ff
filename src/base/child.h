/* Another program, run to its end: text in, text out. */
#ifndef OM_BASE_CHILD_H
#define OM_BASE_CHILD_H

#include "base/buf.h"
#include "base/error.h"

typedef struct om_child {
    const char *const *argv; /* NULL at the end; argv[0] is looked for in PATH */
    const char *input;       /* [n_input] its standard input; NULL: empty */
    size_t n_input;
    size_t max_output; /* more bytes on its standard output are an error; 0: 1 MiB */
} om_child;

/** What it left behind. Zeroed is empty; om_child_result_release. */
typedef struct om_child_result {
    om_buf output;       /* all of its standard output */
    char last_line[256]; /* the last line of its standard error that is not blank */
    int exit_code;       /* 128 + the number of the signal that ended it; -1: the system does not
                            tell (whoever started us lets it ignore SIGCHLD) */
} om_child_result;

/** Start it, wait, and collect. Lines of its standard error go to the log (debug). An exit code
 * that is not 0 is no error here.
 *
 *  Errors: OM_E_IO when it cannot be started (os_errno ENOENT: no such program), OM_E_LIMIT (too
 *  much output), OM_E_CANCELLED; it is ended (SIGTERM, after two seconds SIGKILL) in both. */
om_status om_child_run(om_child_result *out, const om_child *child, const om_env *env,
                       om_error *err) OM_WARN_UNUSED;
void om_child_result_release(om_child_result *result);

#endif
