/* SPDX-License-Identifier: Apache-2.0
 * What the CPU has, asked once. A set counts only with everything its files are compiled for. */
#include "core/kernels/isa.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[ISA_KINDS] = {"portable", "avx2", "avxvnni", "avx512", "avx512vnni"};
/* What a limit still allows. */
static const unsigned allowed_by[ISA_KINDS + 1] = {
    [ISA_PORTABLE] = 1u << ISA_PORTABLE,
    [ISA_AVX2] = 1u << ISA_PORTABLE | 1u << ISA_AVX2,
    [ISA_AVXVNNI] = 1u << ISA_PORTABLE | 1u << ISA_AVX2 | 1u << ISA_AVXVNNI,
    [ISA_AVX512] = 1u << ISA_PORTABLE | 1u << ISA_AVX2 | 1u << ISA_AVX512,
    [ISA_AVX512VNNI] = 1u << ISA_PORTABLE | 1u << ISA_AVX2 | 1u << ISA_AVX512 | 1u << ISA_AVX512VNNI,
    [ISA_KINDS] = ~0u,
};

static unsigned present;
static atomic_uint allowed;
static pthread_once_t asked = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
#include <cpuid.h>
static bool has_avxvnni(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

static bool has_f16c(void) /* a name that not every compiler's __builtin_cpu_supports knows */
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
}

static unsigned ask_cpu(void)
{
    unsigned sets = 1u << ISA_PORTABLE;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return sets;
    sets |= 1u << ISA_AVX2;
    if (has_avxvnni())
        sets |= 1u << ISA_AVXVNNI;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return sets;
    sets |= 1u << ISA_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        sets |= 1u << ISA_AVX512VNNI;
    return sets;
}
#else
static unsigned ask_cpu(void)
{
    return 1u << ISA_PORTABLE;
}
#endif

static void ask(void)
{
    const char *limit = getenv("PARED_ISA");
    unsigned first = allowed_by[ISA_KINDS];
    for (int i = 0; limit && i < ISA_KINDS; i++)
        if (strcmp(limit, names[i]) == 0)
            first = allowed_by[i];
    present = ask_cpu();
    atomic_store(&allowed, first);
}

bool isa_has(enum isa isa)
{
    pthread_once(&asked, ask);
    return present & atomic_load_explicit(&allowed, memory_order_relaxed) & 1u << isa;
}

void isa_limit(enum isa isa)
{
    pthread_once(&asked, ask);
    atomic_store(&allowed, allowed_by[isa]);
}

const char *isa_name(enum isa isa)
{
    return names[isa];
}
