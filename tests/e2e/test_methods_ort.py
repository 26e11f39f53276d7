# SPDX-License-Identifier: Apache-2.0
"""Every kind of artifact, made by `pared run`, is loaded and run by ONNX Runtime and compared with the original model.

Limits  graph.optimize   1e-5 of the largest output: float32 rounding (6e-8) of folded weights over some ten to hundred layers
        prune.weights    the weights are those NumPy leaves: the smallest magnitudes zero, equal ones in order, everything else bit for bit
        quantize.fp16    1e-2 of the largest output
        quantize.*       SQNR not more than 1 dB (dynamic: and one bit, see GUARD_DB) below ONNX Runtime's own quantizer's on the same samples,
                         where it has one that works, and at least 15 dB: noise of 3 % of the output's power, beyond which classes flip
        int8 activations as uint8: both have 256 codes and differ by a shift of 128
"""
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import methods
import quant_accuracy
from methods import SHARED, apply, layers, outputs, sqnr, worst

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
REAL = ["mnist-8", "mlperftiny_resnet8_cifar10", "winml-cifar10-ImageClassifier", "squeezenet_fp32_from_fp16", "mlperftiny_vww_mobilenetv1_025_96",
        "version-RFB-320"]
STRUCTURES = ["keras_sequential", "mobilenet_v2_bn"]
NAMES = ["digits-cnn"] + (REAL + STRUCTURES if SHARED else [])
# Random weights and inputs: their logits are almost constant, so noise weighs more than in a trained network. Detection heads of RFB-320 on noise too.
LOW_SQNR = {"mobilenet_v2_bn": 8, "version-RFB-320": 12}
# ONNX Runtime's quantizer is run beside ours where that takes a second or two
YARDSTICK = {"digits-cnn", "mnist-8", "mlperftiny_resnet8_cifar10", "winml-cifar10-ImageClassifier", "keras_sequential"}


class Case:
    """A model, 16 calibration samples and the float outputs on them."""

    def __init__(self, name, folder):
        self.name = name
        self.path = methods.DIGITS / "digits-cnn.onnx"
        calibration = methods.DIGITS / "train.npz"
        if name in STRUCTURES:
            self.path = folder / f"{name}.onnx"
            fill = SHARED / "tools/fill_weights.py"
            subprocess.run([sys.executable, fill, SHARED / f"models/structures/{name}.onnx.gz", self.path], check=True, capture_output=True)
        elif name in REAL:
            self.path, calibration = SHARED / f"models/{name}.onnx", SHARED / f"models/{name}.calib.json"
        if calibration.exists() and name not in STRUCTURES:
            self.samples = methods.spread(methods.load_dataset(calibration)[0], 16)
        else:  # none ships with it: seeded noise
            shape = [d if isinstance(d, int) else 64 for d in methods.session(self.path).get_inputs()[0].shape[1:]]
            self.samples = np.random.default_rng(1).standard_normal([4] + shape)
        self.samples = self.samples.astype(np.float32)
        self.data = folder / f"{name}.npz"
        np.savez(self.data, x=self.samples)
        self.feeds = methods.feeds_of(self.path, self.samples)
        self.names, self.float = outputs(self.path, self.feeds)

    def compare(self, out):
        names, got = outputs(out, self.feeds)
        assert names == self.names
        return got


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in made:
            made[name] = Case(name, folder)
        return made[name]
    return get


@pytest.mark.parametrize("name", NAMES)
def test_optimize(cases, tmp_path, name):
    case, out = cases(name), tmp_path / "out.onnx"
    apply("graph.optimize", case.path, out)
    assert worst(case.float, case.compare(out)) < 1e-5
    before, after = methods.ops(case.path), methods.ops(out)
    assert after.total() <= before.total() and not {"Identity", "Dropout", "Constant"} & set(after)
    assert "BatchNormalization" not in after
    if name == "keras_sequential":
        assert after["Conv"] == 3 and after["MaxPool"] == 2 and after["Gemm"] + after["MatMul"] == 2 and after["Relu"] == 4 and after["Transpose"] <= 2
        assert not {"Cast", "Add", "Shape", "Gather"} & set(after), after


