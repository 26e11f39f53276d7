/* SPDX-License-Identifier: Apache-2.0
 * The keys of file and catalogue lie in one sorted table, replaced as a whole when they change; what belongs to a key
 * in memory (its bucket, its last use) moves over to the new table. A caller's key names its id, so one digest is
 * compared; keys of the file have no id in them, so all of these are. */
#include "server/auth.h"

#include <errno.h>
#include <nettle/memops.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "server/store.h"

enum { KEY_FILE_BYTES = 1 << 20, KEY_MIN = 16, KEY_MAX = 256, ID_DIGITS = 26, MINUTE_MS = 60000 };

struct key {
    char id[ID_SIZE];
    char sha256[SHA256_HEX];
    char owner[AUTH_OWNER_MAX + 1];
    unsigned scopes;
    bool in_file;
    int64_t requests_per_s, active_jobs, stored_bytes; /* STORE_KEY_DEFAULT: the settings' */
    int64_t expires_at, revoked_at;
    /* of this process */
    struct rate rate;
    int64_t used_at, written_at; /* minutes, in milliseconds */
};
struct keyring {
    struct key *at; /* those of the file first, then by id */
    int count, in_file;
};

struct http_auth {
    struct store *store;
    struct guard_names names;
    char **hosts, **origins;
    bool loopback;
    pthread_mutex_t lock; /* guards what follows */
    struct keyring ring;
    bool locked;        /* there was a key once: without any left nobody gets in */
    int64_t generation; /* of the store's keys in the ring */
    int64_t requests_per_s, active_jobs, stored_bytes;
    /* the watcher */
    pthread_mutex_t changing; /* one who makes a new ring at a time; guards the next too */
    pthread_cond_t ended;
    pthread_t watcher;
    bool watches, end;
};

/* ---- the key's text */

void auth_key_new(char id[ID_SIZE], char text[AUTH_KEY_SIZE])
{
    unsigned char secret[AUTH_SECRET_BYTES];
    id_new(id, "key");
    random_bytes(secret, sizeof secret);
    int n = snprintf(text, AUTH_KEY_SIZE, AUTH_PREFIX "%s_", id + strlen("key_"));
    hex_text(secret, sizeof secret, text + n);
    explicit_bzero(secret, sizeof secret);
}

/* "pared_ID_..." names the key "key_ID". */
static bool id_of(const char *text, char id[ID_SIZE])
{
    size_t prefix = strlen(AUTH_PREFIX);
    if (strncmp(text, AUTH_PREFIX, prefix) != 0 || strlen(text) <= prefix + ID_DIGITS ||
        text[prefix + ID_DIGITS] != '_')
        return false;
    snprintf(id, ID_SIZE, "key_%.*s", ID_DIGITS, text + prefix);
    return true;
}

