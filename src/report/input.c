/* The JSON files of a run -> one checked struct.
 *
 * The files name each other by SHA-256. A report that mixes files of different runs would look
 * right and be wrong, so a broken chain is an error, never a footnote. The one exception is a
 * reference that is not the profiled file (say F32 against BF16 of the same model): legitimate, and
 * noted.
 */
#include "report/input.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "report/verdict.h"

#define MAX_BYTES ((int64_t) 1 << 62)

/* ---- sweep ---- */

static int by_bytes(const void *a, const void *b) {
    const om_sweep_point *p = a, *q = b;
    return p->bytes < q->bytes ? -1 : p->bytes > q->bytes ? 1 : strcmp(p->name, q->name);
}

static om_status read_point(om_sweep_point *p, const om_node *node, bool named, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_node_i64(&p->bytes, node, "bytes", 1, MAX_BYTES, err));
    OM_TRY(om_node_f64(&p->nats, node, "nats", err));
    if (p->nats < 0) {
        OM_TRY(om_node_fail(err, node, "nats must not be negative"));
    }
    if (om_node_has(node, "bpw")) {
        OM_TRY(om_node_f64(&p->bpw, node, "bpw", err));
    }
    if (named) {
        const char *name = NULL;
        OM_TRY(om_node_str(&name, node, "name", err));
        name = om_plan_bare(name);
        if (name[0] == '\0' || strlen(name) >= sizeof p->name) {
            OM_TRY(om_node_fail(err, node, "expected a name of 1 to %zu characters",
                                sizeof p->name - 1));
        }
        memcpy(p->name, name, strlen(name) + 1);
    }
out:
    return status;
}

static om_status read_points(om_sweep_point **out, int *n_out, const om_node *root, const char *key,
                             bool named, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t n = 0;
    om_sweep_point *points = NULL;
    OM_TRY(om_node_array(&array, &n, root, key, err));
    if (n > 100000) {
        OM_TRY(om_node_fail(err, &array, "expected at most 100000 points, found %zu", n));
    }
    points = om_calloc(n, sizeof *points);
    if (!points) {
        OM_TRY(om_fail_nomem(err, n * sizeof *points));
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(read_point(&points[i], &item, named, err));
    }
    qsort(points, n, sizeof *points, by_bytes);
    *out = points;
    *n_out = (int) n;
    points = NULL;
out:
    om_free(points);
    return status;
}

om_status om_sweep_read(om_sweep *out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_sweep s = { 0 };
    OM_TRY(om_json_load(&doc, path, "optimum.sweep/1", err));
    const om_node root = om_node_root(doc, path);
    OM_TRY(read_points(&s.curve, &s.n_curve, &root, "curve", false, err));
    if (om_node_has(&root, "presets")) {
        OM_TRY(read_points(&s.presets, &s.n_presets, &root, "presets", true, err));
    }
    if (om_node_has(&root, "profile_sha256")) {
        const char *sha = NULL;
        OM_TRY(om_node_str(&sha, &root, "profile_sha256", err));
        if (strlen(sha) != 64) {
            OM_TRY(om_node_fail(err, &root, "profile_sha256: expected 64 hex digits"));
        }
        memcpy(s.profile_sha256, sha, 65);
    }
    *out = s;
    s = (om_sweep){ 0 };
out:
    om_sweep_release(&s);
    om_json_free(doc);
    return status;
}

void om_sweep_release(om_sweep *s) {
    om_free(s->curve);
    om_free(s->presets);
    *s = (om_sweep){ 0 };
}

const om_sweep_point *om_sweep_preset(const om_sweep *s, const char *name) {
    name = om_plan_bare(name);
    for (int i = 0; i < s->n_presets; i++) {
        if (strcasecmp(s->presets[i].name, name) == 0) {
            return &s->presets[i];
        }
    }
    return NULL;
}

/* ---- the chain ---- */

static om_status check_allocation(const om_report_input *in, const om_report_options *o,
                                  om_error *err) {
    const om_profile *p = in->profile;
    const om_allocation *a = in->allocation;
    if (strcmp(a->profile_sha256, p->sha256) != 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s was made from another profile (%.12s…) than %s (%.12s…): allocate again",
                       o->allocation, a->profile_sha256, o->profile, p->sha256);
    }
    for (int i = 0; i < p->n_units; i++) {
        if (!om_allocation_find(a, p->units[i].name)) {
            return om_fail(err, OM_E_MISMATCH, "%s gives no type for tensor %s of %s",
                           o->allocation, p->units[i].name, o->profile);
        }
    }
    const char *sweep_of = in->sweep.profile_sha256;
    if (sweep_of[0] != '\0' && strcmp(sweep_of, p->sha256) != 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s is the curve of another profile than %s: run allocate --sweep again",
                       o->sweep, o->profile);
    }
    return OM_OK;
}

static om_status check_baseline(const om_evaluation *ours, const om_evaluation *b, const char *path,
                                om_error *err) {
    const char *what = NULL;
    if (strcmp(ours->text_sha256, b->text_sha256) != 0) {
        what = "text";
    } else if (strcmp(ours->reference_sha256, b->reference_sha256) != 0) {
        what = "reference";
    } else if (strcmp(ours->score, b->score) != 0 || ours->n_ctx != b->n_ctx ||
               ours->tokens != b->tokens) {
        what = "scoring rule, context or number of chunks";
    }
    if (what) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s was judged with another %s than the first evaluation: numbers cannot be "
                       "compared, evaluate it again",
                       path, what);
    }
    return OM_OK;
}

