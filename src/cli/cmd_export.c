/* optimum export: arguments -> om_export_options -> om_export */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_export_options o;
} args;

static const om_opt options[] = {
    { .name = "ALLOCATION",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.allocation),
      .help = "allocation.json" },
    { .name = "to",
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.to),
      .metavar = "TOOL",
      .choices = "llama.cpp|mlx",
      .help = "llama.cpp: a file for llama-quantize --tensor-type-file; mlx: a Python module for "
              "mlx_lm.convert" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.out),
      .metavar = "FILE",
      .help = "recipe to write" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    return om_export(out, &a->o, env, err);
}

const om_command om_cmd_export = {
    .name = "export",
    .summary = "write an allocation as a recipe for another tool",
    .details = "For those who want to quantize with llama-quantize or mlx-lm itself.",
    .examples = "  optimum export allocation.json --to llama.cpp -o types.txt\n"
                "  optimum export allocation.json --to mlx -o mlx_types.py\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
