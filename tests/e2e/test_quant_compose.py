# SPDX-License-Identifier: Apache-2.0
"""Quantization after pruning, after quantization, and undone.

Zeros    what prune.weights set to zero is exactly zero in every quantized form: the zero point is a code. Codes are read with NumPy
Twice    a quantized model is refused by every quantize method with one sentence that names a node and the remedy
Undone   quantize.dequantize of what ONNX Runtime's own quantizers and ours write: loads in ONNX Runtime, is a float model, computes what the
         quantized model did to the noise that 8-bit activations make, and quantize.static works on it again
"""
import json
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods
from methods import DIGITS, SHARED, apply, layers, outputs, sqnr

MODEL = DIGITS / "digits-cnn.onnx"
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QGemm", "QLinearMatMul",
             "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "MatMulNBits", "GatherBlockQuantized"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.npz"
    np.savez(path, x=methods.spread(methods.load_dataset(DIGITS / "train.npz")[0], 16))
    return path


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    path = tmp_path_factory.mktemp("pruned") / "pruned.onnx"
    apply("prune.weights", MODEL, path, sparsity=0.6)
    return path


def feeds(data, model=MODEL):
    return methods.feeds_of(model, np.load(data)["x"])


def known_methods():
    text = subprocess.run([methods.PARED, "methods", "--json"], capture_output=True, text=True)
    if text.returncode == 0:
        try:
            found = json.loads(text.stdout)
            return {m["name"] for m in (found if isinstance(found, list) else found.get("methods", []))}
        except json.JSONDecodeError:
            pass
    text = subprocess.run([methods.PARED, "methods"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in text.splitlines() if line.split() and "." in line.split()[0]}


def zeros_of(path):
    """Of each product's weight, in the order of the nodes: the sorted number of zeros and elements."""
    return [(int((numpy_helper.to_array(w) == 0).sum()), int(np.prod(w.dims))) for _, w in methods.product_weights(path) if w is not None]


FORMS = [("quantize.static", {}), ("quantize.static", {"activations": "int8"}), ("quantize.static", {"weights": "uint8", "per_channel": "false"}),
         ("quantize.static", {"format": "qoperator"}), ("quantize.static", {"format": "qoperator", "weights": "uint8"}),
         ("quantize.static", {"symmetric_weights": "false", "weights": "uint8", "per_channel": "false"}),
         ("quantize.static", {"calibrator": "mse"}),
         ("quantize.dynamic", {}), ("quantize.dynamic", {"conv": "true"}), ("quantize.dynamic", {"per_channel": "false"}),
         ("quantize.fp16", {}), ("quantize.bf16", {}), ("quantize.weights", {}), ("quantize.weights", {"bits": 8}), ("quantize.weights", {"bits": 4})]


@pytest.mark.parametrize("method,params", FORMS, ids=lambda v: v.split(".")[1] if isinstance(v, str) else "-".join(map(str, v.values())) or "default")
def test_zeros_stay(pruned, data, tmp_path, method, params):
    if method not in known_methods():
        pytest.skip(f"this build has no {method}")
    out, back = tmp_path / "q.onnx", tmp_path / "f.onnx"
    needs = {"data": data} if method == "quantize.static" else {}
    apply(method, pruned, out, **needs, **params)
    if QUANTIZED & set(methods.ops(out)):
        apply("quantize.dequantize", out, back)
        assert not QUANTIZED & set(methods.ops(back))
    else:
        back = out
    before, after = zeros_of(pruned), zeros_of(back)
    assert [n for _, n in after] == [n for _, n in before]
    # rounding may add zeros, never take one away
    assert all(a >= b for (a, _), (b, _) in zip(after, before)), (before, after)
    want = {tuple(sorted(w.dims)): numpy_helper.to_array(w) for _, w in methods.product_weights(pruned)}
    for node, w in methods.product_weights(back):
        got, float_ = numpy_helper.to_array(w).astype(np.float32), want[tuple(sorted(w.dims))]
        if got.shape != float_.shape:
            float_ = float_.T
        assert (got[float_ == 0] == 0).all(), node.name


QUANTIZERS = ["quantize.static", "quantize.dynamic", "quantize.weights", "quantize.fp16", "quantize.bf16", "quantize.auto"]


@pytest.mark.parametrize("first,params", [("quantize.static", {}), ("quantize.static", {"format": "qoperator"}), ("quantize.dynamic", {}),
                                          ("quantize.weights", {})], ids=["qdq", "qoperator", "dynamic", "weights"])
def test_twice(data, tmp_path, first, params):
    if first not in known_methods():
        pytest.skip(f"this build has no {first}")
    apply(first, MODEL, tmp_path / "q.onnx", **({"data": data} if first == "quantize.static" else {}), **params)
    for method in [m for m in QUANTIZERS if m in known_methods()]:
        with pytest.raises(RuntimeError) as caught:
            apply(method, tmp_path / "q.onnx", tmp_path / "again.onnx", data=data)
        assert "quantized already" in str(caught.value) and method in str(caught.value) and "quantize.dequantize" in str(caught.value), method


def back_again(model, quantized, data, tmp_path, floor, again=True):
    report = apply("quantize.dequantize", quantized, tmp_path / "float.onnx")
    assert not QUANTIZED & set(methods.ops(tmp_path / "float.onnx")), methods.ops(tmp_path / "float.onnx")
    f = feeds(data, model)
    names, was = outputs(quantized, f)
    got_names, got = outputs(tmp_path / "float.onnx", f)
    assert names == got_names
    assert sqnr(was, got) > floor, sqnr(was, got)
    if again:
        apply("quantize.static", tmp_path / "float.onnx", tmp_path / "again.onnx", data=data, samples=16)
        assert methods.eight_bit_share(tmp_path / "again.onnx") > 0.9
        assert sqnr(got, outputs(tmp_path / "again.onnx", f)[1]) > 20
    return report


@pytest.mark.parametrize("params", [{}, {"activations": "int8"}, {"format": "qoperator"}, {"per_channel": "false", "weights": "uint8"}],
                         ids=lambda p: "-".join(p.values()) or "default")
def test_static_undone(data, tmp_path, params):
    apply("quantize.static", MODEL, tmp_path / "q.onnx", data=data, samples=16, **params)
    back_again(MODEL, tmp_path / "q.onnx", data, tmp_path, 25)


def test_dynamic_undone(data, tmp_path):
    apply("quantize.dynamic", MODEL, tmp_path / "q.onnx", conv="true")
    report = back_again(MODEL, tmp_path / "q.onnx", data, tmp_path, 30)
    assert {"MatMulInteger", "ConvInteger"} <= {r["before"].get("operator") for r in layers(report) if r.get("before")}


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("activation,per_channel", [("QUInt8", False), ("QInt8", True)])
def test_onnxruntime_static_undone(data, tmp_path, form, activation, per_channel):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{name: x[i:i + 1] for name, x in f.items()} for f in feeds(data) for i in range(len(next(iter(f.values()))))])

        def get_next(self):
            return next(self.left, None)
    quantize_static(str(MODEL), str(tmp_path / "q.onnx"), Reader(), quant_format=getattr(QuantFormat, form),
                    activation_type=getattr(QuantType, activation), weight_type=QuantType.QInt8, per_channel=per_channel)
    report = apply("quantize.dequantize", tmp_path / "q.onnx", tmp_path / "float.onnx")
    assert not QUANTIZED & set(methods.ops(tmp_path / "float.onnx"))
    was, got = (outputs(tmp_path / p, feeds(data))[1] for p in ("q.onnx", "float.onnx"))
    assert sqnr(was, got) > 15 and report  # its full 8-bit weights saturate on CPUs without VNNI
    apply("quantize.static", tmp_path / "float.onnx", tmp_path / "again.onnx", data=data, samples=16)
    assert sqnr(got, outputs(tmp_path / "again.onnx", feeds(data))[1]) > 20


