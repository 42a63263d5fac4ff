/* allocation.json -> a Python module for mlx_lm.convert.
 *
 * The allocation names tensors as GGUFs do, mlx-lm asks about paths of modules, and which family
 * the model is of is not known here. But a path says by itself what it is: over all families of the
 * table no path stands for two different tensors. So the module holds the types under the GGUF's
 * names, and the families' names for those tensors; and it complains when one of the types was not
 * asked for, which is what another model would lead to.
 *
 * mlx_lm.convert does not ask about modules whose rows q_group_size does not divide, so that is the
 * least of all groups. A per-module "mode" is left out where it is affine: mlx-lm before
 * September 2025 does not know the word. */
#include "artifact/export_mlx.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "hf/family.h"
#include "model/roles.h"

enum { MAX_MODULES = 256 };

/* mlx-lm's name of a role: "self_attn.q_proj" is an "attn_q". */
typedef struct module {
    char path[OM_HF_PATH];
    char role[64];
    bool in_block;
} module;

typedef struct modules {
    module list[MAX_MODULES];
    int n;
} modules;

/* What follows "layers.N."; outside of blocks the last word. ".weight" is cut off. false: the path
 * is no weight. */
static bool inner_path(char out[OM_HF_PATH], const char *path) {
    static const char block[] = "layers.";
    const char *inside = strstr(path, block);
    if (!om_text_ends(path, ".weight")) {
        return false;
    }
    const size_t n = strlen(path) - strlen(".weight");
    size_t first = 0;
    if (inside != NULL) {
        const char *dot = strchr(inside + sizeof block - 1, '.');
        first = dot == NULL ? 0 : (size_t) (dot + 1 - path);
    } else {
        for (size_t i = 0; i < n; i++) {
            first = path[i] == '.' ? i + 1 : first;
        }
    }
    memcpy(out, path + first, n - first);
    out[n - first] = '\0';
    return true;
}

static void add_module(modules *m, const char *path, const char *role, bool in_block) {
    for (int i = 0; i < m->n; i++) {
        if (strcmp(m->list[i].path, path) == 0) {
            return;
        }
    }
    if (m->n < MAX_MODULES) {
        module *added = &m->list[m->n++];
        memcpy(added->path, path, strlen(path) + 1);
        memcpy(added->role, role, strlen(role) + 1);
        added->in_block = in_block;
    }
}

/* Every name that a family has for the tensor. */
static om_status add_names(modules *m, const char *tensor, om_error *err) {
    char path[OM_HF_PATH], inside[OM_HF_PATH], role[64];
    int layer;
    bool found = false;
    om_tensor_role(role, &layer, tensor);
    for (int i = 0; om_family_at(i) != NULL; i++) {
        if (om_family_mlx_name(path, om_family_at(i), tensor) && inner_path(inside, path)) {
            add_module(m, inside, role, layer >= 0);
            found = true;
        }
    }
    if (!found) {
        return om_fail(err, OM_E_UNSUPPORTED, "%s: mlx-lm has no module of this name in %s", tensor,
                       om_family_list());
    }
    return OM_OK;
}

/* ---- the module ---- */

/* "blk.3.attn_q", as the module's own function puts it together. */
static void put_key(om_buf *b, const char *tensor) {
    char role[64];
    int layer;
    om_tensor_role(role, &layer, tensor);
    if (layer >= 0) {
        om_buf_printf(b, "    \"blk.%d.%s\": ", layer, role);
    } else {
        om_buf_printf(b, "    \"%s\": ", role);
    }
}

