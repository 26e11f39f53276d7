/* SPDX-License-Identifier: Apache-2.0
 * cli.h - what the commands of the binary share. A command is `int cmd_NAME(int argc, char **argv)` in cli/NAME.c with one row in
 * cli/main.c; argv[0] is its name. It returns the exit status: 0 done, 1 refused or failed (one sentence on stderr), 2 wrong usage,
 * 3 targets missed. */
#ifndef PARED_CLI_CLI_H
#define PARED_CLI_CLI_H

#include <getopt.h>
#include <jansson.h>

#include "core/base/err.h"
#include "core/base/pool.h"
#include "core/model/model.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_TARGETS_MISSED = 3 };

/* "pared: <sentence>" on stderr; returns CLI_FAILED (CLI_USAGE for ERR_USAGE). */
int cli_fail(const struct err *err);
/* "pared NAME: <sentence>" and a hint at --help on stderr; returns CLI_USAGE. */
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text of --help on stdout; returns CLI_OK. */
int cli_help(const char *text);
/* One JSON value, indented, sorted as built, newline; takes the reference. Returns CLI_OK, or CLI_FAILED when it cannot be written. */
int cli_print_json(json_t *json);

/* A whole decimal number in [min, max] from an option's text; -1 with ERR_USAGE naming the option. */
int cli_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out, struct err *err);
/* A number of bytes of at least 1, also as 512k, 64M or 2G (powers of 1024); -1 with ERR_USAGE naming the option. */
int cli_size(const char *option, const char *text, size_t *out, struct err *err);
/* Read and validate a model file; "-" is stdin. The sentence names the file. NULL on error. */
struct model *cli_read_model(const char *path, struct err *err);
/* The pool of a command: `threads` 0 is all cores. NULL with err. */
struct pool *cli_pool(int64_t threads, struct err *err);

#endif
