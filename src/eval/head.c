/* Hidden states -> logits with ggml on the processor: one matrix product in the weight's own type,
 * then bias, scale and soft cap. Input and result live in one buffer made for the largest block;
 * the graph (a handful of tensors) is built anew when the number of rows changes.
 */
#include "eval/head.h"

#include <string.h>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include "base/mem.h"

struct om_head {
    om_head_spec spec;
    int max_rows;
    int n_rows; /* of the graph; 0: none */
    ggml_backend_t backend;
    struct ggml_context *weights;     /* the weight and the bias */
    ggml_backend_buffer_t mapped;     /* around the caller's weight; or the copy */
    ggml_backend_buffer_t bias_store; /* NULL without a bias */
    struct ggml_tensor *weight, *bias;
    ggml_backend_buffer_t store; /* input, then result, of max_rows rows */
    struct ggml_context *graph_ctx;
    struct ggml_cgraph *graph;
    struct ggml_tensor *input, *result;
};

static struct ggml_context *new_context(size_t n_tensors, bool graph) {
    const struct ggml_init_params params = {
        .mem_size = n_tensors * ggml_tensor_overhead() + (graph ? ggml_graph_overhead() : 0),
        .mem_buffer = NULL,
        .no_alloc = true,
    };
    return ggml_init(params);
}

/* An operation that overwrites its operand. */
static struct ggml_tensor *in_place(struct ggml_tensor *view) {
    return ggml_backend_view_init(view) == GGML_STATUS_SUCCESS ? view : NULL;
}

/* llama.cpp's order of operations. NULL when ggml refuses. */
static struct ggml_tensor *finish(om_head *h, struct ggml_context *ctx, struct ggml_tensor *z) {
    if (h->bias != NULL) {
        z = in_place(ggml_add_inplace(ctx, z, h->bias));
    }
    if (z != NULL && (h->spec.scale < 1.0f || h->spec.scale > 1.0f)) {
        z = in_place(ggml_scale_inplace(ctx, z, h->spec.scale));
    }
    if (h->spec.softcap > 0.0f) {
        z = z != NULL ? in_place(ggml_scale_inplace(ctx, z, 1.0f / h->spec.softcap)) : NULL;
        z = z != NULL ? in_place(ggml_tanh_inplace(ctx, z)) : NULL;
        z = z != NULL ? in_place(ggml_scale_inplace(ctx, z, h->spec.softcap)) : NULL;
    }
    return z;
}

static size_t input_bytes(const om_head *h) {
    return ((size_t) h->max_rows * (size_t) h->spec.n_embd * sizeof(float) + 63) / 64 * 64;
}

static om_status build_graph(om_head *h, int n_rows, om_error *err) {
    ggml_free(h->graph_ctx);
    h->n_rows = 0;
    struct ggml_context *ctx = h->graph_ctx = new_context(16, true);
    if (ctx == NULL) {
        return om_fail_nomem(err, 16 * ggml_tensor_overhead());
    }
    char *base = ggml_backend_buffer_get_base(h->store);
    h->input = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, h->spec.n_embd, n_rows); /* [n, C] ne{C, n} */
    struct ggml_tensor *z = ggml_mul_mat(ctx, h->weight, h->input);            /* [n, V] ne{V, n} */
    if (ggml_backend_tensor_alloc(h->store, h->input, base) != GGML_STATUS_SUCCESS ||
        ggml_backend_tensor_alloc(h->store, z, base + input_bytes(h)) != GGML_STATUS_SUCCESS ||
        (h->result = finish(h, ctx, z)) == NULL) {
        return om_fail(err, OM_E_INTERNAL, "ggml refused the graph of the output head");
    }
    h->graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(h->graph, h->result);
    h->n_rows = n_rows;
    return OM_OK;
}

static om_status place_store(om_head *h, om_error *err) {
    const size_t rows = (size_t) h->max_rows * (size_t) h->spec.n_vocab * sizeof(float);
    h->store = ggml_backend_alloc_buffer(h->backend, input_bytes(h) + rows + 64);
    return h->store != NULL ? OM_OK : om_fail_nomem(err, input_bytes(h) + rows);
}

