# SPDX-License-Identifier: Apache-2.0
"""quantize.fp16 and quantize.bf16: every form is loaded and run by ONNX Runtime, and the casts are where they must be.

Limits  float16 1e-2 of the largest output (11 bits a number, some ten layers), its weights alone 5e-3; bfloat16 weights 5e-2 (8 bits)
"""
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods
from methods import SHARED, apply, layers, ops

RNG = np.random.default_rng(3)
LIMIT = {"fp16": 1e-2, "fp16-io": 1e-2, "fp16-storage": 5e-3, "bf16": 5e-2}
STEPS = {"fp16": ("quantize.fp16", {}), "fp16-io": ("quantize.fp16", {"keep_io": "false"}), "fp16-storage": ("quantize.fp16", {"storage": "true"}), "bf16": ("quantize.bf16", {})}


def f32(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def one(op, inputs, weights=None, outputs=1, opset=13, out_types=None, **attrs):
    """A node whose inputs named x.. are fed; weights by name; None is an absent input."""
    weights = weights or {}
    names = list(inputs) if isinstance(inputs, dict) else inputs
    feeds = {k: v for k, v in inputs.items() if v is not None and k not in weights}
    weights = weights | {}
    info = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    out_types = out_types or [TensorProto.FLOAT] * outputs
    out = [helper.make_tensor_value_info(f"y{i}", t, None) for i, t in enumerate(out_types)]
    node = helper.make_node(op, ["" if inputs[k] is None else k for k in names], [o.name for o in out], "node", **attrs)
    graph = helper.make_graph([node], "g", info, out, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds


def weighted(op, x, w, rest=(), **attrs):
    weights = {"w": w} | {f"b{i}": v for i, v in enumerate(rest)}
    return one(op, {"x": x} | weights, weights, **attrs)


X = f32(2, 8, 10, 10)
OPERATORS = {
    "Conv": weighted("Conv", X, f32(6, 8, 3, 3), [f32(6)]), "ConvTranspose": weighted("ConvTranspose", X, f32(8, 6, 3, 3)),
    "Gemm": weighted("Gemm", f32(4, 16), f32(12, 16), [f32(12)], transB=1), "MatMul": weighted("MatMul", f32(2, 5, 16), f32(16, 12)),
    "LSTM": weighted("LSTM", f32(5, 2, 8), f32(1, 32, 8, scale=0.3), [f32(1, 32, 8, scale=0.3)], hidden_size=8),
    "GRU": weighted("GRU", f32(5, 2, 8), f32(1, 24, 8, scale=0.3), [f32(1, 24, 8, scale=0.3)], hidden_size=8),
    "Gather": one("Gather", {"w": np.zeros(0, np.float32), "x": np.array([3, 1], np.int64)}, {"w": f32(20, 8)}),
    "LayerNormalization": weighted("LayerNormalization", f32(4, 32), f32(32), [f32(32)], opset=17), "Softmax": one("Softmax", {"x": f32(4, 10)}),
    "BatchNormalization": weighted("BatchNormalization", X, f32(8), [f32(8), f32(8), np.abs(f32(8)) + 0.5]), "InstanceNormalization": weighted("InstanceNormalization", X, f32(8), [f32(8)]),
    "ReduceSum": one("ReduceSum", {"x": f32(4, 50), "a": np.array([1], np.int64)}, {"a": np.array([1], np.int64)}), "ReduceMean": one("ReduceMean", {"x": f32(4, 50)}),
    "Min": one("Min", {"x": f32(4, 5), "z": f32(5)}), "Max": one("Max", {"x": f32(4, 5), "z": f32(5)}), "Where": one("Where", {"c": RNG.random((4, 5)) > 0.5, "x": f32(4, 5), "z": f32(5)}),
    "TopK": one("TopK", {"x": f32(3, 20), "k": np.array([4], np.int64)}, {"k": np.array([4], np.int64)}, out_types=[TensorProto.FLOAT, TensorProto.INT64]),
    "CumSum": one("CumSum", {"x": f32(3, 20), "a": np.array(1, np.int64)}, {"a": np.array(1, np.int64)}, opset=14),
    "Resize": one("Resize", {"x": X, "r": None, "s": np.zeros(0)}, {"s": np.array([1, 1, 2, 2], np.float32)}, mode="nearest"),
    "Pad": one("Pad", {"x": X, "p": np.zeros(0), "v": np.zeros(0)}, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "v": np.array(0.5, np.float32)}),
    "Clip": one("Clip", {"x": X, "lo": np.zeros(0), "hi": np.zeros(0)}, {"lo": np.array(-0.5, np.float32), "hi": np.array(0.5, np.float32)}), "GlobalAveragePool": one("GlobalAveragePool", {"x": X}),
    "MaxPool": one("MaxPool", {"x": X}, kernel_shape=[2, 2]), "AveragePool": one("AveragePool", {"x": X}, kernel_shape=[2, 2]), "PRelu": weighted("PRelu", X, f32(8, 1, 1)),
    "OneHot": one("OneHot", {"x": np.array([0, 2], np.int64), "d": np.zeros(0), "v": np.zeros(0)}, {"d": np.array(4, np.int64), "v": np.array([0.0, 1.0], np.float32)}),
    "Range": one("Range", {"x": np.array(0, np.float32), "l": np.array(5, np.float32), "s": np.array(0.5, np.float32)}), "Einsum": one("Einsum", {"x": f32(3, 4), "z": f32(4, 5)}, equation="ij,jk->ik"),
    "GridSample": one("GridSample", {"x": X, "g": np.tanh(f32(2, 4, 4, 2))}, opset=16), "RoiAlign": one("RoiAlign", {"x": X, "r": np.array([[0, 0, 5, 5]], np.float32), "i": np.array([1], np.int64)},
                                                                                                        output_height=2, output_width=2, opset=16),
    "ArgMax": one("ArgMax", {"x": f32(4, 9)}, out_types=[TensorProto.INT64]), "Cast": one("Cast", {"x": f32(4, 9)}, out_types=[TensorProto.INT32], to=TensorProto.INT32),
    "Split": one("Split", {"x": f32(4, 8)}, outputs=2, axis=1), "Erf": one("Erf", {"x": X}), "Pow": one("Pow", {"x": X, "e": np.zeros(0)}, {"e": np.array(2, np.float32)}),
}


def chains(path):
    """Casts that read casts, and casts of one value to one type that stand twice in a graph."""
    found = []

    def walk(graph):
        made = {o: n for n in graph.node for o in n.output}
        seen = set()
        for n in graph.node:
            for a in n.attribute:
                if a.type == onnx.AttributeProto.GRAPH:
                    walk(a.g)
            if n.op_type != "Cast" or n.attribute[0].i not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
                continue
            key = (n.input[0], n.attribute[0].i)
            if key in seen or (n.input[0] in made and made[n.input[0]].op_type == "Cast"):
                found.append(n.output[0])
            seen.add(key)
    walk(onnx.load(str(path)).graph)
    return found


def run(path, feeds):
    s = methods.session(path)
    kinds = {"tensor(float16)": np.float16}
    return s.run(None, {i.name: feeds[i.name].astype(kinds.get(i.type, feeds[i.name].dtype)) for i in s.get_inputs()})


def worst(want, got):
    found = 0.0
    for w, g in zip(want, got, strict=True):
        assert w.shape == g.shape and np.isfinite(g.astype(np.float64)).all()
        found = max(found, float(np.abs(w.astype(np.float64) - g.astype(np.float64)).max() / max(np.abs(w).max(), 1e-9)))
    return found


@pytest.mark.parametrize("form", STEPS)
def test_operators(tmp_path, form):
    """Each as a model of its own: whichever side it is on, the file runs."""
    method, params = STEPS[form]
    for name, (proto, feeds) in OPERATORS.items():
        if form in ("fp16-storage", "bf16") and not any(t.data_type == TensorProto.FLOAT and len(t.dims) > 1 for t in proto.graph.initializer):
            continue  # no weights: nothing is done
        path, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
        onnx.save(proto, path)
        apply(method, path, out, **params)
        assert worst(run(path, feeds), run(out, feeds)) < LIMIT[form], name
        assert not chains(out), name
        kinds = {i.type for i in methods.session(out).get_inputs()} | {o.type for o in methods.session(out).get_outputs()}
        if form != "fp16-io":
            assert "tensor(float16)" not in kinds, name


def test_range_is_counted(tmp_path):
    """Numbers beyond 65504 on calibration data: the layer stays in float, with the figure, and the result is right."""
    w = f32(16, 16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "first"), helper.make_node("Mul", ["a", "big"], ["b"], "wide"), helper.make_node("Div", ["b", "big"], ["c"], "back"),
             helper.make_node("MatMul", ["c", "v"], ["y"], "last")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, k) for k, v in (("w", w), ("v", f32(16, 16)), ("big", np.array(30000, np.float32)))])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "float.onnx")
    x = f32(64, 16)
    np.savez(tmp_path / "x.npz", x=x)
    report = apply("quantize.fp16", tmp_path / "float.onnx", tmp_path / "out.onnx", data=tmp_path / "x.npz", samples=64)
    rows = {r["node"]: r for r in layers(report)}
    b = np.abs(x @ w) * 30000
    share = f"{100 * (b > 65504).mean():.3g} %"
    assert share in rows["wide"]["skipped"] and "65504" in rows["wide"]["skipped"], rows["wide"]
    a = np.abs((x @ w).astype(np.float32))
    under = (a[a > 0] < 2.0 ** -14).mean()
    assert abs(rows["first"]["after"]["underflow_share"] - under) < 1e-3 and rows["first"]["after"]["overflow_share"] == 0
    assert worst(run(tmp_path / "float.onnx", {"x": x}), run(tmp_path / "out.onnx", {"x": x})) < 1e-2


