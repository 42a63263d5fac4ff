/* om_profile -> profile.json.
 *
 * The text is parsed back before it touches the disk: a profile that the reader (profile.c) would
 * refuse is a bug of the pass that made it and must not become a file.
 *
 * Schema: docs/formats.md, "optimum.profile/1".
 */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_fields.h"
#include "base/mem.h"
#include "profile/probe_json.h"
#include "profile/profile.h"

static om_json *model_json(const om_profile *p) {
    om_json *model = om_json_object();
    om_json_set_str(model, "path", p->model_path);
    om_json_set_str(model, "sha256", p->model_sha256);
    om_json_set_str(model, "arch", p->arch);
    om_json_set_i64(model, "params", p->params);
    om_json_set_i64(model, "file_bytes", p->file_bytes);
    if (p->hparams.n_head > 0) {
        om_json *h = om_json_object();
        om_json_set_i64(h, "n_layer", p->hparams.n_layer);
        om_json_set_i64(h, "n_head", p->hparams.n_head);
        om_json_set_i64(h, "n_head_kv", p->hparams.n_head_kv);
        om_json_set_i64(h, "n_expert", p->hparams.n_expert);
        if (p->hparams.n_expert_used > 0) {
            om_json_set_i64(h, "n_expert_used", p->hparams.n_expert_used);
        }
        om_json_set(model, "hparams", h);
    }
    return model;
}

static om_json *calibration_json(const om_profile *p) {
    om_json *calib = om_json_object(), *files = om_json_array();
    for (int i = 0; i < p->n_calib; i++) {
        om_json *file = om_json_object();
        om_json_set_str(file, "sha256", p->calib_sha256[i]);
        om_json_push(files, file);
    }
    om_json_set(calib, "files", files);
    om_json_set_i64(calib, "windows", p->n_windows);
    om_json_set_i64(calib, "window_tokens", p->window_tokens);
    if (p->select[0] != '\0') {
        om_json_set_str(calib, "select", p->select);
    }
    om_json_set_u64(calib, "seed", p->seed);
    om_json_set_i64(calib, "tokens", p->tokens);
    return calib;
}

static om_json *fixed_json(const om_fixed *fixed, int n) {
    om_json *array = om_json_array();
    for (int i = 0; i < n; i++) {
        om_json *f = om_json_object();
        om_json_set_str(f, "name", fixed[i].name);
        om_json_set_i64(f, "bytes", fixed[i].bytes);
        om_json_push(array, f);
    }
    return array;
}

static om_json *container_json(const om_profile *p) {
    om_json *container = om_json_object();
    om_json_set_i64(container, "metadata_bytes", p->metadata_bytes);
    om_json_set_i64(container, "alignment", p->alignment);
    om_json_set(container, "fixed", fixed_json(p->fixed, p->n_fixed));
    if (p->mlx.known) {
        om_json *mlx = om_json_object();
        om_json_set_i64(mlx, "metadata_bytes", p->mlx.metadata_bytes);
        om_json_set(mlx, "fixed", fixed_json(p->mlx.fixed, p->mlx.n_fixed));
        om_json_set(container, "mlx", mlx);
    }
    return container;
}

static om_json *memory_json(const om_memory *m) {
    om_json *memory = om_json_object(), *kv = om_json_array(), *window = om_json_array();
    for (int i = 0; i < m->n_layers; i++) {
        om_json_push(kv, om_json_i64(2 * m->kv_values_per_token[i])); /* bytes of an F16 cache */
        om_json_push(window, om_json_i64(m->window[i]));
    }
    om_json_set(memory, "kv_bytes_per_token", kv);
    om_json_set(memory, "window", window);
    om_json_set_i64(memory, "compute_bytes", m->compute_bytes);
    om_json_set_bool(memory, "compute_estimated", m->compute_estimated);
    return memory;
}

static om_json *per_expert_json(const double *values, int n) {
    om_json *array = om_json_array();
    for (int i = 0; i < n; i++) {
        om_json_push(array, om_json_f64(values[i]));
    }
    return array;
}

