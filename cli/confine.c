/* SPDX-License-Identifier: Apache-2.0
 * Every step only takes something away, and none can be taken back. The places of the sandbox are collected from the
 * spec, which the server wrote: each "path" in it is an input, to be read; "cache" folders may be written. */
#include "cli/confine.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/pool.h"
#include "core/kernels/blas_buffers.h"
#include "core/recipe/job_spec.h"
#include "core/tensor/tensor.h"
#include "server/cgroup.h"

enum { MAX_OPEN_FILES = 1024, CPU_GRACE_S = 5 };

/* `more` lies between the soft and the hard limit. */
static int set_limit(int resource, json_int_t value, json_int_t more, const char *name, struct err *err)
{
    struct rlimit now, want = {(rlim_t)value, (rlim_t)(value + more)};
    if (value <= 0 || getrlimit((__rlimit_resource_t)resource, &now))
        return 0;
    if (want.rlim_max > now.rlim_max) /* never more than what it was given */
        want.rlim_max = now.rlim_max;
    if (want.rlim_cur > want.rlim_max)
        want.rlim_cur = want.rlim_max;
    return setrlimit((__rlimit_resource_t)resource, &want)
               ? err_set_errno(err, ERR_INTERNAL, "the limit on %s cannot be set", name)
               : 0;
}

/* Bytes that count against RLIMIT_DATA now (the sixth number of statm is data and stacks, in pages). */
static json_int_t data_bytes(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%*s %*s %*s %*s %*s %lld", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* The job's memory comes on top of what the process has by then: its libraries and BLAS's buffers, which are address
 * space only. */
static int limit_memory(const struct confine_opts *o, struct err *err)
{
    if (o->memory_bytes <= 0)
        return 0;
    tensor_set_limit((size_t)o->memory_bytes);
    if (o->reserve_blas)
        blas_buffers_reserve(o->threads > 0 && o->threads < INT_MAX ? (int)o->threads : pool_default_threads());
    return set_limit(RLIMIT_DATA, data_bytes() + o->memory_bytes, 0, "memory", err);
}

/* The signal comes when the parent dies; if it has died before now, its end of the pipe is closed. */
static int tie_to_parent(int status_fd, struct err *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        return err_set_errno(err, ERR_INTERNAL, "cannot be tied to its parent");
    struct pollfd pipe = {status_fd, 0, 0};
    if (poll(&pipe, 1, 0) > 0 && (pipe.revents & POLLERR))
        return err_set(err, ERR_INTERNAL, "the parent is gone");
    return 0;
}

/* The kernel takes this process first when memory is short; best effort. */
static void volunteer_for_oom(void)
{
    const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1000", 4) < 0) {
    }
    if (fd >= 0)
        close(fd);
}

static int set_limits(const struct confine_opts *o, struct err *err)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_MEMLOCK, &none);
    setrlimit(RLIMIT_MSGQUEUE, &none);
    setpriority(PRIO_PROCESS, 0, JOB_NICE); /* requests go first: the server stays quick while jobs use every core */
    /* at the soft limit of processor time comes SIGXCPU, which says why; SIGKILL at the hard one would look like the
     * kernel's, for memory */
    return limit_memory(o, err) || set_limit(RLIMIT_FSIZE, o->file_bytes, 0, "file sizes", err) ||
                   set_limit(RLIMIT_CPU, o->cpu_s, CPU_GRACE_S, "processor time", err) ||
                   set_limit(RLIMIT_NOFILE, MAX_OPEN_FILES, 0, "open files", err)
               ? -1
               : 0;
}

/* ---- places -------------------------------------------------------------------------------------------------------
 */

struct places {
    struct sandbox_place *at; /* owned */
    size_t count, room;
};

static int add_place(struct places *p, const char *path, enum sandbox_access access, struct err *err)
{
    if (!path)
        return 0;
    if (p->count == p->room) {
        const size_t room = p->room ? p->room * 2 : 16;
        struct sandbox_place *grown = realloc(p->at, room * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "no memory for the places of the sandbox");
        p->at = grown;
        p->room = room;
    }
    p->at[p->count++] = (struct sandbox_place){path, access};
    return 0;
}

/* A FILE, a list of them, or a DATASET of job_spec.h. */
static int add_inputs(struct places *p, const json_t *json, struct err *err)
{
    size_t i;
    json_t *item;
    const char *cache = json_string_value(json_object_get(json, "cache"));
    int rc = add_place(p, json_string_value(json_object_get(json, "path")), SANDBOX_READ, err);
    if (rc == 0 && cache)
        rc = file_make_dirs(cache, err) || add_place(p, cache, SANDBOX_WORK, err) ? -1 : 0;
    const json_t *list = json_is_array(json) ? json : json_object_get(json, "files");
    json_array_foreach(list, i, item)
    {
        if (rc == 0)
            rc = add_place(p, json_string_value(json_object_get(item, "path")), SANDBOX_READ, err);
    }
    return rc;
}

static int collect(const struct confine_opts *o, struct places *p, struct err *err)
{
    static const char *const inputs[] = {"model",   "external",    "teacher",     "teacher_external",
                                         "dataset", "val_dataset", "eval_dataset"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof inputs / sizeof inputs[0]; i++)
        rc = add_inputs(p, json_object_get(o->spec, inputs[i]), err);
    /* the parent of the checkpoint's folder is not the job's to write in */
    if (rc == 0 && o->checkpoint)
        rc = file_make_dirs(o->checkpoint, err);
    return rc || add_place(p, o->work, SANDBOX_WORK, err) || add_place(p, o->out, SANDBOX_WRITE, err) ||
                   add_place(p, o->checkpoint, SANDBOX_WRITE, err)
               ? -1
               : 0;
}

int confine(const struct confine_opts *o, struct sandbox_result *walls, struct err *err)
{
    struct places places = {0};
    *walls = (struct sandbox_result){0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return err_set_errno(err, ERR_INTERNAL, "privileges cannot be given up");
    if (o->die_with_parent && tie_to_parent(o->status_fd, err))
        return -1;
    if (o->cgroup && cgroup_enter(o->cgroup, err))
        return -1;
    volunteer_for_oom();
    if (o->work && setenv("TMPDIR", o->work, 1)) /* temporary files: /tmp is behind the wall */
        return err_set(err, ERR_NOMEM, "out of memory");
    int rc = set_limits(o, err);
    if (rc == 0 && o->sandbox != SANDBOX_OFF)
        rc = collect(o, &places, err);
    if (rc == 0) {
        const struct sandbox_opts opts = {.mode = o->sandbox,
                                          .places = places.at,
                                          .place_count = places.count,
                                          .report_fd = o->status_fd,
                                          .report_json = true};
        rc = sandbox_enter(&opts, walls, err);
    }
    free(places.at);
    return rc;
}
