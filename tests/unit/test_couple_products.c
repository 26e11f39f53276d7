/* SPDX-License-Identifier: Apache-2.0
 * Pruning through products, normalizations, recurrent cells and attention: what a sample of one node does not show.
 * Small networks, written as text, are cut by groups_remove.
 * By hand    for one choice of atoms each network's row says which indices of which weights stay, and what the
 *            attributes become; every other weight must stay as it was.
 * By value   for every atom of every group: the cut network gives what the original gives with zeros in the weights
 *            that consume the atom (without such: in all that make it). Not where a normalization goes over the axis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/engine/engine.h"
#include "core/prune/groups.h"
#include "tests/op_case.h"
#include "tests/unit/graphs.h"

enum { MAX_LINES = 24, MAX_INPUTS = 4 };

/* Lines: "x f32[2,3]" an input, "w !f32[3,4]" a weight, "y,z = Op x w none : attr=1" a node ("ms." before
 * com.microsoft's). The last node's first output is the network's. */
struct net {
    const char *name;
    int opset;
    enum groups_mode mode;
    const char *line[MAX_LINES];
    const char *cut;             /* "w 0 2,3": the atoms of these elements of this axis of w */
    int atoms;                   /* in their group */
    const char *kept[MAX_LINES]; /* "w 0 0,1": what stays; not listed: everything */
    const char *attrs[6];        /* "y group 2": of the node that makes y */
    bool approximate, heads;     /* its atoms are whole heads */
};

