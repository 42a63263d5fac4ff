/* Uses what Optimum needs of llama.cpp and older or other versions lack; compiled and linked, not
 * run. */
#include <stddef.h>

#include <ggml.h>
#include <gguf.h>
#include <llama.h>

int main(void) {
    struct llama_model_params model = llama_model_default_params();
    struct llama_context_params context = llama_context_default_params();
    model.load_mode = LLAMA_LOAD_MODE_MMAP;
    model.use_extra_bufts = false;
    model.no_alloc = true;
    context.cb_eval = NULL;
    context.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    return (int) ggml_quantize_chunk(GGML_TYPE_Q4_K, NULL, NULL, 0, 0, 256, NULL) +
           (int) gguf_get_n_kv(gguf_init_empty()) + (int) sizeof model + (int) sizeof context;
}
