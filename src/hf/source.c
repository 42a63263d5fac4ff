/* Rows out of a directory: the place of each row (expert, halves, interleaving, llama.cpp's order),
 * then its numbers. Runs of rows that follow each other in the file are read in one go. */
#include "hf/source.h"

#include <math.h>
#include <string.h>

/* ---- where a row lies ---- */

/* Row of the Hugging Face matrix that llama.cpp has as row r. Its rotation of the Llama family
 * turns neighbours (2i, 2i+1) where Hugging Face turns (i, i + d/2), so the converter interleaves
 * the two halves of each head. */
static int64_t unpermute(int64_t r, int64_t head) {
    const int64_t within = r % head;
    return r - within + (within % 2) * (head / 2) + within / 2;
}

/* And back: where llama.cpp has row r. */
static int64_t permute(int64_t r, int64_t head) {
    const int64_t within = r % head, half = head / 2;
    return r - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

int64_t om_hf_source_gguf_row(const struct om_hf_source *s, int64_t row) {
    if (s->permuted_head == 0 || s->elements) {
        return row;
    }
    const int64_t within = row % s->rows;
    return row - within + permute(within, s->permuted_head);
}

/* Of one expert: row of the view -> row of the part. */
static int64_t place_of(const struct om_hf_source *s, om_hf_view view, int64_t row) {
    if (s->place != NULL) { /* a router: a row for each expert */
        return s->place[row];
    }
    if (view == OM_HF_GGUF && s->permuted_head > 0 && !s->elements) {
        row = unpermute(row, s->permuted_head);
    }
    switch (s->fold) {
    case OM_FOLD_SECOND:
        return row + s->rows;
    case OM_FOLD_EVEN:
        return 2 * row;
    case OM_FOLD_ODD:
        return 2 * row + 1;
    case OM_FOLD_NONE:
    case OM_FOLD_FIRST:
        break;
    }
    return row;
}

/* Rows that a part holds for each expert. */
static int64_t held_rows(const struct om_hf_source *s) {
    return s->fold == OM_FOLD_NONE ? s->rows : 2 * s->rows;
}

/* From a row of the tensor to the next one in the part. */
static int64_t step_of(const struct om_hf_source *s) {
    return s->fold == OM_FOLD_EVEN || s->fold == OM_FOLD_ODD ? 2 : 1;
}

typedef struct place {
    const om_hf_part *part;
    int64_t row; /* of the part, all its experts together */
} place;

static place find_place(const struct om_hf_source *s, om_hf_view view, int64_t row) {
    const int64_t expert = row / s->rows;
    const int64_t within = place_of(s, view, row % s->rows);
    if (s->n_parts > 1) {
        return (place){ &s->parts[expert], within };
    }
    return (place){ &s->parts[0], expert * held_rows(s) + within };
}

/* ---- the numbers of rows that follow each other in a part ---- */

static void read_dense(float *out, const struct om_hf_source *s, place p, int64_t n) {
    const int64_t bytes = s->n_in * om_st_dtype_bytes(s->dtype);
    (void) om_st_to_f32(out, s->dtype, p.part->weight->data + p.row * bytes, n * s->n_in);
}

/* A part [experts, n_in, columns]: a row of the tensor is a column, and the next one the column
 * after it, or after its neighbour when gate and up alternate. */
static void read_transposed(float *out, const struct om_hf_source *s, place p, int64_t n) {
    enum { CHUNK = 128 };
    float line[2 * CHUNK];
    const int64_t columns = held_rows(s), expert = p.row / columns, first = p.row % columns;
    const int64_t width = om_st_dtype_bytes(s->dtype), step = step_of(s);
    const unsigned char *data = p.part->weight->data + expert * s->n_in * columns * width;
    for (int64_t i = 0; i < s->n_in; i++) {
        for (int64_t at = 0; at < n; at += CHUNK) {
            const int64_t count = n - at < CHUNK ? n - at : CHUNK;
            (void) om_st_to_f32(line, s->dtype, data + (i * columns + first + at * step) * width,
                                (count - 1) * step + 1);
            for (int64_t j = 0; j < count; j++) {
                out[(at + j) * s->n_in + i] = line[j * step];
            }
        }
    }
}

static void read_fp8(float *out, const struct om_hf_source *s, place p, int64_t n) {
    const om_st_tensor *scales = p.part->scales;
    const int64_t width = om_st_dtype_bytes(scales->dtype);
    (void) om_st_to_f32(out, s->dtype, p.part->weight->data + p.row * s->n_in, n * s->n_in);
    for (int64_t r = 0; r < n; r++) {
        const int64_t line = (p.row + r) / s->block[0] * s->scale_columns;
        for (int64_t from = 0, b = 0; from < s->n_in; from += s->block[1], b++) {
            const int64_t left = s->n_in - from;
            const int64_t to = left < s->block[1] ? s->n_in : from + s->block[1];
            float scale;
            (void) om_st_to_f32(&scale, scales->dtype, scales->data + (line + b) * width, 1);
            for (int64_t i = from; i < to; i++) {
                out[r * s->n_in + i] *= scale;
            }
        }
    }
}

/* om_mlx_rows serves writing too, so its pointers are not const; nothing is written through them.
 */
static unsigned char *bytes_at(const om_st_tensor *t, int64_t offset) {
    return (unsigned char *) (uintptr_t) (t->data + offset);
}

static void read_mlx(float *out, const struct om_hf_source *s, place p, int64_t n) {
    const int64_t codes = om_mlx_codes_bytes(s->format, s->n_in);
    const int64_t scales = om_mlx_scales_bytes(s->format, s->scale_dtype, s->n_in);
    const om_mlx_rows rows = {
        .codes = bytes_at(p.part->weight, p.row * codes),
        .scales = bytes_at(p.part->scales, p.row * scales),
        .biases = p.part->biases != NULL ? bytes_at(p.part->biases, p.row * scales) : NULL,
    };
    om_mlx_dequantize(out, &rows, s->format, s->scale_dtype, n, s->n_in);
}

/* n rows without a gap. */
static void read_rows(float *out, const struct om_hf_source *s, place p, int64_t n) {
    switch (s->code) {
    case OM_CODE_DENSE:
        read_dense(out, s, p, n);
        break;
    case OM_CODE_FP8:
        read_fp8(out, s, p, n);
        break;
    case OM_CODE_BLOCKS:
    case OM_CODE_MLX:
        read_mlx(out, s, p, n);
        break;
    }
}

static void read_run(float *out, const struct om_hf_source *s, place p, int64_t n) {
    if (s->transposed) {
        read_transposed(out, s, p, n);
    } else if (step_of(s) == 1) {
        read_rows(out, s, p, n);
    } else {
        for (int64_t i = 0; i < n; i++) {
            read_rows(out + i * s->n_in, s, (place){ p.part, p.row + step_of(s) * i }, 1);
        }
    }
}

/* ---- rows of a view ---- */

/* Small tensors whose elements are reordered or picked: biases. */
static void read_elements(float *out, const struct om_hf_source *s, om_hf_view view, int64_t first,
                          int64_t n) {
    const int64_t held = s->fold == OM_FOLD_NONE ? s->n_in : 2 * s->n_in;
    const int64_t width = om_st_dtype_bytes(s->dtype);
    const bool permuted = view == OM_HF_GGUF && s->permuted_head > 0;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < s->n_in; i++) {
            int64_t at = permuted ? unpermute(i, s->permuted_head) : i;
            at = at * step_of(s) + (s->fold == OM_FOLD_ODD ? 1 : 0);
            (void) om_st_to_f32(&out[r * s->n_in + i], s->dtype,
                                s->parts[0].weight->data + ((first + r) * held + at) * width, 1);
        }
    }
}

