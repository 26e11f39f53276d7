/* SPDX-License-Identifier: Apache-2.0
 * pared keys: API keys of a data folder. Writes to its catalogue, whether a server runs on it or not; a running one
 * takes the change over within a second. A key is shown once, when it is made. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/store.h"

static const char help[] =
    "Usage: pared keys add [OPTION]...     make a key; it is printed once, on stdout\n"
    "       pared keys list [OPTION]...    all keys, without their secrets\n"
    "       pared keys revoke ID           refuse a key from now on\n\n"
    "API keys of a data folder. Works while a server runs on it, which sees the change within a second, and before\n"
    "the first start. Once a key was made, every caller needs one.\n\n"
    "  --data DIR             data folder (PARED_DATA, the file of PARED_CONFIG, or pared-data)\n"
    "  --json                 list, add: JSON\n\n"
    "of add:\n"
    "  --owner NAME           whose models and jobs the key sees: letters, digits and . _ - @ (local)\n"
    "  --name TEXT            for people, in the list\n"
    "  --scopes LIST          of models:read, models:write, jobs:read, jobs:write, admin (all but admin)\n"
    "  --expires TIME         after so long: 90s, 15m, 12h, 30d, or `never` (never)\n"
    "  --requests-per-s N     limits of this key instead of the server's settings key_requests_per_s,\n"
    "  --active-jobs N        key_active_jobs and key_stored_bytes; 0 is no limit\n"
    "  --stored-bytes SIZE\n\n"
    "Example: pared keys add --data /var/lib/pared --owner ci --scopes jobs:read,jobs:write --expires 90d\n";

enum { NAME_MAX_BYTES = 200 };
static const int64_t YEARS_MAX_S = INT64_C(100) * 366 * 86400;

struct options {
    const char *data, *owner, *name;
    unsigned scopes;
    int64_t expires_s; /* 0: never */
    int64_t requests_per_s, active_jobs, stored_bytes;
    bool json;
};

/* ---- options */

/* "90s", "15m", "12h", "30d" */
static int read_time(const char *text, int64_t *seconds, struct err *err)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    size_t digits = strspn(text, "0123456789");
    if (strcmp(text, "never") == 0) {
        *seconds = 0;
        return 0;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (digits > 0 && digits < 12 && text[digits] == units[i].unit && !text[digits + 1]) {
            *seconds = strtoll(text, NULL, 10) * units[i].seconds;
            if (*seconds > 0 && *seconds <= YEARS_MAX_S)
                return 0;
        }
    return err_set(err, ERR_USAGE,
                   "--expires: '%.40s' is no time; it must be a number with s, m, h or d behind it, such as 30d, of at "
                   "most 100 years, or `never`",
                   text);
}

static int read_bytes(const char *text, int64_t *bytes, struct err *err)
{
    size_t size;
    *bytes = 0;
    if (strcmp(text, "0") == 0)
        return 0;
    if (cli_size("--stored-bytes", text, &size, err))
        return -1;
    if (size > (size_t)1 << 50)
        return err_set(err, ERR_USAGE, "--stored-bytes: '%.40s' is more than 2^50", text);
    *bytes = (int64_t)size;
    return 0;
}

enum { OPT_DATA, OPT_JSON, OPT_OWNER, OPT_NAME, OPT_SCOPES, OPT_EXPIRES, OPT_REQUESTS, OPT_JOBS, OPT_BYTES, OPT_HELP };
static const struct option flags[] = {{"data", required_argument, NULL, OPT_DATA},
                                      {"json", no_argument, NULL, OPT_JSON},
                                      {"owner", required_argument, NULL, OPT_OWNER},
                                      {"name", required_argument, NULL, OPT_NAME},
                                      {"scopes", required_argument, NULL, OPT_SCOPES},
                                      {"expires", required_argument, NULL, OPT_EXPIRES},
                                      {"requests-per-s", required_argument, NULL, OPT_REQUESTS},
                                      {"active-jobs", required_argument, NULL, OPT_JOBS},
                                      {"stored-bytes", required_argument, NULL, OPT_BYTES},
                                      {"help", no_argument, NULL, OPT_HELP},
                                      {0}};

