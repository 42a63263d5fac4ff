/* Seeded randomness that is the same on every machine: splitmix64 (Steele, Lea, Flood 2014). */
#ifndef OM_BASE_RNG_H
#define OM_BASE_RNG_H

#include <stdint.h>

typedef struct om_rng {
    uint64_t state;
} om_rng;

/** The next 64 bits. */
static inline uint64_t om_rng_u64(om_rng *r) {
    uint64_t z = (r->state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

/** Uniform in [0, 1), 53 bits. */
static inline double om_rng_f64(om_rng *r) {
    return (double) (om_rng_u64(r) >> 11) * 0x1.0p-53;
}

/** A generator for (seed, index): independent streams per window, tensor … */
static inline om_rng om_rng_at(uint64_t seed, uint64_t index) {
    om_rng r = { seed ^ (index * 0xD1B54A32D192ED03ULL + 0x632BE59BD9B4E019ULL) };
    (void) om_rng_u64(&r);
    return r;
}

/** FNV-1a of a name, as a stream index. */
static inline uint64_t om_hash_name(const char *s) {
    uint64_t h = 0xCBF29CE484222325ULL;
    for (; *s; s++) {
        h = (h ^ (unsigned char) *s) * 0x100000001B3ULL;
    }
    return h;
}

#endif
