/* optimum allocate: arguments -> om_allocate_options -> om_allocate */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_allocate_options o;
    om_budget_args budget;
    om_opt_list pins;
} args;

static const om_opt options[] = {
    { .name = "PROFILE",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.profile),
      .help = "profile.json of the model" },
    OM_BUDGET_OPTIONS(args),
    OM_ACTIVE_OPTIONS(args),
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.out),
      .metavar = "FILE",
      .help = "allocation.json to write (default: only print the result)" },
    { .name = "method",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.method),
      .metavar = "NAME",
      .choices = "optimal|mopeq|frequency",
      .help = "how to choose: the integer program (default), or baselines for mixtures of experts: "
              "by Fisher trace (MoPEQ) or by tokens per expert" },
    { .name = "plan",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.plan),
      .metavar = "NAME",
      .help = "instead of the optimum: uniform:TYPE, preset:NAME (as Q4_K_M), mlx:NAME (as "
              "mixed_4_6), tiers or two-tier" },
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
      .help = "comma-separated types to choose from (default: all of the profile)" },
    { .name = "pin",
      .kind = OM_OPT_LIST,
      .offset = offsetof(args, pins),
      .metavar = "REGEX=TYPE",
      .help = "give tensors whose whole name matches REGEX this type; may be repeated" },
    { .name = "untie-gate-up",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.untie_gate_up),
      .help = "let ffn_gate and ffn_up of a layer differ (CUDA fuses them only when equal)" },
    { .name = "expert-banks",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.expert_banks),
      .metavar = "N",
      .min = 2,
      .max = 8,
      .help = "with --to mlx: sort the experts of each layer into at most N banks with types of "
              "their own; the model brings a Python module for them, which mlx-lm runs only with "
              "--trust-remote-code (default: one type per stack, for any mlx-lm)" },
    { .name = "sweep",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.sweep),
      .help = "also give the whole curve of size against loss" },
    { .name = "to",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.to),
      .metavar = "FORMAT",
      .choices = "gguf|mlx",
      .help = "container of the result (default gguf)" },
    { .name = "dry-run",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.dry_run),
      .help = "print the allocation, write nothing" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    /* presets and uniform plans set their own size, and a curve shows all sizes */
    const bool limited = a->o.max_active_bytes > 0 || a->o.min_tok_s > 0.0;
    const bool required = a->o.plan == NULL && !a->o.sweep && !limited;
    OM_TRY(om_budget_from_args(&a->o.budget, &a->budget, required, err));
    a->o.pins = a->pins.items;
    a->o.n_pins = a->pins.n;
    OM_TRY(om_allocate(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_allocate = {
    .name = "allocate",
    .summary = "choose one type per tensor under a budget",
    .details = "Solves an integer program over the profile; takes seconds and needs no model.",
    .examples = "  optimum allocate profile.json --memory 24GiB --ctx 16384 -o allocation.json\n"
                "  optimum allocate profile.json --bpw 4.5 --tiers 4 --pin 'output\\.weight=q6_K'\n"
                "  optimum allocate profile.json --size 20GB --min-tok-s 15 --bandwidth 100GB/s\n"
                "  optimum allocate profile.json --to mlx --bpw 4.5 -o allocation.json\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
