/* Rope parameters -> pairs and tensors.
 *
 * transformers 5 keeps everything in "rope_parameters" (one object, or one per kind of layer);
 * before, the base stood in "rope_theta" and the scaling in "rope_scaling", whose "type" is now
 * "rope_type". When both are there, rope_scaling wins, as in transformers.
 *
 * llama3's scaling is not a parameter of llama.cpp: each frequency's factor is a tensor. It is
 * computed in float as PyTorch does, in double where PyTorch's power rounds once. */
#include "hf/rope.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* ---- reading ---- */

static om_status get_f64(double *out, const om_node *object, const char *key, om_error *err) {
    return om_node_has(object, key) ? om_node_f64(out, object, key, err) : OM_OK;
}

static om_status get_i64(int64_t *out, const om_node *object, const char *key, om_error *err) {
    return om_node_has(object, key) ? om_node_i64(out, object, key, 1, INT32_MAX, err) : OM_OK;
}

static bool is_nested(const om_node *params) {
    return om_node_has(params, "full_attention") || om_node_has(params, "sliding_attention");
}

/* The object with the scaling: *found false when there is none. The out node is `params`, so that
 * its parents stay in the config. */
static om_status find_params(om_node *params, bool *found, const om_config *c, const char *key,
                             om_error *err) {
    const om_node *holder = om_config_find(c, key);
    *found = false;
    if (holder == NULL) {
        return OM_OK;
    }
    om_status status = om_node_object(params, holder, key, err);
    void *iter = NULL;
    om_node member;
    *found = status == OM_OK && om_node_next(&member, params, &iter); /* {} is as good as null */
    return status;
}

static om_status read_type(om_rope *rope, om_error *err) {
    static const char *const known[] = { "default", "linear", "yarn", "llama3", "longrope" };
    const char *type = "default";
    if (rope->has_params) {
        const char *key = om_node_has(&rope->params, "rope_type") ? "rope_type"
                          : om_node_has(&rope->params, "type")    ? "type"
                                                                  : NULL;
        om_status status = key != NULL ? om_node_str(&type, &rope->params, key, err) : OM_OK;
        if (status != OM_OK) {
            return status;
        }
    }
    if (strcmp(type, "su") == 0) { /* its first name */
        type = "longrope";
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(type, known[i]) == 0) {
            rope->type = known[i];
            return OM_OK;
        }
    }
    return om_hf_refuse(err,
                        "config.json: rope of type \"%.40s\" (known: default, linear, yarn, "
                        "llama3, longrope)",
                        type);
}

/* Gemma 3: an object per kind of layer, or the older keys. */
static om_status read_per_layer(om_rope *rope, const om_config *c, bool new_form, om_error *err) {
    om_status status = OM_OK;
    om_node outer = { 0 }, local;
    bool found = false;
    OM_TRY(om_config_get_f64(&rope->theta, c, "rope_theta", err));
    OM_TRY(om_config_get_f64(&rope->local_theta, c, "rope_local_base_freq", err));
    OM_TRY(find_params(&rope->params, &rope->has_params, c, "rope_scaling", err));
    if (!new_form) {
        goto out;
    }
    OM_TRY(find_params(&outer, &found, c, "rope_parameters", err));
    if (om_node_has(&outer, "sliding_attention")) {
        OM_TRY(om_node_object(&local, &outer, "sliding_attention", err));
        OM_TRY(get_f64(&rope->local_theta, &local, "rope_theta", err));
        const char *type = "default";
        if (om_node_has(&local, "rope_type")) {
            OM_TRY(om_node_str(&type, &local, "rope_type", err));
        }
        if (strcmp(type, "default") != 0) {
            OM_TRY(
                om_hf_refuse(err, "config.json: scaled rope in sliding layers (\"%.40s\")", type));
        }
    }
    if (om_node_has(&outer, "full_attention")) {
        om_node full;
        OM_TRY(om_node_object(&full, &outer, "full_attention", err));
        OM_TRY(get_f64(&rope->theta, &full, "rope_theta", err));
        if (!rope->has_params) {
            rope->params = (om_node){ .value = full.value,
                                      .key = "rope_parameters.full_attention",
                                      .parent = outer.parent };
            rope->has_params = true;
        }
    }
out:
    return status;
}

