/* SPDX-License-Identifier: Apache-2.0
 * Every row of config.def becomes a `struct setting` with the offset of its field; one parser a type, chosen by the
 * row. The same parser reads defaults, file, environment and flags, so a value that is refused in one place is refused
 * in all. */
#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/size.h"

enum type { TYPE_TEXT, TYPE_LIST, TYPE_INT, TYPE_BYTES, TYPE_LEVEL, TYPE_FORMAT, TYPE_SANDBOX };

/* The name of each type in documents, and its words where only some are allowed; the value is the word's place. */
static const struct {
    const char *name, *words[5];
} types[] = {[TYPE_TEXT] = {"text", {NULL}},
             [TYPE_LIST] = {"list", {NULL}},
             [TYPE_INT] = {"number", {NULL}},
             [TYPE_BYTES] = {"bytes", {NULL}},
             [TYPE_LEVEL] = {"level", {"error", "warn", "info", "debug"}},
             [TYPE_FORMAT] = {"format", {"text", "json"}},
             [TYPE_SANDBOX] = {"mode", {"strict", "best-effort", "off"}}};

struct setting {
    const char *name;
    enum type type;
    const char *preset;
    int64_t min, max;
    const char *doc;
    size_t offset;
    bool live;
};

static const struct setting settings[] = {
#define ROW(id, kind, def, lo, hi, text, live) {#id, TYPE_##kind, def, lo, hi, text, offsetof(struct config, id), live},
#define SETTING(id, kind, def, lo, hi, text) ROW(id, kind, def, lo, hi, text, false)
#define SETTING_LIVE(id, kind, def, lo, hi, text) ROW(id, kind, def, lo, hi, text, true)
#include "server/config.def"
#undef SETTING
#undef SETTING_LIVE
#undef ROW
};
enum { N_SETTINGS = sizeof settings / sizeof settings[0] };

enum { FILE_LIMIT = 1 << 20 };

static void *field(struct config *config, const struct setting *s)
{
    return (char *)config + s->offset;
}

static const void *const_field(const struct config *config, const struct setting *s)
{
    return (const char *)config + s->offset;
}

/* --some-name and some_name are the same setting. */
static const struct setting *find(const char *name, size_t len)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        const char *want = settings[i].name;
        if (strlen(want) != len)
            continue;
        size_t k = 0;
        while (k < len && (name[k] == want[k] || (name[k] == '-' && want[k] == '_')))
            k++;
        if (k == len)
            return &settings[i];
    }
    return NULL;
}

/* ---- one parser a type --------------------------------------------------------------------------------------------
 */

static void list_fini(config_list *list)
{
    for (int i = 0; i < list->count; i++)
        free(list->at[i]);
    free(list->at);
    *list = (config_list){0};
}

static int list_add(config_list *list, const char *text, size_t len)
{
    char **grown = realloc(list->at, ((size_t)list->count + 1) * sizeof *grown);
    if (!grown)
        return -1;
    list->at = grown;
    grown[list->count] = strndup(text, len);
    if (!grown[list->count])
        return -1;
    list->count++;
    return 0;
}

static int parse_list(const char *text, config_list *out)
{
    config_list list = {0};
    while (*text) {
        size_t len = strcspn(text, ",");
        const char *from = text, *to = text + len;
        while (from < to && isspace((unsigned char)*from))
            from++;
        while (to > from && isspace((unsigned char)to[-1]))
            to--;
        if (to > from && list_add(&list, from, (size_t)(to - from))) {
            list_fini(&list);
            return -1;
        }
        text += len + (text[len] == ',');
    }
    list_fini(out);
    *out = list;
    return 0;
}

static bool parse_number(const char *text, int64_t *out, const char **rest)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno)
        return false;
    *out = value;
    *rest = end;
    return true;
}

/* "512", "4k", "16GiB", "2 MiB": powers of 1024 throughout. */
static bool parse_bytes(const char *text, int64_t *out)
{
    const char *rest;
    if (!parse_number(text, out, &rest))
        return false;
    while (*rest == ' ')
        rest++;
    static const char units[] = "kmgt";
    const char *unit = *rest ? strchr(units, tolower((unsigned char)*rest)) : NULL;
    if (unit) {
        for (ptrdiff_t i = 0; i <= unit - units; i++)
            if (!i64_mul(*out, 1024, out))
                return false;
        rest++;
        if (*rest == 'i')
            rest++;
    }
    if (*rest == 'B')
        rest++;
    return *rest == 0;
}

