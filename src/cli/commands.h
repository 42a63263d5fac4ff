/* The commands, and the few things they share. */
#ifndef OM_CLI_COMMANDS_H
#define OM_CLI_COMMANDS_H

#include "cli/opt.h"

/** In the order of the help; NULL-terminated. The last ones (completion, help, version) are run by
 * main itself: `run` is NULL. */
extern const om_command *const om_commands[];

extern const om_command om_cmd_run, om_cmd_inspect, om_cmd_profile, om_cmd_allocate,
    om_cmd_quantize, om_cmd_export, om_cmd_eval, om_cmd_report, om_cmd_completion, om_cmd_help,
    om_cmd_version;

/** NULL: no such command. */
const om_command *om_command_find(const char *name);

/** The script that makes `shell` ("bash", "zsh", "fish") complete our command line. */
void om_completion_script(om_buf *out, const char *shell);

/** Arguments of om_cmd_completion and om_cmd_help. */
typedef struct om_word_args {
    om_common common;
    const char *word;
} om_word_args;

/* ---- budget options, shared by run, inspect and allocate ---- */

typedef struct om_budget_args {
    int64_t memory_bytes, size_bytes, reserve_bytes;
    double bpw;
    int n_ctx;
    const char *kv_type;
} om_budget_args;

/** Rows for an option table whose arguments T hold an om_budget_args named `budget`. */
#define OM_BUDGET_OPTIONS(T)                                                                      \
    { .name = "memory",                                                                           \
      .kind = OM_OPT_SIZE,                                                                        \
      .offset = offsetof(T, budget.memory_bytes),                                                 \
      .metavar = "SIZE",                                                                          \
      .help = "memory for everything: the file, the KV cache, compute buffers and the reserve" }, \
        { .name = "size",                                                                         \
          .kind = OM_OPT_SIZE,                                                                    \
          .offset = offsetof(T, budget.size_bytes),                                               \
          .metavar = "SIZE",                                                                      \
          .help = "bytes of the whole file, as in 16.7MB or 12GiB" },                             \
        { .name = "bpw",                                                                          \
          .kind = OM_OPT_F64,                                                                     \
          .offset = offsetof(T, budget.bpw),                                                      \
          .metavar = "X",                                                                         \
          .help = "bits per weight: file bytes * 8 / parameters" },                               \
        { .name = "ctx",                                                                          \
          .kind = OM_OPT_INT,                                                                     \
          .offset = offsetof(T, budget.n_ctx),                                                    \
          .metavar = "N",                                                                         \
          .min = 1,                                                                               \
          .help = "with --memory: context length in tokens (default 4096)" },                     \
        { .name = "kv",                                                                           \
          .kind = OM_OPT_STR,                                                                     \
          .offset = offsetof(T, budget.kv_type),                                                  \
          .metavar = "TYPE",                                                                      \
          .help = "with --memory: type of the KV cache (default f16)" },                          \
    {                                                                                             \
        .name = "reserve", .kind = OM_OPT_SIZE, .offset = offsetof(T, budget.reserve_bytes),      \
        .metavar = "SIZE", .help = "with --memory: kept free for the system (default 256MiB)"     \
    }

/** Rows for the limit on bytes per token: arguments T hold options `o` with these three fields. */
#define OM_ACTIVE_OPTIONS(T)                                                                       \
    { .name = "max-active-bytes",                                                                  \
      .kind = OM_OPT_SIZE,                                                                         \
      .offset = offsetof(T, o.max_active_bytes),                                                   \
      .metavar = "SIZE",                                                                           \
      .help = "at most SIZE of weights are read per token (of a mixture only the experts used)" }, \
        { .name = "min-tok-s",                                                                     \
          .kind = OM_OPT_F64,                                                                      \
          .offset = offsetof(T, o.min_tok_s),                                                      \
          .metavar = "X",                                                                          \
          .help =                                                                                  \
              "the same limit: bandwidth / X, so that weights alone allow X tokens a second" },    \
    {                                                                                              \
        .name = "bandwidth", .kind = OM_OPT_RATE, .offset = offsetof(T, o.bandwidth_bytes_s),      \
        .metavar = "SIZE/s",                                                                       \
        .help = "memory bandwidth; shows the ceiling in tokens per second (default: measured "     \
                "when --min-tok-s asks)"                                                           \
    }

/** At most one of --memory, --size, --bpw (exactly one when `required`); --ctx, --kv and --reserve
 * only with --memory. */
om_status om_budget_from_args(om_budget *out, const om_budget_args *args, bool required,
                              om_error *err) OM_WARN_UNUSED;

#define OM_COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

#endif
