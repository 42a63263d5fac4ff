/* eval.json: om_evaluation <-> JSON. Schema in docs/formats.md. */
#include "eval/evaluation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/json_fields.h"
#include "base/mem.h"
#include "eval/evaluation_json.h"

static const char schema[] = "optimum.eval/1";

void om_evaluation_set_speed(om_evaluation *e, const om_speed *speed) {
    memcpy(e->runtime, speed->runtime, sizeof(e->runtime));
    memcpy(e->device, speed->device, sizeof(e->device));
    e->prefill_tok_s = speed->prefill_tok_s;
    e->decode_tok_s = speed->decode_tok_s;
    e->ttft_s = speed->ttft_s;
    e->peak_memory_bytes = speed->memory_bytes;
    e->probe_ppl_runtime = e->probe_tokens > 0 && isfinite(speed->probe_ppl) ? speed->probe_ppl : 0;
}

/* ---- writing ---- */

static om_json *file_object(const char *path, const char *sha256) {
    om_json *o = om_json_object();
    om_json_set_str(o, "path", path);
    om_json_set_str(o, "sha256", sha256);
    return o;
}

static om_json *kld_object(const om_evaluation *e) {
    om_json *o = om_json_object();
    om_json_set_f64(o, "mean", e->kld_mean);
    om_json_set_f64(o, "stderr", e->kld_stderr);
    om_json_set_f64(o, "median", e->kld_median);
    om_json_set_f64(o, "p99", e->kld_p99);
    om_json_set_f64(o, "max", e->kld_max);
    return o;
}

static om_json *speed_object(const om_evaluation *e) {
    om_json *o = om_json_object();
    if (e->runtime[0] != '\0') {
        om_json_set_str(o, "runtime", e->runtime);
    }
    om_json_set_str(o, "device", e->device);
    om_json_set_f64(o, "prefill_tok_s", e->prefill_tok_s);
    om_json_set_f64(o, "decode_tok_s", e->decode_tok_s);
    om_json_set_f64(o, "ttft_s", e->ttft_s);
    return o;
}

static om_json *probe_object(const om_evaluation *e) {
    om_json *o = om_json_object();
    om_json_set_i64(o, "tokens", e->probe_tokens);
    om_json_set_f64(o, "ppl", e->probe_ppl);
    om_json_set_f64(o, "ppl_runtime", e->probe_ppl_runtime);
    return o;
}

static om_json *routing_object(const om_routing *r) {
    om_json *o = om_json_object(), *layers = om_json_array();
    om_json_set_i64(o, "experts", r->n_experts);
    om_json_set_i64(o, "used", r->n_used);
    om_json_set_f64(o, "agreement", r->agreement);
    om_json_set_f64(o, "flips_per_token", r->flips_per_token);
    for (int l = 0; l < r->n_layers; l++) {
        om_json *layer = om_json_object();
        om_json_set_i64(layer, "layer", r->layer[l]);
        om_json_set_f64(layer, "agreement", r->layer_agreement[l]);
        om_json_push(layers, layer);
    }
    om_json_set(o, "layers", layers);
    return o;
}

om_json *om_evaluation_to_json(const om_evaluation *e) {
    om_json *doc = om_json_new_document(schema);
    om_json *text = om_json_object();
    om_json_set_str(text, "sha256", e->text_sha256);
    om_json_set(doc, "model", file_object(e->model_path, e->model_sha256));
    om_json_set(doc, "reference", file_object(e->reference_path, e->reference_sha256));
    om_json_set(doc, "text", text);
    om_json_set_str(doc, "container", om_container_name(e->container));
    om_json_set_str(doc, "label", e->label);
    om_json_set_str(doc, "score", e->score);
    om_json_set_i64(doc, "n_ctx", e->n_ctx);
    om_json_set_i64(doc, "n_chunks", e->n_chunks);
    om_json_set_i64(doc, "tokens", e->tokens);
    om_json_set_f64(doc, "ppl", e->ppl);
    om_json_set_f64(doc, "ppl_stderr", e->ppl_stderr);
    om_json_set_f64(doc, "ppl_reference", e->ppl_reference);
    om_json_set(doc, "kld", kld_object(e));
    om_json_set_f64(doc, "top1_agreement", e->top1_agreement);
    if (e->routing.n_layers > 0) {
        om_json_set(doc, "routing", routing_object(&e->routing));
    }
    om_json_set_i64(doc, "file_bytes", e->file_bytes);
    om_json_set_f64(doc, "bpw", e->bpw);
    if (e->container == OM_CONTAINER_GGUF || e->prefill_tok_s > 0.0) {
        om_json_set(doc, "speed", speed_object(e));
    }
    if (e->probe_tokens > 0) {
        om_json_set(doc, "probe", probe_object(e));
    }
    om_json_set_i64(doc, "peak_memory_bytes", e->peak_memory_bytes);
    return doc;
}

