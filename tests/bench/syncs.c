/* Counts how often a process asks the disk: preloaded by the bench, read through `syncs()`. */
#define _GNU_SOURCE
#include <dlfcn.h>

static long count;

long syncs(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }

static int counted(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return real(file);
}

int fsync(int file) { return counted("fsync", file); }

int fdatasync(int file) { return counted("fdatasync", file); }
