# SPDX-License-Identifier: Apache-2.0
"""Every sample of every operator, computed by the engine (tests/tools/op_samples.c), against ONNX Runtime; for opsets it no
longer runs: after onnx's converter, by onnx's reference evaluator, or by the standard's formula in numpy."""
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import onnxruntime as ort
import pytest

ROOT = Path(__file__).resolve().parents[2]
RANDOM = ("Random", "Bernoulli", "Multinomial")


@pytest.fixture(scope="module")
def samples():
    out = ROOT / "build/op_samples"
    shutil.rmtree(out, ignore_errors=True)
    tool = ROOT / "build/tools/op_samples"
    assert tool.exists(), "build it first: make tools"
    done = subprocess.run([tool, out], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    return sorted(p for p in out.iterdir() if p.is_dir())


def tensors(folder, kind):
    out = []
    while (path := folder / "test_data_set_0" / f"{kind}_{len(out)}.pb").exists():
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.read_bytes())
        out.append((tensor.name, onnx.numpy_helper.to_array(tensor)))
    return out


def by_ort(model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def by_converted(model, feeds):
    """Old opsets, brought to one that ONNX Runtime runs by onnx's own converter."""
    return by_ort(onnx.version_converter.convert_version(onnx.shape_inference.infer_shapes(model), 8), feeds)


def by_formula(model, feeds):
    """What none of them knows, mostly operators of opset 1: the standard's words in numpy."""
    node, (x, *rest) = model.graph.node[0], feeds.values()
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rest += [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    if node.op_type == "LRN":  # even sizes: ONNX Runtime refuses them, and onnx 1.23's evaluator loops over the batch
        before, after = (attrs["size"] - 1) // 2, attrs["size"] // 2
        square = np.stack([(x[:, max(0, c - before):c + after + 1] ** 2).sum(1) for c in range(x.shape[1])], 1)
        return [x / (attrs.get("bias", 1) + attrs.get("alpha", 1e-4) / attrs["size"] * square) ** attrs.get("beta", 0.75)]
    if node.op_type == "BiasAdd":
        return [x + rest[0] + rest[1]]
    if node.op_type == "BiasSplitGelu":
        left, right = np.split((x + rest[-1]).astype(np.float64), 2, -1)
        return [(left * right * 0.5 * (1 + np.vectorize(math.erf)(right / math.sqrt(2)))).astype(x.dtype)]
    if node.op_type == "GlobalLpPool":
        return [(np.abs(x) ** attrs["p"]).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / attrs["p"])]
    if node.op_type == "Cast":
        return [x.astype(getattr(np, attrs["to"].decode().lower()))]
    if node.op_type == "Split":
        return np.split(x, len(node.output), attrs["axis"])
    if node.op_type == "Tile":
        repeats = [1] * x.ndim
        repeats[int(rest[1])] = int(rest[0])
        return [np.tile(x, repeats)]
    if node.op_type == "QLinearReduceMean":  # ONNX Runtime knows the schema and has no kernel
        x_scale, x_zero, y_scale, y_zero = (r.astype(np.float32) for r in rest)
        mean = ((x.astype(np.float32) - x_zero) * x_scale).mean(tuple(attrs["axes"]), keepdims=bool(attrs["keepdims"]))
        bounds = np.iinfo(x.dtype)
        return [np.clip(np.rint(mean / y_scale) + y_zero, bounds.min, bounds.max).astype(x.dtype)]
    fn = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "And": np.logical_and,
          "Or": np.logical_or, "Xor": np.logical_xor, "Equal": np.equal, "Greater": np.greater, "Less": np.less}[node.op_type]
    axis = attrs.get("axis", x.ndim - rest[0].ndim)
    return [fn(x, rest[0].reshape(rest[0].shape + (1,) * (x.ndim - axis - rest[0].ndim)))]


def by_reference(model, feeds):
    assert model.graph.node[0].op_type != "LRN"
    return onnx.reference.ReferenceEvaluator(model).run(None, feeds)


def expected(folder):
    """(outputs, None) or (None, reason)."""
    model = onnx.load(folder / "model.onnx")
    feeds = dict(tensors(folder, "input"))
    reasons = []
    for way in (by_ort, by_converted, by_reference, by_formula):
        try:
            return way(model, feeds), None
        except Exception as error:  # not registered for this opset or dtype
            reasons.append(str(error).splitlines()[0][:90] if str(error) else type(error).__name__)
    return None, " / ".join(reasons)


# Quantized while running: a number within rounding of a tie gets the next code, and a recurrent state carries it on.
TOLERANCE = {"com.microsoft.DynamicQuantizeLSTM": 5e-3}


def difference(want, got, tolerance=1e-4):
    """None, or what differs."""
    want, got = np.asarray(want), np.asarray(got)
    if want.dtype == np.uint8 and got.dtype.name.startswith("float8"):  # ONNX Runtime hands out their bytes
        got = got.view(np.uint8)
    if want.shape != got.shape:
        return f"shape {got.shape}, expected {want.shape}"
    if want.dtype != got.dtype:
        return f"dtype {got.dtype}, expected {want.dtype}"
    if want.size == 0 or want.dtype.kind in "iub":
        return None if np.array_equal(want, got) else f"{got.ravel()[:8]}, expected {want.ravel()[:8]}"
    tolerance = tolerance if want.dtype.itemsize >= 4 else 1e-2
    a, b = want.astype(np.float64), got.astype(np.float64)
    scale = np.max(np.abs(a[np.isfinite(a)]), initial=1e-6)
    close = np.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return None if close.all() else f"{b[~close].ravel()[:6]}, expected {a[~close].ravel()[:6]}"


def test_operators_agree(samples):
    wrong, unchecked, checked = [], [], 0
    for folder in samples:
        if folder.name.startswith(RANDOM):
            continue
        want, reason = expected(folder)
        if want is None:
            unchecked.append(f"{folder.name}: {reason}")
            continue
        checked += 1
        got = [array for _, array in tensors(folder, "output")]
        tolerance = TOLERANCE.get(folder.name.rsplit("_", 2)[0], 1e-4)
        faults = [f"output {i}: {d}" for i, (w, g) in enumerate(zip(want, got)) if (d := difference(w, g, tolerance))]
        if len(want) != len(got) or faults:
            wrong.append(f"{folder.name}: {'; '.join(faults) or 'number of outputs'}")
    print(f"{checked} samples agree or are below; {len(unchecked)} without a reference:")
    print("\n".join(unchecked))
    assert not wrong, "\n" + "\n".join(wrong)
    assert not unchecked


def test_random_is_seeded(samples):
    """Random operators: dtype and shape as ONNX Runtime says, values in range, and the same on every run."""
    for folder in (f for f in samples if f.name.startswith(RANDOM)):
        (_, got), = tensors(folder, "output")
        want, reason = expected(folder)
        if want is not None:
            assert got.shape == want[0].shape and got.dtype == want[0].dtype, folder.name
        if folder.name.startswith("RandomUniform"):
            assert got.min() >= 0 and got.max() < 1
        if folder.name.startswith("Bernoulli"):
            assert set(np.unique(got)) <= {0, 1} and got[0, 0] == 0 and got[0, 1] == 1
