/* The embedded Python program, its request and its answer. */
#include "eval/mlx_speed.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/child.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/log.h"
#include "base/mem.h"
#include "hf/directory.h"

extern const unsigned char om_eval_mlx_program[]; /* mlx_speed.py, NUL-terminated */

enum { PROMPT = 512, ANSWER = 64, SECONDS = 30 };

static const char schema[] = "optimum.mlx_speed/1";

static const char *python(void) {
    const char *named = getenv("OPTIMUM_PYTHON");
    return named != NULL && named[0] != '\0' ? named : "python3";
}

static om_json *request(const char *dir, const int32_t *tokens, int n) {
    om_json *o = om_json_object(), *prompt = om_json_array();
    for (int i = 0; dir != NULL && i < PROMPT; i++) {
        om_json_push(prompt, om_json_i64(tokens[i % n]));
    }
    om_json_set_str(o, "model", dir);
    om_json_set(o, "prompt", prompt);
    om_json_set_i64(o, "probe", n < PROMPT ? n : PROMPT);
    om_json_set_i64(o, "answer", ANSWER);
    om_json_set_i64(o, "seconds", SECONDS);
    om_json_set_str(o, "module", (const char *) om_hf_banks_module);
    return o;
}

/* What the program says when it could not do its work. */
static om_status refusal(const om_node *root, om_error *err) {
    om_status status = OM_OK;
    const char *text;
    if (om_node_has(root, "missing")) {
        OM_TRY(om_node_str(&text, root, "missing", err));
        return om_fail(
            err, OM_E_UNSUPPORTED,
            "%s has no mlx_lm: install it there (pip install mlx-lm; on Linux \"mlx[cpu]\" "
            "too), or name a Python that has it in OPTIMUM_PYTHON",
            text);
    }
    if (om_node_has(root, "error")) {
        OM_TRY(om_node_str(&text, root, "error", err));
        return om_fail(err, OM_E_UNSUPPORTED, "mlx_lm does not run the model: %s", text);
    }
out:
    return status;
}

/* *doc owned. */
static om_status ask(om_json **doc, const om_json *question, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const char *const argv[] = { python(), "-c", (const char *) om_eval_mlx_program, NULL };
    om_child_result result = { 0 };
    char *input = om_json_dump(question);
    if (input == NULL) {
        return om_fail_nomem(err, 4096);
    }
    const om_child child = { .argv = argv, .input = input, .n_input = strlen(input) };
    status = om_child_run(&result, &child, env, err);
    if (status == OM_E_IO && (err->os_errno == ENOENT || err->os_errno == EACCES)) {
        *err = (om_error){ 0 };
        om_fail(err, OM_E_IO,
                "--with mlx_lm needs Python, and %s cannot be started: name a Python that has "
                "mlx_lm in OPTIMUM_PYTHON",
                argv[0]);
    }
    OM_TRY(status);
    if (result.exit_code != 0) {
        status = om_fail(err, OM_E_UNSUPPORTED, "mlx_lm failed in %s (exit code %d): %s", argv[0],
                         result.exit_code,
                         result.last_line[0] != '\0' ? result.last_line : "it gave no reason");
        goto out;
    }
    OM_TRY(om_json_parse(doc, result.output.data != NULL ? result.output.data : "",
                         result.output.len, "what mlx_lm measured", schema, err));
    const om_node root = om_node_root(*doc, "what mlx_lm measured");
    status = refusal(&root, err);
    if (status != OM_OK) {
        om_json_free(*doc);
        *doc = NULL;
    }
out:
    om_child_result_release(&result);
    om_free(input);
    return status;
}

om_status om_mlx_speed_check(const om_env *env, om_error *err) {
    om_json *question = request(NULL, NULL, 0), *doc = NULL;
    const om_status status = ask(&doc, question, env, err);
    om_json_free(question);
    om_json_free(doc);
    return status;
}

static om_status read_answer(om_speed *s, const om_node *root, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    int n_prompt = 0, n_answer = 0;
    bool f32 = false;
    OM_TRY(om_node_text(s->runtime, sizeof s->runtime, root, "runtime", err));
    OM_TRY(om_node_text(s->device, sizeof s->device, root, "device", err));
    OM_TRY(om_node_f64(&s->prefill_tok_s, root, "prefill_tok_s", err));
    OM_TRY(om_node_f64(&s->decode_tok_s, root, "decode_tok_s", err));
    OM_TRY(om_node_f64(&s->ttft_s, root, "ttft_s", err));
    OM_TRY(om_node_i64(&s->memory_bytes, root, "peak_memory_bytes", 0, INT64_MAX, err));
    OM_TRY(om_node_int(&n_prompt, root, "prompt_tokens", 1, PROMPT, err));
    OM_TRY(om_node_int(&n_answer, root, "answer_tokens", 1, ANSWER, err));
    OM_TRY(om_node_bool(&f32, root, "f32", err));
    OM_TRY(om_node_int(&s->probe_tokens, root, "probe_tokens", 0, PROMPT - 1, err));
    s->probe_ppl = HUGE_VAL;
    if (om_node_has(root, "probe_ppl")) {
        OM_TRY(om_node_f64(&s->probe_ppl, root, "probe_ppl", err));
    }
    if (n_prompt < PROMPT || n_answer < ANSWER) {
        om_log(env, OM_LOG_WARN,
               "mlx_lm is slow here: timed with a prompt of %d tokens and %d after it instead of "
               "%d and %d",
               n_prompt, n_answer, PROMPT, ANSWER);
    }
    if (f32) {
        om_log(env, OM_LOG_WARN,
               "mlx_lm cannot run the model in 16 bits on this device; timed in F32");
    }
out:
    return status;
}

om_status om_mlx_speed_measure(om_speed *out, const char *dir, const int32_t *tokens, int n,
                               const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_speed s = { 0 };
    om_json *question = request(dir, tokens, n), *doc = NULL;
    om_log(env, OM_LOG_INFO, "timing %s with mlx_lm (%s)", dir, python());
    OM_TRY(ask(&doc, question, env, err));
    const om_node root = om_node_root(doc, "what mlx_lm measured");
    OM_TRY(read_answer(&s, &root, env, err));
    *out = s;
out:
    om_json_free(question);
    om_json_free(doc);
    return status;
}
