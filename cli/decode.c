/* SPDX-License-Identifier: Apache-2.0
 * pared decode: the files of a .pared container as they were. Files are written beside their place under a temporary
 * name and get their own when all of them are whole and their hashes are right, so nothing is left behind when the
 * container is damaged. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "core/base/file.h"
#include "core/encode/container.h"

static const char help[] =
    "Usage: pared decode FILE [OPTION]... > model.onnx\n"
    "Give back the model of a .pared container, byte for byte; its checksums are compared on the way. FILE may be "
    "-.\n\n"
    "  -o, --output FILE   write the model to FILE instead of stdout (external data beside it)\n"
    "  --out DIR           write all files of the container into a folder under their own names\n"
    "  --max-bytes N       refuse a container whose files are larger, as in 512M or 2G (default 64G)\n"
    "  --help              this text\n";

struct options {
    const char *container, *output, *dir;
    size_t max_bytes;
};

struct target {
    char *path, *temporary;
};

struct decoding {
    const struct options *o;
    int in, out;
    struct target *targets;
    int n_targets;
    bool to_stdout;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory");
}

static long source(void *arg, void *bytes, size_t n, struct err *err)
{
    const struct decoding *d = arg;
    ssize_t got;
    while ((got = read(d->in, bytes, n)) < 0 && errno == EINTR)
        ;
    return got < 0 ? err_set_errno(err, ERR_IO, "the container cannot be read") : (long)got;
}

/* Where file number `file` goes: DIR/name, or FILE and what lies beside it. */
static char *place(const struct options *o, int file, const char *name)
{
    char *path = NULL;
    const char *slash = o->output ? strrchr(o->output, '/') : NULL;
    int rc;
    if (o->dir)
        rc = asprintf(&path, "%s/%s", o->dir, name);
    else if (file == 0)
        rc = asprintf(&path, "%s", o->output);
    else
        rc = asprintf(&path, "%.*s%s", slash ? (int)(slash - o->output + 1) : 0, o->output, name);
    return rc < 0 ? NULL : path;
}

static int begin(void *arg, int file, int files, const char *name, uint64_t bytes, struct err *err)
{
    struct decoding *d = arg;
    (void)bytes;
    if (d->to_stdout)
        return files == 1 ? 0
                          : err_set(err, ERR_USAGE,
                                    "the container holds a model and %d file%s of external data: give --out DIR",
                                    files - 1, files == 2 ? "" : "s");
    if (!d->targets && !(d->targets = calloc((size_t)files, sizeof *d->targets)))
        return nomem(err);
    struct target *t = &d->targets[file];
    if (!(t->path = place(d->o, file, name)))
        return nomem(err);
    for (int i = 0; i < file; i++)
        if (!strcmp(d->targets[i].path, t->path))
            return err_set(err, ERR_USAGE, "'%s' is also the name of external data in the container: give another name",
                           t->path);
    if (asprintf(&t->temporary, "%s.XXXXXX", t->path) < 0) {
        t->temporary = NULL;
        return nomem(err);
    }
    d->out = mkostemp(t->temporary, O_CLOEXEC);
    if (d->out < 0) {
        err_set_errno(err, ERR_IO, "'%s' cannot be written", t->path);
        free(t->temporary);
        t->temporary = NULL;
        return -1;
    }
    d->n_targets = file + 1;
    return 0;
}

static int data(void *arg, const void *bytes, size_t n, struct err *err)
{
    const struct decoding *d = arg;
    return file_write_all(d->to_stdout ? STDOUT_FILENO : d->out, bytes, n, err);
}

static int end(void *arg, struct err *err)
{
    struct decoding *d = arg;
    if (d->to_stdout)
        return 0;
    const mode_t mask = umask(0);
    umask(mask);
    const int bad = fchmod(d->out, 0666 & ~mask) || fsync(d->out);
    const int rc = close(d->out) || bad ? err_set_errno(err, ERR_IO, "the model cannot be written") : 0;
    d->out = -1;
    return rc;
}

/* All files are right: they get their names, the model last. */
static int publish(struct decoding *d, struct err *err)
{
    for (int i = d->n_targets; i-- > 0;) {
        struct target *t = &d->targets[i];
        if (rename(t->temporary, t->path))
            return err_set_errno(err, ERR_IO, "'%s' cannot be written", t->path);
        free(t->temporary);
        t->temporary = NULL;
    }
    return 0;
}

static void clean(struct decoding *d)
{
    if (d->out >= 0)
        close(d->out);
    for (int i = 0; i < d->n_targets; i++) {
        if (d->targets[i].temporary)
            unlink(d->targets[i].temporary);
        free(d->targets[i].temporary);
        free(d->targets[i].path);
    }
    free(d->targets);
    if (d->in > STDIN_FILENO)
        close(d->in);
}

static int decode(const struct options *o, struct err *err)
{
    struct decoding d = {.o = o, .out = -1, .to_stdout = !o->output && !o->dir};
    const struct container_sink sink = {begin, data, end, &d};
    const bool from_stdin = !strcmp(o->container, "-");
    int rc = -1;
    if (d.to_stdout && isatty(STDOUT_FILENO))
        return err_set(err, ERR_USAGE, "a model is no text for a terminal: redirect it (> model.onnx) or give -o FILE");
    d.in = from_stdin ? STDIN_FILENO : open(o->container, O_RDONLY | O_CLOEXEC);
    if (d.in < 0)
        return err_set_errno(err, ERR_IO, "%s cannot be read", o->container);
    if (o->dir && file_make_dirs(o->dir, err))
        err_wrap(err, "%s: ", o->dir);
    else if (container_read(source, &d, o->max_bytes, &sink, err))
        err_wrap(err, "%s: ", from_stdin ? "stdin" : o->container);
    else
        rc = publish(&d, err);
    clean(&d);
    return rc;
}

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    static const struct option longs[] = {{"output", required_argument, NULL, 'o'},
                                          {"out", required_argument, NULL, 'd'},
                                          {"max-bytes", required_argument, NULL, 'm'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "o:h", longs, NULL)) != -1) {
        if (c == 'o')
            o->output = optarg;
        else if (c == 'd')
            o->dir = optarg;
        else if (c == 'm')
            rc = cli_size("--max-bytes", optarg, &o->max_bytes, err);
        else
            return c == 'h' ? 1 : err_set(err, ERR_USAGE, "wrong usage; see `pared decode --help`");
    }
    if (!rc && argc - optind != 1)
        rc = err_set(err, ERR_USAGE, "decode takes one container; see `pared decode --help`");
    if (!rc && o->output && (!strcmp(o->output, "-") || !o->output[0]))
        o->output = NULL;
    if (!rc && o->output && o->dir)
        rc = err_set(err, ERR_USAGE, "give either -o or --out; see `pared decode --help`");
    if (!rc)
        o->container = argv[optind];
    return rc;
}

int cmd_decode(int argc, char **argv)
{
    struct options o = {.max_bytes = (size_t)64 << 30};
    struct err err = {0};
    const int rc = parse(argc, argv, &o, &err);
    if (rc > 0)
        return cli_help(help);
    return rc || decode(&o, &err) ? cli_fail(&err) : CLI_OK;
}
