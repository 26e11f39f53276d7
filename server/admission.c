/* SPDX-License-Identifier: Apache-2.0
 * The reserve of the disk is also kept by the blob store at each write (a single upload may be larger than what the
 * last look found); this is the look ahead, so that a client is told before it sends gigabytes. */
#include "server/admission.h"

#include <inttypes.h>

#include "core/base/log.h"
#include "server/machine.h"
#include "server/server.h"

static bool memory_short(struct server *server)
{
    if (!atomic_load(&server->admission.measured))
        return false;
    int64_t needed = server->config->min_free_memory_bytes;
    return needed > 0 && atomic_load_explicit(&server->admission.memory_bytes, memory_order_relaxed) < needed;
}

static bool disk_short(struct server *server)
{
    return atomic_load(&server->admission.measured) &&
           atomic_load_explicit(&server->admission.disk_bytes, memory_order_relaxed) <= 0;
}

void admission_measure(struct server *server)
{
    struct admission *a = &server->admission;
    int64_t memory = machine_memory_available();
    atomic_store_explicit(&a->disk_bytes, blob_free_bytes(server->blobs), memory_order_relaxed);
    atomic_store_explicit(&a->memory_bytes, memory > 0 ? memory : INT64_MAX, memory_order_relaxed);
    atomic_store(&a->measured, true);
    struct err err = {0};
    bool is_short = admission_check(server, &err) != 0;
    if (atomic_exchange(&a->was_short, is_short) == is_short)
        return;
    if (is_short)
        log_warn("uploads and jobs are refused: %s", err.msg);
    else
        log_info("uploads and jobs are taken again");
}

static int check_disk(struct server *server, struct err *err)
{
    return disk_short(server)
               ? err_set(err, ERR_DISK_FULL,
                         "The server's disk is full; delete models, datasets or jobs, or give it more space.")
               : 0;
}

static int check_memory(struct server *server, struct err *err)
{
    return memory_short(server) ? err_set(err, ERR_UNAVAILABLE,
                                          "The server is short of memory and takes nothing new for now. Try again "
                                          "in some seconds.")
                                : 0;
}

int admission_check(struct server *server, struct err *err)
{
    return check_disk(server, err) || check_memory(server, err) ? -1 : 0;
}

static int check_draining(struct server *server, struct err *err)
{
    return atomic_load(&server->draining) ? err_set(err, ERR_UNAVAILABLE, "The server is stopping.") : 0;
}

static int check_store(struct server *server, struct err *err)
{
    struct err why = {0};
    if (store_ping(server->store, &why) == 0)
        return 0;
    log_warn("the catalogue does not answer: %s", why.msg);
    return err_set(err, ERR_UNAVAILABLE, "The catalogue does not answer; the server's log says why.");
}

bool server_ready(struct server *server, struct ready_check checks[READY_CHECKS])
{
    static const struct {
        const char *name;
        int (*check)(struct server *server, struct err *err);
    } rows[READY_CHECKS] = {
        {"draining", check_draining}, {"store", check_store}, {"disk", check_disk}, {"memory", check_memory}};
    bool all = true;
    admission_measure(server);
    for (int i = 0; i < READY_CHECKS; i++) {
        checks[i] = (struct ready_check){.name = rows[i].name, .free_bytes = -1, .needed_bytes = -1};
        checks[i].ok = rows[i].check(server, &checks[i].err) == 0;
        all = all && checks[i].ok;
    }
    checks[2].needed_bytes = server->config->min_free_disk_bytes;
    checks[2].free_bytes = atomic_load(&server->admission.disk_bytes);
    checks[3].needed_bytes = server->config->min_free_memory_bytes;
    checks[3].free_bytes = atomic_load(&server->admission.memory_bytes);
    return all;
}
