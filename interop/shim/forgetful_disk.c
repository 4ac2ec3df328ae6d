/*
 * A disk that can forget, preloaded into the server under test (LD_PRELOAD). It keeps beside the files what is needed
 * to take back every change that was not synced; after a SIGKILL the test takes them back (interop/src/disk.rs), as if
 * the machine had stopped and not only the process. It can also fail calls, or end the process in the middle of one.
 *
 * What counts as durable is the strictest reading of POSIX: contents and length of a file by fsync or fdatasync of that
 * file, or by the write itself on an O_SYNC or O_DSYNC descriptor (that range alone); a name that was made, removed or
 * changed by fsync of its folder, and nothing else. A failed sync loses what it was to write for good: later syncs of
 * the file do not cover it, as Linux marks such pages clean.
 *
 * Changes that are not modelled end the process with a message: writable shared mappings (but for `lock.mdb`, which
 * holds nothing that outlives a process), fallocate, truncate by path, links, copies inside the kernel. A system call
 * that a program makes without the C library is not seen; the test compares whole folders to find such a hole.
 *
 * Environment: KVORUM_SHIM_FOLDER is the absolute path of the folder that is watched, KVORUM_SHIM_UNDO that of a folder
 * on the same file system for what is remembered. KVORUM_SHIM_DEAF (optional) is part of the paths whose syncs do
 * nothing. KVORUM_SHIM_FAULT (optional) is "<calls>,<part of a path>,<number>,<what>", where calls is write, sync or
 * any, the part may end with $ for the end of a path, the number counts matching calls from 1, and what is
 *   an errno       the call fails once; a failed write writes nothing
 *   an errno with + as in "28+": this call writes half and every later one fails
 *   before, after  the process kills itself before or after the call
 * Calls count from when there is a file `armed` in the folder for what is remembered. While there is a file `full`, what
 * needs room fails with ENOSPC; while there is a file `slow`, every sync first waits as many milliseconds as it says.
 *
 * It also lets a test tell who connects: KVORUM_SHIM_SOURCE (optional) is an address of the loopback that outgoing
 * connections get as theirs.
 *
 * What is remembered, in the machine's byte order: `file-<inode>` is a sequence of `struct change` with the old bytes
 * behind each; `names` a sequence of `struct naming` with the names behind each; `kept-<n>` are removed files and folders;
 * `failed-<inode>` is the length of `file-<inode>` at the last failed sync.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 65536
#define PATH_BYTES 1024

enum change_kind { CHANGE_WRITE = 1, CHANGE_TRUNCATE = 2, CHANGE_RANGE_SYNCED = 3, CHANGE_SYNCED = 4 };

/* For CHANGE_SYNCED, `offset` and `range` bound the part of the record file that is covered. */
struct change {
    uint64_t kind, offset, range, old_size, payload;
};

enum naming_kind { NAME_MADE = 1, NAME_REMOVED = 2, NAME_MOVED = 3, NAME_FOLDER_REMOVED = 4, NAME_SYNCED = 5 };

/* `kept` is the number of a kept file or folder, or 0. Behind it: name, 0, new name, 0. */
struct naming {
    uint64_t kind, folder, new_folder, kept, payload;
};

