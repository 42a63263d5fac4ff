/* Parsing by table. Long options take "--name value" and "--name=value", short ones "-o value" and
 * "-ovalue"; "--" ends options. A repeated scalar keeps its last value, so scripts can append.
 * Abbreviations are refused: a script must not change its meaning when an option is added.
 */
#include "cli/opt.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const om_opt om_opt_common[] = {
    { .name = "json",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(om_common, json),
      .help = "print the machine-readable result on stdout, and nothing else there" },
    { .name = "threads",
      .letter = 't',
      .kind = OM_OPT_INT,
      .offset = offsetof(om_common, n_threads),
      .metavar = "N",
      .min = 1,
      .max = 1024,
      .help = "threads to use (default: one per processor)" },
    { .name = "quiet",
      .letter = 'q',
      .kind = OM_OPT_FLAG,
      .offset = offsetof(om_common, quiet),
      .help = "only warnings and errors on stderr" },
    { .name = "verbose",
      .letter = 'v',
      .kind = OM_OPT_FLAG,
      .offset = offsetof(om_common, verbose),
      .help = "also what developers want to know" },
    { .name = "log-json",
      .kind = OM_OPT_STR,
      .offset = offsetof(om_common, log_json),
      .metavar = "FILE",
      .help = "write events (stages, warnings, errors) to FILE, one JSON object per line" },
    { .name = "help",
      .letter = 'h',
      .kind = OM_OPT_FLAG,
      .offset = offsetof(om_common, help),
      .help = "show this help" },
};
const int om_opt_n_common = (int) (sizeof om_opt_common / sizeof om_opt_common[0]);

/* ---- suggestions ---- */

enum { MAX_WORD = 40 };

static int min3(int a, int b, int c) {
    const int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edits (insert, delete, replace, swap neighbours) between two words of at most MAX_WORD bytes. */
static int edit_distance(const char *a, const char *b) {
    int rows[3][MAX_WORD + 1];
    const int na = (int) strlen(a), nb = (int) strlen(b);
    for (int j = 0; j <= nb; j++) {
        rows[0][j] = j;
    }
    for (int i = 1; i <= na; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                above2[j - 2] + 1 < row[j]) {
                row[j] = above2[j - 2] + 1;
            }
        }
    }
    return rows[na % 3][nb];
}

const char *om_opt_nearest(const char *word, const char *const *candidates, int n) {
    const char *best = NULL;
    const size_t len = strlen(word);
    /* a third of the word may be wrong, and at least one letter */
    int limit = len < 6 ? 1 : (int) (len / 3);
    if (len == 0 || len > MAX_WORD) {
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        if (strlen(candidates[i]) > MAX_WORD) {
            continue;
        }
        const int distance = edit_distance(word, candidates[i]);
        if (distance <= limit) {
            best = candidates[i];
            limit = distance - 1;
        }
    }
    return best;
}

/* ---- looking up ---- */

static const om_opt *table_row(const om_command *c, int i) {
    return i < c->n_options ? &c->options[i] : &om_opt_common[i - c->n_options];
}

static int n_rows(const om_command *c) {
    return c->n_options + om_opt_n_common;
}

static const om_opt *find_long(const om_command *c, const char *name, size_t len) {
    for (int i = 0; i < n_rows(c); i++) {
        const om_opt *o = table_row(c, i);
        if (o->kind != OM_OPT_POSITIONAL && strlen(o->name) == len &&
            strncmp(o->name, name, len) == 0) {
            return o;
        }
    }
    return NULL;
}

static const om_opt *find_letter(const om_command *c, char letter) {
    for (int i = 0; i < n_rows(c); i++) {
        const om_opt *o = table_row(c, i);
        if (o->letter == letter && letter != 0) {
            return o;
        }
    }
    return NULL;
}

static om_status fail_unknown(om_error *err, const om_command *c, const char *arg) {
    enum { MAX_ROWS = 64 };
    const char *names[MAX_ROWS];
    char word[MAX_WORD + 1] = "";
    int n = 0;
    for (int i = 0; i < n_rows(c) && n < MAX_ROWS; i++) {
        if (table_row(c, i)->kind != OM_OPT_POSITIONAL) {
            names[n++] = table_row(c, i)->name;
        }
    }
    /* the option itself: without the dashes and what follows "=" */
    const size_t len = strcspn(arg, "="), dashes = strspn(arg, "-");
    const size_t name_len = len - dashes;
    if (name_len <= MAX_WORD) {
        memcpy(word, arg + dashes, name_len);
        word[name_len] = '\0';
    }
    const char *near = om_opt_nearest(word, names, n);
    if (near != NULL) {
        return om_fail(err, OM_E_ARG, "unknown option %.*s; did you mean --%s?",
                       (int) (len < 100 ? len : 100), arg, near);
    }
    return om_fail(err, OM_E_ARG, "unknown option %.*s; 'optimum %s --help' lists the options",
                   (int) (len < 100 ? len : 100), arg, c->name);
}

/* ---- values ---- */

