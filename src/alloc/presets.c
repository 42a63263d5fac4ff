/* The presets of llama-quantize: which type each tensor would get, without running it.
 *
 * The decisions (not the code) are those of src/llama-quant.cpp of the pinned llama.cpp; they
 * depend on the kind of tensor, on its position among its kind, on the ratio of query to key-value
 * heads, on the number of experts and in a few cases on the architecture. Tensors are visited in
 * the order of llama.cpp's loader (outside of blocks first, then by layer, then by name), because
 * "the first eighth of the ffn_down" is counted along it. A preset here means "with imatrix", as
 * every file that is worth comparing with is made.
 *
 * tests/oracle/compare_presets.py compares every tensor of every preset with the real tool.
 */
#include "alloc/presets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "alloc/plans.h"
#include "base/buf.h"
#include "base/mem.h"

typedef enum preset_id {
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ2_M,
    Q2_K_S,
    Q2_K,
    IQ3_XXS,
    IQ3_XS,
    Q3_K_S,
    IQ3_S,
    IQ3_M,
    Q3_K_M,
    Q3_K_L,
    IQ4_XS,
    Q4_0,
    IQ4_NL,
    Q4_K_S,
    Q4_K_M,
    Q4_1,
    Q5_0,
    Q5_K_S,
    Q5_K_M,
    Q5_1,
    Q6_K,
    Q8_0,
    N_PRESETS
} preset_id;

static const struct {
    const char *name, *type; /* what a tensor gets that no rule mentions */
} presets[N_PRESETS] = {
    [IQ2_XXS] = { "IQ2_XXS", "iq2_xxs" }, [IQ2_XS] = { "IQ2_XS", "iq2_xs" },
    [IQ2_S] = { "IQ2_S", "iq2_xs" },      [IQ2_M] = { "IQ2_M", "iq2_s" },
    [Q2_K_S] = { "Q2_K_S", "q2_K" },      [Q2_K] = { "Q2_K", "q2_K" },
    [IQ3_XXS] = { "IQ3_XXS", "iq3_xxs" }, [IQ3_XS] = { "IQ3_XS", "iq3_s" },
    [Q3_K_S] = { "Q3_K_S", "q3_K" },      [IQ3_S] = { "IQ3_S", "iq3_s" },
    [IQ3_M] = { "IQ3_M", "iq3_s" },       [Q3_K_M] = { "Q3_K_M", "q3_K" },
    [Q3_K_L] = { "Q3_K_L", "q3_K" },      [IQ4_XS] = { "IQ4_XS", "iq4_xs" },
    [Q4_0] = { "Q4_0", "q4_0" },          [IQ4_NL] = { "IQ4_NL", "iq4_nl" },
    [Q4_K_S] = { "Q4_K_S", "q4_K" },      [Q4_K_M] = { "Q4_K_M", "q4_K" },
    [Q4_1] = { "Q4_1", "q4_1" },          [Q5_0] = { "Q5_0", "q5_0" },
    [Q5_K_S] = { "Q5_K_S", "q5_K" },      [Q5_K_M] = { "Q5_K_M", "q5_K" },
    [Q5_1] = { "Q5_1", "q5_1" },          [Q6_K] = { "Q6_K", "q6_K" },
    [Q8_0] = { "Q8_0", "q8_0" },
};

const char *om_preset_name(int i) {
    return i >= 0 && i < N_PRESETS ? presets[i].name : NULL;
}

/* ---- kinds of tensors -------------------------------------------------------------------------
 */

typedef enum tensor_kind {
    KIND_EMBEDDING,
    KIND_OUTPUT,
    KIND_ATTN_V, /* also fused qkv and the compressed kv of MLA */
    KIND_ATTN_K,
    KIND_ATTN_Q,
    KIND_ATTN_OUTPUT,
    KIND_FFN_UP,
    KIND_FFN_GATE,
    KIND_FFN_DOWN,
    KIND_OTHER
} tensor_kind;

