/* SPDX-License-Identifier: Apache-2.0
 * symbols.h - sizes that are not known yet, and arithmetic on them.
 * Why        exporters compute shapes by operators: Shape, Gather, Mul, Concat, Reshape. With an unknown batch or
 *            sequence most of the numbers in there are known all the same; they are carried along as lists of numbers
 *            and symbols.
 * A symbol   is a dim below DIM_UNKNOWN (shape.h). The model's own come first; results of arithmetic get new ones,
 *            named by their formula in a normal form, so that equal formulas are equal symbols: "2*N", "H + 1",
 *            "floor((H - 1)/2)", "H*W". Sizes are taken as not negative. What has no simple form is DIM_UNKNOWN.
 * Ownership  the table owns the names. Threads: one at a time. Out of memory: DIM_UNKNOWN, never an error. */
#ifndef PARED_OPS_SYMBOLS_H
#define PARED_OPS_SYMBOLS_H

#include "core/tensor/tensor.h"

/* A number, or something unknown: then n is DIM_UNKNOWN or a symbol. */
struct sym {
    int64_t n;
    bool known;
};
#define SYM_UNKNOWN ((struct sym){DIM_UNKNOWN, false})
static inline struct sym sym_number(int64_t n) { return (struct sym){n, true}; }
static inline struct sym sym_of_dim(int64_t dim) { return (struct sym){dim, dim >= 0}; }
/* As a dim; a negative number is none. */
static inline int64_t sym_dim(struct sym s) { return s.known && s.n < 0 ? DIM_UNKNOWN : s.n; }
static inline bool sym_equal(struct sym a, struct sym b)
{
    return a.known == b.known && a.n == b.n && (a.known || a.n != DIM_UNKNOWN);
}

/* Contents of a small tensor of rank 0 or 1: integers, or floats and bools that are whole numbers. */
enum { SYM_LIST_MAX = 64 };
struct sym_list {
    int count;
    struct sym *at;
};
/* Contents of a constant; false if it is too long, of another rank, or not a number. at has room for SYM_LIST_MAX. */
bool sym_list_of(const struct tensor *t, struct sym_list *out);

struct symbols;
struct symbols *symbols_new(const char *const *names, int n); /* names of the model, borrowed */
void symbols_free(struct symbols *t);
/* "N", "2*H"; NULL for numbers and DIM_UNKNOWN. Borrowed from the table. */
const char *symbols_name(const struct symbols *t, int64_t dim);

/* t may be NULL: what is not known is DIM_UNKNOWN then. */
struct sym sym_add(struct symbols *t, struct sym a, struct sym b);
struct sym sym_sub(struct symbols *t, struct sym a, struct sym b);
struct sym sym_mul(struct symbols *t, struct sym a, struct sym b);
struct sym sym_div(struct symbols *t, struct sym a, struct sym b); /* rounded down; by zero: unknown */

#endif
