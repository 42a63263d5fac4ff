/* Reads and writes the compact reference file.
 *
 *   offset              content
 *   0                   header, 512 bytes, fields little-endian at fixed offsets (put_header)
 *   512                 tokens [B, T] i32
 *   right after         numbers of the layers with experts [L'] i32, in version 002
 *   next multiple of 64 bias [V] f32, when there is one
 *   next multiple of 4096 weight [V, C] in its source type
 *   next multiple of 4096 for each window hidden states [T-1, C] f32 and, in version 002, choices
 *                         [L', T-1, K] u16, padded to a multiple of 4 bytes
 *
 * F32 because F16 was measured and is not enough: with a BF16 head, which rounds its input itself,
 * the second rounding costs 3e-6 nats, as much as a single well quantized tensor.
 *
 * No offset is stored: all follow from the counts, and the file's size must equal their sum, so
 * a damaged or hostile header cannot point outside of the file. Arrays are stored in the machine's
 * byte order; the header holds a mark that tells when it is another one.
 */
#include "eval/refile.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { HEADER_BYTES = 512, PAGE = 4096 };
enum { MAX_WINDOWS = 1 << 24, MAX_CTX = 1 << 20, MAX_VOCAB = 1 << 23, MAX_EMBD = 1 << 18 };

static const char magic[9] = "OMREF001", magic_choices[9] = "OMREF002";
static const uint32_t byte_order_mark = 0x01020304u;

typedef struct layout {
    int64_t tokens, layers, bias, weight, windows, end; /* offsets in bytes */
    int64_t weight_bytes, hidden_bytes, choice_bytes;   /* the last two of one window */
} layout;

static int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

static bool choices_fit(const om_refile_header *h) {
    if (h->n_layers == 0) {
        return h->n_experts == 0 && h->n_used == 0;
    }
    return h->n_layers > 0 && h->n_layers <= OM_ROUTING_MAX_LAYERS && h->n_experts > 0 &&
           h->n_experts <= OM_ROUTING_MAX_EXPERTS && h->n_used > 0 && h->n_used <= h->n_experts;
}

/* false: counts out of range. The limits keep every product below 2^63 except the last, which is
 * checked in double. */
static bool lay_out(layout *out, const om_refile_header *h) {
    if (h->n_windows < 1 || h->n_windows > MAX_WINDOWS || h->n_ctx < 2 || h->n_ctx > MAX_CTX ||
        h->n_vocab < 1 || h->n_vocab > MAX_VOCAB || h->n_embd < 1 || h->n_embd > MAX_EMBD ||
        h->format == NULL || !choices_fit(h)) {
        return false;
    }
    const int64_t n_rows = h->n_ctx - 1;
    out->hidden_bytes = n_rows * h->n_embd * 4;
    out->choice_bytes = round_up(n_rows * h->n_layers * h->n_used * 2, 4);
    if ((double) h->n_windows * (double) (out->hidden_bytes + out->choice_bytes) > 4e18) {
        return false;
    }
    out->weight_bytes = om_format_size(h->format, h->n_embd, h->n_vocab);
    if (out->weight_bytes <= 0) {
        return false;
    }
    out->tokens = HEADER_BYTES;
    out->layers = out->tokens + (int64_t) h->n_windows * h->n_ctx * 4;
    out->bias = round_up(out->layers + (int64_t) h->n_layers * 4, 64);
    out->weight = round_up(out->bias + (h->has_bias ? (int64_t) h->n_vocab * 4 : 0), PAGE);
    out->windows = round_up(out->weight + out->weight_bytes, PAGE);
    out->end = out->windows + h->n_windows * (out->hidden_bytes + out->choice_bytes);
    return true;
}

int64_t om_refile_bytes(const om_refile_header *h) {
    layout l;
    return lay_out(&l, h) ? l.end : -1;
}

/* ---- header ---- */

static void put_u32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) {
        p[i] = (unsigned char) (v >> (8 * i));
    }
}

