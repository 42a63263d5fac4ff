/* Directory -> temporary GGUF. */
#include "eval/unpack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hf/directory.h"
#include "hf/to_gguf.h"

/* Metadata (a tokenizer of a million tokens has less) and what a file system needs for itself. */
static const int64_t slack_bytes = (int64_t) 64 << 20;

/* ---- a place ---- */

static int64_t gguf_bytes(const om_hf *hf, bool f32) {
    int64_t bytes = slack_bytes;
    for (int i = 0; i < om_hf_n_tensors(hf); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(hf, i);
        const int64_t rows = om_hf_tensor_n_rows(t);
        const bool codes = t->format->mlx != OM_MLX_NONE;
        bytes += f32 || codes ? 4 * t->ne[0] * rows : om_format_size(t->format, t->ne[0], rows);
    }
    return bytes;
}

/* /tmp comes last: it may be memory. */
static om_status find_room(const char **out, int64_t need, const char *path, const char *scratch,
                           om_error *err) {
    const char *const places[] = { getenv("TMPDIR"), scratch, "/var/tmp", "/tmp" };
    char size[32];
    om_buf tried = { 0 };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *dir = places[i];
        if (dir == NULL || dir[0] == '\0' || access(dir, W_OK | X_OK) != 0) {
            continue;
        }
        const int64_t room = om_disk_free(dir);
        if (room < 0 || room >= need) { /* unknown: writing will tell */
            *out = dir;
            om_buf_release(&tried);
            return OM_OK;
        }
        om_buf_printf(&tried, "%s%s in %s", tried.len > 0 ? ", " : "",
                      om_format_bytes(size, (double) room, false), dir);
    }
    const om_status status =
        om_fail(err, OM_E_LIMIT,
                "%s must be written out as a GGUF of %s for llama.cpp, and there is no room for "
                "it: free are %s; name a folder with room in TMPDIR",
                path, om_format_bytes(size, (double) need, false),
                tried.len > 0 ? tried.data : "no folder that can be written");
    om_buf_release(&tried);
    return status;
}

/* A name for each kind: the same directory may be model and reference at once. */
static om_status name_temporary(char **out, const om_hf *hf, bool f32, const char *kind,
                                const char *scratch, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    const int64_t need = gguf_bytes(hf, f32);
    const char *dir = NULL;
    char key[65], name[64], size[32];
    OM_TRY(find_room(&dir, need, om_hf_path(hf), scratch, err));
    om_sha256_bytes(key, om_hf_path(hf), strlen(om_hf_path(hf)));
    snprintf(name, sizeof name, "optimum-%.12s-%s.gguf", key, kind);
    OM_TRY(om_temporary_new(out, dir, name, err));
    om_log(env, OM_LOG_INFO,
           "%s is written out for llama.cpp: a GGUF of %s in %s, removed at the end",
           om_hf_path(hf), om_format_bytes(size, (double) (need - slack_bytes), false), dir);
out:
    return status;
}

/* ---- the model ---- */

static om_status write_out(om_unpacked *u, const om_hf *hf, const om_unpack_options *o,
                           const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_model *like = NULL;
    const bool f32 = o->f32 || o->like != NULL;
    const char *kind = o->like != NULL ? "like" : f32 ? "f32" : "own";
    OM_TRY(name_temporary(&u->temporary, hf, f32, kind, o->scratch, env, err));
    if (o->like != NULL) {
        OM_TRY(om_model_open(&like, o->like, err));
        OM_TRY(om_hf_to_gguf_like(hf, like, u->temporary, env, err));
    } else {
        OM_TRY(om_hf_to_gguf(hf, f32, u->temporary, env, err));
    }
    OM_TRY(om_model_open(&u->model, u->temporary, err));
out:
    om_model_free(like);
    return status;
}

static om_status unpack(om_unpacked *u, const char *path, const om_unpack_options *o,
                        const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_hf *hf = NULL;
    OM_TRY(om_hf_open(&hf, path, err));
    u->container = OM_CONTAINER_MLX;
    u->bytes = om_safetensors_bytes(om_hf_safetensors(hf));
    u->params = om_hf_params(hf);
    if (!o->no_hash) {
        OM_TRY(om_hf_sha256(u->sha256, hf, env, err));
    }
    OM_TRY(write_out(u, hf, o, env, err));
out:
    om_hf_free(hf);
    return status;
}

static om_status open_gguf(om_unpacked *u, const char *path, const om_unpack_options *o,
                           const om_env *env, om_error *err) {
    om_status status = OM_OK;
    OM_TRY(om_model_open(&u->model, path, err));
    u->container = OM_CONTAINER_GGUF;
    u->bytes = om_model_file_bytes(u->model);
    u->params = om_model_params(u->model);
    if (!o->no_hash) {
        OM_TRY(om_model_sha256(u->sha256, u->model, env, err));
    }
out:
    return status;
}

om_status om_unpacked_open(om_unpacked *out, const char *path, const om_unpack_options *o,
                           const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_unpacked u = { 0 };
    memset(u.sha256, '0', 64);
    OM_TRY(om_hf_is_directory(path) ? unpack(&u, path, o, env, err)
                                    : open_gguf(&u, path, o, env, err));
    *out = u;
    u = (om_unpacked){ 0 };
out:
    om_unpacked_release(&u);
    return status;
}

void om_unpacked_release(om_unpacked *u) {
    om_model_free(u->model);
    om_temporary_remove(u->temporary);
    *u = (om_unpacked){ 0 };
}
