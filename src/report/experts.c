/* Experts of a mixture -> a section of the report: expert x layer maps of sensitivity and of
 * frequency, how concentrated both are, the ranking, and the experts hardly seen. Nothing for a
 * dense model.
 *
 * A model has up to tens of thousands of experts, so a cell is not an element of its own: a row is
 * one drawing with a path for each shade, about eight bytes a cell, and its numbers are one
 * attribute that the script reads out where a finger or a mouse points. Without the script a row
 * still says its layer and its largest expert. Sensitivities are shown relative to the average
 * expert, because the trace itself means nothing to a reader.
 */
#include <math.h>

#include "base/mem.h"
#include "profile/experts.h"
#include "report/html.h"
#include "report/sections.h"

enum {
    N_RANKED = 8,
    NAMED_FEW = 24,
    MAX_CELLS = 1 << 16, /* of one map; what a damaged profile names beyond is left out */
    WIDE = 128           /* experts above which the maps go below each other */
};

typedef struct map {
    const om_experts *experts;
    om_expert_scale scale;
    const char *const *shades; /* class of each shade */
    double unit;               /* what values are divided by */
    const char *title, *about, *what;
} map;

/* ---- map ---- */

static bool is_few(const map *m, const om_expert *e) {
    return m->scale.field == OM_EXPERT_TOKENS && e->tokens < OM_EXPERT_FEW;
}

/* All cells of one row that have this shade; -2: those hardly seen, -1: nothing to show. */
static void row_path(om_buf *out, const map *m, const om_expert_row *row, int shade) {
    bool open = false;
    for (int i = 0; i < row->n; i++) {
        const om_expert *e = &row->experts[i];
        const int own =
            is_few(m, e) ? -2 : om_expert_shade(&m->scale, om_expert_value(e, m->scale.field));
        if (own != shade) {
            continue;
        }
        if (!open) {
            om_buf_printf(out, "<path class=\"%s\" d=\"", shade < 0 ? "few" : m->shades[shade]);
            open = true;
        }
        om_buf_printf(out, "M%d 0h.9", i);
    }
    om_buf_puts(out, open ? "\"/>" : "");
}

static void emit_row(om_buf *out, const map *m, const om_expert_row *row, bool label) {
    int top = 0;
    for (int i = 1; i < row->n; i++) {
        if (om_expert_value(&row->experts[i], m->scale.field) >
            om_expert_value(&row->experts[top], m->scale.field)) {
            top = i;
        }
    }
    om_buf_printf(out, "<tr><th scope=\"row\">");
    if (label) {
        om_buf_printf(out, "%d", row->layer);
    }
    om_buf_printf(out,
                  "</th><td title=\"Layer %d, largest: expert %d\"><svg viewBox=\"0 -.5 %d 1\" "
                  "preserveAspectRatio=\"none\" aria-hidden=\"true\" data-l=\"%d\" data-v=\"",
                  row->layer, top, m->experts->most, row->layer);
    for (int i = 0; i < row->n; i++) {
        const double v = om_expert_value(&row->experts[i], m->scale.field) / m->unit;
        om_buf_printf(out, m->scale.field == OM_EXPERT_TOKENS ? "%s%.0f" : "%s%.2g", i ? " " : "",
                      v);
    }
    om_buf_puts(out, "\">");
    for (int shade = -2; shade < m->scale.n_shades; shade++) {
        if (shade != -1) {
            row_path(out, m, row, shade);
        }
    }
    om_buf_puts(out, "</svg></td></tr>\n");
}

static void put_times(om_buf *out, double times) {
    om_buf_printf(out, times < 0.0995 ? "%.2g" : times < 0.995 ? "%.2f" : "%.1f", times);
}

/* "0.13 × … 4.8 ×" or "210 … 2 810". */
static void put_end(om_buf *out, const map *m, double log10_value) {
    const double v = pow(10, log10_value) / m->unit;
    om_buf_puts(out, "<span>");
    if (m->scale.field == OM_EXPERT_TOKENS) {
        om_put_count(out, (int64_t) (fmin(v, 1e15) + 0.5));
    } else {
        put_times(out, v);
        om_buf_puts(out, "\xC2\xA0×");
    }
    om_buf_puts(out, "</span>");
}

static void emit_legend(om_buf *out, const map *m) {
    om_buf_puts(out, "<p class=\"legend\">");
    put_end(out, m, m->scale.low);
    om_buf_puts(out, "<span class=\"ramp\">");
    for (int i = 0; i < m->scale.n_shades; i++) {
        om_buf_printf(out, "<i class=\"%s\"></i>", m->shades[i]);
    }
    om_buf_puts(out, "</span>");
    put_end(out, m, m->scale.high);
    if (m->scale.field == OM_EXPERT_TOKENS && om_experts_few(m->experts) > 0) {
        om_buf_printf(out,
                      "<span class=\"fewkey\"><span class=\"ramp\"><i class=\"few\"></i></span> "
                      "fewer than %d</span>",
                      OM_EXPERT_FEW);
    }
    om_buf_puts(out, "</p>\n");
}

