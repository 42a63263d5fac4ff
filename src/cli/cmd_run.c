/* optimum run: arguments -> om_run_options -> om_run */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_run_options o;
    om_budget_args budget;
    om_opt_list calib, pins;
} args;

static const om_opt options[] = {
    { .name = "MODEL",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.model),
      .help = "full-precision GGUF (the first file when it is split), or a Hugging Face folder" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.out_dir),
      .metavar = "DIR",
      .help = "folder for everything that is made; finished stages in it are kept" },
    OM_BUDGET_OPTIONS(args),
    OM_ACTIVE_OPTIONS(args),
    { .name = "calib",
      .kind = OM_OPT_LIST,
      .offset = offsetof(args, calib),
      .metavar = "FILE",
      .help = "text to measure on (default: the text built into optimum)" },
    { .name = "eval-text",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.eval_text),
      .metavar = "FILE",
      .help = "text to judge on (default: the held-out last tenth of the calibration text)" },
    { .name = "to",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.to),
      .metavar = "FORMAT",
      .choices = "gguf|mlx|both",
      .help = "container of the result (default gguf)" },
    { .name = "tiers",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_tiers),
      .metavar = "N",
      .min = 1,
      .help = "at most N different types (default: no limit)" },
    { .name = "types",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.types),
      .metavar = "LIST",
      .help = "comma-separated types to choose from (default: all that run well)" },
    { .name = "pin",
      .kind = OM_OPT_LIST,
      .offset = offsetof(args, pins),
      .metavar = "REGEX=TYPE",
      .help = "give tensors whose whole name matches REGEX this type" },
    { .name = "windows",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_windows),
      .metavar = "N",
      .min = 1,
      .help = "windows of text to measure on (default 96)" },
    { .name = "window-tokens",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.window_tokens),
      .metavar = "N",
      .min = 2,
      .help = "tokens per window (default 512)" },
    { .name = "select",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.select),
      .metavar = "HOW",
      .choices = "spread|cover",
      .help = "which windows of the text: spread evenly over it (default), or cover: those that "
              "show the experts of a mixture best, found by forward passes over four times as "
              "many" },
    { .name = "eval-chunks",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_eval_chunks),
      .metavar = "N",
      .min = 1,
      .help = "chunks of 512 tokens to judge on (default 40)" },
    { .name = "seed",
      .kind = OM_OPT_U64,
      .offset = offsetof(args, o.seed),
      .metavar = "S",
      .help = "seed of the sampled labels (default 0)" },
    { .name = "max-ram",
      .kind = OM_OPT_SIZE,
      .offset = offsetof(args, o.max_ram_bytes),
      .metavar = "SIZE",
      .help = "refuse to start when more memory than this would be needed" },
    { .name = "no-baselines",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.no_baselines),
      .help = "do not build and judge presets of the same size" },
    { .name = "dry-run",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.dry_run),
      .help = "say what would be done and what it costs; do nothing" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    OM_TRY(om_budget_from_args(&a->o.budget, &a->budget, true, err));
    a->o.calib = a->calib.items;
    a->o.n_calib = a->calib.n;
    a->o.pins = a->pins.items;
    a->o.n_pins = a->pins.n;
    OM_TRY(om_run(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_run = {
    .name = "run",
    .summary = "profile, allocate, quantize, judge and report, in one go",
    .details =
        "Measures the model, finds the best mix of types under the budget, writes the GGUF or the "
        "MLX folder, judges it against the full-precision model and against what other tools "
        "make at the same size, "
        "and writes a report.",
    .examples = "  optimum run model-bf16.gguf --memory 24GiB --ctx 16384 -o out\n"
                "  optimum run model-bf16.gguf --size 12GB --calib my.txt -o out\n"
                "  optimum run Qwen3-8B/ --to mlx --bpw 4.5 -o out\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
