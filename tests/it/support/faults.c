/* Faults of the disk for one program, by LD_PRELOAD: system calls on files whose path begins with $FAULT_PATH fail as
 * the file $FAULTS says, a fault a line: CALL ERRNO [once]. Every such call is noted in $FAULT_LOG. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct timespec read_at;
static char used[8][16];
static int used_count;

static int is_ours(const char *path) {
  const char *prefix = getenv("FAULT_PATH");
  return prefix && path && strncmp(path, prefix, strlen(prefix)) == 0;
}

static const char *path_of(int fd, char *buffer, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, buffer, size - 1);
  if (length < 0) return NULL;
  buffer[length] = 0;
  return buffer;
}

static void note(const char *call, const char *path, int error) {
  const char *name = getenv("FAULT_LOG");
  int fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (fd < 0) return;
  char line[512];
  const char *base = strrchr(path, '/');
  int length = snprintf(line, sizeof line, "%s %s %d\n", call, base ? base + 1 : path, error);
  (void)!syscall(SYS_write, fd, line, (size_t)length);
  syscall(SYS_close, fd);
}

/* The error that this call is to fail with; 0 if none. */
static int fault(const char *call, const char *path) {
  if (!is_ours(path)) return 0;
  const char *name = getenv("FAULTS");
  int error = 0, fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0) : -1;
  if (fd >= 0) {
    char text[1024];
    struct stat about;
    fstat(fd, &about);
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[length > 0 ? length : 0] = 0;
    if (memcmp(&about.st_mtim, &read_at, sizeof read_at)) {
      read_at = about.st_mtim;
      used_count = 0;
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
      char wanted[16], once[16] = "";
      int number = 0;
      if (sscanf(line, "%15s %d %15s", wanted, &number, once) < 2 || strcmp(wanted, call)) continue;
      int spent = 0;
      for (int n = 0; n < used_count; n++) spent |= !strcmp(used[n], call);
      if (*once && spent) continue;
      if (*once && used_count < 8) strcpy(used[used_count++], wanted);
      error = number;
    }
  }
  note(call, path, error);
  errno = error;
  return error;
}

#define ON_FD(call, fd, otherwise)                                     \
  do {                                                                 \
    char buffer[4096];                                                 \
    const char *path = path_of(fd, buffer, sizeof buffer);             \
    if (path && fault(call, path)) return -1;                          \
    return otherwise;                                                  \
  } while (0)
#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd) { ON_FD("fsync", fd, (int)syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { ON_FD("fsync", fd, (int)syscall(SYS_fdatasync, fd)); }
ssize_t write(int fd, const void *data, size_t size) { ON_FD("write", fd, syscall(SYS_write, fd, data, size)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { ON_FD("write", fd, syscall(SYS_pwrite64, fd, data, size, at)); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { ON_FD("write", fd, syscall(SYS_pwrite64, fd, data, size, at)); }
ssize_t read(int fd, void *data, size_t size) { ON_FD("read", fd, syscall(SYS_read, fd, data, size)); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { ON_FD("read", fd, syscall(SYS_pread64, fd, data, size, at)); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { ON_FD("read", fd, syscall(SYS_pread64, fd, data, size, at)); }
int ftruncate(int fd, off_t size) { ON_FD("truncate", fd, (int)syscall(SYS_ftruncate, fd, size)); }
int ftruncate64(int fd, off64_t size) { ON_FD("truncate", fd, (int)syscall(SYS_ftruncate, fd, size)); }
int posix_fallocate(int fd, off_t at, off_t size) {
  char buffer[4096];
  const char *path = path_of(fd, buffer, sizeof buffer);
  int error = path ? fault("write", path) : 0;
  return error ? error : REAL(int (*)(int, off_t, off_t), "posix_fallocate")(fd, at, size);
}
int rename(const char *from, const char *to) {
  return fault("rename", from) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int unlink(const char *path) { return fault("unlink", path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0); }

static int open_as(const char *path, int flags, int mode) {
  int writes = (flags & O_ACCMODE) != O_RDONLY;
  if (fault(writes ? "open" : "openr", path)) return -1;
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
#define MODE(flags, mode)                           \
  int mode = 0;                                     \
  if ((flags) & (O_CREAT | O_TMPFILE)) {            \
    va_list more;                                   \
    va_start(more, flags);                          \
    mode = va_arg(more, int);                       \
    va_end(more);                                   \
  }
int open(const char *path, int flags, ...) { MODE(flags, mode) return open_as(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return open_as(path, flags, mode); }