static void keep_digest(char sha256[65], const char *text) {
    if (text != NULL && strlen(text) == 64) {
        memcpy(sha256, text, 65);
    }
}

/* The allocation that a GGUF, or a directory for mlx-lm, was made from; "": it does not say. */
static void made_from(char sha256[65], const om_evaluation *e) {
    om_error ignored = { 0 };
    sha256[0] = '\0';
    if (e->container == OM_CONTAINER_GGUF) {
        om_model *file = NULL;
        if (om_model_open(&file, e->model_path, &ignored) == OM_OK) {
            keep_digest(sha256, om_model_str(file, "optimum.allocation.sha256", ""));
        }
        om_model_free(file);
        return;
    }
    om_safetensors *dir = NULL;
    om_json *doc = NULL;
    const char *record = NULL, *text = NULL;
    if (om_safetensors_open(&dir, e->model_path, &ignored) == OM_OK &&
        (record = om_safetensors_metadata(dir, "optimum")) != NULL &&
        om_json_parse(&doc, record, strlen(record), e->model_path, "optimum.mlx/1", &ignored) ==
            OM_OK) {
        const om_node root = om_node_root(doc, e->model_path);
        if (om_node_str(&text, &root, "allocation_sha256", &ignored) == OM_OK) {
            keep_digest(sha256, text);
        }
    }
    om_json_free(doc);
    om_safetensors_free(dir);
}

/* Two mixes can have the same size; the file itself knows which allocation made it. Where the file
 * is not at hand (a report made elsewhere) or is not ours, the size has to do. */
static om_status check_origin(const om_report_input *in, const om_report_options *o,
                              om_error *err) {
    char sha256[65];
    made_from(sha256, in->eval);
    if (strspn(sha256, "0") != strlen(sha256) && strcmp(sha256, in->allocation->sha256) != 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s judged %s, which was made from another allocation than %s: quantize "
                       "and evaluate again",
                       o->eval, in->eval->model_path, o->allocation);
    }
    return OM_OK;
}

static om_status check_evaluations(const om_report_input *in, const om_report_options *o,
                                   om_error *err) {
    const om_evaluation *e = in->eval;
    if (e && e->file_bytes != in->allocation->bytes) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s judged a file of %lld bytes, but the file of %s has %lld: give it as a "
                       "baseline, or evaluate the allocation's own file",
                       o->eval, (long long) e->file_bytes, o->allocation,
                       (long long) in->allocation->bytes);
    }
    om_status status = e ? check_origin(in, o, err) : OM_OK;
    if (status != OM_OK) {
        return status;
    }
    const om_evaluation *first = e ? e : in->n_baselines > 0 ? in->baselines[0] : NULL;
    for (int i = 0; i < in->n_baselines; i++) {
        status = check_baseline(first, in->baselines[i], o->baselines[i], err);
        if (status != OM_OK) {
            return status;
        }
    }
    return OM_OK;
}

om_status om_report_input_read(om_report_input *out, const om_report_options *o, om_error *err) {
    om_status status = OM_OK;
    om_report_input in = { 0 };
    OM_TRY(om_profile_read(&in.profile, o->profile, err));
    OM_TRY(om_allocation_read(&in.allocation, o->allocation, err));
    OM_TRY(om_profile_for(in.profile, in.allocation->container, err));
    if (o->sweep) {
        OM_TRY(om_sweep_read(&in.sweep, o->sweep, err));
    }
    OM_TRY(check_allocation(&in, o, err));
    if (o->eval) {
        OM_TRY(om_evaluation_read(&in.eval, o->eval, err));
    }
    in.baselines = om_calloc((size_t) o->n_baselines, sizeof *in.baselines);
    if (!in.baselines) {
        OM_TRY(om_fail_nomem(err, (size_t) o->n_baselines * sizeof *in.baselines));
    }
    for (int i = 0; i < o->n_baselines; i++) {
        OM_TRY(om_evaluation_read(&in.baselines[i], o->baselines[i], err));
        in.n_baselines++;
    }
    OM_TRY(check_evaluations(&in, o, err));
    in.other_reference =
        in.eval && strcmp(in.eval->reference_sha256, in.profile->model_sha256) != 0;
    *out = in;
    in = (om_report_input){ 0 };
out:
    om_report_input_release(&in);
    return status;
}

void om_report_input_release(om_report_input *in) {
    om_profile_free(in->profile);
    om_allocation_free(in->allocation);
    om_evaluation_free(in->eval);
    for (int i = 0; i < in->n_baselines; i++) {
        om_evaluation_free(in->baselines[i]);
    }
    om_free(in->baselines);
    om_sweep_release(&in->sweep);
    *in = (om_report_input){ 0 };
}

const om_choice *om_report_chosen(const om_report_input *in, const om_unit *unit) {
    const om_format *format = om_allocation_find(in->allocation, unit->name);
    return format ? om_unit_choice(unit, format) : NULL;
}
