/* Models for the robustness tests: writes tiny ones, and damages copies where a shell cannot.
 *
 *   robust_tool write OUT [NAME=VALUE]...   arch, type (f32, bf16 ...), layers, embd, ff, head,
 *                                           head_dim, head_kv, expert, used, vocab, tied, no_bos,
 *                                           sparse (the data is a hole in the file)
 *   robust_tool write-hf DIR [NAME=VALUE]... model (qwen3, qwen3_moe), dtype, layers, embd, ff,
 * head, head_dim, head_kv, vocab, expert, untied, sparse robust_tool edit IN OUT [OP]... u32:KEY=V
 * f32:KEY=V  str:KEY=V  drop:KEY     metadata fill:TENSOR=V  row:TENSOR=V  one:TENSOR=V     all
 * values, the first row, the last value type:TENSOR=TYPE                              all values
 * zero remove:TENSOR  rename:OLD=NEW  new:TENSOR=N0[xN1]    (F32, all values 0.01) robust_tool flip
 * FILE OFFSET BIT        in place robust_tool memory anon|all MIB COMMAND...   run; its exit code,
 * or 125 when its memory was once above MIB; the most is the last line on standard error
 * robust_tool signal NUMBER MS [after FILE] COMMAND...   run, send the signal after MS milliseconds
 * (once FILE exists); exit code as a shell gives it, 124 when it takes more than 2 s to end
 *
 * Reads and writes with ggml's own functions: the damage is what another tool would make.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ggml.h>
#include <gguf.h>

#include "tiny_hf.h"
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
        { "layers", &o.n_layer },  { "embd", &o.n_embd },        { "ff", &o.n_ff },
        { "head", &o.n_head },     { "head_kv", &o.n_head_kv },  { "head_dim", &o.head_dim },
        { "expert", &o.n_expert }, { "used", &o.n_expert_used }, { "vocab", &o.n_vocab },
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
        } else if (strcmp(args[i], "sparse") == 0) {
            o.sparse = number(value) != 0;
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

/* ---- write-hf ---- */

