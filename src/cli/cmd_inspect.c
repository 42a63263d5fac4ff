/* optimum inspect: arguments -> om_inspect_options -> om_inspect */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_inspect_options o;
    om_budget_args budget;
} args;

static const om_opt options[] = {
    { .name = "MODEL",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.model),
      .help = "GGUF (the first file when it is split)" },
    OM_BUDGET_OPTIONS(args),
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    OM_TRY(om_budget_from_args(&a->o.budget, &a->budget, false, err));
    OM_TRY(om_inspect(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_inspect = {
    .name = "inspect",
    .summary = "describe a model and what a budget allows",
    .details = "Reads the header of the file, no weights.",
    .examples = "  optimum inspect model-bf16.gguf\n"
                "  optimum inspect model-bf16.gguf --memory 24GiB --ctx 32768 --kv q8_0\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
