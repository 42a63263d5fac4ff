/* Optimum: the best mixed-precision quantized model for a memory budget.
 *
 * The public interface: one function per verb, an options struct each, an error object owned by the
 * caller, and an environment that carries hooks (log, progress, cancel), the number of threads and
 * nothing else. There are no globals. Every verb turns files into files; what it found is also
 * returned as a JSON document and as text for people.
 *
 * Conventions
 *   - `om_status` is 0 (OM_OK) on success. Outs come first, `om_error *err` last; err is never
 * NULL.
 *   - On failure outs are untouched or empty, `err->text` is one line: what was expected, what was
 * found, what to do.
 *   - Strings and arrays in options are borrowed for the duration of the call. NULL or 0 means "the
 * default".
 *   - Sizes are bytes; costs are nats (KL divergence per token); names of types are ggml's (`q4_K`,
 * `iq4_xs`).
 */
#ifndef OPTIMUM_H
#define OPTIMUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OM_VERSION "0.1.0"

/* ---- errors
 * ------------------------------------------------------------------------------------------------
 */

/** What a caller does about a failure; the text says the rest. */
typedef enum om_status {
    OM_OK = 0,
    OM_E_ARG,         /* the caller's options are wrong: exit code 2 */
    OM_E_IO,          /* a file cannot be read or written (os_errno says why) */
    OM_E_FORMAT,      /* a file is damaged, hostile, or not what its name says */
    OM_E_UNSUPPORTED, /* the file is fine, but the model or an op is not supported: exit code 5 */
    OM_E_NOMEM,
    OM_E_NUMERIC,    /* NaN or infinity where a number was needed */
    OM_E_INFEASIBLE, /* no allocation fits the budget: exit code 3 */
    OM_E_LIMIT,      /* a limit set by the caller (--max-ram) would be exceeded */
    OM_E_GATE,       /* a quality gate failed: exit code 4 */
    OM_E_MISMATCH,   /* files that do not belong together (hash, tensor set) */
    OM_E_CANCELLED,  /* the cancel hook said so: exit code 130 */
    OM_E_INTERNAL    /* a bug in Optimum or in a library */
} om_status;

/** Caller-owned; plain data; valid when a function returned non-zero. */
typedef struct om_error {
    om_status status;
    int os_errno;   /* 0 when no system call was involved */
    char where[64]; /* "profile", "quantize blk.3.ffn_up.weight", … ; may be empty */
    char text[512]; /* one line, no newline */
} om_error;

#if defined(__GNUC__)
#define OM_WARN_UNUSED __attribute__((warn_unused_result))
#else
#define OM_WARN_UNUSED
#endif

/* ---- environment
 * ------------------------------------------------------------------------------------------- */

typedef enum om_log_level {
    OM_LOG_ERROR, /* the verb is about to fail */
    OM_LOG_WARN,  /* the result is valid but not what the user may expect */
    OM_LOG_INFO,  /* what is being done, costs stated before long work */
    OM_LOG_DEBUG  /* for developers; also ggml's and llama's own messages */
} om_log_level;

/** Hooks, threads. A zeroed struct is valid: silent, not cancellable, all processors. */
typedef struct om_env {
    void (*log)(void *ud, om_log_level level, const char *line);
    /* `done` never decreases within a stage; done == total is always reported once. unit:
     * "windows", "bytes", … */
    void (*progress)(void *ud, const char *stage, double done, double total, const char *unit);
    bool (*cancelled)(void *ud); /* polled often, from any thread */
    void *ud;
    int n_threads; /* 0 = number of processors */
} om_env;

/** What a verb found: a JSON document and the same for people. Both owned; release with
 * om_result_release. */
typedef struct om_result {
    char *json; /* canonical JSON, NUL-terminated, ends in a newline */
    char *text; /* plain text, may hold several lines, ends in a newline */
} om_result;

/** Frees the contents; a zeroed result is fine; the struct may be used again. */
void om_result_release(om_result *result);

/* ---- budget
 * ------------------------------------------------------------------------------------------------
 */

typedef enum om_budget_kind {
    OM_BUDGET_NONE,
    OM_BUDGET_SIZE,  /* the whole file in bytes */
    OM_BUDGET_BPW,   /* file bytes * 8 / parameters */
    OM_BUDGET_MEMORY /* file + KV cache + compute buffers + reserve */
} om_budget_kind;