static const struct net nets[] = {
    {.name = "dense convolutions",
     .opset = 17,
     .line = {"x f32[2,3,6,6]", "w1 !f32[5,3,3,3]", "b1 !f32[5]", "w2 !f32[2,5,1,1]", "h = Conv x w1 b1 : pads=1,1,1,1",
              "r = Sigmoid h", "y = Conv r w2"},
     .cut = "w1 0 1,4",
     .atoms = 5,
     .kept = {"w1 0 0,2,3", "b1 0 0,2,3", "w2 1 0,2,3"}},
    {.name = "grouped convolution: the same place in every group",
     .opset = 17,
     .line = {"x f32[1,3,5,5]", "w1 !f32[8,3,1,1]", "b1 !f32[8]", "wg !f32[6,4,3,3]", "bg !f32[6]", "w2 !f32[2,6,1,1]",
              "h = Conv x w1 b1", "g = Conv h wg bg : group=2", "y = Conv g w2"},
     .cut = "wg 0 1",
     .atoms = 3,
     .kept = {"wg 0 0,2,3,5", "bg 0 0,2,3,5", "w2 1 0,2,3,5"},
     .attrs = {"g group 2"}},
    {.name = "grouped convolution: its inputs",
     .opset = 17,
     .line = {"x f32[1,3,5,5]", "w1 !f32[8,3,1,1]", "b1 !f32[8]", "wg !f32[6,4,3,3]", "w2 !f32[2,6,1,1]",
              "h = Conv x w1 b1", "g = Conv h wg : group=2", "y = Conv g w2"},
     .cut = "w1 0 6",
     .atoms = 4,
     .kept = {"w1 0 0,1,3,4,5,7", "b1 0 0,1,3,4,5,7", "wg 1 0,1,3"},
     .attrs = {"g group 2"}},
    {.name = "depthwise convolution with two outputs a channel",
     .opset = 17,
     .line = {"x f32[1,3,5,5]", "w1 !f32[4,3,1,1]", "wd !f32[8,1,3,3]", "bd !f32[8]", "w2 !f32[2,8,1,1]",
              "h = Conv x w1", "d = Conv h wd bd : group=4", "y = Conv d w2"},
     .cut = "w1 0 1",
     .atoms = 4,
     .kept = {"w1 0 0,2,3", "wd 0 0,1,4,5,6,7", "bd 0 0,1,4,5,6,7", "w2 1 0,1,4,5,6,7"},
     .attrs = {"d group 3"}},
    {.name = "one output a group",
     .opset = 17,
     .line = {"x f32[1,3,5,5]", "w1 !f32[6,3,1,1]", "wd !f32[3,2,3,3]", "w2 !f32[2,3,1,1]", "h = Conv x w1",
              "d = Conv h wd : group=3", "y = Conv d w2"},
     .cut = "wd 0 1",
     .atoms = 3,
     .kept = {"w1 0 0,1,4,5", "wd 0 0,2", "w2 1 0,2"},
     .attrs = {"d group 2"}},
    {.name = "transposed convolutions",
     .opset = 17,
     .line = {"x f32[1,2,4,4]", "w1 !f32[2,4,2,2]", "b1 !f32[4]", "wg !f32[4,3,2,2]", "bg !f32[6]", "w2 !f32[6,2,1,1]",
              "h = ConvTranspose x w1 b1 : strides=2,2", "g = ConvTranspose h wg bg : group=2",
              "y = ConvTranspose g w2"},
     .cut = "wg 1 2",
     .atoms = 3,
     .kept = {"wg 1 0,1", "bg 0 0,1,3,4", "w2 0 0,1,3,4"},
     .attrs = {"g group 2"}},
    {.name = "transposed depthwise convolution",
     .opset = 17,
     .line = {"x f32[1,2,4,4]", "w1 !f32[2,3,1,1]", "wd !f32[3,2,2,2]", "w2 !f32[6,2,1,1]", "h = ConvTranspose x w1",
              "d = ConvTranspose h wd : group=3", "y = ConvTranspose d w2"},
     .cut = "w1 1 0",
     .atoms = 3,
     .kept = {"w1 1 1,2", "wd 0 1,2", "w2 0 2,3,4,5"},
     .attrs = {"d group 2"}},
    {.name = "Gemm, every side transposed",
     .opset = 17,
     .line = {"x f32[3,4]", "w1 !f32[5,4]", "c1 !f32[5]", "w2 !f32[6,5]", "w3 !f32[6,2]", "c3 !f32[2]",
              "h = Gemm x w1 c1 : transB=1 alpha=0.5 beta=2", "t = Transpose h : perm=1,0", "g = Gemm w2 t : alpha=2",
              "y = Gemm g w3 c3 : transA=1"},
     .cut = "w1 0 3",
     .atoms = 5,
     .kept = {"w1 0 0,1,2,4", "c1 0 0,1,2,4", "w2 1 0,1,2,4"}},
    {.name = "a constant on the left makes rows",
     .opset = 17,
     .line = {"x f32[4,3]", "w1 !f32[6,4]", "c1 !f32[6,1]", "w2 !f32[2,6]", "h = MatMul w1 x", "r = Add h c1",
              "y = MatMul w2 r"},
     .cut = "w1 0 0,5",
     .atoms = 6,
     .kept = {"w1 0 1,2,3,4", "c1 0 1,2,3,4", "w2 1 1,2,3,4"}},
    {.name = "a stack of weights for one input makes a batch",
     .opset = 17,
     .line = {"x f32[1,3,4]", "w1 !f32[5,4,2]", "w2 !f32[5,2,3]", "h = MatMul x w1", "g = MatMul h w2",
              "t = Transpose g : perm=1,2,0", "w3 !f32[5,1]", "y = MatMul t w3"},
     .cut = "w1 0 2",
     .atoms = 5,
     .kept = {"w1 0 0,1,3,4", "w2 0 0,1,3,4", "w3 0 0,1,3,4"}},
    {.name = "products of two activations",
     .opset = 17,
     .line = {"x f32[2,3,4]", "wq !f32[4,6]", "bq !f32[6]", "wk !f32[4,6]", "wv !f32[4,5]", "wo !f32[5,4]",
              "q = MatMul x wq", "qb = Add q bq", "k = MatMul x wk", "kt = Transpose k : perm=0,2,1",
              "s = MatMul qb kt", "p = Softmax s : axis=-1", "v = MatMul x wv", "a = MatMul p v", "y = MatMul a wo"},
     .cut = "wq 1 2",
     .atoms = 6,
     .kept = {"wq 1 0,1,3,4,5", "bq 0 0,1,3,4,5", "wk 1 0,1,3,4,5"}},
    {.name = "FusedMatMul with a batch in the last but one axis",
     .opset = 17,
     .line = {"x f32[3,2,4]", "w1 !f32[4,5]", "h = MatMul x w1", "w2 !f32[6,3,5]",
              "y = ms.FusedMatMul h w2 : transB=1 transBatchB=1", "w3 !f32[6,2]", "z = MatMul y w3"},
     .cut = "w2 0 1",
     .atoms = 6,
     .kept = {"w2 0 0,2,3,4,5", "w3 0 0,2,3,4,5"}},
    {.name = "Einsum",
     .opset = 17,
     .line = {"x f32[2,3,4]", "w1 !f32[4,2,5]", "w2 !f32[2,5,4]", "h = Einsum x w1 : equation=bti,ihd->bthd",
              "r = Tanh h", "y = Einsum r w2 : equation=bthd,hdo->bto"},
     .cut = "w1 2 0",
     .atoms = 5,
     .kept = {"w1 2 1,2,3,4", "w2 1 1,2,3,4"}},
    {.name = "BatchNormalization",
     .opset = 17,
     .line = {"x f32[2,3,4,4]", "w1 !f32[4,3,1,1]", "s !f32[4]", "b !f32[4]", "m !f32[4]", "v !f32[4]=0.5,1,2,3",
              "w2 !f32[2,4,1,1]", "h = Conv x w1", "n = BatchNormalization h s b m v", "r = Relu n", "y = Conv r w2"},
     .cut = "w1 0 2",
     .atoms = 4,
     .kept = {"w1 0 0,1,3", "s 0 0,1,3", "b 0 0,1,3", "m 0 0,1,3", "v 0 0,1,3", "w2 1 0,1,3"}},
    {.name = "InstanceNormalization",
     .opset = 17,
     .line = {"x f32[2,3,4,4]", "w1 !f32[4,3,1,1]", "s !f32[4]", "b !f32[4]", "w2 !f32[2,4,1,1]", "h = Conv x w1",
              "n = InstanceNormalization h s b", "y = Conv n w2"},
     .cut = "w1 0 3",
     .atoms = 4,
     .kept = {"w1 0 0,1,2", "s 0 0,1,2", "b 0 0,1,2", "w2 1 0,1,2"}},
    {.name = "GroupNormalization, a scale a group",
     .opset = 18,
     .line = {"x f32[2,3,4,4]", "w1 !f32[6,3,1,1]", "s !f32[2]", "b !f32[2]", "w2 !f32[2,6,1,1]", "h = Conv x w1",
              "n = GroupNormalization h s b : num_groups=2", "y = Conv n w2"},
     .cut = "w1 0 4",
     .atoms = 3,
     .kept = {"w1 0 0,2,3,5", "w2 1 0,2,3,5"},
     .attrs = {"n num_groups 2"},
     .approximate = true},
    {.name = "GroupNormalization, a scale a channel",
     .opset = 21,
     .line = {"x f32[2,3,4,4]", "w1 !f32[6,3,1,1]", "s !f32[6]", "b !f32[6]", "w2 !f32[2,6,1,1]", "h = Conv x w1",
              "n = GroupNormalization h s b : num_groups=2", "y = Conv n w2"},
     .cut = "w1 0 4",
     .atoms = 3,
     .kept = {"w1 0 0,2,3,5", "s 0 0,2,3,5", "b 0 0,2,3,5", "w2 1 0,2,3,5"},
     .attrs = {"n num_groups 2"},
     .approximate = true},
    {.name = "GroupNormalization of single channels",
     .opset = 18,
     .line = {"x f32[2,3,4,4]", "w1 !f32[6,3,1,1]", "s !f32[6]", "b !f32[6]", "w2 !f32[2,6,1,1]", "h = Conv x w1",
              "n = GroupNormalization h s b : num_groups=6", "y = Conv n w2"},
     .cut = "w1 0 4",
     .atoms = 6,
     .kept = {"w1 0 0,1,2,3,5", "s 0 0,1,2,3,5", "b 0 0,1,2,3,5", "w2 1 0,1,2,3,5"},
     .attrs = {"n num_groups 5"}},
    {.name = "LayerNormalization",
     .opset = 17,
     .line = {"x f32[2,3,4]", "w1 !f32[4,5]", "s !f32[5]", "b !f32[5]", "w2 !f32[5,2]", "h = MatMul x w1",
              "n = LayerNormalization h s b", "y = MatMul n w2"},
     .cut = "w1 1 0",
     .atoms = 5,
     .kept = {"w1 1 1,2,3,4", "s 0 1,2,3,4", "b 0 1,2,3,4", "w2 0 1,2,3,4"},
     .approximate = true},
    {.name = "LSTM, one direction, peepholes",
     .opset = 17,
     .line = {"x f32[4,2,3]", "w1 !f32[3,4]", "w !f32[1,12,4]", "r !f32[1,12,3]", "b !f32[1,24]", "h0 !f32[1,2,3]",
              "c0 !f32[1,2,3]", "p !f32[1,9]", "w2 !f32[3,2]", "e = MatMul x w1", "q = Tanh e",
              "s,-,- = LSTM q w r b none h0 c0 p : hidden_size=3 input_forget=1", "y = MatMul s w2"},
     .cut = "w 1 1",
     .atoms = 3,
     .kept = {"w 1 0,2,3,5,6,8,9,11", "r 1 0,2,3,5,6,8,9,11", "r 2 0,2", "b 1 0,2,3,5,6,8,9,11,12,14,15,17,18,20,21,23",
              "h0 2 0,2", "c0 2 0,2", "p 1 0,2,3,5,6,8", "w2 0 0,2"},
     .attrs = {"s hidden_size 2"}},
    {.name = "LSTM, its inputs",
     .opset = 17,
     .line = {"x f32[4,2,3]", "w1 !f32[3,4]", "w !f32[1,12,4]", "r !f32[1,12,3]", "w2 !f32[3,2]", "e = MatMul x w1",
              "q = Sigmoid e", "s,-,- = LSTM q w r", "y = MatMul s w2"},
     .cut = "w1 1 0",
     .atoms = 4,
     .kept = {"w1 1 1,2,3", "w 2 1,2,3"}},
    {.name = "LSTM, both directions: the same unit of both",
     .opset = 17,
     .line = {"x f32[4,2,3]", "w !f32[2,8,3]", "r !f32[2,8,2]", "b !f32[2,16]", "w2 !f32[4,2]",
              "s,-,- = LSTM x w r b : hidden_size=2 direction=bidirectional", "t = Transpose s : perm=0,2,1,3",
              "n !i64[3]=0,0,-1", "f = Reshape t n", "y = MatMul f w2"},
     .cut = "w 1 3",
     .atoms = 2,
     .kept = {"w 1 0,2,4,6", "r 1 0,2,4,6", "r 2 0", "b 1 0,2,4,6,8,10,12,14", "w2 0 0,2"},
     .attrs = {"s hidden_size 1"}},
    {.name = "GRU in reverse, the last state",
     .opset = 17,
     .line = {"x f32[4,2,3]", "w !f32[1,12,3]", "r !f32[1,12,4]", "b !f32[1,24]", "w2 !f32[4,2]",
              "s,h = GRU x w r b : hidden_size=4 direction=reverse linear_before_reset=1", "y = MatMul h w2"},
     .cut = "w 1 2",
     .atoms = 4,
     .kept = {"w 1 0,1,3,4,5,7,8,9,11", "r 1 0,1,3,4,5,7,8,9,11", "r 2 0,1,3",
              "b 1 0,1,3,4,5,7,8,9,11,12,13,15,16,17,19,20,21,23", "w2 0 0,1,3"},
     .attrs = {"s hidden_size 3"}},
    {.name = "com.microsoft Attention: whole heads",
     .opset = 17,
     .heads = true,
     .line = {"x f32[2,3,6]", "w !f32[6,20]", "b !f32[20]", "w2 !f32[4,6]",
              "a = ms.Attention x w b : num_heads=2 qkv_hidden_sizes=8,8,4", "y = MatMul a w2"},
     .cut = "w 1 0",
     .atoms = 2,
     .kept = {"w 1 4,5,6,7,12,13,14,15,18,19", "b 0 4,5,6,7,12,13,14,15,18,19", "w2 0 2,3"},
     .attrs = {"a num_heads 1", "a qkv_hidden_sizes 4,4,2"}},
    {.name = "MultiHeadAttention: whole heads",
     .opset = 17,
     .heads = true,
     .line = {"x f32[2,3,5]", "wq !f32[5,6]", "wk !f32[5,6]", "wv !f32[5,3]", "b !f32[15]", "add !f32[1,3,3,3]",
              "w2 !f32[3,5]", "q = MatMul x wq", "k = MatMul x wk", "v = MatMul x wv",
              "a = ms.MultiHeadAttention q k v b none add : num_heads=3", "y = MatMul a w2"},
     .cut = "wv 1 1",
     .atoms = 3,
     .kept = {"wq 1 0,1,4,5", "wk 1 0,1,4,5", "wv 1 0,2", "b 0 0,1,4,5,6,7,10,11,12,14", "add 1 0,2", "w2 0 0,2"},
     .attrs = {"a num_heads 2"}},
    {.name = "GroupQueryAttention: a key head with its query heads",
     .opset = 17,
     .heads = true,
     .line = {"x f32[1,3,5]", "wq !f32[5,32]", "wk !f32[5,16]", "wv !f32[5,16]", "len !i32[1]=2", "all !i32[]=3",
              "w2 !f32[32,4]", "sink !f32[4]", "q = MatMul x wq", "k = MatMul x wk", "v = MatMul x wv",
              "a,-,- = ms.GroupQueryAttention q k v none none len all none none none none sink : num_heads=4 "
              "kv_num_heads=2",
              "y = MatMul a w2"},
     .cut = "wk 1 8",
     .atoms = 2,
     .kept = {"wq 1 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "wk 1 0,1,2,3,4,5,6,7", "wv 1 0,1,2,3,4,5,6,7",
              "sink 0 0,1", "w2 0 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"},
     .attrs = {"a num_heads 2", "a kv_num_heads 1"}},
    {.name = "Attention in rows: a key head with its query heads",
     .opset = 23,
     .heads = true,
     .line = {"x f32[1,3,5]", "wq !f32[5,8]", "wk !f32[5,4]", "wv !f32[5,6]", "w2 !f32[12,4]", "q = MatMul x wq",
              "k = MatMul x wk", "v = MatMul x wv", "a = Attention q k v : q_num_heads=4 kv_num_heads=2",
              "y = MatMul a w2"},
     .cut = "wk 1 1",
     .atoms = 2,
     .kept = {"wq 1 4,5,6,7", "wk 1 2,3", "wv 1 3,4,5", "w2 0 6,7,8,9,10,11"},
     .attrs = {"a q_num_heads 2", "a kv_num_heads 1"}},
    {.name = "Attention with a causal mask of two axes, and one of heads before",
     .opset = 23,
     .heads = true,
     .line = {"x f32[1,3,5]", "wq !f32[5,8]", "wk !f32[5,8]", "wv !f32[5,8]", "m1 !f32[3,3]", "m2 !f32[4,3,3]",
              "w2 !f32[8,8]", "w3 !f32[8,4]", "q = MatMul x wq", "k = MatMul x wk", "v = MatMul x wv",
              "a = Attention q k v m2 : q_num_heads=4 kv_num_heads=4", "h = MatMul a w2",
              "b = Attention h h h m1 : q_num_heads=4 kv_num_heads=4", "y = MatMul b w3"},
     .cut = "wq 1 2",
     .atoms = 4,
     .kept = {"wq 1 0,1,4,5,6,7", "wk 1 0,1,4,5,6,7", "wv 1 0,1,4,5,6,7", "m2 0 0,2,3", "w2 0 0,1,4,5,6,7"},
     .attrs = {"a q_num_heads 3", "a kv_num_heads 3", "b q_num_heads 4"}},
    {.name = "Attention of one input with a mask of two axes",
     .opset = 23,
     .heads = true,
     .line = {"x f32[1,3,5]", "w !f32[5,8]", "m1 !f32[3,3]", "w3 !f32[8,4]", "h = MatMul x w",
              "b = Attention h h h m1 : q_num_heads=4 kv_num_heads=4 is_causal=1", "y = MatMul b w3"},
     .cut = "w 1 2",
     .atoms = 4,
     .kept = {"w 1 0,1,4,5,6,7", "w3 0 0,1,4,5,6,7"},
     .attrs = {"b q_num_heads 3", "b kv_num_heads 3"}},
    {.name = "Attention in stacks: places in every head keep the scale",
     .opset = 23,
     .line = {"x f32[1,3,5]",
              "wq !f32[5,8]",
              "wk !f32[5,8]",
              "wv !f32[5,6]",
              "w2 !f32[6,4]",
              "n !i64[4]=0,0,2,-1",
              "n2 !i64[3]=0,0,-1",
              "q0 = MatMul x wq",
              "q1 = Reshape q0 n",
              "q = Transpose q1 : perm=0,2,1,3",
              "k0 = MatMul x wk",
              "k1 = Reshape k0 n",
              "k = Transpose k1 : perm=0,2,1,3",
              "v0 = MatMul x wv",
              "v1 = Reshape v0 n",
              "v = Transpose v1 : perm=0,2,1,3",
              "a = Attention q k v",
              "o = Transpose a : perm=0,2,1,3",
              "f = Reshape o n2",
              "y = MatMul f w2"},
     .cut = "wq 1 2",
     .atoms = 4,
     .kept = {"wq 1 0,1,3,4,5,7", "wk 1 0,1,3,4,5,7"}},
    {.name = "Attention in stacks: whole heads",
     .opset = 23,
     .mode = GROUPS_OUTER,
     .heads = true,
     .line = {"x f32[1,3,5]",
              "wq !f32[5,8]",
              "wk !f32[5,8]",
              "wv !f32[5,6]",
              "w2 !f32[6,4]",
              "n !i64[4]=0,0,2,-1",
              "n2 !i64[3]=0,0,-1",
              "q0 = MatMul x wq",
              "q1 = Reshape q0 n",
              "q = Transpose q1 : perm=0,2,1,3",
              "k0 = MatMul x wk",
              "k1 = Reshape k0 n",
              "k = Transpose k1 : perm=0,2,1,3",
              "v0 = MatMul x wv",
              "v1 = Reshape v0 n",
              "v = Transpose v1 : perm=0,2,1,3",
              "a = Attention q k v",
              "o = Transpose a : perm=0,2,1,3",
              "f = Reshape o n2",
              "y = MatMul f w2"},
     .cut = "wq 1 2",
     .atoms = 2,
     .kept = {"wq 1 4,5,6,7", "wk 1 4,5,6,7", "wv 1 3,4,5", "w2 0 3,4,5", "n 0 0,1,2,3"}},
    {.name = "RotaryEmbedding: whole heads",
     .opset = 23,
     .heads = true,
     .line = {"x f32[2,4,5]", "w1 !f32[5,12]", "c !f32[9,2]", "s !f32[9,2]", "ids !i64[2,4]=0,1,2,3,5,6,7,8",
              "w2 !f32[12,3]", "h = MatMul x w1", "t = RotaryEmbedding h c s ids : num_heads=3", "y = MatMul t w2"},
     .cut = "w1 1 5",
     .atoms = 3,
     .kept = {"w1 1 0,1,2,3,8,9,10,11", "w2 0 0,1,2,3,8,9,10,11"},
     .attrs = {"t num_heads 2"}},
    {.name = "LinearAttention: a key head with its query heads",
     .opset = 27,
     .heads = true,
     .line = {"x f32[1,3,5]", "wq !f32[5,8]", "wk !f32[5,4]", "wv !f32[5,6]", "past !f32[1,2,2,3]", "w2 !f32[12,4]",
              "q = MatMul x wq", "k = MatMul x wk", "v = MatMul x wv",
              "a,- = LinearAttention q k v past : q_num_heads=4 kv_num_heads=2 update_rule=linear", "y = MatMul a w2"},
     .cut = "wk 1 1",
     .atoms = 2,
     .kept = {"wq 1 4,5,6,7", "wk 1 2,3", "wv 1 3,4,5", "past 1 1", "w2 0 6,7,8,9,10,11"},
     .attrs = {"a q_num_heads 2", "a kv_num_heads 1"}},
    {.name = "dequantized weights",
     .opset = 17,
     .line = {"x f32[2,3,4,4]", "w1 !i8[4,3,1,1]", "s1 !f32[4]=0.1,0.2,0.3,0.4", "z1 !i8[4]=0,0,0,0", "b1 !i32[4]",
              "sb !f32[4]=0.1,0.2,0.3,0.4", "w2 !i8[2,4,1,1]", "s2 !f32[]=0.05",
              "d1 = DequantizeLinear w1 s1 z1 : axis=0", "db = DequantizeLinear b1 sb : axis=0", "h = Conv x d1 db",
              "d2 = DequantizeLinear w2 s2", "y = Conv h d2"},
     .cut = "w1 0 1",
     .atoms = 4,
     .kept = {"w1 0 0,2,3", "s1 0 0,2,3", "z1 0 0,2,3", "b1 0 0,2,3", "sb 0 0,2,3", "w2 1 0,2,3"}},
    {.name = "a convolution that deforms: the same place in every offset group",
     .opset = 19,
     .line = {"x f32[1,3,5,5]", "w1 !f32[4,3,1,1]", "o !f32[1,16,4,4]", "wd !f32[3,4,2,2]", "b !f32[3]",
              "w2 !f32[2,3,1,1]", "h = Conv x w1", "d = DeformConv h wd o b : offset_group=2", "y = Conv d w2"},
     .cut = "w1 0 1",
     .atoms = 2,
     .kept = {"w1 0 0,2", "wd 1 0,2"},
     .attrs = {"d offset_group 2"}},
    {.name = "FusedConv with a sum",
     .opset = 17,
     .line = {"x f32[1,3,5,5]", "w1 !f32[4,3,1,1]", "b1 !f32[4]", "wz !f32[4,3,1,1]", "w2 !f32[2,4,1,1]",
              "z = Conv x wz", "h = ms.FusedConv x w1 b1 z : activation=Relu", "y = Conv h w2"},
     .cut = "wz 0 2",
     .atoms = 4,
     .kept = {"w1 0 0,1,3", "b1 0 0,1,3", "wz 0 0,1,3", "w2 1 0,1,3"}},
    {.name = "SkipLayerNormalization",
     .opset = 17,
     .line = {"x f32[2,3,4]", "w1 !f32[4,5]", "w3 !f32[4,5]", "g !f32[5]", "b !f32[5]", "c !f32[5]", "w2 !f32[5,2]",
              "w4 !f32[5,2]", "h = MatMul x w1", "k = MatMul x w3", "n,-,-,r = ms.SkipLayerNormalization h k g b c",
              "y1 = MatMul n w2", "y2 = MatMul r w4", "y = Add y1 y2"},
     .cut = "w3 1 4",
     .atoms = 5,
     .kept = {"w1 1 0,1,2,3", "w3 1 0,1,2,3", "g 0 0,1,2,3", "b 0 0,1,2,3", "c 0 0,1,2,3", "w2 0 0,1,2,3",
              "w4 0 0,1,2,3"},
     .approximate = true},
    {.name = "CausalConvWithState",
     .opset = 27,
     .line = {"x f32[1,3,6]", "w1 !f32[4,3,1]", "w !f32[4,1,3]", "b !f32[4]", "s !f32[1,4,2]", "w2 !f32[2,4,1]",
              "h = Conv x w1", "c,- = CausalConvWithState h w b s : activation=silu", "y = Conv c w2"},
     .cut = "w1 0 0",
     .atoms = 4,
     .kept = {"w1 0 1,2,3", "w 0 1,2,3", "b 0 1,2,3", "s 1 1,2,3", "w2 1 1,2,3"}},
    {.name = "GroupQueryAttention, packed",
     .opset = 17,
     .heads = true,
     .line = {"x f32[1,3,5]", "w !f32[5,64]", "len !i32[1]=2", "all !i32[]=3", "w2 !f32[32,4]", "q = MatMul x w",
              "a,-,- = ms.GroupQueryAttention q none none none none len all : num_heads=4 kv_num_heads=2",
              "y = MatMul a w2"},
     .cut = "w 1 8",
     .atoms = 2,
     .kept = {"w 1 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,40,41,42,43,44,45,46,47,56,57,58,59,60,61,62,63",
              "w2 0 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"},
     .attrs = {"a num_heads 2", "a kv_num_heads 1"}},
    {.name = "MultiHeadAttention, packed",
     .opset = 17,
     .heads = true,
     .line = {"x f32[2,3,5]", "w !f32[5,12]", "n !i64[5]=0,0,2,3,-1", "w2 !f32[4,5]", "q = MatMul x w",
              "r = Reshape q n", "a = ms.MultiHeadAttention r : num_heads=2", "y = MatMul a w2"},
     .cut = "w 1 3",
     .atoms = 2,
     .kept = {"w 1 6,7,8,9,10,11", "w2 0 2,3"},
     .attrs = {"a num_heads 1"}},
    {.name = "packed weights: rows go",
     .opset = 17,
     .line = {"x f32[2,32]", "w !u8[6,2,8]", "s !f32[12]", "z !u8[6]", "b !f32[6]", "w2 !f32[6,3]",
              "h = ms.MatMulNBits x w s z none b : K=32 N=6 block_size=16", "r = Relu h", "y = MatMul r w2"},
     .cut = "w 0 2",
     .atoms = 6,
     .kept = {"w 0 0,1,3,4,5", "s 0 0,1,2,3,6,7,8,9,10,11", "z 0 0,1,3,4,5", "b 0 0,1,3,4,5", "w2 0 0,1,3,4,5"},
     .attrs = {"h N 5"}},
    {.name = "quantized activations between products",
     .opset = 21,
     .line = {"x f32[2,3,4,4]", "w1 !f32[4,3,1,1]", "s !f32[4]=0.05,0.1,0.02,0.04", "z !i8[4]=1,2,3,4",
              "w2 !f32[2,4,1,1]", "h = Conv x w1", "q = QuantizeLinear h s z : axis=1",
              "d = DequantizeLinear q s z : axis=1", "y = Conv d w2"},
     .cut = "w1 0 2",
     .atoms = 4,
     .kept = {"w1 0 0,1,3", "s 0 0,1,3", "z 0 0,1,3", "w2 1 0,1,3"}},
    {.name = "8-bit convolutions",
     .opset = 17,
     .line = {"x f32[1,3,4,4]", "sx !f32[]=0.02", "zx !u8[]=120", "w1 !i8[4,3,3,3]", "s1 !f32[4]=0.02,0.03,0.04,0.05",
              "z1 !i8[4]=0,0,0,0", "b1 !i32[4]", "sh !f32[]=0.02", "zh !u8[]=10", "w2 !i8[2,4,1,1]", "s2 !f32[]=0.04",
              "z2 !i8[]=0", "sy !f32[]=0.02", "zy !u8[]=100", "q = QuantizeLinear x sx zx",
              "h = QLinearConv q sx zx w1 s1 z1 sh zh b1 : pads=1,1,1,1", "g = QLinearConv h sh zh w2 s2 z2 sy zy",
              "y = DequantizeLinear g sy zy"},
     .cut = "w1 0 1",
     .atoms = 4,
     .kept = {"w1 0 0,2,3", "s1 0 0,2,3", "z1 0 0,2,3", "b1 0 0,2,3", "w2 1 0,2,3"}},
    {.name = "an embedding and its normalization",
     .opset = 17,
     .line = {"x f32[2,3]", "words !f32[9,4]", "places !f32[3,4]", "s !f32[4]", "b !f32[4]", "w2 !f32[4,3]",
              "i = Cast x : to=6", "e = ms.EmbedLayerNormalization i none words places none s b", "y = MatMul e w2"},
     .cut = "words 1 1",
     .atoms = 4,
     .kept = {"words 1 0,2,3", "places 1 0,2,3", "s 0 0,2,3", "b 0 0,2,3", "w2 0 0,2,3"},
     .approximate = true},
};

