/* The error object: one status, one line. The first message with a status wins, because the layer
 * that detected the failure knows more than those it passes through.
 */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* One line whatever the arguments held: file names and library messages may carry newlines, and
 * hostile ones escape sequences for the terminal. */
static void flatten(char *s) {
    for (; *s != '\0'; s++) {
        const unsigned char c = (unsigned char) *s;
        if (c < 0x20 || c == 0x7F) {
            *s = ' ';
        }
    }
}

static bool has_message(const om_error *err, om_status status) {
    return err->status == status && err->text[0] != '\0';
}

om_status om_fail(om_error *err, om_status status, const char *fmt, ...) {
    if (has_message(err, status)) {
        return status;
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    flatten(err->text);
    err->status = status;
    err->os_errno = 0;
    return status;
}

om_status om_fail_errno(om_error *err, const char *fmt, ...) {
    int saved = errno;
    om_status status = saved == ENOMEM ? OM_E_NOMEM : OM_E_IO;
    if (has_message(err, status)) {
        return status;
    }
    char reason[128];
    if (strerror_r(saved, reason, sizeof reason) != 0) {
        snprintf(reason, sizeof reason, "system error %d", saved);
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);

    /* A long path must not push the reason out of the line: it is what the user acts on. */
    size_t len = strlen(err->text), need = strlen(reason) + 2;
    if (len + need >= sizeof err->text) {
        len = sizeof err->text - need - 1;
    }
    snprintf(err->text + len, sizeof err->text - len, ": %s", reason);
    flatten(err->text);
    err->status = status;
    err->os_errno = saved;
    return status;
}

om_status om_fail_nomem(om_error *err, size_t bytes) {
    return om_fail(err, OM_E_NOMEM, "out of memory: %.1f MiB could not be allocated",
                   (double) bytes / (1024.0 * 1024.0));
}

om_status om_error_context(om_error *err, const char *fmt, ...) {
    if (err->where[0] == '\0') {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->where, sizeof err->where, fmt, args);
        va_end(args);
        flatten(err->where);
    }
    return err->status;
}

static void (*_Atomic panic_hook)(const char *line);

void om_panic_hook(void (*hook)(const char *line)) {
    atomic_store(&panic_hook, hook);
}

void om_panic(const char *fmt, ...) {
    void (*hook)(const char *) = atomic_load(&panic_hook);
    char line[512];
    if (hook != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(line, sizeof line, fmt, args);
        va_end(args);
        flatten(line);
        hook(line);
    }
}

const char *om_status_name(om_status status) {
    switch (status) {
    case OM_OK:
        return "ok";
    case OM_E_ARG:
        return "argument";
    case OM_E_IO:
        return "io";
    case OM_E_FORMAT:
        return "format";
    case OM_E_UNSUPPORTED:
        return "unsupported";
    case OM_E_NOMEM:
        return "nomem";
    case OM_E_NUMERIC:
        return "numeric";
    case OM_E_INFEASIBLE:
        return "infeasible";
    case OM_E_LIMIT:
        return "limit";
    case OM_E_GATE:
        return "gate";
    case OM_E_MISMATCH:
        return "mismatch";
    case OM_E_CANCELLED:
        return "cancelled";
    case OM_E_INTERNAL:
        return "internal";
    }
    return "unknown";
}