static int refuse_number(const struct setting *s, const char *value, const char *source, struct err *err)
{
    return err_set(err, ERR_USAGE, "%s: %s is '%.100s'; it must be a %s from %" PRId64 " to %" PRId64, source, s->name,
                   value, s->type == TYPE_BYTES ? "number of bytes (suffix k, m, g, t allowed)" : "whole number",
                   s->min, s->max);
}

static int set_word(const struct setting *s, const char *value, const char *source, int *out, struct err *err)
{
    const char *const *words = types[s->type].words;
    char allowed[120] = "";
    for (int i = 0; words[i]; i++) {
        if (!strcmp(value, words[i])) {
            *out = i;
            return 0;
        }
        size_t len = strlen(allowed);
        snprintf(allowed + len, sizeof allowed - len, "%s%s", i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
    }
    return err_set(err, ERR_USAGE, "%s: %s is '%.100s'; it must be %s", source, s->name, value, allowed);
}

static int set_field(struct config *config, const struct setting *s, const char *value, const char *source,
                     struct err *err)
{
    int64_t number = 0;
    const char *rest = "";
    switch (s->type) {
    case TYPE_TEXT: {
        char *copy = strdup(value);
        if (!copy)
            return err_set(err, ERR_NOMEM, "out of memory");
        char **text = field(config, s);
        free(*text);
        *text = copy;
        return 0;
    }
    case TYPE_LIST:
        return parse_list(value, field(config, s)) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
    case TYPE_LEVEL:
    case TYPE_FORMAT:
    case TYPE_SANDBOX:
        return set_word(s, value, source, field(config, s), err);
    case TYPE_INT:
    case TYPE_BYTES:
        if (s->type == TYPE_INT ? !parse_number(value, &number, &rest) || *rest : !parse_bytes(value, &number))
            return refuse_number(s, value, source, err);
        if (number < s->min || number > s->max)
            return refuse_number(s, value, source, err);
        *(int64_t *)field(config, s) = number;
        return 0;
    }
    return err_set(err, ERR_INTERNAL, "setting %s has no type", s->name);
}

int config_set(struct config *config, const char *name, const char *value, const char *source, struct err *err)
{
    const struct setting *s = find(name, strlen(name));
    if (!s)
        return err_set(err, ERR_USAGE, "%s: there is no setting '%.100s'; `pared serve --help` lists them", source,
                       name);
    return set_field(config, s, value, source, err);
}

/* ---- sources ------------------------------------------------------------------------------------------------------
 */

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = 0;
    return text;
}

static int read_line(struct config *config, char *line, const char *source, struct err *err)
{
    line = trim(line);
    if (!*line || *line == '#')
        return 0;
    char *equals = strchr(line, '=');
    if (!equals)
        return err_set(err, ERR_USAGE, "%s: '%.100s' is no line of the form `name = value`", source, line);
    *equals = 0;
    char *value = trim(equals + 1);
    size_t len = strlen(value);
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value[len - 1] = 0;
        value++;
    }
    return config_set(config, trim(line), value, source, err);
}

static int read_file(struct config *config, const char *path, struct err *err)
{
    char *text = file_read(path, FILE_LIMIT, NULL, err);
    if (!text) {
        err_wrap(err, "configuration file '%s': ", path);
        if (err->code == ERR_IO)
            err->code = ERR_USAGE;
        return -1;
    }
    int rc = 0, number = 0;
    for (char *line = text, *next; rc == 0 && line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char source[400];
        snprintf(source, sizeof source, "%.300s, line %d", path, ++number);
        rc = read_line(config, line, source, err);
    }
    free(text);
    return rc;
}

static const char *environment_value(char *const *environment, const char *name)
{
    size_t len = strlen(name);
    for (; environment && *environment; environment++)
        if (!strncmp(*environment, name, len) && (*environment)[len] == '=')
            return *environment + len + 1;
    return NULL;
}

static int read_environment(struct config *config, char *const *environment, struct err *err)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        char name[100] = "PARED_";
        for (size_t k = 0; k <= strlen(settings[i].name); k++)
            name[6 + k] = (char)toupper((unsigned char)settings[i].name[k]);
        const char *value = environment_value(environment, name);
        if (value && set_field(config, &settings[i], value, name, err))
            return -1;
    }
    return 0;
}

