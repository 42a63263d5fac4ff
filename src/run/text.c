/* Options -> calibration files and one evaluation file.
 *
 * The judge must not see what the profile saw. With one text, its last tenth is set aside; with
 * several, the last tenth of each, so that both sides are the same mix.
 */
#include "run/text.h"

#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#define MAX_TEXT ((size_t) 1 << 30)

extern const unsigned char om_demo_text[];
extern const size_t om_demo_text_size;

size_t om_run_text_cut(const char *text, size_t n) {
    const size_t want = n - n / 10;
    for (size_t i = want; i > n / 2; i--) {
        if (text[i - 1] == '\n') {
            return i;
        }
    }
    size_t i = want;
    while (i > 0 && i < n && ((unsigned char) text[i] & 0xC0) == 0x80) {
        i--;
    }
    return i;
}

/* Write unless the file holds these bytes already: times stay, and so does what depends on them. */
static om_status write_if_new(const char *path, const om_buf *text, om_error *err) {
    if (text->failed) {
        return om_fail_nomem(err, text->len);
    }
    if (om_file_size(path) == (int64_t) text->len) {
        char old[65], new[65];
        om_error ignored = { 0 };
        om_sha256_bytes(new, text->data, text->len);
        if (om_sha256_file(old, path, NULL, &ignored) == OM_OK && strcmp(old, new) == 0) {
            return OM_OK;
        }
    }
    return om_file_write(path, text->data, text->len, err);
}

static void split(om_buf *calib, om_buf *eval, const char *text, size_t n) {
    const size_t cut = om_run_text_cut(text, n);
    om_buf_add(calib, text, cut);
    om_buf_add(eval, text + cut, n - cut);
}

static om_status split_files(om_buf *calib, om_buf *eval, const om_run_options *o, om_error *err) {
    for (int i = 0; i < o->n_calib; i++) {
        char *text = NULL;
        size_t n = 0;
        const om_status status = om_file_read(&text, &n, o->calib[i], MAX_TEXT, err);
        if (status != OM_OK) {
            return status;
        }
        split(calib, eval, text, n);
        om_free(text);
    }
    return OM_OK;
}

static om_status check_built_in(const om_run_options *o, om_error *err) {
    if (o->n_calib == 0 && om_demo_text_size == 0) {
        return om_fail(err, OM_E_ARG,
                       "this build has no text of its own: give one with --calib FILE");
    }
    return OM_OK;
}

static om_status set_paths(om_run_texts *t, const om_run_options *o, om_error *err) {
    const bool given = o->n_calib > 0 && o->eval_text;
    t->built_in = o->n_calib == 0;
    t->held_out = !o->eval_text;
    t->n_calib = given ? o->n_calib : 1;
    t->calib = om_calloc((size_t) t->n_calib, sizeof *t->calib);
    if (!t->calib) {
        return om_fail_nomem(err, (size_t) t->n_calib * sizeof *t->calib);
    }
    bool complete = true;
    for (int i = 0; i < t->n_calib; i++) {
        t->calib[i] = given ? om_strdup(o->calib[i]) : om_path_join(o->out_dir, "calib.txt");
        complete = complete && t->calib[i];
    }
    t->eval = o->eval_text ? om_strdup(o->eval_text) : om_path_join(o->out_dir, "eval.txt");
    return complete && t->eval ? OM_OK : om_fail_nomem(err, 0);
}

om_status om_run_texts_make(om_run_texts *out, const om_run_options *o, om_error *err) {
    om_status status = OM_OK;
    om_run_texts t = { 0 };
    om_buf calib = { 0 }, eval = { 0 };
    const char *demo = (const char *) om_demo_text;
    OM_TRY(check_built_in(o, err));
    OM_TRY(set_paths(&t, o, err));
    if (t.built_in && t.held_out) {
        split(&calib, &eval, demo, om_demo_text_size);
    } else if (t.built_in) {
        om_buf_add(&calib, demo, om_demo_text_size);
    } else if (t.held_out) {
        OM_TRY(split_files(&calib, &eval, o, err));
    }
    if (t.held_out && (calib.len == 0 || eval.len == 0)) {
        OM_TRY(om_fail(err, OM_E_ARG,
                       "the calibration text has %zu bytes, too few to hold a tenth out: give more "
                       "text, or --eval-text FILE",
                       calib.len + eval.len));
    }
    if (t.held_out) {
        OM_TRY(om_file_check_output(t.calib[0], o->calib, o->n_calib, err));
        OM_TRY(om_file_check_output(t.eval, o->calib, o->n_calib, err));
    }
    if (t.built_in || t.held_out) {
        OM_TRY(write_if_new(t.calib[0], &calib, err));
    }
    if (t.held_out) {
        OM_TRY(write_if_new(t.eval, &eval, err));
    }
    *out = t;
    t = (om_run_texts){ 0 };
out:
    om_buf_release(&calib);
    om_buf_release(&eval);
    om_run_texts_release(&t);
    return status;
}

void om_run_texts_release(om_run_texts *t) {
    for (int i = 0; i < t->n_calib && t->calib; i++) {
        om_free(t->calib[i]);
    }
    om_free(t->calib);
    om_free(t->eval);
    *t = (om_run_texts){ 0 };
}
