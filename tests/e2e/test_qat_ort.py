# SPDX-License-Identifier: Apache-2.0
"""train.qat against ONNX Runtime: the file that comes out computes what the trainer saw, in floats and in integers, also with
4-bit weights in convolutions; it is the form that went in, and nearer to the float model."""
import json
import subprocess

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from methods import DIGITS, PARED

MODEL = DIGITS / "digits-cnn.onnx"
FORMS = ["weights=int8", "weights=int4", "weights=uint4 activations=int8", "weights=int8 per_channel=false activations=uint16"]


def split(tmp_path):
    """Noisy digits, so that the losses are far from 0: training and validation files."""
    z = np.load(DIGITS / "train.npz")
    x, y = z["x"].astype(np.float32), z["y"]
    x = x + np.random.default_rng(1).normal(0, 0.25 * x.std(), x.shape).astype(np.float32)
    half = len(x) // 2
    np.savez(tmp_path / "train.npz", x=x[:half], y=y[:half])
    np.savez(tmp_path / "val.npz", x=x[half:], y=y[half:])
    return x[half:], y[half:]


def run(tmp_path, *steps, out="out", check=True):
    words = [w for s in steps for w in ("--step", s)]
    done = subprocess.run([PARED, "run", str(MODEL), *words, "--data", str(tmp_path / "train.npz"), "--val-data",
                           str(tmp_path / "val.npz"), "--out", str(tmp_path / out), "--no-latency", "--quiet"],
                          capture_output=True, text=True, timeout=300)
    if check:
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / out / "report.json").read_text())
    return done


def logits(path, x, simulate=True):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if simulate:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    s = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return s.run(None, {s.get_inputs()[0].name: x})[0]


def cross_entropy(z, y):
    z = z.reshape(len(z), -1)
    z = z - z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))


@pytest.mark.parametrize("form", FORMS)
def test_file_computes_what_was_trained(tmp_path, form):
    x, y = split(tmp_path)
    report = run(tmp_path, f"quantize.static {form}", "train.qat distill=false epochs=2 batch=32 keep=last lr=0.0005")
    training = report["steps"][1]["details"]["training"]
    kept = training["epochs"][training["kept_epoch"] - 1]
    z = logits(tmp_path / "out/model.onnx", x)
    assert cross_entropy(z, y) == pytest.approx(kept["val_loss"], rel=2e-3)
    fused = logits(tmp_path / "out/model.onnx", x, simulate=False)
    assert cross_entropy(fused, y) == pytest.approx(kept["val_loss"], rel=1e-2)


def test_form_is_what_went_in(tmp_path):
    split(tmp_path)
    run(tmp_path, "quantize.static weights=int4", out="ptq")
    run(tmp_path, "quantize.static weights=int4", "train.qat epochs=1 batch=32", out="qat")
    a, b = (onnx.load(tmp_path / f / "model.onnx") for f in ("ptq", "qat"))
    assert [(n.op_type, n.domain, list(n.input), list(n.output)) for n in a.graph.node] == [
        (n.op_type, n.domain, list(n.input), list(n.output)) for n in b.graph.node]
    assert {(t.name, t.data_type, tuple(t.dims)) for t in a.graph.initializer} == {
        (t.name, t.data_type, tuple(t.dims)) for t in b.graph.initializer}
    assert a.opset_import == b.opset_import and a.ir_version == b.ir_version
    assert {t.data_type for t in b.graph.initializer} >= {onnx.TensorProto.INT4}


def test_nearer_to_the_float_model(tmp_path):
    x, _ = split(tmp_path)
    want = logits(MODEL, x)
    run(tmp_path, "quantize.static weights=int4", out="ptq")
    run(tmp_path, "quantize.static weights=int4", "train.qat epochs=8 batch=32", out="qat")
    error = [float(np.mean((logits(tmp_path / f / "model.onnx", x) - want) ** 2)) for f in ("ptq", "qat")]
    assert error[1] < 0.6 * error[0], error


def test_pruned_weights_stay_zero(tmp_path):
    split(tmp_path)
    run(tmp_path, "prune.weights sparsity=0.7", "quantize.static weights=int4", "train.qat epochs=2 batch=32", out="qat")
    codes = [t for t in onnx.load(tmp_path / "qat/model.onnx").graph.initializer if t.data_type == onnx.TensorProto.INT4]
    zeros, count = (sum(f(onnx.numpy_helper.to_array(t)) for t in codes) for f in (lambda a: int((a == 0).sum()), np.size))
    assert zeros / count > 0.69


@pytest.mark.parametrize("steps,says", [
    (["train.qat"], "needs quantize.static"),
    (["quantize.weights", "train.qat"], "form=dequantize"),
    (["quantize.static format=qoperator", "train.qat"], "format=qdq"),
    (["quantize.static", "train.qat batch_norm=insert"], "folded BatchNormalization"),
    (["quantize.static", "train.qat freeze_after=2"], "freeze_after"),
    (["quantize.static", "train.qat scale_lr=0"], "scale_lr"),
])
def test_refused(tmp_path, steps, says):
    split(tmp_path)
    done = run(tmp_path, *steps, check=False)
    assert done.returncode in (1, 2)
    assert says in done.stderr