@pytest.mark.parametrize("name", NAMES)
def test_prune(cases, tmp_path, name):
    case, out = cases(name), tmp_path / "out.onnx"
    report = apply("prune.weights", case.path, out, sparsity=0.5)
    before = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(case.path).graph.initializer}
    seen = set()
    for node, weight in methods.product_weights(out):
        if weight is None or weight.name in seen or not weight.name in before:
            continue
        seen.add(weight.name)
        want = before[weight.name].copy()
        flat = want.reshape(-1)
        flat[np.argsort(np.abs(flat), kind="stable")[:int(np.rint(0.5 * flat.size))]] = 0
        assert np.array_equal(onnx.numpy_helper.to_array(weight), want), node.name
    assert len(seen) >= len([r for r in layers(report) if "skipped" not in r]) - methods.ops(out)["Constant"]
    assert all(np.isfinite(g).all() for g in case.compare(out))


# Weights that cannot saturate take at most twice the scale (pairs add up to 128, not 254): one bit. ONNX Runtime's take the full range.
GUARD_DB = 20 * np.log10(254 / 128)


def floor_db(case, tmp_path, make, products=None, allow=0.0):
    """What the SQNR must reach: ONNX Runtime's quantizer's less 1 dB and `allow` if it can (and quantizes as many products), and a fixed floor."""
    floor = LOW_SQNR.get(case.name, 15)
    if case.name in YARDSTICK:
        try:
            make(tmp_path / "ort.onnx")
            if products is None or methods.ops(tmp_path / "ort.onnx")["MatMulInteger"] == products:
                floor = max(floor, sqnr(case.float, case.compare(tmp_path / "ort.onnx")) - 1 - allow)
        except Exception as error:  # its quantizer or its loader refuses: no yardstick
            print(f"{case.name}: ONNX Runtime's quantizer: {type(error).__name__}")
    return floor


@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_dynamic(cases, tmp_path, name, per_channel):
    case, out = cases(name), tmp_path / "out.onnx"
    report = apply("quantize.dynamic", case.path, out, per_channel=str(per_channel).lower())
    done = [r for r in layers(report) if "dtype" in r.get("after", {})]
    counts = methods.ops(out)
    assert counts["MatMulInteger"] == len(done) and counts["DynamicQuantizeLinear"] <= len(done) and counts["ConvInteger"] == 0
    assert all("skipped" in r or "folded_into" in r["after"] for r in layers(report) if r not in done)
    floor = floor_db(case, tmp_path, lambda to: methods.ort_dynamic(case.path, to, per_channel), len(done), GUARD_DB)
    got = sqnr(case.float, case.compare(out))
    assert got >= floor, f"{got:.1f} dB, wanted {floor:.1f}"
    if not done:
        assert got > 100  # nothing was changed but for folded constants


def test_dynamic_convolutions(cases, tmp_path):
    """On request, as uint8: ONNX Runtime has no ConvInteger with int8 weights."""
    case, out = cases("digits-cnn"), tmp_path / "out.onnx"
    report = apply("quantize.dynamic", case.path, out, conv="true")
    assert methods.ops(out)["ConvInteger"] > 0 and any("slower" in w for w in report["warnings"])
    assert all(w.data_type == onnx.TensorProto.UINT8 for n, w in methods.product_weights(out) if n.op_type == "ConvInteger")
    assert sqnr(case.float, case.compare(out)) > 20


@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_static(cases, tmp_path, name, per_channel):
    case, form = cases(name), str(per_channel).lower()
    isa = "vnni" if methods.has_vnni() else "portable"  # with it sums of ONNX Runtime's file do not saturate, and ours need no spare bit
    apply("quantize.static", case.path, tmp_path / "u8.onnx", data=case.data, samples=16, per_channel=form, isa=isa)
    apply("quantize.static", case.path, tmp_path / "s8.onnx", data=case.data, samples=16, per_channel=form, isa=isa, activations="int8")
    floor = floor_db(case, tmp_path, lambda to: methods.ort_static(case.path, to, case.samples, per_channel))
    u8, s8 = case.compare(tmp_path / "u8.onnx"), case.compare(tmp_path / "s8.onnx")
    got = sqnr(case.float, u8)
    assert got >= floor, f"{got:.1f} dB, wanted {floor:.1f}"
    assert sqnr(case.float, s8) >= max(floor, got) - 1
    for file in ("u8.onnx", "s8.onnx"):
        assert methods.eight_bit_share(tmp_path / file) >= 0.95


