/* The JSON files of a run -> one HTML file.
 *
 * template.html holds style and skeleton and is embedded at build time; each {{name}} in it is
 * filled by one function of sections.h. Filled text is never scanned again, so nothing in a model's
 * metadata can act as a placeholder. The page needs no network and no script to be complete, holds
 * no path of the machine it was made on, and no clock: equal inputs give equal bytes.
 */
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "report/sections.h"
#include "report/verdict.h"

extern const unsigned char om_report_template[];
extern const size_t om_report_template_size;

typedef struct section {
    const char *name;
    void (*fill)(om_buf *out, const om_report_input *in);
} section;

static const section sections[] = {
    { "title", om_section_title },
    { "model", om_section_model },
    { "subtitle", om_section_subtitle },
    { "verdict_class", om_section_verdict_class },
    { "headline", om_section_headline },
    { "tiles", om_section_tiles },
    { "quality_intro", om_section_quality_intro },
    { "chart", om_section_chart },
    { "comparison", om_section_comparison },
    { "routing", om_section_routing },
    { "decided_intro", om_section_decided_intro },
    { "mix", om_section_mix },
    { "heatmaps", om_section_heatmaps },
    { "experts", om_section_experts },
    { "predicted", om_section_predicted },
    { "tensors_intro", om_section_tensors_intro },
    { "tensors", om_section_tensors },
    { "facts", om_section_facts },
    { "footer", om_section_footer },
};

static const section *find_section(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        if (strlen(sections[i].name) == n && memcmp(sections[i].name, name, n) == 0) {
            return &sections[i];
        }
    }
    return NULL;
}

static om_status fill_template(om_buf *out, const om_report_input *in, om_error *err) {
    const char *at = (const char *) om_report_template;
    const char *end = at + om_report_template_size;
    while (at < end) {
        const char *open = strstr(at, "{{");
        const char *close = open ? strstr(open, "}}") : NULL;
        if (!close) {
            om_buf_add(out, at, (size_t) (end - at));
            break;
        }
        om_buf_add(out, at, (size_t) (open - at));
        const section *s = find_section(open + 2, (size_t) (close - open) - 2);
        if (!s) {
            return om_fail(err, OM_E_INTERNAL, "template.html: no section called \"%.*s\"",
                           (int) (close - open) - 2, open + 2);
        }
        s->fill(out, in);
        at = close + 2;
    }
    return out->failed ? om_fail_nomem(err, out->len) : OM_OK;
}

static om_status make_result(om_result *out, const om_report_input *in,
                             const om_report_options *options, om_error *err) {
    om_status status = OM_OK;
    om_result result = { 0 };
    om_buf text = { 0 };
    om_json *doc = om_json_new_document("optimum.report/1");
    om_json_set_str(doc, "report", options->out);
    om_json_set_i64(doc, "bytes", in->allocation->bytes);
    om_json_set_f64(doc, "predicted_nats", in->allocation->predicted_nats);
    if (in->eval) {
        const om_verdict v = om_verdict_of(in->eval, in->baselines, in->n_baselines);
        om_json_set_f64(doc, "kld_mean", in->eval->kld_mean);
        om_json_set_f64(doc, "kld_stderr", in->eval->kld_stderr);
        om_json_set_str(doc, "verdict", om_verdict_name(v.kind));
        if (v.i_rival >= 0) {
            om_json_set_str(doc, "rival", om_evaluation_name(in->baselines[v.i_rival]));
            om_json_set_f64(doc, "ratio", v.ratio);
        }
    }
    om_report_headline_text(&text, in);
    om_buf_printf(&text, "\n%s\n", options->out);
    result.json = om_json_dump(doc);
    result.text = om_buf_take(&text);
    if (!result.json || !result.text) {
        OM_TRY(om_fail_nomem(err, 0));
    }
    *out = result;
    result = (om_result){ 0 };
out:
    om_result_release(&result);
    om_buf_release(&text);
    om_json_free(doc);
    return status;
}

om_status om_report(om_result *out, const om_report_options *options, const om_env *env,
                    om_error *err) {
    om_status status = OM_OK;
    om_report_input in = { 0 };
    om_buf html = { 0 };
    if (!options->profile || !options->allocation || !options->out) {
        OM_TRY(
            om_fail(err, OM_E_ARG, "a report needs a profile, an allocation and an output file"));
    }
    const char *const inputs[] = { options->profile, options->allocation, options->eval,
                                   options->sweep };
    OM_TRY(om_file_check_output(options->out, inputs, 4, err));
    OM_TRY(om_file_check_output(options->out, options->baselines, options->n_baselines, err));
    OM_TRY(om_report_input_read(&in, options, err));
    OM_TRY(om_check_cancel(env, err));
    OM_TRY(fill_template(&html, &in, err));
    OM_TRY(om_file_write(options->out, html.data, html.len, err));
    OM_TRY(make_result(out, &in, options, err));
out:
    om_buf_release(&html);
    om_report_input_release(&in);
    if (status != OM_OK) {
        return om_error_context(err, "report");
    }
    return status;
}
