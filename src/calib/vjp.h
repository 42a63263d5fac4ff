/* One vector-Jacobian product per ggml op: given g = dL/d(output), the gradients of the sources
 * (docs/method.md eq. 5).
 *
 * A rule is a pure function over contiguous F32 arrays: it knows nothing of tapes, views or models,
 * so that each can be compared with finite differences. What a rule needs to know of the forward
 * pass is declared in the table, and is all that the tape keeps. */
#ifndef OM_CALIB_VJP_H
#define OM_CALIB_VJP_H

#include "calib/compute.h"
#include "ggml.h"

enum { OM_VJP_SRC = 3 }; /* sources a rule may look at */

/** What a rule needs: bits of om_vjp_rule.need. */
enum { OM_NEED_SRC0 = 1, OM_NEED_SRC1 = 2, OM_NEED_SRC2 = 4, OM_NEED_DST = 8 };

typedef struct om_vjp_args {
    const int32_t *params;    /* op_params of the node */
    om_array dst;             /* shape; data when needed */
    om_array src[OM_VJP_SRC]; /* shapes; data when needed; ne[0] == 0: no such source */
    const int64_t
        *index; /* integer source (rows of GET_ROWS and SET_ROWS; positions of ROPE), [n_index] */
    int64_t n_index;
    const float *g;          /* gradient of dst, [dst] */
    float *grad[OM_VJP_SRC]; /* out: gradient of each source, [src]; NULL: not wanted */
} om_vjp_args;

typedef struct om_vjp_rule {
    enum ggml_op op;
    unsigned grads;                          /* bit i: the rule can give the gradient of source i */
    unsigned need[OM_VJP_SRC];               /* for the gradient of source i: OM_NEED_… */
    int index_src;                           /* source that holds integers, -1: none */
    bool (*supports)(const int32_t *params); /* NULL: every variant */
    om_status (*apply)(om_compute *c, const om_vjp_args *a, om_error *err);
} om_vjp_rule;

/** The rule of an op, or NULL. params (op_params) select the variant of UNARY and GLU. */
const om_vjp_rule *om_vjp_find(enum ggml_op op, const int32_t *params);

/** How an error message names an op: "GLU(GEGLU)". */
const char *om_vjp_op_name(char dst[48], enum ggml_op op, const int32_t *params);

/* Families of rules, one file each. */
om_status om_vjp_mul_mat(om_compute *c, const om_vjp_args *a, om_error *err);
om_status om_vjp_norm(om_compute *c, const om_vjp_args *a, om_error *err);
om_status om_vjp_rms_norm(om_compute *c, const om_vjp_args *a, om_error *err);
om_status om_vjp_soft_max(om_compute *c, const om_vjp_args *a, om_error *err);
om_status om_vjp_unary(om_compute *c, const om_vjp_args *a, om_error *err);
om_status om_vjp_glu(om_compute *c, const om_vjp_args *a, om_error *err);
bool om_vjp_unary_supports(const int32_t *params);
bool om_vjp_glu_supports(const int32_t *params);

#endif
