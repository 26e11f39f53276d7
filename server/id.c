/* SPDX-License-Identifier: Apache-2.0
 * As ULID: 48 bits of time, 80 random bits. Within one millisecond the random part of the id before is counted up, so
 * that a page sorted by id is a page sorted by creation. */
#include "server/id.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/hash.h"

static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
enum { TIME_DIGITS = 10, RANDOM_DIGITS = 16, DIGITS = TIME_DIGITS + RANDOM_DIGITS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t last_ms;
static uint8_t random_digits[RANDOM_DIGITS]; /* values 0..31 */

static void draw(void)
{
    uint8_t bytes[RANDOM_DIGITS];
    random_bytes(bytes, sizeof bytes);
    for (int i = 0; i < RANDOM_DIGITS; i++)
        random_digits[i] = bytes[i] & 31;
    random_digits[0] &= 15; /* room to count up */
}

static void count_up(void)
{
    for (int i = RANDOM_DIGITS - 1; i >= 0; i--) {
        if (++random_digits[i] < 32)
            return;
        random_digits[i] = 0;
    }
}

void id_new(char out[ID_SIZE], const char *prefix)
{
    char text[DIGITS + 1] = "";
    pthread_mutex_lock(&lock);
    int64_t now = clock_epoch_ms();
    if (now > last_ms) {
        last_ms = now;
        draw();
    } else {
        count_up(); /* also when the clock went back */
    }
    int64_t ms = last_ms;
    for (int i = TIME_DIGITS - 1; i >= 0; i--, ms >>= 5)
        text[i] = digits[ms & 31];
    for (int i = 0; i < RANDOM_DIGITS; i++)
        text[TIME_DIGITS + i] = digits[random_digits[i]];
    pthread_mutex_unlock(&lock);
    snprintf(out, ID_SIZE, "%.8s_%s", prefix, text);
}

void id_bound(char out[ID_SIZE], const char *prefix, int64_t epoch_ms)
{
    const int64_t last = (INT64_C(1) << 48) - 1;
    char text[TIME_DIGITS + 1] = "";
    int64_t ms = epoch_ms < 0 ? 0 : epoch_ms > last ? last : epoch_ms;
    for (int i = TIME_DIGITS - 1; i >= 0; i--, ms >>= 5)
        text[i] = digits[ms & 31];
    snprintf(out, ID_SIZE, "%.8s_%s", prefix, text);
}

bool id_is(const char *id, const char *prefix)
{
    size_t len = strlen(prefix);
    if (strncmp(id, prefix, len) || id[len] != '_' || strlen(id) != len + 1 + DIGITS)
        return false;
    return strspn(id + len + 1, digits) == DIGITS;
}
