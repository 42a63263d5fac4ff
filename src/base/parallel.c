/* A pool of threads for many small loops.
 *
 * One 64-bit word says everything about the current loop: its number, whether it is open, and how
 * many workers are inside. A worker enters by adding 1 to an open word; the caller works too, then
 * closes the word and waits only for workers that entered. A worker that wakes late finds the loop
 * closed and goes back to sleep, so a tiny loop never waits for a sleeper. The loop's description
 * is plain data: it is written only while the word is closed with nobody inside, and read only
 * after entering.
 *
 * Workers and the caller spin for some tens of microseconds before they sleep, because the next
 * loop is usually close; not when there are more threads than processors.
 */
#include "base/parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/mem.h"

enum {
    MAX_THREADS = 1024,
    SPINS = 4000, /* pauses; about 40 to 150 microseconds */
};
#define INSIDE_MASK UINT64_C(0xFFFF)
#define OPEN_BIT UINT64_C(0x10000)
#define NUMBER_UNIT UINT64_C(0x20000)

typedef void (*loop_fn)(void *ctx, int64_t first, int64_t last, int worker);

struct om_pool {
    _Atomic uint64_t word; /* number of the loop | open | workers inside */
    _Atomic int64_t next;  /* first item not taken yet */
    atomic_int sleepers;   /* workers waiting on `wake` */
    atomic_bool stop;

    loop_fn fn;
    void *ctx;
    int64_t n, grain;

    pthread_mutex_t lock;
    pthread_cond_t wake; /* a loop opened, or stop */
    pthread_cond_t done; /* the last worker left a closed loop */
    int n_spins;
    int n_workers;
    struct worker {
        om_pool *pool;
        pthread_t thread;
        int index; /* 1 … n_workers; 0 is the caller */
    } workers[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_chunks(om_pool *p, int worker) {
    const int64_t n = p->n, grain = p->grain;
    for (;;) {
        const int64_t first = atomic_fetch_add_explicit(&p->next, grain, memory_order_relaxed);
        if (first >= n) {
            return;
        }
        p->fn(p->ctx, first, grain < n - first ? first + grain : n, worker);
    }
}

/* ---- workers ---- */

static bool is_new(uint64_t word, uint64_t last_number) {
    return (word & OPEN_BIT) != 0 && word / NUMBER_UNIT != last_number;
}

static void sleep_until_new(om_pool *p, uint64_t last_number) {
    pthread_mutex_lock(&p->lock);
    /* Announced before the word is looked at, while the caller opens the word before it looks for
     * sleepers (both sequentially consistent): one of the two sees the other. */
    atomic_fetch_add(&p->sleepers, 1);
    while (!atomic_load(&p->stop) && !is_new(atomic_load(&p->word), last_number)) {
        pthread_cond_wait(&p->wake, &p->lock);
    }
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void leave(om_pool *p) {
    const uint64_t before = atomic_fetch_sub(&p->word, 1);
    if ((before & OPEN_BIT) == 0 && (before & INSIDE_MASK) == 1) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void *worker_main(void *arg) {
    const struct worker *self = arg;
    om_pool *p = self->pool;
    uint64_t last_number = 0;
    int spins = 0;
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        uint64_t word = atomic_load_explicit(&p->word, memory_order_acquire);
        if (is_new(word, last_number)) {
            if (atomic_compare_exchange_strong(&p->word, &word, word + 1)) {
                last_number = word / NUMBER_UNIT;
                run_chunks(p, self->index);
                leave(p);
            }
            spins = 0;
        } else if (spins < p->n_spins) {
            spins++;
            relax();
        } else {
            sleep_until_new(p, last_number);
            spins = 0;
        }
    }
    return NULL;
}

/* ---- the caller ---- */

static void wake_sleepers(om_pool *p, int64_t wanted) {
    int sleepers = atomic_load(&p->sleepers);
    if (sleepers == 0) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    if (wanted >= sleepers) {
        pthread_cond_broadcast(&p->wake);
    } else {
        for (int64_t i = 0; i < wanted; i++) {
            pthread_cond_signal(&p->wake);
        }
    }
    pthread_mutex_unlock(&p->lock);
}

static void close_and_wait(om_pool *p) {
    const uint64_t before = atomic_fetch_and(&p->word, ~OPEN_BIT);
    if ((before & INSIDE_MASK) == 0) {
        return;
    }
    for (int i = 0; i < p->n_spins; i++) {
        if ((atomic_load_explicit(&p->word, memory_order_acquire) & INSIDE_MASK) == 0) {
            return;
        }
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while ((atomic_load(&p->word) & INSIDE_MASK) != 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

static void run_alone(int64_t n, int64_t grain, loop_fn fn, void *ctx) {
    for (int64_t first = 0; first < n; first += grain) {
        if (grain >= n - first) {
            fn(ctx, first, n, 0);
            return;
        }
        fn(ctx, first, first + grain, 0);
    }
}

void om_parallel_for(om_pool *pool, int64_t n, int64_t grain,
                     void (*fn)(void *ctx, int64_t first, int64_t last, int worker), void *ctx) {
    if (n <= 0) {
        return;
    }
    if (grain < 1) {
        grain = 1;
    }
    /* the second limit keeps the shared counter from overflowing: every thread overshoots once */
    if (pool == NULL || grain >= n || n > INT64_MAX / 2 || grain > INT64_MAX / 2 / MAX_THREADS) {
        run_alone(n, grain, fn, ctx);
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    pool->n = n;
    pool->grain = grain;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    const uint64_t number = atomic_load(&pool->word) / NUMBER_UNIT + 1;
    atomic_store(&pool->word, number * NUMBER_UNIT | OPEN_BIT);
    wake_sleepers(pool, (n - 1) / grain);
    run_chunks(pool, 0);
    close_and_wait(pool);
}

/* ---- life ---- */

static void start_workers(om_pool *p, int wanted) {
    sigset_t all, old;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) {
        return;
    }
    /* macOS gives threads 512 KiB, too little for quantization kernels */
    (void) pthread_attr_setstacksize(&attr, (size_t) 4 << 20);
    /* signals belong to the caller's thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < wanted; i++) {
        struct worker *w = &p->workers[i];
        w->pool = p;
        w->index = i + 1;
        if (pthread_create(&w->thread, &attr, worker_main, w) != 0) {
            break;
        }
        p->n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
}

om_pool *om_pool_new(int n_threads) {
    if (n_threads > MAX_THREADS) {
        n_threads = MAX_THREADS;
    }
    if (n_threads < 2) {
        return NULL;
    }
    const int wanted = n_threads - 1;
    om_pool *p = om_calloc(1, sizeof *p + (size_t) wanted * sizeof p->workers[0]);
    if (p == NULL) {
        return NULL;
    }
    const long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    p->n_spins = n_cpus >= n_threads ? SPINS : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    start_workers(p, wanted);
    if (p->n_workers == 0) {
        om_pool_free(p);
        return NULL;
    }
    return p;
}

void om_pool_free(om_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->n_workers; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    om_free(pool);
}

int om_pool_size(const om_pool *pool) {
    return pool == NULL ? 1 : pool->n_workers + 1;
}
