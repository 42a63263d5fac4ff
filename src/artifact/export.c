/* The verb `export`: an allocation as a recipe for llama-quantize (for mlx-lm: export_mlx.c).
 *
 * llama-quantize reads "--tensor-type-file" as white-space separated pattern=type, cut at the first
 * '=', lower-cases the pattern and searches it as an unanchored ECMAScript regular expression in
 * the tensor's name; the first match wins. So each line is anchored, and every character that is
 * not a lower-case letter, a digit, '_' or '-' is escaped: '.' as "\.", the rest (capitals too,
 * which lower-casing would destroy) by its code, "\x41".
 *
 * Two more facts decide the command (llama_tensor_get_type in llama.cpp's llama-quant.cpp):
 * overrides are looked at only when the base type is a quantized one, and --output-tensor-type and
 * --token-embedding-type return before them. So the base is always quantized, and neither option
 * may be given. */
#include <inttypes.h>
#include <string.h>

#include "alloc/allocation.h"
#include "artifact/export_mlx.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

static om_status put_pattern(om_buf *b, const char *name, om_error *err) {
    om_buf_puts(b, "^");
    for (const char *p = name; *p != '\0'; p++) {
        const unsigned char c = (unsigned char) *p;
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-') {
            om_buf_add(b, p, 1);
        } else if (c == '.') {
            om_buf_puts(b, "\\.");
        } else if (c > 0x20 && c < 0x7f) {
            om_buf_printf(b, "\\x%02x", c);
        } else {
            return om_fail(err, OM_E_UNSUPPORTED,
                           "%s: llama-quantize cannot be told about a tensor whose name has "
                           "spaces, control or non-ASCII characters",
                           name);
        }
    }
    om_buf_puts(b, "$");
    return OM_OK;
}

static om_status recipe_of(char **out, const om_allocation *a, om_error *err) {
    om_status status = OM_OK;
    om_buf b = { 0 };
    for (int i = 0; i < a->n_tensors; i++) {
        OM_TRY(put_pattern(&b, a->tensors[i].name, err));
        om_buf_printf(&b, "=%s\n", a->tensors[i].format->name);
    }
    *out = om_buf_take(&b);
    if (*out == NULL) {
        OM_TRY(om_fail_nomem(err, 0));
    }
out:
    om_buf_release(&b);
    return status;
}

/* The preset named in the command: it only labels the file (general.file_type), since every tensor
 * has its own line; but it must be a quantized one. The type that most tensors have, by its preset.
 */
static const char *base_of(const om_allocation *a) {
    static const char *const presets[][2] = {
        { "q4_K", "Q4_K_M" },     { "q5_K", "Q5_K_M" },   { "q6_K", "Q6_K" },
        { "q8_0", "Q8_0" },       { "q3_K", "Q3_K_M" },   { "q2_K", "Q2_K" },
        { "iq4_xs", "IQ4_XS" },   { "iq4_nl", "IQ4_NL" }, { "iq3_s", "IQ3_S" },
        { "iq3_xxs", "IQ3_XXS" }, { "iq2_s", "IQ2_M" },   { "iq2_xs", "IQ2_XS" },
        { "iq2_xxs", "IQ2_XXS" }, { "q4_0", "Q4_0" },     { "q4_1", "Q4_1" },
        { "q5_0", "Q5_0" },       { "q5_1", "Q5_1" },
    };
    const char *best = "Q8_0";
    int best_n = 0;
    for (size_t k = 0; k < sizeof presets / sizeof *presets; k++) {
        int n = 0;
        for (int i = 0; i < a->n_tensors; i++) {
            n += strcmp(a->tensors[i].format->name, presets[k][0]) == 0;
        }
        if (n > best_n) {
            best = presets[k][1];
            best_n = n;
        }
    }
    return best;
}

