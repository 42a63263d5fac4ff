/* Size against quality: the chart, the table of its numbers, and how far to trust predictions. */
#include "report/sections.h"

#include <string.h>

#include "report/chart.h"
#include "report/html.h"
#include "report/verdict.h"

void om_section_quality_intro(om_buf *out, const om_report_input *in) {
    if (in->sweep.n_curve > 1) {
        om_buf_puts(out, "The curve is the predicted loss of the best mix at every size. ");
    }
    const om_evaluation *e = in->eval ? in->eval : in->n_baselines > 0 ? in->baselines[0] : NULL;
    if (e) {
        om_buf_puts(out, "Filled marks were measured on ");
        om_put_count(out, e->tokens);
        om_buf_puts(out, " tokens; bars are one standard error. ");
    }
    om_buf_puts(out, "Lower is better, and the axis is logarithmic: equal distances are equal "
                     "factors.");
}

void om_section_chart(om_buf *out, const om_report_input *in) {
    om_chart_size_quality(
        out, in, &(om_chart_layout){ .width = 1040, .height = 430, .id = "cw", .css = "wide" });
    om_chart_size_quality(
        out, in, &(om_chart_layout){ .width = 340, .height = 360, .id = "cn", .css = "narrow" });
    om_buf_puts(out, "<ul class=\"keys\">");
    if (in->eval) {
        om_buf_puts(out, "<li><svg viewBox=\"0 0 16 12\"><circle class=\"ours\" cx=\"8\" cy=\"6\" "
                         "r=\"6\"/></svg>this file, measured</li>");
    }
    om_buf_puts(out,
                "<li><svg viewBox=\"0 0 16 12\"><circle class=\"ours hollow\" cx=\"8\" cy=\"6\" "
                "r=\"4.5\"/></svg>this file, predicted</li>");
    if (in->n_baselines > 0) {
        om_buf_puts(out, "<li><svg viewBox=\"0 0 16 12\"><path class=\"rival\" d=\"M8 0l6 6-6 "
                         "6-6-6z\"/></svg>baseline, measured</li>");
    }
    if (in->sweep.n_presets > 0) {
        om_buf_puts(out, "<li><svg viewBox=\"0 0 16 12\"><path class=\"preset\" d=\"M8 2l4 4-4 "
                         "4-4-4z\"/></svg>preset, predicted</li>");
    }
    if (in->sweep.n_curve > 1) {
        om_buf_puts(out, "<li><svg viewBox=\"0 0 16 12\"><path class=\"curve\" d=\"M0 "
                         "1Q5 9 16 11\"/></svg>best mix, predicted</li>");
    }
    om_buf_puts(out, "</ul>");
}

/* ---- table ---- */

static const om_evaluation *baseline_named(const om_report_input *in, const char *name) {
    for (int i = 0; i < in->n_baselines; i++) {
        if (strcmp(om_evaluation_name(in->baselines[i]), name) == 0) {
            return in->baselines[i];
        }
    }
    return NULL;
}

static void put_ratio(om_buf *out, double nats, double ours, const char *mark) {
    if (ours > 0 && nats > 0) {
        const double ratio = nats / ours;
        if (ratio < 0.095) {
            om_buf_printf(out, "<td>%s%.2g×</td>", mark, ratio);
        } else {
            const int digits = ratio < 9.995 ? 2 : ratio < 99.95 ? 1 : 0;
            om_buf_printf(out, "<td>%s%.*f×</td>", mark, digits, ratio);
        }
    } else {
        om_buf_puts(out, "<td>–</td>");
    }
}

