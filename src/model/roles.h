/* What a tensor is for, and whether llama.cpp allows it to be quantized. */
#ifndef OM_MODEL_ROLES_H
#define OM_MODEL_ROLES_H

#include <stdbool.h>
#include <stdint.h>

/** The role is the name without "blk.N." and ".weight": "attn_q", "ffn_down_exps", "token_embd",
 * "output". Copies at most 63 characters to role; *layer = N, or -1 outside of blocks. */
void om_tensor_role(char role[64], int *layer, const char *name);

/** llama-quantize's rule (docs/formats.md): a matrix called "….weight" that is not a norm, router,
 * convolution, position table … Everything else is copied as it is. n_dims counts dimensions larger
 * than 1 as ggml does (ggml_n_dims). */
bool om_tensor_may_quantize(const char *name, int n_dims);

/** Exceptions of single architectures to the rule above: true = copied as it is. */
bool om_tensor_arch_copies(const char *arch, const char *name);

/** Is it one matrix per expert ("…_exps.weight")? 3-D tensors of MLA are not. */
bool om_tensor_is_experts(const char *name);

#endif