static char *command_of(const om_allocation *a, const char *recipe) {
    om_buf b = { 0 };
    om_buf_puts(&b, "llama-quantize ");
    if (a->stats_path[0] != '\0') {
        om_buf_puts(&b, "--imatrix ");
        om_buf_put_word(&b, a->stats_path);
        om_buf_puts(&b, " ");
    }
    om_buf_puts(&b, "--tensor-type-file ");
    om_buf_put_word(&b, recipe);
    om_buf_printf(&b, " MODEL.gguf OUTPUT.gguf %s", base_of(a));
    char *text = om_buf_take(&b);
    om_buf_release(&b);
    return text;
}

static om_status make_result(om_result *out, const om_allocation *a,
                             const om_export_options *options, om_error *err) {
    om_status status = OM_OK;
    om_buf text = { 0 };
    om_result result = { 0 };
    om_json *doc = NULL;
    char *command = command_of(a, options->out);
    if (command == NULL) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    om_buf_printf(&text, "%s: %d tensors\n\n  %s\n\n", options->out, a->n_tensors, command);
    om_buf_printf(&text,
                  "MODEL.gguf is the file with sha256 %s. The last word only labels the file, but "
                  "it must be a quantized type. Do not add --output-tensor-type, "
                  "--token-embedding-type or --pure: the first two win over the recipe. A source "
                  "that is already quantized needs --allow-requantize.\n",
                  a->model_sha256);
    doc = om_json_new_document("optimum.export/1");
    om_json_set_str(doc, "to", "llama.cpp");
    om_json_set_str(doc, "path", options->out);
    om_json_set_str(doc, "allocation_sha256", a->sha256);
    om_json_set_str(doc, "model_sha256", a->model_sha256);
    om_json_set_i64(doc, "tensors", a->n_tensors);
    om_json_set_str(doc, "command", command);
    result.json = om_json_dump(doc);
    result.text = om_buf_take(&text);
    if (result.json == NULL || result.text == NULL) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    *out = result;
    result = (om_result){ 0 };
out:
    om_result_release(&result);
    om_buf_release(&text);
    om_json_free(doc);
    om_free(command);
    return status;
}

static om_status check_container(const om_allocation *a, bool mlx, const om_export_options *o,
                                 om_error *err) {
    if (mlx != (a->container == OM_CONTAINER_MLX)) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s is an allocation for %s, %s needs other types: allocate with --to %s",
                       o->allocation, mlx ? "a GGUF" : "MLX", mlx ? "mlx-lm" : "llama-quantize",
                       mlx ? "mlx" : "gguf");
    }
    return OM_OK;
}

om_status om_export(om_result *out, const om_export_options *options, const om_env *env,
                    om_error *err) {
    om_status status = OM_OK;
    om_allocation *a = NULL;
    char *recipe = NULL;
    if (options->allocation == NULL || options->out == NULL) {
        OM_TRY(om_fail(err, OM_E_ARG, "export needs an allocation.json and an output (-o)"));
    }
    const bool mlx = options->to != NULL && strcmp(options->to, "mlx") == 0;
    if (options->to != NULL && !mlx && strcmp(options->to, "llama.cpp") != 0) {
        OM_TRY(
            om_fail(err, OM_E_ARG, "cannot export to %s; expected llama.cpp or mlx", options->to));
    }
    OM_TRY(om_file_check_output(options->out, &options->allocation, 1, err));
    OM_TRY(om_check_cancel(env, err));
    OM_TRY(om_allocation_read(&a, options->allocation, err));
    OM_TRY(check_container(a, mlx, options, err));
    if (a->n_banked > 0) {
        OM_TRY(om_fail(err, OM_E_UNSUPPORTED,
                       "%s sorts experts into banks, which only optimum quantize --to mlx writes: "
                       "allocate without --expert-banks",
                       options->allocation));
    }
    if (mlx) {
        OM_TRY(om_export_mlx(out, a, options, err));
        goto out;
    }
    OM_TRY(recipe_of(&recipe, a, err));
    OM_TRY(om_file_write(options->out, recipe, strlen(recipe), err));
    OM_TRY(make_result(out, a, options, err));
out:
    if (status != OM_OK) {
        (void) om_error_context(err, "export");
    }
    om_free(recipe);
    om_allocation_free(a);
    return status;
}
