/* SPDX-License-Identifier: Apache-2.0
 * Operators of two operands, element by element, with numpy broadcasting: arithmetic, comparisons, logic, bits.
 *   y[i] = a[i] op b[i]
 * Before opset 7 the second operand is stretched only when `broadcast` is 1, with its axes placed at `axis` of the
 * first. Integers wrap, as in numpy; division by an integer zero is refused; INT_MIN / -1 is INT_MIN. Shifts by the
 * width or more give 0. Max and Min hand NaN on. Pow takes an exponent of any type: integer bases with integer
 * exponents are exact. */
#include <math.h>
#include <string.h>

#include "core/ops/Binary_grad.h"
#include "core/ops/couple_rules.h"
#include "core/ops/elementwise.h"

/* ---- kernels ---- */
#define KERNEL(name, T, R, expr)                                                                                       \
    static void name(void *dv, const void *av, const void *bv, int64_t n, int64_t sa, int64_t sb)                      \
    {                                                                                                                  \
        R *d = dv;                                                                                                     \
        const T *a = av, *b = bv;                                                                                      \
        if (sa && sb) {                                                                                                \
            _Pragma("GCC ivdep") /* d may be a or b */                                                                 \
                for (int64_t i = 0; i < n; i++)                                                                        \
            {                                                                                                          \
                const T x = a[i], y = b[i];                                                                            \
                d[i] = (R)(expr);                                                                                      \
            }                                                                                                          \
        } else if (sa) {                                                                                               \
            const T y = b[0];                                                                                          \
            _Pragma("GCC ivdep") /* d may be a or b */                                                                 \
                for (int64_t i = 0; i < n; i++)                                                                        \
            {                                                                                                          \
                const T x = a[i];                                                                                      \
                d[i] = (R)(expr);                                                                                      \
            }                                                                                                          \
        } else {                                                                                                       \
            const T x = a[0];                                                                                          \
            _Pragma("GCC ivdep") /* d may be a or b */                                                                 \
                for (int64_t i = 0; i < n; i++)                                                                        \
            {                                                                                                          \
                const T y = b[i * sb];                                                                                 \
                d[i] = (R)(expr);                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

#define ARITHMETIC(name, float_expr, int_expr, uint_expr)                                                              \
    KERNEL(name##_f32, float, float, float_expr)                                                                       \
    KERNEL(name##_f64, double, double, float_expr)                                                                     \
    KERNEL(name##_i64, int64_t, int64_t, int_expr)                                                                     \
    KERNEL(name##_u64, uint64_t, uint64_t, uint_expr)
#define ARITHMETIC_FNS(name) .f32 = name##_f32, .f64 = name##_f64, .i64 = name##_i64, .u64 = name##_u64

#define COMPARE(name, expr)                                                                                            \
    KERNEL(name##_f32, float, uint8_t, expr)                                                                           \
    KERNEL(name##_f64, double, uint8_t, expr)                                                                          \
    KERNEL(name##_i64, int64_t, uint8_t, expr)                                                                         \
    KERNEL(name##_u64, uint64_t, uint8_t, expr)                                                                        \
    KERNEL(name##_b8, uint8_t, uint8_t, expr)                                                                          \
    static const struct binary binary_##name = {ARITHMETIC_FNS(name), .b8 = name##_b8, .to_bool = true};

/* Signed arithmetic wraps: done unsigned. */
#define U(v) ((uint64_t)(v))

static int64_t div_i64_one(int64_t x, int64_t y)
{
    return y == -1 ? (int64_t)(0 - U(x)) : x / y;
}
/* The remainder has the divisor's sign (numpy's mod), or the dividend's (C's, fmod). */
static int64_t fmod_i64_one(int64_t x, int64_t y)
{
    return y == -1 ? 0 : x % y;
}
static int64_t mod_i64_one(int64_t x, int64_t y)
{
    int64_t r = fmod_i64_one(x, y);
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
/* A signed value keeps its sign to the right; shifts by less than 0 or by the width and more leave the fill. */
static int64_t shift_signed(int64_t x, int64_t y)
{
    return x >> (y < 0 || y > 63 ? 63 : y);
}
static float mod_f32_one(float x, float y)
{
    float r = fmodf(x, y);
    return r == 0 ? copysignf(0, y) : (r < 0) != (y < 0) ? r + y : r;
}
static double mod_f64_one(double x, double y)
{
    double r = fmod(x, y);
    return r == 0 ? copysign(0, y) : (r < 0) != (y < 0) ? r + y : r;
}
static uint64_t shift_left(uint64_t x, uint64_t y)
{
    return y < 64 ? x << y : 0;
}
static uint64_t shift_right(uint64_t x, uint64_t y)
{
    return y < 64 ? x >> y : 0;
}
static float fmod_of(float x, float y)
{
    return fmodf(x, y);
}

ARITHMETIC(add, x + y, U(x) + U(y), x + y)
ARITHMETIC(sub, x - y, U(x) - U(y), x - y)
ARITHMETIC(mul, x *y, U(x) * U(y), x *y)
ARITHMETIC(div, x / y, div_i64_one(x, y), x / y)
ARITHMETIC(max, x > y || isnan(x) ? x : y, x > y ? x : y, x > y ? x : y)
ARITHMETIC(min, x < y || isnan(x) ? x : y, x < y ? x : y, x < y ? x : y)
KERNEL(mod_i64, int64_t, int64_t, mod_i64_one(x, y))
KERNEL(mod_u64, uint64_t, uint64_t, x % y)
KERNEL(mod_f32, float, float, mod_f32_one(x, y))
KERNEL(mod_f64, double, double, mod_f64_one(x, y))
KERNEL(fmod_i64, int64_t, int64_t, fmod_i64_one(x, y))
KERNEL(fmod_f32, float, float, fmod_of(x, y))
KERNEL(fmod_f64, double, double, fmod(x, y))
KERNEL(and_b8, uint8_t, uint8_t, x &&y)
KERNEL(or_b8, uint8_t, uint8_t, x || y)
KERNEL(xor_b8, uint8_t, uint8_t, !x != !y)
KERNEL(bits_and, uint64_t, uint64_t, x &y)
KERNEL(bits_or, uint64_t, uint64_t, x | y)
KERNEL(bits_xor, uint64_t, uint64_t, x ^ y)
KERNEL(bits_left, uint64_t, uint64_t, shift_left(x, y))
KERNEL(bits_right, uint64_t, uint64_t, shift_right(x, y))
KERNEL(bits_right_signed, int64_t, int64_t, shift_signed(x, y))
COMPARE(equal, x == y)
COMPARE(greater, x > y)
COMPARE(less, x < y)
COMPARE(greater_equal, x >= y)
COMPARE(less_equal, x <= y)

const struct binary binary_add = {ARITHMETIC_FNS(add)};
const struct binary binary_max = {ARITHMETIC_FNS(max)};
const struct binary binary_min = {ARITHMETIC_FNS(min)};
static const struct binary binary_sub = {ARITHMETIC_FNS(sub)};
static const struct binary binary_mul = {ARITHMETIC_FNS(mul)};
static const struct binary binary_div = {ARITHMETIC_FNS(div), .divides = true};
static const struct binary binary_mod = {
    .f32 = mod_f32, .f64 = mod_f64, .i64 = mod_i64, .u64 = mod_u64, .divides = true};
static const struct binary binary_fmod = {
    .f32 = fmod_f32, .f64 = fmod_f64, .i64 = fmod_i64, .u64 = mod_u64, .divides = true};
static const struct binary binary_and = {.b8 = and_b8, .to_bool = true};
static const struct binary binary_or = {.b8 = or_b8, .to_bool = true};
static const struct binary binary_xor = {.b8 = xor_b8, .to_bool = true};
static const struct binary binary_bits_and = {.i64 = bits_and, .u64 = bits_and};
static const struct binary binary_bits_or = {.i64 = bits_or, .u64 = bits_or};
static const struct binary binary_bits_xor = {.i64 = bits_xor, .u64 = bits_xor};
static const struct binary binary_left = {.i64 = bits_left, .u64 = bits_left};
static const struct binary binary_right = {.i64 = bits_right_signed, .u64 = bits_right};

/* ---- Pow ---- */
static int64_t ipow(int64_t base, int64_t exponent)
{
    if (exponent < 0)
        return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
    uint64_t result = 1, factor = U(base);
    for (uint64_t e = U(exponent); e; e >>= 1) {
        if (e & 1)
            result *= factor;
        factor *= factor;
    }
    return (int64_t)result;
}

KERNEL(pow_any_f32, float, float, powf(x, y))
KERNEL(pow_f64, double, double, pow(x, y))
KERNEL(pow_i64, int64_t, int64_t, ipow(x, y))
KERNEL(pow_u64, uint64_t, uint64_t, ipow((int64_t)x, (int64_t)y))
#define POWER(name, expr) KERNEL(name, float, float, ((void)y, expr))
POWER(same_f32, x)
POWER(square_f32, x *x)
POWER(cube_f32, x *x *x)
POWER(fourth_f32, (x * x) * (x * x))
POWER(root_f32, sqrtf(x))
POWER(inverse_f32, 1.0f / x)
POWER(inverse_root_f32, 1.0f / sqrtf(x))
POWER(inverse_square_f32, 1.0f / (x * x))

/* The usual exponents are products and roots. */
static void pow_f32(void *d, const void *a, const void *b, int64_t n, int64_t sa, int64_t sb)
{
    static const struct {
        float exponent;
        binary_fn *fn;
    } usual[] = {
        {1, same_f32},     {2, square_f32},           {3, cube_f32},           {4, fourth_f32}, {0.5f, root_f32},
        {-1, inverse_f32}, {-0.5f, inverse_root_f32}, {-2, inverse_square_f32}};
    binary_fn *fn = pow_any_f32;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0] && sb == 0; i++)
        if (*(const float *)b == usual[i].exponent)
            fn = usual[i].fn;
    fn(d, a, b, n, sa, sb);
}

static const struct binary binary_pow = {.f32 = pow_f32, .f64 = pow_f64, .i64 = pow_i64, .u64 = pow_u64};

/* ---- shapes ---- */
struct legacy_attrs {
    bool broadcast;
    int64_t axis;
};
#define NO_AXIS INT64_MIN
static const struct op_attr legacy_attrs[] = {
    {OP_ATTR(legacy_attrs, broadcast), .kind = OP_BOOL},
    {OP_ATTR(legacy_attrs, axis), .kind = OP_INT, .def = NO_AXIS},
    {0},
};

/* Opset 1 to 6: b's axes stand at `axis` of a (default: the last ones); what follows is stretched. */
static int align_legacy(const struct legacy_attrs *attrs, const struct shape *a, const struct shape *b,
                        struct shape *out, struct err *err)
{
    *out = *b;
    if (a->rank < 0 || b->rank < 0)
        return 0;
    char ta[SHAPE_TEXT], tb[SHAPE_TEXT];
    int64_t axis = attrs->axis;
    if (!attrs->broadcast && a->rank != b->rank)
        return err_set(err, ERR_SHAPE,
                       "shape %s does not fit into %s (before opset 7 shapes must be equal unless broadcast is 1)",
                       shape_text(b, tb), shape_text(a, ta));
    if (!attrs->broadcast || axis == NO_AXIS)
        axis = a->rank - b->rank;
    else if (axis < 0)
        axis += a->rank;
    if (axis < 0 || axis > a->rank - b->rank)
        return err_set(err, ERR_SHAPE, "shape %s does not fit into %s at axis %lld", shape_text(b, tb),
                       shape_text(a, ta), (long long)axis);
    out->rank = a->rank - (int)axis;
    for (int i = b->rank; i < out->rank; i++)
        out->dim[i] = 1;
    for (int i = 0; i < out->rank; i++) {
        int64_t da = a->dim[axis + i], db = out->dim[i];
        if (da >= 0 && db >= 0 && da != db && !(attrs->broadcast && db == 1))
            return err_set(err, ERR_SHAPE, "shape %s does not fit into %s%s", shape_text(b, tb), shape_text(a, ta),
                           attrs->broadcast ? "" : " (before opset 7 shapes must be equal unless broadcast is 1)");
    }
    return 0;
}

int binary_aligned_shape(const void *attrs, int opset, const struct shape *a, const struct shape *b, struct shape *out,
                         struct err *err)
{
    *out = *b;
    return opset < 7 && attrs ? align_legacy(attrs, a, b, out, err) : 0;
}

/* kinds: dtypes allowed; mixed: the second operand's dtype is its own. */
static int infer_binary(struct infer_ctx *c, const char *kinds, bool mixed, bool to_bool, struct err *err)
{
    struct shape b, out;
    enum dtype dtype = op_dtype(c, 0);
    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, kinds, err) < 0 || op_dtype_kinds(c, 1, kinds, err) < 0)
        return -1;
    if (!mixed && op_same_dtype(c, 0, 2, &dtype, err) < 0)
        return -1;
    if (binary_aligned_shape(c->attrs, c->opset, infer_shape(c, 0), infer_shape(c, 1), &b, err) < 0 ||
        binary_shape(infer_shape(c, 0), &b, &out, err) < 0)
        return -1;
    infer_out(c, 0, to_bool ? DTYPE_BOOL : dtype, &out);
    return 0;
}

static int run_binary(struct run_ctx *c, op_infer_fn *infer, const struct binary *op, enum dtype carrier,
                      struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *a = c->in[0], *b = c->in[1];
    struct tensor *d = run_out(c, 0);
    struct shape shape_b;
    if (!d)
        return 0;
    if (binary_aligned_shape(c->attrs, c->opset, &a->shape, &b->shape, &shape_b, err) < 0)
        return -1;
    struct binary_call call = {op,      carrier, a->dtype,  b->dtype, d->dtype, a->data,
                               b->data, d->data, &a->shape, &shape_b, &d->shape};
    return binary_apply(c->pool, &call, err);
}

/* ---- pruning ---- */
static int couple_binary(struct coupling *k, struct err *err)
{
    const struct infer_ctx *c = k->infer;
    const int rank = couple_rank(k, OUT(0)), rank_b = couple_rank(k, IN(1));
    struct shape b;
    (void)err;
    if (c->opset >= 7)
        return couple_elementwise(k, NULL);
    couple_same(k, IN(0), OUT(0));
    if (rank < 0 || rank_b < 0 || couple_rank(k, IN(0)) != rank ||
        binary_aligned_shape(c->attrs, c->opset, infer_shape(c, 0), infer_shape(c, 1), &b, NULL) < 0) {
        couple_freeze_all(k, OUT(0), "its operands are of shapes that are not fixed");
        return 0;
    }
    for (int i = 0; i < rank_b; i++)
        couple_axes(k, IN(1), i, OUT(0), rank - b.rank + i);
    return 0;
}

/* ---- sizes ---- */
typedef struct sym sym_fn(struct symbols *t, struct sym a, struct sym b);

/* Lists of equal length, or one number against a list. */
static bool propagate_by(const struct infer_ctx *c, sym_fn *fn, struct sym_list *out)
{
    const struct sym_list *a = op_sizes(c, 0), *b = op_sizes(c, 1);
    if (!a || !b || (a->count != b->count && a->count != 1 && b->count != 1) || c->opset < 7)
        return false;
    out->count = a->count == 1 ? b->count : a->count;
    for (int i = 0; i < out->count; i++)
        out->at[i] = fn(c->symbols, a->at[a->count == 1 ? 0 : i], b->at[b->count == 1 ? 0 : i]);
    return true;
}

static bool propagate_add(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate_by(c, sym_add, out);
}
static bool propagate_sub(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate_by(c, sym_sub, out);
}
static bool propagate_mul(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate_by(c, sym_mul, out);
}

/* Integers truncate, which of sizes is rounding down. */
static struct sym divide_whole(struct symbols *t, struct sym a, struct sym b)
{
    if (a.known && b.known)
        return b.n == 0 || (b.n == -1 && a.n == INT64_MIN) ? SYM_UNKNOWN : sym_number(a.n / b.n);
    return sym_div(t, a, b);
}
/* Floats only if nothing is cut. */
static struct sym divide_exactly(struct symbols *t, struct sym a, struct sym b)
{
    if (a.known && b.known && b.n != 0 && b.n != -1 && a.n % b.n == 0)
        return sym_number(a.n / b.n);
    return b.known && b.n == 1 ? a : sym_equal(a, b) ? sym_div(t, a, b) : SYM_UNKNOWN;
}
static bool propagate_div(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate_by(c, dtype_is_float(op_dtype(c, 0)) ? divide_exactly : divide_whole, out);
}

/* A symbol is a size: it equals itself and no negative number. */
static struct sym equal_sizes(struct symbols *t, struct sym a, struct sym b)
{
    (void)t;
    if (a.known && b.known)
        return sym_number(a.n == b.n);
    if (sym_equal(a, b))
        return sym_number(1);
    const struct sym number = a.known ? a : b, other = a.known ? b : a;
    return number.known && number.n < 0 && other.n < DIM_UNKNOWN ? sym_number(0) : SYM_UNKNOWN;
}
static bool propagate_equal(const struct infer_ctx *c, struct sym_list *out)
{
    return propagate_by(c, equal_sizes, out);
}

/* bool keeps its own kernels where there are some. */
static enum dtype plain_carrier(const struct binary *op, enum dtype dtype)
{
    return op->b8 && dtype == DTYPE_BOOL ? DTYPE_BOOL : op_carrier(dtype);
}

#define BINARY_FNS(name, kinds)                                                                                        \
    static int infer_##name(struct infer_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return infer_binary(c, kinds, false, binary_##name.to_bool, err);                                              \
    }                                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return run_binary(c, infer_##name, &binary_##name, plain_carrier(&binary_##name, c->in[0]->dtype), err);       \
    }
BINARY_FNS(add, "fiu")
BINARY_FNS(sub, "fiu")
BINARY_FNS(mul, "fiu")
BINARY_FNS(div, "fiu")
BINARY_FNS(and, "b")
BINARY_FNS(or, "b")
BINARY_FNS(xor, "b")
/* Texts are compared byte by byte. */
static void equal_strings(const struct tensor *a, const struct tensor *b, struct tensor *d)
{
    int64_t sa[SHAPE_MAX_RANK], sb[SHAPE_MAX_RANK];
    const struct dtype_string *xs = a->data, *ys = b->data;
    shape_strides(&a->shape, true, sa);
    shape_strides(&b->shape, true, sb);
    for (int64_t i = 0; i < tensor_count(d); i++) {
        int64_t rest = i, ia = 0, ib = 0;
        for (int k = 1; k <= d->shape.rank; k++) {
            const int64_t n = d->shape.dim[d->shape.rank - k], at = rest % n;
            rest /= n;
            ia += k <= a->shape.rank ? at * sa[a->shape.rank - k] : 0;
            ib += k <= b->shape.rank ? at * sb[b->shape.rank - k] : 0;
        }
        const struct dtype_string *x = &xs[ia], *y = &ys[ib];
        ((uint8_t *)d->data)[i] = x->len == y->len && (x->len == 0 || memcmp(x->data, y->data, x->len) == 0);
    }
}

static int infer_equal(struct infer_ctx *c, struct err *err)
{
    return infer_binary(c, c->opset < 19 ? "fiub" : "fiubs", false, true, err);
}

static int forward_equal(struct run_ctx *c, struct err *err)
{
    if (c->in[0]->dtype != DTYPE_STRING)
        return run_binary(c, infer_equal, &binary_equal, plain_carrier(&binary_equal, c->in[0]->dtype), err);
    if (op_outputs(c, infer_equal, err) < 0)
        return -1;
    if (run_out(c, 0))
        equal_strings(c->in[0], c->in[1], c->out[0]);
    return 0;
}
BINARY_FNS(greater, "fiu")
BINARY_FNS(less, "fiu")
BINARY_FNS(greater_equal, "fiu")
BINARY_FNS(less_equal, "fiu")
BINARY_FNS(bits_and, "iu")
BINARY_FNS(bits_or, "iu")
BINARY_FNS(bits_xor, "iu")

static int infer_pow(struct infer_ctx *c, struct err *err)
{
    return infer_binary(c, "fiu", true, false, err);
}

static int forward_pow(struct run_ctx *c, struct err *err)
{
    enum dtype base = op_carrier(c->in[0]->dtype);
    bool fraction = !dtype_is_float(base) && dtype_is_float(c->in[1]->dtype);
    return run_binary(c, infer_pow, &binary_pow, fraction ? DTYPE_DOUBLE : base, err);
}

struct mod_attrs {
    bool fmod;
};
static const struct op_attr mod_attrs[] = {{OP_ATTR(mod_attrs, fmod), .kind = OP_BOOL}, {0}};

static int infer_mod(struct infer_ctx *c, struct err *err)
{
    const struct mod_attrs *attrs = c->attrs;
    if (c->opset < 28 && !attrs->fmod && dtype_is_float(op_dtype(c, 0)))
        return err_set(err, ERR_MODEL, "input #0 is %s; before opset 28 floats need the attribute fmod = 1",
                       dtype_name(op_dtype(c, 0)));
    return infer_binary(c, "fiu", false, false, err);
}

static int forward_mod(struct run_ctx *c, struct err *err)
{
    const struct mod_attrs *attrs = c->attrs;
    return run_binary(c, infer_mod, attrs->fmod ? &binary_fmod : &binary_mod, op_carrier(c->in[0]->dtype), err);
}

struct shift_attrs {
    int direction;
};
static const char *const shift_directions[] = {"LEFT", "RIGHT", NULL};
static const struct op_attr shift_attrs[] = {
    {OP_ATTR(shift_attrs, direction), .kind = OP_ENUM, .choices = shift_directions, .required = true},
    {0},
};

static int infer_shift(struct infer_ctx *c, struct err *err)
{
    return infer_binary(c, c->opset < 28 ? "u" : "iu", false, false, err);
}

static int forward_shift(struct run_ctx *c, struct err *err)
{
    const struct shift_attrs *attrs = c->attrs;
    return run_binary(c, infer_shift, attrs->direction == 0 ? &binary_left : &binary_right, op_carrier(c->in[0]->dtype),
                      err);
}

/* ---- rows ---- */
static const struct op_sample float_samples[] = {{"f32[2,3,4] f32[2,3,4]", ""},
                                                 {"f32[2,3,4] f32[3,1]", ""},
                                                 {"f32[5]=1,2,3,4,5 f32[]=2", ""},
                                                 {"f32[1,4] f32[3,1,1]", ""},
                                                 {"f32[2,5,8] f32[2,1,8]", ""},
                                                 {"f32[1,8] f32[2,5,8]", ""},
                                                 {"f64[2,2] f64[2]", ""},
                                                 {"f16[3,2] f16[2]=1,0.5", ""},
                                                 {"i32[4]=7,-7,9,-9 i32[4]=2,2,-4,4", ""},
                                                 {"i64[2,2] i64[]=3", ""},
                                                 {"u64[3]=9,8,7 u64[3]=2,3,9", ""},
                                                 {"f32[0,3] f32[3]", ""},
                                                 {0}};
static const struct op_sample legacy_samples[] = {{"f32[2,3,4] f32[2,3,4]", "", 1, 6},
                                                  {"f32[2,3,4] f32[3]", "broadcast=1 axis=1", 1, 6},
                                                  {"f32[2,3,4] f32[3,4]", "broadcast=1", 1, 6},
                                                  {0}};
static const struct op_sample bool_samples[] = {
    {"b[2,3] b[2,3]", ""}, {"b[2,3] b[3]", ""}, {"b[4]=0,0,1,1 b[4]=0,1,0,1", ""}, {0}};
static const struct op_sample legacy_bool_samples[] = {
    {"b[2,3] b[2,3]", "", 1, 6}, {"b[2,3] b[2]", "broadcast=1 axis=0", 1, 6}, {0}};
static const struct op_sample compare_samples[] = {
    {"f32[2,3,4] f32[2,3,4]", ""}, {"f32[2,3,4] f32[3,1]", ""}, {"i32[3]=1,2,3 i32[3]=3,2,1", ""},
    {"i64[2,2] i64[]=3", ""},      {"f64[3] f64[1]", ""},       {0}};
static const struct op_sample equal_samples[] = {{"f32[4]=1,2,3,4 f32[4]=1,0,3,0", ""},
                                                 {"i64[2,3] i64[3]", ""},
                                                 {"b[4]=0,0,1,1 b[4]=0,1,0,1", ""},
                                                 {"i32[3]=1,2,3 i32[]=2", ""},
                                                 {0}};
static const struct op_sample legacy_equal_samples[] = {
    {"i32[2,3] i32[2,3]", "", 1, 6}, {"i64[2,3] i64[2]", "broadcast=1 axis=0", 1, 6}, {0}};
static const struct op_sample pow_samples[] = {{"f32[4]=1,2,3,0.5 f32[4]=2,0.5,-1,3", ""},
                                               {"f32[2,3]=1,2,3,4,5,6 f32[]=2", ""},
                                               {"f32[3]=1,4,9 f32[]=0.5", ""},
                                               {"f32[3]=1,-4,9 f32[]=3", ""},
                                               {"f32[3]=1,4,9 f32[]=-1", ""},
                                               {"f32[3]=1,4,9 f32[]=-0.5", ""},
                                               {"f32[3]=1,4,9 f32[]=-2", ""},
                                               {"f32[3]=1,-4,9 f32[]=4", ""},
                                               {"f32[3]=1,2,3 i64[3]=4,5,6", ""},
                                               {"i32[3]=1,2,3 i32[3]=3,2,1", ""},
                                               {"i64[3]=1,2,3 f32[3]=4,5,6", ""},
                                               {0}};
static const struct op_sample legacy_pow_samples[] = {{"f32[2,2]=1,2,3,4 f32[2,2]=2,1,0.5,3", "", 1, 6},
                                                      {"f32[2,2]=1,2,3,4 f32[2]=2,3", "broadcast=1 axis=0", 1, 6},
                                                      {0}};
static const struct op_sample mod_samples[] = {{"i32[6]=-4,7,5,4,-7,8 i32[6]=2,-3,8,-2,3,5", ""},
                                               {"i64[6]=-4,7,5,4,-7,8 i64[6]=2,-3,8,-2,3,5", "fmod=1"},
                                               {"f32[6]=-4.3,7.2,5,4.3,-7.2,8 f32[6]=2.1,-3.4,8,-2.1,3.4,5", "fmod=1"},
                                               {"u8[3]=9,8,7 u8[1]=4", ""},
                                               {0}};
static const struct op_sample shift_samples[] = {{"u8[3]=16,4,1 u8[3]=1,2,3", "direction=LEFT"},
                                                 {"u32[3]=16,4,1 u32[3]=1,2,3", "direction=RIGHT"},
                                                 {"u64[2]=16,9 u64[2]=1,3", "direction=RIGHT"},
                                                 {0}};
static const struct op_sample bit_samples[] = {
    {"i32[4]=1,2,-3,4 i32[4]=7,3,5,-1", ""}, {"u8[2,3] u8[3]", ""}, {"i64[3] i64[1]=5", ""}, {0}};

#define BINARY(type_, fn, doc_, ...)                                                                                   \
    {                                                                                                                  \
        .type = type_, .domain = "", .doc = doc_, .in_min = 2, .in_max = 2, .out_min = 1, .out_max = 1,                \
        .infer = infer_##fn, .forward = forward_##fn, .in_place = 3, .couple = couple_binary, __VA_ARGS__              \
    }
#define LEGACY .since = 1, .until = 6, .attrs = legacy_attrs, .attrs_size = sizeof(struct legacy_attrs)

OP_CLASS(add_1) = BINARY("Add", add, "a + b.", LEGACY, BINARY_GRAD(add, 0), .samples = legacy_samples,
                         .quant = {QUANT_OUTPUT});
OP_CLASS(add_7) = BINARY("Add", add, "a + b.", .since = 7, .propagate = propagate_add, BINARY_GRAD(add, 0),
                         .samples = float_samples, .quant = {QUANT_OUTPUT});
OP_CLASS(sub_1) = BINARY("Sub", sub, "a - b.", LEGACY, BINARY_GRAD(sub, 0), .samples = legacy_samples);
OP_CLASS(sub_7) = BINARY("Sub", sub, "a - b.", .since = 7, .quant = {QUANT_OPTIONAL}, .propagate = propagate_sub,
                         BINARY_GRAD(sub, 0), .samples = float_samples);
OP_CLASS(mul_1) = BINARY("Mul", mul, "a * b.", LEGACY, BINARY_GRAD(mul, BINARY_READS_BOTH), .samples = legacy_samples,
                         .quant = {QUANT_OUTPUT});
OP_CLASS(mul_7) = BINARY("Mul", mul, "a * b.", .since = 7, .propagate = propagate_mul,
                         BINARY_GRAD(mul, BINARY_READS_BOTH), .samples = float_samples, .quant = {QUANT_OUTPUT});
OP_CLASS(div_1) = BINARY("Div", div, "a / b; integers truncate towards zero.", LEGACY,
                         BINARY_GRAD(div, BINARY_READS_BOTH),
                         .samples = (const struct op_sample[]){
                             {"f32[2,3]=1,2,3,4,5,6 f32[2]=2,4", "broadcast=1 axis=0", 1, 6}, {0}});
OP_CLASS(div_7) = BINARY("Div", div, "a / b; integers truncate towards zero.", .since = 7, .quant = {QUANT_OPTIONAL},
                         .propagate = propagate_div, BINARY_GRAD(div, BINARY_READS_BOTH),
                         .samples = (const struct op_sample[]){{"f32[2,3] f32[3]=1,2,4", ""},
                                                               {"i32[4]=7,-7,9,-9 i32[4]=2,2,-4,4", ""},
                                                               {"i64[2,2] i64[]=3", ""},
                                                               {"f16[2,2] f16[2]=2,4", ""},
                                                               {"f64[3] f64[3]=1,-2,4", ""},
                                                               {0}});
OP_CLASS(pow_1) = BINARY("Pow", pow, "a to the power b.", LEGACY, BINARY_GRAD(pow, BINARY_READS_BOTH),
                         .samples = legacy_pow_samples);
OP_CLASS(pow_7) = BINARY("Pow", pow, "a to the power b; the exponent may have a type of its own.", .since = 7,
                         BINARY_GRAD(pow, BINARY_READS_BOTH), .samples = pow_samples);
OP_CLASS(mod_10) = BINARY("Mod", mod, "Remainder with the divisor's sign, or with fmod = 1 the dividend's.",
                          .since = 10, .attrs = mod_attrs, .attrs_size = sizeof(struct mod_attrs),
                          BINARY_GRAD(mod, BINARY_READS_BOTH), .samples = mod_samples);
OP_CLASS(and_1) = BINARY("And", and, "Logical and.", LEGACY, .samples = legacy_bool_samples);
OP_CLASS(and_7) = BINARY("And", and, "Logical and.", .since = 7, .samples = bool_samples);
OP_CLASS(or_1) = BINARY("Or", or, "Logical or.", LEGACY, .samples = legacy_bool_samples);
OP_CLASS(or_7) = BINARY("Or", or, "Logical or.", .since = 7, .samples = bool_samples);
OP_CLASS(xor_1) = BINARY("Xor", xor, "Logical exclusive or.", LEGACY, .samples = legacy_bool_samples);
OP_CLASS(xor_7) = BINARY("Xor", xor, "Logical exclusive or.", .since = 7, .samples = bool_samples);
OP_CLASS(equal_1) = BINARY("Equal", equal, "a == b.", LEGACY, .samples = legacy_equal_samples);
OP_CLASS(equal_7) = BINARY("Equal", equal, "a == b.", .since = 7, .propagate = propagate_equal,
                           .samples = equal_samples);
OP_CLASS(greater_1) = BINARY("Greater", greater, "a > b.", LEGACY, .samples = legacy_samples);
OP_CLASS(greater_7) = BINARY("Greater", greater, "a > b.", .since = 7, .samples = compare_samples);
OP_CLASS(less_1) = BINARY("Less", less, "a < b.", LEGACY, .samples = legacy_samples);
OP_CLASS(less_7) = BINARY("Less", less, "a < b.", .since = 7, .samples = compare_samples);
OP_CLASS(greater_or_equal_12) = BINARY("GreaterOrEqual", greater_equal, "a >= b.", .since = 12,
                                       .samples = compare_samples);
OP_CLASS(less_or_equal_12) = BINARY("LessOrEqual", less_equal, "a <= b.", .since = 12, .samples = compare_samples);
OP_CLASS(bit_shift_11) = BINARY("BitShift", shift,
                                "a shifted by b bits; shifts by the width or more give 0 (or, to the right, the sign).",
                                .since = 11, .attrs = shift_attrs, .attrs_size = sizeof(struct shift_attrs),
                                .samples = shift_samples);
OP_CLASS(bitwise_and_18) = BINARY("BitwiseAnd", bits_and, "a & b.", .since = 18, .samples = bit_samples);
OP_CLASS(bitwise_or_18) = BINARY("BitwiseOr", bits_or, "a | b.", .since = 18, .samples = bit_samples);
OP_CLASS(bitwise_xor_18) = BINARY("BitwiseXor", bits_xor, "a ^ b.", .since = 18, .samples = bit_samples);
