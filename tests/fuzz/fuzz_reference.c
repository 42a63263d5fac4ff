/* Any bytes as a reference file (OMREF): open, and when they pass, compute logits and compare the
 * choices of experts with themselves in every window. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "eval/head.h"
#include "eval/refile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A window against itself agrees, whatever the file says. */
static void use_choices(const om_refile *f) {
    const om_refile_header *h = &f->header;
    om_agreement a = { 0 };
    for (int w = 0; w < h->n_windows && w < 4; w++) {
        const om_choices c = om_refile_choices(f, w, 0);
        om_agreement_add(&a, &c, &c, 0, h->n_ctx - 1);
    }
    const om_routing r = om_agreement_summary(&a);
    if (r.n_layers != h->n_layers || (r.n_layers > 0 && r.agreement != 1.0)) {
        abort();
    }
}

static void use(const om_refile *f) {
    const om_refile_header *h = &f->header;
    om_error err = { 0 };
    om_head *head = NULL;
    const om_head_spec spec = {
        .n_embd = h->n_embd,
        .n_vocab = h->n_vocab,
        .format = h->format,
        .weight = f->weight,
        .bias = f->bias,
        .scale = h->scale,
        .softcap = h->softcap,
    };
    if (om_refile_bytes(h) != (int64_t) f->map.size) {
        abort();
    }
    if (om_head_new(&head, &spec, h->n_ctx, 1, &err) == OM_OK) {
        for (int w = 0; w < h->n_windows && w < 4; w++) {
            const float *logits = NULL;
            if (om_head_logits(&logits, head, om_refile_hidden(f, w, 0), h->n_ctx - 1, &err) !=
                    OM_OK &&
                err.text[0] == '\0') {
                abort();
            }
        }
    } else if (err.text[0] == '\0') {
        abort();
    }
    om_head_free(head);
    use_choices(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_refile f = { 0 };
    om_error err = { 0 };
    unsigned char *copy = om_alloc_aligned(size > 0 ? size : 1);
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    const om_status status =
        om_refile_parse(&f, &(om_map){ .data = copy, .size = size }, "fuzz", &err);
    if (status == OM_OK) {
        use(&f);
    } else if (err.text[0] == '\0') {
        abort();
    }
    om_free(copy);
    return 0;
}
