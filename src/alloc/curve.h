/* The size-quality curve: the best file of every size, and the presets beside it. */
#ifndef OM_ALLOC_CURVE_H
#define OM_ALLOC_CURVE_H

#include "alloc/describe.h"
#include "alloc/problem.h"

enum { OM_CURVE_POINTS = 40, OM_CURVE_PRESETS = 64 };

typedef struct om_curve {
    om_curve_point best[OM_CURVE_POINTS];     /* [n_best] ascending bytes, falling nats */
    om_curve_point presets[OM_CURVE_PRESETS]; /* [n_presets] in the order of om_preset_name */
    int n_best, n_presets;
} om_curve;

/** Solve p at 40 sizes, in equal ratios from the smallest file to the one that loses least; p's own
 * budget is ignored, its limit on active bytes is not. options: what the user asked for, for the
 * words of a failure. Errors: OM_E_INFEASIBLE with the limit that cannot be met, and
 * om_problem_solve's. Reports progress "sweep". */
om_status om_curve_solve(om_curve *out, const om_problem *p, const om_profile *profile,
                         const om_allocate_options *options, const om_env *env,
                         om_error *err) OM_WARN_UNUSED;

#endif
