/* An om_probe in JSON, as profile.json and allocation.json hold it: an array of sums and norms, in
 * turns. */
#ifndef OM_PROFILE_PROBE_JSON_H
#define OM_PROFILE_PROBE_JSON_H

#include "base/json.h"
#include "model/probe.h"

om_json *om_probe_json(const om_probe *probe); /* owned */
/** Absent: the probe stays unknown. Errors: OM_E_FORMAT with the JSON path. */
om_status om_probe_read(om_probe *out, const om_node *parent, const char *key,
                        om_error *err) OM_WARN_UNUSED;

#endif