/* The bank that holds an expert, and its number there. */
static const struct om_hf_source *bank_of(int64_t *within, const struct om_hf_source *s,
                                          int64_t expert) {
    const int at = s->place[expert];
    int b = 0;
    while (at >= s->first[b + 1]) {
        b++;
    }
    *within = at - s->first[b];
    return s->banks[b];
}

static void read_banks(float *out, const struct om_hf_source *s, om_hf_view view, int64_t first,
                       int64_t n) {
    int64_t count;
    for (int64_t done = 0; done < n; done += count) {
        const int64_t expert = (first + done) / s->rows, row = (first + done) % s->rows;
        int64_t within;
        const struct om_hf_source *bank = bank_of(&within, s, expert);
        count = n - done < s->rows - row ? n - done : s->rows - row;
        om_hf_source_rows(out + done * s->n_in, bank, view, within * s->rows + row, count);
    }
}

void om_hf_source_rows(float *out, const struct om_hf_source *s, om_hf_view view, int64_t first,
                       int64_t n) {
    if (s->n_banks > 0) {
        read_banks(out, s, view, first, n);
        return;
    }
    if (s->elements) {
        read_elements(out, s, view, first, n);
    } else {
        int64_t run;
        for (int64_t done = 0; done < n; done += run) {
            const place start = find_place(s, view, first + done);
            for (run = 1; done + run < n; run++) {
                const int64_t row = first + done + run;
                const place next = find_place(s, view, row);
                if ((s->transposed && row % s->rows == 0) || next.part != start.part ||
                    next.row != start.row + run * step_of(s)) {
                    break;
                }
            }
            read_run(out + done * s->n_in, s, start, run);
        }
    }
    if (view == OM_HF_GGUF && s->plus_1) {
        for (int64_t i = 0; i < n * s->n_in; i++) {
            out[i] += 1.0F;
        }
    }
}

