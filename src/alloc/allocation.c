/* allocation.json <-> om_allocation: one type per tensor, and where it came from.
 *
 * People edit this file (that is what it is for), so the reader refuses what it does not understand
 * instead of guessing: unknown types, tensors named twice, numbers out of range. It does not know
 * the model; whether names and types fit is checked by whoever has the model or the profile.
 *
 * Schema: docs/formats.md, "optimum.allocation/1".
 */
#include "alloc/allocation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/mem.h"
#include "profile/probe_json.h"

static const char schema[] = "optimum.allocation/1";

enum { MAX_TENSORS = 1 << 20 };
#define MAX_BYTES ((int64_t) 1 << 60)
#define MAX_FILE ((size_t) 1 << 28)

/* ---- reading ----------------------------------------------------------------------------------
 */

static om_status read_sources(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node node;
    OM_TRY(om_node_sha256(a->profile_sha256, root, "profile_sha256", err));
    if (om_node_has(root, "profile_path")) {
        OM_TRY(om_node_text(a->profile_path, sizeof a->profile_path, root, "profile_path", err));
    }
    if (om_node_has(root, "model_sha256")) {
        OM_TRY(om_node_sha256(a->model_sha256, root, "model_sha256", err));
    }
    if (om_node_has(root, "stats")) {
        OM_TRY(om_node_object(&node, root, "stats", err));
        OM_TRY(om_node_text(a->stats_path, sizeof a->stats_path, &node, "path", err));
        OM_TRY(om_node_sha256(a->stats_sha256, &node, "sha256", err));
    }
    if (om_node_has(root, "calibration")) {
        OM_TRY(om_node_object(&node, root, "calibration", err));
        OM_TRY(om_node_sha256(a->calib_sha256, &node, "sha256", err));
        OM_TRY(om_node_u64(&a->seed, &node, "seed", err));
        OM_TRY(om_node_i64(&a->calib_tokens, &node, "tokens", 0, MAX_BYTES, err));
    }
out:
    return status;
}

static om_status read_budget(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node budget;
    OM_TRY(om_node_object(&budget, root, "budget", err));
    OM_TRY(om_node_text(a->budget_kind, sizeof a->budget_kind, &budget, "kind", err));
    if (strcmp(a->budget_kind, "size") != 0 && strcmp(a->budget_kind, "bpw") != 0 &&
        strcmp(a->budget_kind, "memory") != 0 && strcmp(a->budget_kind, "none") != 0) {
        OM_TRY(om_node_fail(err, &budget, "kind: expected size, bpw, memory or none, found \"%s\"",
                            a->budget_kind));
    }
    OM_TRY(om_node_i64(&a->budget_bytes, &budget, "bytes", 0, MAX_BYTES * 4 - 1, err));
    if (om_node_has(&budget, "max_active_bytes")) {
        OM_TRY(om_node_i64(&a->max_active_bytes, &budget, "max_active_bytes", 0, MAX_BYTES * 4 - 1,
                           err));
    }
out:
    return status;
}

static om_status read_tensors(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node tensors, node;
    void *iter = NULL;
    size_t n = 0;
    OM_TRY(om_node_object(&tensors, root, "tensors", err));
    while (om_node_next(&node, &tensors, &iter)) {
        n++;
    }
    if (n == 0 || n > MAX_TENSORS) {
        OM_TRY(om_node_fail(err, &tensors, "%zu tensors, expected 1 to %d", n, MAX_TENSORS));
    }
    a->tensors = om_calloc(n, sizeof *a->tensors);
    if (a->tensors == NULL) {
        OM_TRY(om_fail_nomem(err, n * sizeof *a->tensors));
    }
    iter = NULL;
    while (om_node_next(&node, &tensors, &iter)) {
        om_assignment *t = &a->tensors[a->n_tensors++];
        const char *type = NULL;
        size_t length = strlen(node.key);
        if (length == 0 || length >= sizeof t->name) {
            OM_TRY(om_node_fail(err, &tensors, "\"%.80s\" is no tensor name (1 to 63 characters)",
                                node.key));
        }
        memcpy(t->name, node.key, length + 1);
        OM_TRY(om_node_value_str(&type, &node, err));
        t->format = om_format_by_name(type);
        if (t->format == NULL || t->format->use == OM_FORMAT_SOURCE) {
            OM_TRY(om_node_fail(err, &node, "unknown type \"%.32s\"; known are %.300s", type,
                                om_format_list()));
        }
    }
out:
    return status;
}

