/* An inspection as a table and as JSON (schema optimum.inspect/1, docs/formats.md). */
#include "model/inspect.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"

static double bits_per_weight(const om_inspection *in, int64_t bytes) {
    return (double) bytes * 8.0 / (double) om_model_params(in->model);
}

static bool has(uint64_t mask, int i) {
    return (mask >> i & 1) != 0;
}

static void add_names(om_buf *b, uint64_t mask) {
    const char *comma = "";
    for (int i = 0; om_format_at(i) != NULL; i++) {
        if (has(mask, i)) {
            om_buf_printf(b, "%s%s", comma, om_format_at(i)->name);
            comma = ", ";
        }
    }
}

/* The same for a table: long sets as "first … last (n types)". */
static void add_summary(om_buf *b, uint64_t mask) {
    int n = 0, first = 0, last = 0;
    for (int i = 0; om_format_at(i) != NULL; i++) {
        if (has(mask, i)) {
            first = n == 0 ? i : first;
            last = i;
            n++;
        }
    }
    if (n <= 6) {
        add_names(b, mask);
    } else {
        om_buf_printf(b, "%s \xE2\x80\xA6 %s (%d types)", om_format_at(first)->name,
                      om_format_at(last)->name, n);
    }
}

/* "134.5 M" */
static const char *count_text(char dst[24], int64_t n) {
    double v = (double) n;
    if (n < 100000) {
        snprintf(dst, 24, "%lld", (long long) n);
    } else if (v < 1e9) {
        snprintf(dst, 24, "%.1f M", v / 1e6);
    } else {
        snprintf(dst, 24, "%.2f G", v / 1e9);
    }
    return dst;
}

/* ---- text ---- */

/* Text from the file: cut, and without control characters, which a terminal would obey. */
static void add_foreign_text(om_buf *b, const char *text) {
    om_buf_puts(b, " (");
    for (int i = 0; i < 80 && text[i] != '\0'; i++) {
        char c = (unsigned char) text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
        om_buf_add(b, &c, 1);
    }
    om_buf_puts(b, ")");
}

static void add_head(om_buf *b, const om_inspection *in) {
    const om_model *m = in->model;
    char params[24], size[32];
    om_buf_printf(b, "%s\n", om_model_path(m));
    om_buf_printf(b, "architecture %s", om_model_arch(m));
    const char *name = om_model_str(m, "general.name", NULL);
    if (name != NULL) {
        add_foreign_text(b, name);
    }
    om_buf_printf(b, ", %d layers, %d tensors", in->memory.n_layers, om_model_n_tensors(m));
    if (om_model_n_splits(m) > 1) {
        om_buf_printf(b, " in %d parts", om_model_n_splits(m));
    }
    om_buf_printf(b, "\n%s weights, %s, %.2f bits per weight\n\n",
                  count_text(params, om_model_params(m)),
                  om_format_bytes(size, (double) om_model_file_bytes(m), false),
                  bits_per_weight(in, om_model_file_bytes(m)));
}

static void add_roles(om_buf *b, const om_inspection *in) {
    om_buf_puts(b, "role                     tensors    weights        size  now    may become\n");
    for (int i = 0; i < in->n_roles; i++) {
        const om_role_info *r = &in->roles[i];
        if (r->n_quantizable == 0) {
            continue;
        }
        char params[24], size[32];
        om_buf_printf(b, "%-26.26s %5d %10s %11s  ", r->role, r->n_tensors,
                      count_text(params, r->params),
                      om_format_bytes(size, (double) r->bytes, false));
        add_names(b, r->sources);
        om_buf_puts(b, "   ");
        add_summary(b, r->candidates & ~r->sources);
        om_buf_puts(b, r->candidates & ~r->sources ? "\n" : "nothing smaller\n");
    }
}

static void add_copied(om_buf *b, const om_inspection *in) {
    int n = 0;
    int64_t bytes = 0;
    om_buf names = { 0 };
    for (int i = 0; i < in->n_roles; i++) {
        const om_role_info *r = &in->roles[i];
        if (r->n_quantizable == 0) {
            om_buf_printf(&names, "%s%s", n > 0 ? ", " : "", r->role);
            n += r->n_tensors;
            bytes += r->bytes;
        }
    }
    char size[32];
    if (n > 0) {
        om_buf_printf(b, "copied as they are: %d tensors, %s (%s)\n", n,
                      om_format_bytes(size, (double) bytes, false),
                      names.data != NULL ? names.data : "");
    }
    om_buf_release(&names);
}

