# SPDX-License-Identifier: Apache-2.0
"""train.finetune through `pared run`, ONNX Runtime as the judge: a damaged network gets its accuracy back, zeros of pruning stay zeros, nothing
depends on the number of threads, whatever form the model comes in."""
import json
import subprocess

import numpy as np
import onnx
import pytest

import methods
from methods import PARED

MODEL = methods.DIGITS / "digits-cnn.onnx"
TRAIN, TEST = methods.DIGITS / "train.npz", methods.DIGITS / "test.npz"


def run(model, out, *steps, data=TRAIN, threads=None, fails=False):
    """Steps through `pared run`; the report, or the sentence of the refusal."""
    command = [PARED, "run", str(model), "--data", str(data), "--out", str(out), "--no-latency", "--quiet"]
    command += [w for s in steps for w in ("--step", s)] + (["--threads", str(threads)] if threads else [])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else json.loads((out / "report.json").read_text())


def top1(path):
    """Of the test set, by ONNX Runtime."""
    z = np.load(TEST)
    scores = methods.outputs(path, methods.feeds_of(path, z["x"]))[1][0]
    return float((scores.argmax(1) == z["y"][:len(scores)]).mean())


def edited(tmp_path, change, name="damaged.onnx"):
    m = onnx.load(str(MODEL))
    change(m)
    onnx.save(m, str(tmp_path / name))
    return tmp_path / name


def damage(m):
    rng = np.random.default_rng(1)
    for t in m.graph.initializer:
        a = onnx.numpy_helper.to_array(t)
        if a.ndim > 1 and a.dtype == np.float32:
            noisy = a + rng.normal(size=a.shape).astype(np.float32) * a.std() * 1.5
            t.CopyFrom(onnx.numpy_helper.from_array(noisy.astype(np.float32), t.name))


@pytest.mark.parametrize("words", ["lr=0.05", "optimizer=adam lr=0.003 schedule=one_cycle", "optimizer=adamw lr=0.003 ema=0.9 clip=1",
                                   "lr=0.05 nesterov=true loss=bce", "optimizer=adam lr=0.003 batch_norm=frozen warmup=1 clip=5"])
def test_damaged_network_recovers(tmp_path, words):
    model = edited(tmp_path, damage)
    before = top1(model)
    report = run(model, tmp_path / "out", f"train.finetune epochs=6 batch=64 {words}")
    after = top1(tmp_path / "out/model.onnx")
    assert before < 0.7 and after > 0.93, (before, after)
    training = report["steps"][0]["details"]["training"]
    assert len(training["epochs"]) == 6 and training["kept_epoch"] >= 1
    assert training["epochs"][-1]["val_top1"] > training["before"]["val_top1"]
    assert training["samples"] + training["validation"]["samples"] == len(np.load(TRAIN)["x"])


def test_zeros_stay(tmp_path):
    run(MODEL, tmp_path / "pruned", "prune.weights sparsity=0.8")
    run(MODEL, tmp_path / "tuned", "prune.weights sparsity=0.8", "train.finetune epochs=6 lr=0.05 batch=64")
    pruned, tuned = ({n.name: onnx.numpy_helper.to_array(w) for n, w in methods.product_weights(tmp_path / d / "model.onnx")}
                     for d in ("pruned", "tuned"))
    for name, w in pruned.items():
        assert (tuned[name][w == 0] == 0).all()
    assert sum((w == 0).sum() for w in pruned.values()) > 10000
    assert top1(tmp_path / "tuned/model.onnx") > max(0.9, top1(tmp_path / "pruned/model.onnx"))


def test_channels_then_training(tmp_path):
    for name, words in (("plain", "optimizer=adam lr=0.003"), ("insert", "lr=0.05 batch_norm=insert")):
        run(MODEL, tmp_path / name, "prune.channels ratio=0.5 recover=none", "graph.optimize", f"train.finetune epochs=8 batch=64 {words}")
        assert not any(n.op_type == "BatchNormalization" for n in onnx.load(str(tmp_path / name / "model.onnx")).graph.node)
        assert top1(tmp_path / name / "model.onnx") > 0.9


def test_threads_do_not_matter(tmp_path):
    step = "train.finetune epochs=2 batch=50 lr=0.05"
    model = edited(tmp_path, damage)
    files = []
    for threads in (1, 2):
        run(model, tmp_path / str(threads), step, threads=threads)
        files.append((tmp_path / str(threads) / "model.onnx").read_bytes())
    assert files[0] == files[1]


def test_weights_in_constant_nodes(tmp_path):
    def into_nodes(m):
        damage(m)
        kept = list(m.graph.initializer)
        del m.graph.initializer[:]
        for t in reversed(kept):
            m.graph.node.insert(0, onnx.helper.make_node("Constant", [], [t.name], value=t))
    plain, nodes = edited(tmp_path, damage), edited(tmp_path, into_nodes, "nodes.onnx")
    for model, name in ((plain, "a"), (nodes, "b")):
        run(model, tmp_path / name, "train.finetune epochs=3 batch=64 lr=0.05")
    a, b = (methods.outputs(tmp_path / n / "model.onnx", methods.feeds_of(plain, np.load(TEST)["x"][:32]))[1][0] for n in "ab")
    assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()


def test_fixed_batch(tmp_path):
    def fix(m):
        damage(m)
        m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        m.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = edited(tmp_path, fix)
    before = top1(model)
    report = run(model, tmp_path / "out", "train.finetune epochs=4 batch=32 optimizer=adam lr=0.003 clip=5")
    assert top1(tmp_path / "out/model.onnx") > max(0.9, before)
    assert report["steps"][0]["details"]["training"]["kept_epoch"] > 0


def test_refused(tmp_path):
    z = np.load(TRAIN)
    np.savez(tmp_path / "plain.npz", x=z["x"])
    np.savez(tmp_path / "classes.npz", x=z["x"], y=z["y"] + 5)
    assert "label" in run(MODEL, tmp_path / "o", "train.finetune", data=tmp_path / "plain.npz", fails=True)
    assert "14" in run(MODEL, tmp_path / "o", "train.finetune", data=tmp_path / "classes.npz", fails=True)
    assert "nothing to train" in run(MODEL, tmp_path / "o", "train.finetune exclude=*", fails=True)
    said = run(MODEL, tmp_path / "o", "train.finetune lr=100 optimizer=sgd l2=900 clip=0", fails=True)
    assert "not a finite number at batch" in said and "learning rate of" in said
    assert "nesterov" in run(MODEL, tmp_path / "o", "train.finetune nesterov=true optimizer=adam", fails=True)