/* What cannot go, and why: `reason` stands in the sentence of the group that makes weight's axis. */
static const struct {
    int opset;
    const char *line[MAX_LINES], *weight, *reason;
    int axis;
} frozen[] = {
    {17,
     {"x f32[2,4]", "w1 !f32[4,32]", "w !u8[6,2,8]", "s !f32[12]", "h = MatMul x w1",
      "y = ms.MatMulNBits h w s : K=32 N=6 block_size=16"},
     "w1",
     "the weight that sums over it is packed in blocks",
     1},
    {17,
     {"x f32[2,32]", "w !u8[96]", "s !f32[12]", "w2 !f32[6,2]",
      "h = ms.MatMulBnb4 x w s : K=32 N=6 block_size=16 quant_type=1", "y = MatMul h w2"},
     "w",
     "packed in blocks",
     0},
    {17,
     {"x f32[2,3]", "w !u4[5,32]", "s !f32[5,2]", "w2 !f32[32,2]", "i = Cast x : to=7",
      "h = ms.GatherBlockQuantized w i s : block_size=16", "y = MatMul h w2"},
     "w",
     "packed in blocks",
     1},
    {21,
     {"x f32[2,4]", "w !i8[4,6]", "s !f32[4,3]", "w2 !f32[6,2]", "d = DequantizeLinear w s : axis=1 block_size=2",
      "h = MatMul x d", "y = MatMul h w2"},
     "w",
     "its scales stand for blocks of this axis",
     1},
    {17,
     {"x f32[2,3,4]", "w !f32[4,5]", "h = MatMul x w", "y = Einsum h : equation=btc->bt"},
     "w",
     "all of it is summed up, without a weight",
     1},
    {17,
     {"x f32[2,3,4]", "w !f32[4,5]", "k !f32[5]", "h = MatMul x w", "r = Softmax h", "y = MatMul r k"},
     "w",
     "a softmax goes over it",
     1},
};

