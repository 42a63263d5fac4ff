/* Points in (bytes, nats) -> one SVG with axes, curve, marks and labels that do not overlap.
 *
 * Logarithmic in nats because presets span three decades and a factor is what a reader compares.
 * Labels are placed greedily in order of importance (our file, measured baselines, predicted
 * presets) at the first free side of their mark; a predicted preset whose label finds no room keeps
 * its mark and its tooltip. No script, no ids shared between two drawings of one page.
 */
#include "report/chart.h"

#include <math.h>
#include <string.h>

#include "report/html.h"
#include "report/verdict.h"

#define MAX_BOXES 96
#define CHAR_WIDTH 6.3 /* of the 11 px label font, generous */
#define LABEL_HEIGHT 13.0

typedef struct box {
    double x0, y0, x1, y1;
} box;

typedef struct plot {
    om_buf *out;
    double left, top, right, bottom; /* of the plotting area, px */
    double x0, x1;                   /* bytes at left and right */
    double y0, y1;                   /* log10 nats at bottom and top */
    box taken[MAX_BOXES];
    int n_taken;
} plot;

static double px(const plot *p, double bytes) {
    return p->left + (bytes - p->x0) / (p->x1 - p->x0) * (p->right - p->left);
}

static double py(const plot *p, double nats) {
    const double y = log10(nats > 1e-12 ? nats : 1e-12);
    return p->bottom - (y - p->y0) / (p->y1 - p->y0) * (p->bottom - p->top);
}

static bool inside(const plot *p, double bytes, double nats) {
    const double y = nats > 0 ? log10(nats) : p->y0 - 1;
    return bytes >= p->x0 && bytes <= p->x1 && y >= p->y0 && y <= p->y1;
}

/* ---- ranges ---- */

static void widen(double range[2], double v) {
    if (isfinite(v)) {
        range[0] = fmin(range[0], v);
        range[1] = fmax(range[1], v);
    }
}

static void widen_point(double xs[2], double ys[2], double bytes, double nats) {
    widen(xs, bytes);
    if (nats > 0) {
        widen(ys, log10(nats));
    }
}

/* Everything but the curve decides the window: the curve alone would reach from one bit to sixteen.
 */
static void set_ranges(plot *p, const om_report_input *in) {
    double xs[2] = { (double) INFINITY, -(double) INFINITY };
    double ys[2] = { (double) INFINITY, -(double) INFINITY };
    const double ours = (double) in->allocation->bytes;
    widen_point(xs, ys, ours, in->allocation->predicted_nats);
    if (in->eval) {
        widen_point(xs, ys, ours, in->eval->kld_mean);
    }
    for (int i = 0; i < in->n_baselines; i++) {
        widen_point(xs, ys, (double) in->baselines[i]->file_bytes, in->baselines[i]->kld_mean);
    }
    for (int i = 0; i < in->sweep.n_presets; i++) {
        widen_point(xs, ys, (double) in->sweep.presets[i].bytes, in->sweep.presets[i].nats);
    }
    if (xs[1] - xs[0] < 0.3 * ours) {
        widen(xs, 0.75 * ours);
        widen(xs, 1.3 * ours);
    }
    const double pad = 0.05 * (xs[1] - xs[0]);
    p->x0 = fmax(0, xs[0] - pad);
    p->x1 = xs[1] + 1.6 * pad;
    for (int i = 0; i < in->sweep.n_curve; i++) {
        const om_sweep_point *c = &in->sweep.curve[i];
        if ((double) c->bytes >= p->x0 && (double) c->bytes <= p->x1 && c->nats > 0) {
            widen(ys, log10(c->nats));
        }
    }
    if (!(ys[0] <= ys[1])) {
        ys[0] = -3;
        ys[1] = -1;
    }
    p->y0 =
        fmax(ys[0] - 0.12, ys[1] - 6); /* below a millionth of the worst there is nothing to see */
    p->y1 = ys[1] + 0.15;
    if (p->y1 - p->y0 < 1) {
        p->y0 -= 0.4;
        p->y1 += 0.4;
    }
}

/* ---- axes ---- */

