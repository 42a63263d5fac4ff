/* The result of quantize: "optimum.quantize/1" (docs/formats.md), and a few lines for people. */
#include "artifact/outcome.h"

#include <inttypes.h>
#include <math.h>

#include "base/json.h"
#include "base/mem.h"

static double bits_per_weight(const om_outcome *r) {
    return 8.0 * (double) r->bytes / (double) r->params;
}

static om_json *tensor_json(const om_outcome_tensor *tensor) {
    om_json *t = om_json_object();
    om_json_set_str(t, "name", tensor->name);
    if (tensor->path != NULL) {
        om_json_set_str(t, "path", tensor->path);
    }
    om_json_set_str(t, "from", tensor->from);
    om_json_set_str(t, "type", tensor->type);
    om_json_set_i64(t, "bytes", tensor->bytes);
    om_json_set_f64(t, "nats", tensor->nats);
    return t;
}

static char *result_json(const om_outcome *r) {
    om_json *doc = om_json_new_document("optimum.quantize/1");
    om_json *tensors = om_json_array();
    om_json_set_str(doc, "to", om_container_name(r->allocation->container));
    om_json_set_bool(doc, "dry_run", r->options->dry_run);
    om_json_set_str(doc, "path", r->options->out);
    om_json_set_str(doc, "sha256", r->sha256[0] != '\0' ? r->sha256 : NULL);
    om_json_set_i64(doc, "bytes", r->bytes);
    om_json_set_f64(doc, "bpw", bits_per_weight(r));
    if (r->allocation->container == OM_CONTAINER_MLX) {
        om_json_set_i64(doc, "shards", r->shards);
        om_json_set_str(doc, "round", r->round);
    }
    om_json_set_str(doc, "model", r->model_path);
    om_json_set_str(doc, "model_sha256", r->allocation->model_sha256);
    om_json_set_str(doc, "allocation_sha256", r->allocation->sha256);
    om_json_set_str(doc, "stats", r->stats_path);
    om_json_set_str(doc, "stats_sha256", r->stats == NULL ? NULL : r->stats->sha256);
    om_json_set_f64(doc, "predicted_nats", r->allocation->predicted_nats);
    om_json_set_f64(doc, "predicted_nats_exact", r->total_nats);
    om_json_set_f64(doc, "seconds", r->seconds);
    for (int i = 0; i < r->n_tensors; i++) {
        const om_outcome_tensor t = r->tensor(r->plan, i);
        om_json_push(tensors, tensor_json(&t));
    }
    om_json_set(doc, "tensors", tensors);
    char *text = om_json_dump(doc);
    om_json_free(doc);
    return text;
}

static void print_summary(om_buf *b, const om_outcome *r) {
    char size[32], from[32];
    int quantized = 0;
    for (int i = 0; i < r->n_tensors; i++) {
        quantized += r->tensor(r->plan, i).quantized;
    }
    om_format_bytes(size, (double) r->bytes, false);
    om_format_bytes(from, (double) r->source_bytes, false);
    if (r->options->dry_run) {
        r->print(b, r->plan);
        om_buf_printf(b, "would write %s (%.3f bits per weight; the source has %s), about %.0f s\n",
                      size, bits_per_weight(r), from, ceil(r->seconds));
        return;
    }
    om_buf_printf(b, "%s: %s (%" PRId64 " bytes), %.3f bits per weight; the source has %s\n",
                  r->options->out, size, r->bytes, bits_per_weight(r), from);
    om_buf_printf(b, "%d tensors quantized, %d %s, in %.1f s; checked against the plan\n",
                  quantized, r->n_tensors - quantized,
                  r->allocation->container == OM_CONTAINER_MLX ? "in 16 bits" : "copied",
                  r->seconds);
    if (isfinite(r->total_nats)) {
        om_buf_printf(b,
                      "predicted loss of what was written: %.5f nats per token (allocation: "
                      "%.5f)\n",
                      r->total_nats, r->allocation->predicted_nats);
    }
    om_buf_printf(b, "sha256 %s\n", r->sha256);
}

om_status om_outcome_result(om_result *out, const om_outcome *r, om_error *err) {
    om_buf text = { 0 };
    print_summary(&text, r);
    om_result result = { .json = result_json(r), .text = om_buf_take(&text) };
    om_buf_release(&text);
    if (result.json == NULL || result.text == NULL) {
        om_result_release(&result);
        return om_fail_nomem(err, 0);
    }
    *out = result;
    return OM_OK;
}