static void emit_map(om_buf *out, const map *m) {
    const om_experts *e = m->experts;
    const int height = e->n_rows <= 16 ? 20 : e->n_rows <= 48 ? 13 : 8;
    om_buf_printf(out, "<figure class=\"xfig\"><figcaption><h3>%s</h3><p>%s</p></figcaption>\n",
                  m->title, m->about);
    emit_legend(out, m);
    om_buf_printf(out,
                  "<div class=\"scroll\"><table class=\"xmap\" style=\"--n:%d;--h:%dpx\" "
                  "data-what=\"%s\"><thead><tr><th scope=\"col\"><abbr title=\"layer\">L</abbr>"
                  "</th><td>",
                  e->most, height, m->what);
    const int ticks = e->most < 4 ? 1 : 4;
    for (int i = 0; i < ticks; i++) {
        om_buf_printf(out, "<span>%s%d</span>", i ? "" : "expert ", i * e->most / ticks);
    }
    om_buf_puts(out, "</td></tr></thead><tbody>\n");
    int drawn = 0, r = 0;
    for (; r < e->n_rows && drawn + e->rows[r].n <= MAX_CELLS; r++) {
        emit_row(out, m, &e->rows[r], height > 8 || r % 5 == 0);
        drawn += e->rows[r].n;
    }
    om_buf_puts(out, "</tbody></table></div>\n");
    if (r < e->n_rows) {
        om_buf_printf(out, "<p class=\"note\">The first %d of %d layers.</p>\n", r, e->n_rows);
    }
    om_buf_puts(out, "<p class=\"note readout\"></p></figure>\n");
}

static double mean_trace(const om_experts *e) {
    double sum = 0;
    for (int i = 0; i < e->n; i++) {
        sum += e->all[i].trace / e->n;
    }
    return sum > 0 ? sum : 1;
}

static void emit_maps(om_buf *out, const om_experts *e) {
    static const char *const warm[] = { "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8" };
    static const char *const cool[] = { "b1", "b2", "b3", "b4", "b5", "b6", "b8", "b16" };
    const map sensitivity = { .experts = e,
                              .scale = om_experts_scale(e, OM_EXPERT_TRACE, 9),
                              .shades = warm,
                              .unit = mean_trace(e),
                              .title = "Sensitivity",
                              .about = "Fisher trace of an expert, relative to the average expert.",
                              .what = "× the average" };
    map frequency = { .experts = e,
                      .scale = om_experts_scale(e, OM_EXPERT_TOKENS, 8),
                      .shades = cool,
                      .unit = 1,
                      .title = "Frequency",
                      .about = "Tokens of the text that the router sent to an expert.",
                      .what = "tokens" };
    if (om_experts_few(e) > 0) { /* those below have a colour of their own */
        frequency.scale.low = fmin(log10(OM_EXPERT_FEW), frequency.scale.high);
    }
    om_buf_puts(out, e->most > WIDE || !e->has_trace ? "<div class=\"pair stack\">"
                                                     : "<div class=\"pair\">");
    if (e->has_trace) {
        emit_map(out, &sensitivity);
    }
    emit_map(out, &frequency);
    om_buf_puts(out, "</div>\n");
}

/* ---- sentences ---- */

static void put_concentration(om_buf *out, const om_concentration *c, const char *verb,
                              const char *what) {
    om_buf_printf(out, "%s %.0f\xC2\xA0%% of the %s (Gini coefficient %.2f", verb,
                  100 * c->top_share, what, c->gini);
    if (!isnan(c->largest_to_median)) {
        om_buf_printf(out, ", the largest %.1f times the median", c->largest_to_median);
    }
    om_buf_puts(out, ")");
}

static bool put_intro(om_buf *out, const om_experts *e) {
    om_concentration sensitivity, routing;
    om_error err = { 0 };
    if (om_experts_concentration(&sensitivity, e->all, e->n, OM_EXPERT_TRACE, &err) != OM_OK ||
        om_experts_concentration(&routing, e->all, e->n, OM_EXPERT_TOKENS, &err) != OM_OK) {
        return false;
    }
    om_buf_puts(out, "<p>");
    om_put_count(out, e->n);
    om_buf_printf(out, " experts in %d layers. ", e->n_rows);
    if (e->has_trace) {
        put_concentration(out, &sensitivity, "The most sensitive tenth has", "sensitivity");
        om_buf_puts(out, "; ");
    }
    put_concentration(out, &routing,
                      e->has_trace ? "the most used tenth got" : "The most used tenth got",
                      "tokens");
    om_buf_puts(
        out, ".</p>\n<p>A stock GGUF holds one type per stack of experts, so these differences do "
             "not set the type: they decide how each expert is rounded, by the inputs that "
             "it saw itself, and how much text it takes to see all of them.</p>\n");
    return true;
}