om_status om_evaluation_write(const om_evaluation *e, const char *path, om_error *err) {
    om_json *doc = om_evaluation_to_json(e);
    const om_status status = om_json_save(doc, path, err);
    om_json_free(doc);
    return status;
}

/* ---- reading ---- */

/* A number that cannot be negative; null (not finite when written) reads as 0. */
static om_status get_amount(double *out, const om_node *parent, const char *key, om_error *err) {
    om_status status = OM_OK;
    if (!om_node_has(parent, key)) {
        *out = 0.0;
        return OM_OK;
    }
    OM_TRY(om_node_f64(out, parent, key, err));
    if (*out < 0.0) {
        return om_node_fail(err, parent, "%s: expected a number that is not negative, found %g",
                            key, *out);
    }
out:
    return status;
}

static om_status get_file(char path[1024], char sha256[65], const om_node *root, const char *key,
                          om_error *err) {
    om_status status = OM_OK;
    om_node file;
    OM_TRY(om_node_object(&file, root, key, err));
    OM_TRY(om_node_text(path, 1024, &file, "path", err));
    OM_TRY(om_node_text(sha256, 65, &file, "sha256", err));
out:
    return status;
}

static om_status get_numbers(om_evaluation *e, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node kld;
    OM_TRY(om_node_int(&e->n_ctx, root, "n_ctx", 0, INT32_MAX, err));
    OM_TRY(om_node_int(&e->n_chunks, root, "n_chunks", 0, INT32_MAX, err));
    OM_TRY(om_node_i64(&e->tokens, root, "tokens", 0, INT64_MAX, err));
    OM_TRY(get_amount(&e->ppl, root, "ppl", err));
    OM_TRY(get_amount(&e->ppl_stderr, root, "ppl_stderr", err));
    OM_TRY(get_amount(&e->ppl_reference, root, "ppl_reference", err));
    OM_TRY(om_node_object(&kld, root, "kld", err));
    OM_TRY(get_amount(&e->kld_mean, &kld, "mean", err));
    OM_TRY(get_amount(&e->kld_stderr, &kld, "stderr", err));
    OM_TRY(get_amount(&e->kld_median, &kld, "median", err));
    OM_TRY(get_amount(&e->kld_p99, &kld, "p99", err));
    OM_TRY(get_amount(&e->kld_max, &kld, "max", err));
    OM_TRY(get_amount(&e->top1_agreement, root, "top1_agreement", err));
    OM_TRY(om_node_i64(&e->file_bytes, root, "file_bytes", 0, INT64_MAX, err));
    OM_TRY(get_amount(&e->bpw, root, "bpw", err));
    OM_TRY(om_node_i64(&e->peak_memory_bytes, root, "peak_memory_bytes", 0, INT64_MAX, err));
out:
    return status;
}

static om_status get_speed(om_evaluation *e, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node speed;
    if (e->container != OM_CONTAINER_GGUF && !om_node_has(root, "speed")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&speed, root, "speed", err));
    if (om_node_has(&speed, "runtime")) {
        OM_TRY(om_node_text(e->runtime, sizeof(e->runtime), &speed, "runtime", err));
    }
    OM_TRY(om_node_text(e->device, sizeof(e->device), &speed, "device", err));
    OM_TRY(get_amount(&e->prefill_tok_s, &speed, "prefill_tok_s", err));
    OM_TRY(get_amount(&e->decode_tok_s, &speed, "decode_tok_s", err));
    OM_TRY(get_amount(&e->ttft_s, &speed, "ttft_s", err));
out:
    return status;
}

static om_status get_probe(om_evaluation *e, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node probe;
    if (!om_node_has(root, "probe")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&probe, root, "probe", err));
    OM_TRY(om_node_int(&e->probe_tokens, &probe, "tokens", 1, INT32_MAX, err));
    OM_TRY(get_amount(&e->probe_ppl, &probe, "ppl", err));
    OM_TRY(get_amount(&e->probe_ppl_runtime, &probe, "ppl_runtime", err));
out:
    return status;
}

