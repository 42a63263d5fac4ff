/* The driver over windows: see pass.h. */
#include "calib/pass.h"

#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "calib/backward.h"
#include "calib/forward.h"

/* ---- labels and the gradient of the logits
 * --------------------------------------------------------------------------- */

typedef struct label_args {
    float *p; /* [n_vocab, T] probabilities in, p − onehot(label) out */
    int64_t n_vocab;
    const int32_t *labels; /* NULL: draw */
    uint64_t seed, first;  /* stream of position t is first + t */
    double *loss;          /* [T] −log p(label) */
} label_args;

/* Inverse of the distribution function at u, the sum taken in double and in order. */
static int64_t draw(const float *p, int64_t n, double u) {
    double sum = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        if (p[i] > 0) {
            sum += (double) p[i];
            last = i;
            if (u < sum) {
                return i;
            }
        }
    }
    return last; /* rounding: the sum ended below u */
}

static void label_rows(void *ctx, int64_t first, int64_t last, int worker) {
    (void) worker;
    const label_args *a = ctx;
    for (int64_t t = first; t < last; t++) {
        float *p = a->p + t * a->n_vocab;
        om_rng rng = om_rng_at(a->seed, a->first + (uint64_t) t);
        const int64_t label = a->labels ? a->labels[t] : draw(p, a->n_vocab, om_rng_f64(&rng));
        a->loss[t] = -log((double) p[label]);
        p[label] -= 1.0F;
    }
}

/* The signs of margins come from another stream than the labels. */
static const uint64_t margin_stream = 0x6D617267696E73ULL;

/* ---- one window
 * ---------------------------------------------------------------------------------------------------------
 */

typedef struct session {
    const double *router_weight; /* [n_routers] of the margins; NULL: none */
    int n_routers;
    om_compute *compute;
    om_tape tape;
    om_forward *forward;
    om_fisher *fisher;
    int n_tokens;
    double *loss; /* [T] */
} session;

static int weight_of(void *ud, const char *name) {
    return om_fisher_find(ud, name);
}

static void session_close(session *s) {
    om_tape_release(&s->tape);
    om_forward_close(s->forward);
    om_compute_free(s->compute);
    om_free(s->loss);
}

static bool all_f32(const om_fisher *f) {
    const om_format *f32 = om_format_by_name("f32");
    for (int i = 0; i < f->n_weights; i++) {
        if (f->weights[i].tensor->format != f32) {
            return false;
        }
    }
    return true;
}

static om_status session_open(session *s, om_fisher *f, const char *model_path, int n_tokens,
                              const om_env *env, om_error *err) {
    om_status status = OM_OK;
    s->fisher = f;
    f->bf16 = om_compute_has_bf16() && !all_f32(f);
    s->n_tokens = n_tokens;
    OM_TRY(om_compute_new(&s->compute, om_n_threads(env), err));
    s->tape.compute = s->compute;
    s->tape.weight_of = weight_of;
    s->tape.ud = f;
    s->loss = om_calloc((size_t) n_tokens, sizeof *s->loss);
    if (!s->loss) {
        status = om_fail_nomem(err, (size_t) n_tokens * sizeof *s->loss);
        goto out;
    }
    const om_forward_setup setup = {
        .model_path = model_path, .n_tokens = n_tokens, .callback = om_tape_callback, .ud = &s->tape
    };
    OM_TRY(om_forward_open(&s->forward, &setup, s->compute, env, err));
out:
    return status; /* the caller closes */
}

/* The gradient enters at the last node of the tape: it must be the logits of all positions. */
static om_status check_logits(const session *s, int64_t n_vocab, om_error *err) {
    if (s->tape.n_nodes > 0) {
        const om_tape_node *last = &s->tape.nodes[s->tape.n_nodes - 1];
        if (last->dst.ne[0] == n_vocab && last->dst.ne[1] == s->n_tokens &&
            last->dst.ne[2] * last->dst.ne[3] == 1) {
            return OM_OK;
        }
    }
    return om_fail(err, OM_E_UNSUPPORTED,
                   "the model's graph does not end in one row of %lld logits per token; use "
                   "--method measured",
                   (long long) n_vocab);
}

