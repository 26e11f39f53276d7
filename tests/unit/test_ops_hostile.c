/* SPDX-License-Identifier: Apache-2.0
 * One-node models with impossible or extreme attributes and shapes. What cannot be is refused by a sentence that names
 * the node, the attribute or input, what was found and what is allowed; what can be ends within seconds, however large
 * the numbers are. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/engine/engine.h"
#include "tests/op_case.h"

enum { PATIENCE_S = 10 }; /* sanitizers and a busy machine included; without them each takes milliseconds */

static const struct refusal {
    const char *type, *inputs, *attrs;
    int opset;
    const char *says; /* after "node 'node' (Type): " */
} refusals[] = {
    /* Conv */
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "strides=0,1", 22,
     "attribute 'strides' has 0 at position 0; it must be in [1, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "strides=-1,1", 22,
     "attribute 'strides' has -1 at position 0; it must be in [1, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "strides=1", 22,
     "attribute 'strides' has 1 elements; the input has 2 spatial axes, so it must have 2"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "dilations=1,0", 22,
     "attribute 'dilations' has 0 at position 1; it must be in [1, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "dilations=4611686018427387904,1", 22,
     "attribute 'dilations' has 4611686018427387904 at position 0; it must be in [1, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "pads=-1,0,0,0", 22,
     "attribute 'pads' has -1 at position 0; it must be in [0, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "pads=1,1,1", 22,
     "attribute 'pads' has 3 elements; the input has 2 spatial axes, so it must have 4"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "pads=9223372036854775807,0,0,9223372036854775807", 22,
     "attribute 'pads' has 9223372036854775807 at position 0; it must be in [0, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "kernel_shape=3,4", 22,
     "attribute 'kernel_shape' has 4 at position 1 but the weight has 3; they must agree"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "group=0", 22, "attribute 'group' is 0; it must be at least 1"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "group=2", 22,
     "the input has 3 channels; the weight takes 3 in each of 2 groups"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "group=-9223372036854775808", 22,
     "attribute 'group' is -9223372036854775808; it must be at least 1"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3]", "auto_pad=SAME", 22,
     "attribute 'auto_pad' is 'SAME'; it must be one of 'NOTSET', 'SAME_UPPER', 'SAME_LOWER', 'VALID'"},
    {"Conv", "f32[1,3,8,8] !f32[4,2,3,3]", "", 22, "the input has 3 channels; the weight takes 2 in each of 1 groups"},
    {"Conv", "f32[1,3,2,2] !f32[4,3,3,3]", "", 22,
     "the window does not fit at spatial axis 0: kernel 3 with dilation 1 spans 3 cells, the input with its pads has "
     "2"},
    {"Conv", "f32[1,3] !f32[4,3]", "", 22,
     "input #0 has shape [1,3]; it must be [batch, channels, one or more spatial axes]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,0,3]", "", 22,
     "the weight's kernel has size 0 at spatial axis 0; it must be in [1, 2147483647]"},
    {"Conv", "f32[1,3,8,8] !f32[4,3,3,3] !f32[5]", "", 22,
     "the bias has shape [5]; it must be [4], one value an output channel"},
    {"Conv", "f32[1,3,8,8] !f64[4,3,3,3]", "", 22,
     "input #0 is float32 but input #1 is double; they must have the same type"},
    {"ConvTranspose", "f32[1,3,4,4] !f32[3,4,3,3]", "output_padding=-1,0", 22,
     "attribute 'output_padding' has -1 at position 0; it must be in [0, 2147483647]"},
    {"ConvTranspose", "f32[1,3,4,4] !f32[3,4,3,3]", "output_shape=0,4", 22,
     "the output would have size 0 at spatial axis 0; pads 3 and 3 take away too much"},
    {"ConvTranspose", "f32[1,3,4,4] !f32[3,4,3,3]", "pads=9,9,9,9", 22,
     "the output would have size -12 at spatial axis 0; pads 9 and 9 take away too much"},
    {"ConvTranspose", "f32[1,3,4,4] !f32[2,4,3,3]", "", 22,
     "the input has 3 channels but the weight takes 2; they must be equal"},
    {"ConvTranspose", "f32[1,3,4,4] !f32[3,4,3,3]", "strides=2147483647,2147483647", 22,
     "output 'y0' would be float32[1,4,6442450944,6442450944], over the limit of 1048576 bytes"},
    {"ConvInteger", "u8[1,3,8,8] !u8[4,2,3,3]", "", 10,
     "the input has 3 channels; the weight takes 2 in each of 1 groups"},
    /* pools */
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=0,2", 12,
     "attribute 'kernel_shape' has 0 at position 0; it must be in [1, 2147483647]"},
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=2", 12,
     "attribute 'kernel_shape' has 1 elements; the input has 2 spatial axes, so it must have 2"},
    {"MaxPool", "f32[1,2,8,8]", "", 12, "attribute 'kernel_shape' is missing; it must have 2 elements"},
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=2147483647,2147483647 auto_pad=SAME_UPPER", 12,
     "the kernel has too many cells; at most 2147483647 are allowed"},
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=9,9", 12,
     "the window does not fit at spatial axis 0: kernel 9 with dilation 1 spans 9 cells, the input with its pads has "
     "8"},
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=2,2 strides=1,0", 12,
     "attribute 'strides' has 0 at position 1; it must be in [1, 2147483647]"},
    {"MaxPool", "f32[1,2,8,8]", "kernel_shape=2,2 pads=2147483647,2147483647,2147483647,2147483647", 12,
     "output 'y0' would be float32[1,2,4294967301,4294967301], over the limit of 1048576 bytes"},
    {"AveragePool", "f32[1,2]", "kernel_shape=2", 19,
     "input #0 has shape [1,2]; it must be [batch, channels, one or more spatial axes]"},
    {"AveragePool", "i32[1,2,8]", "kernel_shape=2", 19, "input #0 is int32; it must be a float type"},
    {"AveragePool", "f32[1,2,8]", "kernel_shape=2 count_include_pad=7", 19,
     "attribute 'count_include_pad' is 7; it must be 0 or 1"},
    {"LpPool", "f32[1,2,8]", "kernel_shape=2 p=0", 18, "attribute 'p' is 0; it must be positive"},
    {"GlobalAveragePool", "f32[1,2,0]", "", 18, "spatial axis 0 has size 0; a pool over no cells has no value"},
    {"MaxUnpool", "f32[1,1,2,2] i64[1,1,2,2]=0,1,2,999", "kernel_shape=2,2", 11,
     "place #3 is 999; it must lie inside the output"},
    {"MaxUnpool", "f32[1,1,2,2] i64[1,1,2,3]", "kernel_shape=2,2", 11,
     "values and places have different shapes; they must be equal"},
    {"LRN", "f32[1,4,3,3]", "size=0", 13, "attribute 'size' is 0; it must be at least 1"},
    /* Gemm, MatMul, Einsum */
    {"Gemm", "f32[3,5] !f32[4,4]", "", 13,
     "A has 5 columns but B has 4 rows (after transA and transB); they must be equal"},
    {"Gemm", "f32[3,5,1] !f32[5,4]", "", 13, "input #0 has shape [3,5,1]; it must be a matrix"},
    {"Gemm", "f32[3,5] !f32[5,4] !f32[5]", "", 13, "C has shape [5]; it must broadcast to the product's [3,4]"},
    {"Gemm", "f32[3,5] !f32[5,4]", "transA=2", 13, "attribute 'transA' is 2; it must be 0 or 1"},
    {"Gemm", "f32[3,5] !f32[5,4]", "transA=1", 13,
     "A has 3 columns but B has 5 rows (after transA and transB); they must be equal"},
    {"MatMul", "f32[2,3] f32[4,5]", "", 13, "inner sizes differ: [2,3] times [4,5]; 3 and 4 must be equal"},
    {"MatMul", "f32[] f32[4,5]", "", 13,
     "an operand is a scalar (shapes [] and [4,5]); vectors, matrices or stacks of them are allowed"},
    {"MatMul", "f32[2,3,4] f32[3,4,5]", "", 13, "leading axes do not broadcast: [2,3,4] times [3,4,5]"},
    {"Einsum", "f32[2,3] f32[3,4]", "equation=ij,jk,kl->il", 12,
     "attribute 'equation' has 3 operands but the node has 2 inputs"},
    {"Einsum", "f32[2,3] f32[4,5]", "equation=ij,jk->ik", 12,
     "a label of the equation has size 3 in one operand and 4 in another"},
    {"Einsum", "f32[2,3]", "equation=ijk->i", 12, "operand #0 has 2 axes, which its term of the equation does not fit"},
    {"Einsum", "f32[2,3]", "equation=ij->z", 12, "attribute 'equation' has an output label that no operand has"},
    {"Einsum", "f32[2,3]", "equation=i.j->i", 12,
     "attribute 'equation' has a misplaced '.'; only one '...' a term is allowed"},
    {"Einsum", "f32[2,3]", "equation=ij->ii", 12, "attribute 'equation' names a label twice in its output"},
    {"Einsum", "f32[2,3]", "", 12, "attribute 'equation' is missing; it must be a string"},
    /* Resize */
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,0,2", "", 18, "the scale of axis 2 is 0; it must be a positive number"},
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,nan,2", "", 18,
     "the scale of axis 2 is nan; it must be a positive number"},
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,-2,2", "", 18, "the scale of axis 2 is -2; it must be a positive number"},
    {"Resize", "f32[1,1,4,4] none f32[3]=1,1,2", "", 18,
     "'scales' has 3 values; it must have one for each of the 4 axes"},
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,1e30,2", "", 18, "axis 2 would become 4e+30 long"},
    {"Resize", "f32[1,1,4,4] none none i64[4]=1,1,-3,2", "", 18, "'sizes' has -3 at position 2; it must be at least 1"},
    {"Resize", "f32[1,1,4,4] none none i64[4]=1,1,9223372036854775807,9223372036854775807", "", 18,
     "an output of float32[1,1,9223372036854775807,9223372036854775807] is over the limit of 1048576 bytes"},
    {"Resize", "f32[1,1,4,4]", "", 18, "neither 'scales' nor 'sizes' is given; one of them must be"},
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,2,2", "mode=lanczos", 18,
     "attribute 'mode' is 'lanczos'; it must be one of 'nearest', 'linear', 'cubic'"},
    {"Resize", "f32[1,1,4,4] none f32[4]=1,1,2,2 i64[4]=1,1,8,8", "", 18,
     "both 'scales' and 'sizes' are given; only one of them may be"},
    {"Resize", "f32[1,1,4,4] none f32[2]=2,2", "axes=2,2", 18, "axis 2 is named twice"},
    {"Resize", "f32[1,1,4,4] none f32[2]=2,2", "axes=2,9", 18,
     "axis 9 is out of range; the input has 4 axes, so it must be in [-4, 3]"},
    {"Upsample", "f32[1,1,4,4] f32[4]=1,1,1000000,1000000", "", 9,
     "an output of float32[1,1,4000000,4000000] is over the limit of 1048576 bytes"},
    /* normalizations */
    {"BatchNormalization", "f32[1,3,4] !f32[2] !f32[3] !f32[3] !f32[3]", "", 15,
     "input 'scale' has shape [2]; it must hold one value for each of the 3 channels"},
    {"BatchNormalization", "f32[1,3,4] !f32[3] !f32[3] !f32[3] !f32[3,1]", "", 15,
     "input 'var' has shape [3,1]; it must hold one value for each of the 3 channels"},
    {"BatchNormalization", "f32[1,3,4] !f32[3] !f32[3] !f32[3]", "", 15, "has 4 inputs, takes 5 to 5"},
    {"BatchNormalization", "i32[1,3,4] !f32[3] !f32[3] !f32[3] !f32[3]", "", 15,
     "input #0 is int32; it must be a float type"},
    {"InstanceNormalization", "f32[1,3,4] !f32[2] !f32[3]", "", 6,
     "input 'scale' has shape [2]; it must hold one value for each of the 3 channels"},
    {"GroupNormalization", "f32[1,6,4] !f32[6] !f32[6]", "num_groups=4", 21,
     "attribute 'num_groups' is 4; it must be positive and divide the 6 channels"},
    {"GroupNormalization", "f32[1,6,4] !f32[6] !f32[6]", "num_groups=0", 21,
     "attribute 'num_groups' is 0; it must be positive and divide the 6 channels"},
    {"LayerNormalization", "f32[2,3] !f32[3]", "axis=2", 17,
     "axis 2 is out of range; the input has 2 axes, so it must be in [-2, 1]"},
    {"LayerNormalization", "f32[2,3] !f32[4]", "", 17,
     "input #1 has shape [4]; it must broadcast to the normalized axes [3]"},
    /* quantization */
    {"QuantizeLinear", "f32[2,3] f32[2]=1,1 u8[2]", "axis=1", 13,
     "the scale has shape [2] for an input of shape [2,3]; it must be a vector with one value for each index of the "
     "axis"},
    {"QuantizeLinear", "f32[2,3] f32[3]=1,1,1 u8[3]", "axis=7", 13,
     "axis 7 is out of range; the input has 2 axes, so it must be in [-2, 1]"},
    {"QuantizeLinear", "f32[2,3] f32[]=1 f32[]=0", "", 13,
     "the zero point is float32; it must be an integer or a float of at most 8 bits"},
    {"QuantizeLinear", "f32[2,3] f32[]=1 u8[2]", "", 13,
     "the zero point has shape [2] and the scale []; they must be equal"},
    {"QuantizeLinear", "f32[2,4] f32[2,2]", "axis=1 block_size=-1", 21,
     "attribute 'block_size' is -1; it must not be negative"},
    {"DequantizeLinear", "f32[2,3] f32[]=1", "", 13,
     "the input is float32; it must be an integer or a float of at most 8 bits"},
    {"DequantizeLinear", "u8[2,3] f32[]=1 i8[]=0", "", 13,
     "the input is uint8 but the zero point is int8; they must have the same type"},
    {"DequantizeLinear", "u8[2,3] f32[4]", "axis=1", 13,
     "the scale has shape [4] for an input of shape [2,3]; it must be a vector with one value for each index of the "
     "axis"},
    {"QLinearConv", "u8[1,3,8,8] f32[] u8[] !u8[4,2,3,3] !f32[] !u8[] f32[] u8[]", "", 10,
     "the input has 3 channels; the weight takes 2 in each of 1 groups"},
    {"QLinearMatMul", "u8[2,3] f32[] u8[] u8[4,5] f32[] u8[] f32[] u8[]", "", 10,
     "inner sizes differ: [2,3] times [4,5]; 3 and 4 must be equal"},
    {"MatMulInteger", "u8[2,3] u8[4,5]", "", 10, "inner sizes differ: [2,3] times [4,5]; 3 and 4 must be equal"},
};

