# SPDX-License-Identifier: Apache-2.0
"""quantize.dynamic: every form it writes is loaded, fused and run by ONNX Runtime, and run by our engine with the same numbers.

Limits  against the float model: SQNR of 30 dB (8-bit weights and activations of random numbers give 36 and more)
        our engine against ONNX Runtime on the same file: rounding of float32, but where activations are quantized again behind a recurrence:
        there one code may differ, which is one part in 255 of the state's range
        DynamicQuantizeLSTM with all of its inputs: against LSTM on the weights that the codes stand for, and against ONNX Runtime
"""
import itertools
import subprocess

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods
from conftest import ROOT
from methods import SHARED, apply, layers, ops, sqnr

RNG = np.random.default_rng(7)
T, B, I, H = 6, 3, 24, 16


def f32(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def model(nodes, inputs, weights, outputs=("y",), opset=13, domains=(), types=None):
    types = types or {}
    info = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()]
    out = [helper.make_tensor_value_info(o, types.get(o, TensorProto.FLOAT), None) for o in outputs]
    graph = helper.make_graph(nodes, "g", info, out, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, 1) for d in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def recurrent(op, gates, directions, full, layout=0):
    w, r = f32(directions, gates * H, I, scale=0.3), f32(directions, gates * H, H, scale=0.3)
    weights = {"W": w, "R": r}
    names = ["x", "W", "R"]
    attrs = {"hidden_size": H, "direction": "bidirectional" if directions == 2 else "forward"}
    if layout:
        attrs["layout"] = 1
    if full:
        weights |= {"Bias": f32(directions, 2 * gates * H, scale=0.1), "lens": np.array([T, T - 2, 1], np.int32), "h0": f32(directions, B, H, scale=0.5)}
        names += ["Bias", "lens", "h0"]
        if op == "LSTM":
            weights |= {"c0": f32(directions, B, H, scale=0.5), "P": f32(directions, 3 * H, scale=0.2)}
            names += ["c0", "P"]
    outputs = ["y", "yh"] + (["yc"] if op == "LSTM" else [])
    node = helper.make_node(op, names, outputs, "cell", **attrs)
    x = f32(B, T, I) if layout else f32(T, B, I)
    return model([node], {"x": x}, weights, outputs, opset=14 if layout else 13), {"x": x}


def products():
    for op, shape, extra in [("MatMul", (5, 32), {}), ("MatMul", (2, 5, 32), {}), ("Gemm", (5, 32), {"transB": 1, "alpha": 0.5, "beta": 2.0}), ("Gemm", (5, 32), {})]:
        w = f32(20, 32) if extra.get("transB") else f32(32, 20)
        names = ["x", "w"] + (["b"] if op == "Gemm" else [])
        weights = {"w": w} | ({"b": f32(20)} if op == "Gemm" else {})
        x = f32(*shape)
        yield f"{op}{len(shape)}{'-scaled' if extra else ''}", (model([helper.make_node(op, names, ["y"], "node", **extra)], {"x": x}, weights), {"x": x})
    for b in ((3, 32, 20), (1, 3, 32, 20)):
        x = f32(*((2,) if len(b) == 4 else ()), 3, 5, 32)
        yield f"MatMul-batched{len(b)}", (model([helper.make_node("MatMul", ["x", "w"], ["y"], "node")], {"x": x}, {"w": f32(*b)}), {"x": x})


def convolutions():
    for name, xs, ws, attrs in [("1d", (2, 8, 20), (12, 8, 3), {"pads": [1, 1]}), ("2d", (2, 8, 9, 9), (6, 8, 3, 3), {"strides": [2, 2]}),
                                ("depthwise", (1, 32, 9, 9), (32, 1, 3, 3), {"group": 32}), ("3d", (1, 4, 6, 6, 6), (8, 4, 3, 3, 3), {})]:
        x = f32(*xs)
        yield f"Conv-{name}", (model([helper.make_node("Conv", ["x", "w", "b"], ["y"], "node", **attrs)], {"x": x}, {"w": f32(*ws), "b": f32(ws[0])}), {"x": x})


def tables():
    for name, shape, axis, index in [("rows", (40, 16), 0, np.array([[0, 39], [7, -1]], np.int64)), ("columns", (16, 40), 1, np.array([3, 0], np.int32)),
                                     ("rows3", (20, 4, 8), 0, np.array(5, np.int64))]:
        yield f"Gather-{name}", (model([helper.make_node("Gather", ["w", "i"], ["y"], "node", axis=axis)], {"i": index}, {"w": f32(*shape)}), {"i": index})


def cells():
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for directions, full in itertools.product((1, 2), (False, True)):
            yield f"{op}{directions}{'-full' if full else ''}", recurrent(op, gates, directions, full)


