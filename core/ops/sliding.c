/* SPDX-License-Identifier: Apache-2.0
 * Sliding windows: from attributes to a checked geometry. Every number is held below 2^31, so that sums and products
 * of two of them fit int64 without further checks.
 * Sizes      out = floor((in + pads - effective) / stride) + 1, effective = (kernel - 1) * dilation + 1. With
 *            ceil_mode the quotient is rounded up, but a window that would start in the padding at the end is
 *            dropped. SAME: out = ceil(in / stride), the missing cells are split, the odd one goes to the end (UPPER)
 *            or to the beginning (LOWER). */
#include "core/ops/sliding.h"

#include <inttypes.h>

const char *const sliding_auto_pads[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", NULL};

/* A list attribute of `rank` numbers in [low, 2^31), or `fallback` everywhere when absent. */
static int read_list(int64_t *out, const struct op_ints *list, const char *name, int rank, int64_t low,
                     int64_t fallback, struct err *err)
{
    if (list->count != 0 && list->count != rank)
        return err_set(err, ERR_MODEL,
                       "attribute '%s' has %d elements; the input has %d spatial axes, so it must have %d", name,
                       list->count, rank, rank);
    for (int a = 0; a < rank; a++) {
        out[a] = list->count ? list->at[a] : fallback;
        if (out[a] < low || out[a] > INT32_MAX)
            return err_set(err, ERR_MODEL,
                           "attribute '%s' has %" PRId64 " at position %d; it must be in [%" PRId64 ", 2147483647]",
                           name, out[a], a, low);
    }
    return 0;
}

static int read_pads(struct window *w, const struct sliding_attrs *a, int rank, struct err *err)
{
    const struct op_ints *pads = &a->pads;

    if (pads->count != 0 && pads->count != 2 * rank)
        return err_set(err, ERR_MODEL,
                       "attribute 'pads' has %d elements; the input has %d spatial axes, so it must have %d",
                       pads->count, rank, 2 * rank);
    for (int i = 0; i < 2 * rank; i++) {
        const int64_t pad = pads->count && a->auto_pad == AUTO_PAD_NOTSET ? pads->at[i] : 0;
        if (pad < 0 || pad > INT32_MAX)
            return err_set(err, ERR_MODEL,
                           "attribute 'pads' has %" PRId64 " at position %d; it must be in [0, 2147483647]", pad, i);
        *(i < rank ? &w->pad[i] : &w->pad_end[i - rank]) = pad;
    }
    return 0;
}

int sliding_read(struct window *w, const struct sliding_attrs *a, int rank, const int64_t *kernel, struct err *err)
{
    w->rank = rank;
    if (read_list(w->kernel, &a->kernel_shape, "kernel_shape", rank, 1, 1, err) < 0 ||
        read_list(w->stride, &a->strides, "strides", rank, 1, 1, err) < 0 ||
        read_list(w->dilation, &a->dilations, "dilations", rank, 1, 1, err) < 0 || read_pads(w, a, rank, err) < 0)
        return -1;
    if (!kernel && a->kernel_shape.count == 0)
        return err_set(err, ERR_MODEL, "attribute 'kernel_shape' is missing; it must have %d elements", rank);
    for (int i = 0; kernel && i < rank; i++) {
        if (a->kernel_shape.count && kernel[i] >= 0 && kernel[i] != w->kernel[i])
            return err_set(err, ERR_SHAPE,
                           "attribute 'kernel_shape' has %" PRId64 " at position %d but the weight has %" PRId64
                           "; they must agree",
                           w->kernel[i], i, kernel[i]);
        if (!a->kernel_shape.count)
            w->kernel[i] = kernel[i];
        if (w->kernel[i] == 0 || w->kernel[i] > INT32_MAX)
            return err_set(err, ERR_SHAPE,
                           "the weight's kernel has size %" PRId64 " at spatial axis %d; it must be in [1, 2147483647]",
                           w->kernel[i], i);
    }
    return 0;
}

static void resolve_same(struct window *w, int a, int auto_pad)
{
    const int64_t in = w->in[a], s = w->stride[a];

    w->out[a] = in < 0 ? (s == 1 ? in : DIM_UNKNOWN) : i64_ceil_div(in, s);
    if (in < 0 || w->kernel[a] < 0)
        return;
    const int64_t need = i64_max((w->out[a] - 1) * s + (w->kernel[a] - 1) * w->dilation[a] + 1 - in, 0);
    const int64_t less = need / 2, more = need - less;
    w->pad[a] = auto_pad == AUTO_PAD_SAME_UPPER ? less : more;
    w->pad_end[a] = auto_pad == AUTO_PAD_SAME_UPPER ? more : less;
}

static int resolve_axis(struct window *w, int a, bool ceil_mode, struct err *err)
{
    const int64_t in = w->in[a], s = w->stride[a], pads = w->pad[a] + w->pad_end[a];

    if (in < 0 || w->kernel[a] < 0) {
        const bool keeps = s == 1 && w->kernel[a] >= 0 && pads == (w->kernel[a] - 1) * w->dilation[a];
        w->out[a] = keeps ? in : DIM_UNKNOWN;
        return 0;
    }
    if (in > INT64_MAX / 4)
        return err_set(err, ERR_SHAPE, "the input's spatial axis %d has size %" PRId64 ", too large for a window", a,
                       in);
    const int64_t room = in + pads - ((w->kernel[a] - 1) * w->dilation[a] + 1);
    if (room < 0)
        return err_set(err, ERR_SHAPE,
                       "the window does not fit at spatial axis %d: kernel %" PRId64 " with dilation %" PRId64
                       " spans %" PRId64 " cells, the input with its pads has %" PRId64,
                       a, w->kernel[a], w->dilation[a], (w->kernel[a] - 1) * w->dilation[a] + 1, in + pads);
    w->out[a] = (ceil_mode ? i64_ceil_div(room, s) : room / s) + 1;
    if (ceil_mode && (w->out[a] - 1) * s >= in + w->pad[a])
        w->out[a]--;
    return 0;
}

int sliding_resolve(struct window *w, const struct sliding_attrs *a, const struct shape *x, const int64_t *kernel,
                    bool ceil_mode, struct err *err)
{
    const int rank = x->rank - 2;

    if (sliding_read(w, a, rank, kernel, err) < 0)
        return -1;
    int64_t taps = 1;
    for (int i = 0; i < rank; i++) {
        w->in[i] = x->dim[i + 2];
        if (w->kernel[i] > 0 && (!i64_mul(taps, w->kernel[i], &taps) || taps > INT32_MAX))
            return err_set(err, ERR_MODEL, "the kernel has too many cells; at most 2147483647 are allowed");
        if (a->auto_pad == AUTO_PAD_SAME_UPPER || a->auto_pad == AUTO_PAD_SAME_LOWER)
            resolve_same(w, i, a->auto_pad);
        else if (resolve_axis(w, i, ceil_mode, err) < 0)
            return -1;
    }
    return 0;
}

int sliding_rank(const struct infer_ctx *c, int i, struct err *err)
{
    const struct shape *s = infer_shape(c, i);
    char text[SHAPE_TEXT];

    if (s->rank == SHAPE_UNKNOWN_RANK || s->rank >= 3)
        return 0;
    return err_set(err, ERR_SHAPE, "input #%d has shape %s; it must be [batch, channels, one or more spatial axes]", i,
                   shape_text(s, text));
}

void sliding_symbols(struct symbols *symbols, const struct window *w, const struct sliding_attrs *a, bool ceil_mode,
                     struct shape *out)
{
    const bool same = a->auto_pad == AUTO_PAD_SAME_UPPER || a->auto_pad == AUTO_PAD_SAME_LOWER;
    for (int i = 0; i < w->rank; i++) {
        const int64_t in = w->in[i], s = w->stride[i];
        if (out->dim[i + 2] != DIM_UNKNOWN || in >= 0 || w->kernel[i] < 0 || (ceil_mode && s > 1))
            continue;
        const int64_t more = same ? s - 1 : w->pad[i] + w->pad_end[i] - ((w->kernel[i] - 1) * w->dilation[i] + 1);
        const struct sym cells = sym_add(symbols, sym_of_dim(in), sym_number(more));
        out->dim[i + 2] = sym_dim(sym_add(symbols, sym_div(symbols, cells, sym_number(s)), sym_number(same ? 0 : 1)));
    }
}

struct shape sliding_output(const struct window *w, int64_t batch, int64_t channels)
{
    struct shape out = {.rank = w->rank + 2, .dim = {batch, channels}};
    for (int a = 0; a < w->rank; a++)
        out.dim[a + 2] = w->out[a];
    return out;
}
