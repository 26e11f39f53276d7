/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

int64_t clock_epoch_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void clock_rfc3339(int64_t epoch_ms, char out[CLOCK_RFC3339])
{
    time_t seconds = (time_t)(epoch_ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, CLOCK_RFC3339, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, CLOCK_RFC3339 - n, ".%03dZ", (int)(epoch_ms % 1000));
}

/* `n` digits at *text. */
static bool take_digits(const char **text, int n, int *out)
{
    *out = 0;
    for (; n > 0; n--, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        *out = *out * 10 + (**text - '0');
    }
    return true;
}

static bool take_char(const char **text, const char *any)
{
    if (!**text || !strchr(any, **text))
        return false;
    (*text)++;
    return true;
}

/* "07:30:00.123Z", "07:30:00+02:00": milliseconds of the day in UTC. */
static bool take_time(const char *at, int64_t *ms)
{
    int hour, minute, second, milli = 0, scale = 100, off_hour = 0, off_minute = 0;
    if (!take_digits(&at, 2, &hour) || !take_char(&at, ":") || !take_digits(&at, 2, &minute) || !take_char(&at, ":") ||
        !take_digits(&at, 2, &second) || hour > 23 || minute > 59 || second > 60)
        return false;
    if (take_char(&at, ".")) {
        if (*at < '0' || *at > '9')
            return false;
        for (; *at >= '0' && *at <= '9'; at++, scale /= 10)
            milli += (*at - '0') * scale;
    }
    bool west = *at == '-';
    if (!take_char(&at, "Zz") && (!take_char(&at, "+- ") || !take_digits(&at, 2, &off_hour) || !take_char(&at, ":") ||
                                  !take_digits(&at, 2, &off_minute) || off_hour > 23 || off_minute > 59))
        return false;
    int64_t offset = (int64_t)(off_hour * 60 + off_minute) * 60000;
    *ms = ((int64_t)(hour * 60 + minute) * 60 + second) * 1000 + milli + (west ? offset : -offset);
    return !*at;
}

bool clock_parse(const char *text, int64_t *epoch_ms)
{
    struct tm tm = {0};
    int year, month, day;
    int64_t of_day = 0;
    const char *at = text;
    if (!take_digits(&at, 4, &year) || !take_char(&at, "-") || !take_digits(&at, 2, &month) || !take_char(&at, "-") ||
        !take_digits(&at, 2, &day) || year < 1970 || month < 1 || month > 12 || day < 1 || day > 31)
        return false;
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    tm.tm_mday = day;
    time_t start = timegm(&tm);
    if (tm.tm_mday != day || (*at && (!take_char(&at, "Tt ") || !take_time(at, &of_day))))
        return false; /* 30 February became 2 March */
    *epoch_ms = (int64_t)start * 1000 + of_day;
    return true;
}

double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
