/* SPDX-License-Identifier: Apache-2.0
 * Two facts make an upload: its file (how many bytes there are) and its row (how many of them count). A `spot` is what
 * this process knows beyond them: who writes now, the offset at this moment, and the hash of what has come so far, so
 * that a complete upload need not be read again. Spots are made by the first PATCH and may be lost at any time: then
 * offset comes from file and row, and the hash from reading the file.
 *
 * Completion has three steps: sync the file, put its hash into the row, move it to the blobs. A crash before the second
 * leaves an upload whose bytes are all there: tus_take does the rest. A crash before the third leaves a row with a hash
 * and the file still in DIR: tus_open moves it. */
#include "server/tus.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "server/digest.h"
#include "server/gc.h"
#include "server/id.h"

enum { BUCKETS = 256, BOOT_ID = 64, WRITE_OUT_BYTES = 8 << 20, MARK_BYTES = 256 << 20 };

struct spot {
    struct spot *next;
    char id[ID_SIZE];
    uint64_t holder; /* serial of the patch that writes; 0: none */
    bool writing;    /* it is at the disk just now */
    double last;     /* when it was last heard of */
    bool known;      /* offset and hash are */
    int64_t offset;
    struct hash hash;
    int64_t hashed; /* bytes in it */
};

struct tus {
    char *dir;
    struct store *store;
    struct blobs *blobs;
    char boot[BOOT_ID];
    pthread_mutex_t lock; /* guards spots and serial */
    struct spot *spots[BUCKETS];
    uint64_t serial;
    pthread_mutex_t moving; /* one move to the blobs at a time */
};

struct tus_patch {
    struct tus *tus;
    char id[ID_SIZE];
    char path[PATH_MAX];
    int fd; /* -1: complete already, nothing to write */
    uint64_t serial;
    int64_t length, base, at; /* of the upload; where this request started; where it is */
    int64_t ttl_s, written_out, marked;
    struct digests digests;
    struct hash hash, hash_base; /* of [0, hashed) and as it was at the start */
    int64_t hashed, hashed_base;
    bool ended;
};

/* ---- spots, all under the lock ------------------------------------------------------------------------------------
 */

static struct spot **spot_place(struct tus *tus, const char *id)
{
    struct spot **at = &tus->spots[fnv1a(id) % BUCKETS];
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    return at;
}

static void spot_remove(struct tus *tus, const char *id)
{
    struct spot **at = spot_place(tus, id), *spot = *at;
    if (!spot)
        return;
    *at = spot->next;
    free(spot);
}

/* The spot if this patch still holds it. */
static struct spot *spot_held(const struct tus_patch *patch)
{
    struct spot *spot = *spot_place(patch->tus, patch->id);
    return spot && spot->holder == patch->serial ? spot : NULL;
}

static bool alive(const struct spot *spot)
{
    return spot->holder && (spot->writing || clock_seconds() - spot->last < TUS_STALE_SECONDS);
}

/* Become the one who writes. */
static int hold(struct tus_patch *patch, struct err *err)
{
    struct tus *tus = patch->tus;
    pthread_mutex_lock(&tus->lock);
    struct spot **at = spot_place(tus, patch->id), *spot = *at;
    int rc = 0;
    if (spot && alive(spot)) {
        rc = err_set(err, ERR_LOCKED, "Another request is writing this upload. Ask for its offset (HEAD) and go on.");
    } else if (!spot && !(spot = calloc(1, sizeof *spot))) {
        rc = err_set(err, ERR_NOMEM, "Out of memory.");
    } else {
        if (!*at) {
            snprintf(spot->id, sizeof spot->id, "%s", patch->id);
            *at = spot;
        }
        spot->holder = patch->serial = ++tus->serial;
        spot->writing = true; /* until it is open: nobody takes over from one that is just starting */
    }
    pthread_mutex_unlock(&tus->lock);
    return rc;
}

