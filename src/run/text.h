/* Which text calibrates and which one judges. */
#ifndef OM_RUN_TEXT_H
#define OM_RUN_TEXT_H

#include "base/error.h"

/** Owned; om_run_texts_release. */
typedef struct om_run_texts {
    char **calib; /* [n_calib] paths */
    int n_calib;
    char *eval;    /* path */
    bool built_in; /* the text built into Optimum */
    bool held_out; /* eval is the last tenth of each calibration text */
} om_run_texts;

/** Resolve the options into files. Without an evaluation text the last tenth of every calibration
 * text, cut at a line end, goes to OUT_DIR/eval.txt and the rest to OUT_DIR/calib.txt; without
 * calibration texts the built-in one is used. Files that already hold the same bytes are left
 * alone. Errors: OM_E_ARG (no built-in text in this build; too little text), OM_E_IO. */
om_status om_run_texts_make(om_run_texts *out, const om_run_options *options,
                            om_error *err) OM_WARN_UNUSED;
void om_run_texts_release(om_run_texts *t);

/** Bytes of the first part of a text: nine tenths, cut after a line end (at the latest one before
 * nine tenths, if that leaves at least half; else between two UTF-8 characters). */
size_t om_run_text_cut(const char *text, size_t n);

#endif
