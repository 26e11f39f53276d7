/* SPDX-License-Identifier: Apache-2.0
 * The binary: a table of commands. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "core/engine/engine.h"

struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
#define COMMAND(name, text) {#name, text, cmd_##name},
    CLI_COMMANDS(COMMAND)
#undef COMMAND
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int print_help(FILE *to)
{
    fputs("pared pares neural networks down: prune, quantize and optimize ONNX models.\n\nUsage: pared COMMAND [OPTION]...\n\n", to);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\n`pared COMMAND --help` explains a command; `pared --version` prints the version.\n", to);
    return to == stdout ? CLI_OK : CLI_USAGE;
}

int main(int argc, char **argv)
{
    engine_init();
    if (argc < 2)
        return print_help(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return print_help(stdout);
    if (!strcmp(argv[1], "--version")) {
        puts("pared " PARED_VERSION);
        return CLI_OK;
    }
    if (!strcmp(argv[1], "__job"))
        return cmd_job();
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "pared: there is no command '%s'; `pared --help` lists them\n", argv[1]);
    return CLI_USAGE;
}
