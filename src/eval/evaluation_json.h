/* The JSON document of an evaluation, for om_eval's result as well as for the file. */
#ifndef OM_EVAL_EVALUATION_JSON_H
#define OM_EVAL_EVALUATION_JSON_H

#include "base/json.h"
#include "eval/evaluation.h"

/** Owned (om_json_free); NULL when memory is short. */
om_json *om_evaluation_to_json(const om_evaluation *e);

#endif
