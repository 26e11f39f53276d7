# SPDX-License-Identifier: Apache-2.0
"""Codes chosen by what layers read: files run by ONNX Runtime, their error on samples that were not used for choosing.

quantize.weights  gptq, awq and hqq against rtn at the same bits, block and bytes, and gptq against ONNX Runtime's own GPTQ where that runs
quantize.adaround before quantize.static, against quantize.static alone, 4 and 8 bits
"""
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import methods
from methods import SHARED, apply, layers, outputs

D, HIDDEN, TOKENS, HEADS = 64, 192, 12, 4


def transformer(path):
    """Two pre-norm blocks (attention, Gelu by Erf) over [batch, tokens, D], weights drawn; LayerNormalization with outlying channels."""
    rng = np.random.default_rng(7)
    nodes, weights = [], []

    def const(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(kind, *inputs, **attrs):
        out = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attrs))
        return out

    def dense(x, name, n_in, n_out):
        w = rng.standard_normal((n_in, n_out)) * np.exp(0.4 * rng.standard_normal((n_in, n_out))) / np.sqrt(n_in)
        y = op("MatMul", x, const(f"{name}.weight", w.astype(np.float32)))
        return op("Add", y, const(f"{name}.bias", (0.1 * rng.standard_normal(n_out)).astype(np.float32)))

    def norm(x, name):
        gamma = np.exp(0.8 * rng.standard_normal(D)).astype(np.float32)
        return op("LayerNormalization", x, const(f"{name}.g", gamma), const(f"{name}.b", (0.2 * rng.standard_normal(D)).astype(np.float32)))

    split = const("split", np.array([0, 0, HEADS, D // HEADS], np.int64))
    join = const("join", np.array([0, 0, D], np.int64))
    root = const("root", np.array((D // HEADS) ** -0.5, np.float32))
    half, one, sqrt2 = const("half", np.float32(0.5)), const("one", np.float32(1)), const("sqrt2", np.float32(2 ** 0.5))
    x = "x"
    for b in range(2):
        n = norm(x, f"b{b}.n1")
        q, k, v = (op("Transpose", op("Reshape", dense(n, f"b{b}.{part}", D, D), split), perm=[0, 2, 1, 3]) for part in "qkv")
        scores = op("Softmax", op("Mul", op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2])), root), axis=-1)
        mixed = op("Reshape", op("Transpose", op("MatMul", scores, v), perm=[0, 2, 1, 3]), join)
        x = op("Add", x, dense(mixed, f"b{b}.o", D, D))
        h = dense(norm(x, f"b{b}.n2"), f"b{b}.up", D, HIDDEN)
        gelu = op("Mul", op("Mul", h, half), op("Add", op("Erf", op("Div", h, sqrt2)), one))
        x = op("Add", x, dense(gelu, f"b{b}.down", HIDDEN, D))
    y = dense(x, "head", D, 10)
    shape = ["batch", TOKENS, D]
    graph = helper.make_graph(nodes, "transformer", [helper.make_tensor_value_info("x", T.FLOAT, shape)],
                              [helper.make_tensor_value_info(y, T.FLOAT, ["batch", TOKENS, 10])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def tokens(seed, n):
    """Inputs with correlated channels, as embeddings have them."""
    mix = np.random.default_rng(1).standard_normal((D // 3, D))
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, TOKENS, D // 3)) @ mix / 4 + 0.3 * rng.standard_normal((n, TOKENS, D))).astype(np.float32)


class Model:
    def __init__(self, path, calibration, test):
        self.path, self.calibration, self.feeds = path, calibration, test
        self.float = outputs(path, test)[1]

    def error(self, path):
        got = outputs(path, self.feeds)[1]
        return sum(((a.astype(np.float64) - b) ** 2).sum() for a, b in zip(self.float, got, strict=True)) / sum(a.size for a in self.float)


@pytest.fixture(scope="module", params=["transformer", "vit", "magika"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gptq")
    if request.param == "transformer":
        transformer(folder / "t.onnx")
        np.savez(folder / "t.npz", x=tokens(2, 64))
        return Model(folder / "t.onnx", folder / "t.npz", [{"x": tokens(3, 64)}])
    if not SHARED:
        pytest.skip("no shared data")
    if request.param == "vit":
        x, _ = methods.load_dataset(SHARED / "models/ours/vit-fashion.test.json")
        path = SHARED / "models/ours/vit-fashion.onnx"
        return Model(path, SHARED / "models/ours/vit-fashion.calib.json", methods.feeds_of(path, x[:200]))
    path = SHARED / "models/magika_standard_v3_3.onnx"
    spec = methods.session(path).get_inputs()[0]
    files = [p for kind in ("*.md", "probes/**/*", "tools/*", "models/*", "models/ours/*", "models/structures/*", "data/**/*") for p in sorted(SHARED.glob(kind))]
    texts = [p.read_bytes()[:100 << i % 11] for i, p in enumerate(p for p in files if p.is_file())]
    size = spec.shape[1] if isinstance(spec.shape[1], int) else 2048

    def bytes_of(raw):
        """First and last half of a file, as the network wants them: 256 stands for nothing."""
        part = size // 2
        row = np.full(size, 256, np.int32)
        row[:min(part, len(raw))] = np.frombuffer(raw[:part], np.uint8)
        tail = np.frombuffer(raw[-part:], np.uint8)
        row[size - len(tail):] = tail
        return row

    rows = np.stack([bytes_of(t) for t in texts])
    np.savez(folder / "m.npz", **{spec.name: rows[::3][:40]})
    return Model(path, folder / "m.npz", [{spec.name: rows[1::3][:32]}])


@pytest.fixture(scope="module")
def rtn(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("rtn") / "rtn.onnx"
    report = apply("quantize.weights", model.path, out, bits=4, block=32, algorithm="rtn")
    assert methods.ops(out)["MatMulNBits"] > 0, layers(report)
    return out, model.error(out)


@pytest.mark.parametrize("algorithm", ["gptq", "awq", "hqq"])
def test_below_rtn_at_equal_bytes(model, rtn, algorithm, tmp_path):
    out, (base, base_error) = tmp_path / "q.onnx", rtn
    if algorithm == "awq" and model.path.name.startswith("magika"):
        pytest.skip("nothing before its large products takes scales, and it takes long")
    apply("quantize.weights", model.path, out, data=None if algorithm == "hqq" else model.calibration, bits=4, block=32, algorithm=algorithm)
    error = model.error(out)
    print(f"{model.path.stem}: {algorithm} {error / base_error:.3f} of rtn's error")
    assert abs(out.stat().st_size - base.stat().st_size) <= 0.002 * base.stat().st_size + 1000
    assert methods.ops(out)["MatMulNBits"] == methods.ops(base)["MatMulNBits"]
    assert error < base_error


def test_not_above_onnx_runtimes_gptq(model, rtn, tmp_path):
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": tokens(2, 64)[i:i + 8]} for i in range(0, 64, 8)]

        def get_next(self):
            return self.left.pop(0) if self.left else None

        def rewind(self):
            self.__init__()

    if model.path.name != "t.onnx":
        pytest.skip("ONNX Runtime's GPTQ fails on it")
    theirs = tmp_path / "theirs.onnx"
    try:
        config = quantizer.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(), percdamp=0.01, block_size=32)
        q = quantizer.MatMulNBitsQuantizer(onnx.load(model.path), block_size=32, is_symmetric=False, algo_config=config)
        q.process()
        q.model.save_model_to_file(str(theirs))
    except Exception as e:
        pytest.skip(f"ONNX Runtime's GPTQ does not run here: {e}")
    ours = tmp_path / "ours.onnx"
    apply("quantize.weights", model.path, ours, data=model.calibration, bits=4, block=32, algorithm="gptq")
    print(f"gptq {model.error(ours) / rtn[1]:.3f}, ONNX Runtime's {model.error(theirs) / rtn[1]:.3f} of rtn's error")
    assert methods.ops(ours)["MatMulNBits"] >= methods.ops(theirs)["MatMulNBits"]
    assert model.error(ours) <= model.error(theirs)


def run_steps(model, out, *steps):
    with tempfile.TemporaryDirectory() as folder:
        command = [methods.PARED, "run", str(model.path), "--data", str(model.calibration), "--out", folder, "--no-latency", "--quiet"]
        for step in steps:
            command += ["--step", step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        out.write_bytes(Path(folder, "model.onnx").read_bytes())
        return json.loads(Path(folder, "report.json").read_text())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = methods.DIGITS / "digits-cnn.onnx"
    x = np.load(methods.DIGITS / "train.npz")["x"].astype(np.float32)
    return Model(path, methods.DIGITS / "train.npz", methods.feeds_of(path, x[1::7]))


@pytest.mark.parametrize("algorithm", ["gptq", "adaround"])
@pytest.mark.parametrize("weights,most", [("int4", 0.7), ("int8", 1.02)])
def test_adaround_under_static(digits, weights, most, algorithm, tmp_path):
    """8-bit weights: the error is that of the activations, so only that it does not grow is asked for."""
    plain, ours = tmp_path / "plain.onnx", tmp_path / "ours.onnx"
    run_steps(digits, plain, f"quantize.static weights={weights}")
    report = run_steps(digits, ours, f"quantize.adaround weights={weights} algorithm={algorithm} iterations=300 samples=128",
                       f"quantize.static weights={weights}")
    ratio = digits.error(ours) / digits.error(plain)
    print(f"{weights} {algorithm}: {ratio:.3f} of the error without")
    rows = [row for row in layers(report) if "grid" in (row.get("after") or {})]
    assert rows and all(row["after"]["output_error_ratio"] < 1 for row in rows)
    assert ratio <= most
    assert abs(ours.stat().st_size - plain.stat().st_size) <= 0.02 * plain.stat().st_size


@pytest.mark.parametrize("samples,few", [(8, True), (400, False)])
def test_few_samples_are_told(digits, samples, few, tmp_path):
    report = run_steps(digits, tmp_path / "out.onnx", f"quantize.weights algorithm=gptq samples={samples}")
    assert any("fewer sample rows" in w and f"samples is {samples}" in w for w in report["warnings"]) == few, report["warnings"]