def test_onnxruntime_dynamic_undone(data, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(str(MODEL), str(tmp_path / "q.onnx"), weight_type=QuantType.QUInt8)
    back_again(MODEL, tmp_path / "q.onnx", data, tmp_path, 25)


def model_of(nodes, inputs, outputs_, weights, opset=17):
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs_],
                              [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)], ir_version=8)


def undone(path, tmp_path, feed, limit):
    apply("quantize.dequantize", path, tmp_path / "float.onnx")
    assert not QUANTIZED & set(methods.ops(tmp_path / "float.onnx"))
    was, got = outputs(path, [feed])[1], outputs(tmp_path / "float.onnx", [feed])[1]
    assert sqnr(was, got) > limit


def test_lstm_undone(tmp_path):
    """DynamicQuantizeLSTM, as ONNX Runtime's quantizer makes it of an LSTM."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    rng = np.random.default_rng(3)
    weights = {"W": rng.standard_normal((2, 32, 6)).astype(np.float32) * 0.3, "R": rng.standard_normal((2, 32, 8)).astype(np.float32) * 0.3,
               "B": rng.standard_normal((2, 64)).astype(np.float32) * 0.1}
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], "lstm", hidden_size=8, direction="bidirectional")
    onnx.save(model_of([node], [("x", TensorProto.FLOAT, [5, 2, 6])], ["y"], weights), tmp_path / "m.onnx")
    quantize_dynamic(str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    assert methods.ops(tmp_path / "q.onnx")["DynamicQuantizeLSTM"] == 1
    undone(tmp_path / "q.onnx", tmp_path, {"x": rng.standard_normal((5, 2, 6)).astype(np.float32)}, 30)


def test_attention_undone(tmp_path):
    """QAttention, as ONNX Runtime's quantizer makes it of an Attention."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    rng = np.random.default_rng(4)
    weights = {"W": rng.standard_normal((16, 48)).astype(np.float32) * 0.2, "B": rng.standard_normal(48).astype(np.float32) * 0.1}
    node = helper.make_node("Attention", ["x", "W", "B"], ["y"], "attention", domain="com.microsoft", num_heads=4)
    onnx.save(model_of([node], [("x", TensorProto.FLOAT, [2, 5, 16])], ["y"], weights), tmp_path / "m.onnx")
    quantize_dynamic(str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), weight_type=QuantType.QUInt8, op_types_to_quantize=["Attention"])
    assert methods.ops(tmp_path / "q.onnx")["QAttention"] == 1
    undone(tmp_path / "q.onnx", tmp_path, {"x": rng.standard_normal((2, 5, 16)).astype(np.float32)}, 30)


