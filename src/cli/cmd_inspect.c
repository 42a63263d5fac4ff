/* optimum inspect: arguments -> om_inspect, or om_inspect_profile when the file is a profile */
#include "cli/commands.h"

#include <string.h>

#include "base/file.h"

typedef struct args {
    om_common common;
    om_inspect_options o;
    om_budget_args budget;
} args;

static const om_opt options[] = {
    { .name = "FILE",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, o.model),
      .help = "GGUF (the first file when it is split), or profile.json" },
    OM_BUDGET_OPTIONS(args),
};

/* Told by content, whatever the file is called: JSON begins with a brace, a GGUF with its name.
 * What cannot be read is left to the verb, which says why. */
static bool is_json(const char *path) {
    om_map map = { 0 };
    om_error ignored = { 0 };
    if (om_map_open(&map, path, &ignored) != OM_OK) {
        return false;
    }
    size_t i = 0;
    while (i < map.size && i < 4096 && map.data[i] != '\0' && strchr(" \t\r\n", map.data[i])) {
        i++;
    }
    const bool json = i < map.size && map.data[i] == '{';
    om_map_close(&map);
    return json;
}

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    om_status status = OM_OK;
    OM_TRY(om_budget_from_args(&a->o.budget, &a->budget, false, err));
    if (is_json(a->o.model)) {
        if (a->o.budget.kind != OM_BUDGET_NONE) {
            OM_TRY(om_fail(err, OM_E_ARG,
                           "%s is no model: what a budget does with a profile, allocate says",
                           a->o.model));
        }
        const om_inspect_profile_options o = { .profile = a->o.model };
        OM_TRY(om_inspect_profile(out, &o, env, err));
        goto out;
    }
    OM_TRY(om_inspect(out, &a->o, env, err));
out:
    return status;
}

const om_command om_cmd_inspect = {
    .name = "inspect",
    .summary = "describe a model and what a budget allows, or a profile",
    .details = "Of a model: reads the header of the file, no weights. Of a profile.json: the most "
               "sensitive tensors; for a mixture of experts also how sensitive each expert is, how "
               "often it was chosen and which were hardly seen.",
    .examples = "  optimum inspect model-bf16.gguf\n"
                "  optimum inspect model-bf16.gguf --memory 24GiB --ctx 32768 --kv q8_0\n"
                "  optimum inspect profile.json\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