static void row_measured(om_buf *out, const om_report_input *in, const om_evaluation *e) {
    const bool ours = e == in->eval;
    om_buf_printf(out, "<tr%s><th scope=\"row\">", ours ? " class=\"ours\"" : "");
    om_html_text(out, ours ? "This file" : om_evaluation_name(e));
    om_buf_puts(out, "</th><td>");
    om_put_bytes(out, (double) e->file_bytes);
    om_buf_puts(out, "</td><td>");
    om_put_nats_error(out, e->kld_mean, e->kld_stderr);
    om_buf_puts(out, "</td>");
    put_ratio(out, e->kld_mean, in->eval ? in->eval->kld_mean : 0, "");
    om_buf_printf(
        out, "<td class=\"optional\">%.1f\xC2\xA0%%</td><td class=\"optional\">%.2f</td></tr>\n",
        100 * e->top1_agreement, e->ppl);
}

/* Predictions are compared with our prediction: the two errors are of the same kind. */
static void row_predicted(om_buf *out, const om_report_input *in, const char *name, double bytes,
                          double nats, bool ours) {
    om_buf_printf(out, "<tr class=\"%s\"><th scope=\"row\">", ours ? "ours" : "predicted");
    om_html_text(out, name);
    om_buf_puts(out, "</th><td>");
    om_put_bytes(out, bytes);
    om_buf_puts(out, "</td><td>≈\xC2\xA0");
    om_put_nats(out, nats);
    om_buf_puts(out, "</td>");
    put_ratio(out, nats, in->allocation->predicted_nats, "≈\xC2\xA0");
    om_buf_puts(out, "<td class=\"optional\">–</td><td class=\"optional\">–</td></tr>\n");
}

/* Rows by size: measured files, and presets known only by prediction, merged in place. */
typedef struct row {
    int64_t bytes;
    const om_evaluation *measured;
    const om_sweep_point *predicted; /* both NULL: our file, not measured */
} row;

#define MAX_ROWS 128

static void insert(row *rows, int *n, row r) {
    if (*n == MAX_ROWS) {
        return;
    }
    int i = (*n)++;
    while (i > 0 && rows[i - 1].bytes > r.bytes) {
        rows[i] = rows[i - 1];
        i--;
    }
    rows[i] = r;
}

void om_section_comparison(om_buf *out, const om_report_input *in) {
    row rows[MAX_ROWS];
    int n = 0;
    insert(rows, &n, (row){ in->allocation->bytes, in->eval, NULL });
    for (int i = 0; i < in->n_baselines; i++) {
        insert(rows, &n, (row){ in->baselines[i]->file_bytes, in->baselines[i], NULL });
    }
    for (int i = 0; i < in->sweep.n_presets; i++) {
        const om_sweep_point *p = &in->sweep.presets[i];
        if (!baseline_named(in, p->name)) {
            insert(rows, &n, (row){ p->bytes, NULL, p });
        }
    }
    om_buf_puts(out, "<table class=\"data\"><thead><tr><th scope=\"col\">File</th><th "
                     "scope=\"col\">Size</th><th scope=\"col\">KLD, nats</th><th "
                     "scope=\"col\">vs. this</th><th scope=\"col\" "
                     "class=\"optional\">Top-1</th><th scope=\"col\" "
                     "class=\"optional\">Perplexity</th></tr></thead><tbody>\n");
    for (int i = 0; i < n; i++) {
        if (rows[i].measured) {
            row_measured(out, in, rows[i].measured);
        } else if (rows[i].predicted) {
            const om_sweep_point *p = rows[i].predicted;
            row_predicted(out, in, p->name, (double) p->bytes, p->nats, false);
        } else {
            row_predicted(out, in, "This file", (double) in->allocation->bytes,
                          in->allocation->predicted_nats, true);
        }
    }
    om_buf_puts(out, "</tbody></table>");
    if (in->sweep.n_presets > 0) {
        om_buf_puts(out, "<p class=\"note\">≈ predicted, not measured</p>");
    }
}

/* ---- predicted and measured ---- */

