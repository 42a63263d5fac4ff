/* What was decided, tensor by tensor: the mix of types, the heat maps, the table. */
#include "report/sections.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/heatmap.h"
#include "report/html.h"

/* One tensor as decided. nats < 0: the profile has no prediction for the chosen type. A stack whose
 * experts lie in banks has the type of the largest one, the bytes of all, and no prediction: that
 * of single experts is not in these files. */
typedef struct decision {
    const om_unit *unit;
    const om_format *format;
    int64_t bytes;
    double nats;
} decision;

static decision decide(const om_report_input *in, const om_unit *u) {
    const om_allocation *a = in->allocation;
    const om_format *f = om_allocation_find(a, u->name);
    om_bank_stack k;
    const om_expert_banks *l = om_expert_banks_find(a->banks, a->n_banked, u->name, &k);
    if (l != NULL) {
        const int64_t bytes = om_expert_banks_bytes(l, k, u->n_in, u->n_out);
        return (decision){ .unit = u, .format = f, .bytes = bytes, .nats = -1 };
    }
    const om_choice *c = om_unit_choice(u, f);
    return (decision){ .unit = u,
                       .format = f,
                       .bytes = c ? c->bytes : om_format_size(f, u->n_in, u->n_out * u->experts),
                       .nats = c ? c->nats : -1 };
}

/* ---- mix ---- */

typedef struct part {
    const om_format *format;
    int64_t bytes, params;
    int n_tensors;
} part;

#define MAX_PARTS 64

/* What a stack in banks has of a type. */
static void add_banks(part *p, const om_expert_banks *l, om_bank_stack k, const om_unit *u) {
    for (int b = 0; b < l->n_banks; b++) {
        if (l->banks[b].format[k] == p->format) {
            const int64_t rows = u->n_out * l->banks[b].n_experts;
            p->bytes += om_format_size(p->format, u->n_in, rows);
            p->params += u->n_in * rows;
            p->n_tensors++;
        }
    }
}

static void add_part(part *parts, int *n, const om_format *f, const om_report_input *in) {
    const om_allocation *a = in->allocation;
    part p = { .format = f };
    for (int j = 0; j < in->profile->n_units; j++) {
        const om_unit *u = &in->profile->units[j];
        om_bank_stack k;
        const om_expert_banks *l = om_expert_banks_find(a->banks, a->n_banked, u->name, &k);
        if (l != NULL) {
            add_banks(&p, l, k, u);
            continue;
        }
        const decision d = decide(in, u);
        if (d.format == f) {
            p.bytes += d.bytes;
            p.params += d.unit->params;
            p.n_tensors++;
        }
    }
    if (p.n_tensors > 0 && *n < MAX_PARTS) {
        parts[(*n)++] = p;
    }
}

/* Ascending bits per weight, as both catalogues are; MLX's have nothing larger than plain types. */
static int collect_parts(part *parts, const om_report_input *in) {
    int n = 0;
    const om_format *f;
    for (int i = 0; (f = om_format_mlx_at(i)) != NULL; i++) {
        add_part(parts, &n, f, in);
    }
    for (int i = 0; (f = om_format_at(i)) != NULL; i++) {
        add_part(parts, &n, f, in);
    }
    return n;
}

static void mix_bar(om_buf *out, const part *parts, int n, int64_t rest, int64_t total) {
    om_buf_puts(out, "<div class=\"mix\" aria-hidden=\"true\">");
    for (int i = 0; i < n; i++) {
        const double share = (double) parts[i].bytes / (double) total;
        om_buf_printf(out, "<i class=\"%s\" style=\"flex:%.4f 1 0\">%s</i>",
                      om_heat_class(om_format_bpw(parts[i].format)), share,
                      share > 0.09 ? parts[i].format->name : "");
    }
    om_buf_printf(out, "<i class=\"bx\" style=\"flex:%.4f 1 0\"></i></div>\n",
                  (double) rest / (double) total);
}

