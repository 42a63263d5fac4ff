/* What was run: everything needed to run it again, and to see that it was this. */
#include "report/sections.h"

#include <string.h>

#include "base/file.h"
#include "report/html.h"

static void open_fact(om_buf *out, const char *name) {
    om_buf_printf(out, "<dt>%s</dt><dd>", name);
}

static void close_fact(om_buf *out) {
    om_buf_puts(out, "</dd>\n");
}

static void put_digest(om_buf *out, const char *sha256) {
    om_buf_puts(out, "<code>");
    om_html_text(out, sha256[0] ? sha256 : "unknown");
    om_buf_puts(out, "</code>");
}

static void fact_digest(om_buf *out, const char *name, const char *file, const char *sha256) {
    open_fact(out, name);
    if (file[0]) {
        om_html_text(out, om_path_name(file));
        om_buf_puts(out, " ");
    }
    put_digest(out, sha256);
    close_fact(out);
}

static void facts_profile(om_buf *out, const om_profile *p) {
    fact_digest(out, "Model", p->model_path, p->model_sha256);
    fact_digest(out, "Profile", "", p->sha256);
    open_fact(out, "Method");
    om_html_text(out, strcmp(p->method, "fisher") == 0
                          ? "Fisher diagonal, one forward and one backward pass per window"
                          : p->method);
    close_fact(out);
    open_fact(out, "Calibration");
    om_buf_printf(out, "%d windows of %d tokens, ", p->n_windows, p->window_tokens);
    om_put_count(out, p->tokens);
    om_buf_printf(out, " tokens scored, seed %llu", (unsigned long long) p->seed);
    for (int i = 0; i < p->n_calib; i++) {
        om_buf_puts(out, "<br>");
        put_digest(out, p->calib_sha256[i]);
    }
    close_fact(out);
    if (p->stats_sha256[0]) {
        fact_digest(out, "Statistics", p->stats_path, p->stats_sha256);
    }
}

static void facts_allocation(om_buf *out, const om_allocation *a) {
    fact_digest(out, "Allocation", "", a->sha256);
    open_fact(out, "Budget");
    om_html_text(out, a->budget_kind);
    if (a->budget_bytes > 0) {
        om_buf_puts(out, ": ");
        om_put_count(out, a->budget_bytes);
        om_buf_puts(out, " bytes for the file, used ");
        om_put_count(out, a->bytes);
    }
    close_fact(out);
    if (a->active_bytes > 0) {
        open_fact(out, "Read per token");
        om_put_count(out, a->active_bytes);
        om_buf_puts(out, " bytes of weights");
        if (a->max_active_bytes > 0) {
            om_buf_puts(out, ", limit ");
            om_put_count(out, a->max_active_bytes);
        }
        close_fact(out);
    }
    if (a->routing_nats > 0) {
        open_fact(out, "Changed choices of experts");
        om_put_nats(out, a->routing_nats);
        om_buf_puts(out, " of the predicted ");
        om_put_nats(out, a->predicted_nats);
        om_buf_puts(out, " nats");
        close_fact(out);
    }
    if (a->n_banked > 0) {
        open_fact(out, "Experts in banks");
        om_buf_printf(out,
                      "in %d layers: mlx-lm needs --trust-remote-code. Their stacks are shown with "
                      "the type of the largest bank, without a prediction of their own",
                      a->n_banked);
        close_fact(out);
    }
    open_fact(out, "Solver");
    om_html_text(out, a->solver.status[0] ? a->solver.status : "none");
    om_buf_printf(out, ", gap %.2g, %.2f s; plan ", a->solver.gap, a->solver.seconds);
    om_html_text(out, a->plan);
    close_fact(out);
}

static void facts_evaluation(om_buf *out, const om_evaluation *e) {
    fact_digest(out, "File measured", e->model_path, e->model_sha256);
    fact_digest(out, "Reference", e->reference_path, e->reference_sha256);
    fact_digest(out, "Evaluation text", "", e->text_sha256);
    open_fact(out, "Evaluation");
    om_buf_printf(out, "%d chunks of %d tokens, ", e->n_chunks, e->n_ctx);
    om_put_count(out, e->tokens);
    om_buf_puts(out, " tokens scored, rule “");
    om_html_text(out, e->score);
    om_buf_puts(out, "”");
    if (e->device[0]) {
        om_buf_puts(out, ", on ");
        om_html_text(out, e->device);
    }
    if (e->peak_memory_bytes > 0) {
        om_buf_puts(out, ", peak memory ");
        om_put_bytes(out, (double) e->peak_memory_bytes);
    }
    close_fact(out);
}

void om_section_facts(om_buf *out, const om_report_input *in) {
    om_buf_puts(out, "<dl class=\"facts\">\n");
    open_fact(out, "Tool");
    om_buf_puts(out, "Optimum " OM_VERSION);
    close_fact(out);
    facts_profile(out, in->profile);
    facts_allocation(out, in->allocation);
    if (in->eval) {
        facts_evaluation(out, in->eval);
        open_fact(out, "Run it");
        om_buf_puts(out, in->eval->container == OM_CONTAINER_MLX ? "<code>mlx_lm.server --model "
                                                                 : "<code>llama-server -m ");
        om_html_text(out, om_path_name(in->eval->model_path));
        om_buf_puts(out, "</code>");
        close_fact(out);
    }
    om_buf_puts(out, "</dl>");
}

void om_section_footer(om_buf *out, const om_report_input *in) {
    (void) in;
    om_buf_puts(out, "Written by Optimum " OM_VERSION
                     ". KLD: mean Kullback–Leibler divergence per token of the quantized model's "
                     "next-token distribution from the full-precision model's, in nats. Sizes are "
                     "decimal and count the whole file.");
}