def test_optimized_dynamic_undone(data, tmp_path):
    """What ONNX Runtime's optimizer leaves when it saves a model: DynamicQuantizeMatMul and MatMulIntegerToFloat."""
    import onnxruntime as ort
    rng = np.random.default_rng(5)
    weights = {"W": rng.standard_normal((48, 70)).astype(np.float32), "b": rng.standard_normal(70).astype(np.float32),
               "V": rng.standard_normal((48, 50)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "W"], ["p"], "one"), helper.make_node("Add", ["p", "b"], ["y"]),
             helper.make_node("MatMul", ["x", "V"], ["z"], "two")]
    onnx.save(model_of(nodes, [("x", TensorProto.FLOAT, [3, 48])], ["y", "z"], weights), tmp_path / "m.onnx")
    apply("quantize.dynamic", tmp_path / "m.onnx", tmp_path / "q.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opt.onnx")
    ort.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & set(methods.ops(tmp_path / "opt.onnx"))
    undone(tmp_path / "opt.onnx", tmp_path, {"x": rng.standard_normal((3, 48)).astype(np.float32)}, 30)


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
@pytest.mark.parametrize("name,form", [("ours/mobilenetv3ish-fashion", "qdq"), ("ours/shuffle-cifar", "qoperator"), ("ours/vit-fashion", "qoperator")])
def test_models_undone(tmp_path, name, form):
    model = SHARED / f"models/{name}.onnx"
    data = tmp_path / "d.npz"
    np.savez(data, x=methods.spread(methods.load_dataset(SHARED / f"models/{name}.calib.json")[0], 16))
    apply("quantize.static", model, tmp_path / "q.onnx", data=data, samples=16, format=form)
    back_again(model, tmp_path / "q.onnx", data, tmp_path, 25, again=False)