/* ---- building ---- */
static void declare(struct model *m, const char *name, const char *text)
{
    struct tensor t = {0};
    struct err err = {0};
    struct rng rng;
    uint64_t seed = 5;
    for (const char *p = name; *p; p++)
        seed = seed * 131 + (unsigned char)*p;
    rng_init(&rng, seed, 0);
    if (op_case_tensor(text + (*text == '!'), &rng, &t, &err))
        fail_msg("%s", err.msg);
    if (*text == '!')
        model_add_weight(m, 0, name, &t);
    else
        g_input(m, name, t.shape);
    tensor_fini(&t);
}

static int values_of(struct model *m, char *words, uint32_t *ids, const char *gap)
{
    char *save = NULL;
    int n = 0;
    for (char *w = strtok_r(words, gap, &save); w; w = strtok_r(NULL, gap, &save)) {
        assert_in_range(n, 0, OP_CASE_INPUTS - 1);
        const bool none = !strcmp(w, "none") || !strcmp(w, "-");
        ids[n++] = none ? VALUE_NONE : *gap == ',' ? model_add_value(m, 0, w, false) : g_value(m, w);
    }
    return n;
}

/* "y,z = Op a b : attr=1"; the first output's id. */
static uint32_t add_node(struct model *m, char *line)
{
    char *attrs = strstr(line, " : "), *type = strstr(line, " = ");
    uint32_t in[OP_CASE_INPUTS], out[OP_CASE_INPUTS];
    struct op_case c = {.m = m};
    struct err err = {0};
    if (attrs) {
        *attrs = 0;
        attrs += 3;
    }
    *type = 0;
    type += 3;
    char *rest = strchr(type, ' ');
    *rest++ = 0;
    const bool ms = !strncmp(type, "ms.", 3);
    const char *name = model_printf(m, "%.*s", (int)strcspn(line, ","), line);
    const int n_in = values_of(m, rest, in, " "), n_out = values_of(m, line, out, ",");
    const char *domain = ms ? "com.microsoft" : "";
    c.node = model_add_node(m, 0, type + (ms ? 3 : 0), domain, name, in, n_in, out, n_out);
    const struct op_class *op = op_find(type + (ms ? 3 : 0), domain, model_opset(m, domain));
    if (!op || op_case_attrs(&c, op, attrs, &err))
        fail_msg("%s: %s", type, op ? err.msg : "no such operator");
    return out[0];
}