static int take(struct options *o, int flag, const char *value, struct err *err)
{
    switch (flag) {
    case OPT_DATA:
        o->data = value;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_OWNER:
        o->owner = value;
        return auth_owner_good(value) ? 0
                                      : err_set(err, ERR_USAGE,
                                                "--owner: '%.80s' must be 1 to %d letters, digits and . _ - @", value,
                                                AUTH_OWNER_MAX);
    case OPT_NAME:
        o->name = value;
        return strlen(value) <= NAME_MAX_BYTES && utf8_valid(value, strlen(value))
                   ? 0
                   : err_set(err, ERR_USAGE, "--name: at most %d bytes of UTF-8", NAME_MAX_BYTES);
    case OPT_SCOPES:
        return scopes_parse(value, &o->scopes, err) ? err_wrap(err, "--scopes: ") : 0;
    case OPT_EXPIRES:
        return read_time(value, &o->expires_s, err);
    case OPT_REQUESTS:
        return cli_int("--requests-per-s", value, 0, 1000000, &o->requests_per_s, err);
    case OPT_JOBS:
        return cli_int("--active-jobs", value, 0, 10000000, &o->active_jobs, err);
    default:
        return read_bytes(value, &o->stored_bytes, err);
    }
}

/* ---- the store */

static struct store *open_store(const struct options *o, bool make, struct err *err)
{
    struct config config;
    char path[4096];
    if (config_load(&config, 0, NULL, environ, err))
        return NULL;
    const char *data = o->data ? o->data : config.data;
    struct store *store = NULL;
    int n = snprintf(path, sizeof path, "%s/catalogue.db", data);
    if (n < 0 || (size_t)n >= sizeof path)
        err_set(err, ERR_USAGE, "--data: the path is too long");
    else if (!make && access(path, F_OK))
        err_set(err, ERR_USAGE, "'%.300s' is no data folder of a server; name it by --data", data);
    else if (make && file_make_dirs(data, err))
        err_wrap(err, "data folder '%.300s': ", data);
    else
        store = store_open(&(struct store_opts){.path = path}, err);
    config_fini(&config);
    return store;
}

/* ---- add */

static json_t *key_json(const struct store_key *key);

static int add(struct store *store, const struct options *o, struct err *err)
{
    char id[ID_SIZE], text[AUTH_KEY_SIZE], sha256[SHA256_HEX], scopes[SCOPES_TEXT];
    bool shown;
    auth_key_new(id, text);
    hash_bytes(text, strlen(text), sha256);
    scopes_print(o->scopes, scopes);
    const struct store_key key = {.id = id,
                                  .owner = o->owner,
                                  .name = o->name,
                                  .sha256 = sha256,
                                  .scopes = scopes,
                                  .requests_per_s = o->requests_per_s,
                                  .active_jobs = o->active_jobs,
                                  .stored_bytes = o->stored_bytes,
                                  .created_at = clock_epoch_ms(),
                                  .expires_at = o->expires_s ? clock_epoch_ms() + o->expires_s * 1000 : 0};
    if (store_key_insert(store, &key, err))
        return -1;
    if (o->json) {
        json_t *json = key_json(&key);
        json_object_set_new(json, "key", json_string(text));
        shown = cli_print_json(json) == CLI_OK;
    } else {
        fprintf(stderr, "key %s of owner %s: %s. It is shown only now; keep it.\n", id, o->owner, scopes);
        shown = puts(text) != EOF && fflush(stdout) == 0;
    }
    explicit_bzero(text, sizeof text);
    if (shown || store_key_revoke(store, id, err)) /* nobody has seen it, so nobody may use it */
        return shown ? 0 : -1;
    return err_set(err, ERR_IO, "the key could not be written to the standard output; it was revoked again");
}

/* ---- list */

static const char *state_of(const struct store_key *key)
{
    if (key->revoked_at)
        return "revoked";
    return key->expires_at && key->expires_at <= clock_epoch_ms() ? "expired" : "active";
}

static void set_time(json_t *json, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339];
    clock_rfc3339(at, text);
    json_object_set_new(json, name, at ? json_string(text) : json_null());
}

static void set_limit(json_t *json, const char *name, int64_t limit)
{
    json_object_set_new(json, name, limit == STORE_KEY_DEFAULT ? json_null() : json_integer(limit));
}