/* Extreme, but possible: an answer, either way, soon. */
static const struct {
    const char *type, *inputs, *attrs;
    int opset;
} extremes[] = {
    {"AveragePool", "f32[1,2,10]", "kernel_shape=2147483647 auto_pad=SAME_UPPER", 19},
    {"AveragePool", "f32[1,2,10]", "kernel_shape=3 auto_pad=SAME_LOWER dilations=2147483647", 19},
    {"AveragePool", "f32[1,2,10]", "kernel_shape=2147483647 pads=2147483647,2147483647 strides=1000000000", 19},
    {"AveragePool", "f32[1,1,10,10]", "kernel_shape=40000,50000 auto_pad=SAME_UPPER count_include_pad=1", 19},
    {"MaxPool", "f32[1,2,10]", "kernel_shape=2147483647 pads=2147483647,2147483647 strides=1073741824", 12},
    {"MaxPool", "f32[1,2,10]", "kernel_shape=2147483647 auto_pad=SAME_UPPER storage_order=1", 12},
    {"MaxPool", "u8[1,1,4,4]", "kernel_shape=46340,46340 auto_pad=SAME_LOWER", 12},
    {"LpPool", "f64[1,2,10]", "kernel_shape=2147483647 pads=2147483647,2147483646 p=3", 18},
    {"LRN", "f32[1,4,3,3]", "size=9223372036854775807", 13},
    {"Conv", "f32[1,1,8] !f32[1,1,2]", "dilations=2147483647 auto_pad=SAME_UPPER", 22},
    {"Conv", "f32[1,1,8] !f32[1,1,2]", "pads=2147483647,2147483647 strides=2147483647", 22},
    {"ConvTranspose", "f32[1,1,8] !f32[1,1,2]", "strides=2147483647 output_shape=5", 22},
    {"ConvTranspose", "f32[1,1,8] !f32[1,1,2]", "dilations=2147483647 output_shape=5", 22},
    {"Resize", "f32[1,1,4,4] none none i64[4]=1,1,1,200000", "mode=linear antialias=1", 18},
    {"Resize", "f32[1,1,4,40000] none none i64[4]=1,1,1,1", "mode=cubic antialias=1", 18},
    {"Resize", "f32[1,1,4,4] none none i64[4]=1,1,9223372036854775807,1", "keep_aspect_ratio_policy=not_smaller", 18},
    {"DepthToSpace", "f32[1,4,1,1]", "blocksize=9223372036854775807", 13},
    {"SpaceToDepth", "f32[1,4,4,4]", "blocksize=4611686018427387904", 13},
    {"CumSum", "f32[0,1000] i64[]=0", "", 14},
    {"Tile", "f32[0] !i64[1]=9223372036854775807", "", 13},
    {"Expand", "f32[1,0] !i64[2]=9223372036854775807,0", "", 13},
    {"Reshape", "f32[0] !i64[3]=9223372036854775807,9223372036854775807,0", "allowzero=1", 14},
};

