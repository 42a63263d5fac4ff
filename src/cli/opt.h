/* Command lines described by tables: one row per option gives parsing, checking, usage, help and
 * shell completion, so that these cannot disagree.
 */
#ifndef OM_CLI_OPT_H
#define OM_CLI_OPT_H

#include "base/buf.h"
#include "optimum.h"

typedef enum om_opt_kind {
    OM_OPT_FLAG, /* bool: present or not */
    OM_OPT_STR,  /* const char *, borrowed from argv */
    OM_OPT_INT,  /* int in [min, max] */
    OM_OPT_U64,  /* uint64_t */
    OM_OPT_SIZE, /* int64_t bytes, more than 0; om_parse_bytes */
    OM_OPT_RATE, /* double bytes per second, more than 0: a size, "/s" after it or not */
    OM_OPT_F64,  /* double, more than 0 and finite */
    OM_OPT_LIST, /* om_opt_list: may be repeated; also takes surplus arguments that follow it */
    OM_OPT_POSITIONAL, /* const char *, by place; `name` is what messages call it */
} om_opt_kind;

/** Values of a repeated option; the array is owned (om_opt_release), the strings are argv's. */
typedef struct om_opt_list {
    const char **items; /* [n] */
    int n;
} om_opt_list;

typedef struct om_opt {
    const char *name; /* without dashes */
    char letter;      /* short form, 0 = none */
    om_opt_kind kind;
    bool required;
    size_t offset;       /* of the field in the command's arguments */
    const char *metavar; /* FILE, MODEL and DIR complete to files and folders */
    const char *choices; /* "a|b|c": the only values allowed; NULL = any */
    long min, max;       /* OM_OPT_INT; max 0 = INT_MAX */
    const char *help;
} om_opt;

/** What every command's arguments begin with. */
typedef struct om_common {
    bool help, json, quiet, verbose;
    int n_threads;
    const char *log_json;
} om_common;

typedef struct om_command {
    const char *name;
    const char *summary;  /* one line, for the list of commands */
    const char *details;  /* a paragraph for --help; may be NULL */
    const char *examples; /* lines, each ending in a newline; may be NULL */
    const om_opt *options;
    int n_options;
    size_t args_size; /* of the struct that begins with om_common */
    /** Check what the table cannot, call one verb. */
    om_status (*run)(om_result *out, void *args, const om_env *env, om_error *err);
} om_command;

/** The options of every command (fields of om_common). */
extern const om_opt om_opt_common[];
extern const int om_opt_n_common;

/** Fill `args` ([args_size], zeroed) from argv[0 … argc-1], which follow the command's name. With
 * --help the rest is not checked. Errors: OM_E_ARG with what to type instead; release in any case.
 */
om_status om_opt_parse(void *args, const om_command *command, int argc, char **argv,
                       om_error *err) OM_WARN_UNUSED;
/** Free the lists in `args`. */
void om_opt_release(void *args, const om_command *command);

/** "usage: optimum NAME …" and everything the table says. */
void om_opt_help(om_buf *out, const om_command *command);

/** The candidate nearest to `word`, or NULL when none is near enough to be meant. */
const char *om_opt_nearest(const char *word, const char *const *candidates, int n);

#endif
