# SPDX-License-Identifier: Apache-2.0
"""prune.weights: every structure with every criterion, run by ONNX Runtime, the zeros counted by NumPy in the file that was written; scores of
wanda, magnitude by rows and lamp against NumPy; zeros through later steps; what is refused."""
import json
import subprocess

import numpy as np
import onnx
import pytest

import methods
from methods import PARED, apply, layers, outputs

MODEL = methods.DIGITS / "digits-cnn.onnx"
CRITERIA = ["magnitude", "l1_normalised", "random", "lamp", "gradient", "taylor", "fisher", "snip", "wanda", "obs"]
WITH_DATA = set(CRITERIA[4:])
STRUCTURES = ["unstructured", "2:4", "4:8", "1:3", "4x1", "1x4", "4x4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """128 samples, with labels and without."""
    folder = tmp_path_factory.mktemp("data")
    z = np.load(methods.DIGITS / "train.npz")
    pick = np.arange(128) * len(z["x"]) // 128
    np.savez(folder / "labelled.npz", x=z["x"][pick], y=z["y"][pick])
    np.savez(folder / "plain.npz", x=z["x"][pick])
    return folder


def weights(path):
    return {n.name: onnx.numpy_helper.to_array(w) for n, w in methods.product_weights(path) if w is not None}


def rows(w):
    """[outputs, k] with input channels fastest."""
    return np.moveaxis(w, 1, -1).reshape(len(w), -1)


def check_nm(w, n, m):
    for row in rows(w):
        for first in range(0, len(row), m):
            group = row[first:first + m]
            assert np.count_nonzero(group) <= n
            assert np.count_nonzero(group) == min(n, len(group)), "nothing more than needed goes"


def check_blocks(w, a, b):
    r = rows(w)
    for i in range(0, r.shape[0], a):
        for k in range(0, r.shape[1], b):
            block = r[i:i + a, k:k + b]
            assert np.count_nonzero(block) in (0, block.size)


def accuracy(path):
    z = np.load(methods.DIGITS / "test.npz")
    _, got = outputs(path, methods.feeds_of(path, z["x"]))
    return float((got[0].reshape(len(z["y"]), -1).argmax(1) == z["y"]).mean())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_and_criterion(data, tmp_path, structure, criterion):
    out, params = tmp_path / "out.onnx", {"structure": structure, "criterion": criterion}
    if ":" not in structure:
        params["sparsity"] = 0.5
    labelled = data / ("labelled.npz" if criterion in ("gradient", "snip") else "plain.npz")
    report = apply("prune.weights", MODEL, out, data=labelled if criterion in WITH_DATA else None, **params)
    before, after = weights(MODEL), weights(out)
    for name, w in after.items():
        if ":" in structure:
            check_nm(w, *map(int, structure.split(":")))
        elif "x" in structure:
            check_blocks(w, *map(int, structure.split("x")))
        if criterion != "obs":
            assert np.array_equal(w[w != 0], before[name][w != 0]), "what stays is as it was"
    for row in layers(report):
        w = after[row["node"]]
        assert row["after"]["nonzero"] == np.count_nonzero(w) and row["before"]["nonzero"] == np.count_nonzero(before[row["node"]])
    if structure == "unstructured":
        assert sum(np.count_nonzero(w == 0) for w in after.values()) == pytest.approx(0.5 * sum(w.size for w in after.values()), abs=len(after))
    assert any("no speed gain in ONNX Runtime" in w for w in report["warnings"])
    assert report["after"]["zstd_bytes"] < report["before"]["zstd_bytes"]
    assert np.isfinite(accuracy(out))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_obs_keeps_the_accuracy(data, tmp_path, scope):
    """At 80 % zeros: far above magnitude, near the original."""
    apply("prune.weights", MODEL, tmp_path / "obs.onnx", data=data / "plain.npz", criterion="obs", sparsity=0.8, scope=scope)
    apply("prune.weights", MODEL, tmp_path / "mag.onnx", criterion="magnitude", sparsity=0.8, scope=scope)
    original, obs, magnitude = accuracy(MODEL), accuracy(tmp_path / "obs.onnx"), accuracy(tmp_path / "mag.onnx")
    assert obs > original - 0.05 and obs > magnitude + 0.05, (original, obs, magnitude)


def inputs_of(names, x):
    """What the named values are for the samples, by ONNX Runtime."""
    m = onnx.load(MODEL)
    for n in names:
        m.graph.output.append(onnx.ValueInfoProto(name=n))
    s = methods.ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, s.run(names, {"input": x.astype(np.float32)})))


def test_wanda_is_numpy(data, tmp_path):
    out = tmp_path / "out.onnx"
    apply("prune.weights", MODEL, out, data=data / "plain.npz", criterion="wanda", sparsity=0.6)
    x = np.load(data / "plain.npz")["x"].reshape(-1, 1, 8, 8)
    m = onnx.load(MODEL)
    node = {n.name: n for n in m.graph.node}
    before, after = weights(MODEL), weights(out)
    values = inputs_of([n.input[0] for n in m.graph.node if n.op_type in ("Conv", "Gemm") and n.input[0] != "input"], x)
    values["input"] = x.astype(np.float32)
    for name, w in before.items():
        a = values[node[name].input[0]].astype(np.float64)
        if node[name].op_type == "Conv":
            pads = {i.name: list(i.ints) for i in node[name].attribute}.get("pads", [0] * 4)
            a = np.pad(a, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
            kh, kw = w.shape[2:]
            patches = np.lib.stride_tricks.sliding_window_view(a, (kh, kw), axis=(2, 3))
            norm = np.sqrt((patches ** 2).sum(axis=(0, 2, 3)))  # [channels, kh, kw]
            per = len(w) * w.shape[1] // len(norm)  # outputs of a group
            score = np.abs(w) * np.stack([norm[o // per * w.shape[1]:][:w.shape[1]] for o in range(len(w))])
        else:
            score = np.abs(w) * np.sqrt((a ** 2).sum(0))
        score, left = rows(score), rows(after[name])
        gone = (left == 0).sum(1)
        assert gone.sum() == round(0.6 * w.size) and gone.max() - gone.min() <= 1
        for s, l in zip(score, left):
            if (l == 0).any() and (l != 0).any():
                assert s[l == 0].max() <= s[l != 0].min() * (1 + 1e-4)


def test_lamp_is_numpy(tmp_path):
    out = tmp_path / "out.onnx"
    apply("prune.weights", MODEL, out, criterion="lamp", sparsity=0.7)
    before, after = weights(MODEL), weights(out)
    score = {}
    for name, w in before.items():
        square = np.sort(w.astype(np.float64).ravel() ** 2)
        tail = np.cumsum(square[::-1])[::-1]
        score[name] = (square / tail)[np.argsort(np.argsort(np.abs(w).ravel(), kind="stable"))].reshape(w.shape)
    every = np.sort(np.concatenate([s.ravel() for s in score.values()]))
    cut = every[round(0.7 * len(every)) - 1]
    wrong = sum(int(((score[n] <= cut) != (after[n] == 0)).sum()) for n in after)
    assert wrong <= 2  # scores are float32
    assert sum(int((w == 0).sum()) for w in after.values()) == round(0.7 * len(every))


def run_steps(model, steps, folder, data=None):
    command = [PARED, "run", str(model), "--out", str(folder), "--no-latency", "--quiet"] + [w for s in steps for w in ("--step", s)]
    done = subprocess.run(command + (["--data", str(data)] if data else []), capture_output=True, text=True, timeout=300)
    return done, folder / "model.onnx"


def seen_weights(path):
    """Weights as the products see them: constants that nodes make are computed by ONNX Runtime."""
    m = onnx.load(path)
    slots = {n.name: n.input[1] for n in m.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    found = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
    made = [v for v in slots.values() if v not in found]
    for v in made:
        m.graph.output.append(onnx.ValueInfoProto(name=v))
    options = methods.ort.SessionOptions()
    options.graph_optimization_level = methods.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    s = methods.ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if made:
        found.update(zip(made, s.run(made, {s.get_inputs()[0].name: np.zeros((1, 1, 8, 8), np.float32)})))
    return {n: found[v] for n, v in slots.items()}


@pytest.mark.parametrize("prune", ["structure=2:4", "sparsity=0.7 criterion=obs", "structure=4x1 sparsity=0.5"])
@pytest.mark.parametrize("quantize", ["quantize.static", "quantize.weights bits=8 form=dequantize", "quantize.weights bits=4 form=dequantize"])
def test_zeros_stay(data, tmp_path, prune, quantize):
    steps = ["graph.optimize", f"prune.weights {prune}"]
    done, pruned = run_steps(MODEL, steps, tmp_path / "pruned", data / "plain.npz")
    assert done.returncode == 0, done.stderr
    done, quantized = run_steps(MODEL, steps + [quantize], tmp_path / "quantized", data / "plain.npz")
    assert done.returncode == 0, done.stderr
    before, after = seen_weights(pruned), seen_weights(quantized)
    assert "DequantizeLinear" in methods.ops(quantized)
    compared = 0
    for name, w in before.items():
        if name in after and after[name].shape == w.shape:
            assert not after[name][w == 0].any(), name
            compared += int((w == 0).sum())
    assert compared > 8000  # of 16,700 weights


def test_steps_and_second_step(data, tmp_path):
    """A schedule ends at the sparsity, and a later step brings nothing back."""
    done, out = run_steps(MODEL, ["prune.weights sparsity=0.5 criterion=random", "prune.weights sparsity=0.8 criterion=taylor steps=4"], tmp_path / "o",
                          data / "labelled.npz")
    assert done.returncode == 0, done.stderr
    done, first = run_steps(MODEL, ["prune.weights sparsity=0.5 criterion=random"], tmp_path / "f", data / "labelled.npz")
    for name, w in weights(first).items():
        after = weights(out)[name]
        assert not after[w == 0].any()
        assert np.count_nonzero(after == 0) == round(0.8 * w.size)


@pytest.mark.parametrize("step, part", [
    ("structure=3:2", "n must be at least 1 and below m"),
    ("structure=0x4 sparsity=0.5", "sides of a block"),
    ("structure=2:4 sparsity=0.5", "says itself how many"),
    ("criterion=wanda sparsity=0.5", "needs a dataset"),
    ("criterion=obs structure=2:4", "needs a dataset"),
])
def test_refused(tmp_path, step, part):
    done, _ = run_steps(MODEL, [f"prune.weights {step}"], tmp_path / "o")
    assert done.returncode != 0 and part in done.stderr, done.stderr


def test_no_gradient_is_named(data, tmp_path):
    """An operator without gradient on the way from a weight to the output."""
    m = onnx.load(MODEL)
    m.graph.node.append(onnx.helper.make_node("Hardmax", ["logits"], ["hard"], "odd"))
    m.graph.output[0].name = "hard"
    onnx.save(m, tmp_path / "odd.onnx")
    done, _ = run_steps(tmp_path / "odd.onnx", ["prune.weights criterion=taylor sparsity=0.5"], tmp_path / "o", data / "plain.npz")
    assert done.returncode != 0 and "Hardmax" in done.stderr, done.stderr


def test_empty_layer_is_said(tmp_path):
    report = apply("prune.weights", MODEL, tmp_path / "o.onnx", sparsity=1)
    assert any("lost every weight" in w for w in report["warnings"])
    assert all(not w.any() for w in weights(tmp_path / "o.onnx").values())
    accuracy(tmp_path / "o.onnx")
