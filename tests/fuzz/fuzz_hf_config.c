/* Any bytes as config.json beside the same few weights: a llama with codes of MLX and FP8 in it,
 * a mixture, and one whose experts lie in banks. What opens is read, all of it. And the same bytes
 * as what a GGUF of each family says of its model. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "hf/directory_parse.h"
#include "hf/family_table.h"
#include "hf/metadata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { C = 32, MAX = 64, MAX_BYTES = 1 << 16 };

/* ---- the weights: made once ---- */

typedef struct weights {
    om_st_tensor t[MAX];
    char names[MAX][96];
    int n;
    unsigned char *file;
    size_t size;
} weights;

static weights llama, mixture, banked;

static void add(weights *w, const char *name, om_st_dtype dtype, int64_t rows, int64_t columns) {
    om_st_tensor *t = &w->t[w->n];
    (void) snprintf(w->names[w->n], sizeof w->names[0], "%s", name);
    *t = (om_st_tensor){ .name = w->names[w->n], .dtype = dtype, .n_dims = columns > 0 ? 2 : 1 };
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->bytes = rows * (columns > 0 ? columns : 1) * om_st_dtype_bytes(dtype);
    w->n++;
}

static void add_both(const char *name, int64_t rows, int64_t columns) {
    add(&llama, name, OM_ST_BF16, rows, columns);
    add(&mixture, name, OM_ST_BF16, rows, columns);
    add(&banked, name, OM_ST_BF16, rows, columns);
}

/* The only expert of a bank: [1, rows, columns]. */
static void add_bank(int bank, const char *module, const char *part, om_st_dtype dtype,
                     int64_t columns) {
    char name[96];
    (void) snprintf(name, sizeof name, "model.layers.0.mlp.switch_mlp.banks.%d.%s.%s", bank, module,
                    part);
    add(&banked, name, dtype, C, columns);
    om_st_tensor *t = &banked.t[banked.n - 1];
    t->n_dims = 3;
    t->shape[2] = t->shape[1];
    t->shape[1] = t->shape[0];
    t->shape[0] = 1;
}

static void add_banks(void) {
    static const char *const modules[] = { "gate_proj", "up_proj", "down_proj" };
    add(&banked, "model.layers.0.self_attn.o_proj.weight", OM_ST_BF16, C, C);
    add(&banked, "model.layers.0.self_attn.q_norm.weight", OM_ST_BF16, 8, 0);
    add(&banked, "model.layers.0.self_attn.k_norm.weight", OM_ST_BF16, 8, 0);
    add(&banked, "model.layers.0.mlp.gate.weight", OM_ST_BF16, 2, C);
    for (int k = 0; k < 3; k++) {
        add_bank(0, modules[k], "weight", OM_ST_U32, 3); /* 3 bits */
        add_bank(0, modules[k], "scales", OM_ST_BF16, 1);
        add_bank(0, modules[k], "biases", OM_ST_BF16, 1);
        add_bank(1, modules[k], "weight", OM_ST_BF16, C);
    }
}

static void finish(weights *w) {
    om_error err = { 0 };
    unsigned char *header = NULL;
    size_t size = 0;
    if (om_st_header(&header, &size, w->t, w->n, NULL, 0, 0, &err) != OM_OK) {
        abort();
    }
    w->size = size;
    for (int i = 0; i < w->n; i++) {
        w->size += (size_t) w->t[i].bytes;
    }
    w->file = calloc(w->size, 1);
    if (w->file == NULL) {
        abort();
    }
    memcpy(w->file, header, size);
    for (size_t i = size; i < w->size; i++) {
        w->file[i] = (unsigned char) (i * 37 % 119); /* no NaN in any dtype */
    }
    om_free(header);
}

