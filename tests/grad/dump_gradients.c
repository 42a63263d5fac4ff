/* A model, tokens and labels into a file with the gradient of every weight that may be quantized,
 * for comparison with another implementation (reference.py).
 *
 *     dump_gradients MODEL.gguf TOKENS.bin LABELS.bin OUT.bin [TEXT N_TOKENS]
 *
 * TOKENS.bin and LABELS.bin are raw arrays of int32, equally long. With TEXT they are written
 * instead: the first N_TOKENS tokens of the text, and as labels the tokens that follow them.
 * OUT.bin, in native byte order: int32 n_weights; per weight char name[64], int64 experts, n_out,
 * n_in, float32 [experts, n_out, n_in]; int32 n_choices; per layer with experts char name[64] (of
 * the stack ffn_down_exps), int64 T, K, int32 [T, K] the experts that a forward pass of the same
 * window chose. The loss Σ −log p(label) goes to stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "calib/forward.h"
#include "calib/pass.h"
#include "model/tokens.h"

typedef struct job {
    const char *model_path, *tokens_path, *labels_path, *out_path, *text;
    int n_tokens;
    int32_t *tokens, *labels; /* [n_tokens] */
} job;

static om_status read_ids(int32_t **out, int *n, const char *path, om_error *err) {
    char *data;
    size_t size;
    om_status status = om_file_read(&data, &size, path, 1 << 26, err);
    if (status == OM_OK) {
        *out = (int32_t *) (void *) data;
        *n = (int) (size / sizeof **out);
    }
    return status;
}

static om_status read_inputs(job *j, om_error *err) {
    om_status status = OM_OK;
    int n_labels = 0;
    OM_TRY(read_ids(&j->tokens, &j->n_tokens, j->tokens_path, err));
    OM_TRY(read_ids(&j->labels, &n_labels, j->labels_path, err));
    if (j->n_tokens < 1 || j->n_tokens != n_labels) {
        status =
            om_fail(err, OM_E_ARG, "%s holds %d tokens and %s %d labels; expected equal numbers",
                    j->tokens_path, j->n_tokens, j->labels_path, n_labels);
    }
out:
    return status;
}

/* The tokens and the tokens one further on. */
static om_status tokenize(job *j, om_error *err) {
    om_status status = OM_OK;
    om_windows w = { 0 };
    const size_t bytes = (size_t) j->n_tokens * sizeof(int32_t);
    OM_TRY(om_windows_read(&w, j->model_path, &j->text, 1, j->n_tokens + 1, 1, NULL, err));
    j->tokens = om_calloc((size_t) j->n_tokens, sizeof(int32_t));
    j->labels = om_calloc((size_t) j->n_tokens, sizeof(int32_t));
    if (!j->tokens || !j->labels) {
        status = om_fail_nomem(err, bytes);
        goto out;
    }
    memcpy(j->tokens, w.tokens, bytes);
    memcpy(j->labels, w.tokens + 1, bytes);
    OM_TRY(om_file_write(j->tokens_path, j->tokens, bytes, err));
    OM_TRY(om_file_write(j->labels_path, j->labels, bytes, err));
out:
    om_windows_release(&w);
    return status;
}

/* ---- choices of experts ---- */

enum { MAX_CHOICES = 256 };

typedef struct choice {
    char name[64];
    int64_t n_tokens, n_used;
    int32_t *experts; /* [T, K] */
} choice;

typedef struct choices {
    choice all[MAX_CHOICES];
    int n;
} choices;

static void keep_choice(choices *c, const struct ggml_tensor *node) {
    const struct ggml_tensor *ids = node->src[2];
    choice *k = &c->all[c->n++];
    snprintf(k->name, sizeof k->name, "%s", node->src[0]->name);
    k->n_used = ids->ne[0];
    k->n_tokens = ids->ne[1];
    k->experts = om_calloc((size_t) (k->n_used * k->n_tokens), sizeof *k->experts);
    for (int64_t t = 0; k->experts && t < k->n_tokens; t++) {
        memcpy(k->experts + t * k->n_used, (const char *) ids->data + (size_t) t * ids->nb[1],
               (size_t) k->n_used * sizeof *k->experts);
    }
}

static bool on_node(struct ggml_tensor *node, bool ask, void *ud) {
    choices *c = ud;
    if (node->op == GGML_OP_MUL_MAT_ID && strstr(node->src[0]->name, "ffn_down_exps") != NULL &&
        !ask && c->n < MAX_CHOICES) {
        keep_choice(c, node);
    }
    return true;
}

/* A forward pass on as many threads as the pass had: the same numbers, so the same choices. */
static om_status see_choices(choices *c, const job *j, om_error *err) {
    om_status status = OM_OK;
    om_compute *compute = NULL;
    om_forward *forward = NULL;
    const float *logits;
    const om_forward_setup setup = {
        .model_path = j->model_path, .n_tokens = j->n_tokens, .callback = on_node, .ud = c
    };
    OM_TRY(om_compute_new(&compute, om_n_threads(NULL), err));
    OM_TRY(om_forward_open(&forward, &setup, compute, NULL, err));
    OM_TRY(om_forward_run(&logits, forward, j->tokens, err));
out:
    om_forward_close(forward);
    om_compute_free(compute);
    return status;
}

