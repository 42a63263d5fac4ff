/* The header of a safetensors file to write. The data follows it without gaps, in the order of the
 * tensors, so that the header is all that must be known beforehand. */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/safetensors_file.h"

/* Bytes of a tensor; false: of a dtype that is not written, or no size that a file can have. */
static bool tensor_bytes(int64_t *out, const om_st_tensor *t) {
    int64_t bytes = om_st_dtype_bytes(t->dtype);
    if (bytes == 0 || t->n_dims < 0 || t->n_dims > OM_ST_MAX_DIMS) {
        return false;
    }
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] < 0 || (t->shape[i] > 0 && bytes > INT64_MAX / t->shape[i])) {
            return false;
        }
        bytes *= t->shape[i];
    }
    *out = bytes;
    return true;
}

static om_status put_tensor(om_buf *b, int64_t *offset, const om_st_tensor *t, om_error *err) {
    int64_t bytes = 0;
    if (!tensor_bytes(&bytes, t) || *offset > INT64_MAX - bytes) {
        return om_fail(err, OM_E_INTERNAL, "tensor \"%.100s\" cannot be written to safetensors",
                       t->name);
    }
    om_json_put_str(b, t->name);
    om_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", om_st_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims; i++) {
        om_buf_printf(b, "%s%" PRId64, i == 0 ? "" : ",", t->shape[i]);
    }
    om_buf_printf(b, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", *offset, *offset + bytes);
    *offset += bytes;
    return OM_OK;
}

static void put_metadata(om_buf *b, const char *const (*metadata)[2], int n) {
    om_buf_puts(b, "\"__metadata__\":{");
    for (int i = 0; i < n; i++) {
        om_buf_puts(b, i == 0 ? "" : ",");
        om_json_put_str(b, metadata[i][0]);
        om_buf_puts(b, ":");
        om_json_put_str(b, metadata[i][1]);
    }
    om_buf_puts(b, "}");
}

/* Blanks up to `pad_to` bytes in all (0: to a multiple of 8), and the length of the JSON in front.
 */
static om_status close_header(om_buf *b, size_t pad_to, om_error *err) {
    const size_t least = (b->len + 7) / 8 * 8;
    const size_t wanted = pad_to == 0 ? least : pad_to;
    if (wanted % 8 != 0 || wanted < least || wanted - OM_ST_LENGTH_BYTES > OM_ST_MAX_HEADER) {
        return om_fail(err, OM_E_INTERNAL,
                       "a safetensors header of %zu bytes does not fit %zu (at most %d)", least,
                       wanted, OM_ST_MAX_HEADER + OM_ST_LENGTH_BYTES);
    }
    while (b->len < wanted && !b->failed) {
        om_buf_puts(b, " ");
    }
    if (b->failed) {
        return om_fail_nomem(err, wanted);
    }
    const uint64_t n = wanted - OM_ST_LENGTH_BYTES;
    for (int i = 0; i < OM_ST_LENGTH_BYTES; i++) {
        b->data[i] = (char) (unsigned char) (n >> (8 * i));
    }
    return OM_OK;
}

om_status om_st_header(unsigned char **out, size_t *size, const om_st_tensor *tensors, int n,
                       const char *const (*metadata)[2], int n_metadata, size_t pad_to,
                       om_error *err) {
    om_status status = OM_OK;
    om_buf b = { 0 };
    int64_t offset = 0;
    om_buf_add(&b, "\0\0\0\0\0\0\0", OM_ST_LENGTH_BYTES);
    om_buf_puts(&b, "{");
    if (n_metadata > 0) {
        put_metadata(&b, metadata, n_metadata);
    }
    for (int i = 0; i < n; i++) {
        om_buf_puts(&b, i == 0 && n_metadata <= 0 ? "" : ",");
        OM_TRY(put_tensor(&b, &offset, &tensors[i], err));
    }
    om_buf_puts(&b, "}");
    if (b.failed) {
        status = om_fail_nomem(err, b.len);
        goto out;
    }
    OM_TRY(close_header(&b, pad_to, err));
    *size = b.len;
    *out = (unsigned char *) om_buf_take(&b);
out:
    om_buf_release(&b);
    return status;
}