static tensor_kind kind_of(const char *name) {
    static const struct {
        const char *part;
        tensor_kind kind;
    } parts[] = {
        { "attn_qkv.weight", KIND_ATTN_V }, { "attn_kv_b.weight", KIND_ATTN_V },
        { "attn_v.weight", KIND_ATTN_V },   { "attn_k.weight", KIND_ATTN_K },
        { "attn_q.weight", KIND_ATTN_Q },   { "attn_output.weight", KIND_ATTN_OUTPUT },
        { "ffn_up", KIND_FFN_UP },          { "ffn_gate", KIND_FFN_GATE },
        { "ffn_down", KIND_FFN_DOWN },
    };
    if (strcmp(name, "output.weight") == 0) {
        return KIND_OUTPUT;
    }
    if (strcmp(name, "token_embd.weight") == 0 ||
        strcmp(name, "per_layer_token_embd.weight") == 0) {
        return KIND_EMBEDDING;
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr(name, parts[i].part) != NULL) {
            return parts[i].kind;
        }
    }
    return KIND_OTHER;
}

/* ---- the model --------------------------------------------------------------------------------
 */

typedef struct mixture {
    preset_id preset;
    bool has_imatrix;
    bool is_falcon, is_70b, is_glm5_next, tied;
    int n_layer, n_gqa, n_expert;
    int n_attn_v;
    int i_attn_v, i_ffn_down, i_ffn_gate, i_ffn_up; /* visited so far */
} mixture;

static int layer_of(const char *name) {
    int layer = -1;
    return sscanf(name, "blk.%d.", &layer) == 1 ? layer : -1;
}

static const om_unit *find_role(const om_profile *p, const char *role) {
    for (int i = 0; i < p->n_units; i++) {
        if (strcmp(p->units[i].role, role) == 0) {
            return &p->units[i];
        }
    }
    return NULL;
}

/* Query heads per key-value head from the shapes: heads of q, k and v have the same width in every
 * architecture that has these tensors. Unknown: 1. */
static int derive_gqa(const om_profile *p) {
    const om_unit *q = find_role(p, "attn_q"), *k = find_role(p, "attn_k");
    const om_unit *qkv = find_role(p, "attn_qkv"), *o = find_role(p, "attn_output");
    if (q != NULL && k != NULL) {
        return (int) (q->n_out / k->n_out);
    }
    if (qkv != NULL && o != NULL && qkv->n_out > o->n_in && (qkv->n_out - o->n_in) / 2 > 0) {
        return (int) (o->n_in / ((qkv->n_out - o->n_in) / 2));
    }
    return 1;
}

static void describe(mixture *m, const om_profile *p) {
    bool known = p->hparams.n_head > 0;
    m->n_layer = p->hparams.n_layer;
    m->n_expert = p->hparams.n_expert;
    if (known) {
        m->n_gqa = p->hparams.n_head_kv > 0 ? p->hparams.n_head / p->hparams.n_head_kv : 0;
    } else {
        m->n_gqa = derive_gqa(p);
    }
    m->tied = true;
    for (int i = 0; i < p->n_units + p->n_fixed; i++) {
        const char *name = i < p->n_units ? p->units[i].name : p->fixed[i - p->n_units].name;
        tensor_kind kind = kind_of(name);
        int layer = layer_of(name);
        m->n_attn_v += kind == KIND_ATTN_V;
        m->tied &= kind != KIND_OUTPUT;
        if (!known) {
            m->n_layer = layer >= m->n_layer ? layer + 1 : m->n_layer;
            if (i < p->n_units && strstr(name, "_exps.") != NULL &&
                p->units[i].experts > m->n_expert) {
                m->n_expert = p->units[i].experts;
            }
        }
    }
    m->is_falcon = strcmp(p->arch, "falcon") == 0;
    m->is_glm5_next = strcmp(p->arch, "glm5-next") == 0;
    m->is_70b =
        (m->n_layer == 80 &&
         ((strcmp(p->arch, "llama") == 0 && m->n_gqa != 1) || strcmp(p->arch, "qwen2") == 0 ||
          strcmp(p->arch, "deci") == 0 || strcmp(p->arch, "olmo") == 0)) ||
        (m->n_layer == 68 && strcmp(p->arch, "jais2") == 0);
}

