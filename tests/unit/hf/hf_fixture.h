/* Small Hugging Face and MLX directories: tensors with numbers that depend on their names, a
 * config.json, written with our header writer. What a value should be is computed here by hand. */
#ifndef OM_TESTS_HF_FIXTURE_H
#define OM_TESTS_HF_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "hf/directory.h"
#include "tmpdir.h"

enum { FIX_MAX = 512, FIX_NAME = 128 };

typedef struct fixture {
    om_st_tensor t[FIX_MAX];
    char names[FIX_MAX][FIX_NAME];
    unsigned char *data[FIX_MAX];
    int n;
    char *dir;
} fixture;

/* ---- tensors ---- */

/** -1 .. 1 in steps that every dtype here holds exactly, the same for the same name and index. */
static inline float fix_number(const char *name, int64_t i) {
    om_rng rng = om_rng_at(om_hash_name(name), (uint64_t) i);
    return (float) ((int) (om_rng_u64(&rng) % 15) - 7) / 8.0F;
}

static inline unsigned char fix_byte(const char *name, int64_t i) {
    om_rng rng = om_rng_at(om_hash_name(name), (uint64_t) i);
    return (unsigned char) (om_rng_u64(&rng) >> 20);
}

/** Of E4M3 by its definition: 4 bits of exponent (bias 7), 3 of mantissa. */
static inline float fix_e4m3(unsigned char b) {
    const int e = b >> 3 & 15, m = b & 7;
    const float v = e == 0 ? ldexpf((float) m, -9) : ldexpf((float) (8 + m), e - 10);
    return b & 128 ? -v : v;
}

static inline void fix_put(unsigned char *at, om_st_dtype dtype, const char *name, int64_t i) {
    const float v = fix_number(name, i);
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (dtype == OM_ST_F32) {
        memcpy(at, &bits, 4);
    } else if (dtype == OM_ST_BF16) {
        at[0] = (unsigned char) (bits >> 16);
        at[1] = (unsigned char) (bits >> 24);
    } else if (dtype == OM_ST_F8_E4M3) {
        at[0] = (fix_byte(name, i) & 127) == 127 ? 0 : fix_byte(name, i); /* no NaN */
    } else {
        for (int b = 0; b < om_st_dtype_bytes(dtype); b++) {
            at[b] = fix_byte(name, 4 * i + b);
        }
    }
}

/** A tensor of n_dims lengths, slowest first. */
static inline void fix_add(fixture *f, const char *name, om_st_dtype dtype, int n_dims,
                           const int64_t *shape) {
    om_st_tensor *t = &f->t[f->n];
    int64_t count = 1;
    (void) snprintf(f->names[f->n], FIX_NAME, "%s", name);
    *t = (om_st_tensor){ .name = f->names[f->n], .dtype = dtype, .n_dims = n_dims };
    for (int i = 0; i < n_dims; i++) {
        t->shape[i] = shape[i];
        count *= shape[i];
    }
    const int width = om_st_dtype_bytes(dtype);
    t->bytes = count * width;
    t->data = f->data[f->n] = calloc((size_t) t->bytes + 1, 1);
    for (int64_t i = 0; i < count; i++) {
        fix_put(f->data[f->n] + i * width, dtype, f->names[f->n], i);
    }
    f->n++;
}

static inline void fix_add1(fixture *f, const char *name, om_st_dtype dtype, int64_t a) {
    fix_add(f, name, dtype, 1, &a);
}

static inline void fix_add2(fixture *f, const char *name, om_st_dtype dtype, int64_t a, int64_t b) {
    fix_add(f, name, dtype, 2, (const int64_t[]){ a, b });
}

static inline void fix_add3(fixture *f, const char *name, om_st_dtype dtype, int64_t a, int64_t b,
                            int64_t c) {
    fix_add(f, name, dtype, 3, (const int64_t[]){ a, b, c });
}

static inline int fix_index(const fixture *f, const char *name) {
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->names[i], name) == 0) {
            return i;
        }
    }
    fprintf(stderr, "fixture: no tensor %s\n", name);
    abort();
}

static inline void fix_remove(fixture *f, const char *name) {
    const int i = fix_index(f, name);
    free(f->data[i]);
    f->n--;
    for (int j = i; j < f->n; j++) {
        f->t[j] = f->t[j + 1];
        f->data[j] = f->data[j + 1];
        memcpy(f->names[j], f->names[j + 1], FIX_NAME);
        f->t[j].name = f->names[j];
    }
}

/** "PREFIXlayers.N.REST" */
static inline const char *fix_layer(char out[FIX_NAME], int layer, const char *rest) {
    (void) snprintf(out, FIX_NAME, "model.layers.%d.%s", layer, rest);
    return out;
}

/* ---- files ---- */

static inline void fix_write(fixture *f, const char *config) {
    om_error err = { 0 };
    unsigned char *header = NULL;
    size_t size = 0;
    if (om_st_header(&header, &size, f->t, f->n, NULL, 0, 0, &err) != OM_OK) {
        fprintf(stderr, "fixture: %s\n", err.text);
        abort();
    }
    size_t total = size;
    for (int i = 0; i < f->n; i++) {
        total += (size_t) f->t[i].bytes;
    }
    unsigned char *file = calloc(total + 1, 1);
    memcpy(file, header, size);
    for (int i = 0; i < f->n; i++) {
        memcpy(file + size, f->data[i], (size_t) f->t[i].bytes);
        size += (size_t) f->t[i].bytes;
    }
    if (f->dir == NULL) {
        f->dir = om_tmpdir_new();
    }
    (void) om_tmpdir_write(f->dir, "model.safetensors", file, total);
    (void) om_tmpdir_write(f->dir, "config.json", config, strlen(config));
    free(file);
    om_free(header);
}

