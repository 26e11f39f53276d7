/* SPDX-License-Identifier: Apache-2.0
 * cluster.h - k-means of numbers on a line: the values that the weights of a layer share.
 * Formula    minimise sum_i (v_i - c_a(i))^2 + rate * bits(a(i)), bits(j) = -log2 of the share of the values that
 *            cluster j holds. rate 0 is k-means (Lloyd 1982); above 0 it is entropy-constrained (Chou, Lookabaugh and
 *            Gray 1989), which spends fewer bits after entropy coding for the same error.
 * How        values fall into bins that keep their order: each distinct value its own bin, or for many values those
 *            that share their sign, exponent and 9 bits of mantissa. On sorted bins with prefix sums an iteration costs
 *            k log(bins), and the optimal clusters for rate 0 are found by dynamic programming with divide and conquer
 *            (k bins log(bins)).
 * Results    deterministic for a seed. Threads: free to call from several. Errors: ERR_NOMEM. */
#ifndef PARED_ENCODE_CLUSTER_H
#define PARED_ENCODE_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

enum cluster_init {
    CLUSTER_OPTIMAL,  /* the best clusters there are, by dynamic programming */
    CLUSTER_LINEAR,   /* evenly between the smallest and the largest value */
    CLUSTER_DENSITY,  /* evenly in the cumulative distribution */
    CLUSTER_KMEANSPP, /* Arthur and Vassilvitskii 2007: each farther ones more likely */
    CLUSTER_RANDOM    /* values drawn at random (Forgy) */
};
enum { CLUSTER_MOST = 4096 };

struct cluster_opts {
    int64_t k; /* 1 .. CLUSTER_MOST */
    enum cluster_init init;
    double rate; /* in squared units of the values for a bit; 0: plain k-means */
    int64_t iterations;
    uint64_t seed;
    bool skip_zeros; /* zeros are no members */
};
/* The centroids of n finite values, ascending, in centroid[k]; *used of them (at most k: the number of distinct values
 * may be smaller, and clusters that lost all members are gone). */
int cluster_values(const float *v, int64_t n, const struct cluster_opts *o, float *centroid, int64_t *used,
                   struct err *err);

/* Where the clusters meet, boundary[i] between centroids i and i + 1 (used - 1 of them), for `rate` and shares in bits
 * (bits may be NULL with rate 0). */
void cluster_boundaries(const float *centroid, const double *bits, double rate, int64_t used, float *boundary);
/* The cluster of a value. */
static inline int64_t cluster_of(const float *boundary, int64_t used, float v)
{
    int64_t lo = 0, hi = used - 1;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (v > boundary[mid])
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

#endif
