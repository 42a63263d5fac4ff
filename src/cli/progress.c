/* Log and progress hooks -> stderr and a file of events.
 *
 * On a terminal one line is redrawn, at most 6 times a second; elsewhere a stage gives a line at
 * its start, at its end and every 30 seconds, which is what a log file needs. The library reports
 * (stage, done, total, unit); a stage begins with its first report and ends when done reaches
 * total, or when another begins. The time left is the time spent so far times what is left over
 * what is done, shown after 2 seconds: before that it is noise.
 *
 * Events (one JSON object a line): start, stage_begin, stage_end, warning, error, exit; "t" is
 * seconds since the start.
 */
#include "cli/progress.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

enum { LINE_WIDTH = 79 };
static const double REDRAW_S = 1.0 / 6.0, REMIND_S = 30.0, ETA_AFTER_S = 2.0;

struct om_progress_view {
    om_progress_options o;
    FILE *events;
    pthread_mutex_t lock;
    double started_s;

    bool in_stage;
    char stage[48], unit[24];
    double done, total;
    double first_done; /* of the first report: not 0 when work is resumed */
    double stage_s, shown_s;
    bool line_on_screen;
};

/* ---- events ---- */

/* One line: the canonical text without its line breaks and indents. Strings hold none: they are
 * escaped. Takes the event. */
static void write_event(om_progress_view *v, om_json *event) {
    char *text = event == NULL ? NULL : om_json_dump(event);
    om_json_free(event);
    if (text == NULL) {
        return;
    }
    size_t n = 0;
    for (const char *s = text; *s != '\0';) {
        if (*s == '\n') {
            s += 1 + strspn(s + 1, " ");
        } else {
            text[n++] = *s++;
        }
    }
    text[n++] = '\n';
    fwrite(text, 1, n, v->events);
    fflush(v->events); /* a reader follows along, and a crash loses nothing */
    om_free(text);
}

/* NULL when nobody listens. */
static om_json *new_event(const om_progress_view *v, const char *name) {
    if (v->events == NULL) {
        return NULL;
    }
    om_json *event = om_json_object();
    if (event != NULL) {
        const double t = v->o.now_s() - v->started_s;
        om_json_set_str(event, "event", name);
        om_json_set_f64(event, "t", (double) (long long) (t * 1e3 + 0.5) / 1e3);
    }
    return event;
}

