/* libllama's own account of what a model needs at run time, without loading weights. */
#ifndef OM_MODEL_MEMORY_SIM_H
#define OM_MODEL_MEMORY_SIM_H

#include <stdint.h>

#include "base/error.h"

enum { OM_SIM_CTX = 4096, OM_SIM_UBATCH = 512 };

typedef struct om_memory_sim {
    double kv_bytes;      /* of an F16 cache; known to about 5 KiB per cache */
    double state_bytes;   /* recurrent layers, one sequence */
    double compute_bytes; /* compute and output buffers */
} om_memory_sim;

/** Simulate a context of n_ctx tokens on the CPU. false: libllama cannot (the reason goes to the
 * debug log). Not for two threads at once: libllama's log hook is used. */
bool om_memory_simulate(om_memory_sim *out, const char *path, int n_ctx, const om_env *env);

#endif