/* Absent before there was more than one. */
static om_status get_container(om_container *out, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    const char *name = NULL;
    *out = OM_CONTAINER_GGUF;
    if (!om_node_has(root, "container")) {
        return OM_OK;
    }
    OM_TRY(om_node_str(&name, root, "container", err));
    for (int i = 0; i < OM_CONTAINER_COUNT; i++) {
        if (strcmp(name, om_container_name((om_container) i)) == 0) {
            *out = (om_container) i;
            return OM_OK;
        }
    }
    status =
        om_node_fail(err, root, "container: expected \"gguf\" or \"mlx\", found \"%.20s\"", name);
out:
    return status;
}

static om_status get_share(double *out, const om_node *parent, const char *key, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_node_f64(out, parent, key, err));
    if (*out < 0.0 || *out > 1.0) {
        return om_node_fail(err, parent, "%s: expected a number from 0 to 1, found %g", key, *out);
    }
out:
    return status;
}

static om_status get_layer(om_routing *r, int i, const om_node *layers, om_error *err) {
    om_status status = OM_OK;
    om_node layer;
    OM_TRY(om_node_at(&layer, layers, (size_t) i, err));
    const int least = i > 0 ? r->layer[i - 1] + 1 : 0;
    OM_TRY(om_node_int(&r->layer[i], &layer, "layer", least, INT16_MAX, err));
    OM_TRY(get_share(&r->layer_agreement[i], &layer, "agreement", err));
out:
    return status;
}

static om_status get_routing(om_routing *r, const om_node *root, om_error *err) {
    om_status status = OM_OK;
    om_node routing, layers;
    size_t n;
    if (!om_node_has(root, "routing")) {
        return OM_OK;
    }
    OM_TRY(om_node_object(&routing, root, "routing", err));
    OM_TRY(om_node_int(&r->n_experts, &routing, "experts", 1, OM_ROUTING_MAX_EXPERTS, err));
    OM_TRY(om_node_int(&r->n_used, &routing, "used", 1, r->n_experts, err));
    OM_TRY(get_share(&r->agreement, &routing, "agreement", err));
    OM_TRY(get_amount(&r->flips_per_token, &routing, "flips_per_token", err));
    OM_TRY(om_node_array(&layers, &n, &routing, "layers", err));
    if (n < 1 || n > OM_ROUTING_MAX_LAYERS) {
        return om_node_fail(err, &layers, "expected 1 to %d layers, found %zu",
                            OM_ROUTING_MAX_LAYERS, n);
    }
    for (int i = 0; i < (int) n; i++) {
        OM_TRY(get_layer(r, i, &layers, err));
    }
    r->n_layers = (int) n;
out:
    return status;
}

static om_status from_json(om_evaluation **out, const om_json *doc, const char *name,
                           om_error *err) {
    om_status status = OM_OK;
    om_evaluation *e = om_calloc(1, sizeof(*e));
    if (e == NULL) {
        return om_fail_nomem(err, sizeof(*e));
    }
    const om_node root = om_node_root(doc, name);
    om_node text;
    OM_TRY(get_file(e->model_path, e->model_sha256, &root, "model", err));
    OM_TRY(get_file(e->reference_path, e->reference_sha256, &root, "reference", err));
    OM_TRY(om_node_object(&text, &root, "text", err));
    OM_TRY(om_node_text(e->text_sha256, sizeof(e->text_sha256), &text, "sha256", err));
    OM_TRY(om_node_text(e->label, sizeof(e->label), &root, "label", err));
    OM_TRY(om_node_text(e->score, sizeof(e->score), &root, "score", err));
    OM_TRY(get_container(&e->container, &root, err));
    OM_TRY(get_numbers(e, &root, err));
    OM_TRY(get_speed(e, &root, err));
    OM_TRY(get_probe(e, &root, err));
    OM_TRY(get_routing(&e->routing, &root, err));
    *out = e;
    e = NULL;
out:
    om_evaluation_free(e);
    return status;
}

om_status om_evaluation_parse(om_evaluation **out, const char *text, size_t n, const char *name,
                              om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    OM_TRY(om_json_parse(&doc, text, n, name, schema, err));
    OM_TRY(from_json(out, doc, name, err));
out:
    om_json_free(doc);
    return status;
}

om_status om_evaluation_read(om_evaluation **out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_json *doc = NULL;
    OM_TRY(om_json_load(&doc, path, schema, err));
    OM_TRY(from_json(out, doc, path, err));
out:
    om_json_free(doc);
    return status;
}

void om_evaluation_free(om_evaluation *e) {
    om_free(e);
}