static void event_start(om_progress_view *v) {
    om_json *event = new_event(v, "start");
    if (event == NULL) {
        return;
    }
    char when[32] = "";
    struct tm utc;
    const time_t now = time(NULL);
    if (gmtime_r(&now, &utc) != NULL) {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
    om_json *args = om_json_array();
    for (int i = 0; i < v->o.argc; i++) {
        om_json_push(args, om_json_str(v->o.argv[i]));
    }
    om_json_set_str(event, "time", when);
    om_json_set_str(event, "version", OM_VERSION);
    om_json_set_str(event, "command", v->o.command);
    om_json_set(event, "args", args);
    write_event(v, event);
}

static void event_stage(om_progress_view *v, const char *name, double seconds) {
    om_json *event = new_event(v, name);
    if (event == NULL) {
        return;
    }
    om_json_set_str(event, "stage", v->stage);
    if (seconds >= 0.0) {
        om_json_set_f64(event, "done", v->done);
        om_json_set_f64(event, "seconds", (double) (long long) (seconds * 1e3 + 0.5) / 1e3);
    }
    om_json_set_f64(event, "total", v->total);
    om_json_set_str(event, "unit", v->unit);
    write_event(v, event);
}

static void event_text(om_progress_view *v, const char *name, const char *text) {
    om_json *event = new_event(v, name);
    if (event != NULL) {
        om_json_set_str(event, "text", text);
        write_event(v, event);
    }
}

/* ---- words ---- */

/* "0:07", "12:03", "3:04:05" */
static void put_duration(om_buf *b, double seconds) {
    const double capped = seconds < 0.0 ? 0.0 : seconds > 359999.0 ? 359999.0 : seconds;
    const int s = (int) (capped + 0.5);
    if (s >= 3600) {
        om_buf_printf(b, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    } else {
        om_buf_printf(b, "%d:%02d", s / 60, s % 60);
    }
}

/* "43 of 96 windows", "1.2 GB of 3 GB"; without `done` only the total */
static void put_amount(om_buf *b, const om_progress_view *v, bool with_done) {
    char done[32], total[32];
    if (strcmp(v->unit, "bytes") == 0) {
        om_format_bytes(done, v->done, false);
        om_format_bytes(total, v->total, false);
    } else {
        snprintf(done, sizeof done, "%.0f", v->done);
        snprintf(total, sizeof total, "%.0f", v->total);
    }
    if (with_done) {
        om_buf_printf(b, "%s of ", done);
    }
    om_buf_puts(b, total);
    if (strcmp(v->unit, "bytes") != 0) {
        om_buf_printf(b, " %s", v->unit);
    }
}

static void put_status(om_buf *b, const om_progress_view *v, double now) {
    om_buf_printf(b, "%s: ", v->stage);
    put_amount(b, v, true);
    if (v->total > 0.0) {
        om_buf_printf(b, " (%d%%)", (int) (100.0 * v->done / v->total));
    }
    const double spent = now - v->stage_s;
    const double worked = v->done - v->first_done;
    if (spent >= ETA_AFTER_S && worked > 0.0 && v->total > v->done) {
        om_buf_puts(b, ", ");
        put_duration(b, spent * (v->total - v->done) / worked);
        om_buf_puts(b, " left");
    }
}

/* ---- the screen ---- */

static void erase_line(om_progress_view *v) {
    if (v->line_on_screen) {
        fputs("\r\033[K", v->o.stream);
        v->line_on_screen = false;
    }
}

static void draw_line(om_progress_view *v, double now) {
    om_buf b = { 0 };
    put_status(&b, v, now);
    if (!b.failed && b.data != NULL) {
        fprintf(v->o.stream, "\r%.*s\033[K", LINE_WIDTH, b.data);
        fflush(v->o.stream);
        v->line_on_screen = true;
        v->shown_s = now;
    }
    om_buf_release(&b);
}

static void print_stage(om_progress_view *v, double now, const char *kind) {
    om_buf b = { 0 };
    if (strcmp(kind, "begin") == 0) {
        om_buf_printf(&b, "%s: start, ", v->stage);
        put_amount(&b, v, false);
    } else if (strcmp(kind, "end") == 0) {
        om_buf_printf(&b, "%s: %s, ", v->stage, v->done < v->total ? "ended" : "done");
        put_amount(&b, v, v->done < v->total);
        om_buf_puts(&b, " in ");
        put_duration(&b, now - v->stage_s);
    } else {
        put_status(&b, v, now);
    }
    if (!b.failed && b.data != NULL) {
        fprintf(v->o.stream, "optimum: %s\n", b.data);
        fflush(v->o.stream);
    }
    om_buf_release(&b);
    v->shown_s = now;
}

static void end_stage(om_progress_view *v, double now) {
    if (!v->in_stage) {
        return;
    }
    v->in_stage = false;
    event_stage(v, "stage_end", now - v->stage_s);
    if (v->o.quiet) {
        return;
    }
    erase_line(v);
    /* on a terminal the line of a short stage just goes away */
    if (!v->o.tty || now - v->stage_s >= ETA_AFTER_S) {
        print_stage(v, now, "end");
    }
}

static void begin_stage(om_progress_view *v, double now, const char *stage, double done,
                        double total, const char *unit) {
    snprintf(v->stage, sizeof v->stage, "%s", stage);
    snprintf(v->unit, sizeof v->unit, "%s", unit);
    v->in_stage = true;
    v->total = total;
    v->done = v->first_done = done;
    v->stage_s = now;
    v->shown_s = -1e9;
    event_stage(v, "stage_begin", -1.0);
    if (!v->o.quiet && !v->o.tty) {
        print_stage(v, now, "begin");
    }
}

/* ---- hooks ---- */

static void on_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    om_progress_view *v = ud;
    pthread_mutex_lock(&v->lock);
    const double now = v->o.now_s();
    const char *u = unit == NULL ? "" : unit;
    /* the same stage starting over (hash of the next file) is another one */
    if (v->in_stage && (strcmp(v->stage, stage) != 0 || done < v->done)) {
        end_stage(v, now);
    }
    if (!v->in_stage) {
        begin_stage(v, now, stage, done, total, u);
    }
    v->done = done;
    v->total = total;
    if (done >= total) {
        end_stage(v, now);
    } else if (!v->o.quiet && v->o.tty && now - v->shown_s >= REDRAW_S) {
        draw_line(v, now);
    } else if (!v->o.quiet && !v->o.tty && now - v->shown_s >= REMIND_S) {
        print_stage(v, now, "remind");
    }
    pthread_mutex_unlock(&v->lock);
}

static void on_log(void *ud, om_log_level level, const char *line) {
    om_progress_view *v = ud;
    const char *prefix = "";
    bool shown = true;
    switch (level) {
    case OM_LOG_ERROR:
        prefix = "error: ";
        break;
    case OM_LOG_WARN:
        prefix = "warning: ";
        break;
    case OM_LOG_INFO:
        shown = !v->o.quiet;
        break;
    case OM_LOG_DEBUG:
        prefix = "debug: ";
        shown = v->o.verbose;
        break;
    }
    pthread_mutex_lock(&v->lock);
    if (level == OM_LOG_WARN) {
        event_text(v, "warning", line);
    }
    if (shown) {
        const bool redraw = v->line_on_screen;
        size_t n = strlen(line);
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == ' ')) {
            n--; /* ggml's messages end their own lines */
        }
        erase_line(v);
        fprintf(v->o.stream, "optimum: %s%.*s\n", prefix, (int) n, line);
        if (redraw) {
            draw_line(v, v->o.now_s());
        }
        fflush(v->o.stream);
    }
    pthread_mutex_unlock(&v->lock);
}

