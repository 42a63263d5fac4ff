/* Any bytes as eval.json: read, and when they pass, write and read again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "eval/evaluation_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const om_evaluation *e) {
    om_evaluation *again = NULL;
    om_error err = { 0 };
    om_json *doc = om_evaluation_to_json(e);
    char *text = doc != NULL ? om_json_dump(doc) : NULL;
    if (text != NULL && (om_evaluation_parse(&again, text, strlen(text), "again", &err) != OM_OK ||
                         again->tokens != e->tokens || again->kld_mean != e->kld_mean ||
                         memcmp(&again->routing, &e->routing, sizeof(e->routing)) != 0 ||
                         strcmp(again->label, e->label) != 0)) {
        abort();
    }
    om_evaluation_free(again);
    om_free(text);
    om_json_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_evaluation *e = NULL;
    om_error err = { 0 };
    const om_status status = om_evaluation_parse(&e, (const char *) data, size, "fuzz", &err);
    if ((status == OM_OK) != (e != NULL) || (status != OM_OK && err.text[0] == '\0')) {
        abort();
    }
    if (status == OM_OK) {
        use(e);
    }
    om_evaluation_free(e);
    return 0;
}
