/* Data parallelism: split [0, n) over threads. Which thread does an item never changes the item's
 * result. */
#ifndef OM_BASE_PARALLEL_H
#define OM_BASE_PARALLEL_H

#include <stddef.h>
#include <stdint.h>

/** A pool of n_threads - 1 workers (the caller is the last). NULL is a valid pool: everything runs
 * in the caller. */
typedef struct om_pool om_pool;
om_pool *om_pool_new(int n_threads); /* NULL when n_threads < 2 or threads cannot be made */
void om_pool_free(om_pool *pool);
int om_pool_size(const om_pool *pool); /* 1 for NULL */

/** Call fn(ctx, first, last, worker) for consecutive chunks of `grain` items of [0, n), taken by
 * whichever thread is free; worker in [0, om_pool_size). Returns when all are done. Chunk bounds
 * depend only on n and grain. Not re-entrant: one om_parallel_for at a time per pool. */
void om_parallel_for(om_pool *pool, int64_t n, int64_t grain,
                     void (*fn)(void *ctx, int64_t first, int64_t last, int worker), void *ctx);

#endif