static struct model *build(int opset, const char *const *lines)
{
    struct model *m = g_new(opset);
    struct err err = {0};
    uint32_t last = VALUE_NONE;
    model_set_opset(m, "com.microsoft", 1);
    for (int i = 0; i < MAX_LINES && lines[i]; i++) {
        char *line = strdup(lines[i]), *gap = strchr(line, ' ');
        if (strstr(line, " = ")) {
            last = add_node(m, line);
        } else {
            *gap = 0;
            declare(m, line, gap + 1);
        }
        free(line);
    }
    g_output(m, last);
    struct warnings *warnings = warnings_new();
    if (groups_prepare(m, warnings, &err))
        fail_msg("%s: %s", lines[0], err.msg);
    warnings_free(warnings);
    return m;
}

/* ---- what stays, said by hand ---- */
static bool listed(const char *list, int64_t i)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strtoll(at, NULL, 10) == i)
            return true;
    return false;
}

/* The list of axis `axis` of weight `name` in the row; NULL: all stays. */
static const char *kept_list(const struct net *net, const char *name, int axis)
{
    for (int i = 0; i < MAX_LINES && net->kept[i]; i++) {
        const size_t len = strcspn(net->kept[i], " ");
        if (strlen(name) == len && !strncmp(name, net->kept[i], len) && atoi(net->kept[i] + len) == axis)
            return strchr(net->kept[i] + len + 1, ' ') + 1;
    }
    return NULL;
}

