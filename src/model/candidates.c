/* A tensor's shape and a list of type names into the types it may be stored in. */
#include "model/candidates.h"

#include <string.h>

/* Next name of a comma-separated list into name[32], blanks trimmed; false at the end. A name that
 * is too long is cut, which leaves it unknown. */
static bool next_name(char name[32], const char **list) {
    const char *p = *list;
    while (*p == ' ' || *p == ',') {
        p++;
    }
    if (*p == '\0') {
        return false;
    }
    size_t n = strcspn(p, ", ");
    size_t keep = n < 31 ? n : 31;
    memcpy(name, p, keep);
    name[keep] = '\0';
    *list = p + n;
    return true;
}

om_status om_candidates_check(const char *types, om_error *err) {
    if (types == NULL) {
        return OM_OK;
    }
    char name[32];
    int n_names = 0;
    for (const char *p = types; next_name(name, &p); n_names++) {
        const om_format *f = om_format_by_name(name);
        if (f == NULL) {
            return om_fail(err, OM_E_ARG, "unknown type \"%s\"; expected some of %s", name,
                           om_format_list());
        }
        if (f->use == OM_FORMAT_SOURCE) {
            return om_fail(err, OM_E_ARG, "type \"%s\" cannot be written; expected some of %s",
                           name, om_format_list());
        }
    }
    if (n_names == 0) {
        return om_fail(err, OM_E_ARG, "the list of types is empty; expected some of %s",
                       om_format_list());
    }
    return OM_OK;
}

static bool is_listed(const om_format *format, const char *types) {
    if (types == NULL) {
        return format->use == OM_FORMAT_COMMON;
    }
    char name[32];
    for (const char *p = types; next_name(name, &p);) {
        if (om_format_by_name(name) == format) {
            return format->use == OM_FORMAT_COMMON || format->use == OM_FORMAT_OPT_IN;
        }
    }
    return false;
}

static bool is_candidate(const om_format *f, const om_tensor *tensor, const char *types) {
    if (f == tensor->format) {
        return true;
    }
    const int64_t bytes = om_format_size(f, tensor->ne[0], om_tensor_n_rows(tensor));
    return tensor->may_quantize && is_listed(f, types) && bytes >= 0 && bytes < tensor->bytes;
}

/* The next of two catalogues that both ascend in bits per weight, and so, for one shape, in
 * bytes. */
static const om_format *next_of_both(int *i_gguf, int *i_mlx) {
    const om_format *a = om_format_at(*i_gguf), *b = om_format_mlx_at(*i_mlx);
    if (b == NULL || (a != NULL && om_format_bpw(a) <= om_format_bpw(b))) {
        (*i_gguf)++;
        return a;
    }
    (*i_mlx)++;
    return b;
}

om_status om_candidates(const om_format **out, int *n, int cap, const om_tensor *tensor,
                        const char *types, unsigned containers, om_error *err) {
    om_status status = om_candidates_check(types, err);
    if (status != OM_OK) {
        return status;
    }
    int count = 0, i_gguf = 0, i_mlx = 0;
    const om_format *f;
    while ((f = next_of_both(&i_gguf, &i_mlx)) != NULL) {
        const unsigned needs = f->mlx == OM_MLX_NONE ? OM_FOR_GGUF : OM_FOR_MLX;
        if ((f != tensor->format && (containers & needs) == 0) || !is_candidate(f, tensor, types)) {
            continue;
        }
        if (count == cap) {
            return om_fail(err, OM_E_INTERNAL, "room for %d candidate types is too little", cap);
        }
        out[count++] = f;
    }
    *n = count;
    return OM_OK;
}