def attention():
    x = f32(2, 5, 16)
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], "node", domain="com.microsoft", num_heads=4)
    return model([node], {"x": x}, {"w": f32(16, 48), "b": f32(48)}, domains=["com.microsoft"]), {"x": x}


CASES = dict(itertools.chain(products(), convolutions(), tables(), cells(), [("Attention", attention())]))
FORMS = {"MatMul": "MatMulInteger", "Gemm": "MatMulInteger", "Conv": "ConvInteger", "LSTM": "DynamicQuantizeLSTM", "GRU": "DequantizeLinear", "RNN": "DequantizeLinear",
         "Attention": "DequantizeLinear"}
VARIANTS = {"int8": {}, "tensor": {"per_channel": "false"}, "uint8": {"weights": "uint8"}, "uint8-tensor": {"weights": "uint8", "per_channel": "false"}}
ONE_TYPE = ("Conv", "Gather", "Attention", "GRU", "RNN")  # for which the parameter `weights` changes nothing


def kind_of(name):
    return name.split("-")[0].rstrip("0123456789")


def run_ours(folder, feeds):
    """The file folder/model.onnx through our engine."""
    for k, v in enumerate(feeds.values()):
        (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(v)).SerializeToString())
    tool = ROOT / "build/tools/run_cases"
    assert tool.exists(), "build it first: make tools"
    subprocess.run([tool, folder.parent], check=True, timeout=120)
    assert not (folder / "error.txt").exists(), (folder / "error.txt").read_text()
    found = []
    while (path := folder / f"output_{len(found)}.pb").exists():
        found.append(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    return found


def difference(want, got):
    return max(float(np.abs(w.astype(np.float64) - g).max() / max(np.abs(w).max(), 1e-9)) for w, g in zip(want, got, strict=True))


@pytest.mark.parametrize("name,variant", [(n, v) for n in CASES for v in VARIANTS if not (kind_of(n) in ONE_TYPE and "uint8" in v)])
def test_form(tmp_path, name, variant):
    proto, feeds = CASES[name]
    kind = kind_of(name)
    folder = tmp_path / "case"
    folder.mkdir()
    onnx.save(proto, tmp_path / "float.onnx")
    report = apply("quantize.dynamic", tmp_path / "float.onnx", folder / "model.onnx", conv="true", **VARIANTS[variant])
    rows = [r for r in layers(report) if "dtype" in r.get("after", {})]
    assert rows and all("skipped" not in r for r in layers(report))
    assert (folder / "model.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size
    if kind in FORMS:
        assert ops(folder / "model.onnx")[FORMS[kind]] > 0
    if kind == "Conv":
        assert any("slower" in w for w in report["warnings"])
    if kind in ("GRU", "RNN", "Attention"):
        assert all("same speed" in r["after"]["note"] for r in rows)
    want = methods.session(tmp_path / "float.onnx").run(None, feeds)
    got = methods.session(folder / "model.onnx").run(None, feeds)
    assert sqnr(want, got) > 30, sqnr(want, got)
    assert difference(got, run_ours(folder, feeds)) < (0.02 if kind == "LSTM" else 1e-5)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("MatMul", "Gemm"))])