static void check_weight(const struct net *net, const struct tensor *before, const struct tensor *after,
                         const char *name)
{
    int64_t at = 0;
    for (int64_t i = 0; i < tensor_count(before); i++) {
        bool stays = true;
        int64_t rest = i;
        for (int a = before->shape.rank - 1; a >= 0; a--) {
            const char *list = kept_list(net, name, a);
            stays = stays && (!list || listed(list, rest % before->shape.dim[a]));
            rest /= before->shape.dim[a];
        }
        if (!stays)
            continue;
        if (at >= tensor_count(after) ||
            dtype_get(before->dtype, before->data, i) != dtype_get(after->dtype, after->data, at++))
            fail_msg("%s: weight %s is not what is left of it", net->name, name);
    }
    if (at != tensor_count(after))
        fail_msg("%s: weight %s has %d elements, expected %d", net->name, name, (int)tensor_count(after), (int)at);
}

static void check_attr(const struct net *net, const struct model *m, const char *text)
{
    char value[16], attr[32], want[64];
    assert_int_equal(sscanf(text, "%15s %31s %63s", value, attr, want), 3);
    const struct attr *a = node_attr(g_made(m, value), attr);
    const char *at = want;
    for (int i = 0; a && i < a->count; i++, at += strcspn(at, ",") + 1)
        if (a->ints[i] != strtoll(at, NULL, 10))
            fail_msg("%s: %s is %d, expected %s", net->name, text, (int)a->ints[i], want);
    if (!a)
        fail_msg("%s: %s: there is no such attribute", net->name, text);
}