static void axis_x(plot *p, int n_wanted) {
    static const struct {
        double scale;
        const char *unit;
    } units[] = { { 1e12, "TB" }, { 1e9, "GB" }, { 1e6, "MB" }, { 1e3, "kB" }, { 1, "B" } };
    int u = 0;
    while (u < 4 && p->x1 < units[u].scale) {
        u++;
    }
    const double raw = (p->x1 - p->x0) / n_wanted / units[u].scale;
    const double decade = pow(10, floor(log10(raw)));
    const double lead = raw / decade;
    const double step = decade * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
    const int digits = step >= 1 ? 0 : (int) ceil(-log10(step) - 1e-9);
    om_buf_puts(p->out, "<g class=\"axis\">");
    for (double v = ceil(p->x0 / units[u].scale / step) * step; v * units[u].scale <= p->x1;
         v += step) {
        const double x = px(p, v * units[u].scale);
        om_buf_printf(p->out,
                      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.*f</text>",
                      x, p->bottom, x, p->bottom + 5, x, p->bottom + 19, digits, v);
    }
    om_buf_printf(p->out,
                  "<text class=\"name\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">File size, "
                  "%s</text></g>\n",
                  p->right, p->bottom + 38, units[u].unit);
}

static void axis_y(plot *p) {
    static const int lead[] = { 1, 2, 5 };
    const bool dense = p->y1 - p->y0 < 2.2;
    om_buf_puts(p->out, "<g class=\"axis\">");
    for (int decade = (int) floor(p->y0); decade <= (int) floor(p->y1); decade++) {
        for (int i = 0; i < 3; i++) {
            const double nats = lead[i] * pow(10, decade);
            if (log10(nats) < p->y0 || log10(nats) > p->y1) {
                continue;
            }
            const double y = py(p, nats);
            om_buf_printf(p->out,
                          "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
                          i == 0 ? "grid" : "grid minor", p->left, y, p->right, y);
            if (i == 0 || dense) {
                om_buf_printf(p->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">",
                              p->left - 8, y + 4);
                if (decade < -4) {
                    om_put_nats(p->out, nats);
                } else {
                    om_buf_printf(p->out, "%.*f", decade < 0 ? -decade : 0, nats);
                }
                om_buf_puts(p->out, "</text>");
            }
        }
    }
    om_buf_printf(
        p->out,
        "<line class=\"base\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
        "<text class=\"name\" x=\"0\" y=\"12\">KL divergence, nats per token</text></g>\n",
        p->left, p->bottom, p->right, p->bottom);
}

/* ---- labels ---- */

static bool overlaps(const plot *p, const box *b) {
    for (int i = 0; i < p->n_taken; i++) {
        const box *t = &p->taken[i];
        if (b->x0 < t->x1 && t->x0 < b->x1 && b->y0 < t->y1 && t->y0 < b->y1) {
            return true;
        }
    }
    return false;
}

static void take(plot *p, box b) {
    if (p->n_taken < MAX_BOXES) {
        p->taken[p->n_taken++] = b;
    }
}

static void take_mark(plot *p, double x, double y, double radius) {
    take(p, (box){ x - radius, y - radius, x + radius, y + radius });
}

/* At the first free side of (x, y); `must`: to the right even when nothing is free. */
static void label(plot *p, double x, double y, double radius, const char *css, const char *text,
                  bool must) {
    const double w = (double) strlen(text) * CHAR_WIDTH;
    const double gap = radius + 4;
    const struct {
        double x, y;
        const char *anchor;
    } side[] = {
        { x + gap, y, "start" },          { x - gap, y, "end" },
        { x, y - gap - 5, "middle" },     { x, y + gap + 5, "middle" },
        { x + gap - 2, y - 10, "start" }, { x - gap + 2, y + 10, "end" },
        { x + gap - 2, y + 10, "start" }, { x - gap + 2, y - 10, "end" },
    };
    const int n = (int) (sizeof side / sizeof side[0]);
    for (int i = 0; i < n + (must ? 1 : 0); i++) {
        const int s = i < n ? i : 0;
        const double x0 = side[s].anchor[0] == 's'   ? side[s].x
                          : side[s].anchor[0] == 'e' ? side[s].x - w
                                                     : side[s].x - w / 2;
        const box b = { x0, side[s].y - LABEL_HEIGHT / 2, x0 + w, side[s].y + LABEL_HEIGHT / 2 };
        const bool fits =
            b.x0 >= p->left && b.x1 <= p->right + 4 && b.y0 >= p->top - 4 && b.y1 <= p->bottom;
        if (i == n || (fits && !overlaps(p, &b))) {
            take(p, b);
            om_buf_printf(p->out, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                          css, side[s].x, side[s].y + 4, side[s].anchor);
            om_html_text(p->out, text);
            om_buf_puts(p->out, "</text>");
            return;
        }
    }
}