static bool is_choice(const char *choices, const char *value) {
    const size_t n = strlen(value);
    for (const char *c = choices; n > 0;) {
        const size_t len = strcspn(c, "|");
        if (len == n && strncmp(c, value, n) == 0) {
            return true;
        }
        if (c[len] == '\0') {
            return false;
        }
        c += len + 1;
    }
    return false;
}

static om_status parse_int(int *out, const om_opt *o, const char *text, om_error *err) {
    char *end = NULL;
    const long max = o->max == 0 ? INT_MAX : o->max;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < o->min || value > max) {
        if (max == INT_MAX) {
            return om_fail(err, OM_E_ARG,
                           "--%s: expected a whole number of at least %ld, found '%.64s'", o->name,
                           o->min, text);
        }
        return om_fail(err, OM_E_ARG,
                       "--%s: expected a whole number from %ld to %ld, found '%.64s'", o->name,
                       o->min, max, text);
    }
    *out = (int) value;
    return OM_OK;
}

static om_status parse_u64(uint64_t *out, const om_opt *o, const char *text, om_error *err) {
    char *end = NULL;
    errno = 0;
    /* strtoull takes "-1" for 2^64 - 1 */
    const unsigned long long value =
        text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (end == NULL || *end != '\0' || errno != 0) {
        return om_fail(err, OM_E_ARG,
                       "--%s: expected a whole number from 0 to 2^64-1, found '%.64s'", o->name,
                       text);
    }
    *out = value;
    return OM_OK;
}

static om_status parse_f64(double *out, const om_opt *o, const char *text, om_error *err) {
    char *end = NULL;
    /* digits only: no "inf", no hexadecimal */
    const bool plain = text[strspn(text, "0123456789.eE+-")] == '\0';
    const double value = plain ? strtod(text, &end) : 0.0;
    if (!plain || end == text || *end != '\0' || !isfinite(value) || value <= 0.0) {
        return om_fail(err, OM_E_ARG, "--%s: expected a number above 0, found '%.64s'", o->name,
                       text);
    }
    *out = value;
    return OM_OK;
}

static om_status parse_size(int64_t *out, const om_opt *o, const char *text, om_error *err) {
    int64_t value = 0;
    if (!om_parse_bytes(&value, text)) {
        return om_fail(err, OM_E_ARG,
                       "--%s: '%.64s' is not a size: expected bytes or a number with KB, MB, GB, "
                       "KiB, MiB or GiB, as in 24GiB",
                       o->name, text);
    }
    if (value == 0) {
        return om_fail(err, OM_E_ARG, "--%s: expected a size above 0", o->name);
    }
    *out = value;
    return OM_OK;
}

/* "100GB/s" */
static om_status parse_rate(double *out, const om_opt *o, const char *text, om_error *err) {
    char size[64];
    int64_t value = 0;
    size_t n = strlen(text);
    n -= n > 2 && strcmp(text + n - 2, "/s") == 0 ? 2 : 0;
    if (n < sizeof size) {
        memcpy(size, text, n);
        size[n] = '\0';
    }
    if (n >= sizeof size || !om_parse_bytes(&value, size) || value <= 0) {
        return om_fail(err, OM_E_ARG,
                       "--%s: '%.64s' is not a rate above 0: expected a size per second, as in "
                       "100GB/s",
                       o->name, text);
    }
    *out = (double) value;
    return OM_OK;
}

static om_status list_push(om_opt_list *list, const char *value, om_error *err) {
    const size_t n = (size_t) list->n + 1;
    const char **items = om_realloc((void *) list->items, n, sizeof *items);
    if (items == NULL) {
        return om_fail_nomem(err, n * sizeof *items);
    }
    items[n - 1] = value;
    list->items = items;
    list->n = (int) n;
    return OM_OK;
}

static om_status store(void *args, const om_opt *o, const char *value, om_error *err) {
    void *field = (char *) args + o->offset;
    const char *dashes = o->kind == OM_OPT_POSITIONAL ? "" : "--";
    if (o->choices != NULL && !is_choice(o->choices, value)) {
        return om_fail(err, OM_E_ARG, "%s%s: expected one of %s, found '%.64s'", dashes, o->name,
                       o->choices, value);
    }
    if (value[0] == '\0') {
        return om_fail(err, OM_E_ARG, "%s%s is empty", dashes, o->name);
    }
    switch (o->kind) {
    case OM_OPT_FLAG:
        *(bool *) field = true;
        return OM_OK;
    case OM_OPT_STR:
    case OM_OPT_POSITIONAL:
        *(const char **) field = value;
        return OM_OK;
    case OM_OPT_INT:
        return parse_int(field, o, value, err);
    case OM_OPT_U64:
        return parse_u64(field, o, value, err);
    case OM_OPT_SIZE:
        return parse_size(field, o, value, err);
    case OM_OPT_RATE:
        return parse_rate(field, o, value, err);
    case OM_OPT_F64:
        return parse_f64(field, o, value, err);
    case OM_OPT_LIST:
        return list_push(field, value, err);
    }
    return OM_OK;
}

/* ---- parsing ---- */

