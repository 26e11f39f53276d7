/* SPDX-License-Identifier: Apache-2.0
 * clock.h - the two clocks: wall time for people (epoch milliseconds, RFC 3339 UTC), monotonic time for durations. */
#ifndef PARED_BASE_CLOCK_H
#define PARED_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum { CLOCK_RFC3339 = 32 };

int64_t clock_epoch_ms(void);
/* "2026-11-22T07:19:00.123Z" */
void clock_rfc3339(int64_t epoch_ms, char out[CLOCK_RFC3339]);
/* RFC 3339 with any offset and fraction (cut to milliseconds), or a date alone (its start in UTC). A space where the
 * sign of the offset was counts as `+`, as a URL makes it. False for anything else, and for years before 1970 or after
 * 9999. */
bool clock_parse(const char *text, int64_t *epoch_ms);
/* Seconds from an arbitrary start, monotonic. */
double clock_seconds(void);

#endif
