/* SPDX-License-Identifier: Apache-2.0
 * machine.h - what this process may use of the machine. (Cores: pool_default_threads of core/base/pool.h.) */
#ifndef PARED_SERVER_MACHINE_H
#define PARED_SERVER_MACHINE_H

#include <stdint.h>

/* Physical memory, or the cgroup's limit when that is lower. 0: not known. */
int64_t machine_memory_bytes(void);
/* What can be had of it now without swapping: the kernel's estimate, or what the cgroup has left (files it only caches
 * count as free) when that is less. 0: not known. */
int64_t machine_memory_available(void);

#endif
