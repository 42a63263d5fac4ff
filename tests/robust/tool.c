/* Models for the robustness tests: writes tiny ones, and damages copies of them where a shell
 * cannot.
 *
 *   robust_tool write OUT [NAME=VALUE]...     arch, type (f32, bf16, q4_0), layers, embd, ff, head,
 * head_kv, expert, vocab, tied, no_bos robust_tool edit IN OUT [OP]...           u32:KEY=V
 * f32:KEY=V  str:KEY=V  drop:KEY   metadata fill:TENSOR=V   every value (nan, inf, 0 …)
 *                                             row:TENSOR=V    the first row
 *                                             one:TENSOR=V    the last value
 *                                             remove:TENSOR   rename:OLD=NEW   add:TENSOR (a copy
 * of the first) robust_tool flip FILE OFFSET BIT          in place
 *
 * Reads and writes with ggml's own functions, so that the damage is what another tool would make.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <gguf.h>

#include "tiny_model.h"

enum { MAX_TENSORS = 512 };

static void die(const char *what, const char *with) {
    fprintf(stderr, "robust_tool: %s: %s\n", what, with);
    exit(2);
}

/* ---- write ---- */

static int number(const char *text) {
    return (int) strtol(text, NULL, 10);
}

static enum ggml_type type_by_name(const char *name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char *its = ggml_type_name((enum ggml_type) i);
        if (its != NULL && strcmp(its, name) == 0) {
            return (enum ggml_type) i;
        }
    }
    die("unknown type", name);
    return GGML_TYPE_COUNT;
}

static void write_model(const char *path, char **args, int n) {
    om_tiny_options o = { .n_embd = 128, .n_ff = 192 };
    struct {
        const char *name;
        int *to;
    } numbers[] = {
        { "layers", &o.n_layer }, { "embd", &o.n_embd },       { "ff", &o.n_ff },
        { "head", &o.n_head },    { "head_kv", &o.n_head_kv }, { "expert", &o.n_expert },
        { "vocab", &o.n_vocab },
    };
    for (int i = 0; i < n; i++) {
        char *value = strchr(args[i], '=');
        if (value == NULL) {
            die("expected NAME=VALUE", args[i]);
        }
        *value++ = '\0';
        bool known = true;
        if (strcmp(args[i], "arch") == 0) {
            o.arch = value;
        } else if (strcmp(args[i], "type") == 0) {
            o.type = type_by_name(value);
        } else if (strcmp(args[i], "tied") == 0) {
            o.tied = number(value) != 0;
        } else if (strcmp(args[i], "no_bos") == 0) {
            o.no_bos = number(value) != 0;
        } else {
            known = false;
        }
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) {
            if (strcmp(args[i], numbers[k].name) == 0) {
                *numbers[k].to = number(value);
                known = true;
            }
        }
        if (!known) {
            die("unknown option", args[i]);
        }
    }
    om_tiny_model_write_with(path, &o);
}

/* ---- edit ---- */

typedef struct model {
    struct gguf_context *gguf;
    struct ggml_context *ctx;
    struct ggml_tensor *tensors[MAX_TENSORS]; /* in file order */
    int n;
} model;

static void load(model *m, const char *path) {
    m->gguf = gguf_init_from_file(path, (struct gguf_init_params){ .ctx = &m->ctx });
    if (m->gguf == NULL || gguf_get_n_tensors(m->gguf) > MAX_TENSORS) {
        die("cannot read", path);
    }
    for (int64_t i = 0; i < gguf_get_n_tensors(m->gguf); i++) {
        m->tensors[m->n++] = ggml_get_tensor(m->ctx, gguf_get_tensor_name(m->gguf, i));
    }
}

static int find(const model *m, const char *name) {
    for (int i = 0; i < m->n; i++) {
        if (strcmp(m->tensors[i]->name, name) == 0) {
            return i;
        }
    }
    die("no such tensor", name);
    return -1;
}

static void set_value(struct ggml_tensor *t, int64_t i, float v) {
    if (t->type == GGML_TYPE_F32) {
        ((float *) t->data)[i] = v;
    } else if (t->type == GGML_TYPE_BF16) {
        ((ggml_bf16_t *) t->data)[i] = ggml_fp32_to_bf16(v);
    } else {
        die("cannot set values of this type", ggml_type_name(t->type));
    }
}

