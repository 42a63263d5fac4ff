/* Tensors -> two tables of coloured cells, one row a layer, one column a role.
 *
 * Tables rather than SVG: the text keeps its size on a phone, can be selected and found, and a
 * screen reader announces layer and role. Layers run downwards because phones scroll that way and a
 * model has more layers than roles. Colours are classes; the style sheet has a ramp for light and
 * for dark.
 */
#include "report/heatmap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/html.h"

#define MAX_ROLES 48
#define N_SHADES 9
#define MAX_DECADES 5.0 /* of the sensitivity scale; what is below is as good as zero */

typedef struct grid {
    const om_report_input *in;
    const char *roles[MAX_ROLES]; /* borrowed from units, display order */
    int n_roles, n_layers;
    const om_unit **cells; /* [n_layers, n_roles], NULL where a layer has no such tensor; owned */
    double low, high;      /* log10 nats of the sensitivity scale */
} grid;

const char *om_heat_class(double bpw) {
    static const struct {
        double below;
        const char *css;
    } step[] = { { 2, "b1" }, { 3, "b2" }, { 4, "b3" }, { 5, "b4" },
                 { 6, "b5" }, { 8, "b6" }, { 9, "b8" } };
    for (size_t i = 0; i < sizeof step / sizeof step[0]; i++) {
        if (bpw < step[i].below) {
            return step[i].css;
        }
    }
    return "b16";
}

/* ---- grid ---- */

/* Attention before feed-forward, inputs before outputs: the order of the computation. */
static int role_rank(const char *role) {
    static const char *const order[] = {
        "attn_q",      "attn_q_a",      "attn_q_b",    "attn_k",           "attn_kv_a",
        "attn_k_b",    "attn_v",        "attn_v_b",    "attn_qkv",         "attn_",
        "ssm_",        "ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps",
        "ffn_gate_sh", "ffn_up_sh",     "ffn_down_sh", "ffn_gate",         "ffn_up",
        "ffn_down"
    };
    const int n = (int) (sizeof order / sizeof order[0]);
    for (int i = 0; i < n; i++) {
        if (strcmp(role, order[i]) == 0) {
            return i;
        }
    }
    for (int i = 0; i < n; i++) {
        const size_t len = strlen(order[i]);
        if ((order[i][len - 1] == '_' || strstr(order[i], "_sh")) &&
            strncmp(role, order[i], len) == 0) {
            return i;
        }
    }
    return n;
}

static int by_rank(const void *a, const void *b) {
    const char *p = *(const char *const *) a, *q = *(const char *const *) b;
    const int d = role_rank(p) - role_rank(q);
    return d ? d : strcmp(p, q);
}

static int role_index(const grid *g, const char *role) {
    for (int i = 0; i < g->n_roles; i++) {
        if (strcmp(g->roles[i], role) == 0) {
            return i;
        }
    }
    return -1;
}

static bool grid_init(grid *g, const om_report_input *in) {
    const om_profile *p = in->profile;
    *g = (grid){ .in = in, .high = -(double) INFINITY, .low = (double) INFINITY };
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = &p->units[i];
        if (u->layer >= 0) {
            g->n_layers = u->layer >= g->n_layers ? u->layer + 1 : g->n_layers;
            if (role_index(g, u->role) < 0 && g->n_roles < MAX_ROLES) {
                g->roles[g->n_roles++] = u->role;
            }
        }
        const om_choice *c = om_unit_four_bit(u);
        if (c && c->nats > 0) {
            g->high = fmax(g->high, log10(c->nats));
            g->low = fmin(g->low, log10(c->nats));
        }
    }
    if (!(g->low <= g->high)) {
        g->low = g->high = -3;
    }
    g->low = fmax(g->low, g->high - MAX_DECADES);
    /* A hostile layer number must not ask for the memory of a billion rows. */
    if (g->n_layers > 16384) {
        g->n_layers = 16384;
    }
    qsort(g->roles, (size_t) g->n_roles, sizeof g->roles[0], by_rank);
    g->cells = om_calloc((size_t) g->n_layers * (size_t) g->n_roles, sizeof *g->cells);
    if (!g->cells) {
        return false;
    }
    for (int i = 0; i < p->n_units; i++) {
        const om_unit *u = &p->units[i];
        const int r = u->layer >= 0 && u->layer < g->n_layers ? role_index(g, u->role) : -1;
        if (r >= 0) {
            g->cells[(size_t) u->layer * (size_t) g->n_roles + (size_t) r] = u;
        }
    }
    return true;
}

/* ---- cells ---- */

typedef void cell_fn(om_buf *out, const grid *g, const om_unit *u, const char *element);

static void cell_type(om_buf *out, const grid *g, const om_unit *u, const char *element) {
    const om_format *f = om_allocation_find(g->in->allocation, u->name);
    om_buf_printf(out, "<%s class=\"%s\" title=\"", element, om_heat_class(om_format_bpw(f)));
    om_html_text(out, u->name);
    om_buf_printf(out, ": %s, %.2f bits per weight\">", f->name, om_format_bpw(f));
    if (strcmp(element, "td") != 0) {
        om_html_text(out, u->role);
        om_buf_puts(out, " ");
    }
    if (f->mlx == OM_MLX_AFFINE) { /* "mlx_4bit_g64" is too long for a cell */
        om_buf_printf(out, "%d/g%d", f->bits, f->block);
    } else {
        om_html_text(out, f->name);
    }
    om_buf_printf(out, "</%s>", element);
}

