# SPDX-License-Identifier: Apache-2.0
"""Every form quantize.static writes is loaded and run by ONNX Runtime and by our engine: operators, types, granularities, hostile models.

Limits  SQNR against the float model on the calibration samples: 22 dB for 8 bits (a handful of roundings of 2^-8 each, about 30 dB together),
        40 dB for 16-bit activations and weights, 8 dB for 4-bit weights (15 steps).
        Our engine against ONNX Runtime: 2 steps of the output's own scale, as sums are rounded in float there and here.
"""
import json
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods
from methods import apply, layers, outputs, sqnr

RNG = np.random.default_rng(3)
X = RNG.standard_normal((12, 4, 8, 8)).astype(np.float32)


def weight(name, *shape, scale=0.3):
    return numpy_helper.from_array((RNG.standard_normal(shape) * scale).astype(np.float32), name)


def ints(name, *v):
    return numpy_helper.from_array(np.array(v, np.int64), name)


def model(nodes, weights, path, opset=17, out_rank=4):
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * out_rank)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def conv(x, y, w, **attrs):
    return helper.make_node("Conv", [x, w], [y], name=f"conv_{y}", pads=[1, 1, 1, 1], **attrs)


def middle(op, path, opset=17, more=(), inputs=("a",), outputs_=("m",), **attrs):
    """conv -> op -> conv, both inputs from convolutions where it takes two."""
    nodes = [conv("x", "a", "w1"), conv("x", "b", "w2"), helper.make_node(op, list(inputs), list(outputs_), name="op", **attrs)]
    nodes += [helper.make_node("GlobalAveragePool", ["m"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w3"], ["y"], name="last")]
    channels = 8 if op == "Concat" else 1 if op == "DepthToSpace" else 2 if op == "Split" else 4
    return model(nodes, [weight("w1", 4, 4, 3, 3), weight("w2", 4, 4, 3, 3), weight("w3", channels, 10, scale=1), *more], path, opset, 2)


OPERATORS = {
    "Relu": {}, "Clip": dict(inputs=("a", "lo", "hi"), more=[numpy_helper.from_array(np.float32(0), "lo"), numpy_helper.from_array(np.float32(1), "hi")]),
    "LeakyRelu": {}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {}, "HardSwish": {}, "Softmax": dict(axis=1), "Add": dict(inputs=("a", "b")),
    "Sub": dict(inputs=("a", "b")), "Mul": dict(inputs=("a", "b")), "Max": dict(inputs=("a", "b")), "Min": dict(inputs=("a", "b")),
    "Concat": dict(inputs=("a", "b"), axis=1), "MaxPool": dict(kernel_shape=[2, 2]), "AveragePool": dict(kernel_shape=[2, 2]),
    "Transpose": dict(perm=[0, 1, 3, 2]), "Reshape": dict(inputs=("a", "s"), more=[ints("s", 0, 4, 4, 16)]),
    "Slice": dict(inputs=("a", "s", "e", "i"), more=[ints("s", 1), ints("e", 6), ints("i", 2)]),
    "Split": dict(inputs=("a",), outputs_=("m", "rest"), axis=1), "Gather": dict(inputs=("a", "i"), more=[ints("i", 3, 1, 2, 0)], axis=1),
    "Pad": dict(inputs=("a", "s"), more=[ints("s", 0, 0, 1, 1, 0, 0, 1, 1)]),
    "Resize": dict(inputs=("a", "", "r"), more=[numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "r")], mode="nearest"),
    "DepthToSpace": dict(blocksize=2), "Expand": dict(inputs=("a", "s"), more=[ints("s", 1, 4, 8, 8)]),
    "Tile": dict(inputs=("a", "s"), more=[ints("s", 1, 1, 2, 1)]), "MatMul": dict(inputs=("a", "b")),
    "PRelu": dict(inputs=("a", "s"), more=[weight("s", 4, 1, 1)]),
    "InstanceNormalization": dict(inputs=("a", "g", "h"), more=[weight("g", 4, scale=1), weight("h", 4)]),
    "LayerNormalization": dict(inputs=("a", "g"), more=[weight("g", 8, scale=1)]),
}


def quantize(path, tmp_path, **params):
    np.savez(tmp_path / "d.npz", x=X)
    out = tmp_path / "out.onnx"
    params.setdefault("samples", 12)
    return out, apply("quantize.static", path, out, data=tmp_path / "d.npz", **params)


def check(path, out, tmp_path, least):
    want, got = outputs(path, [{"x": X}])[1], outputs(out, [{"x": X}])[1]
    assert [g.shape for g in got] == [w.shape for w in want]
    assert sqnr(want, got) >= least, sqnr(want, got)
    done = subprocess.run([methods.PARED, "eval", str(out), "--data", str(tmp_path / "d.npz"), "--outputs", str(tmp_path / "o.npz")],
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    ours = np.load(tmp_path / "o.npz")["y"]
    assert np.abs(ours - got[0]).max() <= 2 * np.ptp(got[0]) / 255


FORCED = json.dumps({"op": {"float": False}}, separators=(",", ":"))


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_operators(tmp_path, op, activations):
    path = middle(op, tmp_path / "m.onnx", **OPERATORS[op])
    out, report = quantize(path, tmp_path, activations=activations, overrides=FORCED, calibrator="minmax")
    check(path, out, tmp_path, 22)
    made = {o: n.op_type for n in onnx.load(out).graph.node for o in n.output}
    if op not in ("Relu", "Clip"):
        node = [n for n in onnx.load(out).graph.node if n.name == "op"][0]
        readers = {n.op_type for n in onnx.load(out).graph.node if node.output[0] in n.input}
        assert made[node.input[0]] == "DequantizeLinear" and readers == {"QuantizeLinear"}, op


FORMS = [("uint8", "int8", True, 22), ("uint8", "int8", False, 22), ("uint8", "uint8", True, 22), ("int8", "int8", True, 22), ("int8", "uint8", False, 20),
         ("uint16", "int8", True, 25), ("int16", "int8", True, 25), ("int16", "int16", True, 40), ("uint16", "int16", False, 40),
         ("uint8", "int4", True, 8), ("uint8", "uint4", True, 8), ("uint16", "int4", True, 8)]


@pytest.mark.parametrize("activations,weights,per_channel,least", FORMS)
def test_products(tmp_path, activations, weights, per_channel, least):
    """Conv, depthwise Conv, ConvTranspose, Gemm and MatMul, with biases."""
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["r"]),
             helper.make_node("Conv", ["r", "w2", "b1"], ["c"], pads=[1, 1, 1, 1], group=4),
             helper.make_node("ConvTranspose", ["c", "w3", "b3"], ["t"], strides=[2, 2]), helper.make_node("GlobalAveragePool", ["t"], ["p"]),
             helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Gemm", ["f", "w4", "b4"], ["g"], transB=1), helper.make_node("Relu", ["g"], ["h"]),
             helper.make_node("MatMul", ["h", "w5"], ["y"])]
    path = model(nodes, [weight("w1", 4, 4, 3, 3), weight("b1", 4), weight("w2", 4, 1, 3, 3), weight("w3", 4, 6, 2, 2), weight("b3", 6),
                         weight("w4", 16, 6), weight("b4", 16), weight("w5", 16, 10)], tmp_path / "m.onnx", 13, 2)
    out, report = quantize(path, tmp_path, activations=activations, weights=weights, per_channel=str(per_channel).lower(), calibrator="minmax")
    check(path, out, tmp_path, least)
    done = [r for r in layers(report) if r.get("after", {}).get("dtype") == weights]
    assert len(done) == 5 and all(r["after"]["activations"] == activations for r in done)


def test_asymmetric_weights(tmp_path):
    path = middle("Relu", tmp_path / "m.onnx")
    for dtype in ("int8", "uint8"):
        out, _ = quantize(path, tmp_path, weights=dtype, per_channel="false", symmetric_weights="false", calibrator="minmax")
        check(path, out, tmp_path, 22)
    with pytest.raises(RuntimeError, match="per_channel=false"):
        quantize(path, tmp_path, symmetric_weights="false")


def test_overrides(tmp_path):
    path = middle("Add", tmp_path / "m.onnx", inputs=("a", "b"))
    asked = {"conv_a": {"float": True}, "op:MatMul": {"weights": "uint8", "per_channel": False}, "tensor:b": {"range": [-4, 4]}, "nothing*": {"float": True}}
    out, report = quantize(path, tmp_path, overrides=json.dumps(asked, separators=(",", ":")))
    rows = {r["node"]: r for r in layers(report)}
    assert "override" in rows["conv_a"]["skipped"] and rows["last"]["after"]["dtype"] == "uint8" and rows["last"]["after"]["scales"] == 1
    assert any("nothing*" in w for w in report["warnings"])
    m = onnx.load(out)
    values = {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
    pair = [n for n in m.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "b"][0]
    assert np.isclose(values[pair.input[1]], 8 / 255)
    for wrong, part in (({"a": 3}, "must be an object"), ({"a": {"flot": True}}, "no option 'flot'"), ({"tensor:a": {"range": [2, 1]}}, "lower one first"),
                        ({"op:Conv": {"weights": "int3"}}, "must be one of int8"), ({"a": {"float": 1}}, "true or false")):
        with pytest.raises(RuntimeError, match=part):
            quantize(path, tmp_path, overrides=json.dumps(wrong, separators=(",", ":")))


def test_hostile(tmp_path):
    """One weight along two axes, a bias two nodes read, weights of zeros and of 1e-30, in a Constant node and listed as an input, opset imported twice."""
    zeros = np.zeros((4, 4, 3, 3), np.float32)
    zeros[1] = 1e-30
    zeros[2:] = RNG.standard_normal((2, 4, 3, 3)) * 0.3
    shared = weight("w", 4, 4, scale=1)
    nodes = [helper.make_node("Constant", [], ["w1"], value=numpy_helper.from_array(zeros)), helper.make_node("Conv", ["x", "w1", "b"], ["a"]),
             helper.make_node("Conv", ["x", "w2", "b"], ["c"]), helper.make_node("Add", ["a", "c"], ["s"]), helper.make_node("GlobalAveragePool", ["s"], ["p"]),
             helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["g"]), helper.make_node("Gemm", ["g", "w", "b"], ["y"], transB=1)]
    path = model(nodes, [weight("w2", 4, 4, 3, 3), weight("b", 4), shared], tmp_path / "m.onnx", 9, 2)
    m = onnx.load(path)
    m.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    m.ir_version = 3
    for t in m.graph.initializer:
        m.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    onnx.save(m, tmp_path / "twice.onnx")
    out, report = quantize(tmp_path / "twice.onnx", tmp_path, calibrator="minmax")
    check(path, out, tmp_path, 22)
    assert any("raised from 9 to 13" in w for w in report["warnings"])


def test_data(tmp_path):
    path = middle("Relu", tmp_path / "m.onnx")
    broken = X.copy()
    broken[0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "d.npz", x=broken)
    with pytest.raises(RuntimeError, match="NaN"):
        apply("quantize.static", path, tmp_path / "out.onnx", data=tmp_path / "d.npz")
    for data, samples, part in ((np.zeros_like(X), 12, "everywhere"), (X, 1, "1 sample only"), (np.repeat(X[:1], 16, 0), 16, "same top class")):
        np.savez(tmp_path / "d.npz", x=data)
        report = apply("quantize.static", path, tmp_path / "out.onnx", data=tmp_path / "d.npz", samples=samples)
        assert any(part in w for w in report["warnings"]), (part, report["warnings"])
        assert np.isfinite(outputs(tmp_path / "out.onnx", [{"x": X}])[1][0]).all()
