/* cli/progress with a clock of our own: what is printed when, and the events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/progress.h"
#include "tmpdir.h"

static double clock_s;

static double fake_now(void) {
    return clock_s;
}

typedef struct screen {
    char *dir;
    FILE *stream;
    om_progress_view *view;
    om_env env;
} screen;

static void open_screen(screen *s, om_progress_options options) {
    om_error err = { 0 };
    clock_s = 1000.0;
    s->dir = om_tmpdir_new();
    s->stream = fopen(om_tmpdir_path(s->dir, "screen"), "w+b");
    assert_non_null(s->stream);
    options.stream = s->stream;
    options.now_s = fake_now;
    options.command = "test";
    if (options.log_json != NULL) {
        options.log_json = om_tmpdir_path(s->dir, options.log_json);
    }
    assert_int_equal(om_progress_open(&s->view, &options, &err), OM_OK);
    s->env = om_progress_env(s->view, 3);
    assert_int_equal(s->env.n_threads, 3);
}

static void assert_screen(screen *s, const char *want) {
    static char text[8192];
    fflush(s->stream);
    rewind(s->stream);
    text[fread(text, 1, sizeof text - 1, s->stream)] = '\0';
    assert_string_equal(text, want);
    fseek(s->stream, 0, SEEK_END);
}

static void close_screen(screen *s) {
    om_progress_close(s->view, 0);
    fclose(s->stream);
    om_tmpdir_remove(s->dir);
}

static void test_plain_stream(void **state) {
    (void) state;
    screen s = { 0 };
    open_screen(&s, (om_progress_options){ 0 });
    for (int i = 0; i <= 90; i++) {
        s.env.progress(s.env.ud, "profile", i, 90, "windows");
        clock_s += 1.0;
    }
    s.env.log(s.env.ud, OM_LOG_WARN, "little text\n");
    s.env.log(s.env.ud, OM_LOG_INFO, "plan");
    s.env.log(s.env.ud, OM_LOG_DEBUG, "not shown");
    s.env.progress(s.env.ud, "hash", 5e6, 16.71e6, "bytes");
    s.env.progress(s.env.ud, "hash", 1e6, 2e6, "bytes"); /* the next file */
    s.env.progress(s.env.ud, "hash", 2e6, 2e6, "bytes");
    assert_screen(&s, "optimum: profile: start, 90 windows\n"
                      "optimum: profile: 30 of 90 windows (33%), 1:00 left\n"
                      "optimum: profile: 60 of 90 windows (66%), 0:30 left\n"
                      "optimum: profile: done, 90 windows in 1:30\n"
                      "optimum: warning: little text\n"
                      "optimum: plan\n"
                      "optimum: hash: start, 16.71 MB\n"
                      "optimum: hash: ended, 5 MB of 16.71 MB in 0:00\n"
                      "optimum: hash: start, 2 MB\n"
                      "optimum: hash: done, 2 MB in 0:00\n");
    close_screen(&s);
}

static void test_terminal_redraws_at_most_six_times_a_second(void **state) {
    (void) state;
    screen s = { 0 };
    static char text[65536];
    open_screen(&s, (om_progress_options){ .tty = true });
    for (int i = 0; i < 3000; i++) { /* three seconds */
        s.env.progress(s.env.ud, "p", i, 6000, "u");
        clock_s += 0.001;
    }
    fflush(s.stream);
    rewind(s.stream);
    text[fread(text, 1, sizeof text - 1, s.stream)] = '\0';
    int n = 0;
    for (const char *c = text; (c = strstr(c, "\rp: ")) != NULL; c++) {
        n++;
    }
    assert_in_range(n, 17, 18);
    assert_non_null(strstr(text, "\rp: 0 of 6000 u (0%)\033[K"));
    assert_non_null(strstr(text, "0:03 left"));
    assert_null(strstr(text, "0:05 left")); /* not in the first two seconds */
    assert_null(strchr(text, '\n'));
    close_screen(&s);
}

static void test_terminal_log_lines_keep_the_line(void **state) {
    (void) state;
    screen s = { 0 };
    open_screen(&s, (om_progress_options){ .tty = true, .verbose = true });
    s.env.progress(s.env.ud, "p", 1, 4, "u");
    s.env.log(s.env.ud, OM_LOG_DEBUG, "d");
    om_progress_finish(s.view);
    const om_error err = { .status = OM_E_IO, .where = "w", .text = "t" };
    om_progress_error(s.view, &err);
    assert_screen(&s, "\rp: 1 of 4 u (25%)\033[K\r\033[Koptimum: debug: d\n"
                      "\rp: 1 of 4 u (25%)\033[K\r\033[Koptimum: error: w: t\n");
    close_screen(&s);
}

