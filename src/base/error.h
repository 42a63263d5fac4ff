/* Error object: set once by the function that detects, passed up unchanged; stage boundaries add
 * where. */
#ifndef OM_BASE_ERROR_H
#define OM_BASE_ERROR_H

#include "optimum.h"

#if defined(__GNUC__)
#define OM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define OM_PRINTF(fmt, args)
#endif

/** Fill *err and return `status`, so that `return om_fail(err, OM_E_ARG, "…")` reads well. A
 * message that already stands in *err is kept when it has the same status (a lower layer knows
 * more). Newlines become spaces. */
om_status om_fail(om_error *err, om_status status, const char *fmt, ...) OM_PRINTF(3, 4);

/** Like om_fail, with the system's reason: ": No space left on device" is appended and os_errno
 * kept. Status is OM_E_IO (OM_E_NOMEM for ENOMEM). Call it before anything that may change errno.
 */
om_status om_fail_errno(om_error *err, const char *fmt, ...) OM_PRINTF(2, 3);

/** Shorthand for a failed allocation of `bytes`. */
om_status om_fail_nomem(om_error *err, size_t bytes);

/** Set err->where if it is still empty. Returns err->status. */
om_status om_error_context(om_error *err, const char *fmt, ...) OM_PRINTF(2, 3);

/** Jump to `out:` with `status` set when expr fails. Needs `om_status status = OM_OK;` and an
 * `out:` label. */
#define OM_TRY(expr)           \
    do {                       \
        status = (expr);       \
        if (status != OM_OK) { \
            goto out;          \
        }                      \
    } while (0)

/** For what cannot be returned: a library under us is about to abort the process. The program gives
 * a hook that says so and ends the process in its own way; without one, or when the hook returns,
 * the library aborts. One hook per process, as the libraries' own. */
void om_panic_hook(void (*hook)(const char *line));
/** Call the hook with one line (newlines become spaces, long text is cut), if there is one. */
void om_panic(const char *fmt, ...) OM_PRINTF(1, 2);

/** "format", "infeasible" …: the word for a status in logs and JSON. */
const char *om_status_name(om_status status);

#endif
