/* SPDX-License-Identifier: Apache-2.0
 * mix.c - see mix.h. Numbers: probabilities have 16 bits (22 in counters), the logistic domain 8 bits of fraction and
 * the range +-12, weights 16 bits of fraction. A counter seen n times moves by 1 / (n + 1.5) and weighs n / (n + 1.5).
 * */
#include "core/encode/mix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LIMIT = 255,
    FIRST_WEIGHT = 22000,
    RATE = 15,
    SQUASH_STEP = 128,
    SQUASH_TOP = 3072,
    P_MIN = 16,
    BIAS = 256,
    WEIGHT_MOST = 1 << 20,
    TABLE_FIRST = 1 << 12
};

/* 65536 / (1 + exp(-x)) at x = -12, -11.5 .. 12 */
static const int32_t squash_at[49] = {0,     1,     1,     2,     3,     5,     8,     13,    22,    36,
                                      60,    98,    162,   267,   439,   720,   1179,  1921,  3108,  4971,
                                      7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
                                      62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500,
                                      65514, 65523, 65528, 65531, 65533, 65534, 65535, 65535, 65536};

static int32_t squash(int32_t d)
{
    if (d >= SQUASH_TOP)
        d = SQUASH_TOP - 1;
    if (d < -SQUASH_TOP)
        d = -SQUASH_TOP;
    const int32_t i = (d + SQUASH_TOP) / SQUASH_STEP, w = (d + SQUASH_TOP) % SQUASH_STEP;
    return (squash_at[i] * (SQUASH_STEP - w) + squash_at[i + 1] * w + SQUASH_STEP / 2) / SQUASH_STEP;
}

/* The other way, of probabilities of 12 bits: the first d whose squash reaches the middle of the step. */
static int16_t stretch_of[4096];
static int32_t rec[LIMIT + 1], confidence[LIMIT + 1];

__attribute__((constructor)) static void make_tables(void)
{
    int32_t d = -SQUASH_TOP;
    for (int32_t i = 0; i < 4096; i++) {
        while (d < SQUASH_TOP - 1 && squash(d) < i * 16 + 8)
            d++;
        stretch_of[i] = (int16_t)d;
    }
    for (int32_t n = 0; n <= LIMIT; n++) {
        rec[n] = 131072 / (2 * n + 3);
        confidence[n] = 512 * n / (2 * n + 3);
    }
}

static int init(struct mix *m, struct err *err)
{
    memset(m, 0, sizeof *m);
    m->high = UINT32_MAX;
    for (int s = 0; s < MIX_SETS; s++)
        for (int i = 0; i < MIX_INPUTS; i++)
            m->weight[s][i] = FIRST_WEIGHT;
    m->cap = TABLE_FIRST;
    m->table = calloc(m->cap, sizeof *m->table);
    return m->table ? 0 : err_set(err, ERR_NOMEM, "out of memory while coding");
}

int mix_init_encoder(struct mix *m, struct err *err)
{
    return init(m, err);
}

static uint32_t next_byte(struct mix *m)
{
    return m->at < m->len ? m->in[m->at++] : 0;
}

int mix_init_decoder(struct mix *m, const void *bytes, size_t len, struct err *err)
{
    if (init(m, err))
        return -1;
    m->decoding = true;
    m->in = bytes;
    m->len = len;
    for (int i = 0; i < 4; i++)
        m->code = m->code << 8 | next_byte(m);
    return 0;
}

void mix_fini(struct mix *m)
{
    buf_fini(&m->out);
    free(m->table);
    m->table = NULL;
}

void mix_forget(struct mix *m)
{
    struct mix_counter *small = m->cap > TABLE_FIRST ? calloc(TABLE_FIRST, sizeof *small) : NULL;
    if (small) {
        free(m->table);
        m->table = small;
        m->cap = TABLE_FIRST;
        m->used = 0;
        return;
    }
    memset(m->table, 0, m->cap * sizeof *m->table);
    m->used = 0;
}

/* ---- counters ---- */
static size_t place_of(const struct mix *m, uint64_t key)
{
    uint64_t h = (key + 1) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h >> 20) & (m->cap - 1);
    while (m->table[at].key && m->table[at].key != key + 1)
        at = (at + 1) & (m->cap - 1);
    return at;
}