/* Before and after work at the disk. False: another one holds it, or the upload is gone. */
static bool set_writing(struct tus_patch *patch, bool writing)
{
    pthread_mutex_lock(&patch->tus->lock);
    struct spot *spot = spot_held(patch);
    if (spot) {
        spot->writing = writing;
        spot->last = clock_seconds();
    }
    pthread_mutex_unlock(&patch->tus->lock);
    return spot;
}

static void set_offset(struct tus_patch *patch, int64_t offset)
{
    pthread_mutex_lock(&patch->tus->lock);
    struct spot *spot = spot_held(patch);
    if (spot)
        spot->offset = offset;
    pthread_mutex_unlock(&patch->tus->lock);
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

static void upload_path(const struct tus *tus, const char *id, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%s", tus->dir, id); /* tus_open has looked at the length */
}

/* What counts of a file of `size` bytes. */
static int64_t counted(const struct tus *tus, const struct store_upload *row, int64_t size)
{
    if (row->sha256)
        return row->length;
    bool all = row->tail[0] && strcmp(row->tail, tus->boot) == 0;
    int64_t most = all ? row->length : row->received;
    return size < most ? size : most;
}

int64_t tus_offset(struct tus *tus, const struct store_upload *row)
{
    char path[PATH_MAX];
    struct stat st;
    if (row->sha256)
        return row->length;
    pthread_mutex_lock(&tus->lock);
    const struct spot *spot = *spot_place(tus, row->id);
    int64_t offset = spot && spot->known ? spot->offset : -1;
    pthread_mutex_unlock(&tus->lock);
    if (offset >= 0)
        return offset;
    upload_path(tus, row->id, path);
    return counted(tus, row, stat(path, &st) == 0 ? st.st_size : 0);
}

/* The third step of completion. The file may have been moved already. `hashed` as for blob_put_adopt. */
static int to_blobs(struct tus *tus, const char *id, bool hashed, const char *sha256, struct err *err)
{
    char path[PATH_MAX];
    upload_path(tus, id, path);
    pthread_mutex_lock(&tus->moving);
    int rc = access(path, F_OK) == 0 ? blob_put_adopt(tus->blobs, path, hashed, sha256, err) : 0;
    pthread_mutex_unlock(&tus->moving);
    return rc;
}

/* ---- open, close --------------------------------------------------------------------------------------------------
 */

static void read_boot_id(char out[BOOT_ID])
{
    struct err ignored = {0};
    char *text = file_read("/proc/sys/kernel/random/boot_id", BOOT_ID - 1, NULL, &ignored);
    char made[ID_SIZE];
    id_new(made, "boot"); /* not known: only what was synced outlives this process */
    snprintf(out, BOOT_ID, "%s", text && *text ? text : made);
    out[strcspn(out, "\n")] = 0;
    free(text);
}

/* One file of a former run. */
static void recover(struct tus *tus, const char *name)
{
    char path[PATH_MAX];
    struct err err = {0};
    struct store_upload row;
    struct arena *arena = arena_new();
    if (!arena)
        return;
    upload_path(tus, name, path);
    if (store_upload_get(tus->store, NULL, name, arena, &row, &err) != 0) {
        if (err.code == ERR_NOT_FOUND)
            unlink(path);
    } else if (row.sha256 && to_blobs(tus, name, false, row.sha256, &err) != 0) {
        log_warn("upload %s: %s", name, err.msg);
    }
    arena_free(arena);
}

struct tus *tus_open(const char *dir, struct store *store, struct blobs *blobs, struct err *err)
{
    struct tus *tus = calloc(1, sizeof *tus);
    if (!tus || !(tus->dir = strdup(dir))) {
        free(tus);
        err_set(err, ERR_NOMEM, "Out of memory.");
        return NULL;
    }
    tus->store = store;
    tus->blobs = blobs;
    pthread_mutex_init(&tus->lock, NULL);
    pthread_mutex_init(&tus->moving, NULL);
    read_boot_id(tus->boot);
    DIR *d = NULL;
    if (strlen(dir) > PATH_MAX - 2 * ID_SIZE)
        err_set(err, ERR_IO, "the path of the uploads is too long");
    else if (file_make_dirs(dir, err) == 0 && !(d = opendir(dir)))
        err_set_errno(err, ERR_IO, "the folder of uploads cannot be read");
    if (!d) {
        tus_close(tus);
        return NULL;
    }
    const struct dirent *entry;
    while ((entry = readdir(d)))
        if (id_is(entry->d_name, "upl"))
            recover(tus, entry->d_name);
    closedir(d);
    return tus;
}

void tus_close(struct tus *tus)
{
    if (!tus)
        return;
    for (int i = 0; i < BUCKETS; i++)
        while (tus->spots[i])
            spot_remove(tus, tus->spots[i]->id);
    pthread_mutex_destroy(&tus->lock);
    pthread_mutex_destroy(&tus->moving);
    free(tus->dir);
    free(tus);
}

/* ---- a request that appends ---------------------------------------------------------------------------------------
 */

static int check_append(struct tus_patch *patch, const struct tus_append *what, struct err *err)
{
    if (what->offset != patch->base)
        return err_set(err, ERR_WRONG_STATE,
                       "Upload-Offset is %lld, but the upload is at %lld of %lld bytes; go on from there.",
                       (long long)what->offset, (long long)patch->base, (long long)patch->length);
    if (what->length > patch->length - patch->base)
        return err_set(err, ERR_TOO_LARGE,
                       "The body has %lld bytes, but only %lld are missing: Upload-Length was %lld.",
                       (long long)what->length, (long long)(patch->length - patch->base), (long long)patch->length);
    if (what->checksum && digest_add_tus(&patch->digests, what->checksum, err) != 0)
        return -1;
    return what->digest ? digest_add_field(&patch->digests, "Content-Digest", what->digest, err) : 0;
}

/* The file, cut to what counts, and what this process knows of it. */
static int open_file(struct tus_patch *patch, const struct store_upload *row, struct err *err)
{
    struct tus *tus = patch->tus;
    struct stat st;
    upload_path(tus, patch->id, patch->path);
    patch->length = row->length;
    patch->at = patch->base = row->length;
    if (row->sha256)
        return 0;
    patch->fd = open(patch->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (patch->fd < 0 || fstat(patch->fd, &st) != 0)
        return err_set_errno(err, ERR_IO, "the bytes of an upload cannot be opened");
    pthread_mutex_lock(&tus->lock);
    struct spot *spot = spot_held(patch);
    if (spot && !spot->known) {
        spot->known = true;
        spot->offset = counted(tus, row, st.st_size);
        spot->hashed = 0;
        hash_init(&spot->hash);
    }
    if (spot) {
        patch->base = spot->offset;
        patch->hash = spot->hash;
        patch->hashed = spot->hashed;
    }
    pthread_mutex_unlock(&tus->lock);
    patch->at = patch->written_out = patch->marked = patch->base;
    patch->hash_base = patch->hash;
    patch->hashed_base = patch->hashed;
    if (patch->base == 0 && patch->hashed == 0) /* this request brings all the bytes of that hash */
        patch->digests.sha256 = &patch->hash.ctx;
    if (!spot)
        return err_set(err, ERR_NOT_FOUND, "There is no upload '%.60s' any more.", patch->id);
    if (st.st_size > patch->base && ftruncate(patch->fd, patch->base) != 0)
        return err_set_errno(err, ERR_IO, "an upload cannot be cut to what counts");
    if (lseek(patch->fd, patch->base, SEEK_SET) < 0)
        return err_set_errno(err, ERR_IO, "an upload cannot be continued");
    return 0;
}

/* The row says beforehand whether bytes that a crash leaves behind will count. */
static int announce(struct tus_patch *patch, const struct store_upload *row, struct err *err)
{
    bool checked = patch->digests.count > 0;
    const char *tail = checked ? "" : patch->tus->boot;
    if (patch->fd < 0 || strcmp(row->tail, tail) == 0)
        return 0;
    if (checked && patch->base > row->received && fdatasync(patch->fd) != 0)
        return err_set_errno(err, ERR_IO, "an upload cannot be synced");
    return store_upload_mark(patch->tus->store, patch->id, checked ? patch->base : row->received, tail, patch->ttl_s,
                             false, err);
}

static int start(struct tus_patch *patch, const struct tus_append *what, struct arena *arena, struct err *err)
{
    struct tus *tus = patch->tus;
    struct store_upload row;
    if (store_upload_get(tus->store, what->owner, what->id, arena, &row, err) != 0 || hold(patch, err) != 0 ||
        /* again: the one who held it before may have changed it */
        store_upload_get(tus->store, what->owner, what->id, arena, &row, err) != 0 ||
        open_file(patch, &row, err) != 0 || check_append(patch, what, err) != 0)
        return -1;
    if (what->length != 0 && announce(patch, &row, err) != 0)
        return -1;
    if (set_writing(patch, false))
        return 0;
    return err_set(err, ERR_NOT_FOUND, "There is no upload '%.60s' any more.", what->id);
}

struct tus_patch *tus_patch_open(struct tus *tus, const struct tus_append *what, struct err *err)
{
    struct tus_patch *patch = calloc(1, sizeof *patch);
    struct arena *arena = arena_new();
    int rc = -1;
    if (!patch || !arena) {
        err_set(err, ERR_NOMEM, "Out of memory.");
    } else {
        patch->tus = tus;
        patch->fd = -1;
        patch->ttl_s = what->ttl_s;
        snprintf(patch->id, sizeof patch->id, "%s", what->id);
        rc = start(patch, what, arena, err);
    }
    arena_free(arena);
    if (rc == 0)
        return patch;
    tus_patch_close(patch);
    return NULL;
}

static int lost(struct err *err)
{
    return err_set(err, ERR_WRONG_STATE,
                   "Another request goes on with this upload, or it was deleted. Ask for its offset (HEAD).");
}

/* Every MARK_BYTES the row learns of what is safe, so that a power cut does not cost the whole of a long request. */
static int mark_some(struct tus_patch *patch, struct err *err)
{
    if (patch->digests.count || patch->at - patch->marked < MARK_BYTES || patch->at == patch->length)
        return 0;
    if (fdatasync(patch->fd) != 0)
        return err_set_errno(err, ERR_IO, "an upload cannot be synced");
    patch->marked = patch->at;
    return store_upload_mark(patch->tus->store, patch->id, patch->at, patch->tus->boot, patch->ttl_s, true, err);
}

static int disk_full(struct err *err)
{
    return err_set(err, ERR_DISK_FULL,
                   "The server's disk is full; what has arrived is kept until the upload expires. Go on later.");
}

/* Writes n bytes; what the disk took counts, also when it then failed. */
static int append(struct tus_patch *patch, const char *bytes, size_t n, struct err *err)
{
    size_t done = 0;
    int rc = 0;
    while (done < n && rc == 0) {
        ssize_t put = write(patch->fd, bytes + done, n - done);
        if (put > 0)
            done += (size_t)put;
        else if (put < 0 && errno != EINTR)
            rc = errno == ENOSPC || errno == EDQUOT || errno == EFBIG
                     ? disk_full(err)
                     : err_set_errno(err, ERR_IO, "the bytes of an upload cannot be written");
    }
    digest_update(&patch->digests, bytes, done);
    if (patch->hashed == patch->at) {
        hash_update(&patch->hash, bytes, done);
        patch->hashed += (int64_t)done;
    }
    patch->at += (int64_t)done;
    if (patch->digests.count == 0)
        set_offset(patch, patch->at);
    return rc;
}

int tus_patch_write(struct tus_patch *patch, const void *bytes, size_t len, struct err *err)
{
    size_t room = (size_t)(patch->length - patch->at), n = len < room ? len : room;
    if (!set_writing(patch, true))
        return lost(err);
    int rc = n && blob_free_bytes(patch->tus->blobs) == 0 ? disk_full(err) : 0;
    if (rc == 0)
        rc = append(patch, bytes, n, err);
    if (rc == 0 && patch->at - patch->written_out >= WRITE_OUT_BYTES) {
        /* start the disk now, so that the sync at the end is short and dirty pages stay few */
        sync_file_range(patch->fd, patch->written_out, patch->at - patch->written_out, SYNC_FILE_RANGE_WRITE);
        patch->written_out = patch->at;
    }
    if (rc == 0)
        rc = mark_some(patch, err);
    if (rc == 0 && n < len)
        rc = err_set(err, ERR_TOO_LARGE, "The body has more bytes than are missing: Upload-Length was %lld.",
                     (long long)patch->length);
    return set_writing(patch, false) || rc != 0 ? rc : lost(err);
}

static int complete(struct tus_patch *patch, struct err *err)
{
    char sha256[SHA256_HEX];
    if (patch->hashed == patch->length)
        hash_final(&patch->hash, sha256);
    else if (hash_file(patch->path, sha256, err) != 0)
        return -1;
    patch->hashed = 0;
    hash_init(&patch->hash);
    if (store_upload_complete(patch->tus->store, patch->id, sha256, patch->ttl_s, err) != 0)
        return -1;
    struct err why = {0};
    if (to_blobs(patch->tus, patch->id, true, sha256, &why) != 0)
        log_warn("upload %s: %s", patch->id, why.msg); /* tus_take tries again */
    pthread_mutex_lock(&patch->tus->lock);
    spot_remove(patch->tus, patch->id);
    pthread_mutex_unlock(&patch->tus->lock);
    return 0;
}

static int settle(struct tus_patch *patch, struct err *err)
{
    if (digest_verify(&patch->digests, ERR_CHECKSUM, err) != 0)
        return -1;
    if (patch->fd < 0)
        return 0;
    if (fdatasync(patch->fd) != 0)
        return err_set_errno(err, ERR_IO, "an upload cannot be synced");
    if (patch->base == 0 && file_sync_dir(patch->tus->dir, err) != 0)
        return -1;
    patch->ended = true; /* they count from here, whatever comes */
    set_offset(patch, patch->at);
    if (patch->at == patch->length)
        return complete(patch, err);
    return store_upload_mark(patch->tus->store, patch->id, patch->at, patch->digests.count ? "" : patch->tus->boot,
                             patch->ttl_s, true, err);
}

int tus_patch_end(struct tus_patch *patch, struct arena *arena, struct tus_upload *out, struct err *err)
{
    if (!set_writing(patch, true))
        return lost(err);
    int rc = settle(patch, err);
    set_writing(patch, false);
    if (rc == 0)
        rc = store_upload_get(patch->tus->store, NULL, patch->id, arena, &out->row, err);
    out->offset = patch->fd < 0 ? patch->length : patch->at;
    return rc;
}

void tus_patch_close(struct tus_patch *patch)
{
    if (!patch)
        return;
    bool undo = patch->digests.count > 0 && !patch->ended;
    pthread_mutex_lock(&patch->tus->lock);
    struct spot *spot = patch->serial ? spot_held(patch) : NULL;
    if (spot && spot->known && patch->fd >= 0) {
        if (undo && patch->at > patch->base && ftruncate(patch->fd, patch->base) != 0)
            log_warn("upload %s: bytes that were not verified cannot be cut off", patch->id);
        spot->hash = undo ? patch->hash_base : patch->hash;
        spot->hashed = undo ? patch->hashed_base : patch->hashed;
    }
    if (spot) {
        spot->holder = 0;
        spot->writing = false;
    }
    if (spot && !spot->known)
        spot_remove(patch->tus, patch->id);
    pthread_mutex_unlock(&patch->tus->lock);
    if (patch->fd >= 0)
        close(patch->fd);
    free(patch);
}

/* ---- the other calls ----------------------------------------------------------------------------------------------
 */

/* All bytes are there, but the row does not say so: an empty upload, or a crash before the last step. */
static int finish(struct tus *tus, const char *owner, const char *id, int64_t length, int64_t ttl_s,
                  struct arena *arena, struct tus_upload *out, struct err *err)
{
    const struct tus_append nothing = {.owner = owner, .id = id, .offset = length, .ttl_s = ttl_s};
    struct tus_patch *patch = tus_patch_open(tus, &nothing, err);
    int rc = patch ? tus_patch_end(patch, arena, out, err) : -1;
    tus_patch_close(patch);
    return rc;
}

int tus_create(struct tus *tus, const struct store_upload_new *in, struct arena *arena, struct tus_upload *out,
               struct err *err)
{
    if (in->length >= blob_free_bytes(tus->blobs))
        return err_set(err, ERR_DISK_FULL, "The server's disk has no room for %lld bytes.", (long long)in->length);
    if (store_upload_insert(tus->store, in, arena, &out->row, err) != 0)
        return -1;
    out->offset = 0;
    return in->length ? 0 : finish(tus, in->owner, out->row.id, 0, in->ttl_s, arena, out, err);
}

int tus_get(struct tus *tus, const char *owner, const char *id, struct arena *arena, struct tus_upload *out,
            struct err *err)
{
    if (store_upload_get(tus->store, owner, id, arena, &out->row, err) != 0)
        return -1;
    out->offset = tus_offset(tus, &out->row);
    return 0;
}

/* The row is gone: so are its bytes and its writer. */
static void forget(struct tus *tus, const char *id, const char *sha256)
{
    char path[PATH_MAX];
    upload_path(tus, id, path);
    pthread_mutex_lock(&tus->lock);
    spot_remove(tus, id);
    pthread_mutex_unlock(&tus->lock);
    pthread_mutex_lock(&tus->moving);
    unlink(path);
    pthread_mutex_unlock(&tus->moving);
    if (sha256)
        gc_blob(tus->store, tus->blobs, sha256);
}

int tus_delete(struct tus *tus, const char *owner, const char *id, struct err *err)
{
    const char *sha256;
    struct arena *arena = arena_new();
    if (!arena)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    int rc = store_upload_delete(tus->store, owner, id, arena, &sha256, err);
    if (rc == 0)
        forget(tus, id, sha256);
    arena_free(arena);
    return rc;
}

int tus_expire(struct tus *tus, struct err *err)
{
    const char *ids[TUS_EXPIRED_AT_ONCE];
    int count = 0, removed = 0;
    struct arena *arena = arena_new();
    if (!arena)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    int rc = store_upload_expired(tus->store, TUS_EXPIRED_AT_ONCE, arena, ids, &count, err);
    for (int i = 0; rc == 0 && i < count; i++) {
        pthread_mutex_lock(&tus->lock);
        const struct spot *spot = *spot_place(tus, ids[i]);
        bool busy = spot && alive(spot); /* its end makes the row live on */
        pthread_mutex_unlock(&tus->lock);
        if (busy)
            continue;
        rc = tus_delete(tus, NULL, ids[i], err);
        removed += rc == 0;
    }
    arena_free(arena);
    return rc ? -1 : removed;
}

int tus_take(struct tus *tus, const char *owner, const char *id, struct arena *arena, struct store_upload *row,
             struct err *err)
{
    struct tus_upload upload;
    if (tus_get(tus, owner, id, arena, &upload, err) != 0)
        return -1;
    if (upload.offset < upload.row.length)
        return err_set(err, ERR_WRONG_STATE, "The upload '%.60s' has %lld of its %lld bytes; send the rest first.", id,
                       (long long)upload.offset, (long long)upload.row.length);
    int64_t left_s = (upload.row.expires_at - upload.row.created_at) / 1000 + 1;
    if (!upload.row.sha256 && finish(tus, owner, id, upload.row.length, left_s, arena, &upload, err) != 0)
        return -1;
    if (to_blobs(tus, id, false, upload.row.sha256, err) != 0 || blob_pin(tus->blobs, upload.row.sha256, err) != 0)
        return -1;
    int fd = blob_open(tus->blobs, upload.row.sha256, NULL, err);
    if (fd < 0) {
        blob_unpin(tus->blobs, upload.row.sha256);
        return -1;
    }
    close(fd);
    *row = upload.row;
    return 0;
}

void tus_used(struct tus *tus, const struct store_upload *row)
{
    struct err err = {0};
    if (tus_delete(tus, row->owner, row->id, &err) != 0 && err.code != ERR_NOT_FOUND)
        log_warn("upload %s: %s", row->id, err.msg); /* it expires */
}