/* ggml wants its buffers aligned to 32 bytes. */
static om_status place_weight(om_head *h, om_error *err) {
    const size_t bytes = ggml_nbytes(h->weight);
    const bool aligned = (uintptr_t) h->spec.weight % 32 == 0;
    if (aligned) {
        /* ggml takes no const pointer; nothing writes to a weight. */
        union {
            const void *in;
            void *out;
        } p = { .in = h->spec.weight };
        h->mapped = ggml_backend_cpu_buffer_from_ptr(p.out, bytes);
        if (h->mapped != NULL &&
            ggml_backend_tensor_alloc(h->mapped, h->weight, p.out) == GGML_STATUS_SUCCESS) {
            return OM_OK;
        }
        return om_fail_nomem(err, bytes);
    }
    h->mapped = ggml_backend_alloc_buffer(h->backend, bytes + 64);
    if (h->mapped == NULL ||
        ggml_backend_tensor_alloc(h->mapped, h->weight, ggml_backend_buffer_get_base(h->mapped)) !=
            GGML_STATUS_SUCCESS) {
        return om_fail_nomem(err, bytes);
    }
    ggml_backend_tensor_set(h->weight, h->spec.weight, 0, bytes);
    return OM_OK;
}

static om_status place_bias(om_head *h, om_error *err) {
    if (h->spec.bias == NULL) {
        return OM_OK;
    }
    h->bias = ggml_new_tensor_1d(h->weights, GGML_TYPE_F32, h->spec.n_vocab);
    const size_t bytes = ggml_nbytes(h->bias);
    h->bias_store = ggml_backend_alloc_buffer(h->backend, bytes + 64);
    if (h->bias_store == NULL ||
        ggml_backend_tensor_alloc(h->bias_store, h->bias,
                                  ggml_backend_buffer_get_base(h->bias_store)) !=
            GGML_STATUS_SUCCESS) {
        return om_fail_nomem(err, bytes);
    }
    ggml_backend_tensor_set(h->bias, h->spec.bias, 0, bytes);
    return OM_OK;
}

om_status om_head_new(om_head **out, const om_head_spec *spec, int n_rows, int n_threads,
                      om_error *err) {
    om_status status = OM_OK;
    const struct ggml_type_traits_cpu *traits =
        ggml_get_type_traits_cpu((enum ggml_type) spec->format->ggml_type);
    if (traits->vec_dot == NULL) { /* ggml would call it all the same */
        return om_fail(err, OM_E_UNSUPPORTED, "ggml cannot multiply with a matrix of type %s",
                       spec->format->name);
    }
    om_head *h = om_calloc(1, sizeof(*h));
    if (h == NULL) {
        return om_fail_nomem(err, sizeof(*h));
    }
    h->spec = *spec;
    h->max_rows = n_rows;
    h->backend = ggml_backend_cpu_init();
    h->weights = new_context(2, false);
    if (h->backend == NULL || h->weights == NULL) {
        status = om_fail_nomem(err, 2 * ggml_tensor_overhead());
        goto out;
    }
    ggml_backend_cpu_set_n_threads(h->backend, n_threads);
    h->weight = ggml_new_tensor_2d(h->weights, (enum ggml_type) spec->format->ggml_type,
                                   spec->n_embd, spec->n_vocab); /* [V, C] ne{C, V} */
    OM_TRY(place_weight(h, err));
    OM_TRY(place_bias(h, err));
    OM_TRY(place_store(h, err));
    *out = h;
    h = NULL;
out:
    om_head_free(h);
    return status;
}

void om_head_free(om_head *h) {
    if (h == NULL) {
        return;
    }
    ggml_free(h->graph_ctx);
    ggml_backend_buffer_free(h->store);
    ggml_backend_buffer_free(h->mapped);
    ggml_backend_buffer_free(h->bias_store);
    ggml_free(h->weights);
    ggml_backend_free(h->backend);
    om_free(h);
}

om_status om_head_logits(const float **logits, om_head *h, const float *hidden, int n,
                         om_error *err) {
    om_status status = OM_OK;
    if (n != h->n_rows) {
        OM_TRY(build_graph(h, n, err));
    }
    ggml_backend_tensor_set(h->input, hidden, 0, ggml_nbytes(h->input));
    if (ggml_backend_graph_compute(h->backend, h->graph) != GGML_STATUS_SUCCESS) {
        status = om_fail(err, OM_E_INTERNAL, "ggml could not compute the reference's output head");
        goto out;
    }
    *logits = h->result->data;
out:
    return status;
}