static void write_directory(const char *path, char **args, int n) {
    om_tiny_hf_options o = { 0 };
    int untied = 0, sparse = 0;
    struct {
        const char *name;
        int *to;
    } numbers[] = {
        { "layers", &o.n_layer }, { "embd", &o.n_embd },       { "ff", &o.n_ff },
        { "head", &o.n_head },    { "head_kv", &o.n_head_kv }, { "head_dim", &o.head_dim },
        { "vocab", &o.n_vocab },  { "expert", &o.n_expert },   { "untied", &untied },
        { "sparse", &sparse },
    };
    for (int i = 0; i < n; i++) {
        char *value = strchr(args[i], '=');
        bool known = false;
        if (value == NULL) {
            die("expected NAME=VALUE", args[i]);
        }
        *value++ = '\0';
        if (strcmp(args[i], "model") == 0 || strcmp(args[i], "dtype") == 0) {
            *(args[i][0] == 'm' ? &o.model_type : &o.dtype) = value;
            known = true;
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
    o.untied = untied != 0;
    o.sparse = sparse != 0;
    om_tiny_hf_write(path, &o);
}

/* ---- edit ---- */

typedef struct model {
    struct gguf_context *gguf;
    struct ggml_context *ctx;
    struct ggml_context *more;                /* tensors that were added */
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
    } else if (strcmp(op, "type") == 0) {
        const enum ggml_type type = type_by_name(split(arg));
        struct ggml_tensor **t = &m->tensors[find(m, arg)];
        *t = ggml_new_tensor(m->more, type, ggml_n_dims(*t), (*t)->ne);
        ggml_set_name(*t, arg);
        memset((*t)->data, 0, ggml_nbytes(*t));
    } else if (strcmp(op, "new") == 0) {
        char *shape = split(arg);
        const int64_t n0 = strtol(shape, &shape, 10), n1 = *shape == 'x' ? number(shape + 1) : 0;
        struct ggml_tensor *t = n1 > 0 ? ggml_new_tensor_2d(m->more, GGML_TYPE_F32, n0, n1)
                                       : ggml_new_tensor_1d(m->more, GGML_TYPE_F32, n0);
        ggml_set_name(t, arg);
        m->tensors[m->n++] = t;
        for (int64_t i = 0; i < ggml_nelements(t); i++) {
            set_value(t, i, 0.01f);
        }
    } else {
        die("unknown operation", op);
    }
}

static void edit(const char *in, const char *out, char **ops, int n) {
    model m = { 0 };
    load(&m, in);
    m.more = ggml_init((struct ggml_init_params){ .mem_size = 16 << 20 });
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
    ggml_free(m.more);
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

/* ---- signal ---- */

static void sleep_ms(long ms) {
    const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

/* true when the child has ended within ms; then *status is set. */
static bool ended(pid_t pid, int *status, long ms, const char *or_file) {
    struct stat st;
    for (long i = 0; i <= ms / 10; i++) {
        if (waitpid(pid, status, WNOHANG) == pid) {
            return true;
        }
        if (or_file != NULL && stat(or_file, &st) == 0) {
            return false;
        }
        sleep_ms(ms - 10 * i < 10 ? ms - 10 * i : 10);
    }
    return false;
}

static int send_signal(int signal_number, long ms, const char *file, char **command) {
    int status = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        /* a shell without job control lets background jobs ignore it */
        signal(SIGINT, SIG_DFL);
        execv(command[0], command);
        _exit(127);
    }
    bool done = pid < 0 || (file != NULL && ended(pid, &status, 20000, file));
    done = done || ended(pid, &status, ms, NULL);
    if (!done && kill(pid, signal_number) == 0 && !ended(pid, &status, 2000, NULL)) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        return 124;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- memory ---- */

/* Bytes of the child's anonymous memory now; -1: the system does not say. */
static long anonymous_bytes(pid_t pid) {
    char path[64], line[256];
    long kb = -1;
    snprintf(path, sizeof path, "/proc/%ld/status", (long) pid);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "RssAnon:", 8) == 0) {
            kb = strtol(line + 8, NULL, 10);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return kb < 0 ? -1 : kb * 1024;
}

/* Anonymous memory is looked at a thousand times a second; all of it (with the pages of mapped
 * files) is what the system counted. */
static int watch_memory(bool anonymous, long mib, char **command) {
    int status = 0;
    long most = -1;
    const pid_t pid = fork();
    if (pid == 0) {
        execv(command[0], command);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, anonymous ? WNOHANG : 0) == 0) {
        const long now = anonymous_bytes(pid);
        most = now > most ? now : most;
        sleep_ms(1);
    }
    if (!anonymous) {
        struct rusage usage;
        getrusage(RUSAGE_CHILDREN, &usage);
        most = usage.ru_maxrss * 1024; /* Linux counts in KiB */
    }
    fprintf(stderr, "%.1f MiB %s at most\n", (double) most / 1048576,
            anonymous ? "anonymous" : "resident");
    if (most > mib * 1048576) {
        return 125;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "write") == 0) {
        write_model(argv[2], argv + 3, argc - 3);
    } else if (argc >= 3 && strcmp(argv[1], "write-hf") == 0) {
        write_directory(argv[2], argv + 3, argc - 3);
    } else if (argc >= 4 && strcmp(argv[1], "edit") == 0) {
        edit(argv[2], argv[3], argv + 4, argc - 4);
    } else if (argc == 5 && strcmp(argv[1], "flip") == 0) {
        flip(argv[2], argv[3], argv[4]);
    } else if (argc >= 7 && strcmp(argv[1], "signal") == 0 && strcmp(argv[4], "after") == 0) {
        return send_signal(number(argv[2]), number(argv[3]), argv[5], argv + 6);
    } else if (argc >= 5 && strcmp(argv[1], "signal") == 0) {
        return send_signal(number(argv[2]), number(argv[3]), NULL, argv + 4);
    } else if (argc >= 5 && strcmp(argv[1], "memory") == 0) {
        return watch_memory(strcmp(argv[2], "anon") == 0, number(argv[3]), argv + 4);
    } else {
        die("usage", "robust_tool write|edit|flip …");
    }
    return 0;
}
