/* The verb `inspect` for a profile: profile.json -> what was measured, for people and as JSON
 * (schema optimum.profile_inspect/1, docs/formats.md).
 *
 * Of a mixture of experts, maps of expert x layer drawn with block characters, one sign an expert
 * on a logarithmic scale: a terminal has room for about a hundred, so with more experts a sign is
 * the mean of several neighbours. The JSON holds every number. The profile may be edited or
 * hostile: names are cut and lose their control characters before a terminal sees them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/log.h"
#include "base/mem.h"
#include "profile/experts.h"

enum { TOP_TENSORS = 10, TOP_EXPERTS = 8, NAMED_FEW = 24, MAP_COLUMNS = 96, N_SIGNS = 8 };

static const char *const signs[N_SIGNS] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };

/* A tensor and what it loses at about 4 bits. */
typedef struct cost {
    const om_unit *unit;
    const om_choice *choice;
    double per_weight; /* nats per token and weight */
} cost;

/* Everything that is shown; owned but for the profile. */
typedef struct findings {
    const om_profile *profile;
    cost *costs; /* [n_units] largest nats per weight first */
    om_experts experts;
    const om_expert **ranked; /* [experts.n] by trace, or by tokens when there is no trace */
    om_concentration sensitivity, routing;
} findings;

/* ---- gather ---- */

static int by_cost(const void *a, const void *b) {
    const cost *p = a, *q = b;
    if (p->per_weight != q->per_weight) {
        return p->per_weight > q->per_weight ? -1 : 1;
    }
    return p->unit < q->unit ? -1 : p->unit > q->unit;
}

static om_status gather(findings *f, const om_profile *p, om_error *err) {
    om_status status = OM_OK;
    f->profile = p;
    f->costs = om_calloc((size_t) p->n_units, sizeof *f->costs);
    if (!f->costs) {
        return om_fail_nomem(err, (size_t) p->n_units * sizeof *f->costs);
    }
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = &p->units[i];
        const om_choice *c = om_unit_four_bit(u); /* the source's type is always there */
        f->costs[i] = (cost){ u, c, c->nats / (double) u->params };
    }
    qsort(f->costs, (size_t) p->n_units, sizeof *f->costs, by_cost);
    OM_TRY(om_experts_of(&f->experts, p, err));
    const om_experts *e = &f->experts;
    OM_TRY(
        om_experts_ranked(&f->ranked, e, e->has_trace ? OM_EXPERT_TRACE : OM_EXPERT_TOKENS, err));
    OM_TRY(om_experts_concentration(&f->sensitivity, e->all, e->n, OM_EXPERT_TRACE, err));
    OM_TRY(om_experts_concentration(&f->routing, e->all, e->n, OM_EXPERT_TOKENS, err));
out:
    return status;
}

static void findings_release(findings *f) {
    om_free(f->costs);
    om_free(f->ranked);
    om_experts_release(&f->experts);
}

/* ---- text: model and tensors ---- */

/* Text from the file: without control characters, which a terminal would obey. */
static void add_foreign(om_buf *b, const char *text) {
    for (; *text; text++) {
        const char c = (unsigned char) *text < 0x20 || *text == 0x7F ? '?' : *text;
        om_buf_add(b, &c, 1);
    }
}

static void text_head(om_buf *b, const om_profile *p) {
    char size[32];
    om_buf_puts(b, "model        ");
    add_foreign(b, p->model_path);
    om_buf_puts(b, " (");
    add_foreign(b, p->arch);
    om_buf_printf(b, "), %.1f M weights, %s\nmethod       ", (double) p->params / 1e6,
                  om_format_bytes(size, (double) p->file_bytes, false));
    add_foreign(b, p->method);
    om_buf_printf(b, "\ncalibration  %d windows of %d tokens (%lld scored), chosen by ",
                  p->n_windows, p->window_tokens, (long long) p->tokens);
    add_foreign(b, p->select[0] ? p->select : "spread");
    om_buf_printf(b, ", seed %llu\n", (unsigned long long) p->seed);
}

