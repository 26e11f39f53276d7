/* SPDX-License-Identifier: Apache-2.0
 * conv_winograd_loops.h - the transforms of Winograd's F(m x m, 3 x 3), m = 2 and 4, on eight channels at a time;
 * included once an instruction set. Points 0, 1, -1, infinity (m = 2) and 2, -2 besides (m = 4).
 * Input      V = B' d B,  B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1] for m = 2,
 *            [4 0 -5 0 1 0; 0 -4 -4 1 1 0; 0 4 -4 -1 1 0; 0 -2 -1 2 1 0; 0 2 -1 -2 1 0; 0 4 0 -5 0 1] for m = 4.
 * Output     Y = A' M A,  A' = [1 1 1 0; 0 1 -1 -1] for m = 2,
 *            [1 1 1 1 1 0; 0 1 -1 2 -2 0; 0 1 1 4 4 0; 0 1 -1 8 -8 1] for m = 4. */
#include "core/kernels/conv_blocked_kernels.h"
#include "core/kernels/vec8.h"

#ifndef UNROLL
#define UNROLL _Pragma("GCC unroll 16")
#endif
enum { WINOGRAD_SIDE = 6 };

/* One row or column through B'. */
VEC8_INLINE void winograd_in(const int m, const vec8 *d, vec8 *v)
{
    if (m == 2) {
        v[0] = vec8_sub(d[0], d[2]);
        v[1] = vec8_add(d[1], d[2]);
        v[2] = vec8_sub(d[2], d[1]);
        v[3] = vec8_sub(d[1], d[3]);
        return;
    }
    const vec8 two = vec8_set(2), four = vec8_set(4), five = vec8_set(-5), minus_four = vec8_set(-4);
    const vec8 even = vec8_fma(minus_four, d[2], d[4]), odd = vec8_fma(minus_four, d[1], d[3]);
    const vec8 even2 = vec8_sub(d[4], d[2]), odd2 = vec8_mul(two, vec8_sub(d[3], d[1]));
    v[0] = vec8_fma(four, d[0], vec8_fma(five, d[2], d[4]));
    v[1] = vec8_add(even, odd);
    v[2] = vec8_sub(even, odd);
    v[3] = vec8_add(even2, odd2);
    v[4] = vec8_sub(even2, odd2);
    v[5] = vec8_fma(four, d[1], vec8_fma(five, d[3], d[5]));
}

/* One row or column through A'. */
VEC8_INLINE void winograd_out(const int m, const vec8 *p, vec8 *y)
{
    const vec8 sum = vec8_add(p[1], p[2]), difference = vec8_sub(p[1], p[2]);
    if (m == 2) {
        y[0] = vec8_add(p[0], sum);
        y[1] = vec8_sub(difference, p[3]);
        return;
    }
    const vec8 sum2 = vec8_add(p[3], p[4]), difference2 = vec8_sub(p[3], p[4]);
    y[0] = vec8_add(vec8_add(p[0], sum), sum2);
    y[1] = vec8_fma(vec8_set(2), difference2, difference);
    y[2] = vec8_fma(vec8_set(4), sum2, sum);
    y[3] = vec8_add(vec8_fma(vec8_set(8), difference2, difference), p[5]);
}

/* The patch of a tile that reaches over the edge, with zeros there. */
static void winograd_patch(const struct winograd_tiles *g, const float *x, int64_t y0, int64_t x0, float *patch)
{
    const int64_t n = g->m + 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t iy = y0 + i, ix = x0 + j;
            const int inside = iy >= 0 && iy < g->in_h && ix >= 0 && ix < g->in_w;
            vec8_store(patch + (i * n + j) * BLOCK, inside ? vec8_load(x + (iy * g->in_w + ix) * BLOCK) : vec8_set(0));
        }
}

VEC8_INLINE void winograd_input_tile(const int m, const float *x, int64_t row, float *v, int64_t v_stride)
{
    const int n = m + 2;
    vec8 half[WINOGRAD_SIDE * WINOGRAD_SIDE]; /* [column][row] */
    for (int i = 0; i < n; i++) {
        vec8 d[WINOGRAD_SIDE], t[WINOGRAD_SIDE];
        UNROLL for (int j = 0; j < n; j++)
            d[j] = vec8_load(x + i * row + j * BLOCK);
        winograd_in(m, d, t);
        UNROLL for (int j = 0; j < n; j++)
            half[j * n + i] = t[j];
    }
    for (int j = 0; j < n; j++) {
        vec8 t[WINOGRAD_SIDE];
        winograd_in(m, half + j * n, t);
        UNROLL for (int i = 0; i < n; i++)
            vec8_store(v + (i * n + j) * v_stride, t[i]);
    }
}

