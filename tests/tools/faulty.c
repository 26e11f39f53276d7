/* SPDX-License-Identifier: Apache-2.0
 * pared with faults in its catalogue, for tests of durability. It takes the commands of pared, and from the
 * environment:
 *
 *   PARED_FAULT_LOG=FILE             a line "CALL MOMENT" for each call of the catalogue
 *   PARED_FAULT_KILL=CALL:MOMENT[:N] SIGKILL at the N-th (first) time that CALL comes to MOMENT (before it, or after
 *                                    its commit)
 *   PARED_FAULT_RATE=P[:SEED]        a fraction P of all calls fails, half of them after their commit
 *
 * The pared that is installed has none of this: its main() does not set the hook. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "core/engine/engine.h"
#include "server/store_fault.h"

static const char *const moments[] = {"before", "after"};
static struct {
    int log_fd;
    char kill_call[100];
    enum store_moment kill_moment;
    int kill_left;
    double rate;
    uint64_t random;
    pthread_mutex_t lock;
} plan = {.log_fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

/* xorshift64*, scaled to [0, 1) */
static double next_random(void)
{
    plan.random ^= plan.random >> 12;
    plan.random ^= plan.random << 25;
    plan.random ^= plan.random >> 27;
    return (double)((plan.random * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

static void write_log(const char *call, enum store_moment moment)
{
    char line[200];
    int n = snprintf(line, sizeof line, "%s %s\n", call, moments[moment]);
    if (write(plan.log_fd, line, (size_t)n) != n)
        _exit(70);
}

static int fault(const char *call, enum store_moment moment, struct err *err)
{
    pthread_mutex_lock(&plan.lock);
    if (plan.log_fd >= 0)
        write_log(call, moment);
    if (plan.kill_left > 0 && moment == plan.kill_moment && !strcmp(call, plan.kill_call) && --plan.kill_left == 0)
        raise(SIGKILL);
    /* the catalogue is opened and upgraded before anybody waits: a failure there is a server that does not start */
    bool fails = plan.rate > 0 && strcmp(call, "migrate") && next_random() < plan.rate / 2;
    pthread_mutex_unlock(&plan.lock);
    return fails ? err_set(err, ERR_STORE, "injected %s %s", moments[moment], call) : 0;
}

static int bad(const char *what)
{
    fprintf(stderr, "faulty: %s is not understood\n", what);
    return 2;
}

static int read_plan(void)
{
    const char *log = getenv("PARED_FAULT_LOG"), *kill_at = getenv("PARED_FAULT_KILL"),
               *rate = getenv("PARED_FAULT_RATE");
    char moment[10] = "";
    if (log && (plan.log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) < 0)
        return bad("PARED_FAULT_LOG");
    if (kill_at) {
        plan.kill_left = 1;
        if (sscanf(kill_at, "%99[^:]:%9[a-z]:%d", plan.kill_call, moment, &plan.kill_left) < 2)
            return bad("PARED_FAULT_KILL");
        plan.kill_moment = strcmp(moment, moments[STORE_AFTER]) ? STORE_BEFORE : STORE_AFTER;
    }
    unsigned long long seed = 1;
    if (rate && sscanf(rate, "%lf:%llu", &plan.rate, &seed) < 1)
        return bad("PARED_FAULT_RATE");
    plan.random = seed * UINT64_C(0x9E3779B97F4A7C15) | 1;
    if (log || kill_at || rate)
        atomic_store(&store_fault, fault);
    return 0;
}

int main(int argc, char **argv)
{
    engine_init();
    if (argc > 1 && !strcmp(argv[1], "__job"))
        return cmd_job();
    if (argc < 2 || strcmp(argv[1], "serve")) {
        fputs("usage: faulty serve [OPTION]...\n", stderr);
        return 2;
    }
    return read_plan() ? 2 : cmd_serve(argc - 1, argv + 1);
}