static const om_expert *rarest(const om_experts *e) {
    const om_expert *r = &e->all[0];
    for (int i = 1; i < e->n; i++) {
        r = e->all[i].tokens < r->tokens ? &e->all[i] : r;
    }
    return r;
}

static void put_coverage(om_buf *out, const om_report_input *in, const om_experts *e) {
    const int few = om_experts_few(e);
    const om_expert *r = rarest(e);
    om_buf_puts(out, "<div class=\"card\"><h3>Coverage</h3><p class=\"quiet\">");
    if (few == 0) {
        om_buf_printf(out,
                      "All experts saw at least %d tokens; the rarest, expert %d of layer %d, ",
                      OM_EXPERT_FEW, r->expert, r->layer);
        om_put_count(out, (int64_t) r->tokens);
        om_buf_puts(out, ".</p></div>\n");
        return;
    }
    om_buf_printf(out,
                  "%d of %d experts saw fewer than %d tokens; their statistics lean on the mean of "
                  "their layer. Layer:expert (tokens)",
                  few, e->n, OM_EXPERT_FEW);
    for (int i = 0, named = 0; i < e->n && named < NAMED_FEW; i++) {
        if (e->all[i].tokens < OM_EXPERT_FEW) {
            om_buf_printf(out, "%s %d:%d\xC2\xA0(%.0f)", named++ ? "," : "", e->all[i].layer,
                          e->all[i].expert, e->all[i].tokens);
        }
    }
    om_buf_puts(out, few > NAMED_FEW ? ", …" : ".");
    om_buf_puts(out, in->profile->select[0]
                         ? " The windows were chosen to show them: it takes more text."
                         : " More text shows more of them, and so do windows chosen with "
                           "<code>--select cover</code>.");
    om_buf_puts(out, "</p></div>\n");
}

/* ---- ranking ---- */

static void emit_ranked(om_buf *out, const om_experts *e, const om_expert *const *order,
                        bool last) {
    const double unit = mean_trace(e);
    const int n = e->n < N_RANKED ? e->n : N_RANKED;
    om_buf_printf(out,
                  "<figure><figcaption><h3>%s %s</h3></figcaption><table class=\"data\"><thead><tr>"
                  "<th scope=\"col\">Expert</th>%s<th scope=\"col\">Tokens</th><th "
                  "scope=\"col\" class=\"optional\">Windows</th></tr></thead><tbody>\n",
                  last ? "Least" : "Most", e->has_trace ? "sensitive" : "used",
                  e->has_trace ? "<th scope=\"col\">Sensitivity</th>" : "");
    for (int i = 0; i < n; i++) {
        const om_expert *x = order[last ? e->n - 1 - i : i];
        om_buf_printf(out, "<tr><th scope=\"row\">layer %d, expert %d</th><td>", x->layer,
                      x->expert);
        if (e->has_trace) {
            put_times(out, x->trace / unit);
            om_buf_puts(out, "\xC2\xA0×</td><td>");
        }
        om_put_count(out, (int64_t) fmin(x->tokens, 1e15));
        om_buf_printf(out, "</td><td class=\"optional\">%.0f</td></tr>\n", x->windows);
    }
    om_buf_puts(out, "</tbody></table></figure>\n");
}

static bool emit_ranking(om_buf *out, const om_experts *e) {
    const om_expert **order = NULL;
    om_error err = { 0 };
    if (om_experts_ranked(&order, e, e->has_trace ? OM_EXPERT_TRACE : OM_EXPERT_TOKENS, &err) !=
        OM_OK) {
        return false;
    }
    om_buf_puts(out, "<div class=\"pair\">");
    emit_ranked(out, e, order, false);
    emit_ranked(out, e, order, true);
    om_buf_puts(out, "</div>\n");
    om_free(order);
    return true;
}

void om_section_experts(om_buf *out, const om_report_input *in) {
    om_experts e = { 0 };
    om_error err = { 0 };
    if (om_experts_of(&e, in->profile, &err) != OM_OK) {
        out->failed = true;
    } else if (e.n > 0) {
        om_buf_puts(out, "<section id=\"experts\">\n<h2>Experts</h2>\n");
        out->failed |= !put_intro(out, &e);
        emit_maps(out, &e);
        put_coverage(out, in, &e);
        out->failed |= !emit_ranking(out, &e);
        om_buf_puts(out, "</section>\n");
    }
    om_experts_release(&e);
}
