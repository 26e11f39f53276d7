/* SPDX-License-Identifier: Apache-2.0
 * metrics_process.h - what the kernel says of this process, under the names all Prometheus clients use. */
#ifndef PARED_SERVER_METRICS_PROCESS_H
#define PARED_SERVER_METRICS_PROCESS_H

#include "core/base/buf.h"

/* process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes, process_open_fds,
 * process_max_fds, process_threads, process_start_time_seconds; what /proc does not tell is left out. */
void metrics_process(struct buf *out);

#endif