static uint32_t get_u32(const unsigned char *p) {
    return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

static void put_f32(unsigned char *p, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    put_u32(p, bits);
}

static float get_f32(const unsigned char *p) {
    const uint32_t bits = get_u32(p);
    float v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static void put_header(unsigned char *p, const om_refile_header *h) {
    memset(p, 0, HEADER_BYTES);
    memcpy(p, h->n_layers > 0 ? magic_choices : magic, 8);
    memcpy(p + 8, &byte_order_mark, 4); /* in the machine's order, on purpose */
    put_u32(p + 12, (uint32_t) h->bos | (uint32_t) h->has_bias << 1);
    put_u32(p + 16, (uint32_t) h->n_windows);
    put_u32(p + 20, (uint32_t) h->n_ctx);
    put_u32(p + 24, (uint32_t) h->n_vocab);
    put_u32(p + 28, (uint32_t) h->n_embd);
    put_u32(p + 32, (uint32_t) h->format->ggml_type);
    put_f32(p + 36, h->scale);
    put_f32(p + 40, h->softcap);
    put_u32(p + 44, (uint32_t) h->n_experts);
    put_u32(p + 48, (uint32_t) h->vocab_hash);
    put_u32(p + 52, (uint32_t) (h->vocab_hash >> 32));
    put_u32(p + 56, (uint32_t) h->n_used);
    put_u32(p + 60, (uint32_t) h->n_layers);
    memcpy(p + 64, h->model_sha256, 64);
    memcpy(p + 128, h->text_sha256, 64);
}

static bool get_digest(char hex[65], const unsigned char *p) {
    memcpy(hex, p, 64);
    hex[64] = '\0';
    return om_is_sha256(hex, 64);
}

/* Counts above INT_MAX become -1, which lay_out refuses. */
static int get_count(const unsigned char *p) {
    const uint32_t v = get_u32(p);
    return v <= INT32_MAX ? (int) v : -1;
}

static bool get_choices(om_refile_header *h, const unsigned char *p) {
    h->n_experts = get_count(p + 44);
    h->n_used = get_count(p + 56);
    h->n_layers = get_count(p + 60);
    return h->n_layers > 0;
}

static bool get_header(om_refile_header *h, const unsigned char *p) {
    const uint32_t flags = get_u32(p + 12), type = get_u32(p + 32);
    h->bos = flags & 1;
    h->has_bias = flags >> 1 & 1;
    h->n_windows = get_count(p + 16);
    h->n_ctx = get_count(p + 20);
    h->n_vocab = get_count(p + 24);
    h->n_embd = get_count(p + 28);
    h->format = type < 1000 ? om_format_by_type((int) type) : NULL;
    h->scale = get_f32(p + 36);
    h->softcap = get_f32(p + 40);
    h->vocab_hash = (uint64_t) get_u32(p + 48) | (uint64_t) get_u32(p + 52) << 32;
    if (memcmp(p, magic_choices, 8) == 0 && !get_choices(h, p)) {
        return false;
    }
    return flags < 4 && isfinite(h->scale) && h->scale > 0.0f && isfinite(h->softcap) &&
           h->softcap >= 0.0f && get_digest(h->model_sha256, p + 64) &&
           get_digest(h->text_sha256, p + 128);
}

/* ---- reading ---- */

bool om_refile_is(const char *path) {
    om_map map = { 0 };
    om_error ignored = { 0 };
    if (om_map_open(&map, path, &ignored) != OM_OK) {
        return false;
    }
    const bool is = map.size >= 5 && memcmp(map.data, magic, 5) == 0; /* any version */
    om_map_close(&map);
    return is;
}

/* Numbers of layers ascend, experts exist. */
static om_status check_choices(const om_refile *f, const char *path, om_error *err) {
    const om_refile_header *h = &f->header;
    for (int l = 0; l < h->n_layers; l++) {
        if (f->layers[l] < 0 || f->layers[l] > INT16_MAX ||
            (l > 0 && f->layers[l] <= f->layers[l - 1])) {
            return om_fail(err, OM_E_FORMAT, "%s: number %d of the layers with experts is %d", path,
                           l, (int) f->layers[l]);
        }
    }
    const int64_t n = (int64_t) h->n_layers * (h->n_ctx - 1) * h->n_used;
    for (int w = 0; w < h->n_windows && n > 0; w++) {
        const uint16_t *ids = om_refile_choices(f, w, 0).ids;
        for (int64_t i = 0; i < n; i++) {
            if (ids[i] >= h->n_experts) {
                return om_fail(err, OM_E_FORMAT, "%s: window %d chose expert %d, there are %d",
                               path, w, (int) ids[i], h->n_experts);
            }
        }
    }
    return OM_OK;
}

static om_status check(om_refile *f, const char *path, om_error *err) {
    uint32_t mark = 0;
    if (f->map.size < HEADER_BYTES || memcmp(f->map.data, magic, 5) != 0) {
        return om_fail(err, OM_E_FORMAT, "%s: expected a reference file (OMREF001 or OMREF002)",
                       path);
    }
    if (memcmp(f->map.data, magic, 8) != 0 && memcmp(f->map.data, magic_choices, 8) != 0) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected a reference file of version 001 or 002, found %.3s; write it "
                       "again with --reference-out",
                       path, (const char *) f->map.data + 5);
    }
    memcpy(&mark, f->map.data + 8, 4);
    if (mark != byte_order_mark) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: written on a machine of another byte order; write it again here", path);
    }
    layout l;
    if (!get_header(&f->header, f->map.data) || !lay_out(&l, &f->header)) {
        return om_fail(err, OM_E_FORMAT, "%s: the header of this reference file is damaged", path);
    }
    if ((uint64_t) l.end != (uint64_t) f->map.size) {
        return om_fail(err, OM_E_FORMAT,
                       "%s: expected %lld bytes by the header, found %lld: truncated or damaged; "
                       "write it again with --reference-out",
                       path, (long long) l.end, (long long) f->map.size);
    }
    const om_refile_header *h = &f->header;
    f->tokens = (const int32_t *) (const void *) (f->map.data + l.tokens);
    f->layers = h->n_layers > 0 ? (const int32_t *) (const void *) (f->map.data + l.layers) : NULL;
    f->bias = h->has_bias ? (const float *) (const void *) (f->map.data + l.bias) : NULL;
    f->weight = f->map.data + l.weight;
    f->windows = f->map.data + l.windows;
    f->window_bytes = l.hidden_bytes + l.choice_bytes;
    for (int64_t i = 0; i < (int64_t) h->n_windows * h->n_ctx; i++) {
        if (f->tokens[i] < 0 || f->tokens[i] >= h->n_vocab) {
            return om_fail(err, OM_E_FORMAT,
                           "%s: token %lld is %d, outside of the vocabulary of %d", path,
                           (long long) i, (int) f->tokens[i], h->n_vocab);
        }
    }
    return check_choices(f, path, err);
}

