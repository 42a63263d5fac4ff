/* Helper of eval_mlx.sh: what `optimum eval --exact` makes of a directory, and the logits behind
 * it.
 *
 *   oracle_eval_mlx DIR REFERENCE_DIR TEXT WINDOWS TOKENS OUT
 *
 * OUT.json gets eval's result, OUT.tokens i32 [WINDOWS, TOKENS], OUT.logits f32
 * [WINDOWS, TOKENS - 1, V].
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "eval/runtime.h"
#include "eval/unpack.h"
#include "model/tokens.h"

static om_status write_named(const char *stem, const char *ending, const void *data, size_t n,
                             om_error *err) {
    om_buf name = { 0 };
    om_buf_printf(&name, "%s.%s", stem, ending);
    char *path = om_buf_take(&name);
    const om_status status =
        path != NULL ? om_file_write(path, data, n, err) : om_fail_nomem(err, 0);
    om_free(path);
    return status;
}

static om_status dump(const om_eval_options *o, const char *stem, om_error *err) {
    om_status status = OM_OK;
    const om_env env = { 0 };
    const om_unpack_options unpack = { .f32 = true };
    om_unpacked model = { 0 };
    om_windows w = { 0 };
    om_runtime *rt = NULL;
    om_buf logits = { 0 };
    const om_runtime_options options = { .n_ctx = o->n_ctx, .n_block = o->n_ctx, .f32_kv = true };
    OM_TRY(om_unpacked_open(&model, o->model, &unpack, &env, err));
    const char *gguf = om_model_path(model.model);
    OM_TRY(om_windows_read(&w, gguf, &o->text, 1, o->n_ctx, o->n_chunks, &env, err));
    OM_TRY(om_runtime_open(&rt, gguf, &options, &env, err));
    for (int i = 0; i < w.n_windows; i++) {
        const int32_t *tokens = w.tokens + (size_t) i * (size_t) w.n_tokens;
        OM_TRY(om_runtime_decode(rt, tokens, w.n_tokens - 1, 0, 0, err));
        om_buf_add(&logits, (const char *) om_runtime_logits(rt),
                   (size_t) (w.n_tokens - 1) * (size_t) w.n_vocab * sizeof(float));
    }
    OM_TRY(write_named(stem, "tokens", w.tokens,
                       (size_t) w.n_windows * (size_t) w.n_tokens * sizeof(int32_t), err));
    OM_TRY(write_named(stem, "logits", logits.data, logits.len, err));
out:
    om_buf_release(&logits);
    om_runtime_free(rt);
    om_windows_release(&w);
    om_unpacked_release(&model);
    return status;
}

int main(int argc, char **argv) {
    const om_env env = { 0 };
    om_status status = OM_OK;
    om_error err = { 0 };
    om_result result = { 0 };
    om_buf out = { 0 };
    if (argc != 7) {
        (void) fprintf(stderr,
                       "usage: oracle_eval_mlx DIR REFERENCE_DIR TEXT WINDOWS TOKENS OUT\n");
        return 2;
    }
    om_buf_printf(&out, "%s.json", argv[6]);
    const om_eval_options o = { .model = argv[1],
                                .reference = argv[2],
                                .text = argv[3],
                                .n_chunks = (int) strtol(argv[4], NULL, 10),
                                .n_ctx = (int) strtol(argv[5], NULL, 10),
                                .out = out.data,
                                .exact = true };
    OM_TRY(om_eval(&result, &o, &env, &err));
    OM_TRY(dump(&o, argv[6], &err));
out:
    if (status != OM_OK) {
        (void) fprintf(stderr, "error: %s\n", err.text);
    }
    om_result_release(&result);
    om_buf_release(&out);
    return status == OM_OK ? 0 : 1;
}
