/* SPDX-License-Identifier: Apache-2.0
 * qgemm.c - packing, the walk over panels and rows, and the portable panel; see qgemm.h. */
#include "core/kernels/qgemm.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/isa.h"
#include "core/kernels/simd.h"

/* ---- packing ---- */
int64_t qgemm_packed_count(const struct qgemm_shape *s)
{
    int64_t n;
    if (!i64_mul(s->runs, qgemm_pairs(s) * 2, &n) || !i64_mul(n, qgemm_padded(s), &n))
        return -1;
    return n;
}

static int32_t value(const struct qgemm_source *w, int64_t column, int64_t run, int64_t element)
{
    const int64_t at = w->place(w->arg, column, run, element);
    const int32_t v = w->is_signed ? ((const int8_t *)w->data)[at] : ((const uint8_t *)w->data)[at];
    return v - w->zero[w->zero_columns ? column : 0];
}

bool qgemm_fits_bytes(const struct qgemm_shape *s, const struct qgemm_source *w)
{
    for (int64_t j = 0; j < s->columns; j++)
        for (int64_t u = 0; u < s->runs; u++)
            for (int64_t e = 0; e < s->length; e++) {
                const int32_t v = value(w, j, u, e);
                if (v < -128 || v > 127)
                    return false;
            }
    return true;
}

void qgemm_pack(const struct qgemm_shape *s, const struct qgemm_source *w, bool wide, void *packed)
{
    const int64_t pairs = qgemm_pairs(s);
    int8_t *bytes = packed;
    int16_t *words = packed;
    int64_t at = 0;

    for (int64_t first = 0; first < s->columns; first += QGEMM_COLS) {
        const int64_t cols = s->columns - first > 8 ? QGEMM_COLS : 8;
        for (int64_t u = 0; u < s->runs; u++)
            for (int64_t p = 0; p < pairs; p++)
                for (int64_t j = first; j < first + cols; j++)
                    for (int64_t e = 2 * p; e < 2 * p + 2; e++, at++) {
                        const int32_t v = j < s->columns && e < s->length ? value(w, j, u, e) : 0;
                        if (wide)
                            words[at] = (int16_t)v;
                        else
                            bytes[at] = (int8_t)v;
                    }
    }
}

/* ---- portable panel ---- */
void qgemm_finish(const struct qgemm_out *o, const int32_t *sum, int columns, void *y)
{
    for (int j = 0; j < columns; j++) {
        const int32_t s = (int32_t)((uint32_t)sum[j] + (uint32_t)(o->bias ? o->bias[j] : 0));
        if (o->end == QGEMM_SUMS) {
            ((int32_t *)y)[j] = s;
        } else if (o->end == QGEMM_FLOAT) {
            const float v = (float)s * o->multiplier[j];
            ((float *)y)[j] = o->float_bias ? v + o->float_bias[j] : v;
        } else {
            const float low = (float)(o->low - o->zero), high = (float)(o->high - o->zero);
            float v = (float)s * o->multiplier[j];
            v = v > low ? v : low;
            v = v < high ? v : high;
            ((uint8_t *)y)[j] = (uint8_t)((int32_t)nearbyintf(v) + o->zero);
        }
    }
}

void qgemm_panel_portable(const struct qgemm_panel *t, const struct qgemm_rows *rows)
{
    const int cols = t->columns > 8 ? 16 : 8;

    for (int64_t r = 0; r < rows->count; r++) {
        const int16_t *a = rows->a + (rows->at ? rows->at[r] : r * rows->step);
        const int8_t *bytes = t->w;
        const int16_t *words = t->w;
        uint32_t sum[QGEMM_COLS] = {0};
        for (int64_t u = 0; u < t->runs; u++) {
            const int16_t *x = a + t->at[u];
            for (int64_t p = 0; p < t->pairs; p++, x += 2, bytes += 2 * cols, words += 2 * cols)
                for (int j = 0; j < cols; j++)
                    sum[j] += t->wide ? (uint32_t)(x[0] * words[2 * j] + x[1] * words[2 * j + 1])
                                      : (uint32_t)(x[0] * bytes[2 * j] + x[1] * bytes[2 * j + 1]);
        }
        qgemm_finish(&t->out, (const int32_t *)sum, t->columns, rows->y + r * rows->y_step);
    }
}

/* ---- the walk ---- */
qgemm_panel_fn *qgemm_panel_best(void)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX512VNNI))
        return qgemm_panel_avx512vnni;
    if (isa_has(ISA_AVXVNNI))
        return qgemm_panel_avxvnni;
    if (isa_has(ISA_AVX2))
        return qgemm_panel_avx2;
#endif
    return qgemm_panel_portable;
}

static struct qgemm_panel panel_of(const struct qgemm_job *job, int64_t panel)
{
    const int64_t pairs = qgemm_pairs(&job->shape), col = panel * QGEMM_COLS;
    const int64_t at = col * job->shape.runs * pairs * 2 * (job->wide ? 2 : 1);
    struct qgemm_panel t = {.runs = job->shape.runs, .pairs = pairs, .at = job->at,
                            .w = (const char *)job->packed + at, .wide = job->wide, .out = job->out,
                            .columns = (int)i64_min(QGEMM_COLS, job->shape.columns - col)};
    t.out.bias = t.out.bias ? t.out.bias + col : NULL;
    t.out.multiplier = t.out.multiplier ? t.out.multiplier + col : NULL;
    t.out.float_bias = t.out.float_bias ? t.out.float_bias + col : NULL;
    return t;
}

/* Weights that stay in the second-level cache are walked again for every few rows, so that the rows' results are
 * written while their cache lines are at hand; larger ones are read once. */
void qgemm(const struct qgemm_job *job, const struct qgemm_rows *rows, int64_t first, int64_t last)
{
    enum { CACHED = 160 * 1024, FEW = 48 };
    qgemm_panel_fn *run = qgemm_panel_best();
    const int64_t elem = job->out.end == QGEMM_BYTES ? 1 : 4;
    const int64_t bytes = job->shape.runs * qgemm_pairs(&job->shape) * 2 * qgemm_padded(&job->shape) * (job->wide + 1);
    const int64_t piece = last - first > 1 && bytes <= CACHED ? FEW : i64_max(rows->count, 1);

    for (int64_t row = 0; row < rows->count; row += piece)
        for (int64_t panel = first; panel < last; panel++) {
            const struct qgemm_panel t = panel_of(job, panel);
            struct qgemm_rows part = *rows;
            if (part.at)
                part.at += row;
            else
                part.a += row * part.step;
            part.count = i64_min(piece, rows->count - row);
            part.y += row * part.y_step + panel * QGEMM_COLS * elem;
            run(&t, &part);
        }
}

KERNEL_CLONES void qgemm_widen(const uint8_t *restrict x, int64_t n, bool is_signed, int32_t zero, int16_t *restrict y)
{
    const uint8_t flip = is_signed ? 0x80 : 0;
    const int16_t off = (int16_t)(zero + (is_signed ? 128 : 0));
    for (int64_t i = 0; i < n; i++)
        y[i] = (int16_t)((int16_t)(x[i] ^ flip) - off);
}
