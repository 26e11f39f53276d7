# SPDX-License-Identifier: Apache-2.0
"""recover.least_squares and recover.bn_stats after prune.channels, judged by ONNX Runtime's top-1 on test images: as steps of their own and
as prune.channels calls them."""
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from methods import PARED, SHARED, feeds_of, load_dataset, outputs

pytestmark = pytest.mark.skipif(SHARED is None, reason="skipped: no shared data")
OURS = SHARED / "models/ours" if SHARED else Path()
TEST = {}


def run(model, folder, *steps):
    command = [PARED, "run", str(OURS / f"{model}.onnx"), "--data", str(OURS / f"{model}.calib.json"), "--out", str(folder), "--no-latency", "--quiet"]
    for step in steps:
        command += ["--step", step]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "model.onnx", json.loads((folder / "report.json").read_text())


def top1(path, model):
    """Of every tenth test image."""
    if model not in TEST:
        x, y = load_dataset(OURS / f"{model}.test.json")
        TEST[model] = x[::10], y[::10]
    x, y = TEST[model]
    _, out = outputs(path, feeds_of(path, x))
    return float((out[0].argmax(1) == y).mean())


# what is left right after, at most; what the repaired network has, at least
CASES = {"lenet5-mnist": (0.5, 0.85, 0.98), "mobilenetv3ish-fashion": (0.3, 0.5, 0.86), "densenet-fashion": (0.5, 0.5, 0.84), "vit-fashion": (0.3, 0.5, 0.80)}


@pytest.mark.parametrize("model", CASES)
def test_least_squares(tmp_path, model):
    ratio, before, after = CASES[model]
    prune = f"prune.channels criterion=l2 ratio={ratio} "
    cut, _ = run(model, tmp_path / "cut", prune + "recover=none")
    repaired, report = run(model, tmp_path / "repaired", prune + "recover=none", "recover.least_squares samples=128")
    assert top1(cut, model) < before
    assert top1(repaired, model) > after
    rows = report["steps"][1]["layers"]
    fitted = [r for r in rows if not r.get("skipped")]
    assert len(fitted) > len(rows) / 3
    for r in rows:
        assert r.get("skipped") or r["after"]["error"] < r["before"]["error"], r


def test_as_part_of_pruning(tmp_path):
    """The same bytes, whether prune.channels asks for it or a step of its own does."""
    a, _ = run("lenet5-mnist", tmp_path / "a", "prune.channels ratio=0.5 samples=64")
    b, _ = run("lenet5-mnist", tmp_path / "b", "prune.channels ratio=0.5 samples=64 recover=none", "recover.least_squares samples=64")
    x = TEST["lenet5-mnist"][0][:200] if "lenet5-mnist" in TEST else load_dataset(OURS / "lenet5-mnist.test.json")[0][:200]
    np.testing.assert_array_equal(outputs(a, feeds_of(a, x))[1][0], outputs(b, feeds_of(b, x))[1][0])


def test_statistics(tmp_path):
    cut, _ = run("densenet-fashion", tmp_path / "cut", "prune.channels criterion=l2 ratio=0.3 recover=none")
    repaired, _ = run("densenet-fashion", tmp_path / "repaired", "prune.channels criterion=l2 ratio=0.3 recover=bn_stats")
    assert top1(repaired, "densenet-fashion") > top1(cut, "densenet-fashion") + 0.2