/* The tape's own failure explains why libllama stopped. */
static om_status forward_window(const float **logits, session *s, const int32_t *tokens,
                                om_error *err) {
    om_tape_reset(&s->tape);
    om_status status = om_forward_run(logits, s->forward, tokens, err);
    if (s->tape.err.status != OM_OK) {
        *err = s->tape.err;
        status = err->status;
    }
    return status;
}

static om_status run_window(session *s, float *const *gradients, const int32_t *tokens,
                            const int32_t *labels, uint64_t seed, uint64_t window, om_error *err) {
    om_status status = OM_OK;
    const float *logits;
    OM_TRY(forward_window(&logits, s, tokens, err));
    const int64_t n_vocab = om_forward_vocab(s->forward);
    OM_TRY(check_logits(s, n_vocab, err));
    for (int t = 0; labels && t < s->n_tokens; t++) {
        if (labels[t] < 0 || labels[t] >= n_vocab) {
            return om_fail(err, OM_E_ARG, "label %d is %d; the vocabulary has %lld tokens", t,
                           (int) labels[t], (long long) n_vocab);
        }
    }
    float *p = om_compute_alloc(s->compute, n_vocab * s->n_tokens);
    if (!p) {
        return om_fail_nomem(err, (size_t) (n_vocab * s->n_tokens) * sizeof(float));
    }
    status = om_compute_softmax(s->compute, p, logits, n_vocab, s->n_tokens, err);
    if (status != OM_OK) {
        om_compute_release(s->compute, p);
        return status;
    }
    label_args a = { p, n_vocab, labels, seed, window * (uint64_t) s->n_tokens, s->loss };
    om_compute_parallel(s->compute, s->n_tokens, 1, label_rows, &a);
    for (int t = 0; t < s->n_tokens; t++) {
        if (!isfinite(s->loss[t])) {
            om_compute_release(s->compute, p);
            return om_fail(err, OM_E_NUMERIC,
                           "window %llu, position %d: the model's output is not finite; the model "
                           "is damaged or overflows",
                           (unsigned long long) window, t);
        }
    }
    if (s->router_weight && window % OM_MARGIN_EVERY == 0) {
        const uint64_t signs = window * (uint64_t) s->n_routers * (uint64_t) s->n_tokens;
        status = om_backward_margins(&s->tape, s->router_weight, s->n_routers, s->fisher,
                                     seed ^ margin_stream, signs, err);
        if (status != OM_OK) {
            om_compute_release(s->compute, p);
            return status;
        }
    }
    OM_TRY(om_backward(&s->tape, p, s->fisher, gradients, err));
out:
    return status;
}

om_status om_pass_one(om_fisher *f, float *const *gradients, double *loss_nats,
                      const int32_t *tokens, const int32_t *labels, int n_tokens,
                      const char *model_path, uint64_t seed, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    session s = { 0 };
    OM_TRY(session_open(&s, f, model_path, n_tokens, env, err));
    OM_TRY(run_window(&s, gradients, tokens, labels, seed, 0, err));
    for (int t = 0; loss_nats && t < n_tokens; t++) {
        *loss_nats = (t ? *loss_nats : 0) + s.loss[t];
    }
out:
    session_close(&s);
    return status;
}

/* ---- cost
 * ------------------------------------------------------------------------------------------------------------------
 */

/* One forward pass that copies nothing measures what the tape will hold, proves that every op has a
 * rule, and times the model. What comes on top in the backward pass: the gradient of the logits, a
 * block of dequantized weights, and the gradients inside one attention. */
static om_status measure(session *s, om_pass_cost *cost, const int32_t *tokens, om_error *err) {
    om_status status = OM_OK;
    const float *logits;
    s->tape.measure = true;
    const double start = om_now_s();
    OM_TRY(forward_window(&logits, s, tokens, err));
    cost->forward_s = om_now_s() - start;
    int64_t largest = 0;
    for (int i = 0; i < s->tape.n_saved; i++) {
        const int64_t bytes = om_array_size(&s->tape.saved[i].array) * (int64_t) sizeof(float);
        largest = !s->tape.saved[i].borrowed && bytes > largest ? bytes : largest;
    }
    const int64_t logits_bytes =
        (int64_t) om_forward_vocab(s->forward) * s->n_tokens * (int64_t) sizeof(float);
    cost->tape_bytes = s->tape.saved_bytes + logits_bytes;
    cost->predicted_peak_bytes = om_peak_rss_bytes() + cost->tape_bytes + 3 * largest + (48 << 20);
out:
    s->tape.measure = false;
    return status;
}

