/* SPDX-License-Identifier: Apache-2.0
 * attention.h - scaled dot-product attention, the one core of every attention operator:
 *     scores = softcap(scale * Q K^T) + biases;   Y = softmax(scores over the visible keys) V
 * Idea       Tiles of query rows of one head: scores of a tile in the lane's scratch, softmax in place, times V. Nothing of the
 *            size rows x keys x heads is ever stored. Tiles depend on the shapes alone, so results do not depend on threads.
 * Layout     Q, K, V and Y are addressed by strides (elements), rows of a head are contiguous: [B,N,S,H] and [B,S,N,H] both fit.
 * Heads      query head h reads key head h / (heads / kv_heads).
 * Visible    Query row i of batch b stands at position p = i + past. Key j is visible when j < length, p - left <= j and
 *            j <= p + right (left, right < 0: no such bound; causal attention is right = 0). A key whose bias is -infinity
 *            is not visible either. A row that sees nothing gives zeros.
 * Sources    Vaswani et al. 2017; ONNX Attention (opset 23 to 25); com.microsoft attention operators.
 * Threads    `pool` may be NULL. Errors: none; the caller checked the sizes. */
#ifndef PARED_KERNELS_ATTENTION_H
#define PARED_KERNELS_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/pool.h"

/* A stack of matrices: element (b, h, i, j) lies at data[b * batch + h * head + i * row + j]. */
struct attention_view {
    const void *data;
    int64_t batch, head, row;
};
/* Added to the scores; strides of 0 broadcast. Keys from `cols` on are not visible (a shorter mask). data NULL: none. */
struct attention_bias {
    const void *data;
    int64_t batch, head, row, cols;
};
/* What `probe` receives, as [batch, heads, rows, cols]. */
enum attention_probe {
    ATTENTION_NO_PROBE,
    ATTENTION_PRODUCT, /* scale * Q K^T */
    ATTENTION_CAPPED,  /* after softcap */
    ATTENTION_BIASED,  /* after biases; what is not visible is -infinity */
    ATTENTION_WEIGHTS, /* after softmax */
};
struct attention {
    int64_t batch, heads, kv_heads;
    int64_t rows, cols;       /* queries and keys of a batch */
    int64_t width, v_width;   /* elements of a query and key; of a value */
    struct attention_view q, k, v;
    void *y;
    int64_t y_batch, y_head, y_row;
    double scale, softcap;    /* softcap 0: none */
    struct attention_bias bias[2];
    int64_t past;             /* position of query row 0 ... */
    const int64_t *past_of;   /* ... or [batch], one each */
    const int64_t *length_of; /* [batch] keys that count; NULL: all cols */
    int64_t left, right;      /* the window; -1: unbounded. Set both: 0 is a bound */
    const void *sink;         /* [heads] a further logit in the denominator of the softmax, as of a key without value; NULL: none */
    enum attention_probe probe_kind;
    void *probe;
};

/* Bytes of scratch that `threads` lanes need for elements of `elem` bytes; false: too many. */
bool attention_scratch(const struct attention *a, int threads, size_t elem, size_t *bytes);
void attention_f32(struct pool *pool, const struct attention *a, void *scratch);
void attention_f64(struct pool *pool, const struct attention *a, void *scratch);

#endif
