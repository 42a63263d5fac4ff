/* The parts of a report: each function fills one placeholder of template.html. */
#ifndef OM_REPORT_SECTIONS_H
#define OM_REPORT_SECTIONS_H

#include "base/buf.h"
#include "report/input.h"

/* Lead: what it is, how good, compared with what. */
void om_section_title(om_buf *out, const om_report_input *in);
void om_section_model(om_buf *out, const om_report_input *in);
void om_section_subtitle(om_buf *out, const om_report_input *in);
void om_section_verdict_class(om_buf *out, const om_report_input *in);
void om_section_headline(om_buf *out, const om_report_input *in);
void om_section_tiles(om_buf *out, const om_report_input *in);

/* Size against quality. */
void om_section_quality_intro(om_buf *out, const om_report_input *in);
void om_section_chart(om_buf *out, const om_report_input *in);
void om_section_comparison(om_buf *out, const om_report_input *in);
/** Of mixtures whose evaluation compared routing; else nothing. */
void om_section_routing(om_buf *out, const om_report_input *in);
void om_section_predicted(om_buf *out, const om_report_input *in);

/* What was decided, tensor by tensor. */
void om_section_decided_intro(om_buf *out, const om_report_input *in);
void om_section_mix(om_buf *out, const om_report_input *in);
void om_section_heatmaps(om_buf *out, const om_report_input *in);
void om_section_tensors_intro(om_buf *out, const om_report_input *in);
void om_section_tensors(om_buf *out, const om_report_input *in);

/* The experts of a mixture: a whole section, or nothing. */
void om_section_experts(om_buf *out, const om_report_input *in);

/* What was run. */
void om_section_facts(om_buf *out, const om_report_input *in);
void om_section_footer(om_buf *out, const om_report_input *in);

/** "20.0 MB, KLD 0.0234 ± 0.0004 nats — 51 % of the KLD of Q3_K_M at the same size": plain text. */
void om_report_headline_text(om_buf *out, const om_report_input *in);

#endif