static bool on_cancelled(void *ud) {
    const om_progress_view *v = ud;
    return v->o.cancelled != NULL && v->o.cancelled(NULL);
}

om_env om_progress_env(om_progress_view *view, int n_threads) {
    return (om_env){ .log = on_log,
                     .progress = on_progress,
                     .cancelled = on_cancelled,
                     .ud = view,
                     .n_threads = n_threads };
}

/* ---- life ---- */

om_status om_progress_open(om_progress_view **out, const om_progress_options *options,
                           om_error *err) {
    om_progress_view *v = om_calloc(1, sizeof *v);
    if (v == NULL) {
        return om_fail_nomem(err, sizeof *v);
    }
    v->o = *options;
    if (v->o.now_s == NULL) {
        v->o.now_s = om_now_s;
    }
    v->started_s = v->o.now_s();
    if (options->log_json != NULL) {
        v->events = fopen(options->log_json, "wb");
        if (v->events == NULL) {
            const om_status status =
                om_fail_errno(err, "--log-json: cannot write %s", options->log_json);
            om_free(v);
            return status;
        }
    }
    pthread_mutex_init(&v->lock, NULL);
    event_start(v);
    *out = v;
    return OM_OK;
}

void om_progress_finish(om_progress_view *view) {
    pthread_mutex_lock(&view->lock);
    if (view->in_stage) { /* broken off: no text, the error says why */
        view->in_stage = false;
        event_stage(view, "stage_end", view->o.now_s() - view->stage_s);
    }
    erase_line(view);
    fflush(view->o.stream);
    pthread_mutex_unlock(&view->lock);
}

void om_progress_error(om_progress_view *view, const om_error *err) {
    pthread_mutex_lock(&view->lock);
    om_json *event = new_event(view, "error");
    if (event != NULL) {
        om_json_set_str(event, "status", om_status_name(err->status));
        om_json_set_str(event, "where", err->where);
        om_json_set_str(event, "text", err->text);
        write_event(view, event);
    }
    erase_line(view);
    fprintf(view->o.stream, "optimum: error: %s%s%s\n", err->where,
            err->where[0] != '\0' ? ": " : "", err->text);
    fflush(view->o.stream);
    pthread_mutex_unlock(&view->lock);
}

void om_progress_close(om_progress_view *view, int exit_code) {
    if (view == NULL) {
        return;
    }
    om_progress_finish(view);
    om_json *event = new_event(view, "exit");
    if (event != NULL) {
        om_json_set_i64(event, "code", exit_code);
        om_json_set_i64(event, "peak_rss_bytes", om_peak_rss_bytes());
        write_event(view, event);
    }
    if (view->events != NULL) {
        fclose(view->events);
    }
    pthread_mutex_destroy(&view->lock);
    om_free(view);
}
