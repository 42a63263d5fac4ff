/* Runs a fuzz target without libFuzzer: every file of the corpus folders given, then cut and
 * damaged copies of each, the same ones every time. So a crash that was found once guards every
 * commit.
 *
 *   fuzz_NAME FOLDER|FILE...
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_CUTS = 600, N_DAMAGED = 2500, MAX_BYTES = 1 << 20 };

static long n_cases;

static void run(const uint8_t *data, size_t size) {
    n_cases++;
    (void) LLVMFuzzerTestOneInput(data, size);
}

/* A number that parsers trip over, at a random place, in 1 to 8 bytes. */
static void plant_number(uint8_t *data, size_t size, om_rng *rng) {
    static const uint64_t numbers[] = { 0,          1,          0x7F,       0xFF,
                                        0x7FFF,     0xFFFF,     0x7FFFFFFF, 0xFFFFFFFF,
                                        1ULL << 32, 1ULL << 62, 1ULL << 63, UINT64_MAX };
    uint64_t v = numbers[om_rng_u64(rng) % (sizeof numbers / sizeof numbers[0])];
    size_t at = om_rng_u64(rng) % size, width = (size_t) 1 << (om_rng_u64(rng) % 4);
    for (size_t i = 0; i < width && at + i < size; i++) {
        data[at + i] = (uint8_t) (v >> (8 * i));
    }
}

static void damage(uint8_t *data, size_t size, om_rng *rng) {
    int n = 1 + (int) (om_rng_u64(rng) % 3);
    for (int i = 0; i < n; i++) {
        uint64_t kind = om_rng_u64(rng) % 3;
        size_t at = om_rng_u64(rng) % size, from = om_rng_u64(rng) % size;
        if (kind == 0) {
            data[at] ^= (uint8_t) (1u << (om_rng_u64(rng) % 8));
        } else if (kind == 1) {
            plant_number(data, size, rng);
        } else {
            size_t longest = size - (at > from ? at : from);
            memmove(data + at, data + from, om_rng_u64(rng) % (longest + 1) % 64);
        }
    }
}

static void replay(const char *path, const uint8_t *data, size_t size) {
    run(data, size);
    size_t step = size / N_CUTS + 1;
    for (size_t cut = 0; cut < size; cut += step) {
        run(data, cut);
    }
    uint8_t *copy = malloc(size + 1);
    const char *slash = strrchr(path, '/');
    uint64_t seed = om_hash_name(slash != NULL ? slash + 1 : path);
    for (uint64_t i = 0; copy != NULL && size > 0 && i < N_DAMAGED; i++) {
        om_rng rng = om_rng_at(seed, i);
        memcpy(copy, data, size);
        damage(copy, size, &rng);
        run(copy, size);
    }
    free(copy);
}

static int replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(MAX_BYTES);
    if (f == NULL || data == NULL) {
        fprintf(stderr, "replay: cannot read %s\n", path);
        exit(1);
    }
    size_t size = fread(data, 1, MAX_BYTES, f);
    fclose(f);
    replay(path, data, size);
    free(data);
    return 1;
}

static int replay_path(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return replay_file(path);
    }
    DIR *dir = opendir(path);
    int n = 0;
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char full[4096];
        int length = snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && length > 0 && (size_t) length < sizeof full) {
            n += replay_file(full);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

int main(int argc, char **argv) {
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        n_files += replay_path(argv[i]);
    }
    printf("%d files, %ld cases\n", n_files, n_cases);
    return n_files > 0 ? 0 : 1;
}