/* What follows the name in "NAME=VALUE", the name cut off. */
static char *split(char *text) {
    char *value = strchr(text, '=');
    if (value == NULL) {
        die("expected NAME=VALUE", text);
    }
    *value = '\0';
    return value + 1;
}

static bool edit_metadata(model *m, const char *op, char *arg) {
    if (strcmp(op, "u32") == 0) {
        const char *value = split(arg);
        gguf_set_val_u32(m->gguf, arg, (uint32_t) strtoul(value, NULL, 10));
    } else if (strcmp(op, "f32") == 0) {
        const char *value = split(arg);
        gguf_set_val_f32(m->gguf, arg, strtof(value, NULL));
    } else if (strcmp(op, "str") == 0) {
        const char *value = split(arg);
        gguf_set_val_str(m->gguf, arg, value);
    } else if (strcmp(op, "drop") == 0) {
        if (gguf_remove_key(m->gguf, arg) < 0) {
            die("no such key", arg);
        }
    } else {
        return false;
    }
    return true;
}

static bool edit_values(model *m, const char *op, char *arg) {
    const bool fill = strcmp(op, "fill") == 0, row = strcmp(op, "row") == 0;
    if (!fill && !row && strcmp(op, "one") != 0) {
        return false;
    }
    const float value = strtof(split(arg), NULL);
    struct ggml_tensor *t = m->tensors[find(m, arg)];
    const int64_t all = ggml_nelements(t);
    for (int64_t i = fill || row ? 0 : all - 1; i < (row ? t->ne[0] : all); i++) {
        set_value(t, i, value);
    }
    return true;
}

static void edit_table(model *m, const char *op, char *arg) {
    if (strcmp(op, "remove") == 0) {
        const int at = find(m, arg);
        for (int i = at; i + 1 < m->n; i++) {
            m->tensors[i] = m->tensors[i + 1];
        }
        m->n--;
    } else if (strcmp(op, "rename") == 0) {
        const char *to = split(arg);
        ggml_set_name(m->tensors[find(m, arg)], to);
    } else if (strcmp(op, "add") == 0) {
        static struct ggml_tensor copy; /* outside of the context: it holds no room for more */
        copy = *m->tensors[0];
        ggml_set_name(&copy, arg);
        m->tensors[m->n++] = &copy;
    } else {
        die("unknown operation", op);
    }
}

static void edit(const char *in, const char *out, char **ops, int n) {
    model m = { 0 };
    load(&m, in);
    for (int i = 0; i < n; i++) {
        char *arg = strchr(ops[i], ':');
        if (arg == NULL) {
            die("expected OP:ARGUMENT", ops[i]);
        }
        *arg++ = '\0';
        if (!edit_metadata(&m, ops[i], arg) && !edit_values(&m, ops[i], arg)) {
            edit_table(&m, ops[i], arg);
        }
    }
    struct gguf_context *g = gguf_init_empty();
    gguf_set_kv(g, m.gguf);
    for (int i = 0; i < m.n; i++) {
        gguf_add_tensor(g, m.tensors[i]);
    }
    if (!gguf_write_to_file(g, out, false)) {
        die("cannot write", out);
    }
    gguf_free(g);
    gguf_free(m.gguf);
    ggml_free(m.ctx);
}

/* ---- flip ---- */

static void flip(const char *path, const char *offset, const char *bit) {
    FILE *f = fopen(path, "r+b");
    int c;
    if (f == NULL || fseek(f, strtol(offset, NULL, 10), SEEK_SET) != 0 || (c = fgetc(f)) == EOF ||
        fseek(f, -1, SEEK_CUR) != 0 || fputc(c ^ (1 << number(bit)), f) == EOF || fclose(f) != 0) {
        die("cannot flip a bit of", path);
    }
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "write") == 0) {
        write_model(argv[2], argv + 3, argc - 3);
    } else if (argc >= 4 && strcmp(argv[1], "edit") == 0) {
        edit(argv[2], argv[3], argv + 4, argc - 4);
    } else if (argc == 5 && strcmp(argv[1], "flip") == 0) {
        flip(argv[2], argv[3], argv[4]);
    } else {
        die("usage", "robust_tool write|edit|flip …");
    }
    return 0;
}
