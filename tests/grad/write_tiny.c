/* A tiny random model, of mixtures with experts enough that some see few tokens or none.
 *
 *     write_tiny ARCH f32|bf16 OUT.gguf N_LAYER [tied]
 *
 * ARCH is one of tiny_model.h, or "mixtral" (llama with experts), or "dots1-groups" (the choice is
 * among the experts of the best groups). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_model.h"

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: write_tiny ARCH f32|bf16 OUT.gguf N_LAYER [tied]\n");
        return 2;
    }
    const bool mixtral = strcmp(argv[1], "mixtral") == 0;
    const bool groups = strcmp(argv[1], "dots1-groups") == 0;
    const bool mixture = mixtral || groups || strstr(argv[1], "moe") != NULL ||
                         strcmp(argv[1], "gpt-oss") == 0 || strcmp(argv[1], "dots1") == 0;
    om_tiny_model_write_with(
        argv[3],
        &(om_tiny_options){ .arch = mixtral  ? "llama"
                                    : groups ? "dots1"
                                             : argv[1],
                            .type = strcmp(argv[2], "bf16") == 0 ? GGML_TYPE_BF16 : GGML_TYPE_F32,
                            .n_layer = (int) strtol(argv[4], NULL, 10),
                            .n_embd = 128,
                            .n_ff = 192,
                            .n_expert = mixture ? 16 : 0,
                            .n_expert_used = 3,
                            .n_expert_groups = groups ? 4 : 0,
                            .tied = argc == 6 });
    return 0;
}
