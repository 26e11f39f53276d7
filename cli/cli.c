/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/model/onnx_read.h"
#include "core/model/validate.h"

#define MAX_STDIN ((size_t)2 << 30)

int cli_fail(const struct err *err)
{
    fprintf(stderr, "pared: %s\n", err->msg[0] ? err->msg : err_title(err->code));
    return err->code == ERR_USAGE ? CLI_USAGE : CLI_FAILED;
}

int cli_usage(const char *command, const char *fmt, ...)
{
    va_list args;
    fprintf(stderr, "pared %s: ", command);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "; see `pared %s --help`\n", command);
    return CLI_USAGE;
}

int cli_help(const char *text)
{
    return fputs(text, stdout) < 0 || fflush(stdout) ? CLI_FAILED : CLI_OK;
}

int cli_print_json(json_t *json)
{
    int rc = json ? json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10) | JSON_ENCODE_ANY) : -1;
    json_decref(json);
    if (!rc && putchar('\n') != EOF && !fflush(stdout))
        return CLI_OK;
    fputs("pared: the output could not be written\n", stderr);
    return CLI_FAILED;
}

int cli_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out, struct err *err)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < min || n > max)
        return err_set(err, ERR_USAGE, "%s takes a whole number from %" PRId64 " to %" PRId64 ", got '%s'", option, min,
                       max, text);
    *out = n;
    return 0;
}

int cli_size(const char *option, const char *text, size_t *out, struct err *err)
{
    static const char units[] = "kMGT";
    char *end;
    errno = 0;
    const long long n = strtoll(text, &end, 10);
    const char *unit = *end && end[1] == 0 ? strchr(units, *end) : NULL;
    const int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (errno || end == text || (*end && !unit) || n < 1 || n > INT64_MAX >> shift)
        return err_set(err, ERR_USAGE, "%s takes a number of bytes, as in 500000, 512k, 64M or 2G; got '%s'", option,
                       text);
    *out = (size_t)n << shift;
    return 0;
}

static void release(void *data, size_t bytes)
{
    (void)bytes;
    free(data);
}

static struct model *read_stdin(struct err *err)
{
    struct buf all = {0};
    char chunk[1 << 16];
    ssize_t n;
    while ((n = read(STDIN_FILENO, chunk, sizeof chunk)) > 0 && all.len <= MAX_STDIN)
        buf_append(&all, chunk, (size_t)n);
    size_t len = all.len;
    if (n < 0 || all.failed || len > MAX_STDIN) {
        buf_fini(&all);
        err_set(err, ERR_IO, n < 0 ? "stdin could not be read" : "stdin holds more than 2 GiB or memory ran out");
        return NULL;
    }
    buf_append(&all, "", 1);
    char *data = buf_take(&all);
    struct tbuf *bytes = data ? tbuf_wrap(data, len, release, err) : NULL;
    if (!bytes) {
        free(data);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    struct model *m = onnx_read_bytes(bytes, len, NULL, err);
    tbuf_unref(bytes);
    return m;
}

struct model *cli_read_model(const char *path, struct err *err)
{
    bool from_stdin = !strcmp(path, "-");
    struct model *m = from_stdin ? read_stdin(err) : onnx_read_file(path, NULL, err);
    if (m && model_validate(m, err)) {
        model_free(m);
        m = NULL;
    }
    if (!m)
        err_wrap(err, "%s: ", from_stdin ? "stdin" : path);
    return m;
}

struct pool *cli_pool(int64_t threads, struct err *err)
{
    struct pool *pool = pool_new((int)threads);
    if (!pool)
        err_set(err, ERR_NOMEM, "out of memory");
    return pool;
}