static om_status state_cost(session *s, om_pass_cost *cost, const om_windows *w, int done,
                            const om_pass_options *o, const om_env *env, om_error *err) {
    om_status status = measure(s, cost, w->tokens, err);
    if (status != OM_OK) {
        return status;
    }
    char peak[32], tape[32], limit[32];
    om_format_bytes(peak, (double) cost->predicted_peak_bytes, true);
    om_format_bytes(tape, (double) cost->tape_bytes, true);
    if (o->max_ram_bytes > 0 && cost->predicted_peak_bytes > o->max_ram_bytes) {
        return om_fail(err, OM_E_LIMIT,
                       "the pass needs about %s (%s of it for one window's tape), more than "
                       "--max-ram %s; use fewer "
                       "--window-tokens or allow more",
                       peak, tape, om_format_bytes(limit, (double) o->max_ram_bytes, true));
    }
    om_log(env, OM_LOG_INFO,
           "profile: %d windows of %d tokens, about %.0f s, peak memory about %s (tape %s)",
           w->n_windows - done, w->n_tokens, 4.0 * cost->forward_s * (w->n_windows - done), peak,
           tape);
    return OM_OK;
}

om_status om_pass_check(om_fisher *f, const om_windows *w, const om_pass_options *o,
                        const om_env *env, om_error *err) {
    om_status status = OM_OK;
    session s = { 0 };
    om_pass_cost cost = { 0 };
    OM_TRY(session_open(&s, f, o->model_path, w->n_tokens, env, err));
    OM_TRY(state_cost(&s, &cost, w, 0, o, env, err));
out:
    session_close(&s);
    return status;
}

/* ---- the pass
 * ------------------------------------------------------------------------------------------------------------------
 */

om_status om_pass_run(om_fisher *f, om_pass_cost *cost, const om_windows *w,
                      const om_pass_options *o, const om_env *env, om_error *err) {
    om_status status = OM_OK;
    session s = { 0 };
    int done = 0;
    *cost = (om_pass_cost){ 0 };
    if (o->checkpoint && !o->restart) {
        OM_TRY(om_fisher_load(f, &done, o->checkpoint, o->key, err));
    }
    cost->windows_resumed = done;
    if (done > 0) {
        om_log(env, OM_LOG_INFO, "profile: resuming after %d of %d windows", done, w->n_windows);
    }
    const double start = om_now_s();
    om_pacer pacer = { 0 };
    int saved = done;
    if (done < w->n_windows) {
        OM_TRY(session_open(&s, f, o->model_path, w->n_tokens, env, err));
        s.router_weight = o->router_weight;
        s.n_routers = o->n_routers;
        OM_TRY(state_cost(&s, cost, w, done, o, env, err));
    }
    for (int i = done; i < w->n_windows; i++) {
        om_progress(env, "profile", i, w->n_windows, "windows");
        status = run_window(&s, NULL, w->tokens + (int64_t) i * w->n_tokens, NULL, o->seed,
                            (uint64_t) i, err);
        if (status != OM_OK) {
            break;
        }
        done = i + 1;
        if (o->checkpoint && om_pacer_due(&pacer)) {
            const double since = om_now_s();
            OM_TRY(om_fisher_save(f, o->checkpoint, o->key, done, err));
            om_pacer_done(&pacer, since);
            saved = done;
        }
    }
    if (status == OM_OK && o->checkpoint && saved < done) { /* what follows takes time as well */
        OM_TRY(om_fisher_save(f, o->checkpoint, o->key, done, err));
    }
    if (status == OM_E_CANCELLED && o->checkpoint && done > 0) {
        /* Only the forward pass can be cancelled, so the sums hold whole windows. When the save
         * fails the last checkpoint stands, and being cancelled is still what happened. */
        om_error late = { 0 };
        if (om_fisher_save(f, o->checkpoint, o->key, done, &late) != OM_OK) {
            om_log(env, OM_LOG_WARN, "the checkpoint could not be brought up to date: %s",
                   late.text);
        }
    }
    if (status == OM_OK) {
        om_progress(env, "profile", w->n_windows, w->n_windows, "windows");
    }
    cost->total_s = om_now_s() - start;
    cost->peak_bytes = om_peak_rss_bytes();
out:
    session_close(&s);
    return status;
}
