/* A directory is converted once: its digest is kept in the GGUF, and a later call finds it there.
 */
#include "profile/source.h"

#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hf/to_gguf.h"

/* Does `path` hold the GGUF of this directory? Errors: OM_E_ARG when it holds something else. */
static om_status look(bool *found, const om_hf *hf, const char *path, const om_env *env,
                      om_error *err) {
    om_status status = OM_OK;
    om_model *model = NULL;
    om_error why = { 0 };
    char sha256[65];
    *found = false;
    if (!om_file_exists(path)) {
        return OM_OK;
    }
    OM_TRY(om_hf_gguf_sha256(sha256, hf, env, err));
    const char *made_from = "";
    if (om_model_open(&model, path, &why) == OM_OK) {
        made_from = om_model_str(model, OM_HF_SOURCE_KEY, "");
    }
    if (strcmp(made_from, sha256) != 0) {
        OM_TRY(om_fail(err, OM_E_ARG,
                       "%s is there already and is not the GGUF of %s as it is now: remove it, or "
                       "let the GGUF be written elsewhere (profile --gguf-out FILE, run -o DIR)",
                       path, om_hf_path(hf)));
    }
    *found = true;
out:
    om_model_free(model);
    return status;
}

om_status om_profile_source(char **gguf, const char *model, const char *to, const om_env *env,
                            om_error *err) {
    om_status status = OM_OK;
    om_hf *hf = NULL;
    bool found = false;
    const bool is_directory = om_hf_is_directory(model);
    char *path = om_strdup(is_directory ? to : model);
    if (path == NULL) {
        OM_TRY(om_fail_nomem(err, strlen(model)));
    }
    if (is_directory) {
        OM_TRY(om_hf_open(&hf, model, err));
        OM_TRY(look(&found, hf, path, env, err));
        if (found) {
            om_log(env, OM_LOG_INFO, "%s: kept, it is the GGUF of %s", path, model);
        } else {
            om_log(env, OM_LOG_INFO, "making the GGUF of %s: %s", model, path);
            OM_TRY(om_hf_to_gguf(hf, false, path, env, err));
        }
    }
    *gguf = path;
    path = NULL;
out:
    om_hf_free(hf);
    om_free(path);
    return status;
}
