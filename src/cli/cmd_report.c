/* optimum report: arguments -> om_report_options -> om_report */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_report_options o;
    om_opt_list baselines;
} args;

static const om_opt options[] = {
    { .name = "profile",
      .letter = 'p',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.profile),
      .metavar = "FILE",
      .help = "profile.json" },
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
      .help = "HTML to write: one file, no network" },
    { .name = "eval",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.eval),
      .metavar = "FILE",
      .help = "eval.json of the result" },
    { .name = "baseline",
      .kind = OM_OPT_LIST,
      .offset = offsetof(args, baselines),
      .metavar = "FILE",
      .help = "eval.json of what people would use instead; may be repeated" },
    { .name = "sweep",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.sweep),
      .metavar = "FILE",
      .help = "JSON of allocate --sweep" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    a->o.baselines = a->baselines.items;
    a->o.n_baselines = a->baselines.n;
    return om_report(out, &a->o, env, err);
}

const om_command om_cmd_report = {
    .name = "report",
    .summary = "write one HTML file that says what was decided and why",
    .details = "Reads the JSON files of the other commands.",
    .examples = "  optimum report -p profile.json -a allocation.json -o report.html\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
