/* Faults of a disk and of a clock, for a process that is started with this in LD_PRELOAD.

   FAULTS_FILE names a file of 64 bytes that the test writes while the process runs:
   byte 0: 0 nothing, else the errno that a write to the ledger fails with (EIO, ENOSPC, EROFS);
   byte 1: the same for its syncs; bytes 4 to 7: microseconds that each sync takes longer (int);
   bytes 8 to 15: seconds by which the wall clock is off (long); bytes 16 to 23: syncs of the ledger so far (long).
   Only files whose name contains "ledger.db" are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct faults { unsigned char write_error, sync_error, unused[2]; int sync_us; long clock_s; long syncs; };

static volatile struct faults none, *faults = &none;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULTS_FILE");
    int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) faults = map;
    close(file);
}

static int is_ledger(int file) {
    char link[40], name[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) return 0;
    name[length] = 0;
    return strstr(name, "ledger.db") != NULL;
}

static int bad_write(int file) {
    if (!faults->write_error || !is_ledger(file)) return 0;
    errno = faults->write_error;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    return bad_write(file) ? -1 : real(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return bad_write(file) ? -1 : real(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return bad_write(file) ? -1 : real(file, data, size, at);
}

static int bad_sync(int file) {
    if (!is_ledger(file)) return 0;
    faults->syncs++;
    if (faults->sync_us) usleep(faults->sync_us);
    if (!faults->sync_error) return 0;
    errno = faults->sync_error;
    return 1;
}
int fsync(int file) {
    REAL(fsync);
    return bad_sync(file) ? -1 : real(file);
}
int fdatasync(int file) {
    REAL(fdatasync);
    return bad_sync(file) ? -1 : real(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    REAL(clock_gettime);
    int told = real(clock, at);
    if (!told && clock == CLOCK_REALTIME) at->tv_sec += faults->clock_s;
    return told;
}