/* Types that a shape excludes, once per set, with what it means for the user. */
static void add_excluded(om_buf *b, const om_inspection *in) {
    for (int i = 0; i < in->n_roles; i++) {
        const om_role_info *r = &in->roles[i];
        bool seen = r->excluded == 0;
        for (int k = 0; k < i && !seen; k++) {
            seen = in->roles[k].excluded == r->excluded && in->roles[k].row == r->row;
        }
        if (seen) {
            continue;
        }
        om_buf_puts(b, "\nnot possible for ");
        const char *comma = "";
        for (int k = i; k < in->n_roles; k++) {
            if (in->roles[k].excluded == r->excluded && in->roles[k].row == r->row) {
                om_buf_printf(b, "%s%s", comma, in->roles[k].role);
                comma = ", ";
            }
        }
        om_buf_puts(b, ": ");
        add_names(b, r->excluded);
        if (r->row > 0) {
            om_buf_printf(b,
                          ". A row has %lld weights, which the blocks of these types (mostly 256) "
                          "do not divide",
                          (long long) r->row);
        } else {
            om_buf_puts(b, ". Rows of some of them are not divided by the blocks of these types");
        }
        om_buf_puts(b, "; other tools fall back to a larger type. So these "
                       "tensors cannot go as low as others.\n");
    }
}

static void add_sizes(om_buf *b, const om_inspection *in) {
    char a[32];
    om_buf_printf(b, "\nsmallest possible file  %11s  %.3f bits per weight\n",
                  om_format_bytes(a, (double) in->smallest_bytes, false),
                  bits_per_weight(in, in->smallest_bytes));
    om_buf_printf(b, "largest quantized       %11s  %.3f\n",
                  om_format_bytes(a, (double) in->largest_quantized_bytes, false),
                  bits_per_weight(in, in->largest_quantized_bytes));
    if (in->kv_bytes >= 0) {
        om_buf_printf(b, "KV cache                %11s  for %d tokens in %s\n",
                      om_format_bytes(a, (double) in->kv_bytes, true), in->n_ctx, in->kv_type);
    }
    om_buf_printf(b, "compute buffers         %11s  %s\n",
                  om_format_bytes(a, (double) in->compute_bytes, true),
                  in->memory.compute_estimated ? "a guess: libllama cannot simulate this model"
                                               : "512 tokens at a time, simulated by libllama");
}

static void add_budget(om_buf *b, const om_inspection *in) {
    if (in->budget.kind == OM_BUDGET_NONE) {
        return;
    }
    char a[32];
    om_buf_printf(b, "\nthe budget allows a file of %s, %.3f bits per weight: ",
                  om_format_bytes(a, (double) in->budget_file_bytes, false),
                  bits_per_weight(in, in->budget_file_bytes));
    if (in->budget_file_bytes >= in->largest_bytes) {
        om_buf_puts(b, "the model fits as it is, nothing need be quantized\n");
    } else {
        om_buf_puts(b, "feasible\n");
    }
}

static bool is_quantized_source(const om_inspection *in) {
    for (int i = 0; i < in->n_roles; i++) {
        for (int k = 0; om_format_at(k) != NULL; k++) {
            if (has(in->roles[i].sources, k) && in->roles[i].n_quantizable > 0 &&
                om_format_at(k)->use != OM_FORMAT_PLAIN) {
                return true;
            }
        }
    }
    return false;
}

char *om_inspection_text(const om_inspection *in) {
    om_buf b = { 0 };
    add_head(&b, in);
    add_roles(&b, in);
    add_copied(&b, in);
    if (is_quantized_source(in)) {
        om_buf_puts(&b, "\nThe source is quantized already: its errors stay, and what follows is "
                        "measured against it. Start from a BF16 or F16 file if there is one.\n");
    }
    add_excluded(&b, in);
    add_sizes(&b, in);
    add_budget(&b, in);
    return om_buf_take(&b);
}

/* ---- JSON ---- */

static om_json *names_json(uint64_t mask) {
    om_json *a = om_json_array();
    for (int i = 0; om_format_at(i) != NULL; i++) {
        if (has(mask, i)) {
            om_json_push(a, om_json_str(om_format_at(i)->name));
        }
    }
    return a;
}

