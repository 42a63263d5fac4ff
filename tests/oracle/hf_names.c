/* A Hugging Face or MLX directory as the library sees it, for tests/oracle/hf_names.sh.
 *
 *   hf_names list DIR                 a line per tensor: name, path, shape (slowest first), format,
 *                                     1 when it may be quantized
 *   hf_names dump DIR mlx|gguf FILE   all values in F32, in the order of the list
 *   hf_names compare DIR FILE.gguf    all tensors equal bit for bit in the GGUF's arrangement
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>

#include "hf/directory.h"
#include "model/gguf.h"

static om_error err;

static void check(om_status status) {
    if (status != OM_OK) {
        fprintf(stderr, "hf_names: %s\n", err.text);
        exit(1);
    }
}

static void list(const om_hf *hf) {
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        printf("%s\t%s\t", t->name, t->path);
        for (int d = t->n_dims - 1; d >= 0; d--) {
            printf("%" PRId64 "%s", t->ne[d], d > 0 ? "," : "\t");
        }
        printf("%s\t%d\n", t->format->name, t->may_quantize);
    }
}

/* All values of a tensor, read in uneven pieces, because callers do not read it at once either. */
static float *values(const om_hf *hf, const om_hf_tensor *t, om_hf_view view) {
    const int64_t rows = t->ne[1] * t->ne[2];
    float *out = malloc((size_t) (rows * t->ne[0]) * sizeof *out);
    int64_t piece = 1;
    for (int64_t at = 0; at < rows; at += piece) {
        piece = 7 * piece % 1021 + 1;
        piece = piece < rows - at ? piece : rows - at;
        check(om_hf_rows_f32(out + at * t->ne[0], hf, t, view, at, piece, &err));
        om_hf_forget(hf, t, at, piece);
    }
    return out;
}

static void dump(const om_hf *hf, om_hf_view view, const char *path) {
    FILE *f = fopen(path, "wb");
    if (f == NULL) {
        perror(path);
        exit(1);
    }
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        float *v = values(hf, t, view);
        fwrite(v, sizeof *v, (size_t) (t->ne[0] * t->ne[1] * t->ne[2]), f);
        free(v);
    }
    fclose(f);
}

/* Number of values that differ; -1: another shape. */
static int64_t differences(const om_hf *hf, const om_hf_tensor *t, const om_tensor *g) {
    for (int d = 0; d < 4; d++) {
        if (t->ne[d] != g->ne[d]) {
            return -1;
        }
    }
    const int64_t n = t->ne[0] * t->ne[1] * t->ne[2];
    float *got = values(hf, t, OM_HF_GGUF), *want = malloc((size_t) n * sizeof *want);
    if (g->format->ggml_type == GGML_TYPE_F32) {
        memcpy(want, g->data, (size_t) n * sizeof *want);
    } else {
        ggml_get_type_traits((enum ggml_type) g->format->ggml_type)->to_float(g->data, want, n);
    }
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        bad += memcmp(&got[i], &want[i], sizeof got[i]) != 0;
    }
    free(got);
    free(want);
    return bad;
}

static int compare(const om_hf *hf, const char *path) {
    om_model *model = NULL;
    int bad = 0, absent = 0;
    check(om_model_open(&model, path, &err));
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        const om_tensor *g = om_model_find(model, t->name);
        const int64_t wrong = g == NULL ? -2 : differences(hf, t, g);
        if (wrong != 0 || g->may_quantize != t->may_quantize) {
            bad++;
            printf("%s: %s (%" PRId64 ")\n", t->name,
                   wrong == -2   ? "not in the GGUF"
                   : wrong == -1 ? "another shape"
                   : wrong > 0   ? "values differ"
                                 : "may_quantize differs",
                   wrong);
        }
    }
    for (int i = 0; i < om_model_n_tensors(model); i++) {
        const char *name = om_model_tensor(model, i)->name;
        if (om_hf_find(hf, name) == NULL && strncmp(name, "rope_f", 6) != 0) {
            absent++;
            printf("%s: only in the GGUF\n", name);
        }
    }
    printf("%d tensors, %d differ, %d only in the GGUF; %" PRId64 " weights\n", om_hf_n_tensors(hf),
           bad, absent, om_hf_params(hf));
    if (om_hf_params(hf) > om_model_params(model)) {
        bad++;
    }
    om_model_free(model);
    return bad + absent > 0;
}

int main(int argc, char **argv) {
    om_hf *hf = NULL;
    int failed = 0;
    if (argc < 3) {
        fprintf(stderr, "hf_names list|dump|compare DIR ...\n");
        return 2;
    }
    check(om_hf_open(&hf, argv[2], &err));
    if (strcmp(argv[1], "list") == 0) {
        list(hf);
    } else if (strcmp(argv[1], "dump") == 0 && argc == 5) {
        dump(hf, strcmp(argv[3], "mlx") == 0 ? OM_HF_MLX : OM_HF_GGUF, argv[4]);
    } else if (strcmp(argv[1], "compare") == 0 && argc == 4) {
        failed = compare(hf, argv[3]);
    } else {
        failed = 2;
    }
    om_hf_free(hf);
    return failed;
}
