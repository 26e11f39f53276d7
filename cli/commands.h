/* SPDX-License-Identifier: Apache-2.0
 * commands.h - the commands of the binary, one row each: name, one line of help. cmd_NAME lives in cli/NAME.c. */
#ifndef PARED_CLI_COMMANDS_H
#define PARED_CLI_COMMANDS_H

#include "cli/cli.h"

#define CLI_COMMANDS(X)                                                                                              \
    X(backup, "a copy of a server's data folder, while it runs")                                                     \
    X(bench, "latency of a model on this machine")                                                                   \
    X(decode, "the model out of a .pared container, byte for byte")                                                  \
    X(diff, "two models on the same inputs: fidelity per output and per layer")                                      \
    X(eval, "a model on a dataset: metrics, outputs")                                                                \
    X(healthcheck, "does the server of this machine answer? for containers")                                         \
    X(inspect, "what is in a model, and what can be pruned or quantized and why not")                                \
    X(keys, "API keys of a server: add, list, revoke")                                                               \
    X(methods, "the catalogue of recipe steps, presets and targets")                                                 \
    X(run, "a recipe on a model, verified, with a report")                                                           \
    X(serve, "the HTTP server with its dashboard and worker pool")

#define DECLARE(name, help) int cmd_##name(int argc, char **argv);
CLI_COMMANDS(DECLARE)
#undef DECLARE
/* `pared __job`: the server's child; not listed (core/recipe/job_spec.h). */
int cmd_job(void);

#endif
