/* One run in progress: its options, files and state; and its stages. Private to src/run. */
#ifndef OM_RUN_JOB_H
#define OM_RUN_JOB_H

#include "report/input.h"
#include "run/state.h"
#include "run/text.h"

enum { OM_RUN_MAX_BASELINES = 3, OM_RUN_EVAL_CHUNKS = 40, OM_RUN_CTX = 512 };

/** Owned strings throughout; om_job_release. */
typedef struct om_job {
    const om_run_options *options; /* borrowed, as is env */
    const om_env *env;
    om_run_state state;
    om_run_texts texts;
    int64_t model_bytes, model_params;
    om_container container; /* of the result */
    bool is_directory;      /* the model: its GGUF is made first */
    char *gguf;             /* full precision: the model itself, or made of its directory */
    char *profile, *stats, *allocation, *curve, *reference, *eval, *report; /* paths in out_dir */
    char *artifact;          /* the GGUF or the directory; known after allocate */
    char *types;             /* what to profile; NULL: the default */
    bool reference_is_model; /* its logits cannot be recomputed from a file: run it every time */
    bool quantized;          /* this run wrote the artifact */
    om_allocation *chosen;   /* after allocate */
    om_evaluation *judged;   /* after eval */
    char *baselines[OM_RUN_MAX_BASELINES]; /* [n_baselines] eval.json files */
    int n_baselines;
} om_job;

/** Open the model, resolve paths, check everything that can be checked before work. Creates
 * nothing. */
om_status om_job_init(om_job *job, const om_run_options *options, om_container container,
                      const om_env *env, om_error *err) OM_WARN_UNUSED;
/** What can only be checked on the GGUF: the budget, a mixture for --select cover. */
om_status om_job_check_model(om_job *job, om_error *err) OM_WARN_UNUSED;
void om_job_release(om_job *job);

/** Are the calibration windows chosen to cover the experts? */
bool om_job_covers(const om_run_options *options);

/** Is a result for MLX wanted, so that the profile is made for both containers? */
bool om_job_profiles_mlx(const om_run_options *options);

/** "SmolLM2-135M" of "/models/SmolLM2-135M-BF16-00001-of-00002.gguf". dst is cut when full. */
void om_job_model_name(char *dst, size_t cap, const char *path);

/* The stages, in order. Each is skipped, with a line, when its inputs are what they were. */
om_status om_stage_gguf(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_texts(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_reference(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_profile(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_allocate(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_sweep(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_quantize(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_eval(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_baselines(om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_stage_report(om_job *job, om_error *err) OM_WARN_UNUSED;

/** What the result is quantized from: MLX's from the directory, a GGUF from a GGUF. */
const char *om_job_weights(const om_job *job);
/** Append what an evaluation depends on besides the file: reference, text, chunks. */
om_status om_key_judge(om_buf *key, const om_job *job, om_error *err) OM_WARN_UNUSED;
/** Options of an evaluation in this run: reference, text, context, chunks. */
om_eval_options om_job_eval_options(const om_job *job, const char *model, const char *out);
/** Log "stage: kept" and return true when the stage need not run. */
bool om_job_kept(const om_job *job, const char *stage, const char *key, const char *const *outputs,
                 int n_outputs);

/** Record a finished stage. */
om_status om_job_done(om_job *job, const char *stage, const char *key,
                      om_error *err) OM_WARN_UNUSED;

/** Which presets to judge: indices into sweep->presets of at most OM_RUN_MAX_BASELINES that are not
 * larger than max_bytes: the two largest, and the one with the lowest predicted loss. Returns how
 * many. */
int om_baselines_choose(int chosen[OM_RUN_MAX_BASELINES], const om_sweep *sweep, int64_t max_bytes);

/** What will be done and what it costs: plain text. */
void om_job_plan_text(om_buf *out, const om_job *job);
/** Fill the result of a finished run, for people and as JSON ("optimum.run/1"). */
om_status om_job_result(om_result *out, const om_job *job, om_error *err) OM_WARN_UNUSED;
om_status om_job_plan_result(om_result *out, const om_job *job, om_error *err) OM_WARN_UNUSED;

#endif