bool auth_owner_good(const char *owner)
{
    size_t len = strlen(owner);
    return len > 0 && len <= AUTH_OWNER_MAX &&
           strspn(owner, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@") == len;
}

/* ---- reading keys */

static const char blanks[] = " \t\r";

static struct key *grow(struct keyring *ring, struct err *err)
{
    struct key *grown = realloc(ring->at, ((size_t)ring->count + 1) * sizeof *grown);
    if (!grown) {
        err_set(err, ERR_NOMEM, "Out of memory.");
        return NULL;
    }
    ring->at = grown;
    grown[ring->count] = (struct key){0};
    return &grown[ring->count++];
}

/* One line of the key file, ended by NUL. */
static int add_line(struct keyring *ring, char *line, int number, struct err *err)
{
    char *save, *first = strtok_r(line, blanks, &save), *second = first ? strtok_r(NULL, blanks, &save) : NULL;
    if (!first || first[0] == '#')
        return 0;
    const char *owner = second ? first : AUTH_LOCAL, *text = second ? second : first;
    if (second && strtok_r(NULL, blanks, &save))
        return err_set(err, ERR_USAGE, "api_key_file, line %d: more than two words; a line is `KEY` or `OWNER KEY`.",
                       number);
    if (strlen(text) < KEY_MIN || strlen(text) > KEY_MAX)
        return err_set(err, ERR_USAGE, "api_key_file, line %d: a key needs %d to %d characters, this one has %zu.",
                       number, KEY_MIN, KEY_MAX, strlen(text));
    if (strlen(owner) > AUTH_OWNER_MAX)
        return err_set(err, ERR_USAGE, "api_key_file, line %d: an owner's name has at most %d characters.", number,
                       AUTH_OWNER_MAX);
    struct key *key = grow(ring, err);
    if (!key)
        return -1;
    ring->in_file++;
    key->in_file = true;
    key->scopes = SCOPES_ALL;
    key->requests_per_s = key->active_jobs = key->stored_bytes = STORE_KEY_DEFAULT;
    snprintf(key->id, sizeof key->id, "file:%d", number);
    snprintf(key->owner, sizeof key->owner, "%s", owner);
    hash_bytes(text, strlen(text), key->sha256);
    return 0;
}

static int read_file_keys(struct keyring *ring, const char *path, struct err *err)
{
    size_t len;
    char *text = file_read(path, KEY_FILE_BYTES, &len, err);
    if (!text) {
        err_wrap(err, "api_key_file '%s': ", path);
        return -1;
    }
    int rc = 0, number = 0;
    for (char *line = text; line && rc == 0;) {
        char *end = strchr(line, '\n');
        if (end)
            *end = 0;
        rc = add_line(ring, line, ++number, err);
        line = end ? end + 1 : NULL;
    }
    explicit_bzero(text, len);
    free(text);
    if (rc == 0 && ring->count == 0)
        return err_set(err, ERR_USAGE, "api_key_file '%s' has no key in it; write one a line.", path);
    return rc;
}

static int add_row(struct keyring *ring, const struct store_key *row, struct err *err)
{
    struct key *key = grow(ring, err);
    struct err ignored = {0}; /* a scope of a newer server: the key has the others */
    if (!key)
        return -1;
    snprintf(key->id, sizeof key->id, "%s", row->id);
    snprintf(key->owner, sizeof key->owner, "%s", row->owner);
    snprintf(key->sha256, sizeof key->sha256, "%s", row->sha256);
    scopes_parse(row->scopes, &key->scopes, &ignored);
    key->requests_per_s = row->requests_per_s;
    key->active_jobs = row->active_jobs;
    key->stored_bytes = row->stored_bytes;
    key->expires_at = row->expires_at;
    key->revoked_at = row->revoked_at;
    key->written_at = key->used_at = row->last_used_at;
    return 0;
}

/* The store lists by id, which keeps the table sorted. */
static int read_store_keys(struct keyring *ring, struct store *store, int64_t *generation, struct err *err)
{
    struct store_key *rows;
    int count, rc = 0;
    if (!store)
        return 0;
    struct arena *arena = arena_new();
    if (!arena)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    /* the number first: what changes after it is seen the next time */
    if (store_key_generation(store, generation, err) || store_key_list(store, arena, &rows, &count, err))
        rc = -1;
    for (int i = 0; rc == 0 && i < count; i++)
        rc = add_row(ring, &rows[i], err);
    arena_free(arena);
    return rc;
}

/* ---- the table */

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct key *)a)->id, ((const struct key *)b)->id);
}

static struct key *find_id(const struct keyring *ring, const char *id)
{
    struct key wanted = {0};
    if (ring->count == ring->in_file)
        return NULL;
    snprintf(wanted.id, sizeof wanted.id, "%s", id);
    return bsearch(&wanted, ring->at + ring->in_file, (size_t)(ring->count - ring->in_file), sizeof wanted, by_id);
}

static struct key *find_secret(const struct keyring *ring, const char *text)
{
    char hex[SHA256_HEX], id[ID_SIZE];
    struct key *found = NULL;
    hash_bytes(text, strlen(text), hex);
    for (int i = 0; i < ring->in_file; i++) /* all of them, whichever matches */
        if (memeql_sec(hex, ring->at[i].sha256, SHA256_HEX))
            found = &ring->at[i];
    struct key *named = !found && id_of(text, id) ? find_id(ring, id) : NULL;
    return named && memeql_sec(hex, named->sha256, SHA256_HEX) ? named : found;
}

/* What a key of the former table had in this process; of the file's keys by what they are, since lines move. */
static void carry_over(const struct keyring *from, struct keyring *to)
{
    for (int i = 0; i < to->count; i++) {
        struct key *key = &to->at[i], *old = NULL;
        if (!key->in_file)
            old = find_id(from, key->id);
        for (int k = 0; key->in_file && k < from->in_file; k++)
            if (memcmp(from->at[k].sha256, key->sha256, SHA256_HEX) == 0)
                old = &from->at[k];
        if (!old)
            continue;
        key->rate = old->rate;
        if (old->used_at > key->used_at)
            key->used_at = old->used_at;
    }
}

/* The keys of the file that are known now. */
static int keep_file_keys(struct http_auth *auth, struct keyring *ring, struct err *err)
{
    struct key *key = NULL;
    int i = 0;
    ring->count = ring->in_file = 0;
    pthread_mutex_lock(&auth->lock);
    for (; i < auth->ring.in_file && (key = grow(ring, err)); i++) {
        *key = auth->ring.at[i];
        ring->in_file++;
    }
    bool all = i == auth->ring.in_file;
    pthread_mutex_unlock(&auth->lock);
    return all ? 0 : -1;
}

