/* How far a mixture still routes as full precision does -> a card of the report: agreement by
 * layer as one line for each file, and a table. Nothing when no evaluation has it.
 *
 * Files are told apart by a label at the end of their line, not by colour alone.
 */
#include <math.h>
#include <string.h>

#include "report/html.h"
#include "report/sections.h"
#include "report/verdict.h"

enum { MAX_LINES = 8, MAX_MARKS = 64 /* layers above which lines have no marks */ };

typedef struct plot {
    om_buf *out;
    double left, top, right, bottom; /* of the plotting area, px */
    int x0, x1;                      /* layers at left and right */
    double y0, step;                 /* agreement at the bottom, between grid lines; top is 1 */
    const om_evaluation *files[MAX_LINES];
    int n_files;
    bool ours; /* files[0] is this file */
} plot;

/* ---- what to draw ---- */

static void add_file(plot *p, const om_evaluation *e) {
    if (e == NULL || e->routing.n_layers == 0 || p->n_files == MAX_LINES) {
        return;
    }
    p->files[p->n_files++] = e;
}

static double nice_step(double range, int n) {
    const double raw = range / n, decade = pow(10, floor(log10(raw))), lead = raw / decade;
    return decade * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

static void collect(plot *p, const om_report_input *in) {
    add_file(p, in->eval);
    p->ours = p->n_files > 0;
    for (int i = 0; i < in->n_baselines; i++) {
        add_file(p, in->baselines[i]);
    }
    double low = 1.0;
    p->x0 = INT16_MAX;
    for (int i = 0; i < p->n_files; i++) {
        const om_routing *r = &p->files[i]->routing;
        low = fmin(low, r->layer_agreement[om_routing_worst(r)]);
        p->x0 = r->layer[0] < p->x0 ? r->layer[0] : p->x0;
        p->x1 = r->layer[r->n_layers - 1] > p->x1 ? r->layer[r->n_layers - 1] : p->x1;
    }
    p->step = nice_step(fmax(1.0 - low, 0.002), 4);
    p->y0 = fmax(0.0, 1.0 - p->step * ceil((1.0 - low) / p->step - 1e-9));
    p->y0 = p->y0 < 1.0 ? p->y0 : 1.0 - p->step;
}

static const char *name_of(const plot *p, int i) {
    return p->ours && i == 0 ? "this file" : om_evaluation_name(p->files[i]);
}

static const char *css_of(const plot *p, int i) {
    return p->ours && i == 0 ? "ours" : "rival";
}

/* ---- drawing ---- */

static double px(const plot *p, int layer) {
    return p->x1 > p->x0
               ? p->left + (double) (layer - p->x0) / (p->x1 - p->x0) * (p->right - p->left)
               : (p->left + p->right) / 2;
}

static double py(const plot *p, double agreement) {
    return p->bottom - (agreement - p->y0) / (1.0 - p->y0) * (p->bottom - p->top);
}

static void draw_axes(const plot *p) {
    const int digits = p->step >= 0.0099 ? 0 : p->step >= 0.00099 ? 1 : 2;
    om_buf_puts(p->out, "<g class=\"axis\">");
    for (int i = 0; 1.0 - i * p->step > p->y0 - 1e-9; i++) {
        const double v = 1.0 - i * p->step, y = py(p, v);
        om_buf_printf(p->out,
                      "<line class=\"minor\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.*f\xC2\xA0%%</text>",
                      p->left, y, p->right, y, p->left - 8, y + 4, digits, 100 * v);
    }
    const int n = (int) ((p->right - p->left) / 40);
    const double step = fmax(1, nice_step(fmax(1, p->x1 - p->x0), n > 1 ? n : 1));
    for (int layer = p->x0; layer <= p->x1; layer++) {
        if (layer % (int) step == 0 || p->x0 == p->x1) {
            om_buf_printf(p->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>",
                          px(p, layer), p->bottom + 17, layer);
        }
    }
    om_buf_printf(p->out,
                  "<line class=\"base\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>"
                  "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">Layer</text>"
                  "<text x=\"0\" y=\"12\">Same experts</text></g>\n",
                  p->left, p->bottom, p->right, p->bottom, p->right, p->bottom + 34);
}

static void draw_line(const plot *p, int i) {
    const om_routing *r = &p->files[i]->routing;
    const char *css = css_of(p, i);
    om_buf_printf(p->out, "<path class=\"%s line d%d\" d=\"", css, i % 4);
    for (int l = 0; l < r->n_layers; l++) {
        om_buf_printf(p->out, "%c%.1f %.1f", l == 0 ? 'M' : 'L', px(p, r->layer[l]),
                      py(p, r->layer_agreement[l]));
    }
    om_buf_puts(p->out, "\"><title>");
    om_html_text(p->out, name_of(p, i));
    om_buf_puts(p->out, "</title></path>");
    for (int l = 0; r->n_layers <= MAX_MARKS && l < r->n_layers; l++) {
        om_buf_printf(p->out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>", css,
                      px(p, r->layer[l]), py(p, r->layer_agreement[l]));
        om_html_text(p->out, name_of(p, i));
        om_buf_printf(p->out, ", layer %d: %.2f\xC2\xA0%%</title></circle>", r->layer[l],
                      100 * r->layer_agreement[l]);
    }
    om_buf_puts(p->out, "\n");
}

/* At the right end of the lines, moved apart where they would lie on each other. */
static void draw_labels(const plot *p) {
    const double height = 13;
    double y[MAX_LINES];
    int order[MAX_LINES];
    for (int i = 0; i < p->n_files; i++) {
        const om_routing *r = &p->files[i]->routing;
        int k = i;
        y[i] = py(p, r->layer_agreement[r->n_layers - 1]);
        for (; k > 0 && y[order[k - 1]] > y[i]; k--) {
            order[k] = order[k - 1];
        }
        order[k] = i;
    }
    double next = p->top - height;
    for (int k = 0; k < p->n_files; k++) {
        double *own = &y[order[k]];
        *own = fmax(*own, next + height);
        next = *own;
    }
    const double over = fmax(0, next - p->bottom);
    for (int i = 0; i < p->n_files; i++) {
        om_buf_printf(p->out, "<text class=\"tag %s\" x=\"%.1f\" y=\"%.1f\">", css_of(p, i),
                      p->right + 9, y[i] - over + 4);
        om_html_text(p->out, name_of(p, i));
        om_buf_puts(p->out, "</text>");
    }
}

static void draw(plot p, int width, int height, const char *id, const char *css) {
    p.left = 52;
    p.top = 26;
    p.right = width - 84;
    p.bottom = height - 40;
    om_buf_printf(p.out,
                  "<svg class=\"%s\" viewBox=\"0 0 %d %d\" role=\"img\" "
                  "aria-labelledby=\"%s-title\"><title id=\"%s-title\">Experts chosen as in full "
                  "precision, by layer</title>\n",
                  css, width, height, id, id);
    draw_axes(&p);
    for (int i = p.n_files - 1; i >= 0; i--) { /* ours on top */
        draw_line(&p, i);
    }
    draw_labels(&p);
    om_buf_puts(p.out, "</svg>\n");
}

/* ---- numbers ---- */

static void put_table(const plot *p) {
    om_buf_puts(
        p->out,
        "<table class=\"data\"><thead><tr><th scope=\"col\">File</th><th scope=\"col\">Same "
        "experts</th><th scope=\"col\">Flips a token</th><th scope=\"col\">Least, in "
        "layer</th><th scope=\"col\" class=\"optional\">KLD, nats</th></tr></thead><tbody>"
        "\n");
    for (int i = 0; i < p->n_files; i++) {
        const om_evaluation *e = p->files[i];
        const om_routing *r = &e->routing;
        const int worst = om_routing_worst(r);
        om_buf_printf(p->out, "<tr%s><th scope=\"row\">",
                      p->ours && i == 0 ? " class=\"ours\"" : "");
        om_html_text(p->out, p->ours && i == 0 ? "This file" : name_of(p, i));
        om_buf_printf(p->out,
                      "</th><td>%.2f\xC2\xA0%%</td><td>%.2f</td><td>%.2f\xC2\xA0%%, %d</td><td "
                      "class=\"optional\">",
                      100 * r->agreement, r->flips_per_token, 100 * r->layer_agreement[worst],
                      r->layer[worst]);
        om_put_nats_error(p->out, e->kld_mean, e->kld_stderr);
        om_buf_puts(p->out, "</td></tr>\n");
    }
    om_buf_puts(p->out, "</tbody></table>");
}

void om_section_routing(om_buf *out, const om_report_input *in) {
    plot p = { .out = out };
    collect(&p, in);
    if (p.n_files == 0) {
        return;
    }
    const om_routing *r = &p.files[0]->routing;
    om_buf_puts(out, "<div class=\"card\" id=\"routing\">\n<h3>Routing</h3>\n<p class=\"quiet\">");
    om_buf_printf(out,
                  "Of the %d experts (of %d) that a layer with experts uses for a token, how many "
                  "are those that full precision uses there. A flip is one that is not; a token "
                  "makes %d choices in all.</p>\n",
                  r->n_used, r->n_experts, r->n_used * r->n_layers);
    draw(p, 1040, 260, "rw", "wide");
    draw(p, 340, 240, "rn", "narrow");
    om_buf_puts(out, "<div class=\"scroll\">");
    put_table(&p);
    om_buf_puts(out, "</div>\n</div>\n");
}
