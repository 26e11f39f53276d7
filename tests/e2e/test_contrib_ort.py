# SPDX-License-Identifier: Apache-2.0
"""com.microsoft operators in the forms that an operator's samples cannot say, against ONNX Runtime's CPU kernels: a list of
one-node models with seeded inputs, run by both (pared plain and optimized, tests/tools/run_cases.c). What no CPU kernel of ONNX
Runtime has is compared with the contrib documentation's formula in numpy."""
import itertools
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_cases

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(7)


def f32(*shape):
    return RNG.uniform(-2, 2, shape).astype(np.float32)


def u8(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def i32(*shape, high=2):
    return RNG.integers(0, high, shape).astype(np.int32)


class Case:
    """op, inputs in order (None: absent), attributes; weights: indices that are initializers; formula: instead of ONNX Runtime;
    rows: (output, function) that picks what is defined of an output."""

    def __init__(self, op, inputs, outputs=1, weights=(), formula=None, pick=None, tolerance=1e-4, **attrs):
        self.op, self.inputs, self.outputs, self.weights = op, inputs, outputs, weights
        self.attrs, self.formula, self.pick, self.tolerance = attrs, formula, pick, tolerance

    def model(self):
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        node = helper.make_node(self.op, names, [f"y{i}" for i in range(self.outputs)], "node", domain="com.microsoft", **self.attrs)
        fed = [i for i, x in enumerate(self.inputs) if x is not None and i not in self.weights]
        info = [helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(self.inputs[i].dtype), self.inputs[i].shape) for i in fed]
        out = [helper.make_tensor_value_info(f"y{i}", self.out_type(i), None) for i in range(self.outputs)]
        init = [numpy_helper.from_array(self.inputs[i], f"x{i}") for i in self.weights]
        graph = helper.make_graph([node], "g", info, out, init)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8), fed

    def out_type(self, i):
        if self.op == "EmbedLayerNormalization" and i == 1:
            return TensorProto.INT32
        return helper.np_dtype_to_tensor_dtype(next(x for x in self.inputs if x is not None and x.dtype.kind == "f").dtype)

    def __repr__(self):
        shapes = " ".join("-" if x is None else "x".join(map(str, x.shape)) or "scalar" for x in self.inputs)
        return f"{self.op} {shapes} {self.attrs}"