/* ---- the rules --------------------------------------------------------------------------------
 */

static bool is_iq2(preset_id p) {
    return p == IQ2_XXS || p == IQ2_XS || p == IQ2_S || p == IQ2_M;
}

/* The first and last eighth of the layers and every third between. */
static bool more_bits(int i, int n) {
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* Position of a feed-forward tensor: its layer where experts make counting useless. */
static int position(const mixture *m, const char *name, int counted) {
    return m->n_expert > 1 ? layer_of(name) : counted;
}

static const char *output_type(const mixture *m, const om_unit *u, const char *type) {
    const om_format *format = om_format_by_name(type);
    if (m->is_falcon || u->n_in % format->block != 0) {
        return "q8_0";
    }
    if (is_iq2(m->preset) || m->preset == IQ3_XXS) {
        return "q5_K";
    }
    return strcmp(type, "q8_0") == 0 ? type : "q6_K";
}

static const char *embedding_type(const mixture *m, const char *type) {
    if (m->preset == IQ2_XXS || m->preset == IQ2_XS) {
        return "q2_K";
    }
    return m->preset == IQ2_S || m->preset == IQ2_M || m->preset == IQ3_XXS ? "iq3_s" : type;
}

/* The IQ2 presets have rules of their own for every kind. */
static const char *iq2_type(mixture *m, tensor_kind kind, const char *type) {
    const char *better = m->preset == IQ2_S || m->preset == IQ2_M ? "iq3_s" : "q2_K";
    switch (kind) {
    case KIND_ATTN_V:
        m->i_attn_v++;
        return m->n_gqa >= 4 || m->n_expert >= 4 ? "q4_K" : better;
    case KIND_ATTN_K:
        return m->n_expert == 8 ? "q4_K" : type;
    case KIND_FFN_DOWN:
        return m->i_ffn_down++ < m->n_layer / 8 ? better : type;
    case KIND_ATTN_OUTPUT:
        if (m->n_expert == 8) {
            return "q5_K";
        }
        return strcmp(better, "iq3_s") == 0 ? better : type;
    case KIND_EMBEDDING:
    case KIND_OUTPUT:
    case KIND_ATTN_Q:
    case KIND_FFN_UP:
    case KIND_FFN_GATE:
    case KIND_OTHER:
        break;
    }
    return type;
}

static const char *attn_v_preset(const mixture *m, const char *type) {
    const bool wide = m->n_gqa >= 4; /* few key-value heads: small tensors */
    const int i = m->i_attn_v;
    switch ((int) m->preset) {
    case Q2_K:
        return wide ? "q4_K" : "q3_K";
    case Q2_K_S:
    case IQ3_XS:
    case IQ3_S:
        return wide ? "q4_K" : type;
    case IQ3_XXS:
        return wide ? "q4_K" : m->has_imatrix ? "iq3_xxs" : "iq3_s";
    case IQ3_M:
        return "q4_K";
    case Q3_K_M:
        return i < 2 ? "q5_K" : "q4_K";
    case Q3_K_L:
        return "q5_K";
    case IQ4_NL:
    case IQ4_XS:
        return wide ? "q5_K" : type;
    case Q4_K_M:
    case Q5_K_M:
        return more_bits(i, m->n_attn_v) ? "q6_K" : type;
    case Q4_K_S:
        return i < 4 ? "q5_K" : type;
    default:
        return type;
    }
}

static const char *attn_v_type(mixture *m, const char *type) {
    type = attn_v_preset(m, type);
    m->i_attn_v++;
    if (m->is_70b && (strcmp(type, "q3_K") == 0 || strcmp(type, "q4_K") == 0)) {
        type = "q5_K";
    }
    return m->n_expert == 8 ? "q8_0" : type;
}

static const char *attn_qk_type(const mixture *m, tensor_kind kind, const char *type) {
    if (kind == KIND_ATTN_K && m->n_expert == 8) {
        return "q8_0";
    }
    return m->preset == IQ3_XS ? "iq3_xxs" : m->preset == IQ3_XXS ? "iq2_s" : type;
}

static const char *attn_output_type(const mixture *m, const char *type) {
    const preset_id p = m->preset;
    if (m->is_falcon) {
        return p == Q3_K_L ? "q4_K" : type;
    }
    if (m->n_expert == 8) {
        bool raised = p == Q2_K || p == IQ3_XS || p == IQ3_XXS || p == Q3_K_S || p == Q3_K_M ||
                      p == IQ4_NL || p == Q4_K_S || p == Q4_K_M || p == IQ3_S || p == IQ3_M ||
                      p == IQ4_XS;
        return raised ? "q5_K" : type;
    }
    switch ((int) p) {
    case Q2_K:
        return "q3_K";
    case IQ3_XXS:
        return "iq3_s";
    case Q3_K_M:
    case IQ3_M:
        return "q4_K";
    case Q3_K_L:
        return "q5_K";
    default:
        return type;
    }
}

/* i of n: the tensor's position among the layers. */
static const char *ffn_down_type(const mixture *m, int i, int n, const char *type) {
    const bool first = i < n / 8, more = more_bits(i, n);
    switch ((int) m->preset) {
    case Q2_K:
        return "q3_K";
    case Q2_K_S:
        return first ? "q4_K" : type;
    case IQ3_XXS:
        return m->has_imatrix ? type : first ? "q4_K" : "q3_K";
    case Q3_K_M:
        return i < n / 16 ? "q5_K" : !m->is_falcon || more ? "q4_K" : "q3_K";
    case IQ3_M:
        return first || (m->n_expert == 8 && more) ? "q4_K" : type;
    case Q3_K_L:
        return m->is_falcon ? "q4_K" : "q5_K";
    case Q4_K_M:
        if (m->is_falcon) {
            return i < n / 16 ? "q6_K" : more ? "q5_K" : "q4_K";
        }
        return more ? "q6_K" : type;
    case IQ4_NL:
    case IQ4_XS:
        return first && !m->has_imatrix ? "q5_K" : type;
    case Q5_K_M:
        return more ? "q6_K" : type;
    case Q4_K_S:
        return first && !m->is_falcon ? "q5_K" : type;
    case Q4_0:
        return first && m->has_imatrix ? "q4_1" : type;
    case Q5_0:
        return first && m->has_imatrix ? "q5_1" : type;
    default:
        return type;
    }
}

static const char *ffn_in_type(const mixture *m, int i, int n, const char *type) {
    return m->preset == IQ3_XS && i >= n / 8 && i < 7 * n / 8 ? "iq3_xxs" : type;
}

static const char *mixed_type(mixture *m, const om_unit *u) {
    const char *type = presets[m->preset].type;
    const tensor_kind kind = kind_of(u->name);
    const int n = m->n_layer;
    if (m->is_glm5_next &&
        (strstr(u->name, "attn_q_a") != NULL || strstr(u->name, "attn_q_b") != NULL ||
         strstr(u->name, "nextn.eh_proj") != NULL)) {
        return "q8_0";
    }
    if (kind == KIND_OUTPUT || (kind == KIND_EMBEDDING && m->tied)) {
        return output_type(m, u, type);
    }
    if (kind == KIND_EMBEDDING) {
        return embedding_type(m, type);
    }
    if (is_iq2(m->preset)) {
        return iq2_type(m, kind, type);
    }
    switch (kind) {
    case KIND_ATTN_V:
        return attn_v_type(m, type);
    case KIND_ATTN_K:
    case KIND_ATTN_Q:
        return attn_qk_type(m, kind, type);
    case KIND_ATTN_OUTPUT:
        return attn_output_type(m, type);
    case KIND_FFN_DOWN:
        return ffn_down_type(m, position(m, u->name, m->i_ffn_down++), n, type);
    case KIND_FFN_GATE:
        return ffn_in_type(m, position(m, u->name, m->i_ffn_gate++), n, type);
    case KIND_FFN_UP:
        return ffn_in_type(m, position(m, u->name, m->i_ffn_up++), n, type);
    case KIND_EMBEDDING:
    case KIND_OUTPUT:
    case KIND_OTHER:
        break;
    }
    return type;
}

/* Rows that the block does not divide: one type of 32-blocks per family, else F16. */
static const om_format *fit_rows(const om_format *format, int64_t n_in) {
    static const struct {
        const char *from, *to;
    } map[] = { { "q2_K", "q4_0" },
                { "q3_K", "q4_0" },
                { "q4_K", "q5_0" },
                { "q5_K", "q5_1" },
                { "q6_K", "q8_0" } };
    if (n_in % format->block == 0) {
        return format;
    }
    if (format->block > 32) {
        const char *to = "iq4_nl"; /* of every IQ type */
        for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
            if (strcmp(format->name, map[i].from) == 0) {
                to = map[i].to;
            }
        }
        format = om_format_by_name(to);
    }
    return n_in % format->block == 0 ? format : om_format_by_name("f16");
}

