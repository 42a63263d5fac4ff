/* optimum quantize: arguments -> om_quantize_options -> om_quantize */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_quantize_options o;
} args;

static const om_opt options[] = {
    { .name = "MODEL",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.model),
      .help = "full-precision GGUF (the first file when it is split), or Hugging Face directory" },
    { .name = "allocation",
      .letter = 'a',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.allocation),
      .metavar = "FILE",
      .help = "allocation.json" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.out),
      .metavar = "FILE",
      .help = "GGUF or directory to write" },
    { .name = "stats",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.stats),
      .metavar = "FILE",
      .help = "statistics for rounding (default: those the allocation names)" },
    { .name = "imatrix",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.imatrix),
      .metavar = "FILE",
      .help = "imatrix of llama.cpp to use instead of statistics" },
    { .name = "to",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.to),
      .metavar = "FORMAT",
      .choices = "gguf|mlx",
      .help = "container of the result (default: mlx when the model is a directory)" },
    { .name = "round",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.round),
      .metavar = "HOW",
      .choices = "search|plain",
      .help = "mlx: search the scales of least error (default), or round as mlx-lm does" },
    { .name = "dry-run",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.dry_run),
      .help = "print the plan, touch no weights" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    if (a->o.stats != NULL && a->o.imatrix != NULL) {
        return om_fail(err, OM_E_ARG, "--stats and --imatrix exclude each other: give one");
    }
    OM_TRY(om_quantize(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_quantize = {
    .name = "quantize",
    .summary = "write the quantized model of an allocation",
    .details = "A GGUF runs in stock llama.cpp, a directory in stock mlx-lm.",
    .examples = "  optimum quantize model-bf16.gguf -a allocation.json -o opt.gguf\n"
                "  optimum quantize model-bf16.gguf -a allocation.json -o opt.gguf --dry-run\n"
                "  optimum quantize Model-HF -a allocation.json -o Model-mlx --to mlx\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
