# SPDX-License-Identifier: Apache-2.0
"""The recipes of examples/tutorial on the networks they are for, and on one that Keras exported: each gives a file that ONNX Runtime
runs as `pared eval` does, and takes away what its name says. Accuracy is another matter: examples/tutorial/README.md has the figures."""
import json
import subprocess
import sys

import numpy as np
import pytest

import methods
from conftest import ROOT

TUTORIAL = ROOT / "examples/tutorial"
RECIPES = sorted((TUTORIAL / "recipes").glob("*.json"))
# what is left of the bytes, the non-zero parameters and the multiply-accumulates, at most
LEFT = {"01-magnitude": (1.01, 0.51, 1), "02-gradient": (1.01, 0.51, 1), "08-gradual": (1.02, 0.11, 1), "10-int8": (0.35, 1, 1), "11-all": (0.26, 0.6, 0.65)}
CHANNELS = (0.65, 0.65, 0.65)
NETWORKS = {"seed-net-cifar": ((3, 32, 32), 96), "seed-cnn-cifar": ((3, 32, 32), 96), "keras_sequential": ((224, 224, 3), 8)}


def network(name, folder):
    if (TUTORIAL / f"{name}.onnx").exists():
        return TUTORIAL / f"{name}.onnx"
    if not methods.SHARED:
        pytest.skip("skipped: no shared data")
    out = folder / f"{name}.onnx"
    subprocess.run([sys.executable, methods.SHARED / "tools/fill_weights.py", methods.SHARED / f"models/structures/{name}.onnx.gz", out], check=True,
                   stdout=subprocess.DEVNULL)
    return out


def dataset(name, folder):
    shape, count = NETWORKS[name]
    rng = np.random.default_rng(4)
    path = folder / "data.npz"
    np.savez(path, x=rng.normal(size=(count, *shape)).astype(np.float32), y=(np.arange(count) % 10).astype(np.int64))
    return path


LARGE = ("01-magnitude", "04-l2", "07-finetune-adam", "10-int8")  # of the network with pictures of 224 x 224: one of a kind


@pytest.mark.parametrize("name,recipe", [pytest.param(n, r, id=f"{n}-{r.stem}") for n in NETWORKS for r in RECIPES if n != "keras_sequential" or r.stem in LARGE])
def test_recipe(name, recipe, tmp_path):
    model, data = network(name, tmp_path), dataset(name, tmp_path)
    out = tmp_path / "out"
    done = subprocess.run([methods.PARED, "run", model, "--recipe", recipe, "--data", data, "--out", out, "--no-latency", "--quiet"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    for key, most in zip(("bytes", "nonzero", "macs"), LEFT.get(recipe.stem, CHANNELS)):
        assert report["ratio"][key] <= most, key
    outputs = tmp_path / "outputs.npz"
    subprocess.run([methods.PARED, "eval", out / "model.onnx", "--data", data, "--outputs", outputs], check=True, capture_output=True)
    names, (want, *_) = methods.outputs(out / "model.onnx", methods.feeds_of(out / "model.onnx", np.load(data)["x"]), exact=True)
    got = np.load(outputs)[names[0]]
    # integer kernels differ by a step of rounding here and there
    tolerance = 0.1 if "int8" in recipe.stem or "all" in recipe.stem else 1e-3
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