static void text_tensors(om_buf *b, const findings *f) {
    const int n = f->profile->n_units, shown = n < TOP_TENSORS ? n : TOP_TENSORS;
    om_buf_printf(b, "\nMost sensitive of %d tensors: nats per weight at about 4 bits\n", n);
    om_buf_puts(b,
                "tensor                             type        weights      nats  nats/weight\n");
    for (int i = 0; i < shown; i++) {
        const cost *c = &f->costs[i];
        const size_t length = strlen(c->unit->name);
        add_foreign(b, c->unit->name);
        om_buf_printf(b, "%*s %-8s %9.2f M  %8.2e  %11.2e\n", length < 34 ? (int) (34 - length) : 0,
                      "", c->choice->format->name, (double) c->unit->params / 1e6, c->choice->nats,
                      c->per_weight);
    }
}

/* ---- text: experts ---- */

static void text_map_row(om_buf *b, const om_expert_row *row, const om_expert_scale *scale,
                         int per_sign) {
    om_buf_printf(b, "%5d ", row->layer);
    for (int i = 0; i < row->n; i += per_sign) {
        const int end = i + per_sign < row->n ? i + per_sign : row->n;
        double sum = 0;
        for (int k = i; k < end; k++) {
            sum += om_expert_value(&row->experts[k], scale->field);
        }
        const int shade = om_expert_shade(scale, sum / (end - i));
        om_buf_puts(b, shade < 0 ? "·" : signs[shade]);
    }
    om_buf_puts(b, "\n");
}

static void text_map(om_buf *b, const om_experts *e, om_expert_field field, const char *title) {
    const om_expert_scale scale = om_experts_scale(e, field, N_SIGNS);
    const int per_sign = (e->most + MAP_COLUMNS - 1) / MAP_COLUMNS;
    om_buf_printf(b, "\n%s, %s %.3g … %s %.3g logarithmic, · none\n", title, signs[0],
                  pow(10, scale.low), signs[N_SIGNS - 1], pow(10, scale.high));
    if (per_sign > 1) {
        om_buf_printf(b, "layer, then experts 0 to %d, %d to a sign (their mean)\n", e->most - 1,
                      per_sign);
    } else {
        om_buf_printf(b, "layer, then experts 0 to %d\n", e->most - 1);
    }
    for (int i = 0; i < e->n_rows; i++) {
        text_map_row(b, &e->rows[i], &scale, per_sign);
    }
}

static void text_concentration(om_buf *b, const om_concentration *c, const char *name) {
    om_buf_printf(b, "%s the top tenth (%d experts) has %.1f %%, Gini %.2f, largest ", name,
                  c->n_top, 100 * c->top_share, c->gini);
    if (isnan(c->largest_to_median)) {
        om_buf_puts(b, "above a median of 0\n");
    } else {
        om_buf_printf(b, "%.1f times the median\n", c->largest_to_median);
    }
}

static void text_ranking(om_buf *b, const findings *f) {
    const om_experts *e = &f->experts;
    const int shown = e->n < TOP_EXPERTS ? e->n : TOP_EXPERTS;
    for (int end = 0; end < 2; end++) {
        om_buf_puts(b, end ? "least " : "most ");
        om_buf_puts(b, e->has_trace ? "sensitive experts\n" : "used experts\n");
        for (int i = 0; i < shown; i++) {
            const om_expert *x = f->ranked[end ? e->n - 1 - i : i];
            om_buf_printf(b, "  blk.%d:%-5d trace %9.3g  %8.0f tokens in %.0f windows\n", x->layer,
                          x->expert, x->trace, x->tokens, x->windows);
        }
    }
}

