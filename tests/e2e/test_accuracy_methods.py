# SPDX-License-Identifier: Apache-2.0
"""quantize.equalize, quantize.smooth, recover.bias_correction and quantize.static preset=accurate, judged by ONNX Runtime.

The first two must leave what a float model computes as it is: 1e-5 of the largest output. All must make files that ONNX Runtime loads,
alone and in front of quantize.static, and preset=accurate may not agree less with the float model than the default does.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import methods
from methods import SHARED, apply, layers, ops, outputs, sqnr, worst

OURS = ["digits-cnn", "resnet20-cifar", "mobilenetv3ish-fashion", "shuffle-cifar", "densenet-fashion", "vit-fashion"]
OTHERS = ["mlperftiny_resnet8_cifar10", "mlperftiny_vww_mobilenetv1_025_96", "squeezenet_fp32_from_fp16", "version-RFB-320", "mnist-8"]
STRUCTURES = ["mobilenet_v2_bn"]


def path_of(name, folder):
    if name == "digits-cnn":
        return methods.DIGITS / "digits-cnn.onnx"
    if not SHARED:
        pytest.skip("no shared data")
    if name in STRUCTURES:
        out = folder / f"{name}.onnx"
        subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", SHARED / f"models/structures/{name}.onnx.gz", out], check=True,
                       capture_output=True)
        return out
    return SHARED / "models" / ("ours" if name in OURS else "") / f"{name}.onnx"


def noise(path, n=4):
    spec = methods.session(path).get_inputs()[0]
    shape = [d if isinstance(d, int) else 64 for d in spec.shape[1:]]
    return np.random.default_rng(5).standard_normal([n] + shape).astype(np.float32)


@pytest.mark.parametrize("name,words", [(n, {}) for n in OURS + OTHERS] + [(n, {"clip": "caps"}) for n in STRUCTURES])
def test_equalize_keeps_the_function(tmp_path, name, words):
    path, out = path_of(name, tmp_path), tmp_path / "out.onnx"
    report = apply("quantize.equalize", path, out, **words)
    feeds = methods.feeds_of(path, noise(path))
    assert worst(outputs(path, feeds)[1], outputs(out, feeds)[1]) < 1e-5
    scaled = [row for row in layers(report) if "scaled_outputs" in row.get("after", {})]
    assert scaled or name in ("densenet-fashion", "vit-fashion")  # normalisations or GELU before every layer
    if name == "mobilenet_v2_bn":
        assert not ops(out)["Clip"] and ops(out)["Min"]


@pytest.mark.parametrize("name", ["digits-cnn", "vit-fashion", "densenet-fashion", "mobilenetv3ish-fashion"])
@pytest.mark.parametrize("alpha", [0.5, 1])
def test_smooth_keeps_the_function(tmp_path, name, alpha):
    path, out, data = path_of(name, tmp_path), tmp_path / "out.onnx", tmp_path / "x.npz"
    x = noise(path, 8)
    np.savez(data, x=x)
    report = apply("quantize.smooth", path, out, data=data, alpha=alpha)
    feeds = methods.feeds_of(path, x)
    assert worst(outputs(path, feeds)[1], outputs(out, feeds)[1]) < 1e-5
    assert any("input_factors" in row.get("after", {}) for row in layers(report))


def chain(path, out, data, *steps):
    """Several steps in one recipe."""
    with tempfile.TemporaryDirectory() as folder:
        command = [methods.PARED, "run", str(path), "--data", str(data), "--out", folder, "--no-latency", "--quiet"]
        for step in steps:
            command += ["--step", step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        Path(out).write_bytes(Path(folder, "model.onnx").read_bytes())


@pytest.mark.parametrize("first", ["quantize.equalize", "quantize.smooth", "recover.bias_correction mode=fast", "recover.bias_correction"])
def test_in_front_of_static(tmp_path, first):
    path, data, test = methods.DIGITS / "digits-cnn.onnx", methods.DIGITS / "train.npz", methods.DIGITS / "test.npz"
    plain, out = tmp_path / "plain.onnx", tmp_path / "out.onnx"
    x, y = methods.load_dataset(test)
    feeds = methods.feeds_of(path, x)
    want = outputs(path, feeds)[1]
    chain(path, plain, data, "quantize.static")
    chain(path, out, data, first, "quantize.static")
    got = outputs(out, feeds)[1]
    assert methods.eight_bit_share(out) == 1
    assert sqnr(want, got) > sqnr(want, outputs(plain, feeds)[1]) - 1.5
    assert (got[0].argmax(1) == want[0].argmax(1)).mean() > 0.99


def high_bias_model(path, bias):
    """Convolution, convolution without padding and a matrix, all with channels that lie far above zero in front of Relu."""
    r, t = np.random.default_rng(3), onnx.numpy_helper.from_array
    high = np.zeros(8)
    high[::2] = bias
    w = {"w1": r.normal(0, .3, (8, 3, 3, 3)), "b1": r.normal(0, .5, 8) + high, "w2": r.normal(0, .1, (8, 8, 3, 3)),
         "w3": r.normal(0, .1, (128, 10)), "b3": r.normal(0, .5, 10)}
    w["b2"] = r.normal(0, .5, 8) + 2 * high - np.tensordot(w["w2"].sum((2, 3)), high, 1)
    w["b3"] -= np.repeat(2 * high, 16) @ w["w3"]
    node = onnx.helper.make_node
    nodes = [node("Conv", ["x", "w1", "b1"], ["c1"], "c1"), node("Relu", ["c1"], ["r1"]), node("Conv", ["r1", "w2", "b2"], ["c2"], "c2"),
             node("Relu", ["c2"], ["r2"]), node("Flatten", ["r2"], ["f"]), node("Gemm", ["f", "w3", "b3"], ["g"], "g"),
             node("Relu", ["g"], ["y"])]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "high", [info("x", 1, ["n", 3, 8, 8])], [info("y", 1, ["n", 10])],
                                   [t(v.astype(np.float32), k) for k, v in w.items()])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)


def test_high_biases_are_absorbed(tmp_path):
    path, flat, data = tmp_path / "in.onnx", tmp_path / "float.onnx", tmp_path / "x.npz"
    high_bias_model(path, 20)
    x = np.random.default_rng(7).standard_normal((96, 3, 8, 8)).astype(np.float32)
    np.savez(data, x=x[:64])
    report = apply("quantize.equalize", path, flat, data=data)
    feeds = methods.feeds_of(path, x[:64])
    want = outputs(path, feeds)[1]
    assert worst(want, outputs(flat, feeds)[1]) < 1e-5
    rows = [row for row in layers(report) if "absorbed_channels" in row.get("after", {})]
    assert [row["node"] for row in rows] == ["c1", "c2"] and all(row["after"]["absorbed_channels"] == 4 for row in rows)
    assert rows[0]["after"]["absorbed_into"] == ["c2"] and rows[1]["after"]["absorbed_into"] == ["g"]
    # 8 bits: on samples that were not seen too
    feeds, noise = methods.feeds_of(path, x[64:]), []
    want = outputs(path, feeds)[1]
    for name, first in (("plain", []), ("kept", ["quantize.equalize absorb=false"]), ("absorbed", ["quantize.equalize"])):
        chain(path, tmp_path / f"{name}.onnx", data, *first, "quantize.static")
        noise.append(sqnr(want, outputs(tmp_path / f"{name}.onnx", feeds)[1]))
    assert worst(want, outputs(flat, feeds)[1]) < 0.05
    print(f"without {noise[0]:.1f} dB, equalized {noise[1]:.1f} dB, biases absorbed too {noise[2]:.1f} dB")
    assert noise[2] > max(noise[:2]) + 6


def test_bias_correction_brings_the_mean_back(tmp_path):
    path, data = methods.DIGITS / "digits-cnn.onnx", methods.DIGITS / "train.npz"
    plain, out = tmp_path / "plain.onnx", tmp_path / "out.onnx"
    feeds = methods.feeds_of(path, methods.spread(methods.load_dataset(data)[0], 128))
    want = outputs(path, feeds)[1][0].mean(0)
    chain(path, plain, data, "quantize.static")
    chain(path, out, data, "recover.bias_correction", "quantize.static")
    shift = [np.abs(outputs(p, feeds)[1][0].mean(0) - want).max() for p in (plain, out)]
    assert shift[1] < 0.5 * shift[0]


@pytest.mark.parametrize("name", ["digits-cnn", "mlperftiny_resnet8_cifar10"])
def test_accurate(tmp_path, name):
    path, out, plain = path_of(name, tmp_path), tmp_path / "out.onnx", tmp_path / "plain.onnx"
    data = methods.DIGITS / "train.npz" if name == "digits-cnn" else SHARED / f"models/{name}.calib.json"
    test = methods.DIGITS / "test.npz" if name == "digits-cnn" else SHARED / f"models/{name}.test.json"
    x = methods.load_dataset(test)[0][:1000]
    report = apply("quantize.static", path, out, data=data, preset="accurate", samples=64)
    apply("quantize.static", path, plain, data=data, samples=64)
    feeds = methods.feeds_of(path, x)
    want, got, default = (outputs(p, feeds)[1][0].reshape(len(x), -1) for p in (path, out, plain))
    tried = [row for row in layers(report) if "output_sqnr_db" in row.get("before", {})]
    assert len(tried) >= 3 and all("kept" in row["after"] for row in tried)
    assert (got.argmax(1) == want.argmax(1)).mean() >= (default.argmax(1) == want.argmax(1)).mean() - 0.002
    assert sqnr([want], [got]) > sqnr([want], [default]) - 0.5
    assert methods.eight_bit_share(out) >= 0.95
