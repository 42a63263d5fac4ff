/* What safetensors_vs_python.py asks of our reader and writer:
 *
 *   dump DIR              one line per tensor of a directory: NAME DTYPE SHAPE BYTES HASH F32HASH;
 * first the number of files and the metadata "format" check FILE...         one line per file:
 * "ok", or the status and the message write SPEC DATA OUT PAD   SPEC has lines "DTYPE DIMENSION...
 * NAME", DATA all their bytes in order
 *
 * NAME is in hex digits, so that any name fits a line. HASH is the SHA-256 of the bytes, F32HASH of
 * the same as F32 with every NaN written as 0x7FC00000 ("-" for dtypes without numbers). */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/safetensors.h"

enum { MAX_TENSORS = 64, MAX_SPEC = 1 << 16 };

static void must(om_status status, const om_error *err) {
    if (status != OM_OK) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

static void require(bool condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

static void f32_hash(char hex[65], const om_st_tensor *t) {
    const int width = om_st_dtype_bytes(t->dtype);
    const int64_t n = width == 0 ? 0 : t->bytes / width;
    uint32_t *values = om_calloc((size_t) n, sizeof *values);
    float *f = om_calloc((size_t) n, sizeof *f);
    require(values != NULL && f != NULL, "out of memory");
    if (width > 0 && om_st_to_f32(f, t->dtype, t->data, n)) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(&values[i], &f[i], sizeof values[i]);
            if (isnan(f[i])) {
                values[i] = 0x7FC00000u;
            }
        }
        om_sha256_bytes(hex, values, (size_t) n * sizeof *values);
    } else {
        memcpy(hex, "-", 2);
    }
    om_free(f);
    om_free(values);
}

static int dump(const char *dir) {
    om_error err = { 0 };
    om_safetensors *st = NULL;
    must(om_safetensors_open(&st, dir, &err), &err);
    const char *format = om_safetensors_metadata(st, "format");
    printf("%d %s\n", om_safetensors_n_shards(st), format == NULL ? "-" : format);
    for (int i = 0; i < om_safetensors_n(st); i++) {
        const om_st_tensor *t = om_safetensors_at(st, i);
        const char *dtype = om_st_dtype_name(t->dtype);
        char hash[65], f32[65];
        require(om_safetensors_find(st, t->name) == t, "a tensor is not found by its name");
        for (const unsigned char *c = (const unsigned char *) t->name; *c != '\0'; c++) {
            printf("%02x", *c);
        }
        printf(" %s ", dtype == NULL ? "-" : dtype);
        for (int d = 0; d < t->n_dims; d++) {
            printf("%s%" PRId64, d == 0 ? "" : ",", t->shape[d]);
        }
        om_sha256_bytes(hash, t->data, (size_t) t->bytes);
        f32_hash(f32, t);
        printf(" %" PRId64 " %s %s\n", t->bytes, hash, f32);
        om_safetensors_forget(st, t, 0, t->bytes);
    }
    om_safetensors_free(st);
    return 0;
}

static int check(const char *path) {
    om_error err = { 0 };
    om_map map = { 0 };
    om_safetensors *st = NULL;
    must(om_map_open(&map, path, &err), &err);
    const om_status status = om_safetensors_parse(&st, map.data, map.size, path, &err);
    if (status == OM_OK) {
        printf("ok\n");
    } else {
        printf("%s: %s\n", om_status_name(status), err.text);
    }
    om_safetensors_free(st);
    om_map_close(&map);
    return 0;
}

static om_st_dtype dtype_named(const char *name) {
    for (int d = 0; d < OM_ST_OTHER; d++) {
        if (strcmp(om_st_dtype_name((om_st_dtype) d), name) == 0) {
            return (om_st_dtype) d;
        }
    }
    return OM_ST_OTHER;
}

/* "DTYPE DIMENSION... NAME" in hex digits, which are put back in place. */
static void parse_line(om_st_tensor *t, char *line) {
    char *save = NULL, *last = NULL;
    const char *word = strtok_r(line, " ", &save);
    require(word != NULL, "no dtype");
    t->dtype = dtype_named(word);
    for (char *w = strtok_r(NULL, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        if (last != NULL) {
            require(t->n_dims < OM_ST_MAX_DIMS, "too many dimensions");
            t->shape[t->n_dims++] = strtoll(last, NULL, 10);
        }
        last = w;
    }
    require(last != NULL, "no name");
    size_t n = strlen(last) / 2;
    for (size_t i = 0; i < n; i++) {
        const char digits[3] = { last[2 * i], last[2 * i + 1], '\0' };
        last[i] = (char) strtol(digits, NULL, 16);
    }
    last[n] = '\0';
    t->name = last;
}

static int write_file(char **argv) {
    static om_st_tensor tensors[MAX_TENSORS];
    const char *const metadata[][2] = { { "format", "mlx" }, { "key \"\n\xC3\xA9", "\\ \x7F" } };
    om_error err = { 0 };
    char *spec = NULL, *save = NULL;
    unsigned char *header = NULL;
    om_map data = { 0 };
    om_atomic out = { 0 };
    size_t size = 0;
    int n = 0;
    must(om_file_read(&spec, &size, argv[2], MAX_SPEC, &err), &err);
    must(om_map_open(&data, argv[3], &err), &err);
    char *lines[MAX_TENSORS] = { NULL };
    for (char *l = strtok_r(spec, "\n", &save); l != NULL; l = strtok_r(NULL, "\n", &save)) {
        require(n < MAX_TENSORS, "too many tensors");
        lines[n++] = l;
    }
    for (int i = 0; i < n; i++) {
        parse_line(&tensors[i], lines[i]);
    }
    must(om_st_header(&header, &size, tensors, n, metadata, 2, (size_t) strtoull(argv[5], NULL, 10),
                      &err),
         &err);
    must(om_atomic_open(&out, argv[4], &err), &err);
    must(om_atomic_write(&out, header, size, &err), &err);
    must(om_atomic_write(&out, data.data, data.size, &err), &err);
    must(om_atomic_commit(&out, &err), &err);
    om_map_close(&data);
    om_free(header);
    om_free(spec);
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcmp(verb, "dump") == 0 && argc == 3) {
        return dump(argv[2]);
    }
    if (strcmp(verb, "check") == 0) {
        for (int i = 2; i < argc; i++) {
            (void) check(argv[i]);
        }
        return 0;
    }
    if (strcmp(verb, "write") == 0 && argc == 6) {
        return write_file(argv);
    }
    fprintf(stderr, "usage: dump DIR | check FILE... | write SPEC DATA OUT PAD\n");
    return 2;
}