typedef struct om_budget {
    om_budget_kind kind;
    double bpw;            /* OM_BUDGET_BPW */
    int64_t bytes;         /* OM_BUDGET_SIZE and OM_BUDGET_MEMORY */
    int64_t reserve_bytes; /* memory: kept free for the system; 0 = default (256 MiB) */
    int n_ctx;             /* memory: context length; 0 = 4096 */
    const char *kv_type;   /* memory: type of the KV cache; NULL = "f16" */
} om_budget;

/* ---- verbs
 * -------------------------------------------------------------------------------------------------
 */

/** Describe a GGUF and what a budget allows; reads no weights. */
typedef struct om_inspect_options {
    const char *model; /* path of a GGUF (first of its splits) */
    om_budget budget;  /* optional */
} om_inspect_options;
om_status om_inspect(om_result *out, const om_inspect_options *options, const om_env *env,
                     om_error *err) OM_WARN_UNUSED;

/** Describe a profile: its most sensitive tensors; of a mixture of experts the sensitivity and the
 * frequency of each expert, how concentrated both are, and the experts hardly seen. */
typedef struct om_inspect_profile_options {
    const char *profile; /* profile.json */
} om_inspect_profile_options;
om_status om_inspect_profile(om_result *out, const om_inspect_profile_options *options,
                             const om_env *env, om_error *err) OM_WARN_UNUSED;

/** Measure how many nats each tensor loses in each type: one forward and one backward pass over the
 * text. */
typedef struct om_profile_options {
    const char *model;        /* GGUF, or a Hugging Face directory */
    const char *gguf_out;     /* of a directory: its GGUF, kept; NULL: out with .gguf for .json */
    const char *const *calib; /* text files */
    int n_calib;
    const char *out;         /* profile.json */
    const char *stats_out;   /* NULL: out with .stats.gguf for .json */
    const char *imatrix_out; /* also write llama-quantize's imatrix (GGUF) here; NULL: no */
    const char *method;      /* NULL or "fisher"; "measured" */
    const char *to; /* "gguf", "mlx", "both": types of which container; NULL: gguf, of a directory
                       both */
    const char *types;     /* comma-separated candidate types; NULL = all that stock llama.cpp and
                              mlx-lm run */
    int n_windows;         /* 0 = 96 (or as many as the text gives) */
    int window_tokens;     /* 0 = 512 */
    const char *select;    /* NULL or "spread": windows spread evenly over the text; "cover": those
                              that show the experts of a mixture best */
    uint64_t seed;         /* labels are sampled from the model with it */
    int64_t max_ram_bytes; /* 0 = no limit; the pass refuses to start when it will not fit */
    bool restart;          /* ignore a checkpoint and statistics of the same work */
} om_profile_options;
om_status om_profile_run(om_result *out, const om_profile_options *options, const om_env *env,
                         om_error *err) OM_WARN_UNUSED;

/** Choose one type per tensor under a budget: an integer program over profile.json. Needs no model.
 */
typedef struct om_allocate_options {
    const char *profile;
    om_budget budget;
    int64_t max_active_bytes; /* limit of the bytes read per token; 0 = none */
    double min_tok_s; /* the same limit as tokens per second, at bandwidth_bytes_s; 0 = none */
    double bandwidth_bytes_s; /* of memory; 0 = measured on this machine when min_tok_s asks */
    const char *method; /* NULL or "optimal": the integer program; "mopeq", "frequency": by the
                           experts' Fisher traces or tokens alone */
    const char *plan;   /* NULL: optimal; "uniform:TYPE", "preset:Q4_K_M", "tiers", "two-tier",
                           "mlx:mixed_4_6", "mlx:uniform_4" */
    int n_tiers;        /* at most this many distinct types; 0 = no limit */
    const char *to;     /* NULL or "gguf", "mlx" */
    const char *types;  /* comma-separated types the solver may use; NULL = all of the profile */
    const char *const
        *pins; /* "REGEX=TYPE", anchored POSIX extended regular expressions on tensor names */
    int n_pins;
    bool untie_gate_up; /* let ffn_gate and ffn_up of a layer differ (stock CUDA fuses them only
                           when equal) */
    int expert_banks;   /* MLX: sort the experts of a layer into at most this many banks with types
                           of their own; mlx-lm then needs trust_remote_code. 0 = no banks */
    bool sweep;         /* also give the whole size-quality curve */
    const char *out;    /* allocation.json; NULL: only the result */
    bool dry_run;       /* print, write nothing */
} om_allocate_options;
om_status om_allocate(om_result *out, const om_allocate_options *options, const om_env *env,
                      om_error *err) OM_WARN_UNUSED;

