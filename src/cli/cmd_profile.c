/* optimum profile: arguments -> om_profile_options -> om_profile_run */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_profile_options o;
    om_opt_list calib;
} args;

static const om_opt options[] = {
    { .name = "MODEL",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.model),
      .help = "full-precision GGUF (the first file when it is split), or a Hugging Face folder" },
    { .name = "calib",
      .kind = OM_OPT_LIST,
      .required = true,
      .offset = offsetof(args, calib),
      .metavar = "FILE",
      .help = "text to measure on; may be repeated" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.out),
      .metavar = "FILE",
      .help = "profile.json to write" },
    { .name = "to",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.to),
      .metavar = "FORMAT",
      .choices = "gguf|mlx|both",
      .help =
          "measure the types of llama.cpp, of mlx-lm, or both (default gguf; both for a folder)" },
    { .name = "gguf-out",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.gguf_out),
      .metavar = "FILE",
      .help =
          "GGUF that is made of a Hugging Face folder, and kept (default: beside profile.json)" },
    { .name = "method",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.method),
      .metavar = "NAME",
      .choices = "fisher|measured",
      .help = "fisher: one forward and backward pass (default); measured: one forward pass per "
              "tensor and type" },
    { .name = "types",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.types),
      .metavar = "LIST",
      .help = "comma-separated candidate types (default: all that run well)" },
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
    { .name = "seed",
      .kind = OM_OPT_U64,
      .offset = offsetof(args, o.seed),
      .metavar = "S",
      .help = "seed of the sampled labels (default 0)" },
    { .name = "stats-out",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.stats_out),
      .metavar = "FILE",
      .help = "statistics to write (default: beside profile.json, .stats.gguf)" },
    { .name = "imatrix-out",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.imatrix_out),
      .metavar = "FILE",
      .help = "also write an imatrix for llama-quantize here" },
    { .name = "max-ram",
      .kind = OM_OPT_SIZE,
      .offset = offsetof(args, o.max_ram_bytes),
      .metavar = "SIZE",
      .help = "refuse to start when more memory than this would be needed" },
    { .name = "restart",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.restart),
      .help = "ignore what an earlier run has left: its statistics, or a checkpoint" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    a->o.calib = a->calib.items;
    a->o.n_calib = a->calib.n;
    OM_TRY(om_profile_run(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_profile = {
    .name = "profile",
    .summary = "measure what each tensor loses in each type",
    .details = "One profile serves every budget. The unit is nats: KL divergence per token from "
               "the full-precision model.",
    .examples = "  optimum profile model-bf16.gguf --calib calib.txt -o profile.json\n"
                "  optimum profile model-bf16.gguf --calib a.txt b.txt -o profile.json\n"
                "  optimum profile Qwen3-8B/ --calib calib.txt --to mlx -o profile.json\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