/* One pass over the flags: with `config_file` only --config is looked at, else all the others are set. */
static int read_flags(struct config *config, int argc, char *const *args, const char **config_file, struct err *err)
{
    for (int i = 0; i < argc; i++) {
        const char *word = args[i];
        if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            config->help = true;
            continue;
        }
        if (strncmp(word, "--", 2))
            return err_set(err, ERR_USAGE, "'%.100s' is no setting: settings are given as --name VALUE", word);
        size_t len = strcspn(word + 2, "=");
        const char *value = word[2 + len] ? word + 2 + len + 1 : i + 1 < argc ? args[++i] : NULL;
        bool is_config = len == 6 && !strncmp(word + 2, "config", 6);
        const struct setting *s = find(word + 2, len);
        if (!s && !is_config)
            return err_set(err, ERR_USAGE, "there is no setting '%.100s'; `pared serve --help` lists them", word);
        if (!value)
            return err_set(err, ERR_USAGE, "%.100s needs a value", word);
        char source[120];
        snprintf(source, sizeof source, "%.*s", (int)(len + 2), word);
        if (is_config && config_file)
            *config_file = value;
        if (s && !config_file && set_field(config, s, value, source, err))
            return -1;
    }
    return 0;
}

int config_load(struct config *config, int argc, char *const *args, char *const *environment, struct err *err)
{
    *config = (struct config){.source = {argc, args, environment}};
    for (int i = 0; i < N_SETTINGS; i++)
        if (set_field(config, &settings[i], settings[i].preset, "default", err))
            goto fail;
    const char *path = environment_value(environment, "PARED_CONFIG");
    if (read_flags(config, argc, args, &path, err))
        goto fail;
    if (config->help)
        return 0;
    if (path && *path && read_file(config, path, err))
        goto fail;
    if (read_environment(config, environment, err) || read_flags(config, argc, args, NULL, err))
        goto fail;
    return 0;
fail:
    config_fini(config);
    return -1;
}

void config_fini(struct config *config)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        if (settings[i].type == TYPE_TEXT)
            free(*(char **)field(config, &settings[i]));
        if (settings[i].type == TYPE_LIST)
            list_fini(field(config, &settings[i]));
    }
    *config = (struct config){0};
}

/* ---- reading again ------------------------------------------------------------------------------------------------
 */

static bool same(const void *a, const void *b, enum type type)
{
    if (type == TYPE_TEXT)
        return !strcmp(*(char *const *)a, *(char *const *)b);
    if (type == TYPE_INT || type == TYPE_BYTES)
        return *(const int64_t *)a == *(const int64_t *)b;
    if (type != TYPE_LIST)
        return *(const int *)a == *(const int *)b;
    const config_list *x = a, *y = b;
    bool equal = x->count == y->count;
    for (int i = 0; equal && i < x->count; i++)
        equal = !strcmp(x->at[i], y->at[i]);
    return equal;
}

static int copy_list(config_list *to, const config_list *from)
{
    list_fini(to);
    for (int i = 0; i < from->count; i++)
        if (list_add(to, from->at[i], strlen(from->at[i])))
            return -1;
    return 0;
}

/* The field is as it was again. */
static int keep(struct config *fresh, const struct config *now, const struct setting *s)
{
    void *to = field(fresh, s);
    const void *from = const_field(now, s);
    if (s->type == TYPE_LIST)
        return copy_list(to, from);
    if (s->type == TYPE_TEXT) {
        free(*(char **)to);
        return (*(char **)to = strdup(*(char *const *)from)) ? 0 : -1;
    }
    memcpy(to, from, s->type == TYPE_INT || s->type == TYPE_BYTES ? sizeof(int64_t) : sizeof(int));
    return 0;
}

/* The server made `data` absolute at its start: the same folder by another name is no change. */
static void same_folder(struct config *fresh, const struct config *now)
{
    char *path = realpath(fresh->data, NULL);
    if (!path || strcmp(path, now->data)) {
        free(path);
        return;
    }
    free(fresh->data);
    fresh->data = path;
}

int config_reload(struct config *fresh, const struct config *now, struct buf *changed, struct buf *refused,
                  struct err *err)
{
    if (config_load(fresh, now->source.argc, now->source.args, now->source.environment, err))
        return -1;
    same_folder(fresh, now);
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        if (same(const_field(fresh, s), const_field(now, s), s->type))
            continue;
        struct buf *list = s->live ? changed : refused;
        buf_printf(list, "%s%s", list->len ? ", " : "", s->name);
        if (!s->live && keep(fresh, now, s)) {
            config_fini(fresh);
            return err_set(err, ERR_NOMEM, "out of memory");
        }
    }
    return 0;
}