MODELS = ["mnist-8", "ours/vit-fashion", "ours/shuffle-cifar", "dtln_model_1"]


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path, name):
    path, out = SHARED / f"models/{name}.onnx", tmp_path / "out.onnx"
    feeds = {i.name: f32(*[d if isinstance(d, int) else 2 for d in i.shape], scale=0.3) for i in methods.session(path).get_inputs()}
    want = run(path, feeds)
    for form, (method, params) in STEPS.items():
        apply(method, path, out, **params)
        assert worst(want, run(out, feeds)) < LIMIT[form], form
        assert out.stat().st_size < 0.56 * path.stat().st_size, form
        assert not chains(out), form
        if form == "fp16-io" and name != "dtln_model_1":
            assert ops(out)["Cast"] == 0


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
def test_nested_graphs(tmp_path):
    path, out = SHARED / "models/silero_vad.onnx", tmp_path / "out.onnx"
    feeds = {"input": f32(1, 576, scale=0.1), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
    want = run(path, feeds)
    for form, (method, params) in STEPS.items():
        apply(method, path, out, **params)
        got = run(out, feeds)
        assert np.abs(want[0] - got[0]).max() < LIMIT[form] and worst(want[1:], got[1:]) < LIMIT[form], form
        assert not chains(out), form


def refused(tmp_path, first, second, path, word):
    with pytest.raises(RuntimeError, match=word):
        apply(first, path, tmp_path / "once.onnx")
        apply(second, tmp_path / "once.onnx", tmp_path / "twice.onnx")


def test_refusals(tmp_path):
    """What is in 16 or 8 bits already."""
    onnx.save(OPERATORS["MatMul"][0], tmp_path / "float.onnx")
    for first, second, word in [("quantize.fp16", "quantize.fp16", "16 bits already"), ("quantize.bf16", "quantize.fp16", "16 bits already"), ("quantize.fp16 storage=true", "quantize.bf16", "16 bits already"),
                                ("quantize.dynamic", "quantize.fp16", "quantized already"), ("quantize.dynamic", "quantize.dynamic", "quantized already")]:
        proto, _ = weighted("MatMul", f32(5, 64), f32(64, 64))
        onnx.save(proto, tmp_path / "float.onnx")
        refused(tmp_path, first, second, tmp_path / "float.onnx", word)