static void grow(struct mix *m)
{
    struct mix_counter *old = m->table;
    const size_t cap = m->cap;
    struct mix_counter *larger = calloc(cap * 2, sizeof *larger);
    if (!larger) {
        m->failed = true;
        memset(old, 0, cap * sizeof *old);
        m->used = 0;
        return;
    }
    m->table = larger;
    m->cap = cap * 2;
    for (size_t i = 0; i < cap; i++)
        if (old[i].key)
            m->table[place_of(m, old[i].key - 1)] = old[i];
    free(old);
}

static struct mix_counter *counter_of(struct mix *m, uint64_t key)
{
    struct mix_counter *c = &m->table[place_of(m, key)];
    if (!c->key) {
        *c = (struct mix_counter){.key = key + 1, .p = 1u << 21};
        m->used++;
    }
    return c;
}

/* ---- coding ---- */
static void put(struct mix *m, uint32_t byte)
{
    const unsigned char b = (unsigned char)byte;
    if (!m->dry)
        buf_append(&m->out, &b, 1);
}

static int code_bit(struct mix *m, uint32_t p, int bit)
{
    const uint32_t range = m->high - m->low;
    const uint32_t mid = m->low + (uint32_t)((uint64_t)range * p >> 16);
    if (m->decoding)
        bit = m->code <= mid;
    else
        m->bits -= log2((bit ? p : 65536 - p) / 65536.0);
    if (bit)
        m->high = mid;
    else
        m->low = mid + 1;
    while (((m->low ^ m->high) & 0xff000000u) == 0) {
        if (m->decoding)
            m->code = m->code << 8 | next_byte(m);
        else
            put(m, m->high >> 24);
        m->low <<= 8;
        m->high = m->high << 8 | 255;
    }
    return bit;
}

/* The shortest bytes that, with zeros behind them, lie in [low, high]. */
void mix_flush(struct mix *m)
{
    for (int bytes = 0; bytes <= 4; bytes++) {
        const uint32_t mask = bytes ? UINT32_MAX << (32 - 8 * bytes) : 0, low = m->low;
        const uint32_t v =
            (low & ~mask) && bytes < 4 ? (low & mask) + (bytes ? 1u << (32 - 8 * bytes) : 0) : low & mask;
        if (v < low || v > m->high)
            continue;
        for (int i = 0; i < bytes; i++)
            put(m, v >> (24 - 8 * i));
        return;
    }
}

static void learn(int32_t *w, int32_t x, int32_t error)
{
    const int32_t to = *w + (int32_t)(((int64_t)x * error) >> RATE);
    *w = to > WEIGHT_MOST ? WEIGHT_MOST : to < -WEIGHT_MOST ? -WEIGHT_MOST : to;
}

int mix_bit(struct mix *m, const uint64_t *key, int n, int set, int bit)
{
    struct mix_counter *c[MIX_INPUTS];
    int32_t x[MIX_INPUTS], *w = m->weight[set];
    int64_t dot = (int64_t)w[MIX_INPUTS] * BIAS;
    if (m->used >= MIX_COUNTERS)
        mix_forget(m);
    if ((m->used + MIX_INPUTS) * 2 > m->cap)
        grow(m);
    for (int i = 0; i < n; i++) {
        c[i] = counter_of(m, key[i]);
        x[i] = stretch_of[c[i]->p >> 10] * confidence[c[i]->n] >> 8;
        dot += (int64_t)w[i] * x[i];
    }
    dot >>= 16;
    const int32_t p = squash((int32_t)(dot > SQUASH_TOP ? SQUASH_TOP : dot < -SQUASH_TOP ? -SQUASH_TOP : dot));
    const int32_t sure = p < P_MIN ? P_MIN : p > 65536 - P_MIN ? 65536 - P_MIN : p;
    bit = code_bit(m, (uint32_t)sure, bit);
    const int32_t error = (bit << 16) - sure;
    for (int i = 0; i < n; i++)
        learn(&w[i], x[i], error);
    learn(&w[MIX_INPUTS], BIAS, error);
    for (int i = 0; i < n; i++) {
        c[i]->p =
            (uint32_t)((int32_t)c[i]->p + (int32_t)(((int64_t)((bit << 22) - (int32_t)c[i]->p) * rec[c[i]->n]) >> 16));
        c[i]->n += c[i]->n < LIMIT;
    }
    return bit;
}