@pytest.mark.parametrize("name", NAMES)
def test_fp16(cases, tmp_path, name):
    case, out = cases(name), tmp_path / "out.onnx"
    apply("quantize.fp16", case.path, out)
    assert worst(case.float, case.compare(out)) < 1e-2
    stored = onnx.load(out).graph.initializer
    float32 = sum(int(np.prod(t.dims)) for t in stored if t.data_type == onnx.TensorProto.FLOAT)
    assert float32 <= 0.05 * sum(int(np.prod(t.dims)) for t in stored)
    made = {o: n.op_type for n in onnx.load(out).graph.node for o in n.output}
    assert not any(n.op_type == "Cast" and made.get(n.input[0]) == "Cast" for n in onnx.load(out).graph.node)


RECIPES = [("graph.optimize", {}), ("prune.weights", {"sparsity": 0.5, "scope": "global"}), ("quantize.dynamic", {}), ("quantize.static", {"samples": 16}),
           ("quantize.static", {"samples": 16, "per_channel": "false", "activations": "int8"}), ("quantize.fp16", {})]
CALIBRATORS = ["minmax", "moving_average", "percentile", "entropy", "mse"]
RECIPES += [("quantize.static", {"samples": 16, "calibrator": c}) for c in CALIBRATORS[1:]]


@pytest.mark.parametrize("name", [n for n in ("digits-cnn", "mlperftiny_resnet8_cifar10") if n in NAMES])
@pytest.mark.parametrize("method,params", RECIPES, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())) or "default")
def test_same_bytes(cases, tmp_path, name, method, params):
    """Twice, and with one thread and with two."""
    case, found = cases(name), set()
    for threads in (1, 2, 2):
        apply(method, case.path, tmp_path / "out.onnx", data=case.data, threads=threads, **params)
        found.add(hashlib.sha256(Path(tmp_path / "out.onnx").read_bytes()).hexdigest())
    assert len(found) == 1


