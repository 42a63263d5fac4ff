/* Option tables -> help for people: wrapped to 80 columns, examples last because they are what is
 * read first when one scrolls up from the prompt.
 */
#include <string.h>

#include "cli/opt.h"

enum { WIDTH = 80, HELP_COLUMN = 27 };

static void put_spaces(om_buf *b, size_t n) {
    om_buf_printf(b, "%*s", (int) n, "");
}

/* Words of `text`, wrapped; `column` is where the cursor stands, `indent` where new lines begin. */
static void put_wrapped(om_buf *b, const char *text, size_t column, size_t indent) {
    bool first = true;
    for (const char *s = text; *s != '\0';) {
        const size_t len = strcspn(s, " ");
        if (!first && column + 1 + len > WIDTH) {
            om_buf_puts(b, "\n");
            put_spaces(b, indent);
            column = indent;
        } else if (!first) {
            om_buf_puts(b, " ");
            column++;
        }
        om_buf_add(b, s, len);
        column += len;
        first = false;
        s += len;
        s += strspn(s, " ");
    }
    om_buf_puts(b, "\n");
}

static void put_row(om_buf *b, const om_opt *o) {
    const size_t start = b->len;
    if (o->kind == OM_OPT_POSITIONAL) {
        om_buf_printf(b, "  %s", o->name);
    } else {
        if (o->letter != 0) {
            om_buf_printf(b, "  -%c, --%s", o->letter, o->name);
        } else {
            om_buf_printf(b, "      --%s", o->name);
        }
        if (o->kind != OM_OPT_FLAG) {
            om_buf_printf(b, " %s%s", o->metavar, o->kind == OM_OPT_LIST ? "..." : "");
        }
    }
    size_t column = b->len - start;
    if (column + 2 > HELP_COLUMN) {
        om_buf_puts(b, "\n");
        column = 0;
    }
    put_spaces(b, HELP_COLUMN - column);
    put_wrapped(b, o->help, HELP_COLUMN, HELP_COLUMN);
}

static void put_usage(om_buf *b, const om_command *c) {
    om_buf_printf(b, "usage: optimum %s", c->name);
    for (int i = 0; i < c->n_options; i++) {
        const om_opt *o = &c->options[i];
        if (o->kind == OM_OPT_POSITIONAL) {
            om_buf_printf(b, o->required ? " %s" : " [%s]", o->name);
        }
    }
    for (int i = 0; i < c->n_options; i++) {
        const om_opt *o = &c->options[i];
        if (o->required && o->kind != OM_OPT_POSITIONAL) {
            om_buf_printf(b, o->letter != 0 ? " -%c" : " --", o->letter);
            om_buf_printf(b, "%s %s%s", o->letter != 0 ? "" : o->name, o->metavar,
                          o->kind == OM_OPT_LIST ? "..." : "");
        }
    }
    om_buf_puts(b, " [options]\n");
}

static void put_section(om_buf *b, const char *title, const om_opt *rows, int n, bool positional) {
    bool any = false;
    for (int i = 0; i < n; i++) {
        if ((rows[i].kind == OM_OPT_POSITIONAL) != positional) {
            continue;
        }
        if (!any) {
            om_buf_printf(b, "\n%s:\n", title);
            any = true;
        }
        put_row(b, &rows[i]);
    }
}

void om_opt_help(om_buf *out, const om_command *command) {
    om_buf_printf(out, "optimum %s: %s\n\n", command->name, command->summary);
    put_usage(out, command);
    if (command->details != NULL) {
        om_buf_puts(out, "\n");
        put_wrapped(out, command->details, 0, 0);
    }
    put_section(out, "arguments", command->options, command->n_options, true);
    put_section(out, "options", command->options, command->n_options, false);
    put_section(out, "everywhere", om_opt_common, om_opt_n_common, false);
    if (command->examples != NULL) {
        om_buf_printf(out, "\nexamples:\n%s", command->examples);
    }
}