/** Write the quantized GGUF, or MLX directory, of an allocation. */
typedef struct om_quantize_options {
    const char *model;
    const char *to; /* "gguf" or "mlx"; NULL: mlx when the model is a directory */
    const char
        *round; /* MLX: NULL or "search": weighted by the statistics; "plain": as mx.quantize */
    const char *allocation; /* allocation.json */
    const char *out;        /* GGUF, or directory */
    const char *stats;      /* statistics GGUF; NULL: the one the allocation names, hash checked */
    const char *imatrix;    /* any imatrix (GGUF or legacy .dat) instead of stats */
    bool dry_run;           /* print the plan, touch no weights */
} om_quantize_options;
om_status om_quantize(om_result *out, const om_quantize_options *options, const om_env *env,
                      om_error *err) OM_WARN_UNUSED;

/** Write an allocation as a recipe for another tool. */
typedef struct om_export_options {
    const char *allocation;
    const char *to; /* NULL or "llama.cpp": an anchored --tensor-type-file; "mlx": a Python module
                       with a quant_predicate for mlx_lm.convert */
    const char *out;
} om_export_options;
om_status om_export(om_result *out, const om_export_options *options, const om_env *env,
                    om_error *err) OM_WARN_UNUSED;

/** Judge any GGUF, or a directory for mlx-lm, against a reference on a text. A directory is written
 * out as a temporary GGUF of F32 (also a reference's, in its own precision). */
typedef struct om_eval_options {
    const char *model;         /* NULL with reference_out: only write the reference file */
    const char *reference;     /* full-precision GGUF or Hugging Face directory, or a reference file
                                  written earlier */
    const char *reference_out; /* keep the reference's hidden states here; NULL: no */
    const char *text;
    const char *score; /* NULL or "all"; "second-half" = llama-perplexity's rule */
    const char *out;   /* eval.json; NULL: only the result */
    int n_ctx;         /* 0 = 512 */
    int n_chunks;      /* 0 = all of the text */
    int n_gpu_layers;
    bool no_speed;    /* skip the timing of prefill and decode */
    const char *with; /* NULL; "mlx_lm": time a directory in mlx-lm (Python of OPTIMUM_PYTHON, or
                         python3); without it a directory is not timed */
    bool exact; /* F32 KV cache, plain attention: for F32 files, the effect of the weights alone */
} om_eval_options;
om_status om_eval(om_result *out, const om_eval_options *options, const om_env *env,
                  om_error *err) OM_WARN_UNUSED;

/** One HTML file from the JSON files of a run. */
typedef struct om_report_options {
    const char *profile;
    const char *allocation;
    const char *eval;             /* of the allocation's file; may be NULL */
    const char *const *baselines; /* eval.json of what people would use instead; may be empty */
    int n_baselines;
    const char *sweep; /* JSON of allocate --sweep; may be NULL */
    const char *out;   /* report.html */
} om_report_options;
om_status om_report(om_result *out, const om_report_options *options, const om_env *env,
                    om_error *err) OM_WARN_UNUSED;

/** All of it: profile, allocate, quantize, evaluate against presets at the same size, report. With
 * "both" one profile serves two results, each with its own report.
 * Finished stages in out_dir are kept when their inputs have not changed. */
typedef struct om_run_options {
    const char *model; /* GGUF, or a Hugging Face directory, from which its GGUF is made first */
    const char *to;    /* NULL or "gguf"; "mlx" and "both" need a directory */
    om_budget budget;
    const char *const *calib; /* none: the text built into Optimum */
    int n_calib;
    const char *eval_text; /* NULL: the held-out last tenth of the calibration text */
    const char *out_dir;
    const char *const *pins;
    int n_pins;
    const char *types;
    int n_tiers;
    int64_t max_active_bytes; /* these three as in om_allocate_options */
    double min_tok_s;
    double bandwidth_bytes_s;
    int n_windows; /* as in om_profile_options, as are the next two */
    int window_tokens;
    const char *select;
    int n_eval_chunks; /* 0 = 40 */
    uint64_t seed;
    int64_t max_ram_bytes;
    bool no_baselines; /* do not build and judge presets */
    bool dry_run;      /* say what would be done and what it costs */
} om_run_options;
om_status om_run(om_result *out, const om_run_options *options, const om_env *env,
                 om_error *err) OM_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
