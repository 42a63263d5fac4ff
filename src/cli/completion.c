/* Option tables -> completion scripts. Each script is plain data for its shell: the words of every
 * command, which options take a value, and whether the value is a file, a folder or one of a few
 * words.
 */
#include <string.h>

#include "cli/commands.h"

typedef enum value_kind { VALUE_NONE, VALUE_ANY, VALUE_FILE, VALUE_DIR, VALUE_CHOICE } value_kind;

static value_kind value_of(const om_opt *o) {
    static const char *const files[] = { "FILE", "MODEL", "PROFILE", "ALLOCATION" };
    const char *what = o->kind == OM_OPT_POSITIONAL ? o->name : o->metavar;
    if (o->kind == OM_OPT_FLAG) {
        return VALUE_NONE;
    }
    if (o->choices != NULL) {
        return VALUE_CHOICE;
    }
    for (int i = 0; i < OM_COUNT(files); i++) {
        if (strcmp(what, files[i]) == 0) {
            return VALUE_FILE;
        }
    }
    return strcmp(what, "DIR") == 0 ? VALUE_DIR : VALUE_ANY;
}

/* Called for the rows of a command, then for those of every command. */
typedef void (*row_fn)(om_buf *b, const om_command *c, const om_opt *o);

static void for_rows(om_buf *b, const om_command *c, row_fn fn) {
    for (int i = 0; i < c->n_options; i++) {
        fn(b, c, &c->options[i]);
    }
    for (int i = 0; i < om_opt_n_common; i++) {
        fn(b, c, &om_opt_common[i]);
    }
}

/* "a|b" as "a b" */
static void put_choices(om_buf *b, const char *choices) {
    for (const char *s = choices; *s != '\0'; s++) {
        om_buf_add(b, *s == '|' ? " " : s, 1);
    }
}

static void put_commands(om_buf *b) {
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "%s%s", i > 0 ? " " : "", om_commands[i]->name);
    }
}

/* `text` inside single quotes; `also` is a byte to put a backslash before. */
static void put_quoted(om_buf *b, const char *text, const char *also) {
    for (const char *s = text; *s != '\0'; s++) {
        if (*s == '\'') {
            om_buf_puts(b, "'\\''");
        } else if (strchr(also, *s) != NULL) {
            om_buf_printf(b, "\\%c", *s);
        } else {
            om_buf_add(b, s, 1);
        }
    }
}

/* ---- bash ---- */

static void bash_value(om_buf *b, const om_command *c, const om_opt *o) {
    const value_kind kind = value_of(o);
    if (kind == VALUE_NONE || o->kind == OM_OPT_POSITIONAL) {
        return;
    }
    om_buf_printf(b, "    %s:--%s", c->name, o->name);
    if (o->letter != 0) {
        om_buf_printf(b, "|%s:-%c", c->name, o->letter);
    }
    om_buf_puts(b, ") ");
    if (kind == VALUE_FILE) {
        om_buf_puts(b, "COMPREPLY=($(compgen -f -- \"$cur\")); ");
    } else if (kind == VALUE_DIR) {
        om_buf_puts(b, "COMPREPLY=($(compgen -d -- \"$cur\")); ");
    } else if (kind == VALUE_CHOICE) {
        om_buf_puts(b, "COMPREPLY=($(compgen -W '");
        put_choices(b, o->choices);
        om_buf_puts(b, "' -- \"$cur\")); ");
    }
    om_buf_puts(b, "return ;;\n");
}

static void bash_option(om_buf *b, const om_command *c, const om_opt *o) {
    (void) c;
    if (o->kind != OM_OPT_POSITIONAL) {
        om_buf_printf(b, " --%s", o->name);
    }
}

static void bash_argument(om_buf *b, const om_command *c) {
    for (int i = 0; i < c->n_options; i++) {
        if (c->options[i].choices != NULL && c->options[i].kind == OM_OPT_POSITIONAL) {
            om_buf_printf(b, "    %s) COMPREPLY=($(compgen -W '", c->name);
            put_choices(b, c->options[i].choices);
            om_buf_puts(b, "' -- \"$cur\")) ;;\n");
        }
    }
}

