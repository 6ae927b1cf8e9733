/* Faults of a file system, injected into a process that preloads this library.
 *
 * FAULT_UNDER   only files whose path begins with this are touched (required)
 * FAULT_KIND    full:BYTES  writes fail with ENOSPC once so many bytes were written
 *               write:N, fsync:N, fsyncdir:N   the N-th such call fails with EIO
 *               short       writes take at most 7 bytes or are interrupted, in turn
 *               readonly    everything that changes the file system fails with EROFS
 *               none        nothing fails
 * FAULT_LOG     a file that gets one line for each call, in order
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int has_prefix(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int is_kind(const char *name, long *number) {
    const char *kind = getenv("FAULT_KIND");
    size_t length = strlen(name);
    if (!kind || strncmp(kind, name, length) != 0 || (kind[length] && kind[length] != ':'))
        return 0;
    if (number)
        *number = kind[length] ? atol(kind + length + 1) : 0;
    return 1;
}

static void note(const char *call, const char *first, const char *second) {
    static int log = -1;
    char line[3 * PATH_MAX];
    const char *path = getenv("FAULT_LOG");
    if (!path)
        return;
    if (log < 0)
        log = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, first, second);
    if (log >= 0 && REAL(write)(log, line, length) != length)
        abort();
}

static const char *path_of(int handle, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

static int is_folder(int handle) {
    struct stat status;
    return fstat(handle, &status) == 0 && S_ISDIR(status.st_mode);
}

static int refused(const char *path) {
    if (has_prefix(path) && is_kind("readonly", NULL)) {
        errno = EROFS;
        return 1;
    }
    return 0;
}

ssize_t write(int handle, const void *data, size_t size) {
    static long calls, written;
    char buffer[PATH_MAX];
    long number;
    if (!has_prefix(path_of(handle, buffer)))
        return REAL(write)(handle, data, size);
    calls++;
    if (is_kind("full", &number)) {
        if (written >= number) {
            errno = ENOSPC;
            return -1;
        }
        if ((long)size > number - written)
            size = number - written;
    }
    if (is_kind("write", &number) && calls == number) {
        errno = EIO;
        return -1;
    }
    if (is_kind("short", NULL)) {
        if (calls % 2) {
            errno = EINTR;
            return -1;
        }
        size = size < 7 ? size : 7;
    }
    ssize_t done = REAL(write)(handle, data, size);
    written += done > 0 ? done : 0;
    note("write", buffer, "");
    return done;
}

int fsync(int handle) {
    static long files, folders;
    char buffer[PATH_MAX];
    long number;
    if (!has_prefix(path_of(handle, buffer)))
        return REAL(fsync)(handle);
    int folder = is_folder(handle);
    long calls = folder ? ++folders : ++files;
    if (is_kind(folder ? "fsyncdir" : "fsync", &number) && calls == number) {
        errno = EIO;
        return -1;
    }
    note("fsync", buffer, "");
    return REAL(fsync)(handle);
}

static int changing(int flags) {
    return flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC);
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        mode_t mode = va_arg(rest, mode_t);               \
        va_end(rest);                                     \
        if (changing(flags) && refused(path))             \
            return -1;                                    \
        if (has_prefix(path))                             \
            note("open", path, "");                       \
        return REAL(name)(path, flags, mode);             \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    return refused(path) ? -1 : REAL(mkdir)(path, mode);
}

int link(const char *from, const char *to) {
    if (refused(to))
        return -1;
    int result = REAL(link)(from, to);
    if (result == 0 && has_prefix(to))
        note("link", from, to);
    return result;
}

int rename(const char *from, const char *to) {
    if (refused(to))
        return -1;
    if (has_prefix(to))
        note("rename", from, to);
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (refused(path))
        return -1;
    if (has_prefix(path))
        note("unlink", path, "");
    return REAL(unlink)(path);
}
