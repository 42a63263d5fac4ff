/* The table of commands, and checks that several commands share. */
#include "cli/commands.h"

#include <string.h>

const om_command *const om_commands[] = {
    &om_cmd_run,        &om_cmd_inspect, &om_cmd_profile, &om_cmd_allocate,
    &om_cmd_quantize,   &om_cmd_export,  &om_cmd_eval,    &om_cmd_report,
    &om_cmd_completion, &om_cmd_help,    &om_cmd_version, NULL,
};

const om_command *om_command_find(const char *name) {
    for (int i = 0; om_commands[i] != NULL; i++) {
        if (strcmp(om_commands[i]->name, name) == 0) {
            return om_commands[i];
        }
    }
    return NULL;
}

om_status om_budget_from_args(om_budget *out, const om_budget_args *args, bool required,
                              om_error *err) {
    const int n = (args->memory_bytes > 0) + (args->size_bytes > 0) + (args->bpw > 0.0);
    if (n > 1) {
        return om_fail(err, OM_E_ARG, "--memory, --size and --bpw exclude each other: give one");
    }
    if (n == 0 && required) {
        return om_fail(err, OM_E_ARG,
                       "a budget is missing: give --memory SIZE, --size SIZE or --bpw X");
    }
    if (args->memory_bytes == 0) {
        const char *only = args->n_ctx != 0           ? "ctx"
                           : args->kv_type != NULL    ? "kv"
                           : args->reserve_bytes != 0 ? "reserve"
                                                      : NULL;
        if (only != NULL) {
            return om_fail(err, OM_E_ARG, "--%s has a meaning only with --memory SIZE", only);
        }
    }
    *out = (om_budget){
        .kind = args->memory_bytes > 0 ? OM_BUDGET_MEMORY
                : args->size_bytes > 0 ? OM_BUDGET_SIZE
                : args->bpw > 0.0      ? OM_BUDGET_BPW
                                       : OM_BUDGET_NONE,
        .bytes = args->memory_bytes > 0 ? args->memory_bytes : args->size_bytes,
        .bpw = args->bpw,
        .reserve_bytes = args->reserve_bytes,
        .n_ctx = args->n_ctx,
        .kv_type = args->kv_type,
    };
    return OM_OK;
}

/* ---- commands that main runs ---- */

static const om_opt completion_options[] = {
    { .name = "SHELL",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(om_word_args, word),
      .choices = "bash|zsh|fish",
      .help = "bash, zsh or fish" },
};
const om_command om_cmd_completion = {
    .name = "completion",
    .summary = "print a script for shell completion",
    .examples = "  source <(optimum completion bash)\n"
                "  optimum completion zsh > ~/.zfunc/_optimum\n"
                "  optimum completion fish > ~/.config/fish/completions/optimum.fish\n",
    .options = completion_options,
    .n_options = OM_COUNT(completion_options),
    .args_size = sizeof(om_word_args),
};

static const om_opt help_options[] = {
    { .name = "COMMAND",
      .kind = OM_OPT_POSITIONAL,
      .offset = offsetof(om_word_args, word),
      .help = "show the help of this command; without it the list of commands" },
};
const om_command om_cmd_help = {
    .name = "help",
    .summary = "show help",
    .options = help_options,
    .n_options = OM_COUNT(help_options),
    .args_size = sizeof(om_word_args),
};

const om_command om_cmd_version = {
    .name = "version",
    .summary = "print the version",
    .args_size = sizeof(om_common),
};
