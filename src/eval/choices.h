/* Reads which experts were chosen from a graph while llama.cpp computes it. */
#ifndef OM_EVAL_CHOICES_H
#define OM_EVAL_CHOICES_H

#include <stdbool.h>

#include "base/error.h"
#include "eval/routing.h"
#include "model/gguf.h"

/** Does the model have stacks of experts? Only then is there anything to watch. */
bool om_choices_has_experts(const om_model *model);

typedef struct om_choice_watch om_choice_watch;

/** For graphs of at most n_block tokens. *out owned (om_choice_watch_free). env is copied. */
om_status om_choice_watch_new(om_choice_watch **out, int n_block, const om_env *env,
                              om_error *err) OM_WARN_UNUSED;
void om_choice_watch_free(om_choice_watch *w);

/** Before a graph of n tokens, of which [first_out, n) have logits. */
void om_choice_watch_begin(om_choice_watch *w, int n, int first_out);

/** What llama.cpp's evaluation callback does; node is a ggml_tensor. Asks for one product with a
 * stack in each layer and takes its third source, wherever that lives. */
bool om_choice_watch_see(om_choice_watch *w, const void *node, bool ask);

/** After the graph. A graph that does not say all that is needed gives no choices from then on, and
 * one warning; it is no error. Errors: OM_E_NOMEM. */
om_status om_choice_watch_end(om_choice_watch *w, om_error *err) OM_WARN_UNUSED;

/** Choices of the graph at least for the tokens with logits, borrowed until the next begin. */
om_choices om_choice_watch_get(const om_choice_watch *w);

#endif
