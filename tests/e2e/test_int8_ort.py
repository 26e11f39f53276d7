# SPDX-License-Identifier: Apache-2.0
"""8-bit networks made by ONNX Runtime's quantizer, in both of its forms and every pair of types: the engine's integers against
ONNX Runtime's. Its u8s8 products on AVX2 saturate pair sums unless session.x64quantprecision is set, so it is set here."""
import subprocess

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import shared_data
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from test_ort_parity import made_up, read_outputs, run_pared, write_feeds

SHARED = shared_data()
NAMES = ["mlperftiny_resnet8_cifar10", "mlperftiny_vww_mobilenetv1_025_96", "ours/resnet20-cifar", "ours/shuffle-cifar", "ours/vit-fashion"]
TYPES = {"u8s8": (QuantType.QUInt8, QuantType.QInt8), "s8s8": (QuantType.QInt8, QuantType.QInt8),
         "u8u8": (QuantType.QUInt8, QuantType.QUInt8)}


class Batches(CalibrationDataReader):
    def __init__(self, path):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.batches = iter([made_up(session, seed) for seed in range(3)])

    def get_next(self):
        return next(self.batches, None)


def float_model(name, folder):
    """At opset 13 or later: before it there is no scale per channel."""
    if not SHARED:
        pytest.skip("skipped: no shared data")
    model = onnx.load(SHARED / "models" / f"{name}.onnx")
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 13:
        model = onnx.version_converter.convert_version(model, 13)
    path = folder / "float.onnx"
    onnx.save(model, path)
    return path


def exact_session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def sqnr(want, got):
    noise = ((want.astype(np.float64) - got) ** 2).sum()
    return 10 * np.log10((want.astype(np.float64) ** 2).sum() / max(noise, 1e-30))


def compare(pared, path, tmp_path, step_share=1e-3):
    session = exact_session(path)
    feeds = made_up(session)
    write_feeds(tmp_path / "in", feeds)
    done = run_pared(pared, path, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    again = run_pared(pared, path, tmp_path / "in", tmp_path / "one", threads=1)
    assert again.returncode == 0, again.stderr
    want = session.run(None, feeds)
    for w, g, same in zip(want, read_outputs(tmp_path / "out", len(want)), read_outputs(tmp_path / "one", len(want))):
        assert np.array_equal(g, same), "depends on the thread count"
        assert g.dtype == w.dtype and g.shape == w.shape
        levels = np.unique(w)
        step = np.diff(levels).min() if len(levels) > 1 else 1  # outputs are dequantized: multiples of a scale
        apart = np.abs(g.astype(np.float64) - w) / step
        assert (apart > 0.5).mean() <= step_share and apart.max() < 1.5 and sqnr(w, g) >= 30, f"{100 * (apart > 0.5).mean():.2f} % apart, {sqnr(w, g):.1f} dB"
        assert np.array_equal(g.argmax(-1), w.argmax(-1))
    return want


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("types,per_channel", [("u8s8", False), ("u8s8", True), ("s8s8", True), ("u8u8", False)])
def test_static(pared, tmp_path, name, form, types, per_channel):
    path = float_model(name, tmp_path)
    activation, weight = TYPES[types]
    try:
        quantize_static(path, tmp_path / "q.onnx", Batches(path), quant_format=QuantFormat[form], per_channel=per_channel,
                        activation_type=activation, weight_type=weight)
        exact_session(tmp_path / "q.onnx")
    except Exception as error:  # a form or a pair of types that it does not write or does not read back
        pytest.skip(str(error)[:200])
    compare(pared, tmp_path / "q.onnx", tmp_path)


@pytest.mark.parametrize("name", ["ours/vit-fashion", "mlperftiny_ad01_autoencoder"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic(pared, tmp_path, name, per_channel):
    path = float_model(name, tmp_path)
    quantize_dynamic(path, tmp_path / "q.onnx", per_channel=per_channel, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    session = exact_session(tmp_path / "q.onnx")
    feeds = made_up(session)
    write_feeds(tmp_path / "in", feeds)
    done = run_pared(pared, tmp_path / "q.onnx", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for w, g in zip(want := session.run(None, feeds), read_outputs(tmp_path / "out", len(want))):
        assert sqnr(w, g) >= 30


def test_fused(pared, tmp_path):
    """The integer rows are what runs: no float convolution is left in a quantized network."""
    path = float_model("ours/resnet20-cifar", tmp_path)
    quantize_static(path, tmp_path / "q.onnx", Batches(path), quant_format=QuantFormat.QDQ, per_channel=True)
    done = subprocess.run([pared, "bench", tmp_path / "q.onnx", "--profile", "--runs", "1"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(QConv)") == 21 and "(Conv)" not in done.stdout and "ConvBlocked" not in done.stdout
    assert "(ToChannelsLast)" not in done.stdout
