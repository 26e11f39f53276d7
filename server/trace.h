/* SPDX-License-Identifier: Apache-2.0
 * trace.h - W3C Trace Context: the id by which a request, its job and the job's process are found again in the logs of
 * everything it passed through.
 * Form       traceparent: "00-" trace id (32 hex digits) "-" span id (16) "-" flags (2). www.w3.org/TR/trace-context
 * Plain data; any thread. */
#ifndef PARED_SERVER_TRACE_H
#define PARED_SERVER_TRACE_H

#include <stdbool.h>

enum { TRACE_PARENT = 56, TRACE_ID = 33 }; /* bytes with the NUL */

struct trace {
    char parent[TRACE_PARENT]; /* "00-TRACE-SPAN-FLAGS" of what happens here */
    char id[TRACE_ID];         /* the trace id alone */
};

/* Is `text` a traceparent that may be continued? Lower-case hex, version not ff, ids not all zero; version 00 has
 * nothing behind the flags, a later one may. */
bool trace_valid(const char *text);
/* A span in the trace of `given`, or in a new one when that is NULL or not valid. Flags are kept; a new trace has none
 * (not sampled: nobody above asked for it). */
void trace_begin(struct trace *trace, const char *given);

#endif