static void bash_script(om_buf *b) {
    om_buf_puts(b, "# bash completion for optimum; source it\n"
                   "_optimum() {\n"
                   "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                   "  local command=${COMP_WORDS[1]} words=\n"
                   "  COMPREPLY=()\n"
                   "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                   "    COMPREPLY=($(compgen -W '");
    put_commands(b);
    om_buf_puts(b, "' -- \"$cur\")); return\n  fi\n  case $command:$prev in\n    help:help) "
                   "COMPREPLY=($(compgen -W '");
    put_commands(b);
    om_buf_puts(b, "' -- \"$cur\")); return ;;\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        for_rows(b, om_commands[i], bash_value);
    }
    om_buf_puts(b, "  esac\n  case $command in\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "    %s) words='", om_commands[i]->name);
        for_rows(b, om_commands[i], bash_option);
        om_buf_puts(b, "' ;;\n");
    }
    om_buf_puts(b, "  esac\n"
                   "  case $cur in\n"
                   "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); return ;;\n"
                   "  esac\n  case $command in\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        bash_argument(b, om_commands[i]);
    }
    om_buf_puts(b, "    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n"
                   "  esac\n"
                   "}\n"
                   "complete -o filenames -F _optimum optimum\n");
}

/* ---- zsh ---- */

static void zsh_action(om_buf *b, const om_opt *o) {
    switch (value_of(o)) {
    case VALUE_FILE:
        om_buf_puts(b, "_files");
        break;
    case VALUE_DIR:
        om_buf_puts(b, "_files -/");
        break;
    case VALUE_CHOICE:
        om_buf_puts(b, "(");
        put_choices(b, o->choices);
        om_buf_puts(b, ")");
        break;
    case VALUE_NONE:
    case VALUE_ANY:
        om_buf_puts(b, " ");
        break;
    }
}

static void zsh_row(om_buf *b, const om_command *c, const om_opt *o) {
    (void) c;
    if (o->kind == OM_OPT_POSITIONAL) {
        om_buf_printf(b, "        ':%s:", o->name);
        zsh_action(b, o);
        om_buf_puts(b, "' \\\n");
        return;
    }
    /* twice when there is a letter: brace expansion would hide the quotes */
    for (int form = 0; form < (o->letter != 0 ? 2 : 1); form++) {
        om_buf_puts(b, "        '");
        om_buf_puts(b, o->kind == OM_OPT_LIST ? "*" : "");
        if (form == 0) {
            om_buf_printf(b, "--%s", o->name);
        } else {
            om_buf_printf(b, "-%c", o->letter);
        }
        om_buf_puts(b, "[");
        put_quoted(b, o->help, "[]:");
        om_buf_puts(b, "]");
        if (o->kind != OM_OPT_FLAG) {
            om_buf_puts(b, ":");
            put_quoted(b, o->metavar, "[]:");
            om_buf_puts(b, ":");
            zsh_action(b, o);
        }
        om_buf_puts(b, "' \\\n");
    }
}

static void zsh_script(om_buf *b) {
    om_buf_puts(b, "#compdef optimum\n"
                   "# zsh completion for optimum; save as _optimum in a folder of $fpath\n"
                   "_optimum() {\n"
                   "  local -a commands\n"
                   "  commands=(\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "    '%s:", om_commands[i]->name);
        put_quoted(b, om_commands[i]->summary, ":");
        om_buf_puts(b, "'\n");
    }
    om_buf_puts(b, "  )\n"
                   "  if (( CURRENT == 2 )); then\n"
                   "    _describe command commands\n"
                   "    return\n"
                   "  fi\n"
                   "  local command=$words[2]\n"
                   "  shift words\n"
                   "  (( CURRENT-- ))\n"
                   "  case $command in\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "    %s)\n      _arguments \\\n", om_commands[i]->name);
        for_rows(b, om_commands[i], zsh_row);
        om_buf_puts(b, "        && return ;;\n");
    }
    om_buf_puts(b, "  esac\n"
                   "}\n"
                   "if [ \"$funcstack[1]\" = _optimum ]; then\n"
                   "  _optimum \"$@\"\n"
                   "else\n"
                   "  compdef _optimum optimum\n"
                   "fi\n");
}

/* ---- fish ---- */

static void fish_row(om_buf *b, const om_command *c, const om_opt *o) {
    const value_kind kind = value_of(o);
    om_buf_printf(b, "complete -c optimum -n '__fish_seen_subcommand_from %s'", c->name);
    if (o->kind != OM_OPT_POSITIONAL) {
        om_buf_printf(b, " -l %s", o->name);
        if (o->letter != 0) {
            om_buf_printf(b, " -s %c", o->letter);
        }
    }
    if (kind == VALUE_FILE) {
        om_buf_puts(b, o->kind == OM_OPT_POSITIONAL ? " -F" : " -r -F");
    } else if (kind == VALUE_DIR) {
        om_buf_puts(b, " -x -a '(__fish_complete_directories)'");
    } else if (kind == VALUE_CHOICE) {
        om_buf_puts(b, o->kind == OM_OPT_POSITIONAL ? " -a '" : " -x -a '");
        put_choices(b, o->choices);
        om_buf_puts(b, "'");
    } else if (kind == VALUE_ANY && o->kind != OM_OPT_POSITIONAL) {
        om_buf_puts(b, " -x");
    }
    om_buf_puts(b, " -d '");
    for (const char *s = o->help; *s != '\0'; s++) { /* fish escapes with a backslash */
        om_buf_printf(b, *s == '\'' || *s == '\\' ? "\\%c" : "%c", *s);
    }
    om_buf_puts(b, "'\n");
}

static void fish_script(om_buf *b) {
    om_buf_puts(b, "# fish completion for optimum\n"
                   "complete -c optimum -f\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "complete -c optimum -n __fish_use_subcommand -a %s -d '%s'\n",
                      om_commands[i]->name, om_commands[i]->summary);
    }
    om_buf_puts(b, "complete -c optimum -n '__fish_seen_subcommand_from help' -a '");
    put_commands(b);
    om_buf_puts(b, "'\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        for_rows(b, om_commands[i], fish_row);
    }
}

void om_completion_script(om_buf *out, const char *shell) {
    if (strcmp(shell, "bash") == 0) {
        bash_script(out);
    } else if (strcmp(shell, "zsh") == 0) {
        zsh_script(out);
    } else {
        fish_script(out);
    }
}