/* ---- entry points -----------------------------------------------------------------------------
 */

static int compare_load_order(const void *a, const void *b) {
    const char *x = (*(const om_unit *const *) a)->name, *y = (*(const om_unit *const *) b)->name;
    int i = layer_of(x), j = layer_of(y);
    return i != j ? (i < j ? -1 : 1) : strcmp(x, y);
}

static om_status unknown_preset(const char *name, om_error *err) {
    om_buf list = { 0 };
    for (int i = 0; i < N_PRESETS; i++) {
        om_buf_printf(&list, "%s%s", i > 0 ? " " : "", presets[i].name);
    }
    om_status status = om_fail(err, OM_E_ARG, "unknown preset '%.32s'; known are %s", name,
                               list.failed ? "" : list.data);
    om_buf_release(&list);
    return status;
}

om_status om_preset_raw_types(const om_format **types, const om_profile *p, const char *name,
                              bool has_imatrix, om_error *err) {
    mixture m = { .preset = N_PRESETS, .has_imatrix = has_imatrix };
    for (int i = 0; i < N_PRESETS; i++) {
        if (strcasecmp(presets[i].name, name) == 0) {
            m.preset = (preset_id) i;
        }
    }
    if (m.preset == N_PRESETS) {
        return unknown_preset(name, err);
    }
    const om_unit **order = om_calloc((size_t) p->n_units, sizeof *order);
    if (order == NULL) {
        return om_fail_nomem(err, (size_t) p->n_units * sizeof *order);
    }
    for (int i = 0; i < p->n_units; i++) {
        order[i] = &p->units[i];
    }
    qsort(order, (size_t) p->n_units, sizeof *order, compare_load_order);
    describe(&m, p);
    for (int i = 0; i < p->n_units; i++) {
        const om_format *format = om_format_by_name(mixed_type(&m, order[i]));
        types[order[i] - p->units] = fit_rows(format, order[i]->n_in);
    }
    om_free(order);
    return OM_OK;
}

om_status om_preset_types(const om_format **types, const om_profile *p, const char *name,
                          om_error *err) {
    om_status status = om_preset_raw_types(types, p, name, true, err);
    for (int i = 0; status == OM_OK && i < p->n_units; i++) {
        types[i] = om_unit_nearest(&p->units[i], types[i])->format;
    }
    return status;
}
