# SPDX-License-Identifier: Apache-2.0
"""pared bench beside timing: ONNX Runtime as a peer in the same run, the profile of nodes, and what it refuses."""
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[2]
PARED = Path(os.environ.get("PARED", ROOT / "build/pared"))
DIGITS = ROOT / "examples/digits/digits-cnn.onnx"


def bench(*args, python=sys.executable):
    return subprocess.run([PARED, "bench", *map(str, args)], capture_output=True, text=True, timeout=120, env={**os.environ, "PARED_PYTHON": python})


def test_against_onnx_runtime_measures_both():
    done = bench(DIGITS, "--against", "ort", "--runs", "20", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["runs"] == 20 and got["threads"] == 1 and got["batch"] == 1
    for side in (got, got["ort"]):
        assert 0 < side["min_ms"] <= side["p50_ms"] <= side["p90_ms"] <= side["p99_ms"]
    assert abs(got["ratio"] - got["p50_ms"] / got["ort"]["p50_ms"]) < 1e-6
    import onnxruntime
    assert got["ort"]["version"] == onnxruntime.__version__


def test_against_onnx_runtime_prints_a_table():
    done = bench(DIGITS, "--against", "ort", "--runs", "10", "--batch", "3")
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime" in done.stdout and "ratio" in done.stdout and "batch 3" in done.stdout


def test_a_missing_peer_is_said(tmp_path):
    done = bench(DIGITS, "--against", "ort", python=str(tmp_path / "no-python"))
    assert done.returncode == 1 and "cannot start" in done.stderr and "ONNX Runtime is not there" in done.stderr
    assert not done.stdout


def test_a_peer_that_gives_up_is_said(tmp_path):
    peer = tmp_path / "python"
    peer.write_text("#!/bin/sh\necho no such operator >&2\nexit 1\n")
    peer.chmod(0o755)
    done = bench(DIGITS, "--against", "ort", python=str(peer))
    assert done.returncode == 1 and "no such operator" in done.stderr and "did not take the model" in done.stderr


def test_profile_names_every_node_of_the_plain_run():
    done = bench(DIGITS, "--profile", "--plain", "--runs", "5", "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    real = [n.op_type for n in onnx.load(DIGITS).graph.node if n.op_type not in ("Constant", "Identity")]
    profiled = [n["op_type"] for n in got["nodes"]]
    assert set(profiled) <= set(real) and profiled.count("Conv") == real.count("Conv")
    assert abs(sum(n["p50_ms"] for n in got["nodes"]) - got["total_ms"]) < 1e-6
    times = [n["p50_ms"] for n in got["nodes"]]
    assert times == sorted(times, reverse=True)


def test_profile_as_text():
    done = bench(DIGITS, "--profile")
    assert done.returncode == 0 and "operator" in done.stdout and " all (medians over 20 runs)" in done.stdout


def test_wrong_words_are_refused():
    for args, sentence in [([DIGITS, "--against", "tf"], "--against takes ort, got 'tf'"), ([DIGITS, "--runs", "0"], "--runs takes a whole number from 1"),
                           ([], "bench takes one model")]:
        done = bench(*args)
        assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert "--against ort" in bench("--help").stdout