/* A type that the container does not have would only be found out by whoever writes. */
static om_status read_to(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    const char *to = "gguf";
    om_node probes;
    if (om_node_has(root, "to")) {
        OM_TRY(om_node_str(&to, root, "to", err));
    }
    if (strcmp(to, "gguf") != 0 && strcmp(to, "mlx") != 0) {
        OM_TRY(om_node_fail(err, root, "to: expected gguf or mlx, found \"%.32s\"", to));
    }
    a->container = strcmp(to, "mlx") == 0 ? OM_CONTAINER_MLX : OM_CONTAINER_GGUF;
    for (int i = 0; i < a->n_tensors; i++) {
        if (!om_format_in(a->tensors[i].format, a->container)) {
            OM_TRY(om_node_fail(err, root, "tensors.%s: %s is no type of %s", a->tensors[i].name,
                                a->tensors[i].format->name, to));
        }
    }
    if (om_node_has(root, "probes")) {
        OM_TRY(om_node_object(&probes, root, "probes", err));
        for (int i = 0; i < a->n_tensors; i++) {
            OM_TRY(om_probe_read(&a->tensors[i].probe, &probes, a->tensors[i].name, err));
        }
    }
out:
    return status;
}

/* Banks of stacks that are not there would be lost. */
static om_status read_expert_banks(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    if (!om_node_has(root, "expert_banks")) {
        return OM_OK;
    }
    OM_TRY(om_expert_banks_read(&a->banks, &a->n_banked, root, "expert_banks", err));
    if (a->container != OM_CONTAINER_MLX) {
        OM_TRY(om_node_fail(err, root, "expert_banks: only MLX models can have them"));
    }
    for (int i = 0; i < a->n_banked; i++) {
        for (int k = 0; k < OM_BANK_STACKS; k++) {
            if (om_allocation_find(a, a->banks[i].name[k]) == NULL) {
                OM_TRY(om_node_fail(err, root, "expert_banks[%d]: %s is not among the tensors", i,
                                    a->banks[i].name[k]));
            }
        }
    }
out:
    return status;
}

static om_status read_solver(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node solver;
    a->solver.seconds = (double) NAN;
    OM_TRY(om_node_object(&solver, root, "solver", err));
    OM_TRY(om_node_text(a->solver.status, sizeof a->solver.status, &solver, "status", err));
    if (om_node_has(&solver, "gap")) {
        OM_TRY(om_node_f64(&a->solver.gap, &solver, "gap", err));
    }
    if (om_node_has(&solver, "seconds")) {
        OM_TRY(om_node_f64(&a->solver.seconds, &solver, "seconds", err));
    }
out:
    return status;
}

static om_status read_sums(om_allocation *a, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_node_i64(&a->bytes, root, "bytes", 0, MAX_BYTES * 4 - 1, err));
    if (om_node_has(root, "active_bytes")) {
        OM_TRY(om_node_i64(&a->active_bytes, root, "active_bytes", 0, MAX_BYTES * 4 - 1, err));
    }
    OM_TRY(om_node_f64(&a->bpw, root, "bpw", err));
    OM_TRY(om_node_f64(&a->predicted_nats, root, "predicted_nats", err));
    if (om_node_has(root, "routing_nats")) {
        OM_TRY(om_node_f64(&a->routing_nats, root, "routing_nats", err));
        if (!(a->routing_nats >= 0.0) || a->routing_nats > a->predicted_nats) {
            OM_TRY(om_node_fail(err, root, "routing_nats must lie between 0 and predicted_nats"));
        }
    }
    if (a->bpw < 0.0 || a->predicted_nats < 0.0) {
        OM_TRY(om_node_fail(err, root, "bpw and predicted_nats must not be negative"));
    }
out:
    return status;
}

om_status om_allocation_parse(om_allocation **out, const char *text, size_t n, const char *name,
                              om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    om_allocation *a = om_calloc(1, sizeof *a);
    if (a == NULL) {
        OM_TRY(om_fail_nomem(err, sizeof *a));
    }
    OM_TRY(om_json_parse(&doc, text, n, name, schema, err));
    const om_node root = om_node_root(doc, name);
    OM_TRY(read_sources(a, &root, err));
    OM_TRY(om_node_text(a->plan, sizeof a->plan, &root, "plan", err));
    OM_TRY(read_budget(a, &root, err));
    OM_TRY(read_tensors(a, &root, err));
    OM_TRY(read_to(a, &root, err));
    OM_TRY(read_expert_banks(a, &root, err));
    OM_TRY(read_sums(a, &root, err));
    OM_TRY(read_solver(a, &root, err));
    om_sha256_bytes(a->sha256, text, n);
    *out = a;
    a = NULL;
out:
    om_json_free(doc);
    om_allocation_free(a);
    return status;
}

