/* --pin REGEX=TYPE: every pin against every tensor, before any arithmetic.
 *
 * A pin that does nothing is an error, never a silent no-op: a misspelt expression would give a
 * file without the protection its owner asked for. "=" may occur in the expression, so the last one
 * splits. Expressions are anchored: "output=q8_0" must not hit attn_output.
 */
#include "alloc/pins.h"

#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

const char *om_unit_choice_list(char *dst, size_t cap, const om_unit *unit) {
    size_t n = 0;
    dst[0] = '\0';
    for (int i = 0; i < unit->n_choices && n < cap; i++) {
        int k =
            snprintf(dst + n, cap - n, "%s%s", i > 0 ? ", " : "", unit->choices[i].format->name);
        n += k > 0 ? (size_t) k : 0;
    }
    return dst;
}

static bool matches(const regex_t *re, const char *name) {
    if (regexec(re, name, 0, NULL, 0) == 0) {
        return true;
    }
    char stem[64];
    size_t n = strlen(name), suffix = strlen(".weight");
    if (n <= suffix || n >= sizeof stem || strcmp(name + n - suffix, ".weight") != 0) {
        return false;
    }
    memcpy(stem, name, n - suffix);
    stem[n - suffix] = '\0';
    return regexec(re, stem, 0, NULL, 0) == 0;
}

static om_status compile(regex_t *re, const char *pin, size_t n, om_error *err) {
    om_status status = OM_OK;
    char why[128];
    char *anchored = om_calloc(n + 5, 1);
    if (anchored == NULL) {
        return om_fail_nomem(err, n + 5);
    }
    memcpy(anchored, "^(", 2);
    memcpy(anchored + 2, pin, n);
    memcpy(anchored + 2 + n, ")$", 3);
    int code = regcomp(re, anchored, REG_EXTENDED | REG_NOSUB);
    if (code != 0) {
        (void) regerror(code, re, why, sizeof why);
        status = om_fail(err, OM_E_ARG, "--pin %.200s: not a regular expression: %s", pin, why);
    }
    om_free(anchored);
    return status;
}

static om_status apply(om_pins *out, const om_profile *p, const regex_t *re, int i, const char *pin,
                       const om_format *format, om_error *err) {
    char list[256];
    int n_matched = 0;
    for (int u = 0; u < p->n_units; u++) {
        const om_unit *unit = &p->units[u];
        if (!matches(re, unit->name)) {
            continue;
        }
        n_matched++;
        if (out->pin[u] >= 0) {
            continue;
        }
        if (om_unit_choice(unit, format) == NULL) {
            return om_fail(err, OM_E_ARG, "--pin %.100s: %s has no candidate %s; it can have %s",
                           pin, unit->name, format->name,
                           om_unit_choice_list(list, sizeof list, unit));
        }
        out->pin[u] = i;
        out->format[u] = format;
    }
    if (n_matched == 0) {
        return om_fail(err, OM_E_ARG,
                       "--pin %.200s: no quantizable tensor has such a name (the whole name must "
                       "match, e.g. 'blk\\.0\\..*=q8_0')",
                       pin);
    }
    return OM_OK;
}

static om_status resolve_one(om_pins *out, const om_profile *p, int i, const char *pin,
                             om_error *err) {
    const char *eq = strrchr(pin, '=');
    if (eq == NULL || eq == pin) {
        return om_fail(err, OM_E_ARG, "--pin %.200s: expected REGEX=TYPE", pin);
    }
    const om_format *format = om_format_by_name(eq + 1);
    if (format == NULL) {
        return om_fail(err, OM_E_ARG, "--pin %.100s: unknown type '%.32s'; known are %.300s", pin,
                       eq + 1, om_format_list());
    }
    regex_t re;
    om_status status = compile(&re, pin, (size_t) (eq - pin), err);
    if (status == OM_OK) {
        status = apply(out, p, &re, i, pin, format, err);
        regfree(&re);
    }
    return status;
}

om_status om_pins_resolve(om_pins *out, const om_profile *profile, const char *const *pins,
                          int n_pins, om_error *err) {
    om_status status = OM_OK;
    size_t n = (size_t) profile->n_units;
    out->format = om_calloc(n, sizeof *out->format);
    out->pin = om_calloc(n, sizeof *out->pin);
    if (out->format == NULL || out->pin == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *out->format));
    }
    for (size_t u = 0; u < n; u++) {
        out->pin[u] = -1;
    }
    for (int i = 0; i < n_pins; i++) {
        OM_TRY(resolve_one(out, profile, i, pins[i], err));
    }
out:
    return status;
}

void om_pins_release(om_pins *pins) {
    om_free(pins->format);
    om_free(pins->pin);
    *pins = (om_pins){ 0 };
}