static void cell_nats(om_buf *out, const grid *g, const om_unit *u, const char *element) {
    const om_choice *c = om_unit_four_bit(u);
    int shade = 0;
    if (c && c->nats > 0 && g->high > g->low) {
        const double x = (log10(c->nats) - g->low) / (g->high - g->low);
        shade = (int) (x * N_SHADES);
        shade = shade < 0 ? 0 : shade >= N_SHADES ? N_SHADES - 1 : shade;
    }
    char number[32];
    om_buf_printf(out, "<%s class=\"s%d\" title=\"", element, shade);
    om_html_text(out, u->name);
    if (c) {
        om_buf_puts(out, ": ");
        om_put_nats(out, c->nats);
        om_buf_printf(out, " nats as %s", c->format->name);
    }
    om_buf_puts(out, "\">");
    if (strcmp(element, "td") != 0) {
        om_html_text(out, u->role);
        om_buf_puts(out, " ");
    }
    om_buf_puts(out, c ? om_format_si(number, c->nats) : "–");
    om_buf_printf(out, "</%s>", element);
}

static void emit_outside(om_buf *out, const grid *g, cell_fn *cell) {
    om_buf_puts(out, "<p class=\"outside\"><span class=\"quiet\">Outside of layers</span> ");
    for (int i = 0; i < g->in->profile->n_units; i++) {
        if (g->in->profile->units[i].layer < 0) {
            cell(out, g, &g->in->profile->units[i], "span");
            om_buf_puts(out, " ");
        }
    }
    om_buf_puts(out, "</p>\n");
}

static void emit_table(om_buf *out, const grid *g, cell_fn *cell) {
    om_buf_printf(out,
                  "<div class=\"scroll\"><table class=\"heat\" style=\"--n:%d\"><thead><tr><th "
                  "scope=\"col\"><abbr title=\"layer\">L</abbr></th>",
                  g->n_roles);
    for (int r = 0; r < g->n_roles; r++) {
        om_buf_puts(out, "<th scope=\"col\">");
        om_html_role(out, g->roles[r]);
        om_buf_puts(out, "</th>");
    }
    om_buf_puts(out, "</tr></thead><tbody>\n");
    for (int l = 0; l < g->n_layers; l++) {
        om_buf_printf(out, "<tr><th scope=\"row\">%d</th>", l);
        for (int r = 0; r < g->n_roles; r++) {
            const om_unit *u = g->cells[(size_t) l * (size_t) g->n_roles + (size_t) r];
            if (u) {
                cell(out, g, u, "td");
            } else {
                om_buf_puts(out, "<td class=\"none\"></td>");
            }
        }
        om_buf_puts(out, "</tr>\n");
    }
    om_buf_puts(out, "</tbody></table></div>\n");
}

/* ---- legends ---- */

static void legend_types(om_buf *out) {
    static const struct {
        const char *css, *text;
    } key[] = { { "b1", "1" }, { "b2", "2" }, { "b3", "3" }, { "b4", "4" },
                { "b5", "5" }, { "b6", "6" }, { "b8", "8" }, { "b16", "16" } };
    om_buf_puts(out, "<p class=\"legend\"><span>Bits per weight</span><span class=\"ramp\">");
    for (size_t i = 0; i < sizeof key / sizeof key[0]; i++) {
        om_buf_printf(out, "<i class=\"%s\">%s</i>", key[i].css, key[i].text);
    }
    om_buf_puts(out, "</span></p>\n");
}

static void legend_nats(om_buf *out, const grid *g) {
    char low[32], high[32];
    om_buf_printf(out, "<p class=\"legend\"><span>Nats</span><span>%s</span><span class=\"ramp\">",
                  om_format_si(low, pow(10, g->low)));
    for (int i = 0; i < N_SHADES; i++) {
        om_buf_printf(out, "<i class=\"s%d\"></i>", i);
    }
    om_buf_printf(out, "</span><span>%s</span></p>\n", om_format_si(high, pow(10, g->high)));
}

bool om_heatmap(om_buf *out, const om_report_input *in) {
    grid g;
    if (!grid_init(&g, in)) {
        return false;
    }
    /* Half the page holds about nine columns; with more the maps go below each other. */
    om_buf_puts(out, g.n_roles > 9 ? "<div class=\"pair stack\">" : "<div class=\"pair\">");
    om_buf_puts(out, "<figure><figcaption><h3>What was chosen</h3>"
                     "<p>The type of each tensor.</p></figcaption>\n");
    legend_types(out);
    emit_outside(out, &g, cell_type);
    emit_table(out, &g, cell_type);
    om_buf_puts(out, "</figure>\n<figure><figcaption><h3>Why: sensitivity</h3>"
                     "<p>Nats lost with this tensor alone at about 4 bits.</p></figcaption>\n");
    legend_nats(out, &g);
    emit_outside(out, &g, cell_nats);
    emit_table(out, &g, cell_nats);
    om_buf_puts(out,
                "<p class=\"note\">m = 10⁻³, µ = 10⁻⁶, n = 10⁻⁹; q4_K, or the nearest type the "
                "tensor can have</p>");
    om_buf_puts(out, "</figure></div>\n");
    om_free(g.cells);
    return true;
}