/* A ring of the keys read so far from the file, and those of the store, becomes the one in use. */
static int replace(struct http_auth *auth, struct keyring ring, struct err *err)
{
    int64_t generation = 0;
    int rc = read_store_keys(&ring, auth->store, &generation, err);
    if (rc == 0) {
        pthread_mutex_lock(&auth->lock);
        struct keyring old = auth->ring;
        carry_over(&old, &ring);
        auth->ring = ring;
        auth->locked = auth->locked || ring.count > 0;
        auth->generation = generation;
        pthread_mutex_unlock(&auth->lock);
        ring = old;
    }
    free(ring.at);
    return rc;
}

/* Read all keys anew. */
static int refresh(struct http_auth *auth, const char *key_file, struct err *err)
{
    struct keyring ring = {0};
    if (key_file[0] && read_file_keys(&ring, key_file, err)) {
        free(ring.at);
        return -1;
    }
    return replace(auth, ring, err);
}

/* The same after a change in the store. The file is read when somebody says that it is complete (SIGHUP). */
static int refresh_store(struct http_auth *auth, struct err *err)
{
    struct keyring ring = {0};
    if (keep_file_keys(auth, &ring, err)) {
        free(ring.at);
        return -1;
    }
    return replace(auth, ring, err);
}

/* ---- the watcher */

static void write_uses(struct http_auth *auth)
{
    for (;;) {
        char id[ID_SIZE] = "";
        int64_t at = 0;
        struct err err = {0};
        pthread_mutex_lock(&auth->lock);
        for (int i = auth->ring.in_file; i < auth->ring.count && !at; i++) {
            struct key *key = &auth->ring.at[i];
            if (key->used_at <= key->written_at)
                continue;
            at = key->written_at = key->used_at;
            snprintf(id, sizeof id, "%s", key->id);
        }
        pthread_mutex_unlock(&auth->lock);
        if (!at)
            return;
        if (store_key_used(auth->store, id, at, &err)) {
            log_warn("last use of key %s not written: %s", id, err.msg);
            return;
        }
    }
}

static void look(struct http_auth *auth)
{
    struct err err = {0};
    int64_t generation;
    int rc = 0;
    pthread_mutex_lock(&auth->changing);
    if (store_key_generation(auth->store, &generation, &err))
        rc = -1;
    else if (generation != auth->generation)
        rc = refresh_store(auth, &err);
    pthread_mutex_unlock(&auth->changing);
    if (rc)
        log_warn("API keys not read again: %s", err.msg);
    write_uses(auth);
}

static void *watch(void *arg)
{
    struct http_auth *auth = arg;
    pthread_mutex_lock(&auth->lock);
    while (!auth->end) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += AUTH_WATCH_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&auth->ended, &auth->lock, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&auth->lock);
        look(auth);
        pthread_mutex_lock(&auth->lock);
    }
    pthread_mutex_unlock(&auth->lock);
    return NULL;
}

/* ---- life cycle */

/* NULL-terminated copy of the pointers. */
static char **list_of(const config_list *list)
{
    char **out = calloc((size_t)list->count + 1, sizeof *out);
    for (int i = 0; out && i < list->count; i++)
        out[i] = strdup(list->at[i]);
    return out;
}

