/* om_hf_open without the file system: for tests and fuzzing. */
#ifndef OM_HF_DIRECTORY_PARSE_H
#define OM_HF_DIRECTORY_PARSE_H

#include "hf/directory.h"

/** A directory from its two parts. Both are taken, also on failure. `path` is copied. */
om_status om_hf_assemble(om_hf **out, om_json *config, om_safetensors *st, const char *path,
                         om_error *err) OM_WARN_UNUSED;

#endif
