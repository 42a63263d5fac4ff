/* om_probe <-> JSON. */
#include "profile/probe_json.h"

om_json *om_probe_json(const om_probe *probe) {
    om_json *array = om_json_array();
    for (int k = 0; k < OM_PROBE_ROWS; k++) {
        om_json_push(array, om_json_f64(probe->sum[k]));
        om_json_push(array, om_json_f64(probe->norm[k]));
    }
    return array;
}

om_status om_probe_read(om_probe *out, const om_node *parent, const char *key, om_error *err) {
    om_status status = OM_OK;
    om_node array, item;
    size_t n = 0;
    om_probe p = { .known = true };
    if (!om_node_has(parent, key)) {
        return OM_OK;
    }
    OM_TRY(om_node_array(&array, &n, parent, key, err));
    if (n != 2 * (size_t) OM_PROBE_ROWS) {
        OM_TRY(om_node_fail(err, &array, "%zu numbers, expected %d", n, 2 * OM_PROBE_ROWS));
    }
    for (size_t i = 0; i < n; i++) {
        OM_TRY(om_node_at(&item, &array, i, err));
        OM_TRY(om_node_value_f64(i % 2 == 0 ? &p.sum[i / 2] : &p.norm[i / 2], &item, err));
    }
    *out = p;
out:
    return status;
}