static void make_weights(void) {
    const char *layer = "model.layers.0.";
    char name[96];
    static const char *const vectors[] = { "input_layernorm", "post_attention_layernorm" };
    static const char *const heads[] = { "q_proj", "k_proj", "v_proj" };
    static const char *const experts[] = { "gate_proj", "up_proj", "down_proj" };
    add_both("model.embed_tokens.weight", 40, C);
    add_both("model.norm.weight", C, 0);
    add_both("lm_head.weight", 40, C);
    for (int i = 0; i < 2; i++) {
        (void) snprintf(name, sizeof name, "%s%s.weight", layer, vectors[i]);
        add_both(name, C, 0);
    }
    for (int i = 0; i < 3; i++) {
        (void) snprintf(name, sizeof name, "%sself_attn.%s.weight", layer, heads[i]);
        add_both(name, C, C);
    }
    add(&llama, "model.layers.0.self_attn.o_proj.weight", OM_ST_BF16, C, C);
    add(&mixture, "model.layers.0.self_attn.o_proj.weight", OM_ST_F8_E4M3, C, C);
    add(&mixture, "model.layers.0.self_attn.o_proj.weight_scale_inv", OM_ST_F32, 2, 2);
    add(&llama, "model.layers.0.mlp.gate_proj.weight", OM_ST_U32, C, 4);
    add(&llama, "model.layers.0.mlp.gate_proj.scales", OM_ST_BF16, C, 1);
    add(&llama, "model.layers.0.mlp.gate_proj.biases", OM_ST_BF16, C, 1);
    add(&llama, "model.layers.0.mlp.up_proj.weight", OM_ST_F8_E4M3, C, C);
    add(&llama, "model.layers.0.mlp.up_proj.weight_scale", OM_ST_F32, 1, 0);
    add(&llama, "model.layers.0.mlp.down_proj.weight", OM_ST_F8_E4M3, C, C);
    add(&llama, "model.layers.0.mlp.down_proj.weight_scale", OM_ST_F32, C, 1);
    add(&mixture, "model.layers.0.self_attn.q_norm.weight", OM_ST_BF16, 8, 0);
    add(&mixture, "model.layers.0.self_attn.k_norm.weight", OM_ST_BF16, 8, 0);
    add(&mixture, "model.layers.0.mlp.gate.weight", OM_ST_BF16, 2, C);
    for (int i = 0; i < 6; i++) {
        (void) snprintf(name, sizeof name, "%smlp.experts.%d.%s.weight", layer, i / 3,
                        experts[i % 3]);
        add(&mixture, name, OM_ST_BF16, C, C);
    }
    finish(&llama);
    add_banks();
    finish(&mixture);
    finish(&banked);
}

/* ---- use ---- */

static void read_all(const om_hf *hf) {
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        const int64_t rows = t->ne[1] * t->ne[2];
        om_error err = { 0 };
        if (om_hf_find(hf, t->name) != t || t->path[0] == '\0' || t->ne[0] * rows > MAX_BYTES) {
            abort();
        }
        float *out = malloc((size_t) (t->ne[0] * rows) * sizeof *out);
        for (int view = 0; out != NULL && view < 2; view++) {
            if (om_hf_rows_f32(out, hf, t, (om_hf_view) view, 0, rows, &err) != OM_OK) {
                abort();
            }
        }
        om_hf_forget(hf, t, 0, rows);
        free(out);
    }
}

static void open_with(const weights *w, const uint8_t *data, size_t size) {
    om_hf *hf = NULL;
    om_json *config = NULL;
    om_safetensors *st = NULL;
    om_error err = { 0 };
    if (om_json_parse(&config, (const char *) data, size, "config.json", NULL, &err) != OM_OK) {
        return;
    }
    if (om_safetensors_parse(&st, w->file, w->size, "fuzz", &err) != OM_OK) {
        abort();
    }
    const om_status status = om_hf_assemble(&hf, config, st, "fuzz", &err);
    if ((status == OM_OK) != (hf != NULL) || (status != OM_OK && err.text[0] == '\0')) {
        abort();
    }
    if (hf != NULL) {
        read_all(hf);
    }
    om_hf_free(hf);
}

static void describe(const uint8_t *data, size_t size) {
    om_json *config = NULL;
    om_error err = { 0 };
    if (om_json_parse(&config, (const char *) data, size, "config.json", NULL, &err) != OM_OK) {
        return;
    }
    const om_family *family;
    for (int i = 0; (family = om_family_at(i)) != NULL; i++) {
        om_hf_metadata m;
        om_pairs pairs = { .arch = om_family_arch(family) };
        err = (om_error){ 0 };
        const om_status status = om_hf_metadata_make(&m, &pairs, om_family_model_type(family),
                                                     config, "config.json", &err);
        if (status != OM_OK && (err.text[0] == '\0' || m.n_extras != 0)) {
            abort();
        }
        om_hf_metadata_release(&m);
        om_pairs_release(&pairs);
    }
    om_json_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    describe(data, size);
    if (llama.n == 0) {
        make_weights();
    }
    open_with(&llama, data, size);
    open_with(&banked, data, size);
    open_with(&mixture, data, size);
    return 0;
}
