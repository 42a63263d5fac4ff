/* argv -> one command -> one verb -> exit code.
 *
 * stdout holds the result and nothing else; everything for people on the way goes to stderr. The
 * first SIGINT, SIGTERM or SIGHUP sets a flag that the library polls, so that it can stop in a
 * clean place; the second one removes files under construction and ends the process.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/progress.h"

/* What scripts see; docs and tests rely on it. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_INFEASIBLE = 3,
    EXIT_GATE = 4,
    EXIT_UNSUPPORTED = 5,
    EXIT_INTERRUPTED = 130,
};

static int exit_code_of(om_status status) {
    switch (status) {
    case OM_OK:
        return EXIT_OK;
    case OM_E_ARG:
        return EXIT_USAGE;
    case OM_E_INFEASIBLE:
        return EXIT_INFEASIBLE;
    case OM_E_GATE:
        return EXIT_GATE;
    case OM_E_UNSUPPORTED:
        return EXIT_UNSUPPORTED;
    case OM_E_CANCELLED:
        return EXIT_INTERRUPTED;
    case OM_E_IO:
    case OM_E_FORMAT:
    case OM_E_NOMEM:
    case OM_E_NUMERIC:
    case OM_E_LIMIT:
    case OM_E_MISMATCH:
    case OM_E_INTERNAL:
        return EXIT_FAILED;
    }
    return EXIT_FAILED;
}

/* ---- signals ---- */

static atomic_int n_signals; /* lock-free: set by the handler, read by any thread */
static bool stderr_is_tty;   /* set before the handler is */

static void on_signal(int signal_number) {
    static const char text[] = "\noptimum: stopping; once more to stop at once\n";
    (void) signal_number;
    if (atomic_fetch_add(&n_signals, 1) > 0) {
        om_atomic_abort_all();
        _exit(EXIT_INTERRUPTED);
    }
    if (stderr_is_tty) {
        const int saved = errno;
        const ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
        (void) written; /* nothing to be done about it here */
        errno = saved;
    }
}

static bool is_cancelled(void *ud) {
    (void) ud;
    return atomic_load_explicit(&n_signals, memory_order_relaxed) > 0;
}

static void install_signals(void) {
    static const int stops[] = { SIGINT, SIGTERM, SIGHUP };
    stderr_is_tty = isatty(STDERR_FILENO) != 0;
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < OM_COUNT(stops); i++) {
        struct sigaction old;
        /* nohup and background jobs of scripts ignore them on purpose */
        if (sigaction(stops[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(stops[i], &action, NULL);
        }
    }
    /* a reader that goes away must not kill us between two writes: printing reports EPIPE; nor
     * must a limit on the size of files (ulimit -f): writing reports EFBIG */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
}

/* ---- the end, when nothing can be returned any more ---- */

static void put(const char *text) {
    const ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void) written;
}

/* One line, no temporary file, exit code 1; async-signal-safe. Of several threads that get here
 * the first one speaks. */
static _Noreturn void die(const char *line) {
    static atomic_flag dying = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&dying)) {
        (void) pause();
    }
    om_atomic_abort_all();
    put(stderr_is_tty ? "\r\033[Koptimum: error: " : "optimum: error: ");
    put(line);
    put("\n");
    _exit(EXIT_FAILED);
}

static void on_panic(const char *line) {
    die(line);
}

static _Noreturn void on_crash(int signal_number) {
    switch (signal_number) {
    case SIGABRT: /* ggml's own assertions come through on_panic */
        die("a library gave up (abort), most likely because memory is short; free some or use "
            "smaller windows");
    case SIGBUS:
        die("a file that was being read shrank, or its disk failed: was the model replaced while "
            "optimum was running?");
    default:
        die("optimum crashed; if the model loads in llama.cpp, please report this as a bug");
    }
}

/* Under a sanitizer its own report says more. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static void install_last_words(void) {
    om_panic_hook(on_panic);
    struct sigaction action = { .sa_handler = on_crash, .sa_flags = (int) SA_RESETHAND };
    sigemptyset(&action.sa_mask);
    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
#if !defined(SANITIZED)
    static const int crashes[] = { SIGFPE, SIGILL, SIGSEGV };
    for (int i = 0; i < OM_COUNT(crashes); i++) {
        sigaction(crashes[i], &action, NULL);
    }
#endif
}

/* ---- output ---- */

/* stdout, with the errors that a full disk or a closed pipe give only at the end. */
static om_status print_out(const char *text, om_error *err) {
    errno = 0;
    if (fputs(text, stdout) == EOF || fflush(stdout) != 0 || ferror(stdout)) {
        return om_fail_errno(err, "cannot write the result to the standard output");
    }
    return OM_OK;
}

/* Print and release; a buffer that ran out of memory is an error. */
static om_status print_buf(om_buf *b, om_error *err) {
    char *text = om_buf_take(b);
    const om_status status = text == NULL ? om_fail_nomem(err, 0) : print_out(text, err);
    om_free(text);
    return status;
}

static int report_error(const om_error *err) {
    fprintf(stderr, "optimum: error: %s%s%s\n", err->where, err->where[0] != '\0' ? ": " : "",
            err->text);
    return exit_code_of(err->status);
}