/* 0: it ran; -1: refused, err says why. */
static int attempt(const struct op_class *op, const struct op_sample *s, struct err *err)
{
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    struct plan_opts opts = {.max_memory_bytes = 1 << 20};
    struct timespec start, end;
    struct op_case c;

    if (op_case_build(&c, op, s, err) < 0)
        fail_msg("%s '%s' '%s': %s", op->type, s->inputs, s->attrs, err->msg);
    clock_gettime(CLOCK_MONOTONIC, &start);
    struct plan *plan = plan_new(c.m, &opts, err);
    const int rc = plan ? plan_run(plan, c.fed, out, NULL, err) : -1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (end.tv_sec - start.tv_sec > PATIENCE_S)
        fail_msg("%s '%s' '%s' took %d s", op->type, s->inputs, s->attrs, (int)(end.tv_sec - start.tv_sec));
    for (int k = 0; k < c.n_out; k++)
        tensor_fini(&out[k]);
    plan_free(plan);
    op_case_free(&c);
    return rc;
}

static void refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        const struct op_class *op = op_find(r->type, "", r->opset);
        const struct op_sample s = {r->inputs, r->attrs, 1, r->opset};
        struct err err = {0};
        char want[400];

        assert_non_null(op);
        snprintf(want, sizeof want, "node 'node' (%s): %s", r->type, r->says);
        if (attempt(op, &s, &err) == 0)
            fail_msg("%s '%s' '%s' ran; expected '%s'", r->type, r->inputs, r->attrs, want);
        if (strcmp(err.msg, want) != 0)
            fail_msg("%s '%s' '%s': expected '%s', got '%s'", r->type, r->inputs, r->attrs, want, err.msg);
    }
}

static void ends_soon(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof extremes / sizeof extremes[0]; i++) {
        const struct op_class *op = op_find(extremes[i].type, "", extremes[i].opset);
        const struct op_sample s = {extremes[i].inputs, extremes[i].attrs, 1, extremes[i].opset};
        struct err err = {0};

        assert_non_null(op);
        if (attempt(op, &s, &err) < 0)
            assert_true(strncmp(err.msg, "node 'node' (", 13) == 0);
    }
}

int main(void)
{
    engine_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused), cmocka_unit_test(ends_soon)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
