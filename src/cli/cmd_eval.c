/* optimum eval: arguments -> om_eval_options -> om_eval */
#include "cli/commands.h"

typedef struct args {
    om_common common;
    om_eval_options o;
} args;

static const om_opt options[] = {
    { .name = "MODEL",
      .kind = OM_OPT_POSITIONAL,
      .offset = offsetof(args, o.model),
      .help = "GGUF or MLX directory to judge; may be left out with --reference-out" },
    { .name = "reference",
      .letter = 'r',
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.reference),
      .metavar = "FILE",
      .help = "full-precision GGUF or Hugging Face directory, or what --reference-out wrote" },
    { .name = "text",
      .kind = OM_OPT_STR,
      .required = true,
      .offset = offsetof(args, o.text),
      .metavar = "FILE",
      .help = "text to judge on" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.out),
      .metavar = "FILE",
      .help = "eval.json to write (default: only print the result)" },
    { .name = "reference-out",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.reference_out),
      .metavar = "FILE",
      .help = "keep what the reference computed, for further models" },
    { .name = "score",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.score),
      .metavar = "RULE",
      .choices = "all|second-half",
      .help = "tokens that count: all (default), or second-half as llama-perplexity does" },
    { .name = "ctx",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_ctx),
      .metavar = "N",
      .min = 2,
      .help = "tokens per chunk (default 512)" },
    { .name = "chunks",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_chunks),
      .metavar = "N",
      .min = 1,
      .help = "chunks of the text to use (default: all)" },
    { .name = "gpu-layers",
      .kind = OM_OPT_INT,
      .offset = offsetof(args, o.n_gpu_layers),
      .metavar = "N",
      .min = 0,
      .help = "layers to run on a GPU (default 0)" },
    { .name = "no-speed",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.no_speed),
      .help = "do not time prefill and decode" },
    { .name = "with",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, o.with),
      .metavar = "RUNTIME",
      .choices = "mlx_lm",
      .help = "time an MLX directory in mlx_lm itself (Python: $OPTIMUM_PYTHON, or python3)" },
    { .name = "exact",
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, o.exact),
      .help =
          "compute as precisely as llama.cpp can (F32 cache, plain attention): what the weights "
          "of an F32 file do, without what the runtime rounds" },
};

static om_status run(om_result *out, void *p, const om_env *env, om_error *err) {
    args *a = p;
    if (a->o.model == NULL && a->o.reference_out == NULL) {
        return om_fail(err, OM_E_ARG,
                       "MODEL is missing (it may be left out only with --reference-out FILE)");
    }
    return om_eval(out, &a->o, env, err);
}

const om_command om_cmd_eval = {
    .name = "eval",
    .summary = "judge any GGUF or MLX directory against a reference",
    .details =
        "Measures KL divergence, perplexity, agreement of the most likely token, of a mixture the "
        "agreement of its choices of experts, speed and memory. An MLX directory is dequantized "
        "into a temporary GGUF of F32 and judged by the same code; only mlx_lm can tell its speed.",
    .examples = "  optimum eval model-opt.gguf -r model-bf16.gguf --text valid.txt -o eval.json\n"
                "  optimum eval -r model-bf16.gguf --text valid.txt --reference-out reference.bin\n"
                "  optimum eval model-mlx/ -r model-bf16.gguf --text valid.txt --with mlx_lm\n",
    .options = options,
    .n_options = OM_COUNT(options),
    .args_size = sizeof(args),
    .run = run,
};