static void put_types(om_buf *b, const om_allocation *a) {
    om_buf_puts(b,
                "# (group_size, bits, mode) of each tensor, under its name in a GGUF; None: kept "
                "in 16 bits\nTYPES = {\n");
    for (int i = 0; i < a->n_tensors; i++) {
        const om_format *f = a->tensors[i].format;
        put_key(b, a->tensors[i].name);
        if (f->mlx == OM_MLX_NONE) {
            om_buf_puts(b, "None,\n");
        } else {
            om_buf_printf(b, "(%d, %d, \"%s\"),\n", f->block, f->bits, om_mlx_mode_name(f->mlx));
        }
    }
    om_buf_puts(b, "}\n\n");
}

static void put_modules(om_buf *b, const modules *m) {
    for (int in_block = 1; in_block >= 0; in_block--) {
        om_buf_puts(b, in_block == 1 ? "# what mlx-lm calls them inside of a layer\nINSIDE = {\n"
                                     : "# and outside\nOUTSIDE = {\n");
        for (int i = 0; i < m->n; i++) {
            if (m->list[i].in_block == (in_block == 1)) {
                om_buf_printf(b, "    \"%s\": \"%s\",\n", m->list[i].path, m->list[i].role);
            }
        }
        om_buf_puts(b, "}\n\n");
    }
}

static const char functions[] =
    "_asked = set()\n"
    "\n"
    "\n"
    "def gguf_name(path):\n"
    "    \"\"\"\"model.layers.3.self_attn.q_proj\" -> \"blk.3.attn_q\"; None: nothing of "
    "TYPES.\"\"\"\n"
    "    words = path.split(\".\")\n"
    "    if \"layers\" in words[:-2]:\n"
    "        at = words.index(\"layers\")\n"
    "        role = INSIDE.get(\".\".join(words[at + 2 :]))\n"
    "        return role and f\"blk.{words[at + 1]}.{role}\"\n"
    "    return OUTSIDE.get(words[-1])\n"
    "\n"
    "\n"
    "def quant_predicate(path, module, *_):\n"
    "    \"\"\"For mlx_lm.convert(quant_predicate=…).\"\"\"\n"
    "    name = gguf_name(path)\n"
    "    if name is not None and name not in TYPES:\n"
    "        raise ValueError(f\"this is not the model of the allocation, which has no {name}\")\n"
    "    if TYPES.get(name) is None:\n"
    "        return False\n"
    "    _asked.add(name)\n"
    "    group_size, bits, mode = TYPES[name]\n"
    "    answer = {\"group_size\": group_size, \"bits\": bits}\n"
    "    return answer if mode == \"affine\" else {**answer, \"mode\": mode}\n"
    "\n"
    "\n"
    "def convert(hf_path, mlx_path):\n"
    "    import mlx_lm\n"
    "\n"
    "    mlx_lm.convert(hf_path, mlx_path, quantize=True, q_group_size=GROUP_SIZE, q_bits=BITS,\n"
    "                   quant_predicate=quant_predicate)\n"
    "    missing = [name for name in TYPES if TYPES[name] is not None and name not in _asked]\n"
    "    if missing:\n"
    "        raise SystemExit(f\"this is not the model of the allocation: it has no "
    "{missing[0]}\")\n"
    "\n"
    "\n"
    "if __name__ == \"__main__\":\n"
    "    if len(sys.argv) != 3:\n"
    "        raise SystemExit(f\"usage: {sys.argv[0]} MODEL OUT\")\n"
    "    convert(sys.argv[1], sys.argv[2])\n";

typedef struct defaults {
    int group_size; /* the least of all */
    int bits;       /* the most common */
} defaults;

static defaults defaults_of(const om_allocation *a) {
    int count[9] = { 0 };
    defaults d = { .group_size = 0, .bits = 4 };
    for (int i = 0; i < a->n_tensors; i++) {
        const om_format *f = a->tensors[i].format;
        if (f->mlx != OM_MLX_NONE) {
            count[f->bits]++;
            d.group_size = d.group_size == 0 || f->block < d.group_size ? f->block : d.group_size;
        }
    }
    for (int bits = 2; bits <= 8; bits++) {
        d.bits = count[bits] > count[d.bits] ? bits : d.bits;
    }
    d.group_size = d.group_size == 0 ? 64 : d.group_size;
    return d;
}

