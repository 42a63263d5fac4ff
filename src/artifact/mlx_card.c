/* plan -> README.md. */
#include "artifact/mlx_card.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/roles.h"

/* ---- where the model comes from ---- */

/* Copy [from, end) when it looks like a name on the hub: "org/name". */
static bool copy_name(char out[128], const char *from, size_t n) {
    const char *slash = memchr(from, '/', n);
    if (n == 0 || n >= 128 || slash == NULL || slash == from || slash == from + n - 1) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const char c = from[i];
        const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
        if (!word && from + i != slash) {
            return false;
        }
    }
    memcpy(out, from, n);
    out[n] = '\0';
    return out[0] != '.' && out[0] != '-';
}

/* A folder of the hub's cache, "…/models--org--name/snapshots/…", or "_name_or_path". */
static bool base_model(char out[128], const om_hf *hf) {
    static const char folder[] = "models--";
    const om_node root = om_node_root(om_hf_config(hf), "config.json");
    om_error ignored = { 0 };
    const char *name = NULL, *at = strstr(om_hf_path(hf), folder);
    if (at != NULL) {
        char text[128] = "";
        at += sizeof folder - 1;
        const size_t n = strcspn(at, "/");
        const char *dashes = strstr(at, "--");
        if (n < sizeof text && dashes != NULL && dashes < at + n) {
            const size_t org = (size_t) (dashes - at);
            memcpy(text, at, org);
            text[org] = '/';
            memcpy(text + org + 1, dashes + 2, n - org - 2);
            return copy_name(out, text, n - 1);
        }
    }
    return om_node_has(&root, "_name_or_path") &&
           om_node_str(&name, &root, "_name_or_path", &ignored) == OM_OK &&
           copy_name(out, name, strlen(name));
}

static bool is_licence(const char *line, size_t n) {
    static const char *const keys[] = { "license: ", "license_name: ", "license_link: " };
    bool known = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        known = known || (n > strlen(keys[i]) && strncmp(line, keys[i], strlen(keys[i])) == 0);
    }
    for (size_t i = 0; i < n; i++) {
        known = known && line[i] >= 0x20 && line[i] < 0x7F;
    }
    return known && n < 200;
}

/* The lines about the licence in the front matter of the source's card. */
static void put_licence(om_buf *b, const om_hf *hf) {
    om_error ignored = { 0 };
    char *text = NULL, *path = om_path_join(om_hf_path(hf), "README.md");
    size_t n = 0;
    if (path != NULL && om_file_exists(path) &&
        om_file_read(&text, &n, path, 1 << 20, &ignored) == OM_OK && strlen(text) == n &&
        strncmp(text, "---\n", 4) == 0) {
        for (const char *line = text + 4; *line != '\0' && strncmp(line, "---", 3) != 0;) {
            const size_t length = strcspn(line, "\n");
            if (is_licence(line, length)) {
                om_buf_add(b, line, length);
                om_buf_puts(b, "\n");
            }
            line += length + (line[length] == '\n');
        }
    }
    om_free(text);
    om_free(path);
}

static void put_front_matter(om_buf *b, const om_hf *hf) {
    char name[128];
    om_buf_puts(b, "---\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n");
    if (base_model(name, hf)) {
        om_buf_printf(b, "base_model: %s\n", name);
    }
    put_licence(b, hf);
    om_buf_puts(b, "---\n\n");
}

/* ---- the recipe ---- */

static void put_sizes(om_buf *b, const om_mlx_plan *plan, const om_allocation *a,
                      const om_gguf_record *record) {
    char size[32];
    const double bytes = (double) plan->layout.total_bytes;
    om_buf_puts(b, "| | |\n|---|---|\n");
    om_buf_printf(b, "| weights | %s (%" PRId64 " bytes) in %d file%s |\n",
                  om_format_bytes(size, bytes, false), plan->layout.total_bytes,
                  plan->layout.n_shards, plan->layout.n_shards == 1 ? "" : "s");
    om_buf_printf(b, "| bits per weight | %.3f |\n", 8 * bytes / (double) om_hf_params(plan->hf));
    if (a->budget_bytes > 0) {
        om_buf_printf(b, "| budget | %s |\n",
                      om_format_bytes(size, (double) a->budget_bytes, false));
    }
    om_buf_printf(b, "| plan | %s |\n", a->plan);
    if (isfinite(record->predicted_nats)) {
        om_buf_printf(b,
                      "| predicted loss | %.5f nats per token (KL divergence from the "
                      "original) |\n",
                      record->predicted_nats);
    }
    om_buf_printf(b, "| rounding | %s |\n\n",
                  plan->search ? "scale and offset of each group chosen for the least error, "
                                 "weights weighted by their inputs"
                               : "minimum and maximum of each group, as mlx.core.quantize");
}

static bool has_role(const om_mlx_plan_item *item, const char *role) {
    char its[64];
    int layer;
    om_tensor_role(its, &layer, item->tensor->name);
    return strcmp(its, role) == 0;
}