VEC8_INLINE void winograd_input_of(const int m, const struct winograd_tiles *g, const float *x, float *v,
                                   int64_t v_stride)
{
    float patch[WINOGRAD_SIDE * WINOGRAD_SIDE * BLOCK];
    int64_t ty = g->from / g->across, tx = g->from % g->across;
    for (int64_t t = 0; t < g->count; t++) {
        const int64_t y0 = ty * m - g->pad_h, x0 = tx * m - g->pad_w;
        if (y0 >= 0 && x0 >= 0 && y0 + m + 2 <= g->in_h && x0 + m + 2 <= g->in_w) {
            winograd_input_tile(m, x + (y0 * g->in_w + x0) * BLOCK, g->in_w * BLOCK, v + t * BLOCK, v_stride);
        } else {
            winograd_patch(g, x, y0, x0, patch);
            winograd_input_tile(m, patch, (m + 2) * BLOCK, v + t * BLOCK, v_stride);
        }
        if (++tx == g->across) {
            tx = 0;
            ty++;
        }
    }
}

static void winograd_input(const struct winograd_tiles *g, const float *x, float *v, int64_t v_stride)
{
    if (g->m == 4)
        winograd_input_of(4, g, x, v, v_stride);
    else
        winograd_input_of(2, g, x, v, v_stride);
}

struct winograd_end {
    vec8 bias, low, high;
    const float *residual; /* plane, or NULL */
    float *y;
};

VEC8_INLINE void winograd_output_tile(const int m, const struct winograd_tiles *g, const float *p, int64_t p_stride,
                                      int64_t y0, int64_t x0, const struct winograd_end *e)
{
    const int n = m + 2;
    const int64_t rows = g->out_h - y0 < m ? g->out_h - y0 : m, columns = g->out_w - x0 < m ? g->out_w - x0 : m;
    vec8 half[4 * WINOGRAD_SIDE]; /* [row of the tile][column of the products] */
    for (int j = 0; j < n; j++) {
        vec8 t[WINOGRAD_SIDE], r[4];
        UNROLL for (int i = 0; i < n; i++)
            t[i] = vec8_load(p + (i * n + j) * p_stride);
        winograd_out(m, t, r);
        UNROLL for (int i = 0; i < m; i++)
            half[i * n + j] = r[i];
    }
    for (int i = 0; i < rows; i++) {
        const int64_t at = ((y0 + i) * g->out_w + x0) * BLOCK;
        vec8 r[4];
        winograd_out(m, half + i * n, r);
        UNROLL for (int j = 0; j < m; j++) {
            if (j >= columns)
                break;
            vec8 v = vec8_add(r[j], e->bias);
            if (e->residual)
                v = vec8_add(v, vec8_load(e->residual + at + j * BLOCK));
            vec8_store(e->y + at + j * BLOCK, vec8_min(e->high, vec8_max(e->low, v)));
        }
    }
}

VEC8_INLINE void winograd_output_of(const int m, const struct winograd_tiles *g, const float *p, int64_t p_stride,
                                    const struct winograd_end *e)
{
    int64_t ty = g->from / g->across, tx = g->from % g->across;
    for (int64_t t = 0; t < g->count; t++) {
        winograd_output_tile(m, g, p + t * BLOCK, p_stride, ty * m, tx * m, e);
        if (++tx == g->across) {
            tx = 0;
            ty++;
        }
    }
}

static void winograd_output(const struct winograd_tiles *g, const float *p, int64_t p_stride, const float *bias,
                            const float *residual, float low, float high, float *y)
{
    const struct winograd_end e = {bias ? vec8_load(bias) : vec8_set(0), vec8_set(low), vec8_set(high), residual, y};
    if (g->m == 4)
        winograd_output_of(4, g, p, p_stride, &e);
    else
        winograd_output_of(2, g, p, p_stride, &e);
}
