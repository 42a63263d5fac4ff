/* The first screen of a report: the model, the result in one sentence, the numbers behind it.
 *
 * The sentence is the product: size, measured loss with its error, and the fraction of the best
 * preset that is not larger. When the preset wins, the same place says that, in the same size.
 */
#include "report/sections.h"

#include <string.h>

#include "base/file.h"
#include "report/html.h"
#include "report/verdict.h"

static om_verdict verdict_of(const om_report_input *in) {
    if (!in->eval) {
        return (om_verdict){ .kind = OM_VERDICT_NONE, .i_rival = -1 };
    }
    return om_verdict_of(in->eval, in->baselines, in->n_baselines);
}

void om_section_title(om_buf *out, const om_report_input *in) {
    om_html_text(out, om_path_name(in->profile->model_path));
    om_buf_puts(out, " – Optimum report");
}

void om_section_model(om_buf *out, const om_report_input *in) {
    om_html_text(out, om_path_name(in->profile->model_path));
}

/* "33.6 million" reads better than 33 600 000 in running text. */
static void put_params(om_buf *out, int64_t params) {
    const double n = (double) params;
    if (n >= 1e9) {
        om_buf_printf(out, "%.*f billion", n < 1e10 ? 2 : 1, n / 1e9);
    } else if (n >= 1e6) {
        om_buf_printf(out, "%.1f million", n / 1e6);
    } else {
        om_put_count(out, params);
    }
}

void om_section_subtitle(om_buf *out, const om_report_input *in) {
    const om_profile *p = in->profile;
    int n_layers = 0, n_experts = 1;
    for (int i = 0; i < p->n_units; i++) {
        n_layers = p->units[i].layer >= n_layers ? p->units[i].layer + 1 : n_layers;
        n_experts = p->units[i].experts > n_experts ? p->units[i].experts : n_experts;
    }
    om_html_text(out, p->arch);
    om_buf_puts(out, " · ");
    put_params(out, p->params);
    om_buf_printf(out, " parameters · %d layers", n_layers);
    if (n_experts > 1) {
        om_buf_printf(out, " · %d experts", n_experts);
    }
    om_buf_puts(out, " · source ");
    om_put_bytes(out, (double) p->file_bytes);
    if (strcmp(in->allocation->plan, "optimal") != 0) {
        om_buf_puts(out, " · plan ");
        om_html_text(out, in->allocation->plan);
    }
}

void om_section_verdict_class(om_buf *out, const om_report_input *in) {
    om_buf_puts(out, om_verdict_name(verdict_of(in).kind));
}

static void put_figure(om_buf *out, const char *label) {
    om_buf_printf(out, "</b><span>%s</span></div>\n", label);
}

static void put_verdict(om_buf *out, const om_report_input *in) {
    const om_verdict v = verdict_of(in);
    om_buf sentence = { 0 };
    om_verdict_text(&sentence, &v, in->eval, in->baselines);
    om_buf_puts(out, "<p class=\"verdict\">");
    if (sentence.data && sentence.len > 0) {
        if (sentence.data[0] >= 'a' && sentence.data[0] <= 'z') {
            sentence.data[0] = (char) (sentence.data[0] - 'a' + 'A');
        }
        om_html_text(out, sentence.data);
    }
    om_buf_puts(out, "</p>\n");
    out->failed = out->failed || sentence.failed;
    om_buf_release(&sentence);
    if (v.kind == OM_VERDICT_WORSE) {
        om_buf_puts(out, "<p>At this size the plain preset loses less. Use it, or give the mix "
                         "another budget.</p>\n");
    } else if (v.kind == OM_VERDICT_EQUAL) {
        om_buf_printf(out,
                      "<p>The difference is %.1f standard errors; measure more text to tell "
                      "them apart.</p>\n",
                      v.sigma);
    } else if (v.kind == OM_VERDICT_BETTER) {
        om_buf_puts(out, "<p>Both files measured on the same text, against the full-precision "
                         "model.</p>\n");
    }
}