/* ---- the file ---- */

static int64_t weight_size(const om_fisher_weight *w) {
    return w->experts * w->n_out * w->n_in;
}

static om_status write_choices(om_atomic *file, const choices *c, om_error *err) {
    om_status status = OM_OK;
    const int32_t n = c->n;
    OM_TRY(om_atomic_write(file, &n, sizeof n, err));
    for (int i = 0; i < c->n; i++) {
        const choice *k = &c->all[i];
        const int64_t shape[2] = { k->n_tokens, k->n_used };
        if (!k->experts) {
            return om_fail_nomem(err, (size_t) (k->n_used * k->n_tokens) * sizeof *k->experts);
        }
        OM_TRY(om_atomic_write(file, k->name, sizeof k->name, err));
        OM_TRY(om_atomic_write(file, shape, sizeof shape, err));
        OM_TRY(om_atomic_write(file, k->experts,
                               (size_t) (k->n_used * k->n_tokens) * sizeof *k->experts, err));
    }
out:
    return status;
}

static om_status write_gradients(const om_fisher *f, float *const *gradients, const choices *c,
                                 const char *path, om_error *err) {
    om_status status = OM_OK;
    om_atomic file = { 0 };
    const int32_t n = f->n_weights;
    OM_TRY(om_atomic_open(&file, path, err));
    OM_TRY(om_atomic_write(&file, &n, sizeof n, err));
    for (int i = 0; i < f->n_weights; i++) {
        const om_fisher_weight *w = &f->weights[i];
        const int64_t shape[3] = { w->experts, w->n_out, w->n_in };
        OM_TRY(om_atomic_write(&file, w->name, sizeof w->name, err));
        OM_TRY(om_atomic_write(&file, shape, sizeof shape, err));
        OM_TRY(om_atomic_write(&file, gradients[i], (size_t) weight_size(w) * sizeof(float), err));
    }
    OM_TRY(write_choices(&file, c, err));
    OM_TRY(om_atomic_commit(&file, err));
out:
    om_atomic_abort(&file);
    return status;
}

static om_status dump(job *j, om_error *err) {
    om_status status = OM_OK;
    om_model *model = NULL;
    om_fisher *f = NULL;
    float **gradients = NULL;
    double loss = 0;
    choices chosen = { .n = 0 };
    OM_TRY(j->text ? tokenize(j, err) : read_inputs(j, err));
    OM_TRY(om_model_open(&model, j->model_path, err));
    OM_TRY(om_fisher_new(&f, model, err));
    gradients = om_calloc((size_t) f->n_weights, sizeof *gradients);
    for (int i = 0; gradients && i < f->n_weights; i++) {
        const size_t n = (size_t) weight_size(&f->weights[i]);
        gradients[i] = om_calloc(n, sizeof(float));
        if (!gradients[i]) {
            status = om_fail_nomem(err, n * sizeof(float));
            goto out;
        }
    }
    if (!gradients) {
        status = om_fail_nomem(err, (size_t) f->n_weights * sizeof *gradients);
        goto out;
    }
    OM_TRY(om_pass_one(f, gradients, &loss, j->tokens, j->labels, j->n_tokens, j->model_path, 0,
                       NULL, err));
    OM_TRY(see_choices(&chosen, j, err));
    OM_TRY(write_gradients(f, gradients, &chosen, j->out_path, err));
    printf("%.9g\n", loss);
out:
    for (int i = 0; gradients && f && i < f->n_weights; i++) {
        om_free(gradients[i]);
    }
    for (int i = 0; i < chosen.n; i++) {
        om_free(chosen.all[i].experts);
    }
    om_free(gradients);
    om_fisher_free(f);
    om_model_free(model);
    om_free(j->tokens);
    om_free(j->labels);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 7) {
        fprintf(stderr,
                "usage: dump_gradients MODEL.gguf TOKENS.bin LABELS.bin OUT.bin [TEXT N_TOKENS]\n");
        return 2;
    }
    job j = { argv[1], argv[2], argv[3], argv[4], argc == 7 ? argv[5] : NULL, 0, NULL, NULL };
    if (j.text) {
        j.n_tokens = (int) strtol(argv[6], NULL, 10);
        if (j.n_tokens < 1 || j.n_tokens > 1 << 20) {
            fprintf(stderr, "dump_gradients: %s is not a number of tokens\n", argv[6]);
            return 2;
        }
    }
    om_error err = { 0 };
    if (dump(&j, &err) != OM_OK) {
        fprintf(stderr, "dump_gradients: %s: %s\n", om_status_name(err.status), err.text);
        return 1;
    }
    return 0;
}