def nbits():
    for bits, block, m, k, n in [(4, 16, 1, 16, 1), (4, 32, 3, 70, 20), (4, 64, 5, 200, 33), (4, 128, 1, 300, 64), (4, 256, 4, 512, 17),
                                 (8, 16, 3, 40, 6), (8, 32, 1, 64, 40), (8, 128, 7, 256, 9), (2, 16, 3, 48, 7), (2, 32, 1, 100, 18), (2, 64, 4, 128, 5)]:
        blocks, blob = -(-k // block), block * bits // 8
        packed = -(-blocks * bits // 8)
        for zero, bias in itertools.product((None, u8(n, packed), RNG.integers(0, 1 << bits, (n, blocks)).astype(np.float32)), (False, True)):
            inputs = [f32(m, k), u8(n, blocks, blob), f32(n, blocks), zero, None, f32(n) if bias else None]
            while inputs[-1] is None:
                inputs.pop()
            yield Case("MatMulNBits", inputs, weights=[i for i in range(1, len(inputs)) if inputs[i] is not None], K=k, N=n, bits=bits, block_size=block)
    yield Case("MatMulNBits", [f32(2, 3, 32), u8(4, 2, 8), f32(8), u8(4)], weights=[1, 2, 3], K=32, N=4, bits=4, block_size=16)
    yield Case("MatMulNBits", [f32(2, 3, 32).astype(np.float16), u8(4, 2, 8), f32(4, 2).astype(np.float16)], weights=[1, 2], tolerance=1e-2, K=32, N=4, bits=4, block_size=16)


def attention():
    b, s, d, heads = 2, 4, 8, 2
    base = [f32(b, s, d), f32(d, 3 * d), f32(3 * d)]
    masks = [None, np.array([4, 2], np.int32), np.array([4, 3, 1, 0], np.int32), i32(b, s), i32(b, s, s), np.zeros((b, s), np.int32)]
    for mask, causal in itertools.product(masks, (0, 1)):
        yield Case("Attention", base + [mask], num_heads=heads, unidirectional=causal)
    for past, causal in itertools.product((1, 5), (0, 1)):
        for mask in (None, i32(b, s + past), i32(b, s, s + past)):
            yield Case("Attention", base + [mask, f32(2, b, heads, past, d // heads)], outputs=2, num_heads=heads, unidirectional=causal)
    for shape in ((b, heads, s, s), (1, heads, s, s), (b, 1, s, s), (1, 1, s, s)):
        yield Case("Attention", base + [None, None, f32(*shape)], num_heads=heads, scale=0.25)
        yield Case("Attention", base + [i32(b, s), None, f32(*shape)], num_heads=heads, unidirectional=1, mask_filter_value=-7.5)
    yield Case("Attention", [f32(1, 70, d), f32(d, 3 * d), f32(3 * d)], num_heads=4, unidirectional=1)
    yield Case("Attention", [f32(1, 3, d), f32(d, 8 + 8 + 6), f32(22)], num_heads=2, qkv_hidden_sizes=[8, 8, 6])


def multi_head():
    b, s, l, h, heads = 2, 3, 5, 8, 2
    q, k, v = f32(b, s, h), f32(b, l, h), f32(b, l, 4)
    some, each = i32(b, l), i32(b, s, l)
    some[..., 0] = each[..., 0] = 1  # of a row of nothing but -10000 only rounding remains
    for bias, mask, add, causal in itertools.product((None, f32(2 * h + 4)), (None, np.array([5, 2], np.int32), some, each),
                                                     (None, f32(1, heads, s, l), f32(b, 1, s, l)), (0, 1)):
        if not causal:
            yield Case("MultiHeadAttention", [q, k, v, bias, mask, add], num_heads=heads)
        elif mask is None or mask.ndim < 3:  # causal with as many queries as keys: ONNX Runtime lets the last query see every key
            yield Case("MultiHeadAttention", [f32(b, l, h), k, v, bias, mask, None if add is None else f32(1, heads, l, l)], num_heads=heads, unidirectional=1)
    v = f32(b, l, h)
    for past, outputs in ((0, 1), (0, 3), (1, 3), (6, 3)):  # ONNX Runtime reads a past only when present is asked for too
        cache = [f32(b, heads, past, h // heads), f32(b, heads, past, h // heads)] if past else []
        for mask in (None, i32(b, l + past)):
            yield Case("MultiHeadAttention", [q, k, v, f32(3 * h), mask, None] + cache, outputs=outputs, num_heads=heads)
    yield Case("MultiHeadAttention", [q, k, v, None, None, None, f32(b, heads, 2, 4), f32(b, heads, 2, 4)], outputs=4, num_heads=heads)
    yield Case("MultiHeadAttention", [q, f32(b, heads, l, 4), f32(b, heads, l, 4)], num_heads=heads)
    yield Case("MultiHeadAttention", [q, f32(b, heads, l, 4), f32(b, heads, l, 4), f32(3 * h), i32(b, l)], num_heads=heads)
    packed = f32(b, s, heads, 3, 4)
    yield Case("MultiHeadAttention", [packed], num_heads=heads, formula=lambda x, **_: softmax_attention(*[x[:, :, :, i] for i in range(3)]))
    kv = f32(b, l, heads, 2, 4)
    yield Case("MultiHeadAttention", [q, kv], num_heads=heads, formula=lambda x, y, **_: softmax_attention(x.reshape(b, s, heads, 4), y[:, :, :, 0], y[:, :, :, 1]))


def softmax_attention(q, k, v):
    """[B, S, N, H]"""
    scores = np.einsum("bsnh,blnh->bnsl", q, k) / math.sqrt(q.shape[-1])
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return [np.einsum("bnsl,blnh->bsnh", e / e.sum(-1, keepdims=True), v).reshape(q.shape[0], q.shape[1], -1).astype(np.float32)]


def group_query():
    heads, kv, w = 4, 2, 16
    cos, sin = f32(20, w // 2), f32(20, w // 2)
    lengths = lambda *n: np.array(n, np.int32)
    for b, s, rotary, packed, inter in itertools.product((1, 2), (1, 5), (0, 1), (0, 1), (0, 1)):
        qkv = [f32(b, s, (heads + 2 * kv) * w), None, None] if packed else [f32(b, s, heads * w), f32(b, s, kv * w), f32(b, s, kv * w)]
        tail = [cos, sin] if rotary else []
        yield Case("GroupQueryAttention", qkv + [None, None, lengths(*[s - 1] * b), np.int32(s).reshape(())] + tail, outputs=3,
                   num_heads=heads, kv_num_heads=kv, do_rotary=rotary, rotary_interleaved=inter)
    step = lambda b, s: [f32(b, s, heads * w), f32(b, s, kv * w), f32(b, s, kv * w)]
    cache = lambda b, n: [f32(b, kv, n, w), f32(b, kv, n, w)]
    for extra in ({}, {"local_window_size": 1}, {"local_window_size": 3}, {"softcap": 2.0}, {"smooth_softmax": 1}, {"scale": 0.5}, {"causal": 0}):
        yield Case("GroupQueryAttention", step(2, 1) + cache(2, 6) + [lengths(6, 6), np.int32(7).reshape(())], outputs=3, num_heads=heads, kv_num_heads=kv, **extra)
        yield Case("GroupQueryAttention", step(2, 1) + cache(2, 6) + [lengths(5, 3), np.int32(6).reshape(()), cos, sin], outputs=3, num_heads=heads, kv_num_heads=kv, do_rotary=1,
                   pick={1: lambda y: [y[0, :, :6], y[1, :, :4]], 2: lambda y: [y[0, :, :6], y[1, :, :4]]}, **extra)
        yield Case("GroupQueryAttention", step(1, 3) + cache(1, 4) + [lengths(6), np.int32(7).reshape(()), cos, sin], outputs=3, num_heads=heads, kv_num_heads=kv, do_rotary=1, **extra)
        yield Case("GroupQueryAttention", step(2, 6) + [None, None, lengths(5, 5), np.int32(6).reshape(())], outputs=3, num_heads=heads, kv_num_heads=kv, **extra)
    yield Case("GroupQueryAttention", step(2, 6) + [None, None, lengths(5, 3), np.int32(6).reshape(())], outputs=3, num_heads=heads, kv_num_heads=kv,
               pick={0: lambda y: [y[0], y[1, :4]], 1: lambda y: [y[0], y[1, :, :4]], 2: lambda y: [y[0], y[1, :, :4]]})
    ids = np.array([[3, 4, 5], [7, 8, 9]], np.int64)
    yield Case("GroupQueryAttention", step(2, 3) + [None, None, lengths(2, 2), np.int32(3).reshape(()), cos, sin, ids], outputs=3, num_heads=heads, kv_num_heads=kv, do_rotary=1)
    for shape in ((1, 1), (2, heads), (1, heads), (2, 1)):
        yield Case("GroupQueryAttention", step(2, 3) + [None, None, lengths(2, 2), np.int32(3).reshape(()), None, None, None, f32(*shape, 3, 3)], outputs=3, num_heads=heads, kv_num_heads=kv)
    yield Case("GroupQueryAttention", step(2, 3) + [None, None, lengths(2, 2), np.int32(3).reshape(()), None, None, None, None, f32(heads)], outputs=3, num_heads=heads, kv_num_heads=kv)
    for mode in (1, 2):
        yield Case("GroupQueryAttention", step(1, 3) + [None, None, lengths(2), np.int32(3).reshape(())], outputs=4, num_heads=heads, kv_num_heads=kv, qk_output=mode, softcap=1.5,
                   pick={3: lambda y: [np.tril(np.where(np.isfinite(y) & (y > -1e30), y, 0))]})


def rotary():
    for inter in (0, 1):
        yield Case("RotaryEmbedding", [f32(2, 3, 24), np.array([2], np.int64), f32(7, 4), f32(7, 4)], interleaved=inter)
        yield Case("RotaryEmbedding", [f32(2, 3, 5, 8), np.array([[0, 1, 2, 3, 4], [6, 5, 4, 3, 2]], np.int64), f32(7, 4), f32(7, 4)], interleaved=inter)
        yield Case("RotaryEmbedding", [f32(2, 3, 24), np.array([0], np.int64), f32(7, 2), f32(7, 2)], interleaved=inter, num_heads=3, rotary_embedding_dim=4)
        yield Case("RotaryEmbedding", [f32(2, 3, 5, 8), np.array([1], np.int64), f32(7, 2), f32(7, 2)], interleaved=inter, num_heads=3, rotary_embedding_dim=4)
        yield Case("RotaryEmbedding", [f32(1, 3, 24).astype(np.float16), np.array([2], np.int64), f32(7, 4).astype(np.float16), f32(7, 4).astype(np.float16)], interleaved=inter, tolerance=1e-2)


def gather():
    for bits, n in ((2, 4), (4, 2), (8, 1)):
        for zero in (False, True):
            data, scales = u8(7, 48 // n), f32(7, 3)
            zeros = [u8(7, -(-3 // n))] if zero else []
            for ids in (np.array([0, 6, -1], np.int64), np.array([[1, 2], [3, -7]], np.int32), np.array(4, np.int64), np.array([9, 0], np.int64)):
                yield Case("GatherBlockQuantized", [data, ids, scales] + zeros, weights=[0, 2] + [3] * zero, bits=bits, block_size=16)
    yield Case("GatherBlockQuantized", [u8(5, 3, 20), np.array([0, 4], np.int64), f32(5, 3, 3)], weights=[0, 2], bits=4, block_size=16, quantize_axis=2)
    yield Case("GatherBlockQuantized", [u8(5, 33, 4), np.array([0, 4], np.int64), f32(5, 3, 8), u8(5, 3, 4)], weights=[0, 2, 3], bits=4, block_size=16, quantize_axis=1)


def bnb4_by_formula(n, k, block, quant):
    fp4 = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
    nf4 = [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
    table = np.array(nf4 if quant else fp4 + [-x for x in fp4], np.float32)

    def formula(a, codes, scale):
        w = np.stack([codes >> 4, codes & 15], -1).ravel()
        return [a @ (table[w] * np.repeat(scale, block)[:n * k]).reshape(n, k)]

    return formula


def products():
    for quant, block, trans in itertools.product((0, 1), (16, 64), (0, 1)):
        n, k = 6, 40
        a = f32(3, k if trans else n)
        inputs = [a, u8(n * k // 2), f32(-(-n * k // block))]
        yield Case("MatMulBnb4", inputs, weights=[1, 2], K=k, N=n, block_size=block, quant_type=quant, transB=trans,
                   formula=None if trans else bnb4_by_formula(n, k, block, quant))  # transB 0: not in ONNX Runtime's CPU kernel
    for ta, tb, ba, bb in itertools.product((0, 1), repeat=4):
        a, b = [(2, 3), (4, 5)], [(2, 3), (5, 6)]

        def stored(batch, rows, cols, trans, first):
            rows, cols = (cols, rows) if trans else (rows, cols)
            return (rows, *batch, cols) if first else (*batch, rows, cols)

        yield Case("FusedMatMul", [f32(*stored(a[0], *a[1], ta, ba)), f32(*stored(b[0], *b[1], tb, bb))], transA=ta, transB=tb, transBatchA=ba, transBatchB=bb, alpha=0.5)


CASES = [c for maker in (nbits, attention, multi_head, group_query, rotary, gather, products) for c in maker()]


def outputs(folder, kind):
    found = []
    while (path := folder / f"{kind}_{len(found)}.pb").exists():
        found.append(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("contrib")
    for n, case in enumerate(CASES):
        folder = root / str(n)
        folder.mkdir()
        model, fed = case.model()
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        for k, i in enumerate(fed):
            (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(case.inputs[i])).SerializeToString())
    tool = ROOT / "build/tools/run_cases"
    assert tool.exists(), "build it first: make tools"
    subprocess.run([tool, root], check=True, timeout=300)
    ort_cases.run_all(root)
    yield root
    shutil.rmtree(root)


def faults(case, want, got):
    if len(want) != len(got):
        yield f"{len(got)} outputs, expected {len(want)}"
    for i, (w, g) in enumerate(zip(want, got)):
        if w.shape != g.shape or w.dtype != g.dtype:
            yield f"output {i} is {g.dtype}{g.shape}, expected {w.dtype}{w.shape}"
            continue
        pick = (case.pick or {}).get(i, lambda y: [y])
        for a, b in zip(pick(w), pick(g)):
            a, b = a.astype(np.float64), b.astype(np.float64)
            scale = np.max(np.abs(a[np.isfinite(a)]), initial=1e-6)
            if not np.allclose(a, b, rtol=case.tolerance, atol=case.tolerance * scale, equal_nan=True):
                yield f"output {i}: {b.ravel()[:6]}, expected {a.ravel()[:6]}"


def test_contrib_operators_agree(folders):
    wrong, refused, agreed = [], [], 0
    for n, case in enumerate(CASES):
        folder = folders / str(n)
        got, optimized = outputs(folder, "output"), outputs(folder, "optimized")
        error = (folder / "error.txt").read_text() if (folder / "error.txt").exists() else None
        want, problem = (case.formula(*case.inputs), None) if case.formula else ort_cases.result(folder)
        if want is None:
            refused.append(f"{case}: ONNX Runtime: {problem.splitlines()[0][-160:]}; pared: {error or 'runs'}")
            continue
        if error:
            wrong.append(f"{case}: {error}")
            continue
        found = list(faults(case, want, got)) + [f"optimized: {f}" for f in faults(case, want, optimized)]
        wrong += [f"{case}: {f}" for f in found]
        agreed += not found
    print(f"{agreed} of {len(CASES)} cases agree; ONNX Runtime refuses {len(refused)}:")
    print("\n".join(refused))
    assert not wrong, "\n" + "\n".join(wrong)
    assert agreed > 150
