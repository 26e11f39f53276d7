# SPDX-License-Identifier: Apache-2.0
"""The engine against ONNX Runtime: every shared model gives the same outputs, and the same bytes with any number of threads.

Differences are judged relative to the output's largest value: 1e-4 for float32, 1e-2 for float16 models. Models that need
operators the engine does not have are listed, not failed: that list is what `pared` says about them."""
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import shared_data

SHARED = shared_data()
MODELS = sorted(p for d in ("models", "models/ours") for p in (SHARED / d).glob("*.onnx")) if SHARED else []
STRUCTURES = sorted((SHARED / "models/structures").glob("*.onnx.gz")) if SHARED else []
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64,
          "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


def made_up(session, seed=7):
    """Seeded inputs: normal floats, small integers; unknown dims become 1 (first) or a size that convolutions like."""
    rng = np.random.default_rng(seed)
    feeds = {}
    other = 512 if any(x.name == "sr" for x in session.get_inputs()) else 64  # silero_vad takes 512 samples of sound
    for x in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else (1 if i == 0 or x.name == "state" else other) for i, d in enumerate(x.shape)]
        dtype = DTYPES[x.type]
        if np.issubdtype(dtype, np.floating):
            feeds[x.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[x.name] = np.asarray(rng.integers(0, 2 if dtype is np.bool_ else 10, shape)).astype(dtype)
    if "sr" in feeds:
        feeds["sr"] = np.asarray(16000, np.int64)  # the sampling rate
        feeds["state"] *= 0  # as at the start of a recording; a random one gives scores of 1e-4, ORT's sigmoid has 1e-4 of error there
    return feeds


def write_feeds(folder, feeds):
    folder.mkdir()
    for i, (name, array) in enumerate(feeds.items()):
        (folder / f"input_{i}.pb").write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())


def read_outputs(folder, n):
    out = []
    for i in range(n):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"output_{i}.pb").read_bytes())
        out.append(onnx.numpy_helper.to_array(tensor))
    return out


def run_pared(pared, model, folder, out, threads=2):
    return subprocess.run([pared, "eval", model, "--data", folder, "--outputs", f"{out}/", "--threads", str(threads)],
                          capture_output=True, text=True, timeout=300)


def session_of(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def assert_parity(pared, model, tmp_path):
    session = session_of(model)
    feeds = made_up(session)
    write_feeds(tmp_path / "in", feeds)
    done = run_pared(pared, model, tmp_path / "in", tmp_path / "out")
    if done.returncode and "missing" in done.stderr:
        print(f"cannot run {model.name}: {done.stderr.strip()}", file=sys.stderr)
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    want = session.run(None, feeds)
    got = read_outputs(tmp_path / "out", len(want))
    half = any(x.type == "tensor(float16)" for x in session.get_inputs() + session.get_outputs()) or "fp16" in model.name
    for x, g, w in zip(session.get_outputs(), got, want):
        assert g.dtype == w.dtype and g.shape == w.shape, x.name
        if not np.issubdtype(w.dtype, np.floating):
            assert (g == w).all(), x.name
            continue
        scale = max(np.abs(w.astype(np.float64)).max(initial=0), 1e-30)
        worst = np.abs(g.astype(np.float64) - w.astype(np.float64)).max(initial=0) / scale
        assert worst <= (1e-2 if half else 1e-4), f"{x.name}: {worst:.3g} of its largest value"


def test_shared_data_present(shared):
    assert MODELS


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.stem)
def test_parity(pared, model, tmp_path):
    assert_parity(pared, model, tmp_path)


@pytest.mark.parametrize("packed", STRUCTURES, ids=lambda p: p.name.split(".")[0])
def test_parity_structures(pared, packed, tmp_path):
    model = tmp_path / packed.name[:-3]
    subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", packed, model], check=True, capture_output=True)
    assert_parity(pared, model, tmp_path)


@pytest.mark.parametrize("name", ["ours/resnet20-cifar", "ours/mobilenetv3ish-fashion", "ours/vit-fashion", "mnist-8"])
def test_thread_count_changes_no_bit(pared, shared, name, tmp_path):
    model = shared / "models" / f"{name}.onnx"
    write_feeds(tmp_path / "in", made_up(session_of(model)))
    for threads in (1, 2, 3):
        done = run_pared(pared, model, tmp_path / "in", tmp_path / f"out{threads}", threads)
        assert done.returncode == 0, done.stderr
    files = sorted(p.name for p in (tmp_path / "out1").iterdir())
    assert files
    for f in files:
        one = (tmp_path / "out1" / f).read_bytes()
        assert one == (tmp_path / "out2" / f).read_bytes() == (tmp_path / "out3" / f).read_bytes()


def test_npz_outputs_join_batches(pared, shared, tmp_path):
    """Outputs of many batches are one array a name, whatever the batch size; NumPy reads them."""
    model = shared / "models/ours/digits-cnn.onnx"
    data = shared / "data/digits-test.npz"
    x = np.load(data)
    n = 50
    for batch in (1, 7, 32):
        out = tmp_path / f"{batch}.npz"
        done = subprocess.run([pared, "eval", model, "--data", data, "--limit", str(n), "--batch", str(batch), "--outputs", out],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    a, b, c = (np.load(tmp_path / f"{k}.npz") for k in (1, 7, 32))
    session = session_of(model)
    assert set(a.files) == {o.name for o in session.get_outputs()}
    name = a.files[0]
    assert a[name].shape[0] == n
    np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a[name], c[name], rtol=1e-4, atol=1e-5)
    labels = x["y"][:n]
    assert (a[name].argmax(1) == labels).mean() > 0.95


@pytest.mark.parametrize("name,figure", [("mnist-8", 0.9891), ("ours/lenet5-mnist", 0.9942), ("ours/digits-cnn", 0.998)])
def test_accuracy_is_the_known_one(pared, shared, name, figure):
    import json
    done = subprocess.run([pared, "eval", shared / f"models/{name}.onnx", "--data", shared / f"models/{name}.test.json", "--json"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert abs(json.loads(done.stdout)["metrics"]["top1"] - figure) < 0.0003


def test_bench_and_diff_json(pared, shared):
    import json
    model = shared / "models/ours/digits-cnn.onnx"
    done = subprocess.run([pared, "bench", model, "--runs", "20", "--threads", "1", "--json"], capture_output=True, text=True)
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and set(facts) == {"p50_ms", "p90_ms", "p99_ms", "runs", "threads", "batch"}
    assert facts["runs"] == 20 and 0 < facts["p50_ms"] <= facts["p90_ms"] <= facts["p99_ms"]
    done = subprocess.run([pared, "diff", model, model, "--json"], capture_output=True, text=True)
    facts = json.loads(done.stdout)
    assert facts["first_difference"] is None and facts["outputs"][0]["max_abs"] == 0
    assert all(layer["max_abs"] == 0 for layer in facts["layers"])


def test_wrong_input_is_said(pared, shared, tmp_path):
    write_feeds(tmp_path / "in", {"input": np.zeros((2, 3, 32, 32), np.float32)})
    done = run_pared(pared, shared / "models/mnist-8.onnx", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("pared: ") and done.stderr.count("\n") == 1
    assert "[1,1,28,28]" in done.stderr