static void text_few(om_buf *b, const om_experts *e) {
    const int few = om_experts_few(e);
    om_buf_printf(b, "\nhardly seen (fewer than %d tokens): %d of %d experts", OM_EXPERT_FEW, few,
                  e->n);
    for (int i = 0, named = 0; i < e->n && named < NAMED_FEW; i++) {
        if (e->all[i].tokens < OM_EXPERT_FEW) {
            om_buf_printf(b, "%s blk.%d:%d (%.0f)", named++ ? "," : ":", e->all[i].layer,
                          e->all[i].expert, e->all[i].tokens);
        }
    }
    om_buf_puts(b, few > NAMED_FEW ? ", …\n" : "\n");
}

static void text_experts(om_buf *b, const findings *f) {
    const om_experts *e = &f->experts;
    if (e->n == 0) {
        return;
    }
    om_buf_printf(b, "\n%d experts in %d layers\n", e->n, e->n_rows);
    if (e->has_trace) {
        text_map(b, e, OM_EXPERT_TRACE, "Sensitivity (trace)");
    }
    text_map(b, e, OM_EXPERT_TOKENS, "Frequency (tokens)");
    om_buf_puts(b, "\n");
    if (e->has_trace) {
        text_concentration(b, &f->sensitivity, "sensitivity ");
    }
    text_concentration(b, &f->routing, "routing     ");
    om_buf_puts(b, "\n");
    text_ranking(b, f);
    text_few(b, e);
}

/* ---- JSON ---- */

static om_json *model_json(const om_profile *p) {
    om_json *o = om_json_object();
    om_json_set_str(o, "path", p->model_path);
    om_json_set_str(o, "sha256", p->model_sha256);
    om_json_set_str(o, "arch", p->arch);
    om_json_set_i64(o, "params", p->params);
    om_json_set_i64(o, "file_bytes", p->file_bytes);
    return o;
}

static om_json *calibration_json(const om_profile *p) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "windows", p->n_windows);
    om_json_set_i64(o, "window_tokens", p->window_tokens);
    om_json_set_i64(o, "tokens", p->tokens);
    om_json_set_u64(o, "seed", p->seed);
    om_json_set_str(o, "select", p->select[0] ? p->select : "spread");
    return o;
}

static om_json *tensors_json(const findings *f) {
    om_json *a = om_json_array();
    for (int i = 0; i < f->profile->n_units; i++) {
        const cost *c = &f->costs[i];
        om_json *o = om_json_object();
        om_json_set_str(o, "name", c->unit->name);
        om_json_set_str(o, "type", c->choice->format->name);
        om_json_set_i64(o, "params", c->unit->params);
        om_json_set_f64(o, "nats", c->choice->nats);
        om_json_set_f64(o, "nats_per_weight", c->per_weight);
        om_json_push(a, o);
    }
    return a;
}

static om_json *concentration_json(const om_concentration *c) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "top_experts", c->n_top);
    om_json_set_f64(o, "top_share", c->top_share);
    om_json_set_f64(o, "gini", c->gini);
    om_json_set_f64(o, "largest_to_median", c->largest_to_median);
    return o;
}

static om_status layers_json(om_json **out, const om_experts *e, om_error *err) {
    om_status status = OM_OK;
    om_json *a = om_json_array();
    for (int r = 0; r < e->n_rows; r++) {
        const om_expert_row *row = &e->rows[r];
        om_json *o = om_json_object(), *values[4];
        om_concentration c;
        om_json_push(a, o);
        for (int k = 0; k < 4; k++) {
            values[k] = om_json_array();
        }
        for (int i = 0; i < row->n; i++) {
            const om_expert *x = &row->experts[i];
            const double v[4] = { x->trace, x->tokens, x->router_weight, x->windows };
            for (int k = 0; k < 4; k++) {
                om_json_push(values[k], om_json_f64(v[k]));
            }
        }
        om_json_set_i64(o, "layer", row->layer);
        om_json_set(o, "trace", values[0]);
        om_json_set(o, "tokens", values[1]);
        om_json_set(o, "router_weight", values[2]);
        om_json_set(o, "windows", values[3]);
        if (e->has_trace) {
            OM_TRY(om_experts_concentration(&c, row->experts, row->n, OM_EXPERT_TRACE, err));
            om_json_set(o, "sensitivity", concentration_json(&c));
        }
        OM_TRY(om_experts_concentration(&c, row->experts, row->n, OM_EXPERT_TOKENS, err));
        om_json_set(o, "routing", concentration_json(&c));
    }
    *out = a;
    a = NULL;
out:
    om_json_free(a);
    return status;
}

