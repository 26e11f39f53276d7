# SPDX-License-Identifier: Apache-2.0
"""Calibration needs no more memory for many samples than for few, and the file made does not depend on the thread count."""
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PARED = Path(os.environ.get("PARED", ROOT / "build/pared"))
SAMPLES = 200


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Six convolutions of 16 channels over 96 x 96 pixels, and uint8 pictures: 590 KB a value, 5.5 MB of pictures."""
    folder, rng = tmp_path_factory.mktemp("calibration"), np.random.default_rng(0)
    nodes, weights, x, channels = [], [], "x", 3
    for i in range(6):
        weights.append(numpy_helper.from_array(rng.normal(0, (2 / (channels * 9)) ** 0.5, (16, channels, 3, 3)).astype(np.float32), f"w{i}"))
        nodes += [helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1] * 4), helper.make_node("Relu", [f"c{i}"], [f"r{i}"])]
        x, channels = f"r{i}", 16
    nodes += [helper.make_node("GlobalAveragePool", [x], ["g"]), helper.make_node("Flatten", ["g"], ["y"])]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 96, 96]), ("y", ["N", 16]))]
    model = helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "d.npz", x=rng.integers(0, 256, (SAMPLES, 96, 96, 3), np.uint8))
    return folder


def quantize(folder, calibrator, samples, threads=2):
    out = folder / f"{calibrator}{samples}{threads}"
    done = subprocess.run([PARED, "run", folder / "m.onnx", "--data", folder / "d.npz", "--out", out, "--threads", str(threads), "--no-latency", "--quiet",
                           "--step", f"quantize.static calibrator={calibrator} samples={samples}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "report.json").read_text())["steps"][0]["peak_rss_bytes"], hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()


@pytest.mark.parametrize("calibrator", ["minmax", "moving_average", "percentile", "entropy", "mse"])
def test_memory_is_flat(case, calibrator):
    few, _ = quantize(case, calibrator, 10)
    many, made = quantize(case, calibrator, SAMPLES)
    assert many <= few * 1.2 + 6e6  # the pictures themselves are pages of a mapped file
    assert many <= (48 << 20) + (16 << 20) + 14 * (64 << 10) + 6e6
    assert quantize(case, calibrator, SAMPLES, 1)[1] == made
