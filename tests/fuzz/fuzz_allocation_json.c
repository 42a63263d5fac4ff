/* Any bytes as allocation.json: read, and when they pass, look every tensor up and write it again.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/allocation.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was read can be written and read again, the same. */
static void use(const om_allocation *a) {
    om_allocation *again = NULL;
    om_error err = { 0 };
    for (int i = 0; i < a->n_tensors; i++) {
        if (om_allocation_find(a, a->tensors[i].name) != a->tensors[i].format) {
            abort();
        }
    }
    om_json *doc = om_allocation_json(a);
    char *text = om_json_dump(doc);
    if (text != NULL) {
        if (om_allocation_parse(&again, text, strlen(text), "again", &err) != OM_OK ||
            again->n_tensors != a->n_tensors || again->seed != a->seed ||
            again->n_banked != a->n_banked || again->bytes != a->bytes) {
            abort();
        }
    }
    om_allocation_free(again);
    om_free(text);
    om_json_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_allocation *a = NULL;
    om_error err = { 0 };
    om_status status = om_allocation_parse(&a, (const char *) data, size, "fuzz", &err);
    if ((status == OM_OK) != (a != NULL) || (status != OM_OK && err.text[0] == '\0')) {
        abort();
    }
    if (status == OM_OK) {
        use(a);
    }
    om_allocation_free(a);
    return 0;
}
