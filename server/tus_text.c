/* SPDX-License-Identifier: Apache-2.0 */
#include "server/tus_text.h"

#include <nettle/base64.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int tus_number(const char *header, const char *text, int64_t *out, struct err *err)
{
    size_t len = text ? strlen(text) : 0;
    if (len == 0 || len > 18 || strspn(text, "0123456789") != len)
        return err_set(err, ERR_BAD_REQUEST, "%s must be a whole number of bytes%s%.40s%s.", header,
                       text ? ", not '" : "; it is missing", text ? text : "", text ? "'" : "");
    *out = strtoll(text, NULL, 10);
    return 0;
}

static int bad(struct err *err, const char *why)
{
    return err_set(err, ERR_BAD_REQUEST,
                   "Upload-Metadata %s. It is like `filename bW9kZWwub25ueA==,note`: keys without spaces, each with "
                   "the Base64 of its value, separated by commas.",
                   why);
}

#define BASE64_ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

/* text[0..len) is the Base64 of *out. No white space, whole groups of four. */
static bool decode(struct arena *arena, const char *text, size_t len, char **out, size_t *out_len)
{
    struct base64_decode_ctx ctx;
    char *value = arena_alloc(arena, BASE64_DECODE_LENGTH(len) + 1);
    size_t n = BASE64_DECODE_LENGTH(len);
    if (strspn(text, BASE64_ALPHABET) < len) /* nettle passes over white space */
        return false;
    base64_decode_init(&ctx);
    if (!value || !base64_decode_update(&ctx, &n, (uint8_t *)value, len, text) || !base64_decode_final(&ctx))
        return false;
    value[n] = 0;
    *out = value;
    *out_len = n;
    return true;
}

int tus_metadata_each(struct arena *arena, const char *text, tus_pair_fn *fn, void *arg, struct err *err)
{
    const char *keys[TUS_METADATA_KEYS];
    int count = 0;
    if (strlen(text) > TUS_METADATA_MAX)
        return bad(err, "is longer than 8192 bytes");
    if (!*text)
        return 0;
    for (const char *at = text;;) {
        size_t len = strcspn(at, ","), key_len = strcspn(at, " ,"), n = 0;
        const char *key = arena_strndup(arena, at, key_len);
        char *value = "";
        if (!key)
            return err_set(err, ERR_NOMEM, "Out of memory.");
        for (size_t i = 0; i < key_len; i++)
            if ((unsigned char)key[i] <= 32 || (unsigned char)key[i] >= 127)
                return bad(err, "has a key with characters that are no printable ASCII");
        if (key_len == 0)
            return bad(err, "has an empty key");
        if (len > key_len + 1 && !decode(arena, at + key_len + 1, len - key_len - 1, &value, &n))
            return bad(err, "has a value that is not Base64");
        for (int i = 0; i < count; i++)
            if (strcmp(keys[i], key) == 0)
                return bad(err, "has a key twice");
        if (count == TUS_METADATA_KEYS)
            return bad(err, "has more than 64 keys");
        keys[count++] = key;
        if (fn)
            fn(arg, key, value, n);
        if (!at[len])
            return 0;
        at += len + 1;
    }
}

struct wanted {
    const char *key, *value;
};

static void pick(void *arg, const char *key, const char *value, size_t len)
{
    struct wanted *wanted = arg;
    if (strcmp(key, wanted->key) == 0 && strlen(value) == len)
        wanted->value = value;
}

const char *tus_metadata_get(struct arena *arena, const char *text, const char *key)
{
    struct wanted wanted = {key, NULL};
    struct err ignored = {0};
    return tus_metadata_each(arena, text, pick, &wanted, &ignored) == 0 ? wanted.value : NULL;
}