om_status om_refile_parse(om_refile *out, const om_map *bytes, const char *name, om_error *err) {
    om_refile f = { .map = *bytes };
    const om_status status = check(&f, name, err);
    if (status == OM_OK) {
        *out = f;
    }
    return status;
}

om_status om_refile_open(om_refile *out, const char *path, om_error *err) {
    om_status status = OM_OK;
    om_map map = { 0 };
    OM_TRY(om_map_open(&map, path, err));
    OM_TRY(om_refile_parse(out, &map, path, err));
    return OM_OK;
out:
    om_map_close(&map);
    return status;
}

void om_refile_close(om_refile *f) {
    om_map_close(&f->map);
    *f = (om_refile){ 0 };
}

const float *om_refile_hidden(const om_refile *f, int window, int first) {
    const float *rows = (const float *) (const void *) (f->windows + window * f->window_bytes);
    return rows + (int64_t) first * f->header.n_embd;
}

om_choices om_refile_choices(const om_refile *f, int window, int first) {
    const om_refile_header *h = &f->header;
    if (h->n_layers == 0) {
        return (om_choices){ 0 };
    }
    const uint16_t *ids =
        (const uint16_t *) (const void *) om_refile_hidden(f, window, h->n_ctx - 1);
    return (om_choices){ .n_layers = h->n_layers,
                         .n_experts = h->n_experts,
                         .n_used = h->n_used,
                         .layers = f->layers,
                         .ids = ids + (int64_t) first * h->n_used,
                         .layer_stride = (int64_t) (h->n_ctx - 1) * h->n_used };
}