static om_json *experts_json(const om_unit *u) {
    om_json *expert = om_json_object();
    om_json_set(expert, "trace", per_expert_json(u->expert.trace, u->experts));
    om_json_set(expert, "tokens", per_expert_json(u->expert.tokens, u->experts));
    om_json_set(expert, "router_weight", per_expert_json(u->expert.router_weight, u->experts));
    om_json_set(expert, "windows", per_expert_json(u->expert.windows, u->experts));
    return expert;
}

/* Left out when it is 0. What is no number would be null, which reads as absent: -1 is refused. */
static void set_optional(om_json *object, const char *key, double value) {
    if (value != 0) {
        om_json_set_f64(object, key, isfinite(value) ? value : -1);
    }
}

static om_json *unit_json(const om_unit *u) {
    om_json *tensor = om_json_object(), *shape = om_json_array(), *types = om_json_object();
    om_json_set_str(tensor, "name", u->name);
    om_json_set_str(tensor, "role", u->role);
    om_json_set_i64(tensor, "layer", u->layer);
    om_json_push(shape, om_json_i64(u->n_out));
    om_json_push(shape, om_json_i64(u->n_in));
    om_json_set(tensor, "shape", shape);
    om_json_set_i64(tensor, "experts", u->experts);
    om_json_set_i64(tensor, "params", u->params);
    om_json_set_str(tensor, "source", u->source->name);
    om_json_set_f64(tensor, "fisher_trace", u->fisher_trace);
    set_optional(tensor, "reach", u->reach);
    if (u->probe.known) {
        om_json_set(tensor, "probe", om_probe_json(&u->probe));
    }
    if (u->expert.trace != NULL) {
        om_json_set(tensor, "expert", experts_json(u));
    }
    for (int i = 0; i < u->n_choices; i++) {
        om_json *choice = om_json_object();
        om_json_set_i64(choice, "bytes", u->choices[i].bytes);
        om_json_set_f64(choice, "nats", u->choices[i].nats);
        set_optional(choice, "routing", u->choices[i].routing);
        om_json_set(types, u->choices[i].format->name, choice);
    }
    om_json_set(tensor, "types", types);
    return tensor;
}

static om_json *routing_json(const om_routers *r) {
    om_json *routing = om_json_object(), *routers = om_json_array();
    for (int i = 0; i < r->n; i++) {
        om_json *router = om_json_object();
        om_json_set_f64(router, "density", r->items[i].density);
        om_json_set_f64(router, "nats_per_swap", r->items[i].nats_per_swap);
        om_json_set_f64(router, "weight", r->items[i].weight);
        om_json_push(routers, router);
    }
    om_json_set(routing, "routers", routers);
    return routing;
}

static om_json *profile_json(const om_profile *p) {
    om_json *doc = om_json_new_document("optimum.profile/1");
    om_json_set(doc, "model", model_json(p));
    om_json_set(doc, "calibration", calibration_json(p));
    om_json_set(doc, "container", container_json(p));
    om_json_set(doc, "memory", memory_json(&p->memory));
    om_json_set_str(doc, "method", p->method);
    if (p->stats_path[0] != '\0') {
        om_json *stats = om_json_object();
        om_json_set_str(stats, "path", p->stats_path);
        om_json_set_str(stats, "sha256", p->stats_sha256);
        om_json_set(doc, "stats", stats);
    }
    if (p->routers.n > 0) {
        om_json_set(doc, "routing", routing_json(&p->routers));
    }
    om_json *tensors = om_json_array();
    for (int i = 0; i < p->n_units; i++) {
        om_json_push(tensors, unit_json(&p->units[i]));
    }
    om_json_set(doc, "tensors", tensors);
    return doc;
}

om_status om_profile_write(const om_profile *profile, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_json *doc = profile_json(profile);
    om_profile *check = NULL;
    om_error why = { 0 };
    char *text = om_json_dump(doc);
    if (text == NULL) {
        OM_TRY(om_fail(err, OM_E_NOMEM, "%s: not enough memory to write it", path));
    }
    status = om_profile_parse(&check, text, strlen(text), path, &why);
    if (status != OM_OK) {
        OM_TRY(om_fail(err, status == OM_E_FORMAT ? OM_E_INTERNAL : status,
                       "refusing to write a profile that cannot be read back: %.400s", why.text));
    }
    OM_TRY(om_file_write(path, text, strlen(text), err));
out:
    om_profile_free(check);
    om_free(text);
    om_json_free(doc);
    return status;
}