/* ---- cutting ---- */
struct choice {
    const struct groups *groups;
    bool **gone;
};

static struct choice choice_new(const struct groups *g)
{
    struct choice c = {g, calloc((size_t)g->n + 1, sizeof *c.gone)};
    for (int i = 0; i < g->n; i++)
        c.gone[i] = g->at[i].n ? calloc((size_t)g->at[i].n, sizeof(bool)) : NULL;
    return c;
}

static void choice_free(struct choice *c)
{
    for (int i = 0; i < c->groups->n; i++)
        free(c->gone[i]);
    free(c->gone);
}

static struct model *cut(const struct net *net, const struct model *m, const struct choice *c)
{
    struct err err = {0};
    struct model *small = model_clone(m, &err);
    if (!small || groups_remove(c->groups, small, (const bool *const *)c->gone, &err) || model_validate(small, &err))
        fail_msg("%s: %s", net->name, err.msg);
    return small;
}

/* Element `i` of axis of the weight: its group and atom. */
static void find_atom(const struct net *net, const struct model *m, const struct groups *g, const char *name, int axis,
                      int64_t i, int *group, int *atom)
{
    const uint32_t v = g_value(m, name);
    for (*group = 0; *group < g->n; (*group)++)
        for (int k = 0; k < g->at[*group].n_members; k++) {
            const struct group_member *member = &g->at[*group].member[k];
            if (member->value != v || member->axis != axis || i >= member->size)
                continue;
            *atom = member->atom[i];
            if (*atom != ATOM_NONE)
                return;
        }
    for (int k = 0; k < g->n; k++)
        print_error("group %s: %d atoms, %s\n", g->at[k].name, (int)g->at[k].n,
                    g->at[k].frozen ? g->at[k].frozen : "free");
    fail_msg("%s: element %d of axis %d of %s cannot go", net->name, (int)i, axis, name);
}

