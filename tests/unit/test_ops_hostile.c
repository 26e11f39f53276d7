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
    const char *domain;
} refusals[] = {
    /* com.microsoft */
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2]", "K=32 N=5 block_size=16 bits=3", 1,
     "attribute 'bits' is 3; it must be 2, 4 or 8", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2]", "K=32 N=5 block_size=24", 1,
     "attribute 'block_size' is 24; it must be a power of two, 16 or larger", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2]", "K=0 N=5 block_size=16", 1,
     "attribute 'K' is 0; it must be in [1, 2147483647]", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2]", "K=32 N=-9223372036854775808 block_size=16", 1,
     "attribute 'N' is -9223372036854775808; it must be in [1, 2147483647]", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,7] !f32[5,2]", "K=32 N=5 block_size=16", 1,
     "input 'B' has shape [5,2,7]; it must be [5,2,8] for these K, N, bits and block_size", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2] !u8[5,2]", "K=32 N=5 block_size=16", 1,
     "input 'zero_points' has shape [5,2]; it must be [5,1] for these K, N, bits and block_size", "com.microsoft"},
    {"MatMulNBits", "f32[3,32] !u8[5,2,8] !f32[5,2] none !i32[32]", "K=32 N=5 block_size=16", 1,
     "input 'g_idx' is given; it is deprecated and not supported, leave it out", "com.microsoft"},
    {"MatMulNBits", "f32[3,31] !u8[5,2,8] !f32[5,2]", "K=32 N=5 block_size=16", 1,
     "A's last axis must have K = 32 elements", "com.microsoft"},
    {"MatMulBnb4", "f32[3,32] !u8[80] !f32[3]", "K=32 N=5 block_size=64 quant_type=2", 1,
     "attribute 'quant_type' is 2; it must be 0 (FP4) or 1 (NF4)", "com.microsoft"},
    {"GatherBlockQuantized", "!u4[5,32] i64[2]=0,4 !f32[5,3]", "block_size=16", 1,
     "input 'scales' has shape [5,3]; it must be [5,2]", "com.microsoft"},
    {"GatherBlockQuantized", "!u8[6,16] i64[2]=0,4 !f32[6,2]", "block_size=16 gather_axis=1", 1,
     "attribute 'gather_axis' is 1; for uint8 data it must be 0", "com.microsoft"},
    {"FusedMatMul", "f32[2,3,4] f32[2,3,5]", "", 1,
     "inner sizes differ: [2,3,4] times [2,3,5]; 4 and 3 must be equal", "com.microsoft"},
    {"BiasGelu", "f32[2,3] f32[4]", "", 1,
     "the bias has shape [4]; it must be [3], as the input's last axis", "com.microsoft"},
    {"SkipLayerNormalization", "f32[2,3,8] f32[2,3,7] !f32[8]", "", 1,
     "input 'skip' has shape [2,3,7]; it must be the input's [2,3,8], or that of one batch", "com.microsoft"},
    {"EmbedLayerNormalization", "i32[1,2]=0,99 none !f32[10,4] !f32[5,4] none !f32[4] !f32[4]", "", 1,
     "input 'input_ids' has 99; its table has 10 rows", "com.microsoft"},
    {"RotaryEmbedding", "f32[2,3,8] i64[1]=5 !f32[6,2] !f32[6,2]", "", 1,
     "position 6 is outside the caches, which have 6 rows", "com.microsoft"},
    {"RotaryEmbedding", "f32[2,3,8] i64[1]=9223372036854775807 !f32[6,2] !f32[6,2]", "", 1,
     "position 9223372036854775807 is out of range", "com.microsoft"},
    {"Attention", "f32[2,5,8] !f32[8,24] !f32[24]", "num_heads=0", 1,
     "attribute 'num_heads' is 0; it must be in [1, 2147483647]", "com.microsoft"},
    {"Attention", "f32[2,5,8] !f32[8,24] !f32[24]", "num_heads=3", 1,
     "a hidden size of 8 does not divide into 3 heads", "com.microsoft"},
    {"Attention", "f32[2,5,8] !f32[8,24] !f32[24]", "num_heads=2 do_rotary=1", 1,
     "attribute 'do_rotary' is 1; rotate with RotaryEmbedding before instead", "com.microsoft"},
    {"MultiHeadAttention", "f32[2,5,8] f32[2,6,8]", "num_heads=2", 1,
     "inputs 'key' and 'value' must both be [batch, keys, hidden] or [batch, heads, keys, width], or the key packed as [batch, keys, heads, 2, width] without a value", "com.microsoft"},
    {"MultiHeadAttention", "f32[2,5,8] f32[2,6,8] f32[2,7,8]", "num_heads=2", 1,
     "input 'value' has shape [2,7,8]; it must be [2,6,?]", "com.microsoft"},
    {"MultiHeadAttention", "f32[2,5,8] f32[2,6,8] f32[2,6,8]", "num_heads=9223372036854775807", 1,
     "attribute 'num_heads' is 9223372036854775807; it must be in [1, 1048576]", "com.microsoft"},
    {"GroupQueryAttention", "f32[1,3,32] f32[1,3,16] f32[1,3,16] none none i32[1]=2147483647 !i32[]=3", "num_heads=4 kv_num_heads=2", 1,
     "seqlens_k has 2147483647 for batch 0; it must be in [0, 2], the length of the cache", "com.microsoft"},
    {"GroupQueryAttention", "f32[1,3,32] f32[1,3,16] f32[1,3,16] none none i32[1]=2 !i32[]=2", "num_heads=4 kv_num_heads=2", 1,
     "input 'total_sequence_length' is 2; it must be one number, at least the 3 queries", "com.microsoft"},
    {"GroupQueryAttention", "f32[1,3,32] f32[1,3,16] f32[1,3,16] none none i32[1]=2 !i32[]=3", "num_heads=4 kv_num_heads=2 sliding_window_cache=1", 1,
     "attribute 'sliding_window_cache' is 1; only whole caches are supported", "com.microsoft"},
    {"Inverse", "f32[2,2]=1,1,1,1", "", 1,
     "matrix #0 is singular; it has no inverse", "com.microsoft"},
    {"CDist", "f32[2,3] f32[2,4]", "", 1,
     "the inputs have shapes [2,3] and [2,4]; they must be matrices with rows of one length", "com.microsoft"},
    {"ExpandDims", "f32[2,3] i32[]=4", "", 1,
     "the axis is 4; it must be in [-3, 2]", "com.microsoft"},
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
    {"MaxUnpool", "f32[1,1,2,2] i64[1,1,2,2]=0,1,2,3 !i64[4]=1,1,0,4", "kernel_shape=2,2", 11,
     "place #0 is 0; it must lie inside the output"},
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
    /* attention, signal, sequences and the rest of the standard */
    {"Attention", "f32[2,3,4,8] f32[2,3,6,7] f32[2,3,6,8]", "", 23,
     "a head of Q has 8 elements, of K 7; they must be equal"},
    {"Attention", "f32[2,3,4,8] f32[2,2,6,8] f32[2,2,6,8]", "", 23,
     "3 heads of Q are not a multiple of 2 heads of K and V"},
    {"Attention", "f32[2,4,24] f32[2,6,12] f32[2,6,12]", "", 23,
     "attribute 'q_num_heads' is 0; with 3 axes it must be positive"},
    {"Attention", "f32[2,4,24] f32[2,6,12] f32[2,6,12]", "q_num_heads=5 kv_num_heads=3", 23,
     "Q has 24 elements a position, which do not divide into 5 heads"},
    {"Attention", "f32[2,4,24] f32[2,6,12] f32[2,6,12]", "q_num_heads=-1 kv_num_heads=3", 23,
     "attribute 'q_num_heads' is -1; with 3 axes it must be positive"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8] f32[2,3,5,6]", "", 23,
     "attn_mask has shape [2,3,5,6], which does not broadcast to [2,3,4,6]"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8] none f32[2,3,2,8]", "", 23,
     "past_key and past_value go together; one of them is missing"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8]", "qk_matmul_output_mode=4", 23,
     "attribute 'qk_matmul_output_mode' is 4; it must be 0 to 3"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8]", "softmax_precision=7", 23,
     "attribute 'softmax_precision' is 7; it must be 1, 10, 11 or 16"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8] none none none i64[2]=5,7", "", 24,
     "nonpad_kv_seqlen of batch 1 is 7; there are 6 keys"},
    {"Attention", "f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,8]", "left_window_size=-2", 25,
     "a window of -2 to the left and -1 to the right; -1 is no bound, less is nothing"},
    {"RotaryEmbedding", "f32[2,3,4,8] f32[2,4,4] f32[2,4,3]", "", 23,
     "sin_cache has shape [2,4,3]; it must be [batch,steps,4]"},
    {"RotaryEmbedding", "f32[2,4,24] f32[2,4,4] f32[2,4,4]", "num_heads=0", 23,
     "attribute 'num_heads' is 0; it must divide the 24 elements of a step"},
    {"RotaryEmbedding", "f32[2,3,4,8] f32[2,4,4] f32[2,4,4]", "rotary_embedding_dim=10", 23,
     "10 of the 8 elements of a head would be turned; they must be an even number of them"},
    {"RotaryEmbedding", "f32[2,3,4,8] f32[9,4] f32[9,4] i64[2,4]=0,1,2,3,5,6,7,9", "", 23,
     "position 9 is outside the caches, which have 9 rows"},
    {"LinearAttention", "f32[2,5,8] f32[2,5,8] f32[2,5,6]", "q_num_heads=3 kv_num_heads=2", 27,
     "q_num_heads is 3 and kv_num_heads 2; the first must be a positive multiple of the second, both up to 65536"},
    {"LinearAttention", "f32[2,5,8] f32[2,5,8] f32[2,5,6]", "q_num_heads=2 kv_num_heads=2", 27,
     "input 'decay' is missing, but the update rule 'gated_delta' needs it"},
    {"LinearAttention", "f32[2,5,8] f32[2,5,8] f32[2,4,6]", "q_num_heads=2 kv_num_heads=2 update_rule=linear", 27,
     "input #2 has shape [2,4,6]; it must be [2,5,?]"},
    {"CausalConvWithState", "f32[2,3,6] f32[3,1,0]", "", 27,
     "weight is empty: the kernel has at least one tap"},
    {"CausalConvWithState", "f32[2,3,6] f32[4,1,2]", "", 27,
     "weight has shape [4,1,2]; it must be [3,1,2]"},
    {"TensorScatter", "f32[2,6,4] f32[2,3,4] i64[2]=1,4", "", 24,
     "write_indices[1] is 4; 3 steps must fit into 6"},
    {"TensorScatter", "f32[2,6,4] f32[2,7,4]", "", 24,
     "update has shape [2,7,4] and the cache [2,6,4]; only axis 1 may differ, and not be longer"},
    {"TensorScatter", "f32[2,6,4] f32[2,3,4]", "axis=0", 24,
     "attribute 'axis' names the batch axis; it must be another one"},
    {"TensorScatter", "f32[2,6,4] f32[2,3,4] i64[2]=-1,2", "mode=circular", 24,
     "write_indices[0] is -1; 3 steps must fit into 6"},
    {"BitCast", "f32[2]", "to=7", 26,
     "float32 cannot be taken for int64; both must have the same width"},
    {"BitCast", "f32[2]", "to=8", 26,
     "attribute 'to' is 8; it must be the number of a type, and not string"},
    {"CumProd", "f32[2] i32[]=5", "", 26,
     "axis 5 is out of range; the input has 1 axes, so it must be in [-1, 0]"},
    {"BitShift", "u8[2] u8[2]", "", 28,
     "attribute 'direction' is missing; it must be a string"},
    {"SwiGLU", "f32[2,3] f32[3,2]", "", 28,
     "A has shape [2,3] and B [3,2]; they must be equal"},
    {"DFT", "f32[2,8,3]", "", 20,
     "the input has shape [2,8,3]; its last axis must be 1 (real) or 2 (complex)"},
    {"DFT", "f32[2,8,1] i64[]=0", "", 20,
     "dft_length is 0; it must be in [1, 1073741824]"},
    {"DFT", "f32[2,8,1] i64[]=-9223372036854775808", "", 20,
     "dft_length is -9223372036854775808; it must be in [1, 1073741824]"},
    {"DFT", "f32[2,8,1] i64[]=9223372036854775807", "", 20,
     "dft_length is 9223372036854775807; it must be in [1, 1073741824]"},
    {"DFT", "f32[2,8,1] none i64[]=2", "", 20,
     "axis 2 is the one of real and imaginary parts"},
    {"DFT", "f32[2,8,2]", "onesided=1", 20,
     "a one-sided transform takes real input"},
    {"DFT", "f32[2,1,2]", "onesided=1 inverse=1", 20,
     "dft_length is 0; it must be in [1, 1073741824]"},
    {"STFT", "f32[1,16,1] i64[]=0 none i64[]=8", "", 17,
     "frame_step is 0; it must be in [1, 1073741824]"},
    {"STFT", "f32[1,16,1] i64[]=4 f32[8] i64[]=9", "", 17,
     "the window has 8 values but frame_length is 9"},
    {"STFT", "f32[1,16,1] i64[]=4 none i64[]=17", "", 17,
     "the signal has 16 values, fewer than a frame of 17"},
    {"STFT", "f32[1,16,2] i64[]=4 none i64[]=8", "", 17,
     "a complex signal has no one-sided transform; set onesided = 0"},
    {"MelWeightMatrix", "i64[]=0 i64[]=64 i64[]=8000 f32[]=100 f32[]=4000", "", 17,
     "num_mel_bins is 0; it must be in [1, 1.04858e+06]"},
    {"MelWeightMatrix", "i64[]=8 i64[]=64 i64[]=8000 f32[]=100 f32[]=nan", "", 17,
     "upper_edge_hertz is nan; it must be in [0, 1e+09]"},
    {"MelWeightMatrix", "i64[]=8 i64[]=64 i64[]=8000 f32[]=3000 f32[]=100", "", 17,
     "upper_edge_hertz is 100; it must be between lower_edge_hertz 3000 and half the sample rate, 4000"},
    {"CenterCropPad", "f32[3,4] i64[1]=2", "", 18,
     "shape has 1 sizes for 2 axes"},
    {"CenterCropPad", "f32[3,4] i64[2]=2,-1", "", 18,
     "size 1 of shape is -1; it must not be negative"},
    {"CenterCropPad", "f32[3,4] i64[1]=2", "axes=2", 18,
     "axis 2 is out of range; the input has 2 axes, so it must be in [-2, 1]"},
    {"Col2Im", "f32[1,5,5] i64[2]=5,5 i64[2]=1,4", "", 18,
     "the input has 5 rows and 5 places; rows must be a multiple of 4 and places 10"},
    {"Col2Im", "f32[1,5,5] i64[2]=5,5 i64[2]=1,5", "strides=0,1", 18,
     "attribute 'strides' holds 0; it must be in [1, 2^31)"},
    {"Col2Im", "f32[1,5,5] i64[2]=5,5 i64[2]=1,6", "", 18,
     "a block of 6 with dilation does not fit into axis 1 of the image, 5 with pads"},
    {"Col2Im", "f32[1,5,5] i64[2]=5,5 i64[1]=5", "", 18,
     "image_shape has 2 sizes and block_shape 1; they must be as many, and some"},
    {"AffineGrid", "f32[2,2,3] i64[4]=3,3,5,6", "", 20,
     "theta has a batch of 2 and size of 3"},
    {"AffineGrid", "f32[2,3,3] i64[4]=2,3,5,6", "", 20,
     "theta has shape [2,3,3]; it must be [batch,2,3] or [batch,3,4]"},
    {"AffineGrid", "f32[2,2,3] i64[4]=2,3,-5,6", "", 20,
     "size 2 is -5; it must not be negative"},
    {"DeformConv", "f32[1,1,3,3] f32[1,1,2,2] f32[1,8,4,4]", "kernel_shape=3,3 pads=1,1,1,1", 19,
     "kernel_shape is 3x3 but the weight's is 2x2"},
    {"DeformConv", "f32[1,1,3,3] f32[1,1,2,2] f32[1,8,2,2]", "offset_group=2", 19,
     "1 channels do not divide into 2 offset groups"},
    {"DeformConv", "f32[1,1,3,3] f32[1,1,2,2] f32[1,6,2,2]", "", 19,
     "input 'offset' has shape [1,6,2,2]; it must be [1,8,2,2]"},
    {"DeformConv", "f32[1,1,3,3] f32[1,1,2,2] f32[1,8,2,2]", "strides=1,-1", 19,
     "attribute 'strides' holds -1; it must be in [1, 2^31)"},
    {"MaxRoiPool", "f32[2,3,8,9] f32[1,5]=2,1,1,5,6", "pooled_shape=2,3", 1,
     "region 0 holds 2 as its place in the batch, which is outside of it"},
    {"MaxRoiPool", "f32[2,3,8,9] f32[1,5]=0,1,1,5,nan", "pooled_shape=2,3", 1,
     "region 0 holds nan as its corner"},
    {"MaxRoiPool", "f32[2,3,8,9] f32[1,4]", "pooled_shape=2,3", 1,
     "the input is [2,3,8,9] and the regions [1,4]; they must be [batch, channels, height, width] and [regions, 5]"},
    {"MaxRoiPool", "f32[2,3,8,9] f32[1,5]", "pooled_shape=2", 1,
     "attribute 'pooled_shape' must be two sizes in [1, 65536]"},
    {"TfIdfVectorizer", "i64[6]", 
     "mode=TF min_gram_length=2 max_gram_length=1 max_skip_count=0 ngram_counts=0 ngram_indexes=0 pool_int64s=1", 9,
     "n-grams of 2 to 1 items with up to 0 skipped, and 1 kinds in the pool, make no sense"},
    {"TfIdfVectorizer", "i64[6]", 
     "mode=TF min_gram_length=1 max_gram_length=1 max_skip_count=0 ngram_counts=5 ngram_indexes=0 pool_int64s=1", 9,
     "ngram_counts puts 1-grams at [5, 1) of a pool of 1"},
    {"TfIdfVectorizer", "i64[6]", 
     "mode=TF min_gram_length=1 max_gram_length=1 max_skip_count=0 ngram_counts=0 ngram_indexes=-1 pool_int64s=1", 9,
     "ngram_indexes[0] is -1; it must be in [0, 16777216)"},
    {"TfIdfVectorizer", "i64[6]", 
     "mode=TF min_gram_length=1 max_gram_length=1 max_skip_count=0 ngram_counts=0 ngram_indexes=0,1 pool_int64s=1", 9,
     "the pool has 1 n-grams, ngram_indexes 2 values and weights 0"},
    {"TfIdfVectorizer", "f32[6]", 
     "mode=TF min_gram_length=1 max_gram_length=1 max_skip_count=0 ngram_counts=0 ngram_indexes=0 pool_int64s=1", 9,
     "input #0 is float32; with this pool it must be int32 or int64"},
    {"StringConcat", "f32[2] f32[2]", "", 20,
     "input #0 is float32; it must be string"},
    {"StringSplit", "i64[2]", "", 20,
     "input #0 is int64; it must be string"},
    {"StringNormalizer", "i64[2]", "", 10,
     "input #0 is int64; it must be string"},
    {"SequenceAt", "f32[2] i64[]=0", "", 11,
     "input #0 is a tensor; it must be a sequence"},
    {"SequenceInsert", "f32[2] f32[2]", "", 11,
     "input #0 is a tensor; it must be a sequence"},
    {"SequenceErase", "f32[2]", "", 11,
     "input #0 is a tensor; it must be a sequence"},
    {"SequenceLength", "f32[2]", "", 11,
     "input #0 is a tensor; it must be a sequence"},
    {"SequenceConstruct", "f32[2] f64[2]", "", 11,
     "a sequence of float32 cannot hold double; all items have one type"},
    {"ConcatFromSequence", "f32[2]", "axis=0", 11,
     "input #0 is a tensor; it must be a sequence"},
    {"SplitToSequence", "f32[6] i64[]=0", "", 24,
     "split is 0; a piece has at least one element"},
    {"SplitToSequence", "f32[6] i64[]=-9223372036854775808", "", 24,
     "split is -9223372036854775808; a piece has at least one element"},
    {"SplitToSequence", "f32[6] i64[2]=3,4", "", 24,
     "split adds up to 7 but the axis has 6 elements"},
    {"SplitToSequence", "f32[6] i64[2]=-1,7", "", 24,
     "split 0 is -1; sizes are not negative"},
    {"SplitToSequence", "f32[6]", "axis=1", 24,
     "axis 1 is out of range; the input has 1 axes, so it must be in [-1, 0]"},
    {"SplitToSequence", "f32[]", "", 24,
     "axis 0 is out of range; the input has 0 axes, so it must be in [0, -1]"},
    {"SequenceEmpty", "", "dtype=99", 11,
     "attribute 'dtype' is 99; it must be the number of a type"},
    {"OptionalHasElement", "none", "", 15,
     "input #0 is missing; it may be absent from opset 18 on"},
    {"Optional", "none", "", 15,
     "has neither an input nor the attribute 'type'; one of them is needed"},
    {"Scan", "i64[1] f32[2]", "num_scan_inputs=1", 8,
     "attribute 'body' is missing; it must be a graph"},
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
    {"DFT", "f32[1,4,1] i64[]=1073741824", "", 20},
    {"STFT", "f32[1,64,1] i64[]=1 none i64[]=64", "", 17},
    {"MelWeightMatrix", "i64[]=1048576 i64[]=16777216 i64[]=8000 f32[]=0 f32[]=4000", "", 17},
    {"CenterCropPad", "f32[1,1] i64[2]=9223372036854775807,9223372036854775807", "", 18},
    {"Col2Im", "f32[1,1,1] i64[2]=2147483647,2147483647 i64[2]=1,1", "strides=2147483647,2147483647", 18},
    {"AffineGrid", "f32[1,2,3] i64[4]=1,1,9223372036854775807,9223372036854775807", "", 20},
    {"DeformConv", "f32[1,1,3,3] f32[1,1,2,2] f32[1,8,1,1]", "strides=2147483647,2147483647 pads=2147483647,0,0,0", 19},
    {"MaxRoiPool", "f32[1,1,8,9] f32[1,5]=0,-1e9,-1e9,1e9,1e9", "pooled_shape=100,100 spatial_scale=1e9f", 1},
    {"Attention", "f32[1,1,1,8] f32[1,1,1,8] f32[1,1,1,8]", "left_window_size=9223372036854775807 "
     "right_window_size=9223372036854775807", 25},
    {"TfIdfVectorizer", "i64[1000]", "mode=TF min_gram_length=1 max_gram_length=2 max_skip_count=9223372036854775807 "
     "ngram_counts=0,1 ngram_indexes=0,16777215 pool_int64s=1,2,3", 9},
    {"SplitToSequence", "f32[1048577]", "", 11},
    {"SplitToSequence", "f32[4] i64[]=9223372036854775807", "", 11},
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
        const struct op_class *op = op_find(r->type, r->domain ? r->domain : "", r->opset);
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
