/* Options, allocation and statistics, checked against each other. */
#include "artifact/inputs.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

om_status om_inputs_check(const om_quantize_options *o, om_error *err) {
    if (o->model == NULL || o->allocation == NULL) {
        return om_fail(err, OM_E_ARG, "quantize needs a model and an allocation.json");
    }
    if (o->out == NULL && !o->dry_run) {
        return om_fail(err, OM_E_ARG, "quantize needs a name for the output (-o model-opt.gguf)");
    }
    if (o->stats != NULL && o->imatrix != NULL) {
        return om_fail(err, OM_E_ARG, "--stats and --imatrix exclude each other: give one");
    }
    if (o->to != NULL && strcmp(o->to, "gguf") != 0 && strcmp(o->to, "mlx") != 0) {
        return om_fail(err, OM_E_ARG, "--to %s: expected gguf or mlx", o->to);
    }
    if (o->round != NULL && strcmp(o->round, "search") != 0 && strcmp(o->round, "plain") != 0) {
        return om_fail(err, OM_E_ARG, "--round %s: expected search or plain", o->round);
    }
    return OM_OK;
}

static om_status check_stats(const om_stats *s, const char *path, const om_allocation *a,
                             bool explicit_path, const om_env *env, om_error *err) {
    if (s->model_sha256[0] != '\0' && strcmp(s->model_sha256, a->model_sha256) != 0) {
        return om_fail(err, OM_E_MISMATCH,
                       "%s was measured on the model %s, the allocation is for %s: profile this "
                       "model, or give the file as --imatrix to use only its importance",
                       path, s->model_sha256, a->model_sha256);
    }
    if (a->stats_sha256[0] != '\0' && strcmp(s->sha256, a->stats_sha256) != 0) {
        if (!explicit_path) {
            return om_fail(err, OM_E_MISMATCH,
                           "%s has sha256 %s, the allocation was made with %s: profile again, or "
                           "name the file with --stats",
                           path, s->sha256, a->stats_sha256);
        }
        om_log(env, OM_LOG_WARN, "%s is not the file the allocation was made with (sha256 %s)",
               path, a->stats_sha256);
    }
    return OM_OK;
}

om_status om_inputs_stats(om_stats **out, char **path, const om_quantize_options *o,
                          const om_allocation *a, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_stats *s = NULL;
    if (o->imatrix != NULL) {
        *path = om_strdup(o->imatrix);
        OM_TRY(om_stats_read(&s, o->imatrix, err));
        if (strcmp(s->model_sha256, a->model_sha256) != 0) {
            s->tokens = 0; /* Fisher marginals of another model say nothing about this one */
        }
    } else if (o->stats != NULL || a->stats_path[0] != '\0') {
        *path = o->stats != NULL ? om_strdup(o->stats)
                                 : om_path_find_beside(a->stats_path, o->allocation);
        if (*path == NULL) {
            OM_TRY(om_fail(err, OM_E_IO,
                           "%s: the statistics that the allocation names are gone: give --stats "
                           "or --imatrix, or profile again",
                           a->stats_path));
        }
        OM_TRY(om_stats_read(&s, *path, err));
        OM_TRY(check_stats(s, *path, a, o->stats != NULL, env, err));
    } else {
        om_log(env, OM_LOG_WARN, "no statistics: rounding without importance (give --imatrix)");
    }
    *out = s;
    s = NULL;
out:
    om_stats_free(s);
    return status;
}

om_status om_inputs_tensor(const om_tensor_stats **out, om_stats *stats, const char *name,
                           int64_t n_in, int64_t n_out, int experts, om_error *err) {
    om_status status = OM_OK;
    om_tensor_stats *found = NULL;
    for (int i = 0; stats != NULL && i < stats->n_tensors && found == NULL; i++) {
        found = strcmp(stats->tensors[i].name, name) == 0 ? &stats->tensors[i] : NULL;
    }
    if (found != NULL) {
        OM_TRY(om_stats_shape(found, n_in, experts, err));
        if (found->rows != NULL && found->n_out != n_out) {
            OM_TRY(om_fail(err, OM_E_MISMATCH,
                           "%s: statistics are for %" PRId64 " outputs, the model's tensor has "
                           "%" PRId64 ": they come from another model",
                           name, found->n_out, n_out));
        }
    }
    *out = found;
out:
    return status;
}

om_status om_inputs_importance(float **out, const om_tensor_stats *t, om_error *err) {
    *out = NULL;
    if (t == NULL || t->in_sum2 == NULL) {
        return OM_OK;
    }
    float *v = om_calloc((size_t) (t->n_in * t->experts), sizeof *v);
    if (v == NULL) {
        return om_fail_nomem(err, (size_t) (t->n_in * t->experts) * sizeof *v);
    }
    for (int e = 0; e < t->experts; e++) {
        (void) om_stats_importance(v + e * t->n_in, t, e);
    }
    *out = v;
    return OM_OK;
}

om_gguf_record om_inputs_record(const om_allocation *a) {
    om_gguf_record r = {
        .seed = a->seed,
        .calib_tokens = a->calib_tokens < 0 ? 0 : (uint64_t) a->calib_tokens,
        .budget_bytes = a->budget_bytes,
        .predicted_nats = a->predicted_nats,
        .routing_nats = a->routing_nats,
        .measured_kld = (double) NAN,
        .measured_kld_stderr = (double) NAN,
    };
    memcpy(r.source_sha256, a->model_sha256, sizeof r.source_sha256);
    memcpy(r.calib_sha256, a->calib_sha256, sizeof r.calib_sha256);
    memcpy(r.profile_sha256, a->profile_sha256, sizeof r.profile_sha256);
    memcpy(r.allocation_sha256, a->sha256, sizeof r.allocation_sha256);
    return r;
}

om_status om_inputs_size(int64_t bytes, const om_allocation *a, om_error *err) {
    if (bytes != a->bytes) {
        return om_fail(err, OM_E_MISMATCH,
                       "the types of the allocation make a file of %" PRId64
                       " bytes, its \"bytes\" "
                       "says %" PRId64 ": if you edited the types, set \"bytes\" to %" PRId64
                       "; otherwise allocate again",
                       bytes, a->bytes, bytes);
    }
    if (a->budget_bytes > 0 && bytes > a->budget_bytes) {
        return om_fail(err, OM_E_MISMATCH,
                       "the file would have %" PRId64 " bytes, the allocation's budget is %" PRId64,
                       bytes, a->budget_bytes);
    }
    return OM_OK;
}