static om_json *expert_json(const om_expert *x) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "layer", x->layer);
    om_json_set_i64(o, "expert", x->expert);
    om_json_set_f64(o, "trace", x->trace);
    om_json_set_f64(o, "tokens", x->tokens);
    return o;
}

static om_status experts_json(om_json *doc, const findings *f, om_error *err) {
    om_status status = OM_OK;
    const om_experts *e = &f->experts;
    if (e->n == 0) {
        return OM_OK;
    }
    om_json *o = om_json_object(), *ranked = om_json_array(), *few = om_json_array(),
            *layers = NULL;
    OM_TRY(layers_json(&layers, e, err));
    om_json_set_i64(o, "n", e->n);
    if (e->has_trace) {
        om_json_set(o, "sensitivity", concentration_json(&f->sensitivity));
    }
    om_json_set(o, "routing", concentration_json(&f->routing));
    om_json_set_i64(o, "few_tokens", OM_EXPERT_FEW);
    for (int i = 0; i < e->n; i++) {
        om_json_push(ranked, expert_json(f->ranked[i]));
        if (e->all[i].tokens < OM_EXPERT_FEW) {
            om_json_push(few, expert_json(&e->all[i]));
        }
    }
    om_json_set(o, "few", few);
    om_json_set(o, "layers", layers);
    om_json_set(o, "ranked", ranked);
    om_json_set(doc, "experts", o);
    o = ranked = few = NULL;
out:
    om_json_free(o);
    om_json_free(ranked);
    om_json_free(few);
    return status;
}

static om_status make_result(om_result *out, const findings *f, om_error *err) {
    om_status status = OM_OK;
    om_result r = { 0 };
    om_buf text = { 0 };
    om_json *doc = om_json_new_document("optimum.profile_inspect/1");
    om_json_set(doc, "model", model_json(f->profile));
    om_json_set_str(doc, "method", f->profile->method);
    om_json_set(doc, "calibration", calibration_json(f->profile));
    om_json_set(doc, "tensors", tensors_json(f));
    OM_TRY(experts_json(doc, f, err));
    text_head(&text, f->profile);
    text_tensors(&text, f);
    text_experts(&text, f);
    r.json = om_json_dump(doc);
    r.text = om_buf_take(&text);
    if (!r.json || !r.text) {
        OM_TRY(om_fail_nomem(err, 1 << 16));
    }
    *out = r;
    r = (om_result){ 0 };
out:
    om_result_release(&r);
    om_buf_release(&text);
    om_json_free(doc);
    return status;
}

om_status om_inspect_profile(om_result *out, const om_inspect_profile_options *options,
                             const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_profile *profile = NULL;
    findings f = { 0 };
    if (!options->profile) {
        OM_TRY(om_fail(err, OM_E_ARG, "expected the path of a profile.json"));
    }
    OM_TRY(om_check_cancel(env, err));
    OM_TRY(om_profile_read(&profile, options->profile, err));
    const bool gguf = om_profile_has(profile, OM_CONTAINER_GGUF);
    OM_TRY(om_profile_for(profile, gguf ? OM_CONTAINER_GGUF : OM_CONTAINER_MLX, err));
    OM_TRY(gather(&f, profile, err));
    OM_TRY(make_result(out, &f, err));
out:
    findings_release(&f);
    om_profile_free(profile);
    return status == OM_OK ? OM_OK : om_error_context(err, "inspect");
}