/* ---- writing ---- */

static om_status pad_to(om_atomic *a, int64_t *at, int64_t offset, om_error *err) {
    static const unsigned char zeros[PAGE];
    om_status status = OM_OK;
    OM_TRY(om_atomic_write(a, zeros, (size_t) (offset - *at), err));
    *at = offset;
out:
    return status;
}

om_status om_refile_begin(om_atomic *a, const om_refile_header *h, const char *path,
                          const int32_t *tokens, const int32_t *layers, const float *bias,
                          const void *weight, om_error *err) {
    om_status status = OM_OK;
    unsigned char head[HEADER_BYTES];
    layout l;
    if (!lay_out(&l, h)) {
        return om_fail(err, OM_E_UNSUPPORTED,
                       "this model or text is too large for a reference file");
    }
    const int64_t free_bytes = om_disk_free(path);
    if (free_bytes >= 0 && free_bytes < l.end) {
        return om_fail(err, OM_E_LIMIT,
                       "%s needs %.1f MB, the disk has %.1f MB free; use fewer chunks or another "
                       "place",
                       path, (double) l.end / 1e6, (double) free_bytes / 1e6);
    }
    put_header(head, h);
    const size_t n_tokens = (size_t) h->n_windows * (size_t) h->n_ctx;
    OM_TRY(om_atomic_open(a, path, err));
    OM_TRY(om_atomic_write(a, head, HEADER_BYTES, err));
    OM_TRY(om_atomic_write(a, tokens, n_tokens * 4, err));
    OM_TRY(om_atomic_write(a, layers, (size_t) h->n_layers * 4, err));
    int64_t at = l.layers + (int64_t) h->n_layers * 4;
    OM_TRY(pad_to(a, &at, l.bias, err));
    if (h->has_bias) {
        OM_TRY(om_atomic_write(a, bias, (size_t) h->n_vocab * 4, err));
        at += (int64_t) h->n_vocab * 4;
    }
    OM_TRY(pad_to(a, &at, l.weight, err));
    OM_TRY(om_atomic_write(a, weight, (size_t) l.weight_bytes, err));
    at += l.weight_bytes;
    OM_TRY(pad_to(a, &at, l.windows, err));
out:
    return status;
}

om_status om_refile_add(om_atomic *a, const om_refile_header *h, const float *hidden, int n,
                        om_error *err) {
    return om_atomic_write(a, hidden, (size_t) n * (size_t) h->n_embd * sizeof(float), err);
}

om_status om_refile_add_choices(om_atomic *a, const om_refile_header *h, const uint16_t *ids,
                                om_error *err) {
    static const unsigned char zeros[4];
    om_status status = OM_OK;
    layout l;
    if (h->n_layers == 0 || !lay_out(&l, h)) {
        return OM_OK;
    }
    const int64_t bytes = (int64_t) h->n_layers * (h->n_ctx - 1) * h->n_used * 2;
    OM_TRY(om_atomic_write(a, ids, (size_t) bytes, err));
    OM_TRY(om_atomic_write(a, zeros, (size_t) (l.choice_bytes - bytes), err));
out:
    return status;
}