struct descriptor {
    ino_t inode;
    int is_folder, is_synced;
    char *path;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct descriptor descriptors[DESCRIPTORS_MAX];
static const char *folder, *undo, *deaf;
static uint64_t kept_count;

static struct {
    int matches_writes, matches_syncs, error, stays, kill_before, kill_after;
    long number, seen;
    char path[PATH_BYTES];
} fault;

static void die(const char *what, const char *path) {
    fprintf(stderr, "forgetful disk: %s: %s\n", what, path ? path : "");
    abort();
}

static int raw_open(const char *path, int flags, int mode) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

static void raw_close(int fd) { syscall(SYS_close, fd); }

static void set_up(void) {
    const char *text = getenv("KVORUM_SHIM_FAULT");
    char calls[16] = "", what[16] = "";
    undo = getenv("KVORUM_SHIM_UNDO");
    deaf = getenv("KVORUM_SHIM_DEAF");
    folder = getenv("KVORUM_SHIM_FOLDER");
    if (deaf && !*deaf)
        deaf = NULL;
    if (folder && !undo)
        die("KVORUM_SHIM_UNDO is missing", NULL);
    if (text && *text) {
        if (sscanf(text, "%15[^,],%1023[^,],%ld,%15s", calls, fault.path, &fault.number, what) != 4)
            die("cannot read KVORUM_SHIM_FAULT", text);
        fault.matches_writes = strcmp(calls, "sync") != 0;
        fault.matches_syncs = strcmp(calls, "write") != 0;
        fault.kill_before = strcmp(what, "before") == 0;
        fault.kill_after = strcmp(what, "after") == 0;
        fault.error = atoi(what);
        fault.stays = strchr(what, '+') != NULL;
    }
}

static int is_watched(const char *path) {
    pthread_once(&once, set_up);
    return folder && path && strncmp(path, folder, strlen(folder)) == 0 && !strstr(path, "/lock.mdb");
}

static void join(char *into, const char *name, uint64_t number) {
    if (number)
        snprintf(into, PATH_BYTES, "%s/%s%llu", undo, name, (unsigned long long)number);
    else
        snprintf(into, PATH_BYTES, "%s/%s", undo, name);
}

/* One write call, so that a process killed inside it leaves at most one record that is cut short. */
static void append(const char *record_path, const void *head, size_t head_bytes, const void *rest, size_t rest_bytes) {
    struct iovec parts[2] = {{(void *)head, head_bytes}, {(void *)rest, rest_bytes}};
    int fd = raw_open(record_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || syscall(SYS_writev, fd, parts, 2) != (long)(head_bytes + rest_bytes))
        die("cannot remember a change", record_path);
    raw_close(fd);
}

/* The descriptor's entry if it is a file or folder that is watched. A number that was given away since is not. */
static struct descriptor *find(int fd) {
    struct stat now;
    if (fd < 0 || fd >= DESCRIPTORS_MAX || !descriptors[fd].path)
        return NULL;
    if (syscall(SYS_fstat, fd, &now) != 0 || now.st_ino != descriptors[fd].inode)
        return NULL;
    return &descriptors[fd];
}

static int has_mark(const char *name) {
    char path[PATH_BYTES];
    join(path, name, 0);
    return access(path, F_OK) == 0;
}

/* Whether there is no room, with errno set. */
static int is_full(void) {
    if (!has_mark("full"))
        return 0;
    errno = ENOSPC;
    return 1;
}

static void wait_if_slow(void) {
    char path[PATH_BYTES], text[16] = "";
    join(path, "slow", 0);
    int fd = raw_open(path, O_RDONLY, 0);
    if (fd < 0)
        return;
    if (syscall(SYS_read, fd, text, sizeof text - 1) > 0)
        usleep((useconds_t)atoi(text) * 1000);
    raw_close(fd);
}

/* Whether the fault is about this path. */
static int is_meant(const char *path) {
    size_t part = strlen(fault.path), whole = strlen(path);
    if (part == 0 || fault.path[part - 1] != '$')
        return strstr(path, fault.path) != NULL;
    part--;
    return whole >= part && memcmp(path + whole - part, fault.path, part) == 0;
}

/* Counts a call. 0: go on. 1: fail with errno set. 2: write half. */
static int strike(const char *path, int is_sync) {
    pthread_once(&once, set_up);
    if (fault.number == 0 || !(is_sync ? fault.matches_syncs : fault.matches_writes) || !is_meant(path))
        return 0;
    if (fault.seen == 0) {
        char armed[PATH_BYTES];
        join(armed, "armed", 0);
        if (access(armed, F_OK) != 0)
            return 0;
    }
    fault.seen++;
    if (fault.seen == fault.number && fault.kill_before)
        raise(SIGKILL);
    if (fault.error == 0 || fault.seen < fault.number || (fault.seen > fault.number && !fault.stays))
        return 0;
    errno = fault.error;
    return fault.seen == fault.number && fault.stays && !is_sync ? 2 : 1;
}

static void strike_after(const char *path, int is_sync) {
    int matches = is_sync ? fault.matches_syncs : fault.matches_writes;
    if (fault.kill_after && fault.seen == fault.number && matches && is_meant(path))
        raise(SIGKILL);
}

/* Remembers what `offset..offset+range` held. `fd` may be write-only. */
static void remember(int fd, ino_t inode, enum change_kind kind, uint64_t offset, uint64_t range) {
    struct change change = {kind, offset, range, 0, 0};
    char path[PATH_BYTES], self[64];
    struct stat now;
    char *old = NULL;
    if (syscall(SYS_fstat, fd, &now) != 0)
        die("cannot look at a file", NULL);
    change.old_size = (uint64_t)now.st_size;
    if (offset < change.old_size) {
        uint64_t left = change.old_size - offset;
        change.payload = range < left ? range : left;
        old = malloc(change.payload);
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        int source = raw_open(self, O_RDONLY, 0);
        if (!old || source < 0)
            die("cannot read what is overwritten", self);
        for (uint64_t done = 0; done < change.payload;) {
            long count = syscall(SYS_pread64, source, old + done, change.payload - done, offset + done);
            if (count <= 0)
                die("cannot read what is overwritten", self);
            done += (uint64_t)count;
        }
        raw_close(source);
    }
    join(path, "file-", inode);
    append(path, &change, sizeof change, old, change.payload);
    free(old);
}

static int is_deaf(const char *path) { return deaf && strstr(path, deaf); }

static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset, int has_offset) {
    struct descriptor *file;
    ssize_t result;
    pthread_mutex_lock(&lock);
    file = find(fd);
    if (!file) {
        pthread_mutex_unlock(&lock);
        return has_offset ? syscall(SYS_pwritev, fd, parts, count, offset, 0) : syscall(SYS_writev, fd, parts, count);
    }
    if (!has_offset) {
        int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
        offset = syscall(SYS_lseek, fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
    }
    uint64_t range = 0;
    for (int i = 0; i < count; i++)
        range += parts[i].iov_len;
    struct iovec half;
    int struck = is_full() ? 1 : strike(file->path, 0);
    if (struck == 2 && range > 1) {
        half.iov_base = parts[0].iov_base;
        half.iov_len = parts[0].iov_len / 2;
        parts = &half;
        count = 1;
        range = half.iov_len;
        struck = 0;
    }
    if (struck) {
        pthread_mutex_unlock(&lock);
        return -1;
    }
    remember(fd, file->inode, CHANGE_WRITE, (uint64_t)offset, range);
    result = has_offset ? syscall(SYS_pwritev, fd, parts, count, offset, 0) : syscall(SYS_writev, fd, parts, count);
    int error = errno;
    if (result > 0 && file->is_synced && !is_deaf(file->path)) {
        struct change synced = {CHANGE_RANGE_SYNCED, (uint64_t)offset, (uint64_t)result, 0, 0};
        char path[PATH_BYTES];
        join(path, "file-", file->inode);
        append(path, &synced, sizeof synced, NULL, 0);
    }
    strike_after(file->path, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct iovec part = {(void *)bytes, count};
    /* Most calls are to sockets and pipes. */
    if (fd < 0 || fd >= DESCRIPTORS_MAX || !descriptors[fd].path)
        return syscall(SYS_write, fd, bytes, count);
    return write_parts(fd, &part, 1, 0, 0);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (fd < 0 || fd >= DESCRIPTORS_MAX || !descriptors[fd].path)
        return syscall(SYS_writev, fd, parts, count);
    return write_parts(fd, parts, count, 0, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    struct iovec part = {(void *)bytes, count};
    return write_parts(fd, &part, 1, offset, 1);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) { return pwrite(fd, bytes, count, offset); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return write_parts(fd, parts, count, offset, 1);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return write_parts(fd, parts, count, offset, 1);
}

int ftruncate(int fd, off_t length) {
    struct descriptor *file;
    pthread_mutex_lock(&lock);
    file = find(fd);
    if (file) {
        struct stat now;
        syscall(SYS_fstat, fd, &now);
        /* To cut a file needs no room. */
        if (length > now.st_size && is_full()) {
            pthread_mutex_unlock(&lock);
            return -1;
        }
        if (strike(file->path, 0) && length > now.st_size) {
            pthread_mutex_unlock(&lock);
            return -1;
        }
        remember(fd, file->inode, CHANGE_TRUNCATE, (uint64_t)length,
                 now.st_size > length ? (uint64_t)(now.st_size - length) : 0);
    }
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (file)
        strike_after(file->path, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

/* Everything remembered of the file before the sync began is covered by it, but for what a failed sync lost. */
static void forget_file(ino_t inode, uint64_t until) {
    struct change synced = {CHANGE_SYNCED, 0, 0, 0, 0};
    char path[PATH_BYTES], failed[PATH_BYTES];
    struct stat now;
    join(path, "file-", inode);
    join(failed, "failed-", inode);
    int fd = raw_open(failed, O_RDONLY, 0);
    if (fd >= 0) {
        if (syscall(SYS_read, fd, &synced.offset, sizeof synced.offset) != sizeof synced.offset)
            synced.offset = 0;
        raw_close(fd);
    }
    if (stat(path, &now) != 0)
        return;
    if (synced.offset == 0 && (uint64_t)now.st_size == until) {
        fd = raw_open(path, O_WRONLY | O_TRUNC, 0);
        raw_close(fd);
        return;
    }
    synced.range = until > synced.offset ? until - synced.offset : 0;
    append(path, &synced, sizeof synced, NULL, 0);
}

static int sync_descriptor(int fd, long call) {
    struct descriptor *file;
    char record[PATH_BYTES];
    struct stat now;
    pthread_mutex_lock(&lock);
    file = find(fd);
    if (!file) {
        pthread_mutex_unlock(&lock);
        return (int)syscall(call, fd);
    }
    struct descriptor copy = *file;
    pthread_mutex_unlock(&lock);
    wait_if_slow();
    pthread_mutex_lock(&lock);
    uint64_t until = 0;
    join(record, "file-", copy.inode);
    if (stat(record, &now) == 0)
        until = (uint64_t)now.st_size;
    if (strike(copy.path, 1)) {
        int error = errno;
        char failed[PATH_BYTES];
        join(failed, "failed-", copy.inode);
        int mark = raw_open(failed, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (mark < 0 || syscall(SYS_write, mark, &until, sizeof until) != sizeof until)
            die("cannot remember a failed sync", failed);
        raw_close(mark);
        pthread_mutex_unlock(&lock);
        errno = error;
        return -1;
    }
    pthread_mutex_unlock(&lock);
    int result = (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    if (result == 0 && !is_deaf(copy.path)) {
        if (copy.is_folder) {
            struct naming synced = {NAME_SYNCED, copy.inode, 0, 0, 0};
            char path[PATH_BYTES];
            join(path, "names", 0);
            append(path, &synced, sizeof synced, NULL, 0);
        } else {
            forget_file(copy.inode, until);
        }
    }
    strike_after(copy.path, 1);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_descriptor(fd, SYS_fsync); }

int fdatasync(int fd) { return sync_descriptor(fd, SYS_fdatasync); }

static ino_t inode_of(const char *path) {
    struct stat now;
    return lstat(path, &now) == 0 ? now.st_ino : 0;
}

static ino_t parent_of(const char *path, const char **name) {
    char parent[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    *name = slash + 1;
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    return inode_of(parent);
}

static void remember_name(enum naming_kind kind, const char *path, const char *new_path, uint64_t kept) {
    const char *name, *new_name = "";
    struct naming naming = {kind, parent_of(path, &name), 0, kept, 0};
    char names[2 * PATH_BYTES], record[PATH_BYTES];
    if (new_path)
        naming.new_folder = parent_of(new_path, &new_name);
    naming.payload = (uint64_t)snprintf(names, sizeof names, "%s%c%s", name, 0, new_name) + 1;
    join(record, "names", 0);
    append(record, &naming, sizeof naming, names, naming.payload);
}

static void free_kept(char *kept) {
    do
        join(kept, "kept-", ++kept_count);
    while (access(kept, F_OK) == 0);
}

/* Gives a file that is to go a second name, under which it can be brought back. */
static uint64_t keep(const char *path) {
    char kept[PATH_BYTES];
    free_kept(kept);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0) != 0)
        die("cannot keep a file", path);
    return kept_count;
}

static int open_at(int at, const char *path, int flags, int mode) {
    char whole[PATH_BYTES];
    /* Only the removal of a folder opens names relative to another descriptor. */
    int watched = is_watched(path) && path[0] == '/';
    if (watched) {
        pthread_mutex_lock(&lock);
        int writes = (flags & O_CREAT && access(path, F_OK) != 0) || (flags & O_TRUNC);
        if (writes && (is_full() || strike(path, 0))) {
            pthread_mutex_unlock(&lock);
            return -1;
        }
        if (flags & O_CREAT && access(path, F_OK) != 0) {
            remember_name(NAME_MADE, path, NULL, 0);
        } else if (flags & O_TRUNC) {
            int old = raw_open(path, O_RDONLY, 0);
            struct stat now;
            if (old >= 0 && syscall(SYS_fstat, old, &now) == 0)
                remember(old, now.st_ino, CHANGE_TRUNCATE, 0, (uint64_t)now.st_size);
            raw_close(old);
        }
    }
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (watched) {
        struct stat now;
        int error = errno;
        if (fd >= 0 && fd < DESCRIPTORS_MAX && syscall(SYS_fstat, fd, &now) == 0) {
            snprintf(whole, sizeof whole, "%s", path);
            free(descriptors[fd].path);
            descriptors[fd].path = strdup(whole);
            descriptors[fd].inode = now.st_ino;
            descriptors[fd].is_folder = S_ISDIR(now.st_mode);
            descriptors[fd].is_synced = (flags & (O_SYNC | O_DSYNC)) != 0;
        }
        if (flags & (O_CREAT | O_TRUNC))
            strike_after(path, 0);
        pthread_mutex_unlock(&lock);
        errno = error;
    }
    return fd;
}

static int mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, int) : 0;
}

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        int mode = mode_of(flags, arguments);                                                                          \
        va_end(arguments);                                                                                             \
        return open_at(AT_FDCWD, path, flags, mode);                                                                   \
    }
#define OPENS_AT(name)                                                                                                 \
    int name(int at, const char *path, int flags, ...) {                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        int mode = mode_of(flags, arguments);                                                                          \
        va_end(arguments);                                                                                             \
        return open_at(at, path, flags, mode);                                                                         \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < DESCRIPTORS_MAX && descriptors[fd].path) {
        pthread_mutex_lock(&lock);
        free(descriptors[fd].path);
        descriptors[fd].path = NULL;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}

/* Runs one call that changes names, between what is remembered before it and the faults. */
#define NAMING_CALL(path, remembering, call)                                                                           \
    int result;                                                                                                        \
    if (!is_watched(path))                                                                                             \
        return (int)(call);                                                                                            \
    pthread_mutex_lock(&lock);                                                                                         \
    if (strike(path, 0)) {                                                                                             \
        pthread_mutex_unlock(&lock);                                                                                   \
        return -1;                                                                                                     \
    }                                                                                                                  \
    remembering;                                                                                                       \
    result = (int)(call);                                                                                              \
    strike_after(path, 0);                                                                                             \
    pthread_mutex_unlock(&lock);                                                                                       \
    return result

int mkdir(const char *path, mode_t mode) {
    NAMING_CALL(path, if (inode_of(path) == 0) remember_name(NAME_MADE, path, NULL, 0),
                syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

/* The folder, which the caller has emptied, moves away, so that no other file gets its inode number. */
int rmdir(const char *path) {
    char kept[PATH_BYTES];
    if (!is_watched(path))
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
    free_kept(kept);
    NAMING_CALL(path, remember_name(NAME_FOLDER_REMOVED, path, NULL, kept_count),
                syscall(SYS_renameat, AT_FDCWD, path, AT_FDCWD, kept));
}

int unlink(const char *path) {
    NAMING_CALL(path, if (inode_of(path) != 0) remember_name(NAME_REMOVED, path, NULL, keep(path)),
                syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

/* A name that is in the way of a folder is an empty folder: there is nothing to keep. */
int rename(const char *path, const char *new_path) {
    struct stat now;
    NAMING_CALL(path,
                remember_name(NAME_MOVED, path, new_path,
                              lstat(new_path, &now) == 0 && S_ISREG(now.st_mode) ? keep(new_path) : 0),
                syscall(SYS_renameat, AT_FDCWD, path, AT_FDCWD, new_path));
}

/* The removal of a whole folder names its entries relative to it. */
int unlinkat(int at, const char *path, int flags) {
    char self[64], whole[PATH_BYTES];
    ssize_t length = 0;
    pthread_once(&once, set_up);
    if (path[0] != '/' && at != AT_FDCWD) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", at);
        length = readlink(self, whole, sizeof whole - 1);
        if (length < 0)
            length = 0;
        snprintf(whole + length, sizeof whole - (size_t)length, "/%s", path);
    } else {
        snprintf(whole, sizeof whole, "%s", path);
    }
    if (!is_watched(whole))
        return (int)syscall(SYS_unlinkat, at, path, flags);
    return flags & AT_REMOVEDIR ? rmdir(whole) : unlink(whole);
}

/* Connections to the loopback come from an address of its own for each process. */
int connect(int fd, const struct sockaddr *address, socklen_t length) {
    const char *text = getenv("KVORUM_SHIM_SOURCE");
    struct sockaddr_in source = {.sin_family = AF_INET};
    if (text && address && address->sa_family == AF_INET && inet_pton(AF_INET, text, &source.sin_addr) == 1) {
        int yes = 1;
        /* Where these fail, the connection comes from the usual address, which the test refuses. */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
        if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0)
            errno = 0;
    }
    return (int)syscall(SYS_connect, fd, address, length);
}

/* What is not modelled. */

static void refuse(int fd, const char *what) {
    struct descriptor *file = find(fd);
    if (file)
        die(what, file->path);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && protection & PROT_WRITE && flags & MAP_SHARED)
        refuse(fd, "a writable shared mapping");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    refuse(fd, "fallocate");
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }

int posix_fallocate(int fd, off_t offset, off_t length) { return fallocate(fd, 0, offset, length) ? errno : 0; }

int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t length, unsigned flags) {
    refuse(target, "copy_file_range");
    return syscall(SYS_copy_file_range, source, from, target, to, length, flags);
}

int truncate(const char *path, off_t length) {
    if (is_watched(path))
        die("truncate", path);
    return (int)syscall(SYS_truncate, path, length);
}

int truncate64(const char *path, off64_t length) { return truncate(path, length); }

int link(const char *path, const char *new_path) {
    if (is_watched(new_path))
        die("link", new_path);
    return (int)syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, new_path, 0);
}