static void put_overview(om_buf *b) {
    om_buf_puts(b, "optimum " OM_VERSION ": the best quantized model for a memory budget\n\n"
                   "usage: optimum COMMAND ...\n\ncommands:\n");
    for (int i = 0; om_commands[i] != NULL; i++) {
        om_buf_printf(b, "  %-12s %s\n", om_commands[i]->name, om_commands[i]->summary);
    }
    om_buf_puts(b, "\n'optimum COMMAND --help' says more and gives examples. To begin:\n"
                   "  optimum run model-bf16.gguf --memory 24GiB -o out\n\n"
                   "exit codes: 0 ok, 1 failure, 2 usage, 3 budget infeasible, 4 quality gate "
                   "failed,\n            5 not supported, 130 interrupted\n");
}

/* ---- commands ---- */

static om_status fail_command(const char *name, om_error *err) {
    enum { MAX_COMMANDS = 32 };
    const char *names[MAX_COMMANDS];
    int n = 0;
    while (n < MAX_COMMANDS && om_commands[n] != NULL) {
        names[n] = om_commands[n]->name;
        n++;
    }
    const char *near = om_opt_nearest(name, names, n);
    if (near != NULL) {
        return om_fail(err, OM_E_ARG, "unknown command '%.64s'; did you mean %s?", name, near);
    }
    return om_fail(err, OM_E_ARG, "unknown command '%.64s'; 'optimum help' lists the commands",
                   name);
}

/* completion, help, version: text only. */
static om_status run_words(const om_command *c, const om_word_args *args, om_error *err) {
    om_status status = OM_OK;
    om_buf b = { 0 };
    if (c == &om_cmd_completion) {
        om_completion_script(&b, args->word);
    } else if (c == &om_cmd_version) {
        om_buf_puts(&b, "optimum " OM_VERSION "\n");
    } else if (args->word == NULL) {
        put_overview(&b);
    } else {
        const om_command *about = om_command_find(args->word);
        if (about == NULL) {
            return fail_command(args->word, err);
        }
        om_opt_help(&b, about);
    }
    status = print_buf(&b, err);
    return status;
}

/* A verb with its hooks. Its failure is reported here, where the progress line is known. */
static int run_verb(const om_command *c, void *args, int argc, char **argv) {
    const om_common *common = args;
    om_status status = OM_OK;
    om_error err = { 0 };
    om_result result = { 0 };
    om_progress_view *view = NULL;
    const char *term = getenv("TERM");
    const om_progress_options options = {
        .stream = stderr,
        .tty = stderr_is_tty && term != NULL && strcmp(term, "dumb") != 0,
        .quiet = common->quiet,
        .verbose = common->verbose,
        .log_json = common->log_json,
        .command = c->name,
        .argc = argc,
        .argv = argv,
        .cancelled = is_cancelled,
    };
    if (om_progress_open(&view, &options, &err) != OM_OK) {
        return report_error(&err);
    }
    const om_env env = om_progress_env(view, common->n_threads);
    status = c->run(&result, args, &env, &err);
    om_progress_finish(view);
    /* a failed gate has a result worth reading as well */
    const char *text = common->json ? result.json : result.text;
    if (text != NULL) {
        om_error print_err = { 0 };
        if (print_out(text, &print_err) != OM_OK && status == OM_OK) {
            err = print_err;
            status = err.status;
        }
    }
    if (status != OM_OK) {
        err.status = status;
        om_progress_error(view, &err);
    }
    const int code = exit_code_of(status);
    om_progress_close(view, code);
    om_result_release(&result);
    return code;
}

static int run_command(const om_command *c, int argc, char **argv) {
    om_error err = { 0 };
    om_buf help = { 0 };
    int code = EXIT_OK;
    void *args = om_calloc(1, c->args_size);
    if (args == NULL) {
        (void) om_fail_nomem(&err, c->args_size);
        return report_error(&err);
    }
    if (om_opt_parse(args, c, argc, argv, &err) != OM_OK) {
        code = report_error(&err);
    } else if (((om_common *) args)->help) {
        om_opt_help(&help, c);
        code = print_buf(&help, &err) == OM_OK ? EXIT_OK : report_error(&err);
    } else if (c->run == NULL) {
        code = run_words(c, args, &err) == OM_OK ? EXIT_OK : report_error(&err);
    } else {
        code = run_verb(c, args, argc, argv);
    }
    om_opt_release(args, c);
    om_free(args);
    return code;
}

int main(int argc, char **argv) {
    om_error err = { 0 };
    install_signals();
    install_last_words();
    if (argc < 2) {
        (void) om_fail(&err, OM_E_ARG, "a command is missing; 'optimum help' lists the commands");
        return report_error(&err);
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        name = "version";
    } else if (name[0] == '-') {
        (void) om_fail(&err, OM_E_ARG,
                       "expected a command before the options, found '%.64s'; 'optimum help' lists "
                       "the commands",
                       name);
        return report_error(&err);
    }
    const om_command *command = om_command_find(name);
    if (command == NULL) {
        (void) fail_command(name, &err);
        return report_error(&err);
    }
    return run_command(command, argc - 2, argv + 2);
}
