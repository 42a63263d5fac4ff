/* The rule of the mixed recipes (mlx_lm/convert.py, mixed_quant_predicate_builder): v_proj and
 * down_proj get the high width in the first and the last eighth of the layers and in every third
 * between, lm_head everywhere; all else gets the low width, the embedding too, also when it is tied
 * to the output. */
#include "alloc/recipes.h"

#include <stdio.h>
#include <string.h>

#include "alloc/plans.h"

typedef struct recipe {
    const char *name;
    int low, high; /* bits */
} recipe;

static const recipe recipes[] = {
    { "mixed_2_6", 2, 6 }, { "mixed_3_4", 3, 4 }, { "mixed_3_6", 3, 6 }, { "mixed_4_6", 4, 6 },
    { "uniform_2", 2, 2 }, { "uniform_3", 3, 3 }, { "uniform_4", 4, 4 }, { "uniform_5", 5, 5 },
    { "uniform_6", 6, 6 }, { "uniform_8", 8, 8 },
};
enum { N_RECIPES = (int) (sizeof recipes / sizeof recipes[0]) };

const char *om_recipe_name(int i) {
    return i >= 0 && i < N_RECIPES ? recipes[i].name : NULL;
}

static bool uses_more_bits(int layer, int n_layers) {
    const int eighth = n_layers / 8, last = 7 * n_layers / 8;
    return layer < eighth || layer >= last || (layer - eighth) % 3 == 2;
}

static bool is_high(const om_unit *u, int n_layers) {
    static const char *const roles[] = { "attn_v",   "attn_v_b",      "attn_qkv",
                                         "ffn_down", "ffn_down_exps", "ffn_down_shexp" };
    for (size_t k = 0; k < sizeof roles / sizeof roles[0]; k++) {
        if (strcmp(u->role, roles[k]) == 0) {
            return uses_more_bits(u->layer, n_layers);
        }
    }
    return strcmp(u->role, "output") == 0;
}

static int count_layers(const om_profile *p) {
    int n = p->hparams.n_layer;
    for (int i = 0; i < p->n_units; i++) {
        n = p->units[i].layer >= n ? p->units[i].layer + 1 : n;
    }
    return n;
}

om_status om_recipe_types(const om_format **types, const om_profile *p, const char *name,
                          om_error *err) {
    const recipe *r = NULL;
    for (int i = 0; i < N_RECIPES && r == NULL; i++) {
        r = strcmp(recipes[i].name, name) == 0 ? &recipes[i] : NULL;
    }
    if (r == NULL) {
        return om_fail(err, OM_E_ARG,
                       "unknown recipe 'mlx:%.32s'; known are mixed_2_6, mixed_3_4, mixed_3_6, "
                       "mixed_4_6 and uniform_N (N 2, 3, 4, 5, 6, 8)",
                       name);
    }
    if (p->container != OM_CONTAINER_MLX) {
        return om_fail(err, OM_E_ARG, "plan mlx:%s is for MLX: add --to mlx", name);
    }
    const int n_layers = count_layers(p);
    for (int i = 0; i < p->n_units; i++) {
        char type[32];
        snprintf(type, sizeof type, "mlx_%dbit_g64",
                 is_high(&p->units[i], n_layers) ? r->high : r->low);
        types[i] = om_unit_nearest(&p->units[i], om_format_by_name(type))->format;
    }
    return OM_OK;
}
