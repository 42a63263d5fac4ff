#include "tiny_hf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ggml.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/safetensors.h"
#include "tmpdir.h"

enum { MAX_TENSORS = 4096 };

typedef struct tiny {
    om_tiny_hf_options o;
    om_st_dtype dtype;
    om_st_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][160];
    int n;
} tiny;

static void die(const char *what, const char *with) {
    fprintf(stderr, "tiny_hf: %s: %s\n", what, with);
    exit(2);
}

/* [rows, cols], or a vector when rows is 0. */
static void add(tiny *t, const char *name, int64_t rows, int64_t cols) {
    if (t->n == MAX_TENSORS) {
        die("too many tensors", name);
    }
    om_st_tensor *st = &t->tensors[t->n];
    snprintf(t->names[t->n], sizeof t->names[t->n], "%s", name);
    *st = (om_st_tensor){ .name = t->names[t->n], .dtype = t->dtype, .n_dims = rows > 0 ? 2 : 1 };
    st->shape[0] = rows > 0 ? rows : cols;
    st->shape[1] = rows > 0 ? cols : 0;
    t->n++;
}

static void add_layer(tiny *t, int layer) {
    const om_tiny_hf_options *o = &t->o;
    char name[128], expert[160];
    const int64_t c = o->n_embd, q = (int64_t) o->n_head * o->head_dim,
                  kv = (int64_t) o->n_head_kv * o->head_dim;
#define ADD(suffix, rows, cols)                                                  \
    do {                                                                         \
        snprintf(name, sizeof name, "model.layers.%d." suffix ".weight", layer); \
        add(t, name, rows, cols);                                                \
    } while (0)
    ADD("input_layernorm", 0, c);
    ADD("self_attn.q_proj", q, c);
    ADD("self_attn.k_proj", kv, c);
    ADD("self_attn.v_proj", kv, c);
    ADD("self_attn.o_proj", c, q);
    ADD("post_attention_layernorm", 0, c);
    if (strncmp(o->model_type, "qwen3", 5) == 0) {
        ADD("self_attn.q_norm", 0, o->head_dim);
        ADD("self_attn.k_norm", 0, o->head_dim);
    }
    if (o->n_expert == 0) {
        ADD("mlp.gate_proj", o->n_ff, c);
        ADD("mlp.up_proj", o->n_ff, c);
        ADD("mlp.down_proj", c, o->n_ff);
        return;
    }
    ADD("mlp.gate", o->n_expert, c);
#undef ADD
    for (int e = 0; e < o->n_expert; e++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.", layer, e);
        snprintf(expert, sizeof expert, "%sgate_proj.weight", name);
        add(t, expert, o->n_ff, c);
        snprintf(expert, sizeof expert, "%sup_proj.weight", name);
        add(t, expert, o->n_ff, c);
        snprintf(expert, sizeof expert, "%sdown_proj.weight", name);
        add(t, expert, c, o->n_ff);
    }
}

/* Rather normal, seeded by the name; norms around 1. */
static void fill(float *x, int64_t n, const om_st_tensor *st, const om_tiny_hf_options *o) {
    om_rng rng = om_rng_at(11, om_hash_name(st->name));
    for (int64_t i = 0; i < n; i++) {
        const double u = om_rng_f64(&rng) + om_rng_f64(&rng) + om_rng_f64(&rng) - 1.5;
        x[i] = st->n_dims == 1 ? (float) (1 + 0.1 * u) : (float) (0.1 * u) * o->scale;
    }
    if (o->nan_at != NULL && strcmp(o->nan_at, st->name) == 0) {
        x[5 * st->shape[1] + 2] = NAN;
    }
}

static void write_tensor(FILE *file, const tiny *t, const om_st_tensor *st) {
    const int64_t n = st->shape[0] * (st->n_dims == 2 ? st->shape[1] : 1);
    float *x = om_calloc((size_t) n, sizeof *x);
    uint16_t *half = om_calloc((size_t) n, sizeof *half);
    if (x == NULL || half == NULL) {
        die("out of memory", st->name);
    }
    fill(x, n, st, &t->o);
    size_t written;
    if (t->dtype == OM_ST_F32) {
        written = fwrite(x, sizeof *x, (size_t) n, file);
    } else {
        if (t->dtype == OM_ST_F16) {
            ggml_fp32_to_fp16_row(x, half, n);
        } else {
            ggml_fp32_to_bf16_row_ref(x, (ggml_bf16_t *) (void *) half, n);
        }
        written = fwrite(half, sizeof *half, (size_t) n, file);
    }
    if (written != (size_t) n) {
        die("cannot write", st->name);
    }
    om_free(x);
    om_free(half);
}