static void free_list(char **list)
{
    for (int i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static void take_limits(struct http_auth *auth, const struct config *config)
{
    auth->requests_per_s = config->key_requests_per_s;
    auth->active_jobs = config->key_active_jobs;
    auth->stored_bytes = config->key_stored_bytes;
}

int http_auth_reload(struct http_auth *auth, const struct config *config, struct err *err)
{
    pthread_mutex_lock(&auth->changing);
    int rc = refresh(auth, config->api_key_file, err);
    if (rc == 0) {
        pthread_mutex_lock(&auth->lock);
        take_limits(auth, config);
        pthread_mutex_unlock(&auth->lock);
    }
    pthread_mutex_unlock(&auth->changing);
    return rc;
}

static int start(struct http_auth *auth, const struct config *config, struct err *err)
{
    struct config_address address;
    auth->hosts = list_of(&config->allowed_hosts);
    auth->origins = list_of(&config->allowed_origins);
    if (!auth->hosts || !auth->origins)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (config_address(config->listen, &address, err) || http_auth_reload(auth, config, err))
        return -1;
    auth->names =
        (struct guard_names){address.loopback, (const char *const *)auth->hosts, (const char *const *)auth->origins};
    if (!address.loopback && auth->ring.count == 0)
        return err_set(err, ERR_USAGE,
                       "Listening on %s lets other machines in, so API keys are needed: make one with `pared keys add "
                       "--data %s`, set api_key_file (PARED_API_KEY_FILE) to a file of keys, or listen on 127.0.0.1.",
                       config->listen, config->data);
    if (!auth->store)
        return 0;
    errno = pthread_create(&auth->watcher, NULL, watch, auth);
    auth->watches = errno == 0;
    return errno ? err_set_errno(err, ERR_INTERNAL, "A thread for the API keys could not be made") : 0;
}

struct http_auth *http_auth_new(const struct config *config, struct store *store, struct err *err)
{
    struct http_auth *auth = calloc(1, sizeof *auth);
    if (!auth) {
        err_set(err, ERR_NOMEM, "Out of memory.");
        return NULL;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&auth->ended, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&auth->lock, NULL);
    pthread_mutex_init(&auth->changing, NULL);
    auth->store = store;
    if (start(auth, config, err) == 0)
        return auth;
    http_auth_free(auth);
    return NULL;
}

void http_auth_free(struct http_auth *auth)
{
    if (!auth)
        return;
    pthread_mutex_lock(&auth->lock);
    auth->end = true;
    pthread_cond_signal(&auth->ended);
    pthread_mutex_unlock(&auth->lock);
    if (auth->watches) {
        pthread_join(auth->watcher, NULL);
        write_uses(auth);
    }
    free(auth->ring.at);
    free_list(auth->hosts);
    free_list(auth->origins);
    pthread_cond_destroy(&auth->ended);
    pthread_mutex_destroy(&auth->changing);
    pthread_mutex_destroy(&auth->lock);
    free(auth);
}

/* ---- checks */

static int refuse_key(const struct key *key, int64_t now, struct err *err)
{
    char date[CLOCK_RFC3339];
    if (key->revoked_at)
        return err_set(err, ERR_UNAUTHORIZED, "The API key %s was revoked.", key->id);
    if (!key->expires_at || key->expires_at > now)
        return 0;
    clock_rfc3339(key->expires_at, date);
    return err_set(err, ERR_UNAUTHORIZED, "The API key %s expired at %s.", key->id, date);
}

static int64_t limit_of(int64_t own, int64_t preset)
{
    return own == STORE_KEY_DEFAULT ? preset : own;
}

/* Under the lock. */
static int check_key(struct http_auth *auth, struct key *key, enum auth_kind need, struct auth_caller *out,
                     struct err *err)
{
    int64_t now = clock_epoch_ms(), per_s = limit_of(key->requests_per_s, auth->requests_per_s);
    out->scopes = key->scopes;
    out->active_jobs = limit_of(key->active_jobs, auth->active_jobs);
    out->stored_bytes = limit_of(key->stored_bytes, auth->stored_bytes);
    if (refuse_key(key, now, err))
        return -1;
    if (now / MINUTE_MS * MINUTE_MS > key->used_at)
        key->used_at = now / MINUTE_MS * MINUTE_MS;
    if (!rate_take(&key->rate, per_s, clock_seconds(), &out->rate))
        return err_set(err, ERR_RATE_LIMITED,
                       "The API key %s may send %lld requests a second, and has sent more. Try again in %lld s.",
                       key->id, (long long)per_s, (long long)out->rate.retry_s);
    if (need == AUTH_OPEN || need == AUTH_KEY)
        return 0;
    enum scope scope = (enum scope)(need - AUTH_KEY - 1);
    if (scopes_allow(key->scopes, scope))
        return 0;
    char has[SCOPES_TEXT];
    scopes_print(key->scopes, has);
    return err_set(err, ERR_FORBIDDEN, "This call needs the scope %s; the API key %s has: %s.", scope_name(scope),
                   key->id, has);
}

int http_auth_check(struct http_auth *auth, const char *authorization, enum auth_kind need, struct arena *arena,
                    struct auth_caller *out, struct err *err)
{
    *out = (struct auth_caller){.owner = "", .key_id = ""};
    int rc = 0;
    bool bearer = authorization && strncasecmp(authorization, "Bearer ", 7) == 0;
    const char *text = bearer ? authorization + 7 + strspn(authorization + 7, " ") : "";
    pthread_mutex_lock(&auth->lock);
    if (auth->ring.count == 0 && !auth->locked) {
        out->owner = AUTH_LOCAL;
        out->scopes = SCOPES_ALL;
    } else if (!bearer) {
        rc = err_set(err, ERR_UNAUTHORIZED,
                     "This server needs an API key: send the header `Authorization: Bearer KEY`.");
    } else {
        struct key *key = strlen(text) <= KEY_MAX ? find_secret(&auth->ring, text) : NULL;
        if (key) {
            out->owner = arena_strdup(arena, key->owner);
            out->key_id = arena_strdup(arena, key->id);
            rc = out->owner && out->key_id ? check_key(auth, key, need, out, err)
                                           : err_set(err, ERR_NOMEM, "Out of memory.");
        } else {
            rc = err_set(err, ERR_UNAUTHORIZED, "The API key is not one of this server's.");
        }
    }
    pthread_mutex_unlock(&auth->lock);
    return rc;
}

const struct guard_names *http_auth_names(const struct http_auth *auth)
{
    return &auth->names;
}
