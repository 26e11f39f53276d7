# SPDX-License-Identifier: Apache-2.0
"""quantize.weights: codes against ONNX Runtime's own quantizer byte for byte, and every form it writes run by ONNX Runtime and by our engine.

Reference   `restored`: the quantized model with every code turned back into a float by NumPy, in the original operators. The quantized
            file must compute the same in both runtimes: 1e-5 of the largest output in float32, 1e-2 in float16.
Padding     bits of a last byte that belong to no element are left out where K is no multiple of the elements in a byte: ONNX Runtime's
            quantizer leaves there what its buffer held before.
"""
import json
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from onnxruntime.capi import _pybind_state as ort_c

import methods
from methods import PARED, SHARED, apply, layers, session, sqnr, worst

RNG = np.random.default_rng(7)
FLOATS = {np.float32: T.FLOAT, np.float16: T.FLOAT16}


def save(path, nodes, weights, inputs, outputs, opset=13, ir=7):
    """inputs, outputs: name -> (element type, shape)."""
    info = {k: h.make_tensor_value_info(k, *v) for k, v in {**inputs, **outputs}.items()}
    graph = h.make_graph(nodes, "g", [info[k] for k in inputs], [info[k] for k in outputs],
                         [nh.from_array(w, name) if isinstance(w, np.ndarray) else w for name, w in weights.items()])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", opset), h.make_opsetid("com.microsoft", 1)], ir_version=ir), path)


def unpack(a, bits, count):
    """The first `count` codes of the last axis."""
    per = 8 // bits
    codes = np.stack([a >> (bits * i) & ((1 << bits) - 1) for i in range(per)], -1)
    return codes.reshape(*a.shape[:-1], -1)[..., :count].astype(np.int64)