void om_section_mix(om_buf *out, const om_report_input *in) {
    part parts[MAX_PARTS];
    const int n = collect_parts(parts, in);
    const int64_t total = in->allocation->bytes > 0 ? in->allocation->bytes : 1;
    int64_t rest = total;
    for (int i = 0; i < n; i++) {
        rest -= parts[i].bytes;
    }
    rest = rest < 0 ? 0 : rest;
    mix_bar(out, parts, n, rest, total);
    om_buf_puts(out, "<div class=\"scroll\"><table class=\"data\"><thead><tr><th "
                     "scope=\"col\">Type</th><th scope=\"col\">Bits</th><th scope=\"col\" "
                     "class=\"optional\">Tensors"
                     "</th><th scope=\"col\" class=\"optional\">Weights</th><th "
                     "scope=\"col\">Bytes</th><th scope=\"col\">Share</th></tr></thead><tbody>\n");
    for (int i = 0; i < n; i++) {
        const double bpw = om_format_bpw(parts[i].format);
        om_buf_printf(
            out,
            "<tr><th scope=\"row\"><span class=\"swatch %s\"></span>%s</th><td>%.2f</td>"
            "<td class=\"optional\">%d</td><td class=\"optional\">%.1f\xC2\xA0%%</td><td>",
            om_heat_class(bpw), parts[i].format->name, bpw, parts[i].n_tensors,
            100 * (double) parts[i].params / (double) in->profile->params);
        om_put_bytes(out, (double) parts[i].bytes);
        om_buf_printf(out, "</td><td>%.1f\xC2\xA0%%</td></tr>\n",
                      100 * (double) parts[i].bytes / (double) total);
    }
    om_buf_printf(out,
                  "<tr class=\"predicted\"><th scope=\"row\"><span class=\"swatch bx\"></span>not "
                  "quantized, metadata</th><td>–</td><td class=\"optional\">%d</td><td "
                  "class=\"optional\">–</td><td>",
                  in->profile->n_fixed);
    om_put_bytes(out, (double) rest);
    om_buf_printf(out, "</td><td>%.1f\xC2\xA0%%</td></tr>\n</tbody></table></div>\n",
                  100 * (double) rest / (double) total);
}

/* ---- the sentence above it ---- */

/* Mean bits per weight of a role, over its tensors. */
static double role_bpw(const om_report_input *in, const char *role) {
    double bits = 0, params = 0;
    for (int i = 0; i < in->profile->n_units; i++) {
        const om_unit *u = &in->profile->units[i];
        if (u->layer >= 0 && strcmp(u->role, role) == 0) {
            bits += 8 * (double) decide(in, u).bytes;
            params += (double) u->params;
        }
    }
    return params > 0 ? bits / params : 0;
}

static bool role_seen_before(const om_profile *p, int i) {
    for (int j = 0; j < i; j++) {
        if (p->units[j].layer >= 0 && strcmp(p->units[j].role, p->units[i].role) == 0) {
            return true;
        }
    }
    return false;
}

void om_section_decided_intro(om_buf *out, const om_report_input *in) {
    const om_profile *p = in->profile;
    const om_unit *most = NULL, *least = NULL;
    double high = 0, low = 0;
    for (int i = 0; i < p->n_units; i++) {
        if (p->units[i].layer < 0 || role_seen_before(p, i)) {
            continue;
        }
        const double bpw = role_bpw(in, p->units[i].role);
        if (!most || bpw > high) {
            most = &p->units[i];
            high = bpw;
        }
        if (!least || bpw < low) {
            least = &p->units[i];
            low = bpw;
        }
    }
    part parts[MAX_PARTS];
    om_buf_printf(out, "%d tensors in %d types. ", p->n_units, collect_parts(parts, in));
    if (most && high > low + 0.05) {
        om_buf_puts(out, "Most bits per weight went to ");
        om_html_text(out, most->role);
        om_buf_printf(out, " (%.2f on average), fewest to ", high);
        om_html_text(out, least->role);
        om_buf_printf(out, " (%.2f). ", low);
    }
    om_buf_puts(out, "Norms, biases and routers are copied as they are.");
}

