/* SPDX-License-Identifier: Apache-2.0
 * pared backup: a copy of a server's data folder that can be served again, while the server runs. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "core/base/file.h"
#include "server/backup.h"

static const char help[] =
    "Usage: pared backup --data DIR --to DIR|FILE.tar[.gz|.zst] [--json]\n\n"
    "Copies the catalogue of the server in --data and all files it refers to, also while the server runs.\n"
    "Files are compared with their SHA-256; a damaged one is told and left out (exit status 1).\n"
    "A folder that holds an earlier backup is brought up to date: only new files are copied.\n\n"
    "To restore: pared serve --data DIR; of an archive: mkdir DIR && tar -xf FILE -C DIR first.\n"
    "Jobs that ran are queued again in the copy and begin anew; unfinished uploads are not in it.\n";

static void say(void *arg, const char *sentence)
{
    (void)arg;
    fprintf(stderr, "pared: %s\n", sentence);
}

static int print_figures(const struct backup *what, const struct backup_figures *figures, bool json)
{
    if (json)
        return cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I}", "to", what->to, "files",
                                        (json_int_t)figures->files, "bytes", (json_int_t)figures->bytes, "copied",
                                        (json_int_t)figures->copied, "left_out", (json_int_t)figures->left_out));
    printf("%s: %" PRId64 " files, %" PRId64 " bytes; %" PRId64 " files copied\n", what->to, figures->files,
           figures->bytes, figures->copied);
    return fflush(stdout) ? CLI_FAILED : CLI_OK;
}

int cmd_backup(int argc, char **argv)
{
    struct backup what = {.complain = say};
    struct backup_figures figures;
    struct err err = {0};
    bool json = false;
    for (int i = 1; i < argc; i++) {
        const char **value = !strcmp(argv[i], "--data") ? &what.data : !strcmp(argv[i], "--to") ? &what.to : NULL;
        if (!strcmp(argv[i], "--help"))
            return cli_help(help);
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!value)
            return cli_usage("backup", "there is no option '%s'", argv[i]);
        else if (++i == argc)
            return cli_usage("backup", "%s needs a value", argv[i - 1]);
        else
            *value = argv[i];
    }
    if (!what.data || !what.to || !*what.data || !*what.to)
        return cli_usage("backup", "--data and --to are needed");
    file_make_private();
    if (backup_run(&what, &figures, &err))
        return cli_fail(&err);
    int status = print_figures(&what, &figures, json);
    return figures.left_out ? CLI_FAILED : status;
}