typedef struct parse {
    void *args;
    const om_command *command;
    int argc, i;
    char **argv;
    int n_positional;        /* taken so far */
    const om_opt *open_list; /* the list option whose values were read last */
} parse;

/* The value of an option: what follows in the same word, or the next word. */
static om_status take_value(const char **out, parse *p, const om_opt *o, const char *attached,
                            om_error *err) {
    if (attached != NULL) {
        *out = attached;
        return OM_OK;
    }
    const char *next = p->i + 1 < p->argc ? p->argv[p->i + 1] : NULL;
    if (next == NULL || strncmp(next, "--", 2) == 0) {
        return om_fail(err, OM_E_ARG, "--%s needs a value: --%s %s", o->name, o->name,
                       o->choices != NULL ? o->choices : o->metavar);
    }
    p->i++;
    *out = next;
    return OM_OK;
}

static om_status parse_option(parse *p, const om_opt *o, const char *attached, om_error *err) {
    const char *value = "1";
    om_status status = OM_OK;
    if (o->kind != OM_OPT_FLAG) {
        OM_TRY(take_value(&value, p, o, attached, err));
    } else if (attached != NULL) {
        return om_fail(err, OM_E_ARG, "--%s takes no value", o->name);
    }
    OM_TRY(store(p->args, o, value, err));
    p->open_list = o->kind == OM_OPT_LIST ? o : NULL;
out:
    return status;
}

static om_status parse_short(parse *p, const char *arg, om_error *err) {
    om_status status = OM_OK;
    for (const char *letter = arg + 1; *letter != '\0'; letter++) {
        const om_opt *o = find_letter(p->command, *letter);
        if (o == NULL) {
            return fail_unknown(err, p->command, arg);
        }
        if (o->kind != OM_OPT_FLAG) { /* the rest of the word is its value */
            return parse_option(p, o, letter[1] == '\0' ? NULL : letter + 1, err);
        }
        OM_TRY(parse_option(p, o, NULL, err));
    }
out:
    return status;
}

static om_status parse_argument(parse *p, const char *arg, om_error *err) {
    const om_command *c = p->command;
    int place = 0;
    for (int i = 0; i < c->n_options; i++) {
        const om_opt *o = &c->options[i];
        if (o->kind == OM_OPT_POSITIONAL && place++ == p->n_positional) {
            p->n_positional++;
            p->open_list = NULL;
            return store(p->args, o, arg, err);
        }
    }
    if (p->open_list != NULL) {
        return store(p->args, p->open_list, arg, err);
    }
    return om_fail(err, OM_E_ARG,
                   "unexpected argument '%.100s'; 'optimum %s --help' shows the usage", arg,
                   c->name);
}

/* Only texts and lists can be required: numbers have no value that means "not given". */
static bool is_missing(const om_opt *o, const void *field) {
    if (o->kind == OM_OPT_LIST) {
        return ((const om_opt_list *) field)->n == 0;
    }
    return *(const char *const *) field == NULL;
}

static om_status check_required(const parse *p, om_error *err) {
    const om_command *c = p->command;
    for (int i = 0; i < c->n_options; i++) {
        const om_opt *o = &c->options[i];
        if (!o->required || !is_missing(o, (const char *) p->args + o->offset)) {
            continue;
        }
        if (o->kind == OM_OPT_POSITIONAL) {
            return om_fail(err, OM_E_ARG, "%s is missing; 'optimum %s --help' shows the usage",
                           o->name, c->name);
        }
        return om_fail(err, OM_E_ARG, "--%s %s is missing; 'optimum %s --help' shows the usage",
                       o->name, o->metavar, c->name);
    }
    return OM_OK;
}

om_status om_opt_parse(void *args, const om_command *command, int argc, char **argv,
                       om_error *err) {
    om_status status = OM_OK;
    bool only_arguments = false;
    parse p = { .args = args, .command = command, .argc = argc, .argv = argv };
    for (p.i = 0; p.i < argc && !((om_common *) args)->help; p.i++) {
        const char *arg = argv[p.i];
        if (only_arguments || arg[0] != '-' || arg[1] == '\0') {
            OM_TRY(parse_argument(&p, arg, err));
        } else if (strcmp(arg, "--") == 0) {
            only_arguments = true;
        } else if (arg[1] != '-') {
            OM_TRY(parse_short(&p, arg, err));
        } else {
            const size_t len = strcspn(arg + 2, "=");
            const om_opt *o = find_long(command, arg + 2, len);
            if (o == NULL) {
                status = fail_unknown(err, command, arg);
                goto out;
            }
            OM_TRY(parse_option(&p, o, arg[2 + len] == '=' ? arg + 2 + len + 1 : NULL, err));
        }
    }
    if (!((om_common *) args)->help) {
        OM_TRY(check_required(&p, err));
    }
out:
    return status;
}

void om_opt_release(void *args, const om_command *command) {
    for (int i = 0; i < command->n_options; i++) {
        if (command->options[i].kind == OM_OPT_LIST) {
            om_opt_list *list =
                (om_opt_list *) (void *) ((char *) args + command->options[i].offset);
            om_free((void *) list->items);
            *list = (om_opt_list){ 0 };
        }
    }
}
