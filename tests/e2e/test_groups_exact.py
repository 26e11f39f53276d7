# SPDX-License-Identifier: Apache-2.0
"""Dependency groups on real networks: of every group a third of the channels is taken out, and what is left computes what the original
does when those channels are not read, to 1e-4, and costs what was predicted (tests/tools/groups_exact.c). Networks that could
be pruned must show a group to prune."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT, shared_data

SHARED = shared_data()
MODELS = sorted([*SHARED.glob("models/*.onnx"), *SHARED.glob("models/ours/*.onnx")]) if SHARED else []
STRUCTURES = ["shufflenet_v2_x1_0", "keras_sequential", "lstm_text", "unet_small_bn", "mobilenet_v3_small"]
# Everything is inside an If; the states of the LSTMs are outputs.
NOTHING = {"silero_vad", "dtln_model_1"}


@pytest.fixture(scope="session")
def tool(shared):
    subprocess.run(["make", "-s", "build/tools/groups_exact"], cwd=ROOT, check=True)
    return ROOT / "build/tools/groups_exact"


def check(tool, model, *args):
    done = subprocess.run([tool, *args, model], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) groups, (\d+) prunable, 0 bad", done.stdout)
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.stem)
def test_models(tool, model):
    groups, prunable = check(tool, model)
    assert (prunable == 0) == (model.stem in NOTHING)
    assert prunable <= groups


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(tool, tmp_path, name):
    model = tmp_path / f"{name}.onnx"
    subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", SHARED / f"models/structures/{name}.onnx.gz", model], check=True)
    groups, prunable = check(tool, model, "-i", "64")
    assert prunable >= groups - 1  # all but the last layer


def test_heads(tool, shared):
    groups, prunable = check(tool, shared / "models/ours/vit-fashion.onnx", "-o")
    assert (groups, prunable) == (10, 9)
    said = subprocess.run([tool, "-o", "-v", shared / "models/ours/vit-fashion.onnx"], capture_output=True, text=True).stdout
    assert said.count("n 4 through heads") == 4