static void row_ratio(om_buf *out, const char *name, double predicted, const om_evaluation *e,
                      bool ours) {
    om_buf_printf(out, "<tr%s><th scope=\"row\">", ours ? " class=\"ours\"" : "");
    om_html_text(out, name);
    om_buf_puts(out, "</th><td>");
    om_put_nats(out, predicted);
    om_buf_puts(out, "</td><td>");
    om_put_nats_error(out, e->kld_mean, e->kld_stderr);
    if (predicted > 0) {
        om_buf_printf(out, "</td><td>%.2f</td></tr>\n", e->kld_mean / predicted);
    } else {
        om_buf_puts(out, "</td><td>–</td></tr>\n");
    }
}

static void predicted_notes(om_buf *out, const om_report_input *in) {
    const double predicted = in->allocation->predicted_nats;
    om_buf_puts(out, "<ul class=\"notes\">");
    if (in->eval && predicted > 0 && in->eval->kld_mean > 1.5 * predicted) {
        om_buf_puts(out,
                    "<li>The measurement is well above the sum: trust the measurement. The order "
                    "of the tensors, which decides where bits go, suffers less than the "
                    "level.</li>");
    }
    om_buf_puts(out, "<li>The prediction adds up the tensors as if their errors were independent. "
                     "Below about 3.5 bits per weight they interact and the sum falls short.</li>");
    if (in->allocation->container == OM_CONTAINER_MLX) {
        om_buf_puts(out, "<li>The models for mlx-lm were measured as their values in F32: what its "
                         "kernels round besides is in no number here.</li>");
    } else {
        om_buf_puts(out,
                    "<li>llama.cpp's CPU kernels also round activations to 8 bits. That loss is in "
                    "every measured number and in no prediction; it belongs to the runtime, not to "
                    "the file.</li>");
    }
    if (in->other_reference) {
        om_buf_puts(out,
                    "<li>The reference of the measurement is another file than the one that was "
                    "profiled.</li>");
    }
    for (int i = 0; i < in->profile->n_units; i++) {
        if (in->profile->units[i].experts > 1) {
            om_buf_puts(out, "<li>A mixture of experts: a changed router input can change the "
                             "choice of experts, which no gradient of the output sees. ");
            om_buf_puts(out, in->allocation->routing_nats > 0
                                 ? "The prediction includes what that costs. "
                                 : "This prediction leaves that out. ");
            om_buf_puts(out, "A GGUF stores all experts of a layer in one type; what differs "
                             "between experts shapes the rounding only.</li>");
            break;
        }
    }
    om_buf_puts(out, "</ul>");
}

void om_section_predicted(om_buf *out, const om_report_input *in) {
    om_buf_puts(out, "<p>Each tensor's loss is computed from one forward and one backward pass, in "
                     "nats and with no fitted constant. Here is how the sum compares with what was "
                     "measured.</p>\n");
    om_buf_puts(out, "<div class=\"card scroll\">");
    int n = 0;
    if (in->eval || in->n_baselines > 0) {
        om_buf_puts(
            out, "<table class=\"data\"><thead><tr><th scope=\"col\">File</th><th "
                 "scope=\"col\">Predicted</th><th scope=\"col\">Measured</th><th "
                 "scope=\"col\" title=\"measured / predicted\">Ratio</th></tr></thead><tbody>\n");
        if (in->eval) {
            row_ratio(out, "This file", in->allocation->predicted_nats, in->eval, true);
            n++;
        }
        for (int i = 0; i < in->n_baselines; i++) {
            const om_evaluation *e = in->baselines[i];
            const om_sweep_point *p = om_sweep_preset(&in->sweep, om_evaluation_name(e));
            if (p) {
                row_ratio(out, p->name, p->nats, e, false);
                n++;
            }
        }
        om_buf_puts(out, "</tbody></table>");
    }
    if (n == 0) {
        om_buf_puts(out, "<p class=\"quiet\">Nothing was measured.</p>");
    }
    om_buf_puts(out, "</div>\n");
    predicted_notes(out, in);
}