/* ---- pages ---- */

/* The pages of rows [first, last) of a tensor that holds `held` rows of equal size. */
static void forget_share(const om_safetensors *st, const om_st_tensor *t, int64_t held,
                         int64_t first, int64_t last) {
    if (t != NULL) {
        const int64_t bytes = t->bytes / held;
        om_safetensors_forget(st, t, first * bytes, (last - first) * bytes);
    }
}

/* Rows [first, last) of one expert. */
static void forget_rows(const om_safetensors *st, const struct om_hf_source *s, int64_t expert,
                        int64_t first, int64_t last) {
    const int64_t held = held_rows(s), head = s->permuted_head;
    int64_t from = place_of(s, OM_HF_MLX, first), to = place_of(s, OM_HF_MLX, last - 1) + 1;
    if (s->transposed || s->place != NULL) { /* each row is spread over all of it, or anywhere */
        from = 0;
        to = held;
    } else if (head > 0) { /* rows of a head may have been read in another order */
        from -= from % head;
        to += (head - to % head) % head;
    }
    const bool alone = s->n_parts > 1;
    const om_hf_part *part = &s->parts[alone ? expert : 0];
    const int64_t all = alone ? held : held * s->n_experts, base = alone ? 0 : expert * held;
    forget_share(st, part->weight, all, base + from, base + to);
    if (s->code != OM_CODE_FP8) { /* FP8's scales are few, and not one line for each row */
        forget_share(st, part->scales, all, base + from, base + to);
        forget_share(st, part->biases, all, base + from, base + to);
    }
}

void om_hf_source_forget(const om_safetensors *st, const struct om_hf_source *s, int64_t first,
                         int64_t n) {
    const int64_t end = first + n;
    for (int64_t at = first; !s->elements && at < end;) {
        const int64_t expert = at / s->rows, next = (expert + 1) * s->rows;
        const int64_t last = next < end ? next : end;
        if (s->n_banks > 0) {
            int64_t within;
            const struct om_hf_source *bank = bank_of(&within, s, expert);
            const int64_t row = (within - expert) * s->rows;
            om_hf_source_forget(st, bank, at + row, last - at);
        } else {
            forget_rows(st, s, expert, at - expert * s->rows, last - expert * s->rows);
        }
        at = last;
    }
}
