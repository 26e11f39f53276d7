/* SPDX-License-Identifier: Apache-2.0
 * pared serve: the HTTP server with its worker pool. Settings: server/config.def. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/routes.h"
#include "cli/commands.h"
#include "core/base/buf.h"
#include "server/config.h"
#include "server/server.h"

static int print(void (*write_document)(struct buf *out))
{
    struct buf text = {0};
    write_document(&text);
    char *bytes = buf_take(&text);
    if (!bytes)
        return CLI_FAILED;
    fputs(bytes, stdout);
    free(bytes);
    return CLI_OK;
}

int cmd_serve(int argc, char **argv)
{
    struct config config;
    struct err err = {0};
    if (argc == 2 && !strcmp(argv[1], "--markdown")) /* docs/CONFIG.md */
        return print(config_markdown);
    if (config_load(&config, argc - 1, argv + 1, environ, &err))
        return cli_fail(&err);
    int status = CLI_OK;
    if (config.help)
        status = print(config_help);
    else if (server_run(&config, api_routes(), &err))
        status = cli_fail(&err);
    config_fini(&config);
    return status;
}