static inline void fix_release(fixture *f) {
    for (int i = 0; i < f->n; i++) {
        free(f->data[i]);
    }
    om_tmpdir_remove(f->dir);
    *f = (fixture){ 0 };
}

/* ---- families ---- */

enum {
    FIX_C = 32,
    FIX_H = 4,
    FIX_KV = 2,
    FIX_D = 8,
    FIX_F = 48,
    FIX_V = 40,
    FIX_E = 4,
    FIX_FE = 24
};

/** The numbers of every family here; `more` is put at the end, with a leading comma. */
#define FIX_CONFIG(type, more)                                                         \
    "{\"model_type\": \"" type "\", \"hidden_size\": 32, \"num_attention_heads\": 4, " \
    "\"num_key_value_heads\": 2, \"head_dim\": 8, \"intermediate_size\": 48, "         \
    "\"vocab_size\": 40, \"num_hidden_layers\": 2" more "}"
#define FIX_MOE ", \"num_experts\": 4, \"moe_intermediate_size\": 24"

static inline void fix_add_attention(fixture *f, int layer) {
    char n[FIX_NAME];
    fix_add1(f, fix_layer(n, layer, "input_layernorm.weight"), OM_ST_BF16, FIX_C);
    fix_add2(f, fix_layer(n, layer, "self_attn.q_proj.weight"), OM_ST_BF16, FIX_H * FIX_D, FIX_C);
    fix_add2(f, fix_layer(n, layer, "self_attn.k_proj.weight"), OM_ST_BF16, FIX_KV * FIX_D, FIX_C);
    fix_add2(f, fix_layer(n, layer, "self_attn.v_proj.weight"), OM_ST_BF16, FIX_KV * FIX_D, FIX_C);
    fix_add2(f, fix_layer(n, layer, "self_attn.o_proj.weight"), OM_ST_BF16, FIX_C, FIX_H * FIX_D);
    fix_add1(f, fix_layer(n, layer, "post_attention_layernorm.weight"), OM_ST_BF16, FIX_C);
}

static inline void fix_add_mlp(fixture *f, int layer) {
    char n[FIX_NAME];
    fix_add2(f, fix_layer(n, layer, "mlp.gate_proj.weight"), OM_ST_BF16, FIX_F, FIX_C);
    fix_add2(f, fix_layer(n, layer, "mlp.up_proj.weight"), OM_ST_BF16, FIX_F, FIX_C);
    fix_add2(f, fix_layer(n, layer, "mlp.down_proj.weight"), OM_ST_BF16, FIX_C, FIX_F);
}

static inline void fix_add_outside(fixture *f, bool head) {
    fix_add2(f, "model.embed_tokens.weight", OM_ST_BF16, FIX_V, FIX_C);
    fix_add1(f, "model.norm.weight", OM_ST_BF16, FIX_C);
    if (head) {
        fix_add2(f, "lm_head.weight", OM_ST_BF16, FIX_V, FIX_C);
    }
}

/** Two layers of llama (also mistral). */
static inline void fix_llama(fixture *f, bool head) {
    fix_add_outside(f, head);
    for (int layer = 0; layer < 2; layer++) {
        fix_add_attention(f, layer);
        fix_add_mlp(f, layer);
    }
}

/** Two layers of qwen3_moe without its experts' matrices. */
static inline void fix_qwen3_moe(fixture *f) {
    char n[FIX_NAME];
    fix_add_outside(f, true);
    for (int layer = 0; layer < 2; layer++) {
        fix_add_attention(f, layer);
        fix_add1(f, fix_layer(n, layer, "self_attn.q_norm.weight"), OM_ST_BF16, FIX_D);
        fix_add1(f, fix_layer(n, layer, "self_attn.k_norm.weight"), OM_ST_BF16, FIX_D);
        fix_add2(f, fix_layer(n, layer, "mlp.gate.weight"), OM_ST_BF16, FIX_E, FIX_C);
    }
}

static inline void fix_add_experts(fixture *f, int layer) {
    for (int e = 0; e < FIX_E; e++) {
        char n[FIX_NAME], rest[64];
        (void) snprintf(rest, sizeof rest, "mlp.experts.%d.gate_proj.weight", e);
        fix_add2(f, fix_layer(n, layer, rest), OM_ST_BF16, FIX_FE, FIX_C);
        (void) snprintf(rest, sizeof rest, "mlp.experts.%d.up_proj.weight", e);
        fix_add2(f, fix_layer(n, layer, rest), OM_ST_BF16, FIX_FE, FIX_C);
        (void) snprintf(rest, sizeof rest, "mlp.experts.%d.down_proj.weight", e);
        fix_add2(f, fix_layer(n, layer, rest), OM_ST_BF16, FIX_C, FIX_FE);
    }
}

/* ---- reading ---- */

/** All rows of a tensor in pieces of three; owned (free). */
static inline float *fix_read(const om_hf *hf, const char *name, om_hf_view view) {
    const om_hf_tensor *t = om_hf_find(hf, name);
    om_error err = { 0 };
    if (t == NULL) {
        fprintf(stderr, "no tensor %s\n", name);
        abort();
    }
    const int64_t rows = t->ne[1] * t->ne[2];
    float *out = calloc((size_t) (rows * t->ne[0]), sizeof *out);
    for (int64_t at = 0; at < rows; at += 3) {
        const int64_t n = rows - at < 3 ? rows - at : 3;
        if (om_hf_rows_f32(out + at * t->ne[0], hf, t, view, at, n, &err) != OM_OK) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        om_hf_forget(hf, t, at, n);
    }
    return out;
}

#endif
