/* Inline SVG: the size-quality chart. */
#ifndef OM_REPORT_CHART_H
#define OM_REPORT_CHART_H

#include "base/buf.h"
#include "report/input.h"

/** How large a drawing is meant to be seen: text keeps its size, so a phone gets its own drawing.
 */
typedef struct om_chart_layout {
    int width, height; /* CSS pixels */
    const char *id;    /* unique in the document: prefix of element ids */
    const char *css;   /* class of the <svg> */
} om_chart_layout;

/** Append one <svg>: file size (linear) against KL divergence (logarithmic). The predicted curve
 * and presets from the sweep, the prediction and measurement of our file, measured baselines, the
 * budget. Marks carry <title>s; colours come from the page's style sheet. Draws what there is. */
void om_chart_size_quality(om_buf *out, const om_report_input *in, const om_chart_layout *layout);

#endif
