/* SPDX-License-Identifier: Apache-2.0
 * From /proc/self/stat: the second field is the program's name in brackets, and may itself hold brackets and blanks, so
 * the fields are counted from the last bracket. proc(5) numbers them from 1. */
#include "server/metrics_process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FIELD_UTIME = 14, FIELD_STIME = 15, FIELD_THREADS = 20, FIELD_START = 22, FIELD_VSIZE = 23, FIELD_RSS = 24 };
enum { N_FIELDS = FIELD_RSS + 1 };

static bool read_stat(double fields[N_FIELDS])
{
    char text[2048];
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    char *at = strrchr(text, ')');
    if (!at || at[1] != ' ' || !at[2])
        return false;
    at += 3; /* behind the state, field 3 */
    for (int i = 4; i < N_FIELDS; i++)
        fields[i] = strtod(at, &at);
    return true;
}

/* Seconds since 1970 at which the machine started; 0: not known. */
static double boot_time(void)
{
    char line[256];
    double at = 0;
    FILE *f = fopen("/proc/stat", "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "btime ", 6))
            at = strtod(line + 6, NULL);
    if (f)
        fclose(f);
    return at;
}

static int open_fds(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *e;
    while (dir && (e = readdir(dir)))
        count += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count - (dir != NULL); /* its own */
}

static void row(struct buf *out, const char *name, const char *type, const char *doc, double value)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, doc, name, type, name, value);
}

void metrics_process(struct buf *out)
{
    double stat[N_FIELDS] = {0};
    double ticks = (double)sysconf(_SC_CLK_TCK), page = (double)sysconf(_SC_PAGESIZE), boot = boot_time();
    struct rlimit files;
    if (read_stat(stat)) {
        row(out, "process_cpu_seconds_total", "counter", "Processor time of the server, without its children.",
            (stat[FIELD_UTIME] + stat[FIELD_STIME]) / ticks);
        row(out, "process_resident_memory_bytes", "gauge", "Memory of the server, without its children.",
            stat[FIELD_RSS] * page);
        row(out, "process_virtual_memory_bytes", "gauge", "Address space of the server.", stat[FIELD_VSIZE]);
        row(out, "process_threads", "gauge", "Threads of the server.", stat[FIELD_THREADS]);
    }
    if (boot > 0)
        row(out, "process_start_time_seconds", "gauge", "When the server started, since 1970.",
            boot + stat[FIELD_START] / ticks);
    row(out, "process_open_fds", "gauge", "Open file descriptors.", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        row(out, "process_max_fds", "gauge", "File descriptors that may be open.", (double)files.rlim_cur);
}
