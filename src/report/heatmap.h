/* Layers x roles: what was chosen where, and how sensitive each tensor is. */
#ifndef OM_REPORT_HEATMAP_H
#define OM_REPORT_HEATMAP_H

#include "base/buf.h"
#include "report/input.h"

/** Class name of the colour for a type: "b1" (below 2 bits) … "b16" (more than 9). Static. */
const char *om_heat_class(double bpw);

/** Append two <figure>s: the chosen types (type name in each cell) and the sensitivities (nats at
 * about 4 bit, logarithmic colours). Tensors outside of blocks stand above the grid. Returns false
 * when memory is short. */
bool om_heatmap(om_buf *out, const om_report_input *in);

#endif
