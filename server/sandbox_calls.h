/* SPDX-License-Identifier: Apache-2.0
 * sandbox_calls.h - the seccomp filter of sandbox.h, and the list it is made of. Private to sandbox.c and its test. */
#ifndef PARED_SERVER_SANDBOX_CALLS_H
#define PARED_SERVER_SANDBOX_CALLS_H

#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/err.h"

/* The filter for one architecture (SCMP_ARCH_NATIVE, SCMP_ARCH_X86_64, SCMP_ARCH_AARCH64) and the process `pid`; to be
 * released with seccomp_release. NULL with *err. */
scmp_filter_ctx sandbox_calls_filter(uint32_t arch, pid_t pid, bool terminal, struct err *err);
/* The names of both lists, NULL-terminated. */
extern const char *const sandbox_calls_allowed[], *const sandbox_calls_forbidden[];
/* Install handler and filter in this process, in all its threads. -1 with *err. */
int sandbox_calls_enter(int report_fd, bool report_json, bool terminal, struct err *err);

#endif