static void test_resumed_work_does_not_flatter_the_rate(void **state) {
    (void) state;
    screen s = { 0 };
    open_screen(&s, (om_progress_options){ 0 });
    s.env.progress(s.env.ud, "p", 80, 100, "u");
    clock_s += 40.0;
    s.env.progress(s.env.ud, "p", 90, 100, "u"); /* 10 in 40 s: 40 s for the rest */
    assert_screen(&s, "optimum: p: start, 100 u\noptimum: p: 90 of 100 u (90%), 0:40 left\n");
    close_screen(&s);
}

static void test_quiet(void **state) {
    (void) state;
    screen s = { 0 };
    open_screen(&s, (om_progress_options){ .quiet = true });
    for (int i = 0; i <= 10; i++) {
        s.env.progress(s.env.ud, "p", i, 10, "u");
        clock_s += 20.0;
    }
    s.env.log(s.env.ud, OM_LOG_INFO, "info");
    s.env.log(s.env.ud, OM_LOG_WARN, "warn");
    assert_false(s.env.cancelled(s.env.ud));
    assert_screen(&s, "optimum: warning: warn\n");
    close_screen(&s);
}

/* Every line is a JSON object of its own, in the promised order. */
static void test_events(void **state) {
    (void) state;
    static const char *const want[] = { "start",       "stage_begin", "stage_end", "warning",
                                        "stage_begin", "stage_end",   "error",     "exit" };
    char first[] = "MODEL \"x\"\n", second[] = "\xff";
    char *argv[] = { first, second };
    screen s = { 0 };
    om_error err = { 0 };
    open_screen(&s, (om_progress_options){ .log_json = "ev", .argc = 2, .argv = argv });
    s.env.progress(s.env.ud, "a", 0, 2, "u");
    clock_s += 1.25;
    s.env.progress(s.env.ud, "a", 2, 2, "u");
    s.env.log(s.env.ud, OM_LOG_WARN, "w \"1\"\n x");
    s.env.progress(s.env.ud, "b", 1, 2, "u");
    const om_error failure = { .status = OM_E_CANCELLED, .text = "interrupted" };
    om_progress_finish(s.view);
    om_progress_error(s.view, &failure);
    om_progress_close(s.view, 130);
    s.view = NULL;

    char *text = NULL;
    size_t n = 0, n_events = 0;
    assert_int_equal(om_file_read(&text, &n, om_tmpdir_path(s.dir, "ev"), 1 << 20, &err), OM_OK);
    for (char *line = text; *line != '\0'; n_events++) {
        const size_t len = strcspn(line, "\n");
        om_json *event = NULL;
        const char *name = NULL;
        double t = 0, seconds = 0;
        assert_int_equal(om_json_parse(&event, line, len, "ev", NULL, &err), OM_OK);
        const om_node root = om_node_root(event, "ev");
        assert_int_equal(om_node_str(&name, &root, "event", &err), OM_OK);
        assert_int_equal(om_node_f64(&t, &root, "t", &err), OM_OK);
        assert_in_range(n_events, 0, 7);
        assert_string_equal(name, want[n_events]);
        assert_true(t == (n_events < 2 ? 0.0 : 1.25));
        if (n_events == 2) {
            assert_int_equal(om_node_f64(&seconds, &root, "seconds", &err), OM_OK);
            assert_true(seconds == 1.25);
        }
        om_json_free(event);
        line += len + 1;
    }
    assert_int_equal(n_events, 8);
    om_free(text);
    close_screen(&s);
}

static void test_event_file_that_cannot_be_written(void **state) {
    (void) state;
    om_error err = { 0 };
    om_progress_view *view = NULL;
    const om_progress_options options = { .stream = stderr, .log_json = "/no/such/folder/x" };
    assert_int_equal(om_progress_open(&view, &options, &err), OM_E_IO);
    assert_null(view);
    assert_non_null(strstr(err.text, "--log-json"));
    om_progress_close(NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_stream),
        cmocka_unit_test(test_terminal_redraws_at_most_six_times_a_second),
        cmocka_unit_test(test_terminal_log_lines_keep_the_line),
        cmocka_unit_test(test_resumed_work_does_not_flatter_the_rate),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_event_file_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
