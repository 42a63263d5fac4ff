/* ARCH and TYPE into a tiny random model: write_tiny ARCH f32|bf16 OUT.gguf N_LAYER [tied] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_model.h"

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: write_tiny ARCH f32|bf16 OUT.gguf N_LAYER [tied]\n");
        return 2;
    }
    const enum ggml_type type = strcmp(argv[2], "bf16") == 0 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
    om_tiny_model_write_with(argv[3],
                             &(om_tiny_options){ .arch = argv[1],
                                                 .type = type,
                                                 .n_layer = (int) strtol(argv[4], NULL, 10),
                                                 .n_embd = 128,
                                                 .n_ff = 192,
                                                 .tied = argc == 6 });
    return 0;
}
