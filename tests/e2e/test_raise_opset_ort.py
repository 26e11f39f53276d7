# SPDX-License-Identifier: Apache-2.0
"""Raising the opset keeps what every converted operator computes: the file before and after, run by ONNX Runtime.

quantize.weights form=dequantize bits=4 needs opset 21 for the weight of a product that stands beside the operator; the operator's own
output must not change by a bit of more than rounding, and the file must pass onnx.checker with full inference of types and shapes.
"""
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from methods import apply, outputs

REDUCE = ["ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]
ROIS = np.array([[0, 0, 3, 3], [1, 0.5, 5, 4], [0, 2, 2.5, 5]], np.float32)
GRID = np.random.default_rng(1).uniform(-1.1, 1.1, (2, 5, 4, 2)).astype(np.float32)
STATS = [np.array(v, np.float32) for v in ([1, 2, 0.5], [0.1, 0, -1], [0.2, 0.4, -0.3], [1, 3, 0.2])]

# operator, opset of the file, attributes, constant inputs behind x, outputs
CASES = [
    *[(op, 13, {"axes": [2, 3], "keepdims": 0}, [], 1) for op in REDUCE], *[(op, 17, {"axes": [-1]}, [], 1) for op in REDUCE],
    ("ReduceMean", 11, {"axes": [1]}, [], 1), ("ReduceMax", 13, {}, [], 1), ("ReduceSum", 12, {"axes": [1, -1], "keepdims": 0}, [], 1),
    ("BatchNormalization", 9, {"epsilon": 1e-3}, STATS, 1), ("BatchNormalization", 13, {}, STATS, 1),
    ("RoiAlign", 10, {"output_height": 2, "output_width": 3, "spatial_scale": 0.75}, [ROIS, np.array([0, 1, 1])], 1),
    ("RoiAlign", 15, {"output_height": 3, "output_width": 3, "sampling_ratio": 2, "mode": "max"}, [ROIS, np.array([1, 0, 1])], 1),
    ("Split", 11, {"axis": 1, "split": [1, 2]}, [], 2), ("Split", 12, {"axis": 1}, [], 3), ("Split", 13, {"axis": 2}, [], 2),
    ("Split", 17, {"axis": 3}, [np.array([1, 4, 1])], 3),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, [], 1),
    ("AveragePool", 18, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1}, [], 1),
    ("AveragePool", 10, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [1, 2]}, [], 1),
    ("GridSample", 16, {}, [GRID], 1), ("GridSample", 16, {"mode": "bilinear", "padding_mode": "border"}, [GRID], 1),
    ("GridSample", 16, {"mode": "bicubic", "align_corners": 1}, [GRID], 1), ("GridSample", 19, {"mode": "nearest"}, [GRID], 1),
    ("Softmax", 12, {}, [], 1), ("LogSoftmax", 11, {"axis": 2}, [], 1), ("Hardmax", 12, {"axis": 3}, [], 1),
    ("Squeeze", 11, {"axes": [0]}, [], 1), ("Unsqueeze", 12, {"axes": [1, 4]}, [], 1), ("Clip", 10, {"min": 0.1, "max": 0.9}, [], 1),
    ("Pad", 10, {"pads": [0, 0, 1, 0, 0, 0, 1, 2], "value": 3.0}, [], 1), ("Slice", 9, {"starts": [1, 0], "ends": [5, 2], "axes": [2, 1]}, [], 1),
    ("Upsample", 9, {"mode": "nearest"}, [np.array([1, 1, 2, 1.5], np.float32)], 1), ("Upsample", 8, {"scales": [1.0, 1.0, 2.0, 3.0]}, [], 1),
    ("Upsample", 9, {"mode": "linear"}, [np.array([1, 1, 2, 2], np.float32)], 1),
    ("Resize", 10, {"mode": "nearest"}, [np.array([1, 1, 0.5, 2], np.float32)], 1), ("Dropout", 11, {"ratio": 0.4}, [], 1),
    ("TopK", 9, {"k": 2, "axis": 1}, [], 2), ("LeakyRelu", 8, {"alpha": 0.2}, [], 1), ("Flatten", 9, {"axis": 2}, [], 1),
    ("MaxPool", 10, {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2]}, [], 1), ("InstanceNormalization", 6, {}, STATS[:2], 1),
    ("Resize", 13, {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
     [np.array([], np.float32), np.array([1, 1, 1.5, 2], np.float32)], 1),
]
IR = {**dict.fromkeys(range(1, 10), 3), 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 19: 9, 20: 9, 21: 10}


