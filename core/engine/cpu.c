/* SPDX-License-Identifier: Apache-2.0
 * What the machine is, for reports, and what the process must set once. */
#if defined(__linux__)
#include <malloc.h>
#endif
#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/engine/engine.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char cpu_name[128] = "unknown", isa_names[128] = "baseline", blas_name[128] = "BLAS";

static void read_cpu_name(void)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(cpu_name, sizeof cpu_name, "%.*s", (int)sizeof cpu_name - 1, colon + 1 + strspn(colon + 1, " \t"));
        break;
    }
    if (f)
        fclose(f);
}

#if defined(__x86_64__)
static void add_isa(const char *name, bool has)
{
    size_t n = strlen(isa_names);
    if (has)
        snprintf(isa_names + n, sizeof isa_names - n, "%s%s", n ? " " : "", name);
}
#endif

static void read_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    isa_names[0] = 0;
    add_isa("sse4.2", __builtin_cpu_supports("sse4.2"));
    add_isa("avx", __builtin_cpu_supports("avx"));
    add_isa("avx2", __builtin_cpu_supports("avx2"));
    add_isa("fma", __builtin_cpu_supports("fma"));
    add_isa("avx512f", __builtin_cpu_supports("avx512f"));
    add_isa("avx512vnni", __builtin_cpu_supports("avx512vnni"));
#elif defined(__aarch64__)
    snprintf(isa_names, sizeof isa_names, "neon");
#endif
}

/* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ... Zen MAX_THREADS=128": the version is the first two words. */
static void read_blas(void)
{
    char version[64] = "";
    const char *config = openblas_get_config();
    if (sscanf(config, "OpenBLAS %60s", version) != 1)
        version[0] = 0;
    snprintf(blas_name, sizeof blas_name, "OpenBLAS %s %s", version, openblas_get_corename());
}

/* Large blocks are mappings of their own, so that what is freed goes back to the system at once. Left alone, the C library
 * raises that bound with the first large block that is freed, and keeps the memory of a plan that is gone. */
static void set_up_memory(void)
{
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 8 << 20);
#endif
}

static void init(void)
{
    set_up_memory();
    openblas_set_num_threads(1);
    read_cpu_name();
    read_isa();
    read_blas();
}

void engine_init(void)
{
    pthread_once(&once, init);
}

const char *engine_cpu(void)
{
    engine_init();
    return cpu_name;
}

const char *engine_isa(void)
{
    engine_init();
    return isa_names;
}

const char *engine_blas(void)
{
    engine_init();
    return blas_name;
}