static void check_by_hand(const struct net *net, const struct model *m, const struct groups *g)
{
    char name[16], list[64];
    int axis, group = 0, atom = 0;
    struct choice c = choice_new(g);
    assert_int_equal(sscanf(net->cut, "%15s %d %63s", name, &axis, list), 3);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        find_atom(net, m, g, name, axis, atoi(at), &group, &atom);
        c.gone[group][atom] = true;
        if (g->at[group].n != net->atoms || (g->at[group].approximate != NULL) != net->approximate)
            fail_msg("%s: %d atoms, %s; expected %d", net->name, (int)g->at[group].n,
                     g->at[group].approximate ? g->at[group].approximate : "exact", net->atoms);
        if ((g->at[group].through && !strcmp(g->at[group].through, "heads")) != net->heads)
            fail_msg("%s: its atoms are %s", net->name, g->at[group].through ? g->at[group].through : "no heads");
    }
    struct model *small = cut(net, m, &c);
    for (int i = 0; i < MAX_LINES && net->line[i]; i++) {
        const size_t len = strcspn(net->line[i], " ");
        char weight[32];
        snprintf(weight, sizeof weight, "%.*s", (int)len, net->line[i]);
        if (net->line[i][len + 1] != '!' || model_find_value(small, 0, weight) == VALUE_NONE)
            continue;
        check_weight(net, value_const(m, g_value(m, weight)), value_const(small, g_value(small, weight)), weight);
    }
    for (int i = 0; i < 6 && net->attrs[i]; i++)
        check_attr(net, small, net->attrs[i]);
    model_free(small);
    choice_free(&c);
}

/* ---- by value ---- */
static void zero_member(struct model *m, const struct group_member *member, int atom)
{
    const struct tensor *t = value_const(m, member->value);
    const int64_t inner = shape_product(&t->shape, member->axis + 1, t->shape.rank);
    struct tensor zeroed = {0};
    assert_int_equal(tensor_copy(&zeroed, t, NULL), 0);
    for (int64_t i = 0; i < tensor_count(t); i++)
        if (member->atom[i / inner % member->size] == atom)
            dtype_set(zeroed.dtype, zeroed.data, i, 0);
    assert_int_equal(value_set_weight(m, member->value, &zeroed), 0);
    tensor_fini(&zeroed);
}

static struct model *zeroed(const struct model *m, const struct group *g, int atom)
{
    struct model *z = model_clone(m, NULL);
    bool consumed = false;
    assert_non_null(z);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < g->n_members && !(pass && consumed); i++) {
            const struct group_member *member = &g->member[i];
            bool touched = false;
            for (int64_t e = 0; e < member->size; e++)
                touched = touched || member->atom[e] == atom;
            if (!member->constant || !touched || (!pass && member->role != COUPLE_CONSUMES))
                continue;
            consumed = consumed || !pass;
            zero_member(z, member, atom);
        }
    return z;
}

static void check_by_value(const struct net *net, const struct model *m, const struct groups *g, int *compared)
{
    struct tensor x = {0};
    g_fill(&x, m->values[model_main(m)->inputs[0].value].type.shape, 3, 1);
    for (int i = 0; i < g->n; i++)
        for (int atom = 0; g->at[i].n > 1 && atom < g->at[i].n && !g->at[i].approximate; atom++) {
            struct choice c = choice_new(g);
            c.gone[i][atom] = true;
            struct model *small = cut(net, m, &c), *want = zeroed(m, &g->at[i], atom);
            const double error = g_error(want, small, &x, 0);
            if (!(error <= 1e-5))
                fail_msg("%s: without atom %d of %s the output is off by %g", net->name, atom, g->at[i].name, error);
            (*compared)++;
            model_free(small);
            model_free(want);
            choice_free(&c);
        }
    tensor_fini(&x);
}

static void test_networks(void **state)
{
    (void)state;
    int compared = 0;
    for (size_t i = 0; i < sizeof nets / sizeof nets[0]; i++) {
        struct err err = {0};
        struct model *m = build(nets[i].opset, nets[i].line);
        struct groups *g = groups_find(m, nets[i].mode, &err);
        if (!g)
            fail_msg("%s: %s", nets[i].name, err.msg);
        check_by_hand(&nets[i], m, g);
        check_by_value(&nets[i], m, g, &compared);
        groups_free(g);
        model_free(m);
    }
    assert_true(compared > 100);
}

static void test_frozen(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof frozen / sizeof frozen[0]; i++) {
        struct err err = {0};
        struct model *m = build(frozen[i].opset, frozen[i].line);
        struct groups *g = groups_find(m, GROUPS_INNER, &err);
        bool found = false;
        assert_non_null(g);
        for (int k = 0; k < g->n; k++)
            for (int j = 0; j < g->at[k].n_members; j++) {
                const struct group_member *member = &g->at[k].member[j];
                if (member->value != g_value(m, frozen[i].weight) || member->axis != frozen[i].axis)
                    continue;
                found = g->at[k].n == 0 && g->at[k].frozen && strstr(g->at[k].frozen, frozen[i].reason);
                if (!found)
                    fail_msg("case %d: %d atoms, %s", (int)i, (int)g->at[k].n,
                             g->at[k].frozen ? g->at[k].frozen : "free");
            }
        if (!found)
            fail_msg("case %d: %s is in no group", (int)i, frozen[i].weight);
        groups_free(g);
        model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_networks), cmocka_unit_test(test_frozen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
