/* SPDX-License-Identifier: Apache-2.0
 * bench.h - what `pared bench` can do beside timing: a peer in the same run, and where the time goes. */
#ifndef PARED_CLI_BENCH_H
#define PARED_CLI_BENCH_H

#include "core/engine/engine.h"
#include "core/stats/latency.h"

struct bench {
    const char *path; /* of the model, for the peer */
    struct plan *plan;
    const struct tensor *in; /* [plan_n_inputs] */
    int threads;
    int64_t batch, runs; /* runs 0: as many as fit in 2 seconds, at least 10 */
    bool json;
};

/* Our runs and ONNX Runtime's, in blocks that alternate so that both meet the same machine. ONNX Runtime runs in a
 * process of python3 (PARED_PYTHON in the environment names another). Prints; returns the exit status. */
int bench_against_ort(const struct bench *b, struct err *err);
/* Median time of each node, largest first, and the sum by operator. Prints; returns the exit status. */
int bench_profile(const struct bench *b, struct err *err);

#endif
