/* GGUF -> tokens per second, time to first token, memory.
 *
 * Memory is the growth of the resident set (mapped weights included, they have been touched by
 * then) plus the growth of used device memory between before the load and after the last token.
 * The peak of the whole process would be of no use: it holds whatever ran earlier in it.
 */
#include "eval/speed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach/mach.h>
#else
#include <fcntl.h>
#endif

#include <ggml-backend.h>

#include "base/log.h"
#include "eval/runtime.h"

enum { PROMPT = 512, ANSWER = 64 };

/* ---- memory ---- */

#if defined(__APPLE__)
static int64_t resident_bytes(void) {
    struct mach_task_basic_info info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t) &info, &count) !=
        KERN_SUCCESS) {
        return 0;
    }
    return (int64_t) info.resident_size;
}
#else
/* Linux: the second number of /proc/self/statm is resident pages. Elsewhere the peak must do. */
static int64_t resident_bytes(void) {
    char text[128];
    const int fd = open("/proc/self/statm", O_RDONLY);
    if (fd < 0) {
        return om_peak_rss_bytes();
    }
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *space = strchr(text, ' ');
    return space != NULL ? (int64_t) strtoll(space, NULL, 10) * (int64_t) sysconf(_SC_PAGESIZE) : 0;
}
#endif

static int64_t device_bytes(int n_gpu_layers) {
    int64_t used = 0;
    for (size_t i = 0; n_gpu_layers != 0 && i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        size_t free_bytes = 0, total = 0;
        if (ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            ggml_backend_dev_memory(dev, &free_bytes, &total);
            used += (int64_t) (total - free_bytes);
        }
    }
    return used;
}

/* ---- time ---- */

static int32_t most_probable(const float *logits, int n_vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < n_vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

/* Prompt in, first token out. */
static om_status prefill(double *seconds, int32_t *next, om_runtime *rt, const int32_t *prompt,
                         om_error *err) {
    om_status status = OM_OK;
    const double start = om_now_s();
    OM_TRY(om_runtime_decode(rt, prompt, PROMPT, 0, PROMPT - 1, err));
    const float *logits = om_runtime_logits(rt);
    if (logits == NULL) {
        return om_fail(err, OM_E_INTERNAL, "the model gave no logits");
    }
    *next = most_probable(logits, om_runtime_n_vocab(rt));
    *seconds = om_now_s() - start;
out:
    return status;
}

static om_status decode(double *seconds, int32_t next, om_runtime *rt, om_error *err) {
    om_status status = OM_OK;
    const double start = om_now_s();
    for (int i = 0; i < ANSWER; i++) {
        OM_TRY(om_runtime_decode(rt, &next, 1, PROMPT + i, 0, err));
        const float *logits = om_runtime_logits(rt);
        if (logits == NULL) {
            return om_fail(err, OM_E_INTERNAL, "the model gave no logits");
        }
        next = most_probable(logits, om_runtime_n_vocab(rt));
    }
    *seconds = om_now_s() - start;
out:
    return status;
}

static double median3(double a, double b, double c) {
    const double low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : (c > high ? high : c);
}

om_status om_speed_measure(om_speed *out, const char *path, int n_gpu_layers, const int32_t *tokens,
                           int n, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    om_runtime *rt = NULL;
    int32_t prompt[PROMPT], next = 0;
    double warm = 0.0, times[3] = { 0 }, answer = 0.0;
    const om_runtime_options options = { .n_gpu_layers = n_gpu_layers,
                                         .n_ctx = PROMPT + ANSWER,
                                         .n_block = PROMPT,
                                         .n_outputs = 1,
                                         .extra_bufts = true };
    for (int i = 0; i < PROMPT; i++) {
        prompt[i] = tokens[i % n];
    }
    const int64_t before = resident_bytes() + device_bytes(n_gpu_layers);
    OM_TRY(om_runtime_open(&rt, path, &options, env, err));
    OM_TRY(prefill(&warm, &next, rt, prompt, err));
    const int n_times = warm < 1.0 ? 3 : 1;
    for (int i = 0; i < n_times; i++) {
        OM_TRY(om_check_cancel(env, err));
        OM_TRY(prefill(&times[i], &next, rt, prompt, err));
    }
    OM_TRY(decode(&answer, next, rt, err));
    const int64_t after = resident_bytes() + device_bytes(n_gpu_layers);
    out->ttft_s = n_times == 3 ? median3(times[0], times[1], times[2]) : times[0];
    out->prefill_tok_s = PROMPT / (out->ttft_s > 1e-9 ? out->ttft_s : 1e-9);
    out->decode_tok_s = ANSWER / (answer > 1e-9 ? answer : 1e-9);
    out->memory_bytes = after > before ? after - before : 0;
    snprintf(out->runtime, sizeof(out->runtime), "llama.cpp");
    snprintf(out->device, sizeof(out->device), "%s", om_runtime_device(rt));
out:
    om_runtime_free(rt);
    return status;
}
