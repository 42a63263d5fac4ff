/* posix_spawn with three redirections, then poll until both pipes are at their end.
 *
 * The input lies in an unlinked file instead of a pipe: nothing to feed while reading, and a child
 * that does not read it sends us no SIGPIPE.
 */
#include "base/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

extern char **environ;

enum { POLL_MS = 100, GRACE_MS = 2000, DEFAULT_MAX_OUTPUT = 1 << 20, MAX_LINE = 1000 };

enum { FROM_OUT, FROM_ERR, N_PIPES };

typedef struct running {
    pid_t pid;
    int fds[N_PIPES]; /* what we read; -1: at its end */
    om_buf line;      /* of its standard error, unfinished */
    om_child_result *result;
    size_t max_output;
    const om_env *env;
} running;

/* ---- descriptors ---- */

static void close_fd(int *fd) {
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* Closed in the child, and not one of the three it gets: dup2 onto itself would not clear the flag.
 * -1 with errno. */
static int out_of_the_way(int fd) {
    const int moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    const int saved = errno;
    close(fd);
    errno = saved;
    return moved;
}

static int open_pipe(int ends[2]) {
    if (pipe(ends) != 0) {
        ends[0] = ends[1] = -1;
        return -1;
    }
    ends[0] = out_of_the_way(ends[0]);
    ends[1] = out_of_the_way(ends[1]);
    return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

/* The input as an open file without a name. -1 with errno. */
static int open_input(const om_child *child) {
    FILE *f = tmpfile();
    int fd = -1;
    if (f == NULL) {
        return -1;
    }
    if ((child->n_input == 0 || fwrite(child->input, 1, child->n_input, f) == child->n_input) &&
        fflush(f) == 0 && lseek(fileno(f), 0, SEEK_SET) == 0) {
        fd = fcntl(fileno(f), F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    }
    const int saved = errno;
    fclose(f);
    errno = saved;
    return fd;
}

/* ---- start ---- */

static int spawn(running *r, const om_child *child, int input, int out, int error) {
    posix_spawn_file_actions_t actions;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc != 0) {
        return rc;
    }
    rc = posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    rc = rc != 0 ? rc : posix_spawn_file_actions_adddup2(&actions, error, STDERR_FILENO);
    if (rc == 0) {
        /* POSIX takes the strings as not const and does not change them */
        rc = posix_spawnp(&r->pid, child->argv[0], &actions, NULL,
                          (char *const *) (uintptr_t) child->argv, environ);
    }
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

static om_status start(running *r, const om_child *child, om_error *err) {
    om_status status = OM_OK;
    int input = -1, out[2] = { -1, -1 }, error[2] = { -1, -1 };
    input = open_input(child);
    if (input < 0 || open_pipe(out) != 0 || open_pipe(error) != 0) {
        status = om_fail_errno(err, "cannot start %s", child->argv[0]);
        goto out;
    }
    const int rc = spawn(r, child, input, out[1], error[1]);
    if (rc != 0) {
        errno = rc;
        status = om_fail_errno(err, "cannot start %s", child->argv[0]);
        goto out;
    }
    r->fds[FROM_OUT] = out[0];
    r->fds[FROM_ERR] = error[0];
    out[0] = error[0] = -1;
out:
    close_fd(&input);
    close_fd(&out[0]);
    close_fd(&out[1]);
    close_fd(&error[0]);
    close_fd(&error[1]);
    return status;
}

/* ---- collect ---- */

static void end_line(running *r) {
    const char *text = r->line.data != NULL ? r->line.data : "";
    if (text[strspn(text, " \t")] != '\0') {
        om_log(r->env, OM_LOG_DEBUG, "%s", text);
        snprintf(r->result->last_line, sizeof r->result->last_line, "%s", text);
    }
    om_buf_release(&r->line);
}

/* Progress bars end their lines in carriage returns. */
static void take_errors(running *r, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n' || text[i] == '\r') {
            end_line(r);
        } else if (text[i] != '\0' && r->line.len < MAX_LINE) {
            om_buf_add(&r->line, text + i, 1);
        }
    }
}

static om_status take(running *r, int which, om_error *err) {
    char text[4096];
    const ssize_t n = read(r->fds[which], text, sizeof text);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return OM_OK;
    }
    if (n <= 0) {
        close_fd(&r->fds[which]);
    } else if (which == FROM_ERR) {
        take_errors(r, text, (size_t) n);
    } else {
        om_buf_add(&r->result->output, text, (size_t) n);
        if (r->result->output.failed) {
            return om_fail_nomem(err, r->result->output.len);
        }
        if (r->result->output.len > r->max_output) {
            return om_fail(err, OM_E_LIMIT, "expected at most %zu bytes of output, found more",
                           r->max_output);
        }
    }
    return OM_OK;
}

static om_status collect(running *r, om_error *err) {
    om_status status = OM_OK;
    while (r->fds[FROM_OUT] >= 0 || r->fds[FROM_ERR] >= 0) {
        struct pollfd polled[N_PIPES];
        for (int i = 0; i < N_PIPES; i++) {
            polled[i] = (struct pollfd){ .fd = r->fds[i], .events = POLLIN };
        }
        OM_TRY(om_check_cancel(r->env, err));
        if (poll(polled, N_PIPES, POLL_MS) < 0 && errno != EINTR) {
            return om_fail_errno(err, "cannot read what the program prints");
        }
        for (int i = 0; i < N_PIPES; i++) {
            if (r->fds[i] >= 0 && polled[i].revents != 0) {
                OM_TRY(take(r, i, err));
            }
        }
    }
out:
    return status;
}

/* ---- end ---- */

static void pause_ms(long ms) {
    const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

/* true: it has ended (or is not ours to wait for). */
static bool ended(running *r) {
    int how = 0;
    const pid_t pid = waitpid(r->pid, &how, WNOHANG);
    if (pid == 0 || (pid < 0 && errno == EINTR)) {
        return false;
    }
    if (pid == r->pid) {
        r->result->exit_code = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    }
    r->pid = 0;
    return true;
}

static void stop(running *r) {
    if (r->pid <= 0) {
        return;
    }
    (void) kill(r->pid, SIGTERM);
    for (int waited = 0; waited < GRACE_MS; waited += 10) {
        if (ended(r)) {
            return;
        }
        pause_ms(10);
    }
    (void) kill(r->pid, SIGKILL);
    while (!ended(r)) {
        pause_ms(1);
    }
}

om_status om_child_run(om_child_result *out, const om_child *child, const om_env *env,
                       om_error *err) {
    om_status status = OM_OK;
    om_child_result result = { .exit_code = -1 };
    running r = { .fds = { -1, -1 },
                  .result = &result,
                  .max_output = child->max_output > 0 ? child->max_output : DEFAULT_MAX_OUTPUT,
                  .env = env };
    OM_TRY(start(&r, child, err));
    OM_TRY(collect(&r, err));
    end_line(&r);
    while (!ended(&r)) { /* it may close both pipes and go on */
        OM_TRY(om_check_cancel(env, err));
        pause_ms(10);
    }
    *out = result;
    result = (om_child_result){ 0 };
out:
    stop(&r);
    close_fd(&r.fds[FROM_OUT]);
    close_fd(&r.fds[FROM_ERR]);
    om_buf_release(&r.line);
    om_child_result_release(&result);
    return status;
}

void om_child_result_release(om_child_result *result) {
    om_buf_release(&result->output);
    *result = (om_child_result){ 0 };
}