void om_section_headline(om_buf *out, const om_report_input *in) {
    om_buf_puts(out, "<div class=\"figures\">\n<div><b>");
    om_put_bytes(out, (double) in->allocation->bytes);
    put_figure(out, "whole file");
    om_buf_puts(out, "<div><b>");
    if (!in->eval) {
        om_put_nats(out, in->allocation->predicted_nats);
        om_buf_puts(out, " <small>nats</small>");
        put_figure(out, "KL divergence per token, predicted");
        om_buf_puts(out, "</div>\n<p class=\"verdict\">Not measured</p>\n<p>Run <code>optimum "
                         "eval</code> on the file to know what it really loses.</p>\n");
        return;
    }
    om_put_nats_error(out, in->eval->kld_mean, in->eval->kld_stderr);
    om_buf_puts(out, " <small>nats</small>");
    put_figure(out, "KL divergence per token, measured");
    om_buf_puts(out, "</div>\n");
    put_verdict(out, in);
}

void om_report_headline_text(om_buf *out, const om_report_input *in) {
    om_put_bytes(out, (double) in->allocation->bytes);
    if (!in->eval) {
        om_buf_puts(out, ", predicted KLD ");
        om_put_nats(out, in->allocation->predicted_nats);
        om_buf_puts(out, " nats, not measured");
        return;
    }
    om_buf_puts(out, ", KLD ");
    om_put_nats_error(out, in->eval->kld_mean, in->eval->kld_stderr);
    om_buf_puts(out, " nats — ");
    const om_verdict v = verdict_of(in);
    om_verdict_text(out, &v, in->eval, in->baselines);
}

/* ---- tiles ---- */

static void tile_budget(om_buf *out, const om_allocation *a) {
    if (a->budget_bytes <= 0) {
        return;
    }
    om_buf_printf(out, "<div><dt>Budget used</dt><dd>%.1f\xC2\xA0%%</dd><dd>of ",
                  100 * (double) a->bytes / (double) a->budget_bytes);
    om_put_bytes(out, (double) a->budget_bytes);
    if (strcmp(a->budget_kind, "memory") == 0) {
        om_buf_puts(out, " left for the file");
    }
    om_buf_puts(out, "</dd></div>\n");
}

static void tiles_measured(om_buf *out, const om_evaluation *e) {
    om_buf_printf(out,
                  "<div><dt>Top-1 agreement</dt><dd>%.1f\xC2\xA0%%</dd><dd>same next token as the "
                  "reference</dd></div>\n<div><dt>Perplexity</dt><dd>%.2f</dd><dd>reference %.2f",
                  100 * e->top1_agreement, e->ppl, e->ppl_reference);
    if (e->ppl_reference > 0) {
        om_buf_printf(out, " (%+.1f\xC2\xA0%%)", 100 * (e->ppl / e->ppl_reference - 1));
    }
    om_buf_puts(out, "</dd></div>\n<div><dt>99th percentile of KLD</dt><dd>");
    om_put_nats(out, e->kld_p99);
    om_buf_puts(out, "</dd><dd>median ");
    om_put_nats(out, e->kld_median);
    om_buf_puts(out, "</dd></div>\n");
    if (e->decode_tok_s > 0) {
        om_buf_printf(out, "<div><dt>Decode speed</dt><dd>%.*f tok/s</dd><dd>prefill %.0f, on ",
                      e->decode_tok_s < 10 ? 1 : 0, e->decode_tok_s, e->prefill_tok_s);
        om_html_text(out, e->device[0] ? e->device : "this machine");
        om_buf_puts(out, "</dd></div>\n");
    }
}

void om_section_tiles(om_buf *out, const om_report_input *in) {
    const om_allocation *a = in->allocation;
    om_buf_printf(out,
                  "<div><dt>Bits per weight</dt><dd>%.2f</dd><dd>%.0f\xC2\xA0%% of the source's "
                  "size</dd></div>\n",
                  a->bpw,
                  in->profile->file_bytes > 0
                      ? 100 * (double) a->bytes / (double) in->profile->file_bytes
                      : 0.0);
    tile_budget(out, a);
    if (in->eval) {
        tiles_measured(out, in->eval);
    }
}
