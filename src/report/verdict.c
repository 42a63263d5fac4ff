/* Two means and their errors -> a word and a sentence.
 *
 * The rival is the best baseline that is not larger than our file. When it has the lower KLD, the
 * verdict says so: an optimised file that loses to a plain preset is the failure users fear most,
 * and hiding it would make every other number worthless.
 */
#include "report/verdict.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "report/html.h"

/* Sizes closer than this are called the same: presets come in steps of several percent. */
#define SAME_SIZE 0.015

om_verdict om_verdict_of(const om_evaluation *ours, om_evaluation *const *baselines,
                         int n_baselines) {
    om_verdict v = { .kind = OM_VERDICT_NONE, .i_rival = -1, .ratio = 0, .sigma = 0 };
    for (int i = 0; i < n_baselines; i++) {
        const om_evaluation *b = baselines[i];
        if (b->file_bytes > ours->file_bytes) {
            continue;
        }
        if (v.i_rival < 0 || b->kld_mean < baselines[v.i_rival]->kld_mean) {
            v.i_rival = i;
        }
    }
    if (v.i_rival < 0) {
        return v;
    }
    const om_evaluation *rival = baselines[v.i_rival];
    const double difference = ours->kld_mean - rival->kld_mean;
    const double error =
        sqrt(ours->kld_stderr * ours->kld_stderr + rival->kld_stderr * rival->kld_stderr);
    v.ratio = rival->kld_mean > 0 ? ours->kld_mean / rival->kld_mean : 1;
    v.sigma = error > 0 ? fabs(difference) / error : (difference == 0 ? 0 : (double) INFINITY);
    if (v.sigma < 2) {
        v.kind = OM_VERDICT_EQUAL;
    } else {
        v.kind = difference < 0 ? OM_VERDICT_BETTER : OM_VERDICT_WORSE;
    }
    return v;
}

static void size_phrase(om_buf *out, const om_evaluation *ours, const om_evaluation *rival) {
    const double saved = (double) (ours->file_bytes - rival->file_bytes);
    if (saved <= SAME_SIZE * (double) ours->file_bytes) {
        om_buf_puts(out, " at the same size");
        return;
    }
    om_buf_puts(out, ", which is ");
    om_put_bytes(out, saved);
    om_buf_puts(out, " smaller");
}

void om_verdict_text(om_buf *out, const om_verdict *v, const om_evaluation *ours,
                     om_evaluation *const *baselines) {
    if (v->i_rival < 0) {
        om_buf_puts(out, "not compared: no preset of this size or smaller was measured");
        return;
    }
    const om_evaluation *rival = baselines[v->i_rival];
    const char *name = om_evaluation_name(rival);
    switch (v->kind) {
    case OM_VERDICT_BETTER:
        om_buf_printf(out,
                      v->ratio > 0.995 ? "%.1f %% of the KLD of %s" : "%.0f %% of the KLD of %s",
                      100 * v->ratio, name);
        break;
    case OM_VERDICT_WORSE:
        om_buf_printf(out, "worse: %.*f times the KLD of %s", v->ratio < 9.995 ? 2 : 0, v->ratio,
                      name);
        break;
    case OM_VERDICT_EQUAL:
    case OM_VERDICT_NONE:
        om_buf_printf(out, "no measurable difference from %s", name);
        break;
    }
    size_phrase(out, ours, rival);
}

const char *om_verdict_name(om_verdict_kind kind) {
    switch (kind) {
    case OM_VERDICT_BETTER:
        return "better";
    case OM_VERDICT_EQUAL:
        return "equal";
    case OM_VERDICT_WORSE:
        return "worse";
    case OM_VERDICT_NONE:
        break;
    }
    return "none";
}

const char *om_plan_bare(const char *plan) {
    static const char *const prefixes[] = { "preset:", "mlx:" };
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        const size_t n = strlen(prefixes[i]);
        if (strncmp(plan, prefixes[i], n) == 0 && plan[n] != '\0') {
            return plan + n;
        }
    }
    return plan;
}

const char *om_evaluation_name(const om_evaluation *e) {
    if (e->label[0] != '\0') {
        return om_plan_bare(e->label);
    }
    return om_path_name(e->model_path);
}
