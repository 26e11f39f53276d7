/* SPDX-License-Identifier: Apache-2.0
 * A direct-mapped table: the slot follows from the id. Copies are made under the lock; a text is a few KiB. */
#include "server/text_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"

#include "server/id.h"

struct slot {
    char id[ID_SIZE]; /* "" = empty */
    int64_t version;
    int64_t setting;
    char *text;
    size_t len;
};
struct text_cache {
    pthread_mutex_t lock;
    struct slot slots[TEXT_CACHE_SLOTS];
};

struct text_cache *text_cache_new(struct err *err)
{
    struct text_cache *cache = calloc(1, sizeof *cache);
    if (cache)
        pthread_mutex_init(&cache->lock, NULL);
    else
        err_set(err, ERR_NOMEM, "Out of memory.");
    return cache;
}

void text_cache_free(struct text_cache *cache)
{
    if (!cache)
        return;
    for (int i = 0; i < TEXT_CACHE_SLOTS; i++)
        free(cache->slots[i].text);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static struct slot *slot_of(struct text_cache *cache, const char *id)
{
    return &cache->slots[fnv1a(id) % TEXT_CACHE_SLOTS];
}

static char *copy_of(const char *text, size_t len)
{
    char *copy = malloc(len + 1);
    if (copy) {
        memcpy(copy, text, len);
        copy[len] = 0;
    }
    return copy;
}

char *text_cache_get(struct text_cache *cache, const struct text_key *key, size_t *len)
{
    char *copy = NULL;
    pthread_mutex_lock(&cache->lock);
    const struct slot *slot = slot_of(cache, key->id);
    if (slot->text && !strcmp(slot->id, key->id) && slot->version == key->version && slot->setting == key->setting &&
        (copy = copy_of(slot->text, slot->len)))
        *len = slot->len;
    pthread_mutex_unlock(&cache->lock);
    return copy;
}

void text_cache_put(struct text_cache *cache, const struct text_key *key, const char *text, size_t len)
{
    size_t id_len = strlen(key->id);
    char *copy = len <= TEXT_CACHE_BYTES && id_len < ID_SIZE ? copy_of(text, len) : NULL;
    if (!copy)
        return;
    pthread_mutex_lock(&cache->lock);
    struct slot *slot = slot_of(cache, key->id);
    char *old = slot->text;
    memcpy(slot->id, key->id, id_len + 1);
    slot->version = key->version;
    slot->setting = key->setting;
    slot->text = copy;
    slot->len = len;
    pthread_mutex_unlock(&cache->lock);
    free(old);
}
