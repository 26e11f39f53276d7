# SPDX-License-Identifier: Apache-2.0
"""train.distill through `pared run`: a network pruned by half of its channels learns from the original, mostly without labels;
ONNX Runtime runs the results."""
import json
import subprocess

import numpy as np
import onnx
import pytest
from methods import DIGITS, PARED, outputs

MODEL = DIGITS / "digits-cnn.onnx"


def apply(folder, steps, data, *args):
    command = [PARED, "run", str(MODEL), "--data", str(data), "--out", str(folder), "--no-latency", "--quiet", *map(str, args)]
    for step in steps:
        command += ["--step", step]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def result(folder, steps, data, *args):
    done = apply(folder, steps, data, *args)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def top1(model, z):
    x = z["x"].astype(np.float32)
    name = onnx.load(str(model)).graph.input[0].name
    return float((outputs(model, [{name: x}])[1][0].argmax(1) == z["y"]).mean())


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, x=np.load(DIGITS / "train.npz")["x"])
    return path


HALF = "prune.channels ratio=0.5 recover=none"


@pytest.mark.parametrize("words", [
    "epochs=8",
    "epochs=8 soft=mse",
    "epochs=8 attention=1000 relational=10",
    "epochs=8 augment={}",
])
def test_without_labels(tmp_path, unlabelled, words):
    test = np.load(DIGITS / "test.npz")
    result(tmp_path / "pruned", [HALF], unlabelled)
    report = result(tmp_path / "out", [HALF, f"train.distill lr=0.02 {words}"], unlabelled)
    before, after, full = (top1(m, test) for m in (tmp_path / "pruned/model.onnx", tmp_path / "out/model.onnx", MODEL))
    print(f"{words}: {full:.4f} pruned {before:.4f} distilled {after:.4f}")
    assert after >= 0.95 * full and after > before
    said = report["steps"][1]["details"]["distillation"]
    assert said["teacher"] == "original" and said["labels"] is False and said["alpha"] == 1
    assert said["outputs"][0]["loss"] == ("mse" if "mse" in words else "kl")
    assert said["cache"]["kept"] == "float32" and said["cache"]["runs"] <= len(np.load(unlabelled)["x"])
    assert ("attention" in said) == ("attention" in words) and ("relational" in said) == ("relational" in words)


def test_same_bytes(tmp_path, unlabelled):
    """Thread count and cache change nothing that matters: the first not a byte."""
    steps = [HALF, "train.distill epochs=2"]
    models = []
    for k, args in enumerate((["--threads", 1], ["--threads", 2])):
        result(tmp_path / f"{k}", steps, unlabelled, *args)
        models.append((tmp_path / f"{k}/model.onnx").read_bytes())
    assert models[0] == models[1]


def test_labels_and_hints(tmp_path):
    report = result(tmp_path / "out", [HALF, 'train.distill epochs=4 hints=["*Relu*"] hint_weight=0.3'], DIGITS / "train.npz")
    said = report["steps"][1]["details"]["distillation"]
    assert said["labels"] is True and said["alpha"] == 0.9
    assert all(h["student"] == h["teacher"] and len(h["regressor"]) == 2 for h in said["hints"]) and said["hints"]
    assert top1(tmp_path / "out/model.onnx", np.load(DIGITS / "test.npz")) >= 0.95


def test_other_teacher(tmp_path, unlabelled):
    """A teacher of ten classes teaches; one of eight is refused with both shapes."""
    m = onnx.load(str(MODEL))
    weights = {t.name: t for t in m.graph.initializer}
    last = [n for n in m.graph.node if n.op_type == "Gemm"][-1]
    for name in last.input[1:]:
        a = onnx.numpy_helper.to_array(weights[name])
        axis = next(d for d in range(a.ndim) if a.shape[d] == 10)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(np.take(a, range(8), axis), name))
    m.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    del m.graph.value_info[:]
    onnx.save(m, str(tmp_path / "eight.onnx"))
    done = apply(tmp_path / "out", ["train.distill epochs=1"], unlabelled, "--teacher", tmp_path / "eight.onnx")
    assert done.returncode == 1 and "[1,10]" in done.stderr and "[1,8]" in done.stderr, done.stderr
    report = result(tmp_path / "out", [HALF, "train.distill epochs=1"], unlabelled, "--teacher", MODEL)
    assert report["steps"][1]["details"]["distillation"]["teacher"] == "given"


@pytest.mark.parametrize("words,said", [
    ("hints=nothing", "names no value or node of the model; some it has are"),
    ("alpha=0.5", "label"),
    ("labels=use", "label"),
    ("labels=ignore alpha=0.5", "alpha"),
    ("attention_at=x", "attention_at"),
    ("temperature=0", "temperature"),
])
def test_refused(tmp_path, unlabelled, words, said):
    done = apply(tmp_path / "out", [f"train.distill {words}"], unlabelled)
    assert done.returncode in (1, 2) and said in done.stderr, done.stderr