om_status om_allocation_read(om_allocation **out, const char *path, om_error *err) {
    char *text = NULL;
    size_t n = 0;
    om_status status = om_file_read(&text, &n, path, MAX_FILE, err);
    if (status == OM_OK) {
        status = om_allocation_parse(out, text, n, path, err);
    }
    om_free(text);
    return status;
}

void om_allocation_free(om_allocation *a) {
    if (a != NULL) {
        om_free(a->tensors);
        om_expert_banks_free(a->banks, a->n_banked);
        om_free(a);
    }
}

const om_format *om_allocation_find(const om_allocation *a, const char *name) {
    for (int i = 0; i < a->n_tensors; i++) {
        if (strcmp(a->tensors[i].name, name) == 0) {
            return a->tensors[i].format;
        }
    }
    return NULL;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static om_json *probes_json(const om_allocation *a) {
    om_json *probes = om_json_object();
    for (int i = 0; i < a->n_tensors; i++) {
        if (a->tensors[i].probe.known) {
            om_json_set(probes, a->tensors[i].name, om_probe_json(&a->tensors[i].probe));
        }
    }
    return probes;
}

om_json *om_allocation_json(const om_allocation *a) {
    om_json *doc = om_json_new_document(schema);
    om_json *budget = om_json_object(), *tensors = om_json_object(), *solver = om_json_object();
    om_json *calibration = om_json_object();
    om_json_set_str(doc, "profile_path", a->profile_path);
    om_json_set_str(doc, "profile_sha256", a->profile_sha256);
    om_json_set_str(doc, "model_sha256", a->model_sha256);
    if (a->stats_path[0] != '\0') {
        om_json *stats = om_json_object();
        om_json_set_str(stats, "path", a->stats_path);
        om_json_set_str(stats, "sha256", a->stats_sha256);
        om_json_set(doc, "stats", stats);
    }
    om_json_set_str(calibration, "sha256", a->calib_sha256);
    om_json_set_u64(calibration, "seed", a->seed);
    om_json_set_i64(calibration, "tokens", a->calib_tokens);
    om_json_set(doc, "calibration", calibration);
    om_json_set_str(doc, "to", om_container_name(a->container));
    om_json_set_str(doc, "plan", a->plan);
    om_json_set_str(budget, "kind", a->budget_kind);
    om_json_set_i64(budget, "bytes", a->budget_bytes);
    if (a->max_active_bytes > 0) {
        om_json_set_i64(budget, "max_active_bytes", a->max_active_bytes);
    }
    om_json_set(doc, "budget", budget);
    for (int i = 0; i < a->n_tensors; i++) {
        om_json_set_str(tensors, a->tensors[i].name, a->tensors[i].format->name);
    }
    om_json_set(doc, "tensors", tensors);
    if (a->n_banked > 0) {
        om_json_set(doc, "expert_banks", om_expert_banks_json(a->banks, a->n_banked));
    }
    if (a->container == OM_CONTAINER_MLX) {
        om_json_set(doc, "probes", probes_json(a));
    }
    om_json_set_i64(doc, "bytes", a->bytes);
    if (a->active_bytes > 0) {
        om_json_set_i64(doc, "active_bytes", a->active_bytes);
    }
    om_json_set_f64(doc, "bpw", a->bpw);
    om_json_set_f64(doc, "predicted_nats", a->predicted_nats);
    if (a->routing_nats > 0) {
        om_json_set_f64(doc, "routing_nats", a->routing_nats);
    }
    om_json_set_str(solver, "status", a->solver.status);
    om_json_set_f64(solver, "gap", a->solver.gap);
    om_json_set_f64(solver, "seconds", a->solver.seconds); /* null when not kept */
    om_json_set(doc, "solver", solver);
    return doc;
}

om_status om_allocation_write(const om_allocation *a, const char *path, om_error *err) {
    om_allocation copy = *a;
    copy.solver.seconds = (double) NAN;
    om_json *doc = om_allocation_json(&copy);
    om_status status = om_json_save(doc, path, err);
    om_json_free(doc);
    return status;
}
