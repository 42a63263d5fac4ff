/* Any bytes as a safetensors file: open, use every tensor to its last byte, and write the header of
 * the same tensors again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

static void use_tensor(const om_safetensors *st, const om_st_tensor *t) {
    const int width = om_st_dtype_bytes(t->dtype);
    float value[4];
    /* With a name that two tensors share, this would be the other one. */
    require(om_safetensors_find(st, t->name) == t);
    require(t->bytes >= 0 && t->bytes <= om_safetensors_shard_bytes(st, t->shard));
    unsigned sum = 0;
    for (int64_t i = 0; i < t->bytes; i++) {
        sum += t->data[i];
    }
    require(sum <= 255u * (uint64_t) t->bytes);
    if (width > 0) {
        int64_t elements = 1; /* cannot wrap: the reader multiplied the dimensions with checks */
        for (int i = 0; i < t->n_dims; i++) {
            elements *= t->shape[i];
        }
        require(elements * width == t->bytes);
        const int64_t n = elements < 4 ? elements : 4;
        (void) om_st_to_f32(value, t->dtype, t->data + t->bytes - n * width, n);
    }
}

/* What was written must be read as the same tensors. In the order of names: the offsets differ. */
static void write_again(const om_safetensors *st) {
    om_error err = { 0 };
    const int n = om_safetensors_n(st);
    int64_t bytes = 0;
    om_st_tensor *all = om_calloc((size_t) n, sizeof *all);
    unsigned char *header = NULL, *file = NULL;
    om_safetensors *again = NULL;
    size_t header_bytes = 0;
    bool writable = all != NULL;
    for (int i = 0; i < n && writable; i++) {
        all[i] = *om_safetensors_at(st, i);
        bytes += all[i].bytes;
        writable = all[i].dtype != OM_ST_OTHER;
    }
    if (!writable) {
        om_free(all);
        return;
    }
    require(om_st_header(&header, &header_bytes, all, n, NULL, 0, 0, &err) == OM_OK);
    file = om_calloc(header_bytes + (size_t) bytes, 1);
    require(file != NULL);
    memcpy(file, header, header_bytes);
    require(om_safetensors_parse(&again, file, header_bytes + (size_t) bytes, "again", &err) ==
            OM_OK);
    require(om_safetensors_n(again) == n);
    for (int i = 0; i < n; i++) {
        const om_st_tensor *t = om_safetensors_at(again, i);
        require(strcmp(t->name, all[i].name) == 0 && t->dtype == all[i].dtype &&
                t->n_dims == all[i].n_dims && t->bytes == all[i].bytes &&
                memcmp(t->shape, all[i].shape, sizeof t->shape) == 0);
    }
    om_safetensors_free(again);
    om_free(file);
    om_free(header);
    om_free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    om_safetensors *st = NULL;
    om_error err = { 0 };
    uint8_t *copy = malloc(size > 0 ? size : 1); /* no byte of room: sanitizers see every overrun */
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    const om_status status = om_safetensors_parse(&st, copy, size, "input", &err);
    if (status == OM_OK) {
        for (int i = 0; i < om_safetensors_n(st); i++) {
            use_tensor(st, om_safetensors_at(st, i));
        }
        (void) om_safetensors_metadata(st, "format");
        write_again(st);
    } else {
        require(err.text[0] != '\0' && st == NULL); /* says what is wrong, leaves nothing behind */
    }
    om_safetensors_free(st);
    free(copy);
    return 0;
}