def test_runtime_fuses(tmp_path, name):
    """One kernel for the product: the pattern is the one ONNX Runtime looks for."""
    onnx.save(CASES[name][0], tmp_path / "float.onnx")
    apply("quantize.dynamic", tmp_path / "float.onnx", tmp_path / "out.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    ort.InferenceSession(str(tmp_path / "out.onnx"), options, providers=["CPUExecutionProvider"])
    found = ops(tmp_path / "optimized.onnx")
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 1 and found["MatMulInteger"] == 0, found


def test_no_file_grows(tmp_path):
    """Around the size where codes begin to pay, against the same file with all nodes excluded (both carry a note of what made them)."""
    converted = 0
    for k, n in ((8, 12), (12, 12), (10, 16), (16, 16), (4, 40), (200, 1)):
        x = f32(2, k)
        proto = model([helper.make_node("MatMul", ["x", "w"], ["y"], "node")], {"x": x}, {"w": f32(k, n)})
        onnx.save(proto, tmp_path / "float.onnx")
        apply("quantize.dynamic", tmp_path / "float.onnx", tmp_path / "same.onnx", exclude='["*"]')
        apply("quantize.dynamic", tmp_path / "float.onnx", tmp_path / "out.onnx")
        small = ops(tmp_path / "out.onnx")["MatMulInteger"] > 0
        converted += small
        size = [(tmp_path / f).stat().st_size for f in ("same.onnx", "out.onnx")]
        assert size[1] < size[0] if small else abs(size[1] - size[0]) < 32, (k, n, size)
    assert 0 < converted < 6, converted


# ---- the operator itself ----
def quantized_lstm(directions, dtype, per_channel, with_all, **attrs):
    zero = 128 if dtype == np.uint8 else 0
    shape = (directions, 4 * H) if per_channel else (directions,)
    code = lambda k: (RNG.integers(-60, 60, (directions, k, 4 * H)) + zero).astype(dtype)  # pairs fit 16 bits
    init = {"W": code(I), "R": code(H)}
    names = ["x", "W", "R"] + [""] * 5
    if with_all:
        init |= {"Bias": f32(directions, 8 * H, scale=0.1), "lens": np.array([T, T, T], np.int32), "h0": f32(directions, B, H, scale=0.5), "c0": f32(directions, B, H, scale=0.5),
                 "P": f32(directions, 3 * H, scale=0.2)}
        names[3:8] = ["Bias", "lens", "h0", "c0", "P"]
    for side in "WR":
        init |= {f"{side}s": RNG.uniform(0.002, 0.008, shape).astype(np.float32), f"{side}z": np.full(shape, zero, dtype)}
    node = helper.make_node("DynamicQuantizeLSTM", names + ["Ws", "Wz", "Rs", "Rz"], ["y", "yh", "yc"], domain="com.microsoft", hidden_size=H,
                            direction=attrs.pop("direction", "bidirectional" if directions == 2 else "forward"), **attrs)
    x = f32(T, B, I)
    return model([node], {"x": x}, init, ["y", "yh", "yc"], domains=["com.microsoft"]), {"x": x}


OPERATOR = [dict(directions=d, dtype=t, per_channel=p, with_all=a) for d, t, p, a in itertools.product((1, 2), (np.int8, np.uint8), (False, True), (False, True))]
OPERATOR += [dict(directions=1, dtype=np.int8, per_channel=True, with_all=True, direction="reverse"), dict(directions=1, dtype=np.int8, per_channel=False, with_all=True, clip=0.4),
             dict(directions=1, dtype=np.uint8, per_channel=True, with_all=False, activations=["HardSigmoid", "Softsign", "Relu"]),
             dict(directions=1, dtype=np.int8, per_channel=True, with_all=False, input_forget=1)]


@pytest.mark.parametrize("case", range(len(OPERATOR)))
def test_lstm_operator(tmp_path, case):
    proto, feeds = quantized_lstm(**OPERATOR[case])
    folder = tmp_path / "case"
    folder.mkdir()
    onnx.save(proto, folder / "model.onnx")
    want = methods.session(folder / "model.onnx").run(None, feeds)
    got = run_ours(folder, feeds)
    # a state on the edge between two codes may fall to either side; that is one part in 255, once
    assert difference(want, got) < 0.01, difference(want, got)
    assert np.mean([np.abs(w - g).mean() for w, g in zip(want, got)]) < 5e-4


# ---- whole networks ----
def pair(path, out, feeds):
    return [methods.session(p).run(None, feeds) for p in (path, out)]


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
@pytest.mark.parametrize("weights,least", [("int8", 25), ("uint8", 28)])
def test_speech(tmp_path, weights, least):
    """Two LSTM layers of a denoiser; and voice activity detection, where everything is inside of If."""
    out = tmp_path / "out.onnx"
    path = SHARED / "models/dtln_model_1.onnx"
    apply("quantize.dynamic", path, out, weights=weights)
    assert ops(out)["DynamicQuantizeLSTM"] == 2 and out.stat().st_size < 0.28 * path.stat().st_size
    spec = methods.session(path).get_inputs()
    feeds = {i.name: f32(*[d if isinstance(d, int) else 1 for d in i.shape], scale=0.3) for i in spec}
    assert sqnr(*pair(path, out, feeds)) > least
    path = SHARED / "models/silero_vad.onnx"
    apply("quantize.dynamic", path, out, weights=weights)
    assert out.stat().st_size < 0.8 * path.stat().st_size
    feeds = {"input": f32(1, 576, scale=0.1), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
    want, got = pair(path, out, feeds)
    assert np.abs(want[0] - got[0]).max() < 0.02 and sqnr(want, got) > 30


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
def test_vit_keeps_its_classes(tmp_path):
    """At least ONNX Runtime's own quantizer's agreement with the float model (99.7 %) on the first 2,000 test images, less what 2,000 tell."""
    path, out = SHARED / "models/ours/vit-fashion.onnx", tmp_path / "out.onnx"
    apply("quantize.dynamic", path, out)
    x = methods.load_dataset(SHARED / "models/ours/vit-fashion.test.json")[0][:2000]
    want, got = ([methods.session(p).run(None, {"input": x[i:i + 100].astype(np.float32)})[0].argmax(1) for i in range(0, len(x), 100)] for p in (path, out))
    assert np.mean(np.concatenate(want) == np.concatenate(got)) >= 0.995