static om_json *model_json(const om_inspection *in) {
    const om_model *m = in->model;
    om_json *o = om_json_object();
    om_json_set_str(o, "path", om_model_path(m));
    om_json_set_str(o, "arch", om_model_arch(m));
    om_json_set_str(o, "name", om_model_str(m, "general.name", NULL));
    om_json_set_i64(o, "layers", in->memory.n_layers);
    om_json_set_i64(o, "tensors", om_model_n_tensors(m));
    om_json_set_i64(o, "parts", om_model_n_splits(m));
    om_json_set_i64(o, "params", om_model_params(m));
    om_json_set_i64(o, "file_bytes", om_model_file_bytes(m));
    om_json_set_f64(o, "bpw", bits_per_weight(in, om_model_file_bytes(m)));
    om_json_set_bool(o, "quantized_source", is_quantized_source(in));
    return o;
}

static om_json *roles_json(const om_inspection *in) {
    om_json *a = om_json_array();
    for (int i = 0; i < in->n_roles; i++) {
        const om_role_info *r = &in->roles[i];
        om_json *o = om_json_object();
        om_json_set_str(o, "role", r->role);
        om_json_set_i64(o, "tensors", r->n_tensors);
        om_json_set_i64(o, "params", r->params);
        om_json_set_i64(o, "bytes", r->bytes);
        om_json_set_i64(o, "smallest_bytes", r->smallest_bytes);
        om_json_set_bool(o, "may_quantize", r->n_quantizable > 0);
        om_json_set(o, "source_types", names_json(r->sources));
        om_json_set(o, "types", names_json(r->candidates));
        om_json_set(o, "excluded_types", names_json(r->excluded));
        om_json_set_i64(o, "row", r->row);
        om_json_push(a, o);
    }
    return a;
}

static om_json *memory_json(const om_inspection *in) {
    om_json *o = om_json_object(), *values = om_json_array(), *window = om_json_array();
    for (int i = 0; i < in->memory.n_layers; i++) {
        om_json_push(values, om_json_i64(in->memory.kv_values_per_token[i]));
        om_json_push(window, om_json_i64(in->memory.window[i]));
    }
    om_json_set_i64(o, "n_ctx", in->n_ctx);
    om_json_set_str(o, "kv_type", in->kv_type);
    om_json_set_i64(o, "kv_bytes", in->kv_bytes);
    om_json_set_i64(o, "compute_bytes", in->compute_bytes);
    om_json_set_bool(o, "compute_estimated", in->memory.compute_estimated);
    om_json_set_i64(o, "reserve_bytes", in->reserve_bytes);
    om_json_set(o, "kv_values_per_token", values);
    om_json_set(o, "window", window);
    return o;
}

static om_json *file_json(const om_inspection *in, int64_t bytes) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "bytes", bytes);
    om_json_set_f64(o, "bpw", bits_per_weight(in, bytes));
    return o;
}

char *om_inspection_json(const om_inspection *in) {
    static const char *const kinds[] = { "none", "size", "bpw", "memory" };
    om_json *doc = om_json_new_document("optimum.inspect/1");
    om_json_set(doc, "model", model_json(in));
    om_json_set(doc, "roles", roles_json(in));
    om_json_set_i64(doc, "metadata_bytes", in->metadata_bytes);
    om_json_set_i64(doc, "alignment", om_gguf_alignment(in->model));
    om_json_set(doc, "memory", memory_json(in));
    om_json_set(doc, "smallest", file_json(in, in->smallest_bytes));
    om_json_set(doc, "largest_quantized", file_json(in, in->largest_quantized_bytes));
    om_json_set(doc, "unquantized", file_json(in, in->largest_bytes));
    if (in->budget.kind != OM_BUDGET_NONE) {
        om_json *budget = file_json(in, in->budget_file_bytes);
        om_json_set_str(budget, "kind", kinds[in->budget.kind]);
        om_json_set_bool(budget, "feasible", true);
        om_json_set_bool(budget, "fits_unquantized", in->budget_file_bytes >= in->largest_bytes);
        om_json_set(doc, "budget", budget);
    }
    char *text = om_json_dump(doc);
    om_json_free(doc);
    return text;
}