/* ---- marks ---- */

static void tooltip(plot *p, const char *name, const char *how, double bytes, double nats,
                    double error) {
    om_buf_puts(p->out, "<title>");
    om_html_text(p->out, name);
    om_buf_printf(p->out, ", %s: ", how);
    om_put_bytes(p->out, bytes);
    om_buf_puts(p->out, ", ");
    om_put_nats_error(p->out, nats, error);
    om_buf_puts(p->out, " nats</title>");
}

static void diamond(plot *p, double x, double y, double r, const char *css) {
    om_buf_printf(p->out, "<path class=\"%s\" d=\"M%.1f %.1f l%.1f %.1f l%.1f %.1f l%.1f %.1f z\">",
                  css, x, y - r, r, r, -r, r, -r, -r);
}

static void error_bar(plot *p, double x, const om_evaluation *e, const char *css) {
    if (!(e->kld_stderr > 0)) {
        return;
    }
    const double low = py(p, fmax(e->kld_mean - e->kld_stderr, 1e-9));
    const double high = py(p, e->kld_mean + e->kld_stderr);
    om_buf_printf(p->out, "<path class=\"%s\" d=\"M%.1f %.1f V%.1f M%.1f %.1f h8 M%.1f %.1f h8\"/>",
                  css, x, fmin(low, p->bottom), high, x - 4, high, x - 4, fmin(low, p->bottom));
}

static void draw_curve(plot *p, const om_sweep *s, const char *id) {
    if (s->n_curve < 2) {
        return;
    }
    om_buf_printf(p->out,
                  "<clipPath id=\"%s-clip\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                  "height=\"%.1f\"/></clipPath><path class=\"curve\" clip-path=\"url(#%s-clip)\" "
                  "d=\"",
                  id, p->left, p->top, p->right - p->left, p->bottom - p->top, id);
    for (int i = 0; i < s->n_curve; i++) {
        om_buf_printf(p->out, "%c%.1f %.1f", i == 0 ? 'M' : 'L', px(p, (double) s->curve[i].bytes),
                      py(p, s->curve[i].nats));
    }
    om_buf_puts(p->out, "\"><title>Predicted: the best mix at each size</title></path>\n");
}

static void draw_budget(plot *p, const om_allocation *a) {
    const double bytes = (double) a->budget_bytes;
    if (a->budget_bytes <= 0 || bytes < p->x0 || bytes > p->x1) {
        return;
    }
    const double x = px(p, bytes);
    om_buf_printf(p->out,
                  "<path class=\"budget\" d=\"M%.1f %.1fV%.1f\"><title>Budget</title></path>", x,
                  p->top, p->bottom);
    const bool flip = x > p->right - 60;
    om_buf_printf(p->out,
                  "<text class=\"quiet\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">budget</text>\n",
                  flip ? x - 6 : x + 6, p->bottom - 6, flip ? "end" : "start");
    take(p, (box){ flip ? x - 48 : x, p->bottom - 18, flip ? x : x + 48, p->bottom });
}

static void draw_ours(plot *p, const om_report_input *in) {
    const double bytes = (double) in->allocation->bytes;
    const double x = px(p, bytes);
    if (inside(p, bytes, in->allocation->predicted_nats)) {
        const double y = py(p, in->allocation->predicted_nats);
        om_buf_printf(p->out, "<circle class=\"ours hollow\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\">", x,
                      y);
        tooltip(p, "This file", "predicted", bytes, in->allocation->predicted_nats, 0);
        om_buf_puts(p->out, "</circle>");
        take_mark(p, x, y, 5);
    }
    if (in->eval) {
        const double y = py(p, in->eval->kld_mean);
        error_bar(p, x, in->eval, "ours bar");
        om_buf_printf(p->out, "<circle class=\"ours\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\">", x, y);
        tooltip(p, "This file", "measured", bytes, in->eval->kld_mean, in->eval->kld_stderr);
        om_buf_puts(p->out, "</circle>");
        take_mark(p, x, y, 7);
    }
}