/* "mlx_4bit_g64 × 5": the role's tensors of one type. */
static void put_type(om_buf *types, const om_mlx_plan *plan, const char *role,
                     const om_format *format) {
    int n = 0;
    for (int i = 0; i < plan->n_items; i++) {
        n += plan->items[i].to == format && has_role(&plan->items[i], role);
    }
    if (n > 0) {
        om_buf_printf(types, "%s%s × %d", types->len > 0 ? ", " : "", format->name, n);
    }
}

/* One line: role, tensors, their types, bytes. */
static void put_role(om_buf *b, const om_mlx_plan *plan, const char *role) {
    int n = 0;
    int64_t bytes = 0;
    char size[32];
    om_buf types = { 0 };
    for (int i = 0; i < plan->n_items; i++) {
        if (has_role(&plan->items[i], role)) {
            n++;
            bytes += plan->items[i].bytes;
        }
    }
    for (int k = 0; om_format_mlx_at(k) != NULL; k++) {
        put_type(&types, plan, role, om_format_mlx_at(k));
    }
    put_type(&types, plan, role, plan->dense);
    om_buf_printf(b, "| %s | %d | %s | %s |\n", role, n, types.data == NULL ? "" : types.data,
                  om_format_bytes(size, (double) bytes, false));
    om_buf_release(&types);
}

static void put_types(om_buf *b, const om_mlx_plan *plan) {
    int layer;
    om_buf_puts(b, "## Types\n\nBy what a tensor is for, in GGUF's words; everything else (norms, "
                   "biases, routers) is in 16 bits.\n\n"
                   "| role | tensors | types | size |\n|---|---|---|---|\n");
    for (int i = 0; i < plan->n_items; i++) {
        char role[64];
        bool seen = !plan->items[i].tensor->may_quantize;
        om_tensor_role(role, &layer, plan->items[i].tensor->name);
        for (int k = 0; k < i && !seen; k++) {
            seen = has_role(&plan->items[k], role);
        }
        if (!seen) {
            put_role(b, plan, role);
        }
    }
    om_buf_puts(b, "\n");
}

/* What others must know before they run it. */
static void put_banks(om_buf *b, const om_allocation *a) {
    if (a->n_banked == 0) {
        return;
    }
    om_buf_puts(b,
                "## Experts in banks: needs `--trust-remote-code`\n\n"
                "The experts of a layer are sorted into banks with types of their own, which stock "
                "mlx-lm has no module for. This directory brings one, `" OM_HF_BANKS_FILE
                "` (short; read it first), and mlx-lm runs it only when asked to: "
                "`--trust-remote-code`, in Python `mlx_lm.load(path, trust_remote_code=True)`. "
                "Programs without Python (MLX Swift) cannot load this model.\n\n"
                "| layer | experts | gate | up | down |\n|---|---|---|---|---|\n");
    for (int i = 0; i < a->n_banked; i++) {
        const char *name = a->banks[i].name[OM_BANK_GATE];
        for (int k = 0; k < a->banks[i].n_banks; k++) {
            const om_bank *bank = &a->banks[i].banks[k];
            om_buf_printf(b, "| %.*s | %d | %s | %s | %s |\n", (int) strcspn(name + 4, ".") + 4,
                          name, bank->n_experts, bank->format[OM_BANK_GATE]->name,
                          bank->format[OM_BANK_UP]->name, bank->format[OM_BANK_DOWN]->name);
        }
    }
    om_buf_puts(b, "\n");
}

static void put_use(om_buf *b, const om_mlx_plan *plan, const om_allocation *a,
                    const om_quantize_options *o, const om_gguf_record *record) {
    const char *name = om_path_name(o->out);
    om_buf_printf(b,
                  "## Use\n\n```\npip install mlx-lm\nmlx_lm.generate --model %s --prompt "
                  "\"Hello\"%s\n```\n\n",
                  name, a->n_banked > 0 ? " --trust-remote-code" : "");
    om_buf_printf(b,
                  "## Made with\n\n```\noptimum quantize %s -a %s -o %s --to mlx%s\n```\n\n"
                  "| | sha256 |\n|---|---|\n",
                  om_path_name(om_hf_path(plan->hf)), om_path_name(o->allocation), name,
                  o->round != NULL && strcmp(o->round, "plain") == 0 ? " --round plain" : "");
    om_buf_printf(b, "| source | %s |\n| allocation | %s |\n", record->source_sha256, a->sha256);
    if (a->profile_sha256[0] != '\0') {
        om_buf_printf(b, "| profile | %s |\n", a->profile_sha256);
    }
}

om_status om_mlx_card(char **out, const om_mlx_plan *plan, const om_allocation *a,
                      const om_quantize_options *o, const om_gguf_record *record, om_error *err) {
    om_buf b = { 0 };
    put_front_matter(&b, plan->hf);
    om_buf_printf(&b,
                  "# %s\n\nA mixed-precision MLX model: every tensor has the type that loses least "
                  "for its bytes, chosen by Optimum " OM_VERSION " from %s.\n\n",
                  om_path_name(o->out), om_path_name(om_hf_path(plan->hf)));
    put_sizes(&b, plan, a, record);
    put_types(&b, plan);
    put_banks(&b, a);
    put_use(&b, plan, a, o, record);
    *out = om_buf_take(&b);
    om_buf_release(&b);
    return *out == NULL ? om_fail_nomem(err, 0) : OM_OK;
}
