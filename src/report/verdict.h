/* Was it worth it? The measured file against what people would use instead in the same space. */
#ifndef OM_REPORT_VERDICT_H
#define OM_REPORT_VERDICT_H

#include "base/buf.h"
#include "eval/evaluation.h"

typedef enum om_verdict_kind {
    OM_VERDICT_NONE,   /* nothing was measured that could be compared */
    OM_VERDICT_BETTER, /* lower KLD than every baseline that is not larger */
    OM_VERDICT_EQUAL,  /* no difference beyond the errors of measurement */
    OM_VERDICT_WORSE   /* some baseline that is not larger has lower KLD: use that one */
} om_verdict_kind;

typedef struct om_verdict {
    om_verdict_kind kind;
    int i_rival;  /* the baseline compared with: lowest KLD among those not larger; -1 none */
    double ratio; /* our mean KLD / the rival's */
    double sigma; /* difference in standard errors, unsigned; infinite when no error is known */
} om_verdict;

/** Compare one file with baselines judged on the same text. A difference of less than two standard
 * errors of the two means counts as none: errors of paired tokens partly cancel, so this is on the
 * careful side. Never fails. */
om_verdict om_verdict_of(const om_evaluation *ours, om_evaluation *const *baselines,
                         int n_baselines);

/** One sentence, plain text, no full stop: "51 % of Q3_K_M's KLD at the same size". */
void om_verdict_text(om_buf *out, const om_verdict *verdict, const om_evaluation *ours,
                     om_evaluation *const *baselines);

/** "better", "equal", "worse", "none". */
const char *om_verdict_name(om_verdict_kind kind);

/** A plan without the word before it: "Q3_K_M" of "preset:Q3_K_M", "mixed_4_6" of "mlx:mixed_4_6".
 * Borrowed. */
const char *om_plan_bare(const char *plan);
/** That of the label; the file's name when it has no label. Borrowed. */
const char *om_evaluation_name(const om_evaluation *e);

#endif