def declare_shapes(path, feed):
    """onnx.checker wants every output's shape: as ONNX Runtime finds it."""
    m, (names, found) = onnx.load(str(path)), outputs(path, [feed])
    for declared, name, value in zip(m.graph.output, names, found, strict=True):
        declared.CopyFrom(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    onnx.save(m, path)


def build(path, op, opset, attrs, constants, n_out):
    """x -> the operator; z -> MatMul with a constant, whose weight needs the newer opset."""
    batch = 1 if op == "Squeeze" else 2
    names = [f"c{i}" for i in range(len(constants))]
    weights = [onnx.numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)]
    weights.append(onnx.numpy_helper.from_array(np.random.default_rng(2).normal(size=(64, 8)).astype(np.float32), "w"))
    made = [f"y{i}" for i in range(n_out)]
    nodes = [helper.make_node(op, ["x", *names], made, "tested", **attrs), helper.make_node("MatMul", ["z", "w"], ["product"], "product")]
    kinds = {"y1": T.INT64} if op == "TopK" else {}
    inputs = [helper.make_tensor_value_info("x", T.FLOAT, [batch, 3, 6, 6]), helper.make_tensor_value_info("z", T.FLOAT, [2, 64])]
    ir = IR.get(opset, 8)
    if ir < 4:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    outs = [helper.make_tensor_value_info(n, kinds.get(n, T.FLOAT), None) for n in made]
    graph = helper.make_graph(nodes, "g", inputs, [*outs, helper.make_tensor_value_info("product", T.FLOAT, [2, 8])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), path)
    rng = np.random.default_rng(3)
    feed = {"x": rng.uniform(0.05, 1.5, (batch, 3, 6, 6)).astype(np.float32), "z": rng.normal(size=(2, 64)).astype(np.float32)}
    declare_shapes(path, feed)
    return feed


def raised(path, out):
    apply("quantize.weights", path, out, form="dequantize", bits=4, block=16)
    m = onnx.load(str(out))
    onnx.checker.check_model(m, full_check=True)
    assert [(o.domain, o.version) for o in m.opset_import] == [("", 21)] and m.ir_version == 10
    return m


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{len(c[2])}{len(c[3])}")
def test_conversion(tmp_path, case):
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    feed = build(path, *case)
    raised(path, out)
    names, before = outputs(path, [feed])
    assert outputs(out, [feed])[0] == names and len(names) == case[4] + 1
    for a, b in zip(before[:-1], outputs(out, [feed])[1][:-1], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


REFUSED = [
    ("AveragePool", 18, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}, [], 1, "ceil_mode"),
    ("GroupNormalization", 18, {"num_groups": 1}, [np.ones(1, np.float32), np.zeros(1, np.float32)], 1, "one a group"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c[0])
def test_what_cannot_be_converted_stays(tmp_path, case):
    """The opset stays, the weight stays in floating point, and a warning names the node and why."""
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    feed = build(path, *case[:5])
    report = apply("quantize.weights", path, out, form="dequantize", bits=4, block=16)
    said = " ".join(report["warnings"])
    assert case[5] in said and "'tested'" in said, said
    assert onnx.load(str(out)).opset_import[0].version == case[1]
    np.testing.assert_array_equal(outputs(path, [feed])[1][0], outputs(out, [feed])[1][0])


def test_static_raises_too(tmp_path):
    """int4 weights of quantize.static: the opset is 21, and Split and ReduceMean of opset 12 mean what they did."""
    path, out, data = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "x.npz"
    rng, node = np.random.default_rng(4), helper.make_node
    nodes = [node("Conv", ["x", "w"], ["c"], "c"), node("Split", ["x"], ["a", "b"], "s", axis=1), node("Sub", ["a", "b"], ["d"], "d"),
             node("ReduceMean", ["d"], ["m"], "m", axes=[2, 3], keepdims=0)]
    info = helper.make_tensor_value_info
    w = onnx.numpy_helper.from_array(rng.normal(size=(6, 4, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "g", [info("x", T.FLOAT, ["n", 4, 8, 8])], [info("c", T.FLOAT, ["n", 6, 6, 6]), info("m", T.FLOAT, ["n", 2])], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7), path)
    x = rng.normal(size=(16, 4, 8, 8)).astype(np.float32)
    np.savez(data, x=x)
    apply("quantize.static", path, out, data=data, weights="int4", include="c")
    m = onnx.load(str(out))
    onnx.checker.check_model(m, full_check=True)
    assert m.opset_import[0].version == 21 and any(t.data_type == T.INT4 for t in m.graph.initializer)
    before, after = outputs(path, [{"x": x}])[1], outputs(out, [{"x": x}])[1]
    np.testing.assert_allclose(before[1], after[1], atol=0.02)  # of x in 8 bits
    assert np.abs(before[0] - after[0]).max() < 0.3 * np.abs(before[0]).max()