om_status om_rope_read(om_rope *rope, const om_config *c, const om_rope_defaults *defaults,
                       int64_t context_length, om_error *err) {
    om_status status = OM_OK;
    om_node params = { 0 };
    bool found = false, has_old = false;
    *rope = (om_rope){ .theta = defaults->theta,
                       .local_theta = defaults->local_theta,
                       .type = "default",
                       .original_context = context_length };
    OM_TRY(find_params(&params, &has_old, c, "rope_scaling", err));
    found = has_old;
    if (!found) {
        OM_TRY(find_params(&params, &found, c, "rope_parameters", err));
    }
    const bool nested = found && is_nested(&params);
    if (nested && defaults->local_theta <= 0) {
        OM_TRY(om_hf_refuse(err, "config.json: rope parameters that differ between layers"));
    }
    if (defaults->local_theta > 0) {
        OM_TRY(read_per_layer(rope, c, nested && !has_old, err));
    } else {
        OM_TRY(om_config_get_f64(&rope->theta, c, "rope_theta", err));
        rope->has_params = found;
        if (found) {
            rope->params = params;
            OM_TRY(get_f64(&rope->theta, &params, "rope_theta", err));
        }
    }
    OM_TRY(read_type(rope, err));
    if (rope->has_params) {
        OM_TRY(get_i64(&rope->original_context, &rope->params, "original_max_position_embeddings",
                       err));
    }
    /* a value at the top wins: Phi-3 keeps it there */
    OM_TRY(om_config_get_i64(&rope->original_context, c, "original_max_position_embeddings", 1,
                             INT32_MAX, err));
out:
    return status;
}

/* ---- pairs ---- */

static om_status put_optional(om_pairs *pairs, const char *pair, const om_node *params,
                              const char *key, om_error *err) {
    double value = 0;
    if (!om_node_has(params, key)) {
        return OM_OK;
    }
    om_status status = om_node_f64(&value, params, key, err);
    if (status == OM_OK) {
        om_pairs_f32(pairs, pair, (float) value);
    }
    return status;
}

static om_status put_yarn(om_pairs *pairs, const om_rope *rope, om_error *err) {
    om_status status = OM_OK;
    const om_node *p = &rope->params;
    om_pairs_u32(pairs, "%s.rope.scaling.original_context_length",
                 (uint32_t) rope->original_context);
    OM_TRY(put_optional(pairs, "%s.rope.scaling.yarn_ext_factor", p, "extrapolation_factor", err));
    OM_TRY(put_optional(pairs, "%s.rope.scaling.yarn_attn_factor", p,
                        om_node_has(p, "attention_factor") ? "attention_factor" : "attn_factor",
                        err));
    OM_TRY(put_optional(pairs, "%s.rope.scaling.yarn_beta_fast", p, "beta_fast", err));
    OM_TRY(put_optional(pairs, "%s.rope.scaling.yarn_beta_slow", p, "beta_slow", err));
out:
    return status;
}

om_status om_rope_put(om_pairs *pairs, const om_rope *rope, om_error *err) {
    om_status status = OM_OK;
    const bool yarn = strcmp(rope->type, "yarn") == 0;
    if (yarn || strcmp(rope->type, "linear") == 0) {
        double factor = 0;
        OM_TRY(om_node_f64(&factor, &rope->params, "factor", err));
        om_pairs_str(pairs, "%s.rope.scaling.type", rope->type);
        om_pairs_f32(pairs, "%s.rope.scaling.factor", (float) factor);
        if (yarn) {
            OM_TRY(put_yarn(pairs, rope, err));
        }
    } else if (strcmp(rope->type, "longrope") == 0) {
        OM_TRY(om_hf_refuse(err, "config.json: rope of type longrope in this family"));
    }
    om_pairs_f32(pairs, "%s.rope.freq_base", (float) rope->theta);
    if (rope->local_theta > 0) {
        om_pairs_f32(pairs, "%s.rope.freq_base_swa", (float) rope->local_theta);
    }
out:
    return status;
}

/* ---- tensors ---- */

