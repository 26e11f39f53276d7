/* SPDX-License-Identifier: Apache-2.0
 * MelWeightMatrix: (num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz) -> y [dft_length / 2
 * + 1, num_mel_bins]: triangular filters of height 1, whose corners are equal steps apart on the mel scale
 * mel(f) = 2595 log10(1 + f / 700), each corner rounded down to a bin of the spectrum. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/op_util.h"

enum { BINS, LENGTH, RATE, LOWER, UPPER };
static const char *const names[] = {"num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz",
                                    "upper_edge_hertz"};

struct mel_attrs {
    int64_t output_datatype;
};
static const struct op_attr mel_attrs[] = {{OP_ATTR(mel_attrs, output_datatype), .kind = OP_INT, .def = DTYPE_FLOAT},
                                           {0}};

/* Input i, one number, if known. */
static int read_number(const struct infer_ctx *c, int i, double most, double *value, bool *known, struct err *err)
{
    const struct tensor *t = op_value(c, i);
    if (!t) {
        *known = false;
        return 0;
    }
    if (tensor_count(t) != 1)
        return err_set(err, ERR_MODEL, "%s has %" PRId64 " values; it must have one", names[i], tensor_count(t));
    *value = dtype_get(t->dtype, t->data, 0);
    if (*value >= (i < LOWER) && *value <= most)
        return 0;
    return err_set(err, ERR_MODEL, "%s is %g; it must be in [%d, %g]", names[i], *value, i < LOWER, most);
}

static int read_all(const struct infer_ctx *c, double v[5], bool *known, struct err *err)
{
    static const double most[] = {1 << 20, 1 << 24, 1e9, 1e9, 1e9};
    *known = true;
    for (int i = 0; i < 5; i++)
        if (read_number(c, i, most[i], &v[i], known, err) < 0)
            return -1;
    if (*known && (v[UPPER] < v[LOWER] || v[UPPER] > v[RATE] / 2))
        return err_set(err, ERR_MODEL, "upper_edge_hertz is %g; it must be between lower_edge_hertz %g and half the "
                                       "sample rate, %g", v[UPPER], v[LOWER], v[RATE] / 2);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    int64_t dtype = ((const struct mel_attrs *)c->attrs)->output_datatype;
    double v[5] = {0};
    bool known;
    if (op_need(c, 5, err) < 0)
        return -1;
    if (dtype < 1 || dtype > INT32_MAX || !dtype_valid((int)dtype) || !strchr("fiu", dtype_kind((enum dtype)dtype)))
        return err_set(err, ERR_MODEL, "attribute 'output_datatype' is %" PRId64 "; it must be a number type", dtype);
    for (int i = 0; i < 5; i++)
        if (i < LOWER ? op_dtype_index(c, i, err) < 0 : op_dtype_kinds(c, i, "f", err) < 0)
            return -1;
    if (read_all(c, v, &known, err) < 0)
        return -1;
    struct shape out = SHAPE(known ? (int64_t)v[LENGTH] / 2 + 1 : DIM_UNKNOWN, known ? (int64_t)v[BINS] : DIM_UNKNOWN);
    infer_out(c, 0, (enum dtype)dtype, &out);
    return 0;
}

/* Spectrum bin of corner i of the triangles. */
static int64_t corner(const double v[5], int64_t i)
{
    double low = 2595 * log10(1 + v[LOWER] / 700), high = 2595 * log10(1 + v[UPPER] / 700);
    double mel = low + (double)i * (high - low) / (v[BINS] + 2);
    double hertz = 700 * (pow(10, mel / 2595) - 1);
    return (int64_t)floor((v[LENGTH] + 1) * hertz / v[RATE]);
}

static int forward(struct run_ctx *c, struct err *err)
{
    double v[5];
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    for (int i = 0; i < 5; i++)
        v[i] = dtype_get(c->in[i]->dtype, c->in[i]->data, 0);
    const int64_t rows = y->shape.dim[0], bins = y->shape.dim[1];
    if (y->bytes)
        memset(y->data, 0, y->bytes);
    for (int64_t i = 0; i < bins; i++) {
        const int64_t low = corner(v, i), center = corner(v, i + 1), high = corner(v, i + 2);
        for (int64_t j = i64_max(low, 0); j <= center && j < rows; j++)
            dtype_set(y->dtype, y->data, j * bins + i, low == center ? 1 : (double)(j - low) / (double)(center - low));
        for (int64_t j = i64_max(center, 0); j < high && j < rows; j++)
            dtype_set(y->dtype, y->data, j * bins + i, (double)(high - j) / (double)(high - center));
    }
    return 0;
}

OP_CLASS(mel_weight_matrix) = {.type = "MelWeightMatrix",
                               .domain = "",
                               .since = 17,
                               .doc = "Triangular filters from a spectrum to mel bands.",
                               .in_min = 5,
                               .in_max = 5,
                               .out_min = 1,
                               .out_max = 1,
                               .attrs = mel_attrs,
                               .attrs_size = sizeof(struct mel_attrs),
                               .infer = infer,
                               .forward = forward,
                               .samples = (const struct op_sample[]){
                                   {"!i64[]=8 !i64[]=64 !i64[]=8000 !f32[]=100 !f32[]=4000", ""},
                                   {"i64[]=5 i64[]=30 i64[]=8192 f32[]=0 f32[]=2048", ""},
                                   {0}}};