static json_t *key_json(const struct store_key *key)
{
    json_t *json = json_object(), *scopes = json_array();
    for (const char *at = key->scopes; *at;) {
        size_t len = strcspn(at, " ");
        json_array_append_new(scopes, json_stringn(at, len));
        at += len + (at[len] == ' ');
    }
    json_object_set_new(json, "id", json_string(key->id));
    json_object_set_new(json, "owner", json_string(key->owner));
    json_object_set_new(json, "name", json_string(key->name));
    json_object_set_new(json, "state", json_string(state_of(key)));
    json_object_set_new(json, "scopes", scopes);
    set_limit(json, "requests_per_s", key->requests_per_s);
    set_limit(json, "active_jobs", key->active_jobs);
    set_limit(json, "stored_bytes", key->stored_bytes);
    set_time(json, "created_at", key->created_at);
    set_time(json, "expires_at", key->expires_at);
    set_time(json, "revoked_at", key->revoked_at);
    set_time(json, "last_used_at", key->last_used_at);
    return json;
}

/* Day and minute, or "-". */
static const char *minute(int64_t at, char out[CLOCK_RFC3339])
{
    if (!at)
        return "-";
    clock_rfc3339(at, out);
    out[16] = 0;
    out[10] = ' ';
    return out;
}

static void print_row(const struct store_key *key)
{
    char expires[CLOCK_RFC3339], used[CLOCK_RFC3339];
    printf("%-30s %-12s %-8s %-16s %-16s %s%s", key->id, key->owner, state_of(key), minute(key->expires_at, expires),
           minute(key->last_used_at, used), key->scopes, key->name[0] ? "  " : "");
    for (const char *c = key->name; *c; c++) /* a name must not play with the terminal */
        putchar((unsigned char)*c < 32 || *c == 127 ? '?' : *c);
    putchar('\n');
}

static int list(struct store *store, const struct options *o, struct err *err)
{
    struct store_key *rows;
    int count;
    struct arena *arena = arena_new();
    if (!arena)
        return err_set(err, ERR_NOMEM, "out of memory");
    int rc = store_key_list(store, arena, &rows, &count, err);
    if (rc == 0 && o->json) {
        json_t *array = json_array();
        for (int i = 0; i < count; i++)
            json_array_append_new(array, key_json(&rows[i]));
        rc = cli_print_json(array) == CLI_OK ? 0 : err_set(err, ERR_IO, "the list could not be written");
    } else if (rc == 0) {
        printf("%-30s %-12s %-8s %-16s %-16s %s\n", "id", "owner", "state", "expires (UTC)", "last used", "scopes");
        for (int i = 0; i < count; i++)
            print_row(&rows[i]);
    }
    arena_free(arena);
    return rc;
}

/* ---- the command */

int cmd_keys(int argc, char **argv)
{
    struct options o = {.owner = AUTH_LOCAL,
                        .name = "",
                        .scopes = SCOPES_DEFAULT,
                        .requests_per_s = STORE_KEY_DEFAULT,
                        .active_jobs = STORE_KEY_DEFAULT,
                        .stored_bytes = STORE_KEY_DEFAULT};
    struct err err = {0};
    int flag;
    optind = 1;
    opterr = 0;
    while ((flag = getopt_long(argc, argv, "", flags, NULL)) != -1) {
        if (flag == OPT_HELP)
            return cli_help(help);
        if (flag == '?')
            return cli_usage("keys", "'%.80s' is no option, or lacks its value", argv[optind - 1]);
        if (take(&o, flag, optarg, &err))
            return cli_fail(&err);
    }
    const char *verb = optind < argc ? argv[optind] : "", *id = optind + 1 < argc ? argv[optind + 1] : NULL;
    bool adds = !strcmp(verb, "add"), lists = !strcmp(verb, "list"), revokes = !strcmp(verb, "revoke");
    if (!adds && !lists && !revokes)
        return cli_usage("keys", "say add, list or revoke");
    if (revokes && (!id || !id_is(id, "key")))
        return cli_usage("keys", "revoke takes the id of a key: key_ and 26 characters, as `pared keys list` shows it");
    if (optind + 1 + revokes < argc)
        return cli_usage("keys", "'%.80s' is one word too many", argv[optind + 1 + revokes]);
    file_make_private();
    struct store *store = open_store(&o, adds, &err);
    int rc = !store  ? -1
             : adds  ? add(store, &o, &err)
             : lists ? list(store, &o, &err)
                     : store_key_revoke(store, id, &err);
    store_close(store);
    return rc ? cli_fail(&err) : CLI_OK;
}