static om_status add_extra(float **values, om_hf_metadata *out, const char *name, int64_t n,
                           om_error *err) {
    float *v = om_calloc((size_t) n, sizeof *v);
    if (v == NULL) {
        return om_fail_nomem(err, (size_t) n * sizeof *v);
    }
    out->extras[out->n_extras++] = (om_hf_extra){ .name = name, .n = n, .values = v };
    *values = v;
    return OM_OK;
}

typedef struct llama3_scaling {
    double factor, low, high, context; /* config.json's names: low_freq_factor … */
} llama3_scaling;

/* In float wherever PyTorch has a float tensor. */
static float llama3_factor(const llama3_scaling *s, float freq) {
    const float wavelength = (float) (2 * 3.14159265358979323846) / freq;
    if ((double) wavelength < s->context / s->high) {
        return 1;
    }
    if ((double) wavelength > s->context / s->low) {
        return (float) s->factor;
    }
    const float smooth =
        ((float) s->context / wavelength - (float) s->low) / (float) (s->high - s->low);
    return 1 / ((1 - smooth) / (float) s->factor + smooth);
}

om_status om_rope_freqs(om_hf_metadata *out, const om_rope *rope, int64_t dim, om_error *err) {
    om_status status = OM_OK;
    llama3_scaling s = { .factor = 8, .low = 1, .high = 4 };
    s.context = (double) rope->original_context;
    OM_TRY(get_f64(&s.factor, &rope->params, "factor", err));
    OM_TRY(get_f64(&s.low, &rope->params, "low_freq_factor", err));
    OM_TRY(get_f64(&s.high, &rope->params, "high_freq_factor", err));
    if (!(s.factor > 0) || !(s.low > 0) || !(s.high > s.low)) {
        OM_TRY(om_node_fail(err, &rope->params,
                            "expected factor > 0 and high_freq_factor > low_freq_factor > 0"));
    }
    float *factors = NULL;
    OM_TRY(add_extra(&factors, out, "rope_freqs.weight", (dim + 1) / 2, err));
    for (int64_t i = 0; 2 * i < dim; i++) {
        const float exponent = (float) (2 * i) / (float) dim;
        const float freq = 1 / (float) pow((double) (float) rope->theta, (double) exponent);
        factors[i] = llama3_factor(&s, freq);
    }
out:
    return status;
}

static om_status read_factors(om_hf_metadata *out, const char *name, const om_rope *rope,
                              const char *key, int64_t n, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t found = 0;
    float *values = NULL;
    OM_TRY(om_node_array(&array, &found, &rope->params, key, err));
    if (found != (size_t) n) {
        OM_TRY(om_node_fail(err, &array,
                            "expected %lld factors, half of the rotated width, found %zu",
                            (long long) n, found));
    }
    OM_TRY(add_extra(&values, out, name, n, err));
    for (size_t i = 0; i < found; i++) {
        double value = 0;
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_value_f64(&value, &item, err));
        values[i] = (float) value;
    }
out:
    return status;
}

om_status om_rope_longrope(om_hf_metadata *out, om_pairs *pairs, const om_rope *rope,
                           int64_t context_length, int64_t dim, om_error *err) {
    om_status status = OM_OK;
    const double original = (double) rope->original_context;
    const double scale = (double) context_length / original;
    if (!rope->has_params || !om_node_has(&rope->params, "long_factor")) {
        if (strcmp(rope->type, "default") != 0) {
            OM_TRY(om_hf_refuse(err, "config.json: rope of type %s in this family", rope->type));
        }
        return OM_OK;
    }
    double attention = 1;
    if (strcmp(rope->type, "longrope") == 0) {
        attention = scale > 1 ? sqrt(1 + log(scale) / log(original)) : 1;
    } else if (strcmp(rope->type, "yarn") == 0) {
        attention = scale > 1 ? 0.1 * log(scale) + 1 : 1;
    } else {
        OM_TRY(om_hf_refuse(err, "config.json: factors of each frequency with rope of type %s",
                            rope->type));
    }
    om_pairs_f32(pairs, "%s.rope.scaling.attn_factor", (float) attention);
    OM_TRY(read_factors(out, "rope_factors_long.weight", rope, "long_factor", dim / 2, err));
    OM_TRY(read_factors(out, "rope_factors_short.weight", rope, "short_factor", dim / 2, err));
out:
    return status;
}
