/* What a report is made of: the files of a run, read and checked against each other. */
#ifndef OM_REPORT_INPUT_H
#define OM_REPORT_INPUT_H

#include "alloc/allocation.h"
#include "eval/evaluation.h"
#include "profile/profile.h"

/** A point of the size-quality curve, or a preset at its own size; both predicted. */
typedef struct om_sweep_point {
    char name[32]; /* "Q4_K_M"; "" on the curve */
    int64_t bytes;
    double bpw, nats;
} om_sweep_point;

/** The JSON of `allocate --sweep`. Owned arrays; om_sweep_release. */
typedef struct om_sweep {
    om_sweep_point *curve; /* [n_curve] ascending bytes */
    int n_curve;
    om_sweep_point *presets; /* [n_presets] ascending bytes */
    int n_presets;
    char profile_sha256[65]; /* "" when the file does not say */
} om_sweep;

/** Errors: OM_E_IO, OM_E_FORMAT with the JSON path. */
om_status om_sweep_read(om_sweep *out, const char *path, om_error *err) OM_WARN_UNUSED;
void om_sweep_release(om_sweep *s);
/** By name, without a leading "preset:"; case-insensitive. NULL: not in the sweep. */
const om_sweep_point *om_sweep_preset(const om_sweep *s, const char *name);

/** Everything a report shows. eval is NULL and sweep empty when not given; all owned. */
typedef struct om_report_input {
    om_profile *profile;
    om_allocation *allocation;
    om_evaluation *eval;
    om_evaluation **baselines; /* [n_baselines] */
    int n_baselines;
    om_sweep sweep;
    bool other_reference; /* judged against another file than the one profiled: worth a note */
} om_report_input;

/** Read the files and check the chain. Errors: those of the readers; OM_E_MISMATCH when the
 * allocation is of another profile, the evaluation of another file than the allocation's, a
 * baseline was judged on another text, reference or rule, or the sweep is of another profile. */
om_status om_report_input_read(om_report_input *out, const om_report_options *options,
                               om_error *err) OM_WARN_UNUSED;
void om_report_input_release(om_report_input *in);

/** The candidate of a tensor that the allocation chose. NULL: not in the allocation. */
const om_choice *om_report_chosen(const om_report_input *in, const om_unit *unit);

#endif
