/* run.json: which stages of a run are finished, and from what they were made. */
#ifndef OM_RUN_STATE_H
#define OM_RUN_STATE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "model/gguf.h"

enum { OM_RUN_MAX_STAGES = 32 };

typedef struct om_stage_record {
    char name[64];
    char key[65]; /* SHA-256 over the stage's inputs and options */
} om_stage_record;

/** Plain data but for path. The model's digest is kept with the size and time of its files, so that
 * resuming does not read a hundred gigabytes to learn that nothing changed. */
typedef struct om_run_state {
    char *path; /* owned */
    char model_signature[65], model_sha256[65];
    om_stage_record stages[OM_RUN_MAX_STAGES];
    int n_stages;
} om_run_state;

/** Read run.json, or start empty: a missing or damaged file only means that nothing is kept (with a
 * warning). Errors: OM_E_NOMEM. */
om_status om_run_state_open(om_run_state *out, const char *path, const om_env *env,
                            om_error *err) OM_WARN_UNUSED;
void om_run_state_release(om_run_state *s);

/** Was this stage finished with this key, and do its outputs still exist? outputs [n_outputs] are
 * paths. */
bool om_run_state_fresh(const om_run_state *s, const char *stage, const char *key,
                        const char *const *outputs, int n_outputs);
/** Record a finished stage and write run.json. */
om_status om_run_state_done(om_run_state *s, const char *stage, const char *key,
                            om_error *err) OM_WARN_UNUSED;

/** The model's SHA-256 from the state, or computed (progress "hash") and kept. */
om_status om_run_state_model(om_run_state *s, const om_model *model, const om_env *env,
                             om_error *err) OM_WARN_UNUSED;

/* Keys: append everything a stage depends on, then finish. */
void om_key_str(om_buf *key, const char *name, const char *value); /* NULL is a value */
void om_key_i64(om_buf *key, const char *name, int64_t value);
void om_key_f64(om_buf *key, const char *name, double value);
om_status om_key_file(om_buf *key, const char *name, const char *path,
                      om_error *err) OM_WARN_UNUSED;
/** SHA-256 of what was appended and of the tool's version; releases the buffer. */
om_status om_key_finish(char hex[65], om_buf *key, om_error *err) OM_WARN_UNUSED;

#endif