/* ---- documents ----------------------------------------------------------------------------------------------------
 */

void config_help(struct buf *out)
{
    buf_puts(out,
             "Usage: pared serve [--config FILE] [--SETTING VALUE]...\n\n"
             "Serves the HTTP API and the dashboard, and runs jobs. Each setting is a flag, an environment variable\n"
             "(PARED_ and the name in capitals) and a line `name = value` of the configuration file; the flag wins,\n"
             "then the environment.\n\n");
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        const char *const *words = types[s->type].words;
        buf_printf(out, "  --%s %s", s->name, words[0] ? words[0] : types[s->type].name);
        for (int k = 1; words[0] && words[k]; k++)
            buf_printf(out, "|%s", words[k]);
        if (*s->preset)
            buf_printf(out, "   (%s)", s->preset);
        buf_printf(out, "\n      %s\n", s->doc);
    }
}

void config_markdown(struct buf *out)
{
    buf_puts(
        out,
        "# Settings\n\nPrinted from `server/config.def` by `pared serve --markdown`; do not edit.\n\n"
        "Each setting is a flag `--name VALUE`, an environment variable `PARED_NAME` and a line `name = value` of the\n"
        "file given by `--config FILE` or `PARED_CONFIG`. The flag wins, then the environment, then the file. Bytes\n"
        "take the suffixes k, m, g, t (powers of 1024); lists are separated by commas.\n\n"
        "On SIGHUP the server reads them again. Those marked *live* change at once; a change of the others is\n"
        "logged and waits for a restart.\n\n"
        "| setting | environment | type | default | allowed | live | meaning |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        buf_printf(out, "| `%s` | `PARED_", s->name);
        for (const char *p = s->name; *p; p++) {
            char c = (char)toupper((unsigned char)*p);
            buf_append(out, &c, 1);
        }
        buf_printf(out, "` | %s | %s%s%s | ", types[s->type].name, *s->preset ? "`" : "", s->preset,
                   *s->preset ? "`" : "");
        if (s->type == TYPE_INT || s->type == TYPE_BYTES)
            buf_printf(out, "%" PRId64 " to %" PRId64, s->min, s->max);
        for (const char *const *word = types[s->type].words; *word; word++)
            buf_printf(out, "%s%s", word == types[s->type].words ? "" : ", ", *word);
        buf_printf(out, " | %s | %s |\n", s->live ? "live" : "", s->doc);
    }
}

void config_print(const struct config *config, struct buf *out)
{
    for (int i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        const void *at = const_field(config, s);
        buf_printf(out, "%s = ", s->name);
        if (s->type == TYPE_TEXT)
            buf_puts(out, *(char *const *)at);
        else if (types[s->type].words[0])
            buf_puts(out, types[s->type].words[*(const int *)at]);
        else if (s->type == TYPE_LIST)
            for (int k = 0; k < ((const config_list *)at)->count; k++)
                buf_printf(out, "%s%s", k ? ", " : "", ((const config_list *)at)->at[k]);
        else
            buf_printf(out, "%" PRId64, *(const int64_t *)at);
        buf_puts(out, "\n");
    }
}

/* ---- addresses ----------------------------------------------------------------------------------------------------
 */

int config_address(const char *text, struct config_address *address, struct err *err)
{
    *address = (struct config_address){0};
    const char *host = text, *end, *port;
    if (*text == '[') {
        host = text + 1;
        end = strchr(host, ']');
        port = end && end[1] == ':' ? end + 2 : NULL;
    } else {
        end = strrchr(text, ':');
        port = end ? end + 1 : NULL;
        if (end && memchr(text, ':', (size_t)(end - text)))
            port = NULL; /* a bare IPv6 address: where would its port begin? */
    }
    int64_t number = 0;
    const char *rest = "";
    if (!port || end == host || (size_t)(end - host) >= sizeof address->host || !parse_number(port, &number, &rest) ||
        *rest || number > 65535)
        return err_set(err, ERR_USAGE,
                       "listen is '%.200s'; it must be HOST:PORT or [IPV6]:PORT with a port from 0 to 65535", text);
    memcpy(address->host, host, (size_t)(end - host));
    address->port = (uint16_t)number;
    address->loopback =
        !strncmp(address->host, "127.", 4) || !strcmp(address->host, "::1") || !strcmp(address->host, "localhost");
    return 0;
}