def product_in_8_bits(x, w, bias, per_channel):
    """x w + bias with uint8 codes of x by its own range and int8 codes of w. The scale of w keeps every code within 127 and every sum of two
    neighbours of one sign within 128, so that two products with 255 fit into 16 bits."""
    even, odd = w[0:len(w) // 2 * 2:2], w[1::2]
    pair = np.where(np.sign(even) == np.sign(odd), np.abs(even + odd), 0)
    axis = 0 if per_channel else None
    s = np.maximum(np.abs(w).max(axis=axis) / 127, pair.max(axis=axis) / 128)
    lo, hi = min(x.min(), 0), max(x.max(), 0)
    a = (hi - lo) / 255
    zero = np.rint(-lo / a)
    return (np.clip(np.rint(x / a) + zero, 0, 255) - zero) * a @ (np.rint(w / s) * s) + bias


@pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
def test_dynamic_noise_is_that_of_8_bits(tmp_path, per_channel):
    """lenet300-mnist, three matrices, on unit noise: the SQNR is what NumPy gives for 8-bit codes of the same weights and activations, so
    what is lost is the format's, neither the writer's nor a saturated sum's. Within 1 dB: our codes are rounded so that errors of inputs
    that are alike cancel, which on unit noise costs or wins some tenths."""
    model, out = SHARED / "models/ours/lenet300-mnist.onnx", tmp_path / "out.onnx"
    apply("quantize.dynamic", model, out, per_channel=str(per_channel).lower())
    x = np.random.default_rng(0).standard_normal((16, 784)).astype(np.float32)
    feeds = methods.feeds_of(model, x)
    want, got = outputs(model, feeds)[1], outputs(out, feeds)[1]
    graph = onnx.load(model).graph
    weights = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    gemms = [n for n in graph.node if n.op_type == "Gemm"]
    h = x.astype(np.float64)
    for n in gemms:
        w = weights[n.input[1]]
        h = product_in_8_bits(h, w.T if any(a.name == "transB" and a.i for a in n.attribute) else w, weights[n.input[2]], per_channel)
        h = np.maximum(h, 0) if n is not gemms[-1] else h
    expected = sqnr(want, [h])
    print(f"per {'channel' if per_channel else 'tensor'}: {sqnr(want, got):.2f} dB, NumPy {expected:.2f} dB")
    assert abs(sqnr(want, got) - expected) < 1


@pytest.mark.parametrize("kind", ["", "int8", "symmetric"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_calibrators(tmp_path, calibrator, kind):
    """Each one's file keeps the accuracy on the test set, in ONNX Runtime; the report names the calibrator; and no scale of an activation
    is wider than min-max's, but for rounding."""
    model, data, test = quant_accuracy.paths("digits-cnn")
    params = {"": {}, "int8": {"activations": "int8"}, "symmetric": {"activations": "int8", "symmetric": "true"}}[kind]
    x, y = methods.load_dataset(test)
    scales = {}
    for c in ("minmax", calibrator):
        report = apply("quantize.static", model, tmp_path / f"{c}.onnx", data=data, calibrator=c, **params)
        assert report["steps"][0]["parameters"]["calibrator"] == c
        m = onnx.load(tmp_path / f"{c}.onnx")
        value = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
        scales[c] = {n.input[0]: float(value[n.input[1]]) for n in m.graph.node if n.op_type == "QuantizeLinear"}
    before, after = quant_accuracy.classes(model, x), quant_accuracy.classes(tmp_path / f"{calibrator}.onnx", x)
    print(f"{calibrator} {kind}: top-1 {(before == y).mean():.2%} -> {(after == y).mean():.2%}, agreement {(before == after).mean():.2%}")
    assert (after == y).mean() >= (before == y).mean() - 0.005 and (before == after).mean() >= 0.98
    assert scales[calibrator].keys() == scales["minmax"].keys() and len(scales["minmax"]) > 2
    assert all(s <= scales["minmax"][name] * (1 + 1e-6) for name, s in scales[calibrator].items())
    if calibrator == "moving_average":
        assert any(s < scales["minmax"][name] for name, s in scales[calibrator].items())


def test_percentile_is_numpys(tmp_path):
    """The scale of the model's input against numpy.percentile of the samples, to a bin of the histogram."""
    model, data, _ = quant_accuracy.paths("digits-cnn")
    x = np.random.default_rng(4).standard_normal((64,) + np.load(data)["x"].shape[1:]).astype(np.float32)
    np.savez(tmp_path / "noise.npz", x=x)
    for share in (99.0, 99.9, 100.0):
        apply("quantize.static", model, tmp_path / "out.onnx", data=tmp_path / "noise.npz", samples=64, calibrator="percentile", percentile=share)
        m = onnx.load(tmp_path / "out.onnx")
        value = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
        scale = next(float(value[n.input[1]]) for n in m.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == m.graph.input[0].name)
        low, high = np.percentile(x.astype(np.float64), [(100 - share) / 2, (100 + share) / 2])
        assert abs(scale - (high - low) / 255) <= 2 * 2 * 8 / 8192 / 255 + 1e-2 * (share < 100) * scale, share


@pytest.mark.parametrize("name", ["digits-cnn"] + (["mnist-8", "mlperftiny_resnet8_cifar10"] if SHARED else []))
def test_accuracy(name):
    """The short form of `make quant-accuracy`: three models, each in the form ONNX Runtime can quantize too."""
    f = quant_accuracy.measure(name, "default" if name != "mnist-8" else "tensor")
    print(quant_accuracy.HEADER + "\n" + f.line())
    assert not f.missed(), f.line()
