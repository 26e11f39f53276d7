/* SPDX-License-Identifier: Apache-2.0
 * A table of sets: a blob's set follows from the first digits of its hash, and of the four blobs in it the one that was
 * checked longest ago makes room. 4,096 slots of 128 bytes; pages of it that were never touched cost nothing. */
#include "server/blob_check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/log.h"

enum { WAYS = 4, SLOTS = 4096, DEFAULT_AGE_S = 86400 };

/* What a file that was not touched keeps. */
struct identity {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};
struct check {
    char sha256[SHA256_HEX]; /* "" = empty slot */
    struct identity file;
    double at; /* monotonic */
};
struct blob_checks {
    pthread_mutex_t lock;
    _Atomic int64_t age_s;
    struct check *slots;
};

struct blob_checks *blob_checks_new(struct err *err)
{
    struct blob_checks *checks = calloc(1, sizeof *checks);
    if (!checks || !(checks->slots = calloc(SLOTS, sizeof *checks->slots))) {
        free(checks);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&checks->lock, NULL);
    atomic_store(&checks->age_s, DEFAULT_AGE_S);
    return checks;
}

void blob_checks_free(struct blob_checks *checks)
{
    if (!checks)
        return;
    pthread_mutex_destroy(&checks->lock);
    free(checks->slots);
    free(checks);
}

void blob_checks_set_age(struct blob_checks *checks, int64_t seconds)
{
    atomic_store(&checks->age_s, seconds);
}

/* The blob's own slot, or else the oldest of its set. */
static struct check *slot_of(struct blob_checks *checks, const char *sha256)
{
    char digits[4] = {sha256[0], sha256[1], sha256[2], 0};
    struct check *set = &checks->slots[strtoul(digits, NULL, 16) % (SLOTS / WAYS) * WAYS], *oldest = set;
    for (struct check *c = set; c < set + WAYS; c++) {
        if (!strcmp(c->sha256, sha256))
            return c;
        if (c->at < oldest->at)
            oldest = c;
    }
    return oldest;
}

static int identify(int fd, struct identity *out, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_set_errno(err, ERR_IO, "cannot look at a stored file");
    *out = (struct identity){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim};
    return 0;
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool believed(struct blob_checks *checks, const char *sha256, const struct identity *now)
{
    pthread_mutex_lock(&checks->lock);
    const struct check *c = slot_of(checks, sha256);
    const struct identity *then = &c->file;
    bool same = !strcmp(c->sha256, sha256) && then->device == now->device && then->inode == now->inode &&
                then->size == now->size && same_time(then->modified, now->modified) &&
                same_time(then->changed, now->changed) && clock_seconds() - c->at < (double)atomic_load(&checks->age_s);
    pthread_mutex_unlock(&checks->lock);
    return same;
}

static void remember(struct blob_checks *checks, const char *sha256, const struct identity *file)
{
    pthread_mutex_lock(&checks->lock);
    struct check *c = slot_of(checks, sha256);
    memcpy(c->sha256, sha256, SHA256_HEX);
    c->file = *file;
    c->at = clock_seconds();
    pthread_mutex_unlock(&checks->lock);
}

void blob_checks_note(struct blob_checks *checks, const char *sha256, int fd)
{
    struct identity file;
    struct err ignored = {0};
    if (identify(fd, &file, &ignored) == 0)
        remember(checks, sha256, &file);
}

int blob_checks_verify(struct blob_checks *checks, const char *sha256, int fd, struct err *err)
{
    struct identity before, after;
    char found[SHA256_HEX];
    struct hash hash;
    if (identify(fd, &before, err))
        return -1;
    if (believed(checks, sha256, &before))
        return 0;
    hash_init(&hash);
    if (hash_fd(&hash, fd, NULL, err) || identify(fd, &after, err))
        return -1;
    hash_final(&hash, found);
    if (strcmp(found, sha256)) {
        log_error("stored file %s is damaged: its SHA-256 is %s now", sha256, found);
        return err_set(err, ERR_CORRUPT,
                       "A stored file is damaged: its SHA-256 is not the one it was stored under. Upload it again, or "
                       "restore %.12s... from a backup.",
                       sha256);
    }
    remember(checks, sha256, &after);
    return 0;
}
