/* hf_to_gguf DIRECTORY OUT.gguf [LIKE.gguf]: the library's conversion, for the script beside this.
 */
#include <stdio.h>

#include "hf/to_gguf.h"

int main(int argc, char **argv) {
    om_error err = { 0 };
    om_hf *hf = NULL;
    om_model *like = NULL;
    om_status status = OM_OK;
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: hf_to_gguf DIRECTORY OUT.gguf [LIKE.gguf]\n");
        return 2;
    }
    OM_TRY(om_hf_open(&hf, argv[1], &err));
    if (argc == 4) {
        OM_TRY(om_model_open(&like, argv[3], &err));
        OM_TRY(om_hf_to_gguf_like(hf, like, argv[2], NULL, &err));
    } else {
        OM_TRY(om_hf_to_gguf(hf, argv[2], NULL, &err));
    }
out:
    if (status != OM_OK) {
        fprintf(stderr, "%s: %s\n", om_status_name(status), err.text);
    }
    om_model_free(like);
    om_hf_free(hf);
    return status == OM_OK ? 0 : 1;
}