static om_status module_of(char **out, const om_allocation *a, om_error *err) {
    om_status status = OM_OK;
    om_buf b = { 0 };
    const defaults d = defaults_of(a);
    modules *m = om_calloc(1, sizeof *m);
    if (m == NULL) {
        return om_fail_nomem(err, sizeof *m);
    }
    for (int i = 0; i < a->n_tensors; i++) {
        OM_TRY(add_names(m, a->tensors[i].name, err));
    }
    om_buf_printf(&b,
                  "\"\"\"Types for mlx_lm.convert, chosen by Optimum " OM_VERSION
                  " (allocation %s).\n\n    python3 THIS.py MODEL OUT\n\nquantizes MODEL with "
                  "mlx-lm; or use quant_predicate in a program of yours.\n\"\"\"\nimport sys\n\n",
                  a->sha256);
    om_buf_printf(&b,
                  "# defaults of mlx_lm.convert: it asks about modules whose rows GROUP_SIZE "
                  "divides\nGROUP_SIZE = %d\nBITS = %d\n\n",
                  d.group_size, d.bits);
    put_types(&b, a);
    put_modules(&b, m);
    om_buf_puts(&b, functions);
    *out = om_buf_take(&b);
    if (*out == NULL) {
        OM_TRY(om_fail_nomem(err, 0));
    }
out:
    om_buf_release(&b);
    om_free(m);
    return status;
}

/* ---- the result ---- */

static om_status make_result(om_result *out, const om_allocation *a,
                             const om_export_options *options, om_error *err) {
    om_buf text = { 0 }, command = { 0 };
    const defaults d = defaults_of(a);
    om_json *doc = om_json_new_document("optimum.export/1");
    om_buf_puts(&command, "python3 ");
    om_buf_put_word(&command, options->out);
    om_buf_puts(&command, " MODEL OUTPUT");
    om_buf_printf(&text, "%s: %d tensors\n\n  %s\n\n", options->out, a->n_tensors,
                  command.data == NULL ? "" : command.data);
    om_buf_printf(&text,
                  "MODEL is the Hugging Face directory or name of the model. In a program:\n\n"
                  "  mlx_lm.convert(MODEL, OUTPUT, quantize=True, q_group_size=%d, q_bits=%d,\n"
                  "                 quant_predicate=quant_predicate)\n\n"
                  "mlx-lm rounds plainly; optimum quantize --to mlx loses less at the same size.\n",
                  d.group_size, d.bits);
    om_json_set_str(doc, "to", "mlx");
    om_json_set_str(doc, "path", options->out);
    om_json_set_str(doc, "allocation_sha256", a->sha256);
    om_json_set_str(doc, "model_sha256", a->model_sha256);
    om_json_set_i64(doc, "tensors", a->n_tensors);
    om_json_set_i64(doc, "q_group_size", d.group_size);
    om_json_set_i64(doc, "q_bits", d.bits);
    om_json_set_str(doc, "command", command.data == NULL ? "" : command.data);
    const bool failed = command.failed;
    om_result result = { .json = om_json_dump(doc), .text = om_buf_take(&text) };
    om_buf_release(&text);
    om_buf_release(&command);
    om_json_free(doc);
    if (failed || result.json == NULL || result.text == NULL) {
        om_result_release(&result);
        return om_fail_nomem(err, 0);
    }
    *out = result;
    return OM_OK;
}

om_status om_export_mlx(om_result *out, const om_allocation *a, const om_export_options *options,
                        om_error *err) {
    om_status status = OM_OK;
    char *text = NULL;
    OM_TRY(module_of(&text, a, err));
    OM_TRY(om_file_write(options->out, text, strlen(text), err));
    OM_TRY(make_result(out, a, options, err));
out:
    om_free(text);
    return status;
}