void om_section_heatmaps(om_buf *out, const om_report_input *in) {
    if (!om_heatmap(out, in)) {
        out->failed = true;
    }
}

/* ---- table ---- */

static int by_loss(const void *a, const void *b) {
    const decision *p = a, *q = b;
    if (p->nats != q->nats) {
        return p->nats > q->nats ? -1 : 1;
    }
    return strcmp(p->unit->name, q->unit->name);
}

static void emit_row(om_buf *out, const decision *d, double total_nats) {
    const om_unit *u = d->unit;
    om_buf_puts(out, "<tr><th scope=\"row\">");
    om_html_role(out, u->name);
    om_buf_printf(out, "</th><td class=\"optional\" data-v=\"%lld\">", (long long) u->params);
    if (u->experts > 1) {
        om_buf_printf(out, "%d × ", u->experts);
    }
    om_buf_printf(
        out, "%lld × %lld</td><td data-v=\"%.4f\">%s</td><td class=\"optional\" data-v=\"%lld\">",
        (long long) u->n_out, (long long) u->n_in, om_format_bpw(d->format), d->format->name,
        (long long) d->bytes);
    om_put_bytes(out, (double) d->bytes);
    om_buf_printf(out, "</td><td data-v=\"%.9g\">", d->nats);
    if (d->nats < 0) {
        om_buf_puts(out, "–</td><td data-v=\"-1\">–</td></tr>\n");
        return;
    }
    const double share = total_nats > 0 ? 100 * d->nats / total_nats : 0;
    om_put_nats(out, d->nats);
    om_buf_printf(out,
                  "</td><td data-v=\"%.6g\">%.1f\xC2\xA0%%<span class=\"share\"><i "
                  "style=\"width:%.1f%%\"></i></span></td></tr>\n",
                  share, share, share > 100 ? 100.0 : share);
}

/* The decisions by falling loss; NULL when memory is short. */
static decision *sorted_decisions(double *total_nats, const om_report_input *in) {
    const int n = in->profile->n_units;
    decision *d = om_calloc((size_t) n, sizeof *d);
    if (!d) {
        return NULL;
    }
    *total_nats = 0;
    for (int i = 0; i < n; i++) {
        d[i] = decide(in, &in->profile->units[i]);
        *total_nats += d[i].nats > 0 ? d[i].nats : 0;
    }
    qsort(d, (size_t) n, sizeof *d, by_loss);
    return d;
}

void om_section_tensors_intro(om_buf *out, const om_report_input *in) {
    double total = 0, top = 0;
    decision *d = sorted_decisions(&total, in);
    if (!d) {
        out->failed = true;
        return;
    }
    const int n = in->profile->n_units < 10 ? in->profile->n_units : 10;
    for (int i = 0; i < n; i++) {
        top += d[i].nats > 0 ? d[i].nats : 0;
    }
    om_buf_printf(
        out,
        "Predicted loss of each tensor in its chosen type, largest first. The first %d of "
        "%d make up %.0f\xC2\xA0%% of the sum.",
        n, in->profile->n_units, total > 0 ? 100 * top / total : 0.0);
    om_free(d);
}

void om_section_tensors(om_buf *out, const om_report_input *in) {
    double total = 0;
    decision *d = sorted_decisions(&total, in);
    if (!d) {
        out->failed = true;
        return;
    }
    om_buf_puts(
        out,
        "<table class=\"data sortable\"><thead><tr><th scope=\"col\">Tensor</th><th "
        "scope=\"col\" class=\"optional\">Shape</th><th scope=\"col\">Type</th><th "
        "scope=\"col\" class=\"optional\">Bytes</th><th scope=\"col\">Nats</th><th scope=\"col\" "
        "aria-sort=\"descending\">Share</th></tr></thead><tbody>\n");
    for (int i = 0; i < in->profile->n_units; i++) {
        emit_row(out, &d[i], total);
    }
    om_buf_puts(out, "</tbody></table>");
    om_free(d);
}
