/* A small registry of temporary files and directories, and the removal of leftovers.
 *
 * A signal handler must be able to remove what is under construction: the slots are atomic
 * pointers, and whoever takes a pointer out of its slot owns the string. Normal code adds and
 * searches under a mutex; the handler only exchanges, unlinks and removes empty directories. */
#include "base/temporary.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

/* A directory under construction has a slot, and each of its files: shards of 5 GiB, and a dozen
 * small ones. */
enum { MAX_TEMPORARIES = 1024 };

static _Atomic(char *) temporaries[MAX_TEMPORARIES];
static pthread_mutex_t temporaries_lock = PTHREAD_MUTEX_INITIALIZER;

bool om_temporary_add(char *tmp, bool *busy) {
    int free_slot = -1;
    *busy = false;
    pthread_mutex_lock(&temporaries_lock);
    for (int i = 0; i < MAX_TEMPORARIES; i++) {
        const char *other = atomic_load(&temporaries[i]);
        if (other == NULL) {
            free_slot = free_slot < 0 ? i : free_slot;
        } else if (strcmp(other, tmp) == 0) {
            *busy = true;
        }
    }
    const bool ok = !*busy && free_slot >= 0;
    if (ok) {
        atomic_store(&temporaries[free_slot], tmp);
    }
    pthread_mutex_unlock(&temporaries_lock);
    return ok;
}

bool om_temporary_take(char *tmp) {
    bool taken = false;
    pthread_mutex_lock(&temporaries_lock);
    for (int i = 0; i < MAX_TEMPORARIES && !taken; i++) {
        char *expected = tmp;
        taken = atomic_compare_exchange_strong(&temporaries[i], &expected, NULL);
    }
    pthread_mutex_unlock(&temporaries_lock);
    return taken;
}

void om_atomic_abort_all(void) {
    static const char *directories[MAX_TEMPORARIES]; /* not on a signal's small stack */
    const int saved = errno;
    int n = 0;
    for (int i = 0; i < MAX_TEMPORARIES; i++) {
        const char *tmp = atomic_exchange(&temporaries[i], NULL);
        if (tmp != NULL && unlink(tmp) != 0 && errno != ENOENT) {
            directories[n++] = tmp; /* its files may have later slots */
        }
    }
    for (int i = 0; i < n; i++) {
        (void) rmdir(directories[i]);
    }
    errno = saved;
}

/* ---- leftovers ---- */

/* The PID in "NAME.tmp.PID" (or in the temporary of such a one, "NAME.tmp.PID.tmp.PID"), or 0 when
 * `entry` is no temporary of `name`. */
static pid_t temporary_pid(const char *entry, const char *name) {
    const size_t len = strlen(name);
    if (strncmp(entry, name, len) != 0 || strncmp(entry + len, ".tmp.", 5) != 0) {
        return 0;
    }
    const char *digits = entry + len + 5;
    long pid = 0;
    for (; *digits >= '0' && *digits <= '9' && pid < 100000000; digits++) {
        pid = pid * 10 + (*digits - '0');
    }
    return *digits == '\0' || strncmp(digits, ".tmp.", 5) == 0 ? (pid_t) pid : 0;
}

void om_directory_remove(int parent, const char *name) {
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        (void) unlinkat(dirfd(d), e->d_name, 0); /* fails for "." and ".." */
    }
    closedir(d);
    (void) unlinkat(parent, name, AT_REMOVEDIR);
}

void om_temporary_clean(const char *dir, const char *path) {
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    DIR *d = opendir(dir);
    if (d == NULL) {
        return;
    }
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        const pid_t pid = temporary_pid(e->d_name, name);
        if (pid > 0 && pid != getpid() && kill(pid, 0) != 0 && errno == ESRCH &&
            unlinkat(dirfd(d), e->d_name, 0) != 0) {
            om_directory_remove(dirfd(d), e->d_name);
        }
    }
    closedir(d);
}

/* ---- the fault point ---- */

static atomic_long fail_countdown;

void om_file_fail_at(long n) {
    atomic_store(&fail_countdown, n > 0 ? n : 0);
}

bool om_file_should_fail(void) {
    long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) {
            errno = ENOSPC;
            return left == 1;
        }
    }
    return false;
}

/* ---- directories ---- */

char *om_directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return om_strdup(".");
    }
    return slash == path ? om_strdup("/") : om_strndup(path, (size_t) (slash - path));
}

void om_directory_sync(const char *dir) {
    const int fd = open(dir, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void) fsync(fd);
        close(fd);
    }
}