static void draw_baselines(plot *p, const om_report_input *in) {
    for (int i = 0; i < in->n_baselines; i++) {
        const om_evaluation *e = in->baselines[i];
        const double x = px(p, (double) e->file_bytes), y = py(p, e->kld_mean);
        error_bar(p, x, e, "rival bar");
        diamond(p, x, y, 6, "rival");
        tooltip(p, om_evaluation_name(e), "measured", (double) e->file_bytes, e->kld_mean,
                e->kld_stderr);
        om_buf_puts(p->out, "</path>");
        take_mark(p, x, y, 6);
    }
}

static void draw_presets(plot *p, const om_sweep *s) {
    for (int i = 0; i < s->n_presets; i++) {
        const om_sweep_point *q = &s->presets[i];
        if (!inside(p, (double) q->bytes, q->nats)) {
            continue;
        }
        const double x = px(p, (double) q->bytes), y = py(p, q->nats);
        diamond(p, x, y, 4, "preset");
        tooltip(p, q->name, "predicted", (double) q->bytes, q->nats, 0);
        om_buf_puts(p->out, "</path>\n");
        take_mark(p, x, y, 4);
    }
}

static void draw_labels(plot *p, const om_report_input *in) {
    const double bytes = (double) in->allocation->bytes;
    const double nats = in->eval ? in->eval->kld_mean : in->allocation->predicted_nats;
    label(p, px(p, bytes), py(p, nats), 6, "tag ours", "this file", true);
    for (int i = 0; i < in->n_baselines; i++) {
        const om_evaluation *e = in->baselines[i];
        label(p, px(p, (double) e->file_bytes), py(p, e->kld_mean), 6, "tag rival",
              om_evaluation_name(e), true);
    }
    for (int i = 0; i < in->sweep.n_presets; i++) {
        const om_sweep_point *q = &in->sweep.presets[i];
        bool measured = false;
        for (int j = 0; j < in->n_baselines; j++) {
            measured = measured || strcmp(om_evaluation_name(in->baselines[j]), q->name) == 0;
        }
        if (!measured && inside(p, (double) q->bytes, q->nats)) {
            label(p, px(p, (double) q->bytes), py(p, q->nats), 4, "tag preset", q->name, false);
        }
    }
}

void om_chart_size_quality(om_buf *out, const om_report_input *in, const om_chart_layout *layout) {
    plot p = { .out = out,
               .left = 52,
               .top = 24,
               .right = layout->width - 10,
               .bottom = layout->height - 44 };
    set_ranges(&p, in);
    om_buf_printf(out,
                  "<svg class=\"%s\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"%s-title "
                  "%s-desc\"><title id=\"%s-title\">File size against KL divergence</title><desc "
                  "id=\"%s-desc\">",
                  layout->css, layout->width, layout->height, layout->id, layout->id, layout->id,
                  layout->id);
    om_buf_puts(out, "This file: ");
    om_put_bytes(out, (double) in->allocation->bytes);
    om_buf_puts(out, ", predicted ");
    om_put_nats(out, in->allocation->predicted_nats);
    if (in->eval) {
        om_buf_puts(out, ", measured ");
        om_put_nats_error(out, in->eval->kld_mean, in->eval->kld_stderr);
    }
    om_buf_puts(out, " nats. Numbers of the other marks are in the table below.</desc>\n");
    axis_y(&p);
    axis_x(&p, layout->width / 90);
    draw_curve(&p, &in->sweep, layout->id);
    draw_budget(&p, in->allocation);
    draw_presets(&p, &in->sweep);
    draw_baselines(&p, in);
    draw_ours(&p, in);
    draw_labels(&p, in);
    om_buf_puts(out, "</svg>\n");
}