def nbits_weight(node, t):
    """[K, N] of a MatMulNBits node."""
    a = {x.name: x.i for x in node.attribute}
    k, n, bits, block = a["K"], a["N"], a["bits"], a["block_size"]
    blocks = -(-k // block)
    codes = unpack(t[node.input[1]].reshape(n, -1), bits, blocks * block)[:, :k]
    zero = np.full((n, blocks), 1 << (bits - 1)) if len(node.input) < 4 or not node.input[3] else unpack(t[node.input[3]].reshape(n, -1), bits, blocks)
    scale = t[node.input[2]].reshape(n, blocks)
    spread = lambda x: np.repeat(x, block, 1)[:, :k]  # noqa: E731
    return ((codes - spread(zero)).astype(np.float32) * spread(scale).astype(np.float32)).T.astype(scale.dtype)


def table(node, t):
    """[rows, k] of a GatherBlockQuantized node."""
    a = {x.name: x.i for x in node.attribute}
    scale, block = t[node.input[2]], a["block_size"]
    data = t[node.input[0]]
    packed = data.dtype == np.uint8
    k = data.shape[1] * (8 // a["bits"]) if packed else data.shape[1]
    codes = unpack(data, a["bits"], k) if packed else data.astype(np.int64)
    zero = np.zeros(scale.shape) + ((1 << (a["bits"] - 1)) if packed else 0)
    if len(node.input) > 3:
        zero = unpack(t[node.input[3]], a["bits"], scale.shape[1]) if packed else t[node.input[3]].astype(np.int64)
    spread = lambda x: np.repeat(x, block, 1)[:, :k]  # noqa: E731
    return ((codes - spread(zero)) * spread(scale).astype(np.float32)).astype(scale.dtype)


def dequantized(node, t):
    a = {x.name: x.i for x in node.attribute}
    codes, scale, axis = t[node.input[0]].astype(np.float32), t[node.input[1]], a["axis"]
    zero = t[node.input[2]].astype(np.float32) if len(node.input) > 2 else np.zeros_like(scale, np.float32)
    if scale.ndim == 1:
        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        spread = lambda x: x.reshape(shape)  # noqa: E731
    else:
        spread = lambda x: np.take(np.repeat(x, a["block_size"], axis), range(codes.shape[axis]), axis)  # noqa: E731
    return ((codes - spread(zero)) * spread(scale).astype(np.float32)).astype(scale.dtype)


def tensors(graph, t=None):
    t = dict(t or {})
    t.update({i.name: nh.to_array(i) for i in graph.initializer})
    return t


def restore(graph, outer=None):
    t = tensors(graph, outer)
    nodes, made = [], {}
    for n in graph.node:
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                restore(a.g, t)
        if n.op_type == "MatMulNBits":
            made[f"{n.name}_w{len(nodes)}"] = nbits_weight(n, t)
            name = f"{n.name}_w{len(nodes)}"
            bias = len(n.input) > 5
            nodes.append(h.make_node("MatMul", [n.input[0], name], [n.output[0] + "_p" if bias else n.output[0]]))
            if bias:
                nodes.append(h.make_node("Add", [n.output[0] + "_p", n.input[5]], [n.output[0]]))
        elif n.op_type == "GatherBlockQuantized":
            made[f"{n.name}_w{len(nodes)}"] = table(n, t)
            nodes.append(h.make_node("Gather", [f"{n.name}_w{len(nodes)}", n.input[1]], list(n.output), axis=0))
        elif n.op_type == "DequantizeLinear":
            made[n.output[0]] = dequantized(n, t)
        else:
            nodes.append(n)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(nh.from_array(w, name) for name, w in made.items())
    return made


def run(path, feeds):
    return session(path).run(None, feeds)


def check_forms(folder, path, feeds, limit=1e-5, least_db=15, **params):
    """Quantize; both runtimes must compute what the codes say. Returns the operators and the report's rows."""
    out, back = folder / "q.onnx", folder / "back.onnx"
    rows = layers(apply("quantize.weights", path, out, **params))
    m = onnx.load(out)
    restore(m.graph)
    onnx.save(m, back)
    got, want, float_ = run(out, feeds), run(back, feeds), run(path, feeds)
    assert worst(want, got) < limit, worst(want, got)
    assert sqnr(float_, got) > least_db
    ours = json.loads(subprocess.run([PARED, "diff", back, out, "--json"], capture_output=True, text=True, check=True).stdout)
    for o in ours["outputs"]:
        assert o["max_abs"] <= limit * max(1, float(max(np.abs(x).max() for x in want))) * 4, o
    assert out.stat().st_size < path.stat().st_size
    return methods.ops(out), rows


# ---- codes ----

ORT_QUANTIZERS = {2: ort_c.quantize_matmul_2bits, 4: ort_c.quantize_matmul_4bits, 8: ort_c.quantize_matmul_8bits}


def ort_codes(w, bits, block, symmetric):
    """As MatMulNBitsQuantizer calls it."""
    k, n = w.shape
    blocks, per = -(-k // block), 8 // bits
    padded = np.pad(w, ((0, blocks * block - k), (0, 0)))
    codes, scale = np.zeros((n, blocks, block // per), np.uint8), np.zeros((n, blocks), w.dtype)
    zero = np.zeros((n, -(-blocks // per)), np.uint8)
    ORT_QUANTIZERS[bits](codes, padded, scale, zero, block, n, k, symmetric)
    return [codes, scale] + ([] if symmetric else [zero])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_ort_s(tmp_path, dtype, bits):
    sizes = [(512, 24), (777, 5), (300, 64), (1000, 130), (266, 40)]
    weights = {}
    for i, (k, n) in enumerate(sizes):
        w = (RNG.standard_normal((k, n)) * 0.1).astype(dtype)
        w[:40, 1], w[:, 2], w[:, 3] = 0, abs(w[:, 2]), -abs(w[:, 3])
        w[0, 4], w[1, 4] = 0.5, -0.5
        weights[f"w{i}"] = w
    save(tmp_path / "m.onnx", [h.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], name=f"n{i}") for i in range(len(sizes))], weights,
         {f"x{i}": (FLOATS[dtype], [2, k]) for i, (k, _) in enumerate(sizes)}, {f"y{i}": (FLOATS[dtype], [2, n]) for i, (_, n) in enumerate(sizes)})
    for block in (16, 32, 64, 128, 256):
        for symmetric in (True, False):
            apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx", bits=bits, block=block, symmetric=str(symmetric).lower(), algorithm="rtn")
            m = onnx.load(tmp_path / "q.onnx")
            t = tensors(m.graph)
            converted = 0
            for node in m.graph.node:
                if node.op_type != "MatMulNBits":  # not smaller
                    continue
                converted += 1
                w = weights["w" + node.name[1:]]
                want, got = ort_codes(w, bits, block, symmetric), [t[i] for i in node.input[1:]]
                assert [(x.shape, x.dtype) for x in want] == [(x.shape, x.dtype) for x in got]
                if len(w) % (8 // bits):
                    count = -(-len(w) // block) * block
                    want[0], got[0] = (unpack(x.reshape(len(x), -1), bits, count)[:, :len(w)] for x in (want[0], got[0]))
                for x, y in zip(want, got, strict=True):
                    assert x.tobytes() == y.tobytes(), (node.name, block, symmetric)
            assert converted >= 2


# ---- forms ----

@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_gemm_gather(tmp_path, bits, symmetric, dtype):
    """Every reader of a matrix in one model: plain, behind Transpose, Identity, Cast, from a Constant, shared; Gemm with each bias."""
    f = lambda *s: (RNG.standard_normal(s) * 0.3).astype(dtype)  # noqa: E731
    other = np.float16 if dtype == np.float32 else np.float32
    constant = h.make_node("Constant", [], ["c"], value=nh.from_array(f(96, 40), "c"))
    nodes = [h.make_node("Gather", ["table", "ids"], ["e"], name="embed"), h.make_node("MatMul", ["e", "w"], ["a"], name="plain"),
             h.make_node("Transpose", ["wt"], ["wt_"], perm=[1, 0]), h.make_node("Identity", ["wt_"], ["wt__"]),
             h.make_node("MatMul", ["a", "wt__"], ["b"], name="turned"), constant, h.make_node("MatMul", ["b", "c"], ["d"], name="constant"),
             h.make_node("Cast", ["w16"], ["w16_"], to=FLOATS[dtype]), h.make_node("MatMul", ["d", "w16_"], ["k"], name="cast"),
             h.make_node("MatMul", ["k", "shared"], ["l1"], name="shared1"), h.make_node("MatMul", ["l1", "shared"], ["l"], name="shared2"),
             h.make_node("MatMul", ["l", "unit"], ["u"], name="unit"),
             h.make_node("Reshape", ["u", "flat"], ["g0"]), h.make_node("Gemm", ["g0", "g1w", "g1b"], ["g1"], name="gemm1"),
             h.make_node("Gemm", ["g1", "g2w", "g2b"], ["g2"], name="gemm2", transB=1, alpha=0.5, beta=2.0),
             h.make_node("Gemm", ["g2", "g3w", "g3b"], ["g3"], name="gemm3", transB=1), h.make_node("Gemm", ["g3", "g4w"], ["y"], name="gemm4")]
    weights = {"table": f(50, 96), "w": f(96, 96), "wt": f(96, 96), "w16": (RNG.standard_normal((40, 64)) * 0.3).astype(other), "shared": f(64, 64),
               "unit": f(1, 64, 70), "flat": np.array([-1, 70]), "g1w": f(70, 64), "g1b": f(64), "g2w": f(48, 64), "g2b": f(1, 48), "g3w": f(64, 48),
               "g3b": f(1), "g4w": f(64, 33)}
    save(tmp_path / "m.onnx", nodes, weights, {"ids": (T.INT64, [2, 3])}, {"y": (FLOATS[dtype], [6, 33])})
    half = dtype == np.float16
    count, rows = check_forms(tmp_path, tmp_path / "m.onnx", {"ids": np.array([[0, 7, 49], [3, 3, 1]])}, limit=2e-2 if half else 1e-5,
                              least_db=-6 if bits == 2 else 2 if bits == 3 else 6, bits=bits, symmetric=symmetric)
    assert count["MatMulNBits"] == 11 and count["GatherBlockQuantized"] == 1
    assert not set(count) & {"MatMul", "Gemm", "Gather", "Transpose", "Identity", "Constant", "Cast"}
    assert sum("shared_with" in r.get("after", {}) for r in rows) == 1
    m = onnx.load(tmp_path / "q.onnx")
    assert next(o.version for o in m.opset_import if o.domain == "") == 13 and m.ir_version == 7


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_dequantize(tmp_path, bits, block, symmetric):
    f = lambda *s: (RNG.standard_normal(s) * 0.2).astype(np.float32)  # noqa: E731
    nodes = [h.make_node("Conv", ["x", "c1", "b1"], ["a"], name="conv", pads=[1, 1, 1, 1]),
             h.make_node("Conv", ["a", "c2"], ["b"], name="depthwise", group=48, pads=[1, 1, 1, 1]),
             h.make_node("Conv", ["b", "c3"], ["c"], name="grouped", group=3),
             h.make_node("ConvTranspose", ["c", "t1"], ["d"], name="up", strides=[2, 2]),
             h.make_node("ConvTranspose", ["d", "t2"], ["e"], name="up_grouped", group=2),
             h.make_node("MatMul", ["left", "e"], ["l"], name="left"), h.make_node("MatMul", ["l", "batched"], ["m"], name="batched"),
             h.make_node("MatMul", ["m", "right"], ["n"], name="right"), h.make_node("Flatten", ["n"], ["o"], axis=3),
             h.make_node("Gemm", ["o", "g1"], ["p"], name="gemm", alpha=0.5), h.make_node("Gemm", ["p", "g2", "gb"], ["y"], name="turned", transB=1)]
    weights = {"c1": f(48, 17, 3, 3), "b1": f(48), "c2": f(48, 1, 3, 3), "c3": f(36, 16, 1, 1), "t1": f(36, 20, 2, 2), "t2": f(20, 8, 3, 3),
               "left": f(21, 18), "batched": f(16, 18, 30), "right": f(30, 41), "g1": f(41, 25), "g2": f(33, 25), "gb": f(33)}
    save(tmp_path / "m.onnx", nodes, weights, {"x": (T.FLOAT, [1, 17, 8, 8])}, {"y": (T.FLOAT, [336, 33])})
    more = {"block": block} if block else {}
    count, rows = check_forms(tmp_path, tmp_path / "m.onnx", {"x": RNG.standard_normal((1, 17, 8, 8)).astype(np.float32)}, bits=bits,
                              limit=2e-2 if bits == 8 and not block else 1e-5,  # MatMul with a scale a channel: ONNX Runtime rounds its input
                              least_db=-3 if bits == 3 else 5, symmetric=symmetric, form="dequantize", algorithm="kquant", **more)
    assert count["DequantizeLinear"] == sum(r["op_type"] != "Transpose" and "after" in r for r in rows) >= 9, rows
    m = onnx.load(tmp_path / "q.onnx")
    assert next(o.version for o in m.opset_import if o.domain == "") == (13 if bits == 8 and not block else 21)


def test_half_conv(tmp_path):
    f = lambda *s: (RNG.standard_normal(s) * 0.2).astype(np.float16)  # noqa: E731
    save(tmp_path / "m.onnx", [h.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": f(64, 32, 3, 3)}, {"x": (T.FLOAT16, [1, 32, 8, 8])},
         {"y": (T.FLOAT16, [1, 64, 6, 6])})
    for bits, opset in ((8, 19), (4, 21)):
        check_forms(tmp_path, tmp_path / "m.onnx", {"x": f(1, 32, 8, 8)}, limit=2e-2, bits=bits)
        m = onnx.load(tmp_path / "q.onnx")
        assert m.opset_import[0].version == opset


def test_nested_graph(tmp_path):
    """Weights of the outer graph and of the branch itself."""
    f = lambda *s: (RNG.standard_normal(s) * 0.2).astype(np.float32)  # noqa: E731
    branch = lambda w, own: h.make_graph([h.make_node("MatMul", ["x", w], [w + "_y"], name=w + "_mm")], w, [],  # noqa: E731
                                         [h.make_tensor_value_info(w + "_y", T.FLOAT, [3, 64])], [nh.from_array(own, w)] if own is not None else [])
    save(tmp_path / "m.onnx", [h.make_node("If", ["c"], ["y"], then_branch=branch("outer", None), else_branch=branch("inner", f(64, 64)))],
         {"outer": f(64, 64)}, {"c": (T.BOOL, []), "x": (T.FLOAT, [3, 64])}, {"y": (T.FLOAT, [3, 64])})
    apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx")
    m = onnx.load(tmp_path / "q.onnx")
    restore(m.graph)
    onnx.save(m, tmp_path / "back.onnx")
    for c in (True, False):
        feeds = {"c": np.array(c), "x": f(3, 64)}
        got = run(tmp_path / "q.onnx", feeds)
        assert worst(run(tmp_path / "back.onnx", feeds), got) < 1e-5 and sqnr(run(tmp_path / "m.onnx", feeds), got) > 15
    assert (tmp_path / "q.onnx").stat().st_size < 0.3 * (tmp_path / "m.onnx").stat().st_size


# ---- what is left alone, and refused ----

def test_left_alone(tmp_path):
    f = lambda *s: (RNG.standard_normal(s) * 0.2).astype(np.float32)  # noqa: E731
    nodes = [h.make_node("MatMul", ["x", "w"], ["a"], name="twice"), h.make_node("Add", ["a", "w"], ["b"]), h.make_node("MatMul", ["b", "b"], ["c"], name="live"),
             h.make_node("MatMul", ["c", "tiny"], ["d"], name="tiny"), h.make_node("MatMul", ["d", "d64"], ["y"], name="double")]
    weights = {"w": f(64, 64), "tiny": f(64, 1), "d64": f(1, 8)}
    save(tmp_path / "m.onnx", nodes, weights, {"x": (T.FLOAT, [64, 64])}, {"y": (T.FLOAT, [64, 8])})
    rows = {r["node"]: r for r in layers(apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx", exclude="d*"))}
    assert "read as floats" in rows["twice"]["skipped"] and "not a constant" in rows["live"]["skipped"]
    assert "include" in rows["double"]["skipped"] and rows["tiny"]["after"]["form"] == "MatMulNBits"


def test_refused(tmp_path):
    w = (RNG.standard_normal((64, 64)) * 0.2).astype(np.float32)
    w[5, 7] = np.nan
    save(tmp_path / "m.onnx", [h.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": w}, {"x": (T.FLOAT, [2, 64])}, {"y": (T.FLOAT, [2, 64])})
    with pytest.raises(RuntimeError, match="'w' of node 'mm'.*element 327 is NaN"):
        apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx")
    w[5, 7] = 0
    save(tmp_path / "m.onnx", [h.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": w}, {"x": (T.FLOAT, [2, 64])}, {"y": (T.FLOAT, [2, 64])})
    for algorithm in ("gptq", "awq"):
        with pytest.raises(RuntimeError, match="needs data"):
            apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx", algorithm=algorithm)
    with pytest.raises(RuntimeError, match="block is 48"):
        apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx", block=48)
    apply("quantize.weights", tmp_path / "m.onnx", tmp_path / "q.onnx")
    with pytest.raises(RuntimeError, match="quantized already"):
        apply("quantize.weights", tmp_path / "q.onnx", tmp_path / "qq.onnx")


def test_threads(tmp_path):
    w = (RNG.standard_normal((700, 900)) * 0.2).astype(np.float32)
    save(tmp_path / "m.onnx", [h.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": w}, {"x": (T.FLOAT, [2, 700])}, {"y": (T.FLOAT, [2, 900])})
    for threads in (1, 3):
        apply("quantize.weights", tmp_path / "m.onnx", tmp_path / f"{threads}.onnx", threads=threads)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "3.onnx").read_bytes()


@pytest.mark.skipif(SHARED is None, reason="skipped: no shared data")
def test_exported_transformer(tmp_path):
    """Weights behind Transpose and Identity, as exporters leave them: all products with a weight are taken."""
    rows = layers(apply("quantize.weights", SHARED / "models/ours/vit-fashion.onnx", tmp_path / "q.onnx"))
    taken = [r for r in rows if "after" in r]
    assert len(taken) == 18 and all("not a constant" in r["skipped"] for r in rows if "skipped" in r)
    assert methods.ops(tmp_path / "q.onnx")["MatMulNBits"] == 17
    session(tmp_path / "q.onnx")


@pytest.mark.skipif(SHARED is None, reason="skipped: no shared data")
def test_algorithms_beat_rounding(tmp_path):
    """Same bytes, smaller error of the network's output on samples that were not calibrated on; NumPy's distance over ONNX Runtime's outputs."""
    model, data = SHARED / "models/ours/vit-fashion.onnx", SHARED / "models/ours/vit-fashion.calib.json"
    x = methods.load_dataset(SHARED / "models/ours/vit-fashion.test.json")[0][:256]
    feeds = methods.feeds_of(model, x)
    want = methods.outputs(model, feeds)[1]
    size, error = {}, {}
    for algorithm in ("rtn", "kquant", "hqq", "awq", "gptq"):
        out = tmp_path / f"{algorithm}.onnx"
        apply("quantize.weights", model, out, algorithm=algorithm, data=data if algorithm in ("awq", "gptq") else None)
        size[algorithm], error[algorithm] = out.stat().st_size, sqnr(want, methods.outputs(out, feeds)[1])
    assert max(size.values()) - min(size.values()) < 600, size  # the recipe's text and awq's scales
    assert all(error[a] > error["rtn"] for a in ("hqq", "awq", "gptq")) and error["kquant"] > error["rtn"] - 0.5, error
    assert error["gptq"] > error["rtn"] + 3, error


def test_old_file(tmp_path):
    """IR 3: initializers are listed among the inputs."""
    w = (RNG.standard_normal((64, 64)) * 0.2).astype(np.float32)
    save(tmp_path / "m.onnx", [h.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"w": w}, {"x": (T.FLOAT, [2, 64]), "w": (T.FLOAT, [64, 64])},
         {"y": (T.FLOAT, [2, 64])}, opset=9, ir=3)
    count, _ = check_forms(tmp_path, tmp_path / "m.onnx", {"x": RNG.standard_normal((2, 64)).astype(np.float32)})
    assert count == {"MatMulNBits": 1}


def test_fused_matmul(tmp_path):
    w = (RNG.standard_normal((40, 64)) * 0.2).astype(np.float32)
    node = h.make_node("FusedMatMul", ["x", "w"], ["y"], name="mm", domain="com.microsoft", transB=1, alpha=0.25)
    save(tmp_path / "m.onnx", [node], {"w": w}, {"x": (T.FLOAT, [2, 3, 64])}, {"y": (T.FLOAT, [2, 3, 40])})
    count, _ = check_forms(tmp_path, tmp_path / "m.onnx", {"x": RNG.standard_normal((2, 3, 64)).astype(np.float32)})
    assert count == {"MatMulNBits": 1}
