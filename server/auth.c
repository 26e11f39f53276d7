/* SPDX-License-Identifier: Apache-2.0 */
#include "server/auth.h"

#include <nettle/memops.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/file.h"
#include "core/base/hash.h"

enum { KEY_FILE_BYTES = 1 << 20, KEY_MIN = 16, KEY_MAX = 256, OWNER_MAX = 64 };

struct key {
    char sha256[SHA256_HEX];
    char *owner;
};

struct http_auth {
    struct key *keys;
    int count;
    struct guard_names names;
    char **hosts, **origins;
};

static const char blanks[] = " \t\r";

/* One line of the key file, ended by NUL. */
static int add_line(struct http_auth *auth, char *line, int number, struct err *err)
{
    char *save, *first = strtok_r(line, blanks, &save), *second = first ? strtok_r(NULL, blanks, &save) : NULL;
    if (!first || first[0] == '#')
        return 0;
    const char *owner = second ? first : AUTH_LOCAL, *key = second ? second : first;
    if (second && strtok_r(NULL, blanks, &save))
        return err_set(err, ERR_USAGE, "api_key_file, line %d: more than two words; a line is `KEY` or `OWNER KEY`.",
                       number);
    if (strlen(key) < KEY_MIN || strlen(key) > KEY_MAX)
        return err_set(err, ERR_USAGE, "api_key_file, line %d: a key needs %d to %d characters, this one has %zu.",
                       number, KEY_MIN, KEY_MAX, strlen(key));
    if (strlen(owner) > OWNER_MAX)
        return err_set(err, ERR_USAGE, "api_key_file, line %d: an owner's name has at most %d characters.", number,
                       OWNER_MAX);
    struct key *grown = realloc(auth->keys, ((size_t)auth->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    auth->keys = grown;
    hash_bytes(key, strlen(key), grown[auth->count].sha256);
    grown[auth->count].owner = strdup(owner);
    return grown[auth->count++].owner ? 0 : err_set(err, ERR_NOMEM, "Out of memory.");
}

static int read_keys(struct http_auth *auth, const char *path, struct err *err)
{
    size_t len;
    char *text = file_read(path, KEY_FILE_BYTES, &len, err);
    if (!text)
        return err_wrap(err, "api_key_file '%s': ", path);
    int rc = 0, number = 0;
    for (char *line = text; line && rc == 0;) {
        char *end = strchr(line, '\n');
        if (end)
            *end = 0;
        rc = add_line(auth, line, ++number, err);
        line = end ? end + 1 : NULL;
    }
    explicit_bzero(text, len);
    free(text);
    if (rc == 0 && auth->count == 0)
        return err_set(err, ERR_USAGE, "api_key_file '%s' has no key in it; write one a line.", path);
    return rc;
}

/* NULL-terminated copy of the pointers. */
static char **list_of(const config_list *list)
{
    char **out = calloc((size_t)list->count + 1, sizeof *out);
    for (int i = 0; out && i < list->count; i++)
        out[i] = list->at[i];
    return out;
}

struct http_auth *http_auth_new(const struct config *config, struct err *err)
{
    struct config_address address;
    struct http_auth *auth = calloc(1, sizeof *auth);
    if (!auth) {
        err_set(err, ERR_NOMEM, "Out of memory.");
        return NULL;
    }
    int rc = config_address(config->listen, &address, err);
    if (rc == 0 && config->api_key_file[0])
        rc = read_keys(auth, config->api_key_file, err);
    if (rc == 0 && !address.loopback && auth->count == 0)
        rc = err_set(
            err, ERR_USAGE,
            "Listening on %s lets other machines in, so API keys are needed: set api_key_file (PARED_API_KEY_FILE) "
            "to a file of keys, one a line, or listen on 127.0.0.1.",
            config->listen);
    auth->hosts = list_of(&config->allowed_hosts);
    auth->origins = list_of(&config->allowed_origins);
    if (rc == 0 && (!auth->hosts || !auth->origins))
        rc = err_set(err, ERR_NOMEM, "Out of memory.");
    if (rc != 0) {
        http_auth_free(auth);
        return NULL;
    }
    auth->names =
        (struct guard_names){address.loopback, (const char *const *)auth->hosts, (const char *const *)auth->origins};
    return auth;
}

void http_auth_free(struct http_auth *auth)
{
    if (!auth)
        return;
    for (int i = 0; i < auth->count; i++)
        free(auth->keys[i].owner);
    free(auth->keys);
    free(auth->hosts);
    free(auth->origins);
    free(auth);
}

const char *http_auth_owner(const struct http_auth *auth, const char *authorization, struct err *err)
{
    if (auth->count == 0)
        return AUTH_LOCAL;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) {
        err_set(err, ERR_UNAUTHORIZED, "This server needs an API key: send the header `Authorization: Bearer KEY`.");
        return NULL;
    }
    const char *key = authorization + 7 + strspn(authorization + 7, " ");
    char hex[SHA256_HEX];
    hash_bytes(key, strlen(key), hex);
    const char *owner = NULL;
    for (int i = 0; i < auth->count; i++) /* all of them, whichever matches */
        if (memeql_sec(hex, auth->keys[i].sha256, SHA256_HEX))
            owner = auth->keys[i].owner;
    if (!owner)
        err_set(err, ERR_UNAUTHORIZED, "The API key is not one of this server's.");
    return owner;
}

const struct guard_names *http_auth_names(const struct http_auth *auth)
{
    return &auth->names;
}