static void write_weights(const char *dir, const tiny *t) {
    om_error err = { 0 };
    unsigned char *header = NULL;
    size_t size = 0;
    const char *const metadata[][2] = { { "format", "pt" } };
    const char *path = om_tmpdir_path(dir, "model.safetensors");
    if (om_st_header(&header, &size, t->tensors, t->n, metadata, 1, 0, &err) != OM_OK) {
        die("header", err.text);
    }
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(header, 1, size, file) != size) {
        die("cannot write", path);
    }
    om_free(header);
    int64_t bytes = (int64_t) size;
    for (int i = 0; i < t->n; i++) {
        const om_st_tensor *st = &t->tensors[i];
        bytes += st->shape[0] * (st->n_dims == 2 ? st->shape[1] : 1) * om_st_dtype_bytes(t->dtype);
        if (!t->o.sparse) {
            write_tensor(file, t, st);
        }
    }
    if (fclose(file) != 0 || (t->o.sparse && truncate(path, (off_t) bytes) != 0)) {
        die("cannot write", path);
    }
}

static void write_config(const char *dir, const om_tiny_hf_options *o) {
    char text[2048];
    int n =
        snprintf(text, sizeof text,
                 "{\"architectures\": [\"Tiny\"], \"model_type\": \"%s\", \"torch_dtype\": \"%s\","
                 " \"num_hidden_layers\": %d, \"hidden_size\": %d, \"intermediate_size\": %d,"
                 " \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d,"
                 " \"vocab_size\": %d, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
                 " \"max_position_embeddings\": 512, \"tie_word_embeddings\": %s,"
                 " \"attention_bias\": false, \"hidden_act\": \"silu\"",
                 o->model_type, o->dtype, o->n_layer, o->n_embd, o->n_ff, o->n_head, o->n_head_kv,
                 o->head_dim, o->n_vocab, o->untied ? "false" : "true");
    if (o->n_expert > 0) {
        n += snprintf(text + n, sizeof text - (size_t) n,
                      ", \"num_experts\": %d, \"num_experts_per_tok\": 2,"
                      " \"moe_intermediate_size\": %d, \"norm_topk_prob\": true,"
                      " \"decoder_sparse_step\": 1, \"mlp_only_layers\": []",
                      o->n_expert, o->n_ff);
    }
    n += snprintf(text + n, sizeof text - (size_t) n, "}\n");
    om_tmpdir_write(dir, "config.json", text, (size_t) n);
}

static int or_default(int value, int otherwise) {
    return value != 0 ? value : otherwise;
}

void om_tiny_hf_write(const char *dir, const om_tiny_hf_options *options) {
    static const char tokenizer[] = "{\"version\": \"1.0\"}\n", settings[] = "{}\n";
    tiny *t = om_calloc(1, sizeof *t);
    if (t == NULL || mkdir(dir, 0777) != 0) {
        die("cannot make", dir);
    }
    t->o = *options;
    om_tiny_hf_options *o = &t->o;
    o->model_type = o->model_type != NULL ? o->model_type : "llama";
    o->dtype = o->dtype != NULL ? o->dtype : "bfloat16";
    o->n_layer = or_default(o->n_layer, 1);
    o->n_embd = or_default(o->n_embd, 64);
    o->n_ff = or_default(o->n_ff, 96);
    o->n_head = or_default(o->n_head, 4);
    o->n_head_kv = or_default(o->n_head_kv, 2);
    o->head_dim = or_default(o->head_dim, 16);
    o->n_vocab = or_default(o->n_vocab, 100);
    o->scale = o->scale != 0 ? o->scale : 1;
    if (strcmp(o->model_type, "qwen3_moe") == 0) {
        o->n_expert = or_default(o->n_expert, 4);
    }
    t->dtype = strcmp(o->dtype, "float16") == 0   ? OM_ST_F16
               : strcmp(o->dtype, "float32") == 0 ? OM_ST_F32
                                                  : OM_ST_BF16;
    add(t, "model.embed_tokens.weight", o->n_vocab, o->n_embd);
    for (int layer = 0; layer < o->n_layer; layer++) {
        add_layer(t, layer);
    }
    add(t, "model.norm.weight", 0, o->n_embd);
    if (o->untied) {
        add(t, "lm_head.weight", o->n_vocab, o->n_embd);
    }
    write_weights(dir, t);
    write_config(dir, o);
    if (!o->no_tokenizer) {
        om_tmpdir_write(dir, "tokenizer.json", tokenizer, sizeof tokenizer - 1);
        om_tmpdir_write(dir, "tokenizer_config.json", settings, sizeof settings - 1);
    }
    om_free(t);
}
